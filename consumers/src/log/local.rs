//! The log inside this process: no Kafka, the same promises. It serves the demo, embedders and the simulation.
//!
//! Before it stands nothing; after it, the same workers as after Kafka. One [`LocalLog`] is the brokers; its members, readers and
//! producers are the clients, all in one process. [`LocalLog::open`] keeps everything in a folder, [`LocalLog::in_memory`] in memory.
//!
//! # What it promises beyond [`crate::log`]
//!
//! - A committed transaction survives `kill -9` of the process; with [`Options::fsync`], a loss of power. A transaction is one frame
//!   under a checksum: at the next start it is there whole or not at all ([`LocalLog::torn_bytes`] counts what was cut off). Bytes
//!   that are damaged otherwise are [`LogError::Damaged`], never skipped; records are checked again each time they are read back.
//! - Two processes never share a folder: the second one is refused.
//! - Disk is bounded: [`Options::retention_bytes`] for each partition that deletes, the newest record of each key for those that
//!   compact, and at most as much again that awaits cleaning. Memory is 40 bytes for each partition's part of a transaction
//!   (those up to 256 KiB), and the chunks that readers stand in. Records are read back from their file.
//! - Nothing is random. In memory, nothing runs but in the caller's thread, and the clock is an argument: the simulation's runs
//!   are repeatable. See [`faults`]. On disk, a thread cleans; it ends with the [`LocalLog`].
//!
//! # Where it differs from Kafka
//!
//! - A commit marker takes an offset, as in Kafka; aborted records take none, as they never reach the log.
//! - Members of a group live in one process. Their seats are kept in memory: after a restart of the process all are new.
//! - Deletion is by size alone, not by age.
//! - A membership is refused only for partitions that moved since (as with Kafka's consumer protocol of KIP-848; the classic protocol
//!   refuses any stale membership).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_config::{Cleanup, Topic};
use parking_lot::{Condvar, Mutex};

use super::{
    Created, Extent, Log, LogError, Member, Outgoing, Producer, Reader, TopicFacts, TopicPartition,
    TopicSpec,
};

mod clean;
mod cleaner;
mod cursor;
pub mod faults;
mod format;
mod group;
mod member;
mod open;
mod partitions;
mod pending;
mod reader;
mod segment;

use cleaner::{Cleaner, Requests};
use faults::{Fault, Faults, Op};
use member::LocalMember;
use partitions::State;
use pending::Pending;
use reader::{LocalProducer, LocalReader};

/// What tells the time: Unix milliseconds.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Settings of a local log.
#[derive(Clone)]
pub struct Options {
    /// What tells the time: records are stamped with it, and sessions and tombstones age by it.
    pub clock: Clock,
    /// The group's name, a part of its members' identities. Default `headwater`.
    pub group: String,
    /// A member that has not polled for so long loses its partitions. Default 45 s.
    pub session: Duration,
    /// A member that was asked for a partition and did not release it for so long loses all of its partitions. Default 60 s.
    pub rebalance: Duration,
    /// A segment that is larger than this is closed. Default 32 MiB; at least 128 bytes, at most 1 GiB.
    pub segment_bytes: u64,
    /// What is kept of each partition of a topic whose cleanup is delete, at least. Default 1 GiB.
    pub retention_bytes: u64,
    /// How long a tombstone is kept at least, from when it was sent. Default 24 h.
    pub delete_retention: Duration,
    /// Key, value and headers of a record at most; one over it is refused. Default 16 MiB.
    pub record_bytes_max: usize,
    /// Whether each commit waits for the disk. Default no: then it survives the process, but not a loss of power.
    pub fsync: bool,
    /// Who decides what goes wrong. Default nobody.
    pub faults: Option<Arc<dyn Faults>>,
}

impl Options {
    /// The defaults with this clock.
    pub fn new(clock: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self {
            clock: Arc::new(clock),
            group: "headwater".to_owned(),
            session: Duration::from_secs(45),
            rebalance: Duration::from_secs(60),
            segment_bytes: 32 << 20,
            retention_bytes: 1 << 30,
            delete_retention: Duration::from_secs(24 * 3600),
            record_bytes_max: 16 << 20,
            fsync: false,
            faults: None,
        }
    }

    fn segment_bytes(&self) -> u64 {
        // A frame begins below this and is shorter than 1 GiB: places in a segment fit 32 bits.
        self.segment_bytes
            .clamp(partitions::SEGMENT_BYTES_MIN, 1 << 30)
    }

    fn delete_retention_ms(&self) -> i64 {
        i64::try_from(self.delete_retention.as_millis()).unwrap_or(i64::MAX)
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("group", &self.group)
            .field("session", &self.session)
            .field("segment_bytes", &self.segment_bytes)
            .field("retention_bytes", &self.retention_bytes)
            .field("fsync", &self.fsync)
            .finish_non_exhaustive()
    }
}

/// How much a local log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Segments, the active one included.
    pub segments: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Chunks that are indexed, of 40 bytes each.
    pub chunks: usize,
}

/// A log inside this process.
#[derive(Debug)]
pub struct LocalLog {
    broker: Arc<Broker>,
    seats: Seats,
    /// Ends with the last handle.
    cleaner: Option<Arc<Cleaner>>,
}

/// Which group a handle's members sit in.
#[derive(Clone, Debug)]
struct Seats {
    /// The group's name.
    group: String,
    /// What its positions are kept under: 0 for the log's own.
    number: u32,
    /// The topic whose partitions are assigned.
    input: Topic,
}

impl Seats {
    fn identity(&self, instance: &str, worker: usize) -> String {
        format!("{}-{instance}-{worker}", self.group)
    }
}

/// What all handles of one log share.
#[derive(Debug)]
struct Broker {
    state: Mutex<State>,
    /// Something was appended, or the group has changed.
    changed: Condvar,
    /// One cleans at a time.
    cleaning: Mutex<()>,
    requests: Requests,
    options: Options,
    folder: Option<PathBuf>,
    torn_bytes: u64,
    /// Held for as long as anybody has a handle.
    _lock: Option<File>,
}

impl LocalLog {
    /// Opens the log in a folder, which is made if it is not there.
    ///
    /// # Errors
    /// `Refused` if another process has it open, `Damaged` if its files are not what was written, `Io`.
    pub fn open(folder: &Path, options: Options) -> Result<Self, LogError> {
        std::fs::create_dir_all(folder).map_err(segment::io(folder, "creating"))?;
        let path = folder.join("lock");
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(segment::io(&path, "opening"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let why = format!("`{}` is in use by another process or log", folder.display());
                return Err(refused("opening the local log", why));
            }
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(segment::io(&path, "locking")(error));
            }
        }
        Self::make(Some(folder), options, Some(lock))
    }

    /// A log that is gone with its last handle.
    pub fn in_memory(options: Options) -> Self {
        Self::make(None, options, None).expect("invariant: nothing is read or written")
    }

    fn make(folder: Option<&Path>, options: Options, lock: Option<File>) -> Result<Self, LogError> {
        let (state, torn_bytes) = open::open(folder, &options)?;
        let broker = Broker {
            state: Mutex::new(state),
            changed: Condvar::new(),
            cleaning: Mutex::new(()),
            requests: Requests::default(),
            options,
            folder: folder.map(Path::to_owned),
            torn_bytes,
            _lock: lock,
        };
        let broker = Arc::new(broker);
        let cleaner = folder
            .map(|folder| Cleaner::start(&broker, folder).map(Arc::new))
            .transpose()?;
        let seats = Seats {
            group: broker.options.group.clone(),
            number: 0,
            input: Topic::Behaviors,
        };
        Ok(Self {
            broker,
            seats,
            cleaner,
        })
    }

    /// Bytes of an unfinished transaction that were cut off when the log was opened.
    pub fn torn_bytes(&self) -> u64 {
        self.broker.torn_bytes
    }

    /// How much it holds.
    pub fn usage(&self) -> Usage {
        let state = self.broker.state.lock();
        Usage {
            segments: state.closed.len() + 1,
            bytes: state.bytes(),
            chunks: state
                .topics
                .values()
                .flatten()
                .map(|partition| partition.chunks.len())
                .sum(),
        }
    }

    /// Compacts and drops whatever can be in closed segments. It happens by itself as segments are closed; this is for
    /// whoever wants it at once.
    pub fn clean(&self) -> Result<(), LogError> {
        self.broker.clean(true)
    }
}

impl Broker {
    /// Packs a record for an append.
    fn enqueue(&self, into: &mut Pending, record: &Outgoing<'_>) -> Result<(), LogError> {
        self.state.lock().partition(record.to)?;
        if record.key.is_none() && record.to.topic.cleanup() == Cleanup::Compact {
            let why = format!(
                "{:?} is compacted: its records must have keys",
                record.to.topic
            );
            return Err(refused("sending", why));
        }
        into.push(
            record,
            (self.options.clock)(),
            self.options.record_bytes_max,
        )
    }

    /// Appends records outside of a transaction.
    fn append(&self, records: &Pending) -> Result<(), LogError> {
        let appended = self
            .state
            .lock()
            .append(records, (0, &[]), false, &self.options)?;
        self.appended(appended.rolled);
        Ok(())
    }

    /// Wakes those who wait; a closed segment is cleaned.
    fn appended(&self, rolled: bool) {
        self.changed.notify_all();
        if rolled {
            self.closed_segment();
        }
    }

    /// Counts of what has changed so far.
    fn seen(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.appends, state.groups_version())
    }

    /// Waits until something has changed since `seen`, or the time is over: then the answer is false.
    fn wait(&self, seen: (u64, u64), until: Instant) -> bool {
        let mut state = self.state.lock();
        while (state.appends, state.groups_version()) == seen {
            if self.changed.wait_until(&mut state, until).timed_out() {
                return false;
            }
        }
        true
    }
}

impl Log for LocalLog {
    fn describe(&self, topic: Topic) -> Result<Option<TopicFacts>, LogError> {
        self.pass(Op::Describe, "describing a topic")?;
        let state = self.broker.state.lock();
        let cleanup = match topic.cleanup() {
            Cleanup::Delete => "delete",
            Cleanup::Compact => "compact",
        };
        Ok(state.topics.get(&topic).map(|partitions| TopicFacts {
            partitions: partitions.len() as i32,
            cleanup_policy: cleanup.to_owned(),
            delete_retention_ms: Some(self.broker.options.delete_retention_ms() as u64),
        }))
    }

    fn create(&self, spec: &TopicSpec) -> Result<Created, LogError> {
        self.pass(Op::Create, "making a topic")?;
        let partitions = usize::try_from(spec.partitions)
            .ok()
            .filter(|count| (1..=PARTITIONS_MAX).contains(count));
        let partitions = partitions.ok_or_else(|| {
            let why = format!(
                "{:?}: {} partitions, but 1 to {PARTITIONS_MAX} are possible",
                spec.topic, spec.partitions
            );
            refused("making a topic", why)
        })?;
        let mut state = self.broker.state.lock();
        if state.topics.contains_key(&spec.topic) {
            return Ok(Created::Existed);
        }
        state.create(spec.topic, partitions, &self.broker.options)?;
        drop(state);
        self.broker.changed.notify_all();
        Ok(Created::Made)
    }

    fn extent(&self, of: TopicPartition) -> Result<Extent, LogError> {
        self.pass(Op::Extent, "asking for a partition's extent")?;
        let now = (self.broker.options.clock)();
        self.broker.state.lock().extent(of, now)
    }

    fn written(&self, of: TopicPartition) -> Result<Extent, LogError> {
        self.pass(Op::Extent, "asking for a partition's extent")?;
        self.broker.state.lock().written(of)
    }

    fn committed(&self, of: &[TopicPartition]) -> Result<Vec<Option<i64>>, LogError> {
        self.pass(Op::Extent, "asking for committed positions")?;
        self.broker.state.lock().committed(self.seats.number, of)
    }

    fn member(&self, instance: &str, worker: usize) -> Result<Box<dyn Member>, LogError> {
        let member = LocalMember::new(&self.broker, self.seats.clone(), instance, worker);
        Ok(Box::new(member?))
    }

    fn beside(&self, suffix: &str, input: Topic) -> Result<Arc<dyn Log>, LogError> {
        Ok(Arc::new(Self {
            broker: Arc::clone(&self.broker),
            seats: Seats {
                group: format!("{}{suffix}", self.seats.group),
                // Of a group beside a group beside, the way there is part of the name.
                number: crc32fast::hash(
                    &[&self.seats.number.to_le_bytes(), suffix.as_bytes()].concat(),
                )
                .max(1),
                input,
            },
            cleaner: self.cleaner.clone(),
        }))
    }

    fn reader(&self) -> Result<Box<dyn Reader>, LogError> {
        Ok(Box::new(LocalReader::new(&self.broker)))
    }

    fn producer(&self) -> Result<Box<dyn Producer>, LogError> {
        Ok(Box::new(LocalProducer::new(&self.broker)))
    }

    fn forget_instance(&self, instance: &str) -> Result<(), LogError> {
        self.pass(Op::Forget, "forgetting an instance")?;
        let mut state = self.broker.state.lock();
        state.group(&self.seats).remove_instance(instance);
        drop(state);
        self.broker.changed.notify_all();
        Ok(())
    }
}

impl LocalLog {
    fn pass(&self, op: Op, doing: &'static str) -> Result<(), LogError> {
        match self.broker.fault(op, "log") {
            Fault::Unavailable => Err(unavailable(doing, INJECTED)),
            _ => Ok(()),
        }
    }
}

/// Partitions of one topic: each costs memory, and a process has a few threads at most.
const PARTITIONS_MAX: usize = 4096;

fn no_topic(topic: Topic) -> LogError {
    LogError::NoTopic {
        name: topic.key().to_owned(),
    }
}

fn refused(doing: &'static str, why: String) -> LogError {
    LogError::Refused {
        doing,
        source: why.into(),
    }
}

fn unavailable(doing: &'static str, why: &str) -> LogError {
    LogError::Unavailable {
        doing,
        source: why.into(),
    }
}

/// What a fault says of itself.
const INJECTED: &str = "injected";

#[cfg(test)]
mod tests;
