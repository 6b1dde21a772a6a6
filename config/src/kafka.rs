//! `[kafka]`: the brokers, the group, and how output is delivered.
//!
//! Before it, `decode`; after it, `consumers::log` makes its clients from it.

mod client;

use serde::Deserialize;

use crate::choice::choice;
use crate::quantity::Span;

pub use client::{KafkaClient, Property};
pub(crate) use client::{is_secret, owner_of, read_files};

choice! {
    /// When scores go out.
    Delivery {
        /// In the transaction of the state that made them.
        ExactlyOnce = "exactly-once",
        /// At once; they may repeat after a crash or a rebalance, with the same `headwater-id`.
        AtLeastOnce = "at-least-once",
    }
}

/// The brokers, the group, and how output is delivered.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// `host:port`, several with commas between them.
    pub brokers: String,
    /// The consumer group, without its prefix; see [`crate::Config::group`].
    pub group: String,
    /// When scores go out.
    pub delivery: Delivery,
    /// How long a dead instance holds its partitions. 1 s to 30 min.
    pub session_timeout: Span,
    /// How long a transaction that a crash left open hides what follows it. 1 s to 10 s.
    pub transaction_timeout: Span,
    /// How long an operation may wait for the brokers. 1 s to 10 min.
    pub operation_timeout: Span,
    /// librdkafka's properties, for every client of this daemon.
    pub client: KafkaClient,
}
