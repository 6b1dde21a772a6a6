//! A stranger's records: what each pointer, time and kind is read as, and in which words each failure is told.

use serde_json::{Value, json};

use super::{NOW, decoder, said};
use crate::decode::{DecodedBehavior, Decoder};

/// The example of docs/operating/foreign-topics.md.
const DOCUMENTED: &str = r#"
[source.behaviors]
mapped = true
events = "/batch/events"
user_id = "^/session/user"
item_id = "/object/id"
kind = "/action/code"
time = "/at"
time_format = "microseconds"
event_id = "/uid"
on_unmapped_kind = "skip"
[source.behaviors.attributes]
author = "/object/author/id"
[source.behaviors.kinds]
42 = "click"
7 = "impression"
[source.behaviors.constant]
scenario = "feed"
"#;

/// Everything may be mapped, one event a record.
const FLAT: &str = r#"
[source.behaviors]
mapped = true
user_id = "/u"
item_id = "/i"
kind = "/k"
scenario = "/s"
time = "/t"
event_id = "/e"
request_id = "/r"
position = "/p"
query = "/q"
value = "/v"
[source.behaviors.attributes]
author = "/a"
"#;

fn read(decoder: &Decoder, record: &Value) -> Result<Vec<DecodedBehavior<'static>>, String> {
    let bytes = record.to_string();
    match decoder.behaviors(Some(bytes.as_bytes()), NOW + 1000) {
        Ok(super::super::Decoded::Many { behaviors, .. }) => Ok(behaviors),
        Ok(other) => panic!("{other:?}"),
        Err(reject) => Err(said(&reject)),
    }
}

/// The one event of a flat record, as it would be written to the repartition topic.
fn flat(toml: &str, changes: &[(&str, Value)]) -> Result<Value, String> {
    let mut record = json!({"u": "u", "i": "i", "k": "click", "s": "feed", "t": NOW});
    for (key, value) in changes {
        record[key] = value.clone();
    }
    let decoder = decoder(toml);
    let bytes = record.to_string();
    let events = decoder
        .events(
            decoder.mapping().unwrap(),
            Some(bytes.as_bytes()),
            NOW + 1000,
        )
        .map_err(|reject| said(&reject))?;
    Ok(serde_json::to_value(&events.events[0]).unwrap())
}

/// Goal: the documented example is read as documented. Method: its two records, and an event whose kind is none of ours among them.
#[test]
fn the_documented_example_is_read_as_documented() {
    let decoder = decoder(&format!("[state]\nattributes = [\"author\"]\n{DOCUMENTED}"));
    let record = json!({"session": {"user": 8812, "app": "web"}, "batch": {"events": [
        {"object": {"id": 77, "author": {"id": "a9"}}, "action": {"code": 42}, "at": 1_763_892_000_123_456_i64, "uid": "e-1"},
        {"action": {"code": 99}},
        {"object": {"id": 78}, "action": {"code": 7}, "at": 1_763_892_001_000_000_i64, "uid": "e-2"}]}});
    let bytes = record.to_string();
    let events = decoder
        .events(
            decoder.mapping().unwrap(),
            Some(bytes.as_bytes()),
            NOW + 1000,
        )
        .unwrap();
    assert_eq!(events.skipped, 1);
    assert_eq!(
        serde_json::to_value(&events.events).unwrap(),
        json!([
            {"user_id": "8812", "item_id": "77", "kind": "click", "scenario": "feed", "time": 1_763_892_000_123_i64,
             "event_id": "e-1", "attributes": {"author": "a9"}},
            {"user_id": "8812", "item_id": "78", "kind": "impression", "scenario": "feed", "time": 1_763_892_001_000_i64,
             "event_id": "e-2"}])
    );
    let behaviors = read(&decoder, &record).unwrap();
    // The place in the array, whatever is skipped: identity does not hang on the configured kinds.
    assert_eq!(
        behaviors
            .iter()
            .map(|event| event.index)
            .collect::<Vec<_>>(),
        [0, 2]
    );
    assert_eq!(behaviors[0].attributes.len(), 1);
}

/// Goal: what is read is what our own form would give. Method: the event as it is written to the repartition topic, decoded again.
#[test]
fn what_is_repartitioned_is_the_same_behavior() {
    let attributes = "[state]\nattributes = [\"author\", \"query\"]\n";
    let decoder = decoder(&format!("{attributes}{FLAT}"));
    let record = json!({"u": 5, "i": "i", "k": "click", "s": "feed", "t": NOW, "e": 9, "r": "r", "p": "3", "q": "shoes", "v": "2.5", "a": 11});
    let bytes = record.to_string();
    let mapping = decoder.mapping().unwrap();
    let mut events = decoder
        .events(mapping, Some(bytes.as_bytes()), NOW)
        .unwrap()
        .events;
    let written = serde_json::to_vec(&events[0]).unwrap();
    let native = super::decoder(attributes);
    assert_eq!(
        decoder.behavior_of(events.remove(0)),
        native.behavior(Some(&written), NOW).unwrap()
    );
    let position = serde_json::from_slice::<Value>(&written).unwrap()["position"].clone();
    assert_eq!(position, json!(3));
}

/// Goal: pointers are followed as RFC 6901 says, from the event or the record. Method: the awkward ones of each form.
#[test]
fn every_form_of_pointer_is_followed() {
    let user = |pointer: &str, record: Value| {
        let toml = format!(
            "[source.behaviors]\nmapped = true\nevents = \"/list\"\nuser_id = \"{pointer}\"\ntime = \"^/t\"\n\
             constant = {{ kind = \"click\", scenario = \"s\" }}\n"
        );
        read(&decoder(&toml), &record).map(|read| read[0].user.clone().into_owned())
    };
    let event = json!({"a/b": "slash", "m~n": "tilde", "": "empty", "tags": ["zero", "one"], "01": "key", "deep": {"er": [{"id": 7}]}});
    let record = json!({"t": NOW, "list": [event], "who": "outside"});
    for (pointer, found) in [
        ("/a~1b", "slash"),
        ("/m~0n", "tilde"),
        ("/", "empty"),
        ("/tags/0", "zero"),
        ("/tags/1", "one"),
        ("/01", "key"),
        ("/deep/er/0/id", "7"),
        ("^/who", "outside"),
        ("^/list/0/tags/1", "one"),
    ] {
        assert_eq!(
            user(pointer, record.clone()).as_deref(),
            Ok(found),
            "{pointer}"
        );
    }
    for pointer in [
        "/tags/2",
        "/tags/01",
        "/tags/-",
        "/tags/+1",
        "/who",
        "/tags/0/x",
        "^/tags/0",
    ] {
        let missing = format!("missing_field: event 0, {pointer}: user_id is missing or null");
        assert_eq!(user(pointer, record.clone()), Err(missing));
    }
    let whole = "[source.behaviors]\nmapped = true\nevents = \"^\"\nuser_id = \"/u\"\ntime = \"/t\"\n\
                 constant = { kind = \"click\", scenario = \"s\" }\n";
    let read = read(
        &decoder(whole),
        &json!([{"u": 1, "t": NOW}, {"u": 2, "t": NOW}]),
    )
    .unwrap();
    assert_eq!(
        read.iter().map(|event| &*event.user).collect::<Vec<_>>(),
        ["1", "2"]
    );
}

/// Goal: each format of time, to the millisecond, downwards. Method: the same moment in every way of writing it, and its neighbours.
#[test]
fn every_format_of_time_is_read() {
    let time = |format: &str, value: Value| {
        let toml = FLAT.replace(
            "time = \"/t\"",
            &format!("time = \"/t\"\ntime_format = \"{format}\""),
        );
        flat(&toml, &[("t", value)]).map(|event| event["time"].as_i64().unwrap())
    };
    for (format, value) in [
        ("milliseconds", json!(NOW)),
        ("milliseconds", json!("1763892000123")),
        ("seconds", json!(1_763_892_000.123)),
        ("seconds", json!("1763892000.123999")),
        ("seconds", json!("1763892000.123")),
        ("microseconds", json!(1_763_892_000_123_999_i64)),
        ("microseconds", json!("1763892000123000")),
        ("iso8601", json!("2025-11-23T10:00:00.123Z")),
        (
            "iso8601",
            json!("2025-11-23t10:00:00.123999999999999999999z"),
        ),
        ("iso8601", json!("2025-11-23 11:00:00.123+01:00")),
        ("iso8601", json!("2025-11-23T04:30:00.123-05:30")),
        ("iso8601", json!("2025-11-24T00:00:00.123+14:00")),
    ] {
        assert_eq!(time(format, value.clone()), Ok(NOW), "{format} {value}");
    }
    assert_eq!(time("seconds", json!(1_763_892_000)), Ok(NOW - 123));
    // Days of leap years, the turn of a year, and the leap second; computed by GNU date.
    for (text, seconds) in [
        ("2000-02-29T00:00:00Z", 951_782_400),
        ("2024-02-29T23:59:59Z", 1_709_251_199),
        ("2024-12-31T23:59:59Z", 1_735_689_599),
        ("2025-01-01T00:30:00+01:00", 1_735_687_800),
        ("2016-12-31T23:59:60Z", 1_483_228_800),
        ("1990-01-01T00:00:00Z", 631_152_000),
    ] {
        assert_eq!(time("iso8601", json!(text)), Ok(seconds * 1000), "{text}");
    }
    for text in [
        "2025-02-29T00:00:00Z",
        "2025-13-01T00:00:00Z",
        "2025-00-01T00:00:00Z",
        "2025-04-31T00:00:00Z",
        "2025-11-23T24:00:00Z",
        "2025-11-23T10:60:00Z",
        "2025-11-23T10:00:61Z",
        "2025-11-23T10:00:00",
        "2025-11-23T10:00:00.Z",
        "2025-11-23T10:00:00+0100",
        "2025-11-23T10:00:00+24:00",
        "2025-11-23",
        "2025-11-23T10:00Z",
        "25-11-23T10:00:00Z",
        "2025-11-23T10:00:00Z ",
        "now",
        "é",
    ] {
        let words = format!(
            "bad_time: /t: time `{text}` is not text of RFC 3339 such as \"2026-11-23T10:00:00.5Z\""
        );
        assert_eq!(time("iso8601", json!(text)), Err(words));
    }
    for (format, value, words) in [
        (
            "milliseconds",
            json!(1.5),
            "bad_time: /t: time `1.5` is not a whole number of milliseconds",
        ),
        (
            "milliseconds",
            json!("soon"),
            "bad_time: /t: time `soon` is not a whole number of milliseconds",
        ),
        (
            "milliseconds",
            json!(true),
            "wrong_type: /t: time is true, not a whole number of milliseconds",
        ),
        (
            "iso8601",
            json!(NOW),
            "wrong_type: /t: time is the number 1763892000123, not text of RFC 3339 such as \"2026-11-23T10:00:00.5Z\"",
        ),
        (
            "seconds",
            json!("1."),
            "bad_time: /t: time `1.` is not a number of seconds",
        ),
        (
            "microseconds",
            json!([1]),
            "wrong_type: /t: time is an array, not a whole number of microseconds",
        ),
        (
            "milliseconds",
            json!(0),
            "bad_time: /t: time `0`, read as milliseconds, is not in the years 1990 to 2099",
        ),
        (
            "milliseconds",
            json!(1_763_892_000),
            "bad_time: /t: time `1763892000`, read as milliseconds, is not in the years 1990 to 2099; it looks like seconds",
        ),
        (
            "seconds",
            json!(NOW),
            "bad_time: /t: time `1763892000123`, read as seconds, is not in the years 1990 to 2099; it looks like milliseconds",
        ),
        (
            "seconds",
            json!("1763892000123456.5"),
            "bad_time: /t: time `1763892000123456.5`, read as seconds, is not in the years 1990 to 2099; it looks like microseconds",
        ),
        (
            "microseconds",
            json!("99999999999999999999"),
            "bad_time: /t: time `99999999999999999999`, read as microseconds, is not in the years 1990 to 2099",
        ),
        (
            "iso8601",
            json!("2200-01-01T00:00:00Z"),
            "bad_time: /t: time `2200-01-01T00:00:00Z`, read as iso8601, is not in the years 1990 to 2099",
        ),
        (
            "iso8601",
            json!("1970-01-01T00:00:00Z"),
            "bad_time: /t: time `1970-01-01T00:00:00Z`, read as iso8601, is not in the years 1990 to 2099",
        ),
    ] {
        assert_eq!(time(format, value), Err(words.to_owned()));
    }
    let ahead = json!(NOW + 1_000_000_000);
    assert_eq!(
        time("milliseconds", ahead),
        Err(
            "ahead_of_time: /t: time 1764892000123 is 999999000 ms ahead of the log's clock"
                .to_owned()
        )
    );
}

/// Goal: kinds by value, by name, by constant; skipped or refused. Method: each sort of value against each sort of mapping.
#[test]
fn kinds_are_found_by_value() {
    let mapped = format!(
        "{FLAT}[source.behaviors.kinds]\n42 = \"click\"\ntrue = \"like\"\nTap = \"impression\"\n"
    );
    let kind =
        |toml: &str, value: Value| flat(toml, &[("k", value)]).map(|event| event["kind"].clone());
    for (value, name) in [
        (json!(42), "click"),
        (json!("42"), "click"),
        (json!(true), "like"),
        (json!("true"), "like"),
        (json!("Tap"), "impression"),
    ] {
        assert_eq!(kind(&mapped, value), Ok(json!(name)));
    }
    for (toml, value, words) in [
        (
            &*mapped,
            json!("click"),
            "unknown_kind: /k: kind `click` is not in source.behaviors.kinds",
        ),
        (
            &mapped,
            json!(7),
            "unknown_kind: /k: kind `7` is not in source.behaviors.kinds",
        ),
        (
            &mapped,
            json!(42.0),
            "wrong_type: /k: kind is the number 42.0, not text, a whole number or a truth",
        ),
        (
            &mapped,
            json!({}),
            "wrong_type: /k: kind is an object, not text, a whole number or a truth",
        ),
        (
            &mapped,
            json!(null),
            "missing_field: /k: kind is missing or null",
        ),
        (
            FLAT,
            json!("tap"),
            "unknown_kind: /k: kind `tap` is not in kinds.names",
        ),
    ] {
        assert_eq!(kind(toml, value), Err(words.to_owned()));
    }
    let constant =
        format!("{FLAT}[source.behaviors.constant]\nkind = \"like\"\nscenario = \"home\"\n");
    assert_eq!(kind(&constant, json!(null)), Ok(json!("like")));
    assert_eq!(kind(&constant, json!("click")), Ok(json!("click")));
    let scenario = flat(&constant, &[("s", json!(null))]).unwrap()["scenario"].clone();
    assert_eq!(scenario, json!("home"));
}

/// Goal: every other field is held to what the document says, in words that name the pointer. Method: one wrong thing at a time.
#[test]
fn every_failure_is_told_with_its_pointer() {
    let long = "x".repeat(257);
    for (field, pointer, key) in [
        ("user_id", "/u", "u"),
        ("item_id", "/i", "i"),
        ("scenario", "/s", "s"),
        ("event_id", "/e", "e"),
        ("request_id", "/r", "r"),
        ("attributes.author", "/a", "a"),
    ] {
        let refused = |value: Value| flat(FLAT, &[(key, value)]).unwrap_err();
        if key != "a" {
            assert_eq!(
                refused(json!(long)),
                format!("bad_id: {pointer}: {field} has 257 bytes, at most 256 are allowed")
            );
        }
        let sorts = [
            (json!(1.5), "the number 1.5"),
            (json!(1e300), "the number 1e+300"),
            (json!([]), "an array"),
            (json!(false), "false"),
        ];
        for (value, sort) in sorts {
            assert_eq!(
                refused(value),
                format!("wrong_type: {pointer}: {field} is {sort}, not text or a whole number")
            );
        }
        if key != "a" {
            assert_eq!(
                refused(json!("")),
                format!("bad_id: {pointer}: {field} is empty")
            );
        }
    }
    for (key, value, words) in [
        (
            "u",
            json!(null),
            "missing_field: /u: user_id is missing or null",
        ),
        (
            "s",
            json!(null),
            "missing_field: /s: scenario is missing or null",
        ),
        (
            "t",
            json!(null),
            "missing_field: /t: time is missing or null",
        ),
        (
            "p",
            json!(-1),
            "wrong_type: /p: position is the number -1, not a whole number from 0 on",
        ),
        (
            "p",
            json!("first"),
            "wrong_type: /p: position is the text `first`, not a whole number from 0 on",
        ),
        (
            "v",
            json!("dear"),
            "wrong_type: /v: value is the text `dear`, not a number",
        ),
        (
            "v",
            json!("NaN"),
            "bad_value: /v: value NaN is beyond 1000000000",
        ),
        (
            "v",
            json!(1e10),
            "bad_value: /v: value 10000000000 is beyond 1000000000",
        ),
        (
            "q",
            json!({}),
            "wrong_type: /q: query is an object, not text or a whole number",
        ),
    ] {
        assert_eq!(flat(FLAT, &[(key, value)]), Err(words.to_owned()));
    }
    assert_eq!(
        flat(FLAT, &[("u", json!(u64::MAX))]).unwrap()["user_id"],
        json!("18446744073709551615")
    );
    assert_eq!(
        flat(FLAT, &[("u", json!(-4))]).unwrap()["user_id"],
        json!("-4")
    );
    // Free text that is too long to count by groups nothing.
    let query = format!("[state]\nattributes = [\"author\", \"query\"]\n{FLAT}");
    let read = flat(&query, &[("q", json!(long)), ("a", json!(long))]).unwrap();
    assert_eq!(read["attributes"], json!(null), "{read}");
    assert_eq!(read["query"], json!(long), "{read}");
}

/// Goal: all or nothing, with the event's place; no array is no record, an empty one is no fault. Method: what may stand for the array.
#[test]
fn one_bad_event_rejects_its_record() {
    let decoder = decoder(DOCUMENTED);
    let good = json!({"action": {"code": 42}, "at": 1_763_892_000_123_456_i64});
    let with = |events: Value| {
        read(
            &decoder,
            &json!({"session": {"user": 1}, "batch": {"events": events}}),
        )
    };
    assert_eq!(with(json!([good, good])).unwrap().len(), 2);
    assert_eq!(with(json!([])).unwrap().len(), 0);
    for (events, words) in [
        (
            json!([good, {"action": {"code": 42}}]),
            "missing_field: event 1, /at: time is missing or null",
        ),
        (
            json!([good, 5]),
            "wrong_type: event 1: it is the number 5, not an object",
        ),
        (
            json!({}),
            "wrong_type: /batch/events: events is an object, not an array",
        ),
        (
            json!(null),
            "wrong_type: /batch/events: events is null, not an array",
        ),
    ] {
        assert_eq!(with(events), Err(words.to_owned()));
    }
    assert_eq!(
        read(&decoder, &json!({"session": {"user": 1}})),
        Err("missing_field: /batch/events: events is missing".to_owned())
    );
    assert_eq!(
        read(&super::decoder(FLAT), &json!([])),
        Err("wrong_type: the record is an array, not an object".to_owned())
    );
    let nobody = json!({"batch": {"events": [good]}});
    assert_eq!(
        read(&decoder, &nobody),
        Err("missing_field: event 0, ^/session/user: user_id is missing or null".to_owned())
    );
}

/// Goal: a small record cannot become much. Method: more events than an index can count, and a long text that every event takes.
#[test]
fn what_a_record_can_grow_to_is_bounded() {
    let big = format!("[step]\nrecord_max = \"1MiB\"\n{DOCUMENTED}");
    let many = vec![json!({}); 65_537];
    assert_eq!(
        read(&decoder(&big), &json!({"batch": {"events": many}})),
        Err(
            "too_large: /batch/events: 65537 events, at most 65536 are allowed in a record"
                .to_owned()
        )
    );
    let small = format!("[step]\nrecord_max = \"1KiB\"\n{DOCUMENTED}")
        .replace("event_id =", "query = \"^/q\"\nevent_id =");
    let event = json!({"action": {"code": 42}, "at": 1_763_892_000_123_456_i64});
    let record = json!({"q": "x".repeat(600), "session": {"user": 1}, "batch": {"events": [event, event, event, event, event]}});
    assert_eq!(read(&decoder(&small), &record).unwrap().len(), 5);
    let small = small.replace("1KiB", "2KiB");
    let events = vec![event; 30];
    let record = json!({"q": "x".repeat(600), "session": {"user": 1}, "batch": {"events": events}});
    assert_eq!(
        read(&decoder(&small), &record).unwrap_err(),
        "too_large: event 26, /batch/events: the events up to this one hold 16470 bytes, at most 8 times step.record_max are allowed"
    );
}
