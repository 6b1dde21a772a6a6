//! What decoding promises, record by record: of Headwater's own form here, of a stranger's in [`foreign`].

use headwater_config::Config;
use headwater_state::{KindId, ScenarioId, SlotId, Timestamp};

use super::{Decoder, Reject};

mod foreign;

const NOW: i64 = 1_763_892_000_123;

fn decoder(toml: &str) -> Decoder {
    Decoder::new(&Config::from_toml(toml).unwrap())
}

fn said(reject: &Reject) -> String {
    reject.to_string()
}

/// Goal: a whole record is read, unknown keys are passed over. Method: every field, and an attribute that falls back on the query.
#[test]
fn a_record_of_our_own_form_is_read() {
    let decoder =
        decoder("[scenarios]\nnames = [\"feed\"]\n[state]\nattributes = [\"author\", \"query\"]\n");
    let bytes = format!(
        r#"{{"event_id":"e","user_id":"u","item_id":"i","kind":"click","scenario":"feed","time":{NOW},"request_id":"r","position":3,
        "query":"red shoes","value":2.5,"attributes":{{"author":7,"other":[1]}},"theirs":{{}}}}"#
    );
    let read = decoder.behaviors(Some(bytes.as_bytes()), NOW).unwrap();
    let [behavior] = read.behaviors() else {
        panic!("{read:?}")
    };
    assert_eq!(
        (&*behavior.user, behavior.item.as_deref()),
        ("u", Some("i"))
    );
    assert_eq!(behavior.kind, KindId::of("click"));
    assert_eq!(behavior.scenario, ScenarioId::of("feed"));
    assert_eq!(behavior.time, Timestamp(NOW));
    assert_eq!(behavior.event_id.as_deref(), Some("e"));
    assert_ne!(behavior.event, 0);
    assert_eq!(behavior.value.unwrap().get(), 2.5);
    let mut attributes = vec![
        (SlotId::of("author"), "7"),
        (SlotId::of("query"), "red shoes"),
    ];
    attributes.sort_by_key(|(slot, _)| *slot);
    let read: Vec<_> = (behavior.attributes.iter())
        .map(|(slot, text)| (*slot, &**text))
        .collect();
    assert_eq!(read, attributes);
}

/// Goal: a record of our own form costs no allocation of its own. Method: its texts are borrowed from the record's bytes.
#[test]
fn texts_stay_in_the_record() {
    let bytes =
        format!(r#"{{"user_id":"u","item_id":"i","kind":"click","scenario":"s","time":{NOW}}}"#);
    let read = decoder("").behavior(Some(bytes.as_bytes()), NOW).unwrap();
    let within = |text: &str| bytes.as_bytes().as_ptr_range().contains(&text.as_ptr());
    assert!(within(&read.user) && within(read.item.as_deref().unwrap()));
    assert_eq!(read.attributes.capacity(), 0);
}

/// Goal: every way in which a record can be bad has its code and its words. Method: a good record with one thing changed at a time.
#[test]
fn what_cannot_be_read_is_said() {
    let decoder = decoder("[step]\nrecord_max = \"1KiB\"\n[state]\nattributes = [\"author\"]\n");
    let refused = |value: Option<&[u8]>| said(&decoder.behaviors(value, NOW).unwrap_err());
    let with = |key: &str, json: &str| {
        let mut record = serde_json::json!({"user_id": "u", "item_id": "i", "kind": "click", "scenario": "s", "time": NOW});
        record[key] = serde_json::value::Value::Null;
        let text = record
            .to_string()
            .replace(&format!("\"{key}\":null"), &format!("\"{key}\":{json}"));
        refused(Some(text.as_bytes()))
    };
    assert_eq!(refused(None), "null_value: the value is null");
    assert!(refused(Some(b"\xff\xfe")).starts_with("unreadable: expected value at line 1"));
    assert!(refused(Some(b"{\"user_id\":\"u")).starts_with("unreadable: EOF while parsing"));
    assert_eq!(
        refused(Some(&[b' '; 1025])),
        "too_large: 1025 bytes, step.record_max is 1024"
    );
    assert_eq!(
        refused(Some(br#"{"user_id":"u","kind":"click","scenario":"s"}"#)),
        "missing_field: missing field `time` at line 1 column 45"
    );
    assert!(
        refused(Some(b"[]")).starts_with("missing_field: ")
            || refused(Some(b"[]")).starts_with("wrong_type: ")
    );
    assert!(
        with("user_id", "7")
            .starts_with("wrong_type: invalid type: integer `7`, expected a string")
    );
    assert!(
        with("time", "\"soon\"")
            .starts_with("wrong_type: invalid type: string \"soon\", expected i64")
    );
    assert!(with("time", "1e400").starts_with("unreadable: number out of range"));
    assert!(with("value", "NaN").starts_with("unreadable: expected value"));
    let long = format!("\"{}\"", "x".repeat(257));
    for field in ["user_id", "item_id", "event_id", "scenario"] {
        assert_eq!(
            with(field, &long),
            format!("bad_id: {field} has 257 bytes, at most 256 are allowed")
        );
        assert_eq!(with(field, "\"\""), format!("bad_id: {field} is empty"));
    }
    assert_eq!(
        with("kind", "\"tap\""),
        "unknown_kind: kind `tap` is not in kinds.names"
    );
    assert_eq!(
        with("time", "0"),
        "bad_time: time 0 is not in the years 1990 to 2099, in Unix milliseconds"
    );
    assert_eq!(
        with("time", "7258118400000"),
        "bad_time: time 7258118400000 is not in the years 1990 to 2099, in Unix milliseconds"
    );
    assert_eq!(
        with("time", "1763892000"),
        "bad_time: time 1763892000 is not in the years 1990 to 2099, in Unix milliseconds; it looks like seconds"
    );
    assert_eq!(
        with("time", "1763892000000000"),
        "bad_time: time 1763892000000000 is not in the years 1990 to 2099, in Unix milliseconds; it looks like microseconds"
    );
    let ahead = Config::from_toml("").unwrap().state.max_ahead.millis() + 1;
    assert_eq!(
        with("time", &(NOW + ahead).to_string()),
        format!(
            "ahead_of_time: time {} is {ahead} ms ahead of the log's clock",
            NOW + ahead
        )
    );
    assert_eq!(
        with("value", "1e10"),
        "bad_value: value 10000000000 is beyond 1000000000"
    );
    assert_eq!(
        with("attributes", "{\"author\":[1]}"),
        "wrong_type: attributes.author is neither text nor number"
    );
    assert_eq!(
        with("attributes", &format!("{{\"author\":{long}}}")),
        "bad_id: author has 257 bytes, at most 256 are allowed"
    );
}
