//! A trained model at work: in a backtest it says what it said in training, and in the stream once the vectors are there.

use std::fs;

use headwater_config::Topic;
use headwater_tests::tiny_model::{write_model, write_recordings};
use serde_json::{Value, json};

use crate::log::{open, records, send};
use crate::program::{Place, Ran, until};
use crate::train::train;

/// Texts, and runs that begin anew within the recordings.
const CONFIG: &str = "scenarios.names = [\"home\", \"shop\"]\ntexts.encoder = \"tiny\"\ntexts.cut = 1\ntexts.sequence_max = 8";

pub(crate) struct Trained {
    pub(crate) place: Place,
    pub(crate) recordings: [String; 2],
    /// The model's folder.
    pub(crate) model: String,
    /// What it predicted in training.
    predicted: Vec<(String, f32)>,
}

/// A model of the recordings, with or without texts; "keys": of key-vectors; "less": of less of them; "both": of texts and key-vectors.
pub(crate) fn trained(texts: &str) -> Trained {
    let place = Place::new(&if matches!(texts, "keys" | "less" | "both") {
        format!("{CONFIG}\nkey_vectors.logged = true\ntrain.experts = 2\ntrain.cross = 3")
    } else {
        CONFIG.to_owned()
    });
    let folder = place.file().parent().unwrap().to_owned();
    let recordings = write_recordings(&folder);
    write_model(&folder.join("language"), None);
    let from = folder.join("language").display().to_string();
    let fetched = place.run(&["models", "fetch", "tiny", "--from", &from]);
    assert_eq!(fetched.code, Some(0), "{fetched:?}");
    let out = folder.join("model");
    // The rest is what the configuration says.
    let texts = match texts {
        "keys" => ["--texts", "none", "--key-vectors"].as_slice(),
        "both" => &["--texts", "deep", "--key-vectors", "--text-start"],
        "less" => &[
            "--texts",
            "none",
            "--key-vectors",
            "--without",
            "attention,time,category",
            "--interactions",
            "attention",
            "--newest",
            "3",
        ],
        texts => &["--texts", texts],
    };
    let more = [texts, &["--passes", "6", "--layers", "1"]].concat();
    let ran = train(&place, &recordings, &out, &more);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let predicted = predictions(&fs::read_to_string(folder.join("model.tsv")).unwrap());
    Trained {
        place,
        recordings,
        model: out.display().to_string(),
        predicted,
    }
}

/// Request, item and task, and what was said of them.
fn predictions(table: &str) -> Vec<(String, f32)> {
    let lines = table.lines().skip(1);
    let mut all: Vec<(String, f32)> = lines
        .map(|line| {
            let (of, probability) = line.rsplit_once('\t').unwrap();
            (of.to_owned(), probability.parse().unwrap())
        })
        .collect();
    all.sort_by(|one, other| one.0.cmp(&other.0));
    all
}

impl Trained {
    fn backtest(&self, more: &[&str]) -> (Ran, String) {
        let out = format!("{}.backtest.tsv", self.model);
        let [items, events] = &self.recordings;
        let fixed = [
            "backtest",
            "--items",
            items,
            "--events",
            events,
            "--predictions",
            &out,
        ];
        let ran = self.place.run(&[&fixed[..], more].concat());
        let table = fs::read_to_string(&out).unwrap_or_default();
        (ran, table)
    }

    fn setting(&self) -> String {
        format!("scoring.model={}", self.model)
    }
}

/// Goal: a model says in production what it said in training: same texts, runs, gaps, rows and network; whatever the steps and however little memory. Method: all
/// rows of the recordings, by each sort of model, against the trainer's own predictions; the same bytes with steps of one record and memory for no run.
#[test]
fn a_backtest_says_what_training_said() {
    for texts in ["none", "keys", "less", "mean", "deep", "both"] {
        let trained = trained(texts);
        let set = trained.setting();
        let (ran, table) = trained.backtest(&["--set", &set]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let said = predictions(&table);
        assert_eq!(said.len(), 960);
        let mut moved = 0;
        for ((of, said), (same, predicted)) in said.iter().zip(&trained.predicted) {
            assert_eq!(of, same);
            // Vectors are kept in 16 bits.
            let off = (said - predicted).abs();
            assert!(off < 2e-3, "{texts}: {of}: {said}, in training {predicted}");
            moved += usize::from(said != predicted);
        }
        let (ran, by_one) = trained.backtest(&["--set", &set, "--step-records", "1"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(
            by_one == table,
            "{texts}: steps of one record say otherwise"
        );
        if texts == "keys" {
            more_rows(&trained, &set, &table);
        }
        if texts == "deep" {
            // A model that scores has no part in training another.
            let folder = format!("{}-again", trained.model);
            let more = ["--passes", "6", "--layers", "1", "--set", &set];
            let out = std::path::Path::new(&folder);
            let ran = train(&trained.place, &trained.recordings, out, &more);
            assert_eq!(ran.code, Some(0), "{ran:?}");
            let whole = |folder: &str| {
                ["model.safetensors", "manifest.json"]
                    .map(|file| fs::read(format!("{folder}/{file}")).unwrap())
            };
            assert!(whole(&folder) == whole(&trained.model));
            // What is named by hand makes the model that a configuration with it serves.
            let folder = format!("{}-by-hand", trained.model);
            let by_hand = ["--model", "tiny", "--passes", "6", "--layers", "1"];
            let unset = ["texts.encoder=", "texts.cut=2", "texts.sequence_max=64"];
            let unset = unset.iter().flat_map(|set| ["--set", *set]);
            let more: Vec<&str> = by_hand.into_iter().chain(unset).collect();
            let out = std::path::Path::new(&folder);
            let ran = train(&trained.place, &trained.recordings, out, &more);
            assert_eq!(ran.code, Some(0), "{ran:?}");
            assert!(whole(&folder) == whole(&trained.model));
            assert!(moved > 0, "16 bits make no difference");
            let little = ["--set", &set, "--set", "texts.deep_memory=1MiB"];
            let (ran, anew) = trained.backtest(&little);
            assert_eq!(ran.code, Some(0), "{ran:?}");
            assert!(anew == table);
        }
        let (_, baseline) = trained.backtest(&[]);
        assert!(baseline != table, "{texts} says what the baseline says");
    }
}

/// The newest answer to a request.
/// Goal: a task that comes takes no model away: who was trained before says of its own tasks what it said, to the byte, and the new task has the baseline's scores. Method: a task is added; predictions beside those of the model and of the baseline.
fn more_rows(trained: &Trained, set: &str, before: &str) {
    let added = [
        r#"tasks.like.positive=["like"]"#,
        r#"tasks.like.trials=["impression"]"#,
        "tasks.like.scenarios=[]",
    ];
    let added = added.map(|setting| ["--set", setting]);
    let with = |more: &[&str]| {
        let (ran, table) = trained.backtest(&[added.as_flattened(), more].concat());
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let lines = table.lines().skip(1).map(str::to_owned);
        lines.partition::<Vec<_>, _>(|line| line.contains("\tlike\t"))
    };
    let (like, click) = with(&["--set", set]);
    let (by_baseline, otherwise) = with(&[]);
    assert_eq!([like.len(), click.len()], [before.lines().count() - 1; 2]);
    assert!(click == before.lines().skip(1).collect::<Vec<_>>());
    assert!(click != otherwise && like == by_baseline);
}

fn answer(place: &Place, request: &str) -> Option<Value> {
    let log = open(&place.config());
    let all = records(&log, Topic::Scores);
    let of_request = |record: &&Value| record["request_id"] == request;
    all.iter().rfind(of_request).cloned()
}

/// Goal: in the stream a request is answered at once, by the baseline where nothing is there yet; once the vectors are there, by the model, with scores that are
/// computed again to the bit (`MODEL-1`) and that are the backtest's; a kill -9 loses nothing that matters, and the vectors are there after it. Method: the
/// recordings' behaviors in the log, requests before and after the layers have worked, and after a kill.
#[test]
fn the_stream_scores_with_vectors_once_they_are_there() {
    let trained = trained("deep");
    let set = trained.setting();
    let place = &trained.place;
    let text = fs::read_to_string(&trained.recordings[1]).unwrap();
    let mut behaviors = Vec::new();
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        if event["topic"] == "behaviors" {
            behaviors.push(event["record"].clone());
        }
    }
    // After all that happened.
    let asked = |id: &str| {
        json!({"request_id": id, "user_id": "u7", "scenario": "home", "time": 1_700_000_900_000_i64, "candidates": ["ia", "ib"]})
            .to_string()
    };
    let ask = |id: &str| {
        let log = open(&place.config());
        send(&log, Topic::ScoreRequests, "u7", asked(id).as_bytes());
    };
    {
        let log = open(&place.config());
        for item in fs::read_to_string(&trained.recordings[0]).unwrap().lines() {
            let id: Value = serde_json::from_str(item).unwrap();
            send(
                &log,
                Topic::Items,
                id["item_id"].as_str().unwrap(),
                item.as_bytes(),
            );
        }
        for record in &behaviors {
            let user = record["user_id"].as_str().unwrap();
            send(&log, Topic::Behaviors, user, record.to_string().as_bytes());
        }
    }
    ask("early");
    {
        // One that stands, and whose user does nothing more.
        let log = open(&place.config());
        let mut stands: Value = serde_json::from_str(&asked("stands")).unwrap();
        stands["standing"] = json!({"ttl": "1h"});
        send(
            &log,
            Topic::ScoreRequests,
            "u7",
            stands.to_string().as_bytes(),
        );
    }
    let start = || place.start(&["--set", &set]);
    let mut daemon = start();
    let all_told = || {
        let status = daemon.json("/status");
        let is_current = status["model"]["has_encoder"] == true;
        let positions = daemon.metric("headwater_consumers_deep_positions_total");
        (is_current && status["model"]["waiting"] == 0 && positions >= 40 * 4).then_some(())
    };
    until("the layers to have worked", all_told);
    daemon.wait_ready();
    // Two candidates of two requests, and those of the second once more; again, where that came before all vectors were there.
    let (mut wanted, mut rounds) = (6, 0);
    loop {
        until("the standing request to be scored again", || {
            (daemon.metric("headwater_model_scores_total") >= wanted).then_some(())
        });
        daemon.stop();
        let standing = records(&open(&place.config()), Topic::StandingScores);
        let newest = standing.last().unwrap();
        if newest["degraded"].is_null() {
            assert!(
                newest["model"].as_str().unwrap().starts_with("bahe-"),
                "{newest}"
            );
            break;
        }
        rounds += 1;
        assert!(rounds < 5, "{newest}");
        (daemon, wanted) = (start(), 2);
    }
    let early = answer(place, "early").unwrap();
    let degraded = early["degraded"].as_array().unwrap();
    assert!(
        early["model"] == "baseline-1" || !degraded.is_empty(),
        "{early}"
    );

    let mut answers = Vec::new();
    for (id, killed) in [("before", true), ("after", false)] {
        ask(id);
        let daemon = start();
        until("the answer", || {
            (daemon.metric("headwater_consumers_requests_total") >= 1).then_some(())
        });
        // Nothing was made anew for it.
        let runs = daemon.metric("headwater_consumers_deep_runs_total");
        assert_eq!(runs, 0, "{}", daemon.said());
        let current = daemon.metric("headwater_consumers_user_vector_lookups_total");
        assert_eq!(current, 1);
        if killed {
            daemon.kill();
        } else {
            daemon.stop();
        }
        let found = until("the answer in the log", || answer(place, id));
        assert!(
            found["model"].as_str().unwrap().starts_with("bahe-"),
            "{found}"
        );
        assert_eq!(found["degraded"], Value::Null, "{found}");
        let explained = place.run(&["explain", id, "--format", "json", "--set", &set]);
        assert_eq!(explained.code, Some(0), "{explained:?}");
        let rows = explained.json()["logged"][0]["rows"].clone();
        assert_eq!(rows["model"], found["model"]);
        let sequence = &rows["sequences"][0];
        // Twelve likes: the run began anew at eight, and at twelve.
        let of = |key: &str| sequence[key].as_u64().unwrap();
        assert_eq!((of("start"), of("length"), of("used")), (8, 4, 4), "{rows}");
        for row in rows["rows"].as_array().unwrap() {
            assert_eq!(
                (&row["vector"], &row["scores"][0]["same"]),
                (&json!(true), &json!(true))
            );
        }
        // Another model, and it is not told that it was the same.
        let without = place.run(&["explain", id, "--format", "json"]).json();
        let same = &without["logged"][0]["rows"]["rows"][0]["scores"][0]["same"];
        assert_eq!(same, &Value::Null, "{without}");
        answers.push(found["items"].clone());
    }
    assert_eq!(answers[0], answers[1]);
    let more = format!(
        "{{\"topic\":\"score-requests\",\"record\":{}}}\n",
        asked("again")
    );
    fs::write(&trained.recordings[1], format!("{text}\n{more}")).unwrap();
    let (_, table) = trained.backtest(&["--set", &set]);
    let said = predictions(&table).into_iter();
    for (of, said) in said.filter(|(of, _)| of.starts_with("again\t")) {
        let parts: Vec<&str> = of.split('\t').collect();
        let [_, item, task] = parts[..] else {
            panic!("{parts:?}");
        };
        let items = answers[0].as_array().unwrap().iter();
        let found = items
            .clone()
            .find(|found| found["item_id"] == item)
            .unwrap();
        let streamed = found["tasks"][task].as_f64().unwrap() as f32;
        assert!(
            (streamed - said).abs() < 2e-3,
            "{item} {task}: {streamed} {said}"
        );
    }
}

/// Goal: a model that is not of this configuration is refused before anything is scored, by what is wrong. Method: other texts, sequences, limit, rows, a torn
/// file, and a folder that is none.
#[test]
fn a_model_of_something_else_is_refused() {
    let trained = trained("deep");
    let set = trained.setting();
    let refused = |more: &[&str], words: &str| {
        let all = [&["--set", &set][..], more].concat();
        let commands = [&["run"][..], &["config", "check"]];
        let ran = commands.map(|command| trained.place.run(&[command, &all].concat()));
        for ran in ran.into_iter().chain([trained.backtest(&all).0]) {
            assert_eq!(ran.code, Some(2), "{more:?}: {ran:?}");
            assert!(ran.beside.contains(words), "{more:?}: {ran:?}");
        }
    };
    refused(
        &["--set", "texts.cut=2"],
        "texts.encoder with texts.cut makes those of",
    );
    refused(
        &["--set", "texts.sequence_max=16"],
        "its runs begin anew at 8 behaviors, and texts.sequence_max is 16",
    );
    refused(
        &["--set", "scoring.half_life_long=3d"],
        "a model reads rows that have all that it was trained on: `click.global.trials` is not there, or means",
    );
    refused(&["--set", "texts.buckets=1h"], "`schema` is");
    refused(&["--set", "sequences.all=like"], "it was trained on `");
    refused(
        &["--set", "scoring.model=nowhere"],
        "nowhere/manifest.json: cannot be read",
    );
    let values = format!("{}/model.safetensors", trained.model);
    let bytes = fs::read(&values).unwrap();
    fs::write(&values, &bytes[..bytes.len() / 2]).unwrap();
    refused(&[], "it was cut off or changed");
}

/// Goal: a model of key-vectors scores in the stream by all that its user did, and its scores are computed again to the bit from the logged row (`MODEL-1`); other edges
/// of time are another schema, which the model is refused for. So it is with one that reads less of them. Method: a model with experts and a cross; behaviors and two requests in the log, one of them of a scenario that the model does not know, one daemon, `explain`; the same model under other edges.
#[test]
fn key_vectors_score_in_the_stream_and_are_explained() {
    for texts in ["keys", "less", "both"] {
        score_and_explain(&trained(texts));
    }
}

fn score_and_explain(trained: &Trained) {
    let (set, place) = (trained.setting(), &trained.place);
    let text = fs::read_to_string(&trained.recordings[1]).unwrap();
    let mut last = 0;
    {
        let log = open(&place.config());
        for line in text.lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            if event["topic"] == "behaviors" {
                let record = &event["record"];
                last = record["time"].as_i64().unwrap().max(last);
                let user = record["user_id"].as_str().unwrap();
                send(&log, Topic::Behaviors, user, record.to_string().as_bytes());
            }
        }
    }
    // The encoder is read beside the stream: what is asked before that has the baseline's scores.
    let daemon = place.start(&["--set", &set]);
    until("the encoder to be there", || {
        (daemon.json("/status")["model"]["has_encoder"] == true).then_some(())
    });
    daemon.stop();
    {
        let log = open(&place.config());
        let asked = json!({"request_id": "r", "user_id": "u7", "scenario": "home", "time": last + 1, "candidates": ["ia", "ib"]});
        let asked = asked.to_string();
        send(&log, Topic::ScoreRequests, "u7", asked.as_bytes());
        let elsewhere = asked
            .replace("home", "elsewhere")
            .replace("\"r\"", "\"r2\"");
        send(&log, Topic::ScoreRequests, "u7", elsewhere.as_bytes());
    }
    let daemon = place.start(&["--set", &set]);
    daemon.wait_ready();
    until("the answers", || {
        (daemon.metric("headwater_consumers_requests_total") >= 2).then_some(())
    });
    daemon.stop();
    let found = answer(place, "r").unwrap();
    assert!(
        found["model"].as_str().unwrap().starts_with("bahe-"),
        "{found}"
    );
    let logged = records(&open(&place.config()), Topic::FeatureLog);
    let keyed = &logged.last().unwrap()["key_vectors"];
    assert!(!keyed["items"].as_array().unwrap().is_empty(), "{keyed}");
    let mut adds = std::collections::BTreeMap::new();
    for request in ["r", "r2"] {
        let explained = place.run(&["explain", request, "--format", "json", "--set", &set]);
        assert_eq!(explained.code, Some(0), "{explained:?}");
        let rows = explained.json()["logged"][0]["rows"].clone();
        for row in rows["rows"].as_array().unwrap() {
            assert_eq!(row["scores"][0]["same"], true, "{row}");
            let of = (request, row["item_id"].to_string());
            adds.insert(of, row["scores"][0]["model_adds"].as_f64().unwrap());
        }
    }
    // A scenario that the model does not know has what is of none.
    let of = |request| adds[&(request, "\"ia\"".to_owned())];
    assert!((of("r") - of("r2")).abs() > 1e-6, "{adds:?}");
    let (ran, _) = trained.backtest(&["--set", &set, "--set", "key_vectors.buckets=[\"2h\"]"]);
    assert_ne!(ran.code, Some(0));
    assert!(ran.beside.contains("key_vectors.buckets"), "{ran:?}");
}

/// Goal: how much of key-vectors is read is a part of what is trained: the manifest says it where it is not all, and what was cut off under another choice is not gone on with. Method: a training that was cut off, then
/// one without time in its folder, beside the same in a folder of its own; without key-vectors there is nothing to leave out.
#[test]
fn what_is_read_is_a_part_of_what_is_trained() {
    let place = Place::new("scenarios.names = [\"home\"]");
    let folder = place.file().parent().unwrap().to_owned();
    let recordings = write_recordings(&folder);
    let run = |name: &str, more: &[&str]| {
        let fixed = ["--texts", "none", "--passes", "2"];
        let out = folder.join(name);
        let ran = train(&place, &recordings, &out, &[&fixed[..], more].concat());
        let files = ["model.safetensors", "manifest.json"].map(|file| fs::read(out.join(file)));
        (ran, files.map(Result::unwrap_or_default))
    };
    let cut_off = ["--key-vectors", "--steps", "1"];
    let (ran, _) = run("first", &cut_off);
    assert_eq!(ran.json()["finished"], false, "{ran:?}");
    let timeless = ["--key-vectors", "--without", "time"];
    let [(_, first), (ran, second)] = ["first", "second"].map(|name| run(name, &timeless));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(first == second, "what was cut off was gone on with");
    let manifest =
        |files: &[Vec<u8>; 2]| -> serde_json::Value { serde_json::from_slice(&files[1]).unwrap() };
    let reads = &manifest(&first)["reads"];
    assert_eq!(
        (&reads["time"], &reads["counts"]),
        (&json!(false), &json!(true))
    );
    let (_, whole) = run("whole", &["--key-vectors"]);
    assert!(manifest(&whole)["reads"].is_null());
    assert!(whole[0] != first[0]);
    let (ran, _) = run("none", &["--without", "time"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.beside.contains("--key-vectors"), "{ran:?}");
}
