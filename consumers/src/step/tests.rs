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

/// Goal: each candidate has the scores of its own row, in every part of a split answer. Method: a request large enough for parts; the
/// same candidates asked for in one answer each.
#[test]
fn parts_have_the_scores_of_their_candidates() {
    let ask = |candidates: &[String], answer_max: &str| {
        let request = serde_json::json!({
            "request_id": "r", "user_id": "u", "scenario": "s", "time": START + 1, "candidates": candidates,
        });
        let mut records = RecordBatch::default();
        for (place, item) in ["i3", "i3", "i70"].iter().enumerate() {
            let kind = if place == 1 { "click" } else { "impression" };
            let behavior = serde_json::json!({
                "user_id": "u", "item_id": item, "kind": kind, "scenario": "s", "time": START,
            });
            let at = (place as i64, START);
            let value = behavior.to_string();
            let topic = TopicPartition::new(Topic::Behaviors, 0);
            records.push(topic, at, Some(b"u"), Some(value.as_bytes()), []);
        }
        let value = request.to_string();
        let topic = TopicPartition::new(Topic::ScoreRequests, 0);
        records.push(topic, (0, START), Some(b"u"), Some(value.as_bytes()), []);
        let output = step(&format!("step.answer_max = \"{answer_max}\""), &records);
        let answers = output.transactional.iter();
        let answers = answers.filter(|record| record.at.topic == Topic::Scores);
        answers
            .map(|record| serde_json::from_slice(record.value.unwrap()).unwrap())
            .collect::<Vec<serde_json::Value>>()
    };
    let candidates: Vec<String> = (0..100).map(|number| format!("i{number}")).collect();
    let parts = ask(&candidates, "4KiB");
    assert!(parts.len() > 1);
    let items: Vec<_> = parts
        .iter()
        .flat_map(|part| part["items"].as_array().unwrap().clone())
        .collect();
    assert_eq!(items.len(), candidates.len());
    for (candidate, item) in candidates.iter().zip(&items) {
        assert_eq!(item["item_id"], **candidate);
        assert_eq!(item["score"], item["tasks"]["click"]);
        let alone = ask(std::slice::from_ref(candidate), "512KiB");
        assert_eq!(*item, alone[0]["items"][0], "{candidate}");
    }
    assert_ne!(items[3]["score"], items[4]["score"]);
}
