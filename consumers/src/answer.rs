//! What Headwater publishes: answers to score requests, scores of behaviors, standing scores, dead letters.
//!
//! Before it stands `step`; after it the log. An answer names the model, the state and the item statistics that made it
//! (`MODEL-1`), and carries the header `headwater-id`, by which a reader can drop a repeat.

use std::fmt::Write as _;
use std::ops::Range;

use headwater_config::Topic;
use headwater_model::Scores;
use headwater_state::{EncoderId, ScenarioId, Timestamp};
use serde::Serialize;

use crate::assemble::Assembler;
use crate::decode::Reject;
use crate::explore::{RandomOrder, propensity};
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

/// Bytes of key, value and headers at most of a record whose size follows from what came in. librdkafka sends 1,000,000 and a topic takes
/// 1,048,588 unless they are told otherwise: a record that neither takes would stop whoever has to write it, and one record of a stranger's
/// must stop nobody (`PIPE-2`).
pub(crate) const RECORD_BYTES_MAX: usize = 900_000;

/// Cuts a list into parts of at most `bytes` each, by the lengths of its members; one that is longer alone is a part of its own. Of an
/// empty list there is one part.
pub(crate) fn parts(lengths: impl Iterator<Item = usize>, bytes: usize) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let (mut from, mut until, mut held) = (0, 0, 0);
    for length in lengths {
        if until > from && held + length > bytes {
            parts.push(from..until);
            (from, held) = (until, 0);
        }
        held += length;
        until += 1;
    }
    parts.push(from..until);
    parts
}

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
    /// The random order that they are put in, and of how many, where they are.
    pub order: Option<(RandomOrder, usize)>,
}

impl ScoredItems<'_> {
    /// The first task that holds gives the score (0 where none does), or a random order.
    fn write(&self, to: &mut Vec<u8>) {
        let names = self.assembler.task_names();
        for (place, item_id) in self.candidates.iter().enumerate() {
            let values = self.scores.candidate(self.first + place);
            let tasks = || {
                let held = |(task, _): &(usize, _)| self.assembler.holds(*task, self.scenario);
                names.iter().zip(values).enumerate().filter(held)
            };
            let score = tasks().next().map_or(0.0, |(_, (_, value))| *value);
            let open = if place == 0 { "" } else { "," };
            to.extend_from_slice(open.as_bytes());
            put(to, "{\"item_id\":", item_id);
            let score = self.order.map_or(score, |(order, _)| order.score(item_id));
            put(to, ",\"score\":", &score);
            if let Some((_, candidates)) = self.order {
                put(to, ",\"propensity\":", &propensity(candidates));
            }
            to.extend_from_slice(b",\"tasks\":{");
            for (number, (_, (name, value))) in tasks().enumerate() {
                put(to, if number == 0 { "" } else { "," }, name);
                put(to, ":", value);
            }
            to.extend_from_slice(b"}}");
        }
    }
}

/// The state that made a score.
#[derive(Clone, Copy, Debug)]
pub struct StatePosition<'a> {
    /// Name of the behaviors topic.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// Next offset: all behaviors before it were counted.
    pub offset: i64,
}

/// An answer, as it is written: a JSON object of these keys.
#[derive(Clone, Copy, Debug)]
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
    pub part: Option<[usize; 2]>,
    /// The scores, in the order of the candidates.
    pub items: ScoredItems<'a>,
    /// The user's state.
    pub state: StatePosition<'a>,
    /// The item statistics: sum of the next offsets of `item-state`.
    pub item_state: i64,
    /// Whose vectors of texts its rows saw, where they saw any.
    pub embeddings: Option<EncoderId>,
    /// From the newest counted behavior of the user to now; absent where there is none.
    pub freshness_ms: Option<i64>,
    /// What makes the scores less than they could be; absent where nothing does.
    pub degraded: &'a [&'static str],
}

impl Answer<'_> {
    /// Appends its JSON. Written key by key, since one goes out for every score: derived code takes twice as long over the keys.
    pub fn write(&self, to: &mut Vec<u8>) {
        put(to, "{\"request_id\":", self.request_id);
        put(to, ",\"user_id\":", self.user_id);
        put(to, ",\"scenario\":", self.scenario);
        put(to, ",\"time\":", &self.time);
        put(to, ",\"status\":", self.status);
        put(to, ",\"model\":", self.model);
        if let Some(part) = self.part {
            put(to, ",\"part\":", &part);
        }
        if self.items.order.is_some() {
            put(to, ",\"policy\":", "random");
        }
        to.extend_from_slice(b",\"items\":[");
        self.items.write(to);
        put(to, "],\"state\":{\"topic\":", self.state.topic);
        put(to, ",\"partition\":", &self.state.partition);
        put(to, ",\"offset\":", &self.state.offset);
        put(to, "},\"item_state\":", &self.item_state);
        if let Some(encoder) = self.embeddings {
            put(to, ",\"embeddings\":", &encoder.to_string());
        }
        if let Some(freshness_ms) = self.freshness_ms {
            put(to, ",\"freshness_ms\":", &freshness_ms);
        }
        if !self.degraded.is_empty() {
            put(to, ",\"degraded\":", self.degraded);
        }
        to.push(b'}');
    }
}

/// Appends what stands before a value, and the value as JSON.
fn put<T: Serialize + ?Sized>(to: &mut Vec<u8>, before: &str, value: &T) {
    to.extend_from_slice(before.as_bytes());
    serde_json::to_writer(to, value).expect("invariant: texts and numbers are JSON");
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

/// Bytes that a dead letter keeps of what is too much: of the value, of the key, and of the headers in their order.
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
    let theirs = || {
        record
            .headers
            .iter()
            .filter(|(name, _)| !name.starts_with("headwater-") || *name == HEADER_REDRIVE)
    };
    let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
    let header_length = |(name, value): (&str, Option<&[u8]>)| name.len() + length(value);
    let whole =
        length(record.key) + length(record.value) + theirs().map(header_length).sum::<usize>();
    let is_cut = whole > RECORD_BYTES_MAX
        || (reject.code == "too_large" && length(record.value) > DEAD_LETTER_PREFIX);
    let mut room = if is_cut {
        DEAD_LETTER_PREFIX
    } else {
        usize::MAX
    };
    let kept = |bytes: Option<&[u8]>| bytes.map(|bytes| bytes.len().min(room));
    let (key_kept, value_kept) = (kept(record.key), kept(record.value));
    let kept_headers: Vec<_> = theirs()
        .take_while(|header| {
            let fits = header_length(*header) <= room;
            room = room.saturating_sub(header_length(*header));
            fits
        })
        .collect();
    let mut own: Vec<(&str, Option<&[u8]>)> = vec![
        ("headwater-reason", Some(reject.code.as_bytes())),
        ("headwater-detail", Some(reject.detail.as_bytes())),
        ("headwater-source", Some(source.as_bytes())),
        (HEADER_ID, Some(place.as_bytes())),
        ("headwater-time", Some(time.as_bytes())),
    ];
    let cut = is_cut.then(|| what_was_cut(record, key_kept, theirs().count() - kept_headers.len()));
    if let Some(cut) = &cut {
        own.push(("headwater-cut", Some(cut.as_bytes())));
    }
    to.push(
        TopicPartition::new(Topic::DeadLetters, partition),
        (0, 0),
        record.key.zip(key_kept).map(|(bytes, kept)| &bytes[..kept]),
        record
            .value
            .zip(value_kept)
            .map(|(bytes, kept)| &bytes[..kept]),
        kept_headers.into_iter().chain(own.iter().copied()),
    );
}

/// What a dead letter does not hold: hash and length of the value, and of key and headers what is missing.
fn what_was_cut(record: &Record<'_>, key_kept: Option<usize>, headers_left_out: usize) -> String {
    use sha2::Digest;
    let mut cut = match record.value {
        Some(value) => format!(
            "sha256={:x} bytes={}",
            sha2::Sha256::digest(value),
            value.len()
        ),
        None => "no value".to_owned(),
    };
    if let Some(key) = record.key.filter(|key| Some(key.len()) > key_kept) {
        write!(cut, " key_bytes={}", key.len()).expect("invariant: a String grows");
    }
    if headers_left_out > 0 {
        write!(cut, " headers_left_out={headers_left_out}").expect("invariant: a String grows");
    }
    cut
}

#[cfg(test)]
mod tests;
