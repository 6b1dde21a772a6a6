//! What Headwater publishes: answers to score requests, scores of behaviors, standing scores, dead letters.
//!
//! Before it stands `step`; after it the log. An answer names the model, the state and the item statistics that made it
//! (`MODEL-1`), and carries the header `headwater-id`, by which a reader can drop a repeat.

use headwater_config::Topic;
use headwater_state::Timestamp;
use serde::Serialize;

use crate::decode::Reject;
use crate::log::{Record, RecordBatch, TopicPartition};

/// Header: coordinates of what caused a record, and which of its outputs this is.
pub const HEADER_ID: &str = "headwater-id";
/// Header: the model that scored.
pub const HEADER_MODEL: &str = "headwater-model";
/// Header: hash of the feature schema.
pub const HEADER_SCHEMA: &str = "headwater-schema";
/// Header of a record that was sent again: the coordinates of its dead letter. A record that becomes a dead letter once more keeps it, so
/// that it names the first.
pub const HEADER_REDRIVE: &str = "headwater-redrive";

/// One scored candidate.
#[derive(Clone, Debug, Serialize)]
pub struct ScoredItem<'a> {
    /// The item.
    pub item_id: &'a str,
    /// Probability of the first task.
    pub score: f32,
    /// Probability of each task, by name.
    pub tasks: Tasks<'a>,
}

/// Names and probabilities of tasks.
#[derive(Clone, Copy, Debug)]
pub struct Tasks<'a> {
    /// Names, as in config.
    pub names: &'a [String],
    /// Which of them hold in the scenario: the others are not said.
    pub holds: &'a [bool],
    /// Probability of each.
    pub values: &'a [f32],
}

impl Tasks<'_> {
    fn iter(&self) -> impl Iterator<Item = (&str, f32)> {
        let held = self.names.iter().zip(self.values).zip(self.holds);
        held.filter(|(_, holds)| **holds)
            .map(|((name, value), _)| (name.as_str(), *value))
    }

    /// Probability of the first task that holds; 0 where none does.
    pub fn first(&self) -> f32 {
        self.iter().next().map_or(0.0, |(_, value)| value)
    }
}

impl Serialize for Tasks<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

/// The state that made a score.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StatePosition<'a> {
    /// Name of the behaviors topic.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// Next offset: all behaviors before it were counted.
    pub offset: i64,
}

/// An answer.
#[derive(Clone, Debug, Serialize)]
pub struct Answer<'a> {
    /// The request's id; for the score of a behavior, its event id (or its coordinates).
    pub request_id: &'a str,
    /// For whom.
    pub user_id: &'a str,
    /// Where.
    pub scenario: &'a str,
    /// Row time.
    pub time: i64,
    /// `ok`, or why nothing was scored: `expired`, `future`, `too_many_candidates`.
    pub status: &'static str,
    /// Who scored.
    pub model: &'a str,
    /// Which part of how many, where an answer was split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<[usize; 2]>,
    /// The scores, in the order of the candidates.
    pub items: &'a [ScoredItem<'a>],
    /// The user's state.
    pub state: StatePosition<'a>,
    /// The item statistics: sum of the next offsets of `item-state`.
    pub item_state: i64,
    /// From the newest counted behavior of the user to now; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freshness_ms: Option<i64>,
    /// What makes the scores less than they could be.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub degraded: &'a [&'static str],
}

/// Appends a JSON record.
pub(crate) fn push_json<'h, T: Serialize>(
    to: &mut RecordBatch,
    at: TopicPartition,
    key: &[u8],
    value: &T,
    headers: impl IntoIterator<Item = (&'h str, Option<&'h [u8]>)>,
    scratch: &mut Vec<u8>,
) {
    scratch.clear();
    serde_json::to_writer(&mut *scratch, value).expect("invariant: our records are plain JSON");
    to.push(at, (0, 0), Some(key), Some(scratch), headers);
}

/// Bytes of an oversized record that a dead letter keeps.
const DEAD_LETTER_PREFIX: usize = 64 * 1024;

/// Appends a dead letter: the record as it was, with the reason in headers. An oversized one keeps its beginning and its hash.
pub(crate) fn push_dead_letter(
    to: &mut RecordBatch,
    partition: i32,
    source: &str,
    record: &Record<'_>,
    reject: &Reject,
    now: Timestamp,
) {
    let place = format!("{source}-{}-{}", record.at.partition, record.offset);
    let time = now.0.to_string();
    let hash;
    let mut value = record.value;
    let mut own: Vec<(&str, Option<&[u8]>)> = vec![
        ("headwater-reason", Some(reject.code.as_bytes())),
        ("headwater-detail", Some(reject.detail.as_bytes())),
        ("headwater-source", Some(source.as_bytes())),
        (HEADER_ID, Some(place.as_bytes())),
        ("headwater-time", Some(time.as_bytes())),
    ];
    if let Some(bytes) =
        value.filter(|bytes| bytes.len() > DEAD_LETTER_PREFIX && reject.code == "too_large")
    {
        use sha2::Digest;
        hash = format!(
            "sha256={:x} bytes={}",
            sha2::Sha256::digest(bytes),
            bytes.len()
        );
        own.push(("headwater-cut", Some(hash.as_bytes())));
        value = Some(&bytes[..DEAD_LETTER_PREFIX]);
    }
    let theirs = record
        .headers
        .iter()
        .filter(|(name, _)| !name.starts_with("headwater-") || *name == HEADER_REDRIVE);
    to.push(
        TopicPartition::new(Topic::DeadLetters, partition),
        (0, 0),
        record.key,
        value,
        theirs.chain(own.iter().copied()),
    );
}
