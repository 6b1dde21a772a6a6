//! `headwater train`: recordings become a model and predictions, the same ones each time.

use std::fs;
use std::path::Path;

use headwater_config::Topic;
use headwater_consumers::log::{Log as _, Outgoing, TopicPartition};
use headwater_consumers::partitioner::partition_of;
use serde_json::json;

use crate::log::{open, send};
use crate::program::{Place, Ran, until};
use headwater_tests::tiny_model::{write_model, write_recordings};

pub(crate) fn train(
    place: &Place,
    [items, events]: &[String; 2],
    out: &Path,
    more: &[&str],
) -> Ran {
    let out = out.to_str().unwrap();
    let predictions = format!("{out}.tsv");
    let fixed = [
        "train",
        "bahe",
        "--items",
        items,
        "--events",
        events,
        "--out",
        out,
        "--predictions",
        &predictions,
        "--format",
        "json",
        "--limit",
        "8",
        "--rate",
        "0.006",
    ];
    // One that is said is meant.
    let cut: &[&str] = if more.contains(&"--cut") {
        &[]
    } else {
        &["--cut", "1"]
    };
    place.run(&[&fixed[..], cut, more].concat())
}

/// Goal: every row has a prediction, training lowers the loss, the same files give the same bytes, also where training is cut off and goes on, and texts are met once. Method: a small random model in the cache,
/// trained twice from recordings whose labels follow from texts, and once a step at a time; with each depth, and two tasks by GDOD.
#[test]
fn recordings_become_a_model() {
    let place = Place::new("scenarios.names = [\"home\"]");
    let folder = place.file().parent().unwrap().to_owned();
    let recordings = write_recordings(&folder);
    write_model(&folder.join("language"), None);
    let from = folder.join("language").display().to_string();
    let fetched = place.run(&["models", "fetch", "tiny", "--from", &from]);
    assert_eq!(fetched.code, Some(0), "{fetched:?}");

    let out = folder.join("first");
    let ran = train(
        &place,
        &recordings,
        &out,
        &["--model", "tiny", "--passes", "10", "--layers", "1"],
    );
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let summary: serde_json::Value = ran.json();
    assert_eq!(summary["rows"], json!([672, 96, 192]), "{summary}");
    // Two items, and one kind of behavior that is no impression with each.
    assert_eq!(
        (&summary["distinct_texts"], &summary["encoded"]),
        (&json!(4), &json!(4)),
        "{summary}"
    );
    let losses: Vec<f64> = serde_json::from_value(summary["validation_loss"].clone()).unwrap();
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(best < 0.95 * losses[0], "{losses:?}");
    let table = fs::read_to_string(folder.join("first.tsv")).unwrap();
    assert_eq!(table.lines().count(), 1 + 960);
    assert!(table.starts_with("request_id\titem_id\ttask\tprobability\n"));
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["kind"], "bahe");

    let second = folder.join("second");
    let again = train(
        &place,
        &recordings,
        &second,
        &["--model", &from, "--passes", "10", "--layers", "1"],
    );
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(table == fs::read_to_string(folder.join("second.tsv")).unwrap());
    let model = |folder: &Path| fs::read(folder.join("model.safetensors")).unwrap();
    assert!(model(&out) == model(&second));
    assert!(!out.join("checkpoint.json").exists());

    // Cut off again and again.
    let third = folder.join("third");
    let arguments = ["--model", &from, "--passes", "10", "--layers", "1"];
    let mut runs = 0;
    loop {
        runs += 1;
        let ran = train(
            &place,
            &recordings,
            &third,
            &[&arguments[..], &["--steps", "1"]].concat(),
        );
        assert_eq!(ran.code, Some(0), "{ran:?}");
        if ran.json()["finished"] == true {
            assert_eq!(ran.json()["validation_loss"], summary["validation_loss"]);
            break;
        }
        assert!(!third.join("model.safetensors").exists());
    }
    assert!(runs > 2, "{runs}");
    assert!(table == fs::read_to_string(folder.join("third.tsv")).unwrap());
    assert!(model(&out) == model(&third));
    for texts in ["none", "mean", "frozen"] {
        let ran = train(
            &place,
            &recordings,
            &out,
            &[
                "--model", &from, "--texts", texts, "--passes", "1", "--layers", "1",
            ],
        );
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let summary: serde_json::Value = ran.json();
        assert_eq!(summary["encoded"], 0, "{summary}");
    }
    // Two tasks, by a rule for their gradients.
    let ran = train(
        &place,
        &recordings,
        &out,
        &[
            "--model",
            &from,
            "--passes",
            "1",
            "--layers",
            "1",
            "--objective",
            "gdod",
            "--set",
            "tasks.liked.positive=like",
            "--set",
            "tasks.liked.trials=impression",
            "--set",
            "tasks.liked.scenarios=[\"home\"]",
        ],
    );
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let manifest = fs::read_to_string(out.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["tasks"], json!(["click", "liked"]), "{manifest}");
    let rule = &manifest["objective"]["tasks"]["rule"];
    assert!(rule["gdod"].is_object(), "{manifest}");
}

/// What `train` prints of the rows' part and of the loss before training.
fn told(ran: &Ran) -> (serde_json::Value, f64) {
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let summary: serde_json::Value = ran.json();
    let first = summary["validation_loss"][0].as_f64().unwrap();
    (summary, first)
}

/// Goal: what a daemon scored, logged and labelled is the same to learn from as the recordings of it. Method: recordings go through a daemon on the embedded
/// log, kill -9 in between; rows, labels and the baseline's scores then give the same loss before training, and training lowers it. A model of key-vectors that became
/// champion, beside another: its loss is what its own training said. Then records that cannot be learned from: of other tasks or stretches, and one that nobody can read.
#[test]
fn what_a_daemon_logged_is_learned_from() {
    let place = Place::new(
        "scenarios.names = [\"home\"]\nscoring.item_statistics = false\nlabels.shown_within = \"1m\"\nkey_vectors.logged = true\n\
         tasks.liked = { positive = [\"like\"], trials = [\"impression\"], scenarios = [], window = \"1m\" }",
    );
    let folder = place.file().parent().unwrap().to_owned();
    let config = place.config();
    let recordings = write_recordings(&folder);
    let events = fs::read_to_string(&recordings[1]).unwrap();
    {
        let log = open(&config);
        let mut producer = log.producer().unwrap();
        let mut send = |topic, user: &str, record: &serde_json::Value| {
            let value = record.to_string();
            producer
                .send(Outgoing {
                    to: TopicPartition::new(topic, partition_of(user.as_bytes(), 4)),
                    key: Some(user.as_bytes()),
                    value: Some(value.as_bytes()),
                    headers: &[],
                })
                .unwrap();
        };
        let mut last = 0;
        let mut users = std::collections::BTreeSet::new();
        for line in events.lines() {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            let record = &event["record"];
            let user = record["user_id"].as_str().unwrap();
            last = record["time"].as_i64().unwrap();
            let topic = match event["topic"].as_str().unwrap() {
                "behaviors" => Topic::Behaviors,
                _ => Topic::ScoreRequests,
            };
            send(topic, user, record);
            users.insert(user.to_owned());
        }
        // Time passes in every partition.
        for user in &users {
            let record = json!({"user_id": user, "kind": "view", "scenario": "home", "time": last + 600_000});
            send(Topic::Behaviors, user, &record);
        }
        producer.flush().unwrap();
    }
    // Requests and behaviors of one poll are read in the order of their times, as recordings are.
    let daemon = place.start(&[]);
    daemon.wait_ready();
    drop(daemon.kill());
    let daemon = place.start(&[]);
    until("everything to be counted", || {
        let last = |user: u32| {
            let path = format!("/users/u{user}?entries=1");
            let (status, text) = daemon.get(&path)?;
            let user: serde_json::Value = serde_json::from_str(&text).ok()?;
            (status == 200).then(|| user["recent"][0]["kind"] == "view")
        };
        (0..40).all(|user| last(user) == Some(true)).then_some(())
    });
    daemon.stop();

    let out = |name: &str| folder.join(name).display().to_string();
    let fixed = [
        "train", "bahe", "--texts", "none", "--format", "json", "--passes", "2", "--rate", "0.006",
    ];
    let logged = place.run(&[&fixed[..], &["--log", "--out", &out("live")]].concat());
    let (live, first) = told(&logged);
    let [items, events] = &recordings;
    let recorded = [
        "--items",
        items,
        "--events",
        events,
        "--out",
        &out("recorded"),
    ];
    let (recorded, first_recorded) = told(&place.run(&[&fixed[..], &recorded].concat()));
    assert_eq!(live["rows"], recorded["rows"]);
    assert_eq!(live["rows"], json!([672, 96, 192]));
    assert!(
        (first - first_recorded).abs() < 1e-6,
        "{first} {first_recorded}"
    );
    assert_eq!(live["left_out"], json!([0, 0]));
    assert!(
        live["validation_loss"][1].as_f64().unwrap() < first,
        "{live}"
    );
    under_another_schema(&place, &fixed, &out("more-tasks"));
    let manifest = fs::read(folder.join("live").join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["kind"], "bahe");

    onward(
        &place,
        &live,
        &[&fixed[..], &["--log", "--out", &out("onward")]].concat(),
    );
    promoted(&place, &folder);
    keyed_beside_keyed(&place, &folder, &fixed);
    let of_texts = [
        "train",
        "bahe",
        "--log",
        "--model",
        "x",
        "--out",
        &out("texts"),
    ];
    let ran = place.run(&of_texts);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    // Rows of other tasks are another schema's.
    let other = [
        "--log",
        "--out",
        &out("other"),
        "--set",
        "tasks.liked.positive=click",
    ];
    let ran = place.run(&[&fixed[..], &other].concat());
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(
        ran.beside
            .contains("480 requests were scored under other tasks"),
        "{ran:?}"
    );
    {
        let log = open(&config);
        let mut producer = log.producer().unwrap();
        let bad = Outgoing {
            to: TopicPartition::new(Topic::Labels, 1),
            key: None,
            value: Some(b"{}"),
            headers: &[],
        };
        producer.send(bad).unwrap();
        producer.flush().unwrap();
    }
    let ran = place.run(&[&fixed[..], &["--log", "--out", &out("live")]].concat());
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(
        ran.beside.contains("headwater.labels-1 at offset"),
        "{ran:?}"
    );
}

/// Learning goes on over the rows that judge, each said before; what learned from them is not promoted by them.
fn onward(place: &Place, frozen: &serde_json::Value, fixed: &[&str]) {
    let run = |more: &[&str]| place.run(&[fixed, &["--regime", "prequential"], more].concat());
    let ran = run(&[]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let (onward, _) = told(&ran);
    assert!(onward["onward"].as_u64().unwrap() > 10, "{onward}");
    let judged = |of: &serde_json::Value| of["judged"].clone();
    let (ours, theirs) = (judged(&onward), judged(frozen));
    // The same rows beside the same champion; what is said of them is not the same.
    assert!(ours["rows"][0].as_u64().unwrap() > 30, "{ours}");
    assert_eq!(ours["rows"], theirs["rows"]);
    assert_eq!(ours["losses"][0], theirs["losses"][0]);
    assert_ne!(ours["losses"][1], theirs["losses"][1]);
    // Where labels take longer than all rows last, nothing is learned from before the last is said.
    let table = place.file().parent().unwrap().join("onward.tsv");
    let path = table.display().to_string();
    let said = |within: &str| {
        let within = format!("labels.shown_within={within}");
        let ran = run(&["--predictions", &path, "--set", &within]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        fs::read_to_string(&table).unwrap()
    };
    let (soon, late) = (said("1m"), said("30d"));
    assert!(soon.lines().count() > 100 && soon != late);
    let ran = run(&["--promote"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(
        ran.beside.contains("learned from the rows that judge it"),
        "{ran:?}"
    );
}

/// Rows that were logged before a task came are learned from under it, though nobody had trained before; rows that counted other things have a row all the same, and are told of once.
fn under_another_schema(place: &Place, fixed: &[&str], out: &str) {
    let of_log = ["--log", "--out", out];
    let added = [
        "--set",
        r#"tasks.view.positive=["view"]"#,
        "--set",
        r#"tasks.view.trials=["impression"]"#,
        "--set",
        "tasks.view.scenarios=[]",
        "--set",
        "tasks.view.window=1m",
    ];
    let (read, _) = told(&place.run(&[fixed, &of_log, &added].concat()));
    assert_eq!(
        (&read["rows"], &read["left_out"]),
        (&json!([672, 96, 192]), &json!([0, 0]))
    );
    // What was scored is explained, and computed again to the bit, as what it was.
    let explain = ["explain", "r3-7", "--format", "json"];
    let [now, then] = [&added[..], &[]].map(|more| {
        let ran = place.run(&[&explain[..], more].concat());
        assert_eq!(ran.code, Some(0), "{ran:?}");
        ran.json()["logged"][0]["rows"].clone()
    });
    for (row, before) in [0, 1].map(|at| (&now["rows"][at], &then["rows"][at])) {
        assert_eq!(row["scores"], before["scores"]);
        let scores = row["scores"].as_array().unwrap();
        assert_eq!(scores.len(), 1, "{row}");
        assert!(scores.iter().all(|score| score["same"] == true), "{row}");
    }
    assert_eq!(now["schema"], then["schema"]);
    let ran = place.run(&[&["replay-score", "r3-7"], &added[..]].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    // Where labels of the one task take longer than all rows last, those of the other wait, and are told of.
    let longer = ["--set", "tasks.view.window=10h"];
    let ran = place.run(&[fixed, &of_log, &added, &longer].concat());
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(
        ran.beside.contains(" 960 labelled items wait until"),
        "{ran:?}"
    );
    let other = ["--set", "scoring.half_life_long=3d"];
    let ran = place.run(&[fixed, &of_log, &other].concat());
    assert_eq!(ran.code, Some(2), "{ran:?}");
    let words =
        "0 labelled items have no row in the feature log, 480 requests were scored under other";
    assert!(ran.beside.contains(words), "{ran:?}");
}

/// What a champion says of key-vectors that were logged is what its own training said of the same rows; rows of other stretches are left out.
fn keyed_beside_keyed(place: &Place, folder: &Path, fixed: &[&str]) {
    let out = |name: &str| folder.join(name).display().to_string();
    let keyed = |name: &str, seed: &str| {
        let more = [
            "--log",
            "--key-vectors",
            "--seed",
            seed,
            "--out",
            &out(name),
        ];
        let (summary, _) = told(&place.run(&[fixed, &more].concat()));
        summary["judged"].clone()
    };
    let first = keyed("keyed", "1");
    let ran = place.run(&["champion", "promote", &out("keyed")]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let second = keyed("keyed-again", "2");
    assert_eq!(first["rows"], second["rows"]);
    assert_ne!(first["champion"], second["champion"]);
    let of = |judged: &serde_json::Value, whose: usize| judged["losses"][whose].as_f64().unwrap();
    assert!(of(&first, 1) > 0.0);
    let apart = (of(&first, 1) - of(&second, 0)).abs();
    assert!(apart < 1e-5, "{first} {second}");
    // Stretches that nothing was logged by.
    let other = [
        "--log",
        "--key-vectors",
        "--out",
        &out("other"),
        "--set",
        "key_vectors.buckets=[\"2h\"]",
    ];
    let ran = place.run(&[fixed, &other].concat());
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(
        ran.beside
            .contains("480 requests were scored under other tasks"),
        "{ran:?}"
    );
}

/// Published scores are the same again in a process of their own, by the copy of the model and by its folder, and are not by another's.
fn replayed(place: &Place, folder: &Path) {
    let out = |name: &str| folder.join(name).display().to_string();
    let other = [
        "train",
        "bahe",
        "--log",
        "--texts",
        "none",
        "--passes",
        "2",
        "--rate",
        "0.006",
        "--seed",
        "9",
        "--out",
        &out("other-seed"),
        "--format",
        "json",
    ];
    let ran = place.run(&other);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for (more, same) in [
        (&[][..], true),
        (&["--model", &out("live")], true),
        (&["--model", &out("other-seed")], false),
    ] {
        let command = ["replay-score", "after", "--format", "json"];
        let ran = place.run(&[&command, more].concat());
        assert_eq!(ran.code, Some(if same { 0 } else { 3 }), "{ran:?}");
        let scores = ran.json()[0]["scores"].clone();
        assert_eq!(scores.as_array().unwrap().len(), 2, "{scores}");
        for score in scores.as_array().unwrap() {
            assert_eq!(score["published"], score["logged"], "{score}");
            assert_eq!(score["again"] == score["logged"], same, "{score}");
        }
    }
    let ran = place.run(&["replay-score", "before"]);
    assert!(
        ran.code == Some(0) && ran.answer.contains("baseline-1"),
        "{ran:?}"
    );
    let ran = place.run(&["replay-score", "never"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
}

/// Goal: a promoted model scores, its scores can be computed again to the bit (`MODEL-1`), and going back goes back. Method: the model that was learned from the log,
/// promoted while no daemon has the log; a request before, after, and after going back, while it is on trial.
fn promoted(place: &Place, folder: &Path) {
    let live = folder.join("live").display().to_string();
    let config = place.config();
    let ask = |id: &str| {
        let record = json!({"request_id": id, "user_id": "u3", "scenario": "home", "time": 1_700_001_420_000_i64, "candidates": ["ia", "ib"]});
        send(
            &open(&config),
            Topic::ScoreRequests,
            "u3",
            record.to_string().as_bytes(),
        );
        let daemon = place.start(&[]);
        until("an answer", || {
            (daemon.metric("headwater_consumers_requests_total") > 0).then_some(())
        });
        let model = daemon.json("/status")["model"]["name"].clone();
        daemon.stop();
        let scores = crate::log::records(&open(&config), Topic::Scores);
        let answer = scores
            .into_iter()
            .rfind(|answer| answer["request_id"] == id);
        (answer.unwrap(), model)
    };
    let (before, named) = ask("before");
    assert_eq!(
        (&before["model"], named),
        (&json!("baseline-1"), serde_json::Value::Null)
    );
    let ran = place.run(&["champion", "show"]);
    assert!(
        ran.answer.contains("no champion was ever announced"),
        "{ran:?}"
    );
    let ran = place.run(&["champion", "promote", &live, "--format", "json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let name = ran.json()["champion"]["name"].clone();
    let (after, named) = ask("after");
    assert_eq!((&after["model"], &named), (&name, &name));
    assert_ne!(after["items"][0]["score"], before["items"][0]["score"]);
    let explained = place.run(&["explain", "after", "--format", "json"]);
    assert_eq!(explained.code, Some(0), "{explained:?}");
    let explained: serde_json::Value = explained.json();
    for row in explained["logged"][0]["rows"]["rows"].as_array().unwrap() {
        assert_eq!(row["scores"][0]["same"], true, "{row}");
    }
    replayed(place, folder);
    let ran = place.run(&["champion", "rollback"]);
    assert!(
        ran.answer.starts_with("champion: the baseline since "),
        "{ran:?}"
    );
    for (command, words) in [
        (&["try", &live][..], "\non trial: bahe-"),
        (&["pin"], ", pinned; before: bahe-"),
        (&["show"], " 0 looks"),
    ] {
        let ran = place.run(&[&["champion"], command].concat());
        assert!(ran.code == Some(0) && ran.answer.contains(words), "{ran:?}");
    }
    let ran = place.run(&["champion", "unpin", "--format", "json"]);
    assert_eq!(ran.json()["challengers"][0]["model"]["name"], name);
    assert!(ran.json()["pinned"].is_null(), "{ran:?}");
    let ran = place.run(&["champion", "promote", &live]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let other = ["champion", "show", "--set", "scoring.half_life_long=3d"];
    for (show, is_odd) in [(&other[..2], false), (&other, true)] {
        let words = place.run(show).answer;
        let says = words.contains("under this configuration it is not loaded");
        assert_eq!(says, is_odd, "{words}");
    }
    let ran = place.run(&["champion", "try", &live]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.beside.contains("champion already"), "{ran:?}");
    let ran = place.run(&["champion", "rollback"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let ran = place.run(&["champion", "try", "nowhere"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    let (back, _) = ask("back");
    assert_eq!(back["model"], "baseline-1");
    assert_eq!(back["items"], before["items"]);
}
