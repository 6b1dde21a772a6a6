//! A training that goes on over a log in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_config::Topic;
use headwater_consumers::log::Log;
use headwater_model::Tensor;
use headwater_model::bahe::MANIFEST;
use headwater_model::language::from_safetensors;

use super::*;
use crate::train::labelled::stretches;
use crate::train::trial::tests::World;
use crate::train::{Regime, Winner};

fn training(world: &World) -> TrainBahe {
    let source = Source::Log(Arc::clone(&world.log) as Arc<dyn Log>);
    TrainBahe {
        shares: [0.6, 0.1],
        winner: Winner::OnTrialInTurn,
        regime: Regime::Prequential,
        ..TrainBahe::as_configured(&world.config, source, world.folder.path().join("trained"))
    }
}

fn base(values: &BTreeMap<String, Tensor>) -> f32 {
    values["head.base"].to_vec1().unwrap()[0]
}

/// What is kept has the lines laid over what goes on, which has none of them.
fn assert_laid(training: &TrainBahe, going: Option<&Going>, summary: &TrainSummary) -> f32 {
    let kept = std::fs::read(training.out.join("model.safetensors")).unwrap();
    let kept = base(&from_safetensors(&kept).unwrap());
    let bare = base(&going.unwrap().trainer.values().unwrap());
    let [slope, _] = summary.calibration[0][0];
    assert!(
        (kept - bare * slope as f32).abs() < 1e-6,
        "{kept} {bare} {slope}"
    );
    assert!((slope - 1.0).abs() > 1e-4, "a line that changes something");
    bare
}

/// What is kept says that it has learned from all that there is.
fn assert_reached_the_ends(training: &TrainBahe, world: &World) {
    let manifest = std::fs::read(training.out.join(MANIFEST)).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let ends = [Topic::Labels, Topic::FeatureLog].map(|topic| {
        let whole = stretches(&world.config, &*world.log, topic, None).unwrap();
        whole.iter().map(|of| of.until).collect::<Vec<_>>()
    });
    assert!(ends[0].iter().sum::<i64>() > 0);
    assert_eq!(manifest["reached"], serde_json::json!(ends));
}

/// Schemas of rows that the topic of models knows of.
fn schemas_told(world: &World) -> usize {
    let whole = crate::scan::whole(&*world.log, Topic::Models, "models").unwrap();
    let mut keys = std::collections::BTreeSet::new();
    crate::scan::read(&*world.log, &whole, &mut |record| {
        keys.insert(record.key.unwrap_or_default().to_vec());
    })
    .unwrap();
    keys.iter()
        .filter(|key| key.starts_with(b"schema/"))
        .count()
}

/// Goal: a training begins by passes, goes on over what was labelled since and nothing else, each row said before it is learned from, and begins anew when there is half as much again; what it hands out is calibrated and says how far it has read, what it goes on with is not calibrated; each comes beside
/// those on trial, as long as there is a place. Method: turns on a log whose positives come more often than the baseline says, with rows added between them; lines beside values, rows and pieces of each summary, and the trial.
#[test]
fn it_goes_on_over_new_rows_and_begins_anew_when_outgrown() {
    let mut world = World::new(
        "train.rows_min = 1000\ntrain.passes = 2\nlabels.shown_within = '10ms'\n[tasks.click]\npositive = ['click']\ntrials = ['impression']\nscenarios = []\nwindow = '10ms'\n",
    );
    let training = training(&world);
    let mut going = None;
    let mut turn = |world: &World| {
        let stop = || false;
        let told = if going.as_ref().is_none_or(Going::is_outgrown) {
            let begun = training.begin(&world.config, &stop);
            begun.map(|(summary, begun)| {
                going = begun;
                summary
            })
        } else {
            training.go_on(&world.config, &mut going, &stop)
        };
        told.map(|summary| {
            let bare = assert_laid(&training, going.as_ref(), &summary);
            assert_reached_the_ends(&training, world);
            (summary, bare)
        })
    };
    let too_few = |told: Result<_, TrainError>| matches!(told, Err(TrainError::TooFew { .. }));
    world.live(100, [1.0; 2]);
    assert!(
        too_few(turn(&world)),
        "before there is enough to begin with"
    );
    world.live(900, [1.0; 2]);
    let (begun, at_first) = turn(&world).unwrap();
    assert_eq!(begun.rows.iter().sum::<usize>(), 2_000);
    assert_eq!(begun.validation_loss.len(), 3);
    assert!(begun.judged.as_ref().unwrap().on_trial, "{begun:?}");
    assert_eq!(schemas_told(&world), 1);
    let on_trial = |world: &World| {
        let standing = crate::champion::standing(&world.config, &*world.log).unwrap();
        standing.challengers.len()
    };
    assert_eq!(on_trial(&world), 1);

    assert!(too_few(turn(&world)), "nothing new");
    world.live(49, [1.0; 2]);
    assert!(
        too_few(turn(&world)),
        "less than a tenth of what it begins with"
    );
    world.live(251, [1.0; 2]);
    let (on, then) = turn(&world).unwrap();
    assert_eq!(
        (on.rows, on.onward),
        ([0, 0, 600], 30),
        "pieces of 10 requests, as those before"
    );
    assert!(on.validation_loss.is_empty() && then != at_first);
    let judged = on.judged.unwrap();
    // Of them those that are later than all before by the time that labels take.
    assert_eq!(judged.rows[0], 600 - 2 * 20);
    assert!(judged.losses[1] < judged.losses[0], "{judged:?}");
    assert!(judged.on_trial);
    assert_eq!(on_trial(&world), 2);

    world.live(200, [1.0; 2]);
    let (on, _) = turn(&world).unwrap();
    assert_eq!(on.rows, [0, 0, 400]);
    assert_eq!(on.judged.unwrap().rows[0], 400 - 2 * 20);
    assert_eq!(on_trial(&world), 3);
    world.live(50, [1.0; 2]);
    let (anew, _) = turn(&world).unwrap();
    assert_eq!(
        anew.rows.iter().sum::<usize>(),
        3_100,
        "1,000 rows came since it began with 2,000"
    );
    assert_eq!(anew.validation_loss.len(), 3);
    let judged = anew.judged.unwrap();
    assert!(judged.losses[1] < judged.losses[0], "{judged:?}");
    assert!(
        !judged.on_trial,
        "all places are taken, by models of which nothing is known yet"
    );
    assert_eq!(on_trial(&world), 3);
}
