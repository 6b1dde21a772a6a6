//! Models that come to score while a daemon runs.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use headwater::Handle;
use headwater::champion::{Announced, promote, put_on_trial, retire, roll_back};
use headwater_config::{Config, Topic};
use headwater_consumers::log::Log;
use headwater_state::VectorKey;
use serde_json::{Value, json};

use crate::fleet::{shared_log, start};
use crate::log::{keys, open, records, send};
use crate::program::{Daemon, get, until};
use crate::train::train;
use crate::trained::trained;

/// What a daemon over one log is asked, and what it answers.
pub(crate) struct Beside {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) address: String,
    asked: usize,
    /// When it is asked.
    pub(crate) time: i64,
}

/// Puts all items and behaviors of recordings into a log.
fn fill(log: &dyn Log, recordings: &[String; 2]) {
    for item in fs::read_to_string(&recordings[0]).unwrap().lines() {
        let id: Value = serde_json::from_str(item).unwrap();
        let id = id["item_id"].as_str().unwrap();
        send(log, Topic::Items, id, item.as_bytes());
    }
    for line in fs::read_to_string(&recordings[1]).unwrap().lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        if event["topic"] == "behaviors" {
            let (record, user) = (&event["record"], &event["record"]["user_id"]);
            let (value, user) = (record.to_string(), user.as_str().unwrap());
            send(log, Topic::Behaviors, user, value.as_bytes());
        }
    }
}

impl Beside {
    /// A log with all items and behaviors of recordings.
    pub(crate) fn log(config: &Config, recordings: &[String; 2]) -> Arc<dyn Log> {
        let log = shared_log(config);
        fill(&*log, recordings);
        log
    }

    /// A daemon that has counted all of it.
    pub(crate) fn of(daemon: &Handle, log: &Arc<dyn Log>) -> Self {
        until("it to be ready", || daemon.ready().ready.then_some(()));
        let beside = Self::new(daemon, log);
        until("all behaviors to be counted", || {
            let (_, metrics) = get(&beside.address, "/metrics")?;
            let folded = "headwater_state_behaviors_folded_total{scenario=\"home\"} 1440";
            metrics.lines().any(|line| line == folded).then_some(())
        });
        beside
    }

    pub(crate) fn new(daemon: &Handle, log: &Arc<dyn Log>) -> Self {
        Self {
            log: Arc::clone(log),
            address: daemon.address().unwrap().to_string(),
            asked: 0,
            time: 1_700_000_900_000,
        }
    }

    pub(crate) fn ask(&mut self) -> Value {
        self.asked += 1;
        let id = format!("r{}", records(&*self.log, Topic::ScoreRequests).len());
        let record = json!({"request_id": id, "user_id": "u7", "scenario": "home", "time": self.time, "candidates": ["ia", "ib"]});
        send(
            &*self.log,
            Topic::ScoreRequests,
            "u7",
            record.to_string().as_bytes(),
        );
        until("an answer", || {
            let all = records(&*self.log, Topic::Scores);
            all.into_iter()
                .rfind(|answer| answer["request_id"] == id.as_str())
        })
    }

    /// What it answers once that is always the same: what items are known for comes a moment later.
    fn settled(&mut self) -> Value {
        let mut before = self.ask();
        until("scores to stay as they are", || {
            std::thread::sleep(Duration::from_secs(1));
            let now = self.ask();
            let is_same = now["items"] == before["items"];
            before = now;
            is_same.then_some(())
        });
        before
    }

    fn status(&self) -> Value {
        let (_, status) = get(&self.address, "/status").unwrap();
        serde_json::from_str(&status).unwrap()
    }

    pub(crate) fn model(&self) -> Value {
        self.status()["model"].clone()
    }

    /// The encoder that was announced.
    fn announced(&self) -> Value {
        self.status()["texts"]["encoder"].clone()
    }

    /// The first answer by a model; all before it are by `before`.
    pub(crate) fn first_of(&mut self, name: &Value, before: &Value) -> Value {
        until("it to score", || {
            let answer = self.ask();
            assert!(
                answer["model"] == *name || answer["model"] == *before,
                "{answer}"
            );
            (answer["model"] == *name).then_some(answer)
        })
    }
}

pub(crate) fn made_ahead(config: &mut Config, span: &str) {
    config.texts.made_ahead = span.parse().unwrap();
}

/// Goal: models that look at texts become champions of a daemon that runs, one after the other, and are gone back from, without a restart: every request has an answer, by one model, and whoever comes to score has all vectors
/// from its first answer on, the one before scoring until then; going back waits for nothing. Method: one with deep layers and one with means, promoted, rolled back, followed by two of one sort of layers at once, and retired beside a daemon that is asked all the while; neither can be tried, for nobody else's rows have its vectors.
#[test]
fn champions_that_look_at_texts_take_over_while_it_runs() {
    let trained = trained("deep");
    let place = &trained.place;
    let mean = PathBuf::from(format!("{}-mean", trained.model));
    let more = ["--texts", "mean", "--passes", "6", "--layers", "1"];
    let ran = train(place, &trained.recordings, &mean, &more);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let deep = PathBuf::from(&trained.model);

    let mut config = place.config();
    made_ahead(&mut config, "2s");
    let log = Beside::log(&config, &trained.recordings);
    let daemon = start(&config, &log);
    let mut beside = Beside::of(&daemon, &log);
    let before = beside.settled();
    assert_eq!(before["model"], "baseline-1");
    let refused = put_on_trial(&config, &*log, &deep, None).unwrap_err();
    assert!(refused.to_string().contains("looks at texts"), "{refused}");

    let mut by = vec![(before["model"].clone(), before["items"].clone())];
    for folder in [&deep, &mean] {
        let announced = promote(&config, &*log, folder).unwrap();
        let name = json!(announced.champion.unwrap().name);
        let former = by.last().unwrap().0.clone();
        // It is told who waits, and who scores meanwhile.
        let model = until("it to be made ready", || {
            let model = beside.model();
            (model["ahead"]["items"].as_u64() > Some(0)).then_some(model)
        });
        assert_eq!(model["ahead"]["name"], name);
        let scores = model["name"].as_str().unwrap();
        assert!(former.as_str().unwrap().starts_with(scores), "{model}");
        let answer = beside.first_of(&name, &former);
        assert_eq!(answer["degraded"], Value::Null);
        until("it to be told that it scores", || {
            let model = beside.model();
            (model["ahead"].is_null() && model["name"] == name).then_some(())
        });
        let (_, metrics) = get(&beside.address, "/metrics").unwrap();
        let missed = "headwater_consumers_item_vector_lookups_total{outcome=\"miss\"} 0";
        assert!(metrics.lines().any(|line| line == missed), "{metrics}");
        for (other, items) in &by {
            assert_ne!((other, items), (&name, &answer["items"]));
            assert_ne!(items, &answer["items"]);
        }
        by.push((name, answer["items"].clone()));
    }
    roll_back(&config, &*log).unwrap();
    let back = beside.first_of(&by[1].0, &by[2].0);
    assert_eq!(back["degraded"], Value::Null);
    assert_eq!(back["items"], by[1].1, "to the bit");
    // One of the same layers under another head follows while the first still waits: it takes the vectors over, and waits no longer for it.
    let [waits, follows] = ["7", "8"].map(|seed| {
        let folder = PathBuf::from(format!("{}-{seed}", trained.model));
        let seeded = [&more[..], &["--seed", seed]].concat();
        let ran = train(place, &trained.recordings, &folder, &seeded);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        folder
    });
    promote(&config, &*log, &waits).unwrap();
    until("it to be made ready", || {
        (beside.model()["ahead"]["items"].as_u64() > Some(0)).then_some(())
    });
    let next = promote(&config, &*log, &follows).unwrap();
    let next = json!(next.champion.unwrap().name);
    let answer = beside.first_of(&next, &by[1].0);
    assert_eq!(answer["degraded"], Value::Null);
    retire(&config, &*log).unwrap();
    let last = beside.first_of(&by[0].0, &next);
    assert_eq!(last["items"], by[0].1);
    let answers = records(&*log, Topic::Scores);
    let names: Vec<&Value> = answers.iter().map(|answer| &answer["model"]).collect();
    assert_eq!(answers.len(), beside.asked, "{names:?}");
    daemon.stop(true).unwrap();
}

/// Goal: to change the encoder is to promote a model that was trained on the other: until that has been through the texts, who scored before goes on, after a restart too; then rows see its vectors, whichever was announced, and the way back is
/// at once, with the vectors of before, which nobody takes for unused. Method: two models over one log, of the language model cut at one layer and at two; the second encoder comes in an instance of its own.
#[test]
fn another_encoder_comes_with_a_model_of_its_own() {
    let trained = trained("deep");
    let place = &trained.place;
    let first = PathBuf::from(&trained.model);
    let second = PathBuf::from(format!("{}-higher", trained.model));
    let more = ["--texts", "mean", "--passes", "6", "--cut", "2"];
    let ran = train(place, &trained.recordings, &second, &more);
    assert_eq!(ran.code, Some(0), "{ran:?}");

    let mut config = place.config();
    made_ahead(&mut config, "0s");
    let log = Beside::log(&config, &trained.recordings);
    let daemon = start(&config, &log);
    let mut beside = Beside::of(&daemon, &log);
    beside.settled();
    let name = |announced: Announced| json!(announced.champion.unwrap().name);
    let one = name(promote(&config, &*log, &first).unwrap());
    let answered = beside.first_of(&one, &json!("baseline-1"));
    assert_eq!(answered["degraded"], Value::Null);
    let other = name(promote(&config, &*log, &second).unwrap());
    let waits = |beside: &mut Beside| {
        until("it to be made ready", || {
            let model = beside.model();
            (model["ahead"]["items"].as_u64() > Some(0)).then_some(())
        });
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(500));
            let answer = beside.ask();
            assert_eq!(
                (&answer["model"], &answer["items"], &answer["degraded"]),
                (&one, &answered["items"], &Value::Null)
            );
        }
        let model = beside.model();
        assert_eq!((&model["name"], &model["ahead"]["name"]), (&one, &other));
        assert_eq!(model["ahead"]["made"], 0);
    };
    waits(&mut beside);
    daemon.stop(true).unwrap();
    // Its vectors are made: of two that encode, each announces its own.
    config.texts.encode = false;
    let daemon = start(&config, &log);
    until("it to be ready", || daemon.ready().ready.then_some(()));
    beside.address = daemon.address().unwrap().to_string();
    waits(&mut beside);

    let mut encodes = config.clone();
    encodes.texts.cut = 2;
    encodes.texts.encode = true;
    encodes.instance.workers = 0;
    encodes.state.path.push("encodes");
    let language = place.file().parent().unwrap().join("language");
    encodes.texts.encoder = Some(language.display().to_string());
    let encoding = start(&encodes, &log);
    let answer = beside.first_of(&other, &one);
    assert_eq!(answer["degraded"], Value::Null);
    assert_ne!(answer["items"], answered["items"]);
    let logged = |request: &Value| {
        let rows = records(&*log, Topic::FeatureLog);
        let rows = rows.into_iter().rfind(|row| row["request_id"] == *request);
        rows.unwrap()["embeddings"].clone()
    };
    until("the second to be announced", || {
        (beside.announced() == logged(&answer["request_id"])).then_some(())
    });

    roll_back(&config, &*log).unwrap();
    let back = beside.first_of(&one, &other);
    assert_eq!(back["degraded"], Value::Null);
    assert_eq!(back["items"], answered["items"], "to the bit");
    let before = logged(&back["request_id"]);
    assert_ne!(beside.announced(), before);
    until("it to be noted that the first is in use", || {
        let keys = keys(&*log, Topic::Embeddings);
        let noted = keys.iter().any(|key| {
            let key = VectorKey::read(key).unwrap();
            matches!(key, VectorKey::Used(of) if before == of.to_string())
        });
        noted.then_some(())
    });
    encoding.stop(true).unwrap();
    daemon.stop(true).unwrap();
}

/// Goal: who was announced and never came to score is nobody's former: promoted over, who scores stays who is gone back to, over a restart too; gone back to all the same, it waits as at first. Nobody comes to score where no encoder has
/// made anything. Method: three models over one log, of which the second and the third wait long; then a fleet without an encoder.
#[test]
fn who_never_scored_is_nobodys_former() {
    let trained = trained("deep");
    let place = &trained.place;
    let first = PathBuf::from(&trained.model);
    let others = ["3", "4"].map(|seed| {
        let folder = PathBuf::from(format!("{}-{seed}", trained.model));
        let more = [
            "--texts", "deep", "--passes", "2", "--layers", "1", "--seed", seed,
        ];
        let ran = train(place, &trained.recordings, &folder, &more);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        folder
    });
    let mut config = place.config();
    made_ahead(&mut config, "0s");
    let log = Beside::log(&config, &trained.recordings);
    let name = |named: &Option<headwater::champion::Named>| json!(named.as_ref().unwrap().name);

    // Nothing was ever made of a text.
    config.texts.encode = false;
    let daemon = start(&config, &log);
    let mut beside = Beside::of(&daemon, &log);
    promote(&config, &*log, &others[0]).unwrap();
    until("it to be made ready", || {
        (beside.model()["ahead"]["items"].as_u64() > Some(0)).then_some(())
    });
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(beside.ask()["model"], "baseline-1");
    assert_eq!(beside.model()["name"], "baseline");
    let one = promote(&config, &*log, &first).unwrap();
    assert_eq!(one.former, None, "who is former never scored");
    daemon.stop(true).unwrap();

    config.texts.encode = true;
    let daemon = start(&config, &log);
    let mut beside = Beside::new(&daemon, &log);
    let scores = name(&one.champion);
    beside.first_of(&scores, &json!("baseline-1"));
    daemon.stop(true).unwrap();
    made_ahead(&mut config, "1h");
    for life in 0..2 {
        let daemon = start(&config, &log);
        let mut beside = Beside::new(&daemon, &log);
        for folder in others.iter().filter(|_| life == 0) {
            let two = promote(&config, &*log, folder).unwrap();
            assert_eq!(name(&two.former), scores);
        }
        until("the last to wait", || {
            let model = beside.model();
            (model["ahead"]["items"].as_u64() > Some(0)).then_some(())
        });
        assert_eq!(beside.model()["name"], scores);
        assert_eq!(beside.ask()["model"], scores);
        daemon.stop(true).unwrap();
    }
    let daemon = start(&config, &log);
    let mut beside = Beside::new(&daemon, &log);
    let back = roll_back(&config, &*log).unwrap();
    assert_eq!(name(&back.champion), scores);
    until("nobody to wait", || {
        beside.model()["ahead"].is_null().then_some(())
    });
    assert_eq!(beside.ask()["model"], scores);
    let again = roll_back(&config, &*log).unwrap();
    until("the other to wait again", || {
        (beside.model()["ahead"]["name"] == name(&again.champion)).then_some(())
    });
    assert_eq!(beside.ask()["model"], scores);
    let none = retire(&config, &*log).unwrap();
    assert_eq!(name(&none.former), scores);
    daemon.stop(true).unwrap();

    // Who scores in the fleet is who an instance begins with, be it new, and be the topic so long that it is read in parts.
    roll_back(&config, &*log).unwrap();
    for junk in 0..1_200 {
        send(&*log, Topic::Models, &format!("schema/{junk}"), b"{}");
    }
    made_ahead(&mut config, "0s");
    let daemon = start(&config, &log);
    let mut beside = Beside::new(&daemon, &log);
    let announced = promote(&config, &*log, &others[0]).unwrap();
    let last = name(&announced.champion);
    beside.first_of(&last, &scores);
    let copies = config.state.path.join("champions");
    let beside_it = copies.join(announced.champion.unwrap().id).join("beside");
    fs::write(&beside_it, "").unwrap();
    daemon.stop(true).unwrap();
    made_ahead(&mut config, "1h");
    config.texts.encode = false;
    for path in ["", "new"] {
        config.state.path.push(path);
        let daemon = start(&config, &log);
        let model = Beside::new(&daemon, &log).model();
        assert_eq!((&model["name"], &model["ahead"]), (&last, &Value::Null));
        daemon.stop(true).unwrap();
        // Nor was it copied anew, for one that was announced before.
        assert!(beside_it.exists());
    }
}

/// Goal: a champion that looks at texts takes over once and whole, however often the process dies meanwhile: every answer is one model's, of the former's with all vectors, and none of these comes behind the first of its own. Method: a daemon
/// on the embedded log that is killed with kill -9 after more and more time, with a request for each life; then to the end.
#[test]
fn kills_in_the_switch_mix_nothing() {
    let trained = trained("deep");
    let place = &trained.place;
    let mean = PathBuf::from(format!("{}-mean", trained.model));
    let more = ["--texts", "mean", "--passes", "6", "--layers", "1"];
    let ran = train(place, &trained.recordings, &mean, &more);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let log = || open(&place.config());
    fill(&log(), &trained.recordings);
    let promoted = |folder: &str| {
        let ran = place.run(&["champion", "promote", folder, "--format", "json"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        ran.json()["champion"]["name"].clone()
    };
    let mut asked = 0;
    let mut ask = || {
        let record = json!({"request_id": format!("r{asked}"), "user_id": "u7", "scenario": "home", "time": 1_700_000_900_000_i64, "candidates": ["ia", "ib"]});
        let record = record.to_string();
        send(&log(), Topic::ScoreRequests, "u7", record.as_bytes());
        asked += 1;
    };
    let settings = ["--set", "texts.made_ahead=700ms"];
    let scores = |daemon: &Daemon, name: &Value| {
        until("it to score", || {
            let model = daemon.json("/status")["model"].clone();
            (model["name"] == *name && model["waiting"] == 0).then_some(())
        });
    };
    // Its candidates' texts are met for the first time.
    ask();
    let first = promoted(&trained.model);
    let daemon = place.start(&settings);
    scores(&daemon, &first);
    let folded = "headwater_state_behaviors_folded_total";
    until("behaviors to be counted", || {
        (daemon.metric(folded) >= 1_440).then_some(())
    });
    daemon.stop();
    ask();
    let second = promoted(mean.to_str().unwrap());
    for life in 0..12 {
        ask();
        let daemon = place.start(&settings);
        std::thread::sleep(Duration::from_millis(100 * life));
        daemon.kill();
    }
    let all = "headwater_consumers_requests_total";
    // The last finds what the one before it made.
    for _ in 0..2 {
        ask();
        let daemon = place.start(&settings);
        until("an answer", || (daemon.metric(all) >= 1).then_some(()));
        scores(&daemon, &second);
        daemon.stop();
    }
    let mut answers = records(&log(), Topic::Scores);
    let number = |answer: &Value| {
        let id = answer["request_id"].as_str().unwrap();
        id[1..].parse::<u32>().unwrap()
    };
    answers.sort_by_key(number);
    assert_eq!(answers.len(), asked);
    let answers = &answers[1..];
    let [of_first, of_second] = [&answers[0], &answers[asked - 2]];
    assert_eq!([&of_first["model"], &of_second["model"]], [&first, &second]);
    assert_ne!(of_first["items"], of_second["items"]);
    let turned = answers.partition_point(|answer| answer["model"] == first);
    for (place, answer) in answers.iter().enumerate() {
        let wanted = if place < turned { of_first } else { of_second };
        assert_eq!(answer["model"], wanted["model"], "{answer}");
        // A vector of a user that was not on disk yet is made again, and said to be missing until then.
        if answer["degraded"].is_null() {
            assert_eq!(answer["items"], wanted["items"], "{answer}");
        } else {
            let missing = (&answer["degraded"], place >= turned);
            assert_eq!(missing, (&json!(["user_vectors"]), true), "{answer}");
        }
    }
    assert_eq!(of_second["degraded"], Value::Null);
}
