//! One record to where its owner reads: the partition of the user, or of the item, by Java's murmur2.
//!
//! Before it stands a line of a recording; after it the log. A record is read first as the daemon will read it, so that what would be a
//! dead letter is refused here, where somebody can still be told which line it was.

use std::collections::BTreeMap;

use headwater_config::{Config, OnBehavior, Topic};
use headwater_consumers::decode::{Decoder, Reject};
use headwater_consumers::log::{Log, LogError, Outgoing, Producer, TopicPartition};
use headwater_consumers::partitioner::partition_of;
use headwater_state::{KindId, pinned_hash};
use serde_json::value::RawValue;

/// Why a record was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The daemon could not read it.
    #[error("{0}")]
    Refused(#[from] Reject),
    /// The line does not say of which topic its record is.
    #[error("{0}")]
    Line(String),
    /// A record of several users, in a topic whose records belong to one user each.
    #[error(
        "events of `{one}` and of `{other}` in one record: the topic of behaviors is keyed by user, unless source.behaviors.repartition says \
         that it is not"
    )]
    Users {
        /// One of them.
        one: String,
        /// Another.
        other: String,
    },
    /// The log did not take it.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// A record that was read, and not sent yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Where it goes.
    pub to: TopicPartition,
    /// By whom it is keyed: a stranger's record without events by nobody.
    pub key: Option<String>,
    /// Behaviors in it: those that a mapping does not skip; 1 for every other record.
    pub events: u64,
    /// Its event time, Unix milliseconds: the newest of its events, if it has any.
    pub time: Option<i64>,
    /// Pinned hash of the id that an answer to it will bear: a request's, or the event id of a behavior that is to be scored.
    pub answer: Option<u64>,
    /// What is sent in place of the record, where it must not go as it is.
    instead: Option<Vec<u8>>,
}

/// Where a record went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The partition.
    pub to: TopicPartition,
    /// Behaviors in it: those that a mapping does not skip; 1 for every other record.
    pub events: u64,
}

/// Sends records to the input topics.
pub struct Sender {
    decoder: Decoder,
    producer: Box<dyn Producer>,
    partitions: BTreeMap<Topic, i32>,
    /// Whether the topic of behaviors may hold records of several users.
    repartitioned: bool,
    /// Kinds that are not scored; none: no behavior is.
    unscored: Option<Vec<KindId>>,
    deadlines: bool,
    unkeyed: i32,
    now: fn() -> i64,
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender")
            .field("partitions", &self.partitions)
            .finish_non_exhaustive()
    }
}

/// The topics that a [`Sender`] writes to.
pub const INPUTS: [Topic; 3] = [Topic::Behaviors, Topic::ScoreRequests, Topic::Items];

impl Sender {
    /// A sender to those of the input topics that `topics` names. `log` is the one of `config` itself: its [`Topic::Behaviors`] is the
    /// source where behaviors are repartitioned. `now` says when the log takes a record: behaviors too far ahead of it are refused.
    ///
    /// # Errors
    /// A topic that does not exist, or the log's.
    pub fn new(
        config: &Config,
        log: &dyn Log,
        topics: &[Topic],
        now: fn() -> i64,
    ) -> Result<Self, LogError> {
        let mut partitions = BTreeMap::new();
        for topic in topics {
            let facts = log.describe(*topic)?.ok_or_else(|| LogError::NoTopic {
                name: config.topic_name(*topic),
            })?;
            partitions.insert(*topic, facts.partitions);
        }
        Ok(Self {
            decoder: Decoder::new(config),
            producer: log.producer()?,
            partitions,
            repartitioned: config.source.behaviors.repartition,
            unscored: (config.scoring.on_behavior == OnBehavior::Item).then(|| {
                let impressions = config.kinds.impressions.iter();
                impressions.map(|name| KindId::of(name)).collect()
            }),
            deadlines: true,
            unkeyed: 0,
            now,
        })
    }

    /// Takes the deadlines out of requests: recorded ones are over.
    #[must_use]
    pub fn without_deadlines(mut self) -> Self {
        self.deadlines = false;
        self
    }

    /// Sends a record.
    ///
    /// # Errors
    /// A record that the daemon could not read (nothing was sent then), or the log's.
    ///
    /// # Panics
    /// If the topic is none that the sender was made for.
    pub fn send(&mut self, topic: Topic, record: &[u8]) -> Result<Sent, SendError> {
        let reading = self.read(topic, record)?;
        Ok(self.put(&reading, record)?)
    }

    /// Reads a record as the daemon will.
    ///
    /// # Errors
    /// What is wrong with it.
    ///
    /// # Panics
    /// If the topic is none that the sender was made for.
    pub fn read(&mut self, topic: Topic, record: &[u8]) -> Result<Reading, SendError> {
        let mut reading = match topic {
            Topic::ScoreRequests => self.request(record)?,
            Topic::Items => self.item(record)?,
            Topic::Behaviors => self.behaviors(record)?,
            Topic::Scores
            | Topic::StandingScores
            | Topic::FeatureLog
            | Topic::Labels
            | Topic::Changelog
            | Topic::ItemDeltas
            | Topic::ItemState
            | Topic::Fleet
            | Topic::DeadLetters
            | Topic::Repartition
            | Topic::Texts
            | Topic::Embeddings
            | Topic::Models => unreachable!("invariant: recordings hold records of inputs"),
        };
        let count = self.partitions[&topic];
        reading.to.partition = match &reading.key {
            Some(key) => partition_of(key.as_bytes(), count),
            None => {
                self.unkeyed = (self.unkeyed + 1) % count;
                self.unkeyed
            }
        };
        Ok(reading)
    }

    /// Sends a record that was read.
    ///
    /// # Errors
    /// The log's.
    pub fn put(&mut self, reading: &Reading, record: &[u8]) -> Result<Sent, LogError> {
        self.producer.send(Outgoing {
            to: reading.to,
            key: reading.key.as_deref().map(str::as_bytes),
            value: Some(reading.instead.as_deref().unwrap_or(record)),
            headers: &[],
        })?;
        Ok(Sent {
            to: reading.to,
            events: reading.events,
        })
    }

    /// Waits until everything that was sent is in the log.
    ///
    /// # Errors
    /// The log's.
    pub fn flush(&mut self) -> Result<(), LogError> {
        self.producer.flush()
    }

    fn request(&self, record: &[u8]) -> Result<Reading, Reject> {
        let request = self.decoder.request(Some(record))?;
        let instead = (!self.deadlines && request.deadline_ms.is_some()).then(|| {
            let mut fields: BTreeMap<String, &RawValue> =
                serde_json::from_slice(record).expect("invariant: it was read as an object");
            fields.remove("deadline_ms");
            serde_json::to_vec(&fields).expect("invariant: what was JSON is JSON")
        });
        Ok(Reading {
            time: Some(request.time.0),
            answer: Some(pinned_hash(request.request_id.as_bytes())),
            instead,
            ..reading(Topic::ScoreRequests, Some(&request.user))
        })
    }

    fn item(&self, record: &[u8]) -> Result<Reading, Reject> {
        let item = self.decoder.item(None, record, (self.now)())?;
        Ok(reading(Topic::Items, Some(&item.item_id)))
    }

    /// All events of a record must be of one user, by whom it is keyed. In a source that is repartitioned the first user's partition is as
    /// good as any.
    fn behaviors(&self, record: &[u8]) -> Result<Reading, SendError> {
        let decoded = self.decoder.behaviors(Some(record), (self.now)())?;
        let all = decoded.behaviors();
        let first = all.first();
        let other = first.and_then(|first| all.iter().find(|other| other.user != first.user));
        if let (Some(first), Some(other), false) = (first, other, self.repartitioned) {
            return Err(SendError::Users {
                one: first.user.to_string(),
                other: other.user.to_string(),
            });
        }
        let scored = first.filter(|behavior| {
            let unscored = self.unscored.as_ref();
            behavior.item.is_some() && unscored.is_some_and(|kinds| !kinds.contains(&behavior.kind))
        });
        Ok(Reading {
            events: all.len() as u64,
            time: all.iter().map(|behavior| behavior.time.0).max(),
            answer: scored
                .and_then(|behavior| behavior.event_id.as_ref())
                .map(|event| pinned_hash(event.as_bytes())),
            ..reading(Topic::Behaviors, first.map(|behavior| &*behavior.user))
        })
    }
}

/// A record of one event, whose partition is still to be told.
fn reading(topic: Topic, key: Option<&str>) -> Reading {
    Reading {
        to: TopicPartition::new(topic, 0),
        key: key.map(str::to_owned),
        events: 1,
        time: None,
        answer: None,
        instead: None,
    }
}
