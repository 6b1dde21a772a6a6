//! Models that come to score while a daemon runs.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use headwater::champion::{promote, put_on_trial, retire, roll_back};
use headwater_config::Topic;
use serde_json::{Value, json};

use crate::fleet::{shared_log, start};
use crate::log::{records, send};
use crate::program::{get, until};
use crate::train::train;
use crate::trained::trained;

/// Goal: models that look at texts become champions of a daemon that runs, one after the other, and are gone back from, without a restart: every request has an answer, by one model; what was made before is there at once
/// when it comes back. Method: one with deep layers and one with means, promoted, rolled back and retired beside a daemon that is asked all the while; neither can be tried, for nobody else's rows have its vectors.
#[test]
fn champions_that_look_at_texts_take_over_while_it_runs() {
    let trained = trained("deep");
    let place = &trained.place;
    let mean = PathBuf::from(format!("{}-mean", trained.model));
    let more = ["--texts", "mean", "--passes", "6", "--layers", "1"];
    let ran = train(place, &trained.recordings, &mean, &more);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let deep = PathBuf::from(&trained.model);

    let config = place.config();
    let log = shared_log(&config);
    for item in fs::read_to_string(&trained.recordings[0]).unwrap().lines() {
        let id: Value = serde_json::from_str(item).unwrap();
        let id = id["item_id"].as_str().unwrap();
        send(&*log, Topic::Items, id, item.as_bytes());
    }
    for line in fs::read_to_string(&trained.recordings[1]).unwrap().lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        if event["topic"] == "behaviors" {
            let (record, user) = (&event["record"], &event["record"]["user_id"]);
            let (value, user) = (record.to_string(), user.as_str().unwrap());
            send(&*log, Topic::Behaviors, user, value.as_bytes());
        }
    }
    let daemon = start(&config, &log);
    until("it to be ready", || daemon.ready().ready.then_some(()));
    let address = daemon.address().unwrap().to_string();
    let mut asked = 0;
    let mut ask = || {
        asked += 1;
        let id = format!("r{asked}");
        let record = json!({"request_id": id, "user_id": "u7", "scenario": "home", "time": 1_700_000_900_000_i64, "candidates": ["ia", "ib"]});
        send(
            &*log,
            Topic::ScoreRequests,
            "u7",
            record.to_string().as_bytes(),
        );
        until("an answer", || {
            let all = records(&*log, Topic::Scores);
            all.into_iter()
                .rfind(|answer| answer["request_id"] == id.as_str())
        })
    };
    let scoring = |name: &Value| {
        until("it to score", || {
            let (_, status) = get(&address, "/status")?;
            let status: Value = serde_json::from_str(&status).ok()?;
            (status["model"]["name"] == *name).then_some(())
        });
    };
    until("all behaviors to be counted", || {
        let (_, metrics) = get(&address, "/metrics")?;
        let folded = "headwater_state_behaviors_folded_total{scenario=\"home\"} 1440";
        metrics.lines().any(|line| line == folded).then_some(())
    });
    // What items are known for comes a moment later.
    let mut before = ask();
    assert_eq!(before["model"], "baseline-1");
    until("scores to stay as they are", || {
        std::thread::sleep(Duration::from_secs(1));
        let now = ask();
        let is_same = now["items"] == before["items"];
        before = now;
        is_same.then_some(())
    });
    let refused = put_on_trial(&config, &*log, &deep, None).unwrap_err();
    assert!(refused.to_string().contains("looks at texts"), "{refused}");

    let mut by = Vec::new();
    for folder in [&deep, &mean] {
        let announced = promote(&config, &*log, folder).unwrap();
        let name = json!(announced.champion.unwrap().name);
        scoring(&name);
        // Vectors are made as rows want them; a row that has all of them is the model's own.
        let answer = until("an answer with all vectors", || {
            let answer = ask();
            (answer["model"] == name && answer["degraded"].is_null()).then_some(answer)
        });
        assert_ne!(answer["items"], before["items"]);
        by.push((name, answer["items"].clone()));
    }
    assert_ne!(by[0].1, by[1].1);
    roll_back(&config, &*log).unwrap();
    scoring(&by[0].0);
    // Within a turn of the worker's.
    let back = until("the former to score", || {
        let answer = ask();
        (answer["model"] != by[1].0).then_some(answer)
    });
    assert_eq!(
        (&back["model"], &back["degraded"]),
        (&by[0].0, &Value::Null)
    );
    assert_eq!(back["items"], by[0].1, "to the bit");
    retire(&config, &*log).unwrap();
    let last = until("the baseline to score", || {
        let answer = ask();
        (answer["model"] == "baseline-1").then_some(answer)
    });
    assert_eq!(last["items"], before["items"]);
    let answers = records(&*log, Topic::Scores);
    let names: Vec<&Value> = answers.iter().map(|answer| &answer["model"]).collect();
    assert_eq!(answers.len(), asked, "{names:?}");
    daemon.stop(true).unwrap();
}
