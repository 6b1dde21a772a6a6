//! Tests of the local log: the suite of every log, and what this one promises beyond it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::log::conformance::{self, Bench};
use crate::log::{CommitError, Committed, Membership, PollLimit, Record, RecordBatch, Start};

/// A clock that stands still.
fn options() -> Options {
    Options::new(|| 1_000_000)
}

struct InMemory;

impl Bench for InMemory {
    fn log(&self) -> Arc<dyn Log> {
        Arc::new(LocalLog::in_memory(options()))
    }
}

struct OnDisk {
    folder: PathBuf,
    count: AtomicU64,
    segment_bytes: u64,
}

impl Bench for OnDisk {
    fn log(&self) -> Arc<dyn Log> {
        let folder = self
            .folder
            .join(self.count.fetch_add(1, Ordering::Relaxed).to_string());
        let options = Options {
            segment_bytes: self.segment_bytes,
            ..options()
        };
        Arc::new(LocalLog::open(&folder, options).unwrap())
    }
}

/// Goal: the local log does what every log must. Method: the suite, in memory.
#[test]
fn conforms_in_memory() {
    conformance::run(&InMemory);
}

/// Goal: the same on disk, however records fall into segments. Method: the suite, with usual and with tiny segments.
#[test]
fn conforms_on_disk() {
    for segment_bytes in [32 << 20, 2000] {
        let folder = tempfile::tempdir().unwrap();
        conformance::run(&OnDisk {
            folder: folder.path().to_owned(),
            count: AtomicU64::new(0),
            segment_bytes,
        });
    }
}

mod clean;
mod crash;
mod faults;
mod speed;
mod wait;

/// One poll without waiting.
const NOW: PollLimit = PollLimit {
    records: 10_000,
    bytes: 64 << 20,
    wait: Duration::ZERO,
};

fn make_topics(log: &LocalLog, partitions: i32) {
    for topic in [Topic::Behaviors, Topic::Changelog, Topic::Scores] {
        let spec = TopicSpec {
            topic,
            partitions,
            replication_factor: 1,
            min_insync_replicas: 1,
        };
        assert_eq!(log.create(&spec).unwrap(), Created::Made);
    }
}

/// A member that has been assigned all partitions, none of which it reads.
fn member(log: &LocalLog) -> Box<dyn Member> {
    let mut member = log.member("one", 0).unwrap();
    let changes = member.poll(NOW, &mut RecordBatch::default()).unwrap();
    assert!(!changes.assigned.is_empty());
    member
}

/// The membership that a member polls under.
fn membership(member: &mut dyn Member) -> Membership {
    let mut batch = RecordBatch::default();
    member.poll(NOW, &mut batch).unwrap();
    batch.membership()
}

fn record<'a>(to: TopicPartition, key: &'a str, value: Option<&'a str>) -> Outgoing<'a> {
    Outgoing {
        to,
        key: Some(key.as_bytes()),
        value: value.map(str::as_bytes),
        headers: &[],
    }
}

const fn at(topic: Topic, partition: i32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

/// Offset, key and value of all that is in a partition.
type Contents = Vec<(i64, String, Option<String>)>;

fn contents(log: &dyn Log, of: TopicPartition) -> Contents {
    let mut reader = log.reader().unwrap();
    reader.assign(of, Start::Beginning).unwrap();
    let mut batch = RecordBatch::default();
    let mut contents = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    loop {
        reader.poll(NOW, &mut batch).unwrap();
        let owned = |record: Record<'_>| {
            (
                record.offset,
                record.key.map(text).unwrap_or_default(),
                record.value.map(text),
            )
        };
        contents.extend(batch.iter().map(owned));
        if !batch.ends().is_empty() {
            return contents;
        }
    }
}

/// Sends records and commits them with positions.
fn transact(
    member: &mut dyn Member,
    records: &[Outgoing<'_>],
    positions: &[(TopicPartition, i64)],
) -> Result<Committed, CommitError> {
    let under = membership(member);
    member.begin().unwrap();
    for record in records {
        member.send(*record).unwrap();
    }
    member.commit(under, positions)
}
