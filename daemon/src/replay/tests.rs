//! Replays over the embedded log, the daemon in the same process.

use std::io::Write as _;

use serde_json::{Value, json};

use super::*;

const START: i64 = 1_700_000_000_000;
const HOUR: i64 = 3_600_000;

fn config(folder: &std::path::Path, more: &str) -> Config {
    let text = format!(
        "log.kind = \"embedded\"\ntopics.partitions = 2\nadmin.address = \"\"\nstep.wait = \"1ms\"\nstate.path = \"{}\"\n{more}",
        folder.display()
    );
    Config::from_toml(&text).unwrap()
}

fn file(lines: &[Value]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for line in lines {
        writeln!(file, "{line}").unwrap();
    }
    file
}

fn replay(events: &tempfile::NamedTempFile) -> Replay {
    Replay {
        items: None,
        events: events.path().to_owned(),
        rate: None,
        running: false,
        deadlines: false,
        patience: Duration::from_secs(60),
        progress: false,
    }
}

fn run(replay: &Replay, config: &Config) -> (Summary, Result<(), ReplayError>) {
    replay.run(config, &AtomicBool::new(false))
}

fn behavior(number: i64, time: i64) -> Value {
    json!({"topic": "behaviors", "record": {"event_id": format!("e{number}"), "user_id": format!("u{}", number % 5), "item_id": "i1",
        "kind": "click", "scenario": "feed", "time": time}})
}

fn request(number: i64, time: i64) -> Value {
    json!({"topic": "score-requests", "record": {"request_id": format!("r{number}"), "user_id": format!("u{}", number % 5),
        "scenario": "feed", "time": time, "candidates": ["i1", "i2"], "deadline_ms": 100}})
}

/// A behavior and a request every `step` milliseconds.
fn history(step: i64, count: i64) -> Vec<Value> {
    (0..count)
        .flat_map(|number| {
            let time = START + number * step;
            [behavior(number, time), request(number, time + 1)]
        })
        .collect()
}

/// Goal: all that was recorded is counted and answered, however long ago and far apart it was, and deadlines do not count. Method: a month
/// of an event an hour in small steps, where requests of more than an hour before the newest behavior would be expired; then the same again.
#[test]
fn a_recording_is_counted_and_answered() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "step.records_max = 8");
    let items = file(&[json!({"item_id": "i1", "time": START, "categories": ["c"]})]);
    let events = file(&history(HOUR, 720));
    let mut first = replay(&events);
    first.items = Some(items.path().to_owned());
    let (summary, done) = run(&first, &config);
    done.unwrap();
    assert!(summary.complete);
    assert_eq!(
        (summary.behaviors, summary.requests, summary.items),
        (720, 720, 1)
    );
    assert_eq!(summary.found.answers, [("ok".to_owned(), 720)].into());
    assert_eq!((summary.found.scores, summary.missing), (1440, 0));
    assert!(summary.freshness_ms.is_some());
    assert_eq!(summary.daemon.unwrap().counted, 720);
    assert!(!summary.is_wrong(&config));

    // The topics know newer events: requests of an hour before are expired, and told so. Those of the last hour are not.
    let (again, done) = run(&replay(&events), &config);
    done.unwrap();
    let daemon = again.daemon.unwrap();
    assert_eq!(
        (daemon.counted + daemon.duplicates, again.missing),
        (720, 0)
    );
    assert!(again.found.answers["expired"] > 700, "{again:?}");
}

/// Goal: deadlines are kept where somebody wants them: recorded ones are over. Method: the same with them.
#[test]
fn deadlines_are_kept_on_demand() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "");
    let events = file(&history(1000, 20));
    let mut replay = replay(&events);
    replay.deadlines = true;
    let (summary, done) = run(&replay, &config);
    done.unwrap();
    assert_eq!(summary.found.answers, [("expired".to_owned(), 20)].into());
}

/// Goal: a bad line ends it, and what was before it is counted and told. Method: a request without candidates in the fifth line.
#[test]
fn a_bad_line_ends_it_where_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "scoring.on_behavior = \"item\"");
    let mut lines = history(1000, 3);
    lines[4]["record"]["kind"] = json!("wave");
    let events = file(&lines);
    let (summary, done) = run(&replay(&events), &config);
    let words = done.unwrap_err().to_string();
    assert!(words.contains("line 5: unknown_kind"), "{words}");
    assert!(!summary.complete);
    assert_eq!((summary.behaviors, summary.requests), (2, 2));
    assert_eq!(
        (summary.found.scores, summary.found.behavior_scores),
        (4, 2)
    );
    assert_eq!(summary.daemon.unwrap().counted, 2);
}

/// Goal: a daemon that runs is driven where that can be. Method: the embedded log, which nobody shares.
#[test]
fn a_running_daemon_on_the_embedded_log_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let events = file(&history(1000, 1));
    let mut replay = replay(&events);
    replay.running = true;
    let (_, done) = run(&replay, &config(folder.path(), ""));
    assert!(matches!(done, Err(ReplayError::Embedded)));
}

/// Goal: an output that is missing, or there twice where that must not be, makes a replay wrong. Method: each, in both modes.
#[test]
fn a_missing_output_is_wrong() {
    let exactly = Config::default_config();
    let at_least = Config::from_toml("kafka.delivery = \"at-least-once\"").unwrap();
    let mut summary = Summary {
        complete: true,
        ..Summary::default()
    };
    assert!(!summary.is_wrong(&exactly));
    summary.found.repeated = 1;
    assert!(summary.is_wrong(&exactly) && !summary.is_wrong(&at_least));
    summary.missing = 1;
    assert!(summary.is_wrong(&at_least));
}
