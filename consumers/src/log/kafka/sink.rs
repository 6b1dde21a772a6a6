//! What is written: a producer whose deliveries are counted. Before it stand the member and the command line; after it, the
//! brokers.
//!
//! librdkafka's producer is polled by a thread of its own, so that a wait for acknowledgements ends with the last of them. Both
//! ways of waiting that the library offers cost 100 ms a transaction: its `flush` (which its `commit_transaction` calls when
//! anything is in flight), and sending offsets while records are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use headwater_config::Topic;
use parking_lot::{Condvar, Mutex};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{
    BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer,
};
use rdkafka::{ClientContext, Message, Statistics, TopicPartitionList};

use super::Shared;
use super::client::{self, Logging};
use super::error::{self, OrderError};
use super::patience::Patient;
use crate::log::{LogError, Outgoing, TopicPartition};

/// Topics whose offsets a commit tells: their readers follow us by them.
const TOLD: [Topic; 2] = [Topic::Changelog, Topic::ItemState];

/// A producer.
pub(super) struct Sink {
    producer: Patient<ThreadedProducer<Deliveries>>,
    shared: Arc<Shared>,
    identity: String,
    /// Topics whose leaders the client knows.
    met: BTreeSet<Topic>,
    /// Records enqueued, ever.
    sent: u64,
    /// The transaction that records belong to: deliveries of an aborted one are of no interest.
    number: usize,
}

/// How a commit came out, before the brokers' codes are forgotten.
#[derive(Debug)]
pub(super) enum Failed {
    /// Nothing was committed; the transaction is to be aborted.
    Abort(LogError),
    /// Somebody else has our transactional id.
    Fenced(LogError),
    /// The brokers may have committed it.
    Unknown(LogError),
}

impl Sink {
    /// A producer that writes in transactions. Aborts or completes what its predecessor left open, and fences it.
    pub(super) fn transactional(shared: &Arc<Shared>, identity: &str) -> Result<Self, LogError> {
        const DOING: &str = "taking over the transactional id";
        let mut sink = Self::new(shared, identity, identity, Some(identity))?;
        // Connects. A client that has no connection yet asks for its coordinator again only after 500 ms.
        sink.meet(shared.settings.input)?;
        let timeout = shared.settings.operation_timeout;
        sink.patiently(DOING, timeout, move |producer| {
            producer.init_transactions(timeout)
        })?
        .map_err(|error| sink.explain(DOING, error))?;
        Ok(sink)
    }

    /// A producer that writes at once.
    pub(super) fn immediate(shared: &Arc<Shared>, client_id: &str) -> Result<Self, LogError> {
        Self::new(shared, "", client_id, None)
    }

    fn new(
        shared: &Arc<Shared>,
        identity: &str,
        client_id: &str,
        id: Option<&str>,
    ) -> Result<Self, LogError> {
        let context = Deliveries {
            logging: Logging::new(&shared.settings, client_id),
            done: AtomicU64::new(0),
            target: AtomicU64::new(u64::MAX),
            outcome: Mutex::default(),
            changed: Condvar::new(),
        };
        Ok(Self {
            producer: Patient::new(client::writing(&shared.settings, client_id, id, context)?),
            shared: Arc::clone(shared),
            identity: identity.to_owned(),
            met: BTreeSet::new(),
            sent: 0,
            number: 0,
        })
    }

    /// Asks for a topic's leaders before the first record to it: a record to a topic that the client does not know waits for a
    /// scan that comes once a second, and one to a topic that does not exist for the whole of its timeout.
    fn meet(&mut self, topic: Topic) -> Result<(), LogError> {
        if self.met.contains(&topic) {
            return Ok(());
        }
        client::ask_leaders(self.producer.client().client(), &self.shared, topic)
            .map_err(|error| self.known(topic, "asking for a topic's leaders", error))?;
        self.met.insert(topic);
        Ok(())
    }

    fn known(&self, topic: Topic, doing: &'static str, error: KafkaError) -> LogError {
        if error::is_unknown_topic(&error) {
            return self.shared.missing(topic);
        }
        self.explain(doing, error)
    }

    /// Opens a transaction.
    pub(super) fn begin(&mut self) -> Result<(), LogError> {
        self.producer
            .client()
            .begin_transaction()
            .map_err(|error| self.explain("opening a transaction", error))?;
        self.number += 1;
        *self.deliveries().outcome.lock() = Outcome {
            number: self.number,
            ..Outcome::default()
        };
        Ok(())
    }

    /// Enqueues a record; waits while the queue is full.
    pub(super) fn send(&mut self, record: &Outgoing<'_>) -> Result<(), LogError> {
        const DOING: &str = "sending a record";
        self.meet(record.to.topic)?;
        let name = self.shared.names.of(record.to.topic);
        let told = TOLD
            .iter()
            .position(|topic| *topic == record.to.topic)
            .map_or(0, |place| place + 1);
        let opaque = (self.number << 8) | told;
        let mut message: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(name, opaque).partition(record.to.partition);
        message.key = record.key;
        message.payload = record.value;
        if !record.headers.is_empty() {
            let headers = OwnedHeaders::new_with_capacity(record.headers.len());
            message.headers = Some(
                record
                    .headers
                    .iter()
                    .fold(headers, |headers, (key, value)| {
                        headers.insert(Header {
                            key,
                            value: Some(*value),
                        })
                    }),
            );
        }
        let mut deadline = None;
        loop {
            let error = match self.producer.client().send(message) {
                Ok(()) => {
                    self.sent += 1;
                    return Ok(());
                }
                Err((KafkaError::MessageProduction(Code::QueueFull), unsent)) => {
                    let now = Instant::now();
                    if now >= *deadline.get_or_insert(now + self.shared.settings.operation_timeout)
                    {
                        return Err(error::unavailable(DOING, OrderError::QueueFull));
                    }
                    message = unsent;
                    // Room comes with acknowledgements; half of what is under way is enough to go on.
                    self.wait_for(
                        self.sent - self.in_flight() / 2,
                        now + Duration::from_millis(100),
                    );
                    continue;
                }
                Err((error, _)) => error,
            };
            let error = self.known(record.to.topic, DOING, error);
            let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
            let bytes = length(record.key) + length(record.value);
            return Err(error::about(error, name, record.to.partition, bytes));
        }
    }

    /// Waits until everything that was sent is acknowledged. The first failure ends it.
    pub(super) fn drain(&self) -> Result<(), LogError> {
        const DOING: &str = "waiting for acknowledgements";
        let deadline = Instant::now() + self.shared.settings.operation_timeout;
        self.wait_for(self.sent, deadline);
        self.failure()?;
        // The last acknowledgement is told a moment before librdkafka counts it as done. If its own commit or flush looked in
        // this moment, it would wait for 100 ms.
        let mut turns = 0;
        while self.producer.client().in_flight_count() > 0 {
            if Instant::now() >= deadline {
                return Err(error::unavailable(DOING, OrderError::Unacknowledged));
            }
            turns += 1;
            if turns < 200 {
                std::thread::yield_now();
            } else {
                std::thread::park_timeout(Duration::from_micros(100));
            }
        }
        Ok(())
    }

    /// The first record that was not delivered, once.
    pub(super) fn failure(&self) -> Result<(), LogError> {
        let failure = self.deliveries().outcome.lock().failure.take();
        failure.map_or(Ok(()), |failure| {
            let error = self.explain("writing", failure.error);
            let (topic, bytes) = (&failure.topic, failure.bytes);
            Err(error::about(error, topic, failure.partition, bytes))
        })
    }

    /// Adds positions to the open transaction. Nothing may be in flight.
    pub(super) fn send_positions(
        &self,
        positions: &[(TopicPartition, i64)],
        metadata: &Arc<ConsumerGroupMetadata>,
    ) -> Result<(), Failed> {
        const DOING: &str = "adding positions to the transaction";
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for (at, position) in positions {
            list.add_partition_offset(
                self.shared.names.of(at.topic),
                at.partition,
                rdkafka::Offset::Offset(*position),
            )
            .map_err(|error| Failed::Abort(self.explain(DOING, error)))?;
        }
        let deadline = Instant::now() + self.shared.settings.operation_timeout;
        loop {
            let left = Self::left(deadline);
            let (list, metadata) = (list.clone(), Arc::clone(metadata));
            let added = self.patiently(DOING, left, move |producer| {
                producer.send_offsets_to_transaction(&list, &metadata, left)
            });
            match added.map_err(Failed::Abort)? {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(error))
                    if error.is_retriable() && Instant::now() < deadline => {}
                // The group's instance id, not the transactional id: the member's next poll says whether we are fenced
                // or only late.
                Err(error) if error::code(&error) == Some(Code::FencedInstanceId) => {
                    return Err(Failed::Abort(LogError::Unavailable {
                        doing: DOING,
                        source: Box::new(error),
                    }));
                }
                Err(error) if error::code(&error).is_some_and(error::is_fenced) => {
                    return Err(Failed::Fenced(self.explain(DOING, error)));
                }
                Err(error) => return Err(Failed::Abort(self.explain(DOING, error))),
            }
        }
    }

    /// Commits the open transaction. Nothing may be in flight.
    pub(super) fn commit(&self) -> Result<(), Failed> {
        const DOING: &str = "committing";
        let deadline = Instant::now() + self.shared.settings.operation_timeout;
        loop {
            let left = Self::left(deadline);
            let decided = self.patiently(DOING, left, move |producer| {
                producer.commit_transaction(left)
            });
            match decided.map_err(Failed::Unknown)? {
                Ok(()) => return Ok(()),
                // Asking again is what the outcome is learned by.
                Err(KafkaError::Transaction(error))
                    if error.is_retriable() && Instant::now() < deadline => {}
                Err(error @ KafkaError::Flush(_)) => {
                    return Err(Failed::Abort(self.explain(DOING, error)));
                }
                Err(error) if error::code(&error).is_some_and(error::is_fenced) => {
                    return Err(Failed::Fenced(self.explain(DOING, error)));
                }
                Err(KafkaError::Transaction(error)) if error.txn_requires_abort() => {
                    let error = self.explain(DOING, KafkaError::Transaction(error));
                    // If the abort is accepted it was not committed; if not, nobody knows.
                    return Err(if self.abort().is_ok() {
                        Failed::Abort(error)
                    } else {
                        Failed::Unknown(error)
                    });
                }
                Err(error) => return Err(Failed::Unknown(self.explain(DOING, error))),
            }
        }
    }

    /// Aborts the open transaction and forgets what was not sent yet.
    pub(super) fn abort(&self) -> Result<(), LogError> {
        const DOING: &str = "aborting";
        let deadline = Instant::now() + self.shared.settings.operation_timeout;
        loop {
            let left = Self::left(deadline);
            match self.patiently(DOING, left, move |producer| {
                producer.abort_transaction(left)
            })? {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(error))
                    if error.is_retriable() && Instant::now() < deadline => {}
                Err(error) => return Err(self.explain(DOING, error)),
            }
        }
    }

    /// Where the records of this transaction ended up, by partition: the offset after the last; `None` where the brokers had
    /// acknowledged a repeat without telling where the first had gone.
    pub(super) fn ends(&self) -> BTreeMap<TopicPartition, Option<i64>> {
        std::mem::take(&mut self.deliveries().outcome.lock().next)
    }

    fn deliveries(&self) -> &Deliveries {
        self.producer.client().client().context()
    }

    /// A transactional call, waited for twice as long as librdkafka was told to take for it.
    fn patiently<R: Send + 'static>(
        &self,
        doing: &'static str,
        timeout: Duration,
        call: impl FnOnce(&ThreadedProducer<Deliveries>) -> R + Send + 'static,
    ) -> Result<R, LogError> {
        let patience = timeout + self.shared.settings.operation_timeout;
        self.producer.call(patience, call).ok_or_else(|| {
            tracing::warn!(target: "kafka", client = self.identity, doing, "a call of librdkafka does not come back; its client is given up");
            error::unavailable(doing, OrderError::NeverBack)
        })
    }

    /// The time until a deadline, and a moment at least.
    fn left(deadline: Instant) -> Duration {
        deadline
            .saturating_duration_since(Instant::now())
            .max(Duration::from_millis(1))
    }

    fn in_flight(&self) -> u64 {
        self.sent
            .saturating_sub(self.deliveries().done.load(Ordering::Acquire))
    }

    /// Waits until so many records are done, or one has failed, or the deadline.
    fn wait_for(&self, target: u64, deadline: Instant) {
        let deliveries = self.deliveries();
        deliveries.target.store(target, Ordering::SeqCst);
        let mut outcome = deliveries.outcome.lock();
        while deliveries.done.load(Ordering::SeqCst) < target && outcome.failure.is_none() {
            if deliveries
                .changed
                .wait_until(&mut outcome, deadline)
                .timed_out()
            {
                break;
            }
        }
        drop(outcome);
        deliveries.target.store(u64::MAX, Ordering::SeqCst);
    }

    fn explain(&self, doing: &'static str, error: KafkaError) -> LogError {
        // After a fatal error every call fails with other words; a refusal is told beside the calls.
        let fatal = self
            .producer
            .client()
            .client()
            .fatal_error()
            .map(|(code, _)| KafkaError::Global(code));
        let error = fatal
            .or_else(|| self.deliveries().logging.refusal())
            .unwrap_or(error);
        error::of(doing, error, &self.identity)
    }
}

/// Counts deliveries. librdkafka calls it from the producer's polling thread.
struct Deliveries {
    logging: Logging,
    /// Records acknowledged or given up, ever.
    done: AtomicU64,
    /// The count that somebody waits for.
    target: AtomicU64,
    outcome: Mutex<Outcome>,
    changed: Condvar,
}

/// A record that was not delivered.
#[derive(Debug)]
struct Failure {
    error: KafkaError,
    topic: String,
    partition: i32,
    bytes: usize,
}

/// What became of the records of a transaction.
#[derive(Debug, Default)]
struct Outcome {
    number: usize,
    failure: Option<Failure>,
    next: BTreeMap<TopicPartition, Option<i64>>,
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        let (number, told) = (opaque >> 8, opaque & 0xff);
        match result {
            Ok(message) if told > 0 => {
                let mut outcome = self.outcome.lock();
                if outcome.number == number {
                    let at = TopicPartition::new(TOLD[told - 1], message.partition());
                    let next = (message.offset() >= 0).then(|| message.offset() + 1);
                    let entry = outcome.next.entry(at).or_insert(next);
                    *entry = entry.zip(next).map(|(one, other)| one.max(other));
                }
            }
            Ok(_) => {}
            Err((error, message)) => {
                let mut outcome = self.outcome.lock();
                if outcome.number == number {
                    outcome.failure.get_or_insert_with(|| Failure {
                        error: error.clone(),
                        topic: message.topic().to_owned(),
                        partition: message.partition(),
                        bytes: message.key_len() + message.payload_len(),
                    });
                    self.changed.notify_all();
                }
            }
        }
        let done = self.done.fetch_add(1, Ordering::SeqCst) + 1;
        if done >= self.target.load(Ordering::SeqCst) {
            // Under the lock, so that whoever is about to wait has either seen the count or is waiting.
            let _outcome = self.outcome.lock();
            self.changed.notify_all();
        }
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.logging.log(level, facility, line);
    }

    fn stats(&self, _: Statistics) {}

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.logging.error(error, reason);
    }
}
