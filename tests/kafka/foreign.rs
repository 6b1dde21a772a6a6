//! A stranger's topic on Apache Kafka, read by configuration alone.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use headwater::daemon::open_log;
use headwater::{Daemon, Handle, topics};
use headwater_config::{Config, Topic};
use headwater_consumers::log::{Log, Outgoing, TopicPartition, TopicSpec};
use headwater_consumers::partitioner::partition_of;
use serde_json::{Value, json};

use crate::broker::{bootstrap, until, values};

const SOURCE_PARTITIONS: i32 = 3;
const PARTITIONS: i32 = 4;
const USERS: u64 = 40;
const RECORDS: u64 = 600;

/// How often each user did what to which item.
type Counts = BTreeMap<(String, String, String), u64>;

fn config(state: &std::path::Path, repartition: bool) -> Config {
    let toml = format!(
        r#"
[instance]
id = "one"
prefix = "foreign-{}-{repartition}."
[kafka]
brokers = "{}"
[state]
path = "{}"
recent = 16
[scoring]
feature_log = false
[admin]
address = "127.0.0.1:0"
[topics]
behaviors = "gateway.events"
partitions = {PARTITIONS}
[source.behaviors]
mapped = true
repartition = {repartition}
events = "/batch/events"
user_id = "^/session/user"
item_id = "/object/id"
kind = "/action/code"
time = "/at"
time_format = "iso8601"
on_unmapped_kind = "skip"
[source.behaviors.kinds]
42 = "click"
7 = "impression"
[source.behaviors.constant]
scenario = "feed"
"#,
        std::process::id(),
        bootstrap(),
        state.display()
    );
    Config::from_toml(&toml).unwrap()
}

/// Record `number`: three events of a user on one of their devices, every third of a kind that nobody knows.
fn record(number: u64, counts: &mut Counts) -> Value {
    let user = number * 7 % USERS;
    let events: Vec<Value> = (0..3)
        .map(|event| {
            let item = (number + event) % 5;
            let (code, kind) = [(42, Some("click")), (7, Some("impression")), (99, None)]
                [((number + event) % 3) as usize];
            if let Some(kind) = kind {
                let key = (user.to_string(), item.to_string(), kind.to_owned());
                *counts.entry(key).or_default() += 1;
            }
            let at = format!(
                "2025-11-23T11:{:02}:{:02}.{event}+01:00",
                number / 60,
                number % 60
            );
            json!({"object": {"id": item}, "action": {"code": code}, "at": at})
        })
        .collect();
    json!({"session": {"user": user, "app": "web"}, "batch": {"events": events}})
}

/// Sends records: by device, of which a user has several, so that the records of one user lie in every partition; or by user.
fn produce(log: &dyn Log, records: &[(u64, Vec<u8>)], by_device: bool) {
    let mut producer = log.producer().unwrap();
    for (number, value) in records {
        let device = number % 11;
        let (key, partition) = if by_device {
            (
                format!("device-{device}"),
                device as i32 % SOURCE_PARTITIONS,
            )
        } else {
            let user = (number * 7 % USERS).to_string();
            let partition = partition_of(user.as_bytes(), PARTITIONS);
            (user, partition)
        };
        let record = Outgoing {
            to: TopicPartition::new(Topic::Behaviors, partition),
            key: Some(key.as_bytes()),
            value: Some(value),
            headers: &[],
        };
        producer.send(record).unwrap();
    }
    producer.flush().unwrap();
}

fn user(address: SocketAddr, user: u64) -> Option<Value> {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET /users/{user}?entries=100 HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200")
        .then(|| serde_json::from_str(body).unwrap())
}

/// What the daemon has counted of each user: the newest behaviors one by one, and the history of those before them.
fn counted(handle: &Handle) -> Counts {
    let mut counts = Counts::new();
    for id in 0..USERS {
        let Some(view) = user(handle.address().unwrap(), id) else {
            continue;
        };
        let mut add = |item: &Value, kind: &Value, count: u64| {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let key = (id.to_string(), text(item), text(kind));
            *counts.entry(key).or_default() += count;
        };
        for behavior in view["recent"].as_array().unwrap() {
            add(&behavior["item_id"], &behavior["kind"], 1);
        }
        for slot in view["history"].as_array().unwrap() {
            assert_eq!(slot["slot"], "item");
            for entry in slot["entries"].as_array().unwrap() {
                for count in entry["counts"].as_array().unwrap() {
                    add(
                        &entry["key"],
                        &count["kind"],
                        count["count"].as_u64().unwrap(),
                    );
                }
            }
        }
    }
    counts
}

/// The daemon over Apache Kafka, stopped and started again half way; its counts against a naive count of what was produced. Two records
/// cannot be read: one event of each is bad, and nothing of them is counted.
fn count_exactly(repartition: bool) {
    let state = tempfile::tempdir().unwrap();
    let config = config(state.path(), repartition);
    let log = open_log(&config).unwrap();
    if repartition {
        let source = TopicSpec {
            topic: Topic::Behaviors,
            partitions: SOURCE_PARTITIONS,
            replication_factor: 1,
            min_insync_replicas: 1,
        };
        log.create(&source).unwrap();
    }
    topics::create(&config, &*log).unwrap();
    let mut counts = Counts::new();
    for half in 0..2 {
        let handle = Daemon::start(config.clone()).unwrap();
        let mut records: Vec<_> = (half * RECORDS / 2..(half + 1) * RECORDS / 2)
            .map(|number| (number, record(number, &mut counts).to_string().into_bytes()))
            .collect();
        let good =
            json!({"object": {"id": 1}, "action": {"code": 42}, "at": "2025-11-23T11:00:00Z"});
        let bad = json!({"action": {"code": 42}, "at": "noon"});
        let bad = json!({"session": {"user": 0}, "batch": {"events": [good, bad]}});
        records.insert(100, (0, bad.to_string().into_bytes()));
        produce(&*log, &records, repartition);
        let all: u64 = counts.values().sum();
        let found = until("the counts", || {
            let found = counted(&handle);
            let sum: u64 = found.values().sum();
            assert!(sum <= all, "{sum} of {all}");
            (sum == all).then_some(found)
        });
        assert_eq!(found, counts);
        handle.stop(false).unwrap();
    }
    let all = |topic: Topic| {
        let partitions = (0..PARTITIONS).map(|number| TopicPartition::new(topic, number));
        partitions.flat_map(|of| values(&*log, of)).count() as u64
    };
    if repartition {
        assert_eq!(all(Topic::Repartition), counts.values().sum::<u64>());
    }
    assert_eq!(all(Topic::DeadLetters), 2);
}

/// Goal: a topic with arrays of events, numeric ids, ISO times and numeric kinds, keyed by device over three partitions, is counted exactly
/// by one config section and no code. Method: through the repartition topic.
#[test]
fn a_topic_keyed_by_device_is_counted_exactly() {
    count_exactly(true);
}

/// Goal: every event of a record is folded, once, without the repartition topic too. Method: the same records keyed by user, folded from the
/// source itself.
#[test]
fn a_topic_keyed_by_user_is_counted_exactly() {
    count_exactly(false);
}
