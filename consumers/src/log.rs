//! The log: where records come from and go to. One seam, two implementations: Apache Kafka ([`kafka`]) and a durable log
//! inside this process ([`local`]). Both pass the same conformance suite ([`conformance`]).
//!
//! Before it stands nothing: this is the edge of the process. After it, `decode` turns a record's bytes into a behavior, and
//! `worker` drives polls, steps and commits.
//!
//! # What an implementation promises
//!
//! - Offsets of a partition grow; they need not be dense (transaction markers, compaction).
//! - Every reader is read-committed: it sees whole transactions or nothing of them, in offset order within a partition.
//! - `commit` makes the sent records and the positions visible all or none (`PIPE-1`), though not in all partitions at the same
//!   moment: who knows by one partition that a transaction was committed reads the others up to the end of [`Log::written`]. A commit whose outcome
//!   is not known is [`CommitError::Unknown`], never a guess.
//! - A member's transactional id belongs to one member at a time: a newer one fences the older (`Fenced`).
//! - Partitions are assigned to one member of the group at a time, cooperatively: those that stay are not interrupted.

use std::time::Duration;

use headwater_config::Topic;

mod batch;
pub mod conformance;
pub mod kafka;
pub mod local;
pub use batch::{Header, Headers, Record, RecordBatch};

/// A partition of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic, by role.
    pub topic: Topic,
    /// The partition's number.
    pub partition: i32,
}

impl TopicPartition {
    /// Partition `partition` of `topic`.
    pub const fn new(topic: Topic, partition: i32) -> Self {
        Self { topic, partition }
    }
}

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The oldest record that is still there.
    Beginning,
    /// The record at this offset, or the next one after it. An offset outside of what the log holds is
    /// [`LogError::OutOfRange`], never silently the beginning or the end.
    At(i64),
    /// Only what comes after now.
    End,
}

/// What a topic is on the brokers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicFacts {
    /// Partition count.
    pub partitions: i32,
    /// `cleanup.policy` as the brokers say it ("delete", "compact", "compact,delete"); empty if it could not be read.
    pub cleanup_policy: String,
    /// `delete.retention.ms`, if it could be read.
    pub delete_retention_ms: Option<u64>,
}

/// What a topic should be when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// The topic, by role: its name and cleanup policy follow.
    pub topic: Topic,
    /// Partition count.
    pub partitions: i32,
    /// Replicas of each partition.
    pub replication_factor: i32,
    /// `min.insync.replicas`.
    pub min_insync_replicas: i32,
}

/// What came of making a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It was made.
    Made,
    /// It was there already (and was left as it is).
    Existed,
}

/// The first and the next offset of a partition. `next` is the last *stable* offset + 1: nothing of an open transaction is
/// below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Offset of the oldest record, or `next` if there is none.
    pub first: i64,
    /// Offset that the next record will have at least.
    pub next: i64,
}

/// A record to be sent. The partition is always explicit: who is keyed by user computes it with
/// [`crate::partitioner::partition_of`], and internal topics follow the input's partition.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Where to.
    pub to: TopicPartition,
    /// The key; `None` is no key.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Name and value of each header, in order.
    pub headers: &'a [(&'a str, &'a [u8])],
}

/// Proof of the assignment under which records were polled (Kafka: the group metadata at that poll). Positions are committed
/// with the membership that the step's batch carried: the brokers refuse it once the partitions have moved, which is the point.
/// Fresh metadata would be accepted for partitions that are no longer ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Membership(pub u64);

/// What a poll says beside records: partitions of the group's input that came, go, or are gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rebalance {
    /// Newly ours, not yet read: [`Member::start`] begins reading, once their state is restored.
    pub assigned: Vec<i32>,
    /// Asked back. Steps polled before may still be committed; then [`Member::release`] must be called, soon.
    pub revoked: Vec<i32>,
    /// Gone already (session lost): nothing polled of them may be committed. No `release` is needed.
    pub lost: Vec<i32>,
}

impl Rebalance {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.assigned.is_empty() && self.revoked.is_empty() && self.lost.is_empty()
    }
}

/// Bounds of one poll.
#[derive(Clone, Copy, Debug)]
pub struct PollLimit {
    /// Records at most.
    pub records: usize,
    /// Bytes of keys and values at most, approximately: a poll stops once it is past them.
    pub bytes: usize,
    /// How long to wait for the first record. What is there after it is taken without waiting.
    pub wait: Duration,
}

impl PollLimit {
    /// No records, without waiting: what a poll does beside.
    pub const NOTHING: Self = Self {
        records: 0,
        bytes: 0,
        wait: Duration::ZERO,
    };
}

/// Where the records of a committed transaction ended up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// For each partition of [`Topic::Changelog`] and [`Topic::ItemState`] written to in this transaction: the offset after its
    /// last record there.
    pub next: Vec<(TopicPartition, i64)>,
    /// Where the time went, where there is something to wait for.
    pub times: Option<CommitTimes>,
}

/// What a commit waited for, one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitTimes {
    /// The acknowledgements of what was sent, and before them the registration of its partitions.
    pub acknowledge: Duration,
    /// Positions becoming part of the transaction.
    pub positions: Duration,
    /// The decision.
    pub decide: Duration,
}

/// A log: Kafka or the one inside this process. One a daemon; cheap handles come of it.
pub trait Log: Send + Sync + std::fmt::Debug {
    /// What the topic is, or `None` if it does not exist.
    fn describe(&self, topic: Topic) -> Result<Option<TopicFacts>, LogError>;

    /// Makes a topic with the cleanup policy of its role.
    fn create(&self, spec: &TopicSpec) -> Result<Created, LogError>;

    /// First and next stable offset of a partition.
    fn extent(&self, of: TopicPartition) -> Result<Extent, LogError>;

    /// The same of all its records, stable or not. A transaction becomes visible partition by partition: one that was committed may not
    /// be stable everywhere yet, but its records lie in here.
    fn written(&self, of: TopicPartition) -> Result<Extent, LogError>;

    /// The positions that the group has committed for these partitions, for those who look on: a moment old, and never of an open
    /// transaction. `None`: none committed (or expired).
    fn committed(&self, of: &[TopicPartition]) -> Result<Vec<Option<i64>>, LogError>;

    /// A member of the group with the transactional id `<prefix><group>-<instance>-<worker>` and static membership under the
    /// same name. Fences whoever held them before; an open transaction of a predecessor is aborted before this returns.
    fn member(&self, instance: &str, worker: usize) -> Result<Box<dyn Member>, LogError>;

    /// The same log for another group, `<group><suffix>`, whose members are assigned the partitions of `input` where this one's are
    /// assigned those of [`Topic::Behaviors`]. Two groups know nothing of each other.
    fn beside(&self, suffix: &str, input: Topic) -> Result<std::sync::Arc<dyn Log>, LogError>;

    /// A reader outside the group, at positions of its own.
    fn reader(&self) -> Result<Box<dyn Reader>, LogError>;

    /// A producer without transactions (idempotent, acks=all): for the command line and the fleet topic.
    fn producer(&self) -> Result<Box<dyn Producer>, LogError>;

    /// Removes the static members of an instance that will not come back, so that its partitions move at once.
    fn forget_instance(&self, instance: &str) -> Result<(), LogError>;
}

/// A member of the group: reads the partitions it is assigned, and writes in transactions.
///
/// One thread drives it: `poll` → (step) → `begin`, `send`…, `commit`. A further `poll` may come between `send` and `commit`,
/// so that the next step is computed while this one's records are on their way; at most one transaction is open.
pub trait Member: Send {
    /// Waits for records of the started partitions and appends them to `into` (cleared first), with the membership that they
    /// were read under. Must be called at least every few seconds, even when nothing is started: it is also the heartbeat.
    fn poll(&mut self, limit: PollLimit, into: &mut RecordBatch) -> Result<Rebalance, LogError>;

    /// The committed positions of the group for these partitions, waiting out open transactions. `None`: none committed
    /// (or expired).
    fn committed(&mut self, of: &[TopicPartition]) -> Result<Vec<Option<i64>>, LogError>;

    /// Begins (or begins again) reading these topics' partitions at these positions. They belong to an assigned partition number.
    fn start(&mut self, at: &[(TopicPartition, Start)]) -> Result<(), LogError>;

    /// Stops reading these partitions until `start`: for one that is being restored again.
    fn pause(&mut self, partition: i32) -> Result<(), LogError>;

    /// Gives back revoked partitions (all topics of that number), after what was polled of them is committed or thrown away.
    fn release(&mut self, partitions: &[i32]) -> Result<(), LogError>;

    /// Opens a transaction.
    fn begin(&mut self) -> Result<(), LogError>;

    /// Adds a record to the open transaction. Waits when the queue is full.
    fn send(&mut self, record: Outgoing<'_>) -> Result<(), LogError>;

    /// Sends a record outside of the transaction, at once (the second producer of the at-least-once mode).
    fn send_now(&mut self, record: Outgoing<'_>) -> Result<(), LogError>;

    /// Commits the open transaction with the next position to read of each input partition, under the membership of the
    /// step's poll. On an error the transaction is *not* committed, but for [`CommitError::Unknown`].
    fn commit(
        &mut self,
        membership: Membership,
        positions: &[(TopicPartition, i64)],
    ) -> Result<Committed, CommitError>;

    /// Aborts the open transaction, if there is one.
    fn abort(&mut self) -> Result<(), LogError>;

    /// After an error: makes the producer anew under the same transactional id, which aborts or completes whatever the last
    /// one left open, so that `committed` and the changelog then tell what really happened.
    fn recover(&mut self) -> Result<(), LogError>;

    /// Leaves: aborts what is open and closes. With `forever`, also leaves the group (scaling in); without, static membership
    /// keeps the partitions for this instance's return.
    fn leave(self: Box<Self>, forever: bool) -> Result<(), LogError>;
}

/// A reader outside the group.
pub trait Reader: Send {
    /// Reads this partition from there on (again, if it was read already).
    fn assign(&mut self, from: TopicPartition, start: Start) -> Result<(), LogError>;

    /// Stops reading this partition.
    fn unassign(&mut self, from: TopicPartition) -> Result<(), LogError>;

    /// Waits for records and appends them to `into` (cleared first). `into.ends()` then names the partitions whose end (as of
    /// this poll) was reached, with the position there: all stable records before it have been returned.
    fn poll(&mut self, limit: PollLimit, into: &mut RecordBatch) -> Result<(), LogError>;
}

/// A producer without transactions.
pub trait Producer: Send {
    /// Enqueues a record. Waits when the queue is full.
    fn send(&mut self, record: Outgoing<'_>) -> Result<(), LogError>;

    /// Waits until all enqueued records are acknowledged; the first failure is the error.
    fn flush(&mut self) -> Result<(), LogError>;
}

/// What can go wrong with the log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The world may heal: brokers away, a timeout, a leader that moves.
    #[error("log unavailable while {doing}")]
    Unavailable {
        /// What was tried.
        doing: &'static str,
        /// The client's words.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another member has our transactional id or our place in the group.
    #[error("fenced: another member runs as `{identity}`")]
    Fenced {
        /// The transactional id or the group instance id.
        identity: String,
    },
    /// A position is outside of what the log holds (the topic was made anew, or retention was faster than we).
    #[error("{topic} partition {partition}: position {offset} is outside of the log")]
    OutOfRange {
        /// The topic.
        topic: Topic,
        /// The partition.
        partition: i32,
        /// The position asked for.
        offset: i64,
    },
    /// A topic does not exist.
    #[error("topic `{name}` does not exist; `headwater topics create` makes it")]
    NoTopic {
        /// Its name on the brokers.
        name: String,
    },
    /// The brokers will never accept this: wrong credentials, no right, an invalid setting, a record too large.
    #[error("refused while {doing}")]
    Refused {
        /// What was tried.
        doing: &'static str,
        /// The client's words.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The embedded log's files cannot be read or written.
    #[error("{path}: {doing} failed")]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The embedded log's files are not what was written (a torn tail is repaired and is no error).
    #[error("{path}: not a log of this version, or damaged at byte {at}")]
    Damaged {
        /// The file.
        path: std::path::PathBuf,
        /// Where.
        at: u64,
    },
}

/// What a commit can come to, beside success.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// It did not happen: the transaction is aborted, the step is to be done again from the last committed positions.
    #[error("transaction aborted")]
    Aborted(#[source] LogError),
    /// It may have happened. `recover`, then ask the committed positions.
    #[error("the outcome of the transaction is unknown")]
    Unknown(#[source] LogError),
    /// Somebody else is us now.
    #[error("fenced")]
    Fenced(#[source] LogError),
}
