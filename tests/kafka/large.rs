//! Records of 50 MB and more, on topics that take them.

use std::time::Duration;

use headwater::Daemon;
use headwater::daemon::{kafka_settings, open_log};
use headwater_config::Topic;
use headwater_consumers::log::kafka::KafkaLog;
use headwater_consumers::log::{Log, Outgoing, TopicPartition};
use headwater_consumers::partitioner::partition_of;
use serde_json::{Value, json};

use crate::admin;
use crate::broker::{Broker, until, values};
use crate::daemon::{PARTITIONS, click, config, counter};

/// Bytes of what is large.
const LARGE: usize = 50_000_000;
/// More than librdkafka reads by default, and nearly what a broker takes by default.
const LARGEST: usize = 102_000_000;

/// Goal: PIPE-2 for what is large: records of 50 MB, in value, key and header, and the largest that a broker takes, stop nobody; what
/// is behind them is counted and answered. Method: each between two good records of one user, on topics that take 100 MB; then items and
/// requests.
#[test]
fn records_of_50_mb_stop_nobody() {
    let state = tempfile::tempdir().unwrap();
    let broker = Broker::start_roomy();
    let brokers = broker.bootstrap();
    let config = config(
        &brokers,
        "large",
        state.path(),
        "kafka.operation_timeout = \"60s\"",
    );
    for topic in [Topic::Behaviors, Topic::ScoreRequests, Topic::Items] {
        let policy = if topic == Topic::Items {
            "compact"
        } else {
            "delete"
        };
        let settings = [
            ("cleanup.policy", policy),
            ("max.message.bytes", "104857600"),
            ("segment.bytes", "209715200"),
        ];
        admin::create(&brokers, &config.topic_name(topic), PARTITIONS, &settings);
    }
    let log = open_log(&config).unwrap();
    headwater::topics::create(&config, &*log).unwrap();
    // A platform that may send such records.
    let mut theirs = kafka_settings(&config);
    theirs.operation_timeout = Duration::from_secs(60);
    for (key, value) in [
        ("message.max.bytes", "104000000"),
        ("compression.type", "none"),
        ("batch.size", "104000000"),
    ] {
        theirs.client.insert(key.to_owned(), value.to_owned());
    }
    let theirs = KafkaLog::connect(theirs).unwrap();
    let user = "u1";
    let send = |topic: Topic, key: &[u8], value: &[u8], headers: &[(&str, &[u8])]| {
        let to = TopicPartition::new(topic, partition_of(user.as_bytes(), PARTITIONS));
        let mut producer = theirs.producer().unwrap();
        let record = Outgoing {
            to,
            key: Some(key),
            value: Some(value),
            headers,
        };
        producer.send(record).unwrap();
        producer.flush().unwrap();
    };
    let handle = Daemon::start(config.clone()).unwrap();

    let mut large = vec![b'x'; LARGEST];
    let at = |length: usize| &large[..length];
    send(Topic::Behaviors, b"u1", &click(user, "e0"), &[]);
    send(Topic::Behaviors, b"u1", at(LARGE), &[]);
    send(Topic::Behaviors, b"u1", &click(user, "e1"), &[]);
    send(Topic::Behaviors, at(LARGE), b"{", &[]);
    send(Topic::Behaviors, b"u1", b"{", &[("theirs", at(LARGE))]);
    send(
        Topic::Behaviors,
        b"u1",
        &click(user, "e2"),
        &[("theirs", at(LARGE))],
    );
    send(Topic::Behaviors, b"u1", at(LARGEST), &[]);
    send(Topic::Behaviors, b"u1", &click(user, "e3"), &[]);
    send(Topic::Items, b"i0", at(LARGE), &[]);
    let item = json!({"item_id": "i", "time": headwater::now_ms(), "categories": ["c"]});
    send(Topic::Items, b"i", item.to_string().as_bytes(), &[]);
    let request = json!({"request_id": "r", "user_id": user, "scenario": "feed", "time": headwater::now_ms(), "candidates": ["i"]});
    send(Topic::ScoreRequests, b"u1", at(LARGE), &[]);
    send(
        Topic::ScoreRequests,
        b"u1",
        request.to_string().as_bytes(),
        &[("reply_to", at(LARGE))],
    );
    large.clear();
    large.shrink_to_fit();

    let dead = |topic: Topic| {
        values(
            &*log,
            TopicPartition::new(topic, partition_of(user.as_bytes(), PARTITIONS)),
        )
    };
    until("everything behind to be read", || {
        assert!(handle.is_running(), "it ended: {:?}", handle.wait());
        let counted = counter(&handle, "headwater_state_behaviors_folded_total");
        let requests = counter(&handle, "headwater_consumers_requests_total");
        let dead = counter(&handle, "headwater_consumers_records_dead_lettered_total");
        (counted == 4 && requests == 1 && dead == 6).then_some(())
    });
    let letters = dead(Topic::DeadLetters);
    let mut lengths: Vec<usize> = letters.iter().map(Vec::len).collect();
    lengths.sort_unstable();
    // Two that were small but for key or header, and three of which the beginning was kept; the item's stays where it is.
    assert_eq!(lengths, [1, 1, 65_536, 65_536, 65_536]);
    let answers: Vec<Value> = dead(Topic::Scores)
        .iter()
        .map(|value| serde_json::from_slice(value).unwrap())
        .collect();
    assert!(
        answers
            .iter()
            .any(|answer| answer["request_id"] == "r" && answer["status"] == "ok"),
        "{answers:?}"
    );
    handle.stop(true).unwrap();
}
