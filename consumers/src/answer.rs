//! What Headwater publishes: answers to score requests, scores of behaviors, standing scores, dead letters.
//!
//! Before it stands `step`; after it the log. An answer names the model, the state and the item statistics that made it
//! (`MODEL-1`), and carries the header `headwater-id`, by which a reader can drop a repeat.

use headwater_config::Topic;
use headwater_model::Scores;
use headwater_state::{ScenarioId, Timestamp};
use serde::Serialize;

use crate::assemble::Assembler;
use crate::decode::Reject;
use crate::log::{Record, RecordBatch, TopicPartition};

/// Header: coordinates of what caused a record, and which of its outputs this is.
pub const HEADER_ID: &str = "headwater-id";
/// Header: the model that scored.
pub const HEADER_MODEL: &str = "headwater-model";
/// Header: hash of the feature schema.
pub const HEADER_SCHEMA: &str = "headwater-schema";

/// The scored candidates of an answer, or of a part of it. Written as they are looked at: nothing is kept for a candidate.
#[derive(Clone, Copy, Debug)]
pub struct ScoredItems<'a> {
    /// The candidates.
    pub candidates: &'a [&'a str],
    /// Number of the first of them in the request.
    pub first: usize,
    /// The probabilities of the whole request.
    pub scores: &'a Scores,
    /// Who knows the tasks.
    pub assembler: &'a Assembler,
    /// Where: a task that does not hold there has no score.
    pub scenario: ScenarioId,
}

/// One scored candidate.
#[derive(Serialize)]
struct ScoredItem<'a> {
    item_id: &'a str,
    /// Probability of the first task that holds; 0 where none does.
    score: f32,
    /// Probability of each task that holds, by name.
    tasks: Tasks<'a>,
}

#[derive(Clone, Copy)]
struct Tasks<'a> {
    of: &'a ScoredItems<'a>,
    values: &'a [f32],
}

impl<'a> Tasks<'a> {
    fn iter(self) -> impl Iterator<Item = (&'a str, f32)> {
        let ScoredItems {
            assembler,
            scenario,
            ..
        } = *self.of;
        let named = assembler.task_names().iter().zip(self.values);
        named
            .enumerate()
            .filter(move |(task, _)| assembler.holds(*task, scenario))
            .map(|(_, (name, value))| (name.as_str(), *value))
    }
}

impl Serialize for Tasks<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl Serialize for ScoredItems<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let places = self.first..;
        serializer.collect_seq(self.candidates.iter().zip(places).map(|(item_id, place)| {
            let tasks = Tasks {
                of: self,
                values: self.scores.candidate(place),
            };
            ScoredItem {
                item_id,
                score: tasks.iter().next().map_or(0.0, |(_, value)| value),
                tasks,
            }
        }))
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
    pub items: ScoredItems<'a>,
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
        .filter(|(name, _)| !name.starts_with("headwater-"));
    to.push(
        TopicPartition::new(Topic::DeadLetters, partition),
        (0, 0),
        record.key,
        value,
        theirs.chain(own.iter().copied()),
    );
}
