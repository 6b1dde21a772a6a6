//! The log on the broker of the run, for one test: its settings and topics, and what the tests do over and over.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use headwater_config::Topic;
use headwater_consumers::log::kafka::{KafkaLog, KafkaSettings};
use headwater_consumers::log::{
    Log, LogError, Member, Outgoing, PollLimit, Reader, RecordBatch, Start, TopicPartition,
    TopicSpec,
};
pub(crate) use headwater_tests::broker::{Broker, bootstrap};

/// Settings of a log with topics and a group that nobody else has.
pub(crate) fn settings(bootstrap: String, test: &str) -> KafkaSettings {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let prefix = format!(
        "{test}-{}-{}",
        std::process::id(),
        NUMBER.fetch_add(1, Ordering::Relaxed)
    );
    let name = |topic: Topic| (topic, format!("{prefix}.{}", topic.key()));
    KafkaSettings {
        bootstrap,
        group: format!("{prefix}-headwater"),
        input: Topic::Behaviors,
        topics: Topic::ALL.into_iter().map(name).collect(),
        session_timeout: Duration::from_secs(6),
        transaction_timeout: Duration::from_secs(10),
        operation_timeout: Duration::from_secs(20),
        send_now: false,
        client: BTreeMap::new(),
        secrets: Vec::new(),
    }
}

/// A log on the broker of the run, with these topics of so many partitions.
pub(crate) fn log(test: &str, topics: &[Topic], partitions: i32) -> KafkaLog {
    let log = KafkaLog::connect(settings(bootstrap(), test)).unwrap();
    create(&log, topics, partitions);
    log
}

pub(crate) fn create(log: &KafkaLog, topics: &[Topic], partitions: i32) {
    for topic in topics {
        let spec = TopicSpec {
            topic: *topic,
            partitions,
            replication_factor: 1,
            min_insync_replicas: 1,
        };
        log.create(&spec).unwrap();
    }
}

/// Polls of the tests: much, and not long.
pub(crate) const LIMIT: PollLimit = PollLimit {
    records: 10_000,
    bytes: 1 << 24,
    wait: Duration::from_millis(50),
};

/// Longest wait for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A record of a value alone.
pub(crate) fn value(topic: Topic, partition: i32, value: &[u8]) -> Outgoing<'_> {
    Outgoing {
        to: TopicPartition::new(topic, partition),
        key: Some(b"key"),
        value: Some(value),
        headers: &[],
    }
}

/// Asks until it is answered.
///
/// # Panics
/// When it is not, within the deadline.
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
    }
}

/// Polls the member until it is assigned that many partitions, and tells which.
pub(crate) fn assigned(member: &mut dyn Member, count: usize) -> Vec<i32> {
    let mut batch = RecordBatch::default();
    let mut found = Vec::new();
    until("an assignment", || {
        found.extend(member.poll(LIMIT, &mut batch).unwrap().assigned);
        (found.len() >= count).then_some(())
    });
    found.sort_unstable();
    found
}

/// All stable values of a partition, in order.
pub(crate) fn values(log: &dyn Log, of: TopicPartition) -> Vec<Vec<u8>> {
    let mut reader = log.reader().unwrap();
    reader.assign(of, Start::Beginning).unwrap();
    let mut batch = RecordBatch::default();
    let mut found = Vec::new();
    let next = log.extent(of).unwrap().next;
    until("the end of a partition", || {
        poll(&mut *reader, &mut batch);
        found.extend(
            batch
                .iter()
                .map(|record| record.value.unwrap_or_default().to_vec()),
        );
        batch
            .ends()
            .iter()
            .any(|(_, position)| *position >= next)
            .then_some(())
    });
    found
}

fn poll(reader: &mut dyn Reader, batch: &mut RecordBatch) {
    match reader.poll(LIMIT, batch) {
        Ok(()) => {}
        // A broker that has just restarted.
        Err(LogError::Unavailable { .. }) => batch.clear(),
        Err(error) => panic!("{error}"),
    }
}
