//! What is read: a client in no group that fetches the partitions it is told to, each from a position of its own. Before it
//! stand the brokers; after it, a [`RecordBatch`].
//!
//! It promises records in offset order within a partition, and none from before a partition was assigned (again): librdkafka
//! numbers each assignment and drops what an older one left in its queue.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_config::Topic;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::{Message, Offset, TopicPartitionList};

use super::Shared;
use super::client::{self, Logging};
use super::error;
use super::wake::Wake;
use crate::log::{Header, LogError, PollLimit, RecordBatch, Start, TopicPartition};

const DOING: &str = "reading";

/// A client that reads.
pub(super) struct Source {
    consumer: BaseConsumer<Logging>,
    shared: Arc<Shared>,
    /// What is assigned, and where its reading began.
    starts: BTreeMap<TopicPartition, Start>,
    /// Topics whose leaders the client knows.
    met: BTreeSet<Topic>,
    /// The topic of the last record: they come in runs.
    last: Option<(String, Topic)>,
    /// An error that came behind records: for the next call.
    stash: Option<LogError>,
    /// When to look again for a topic that was missed: the client tells of it once.
    look_again: Option<Instant>,
}

/// How long after a topic was missed it is looked for again.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(500);

impl Source {
    /// A client that reads nothing yet. With `ends` it reports the ends of partitions, which the caller must then know by their
    /// number alone: librdkafka's Rust face does not tell the topic, so it may read one topic only.
    pub(super) fn new(
        shared: &Arc<Shared>,
        identity: &str,
        ends: bool,
        wake: &Arc<Wake>,
    ) -> Result<Self, LogError> {
        let context = Logging::new(&shared.settings, identity);
        let mut consumer = client::reading(&shared.settings, identity, ends, context)?;
        consumer.set_nonempty_callback(wake.callback());
        Ok(Self {
            consumer,
            shared: Arc::clone(shared),
            starts: BTreeMap::new(),
            met: BTreeSet::new(),
            last: None,
            stash: None,
            look_again: None,
        })
    }

    /// Reads these partitions from there on (again, if they were read already).
    pub(super) fn assign(&mut self, at: &[(TopicPartition, Start)]) -> Result<(), LogError> {
        let again: Vec<TopicPartition> = at.iter().map(|(at, _)| *at).collect();
        self.unassign(|assigned| again.contains(assigned))?;
        let mut starts = BTreeMap::new();
        for (at, start) in at {
            if !self.met.contains(&at.topic) {
                // Asked before the assignment: a partition whose leader the client does not know waits for 500 ms.
                client::ask_leaders(self.consumer.client(), &self.shared, at.topic)
                    .map_err(|error| self.known(error, at.topic))?;
                self.met.insert(at.topic);
            }
            let start = match start {
                // Resolved now: librdkafka would ask at some later time, and what came in between would be missed.
                Start::End => Start::At(self.extent(*at)?.1),
                other => *other,
            };
            starts.insert(*at, start);
        }
        let list = self.list(starts.iter().map(|(at, start)| {
            let offset = match start {
                Start::Beginning | Start::End => Offset::Beginning,
                Start::At(offset) => Offset::Offset(*offset),
            };
            (*at, offset)
        }))?;
        self.consumer
            .incremental_assign(&list)
            .map_err(|error| error::of(DOING, error, ""))?;
        self.starts.append(&mut starts);
        Ok(())
    }

    /// Stops reading those partitions that `which` names.
    pub(super) fn unassign(
        &mut self,
        which: impl Fn(&TopicPartition) -> bool,
    ) -> Result<(), LogError> {
        let gone: Vec<TopicPartition> = self.starts.keys().copied().filter(which).collect();
        if gone.is_empty() {
            return Ok(());
        }
        let list = self.list(gone.iter().map(|at| (*at, Offset::Invalid)))?;
        self.consumer
            .incremental_unassign(&list)
            .map_err(|error| error::of(DOING, error, ""))?;
        for at in gone {
            self.starts.remove(&at);
        }
        Ok(())
    }

    /// Whether nothing is read.
    pub(super) fn is_idle(&self) -> bool {
        self.starts.is_empty()
    }

    /// The committed positions of the group, waiting out open transactions. Asked here, where it does not matter how the group's
    /// client is: after an outage it may be fenced for a while.
    pub(super) fn committed(&self, of: &[TopicPartition]) -> Result<Vec<Option<i64>>, LogError> {
        self.shared.committed(&self.consumer, of)
    }

    /// Takes what is there, up to the limit, without waiting. An error comes only when nothing was taken.
    ///
    /// An outage leaves an error for each attempt to connect. They are taken to the last at once: told one by one, each with a recovery and a
    /// pause, they would go on for minutes after the brokers are back.
    pub(super) fn drain(
        &mut self,
        limit: PollLimit,
        into: &mut RecordBatch,
    ) -> Result<(), LogError> {
        if let Some(error) = self.stash.take() {
            return Err(error);
        }
        if self.look_again.is_some_and(|at| at <= Instant::now())
            && let Some(error) = self.missing_topic()
        {
            return Err(error);
        }
        let mut failure = None;
        while into.len() < limit.records && into.bytes() < limit.bytes {
            let error = match self.consumer.poll(Duration::ZERO) {
                None => break,
                Some(Ok(message)) => {
                    // Whoever sends records is there again.
                    failure.take_if(|failure| is_outage(failure));
                    let topic = match &self.last {
                        Some((name, topic)) if *name == message.topic() => Some(*topic),
                        _ => {
                            let topic = self.shared.names.topic(message.topic());
                            self.last = topic.map(|topic| (message.topic().to_owned(), topic));
                            topic
                        }
                    };
                    if let Some(topic) = topic {
                        push(topic, &message, into);
                    }
                    continue;
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    if let Some(at) = self
                        .starts
                        .keys()
                        .find(|at| at.partition == partition)
                        .copied()
                    {
                        let position = self.position(at)?;
                        into.push_end(at, position);
                    }
                    continue;
                }
                Some(Err(error)) => error,
            };
            if let Some(error) = self.judge(error)? {
                let goes_on = is_outage(&error);
                failure = Some(error);
                if !goes_on {
                    break;
                }
            }
        }
        match failure {
            Some(error) if into.is_empty() && into.ends().is_empty() => Err(error),
            failure => {
                self.stash = failure;
                Ok(())
            }
        }
    }

    /// Keeps an error for the next call.
    pub(super) fn keep(&mut self, error: LogError) {
        self.stash = Some(error);
    }

    /// The next position to read: after the last record taken, and after transaction markers behind it.
    fn position(&self, at: TopicPartition) -> Result<i64, LogError> {
        let positions = self
            .consumer
            .position()
            .map_err(|error| error::of(DOING, error, ""))?;
        let found = positions.find_partition(self.shared.names.of(at.topic), at.partition);
        match (found.map(|element| element.offset()), self.starts.get(&at)) {
            (Some(Offset::Offset(offset)), _) => Ok(offset),
            (_, Some(Start::At(offset))) => Ok(*offset),
            _ => Ok(self.extent(at)?.1),
        }
    }

    /// First and next stable offset.
    fn extent(&self, at: TopicPartition) -> Result<(i64, i64), LogError> {
        let name = self.shared.names.of(at.topic);
        self.consumer
            .fetch_watermarks(name, at.partition, self.shared.settings.operation_timeout)
            .map_err(|error| self.known(error, at.topic))
    }

    fn known(&self, error: KafkaError, topic: Topic) -> LogError {
        if error::is_unknown_topic(&error) {
            return self.shared.missing(topic);
        }
        error::of(DOING, error, "")
    }

    /// What an error event means, if anything: most are librdkafka's own business, and heal.
    fn judge(&mut self, error: KafkaError) -> Result<Option<LogError>, LogError> {
        let fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
        Ok(match error::code(&error) {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation) => {
                self.out_of_range()?
            }
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                self.missing_topic()
            }
            Some(code) if error::is_unreadable(code) => {
                // librdkafka means to go on behind what it cannot read: that would be lost.
                self.again()?;
                Some(error::of(DOING, error, ""))
            }
            Some(code) if fatal || code == Code::AllBrokersDown || error::is_refusal(code) => {
                Some(error::of(DOING, error, ""))
            }
            _ => None,
        })
    }

    /// Which partition's position the log does not hold: the event does not tell. It is read no further until it is assigned
    /// again.
    fn out_of_range(&mut self) -> Result<Option<LogError>, LogError> {
        let assigned: Vec<TopicPartition> = self.starts.keys().copied().collect();
        for at in &assigned {
            let (first, next) = self.extent(*at)?;
            let offset = self.position(*at)?;
            if offset < first || offset > next {
                self.unassign(|other| other == at)?;
                return Ok(Some(LogError::OutOfRange {
                    topic: at.topic,
                    partition: at.partition,
                    offset,
                }));
            }
        }
        // All positions are there (now): the partition that stopped goes on where it was.
        tracing::warn!(target: "kafka", "a position was out of range and is not any more; reading goes on");
        self.again()?;
        Ok(None)
    }

    /// Reads everything that is assigned again from behind the last record that was taken.
    fn again(&mut self) -> Result<(), LogError> {
        let mut positions = Vec::new();
        for at in self.starts.keys() {
            positions.push((*at, Start::At(self.position(*at)?)));
        }
        self.assign(&positions)
    }

    /// Which topic is not there: the event does not tell.
    fn missing_topic(&mut self) -> Option<LogError> {
        let mut topics: Vec<Topic> = self.starts.keys().map(|at| at.topic).collect();
        topics.dedup();
        let missing = topics.into_iter().find_map(|topic| {
            let name = self.shared.names.of(topic);
            let asked = self
                .consumer
                .fetch_metadata(Some(name), self.shared.settings.operation_timeout)
                .ok()?;
            let known = asked
                .topics()
                .iter()
                .any(|topic| topic.name() == name && topic.error().is_none());
            (!known).then(|| self.shared.missing(topic))
        });
        self.look_again = missing.is_some().then(|| Instant::now() + LOOK_AGAIN_AFTER);
        missing
    }

    fn list(
        &self,
        of: impl Iterator<Item = (TopicPartition, Offset)>,
    ) -> Result<TopicPartitionList, LogError> {
        let mut list = TopicPartitionList::new();
        for (at, offset) in of {
            list.add_partition_offset(self.shared.names.of(at.topic), at.partition, offset)
                .map_err(|error| error::of(DOING, error, ""))?;
        }
        Ok(list)
    }
}

fn is_outage(error: &LogError) -> bool {
    matches!(error, LogError::Unavailable { .. })
}

fn push(topic: Topic, message: &BorrowedMessage<'_>, into: &mut RecordBatch) {
    let at = TopicPartition::new(topic, message.partition());
    let times = (
        message.offset(),
        message.timestamp().to_millis().unwrap_or(-1),
    );
    match message.headers() {
        None => into.push(at, times, message.key(), message.payload(), []),
        Some(headers) => {
            let headers = (0..headers.count()).filter_map(|index| header(headers, index));
            into.push(at, times, message.key(), message.payload(), headers);
        }
    }
}

/// A header, unless its name is not UTF-8: the client library panics on it, and a stranger's record must stop nobody.
fn header<H: Headers>(headers: &H, index: usize) -> Option<Header<'_>> {
    let found = catch_unwind(AssertUnwindSafe(|| headers.try_get(index)));
    found
        .ok()
        .flatten()
        .map(|header| (header.key, header.value))
}
