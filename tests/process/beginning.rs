//! Layers that begin to learn where nobody has looked at texts so far: from rows of the baseline that name them.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use headwater::champion::{put_on_trial, retire};
use headwater::train::{Source, Texts, TrainBahe, TrainError, TrainSummary};
use headwater_config::{Config, Topic};
use headwater_consumers::assemble::Assembler;
use headwater_consumers::log::Log;
use headwater_model::bahe::{BaheModel, MANIFEST};
use serde_json::{Value, json};

use crate::fleet::start;
use crate::lineage::{WEEK_MS, becomes_champion, canary_of_all, labelled, once_more};
use crate::log::records;
use crate::program::until;
use crate::takeover::{Beside, made_ahead};
use crate::trained::trained;

/// What the newest row of a request at this time names of texts: runs, without how much of them a vector was made of, and candidates' texts.
fn named(log: &dyn Log, model: &Value, time: i64) -> Value {
    let rows = records(log, Topic::FeatureLog);
    let is_it = |row: &&Value| {
        let of = format!(
            "{}-{}",
            row["model"].as_str().unwrap(),
            row["version"].as_u64().unwrap()
        );
        row["time"] == time && *model == of
    };
    let row = rows.iter().rfind(is_it).expect("it was logged");
    let mut runs = row["vectors"]["sequences"].clone();
    for run in runs.as_array_mut().unwrap() {
        run.as_object_mut().unwrap().remove("used").unwrap();
    }
    let texts = row["candidates"].as_array().unwrap().iter();
    json!([runs, texts.map(|of| &of["text"]).collect::<Vec<_>>()])
}

/// Goal: where the baseline scores, or a model of numbers, rows that name texts teach layers which begin as the language model's own; such a model is tried by what these rows name, scores some users and then all, by command and beside the stream; where rows name no texts, none learns, and none is tried. Method: what was recorded
/// happens once more beside the baseline and is learned from; a trial's record is made that of a canary of all users; then an instance that trains, whose trials are looked at.
#[test]
fn layers_begin_where_nobody_looks_at_texts() {
    let trained = trained("none");
    let mut config = trained.place.config();
    made_ahead(&mut config, "0s");
    config.labels.shown_within = "1m".parse().unwrap();
    (config.texts.logged, config.train.layers) = (true, 1);
    let log = Beside::log(&config, &trained.recordings);
    let daemon = start(&config, &log);
    Beside::of(&daemon, &log);
    daemon.stop(true).unwrap();
    let events = fs::read_to_string(&trained.recordings[1]).unwrap();
    let requests = once_more(&*log, &events, 1);
    let daemon = start(&config, &log);
    let mut beside = Beside::new(&daemon, &log);
    labelled(&*log, 2 * requests);

    let model = PathBuf::from(&trained.model);
    let learn = |name: &str, config: &Config| -> Result<(PathBuf, TrainSummary), TrainError> {
        let folder = model.with_file_name(name);
        let training = TrainBahe {
            log_rows: [100, 10_000],
            passes: 4,
            texts: Texts::Deep,
            ..TrainBahe::as_configured(config, Source::Log(Arc::clone(&log)), folder.clone())
        };
        Ok((folder, training.run(config)?))
    };
    let (first, summary) = learn("first", &config).unwrap();
    let learned_from = summary.rows.iter().sum::<usize>();
    assert_eq!(
        (learned_from, summary.without_vectors),
        (2 * requests, 0),
        "{summary:?}"
    );
    let losses = &summary.validation_loss;
    assert!(losses[summary.kept] < losses[0], "{losses:?}");
    assert_eq!(summary.judged.unwrap().champion, "baseline");
    let assembler = Assembler::new(&config).unwrap();
    let open = |folder: &PathBuf| BaheModel::open(folder, assembler.schema()).unwrap();
    let of = open(&first);
    let manifest = of.manifest();
    assert_eq!((manifest.limit, manifest.cut), (8, 1));
    assert_eq!(manifest.blocks.as_ref().unwrap().layers, 1);
    // The same again, to the bit, also beside a champion of numbers.
    headwater::champion::promote(&config, &*log, &model).unwrap();
    let (again, summary) = learn("again", &config).unwrap();
    assert_eq!(open(&again).deep_id(), of.deep_id());
    assert_ne!(summary.judged.unwrap().champion, "baseline");
    retire(&config, &*log).unwrap();

    // Rows that name nothing.
    let mut bare = config.clone();
    bare.texts.logged = false;
    let refused = put_on_trial(&bare, &*log, &first, None).unwrap_err();
    assert!(refused.to_string().contains("texts.logged"), "{refused}");
    bare.texts.encoder = None;
    let none = learn("none", &bare);
    assert!(matches!(none, Err(TrainError::NoLayers)), "{none:?}");

    let baseline = json!("baseline-1");
    beside.time += 2 * WEEK_MS;
    until("the baseline to score", || {
        (beside.ask()["model"] == baseline).then_some(())
    });
    put_on_trial(&config, &*log, &first, None).unwrap();
    let name = canary_of_all(&config, &*log);
    let by_canary = beside.first_of(&name, &baseline);
    assert_eq!(by_canary["degraded"], Value::Null);
    let [by_nobody, by_it] = [&baseline, &name].map(|of| named(&*log, of, beside.time));
    assert_eq!(by_nobody, by_it);
    assert!(by_it[0][0]["length"].as_u64() >= Some(4), "{by_it}");
    becomes_champion(
        (&config, &*log),
        &mut beside,
        &first,
        [&baseline, &by_canary],
    );
    daemon.stop(true).unwrap();

    // Beside the stream.
    retire(&config, &*log).unwrap();
    let mut trains = config.clone();
    trains.train.every = "1s".parse().unwrap();
    (trains.train.rows_min, trains.train.passes) = (100, 2);
    trains.train.learn_layers = true;
    let tried = put_on_trial(&config, &*log, &first, None).unwrap();
    let tried = json!(tried.model.unwrap().id);
    let daemon = start(&trains, &log);
    let of = trains.state.path.join("trained");
    let is_there = |folder: &PathBuf| folder.join(MANIFEST).exists().then_some(());
    until("layers to have learned from all rows", || is_there(&of));
    assert!(open(&of).deep().is_some());
    once_more(&*log, &events, 3);
    let following = of.join("following");
    until("them to have learned from new ones", || {
        is_there(&following)
    });
    assert!(open(&following).deep().is_some());
    once_more(&*log, &events, 4);
    let seen = until("it to be looked at", || {
        let told = records(&*log, Topic::Models);
        let mut told = told.iter().filter(|of| of["model"]["id"] == tried);
        told.find_map(|of| of["looks"].get(0).map(|look| look["all"].clone()))
    });
    assert!(seen["rows"].as_u64() >= Some(200), "{seen}");
    // By what it sees itself, and not by what the baseline says.
    assert_ne!(seen["losses"][0], seen["losses"][1], "{seen}");
    daemon.stop(true).unwrap();
}
