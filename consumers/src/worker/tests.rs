//! A worker over the local log: what one poll asks for may be more than one transaction can hold.

use headwater_config::Bytes;
use headwater_state::MemoryStores;
use serde_json::json;

use super::*;
use crate::log::local::{LocalLog, Options};
use crate::log::{Start, TopicSpec};

const NOW: i64 = 1_700_000_000_000;

struct Fixed;

impl World for Fixed {
    fn now(&mut self) -> Timestamp {
        Timestamp(NOW)
    }

    fn salt(&mut self) -> [u8; 16] {
        [7; 16]
    }
}

fn log() -> Arc<LocalLog> {
    let log = LocalLog::in_memory(Options::new(|| NOW));
    for topic in Topic::ALL {
        let spec = TopicSpec {
            topic,
            partitions: 1,
            replication_factor: 1,
            min_insync_replicas: 1,
        };
        log.create(&spec).unwrap();
    }
    Arc::new(log)
}

fn worker(config: &Config, log: &Arc<LocalLog>) -> Worker {
    let metrics = crate::metrics::Metrics::register(&prometheus::Registry::new()).unwrap();
    let pipeline = Pipeline::new(config, (1, 1), metrics).unwrap();
    let member = log.member("one", 0).unwrap();
    Worker::new(
        config,
        Arc::clone(log) as Arc<dyn Log>,
        Arc::new(MemoryStores::default()),
        member,
        pipeline,
        SharedItems::default(),
        Box::new(Fixed),
    )
    .unwrap()
    .with_write_backs_inline(128)
}

/// Sends so many requests, and gives how many turns until all are answered; each transaction is within `bytes_max` and `answer`.
fn answer_all(requests: usize, candidates: usize, bytes_max: u64, answer: usize) -> usize {
    let mut config = Config::default_config();
    config.step.bytes_max = Bytes::new(bytes_max);
    let log = log();
    let mut producer = log.producer().unwrap();
    let items: Vec<String> = (0..candidates).map(|item| format!("i{item}")).collect();
    for number in 0..requests {
        let request = json!({"request_id": format!("r{number}"), "user_id": "u", "scenario": "s", "time": NOW, "candidates": items});
        let request = request.to_string();
        let record = Outgoing {
            to: TopicPartition::new(Topic::ScoreRequests, 0),
            key: Some(b"u"),
            value: Some(request.as_bytes()),
            headers: &[],
        };
        producer.send(record).unwrap();
    }
    producer.flush().unwrap();
    let mut worker = worker(&config, &log);
    let mut turns = 0;
    while worker.commits == 0 || worker.pending.is_some() {
        worker.turn().unwrap();
        assert!(!worker.has_failed(), "{:?}", worker.status());
        let bytes = worker.output.transactional.bytes();
        assert!(bytes < bytes_max as usize + answer, "{bytes}");
        turns += 1;
        assert!(turns < 10_000);
    }
    let mut reader = log.reader().unwrap();
    let scores = TopicPartition::new(Topic::Scores, 0);
    reader.assign(scores, Start::Beginning).unwrap();
    let mut answered = std::collections::BTreeSet::new();
    let mut batch = RecordBatch::default();
    loop {
        let limit = PollLimit {
            records: 1_000,
            bytes: 16 << 20,
            wait: Duration::ZERO,
        };
        reader.poll(limit, &mut batch).unwrap();
        if batch.is_empty() {
            break;
        }
        for record in batch.iter() {
            let answer: serde_json::Value = serde_json::from_slice(record.value.unwrap()).unwrap();
            answered.insert(answer["request_id"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(answered.len(), requests);
    turns
}

/// Goal: LIMIT-1: a poll whose answers are larger than a transaction may be stops nobody. Method: two hundred requests of as many
/// candidates as a request may have in one poll; the log refuses transactions of more than 256 MiB.
#[test]
fn a_poll_that_asks_for_too_much_is_answered_in_several_steps() {
    let turns = answer_all(200, 10_000, 16 << 20, 8 << 20);
    assert!(turns > 10, "{turns}");
}
