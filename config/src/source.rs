//! `[source]`: how topics that others write are read.
//!
//! Before it, `decode`; after it, `consumers::decode` reads a stranger's record by these pointers. What each key means is
//! told with examples in `docs/operating/foreign-topics.md`.

mod pointer;

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::choice::choice;

pub use pointer::{Base, Pointer};

choice! {
    /// How a time is written.
    TimeFormat {
        /// Text of RFC 3339, with its offset: `2026-11-23T10:00:00.5Z`.
        Iso8601 = "iso8601",
        /// Seconds since 1970, with or without a fraction.
        Seconds = "seconds",
        /// Milliseconds since 1970.
        Milliseconds = "milliseconds",
        /// Microseconds since 1970.
        Microseconds = "microseconds",
    }
}

choice! {
    /// What becomes of an event whose kind is none of ours.
    OnUnmappedKind {
        /// It is a dead letter: somebody should look at it.
        DeadLetter = "dead-letter",
        /// It is skipped, and counted.
        Skip = "skip",
    }
}

/// How topics that others write are read.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// How the topic of behaviors is read.
    pub behaviors: BehaviorSource,
}

/// How the topic of behaviors is read.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct BehaviorSource {
    /// Whether the pointers below are used; if not, records are Headwater's own.
    pub mapped: bool,
    /// The array of events in one record; none: the record is one event. Looked up in the record, whatever its base.
    #[serde(deserialize_with = "pointer::optional")]
    pub events: Option<Pointer>,
    /// Who.
    #[serde(deserialize_with = "pointer::optional")]
    pub user_id: Option<Pointer>,
    /// On what.
    #[serde(deserialize_with = "pointer::optional")]
    pub item_id: Option<Pointer>,
    /// Did what.
    #[serde(deserialize_with = "pointer::optional")]
    pub kind: Option<Pointer>,
    /// Where in the product.
    #[serde(deserialize_with = "pointer::optional")]
    pub scenario: Option<Pointer>,
    /// When.
    #[serde(deserialize_with = "pointer::optional")]
    pub time: Option<Pointer>,
    /// Which event this is, if it is repeated.
    #[serde(deserialize_with = "pointer::optional")]
    pub event_id: Option<Pointer>,
    /// Which request it answers.
    #[serde(deserialize_with = "pointer::optional")]
    pub request_id: Option<Pointer>,
    /// At which place it was shown.
    #[serde(deserialize_with = "pointer::optional")]
    pub position: Option<Pointer>,
    /// For which query it was shown.
    #[serde(deserialize_with = "pointer::optional")]
    pub query: Option<Pointer>,
    /// How much: a price, a rating, seconds.
    #[serde(deserialize_with = "pointer::optional")]
    pub value: Option<Pointer>,
    /// How `time` is written.
    pub time_format: TimeFormat,
    /// What becomes of an event whose kind is none of ours.
    pub on_unmapped_kind: OnUnmappedKind,
    /// Whether the topic is not keyed by user: its records go through the topic `repartition` first.
    pub repartition: bool,
    /// Attributes by name. Without them a mapped event has none.
    pub attributes: BTreeMap<String, Pointer>,
    /// Kinds by the value that stands for them; empty: the value is the name of the kind.
    pub kinds: BTreeMap<String, String>,
    /// What holds where a pointer is not given or finds nothing.
    pub constant: ConstantConfig,
}

/// What holds where a pointer is not given or finds nothing.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct ConstantConfig {
    /// The kind, by its name in `kinds.names`.
    #[serde(deserialize_with = "crate::text::optional")]
    pub kind: Option<String>,
    /// The scenario.
    #[serde(deserialize_with = "crate::text::optional")]
    pub scenario: Option<String>,
}

impl BehaviorSource {
    /// Every field that has a pointer of its own, with its key.
    pub fn pointers(&self) -> [(&'static str, Option<&Pointer>); 10] {
        [
            ("user_id", self.user_id.as_ref()),
            ("item_id", self.item_id.as_ref()),
            ("kind", self.kind.as_ref()),
            ("scenario", self.scenario.as_ref()),
            ("time", self.time.as_ref()),
            ("event_id", self.event_id.as_ref()),
            ("request_id", self.request_id.as_ref()),
            ("position", self.position.as_ref()),
            ("query", self.query.as_ref()),
            ("value", self.value.as_ref()),
        ]
    }
}
