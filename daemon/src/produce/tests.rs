//! Producing into an embedded log in memory.

use std::io::Write as _;

use headwater_consumers::log::local::{LocalLog, Options};
use headwater_consumers::partitioner::partition_of;

use super::*;
use crate::scan;

const PARTITIONS: i32 = 4;

fn config(more: &str) -> Config {
    Config::from_toml(&format!("topics.partitions = {PARTITIONS}\n{more}")).unwrap()
}

fn log(config: &Config) -> LocalLog {
    let log = LocalLog::in_memory(Options::new(unix_ms));
    crate::topics::create(config, &log).unwrap();
    log
}

fn file(lines: &[String]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for line in lines {
        writeln!(file, "{line}").unwrap();
    }
    file
}

fn produce(
    file: &tempfile::NamedTempFile,
    topic: Option<Topic>,
    config: &Config,
    log: &LocalLog,
) -> (Summary, Result<(), ProduceError>) {
    let produce = Produce {
        records: file.path().to_owned(),
        topic,
        rate: None,
        progress: false,
    };
    produce.run(config, log, &AtomicBool::new(false))
}

/// Partition, key and value of all records of a topic.
fn records(log: &LocalLog, topic: Topic) -> Vec<(i32, Option<String>, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut found = Vec::new();
    let whole = scan::whole(log, topic, "t").unwrap();
    scan::read(log, &whole, &mut |record| {
        found.push((
            record.at.partition,
            record.key.map(text),
            text(record.value.unwrap()),
        ));
    })
    .unwrap();
    found
}

fn click(user: &str) -> String {
    format!(
        r#"{{"user_id":"{user}","item_id":"i1","kind":"click","scenario":"feed","time":1700000000000}}"#
    )
}

fn request(user: &str) -> String {
    format!(
        r#"{{"request_id":"r","user_id":"{user}","scenario":"feed","time":1700000000000,"candidates":["i1"]}}"#
    )
}

fn item(id: &str) -> String {
    format!(r#"{{"item_id":"{id}","time":1700000000000}}"#)
}

/// Goal: each record lies where its owner looks for it, under its key, as it was. Method: a recording of all three topics, twenty keys each.
#[test]
fn records_go_to_their_owners() {
    let config = config("");
    let log = log(&config);
    let mut lines = Vec::new();
    for number in 0..20 {
        let name = format!("n{number}");
        for (topic, record) in [
            ("behaviors", click(&name)),
            ("score-requests", request(&name)),
            ("items", item(&name)),
        ] {
            lines.push(format!(r#"{{"topic":"{topic}","record":{record}}}"#));
        }
    }
    let (summary, done) = produce(&file(&lines), None, &config, &log);
    done.unwrap();
    assert!(summary.complete);
    assert_eq!(
        (
            summary.behaviors,
            summary.requests,
            summary.items,
            summary.events
        ),
        (20, 20, 20, 20)
    );
    for (topic, make) in [
        (Topic::Behaviors, click as fn(&str) -> String),
        (Topic::ScoreRequests, request),
        (Topic::Items, item),
    ] {
        let found = records(&log, topic);
        assert_eq!(found.len(), 20, "{topic:?}");
        for (partition, key, value) in found {
            let key = key.unwrap();
            assert_eq!(partition, partition_of(key.as_bytes(), PARTITIONS));
            assert_eq!(value, make(&key));
        }
    }
}

/// Goal: a line that cannot be used is named, and what was before it was sent. Method: a kind that is not configured in the third line; a
/// line of a topic that is no input.
#[test]
fn a_bad_line_ends_it_where_it_stands() {
    let config = config("");
    let log = log(&config);
    let lines = [
        click("u1"),
        String::new(),
        click("u2").replace("click", "wave"),
        click("u3"),
    ];
    let bad = file(&lines);
    let (summary, done) = produce(&bad, Some(Topic::Behaviors), &config, &log);
    let words = done.unwrap_err().to_string();
    assert!(
        words.contains(&format!("{}, line 3: unknown_kind", bad.path().display())),
        "{words}"
    );
    assert!(!summary.complete);
    assert_eq!(summary.records(), 1);
    let found = records(&log, Topic::Behaviors);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].1.as_deref(), Some("u1"));

    let other = file(&[r#"{"topic":"scores","record":{}}"#.to_owned()]);
    let words = produce(&other, None, &config, &log)
        .1
        .unwrap_err()
        .to_string();
    assert!(
        words.contains("line 1: topic `scores` is none of"),
        "{words}"
    );
}

const FOREIGN: &str = r#"
[source.behaviors]
mapped = true
events = "/events"
user_id = "/user"
kind = "/what"
time = "/at"
[source.behaviors.constant]
scenario = "feed"
"#;

/// Goal: a stranger's records are keyed by their user, and one of several users goes where nobody minds alone. Method: a topic keyed by
/// user, and one that is repartitioned.
#[test]
fn a_strangers_records_are_keyed_by_their_user() {
    let event = |user: &&str| format!(r#"{{"user":"{user}","what":"click","at":1700000000000}}"#);
    let of = |users: &[&str]| {
        let events: Vec<String> = users.iter().map(event).collect();
        format!(r#"{{"events":[{}]}}"#, events.join(","))
    };
    let lines = [of(&["a", "a"]), of(&[]), of(&["a", "b"])];
    let keyed = config(FOREIGN);
    let log_keyed = log(&keyed);
    let (summary, done) = produce(&file(&lines), Some(Topic::Behaviors), &keyed, &log_keyed);
    let words = done.unwrap_err().to_string();
    assert!(
        words.contains("line 3: events of `a` and of `b`"),
        "{words}"
    );
    assert_eq!((summary.behaviors, summary.events), (2, 2));
    let found = records(&log_keyed, Topic::Behaviors);
    assert!(found.contains(&(
        partition_of(b"a", PARTITIONS),
        Some("a".to_owned()),
        lines[0].clone()
    )));

    let mixed = config(&FOREIGN.replace("mapped = true", "mapped = true\nrepartition = true"));
    let log_mixed = log(&mixed);
    let (summary, done) = produce(&file(&lines), Some(Topic::Behaviors), &mixed, &log_mixed);
    done.unwrap();
    assert_eq!((summary.behaviors, summary.events), (3, 4));
}

/// Goal: a signal ends it in good order. Method: it has come before the first record.
#[test]
fn a_signal_ends_it() {
    let config = config("");
    let log = log(&config);
    let file = file(&[click("u1")]);
    let produce = Produce {
        records: file.path().to_owned(),
        topic: Some(Topic::Behaviors),
        rate: None,
        progress: false,
    };
    let (summary, done) = produce.run(&config, &log, &AtomicBool::new(true));
    done.unwrap();
    assert!(!summary.complete);
    assert_eq!(summary.records(), 0);
}
