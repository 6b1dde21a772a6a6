//! Recorded records: sent into the log, and through the whole loop.

use std::io::Write as _;
use std::process::Stdio;

use headwater_config::Topic;

use crate::log::{click, open, records, request};
use crate::program::{Place, Ran, until};

/// A file of lines beside the configuration.
fn write(place: &Place, name: &str, lines: &[String]) -> String {
    let file = place.file().with_file_name(name);
    std::fs::write(&file, lines.join("\n") + "\n").unwrap();
    file.display().to_string()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Goal: what is produced is counted and answered by the daemon that starts after it. Method: a file of the envelope form, another by
/// standard input, a rate, and the summary as JSON.
#[test]
fn produced_records_are_counted() {
    let place = Place::new("");
    let mut lines: Vec<String> = (0..50)
        .map(|event| text(&click(&format!("u{event}"), "i1", &format!("e{event}"))))
        .map(|record| format!(r#"{{"topic":"behaviors","record":{record}}}"#))
        .collect();
    let asked = text(&request("r1", "u1", &["i1", "i2"]));
    lines.push(format!(r#"{{"topic":"score-requests","record":{asked}}}"#));
    let file = write(&place, "events.jsonl", &lines);
    let ran = place.run(&["produce", &file, "--rate", "5000", "--format", "json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let summary = ran.json();
    assert_eq!(
        (
            summary["behaviors"].as_u64(),
            summary["requests"].as_u64(),
            summary["complete"].as_bool()
        ),
        (Some(50), Some(1), Some(true)),
        "{summary}"
    );
    let mut child = place
        .command(&["produce", "--topic", "behaviors", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&click("u1", "i2", "more")).unwrap();
    drop(stdin);
    let ran = Ran::of(&child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.answer.contains("sent 1 behaviors"), "{ran:?}");

    let daemon = place.start(&[]);
    until("the behaviors to be counted", || {
        (daemon.metric("headwater_state_behaviors_folded_total") >= 51).then_some(())
    });
    assert_eq!(
        daemon.json("/users/u1")["recent"].as_array().unwrap().len(),
        2
    );
    assert_eq!(
        daemon.metric("headwater_consumers_records_misplaced_total"),
        0
    );
    // The embedded log is the daemon's while it runs.
    let ran = place.run(&["produce", &file]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(
        ran.beside.contains("stop the daemon there first"),
        "{ran:?}"
    );
    until("the answer", || {
        (daemon.metric("headwater_consumers_requests_total") >= 1).then_some(())
    });
    daemon.stop();
    assert_eq!(records(&open(&place.config()), Topic::Scores).len(), 1);
}

/// Goal: a line that cannot be used ends it with 2, names file and line, and says what was sent. Method: the third line is torn; a file that
/// is not there; a topic that is none.
#[test]
fn a_bad_line_is_named() {
    let place = Place::new("");
    let lines = [
        text(&click("u1", "i1", "e1")),
        text(&click("u2", "i1", "e2")),
        "{\"user_id\":".to_owned(),
        text(&click("u3", "i1", "e3")),
    ];
    let file = write(&place, "clicks.jsonl", &lines);
    let ran = place.run(&["produce", "--topic", "behaviors", &file]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(
        ran.beside.contains("clicks.jsonl, line 3: unreadable"),
        "{ran:?}"
    );
    assert!(
        ran.beside.contains("the lines before it were sent"),
        "{ran:?}"
    );
    assert!(ran.answer.contains("sent 2 behaviors"), "{ran:?}");
    assert_eq!(records(&open(&place.config()), Topic::Behaviors).len(), 2);

    let ran = place.run(&["produce", "/nowhere/clicks.jsonl"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.beside.contains("/nowhere/clicks.jsonl"), "{ran:?}");
    let ran = place.run(&["produce", "--topic", "scores", &file]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(
        ran.beside.contains("behaviors, score-requests, items"),
        "{ran:?}"
    );
}

/// Goal: a replay tells what came of it, and how it went, by its exit code. Method: two clicks and a request on the embedded log, as JSON; then
/// once more for people; then with a daemon there already.
#[test]
fn a_replay_tells_what_came_of_it() {
    let place = Place::new("");
    let of = |topic: &str, record: &[u8]| {
        let record = text(record);
        format!(r#"{{"topic":"{topic}","record":{record}}}"#)
    };
    let lines = [
        of("behaviors", &click("u1", "i1", "e1")),
        of("behaviors", &click("u2", "i2", "e2")),
        of("score-requests", &request("r1", "u1", &["i1", "i2", "i3"])),
    ];
    let events = write(&place, "events.jsonl", &lines);
    let item = r#"{"item_id":"i1","time":1700000000000}"#.to_owned();
    let items = write(&place, "items.jsonl", &[item]);
    let replay = ["replay", "--events", &events];
    let more = ["--items", &items, "--format", "json"];
    let ran = place.run(&[&replay[..], &more].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let summary = ran.json();
    assert_eq!(summary["answers"]["ok"], 1, "{summary}");
    assert_eq!(summary["scores"], 3, "{summary}");
    assert_eq!(summary["daemon"]["counted"], 2, "{summary}");
    assert_eq!(
        (&summary["missing"], &summary["complete"]),
        (&0.into(), &true.into())
    );
    assert!(
        summary["freshness_ms"]["p50"].as_f64().unwrap() > 0.0,
        "{summary}"
    );
    let ran = place.run(&[&replay[..], &["--rate", "1000"]].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.answer.contains("2 duplicates"), "{ran:?}");
    assert!(ran.answer.contains("every request was answered"), "{ran:?}");

    let daemon = place.start(&[]);
    assert_eq!(place.run(&replay).code, Some(3));
    let ran = place.run(&[&replay[..], &["--running"]].concat());
    assert_eq!(ran.code, Some(2), "{ran:?}");
    daemon.stop();
}
