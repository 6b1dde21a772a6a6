//! `[log]`: which log carries the records.
//!
//! Before it, `decode`; after it, `consumers::log` opens Kafka or the embedded log.

use std::path::PathBuf;

use serde::Deserialize;

use crate::choice::choice;
use crate::quantity::Bytes;

choice! {
    /// Which log carries the records.
    LogKind {
        /// Apache Kafka.
        Kafka = "kafka",
        /// A durable log inside this process.
        Embedded = "embedded",
    }
}

/// Which log carries the records.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// Kafka, or the embedded log.
    pub kind: LogKind,
    /// Folder of the embedded log; none: see [`crate::Config::log_path`].
    #[serde(deserialize_with = "crate::text::optional_path")]
    pub path: Option<PathBuf>,
    /// Bytes of a topic that the embedded log keeps.
    pub retention: Bytes,
}
