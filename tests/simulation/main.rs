//! The fast loop over the log in memory.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::Arc;

use headwater_config::{Config, Topic};
use headwater_consumers::log::local::{LocalLog, Options};
use headwater_consumers::log::{
    Log, Outgoing, PollLimit, RecordBatch, Start, TopicPartition, TopicSpec,
};
use headwater_consumers::partitioner::partition_of;
use headwater_consumers::step::Pipeline;
use headwater_consumers::worker::{Worker, World};
use headwater_state::{MemoryStores, Timestamp};

struct Fixed(u8);

impl World for Fixed {
    fn now(&mut self) -> Timestamp {
        Timestamp(1_700_000_100_000)
    }
    fn salt(&mut self) -> [u8; 16] {
        self.0 += 1;
        [self.0; 16]
    }
}

#[test]
fn a_behavior_becomes_a_score() {
    let log: Arc<dyn Log> = Arc::new(LocalLog::in_memory(Options::new(|| 1_700_000_100_000)));
    for topic in Topic::ALL {
        let spec = TopicSpec {
            topic,
            partitions: 2,
            replication_factor: 1,
            min_insync_replicas: 1,
        };
        log.create(&spec).unwrap();
    }
    let mut producer = log.producer().unwrap();
    for user in 0..10 {
        let id = format!("u{user}");
        let record = format!(
            r#"{{"user_id":"{id}","item_id":"i1","kind":"click","scenario":"feed","time":1700000000000,"event_id":"e{user}"}}"#
        );
        let to = TopicPartition::new(Topic::Behaviors, partition_of(id.as_bytes(), 2));
        producer
            .send(Outgoing {
                to,
                key: Some(id.as_bytes()),
                value: Some(record.as_bytes()),
                headers: &[],
            })
            .unwrap();
    }
    producer.flush().unwrap();
    let config = Config::from_toml("[scoring]\non_behavior = \"item\"").unwrap();
    let metrics = headwater_consumers::Metrics::register(&prometheus::Registry::new()).unwrap();
    let pipeline = Pipeline::new(&config, (2, 2), metrics).unwrap();
    let member = log.member("a", 0).unwrap();
    let mut worker = Worker::new(
        &config,
        Arc::clone(&log),
        Arc::new(MemoryStores::default()),
        member,
        pipeline,
        Arc::default(),
        Box::new(Fixed(0)),
    )
    .unwrap()
    .with_write_backs_inline();
    for _ in 0..20 {
        worker.turn().unwrap();
        assert!(!worker.is_in_trouble(), "{:?}", worker.status());
    }
    let mut reader = log.reader().unwrap();
    for partition in 0..2 {
        reader
            .assign(
                TopicPartition::new(Topic::Scores, partition),
                Start::Beginning,
            )
            .unwrap();
    }
    let mut batch = RecordBatch::default();
    let mut seen = 0;
    for _ in 0..10 {
        let limit = PollLimit {
            records: 100,
            bytes: 1 << 20,
            wait: std::time::Duration::ZERO,
        };
        reader.poll(limit, &mut batch).unwrap();
        for record in batch.iter() {
            if seen == 0 {
                println!("{}", String::from_utf8_lossy(record.value.unwrap()));
            }
            seen += 1;
        }
    }
    assert_eq!(seen, 10);
}
