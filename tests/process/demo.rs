//! The main job, as a person and as a script see it.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use headwater_config::Topic;
use serde_json::Value;

use crate::log::{open, records};
use crate::program::Place;
use headwater_tests::tiny_model::write_model;

/// Goal: the demo scores from its first seconds on, says once a second what it did, and both groups are shown items. Method: five seconds of it as
/// JSON; every line has counts, named percentiles and both rates, and they fit together.
#[test]
fn the_demo_tells_each_second() {
    let place = Place::new("");
    let ran = place.run(&["demo", "--for", "5s", "--format", "json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let seconds: Vec<Value> = ran
        .answer
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        seconds.last().unwrap()["second"].as_u64() >= Some(5),
        "{ran:?}"
    );
    for second in &seconds {
        let latency = |name| second["latency_ms"][name].as_f64().unwrap();
        assert!(
            latency("p50") <= latency("p95") && latency("p95") <= latency("p99"),
            "{second}"
        );
        for group in ["ranked", "random"] {
            let count = |name| second[group][name].as_f64().unwrap();
            let rate = count("clicked") / count("shown").max(1.0);
            assert!((count("rate") - rate).abs() < 1e-9, "{second}");
        }
    }
    let sum = |name: &str| -> u64 {
        seconds
            .iter()
            .map(|second| second[name].as_u64().unwrap())
            .sum()
    };
    assert!(sum("behaviors") > 0 && sum("answers") > 0, "{ran:?}");
    assert_eq!(sum("scores"), 20 * sum("answers"), "{ran:?}");
    let last = seconds.last().unwrap();
    assert!(last["ranked"]["shown"].as_u64() > Some(0), "{last}");
    assert!(last["random"]["shown"].as_u64() > Some(0), "{last}");
}

/// Goal: a demo that begins again in its folder goes on: nobody asks again what was asked before, for that would be a repetition. Method: twice in one folder; ids of all requests in its log.
#[test]
fn a_demo_goes_on_in_its_folder() {
    let place = Place::new("");
    let folder = place.state();
    let dir = folder.display().to_string();
    let mut asked = BTreeSet::new();
    let mut all = 0;
    for _ in 0..2 {
        let ran = place.run(&["demo", "--for", "3s", "--dir", &dir]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let requests = records(&open(&place.config()), Topic::ScoreRequests);
        assert!(requests.len() > all + 100, "{}", requests.len());
        all = requests.len();
        let ids = requests
            .iter()
            .map(|request| request["request_id"].to_string());
        asked.extend(ids);
        assert_eq!(asked.len(), all);
    }
}

/// Goal: the demo with texts embeds what its rows need, and says how far behind it is. Method: eight seconds of it with a small model; all items that were there
/// are embedded, and most lookups hit in the end.
#[test]
fn the_demo_with_texts_keeps_up() {
    let place = Place::new("");
    let folder = place.file().parent().unwrap().join("language");
    write_model(&folder, None);
    let model = folder.display().to_string();
    let ran = place.run(&["demo", "--text", &model, "--for", "8s", "--format", "json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let last: Value = serde_json::from_str(ran.answer.lines().last().unwrap()).unwrap();
    let texts = &last["texts"];
    assert!(texts["embedded"].as_u64() >= Some(1), "{last}");
    assert!(texts["items"].as_u64() > Some(400), "{last}");
    assert!(texts["hits"].as_f64() > Some(0.5), "{last}");
    let unknown = place.run(&["demo", "--set", "bogus=1", "--for", "1s"]);
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
    let nowhere = place.run(&["demo", "--text", "nowhere", "--for", "1s"]);
    assert_eq!(nowhere.code, Some(2), "{nowhere:?}");
}

/// Goal: the demo learns from what its users do, and has what it learned judged beside what scores; who scores is the baseline until one is better. Method: its lines are read until
/// two were judged. Whether one is promoted by then is chance: what there is to learn over the baseline is little.
#[test]
fn the_demo_learns_and_judges() {
    let place = Place::new("");
    let mut child = place
        .command(&["demo", "--for", "170s", "--format", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seconds = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let judged = seconds.find(|second| second["judged"].as_u64() >= Some(2));
    let second = judged.expect("nothing was judged in 170 s");
    let champion = second["champion"].as_str();
    assert!(
        champion.is_none_or(|name| name.starts_with("bahe-")),
        "{second}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}
