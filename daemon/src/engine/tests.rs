//! The engine's promises, on small made-up histories.

use headwater_config::Config;

use super::*;

const MINUTE: i64 = 60_000;
const START: i64 = 1_600_000_000_000;

fn config(more: &str) -> Config {
    let text = format!(
        "[scenarios]\nnames = [\"home\"]\n[tasks.click]\npositive = [\"click\"]\ntrials = [\"impression\"]\nscenarios = []\n{more}"
    );
    Config::from_toml(&text).unwrap()
}

fn behavior(user: &str, item: &str, kind: &str, time: i64) -> Vec<u8> {
    Behavior {
        user_id: user.to_owned(),
        item_id: Some(item.to_owned()),
        kind: kind.to_owned(),
        scenario: "home".to_owned(),
        time,
        ..Behavior::default()
    }
    .to_json()
}

fn request(id: &str, user: &str, time: i64, candidates: &[&str]) -> Vec<u8> {
    ScoreRequest {
        request_id: id.to_owned(),
        user_id: user.to_owned(),
        scenario: "home".to_owned(),
        time,
        candidates: candidates.iter().map(|&item| item.to_owned()).collect(),
        deadline_ms: None,
    }
    .to_json()
}

/// A made-up history: users, items, impressions, clicks, a few records out of order, a few of the same time.
fn history(records: u64) -> Vec<(Topic, Vec<u8>)> {
    let mut state = 1_u64;
    let mut draw = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut time = START;
    (0..records)
        .map(|number| {
            time += i64::try_from(draw(9_000)).unwrap() * i64::from(draw(3) > 0);
            let user = format!("u{}", draw(12));
            let item = format!("i{}", draw(9));
            let at = time - i64::from(draw(20) == 0) * 3 * MINUTE;
            match draw(4) {
                0 => {
                    let other = format!("i{}", draw(9));
                    let id = format!("r{number}");
                    let candidates = [item.as_str(), other.as_str(), "unheard-of"];
                    (Topic::ScoreRequests, request(&id, &user, at, &candidates))
                }
                1 => (Topic::Behaviors, behavior(&user, &item, "click", at)),
                _ => (Topic::Behaviors, behavior(&user, &item, "impression", at)),
            }
        })
        .collect()
}

fn play(mut engine: Engine, history: &[(Topic, Vec<u8>)]) -> (Vec<String>, usize) {
    let mut answers = Vec::new();
    let mut most = 0;
    for (topic, record) in history {
        if *topic == Topic::Behaviors {
            engine.ingest(record).unwrap();
        } else {
            engine.queue(record).unwrap();
        }
        engine.take_answers(|json| answers.push(scores(json)));
        most = most.max(engine.memory());
    }
    engine.step().unwrap();
    engine.take_answers(|json| answers.push(scores(json)));
    (answers, most)
}

/// What an answer says, less its freshness, which is as of the step.
fn scores(json: &[u8]) -> String {
    let mut answer = Answer::of_json(json);
    answer.freshness_ms = None;
    format!("{answer:?}")
}

/// Goal: how steps are cut changes nothing. Method: one history, out of order in places, stepped in ones, sevens and all at once; and
/// again with requests that count as impressions.
#[test]
fn answers_do_not_depend_on_how_steps_are_cut() {
    let history = history(4_000);
    for more in ["", "[scoring]\nrequests_are_impressions = true\n"] {
        let config = config(more);
        let (expected, _) = play(Engine::new(&config).unwrap(), &history);
        assert!(expected.len() > 500, "{}", expected.len());
        let distinct: std::collections::BTreeSet<_> = expected.iter().collect();
        assert!(distinct.len() > 500);
        for records in [1, 7, 5_000] {
            let engine = Engine::new(&config).unwrap().with_step_records(records);
            assert!(
                play(engine, &history).0 == expected,
                "{records} records a step"
            );
        }
    }
}

/// Goal: a program that asks one by one hears what a backtest hears. Method: `score` for each request of the same history.
#[test]
fn asking_one_by_one_gives_the_same_scores() {
    let history = history(2_000);
    let config = config("");
    let (expected, _) = play(Engine::new(&config).unwrap(), &history);
    let mut engine = Engine::new(&config).unwrap();
    let mut found = Vec::new();
    for (topic, record) in &history {
        if *topic == Topic::Behaviors {
            engine.ingest(record).unwrap();
        } else {
            let mut answer = engine.score(record).unwrap();
            answer.freshness_ms = None;
            found.push(format!("{answer:?}"));
        }
    }
    assert!(found == expected);
}

/// Goal: STATE-3. Method: a row's score before and after behaviors at its time and after it, on any item statistics too; then as of later.
#[test]
fn nothing_of_the_rows_time_or_later_is_seen() {
    let config = config("");
    let at = START + 100 * MINUTE;
    let row = |engine: &mut Engine, at| {
        engine.score(request("r", "u", at, &["i"])).unwrap().items[0].score
    };
    let mut engine = Engine::new(&config).unwrap();
    for minute in 0..50 {
        engine
            .ingest(behavior("u", "i", "impression", START + minute * MINUTE))
            .unwrap();
    }
    let before = row(&mut engine, at);
    for _ in 0..20 {
        engine.ingest(behavior("u", "i", "click", at)).unwrap();
        engine.ingest(behavior("other", "i", "click", at)).unwrap();
    }
    assert_eq!(row(&mut engine, at).to_bits(), before.to_bits());
    engine.ingest(behavior("u", "i", "click", at + 5)).unwrap();
    assert_eq!(row(&mut engine, at).to_bits(), before.to_bits());
    assert!(row(&mut engine, at + 2 * MINUTE) > before);
}

/// Goal: memory of users stays within its setting and changes no answer. Method: users of many items under 1 MiB, in memory and in a
/// folder, against all in memory.
#[test]
fn users_beyond_memory_lie_in_the_store() {
    let mut records = Vec::new();
    for round in 0..3 {
        for user in 0..150 {
            for item in 0..150 {
                let time = START + (round * 150 + user) * 1_000;
                let (user, item) = (format!("user-{user}"), format!("item-{item}-{}", user % 7));
                records.push((Topic::Behaviors, behavior(&user, &item, "click", time)));
            }
            let time = START + (round * 150 + user) * 1_000;
            let request = request(
                "r",
                &format!("user-{user}"),
                time,
                &["item-1-1", "item-2-2"],
            );
            records.push((Topic::ScoreRequests, request));
        }
    }
    let roomy = config("[state]\nmemory = \"1GiB\"\nrecent = 8\n");
    let tight = config("[state]\nmemory = \"1MiB\"\nrecent = 8\n");
    let (expected, most) = play(Engine::new(&roomy).unwrap(), &records);
    assert!(most > 2 << 20, "the history must not fit: {most}");
    let folder = tempfile::tempdir().unwrap();
    let engines = vec![
        Engine::new(&tight),
        Engine::in_folder(&tight, folder.path()),
    ];
    for engine in engines {
        let (found, most) = play(engine.unwrap(), &records);
        assert!(found == expected);
        assert!(most < 2 << 20, "{most}");
    }
}

/// Goal: bad records are refused with their reason and change nothing. Method: one of each sort, then a score that is as before.
#[test]
fn bad_records_are_refused_and_change_nothing() {
    let config = config("");
    let mut engine = Engine::new(&config).unwrap();
    engine
        .ingest(behavior("u", "i", "impression", START))
        .unwrap();
    let before = engine
        .score(request("r", "u", START + MINUTE, &["i"]))
        .unwrap();
    for (record, code) in [
        (behavior("u", "i", "dance", START), "unknown_kind"),
        (behavior("", "i", "click", START), "bad_id"),
        (behavior("u", "i", "click", 5), "bad_time"),
        (b"{".to_vec(), "unreadable"),
    ] {
        match engine.ingest(&record) {
            Err(EngineError::Refused(reject)) => assert_eq!(reject.code, code),
            other => panic!("{code}: {other:?}"),
        }
    }
    assert!(matches!(engine.item(b"[]"), Err(EngineError::Refused(_))));
    assert!(matches!(engine.score(b"{}"), Err(EngineError::Refused(_))));
    let after = engine
        .score(request("r", "u", START + MINUTE, &["i"]))
        .unwrap();
    assert_eq!(after, before);
}

/// Goal: what counts once is counted once, and said. Method: the same event id twice, and a behavior later than is allowed.
#[test]
fn duplicates_and_late_behaviors_are_told() {
    let mut engine = Engine::new(&config("[state]\nallowed_lateness = \"1h\"\n")).unwrap();
    let click = |event: &str, time| {
        Behavior {
            event_id: Some(event.to_owned()),
            user_id: "u".to_owned(),
            item_id: Some("i".to_owned()),
            kind: "click".to_owned(),
            scenario: "home".to_owned(),
            time,
            ..Behavior::default()
        }
        .to_json()
    };
    engine.ingest(click("a", START)).unwrap();
    engine.ingest(click("a", START)).unwrap();
    engine.ingest(click("b", START - 3_700_000)).unwrap();
    assert_eq!(engine.dropped("duplicate").unwrap(), 1);
    assert_eq!(engine.dropped("late").unwrap(), 1);
}

/// Goal: a standing request and one of many candidates have plain answers. Method: a ttl is answered once and says so; an answer
/// of several parts comes as one.
#[test]
fn odd_requests_are_answered() {
    let config = config("[step]\nanswer_max = \"1KiB\"\n");
    let mut engine = Engine::new(&config).unwrap();
    let standing = format!(
        "{{\"request_id\":\"s\",\"user_id\":\"u\",\"scenario\":\"home\",\"time\":{START},\"candidates\":[\"i\"],\"standing\":{{\"ttl\":\"1h\"}}}}"
    );
    let answer = engine.score(standing).unwrap();
    assert_eq!(
        (answer.status.as_str(), answer.degraded),
        ("ok", vec!["too_many_standing".to_owned()])
    );
    let ids: Vec<String> = (0..500).map(|number| format!("i{number}")).collect();
    let candidates: Vec<&str> = ids.iter().map(String::as_str).collect();
    let answer = engine.score(request("r", "u", START, &candidates)).unwrap();
    assert_eq!(answer.part, None);
    assert_eq!(answer.items.len(), 500);
    assert!(
        answer
            .items
            .iter()
            .zip(&ids)
            .all(|(item, id)| item.item_id == *id)
    );
    assert_eq!(
        engine.score(request("r", "u", START, &[])).unwrap().items,
        []
    );
}

/// Goal: where requests are impressions, a positive that no request led to does not count in its item's rate. Method: the same clicks
/// with and without their request, seen by another user.
#[test]
fn positives_without_a_request_had_no_trial() {
    let config = config("[scoring]\nrequests_are_impressions = true\n");
    let score = |clicks: bool, named: bool| {
        let mut engine = Engine::new(&config).unwrap();
        for number in 0..20 {
            let time = START + number * MINUTE;
            let id = format!("r{number}");
            let user = format!("u{number}");
            drop(
                engine
                    .score(request(&id, &user, time, &["i", "j"]))
                    .unwrap(),
            );
            if clicks {
                let mut click = Behavior {
                    user_id: user,
                    item_id: Some("i".to_owned()),
                    kind: "click".to_owned(),
                    scenario: "home".to_owned(),
                    time: time + 1_000,
                    ..Behavior::default()
                };
                click.request_id = named.then_some(id);
                engine.ingest(click.to_json()).unwrap();
            }
        }
        engine
            .score(request("last", "new", START + 60 * MINUTE, &["i"]))
            .unwrap()
            .items[0]
            .score
    };
    let none = score(false, false);
    assert!((score(true, false) - none).abs() < 1e-6);
    assert!(score(true, true) > 2.0 * none);
}
