//! The embedded log of a daemon that does not run: what is put into it before, and what lies in it after.

use headwater_config::{Config, Topic};
use headwater_consumers::log::local::LocalLog;
use headwater_consumers::log::{
    Log, Outgoing, PollLimit, Record, RecordBatch, Start, TopicPartition,
};
use headwater_consumers::partitioner::partition_of;
use serde_json::{Value, json};

use crate::program::until;

/// Opens the log of a configuration, and makes its topics.
pub(crate) fn open(config: &Config) -> LocalLog {
    let options = headwater::daemon::local_options(config);
    let log = LocalLog::open(&config.log_path(), options).unwrap();
    headwater::topics::create(config, &log).unwrap();
    log
}

/// Sends a record to where its user belongs.
pub(crate) fn send(log: &dyn Log, topic: Topic, user: &str, value: &[u8]) {
    let partitions = log.describe(topic).unwrap().unwrap().partitions;
    let mut producer = log.producer().unwrap();
    producer
        .send(Outgoing {
            to: TopicPartition::new(topic, partition_of(user.as_bytes(), partitions)),
            key: Some(user.as_bytes()),
            value: Some(value),
            headers: &[],
        })
        .unwrap();
    producer.flush().unwrap();
}

/// A click, some seconds before now.
pub(crate) fn click(user: &str, item: &str, event: &str) -> Vec<u8> {
    let time = headwater::now_ms() - 10_000;
    json!({"user_id": user, "item_id": item, "kind": "click", "scenario": "feed", "time": time, "event_id": event})
        .to_string()
        .into_bytes()
}

/// A request for scores, made now.
pub(crate) fn request(id: &str, user: &str, candidates: &[&str]) -> Vec<u8> {
    json!({"request_id": id, "user_id": user, "scenario": "feed", "time": headwater::now_ms(), "candidates": candidates})
        .to_string()
        .into_bytes()
}

/// Every committed record of a topic, as JSON where it is JSON.
pub(crate) fn records(log: &dyn Log, topic: Topic) -> Vec<Value> {
    read(log, topic, &|record| {
        serde_json::from_slice(record.value.unwrap_or_default()).unwrap_or(Value::Null)
    })
}

/// The keys of all committed records of a topic.
pub(crate) fn keys(log: &dyn Log, topic: Topic) -> Vec<Vec<u8>> {
    read(log, topic, &|record| {
        record.key.unwrap_or_default().to_vec()
    })
}

fn read<T>(log: &dyn Log, topic: Topic, take: &dyn Fn(&Record<'_>) -> T) -> Vec<T> {
    let partitions = log.describe(topic).unwrap().unwrap().partitions;
    let mut reader = log.reader().unwrap();
    let mut open = Vec::new();
    for partition in 0..partitions {
        let of = TopicPartition::new(topic, partition);
        reader.assign(of, Start::Beginning).unwrap();
        open.push((of, log.extent(of).unwrap().next));
    }
    let mut batch = RecordBatch::default();
    let mut found = Vec::new();
    until("the end of a topic", || {
        let limit = PollLimit {
            records: 10_000,
            bytes: 1 << 24,
            wait: std::time::Duration::from_millis(10),
        };
        reader.poll(limit, &mut batch).unwrap();
        found.extend(batch.iter().map(|record| take(&record)));
        for (of, position) in batch.ends() {
            open.retain(|(other, next)| other != of || position < next);
        }
        open.is_empty().then_some(())
    });
    found
}
