//! Models that learn beside a champion that looks at texts: from what its rows hold of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater::champion::{promote, put_on_trial, retire};
use headwater::train::{Source, Texts, TrainBahe, TrainError, TrainSummary};
use headwater_config::{Config, Topic};
use headwater_consumers::assemble::Assembler;
use headwater_consumers::log::Log;
use headwater_model::bahe::{BaheModel, MANIFEST};
use serde_json::{Value, json};

use crate::fleet::start;
use crate::log::{keys, records, send};
use crate::program::{get, until};
use crate::takeover::{Beside, made_ahead};
use crate::train::train;
use crate::trained::trained;

pub(crate) const WEEK_MS: i64 = 7 * 86_400_000;

/// What was recorded, once more so many weeks later: asked, shown and answered. Time goes on behind it, so that all labels are final.
pub(crate) fn once_more(log: &dyn Log, events: &str, weeks: i64) -> usize {
    let (mut requests, mut last) = (0, 0);
    for line in events.lines() {
        let mut event: Value = serde_json::from_str(line).unwrap();
        let record = &mut event["record"];
        last = record["time"].as_i64().unwrap() + weeks * WEEK_MS;
        record["time"] = json!(last);
        for id in ["request_id", "event_id"] {
            if let Some(before) = record[id].as_str() {
                record[id] = json!(format!("{before}-again{weeks}"));
            }
        }
        let is_asked = event["topic"] == "score-requests";
        let topic = if is_asked {
            Topic::ScoreRequests
        } else {
            Topic::Behaviors
        };
        let record = &event["record"];
        let user = record["user_id"].as_str().unwrap();
        send(log, topic, user, record.to_string().as_bytes());
        requests += usize::from(is_asked);
    }
    for user in 0..40 {
        let user = format!("u{user}");
        let record =
            json!({"user_id": user, "kind": "view", "scenario": "home", "time": last + WEEK_MS});
        send(log, Topic::Behaviors, &user, record.to_string().as_bytes());
    }
    requests
}

/// Waits until so many items have labels.
pub(crate) fn labelled(log: &dyn Log, wanted: usize) {
    until("all to be labelled", || {
        let labels = records(log, Topic::Labels);
        let items = labels
            .iter()
            .map(|of| of["items"].as_array().map_or(0, Vec::len));
        (items.sum::<usize>() >= wanted).then_some(())
    });
}

/// Goal: beside a champion that looks at texts, rows of the log teach another head of the same layers, which is a model that looks at texts, can be tried, scores some users and then all with the vectors that are there, and
/// says in the stream what it said in training; the layers themselves learn from the texts that the rows name, by command and beside the stream, and whose layers are others is judged by these rows; without such a champion, texts are no part of what a head learns, and without texts in rows no layers learn. Method: a model of recordings becomes champion of a daemon; what was recorded happens once more and
/// is scored, labelled and learned from; the trial's record is made that of a canary of all users.
#[test]
fn a_head_learns_from_what_the_champion_saw_of_texts() {
    let trained = trained("deep");
    let place = &trained.place;
    let deep = PathBuf::from(&trained.model);
    let mut config = place.config();
    made_ahead(&mut config, "0s");
    config.labels.shown_within = "1m".parse().unwrap();
    let log = Beside::log(&config, &trained.recordings);
    let daemon = start(&config, &log);
    let mut beside = Beside::of(&daemon, &log);
    let announced = promote(&config, &*log, &deep).unwrap();
    let champion = json!(announced.champion.unwrap().name);
    beside.first_of(&champion, &json!("baseline-1"));
    daemon.stop(true).unwrap();

    let events = fs::read_to_string(&trained.recordings[1]).unwrap();
    let before = records(&*log, Topic::FeatureLog).len();
    let requests = once_more(&*log, &events, 1);
    let daemon = start(&config, &log);
    until("all to be scored", || {
        (records(&*log, Topic::FeatureLog).len() >= before + requests).then_some(())
    });
    labelled(&*log, 2 * requests);
    let rows = records(&*log, Topic::FeatureLog);
    let again = rows.iter().filter(|row| {
        let id = row["request_id"].as_str().unwrap();
        id.ends_with("-again1")
    });
    assert!(again.clone().all(|row| row["model"] == "bahe"));
    assert_eq!(again.count(), requests);

    let learn_of = |name: &str,
                    rows_min: usize,
                    texts: Texts|
     -> Result<(PathBuf, TrainSummary), TrainError> {
        let folder = deep.with_file_name(name);
        let source = Source::Log(log.clone());
        let training = TrainBahe {
            log_rows: [rows_min, 10_000],
            passes: 3,
            texts,
            ..TrainBahe::as_configured(&config, source, folder.clone())
        };
        Ok((folder, training.run(&config)?))
    };
    let learn = |name: &str, rows_min: usize| learn_of(name, rows_min, Texts::None);
    let (live, summary) = learn("live", 100).unwrap();
    assert_eq!(
        summary.rows.iter().sum::<usize>(),
        2 * requests,
        "{summary:?}"
    );
    assert_eq!(summary.without_vectors, 0);
    let judged = summary.judged.unwrap();
    assert_eq!(json!(judged.champion), champion);
    let assembler = Assembler::new(&config).unwrap();
    let towers = |folder: &PathBuf| {
        let model = BaheModel::open(folder, assembler.schema()).ok();
        model.and_then(|model| model.towers())
    };
    assert!(towers(&deep).is_some());
    assert_eq!(towers(&live), towers(&deep));

    let deeper = its_layers_learn(&learn_of, &deep, (&config, &champion), 2 * requests);
    let other = PathBuf::from(format!("{}-other", trained.model));
    let more = [
        "--texts", "deep", "--passes", "3", "--layers", "1", "--seed", "5",
    ];
    let ran = train(place, &trained.recordings, &other, &more);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    put_on_trial(&config, &*log, &live, None).unwrap();

    // As if it had proved itself: it scores some, here all.
    let mut beside = Beside::new(&daemon, &log);
    beside.time += 2 * WEEK_MS;
    let name = canary_of_all(&config, &*log);
    assert_ne!(name, champion);
    let by_canary = beside.first_of(&name, &champion);
    assert_eq!(by_canary["degraded"], Value::Null);
    becomes_champion(
        (&config, &*log),
        &mut beside,
        &live,
        [&champion, &by_canary],
    );
    // Rows of either teach, and judge, whoever has the same layers.
    let (next, summary) = learn("next", 100).unwrap();
    assert_eq!(summary.without_vectors, 0);
    assert_eq!(towers(&next), towers(&deep));
    assert_eq!(json!(summary.judged.unwrap().champion), name);
    let few = learn("few", 2 * requests + 100);
    assert!(matches!(few, Err(TrainError::TooFew { .. })), "{few:?}");

    // So does whoever trains beside the stream: from all rows, and on from what comes.
    daemon.stop(true).unwrap();
    let mut trains = config.clone();
    trains.train.every = "1s".parse().unwrap();
    (trains.train.rows_min, trains.train.passes) = (100, 2);
    trains.train.trial = "1h".parse().unwrap();
    // Whose layers are others is judged by what the rows name.
    let tried = put_on_trial(&config, &*log, &deeper, None).unwrap();
    let tried = json!(tried.model.unwrap().id);
    let daemon = start(&trains, &log);
    let of = trains.state.path.join("trained");
    let is_there = |folder: &PathBuf| folder.join(MANIFEST).exists().then_some(());
    until("it to have learned from all rows", || is_there(&of));
    assert_eq!(towers(&of), towers(&deep));
    once_more(&*log, &events, 3);
    let following = of.join("following");
    until("it to have learned from new ones", || is_there(&following));
    assert_eq!(towers(&following), towers(&deep));
    // Who was champion before may have come back, and all trials have begun anew.
    once_more(&*log, &events, 4);
    let rows = until("one of other layers to be looked at", || {
        let told = records(&*log, Topic::Models);
        let mut told = told.iter().filter(|of| of["model"]["id"] == tried);
        told.find_map(|of| of["looks"][0]["all"]["rows"].as_u64())
    });
    assert!(rows >= 200, "{rows}");

    // Who waits is judged by nothing that it did not score.
    daemon.stop(true).unwrap();
    let mut waits = trains.clone();
    made_ahead(&mut waits, "1h");
    waits.train.passes = 1;
    waits.train.learn_layers = true;
    let daemon = start(&waits, &log);
    let beside_it = Beside::new(&daemon, &log);
    until("layers to have learned beside the stream", || {
        // A head alone has those of whoever was champion.
        towers(&of).filter(|of| ![&deep, &deeper].map(&towers).contains(&Some(*of)))
    });
    let waiting = promote(&config, &*log, &other).unwrap();
    let requests = once_more(&*log, &events, 5);
    assert!(requests > 400);
    until("it to wait", || {
        (beside_it.model()["ahead"]["items"].as_u64() > Some(0)).then_some(())
    });
    std::thread::sleep(std::time::Duration::from_secs(6));
    let standing = headwater::champion::standing(&config, &*log).unwrap();
    assert_eq!(standing.announced, Some(waiting));
    assert!(standing.watch.is_none(), "{standing:?}");

    // Without texts rows teach numbers; beside a champion of other layers, nothing yet.
    retire(&config, &*log).unwrap();
    let refused = put_on_trial(&config, &*log, &live, None).unwrap_err();
    assert!(refused.to_string().contains("looks at none"), "{refused}");
    let (bare, _) = learn("bare", 100).unwrap();
    assert_eq!(towers(&bare), None);
    let none = learn_of("none", 100, Texts::Deep);
    assert!(matches!(none, Err(TrainError::NoLayers)), "{none:?}");
    promote(&config, &*log, &other).unwrap();
    let none = learn("none", 100);
    assert!(
        matches!(none, Err(TrainError::TooFewVectors { found: 0, .. })),
        "{none:?}"
    );
    daemon.stop(true).unwrap();
    a_canary_of_other_layers(&config, &log, &deeper);
}

/// Beside a champion one of other layers scores the users that it is to score once its vectors are there, and all with these when it is promoted.
fn a_canary_of_other_layers(config: &Config, log: &Arc<dyn Log>, canary: &Path) {
    let daemon = start(config, log);
    let mut beside = Beside::new(&daemon, log);
    beside.time += 10 * WEEK_MS;
    let standing = headwater::champion::standing(config, &**log).unwrap();
    let name = json!(standing.announced.unwrap().champion.unwrap().name);
    until("the champion to score", || {
        (beside.ask()["model"] == name).then_some(())
    });
    put_on_trial(config, &**log, canary, None).unwrap();
    let other = canary_of_all(config, &**log);
    let by_canary = beside.first_of(&other, &name);
    assert_eq!(by_canary["degraded"], Value::Null);
    let model = beside.model();
    assert_eq!((&model["name"], &model["ahead"]), (&name, &Value::Null));
    becomes_champion((config, &**log), &mut beside, canary, [&name, &by_canary]);
    daemon.stop(true).unwrap();
}

/// A canary becomes champion, says what it said, and goes on with what it has in memory: a behavior more is added to it.
pub(crate) fn becomes_champion(
    (config, log): (&Config, &dyn Log),
    beside: &mut Beside,
    folder: &Path,
    [champion, by_canary]: [&Value; 2],
) {
    let name = &by_canary["model"];
    promote(config, log, folder).unwrap();
    until("it to be champion", || {
        (beside.model()["name"] == *name).then_some(())
    });
    let answer = beside.first_of(name, champion);
    assert_eq!(
        (&answer["items"], &answer["degraded"]),
        (&by_canary["items"], &Value::Null)
    );
    let [anew, held] = ["anew", "held"].map(|outcome| runs(beside, outcome));
    let record = json!({"user_id": "u7", "item_id": "ia", "kind": "view", "scenario": "home", "time": beside.time});
    send(log, Topic::Behaviors, "u7", record.to_string().as_bytes());
    until("a behavior to be added", || {
        (runs(beside, "held") > held).then_some(())
    });
    assert_eq!(runs(beside, "anew"), anew, "nothing was made again for it");
}

/// How many runs went through the layers: whole (`anew`), or behind what was in memory (`held`).
fn runs(beside: &Beside, outcome: &str) -> u64 {
    let (_, metrics) = get(&beside.address, "/metrics").unwrap();
    let name = format!("headwater_consumers_deep_runs_total{{outcome=\"{outcome}\"}} ");
    let mut lines = metrics.lines();
    let count = lines.find_map(|line| line.strip_prefix(&*name));
    count.map_or(0, |count| count.parse().unwrap())
}

/// Makes the one trial's record that of a canary of all users; gives the model's name.
pub(crate) fn canary_of_all(config: &Config, log: &dyn Log) -> Value {
    let all = keys(log, Topic::Models)
        .into_iter()
        .zip(records(log, Topic::Models));
    let mut all = all.map(|(key, value)| (String::from_utf8(key).unwrap(), value));
    let (key, mut trial) = all.rfind(|(_, value)| value["looks"].is_array()).unwrap();
    let from = [Topic::Labels, Topic::FeatureLog].map(|topic| {
        let partitions = log.describe(topic).unwrap().unwrap().partitions;
        vec![0; partitions as usize]
    });
    trial["canary"] =
        json!({"share": 1.0, "since": headwater::now_ms(), "from": from, "looks": []});
    assert!(config.train.every.is_zero(), "nobody judges it");
    send(log, Topic::Models, &key, trial.to_string().as_bytes());
    trial["model"]["name"].clone()
}

/// What a training from the log leaves, under a name, of so many rows at least.
type Learns<'a> = dyn Fn(&str, usize, Texts) -> Result<(PathBuf, TrainSummary), TrainError> + 'a;

/// Layers of a champion learn, from the texts that its rows name: all of so many rows.
fn its_layers_learn(
    learn: &Learns<'_>,
    deep: &Path,
    (config, champion): (&Config, &Value),
    rows: usize,
) -> PathBuf {
    let (deeper, summary) = learn("deeper", 100, Texts::Deep).unwrap();
    let learned_from = summary.rows.iter().sum::<usize>();
    assert_eq!((learned_from, summary.without_vectors), (rows, 0));
    assert!(
        summary.distinct_texts > 3 && summary.positions > 0,
        "{summary:?}"
    );
    assert_eq!(json!(summary.judged.unwrap().champion), *champion);
    let assembler = Assembler::new(config).unwrap();
    let [before, learned] = [deep, &deeper].map(|folder| {
        let model = BaheModel::open(folder, assembler.schema()).unwrap();
        (model.encoder(), model.deep_id())
    });
    assert_eq!(before.0, learned.0);
    assert_ne!(before.1, learned.1);
    deeper
}
