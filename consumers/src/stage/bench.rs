//! What stages are tried on: a log inside this process, the faults to come, and what lies in its topics.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use headwater_config::Topic;
use headwater_state::Timestamp;
use parking_lot::Mutex;

use crate::answer::HEADER_ID;
use crate::log::local::faults::{Call, Fault, Op};
use crate::log::local::{LocalLog, Options};
use crate::log::{Log, Outgoing, PollLimit, RecordBatch, Start, TopicPartition, TopicSpec};
use crate::worker::World;

pub(crate) const NOW: i64 = 1_763_892_000_000;

pub(crate) struct StandingStill;

impl World for StandingStill {
    fn now(&mut self) -> Timestamp {
        Timestamp(NOW)
    }

    fn salt(&mut self) -> [u8; 16] {
        [0; 16]
    }
}

/// Faults, each for the next call of its sort.
pub(crate) type Script = Arc<Mutex<VecDeque<(Op, Fault)>>>;

/// A log with these topics, the faults to come, and what moves its clock.
pub(crate) fn log(topics: &[(Topic, i32)]) -> (Arc<LocalLog>, Script, Arc<AtomicI64>) {
    let script = Script::default();
    let clock = Arc::new(AtomicI64::new(NOW));
    let (hook, time) = (Arc::clone(&script), Arc::clone(&clock));
    let mut options = Options::new(move || time.load(Ordering::Relaxed));
    options.faults = Some(Arc::new(move |call: Call<'_>| {
        let mut script = hook.lock();
        match script.front() {
            Some((op, fault)) if *op == call.op => {
                let fault = *fault;
                script.pop_front();
                fault
            }
            _ => Fault::Pass,
        }
    }));
    let log = Arc::new(LocalLog::in_memory(options));
    for (topic, partitions) in topics {
        let spec = TopicSpec {
            topic: *topic,
            partitions: *partitions,
            replication_factor: 1,
            min_insync_replicas: 1,
        };
        log.create(&spec).unwrap();
    }
    (log, script, clock)
}

/// Sends a record, outside of any transaction.
pub(crate) fn put(log: &LocalLog, record: Outgoing<'_>) {
    let mut producer = log.producer().unwrap();
    producer.send(record).unwrap();
    producer.flush().unwrap();
}

/// A record as it lies there.
pub(crate) struct Lying {
    pub(crate) partition: i32,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    /// Its `headwater-id`, where it has one.
    pub(crate) id: String,
}

/// All that readers see of a topic.
pub(crate) fn contents(log: &LocalLog, topic: Topic) -> Vec<Lying> {
    let mut reader = log.reader().unwrap();
    let mut batch = RecordBatch::default();
    let mut found = Vec::new();
    let limit = PollLimit {
        records: 100_000,
        bytes: usize::MAX,
        wait: Duration::ZERO,
    };
    for number in 0..log.describe(topic).unwrap().unwrap().partitions {
        let of = TopicPartition::new(topic, number);
        reader.assign(of, Start::Beginning).unwrap();
        let mut ended = false;
        while !ended {
            reader.poll(limit, &mut batch).unwrap();
            ended = batch.ends().iter().any(|(end, _)| *end == of);
            found.extend(batch.iter().map(|record| {
                let bytes = |bytes: Option<&[u8]>| bytes.unwrap_or_default().to_vec();
                Lying {
                    partition: record.at.partition,
                    key: bytes(record.key),
                    value: bytes(record.value),
                    id: String::from_utf8(bytes(record.headers.get(HEADER_ID))).unwrap(),
                }
            }));
        }
        reader.unassign(of).unwrap();
    }
    found
}
