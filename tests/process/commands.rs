//! The commands that look and mend: inspect, explain, dlq, topics.

use headwater_config::Topic;
use headwater_consumers::log::Log as _;
use headwater_consumers::log::local::LocalLog;
use serde_json::json;

use crate::log::{click, open, records, request, send};
use crate::program::{Place, until};

/// Goal: what the running daemon and the stopped one's folder say of a user is the same, and all that was counted: what was done, how
/// often, and where. Method: inspect before and after the stop, as a table and as JSON.
#[test]
fn inspect_shows_a_user_of_a_running_and_of_a_stopped_daemon() {
    let place = Place::new(
        "state.recent = 2\nstate.attributes = [\"query\"]\nscenarios.names = [\"feed\"]",
    );
    let config = place.config();
    {
        let log = open(&config);
        for event in 0..5 {
            send(
                &log,
                Topic::Behaviors,
                "u 1/ä",
                &click("u 1/ä", "i1", &format!("e{event}")),
            );
        }
    }
    let daemon = place.start(&[]);
    until("the behaviors to be counted", || {
        (daemon.metric("headwater_state_behaviors_folded_total") >= 5).then_some(())
    });
    let inspect = ["inspect", "user", "u 1/ä", "--format", "json"];
    let running = place.run(&[&inspect[..], &["--address", &daemon.address]].concat());
    assert_eq!(running.code, Some(0), "{running:?}");
    assert_eq!(
        running.json()["recent"].as_array().unwrap().len(),
        2,
        "{running:?}"
    );
    let count = &running.json()["history"][0]["entries"][0]["counts"][0];
    assert_eq!(
        (&count["count"], &count["kind"], &count["scenario"]),
        (&3.into(), &"click".into(), &"feed".into()),
        "{running:?}"
    );
    daemon.stop();

    let stopped = place.run(&inspect);
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
    assert_eq!(stopped.json(), running.json());
    let table = place.run(&["inspect", "user", "u 1/ä"]);
    assert!(
        table.answer.contains("history by item: 1 keys"),
        "{table:?}"
    );
    assert!(table.answer.contains("click 3"), "{table:?}");
    let nobody = place.run(&["inspect", "user", "nobody"]);
    assert_eq!(nobody.code, Some(2), "{nobody:?}");
}

/// Goal: inspect makes nothing. Method: a folder that is not there stays so.
#[test]
fn inspect_of_an_empty_place_makes_nothing() {
    let place = Place::new("");
    let ran = place.run(&["inspect", "user", "u1"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(!place.state().exists());
}

/// Goal: a dead letter is found, shown, and sent again once; and counts once, also when somebody insists. Method: a record of an unknown
/// kind and without an event id is sent again twice; then the kind is configured, and the letter counts.
#[test]
fn a_dead_letter_is_redriven_once_it_can_be_read() {
    let place = Place::new("");
    let config = place.config();
    let mut wave: serde_json::Value = serde_json::from_slice(&click("u1", "i1", "e1")).unwrap();
    wave["kind"] = "wave".into();
    wave.as_object_mut().unwrap().remove("event_id");
    let wave = wave.to_string();
    {
        let log = open(&config);
        send(&log, Topic::Behaviors, "u1", wave.as_bytes());
        send(&log, Topic::Behaviors, "u1", b"{");
    }
    let daemon = place.start(&[]);
    until("both to be dead letters", || {
        (daemon.metric("headwater_consumers_records_dead_lettered_total") >= 2).then_some(())
    });
    daemon.wait_ready();
    daemon.stop();

    let list = place.run(&["dlq", "list", "--format", "json"]);
    let letters: Vec<serde_json::Value> = list
        .answer
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut reasons: Vec<_> = letters
        .iter()
        .map(|letter| letter["reason"].as_str().unwrap())
        .collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["unknown_kind", "unreadable"], "{list:?}");
    assert!(
        letters
            .iter()
            .all(|letter| letter["topic"] == "headwater.behaviors"),
        "{list:?}"
    );

    let of_kind = place.run(&["dlq", "list", "--reason", "unknown_kind"]);
    assert!(
        of_kind.answer.contains("headwater.behaviors") && !of_kind.answer.contains("unreadable"),
        "{of_kind:?}"
    );
    let letter = letters
        .iter()
        .find(|letter| letter["reason"] == "unknown_kind")
        .unwrap();
    let id = letter["id"].as_str().unwrap();
    let shown = place.run(&["dlq", "show", id, "--format", "json"]);
    assert_eq!(shown.json()["value"], wave, "{shown:?}");

    let again = ["dlq", "redrive", "--reason", "unknown_kind"];
    let dry = place.run(&[&again[..], &["--dry-run"]].concat());
    assert!(dry.answer.contains("1 would be sent, 0 refused"), "{dry:?}");
    assert_eq!(records(&open(&config), Topic::Behaviors).len(), 2);
    let sent = place.run(&again);
    assert!(sent.answer.contains("1 sent, 0 refused"), "{sent:?}");
    assert_eq!(records(&open(&config), Topic::Behaviors).len(), 3);
    let refused = place.run(&["dlq", "redrive", id]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    let none_left = place.run(&again);
    assert_eq!(none_left.code, Some(2), "{none_left:?}");
    assert!(
        none_left.beside.contains("1 of 1 were refused"),
        "{none_left:?}"
    );
    let rest = place.run(&["dlq", "redrive", "--all", "--dry-run"]);
    assert_eq!(rest.code, Some(0), "{rest:?}");
    assert!(
        rest.answer.contains("1 would be sent, 1 refused"),
        "{rest:?}"
    );
    assert!(refused.beside.contains("sent again already"), "{refused:?}");
    let insisted = place.run(&["dlq", "redrive", id, "--again"]);
    assert_eq!(insisted.code, Some(0), "{insisted:?}");
    assert_eq!(records(&open(&config), Topic::Behaviors).len(), 4);
    let missing = place.run(&["dlq", "redrive", "0-999"]);
    assert_eq!(missing.code, Some(2), "{missing:?}");

    let daemon = place.start(&["--set", "kinds.names=impression,click,like,purchase,wave"]);
    until("the letter to be counted, and its repeat not to be", || {
        (daemon.metric("headwater_state_behaviors_folded_total") >= 1
            && daemon.metric("headwater_state_behaviors_dropped_total") >= 1)
            .then_some(())
    });
    let recent = &daemon.json("/users/u1")["recent"];
    assert_eq!(recent.as_array().unwrap().len(), 1, "{recent}");
    assert_eq!(recent[0]["kind"], "wave");
    daemon.stop();
}

/// Goal: an answer in parts is explained whole wherever the first look begins, and what a standing request says now beside what it said first. Method: two parts and then
/// so many records of others that the look begins between them; an answer and a newer standing one of the same request.
#[test]
fn explain_leaves_no_part_out() {
    let place = Place::new("");
    let log = open(&place.config());
    let part = |request: &str, part: u32, time: i64| {
        let record = json!({"request_id": request, "user_id": "u1", "scenario": "feed", "time": time, "status": "ok", "model": "baseline-1",
            "part": [part, 2], "items": [{"item_id": format!("i{part}"), "score": 0.5, "tasks": {}}]});
        record.to_string().into_bytes()
    };
    send(&log, Topic::Scores, "u1", &part("r1", 1, 1));
    send(&log, Topic::Scores, "u1", &part("r1", 2, 1));
    send(&log, Topic::StandingScores, "u1", &part("r1", 1, 2));
    for number in 0..9_999 {
        let other = json!({"request_id": format!("x{number}")}).to_string();
        send(&log, Topic::Scores, "u1", other.as_bytes());
    }
    drop(log);
    let found = place.run(&["explain", "r1", "--format", "json"]).json();
    let answers = found["answers"].as_array().unwrap().iter();
    let said: Vec<_> = answers
        .map(|answer| {
            let topic = answer["at"]["topic"].as_str().unwrap();
            (topic, answer["record"]["part"][0].as_u64().unwrap())
        })
        .collect();
    assert_eq!(said, [("scores", 1), ("scores", 2), ("standing_scores", 1)]);
}

/// Goal: MODEL-1, and a score is explained from a stopped daemon's topics and by a running daemon. Method: a request is answered; both ways
/// agree, and each score comes out the same to the bit.
#[test]
fn explain_finds_the_row_of_a_request() {
    let place = Place::new("");
    let config = place.config();
    {
        let log = open(&config);
        send(&log, Topic::Behaviors, "u1", &click("u1", "i1", "e1"));
        send(
            &log,
            Topic::ScoreRequests,
            "u1",
            &request("r1", "u1", &["i1", "i2"]),
        );
        let late = json!({"request_id": "r0", "user_id": "u1", "scenario": "feed", "time": headwater::now_ms() - 10_000,
            "candidates": ["i1"], "deadline_ms": 1});
        let late = late.to_string().into_bytes();
        send(&log, Topic::ScoreRequests, "u1", &late);
    }
    let daemon = place.start(&[]);
    until("the answers", || {
        (daemon.metric("headwater_consumers_requests_total") >= 2).then_some(())
    });
    let explain = ["explain", "r1", "--format", "json"];
    let running = until("the answer to be there", || {
        let ran = place.run(&[&explain[..], &["--address", &daemon.address]].concat());
        (ran.code == Some(0)).then(|| ran.json())
    });
    daemon.stop();
    let stopped = place.run(&explain);
    assert_eq!(stopped.json(), running);
    assert_eq!(running["answers"].as_array().unwrap().len(), 1, "{running}");
    let rows = &running["logged"][0]["rows"];
    assert_eq!(rows["candidates"], 2, "{running}");
    for row in rows["rows"].as_array().unwrap() {
        for score in row["scores"].as_array().unwrap() {
            assert_eq!(score["same"], true, "MODEL-1: {row}");
            let terms = score["terms"].as_array().unwrap().iter();
            let sum: f64 = terms.map(|term| term["log_odds"].as_f64().unwrap()).sum();
            assert!(
                (sum - score["log_odds"].as_f64().unwrap()).abs() < 1e-9,
                "{row}"
            );
        }
    }
    let one = place
        .run(&[&explain[..], &["--item", "i2"]].concat())
        .json();
    assert_eq!(
        one["logged"][0]["rows"]["rows"].as_array().unwrap().len(),
        1
    );
    assert_eq!(one["logged"][0]["rows"]["rows"][0]["item_id"], "i2");
    let table = place.run(&["explain", "r1"]);
    assert!(
        table
            .answer
            .contains("request r1 of user u1 in scenario feed: ok"),
        "{table:?}"
    );
    assert!(table.answer.contains("click.user.unmatched"), "{table:?}");
    assert!(table.answer.contains("the same to the bit"), "{table:?}");
    for (option, there, left_out) in [("--best=1", "i1", "i2"), ("--item=i2", "i2", "i1")] {
        let ran = place.run(&["explain", "r1", option]);
        let of_answer = ran.answer.split("\nrows at").next().unwrap();
        assert!(of_answer.contains(&format!("\n  {there} ")), "{ran:?}");
        assert!(!of_answer.contains(&format!("\n  {left_out} ")), "{ran:?}");
        assert!(of_answer.contains("(and 1 more)"), "{ran:?}");
    }
    let refused = place.run(&["explain", "r0"]);
    assert!(
        refused
            .answer
            .contains("no rows: an answer with the status expired has none"),
        "{refused:?}"
    );
    let unknown = place.run(&["explain", "r2"]);
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
}

/// Goal: no topic is made that a daemon would refuse. Method: the behaviors topic alone is there, with another count than is configured;
/// nothing is made and the counts are named; with its count all are.
#[test]
fn topics_of_another_count_than_the_behaviors_topic_are_not_made() {
    let place = Place::new("");
    let config = place.config();
    let spec = headwater::topics::specs(&config).find(|spec| spec.topic == Topic::Behaviors);
    let log = || {
        let options = headwater::daemon::local_options(&config);
        LocalLog::open(&config.log_path(), options).unwrap()
    };
    let mut spec = spec.unwrap();
    spec.partitions = 4;
    log().create(&spec).unwrap();
    let other = ["topics", "create", "--set", "topics.partitions=8"];
    for option in [&[][..], &["--dry-run"]] {
        let ran = place.run(&[&other, option].concat());
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.beside.contains("`headwater.behaviors`"), "{ran:?}");
        let counts = "has 4 partitions and topics.partitions is 8";
        assert!(ran.beside.contains(counts), "{ran:?}");
        assert!(ran.beside.contains("Set topics.partitions = 4"), "{ran:?}");
    }
    assert_eq!(log().describe(Topic::Items).unwrap(), None);
    assert_eq!(place.run(&["topics", "create"]).code, Some(0));
    // All are there: what is configured is for those to come, and that is said.
    let ran = place.run(&other);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for said in [
        "topics.partitions is 8",
        "headwater.behaviors has 4",
        "headwater.items has 4",
    ] {
        assert!(ran.beside.contains(said), "{ran:?}");
    }
    assert!(!ran.beside.contains("headwater.fleet"), "{ran:?}");
    let json = place
        .run(&[&other[..], &["--format", "json"]].concat())
        .json();
    let found = json
        .as_array()
        .unwrap()
        .iter()
        .find(|topic| topic["key"] == "items");
    let found = found.unwrap();
    assert_eq!(
        (&found["partitions"], &found["partitions_configured"]),
        (&4.into(), &8.into())
    );
    let ran = place.run(&["topics", "create"]);
    assert!(!ran.beside.contains("topics.partitions"), "{ran:?}");
}

/// Goal: topics are made once, and then found right. Method: create twice, as JSON.
#[test]
fn topics_are_made_and_found_right() {
    let place = Place::new("");
    let ran = place.run(&["topics", "create", "--format", "json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let topics = ran.json();
    assert_eq!(
        topics.as_array().unwrap().len(),
        13,
        "all but those of repartitioning and of texts, which are off"
    );
    assert!(
        topics
            .as_array()
            .unwrap()
            .iter()
            .all(|topic| topic["faults"].as_array().unwrap().is_empty())
    );
    let changelog = topics
        .as_array()
        .unwrap()
        .iter()
        .find(|topic| topic["key"] == "changelog")
        .unwrap();
    assert_eq!(
        (&changelog["cleanup_policy"], &changelog["partitions"]),
        (&"compact".into(), &4.into())
    );
}
