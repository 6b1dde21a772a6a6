//! The log in Apache Kafka, by librdkafka. Before it stand the brokers; after it, `worker` (a [`Member`] each), restores and
//! followers ([`Reader`]) and the command line ([`Producer`]).
//!
//! A member is three clients: one that is in the group and reads nothing ([`group`]), one that reads the partitions it is told to
//! and is in no group ([`source`]), and the transactional producer ([`sink`]). So a rebalance never touches what is being read:
//! partitions of all topics come and go by `start` and `release` alone, and librdkafka's state of the group and its state of
//! fetching cannot disagree.
//!
//! It promises what [`super`] promises. What librdkafka does by itself and must not do here (commit offsets, reset positions,
//! assign partitions, wait 100 ms) is switched off by settings that `[kafka.client]` cannot change ([`client`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use headwater_config::Topic;
use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::{Offset, TopicPartitionList};

use self::absences::Absences;
use self::client::{Logging, Names};
use self::error::OrderError;
use super::{
    Created, Extent, Log, LogError, Member, Membership, Producer, Reader, TopicFacts,
    TopicPartition, TopicSpec,
};

mod absences;
mod admin;
mod client;
mod error;
mod group;
mod member;
mod orphans;
mod patience;
mod producer;
mod reader;
mod sink;
mod source;
mod wake;

/// Where the brokers are and how to behave there.
#[derive(Clone)]
pub struct KafkaSettings {
    /// `host:port` of some brokers, separated by commas.
    pub bootstrap: String,
    /// The topic whose partitions the group's members are assigned: [`Topic::Behaviors`], but for a group beside the daemon's.
    pub input: Topic,
    /// The consumer group, with the prefix already before it. Transactional ids and group instance ids are
    /// `<group>-<instance>-<worker>`.
    pub group: String,
    /// The name on the brokers of each topic, with the prefix already before it.
    pub topics: BTreeMap<Topic, String>,
    /// How long a member that is silent keeps its partitions.
    pub session_timeout: Duration,
    /// How long a transaction may be open before the brokers abort it; until then readers wait for it.
    pub transaction_timeout: Duration,
    /// How long one call may take before it is [`LogError::Unavailable`].
    pub operation_timeout: Duration,
    /// Whether members send records outside of their transactions too (`at-least-once`), so that the second producer is
    /// there from the start. If not, the first `send_now` makes it.
    pub send_now: bool,
    /// Client properties of librdkafka, passed on as they are; those that the guarantees rest on are refused.
    pub client: BTreeMap<String, String>,
    /// Values among them that are never shown, beside those whose names say so: what was read from a file.
    pub secrets: Vec<String>,
}

/// Shows the names of the client properties and not their values: passwords are among them.
impl fmt::Debug for KafkaSettings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("KafkaSettings")
            .field("bootstrap", &self.bootstrap)
            .field("group", &self.group)
            .field("input", &self.input)
            .field("topics", &self.topics)
            .field("session_timeout", &self.session_timeout)
            .field("transaction_timeout", &self.transaction_timeout)
            .field("operation_timeout", &self.operation_timeout)
            .field("send_now", &self.send_now)
            .field("client", &self.client.keys())
            .finish_non_exhaustive()
    }
}

/// The log in Apache Kafka.
#[derive(Clone)]
pub struct KafkaLog {
    shared: Arc<Shared>,
}

/// What all clients of one log have in common.
struct Shared {
    settings: KafkaSettings,
    names: Arc<Names>,
    /// Asks for metadata and stable offsets; reads nothing.
    asking: BaseConsumer<Logging>,
    /// Asks for offsets that are not stable yet.
    peeking: BaseConsumer<Logging>,
    /// Asks for the group's positions: made when somebody looks on, since it holds a connection to the group's coordinator.
    looking: OnceLock<BaseConsumer<Logging>>,
    /// Topics that were there, and whether they are missed.
    absences: Mutex<Absences>,
}

impl fmt::Debug for KafkaLog {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("KafkaLog")
            .field(&self.shared.settings)
            .finish()
    }
}

impl KafkaLog {
    /// Checks the settings alone, without the brokers: makes one client of each kind, which connects to nothing.
    ///
    /// # Errors
    /// [`LogError::Refused`] for settings that librdkafka does not accept.
    pub fn check(settings: &KafkaSettings) -> Result<(), LogError> {
        Names::new(&settings.topics)?;
        client::try_all(settings)
    }

    /// Checks the settings and that the brokers answer.
    ///
    /// # Errors
    /// [`LogError::Refused`] for settings that librdkafka or the brokers do not accept, [`LogError::Unavailable`] if no broker
    /// answers within the operation timeout.
    pub fn connect(settings: KafkaSettings) -> Result<Self, LogError> {
        let names = Arc::new(Names::new(&settings.topics)?);
        let asking = client::asking(&settings, "read_committed")?;
        let peeking = client::asking(&settings, "read_uncommitted")?;
        let shared = Shared {
            settings,
            names,
            asking,
            peeking,
            looking: OnceLock::new(),
            absences: Mutex::default(),
        };
        shared
            .asking
            .fetch_metadata(
                Some(shared.names.of(shared.settings.input)),
                shared.settings.operation_timeout,
            )
            .map_err(|error| {
                let error = shared.explain("connecting to the brokers", error);
                let turned_away = shared.asking.context().turned_away();
                error::at_the_door(error, &shared.settings, turned_away)
            })?;
        Ok(Self {
            shared: Arc::new(shared),
        })
    }
}

impl Shared {
    /// The error of a call of the asking client. What is behind a transport failure (a wrong password, a certificate) comes
    /// by another way than the call's result, so that is looked at first.
    fn explain(&self, doing: &'static str, error: rdkafka::error::KafkaError) -> LogError {
        for client in [&self.asking, &self.peeking] {
            while client.poll(Duration::ZERO).is_some() {}
        }
        let error = self.asking.context().refusal().unwrap_or(error);
        error::of(doing, error, "")
    }

    /// A topic is there.
    fn met(&self, topic: Topic) {
        self.absences.lock().met(topic);
    }

    /// What it means that a broker does not know a topic.
    fn missing(&self, topic: Topic) -> LogError {
        let patience = self.settings.operation_timeout;
        let mut absences = self.absences.lock();
        if absences.is_missing(topic, patience, Instant::now()) {
            LogError::NoTopic {
                name: self.names.of(topic).to_owned(),
            }
        } else {
            error::unavailable("looking for a topic", OrderError::Missed)
        }
    }

    /// The extent that such a client is told.
    fn extent(
        &self,
        client: &BaseConsumer<Logging>,
        of: TopicPartition,
    ) -> Result<Extent, LogError> {
        let name = self.names.of(of.topic);
        match client.fetch_watermarks(name, of.partition, self.settings.operation_timeout) {
            Ok((first, next)) => {
                self.met(of.topic);
                Ok(Extent { first, next })
            }
            Err(error) if error::is_unknown_topic(&error) => Err(self.missing(of.topic)),
            Err(error) => Err(self.explain("asking for a partition's offsets", error)),
        }
    }

    /// The client that asks for the group's positions.
    fn looking(&self) -> Result<&BaseConsumer<Logging>, LogError> {
        if let Some(looking) = self.looking.get() {
            return Ok(looking);
        }
        let made = client::looking(&self.settings)?;
        Ok(self.looking.get_or_init(|| made))
    }

    /// The committed positions that such a client is told.
    fn committed<C: ConsumerContext>(
        &self,
        client: &BaseConsumer<C>,
        of: &[TopicPartition],
    ) -> Result<Vec<Option<i64>>, LogError> {
        const DOING: &str = "asking for committed positions";
        let mut list = TopicPartitionList::with_capacity(of.len());
        for at in of {
            list.add_partition(self.names.of(at.topic), at.partition);
        }
        let refused = |error| error::of(DOING, error, "");
        let list = client
            .committed_offsets(list, self.settings.operation_timeout)
            .map_err(refused)?;
        of.iter()
            .map(|at| {
                let found = list.find_partition(self.names.of(at.topic), at.partition);
                let found =
                    found.expect("invariant: the answer has the partitions of the question");
                found.error().map_err(refused)?;
                Ok(match found.offset() {
                    Offset::Offset(offset) => Some(offset),
                    _ => None,
                })
            })
            .collect()
    }

    /// The transactional id and group instance id of a worker.
    fn identity(&self, instance: &str, worker: usize) -> String {
        format!("{}-{instance}-{worker}", self.settings.group)
    }
}

impl Log for KafkaLog {
    fn describe(&self, topic: Topic) -> Result<Option<TopicFacts>, LogError> {
        admin::describe(&self.shared, topic)
    }

    fn create(&self, spec: &TopicSpec) -> Result<Created, LogError> {
        admin::create(&self.shared, spec)
    }

    fn extent(&self, of: TopicPartition) -> Result<Extent, LogError> {
        self.shared.extent(&self.shared.asking, of)
    }

    fn written(&self, of: TopicPartition) -> Result<Extent, LogError> {
        self.shared.extent(&self.shared.peeking, of)
    }

    fn committed(&self, of: &[TopicPartition]) -> Result<Vec<Option<i64>>, LogError> {
        self.shared.committed(self.shared.looking()?, of)
    }

    fn member(&self, instance: &str, worker: usize) -> Result<Box<dyn Member>, LogError> {
        let identity = self.shared.identity(instance, worker);
        Ok(Box::new(member::KafkaMember::new(
            Arc::clone(&self.shared),
            identity,
        )?))
    }

    fn beside(&self, suffix: &str, input: Topic) -> Result<Arc<dyn Log>, LogError> {
        let mut settings = self.shared.settings.clone();
        settings.group.push_str(suffix);
        settings.input = input;
        // What the daemon's own group may repeat to its readers, another stage may not: what follows counts what it writes.
        settings.send_now = false;
        Ok(Arc::new(Self::connect(settings)?))
    }

    fn reader(&self) -> Result<Box<dyn Reader>, LogError> {
        Ok(Box::new(reader::KafkaReader::new(Arc::clone(&self.shared))))
    }

    fn producer(&self) -> Result<Box<dyn Producer>, LogError> {
        Ok(Box::new(producer::KafkaProducer::new(&self.shared)?))
    }

    fn forget_instance(&self, instance: &str) -> Result<(), LogError> {
        let identities: BTreeSet<String> = admin::members_of(&self.shared, instance)?;
        for identity in identities {
            let mut group =
                group::Group::join(&self.shared, &identity, None, Membership::default())?;
            group.leave(self.shared.settings.operation_timeout)?;
        }
        Ok(())
    }
}
