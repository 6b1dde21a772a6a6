//! What a step publishes, over one partition in memory.

use headwater_state::{MemoryStores, Stores};

use super::*;
use crate::worker::settings_of;

const START: i64 = 1_700_000_000_000;

/// The step of these records, over a partition that has seen nothing.
fn step(toml: &str, records: &RecordBatch) -> StepOutput {
    let config = Config::from_toml(toml).unwrap();
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    let mut pipeline = Pipeline::new(&config, (1, 1), metrics).unwrap();
    let stores = MemoryStores::default();
    let users = Partition::open(stores.open(0).unwrap(), settings_of(&config, 1)).unwrap();
    let owned = Owned {
        number: 0,
        users,
        statistics: Statistics::default(),
    };
    let mut output = StepOutput::default();
    pipeline
        .step(
            records,
            &mut BTreeMap::from([(0, owned)]),
            &ItemTable::default(),
            Timestamp(START),
            &mut || [7; 16],
            &mut output,
        )
        .unwrap();
    output
}

/// Goal: what config names of a request's headers goes on with its answer, and nothing else. Method: three headers, two named.
#[test]
fn named_headers_are_carried_on() {
    let request = format!(
        r#"{{"request_id":"r","user_id":"u","scenario":"s","time":{START},"candidates":["i"]}}"#
    );
    let mut records = RecordBatch::default();
    records.push(
        TopicPartition::new(Topic::ScoreRequests, 0),
        (0, START),
        Some(b"u"),
        Some(request.as_bytes()),
        [
            ("traceparent", Some(&b"t"[..])),
            ("cookie", Some(&b"c"[..])),
            ("reply_to", None),
        ],
    );
    let output = step("", &records);
    let scores: Vec<_> = output
        .transactional
        .iter()
        .filter(|record| record.at.topic == Topic::Scores)
        .collect();
    assert_eq!(scores.len(), 1);
    let headers = scores[0].headers;
    assert_eq!(headers.get("traceparent"), Some(&b"t"[..]));
    assert!(headers.iter().any(|header| header == ("reply_to", None)));
    assert!(headers.get("cookie").is_none());
    assert!(headers.get("headwater-id").is_some());
}
