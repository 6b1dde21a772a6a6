//! What comes of a replay: answers, awaited and counted, and how long each took.
//!
//! Before it stand the topics of scores and of dead letters, read from where they ended when the replay began; after it the summary. An
//! answer is matched by its request's id, and its cause (`headwater-id`) says whether it was there before: in exactly-once mode the
//! causes of a partition only grow.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use headwater_config::{Config, Topic};
use headwater_consumers::log::{
    Log, LogError, PollLimit, Reader, Record, RecordBatch, Start, TopicPartition,
};
use headwater_state::pinned_hash;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// Times that are kept for percentiles: 40 MB. A replay of more answers has those of the first so many.
const TIMES_MAX: usize = 10_000_000;
/// Behaviors whose scores are awaited, for their times alone: some are never scored, and must not fill the memory.
const HOPED_MAX: usize = 100_000;
const LIMIT: PollLimit = PollLimit {
    records: 10_000,
    bytes: 16 << 20,
    wait: Duration::ZERO,
};

/// An answer, as far as it is looked at.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    request_id: Cow<'a, str>,
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(default)]
    part: Option<[u32; 2]>,
    items: Vec<IgnoredAny>,
}

/// A request that awaits its answer.
#[derive(Debug)]
struct Awaited {
    /// When it was sent; where the same id was sent several times, each.
    since: Vec<Instant>,
    parts: u32,
}

/// Percentiles of a time, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half took less.
    pub p50: f64,
    /// 95 % took less.
    pub p95: f64,
    /// 99 % took less.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

/// Answers and dead letters since the beginning.
pub(super) struct Answers {
    reader: Box<dyn Reader>,
    batch: RecordBatch,
    /// Where each partition is read up to.
    at: BTreeMap<TopicPartition, i64>,
    /// `<name of the requests' topic>-`, with which causes begin that are requests.
    requests: String,
    awaited: BTreeMap<u64, Awaited>,
    hoped: BTreeMap<u64, Instant>,
    /// The newest cause of each partition: offset and part.
    newest: BTreeMap<i32, (i64, u32)>,
    micros: Vec<u32>,
    pub(super) found: Found,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Found {
    /// Answers to requests of the recording, by status.
    pub answers: BTreeMap<String, u64>,
    /// Candidates scored in them.
    pub scores: u64,
    /// Scores of behaviors (`scoring.on_behavior`), of the recording or not.
    pub behavior_scores: u64,
    /// Answers whose cause was answered before.
    pub repeated: u64,
    /// Records that became dead letters, of the recording or not, by topic and reason.
    pub dead_letters: BTreeMap<String, BTreeMap<String, u64>>,
}

impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answers")
            .field("awaited", &self.awaited.len())
            .field("found", &self.found)
            .finish_non_exhaustive()
    }
}

impl Answers {
    /// Answers that come from now on. `config` is the fast loop's, whose names causes bear.
    pub(super) fn new(config: &Config, log: &dyn Log) -> Result<Self, LogError> {
        let mut reader = log.reader()?;
        let mut at = BTreeMap::new();
        for topic in [Topic::Scores, Topic::DeadLetters] {
            let facts = log.describe(topic)?.ok_or_else(|| LogError::NoTopic {
                name: config.topic_name(topic),
            })?;
            for partition in 0..facts.partitions {
                let of = TopicPartition::new(topic, partition);
                let next = log.extent(of)?.next;
                reader.assign(of, Start::At(next))?;
                at.insert(of, next);
            }
        }
        Ok(Self {
            reader,
            batch: RecordBatch::default(),
            at,
            requests: format!("{}-", config.topic_name(Topic::ScoreRequests)),
            awaited: BTreeMap::new(),
            hoped: BTreeMap::new(),
            newest: BTreeMap::new(),
            micros: Vec::new(),
            found: Found::default(),
        })
    }

    /// A request or a behavior is about to be sent whose answer will bear the id with this hash.
    pub(super) fn ask(&mut self, topic: Topic, id: u64, now: Instant) {
        if topic == Topic::ScoreRequests {
            let awaited = self.awaited.entry(id).or_insert(Awaited {
                since: Vec::new(),
                parts: 0,
            });
            awaited.since.push(now);
        } else if self.hoped.len() < HOPED_MAX {
            self.hoped.insert(id, now);
        }
    }

    /// Requests without an answer.
    pub(super) fn awaited(&self) -> u64 {
        let since = self.awaited.values().map(|awaited| awaited.since.len());
        since.sum::<usize>() as u64
    }

    /// Reads what is there; gives how many records.
    pub(super) fn look(&mut self) -> Result<usize, LogError> {
        let mut batch = std::mem::take(&mut self.batch);
        let polled = self.reader.poll(LIMIT, &mut batch);
        let now = Instant::now();
        for record in batch.iter() {
            self.at.insert(record.at, record.offset + 1);
            if record.at.topic == Topic::DeadLetters {
                self.dead_letter(&record);
            } else {
                self.answer(&record, now);
            }
        }
        for (of, position) in batch.ends() {
            self.at.insert(*of, *position);
        }
        let count = batch.len();
        self.batch = batch;
        polled?;
        Ok(count)
    }

    /// Where the topics end now: up to there answers are to be read.
    pub(super) fn ends(&self, log: &dyn Log) -> Result<BTreeMap<TopicPartition, i64>, LogError> {
        let ends = self.at.keys().map(|of| Ok((*of, log.written(*of)?.next)));
        ends.collect()
    }

    /// Whether they are.
    pub(super) fn are_read(&self, upto: &BTreeMap<TopicPartition, i64>) -> bool {
        upto.iter().all(|(of, end)| self.at[of] >= *end)
    }

    /// How long answers took, from the request's sending to the reading of the answer.
    pub(super) fn freshness(&mut self) -> Option<Percentiles> {
        self.micros.sort_unstable();
        let last = self.micros.len().checked_sub(1)?;
        let at = |share: f64| f64::from(self.micros[(last as f64 * share) as usize]) / 1000.0;
        Some(Percentiles {
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
            max: at(1.0),
        })
    }

    fn answer(&mut self, record: &Record<'_>, now: Instant) {
        let Ok(answer) = serde_json::from_slice::<Answer<'_>>(record.value.unwrap_or_default())
        else {
            return;
        };
        let cause = record.headers.get("headwater-id").unwrap_or_default();
        let cause = std::str::from_utf8(cause).unwrap_or_default();
        let id = pinned_hash(answer.request_id.as_bytes());
        let Some(place) = cause.strip_prefix(&self.requests) else {
            self.found.behavior_scores += answer.items.len() as u64;
            if let Some(since) = self.hoped.remove(&id) {
                self.took(now, since);
            }
            return;
        };
        let part = answer.part.map_or(0, |[part, _]| part);
        // Partition and offset; a part has its number behind them.
        let offset = place.split('-').nth(1);
        if let Some(offset) = offset.and_then(|offset| offset.parse().ok()) {
            let newest = self.newest.get(&record.at.partition);
            if newest.is_some_and(|newest| (offset, part) <= *newest) {
                self.found.repeated += 1;
                return;
            }
            self.newest.insert(record.at.partition, (offset, part));
        }
        let Some(awaited) = self.awaited.get_mut(&id) else {
            return;
        };
        self.found.scores += answer.items.len() as u64;
        if let Some([_, parts]) = answer.part {
            awaited.parts += 1;
            if awaited.parts < parts {
                return;
            }
        }
        awaited.parts = 0;
        let since = awaited.since.remove(0);
        if awaited.since.is_empty() {
            self.awaited.remove(&id);
        }
        *self
            .found
            .answers
            .entry(answer.status.into_owned())
            .or_default() += 1;
        self.took(now, since);
    }

    fn took(&mut self, now: Instant, since: Instant) {
        if self.micros.len() < TIMES_MAX {
            let micros = now.saturating_duration_since(since).as_micros();
            self.micros.push(u32::try_from(micros).unwrap_or(u32::MAX));
        }
    }

    fn dead_letter(&mut self, record: &Record<'_>) {
        // A note that a letter was sent again is none.
        let Some(reason) = record.headers.get("headwater-reason") else {
            return;
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let source = record.headers.get("headwater-source").unwrap_or_default();
        let of = self.found.dead_letters.entry(text(source)).or_default();
        *of.entry(text(reason)).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use headwater_consumers::log::Outgoing;
    use headwater_consumers::log::local::{LocalLog, Options};
    use serde_json::{Value, json};

    use super::*;

    fn say(log: &LocalLog, topic: Topic, value: &Value, headers: &[(&str, &str)]) {
        let value = value.to_string();
        let headers: Vec<(&str, &[u8])> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_bytes()))
            .collect();
        let mut producer = log.producer().unwrap();
        producer
            .send(Outgoing {
                to: TopicPartition::new(topic, 0),
                key: Some(b"u"),
                value: Some(value.as_bytes()),
                headers: &headers,
            })
            .unwrap();
        producer.flush().unwrap();
    }

    fn answer(log: &LocalLog, cause: &str, request: &str, status: &str, part: Option<[u32; 2]>) {
        let mut value = json!({"request_id": request, "status": status, "items": [{}, {}]});
        if let Some(part) = part {
            value["part"] = json!(part);
        }
        say(log, Topic::Scores, &value, &[("headwater-id", cause)]);
    }

    /// Goal: an answer that is missing, not whole, or there twice is told; what is nobody's is not counted. Method: five requests and what comes
    /// of them.
    #[test]
    fn what_is_missing_or_there_twice_is_told() {
        let config = Config::from_toml("topics.partitions = 1").unwrap();
        let log = LocalLog::in_memory(Options::new(|| 0));
        crate::topics::create(&config, &log).unwrap();
        let requests = "headwater.score-requests-0";
        answer(&log, &format!("{requests}-0"), "whole", "ok", None);
        let mut answers = Answers::new(&config, &log).unwrap();
        for id in ["whole", "parts", "torn", "expired", "whole", "never"] {
            let id = pinned_hash(id.as_bytes());
            answers.ask(Topic::ScoreRequests, id, Instant::now());
        }
        answers.ask(Topic::Behaviors, pinned_hash(b"e1"), Instant::now());
        answer(&log, &format!("{requests}-1"), "whole", "ok", None);
        answer(
            &log,
            &format!("{requests}-2-0"),
            "parts",
            "ok",
            Some([1, 2]),
        );
        answer(
            &log,
            &format!("{requests}-2-1"),
            "parts",
            "ok",
            Some([2, 2]),
        );
        answer(&log, &format!("{requests}-3-0"), "torn", "ok", Some([1, 2]));
        answer(&log, &format!("{requests}-4"), "expired", "expired", None);
        answer(&log, &format!("{requests}-4"), "expired", "expired", None);
        answer(&log, &format!("{requests}-5"), "another's", "ok", None);
        answer(&log, "headwater.behaviors-0-7", "e1", "ok", None);
        let letter = [
            ("headwater-source", "headwater.behaviors"),
            ("headwater-reason", "unreadable"),
        ];
        say(&log, Topic::DeadLetters, &json!({}), &letter);
        say(
            &log,
            Topic::DeadLetters,
            &json!({}),
            &[("headwater-redriven", "0-0")],
        );
        let ends = answers.ends(&log).unwrap();
        assert!(!answers.are_read(&ends));
        while !answers.are_read(&ends) {
            answers.look().unwrap();
        }
        let expected = Found {
            answers: BTreeMap::from([("ok".to_owned(), 2), ("expired".to_owned(), 1)]),
            scores: 10,
            behavior_scores: 2,
            repeated: 1,
            dead_letters: BTreeMap::from([(
                "headwater.behaviors".to_owned(),
                BTreeMap::from([("unreadable".to_owned(), 1)]),
            )]),
        };
        assert_eq!(answers.found, expected);
        assert_eq!(answers.awaited(), 3, "torn, whole again, never");
        assert_eq!(
            answers.micros.len(),
            4,
            "three answers and a behavior's score"
        );
        assert!(answers.freshness().is_some());
    }
}
