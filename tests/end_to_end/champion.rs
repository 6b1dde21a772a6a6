//! From behavior to a model that scores, on Apache Kafka, without a restart: what daemons scored and what became of it is learned from, and the model takes over and
//! gives back while requests come and daemons are killed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use headwater_config::{Config, Topic};
use headwater_consumers::assemble::Assembler;
use headwater_model::bahe::{BaheModel, Described, MANIFEST, Manifest, VALUES};
use headwater_model::language::{from_safetensors, to_safetensors};
use headwater_tests::broker::Broker;
use headwater_tests::program::{Daemon, Place, until};
use rdkafka::Message as _;
use rdkafka::producer::Producer as _;
use serde_json::{Value, json};

use crate::onlooker::{Onlooker, Sees, id};
use crate::platform::{producer, send};
use crate::{alone, number, progress};

const PARTITIONS: i32 = 4;
const USERS: usize = 80;
/// Between two requests.
const PACE: Duration = Duration::from_millis(8);
/// How often the model takes over and gives back.
const SWAPS: usize = 6;
/// Requests while one scores.
const BETWEEN: Duration = Duration::from_millis(1_500);

/// Requests without an end; what they ask for is shown at once, and half of the users like the one item, half the other.
struct Feed {
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl Feed {
    fn start(bootstrap: &str, behaviors: String, requests: String) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stopping);
        let producer = producer(bootstrap);
        let thread = std::thread::spawn(move || {
            let mut number = 0;
            while !told.load(Ordering::Relaxed) {
                let user = format!("u{}", number % USERS);
                let request = json!({"request_id": format!("r{number}"), "user_id": user, "scenario": "feed", "time": headwater::now_ms(),
                    "candidates": ["ia", "ib"]});
                send(&producer, &requests, &user, &request);
                // Of the request before that of this user: it has been answered by then.
                if number >= USERS {
                    let before = format!("r{}", number - USERS);
                    let wanted = ["ia", "ib"][number % 2];
                    for (item, kind) in
                        [("ia", "impression"), ("ib", "impression"), (wanted, "like")]
                    {
                        let done = json!({"user_id": user, "item_id": item, "kind": kind, "scenario": "feed", "time": headwater::now_ms(),
                            "request_id": before});
                        send(&producer, &behaviors, &user, &done);
                    }
                }
                number += 1;
                std::thread::park_timeout(PACE);
            }
            producer.flush(Duration::from_secs(30)).unwrap();
            number
        });
        Self { stopping, thread }
    }

    fn stop(self) -> usize {
        self.stopping.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Who scores in a daemon, by its status.
fn scorer(daemon: &Daemon) -> Option<String> {
    let (_, status) = daemon.get("/status")?;
    let status: Value = serde_json::from_str(&status).ok()?;
    let name = status["model"]["name"].as_str();
    Some(name.unwrap_or("baseline").to_owned())
}

/// Learns from what the daemons scored: where nothing is left to judge by, nothing is promoted.
fn learn(place: &Place, folder: &str) {
    let fixed = [
        "train", "bahe", "--log", "--texts", "none", "--out", folder, "--format", "json",
    ];
    let more = [
        "--passes",
        "4",
        "--rate",
        "0.003",
        "--promote",
        "--train",
        "0.9",
        "--valid",
        "0.1",
    ];
    let ran = place.run(&[&fixed[..], &more].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let summary: Value = ran.json();
    progress(&format!(
        "learned from {}: {}",
        summary["rows"], summary["judged"]
    ));
    let judged = &summary["judged"];
    assert_eq!(
        (&judged["promoted"], &judged["rows"]),
        (&json!(false), &json!([0, 0]))
    );
}

/// An instance that only trains promotes what it learned once it has proved itself, also where the one before it was killed on the way. A champion that was spoiled goes back by
/// itself.
fn train([trainer, scores]: [&Place; 2], daemons: &[Daemon], folder: &Path) {
    let until_trains = |daemon: &Daemon| {
        until("a training", || {
            (daemon.metric("headwater_daemon_trainings_total") > 0).then_some(())
        });
    };
    let daemon = trainer.start(&[]);
    until_trains(&daemon);
    drop(daemon.kill());
    let daemon = trainer.start(&[]);
    let promoted = |daemon: &Daemon| scorer(daemon).is_some_and(|name| name != "baseline");
    until("a champion", || daemons.iter().all(promoted).then_some(()));
    let told = scorer(&daemons[0]);
    let standing = |daemon: &Daemon| daemon.json("/status")["trials"].clone();
    progress(&format!("{told:?} proved itself: {}", standing(&daemon)));
    until("the promotion to be told", || {
        (standing(&daemon)["cause"] == "proved_itself").then_some(())
    });

    let spoilt = folder.join("spoilt");
    let id = standing(&daemon)["champion"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let copy = scores.state().join("champions").join(id);
    spoil(&trainer.config(), &copy, &spoilt);
    let ran = trainer.run(&[
        "champion",
        "promote",
        &spoilt.display().to_string(),
        "--format",
        "json",
    ]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let of_spoilt = ran.json()["champion"].clone();
    until("both to follow the spoilt one", || {
        let follows = |daemon: &Daemon| scorer(daemon).as_deref() == of_spoilt["name"].as_str();
        daemons.iter().all(follows).then_some(())
    });
    drop(daemon.kill());
    let daemon = trainer.start(&[]);
    until("the spoilt one to go back", || {
        let told = standing(&daemon);
        (told["cause"] == "disappointed" && told["former"] == of_spoilt).then_some(())
    });
    progress(&format!("the spoilt one went back: {}", standing(&daemon)));
    daemon.stop();
}

/// A copy of a model that says of everything that it is almost never liked.
fn spoil(config: &Config, from: &Path, to: &Path) {
    let mut config = config.clone();
    config.key_vectors.logged = true;
    let schema = Assembler::new(&config).unwrap().schema().clone();
    let model = BaheModel::open(from, &schema).unwrap();
    let manifest = model.manifest().clone();
    let mut values = from_safetensors(&fs::read(from.join(VALUES)).unwrap()).unwrap();
    let bias = values.get_mut("head.out.bias").unwrap();
    // However sure it is of the positives.
    *bias = bias.affine(1.0, -14.0).unwrap();
    let values = to_safetensors(&values).unwrap();
    let described = Described {
        layers: (manifest.layers, manifest.blocks),
        encoder: (manifest.encoder, manifest.cut),
        limit: manifest.limit,
        sequences: manifest.sequences,
        scenarios: Vec::new(),
        texts: manifest.texts_described,
        head: manifest.head,
        features: manifest.features,
        key_vectors: manifest.key_vectors,
        reads: manifest.reads,
        objective: manifest.objective,
        rows: manifest.rows,
        reached: None,
    };
    fs::create_dir_all(to).unwrap();
    let manifest = Manifest::of(described, &schema, &values).bytes();
    fs::write(to.join(MANIFEST), manifest).unwrap();
    fs::write(to.join(VALUES), values).unwrap();
}

/// Waits for the last of so many requests to be answered, and gives their answers: each has one, and its logged row names the same model with the same scores.
fn audited(onlooker: &Onlooker, config: &Config, asked: usize) -> BTreeMap<String, Value> {
    let name = |topic| config.topic_name(topic);
    until("the last request to be answered", || {
        let ends = onlooker.whole(&name(Topic::ScoreRequests));
        let committed = onlooker.committed(&name(Topic::ScoreRequests));
        let done = ends.iter().all(|of| {
            committed
                .get(&of.partition)
                .is_some_and(|at| *at >= of.until)
        });
        done.then_some(())
    });
    let mut answers: BTreeMap<String, Value> = BTreeMap::new();
    onlooker.each(
        Sees::Committed,
        &onlooker.whole(&name(Topic::Scores)),
        |message| {
            let answer: Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
            assert_eq!(answer["status"], "ok", "{answer}");
            let before = answers.insert(id(message), answer);
            assert!(before.is_none(), "answered twice: {before:?}");
        },
    );
    assert_eq!(answers.len(), asked, "every request has its answer");
    let mut rows = 0;
    onlooker.each(
        Sees::Committed,
        &onlooker.whole(&name(Topic::FeatureLog)),
        |message| {
            let row: Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
            let id = id(message);
            let answer = &answers[id.strip_suffix("-0").unwrap()];
            let of_row = format!("{}-{}", row["model"].as_str().unwrap(), row["version"]);
            assert_eq!(answer["model"], of_row.as_str(), "{id}");
            for (scored, logged) in answer["items"]
                .as_array()
                .unwrap()
                .iter()
                .zip(row["candidates"].as_array().unwrap())
            {
                assert_eq!(scored["tasks"]["liked"], logged["scores"][0], "{id}");
            }
            rows += 1;
        },
    );
    assert_eq!(rows, asked);
    answers
}

/// Labels that were published, by row and item: what is said of one for the first time is said once.
fn labels(onlooker: &Onlooker, config: &Config) -> usize {
    let mut told = BTreeSet::new();
    onlooker.each(
        Sees::Committed,
        &onlooker.whole(&config.topic_name(Topic::Labels)),
        |message| {
            let labelled: Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
            if labelled["correction"] == true {
                return;
            }
            for item in labelled["items"].as_array().unwrap() {
                let of = |value: &Value| value.as_str().unwrap().to_owned();
                let first = told.insert([of(&labelled["row"]), of(&item["item_id"])]);
                assert!(first, "labelled twice: {labelled}");
            }
        },
    );
    told.len()
}

/// Somebody who trains, judges soon and lets half of the users try.
const TRAINS: &str = "instance.workers = 0\ntrain.every = \"1s\"\ntrain.rows_min = 1000\ntrain.rate = 0.003\n\
     train.canary = 0.5\ntrain.canary_for = \"1s\"";

fn place(broker: &Broker, id: &str, more: &str) -> Place {
    let more = format!(
        "instance.id = \"{id}\"\ninstance.prefix = \"champion.\"\ntopics.partitions = {PARTITIONS}\nscenarios.names = [\"feed\"]\n\
         kafka.session_timeout = \"3s\"\nkafka.transaction_timeout = \"2s\"\nlabels.shown_within = \"2s\"\n\
         tasks.liked = {{ positive = [\"like\"], trials = [\"impression\"], scenarios = [], window = \"1s\" }}\n{more}"
    );
    Place::on_kafka(&broker.bootstrap(), &more)
}

/// Goal: whoever dies whenever, champions go on scoring, nothing that is half written is ever loaded, and labels count once (`MODEL-2`, `PIPE-1`). Method: two daemons, an instance that trains all the time, and steady
/// requests; once a model has proved itself, one of the three is killed at a random moment and started again, `HEADWATER_KILLS` times (6). No daemon ever tells of a model that it cannot load; in the end every request has one answer, by the baseline or
/// a model that was announced, its row says the same, and each label is told once.
#[test]
fn whoever_dies_the_champion_goes_on() {
    let _alone = alone();
    let broker = Broker::start();
    let places = [
        place(&broker, "a", ""),
        place(&broker, "b", ""),
        place(&broker, "trains", TRAINS),
    ];
    let made = places[0].run(&["topics", "create"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let mut daemons: Vec<Daemon> = places.iter().map(|place| place.start(&[])).collect();
    let config = places[0].config();
    let feed = Feed::start(
        &broker.bootstrap(),
        config.topic_name(Topic::Behaviors),
        config.topic_name(Topic::ScoreRequests),
    );
    until("a champion", || {
        let promoted = |daemon: &Daemon| scorer(daemon).is_some_and(|name| name != "baseline");
        daemons[..2].iter().all(promoted).then_some(())
    });
    let kills = number("HEADWATER_KILLS", 6);
    let mut random = 7_u64;
    let mut draw = |bound: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) % bound
    };
    let mut champions = BTreeSet::new();
    for kill in 0..kills {
        std::thread::park_timeout(Duration::from_millis(300 + draw(1_500)));
        // Who trains is killed as often as the others together.
        let victim = [0, 2, 1, 2][draw(4) as usize];
        drop(daemons.remove(victim).kill());
        daemons.insert(victim, places[victim].start(&[]));
        for daemon in &daemons {
            let status = daemon.json("/status");
            assert!(status["model"]["trouble"].is_null(), "{status}");
        }
        champions.extend(scorer(&daemons[0]));
        if kill % 10 == 9 {
            progress(&format!("{} kills; so far scored: {champions:?}", kill + 1));
        }
    }
    let asked = feed.stop();
    let onlooker = Onlooker::new(&broker.bootstrap(), &config.group());
    let answers = audited(&onlooker, &config, asked);
    let announced = announced(&onlooker, &config);
    let mut by: BTreeMap<&str, usize> = BTreeMap::new();
    for answer in answers.values() {
        *by.entry(answer["model"].as_str().unwrap()).or_default() += 1;
    }
    let known = |model: &&str| *model == "baseline-1" || announced.contains(*model);
    assert!(by.keys().all(known), "{by:?} of {announced:?}");
    let labelled = labels(&onlooker, &config);
    assert!(labelled > asked, "{labelled} labels of {asked} requests");
    progress(&format!(
        "{kills} kills: {asked} requests answered once, {labelled} items labelled once; by {by:?}"
    ));
    daemons.into_iter().for_each(Daemon::stop);
}

/// Names of all models that the topic of models ever spoke of.
fn announced(onlooker: &Onlooker, config: &Config) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    onlooker.each(
        Sees::Committed,
        &onlooker.whole(&config.topic_name(Topic::Models)),
        |message| {
            let told = message.payload().map(serde_json::from_slice::<Value>);
            if let Some(Ok(told)) = told {
                let of = ["champion", "former", "model", "beside"];
                names.extend(of.iter().filter_map(|key| {
                    let name = told[*key]["name"].as_str()?;
                    Some(name.to_owned())
                }));
            }
        },
    );
    names
}

/// Goal: a model that was learned from live behavior takes over and gives back under load without one failed, missing or mixed answer, kill -9 in between (`MODEL-1`, `MODEL-2`,
/// `PIPE-1`). Method: two daemons and steady requests; the model is trained on their log while they run, promoted and rolled back again and again, each
/// time both follow; after each promotion one is killed and comes back with the champion. Then: every request has one answer, each answer and its logged row name
/// the same model, both models answered, and scores of the trained one are computed again to the bit.
#[test]
fn a_model_takes_over_and_gives_back() {
    let _alone = alone();
    let broker = Broker::start();
    let places = [place(&broker, "a", ""), place(&broker, "b", "")];
    let made = places[0].run(&["topics", "create"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let mut daemons: Vec<Daemon> = places.iter().map(|place| place.start(&[])).collect();
    let config = places[0].config();
    let name = |topic| config.topic_name(topic);
    let feed = Feed::start(
        &broker.bootstrap(),
        name(Topic::Behaviors),
        name(Topic::ScoreRequests),
    );
    until("labels", || {
        let published = |daemon: &Daemon| daemon.metric("headwater_consumers_label_examples_total");
        (daemons.iter().map(published).sum::<u64>() > 1_500).then_some(())
    });
    let out = tempfile::tempdir().unwrap();
    let folder = out.path().join("live").display().to_string();
    let trainer = place(&broker, "trains", TRAINS);
    train([&trainer, &places[0]], &daemons, out.path());
    learn(&places[0], &folder);
    let ran = places[0].run(&["champion", "retire"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let mut trained = String::new();
    for swap in 0..SWAPS {
        let takes_over = swap % 2 == 0;
        let ran = if takes_over {
            places[0].run(&["champion", "promote", &folder, "--format", "json"])
        } else {
            places[0].run(&["champion", "rollback", "--format", "json"])
        };
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let champion = ran.json()["champion"]["name"].as_str().map(str::to_owned);
        let champion = champion.unwrap_or_else(|| "baseline".to_owned());
        if takes_over {
            trained.clone_from(&champion);
        }
        until("both to follow", || {
            let follows = |daemon: &Daemon| scorer(daemon).as_ref() == Some(&champion);
            daemons.iter().all(follows).then_some(())
        });
        std::thread::park_timeout(BETWEEN);
        if takes_over {
            let victim = swap / 2 % 2;
            drop(daemons.remove(victim).kill());
            daemons.insert(victim, places[victim].start(&[]));
            // From its first answer on: the topic was read before.
            assert_eq!(scorer(&daemons[victim]).as_ref(), Some(&champion));
            std::thread::park_timeout(BETWEEN);
        }
        progress(&format!("swap {swap}: {champion} scores"));
    }
    let asked = feed.stop();
    let onlooker = Onlooker::new(&broker.bootstrap(), &config.group());
    let answers = audited(&onlooker, &config, asked);
    let models: BTreeSet<&str> = answers
        .values()
        .map(|answer| answer["model"].as_str().unwrap())
        .collect();
    assert!(
        models.contains("baseline-1") && models.contains(&*trained),
        "{models:?}"
    );
    // Promoted again, so that a copy of it is here: what it scored is computed again.
    let of_trained: Vec<&Value> = answers
        .values()
        .filter(|answer| answer["model"] == *trained)
        .collect();
    progress(&format!(
        "{asked} requests answered once, {} by {trained}",
        of_trained.len()
    ));
    for answer in of_trained.iter().step_by(of_trained.len() / 5 + 1) {
        let request = answer["request_id"].as_str().unwrap();
        let explained = places[0].run(&["explain", request, "--format", "json"]);
        assert_eq!(explained.code, Some(0), "{explained:?}");
        let explained: Value = explained.json();
        for row in explained["logged"][0]["rows"]["rows"].as_array().unwrap() {
            assert_eq!(row["scores"][0]["same"], true, "{row}");
        }
    }
    daemons.into_iter().for_each(Daemon::stop);
}
