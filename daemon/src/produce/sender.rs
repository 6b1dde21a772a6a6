//! One record to where its owner reads: the partition of the user, or of the item, by Java's murmur2.
//!
//! Before it stands a line of a recording; after it the log. A record is read first as the daemon will read it, so that what would be a
//! dead letter is refused here, where somebody can still be told which line it was.

use std::collections::BTreeMap;

use headwater_config::{Config, Topic};
use headwater_consumers::decode::{DecodedRequest, Decoder, Reject};
use headwater_consumers::log::{Log, LogError, Outgoing, Producer, TopicPartition};
use headwater_consumers::partitioner::partition_of;

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
            unkeyed: 0,
            now,
        })
    }

    /// Sends a record as it is.
    ///
    /// # Errors
    /// A record that the daemon could not read (nothing was sent then), or the log's.
    ///
    /// # Panics
    /// If the topic is none that the sender was made for.
    pub fn send(&mut self, topic: Topic, record: &[u8]) -> Result<Sent, SendError> {
        match topic {
            Topic::ScoreRequests => {
                let user = self.decoder.request(Some(record))?.user.into_owned();
                self.put(topic, Some(&user), record, 1)
            }
            Topic::Items => {
                let now = (self.now)();
                let id = self.decoder.item(None, record, now)?.item_id.into_owned();
                self.put(topic, Some(&id), record, 1)
            }
            Topic::Behaviors => {
                let (user, events) = self.user_of(record)?;
                self.put(topic, user.as_deref(), record, events)
            }
            Topic::Scores
            | Topic::StandingScores
            | Topic::FeatureLog
            | Topic::Changelog
            | Topic::ItemDeltas
            | Topic::ItemState
            | Topic::Fleet
            | Topic::DeadLetters
            | Topic::Repartition => unreachable!("invariant: recordings hold records of inputs"),
        }
    }

    /// Reads a request as the daemon will.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn request<'a>(&self, record: &'a [u8]) -> Result<DecodedRequest<'a>, Reject> {
        self.decoder.request(Some(record))
    }

    /// Waits until everything that was sent is in the log.
    ///
    /// # Errors
    /// The log's.
    pub fn flush(&mut self) -> Result<(), LogError> {
        self.producer.flush()
    }

    /// The user of a behavior record, by whom it is keyed, and how many behaviors it holds. A stranger's record may hold none: then it
    /// belongs to nobody. In a source that is repartitioned, the first user's partition is as good as any.
    fn user_of(&self, record: &[u8]) -> Result<(Option<String>, u64), SendError> {
        let decoded = self.decoder.behaviors(Some(record), (self.now)())?;
        let mut user: Option<&str> = None;
        for behavior in decoded.behaviors() {
            match user {
                Some(one) if one != behavior.user && !self.repartitioned => {
                    return Err(SendError::Users {
                        one: one.to_owned(),
                        other: behavior.user.to_string(),
                    });
                }
                Some(_) => {}
                None => user = Some(&behavior.user),
            }
        }
        let events = decoded.behaviors().len() as u64;
        Ok((user.map(str::to_owned), events))
    }

    fn put(
        &mut self,
        topic: Topic,
        key: Option<&str>,
        record: &[u8],
        events: u64,
    ) -> Result<Sent, SendError> {
        let count = self.partitions[&topic];
        let partition = match key {
            Some(key) => partition_of(key.as_bytes(), count),
            None => {
                self.unkeyed = (self.unkeyed + 1) % count;
                self.unkeyed
            }
        };
        let to = TopicPartition::new(topic, partition);
        self.producer.send(Outgoing {
            to,
            key: key.map(str::as_bytes),
            value: Some(record),
            headers: &[],
        })?;
        Ok(Sent { to, events })
    }
}
