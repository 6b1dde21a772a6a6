//! What decoding promises, record by record: of Headwater's own form here, of a stranger's in [`foreign`].

use headwater_config::Config;
use headwater_state::{FixedSum, KindId, ScenarioId, SlotId, Timestamp};

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
    assert_eq!(behavior.value, Some(FixedSum::of(2.5)));
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
}

/// Goal: free text that is too long to count by is no reason to lose a behavior. Method: an attribute and a query of 256 and of 257 bytes, in our own form.
#[test]
fn a_long_attribute_groups_nothing() {
    let decoder = decoder("[state]\nattributes = [\"author\", \"query\"]\n");
    for (length, kept) in [(256, 2), (257, 0)] {
        let text = "x".repeat(length);
        let record = format!(
            r#"{{"user_id":"u","kind":"click","scenario":"feed","time":{NOW},"query":"{text}","attributes":{{"author":"{text}"}}}}"#
        );
        let read = decoder.behavior(Some(record.as_bytes()), NOW).unwrap();
        assert_eq!(read.attributes.len(), kept, "{length}");
    }
}

/// Goal: what is said names what is wrong, in the words of records and not of this code. Method: what is no object, an empty candidate and
/// a bad span, one at a time.
#[test]
fn what_is_said_is_of_records() {
    let decoder = decoder("");
    let told = |fields: &str| {
        let text =
            format!(r#"{{"request_id":"r","user_id":"u","scenario":"s","time":{NOW},{fields}}}"#);
        match decoder.request(Some(text.as_bytes())) {
            Ok(_) => "read".to_owned(),
            Err(reject) => said(&reject),
        }
    };
    assert_eq!(
        told(r#""candidates":["i",""]"#),
        "bad_id: candidates[1] is empty"
    );
    for ttl in [r#""soon""#, "true", "1.5", r#""-1s""#, "[]"] {
        let told = told(&format!(r#""candidates":["i"],"standing":{{"ttl":{ttl}}}"#));
        let words = "wrong_type: standing.ttl is neither a number of milliseconds nor a span such as \"10m\"";
        assert!(told.starts_with(words), "{ttl}: {told}");
    }
    for other in ["7", "null", "\"text\"", "[]", "[1]", "[\"e\",\"u\"]"] {
        let bytes = other.as_bytes();
        for reject in [
            decoder.behaviors(Some(bytes), NOW).unwrap_err(),
            decoder.request(Some(bytes)).unwrap_err(),
            decoder.item(None, bytes, NOW).unwrap_err(),
        ] {
            assert_eq!(
                said(&reject),
                "wrong_type: the record is not an object",
                "{other}"
            );
        }
    }
}

/// Goal: PIPE-2: what JSON can hold that is no record is refused in words, and what only looks odd is read. Method: a good record with one
/// thing put into it, by hand, since no library writes these; at every cut, and with every byte changed, it is read or refused.
#[test]
fn odd_json_is_read_or_refused() {
    let decoder = decoder("[step]\nrecord_max = \"8MiB\"\n[state]\nattributes = [\"author\"]\n");
    let good =
        format!(r#"{{"user_id":"u","item_id":"i","kind":"click","scenario":"s","time":{NOW}}}"#);
    let read = |text: &[u8]| match decoder.behaviors(Some(text), NOW) {
        Ok(_) => "read".to_owned(),
        Err(reject) => reject.code.to_owned(),
    };
    let with = |field: &str| {
        let text = format!("{},{field}}}", good.strip_suffix('}').unwrap());
        read(text.as_bytes())
    };
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    for (code, field) in [
        ("read", r#""theirs":"\ud800""#),
        ("read", r#""theirs":{"a":1,"a":2}"#),
        ("read", r#""theirs":1e999"#),
        ("read", &format!(r#""theirs":{}"#, deep(100_000))),
        ("read", r#""event_id":"\u0000""#),
        ("read", r#""event_id":"\ud83d\ude00 \u202e""#),
        ("read", r#""value":-0.0"#),
        ("read", r#""value":1e-999"#),
        ("read", r#""attributes":{"author":"a","author":"b"}"#),
        ("read", r#""attributes":null"#),
        ("unreadable", r#""event_id":"\ud800""#),
        ("unreadable", r#""event_id":"\ud800x""#),
        ("unreadable", "\"event_id\":\"a\u{1}\""),
        ("unreadable", r#""value":NaN"#),
        ("unreadable", r#""value":Infinity"#),
        ("unreadable", r#""value":-Infinity"#),
        ("unreadable", r#""value":1e999"#),
        ("unreadable", r#""value":-1e999"#),
        ("unreadable", r#""value":01"#),
        ("unreadable", r#""attributes":{"author":"\udc00"}"#),
        (
            "unreadable",
            &format!(r#""attributes":{{"author":{}}}"#, deep(100_000)),
        ),
        ("bad_value", r#""value":1e300"#),
        ("wrong_type", r#""value":"NaN""#),
        ("wrong_type", r#""value":"1""#),
        ("wrong_type", r#""value":[1]"#),
        ("wrong_type", r#""event_id":7"#),
        ("wrong_type", r#""event_id":{"$oid":"7"}"#),
        ("wrong_type", r#""request_id":7"#),
        ("wrong_type", r#""user_id":"v""#),
        ("wrong_type", r#""time":1763892000123"#),
        ("wrong_type", r#""attributes":[]"#),
        ("bad_id", r#""event_id":"""#),
        ("bad_id", r#""request_id":"""#),
        ("bad_id", &format!(r#""request_id":"{}""#, "x".repeat(257))),
        ("read", &format!(r#""request_id":"{}""#, "x".repeat(256))),
    ] {
        assert_eq!(with(field), code, "{}", &field[..field.len().min(80)]);
    }
    let twice = good.replacen("\"kind\"", "\"user_id\":\"v\",\"kind\"", 1);
    let twice = decoder.behaviors(Some(twice.as_bytes()), NOW).unwrap_err();
    assert!(
        said(&twice).starts_with("wrong_type: duplicate field `user_id` at line 1"),
        "{twice}"
    );
    let time = |time: &str| read(good.replace(&NOW.to_string(), time).as_bytes());
    for (code, text) in [
        ("wrong_type", "1763892000123.0"),
        ("wrong_type", "1.763892e12"),
        ("wrong_type", "99999999999999999999"),
        ("wrong_type", "true"),
        ("bad_time", "-1"),
        ("bad_time", "-9223372036854775808"),
        ("bad_time", "9223372036854775807"),
        ("bad_time", "631151999999"),
        ("read", "631152000000"),
    ] {
        assert_eq!(time(text), code, "{text}");
    }
    let array = format!(r#"["e","u","i","click","s",{NOW}]"#);
    for (code, text) in [
        ("missing_field", "{}"),
        ("wrong_type", "null"),
        ("wrong_type", "7"),
        ("wrong_type", "\"text\""),
        ("wrong_type", "[]"),
        ("wrong_type", &*array),
        ("unreadable", ""),
        ("unreadable", " "),
        ("unreadable", &format!("{good}{good}")),
        ("unreadable", &format!("\u{feff}{good}")),
        ("wrong_type", &deep(100_000)),
        ("unreadable", &"[".repeat(1000)),
        ("unreadable", r#"{"user_id":7,"#),
        ("unreadable", r#"{"user_id":[[[["#),
        ("read", &format!("\n\t {good}\r\n")),
    ] {
        assert_eq!(
            read(text.as_bytes()),
            code,
            "{}",
            &text[..text.len().min(80)]
        );
    }
    for at in 0..good.len() {
        assert_ne!(read(&good.as_bytes()[..at]), "read", "cut at {at}");
        for byte in [0, b'"', b'\\', b'{', b'9', 0x80, 0xff] {
            let mut changed = good.clone().into_bytes();
            changed[at] = byte;
            drop(read(&changed));
        }
    }
}

/// Goal: an item record that would harm every behavior on the item is refused with the field's name. Method: a good record with one thing
/// changed at a time.
#[test]
fn odd_items_are_read_or_refused() {
    let decoder = decoder("[items]\nattributes = [\"author\"]\n");
    let good = serde_json::json!({"item_id": "i", "time": NOW, "categories": ["a"], "fields": {"author": "x"}, "numeric": {"price": 1}});
    let told = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut record = good.clone();
        change(&mut record);
        let text = record.to_string().replace("\"1e999\"", "1e999");
        match decoder.item(Some(b"i"), text.as_bytes(), NOW) {
            Ok(_) => "read".to_owned(),
            Err(reject) => said(&reject),
        }
    };
    let long = "x".repeat(257);
    let many: Vec<String> = (0..257).map(|number| number.to_string()).collect();
    assert_eq!(told(&|_| {}), "read");
    assert_eq!(
        told(&|record| record["fields"]["title"] = long.clone().into()),
        "read"
    );
    assert_eq!(
        told(&|record| record["fields"]["author"] = "".into()),
        "read"
    );
    for key in ["categories", "fields", "numeric"] {
        assert_eq!(
            told(&|record| record[key] = serde_json::Value::Null),
            "read"
        );
    }
    assert_eq!(
        told(&|record| record["categories"] = many[..256].into()),
        "read"
    );
    assert_eq!(
        told(&|record| record["categories"] = many.clone().into()),
        "bad_value: 257 categories, at most 256 are allowed"
    );
    assert_eq!(
        told(&|record| record["fields"]["author"] = long.clone().into()),
        "read"
    );
    assert_eq!(
        told(&|record| record["categories"] = [long.clone()][..].into()),
        "bad_id: categories[0] has 257 bytes, at most 256 are allowed"
    );
    assert_eq!(
        told(&|record| record["item_id"] = "j".into()),
        "key_differs: item_id `j` is not the record's key"
    );
    assert!(
        told(&|record| record["numeric"]["price"] = "1e999".into())
            .starts_with("unreadable: number out of range")
    );
    assert!(told(&|record| record["time"] = 0.into()).starts_with("bad_time: "));
    let array = format!(r#"["i",{NOW}]"#);
    let reject = decoder.item(Some(b"i"), array.as_bytes(), NOW).unwrap_err();
    assert_eq!(reject.code, "wrong_type");
}

/// Goal: what a rejected record is told of is short, whatever it quotes. Method: texts of a megabyte where a number must stand, of letters of
/// several bytes.
#[test]
fn what_is_said_is_short() {
    let decoder = decoder("");
    for letter in ["x", "\u{20ac}", "\\n"] {
        let text = format!(
            r#"{{"user_id":"u","kind":"click","scenario":"s","time":"{}"}}"#,
            letter.repeat(300_000)
        );
        let reject = decoder.behaviors(Some(text.as_bytes()), NOW).unwrap_err();
        assert!(reject.detail.len() <= 520, "{}", reject.detail.len());
        assert!(
            reject.detail.starts_with("invalid type: string \""),
            "{reject}"
        );
        assert!(
            reject.detail.contains("expected i64 at line 1 column"),
            "{reject}"
        );
    }
}
