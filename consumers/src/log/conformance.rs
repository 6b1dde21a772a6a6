//! What every log must do: one suite that both implementations pass, Apache Kafka and the one inside this process.
//!
//! Before it, a [`Bench`] brings up a log of its own for each case; after it, `local`'s unit tests and the tests on Apache Kafka
//! call [`run`]. A case uses nothing but the seam [`super::Log`], waits for conditions with a deadline and never sleeps on hope; it
//! panics at the first difference, and [`run`] says which case that was.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_config::Topic;

use super::{
    Created, Log, LogError, Member, Membership, Outgoing, PollLimit, Rebalance, Record,
    RecordBatch, Start, TopicPartition, TopicSpec,
};

mod members;
mod records;
mod transactions;

/// Brings up logs to be judged.
pub trait Bench {
    /// A log without topics, group members or positions that any other case could see (on Kafka: a prefix of its own).
    fn log(&self) -> Arc<dyn Log>;

    /// How long a condition may take to come true: group changes on Kafka take seconds.
    fn patience(&self) -> Duration {
        Duration::from_secs(30)
    }
}

/// A case: its name and what it does.
pub type Case = (&'static str, fn(&dyn Bench));

/// All cases, in order. They do not depend on each other.
pub const CASES: &[Case] = &[
    (
        "topics are made once and described",
        records::topics_are_made_once_and_described,
    ),
    (
        "a missing topic is named",
        records::a_missing_topic_is_named,
    ),
    (
        "records come back as sent",
        records::records_come_back_as_sent,
    ),
    (
        "offsets grow within the extent",
        records::offsets_grow_within_the_extent,
    ),
    (
        "a reader begins where it is told",
        records::a_reader_begins_where_it_is_told,
    ),
    (
        "a reader tells the ends it reached",
        records::a_reader_tells_the_ends_it_reached,
    ),
    (
        "an unassigned partition is not read",
        records::an_unassigned_partition_is_not_read,
    ),
    (
        "a position outside of the log is an error",
        records::a_position_outside_of_the_log_is_an_error,
    ),
    ("tombstones come back", records::tombstones_come_back),
    ("a poll keeps its limits", records::a_poll_keeps_its_limits),
    ("a commit is atomic", transactions::a_commit_is_atomic),
    (
        "a large transaction is whole",
        transactions::a_large_transaction_is_whole,
    ),
    (
        "a commit may hold positions alone",
        transactions::a_commit_may_hold_positions_alone,
    ),
    (
        "an aborted transaction is never seen",
        transactions::an_aborted_transaction_is_never_seen,
    ),
    (
        "an open transaction is not seen",
        transactions::an_open_transaction_is_not_seen,
    ),
    (
        "a poll may come within a transaction",
        transactions::a_poll_may_come_within_a_transaction,
    ),
    (
        "a newer member fences the older",
        transactions::a_newer_member_fences_the_older,
    ),
    (
        "a dropped member's transaction is aborted",
        transactions::a_dropped_members_transaction_is_aborted,
    ),
    (
        "recovery aborts what was open",
        transactions::recovery_aborts_what_was_open,
    ),
    (
        "send_now is seen at once",
        transactions::send_now_is_seen_at_once,
    ),
    (
        "committed positions outlive the member",
        transactions::committed_positions_outlive_the_member,
    ),
    (
        "a looker-on sees what is committed",
        transactions::a_looker_on_sees_what_is_committed,
    ),
    (
        "one member gets all partitions",
        members::one_member_gets_all_partitions,
    ),
    (
        "two members share cooperatively",
        members::two_members_share_cooperatively,
    ),
    (
        "a stale membership is refused",
        members::a_stale_membership_is_refused,
    ),
    (
        "a static member comes back to its partitions",
        members::a_static_member_comes_back_to_its_partitions,
    ),
    (
        "a forgotten instance's partitions move",
        members::a_forgotten_instances_partitions_move,
    ),
    ("pause and start hold", members::pause_and_start_hold),
    (
        "two groups know nothing of each other",
        members::two_groups_know_nothing_of_each_other,
    ),
];

/// Runs all cases, one after the other.
///
/// # Panics
/// With the names of the cases that failed and what each said.
pub fn run(bench: &dyn Bench) {
    let mut failures = Vec::new();
    for (name, case) in CASES {
        if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(|| case(bench))) {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned()));
            failures.push(format!("`{name}`: {}", said.unwrap_or_default()));
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {} cases failed:\n{}",
        failures.len(),
        CASES.len(),
        failures.join("\n")
    );
}

/// Runs the case of that name.
///
/// # Panics
/// If there is none, or it fails.
pub fn run_case(bench: &dyn Bench, name: &str) {
    let (_, case) = CASES
        .iter()
        .find(|(other, _)| *other == name)
        .expect("a case of that name");
    case(bench);
}

/// What one poll of the suite takes.
const LIMIT: PollLimit = PollLimit {
    records: 1000,
    bytes: 4 << 20,
    wait: Duration::from_millis(50),
};

/// A record that was read, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    at: TopicPartition,
    offset: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Seen {
    fn of(record: Record<'_>) -> Self {
        let headers = record.headers.iter();
        Self {
            at: record.at,
            offset: record.offset,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: headers
                .map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec)))
                .collect(),
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(self.value.as_deref().unwrap_or_default()).into_owned()
    }
}

/// One log under judgment.
struct Ground {
    log: Arc<dyn Log>,
    patience: Duration,
}

impl Ground {
    /// A fresh log with these topics.
    fn new(bench: &dyn Bench, topics: &[(Topic, i32)]) -> Self {
        let ground = Self {
            log: bench.log(),
            patience: bench.patience(),
        };
        for (topic, partitions) in topics {
            assert_eq!(
                ground
                    .log
                    .create(&spec(*topic, *partitions))
                    .expect("a topic"),
                Created::Made,
                "{topic:?}"
            );
        }
        for (topic, _) in topics {
            ground.until("the topic is described", || {
                ground
                    .log
                    .describe(*topic)
                    .expect("a description")
                    .is_some()
            });
        }
        ground
    }

    /// Waits until something is so; each try must take a little time itself.
    fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + self.patience;
        while !is_so() {
            assert!(
                Instant::now() < deadline,
                "not within {:?}: {what}",
                self.patience
            );
        }
    }

    /// Sends values outside of transactions, and waits until they are there.
    fn produce(&self, to: TopicPartition, values: &[&str]) {
        let mut producer = self.log.producer().expect("a producer");
        for value in values {
            producer.send(plain(to, value)).expect("a send");
        }
        producer.flush().expect("a flush");
    }

    /// All that is in a partition, from the beginning to its end.
    fn read(&self, from: TopicPartition) -> Vec<Seen> {
        self.read_to_end(from).0
    }

    /// All that is in a partition, and the position of its end.
    fn read_to_end(&self, from: TopicPartition) -> (Vec<Seen>, i64) {
        let mut reader = self.log.reader().expect("a reader");
        reader
            .assign(from, Start::Beginning)
            .expect("an assignment");
        let mut batch = RecordBatch::default();
        let mut seen: Vec<Seen> = Vec::new();
        let mut end = None;
        self.until("the end of the partition is reached", || {
            reader.poll(LIMIT, &mut batch).expect("a poll");
            seen.extend(batch.iter().map(Seen::of));
            end = batch
                .ends()
                .iter()
                .find(|(of, _)| *of == from)
                .map(|(_, position)| *position);
            end.is_some()
        });
        (seen, end.expect("invariant: it was reached"))
    }

    /// The values in a partition.
    fn values(&self, from: TopicPartition) -> Vec<String> {
        self.read(from).iter().map(Seen::text).collect()
    }

    /// A member that has been assigned exactly these partitions.
    fn member_with(&self, instance: &str, partitions: &[i32]) -> Driver {
        self.reader_of(Topic::Behaviors, instance, partitions)
    }

    /// The same in a group whose input is another topic.
    fn reader_of(&self, topic: Topic, instance: &str, partitions: &[i32]) -> Driver {
        let mut driver = Driver::new(self, instance);
        driver.input = topic;
        let wanted: BTreeSet<i32> = partitions.iter().copied().collect();
        self.until("the member has its partitions", || {
            driver.step();
            driver.held == wanted
        });
        driver
    }
}

/// Drives a member as a worker does: starts what is assigned at the committed positions, gives back what is asked for.
struct Driver {
    member: Box<dyn Member>,
    /// What the group reads.
    input: Topic,
    batch: RecordBatch,
    /// Partitions that are ours.
    held: BTreeSet<i32>,
    /// Partitions that were asked back and are not released yet.
    asked: Vec<i32>,
    /// Whether `step` releases by itself.
    releases: bool,
    /// All records that were polled.
    seen: Vec<Seen>,
    /// All changes that were reported.
    changes: Vec<Rebalance>,
    membership: Membership,
}

impl Driver {
    fn new(ground: &Ground, instance: &str) -> Self {
        let member = ground.log.member(instance, 0).expect("a member");
        Self {
            member,
            input: Topic::Behaviors,
            batch: RecordBatch::default(),
            held: BTreeSet::new(),
            asked: Vec::new(),
            releases: true,
            seen: Vec::new(),
            changes: Vec::new(),
            membership: Membership::default(),
        }
    }

    fn step(&mut self) {
        self.try_step().expect("a poll");
    }

    fn try_step(&mut self) -> Result<(), LogError> {
        let changes = self.member.poll(LIMIT, &mut self.batch)?;
        self.membership = self.batch.membership();
        self.seen.extend(self.batch.iter().map(Seen::of));
        for partition in &changes.lost {
            self.held.remove(partition);
        }
        for partition in &changes.revoked {
            assert!(
                self.held.contains(partition),
                "partition {partition} is asked back, but was not ours"
            );
            self.asked.push(*partition);
        }
        if self.releases {
            self.release();
        }
        for partition in &changes.assigned {
            assert!(
                self.held.insert(*partition),
                "partition {partition} is assigned, but was ours already"
            );
            let of = TopicPartition::new(self.input, *partition);
            let committed = self.member.committed(&[of])?[0];
            self.member
                .start(&[(of, committed.map_or(Start::Beginning, Start::At))])?;
        }
        if !changes.is_empty() {
            self.changes.push(changes);
        }
        Ok(())
    }

    fn release(&mut self) {
        let asked = std::mem::take(&mut self.asked);
        if !asked.is_empty() {
            self.member.release(&asked).expect("a release");
            for partition in asked {
                self.held.remove(&partition);
            }
        }
    }

    /// Polls until so many records were seen in all.
    fn until_seen(&mut self, ground: &Ground, count: usize) {
        ground.until("the member has seen its records", || {
            self.step();
            self.seen.len() >= count
        });
        assert_eq!(self.seen.len(), count, "records seen: {:?}", self.seen);
    }

    /// Polls a few times, so that what is on its way can arrive.
    fn linger(&mut self) {
        for _ in 0..4 {
            self.step();
        }
    }

    /// What was polled of one partition.
    fn values_of(&self, partition: i32) -> Vec<String> {
        self.seen
            .iter()
            .filter(|seen| seen.at == input(partition))
            .map(Seen::text)
            .collect()
    }
}

/// Partition `partition` of the group's topic.
const fn input(partition: i32) -> TopicPartition {
    TopicPartition::new(Topic::Behaviors, partition)
}

const fn changelog(partition: i32) -> TopicPartition {
    TopicPartition::new(Topic::Changelog, partition)
}

const fn scores(partition: i32) -> TopicPartition {
    TopicPartition::new(Topic::Scores, partition)
}

const fn spec(topic: Topic, partitions: i32) -> TopicSpec {
    TopicSpec {
        topic,
        partitions,
        replication_factor: 1,
        min_insync_replicas: 1,
    }
}

/// A record with a value, which is its key, too: compaction keeps all that differ.
fn plain(to: TopicPartition, value: &str) -> Outgoing<'_> {
    Outgoing {
        to,
        key: Some(value.as_bytes()),
        value: Some(value.as_bytes()),
        headers: &[],
    }
}
