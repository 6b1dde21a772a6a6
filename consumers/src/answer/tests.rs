//! The forms of what is published, and that none of it is larger than a topic takes.

use headwater_config::Config;
use headwater_state::ItemTable;
use proptest::prelude::*;

use super::*;
use crate::assemble::Row;
use crate::json::json_length;

/// A task that holds everywhere, and one that does not.
const TASKS: &str = "[scenarios]\nnames = [\"feed\", \"cart\"]\n[tasks.click]\npositive = [\"click\"]\ntrials = [\"impression\"]\nscenarios = []\n\
                     [tasks.buy]\npositive = [\"purchase\"]\ntrials = [\"click\"]\nscenarios = [\"cart\"]\n";

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/answer/golden.txt");

/// A record in words: topic, key, headers, value.
fn line(record: &Record<'_>) -> String {
    let text = |bytes: Option<&[u8]>| match bytes {
        Some(bytes) => bytes.escape_ascii().to_string(),
        None => "-".to_owned(),
    };
    let headers: Vec<String> = record
        .headers
        .iter()
        .map(|(name, value)| format!("{name}={}", text(value)))
        .collect();
    let topic = record.at.topic.key();
    let (key, value) = (text(record.key), text(record.value));
    format!("{topic} {key} [{}] {value}\n", headers.join("; ")).replace("\\\"", "\"")
}

fn rejected<'a>(
    batch: &'a mut RecordBatch,
    key: &[u8],
    value: Option<&[u8]>,
    headers: &[(&str, &[u8])],
) -> Record<'a> {
    batch.clear();
    let headers = headers.iter().map(|(name, value)| (*name, Some(*value)));
    batch.push(
        TopicPartition::new(Topic::Behaviors, 3),
        (17, 5),
        Some(key),
        value,
        headers,
    );
    batch.get(0)
}

fn dead_letter(record: &Record<'_>, code: &'static str) -> RecordBatch {
    let reject = Reject {
        code,
        detail: "what is wrong".to_owned(),
    };
    let mut letters = RecordBatch::default();
    push_dead_letter(
        &mut letters,
        1,
        "shop.behaviors",
        record,
        &reject,
        Timestamp(1_700_000_000_000),
    );
    letters
}

/// Goal: readers of answers and dead letters find what they always found. Method: one of each sort against the golden file, which `BLESS=1`
/// writes again.
#[test]
fn forms_are_golden() {
    let mut assembler = Assembler::new(&Config::from_toml(TASKS).unwrap()).unwrap();
    let mut scores = Scores::default();
    let candidates = ["i\"1", "i2"];
    let scenario = ScenarioId::of("feed");
    let row = Row {
        user_id: "u",
        user: None,
        pseudonym: None,
        scenario_name: "feed",
        scenario,
        time: Timestamp(1_700_000_000_000),
        candidates: &candidates,
    };
    assembler.score(&row, &ItemTable::default(), &mut scores);
    let items = ScoredItems {
        candidates: &candidates,
        first: 0,
        scores: &scores,
        assembler: &assembler,
        scenario,
        order: None,
    };
    let answer = Answer {
        request_id: "r1",
        user_id: "u1",
        scenario: "feed",
        time: 1_700_000_000_000,
        status: "ok",
        model: "baseline-1",
        part: Some([1, 2]),
        items,
        state: StatePosition {
            topic: "shop.behaviors",
            partition: 3,
            offset: 18,
        },
        item_state: 42,
        embeddings: None,
        freshness_ms: Some(250),
        degraded: &["unknown_scenario"],
    };
    let refused = Answer {
        status: "expired",
        part: None,
        items: ScoredItems {
            candidates: &[],
            ..items
        },
        freshness_ms: None,
        degraded: &[],
        ..answer
    };
    let mut batch = RecordBatch::default();
    for answer in [answer, refused] {
        let headers = [
            (HEADER_ID, Some(&b"shop.score-requests-3-7"[..])),
            (HEADER_MODEL, Some(b"baseline-1")),
            (HEADER_SCHEMA, Some(b"00ff")),
        ];
        let mut value = Vec::new();
        answer.write(&mut value);
        let at = TopicPartition::new(Topic::Scores, 3);
        batch.push(at, (0, 0), Some(b"u1"), Some(&value), headers);
    }
    let mut input = RecordBatch::default();
    let whole = rejected(
        &mut input,
        b"u1",
        Some(b"{"),
        &[("trace", b"t"), ("headwater-id", b"forged")],
    );
    let mut lines: String = batch.iter().map(|record| line(&record)).collect();
    lines.push_str(&line(&dead_letter(&whole, "unreadable").get(0)));
    lines.push_str(&line(
        &dead_letter(&rejected(&mut input, b"u1", None, &[]), "null_value").get(0),
    ));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(GOLDEN, &lines).unwrap();
    }
    assert_eq!(lines, std::fs::read_to_string(GOLDEN).unwrap());
}

/// Goal: answers are JSON, whatever their texts are, and what is absent is not said. Method: an answer of all there is, with texts
/// that need escapes, and one of as little as possible, read back.
#[test]
fn an_answer_reads_back() {
    let assembler = Assembler::new(&Config::from_toml("").unwrap()).unwrap();
    let text = "\"q\\\" \n\u{1} ü";
    let mut answer = Answer {
        request_id: text,
        user_id: text,
        scenario: text,
        time: -5,
        status: "ok",
        model: "baseline-1",
        part: Some([2, 3]),
        items: ScoredItems {
            candidates: &[],
            first: 0,
            scores: &Scores::default(),
            assembler: &assembler,
            scenario: ScenarioId(1),
            order: None,
        },
        state: StatePosition {
            topic: "t",
            partition: 7,
            offset: i64::MAX,
        },
        item_state: 9,
        embeddings: Some(headwater_state::EncoderId([0xab; 16])),
        freshness_ms: Some(-1),
        degraded: &["late", "history_forgotten"],
    };
    let read = |answer: &Answer<'_>| {
        let mut bytes = Vec::new();
        answer.write(&mut bytes);
        serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()
    };
    let state = serde_json::json!({"topic": "t", "partition": 7, "offset": i64::MAX});
    let mut expected = serde_json::json!({
        "request_id": text, "user_id": text, "scenario": text, "time": -5, "status": "ok", "model": "baseline-1", "part": [2, 3],
        "items": [], "state": state, "item_state": 9, "embeddings": "abababababababababababababababab", "freshness_ms": -1, "degraded": ["late", "history_forgotten"],
    });
    assert_eq!(read(&answer), expected);
    answer.part = None;
    answer.freshness_ms = None;
    answer.degraded = &[];
    for absent in ["part", "freshness_ms", "degraded"] {
        expected.as_object_mut().unwrap().remove(absent);
    }
    assert_eq!(read(&answer), expected);
}

/// Goal: PIPE-2 and LIMIT-1: a dead letter fits into its topic, whatever of a record is large, and says what it lacks. Method: a large
/// value, key, header, and many headers; then the largest that is kept whole.
#[test]
fn dead_letters_are_bounded() {
    let large = vec![b'x'; 50_000_000];
    let mut input = RecordBatch::default();
    let sha = "sha256=";
    for (key, value, headers, says) in [
        (&b"k"[..], Some(&large[..]), vec![], "bytes=50000000"),
        (
            &large[..],
            Some(&b"{"[..]),
            vec![],
            "bytes=1 key_bytes=50000000",
        ),
        (
            b"k",
            Some(b"{"),
            vec![("h", &large[..])],
            "bytes=1 headers_left_out=1",
        ),
        (
            b"k",
            None,
            vec![("h", &large[..100_000]); 20],
            "no value headers_left_out=20",
        ),
    ] {
        let record = rejected(&mut input, key, value, &headers);
        for code in ["unreadable", "too_large"] {
            let letters = dead_letter(&record, code);
            assert!(
                letters.bytes() < RECORD_BYTES_MAX,
                "{says}: {}",
                letters.bytes()
            );
            let letter = letters.get(0);
            let cut =
                String::from_utf8(letter.headers.get("headwater-cut").unwrap().to_vec()).unwrap();
            assert!(
                cut.ends_with(says) && (value.is_none() || cut.starts_with(sha)),
                "{cut}"
            );
            assert!(key.starts_with(letter.key.unwrap()));
            let kept = letter.value.map(<[u8]>::len);
            assert_eq!(kept, value.map(|value| value.len().min(64 * 1024)));
        }
    }
    let record = rejected(&mut input, b"k", Some(&large[..890_000]), &[]);
    let letters = dead_letter(&record, "unreadable");
    assert_eq!(letters.get(0).value.map(<[u8]>::len), Some(890_000));
    assert!(letters.get(0).headers.get("headwater-cut").is_none());
}

proptest! {
    /// Goal: the estimate of an answer's length counts escapes as serde writes them. Method: any text against its JSON.
    #[test]
    fn lengths_are_those_of_json(text in any::<String>()) {
        let json = serde_json::to_string(&text).unwrap();
        prop_assert_eq!(json_length(&text) + 2, json.len());
    }

    /// Goal: parts hold everything once, in order, and no part is too long that could be shorter. Method: any lengths.
    #[test]
    fn parts_are_bounded(lengths in proptest::collection::vec(0..50usize, 0..60), most in 1..120usize) {
        let parts = parts(lengths.iter().copied(), most);
        prop_assert_eq!(parts.first().map(|part| part.start), Some(0));
        prop_assert_eq!(parts.last().map(|part| part.end), Some(lengths.len()));
        prop_assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
        for part in parts {
            let held: usize = lengths[part.clone()].iter().sum();
            prop_assert!(held <= most || part.len() == 1);
            prop_assert!(!part.is_empty() || lengths.is_empty());
        }
    }
}
