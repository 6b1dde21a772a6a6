//! The platform's side of a log: asks on it, shows what is answered by score, and sends what users do.
//!
//! Before it, [`super::visits`] says who comes; after it, whoever counts: the demo, or a benchmark. Which log it is makes no difference.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use headwater_config::Topic;
use headwater_consumers::log::{
    Log, LogError, Outgoing, PollLimit, Producer, Reader, RecordBatch, Start, TopicPartition,
};
use headwater_consumers::partitioner::partition_of;
use serde::Deserialize;
use serde_json::json;

use super::DemoError;
use super::visits::{Seen, Visit, Visits};
use crate::now_ms;

#[derive(Deserialize)]
struct Answer {
    request_id: String,
    model: String,
    items: Vec<Scored>,
}

#[derive(Deserialize)]
struct Scored {
    item_id: String,
    score: f32,
}

#[derive(Debug)]
struct Asked {
    visit: Visit,
    at: Instant,
}

/// What came of a visit.
#[derive(Clone, Debug)]
pub struct Answered {
    /// Who asked, and for what.
    pub visit: Visit,
    /// From the request to its answer.
    pub latency: Duration,
    /// Who scored.
    pub model: String,
    /// Candidates scored.
    pub scores: usize,
    /// What the user saw and clicked.
    pub seen: Vec<Seen>,
}

/// The platform's side of a log.
pub struct Stage {
    visits: Visits,
    with_titles: bool,
    producer: Box<dyn Producer>,
    reader: Box<dyn Reader>,
    batch: RecordBatch,
    partitions: i32,
    asked: BTreeMap<String, Asked>,
    number: u64,
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Stage");
        shown.field("number", &self.number);
        shown.field("waiting", &self.asked.len());
        shown.finish_non_exhaustive()
    }
}

impl Stage {
    /// Takes its place at a log, and puts the items there. Answers that lie there already are not its own.
    ///
    /// # Errors
    /// If the log fails, or has no topic of scores.
    pub fn open(log: &dyn Log, visits: Visits, with_titles: bool) -> Result<Self, DemoError> {
        let mut reader = log.reader()?;
        let facts = log.describe(Topic::Scores)?.ok_or(DemoError::Topic)?;
        // Whoever was here before has asked as often: the visits behind theirs come now. An id that was seen before would be a repetition, and who comes again with what they did before teaches by heart.
        let mut number = 0;
        for partition in 0..facts.partitions {
            reader.assign(TopicPartition::new(Topic::Scores, partition), Start::End)?;
            let asked = log.extent(TopicPartition::new(Topic::ScoreRequests, partition))?;
            number += u64::try_from(asked.next).unwrap_or_default();
        }
        let mut stage = Self {
            visits,
            with_titles,
            producer: log.producer()?,
            reader,
            batch: RecordBatch::default(),
            partitions: facts.partitions,
            asked: BTreeMap::new(),
            number,
        };
        for item in 0..stage.visits.platform().items() {
            stage.publish_item(item)?;
        }
        stage.flush()?;
        Ok(stage)
    }

    /// Who comes, and what they do.
    #[must_use]
    pub fn visits(&self) -> &Visits {
        &self.visits
    }

    /// Users like other things from here on.
    pub fn drift(&mut self) {
        self.visits.drift();
    }

    /// The number of the next visit.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Leaves visits out, up to that number.
    pub fn skip_to(&mut self, number: u64) {
        self.number = self.number.max(number);
    }

    /// Visits that have no answer yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.asked.len()
    }

    fn send(&mut self, topic: Topic, key: &str, value: &serde_json::Value) -> Result<(), LogError> {
        let partition = if topic == Topic::Items {
            0
        } else {
            partition_of(key.as_bytes(), self.partitions)
        };
        let value = value.to_string();
        let to = TopicPartition::new(topic, partition);
        self.producer.send(Outgoing {
            to,
            key: Some(key.as_bytes()),
            value: Some(value.as_bytes()),
            headers: &[],
        })
    }

    fn publish_item(&mut self, item: usize) -> Result<(), LogError> {
        let platform = self.visits.platform();
        let id = format!("item-{item}");
        let category = format!("category-{}", platform.category(item));
        let mut record = json!({"item_id": id, "time": now_ms(), "categories": [category]});
        if self.with_titles {
            record["fields"] = json!({"title": platform.title(item)});
        }
        self.send(Topic::Items, &id, &record)
    }

    /// New items come.
    ///
    /// # Errors
    /// The log's.
    pub fn add_items(&mut self, count: usize) -> Result<(), LogError> {
        for _ in 0..count {
            let item = self.visits.add_item();
            self.publish_item(item)?;
        }
        self.flush()
    }

    /// The next user arrives and asks for candidates.
    ///
    /// # Errors
    /// The log's.
    pub fn ask(&mut self) -> Result<(), LogError> {
        let visit = self.visits.visit(self.number);
        self.number += 1;
        let request = format!("r{}", visit.number);
        let id = format!("user-{}", visit.user);
        let candidates = visit.candidates.iter().map(|item| format!("item-{item}"));
        let record = json!({
            "request_id": request, "user_id": id, "scenario": "home", "time": now_ms(), "candidates": candidates.collect::<Vec<_>>(),
        });
        self.send(Topic::ScoreRequests, &id, &record)?;
        let at = Instant::now();
        self.asked.insert(request, Asked { visit, at });
        Ok(())
    }

    /// Waits until everything that was sent is in the log.
    ///
    /// # Errors
    /// The log's.
    pub fn flush(&mut self) -> Result<(), LogError> {
        self.producer.flush()
    }

    /// Takes in answers: users see them and react, and `each` is told.
    ///
    /// # Errors
    /// The log's.
    pub fn answers(&mut self, each: &mut dyn FnMut(&Answered)) -> Result<(), LogError> {
        let limit = PollLimit {
            records: 1000,
            bytes: 4 << 20,
            wait: Duration::from_millis(2),
        };
        let mut batch = std::mem::take(&mut self.batch);
        let polled = self.reader.poll(limit, &mut batch);
        for record in batch.iter() {
            let answer = record
                .value
                .and_then(|value| serde_json::from_slice::<Answer>(value).ok());
            if let Some(answer) = answer
                && let Some(asked) = self.asked.remove(&answer.request_id)
            {
                each(&self.react(asked, answer)?);
            }
        }
        self.batch = batch;
        polled
    }

    /// What the user is shown, and what comes of it. Scores decide the order, and nothing else.
    fn react(&mut self, asked: Asked, mut answer: Answer) -> Result<Answered, LogError> {
        let (latency, visit) = (asked.at.elapsed(), asked.visit);
        let scores = answer.items.len();
        let order = if visit.ranked {
            (answer.items).sort_by(|a, b| b.score.total_cmp(&a.score));
            let numbers = answer
                .items
                .iter()
                .filter_map(|item| item.item_id.strip_prefix("item-")?.parse::<usize>().ok());
            numbers.collect()
        } else {
            self.visits.random_order(&visit)
        };
        let seen = self.visits.see(&visit, &order);
        let id = format!("user-{}", visit.user);
        for (position, one) in seen.iter().enumerate() {
            let item = format!("item-{}", one.item);
            let mut behavior = json!({
                "event_id": format!("{}-{position}", answer.request_id), "user_id": id, "item_id": item,
                "kind": "impression", "scenario": "home", "time": now_ms(), "request_id": answer.request_id, "position": position,
            });
            self.send(Topic::Behaviors, &id, &behavior)?;
            if one.clicked {
                behavior["kind"] = json!("click");
                behavior["event_id"] = json!(format!("{}-{position}-click", answer.request_id));
                self.send(Topic::Behaviors, &id, &behavior)?;
            }
        }
        Ok(Answered {
            visit,
            latency,
            model: answer.model,
            scores,
            seen,
        })
    }
}
