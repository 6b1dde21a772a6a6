//! Several tasks over shared layers.

use super::*;
use crate::dinmp::Seen;
use crate::gradient::{Gdod, GradientRule, Keep, Scope, Weighing};
use crate::numbers::Numbers;

const ROWS: usize = 160;

/// Rows of one user each with a behavior or two, and of each task a label that follows from another number; `labelled` says of (row, task) whether it has
/// one.
fn corpus(tasks: usize, labelled: impl Fn(usize, usize) -> bool) -> Corpus {
    let mut numbers = Numbers(21);
    let (mut histories, mut rows) = (Vec::new(), Rows::default());
    for row in 0..ROWS {
        let texts = vec![(row % 8) as u32, (row / 8 % 8) as u32];
        histories.push(History::of(texts, &[0, 60_000]));
        rows.user.push(row as u32);
        rows.counts.push(1 + (row % 2) as u32);
        rows.item.push((row / 3 % 8) as u32);
        let features = numbers.normal(2, 1.0);
        for task in 0..tasks {
            let side = if task % 2 == 0 {
                features[0]
            } else {
                features[1] - features[0]
            };
            rows.labels.push(f32::from(u8::from(side > 0.0)));
            rows.weights.push(f32::from(u8::from(labelled(row, task))));
            rows.base.push(0.1);
        }
        rows.features.extend(features);
    }
    Corpus {
        vectors: tensor(3, &[8, WIDTH]),
        histories,
        sequences: 1,
        scenarios: 0,
        features: 2,
        tasks: (0..tasks).map(|task| format!("task{task}")).collect(),
        seen: Seen::default(),
        rows,
    }
}

fn by(rule: GradientRule) -> Objective {
    let scope = Scope::Global;
    Objective::Tasks { rule, scope }
}

const UNTOUCHED: GradientRule = GradientRule::Gdod(Gdod {
    keep: Keep::Blend { rest: 1.0 },
    tolerance: 0.0,
    repair: false,
});

fn trainer(tasks: usize, objective: Objective, accumulate: usize) -> Trainer {
    let deep = DeepConfig {
        sequences: 1,
        ..config()
    };
    let head = HeadConfig {
        width: WIDTH,
        sequences: 1,
        features: 2,
        tasks,
        projected: 6,
        inner: [12, 8],
        interest: 0,
        matches: 0,
        scenarios: 0,
        experts: 0,
        cross: 0,
    };
    let mut values = Head::random(&head, 3).unwrap();
    values.extend(Deep::random(&deep, 5).unwrap());
    let settings = TrainSettings {
        adam: AdamSettings {
            rate: 1e-2,
            beta: [0.9, 0.99],
            // Large: a step follows the gradient's size, and rounding stays rounding.
            epsilon: 1.0,
            decay: 0.0,
        },
        deep_factor: 1.0,
        positions: 400,
        rows_max: 16,
        accumulate,
        longest: 100.0,
        seed: 1,
        objective,
        falling: None,
    };
    let depth = Depth::Deep {
        config: deep,
        frozen: false,
    };
    let path = Path::new("here");
    let given = (None, settings);
    Trainer::new(depth, &head, &values, path, given, &Place::cpu()).unwrap()
}

/// One pass; all values by name, the losses of steps and what the rule said.
fn learn(
    trainer: &mut Trainer,
    corpus: &Corpus,
) -> (
    Vec<(String, Vec<f32>)>,
    Vec<f32>,
    Vec<Vec<(String, Weighing)>>,
) {
    let (mut losses, mut weighings) = (Vec::new(), Vec::new());
    trainer
        .pass(corpus, 0..ROWS, Position::default(), &mut |_, report| {
            losses.push(report.loss);
            weighings.push(report.weighings);
            true
        })
        .unwrap();
    let values = trainer.values().unwrap().into_iter();
    let values =
        values.map(|(name, value)| (name, value.flatten_all().unwrap().to_vec1().unwrap()));
    (values.collect(), losses, weighings)
}

fn near(one: &[(String, Vec<f32>)], other: &[(String, Vec<f32>)], tolerance: f32) {
    for ((name, one), (_, other)) in one.iter().zip(other) {
        for (one, other) in one.iter().zip(other) {
            assert!((one - other).abs() < tolerance, "{name}: {one} {other}");
        }
    }
}

/// Goal: with one task, all objectives are one. Method: a pass by labels, by the plain sum and by rules, each step of one batch: the same losses and values but for
/// rounding.
#[test]
fn one_task_learns_the_same_by_any_rule() {
    let corpus = corpus(1, |_, _| true);
    let (expected, losses, told) = learn(&mut trainer(1, Objective::Labels, 1), &corpus);
    assert!(told.iter().all(Vec::is_empty));
    for rule in [
        GradientRule::Sum,
        GradientRule::default(),
        GradientRule::Mgda,
        GradientRule::PcGrad { seed: 1 },
    ] {
        let (values, other, told) = learn(&mut trainer(1, by(rule), 1), &corpus);
        near(&values, &expected, 1e-5);
        for (one, other) in losses.iter().zip(&other) {
            assert!((one - other).abs() < 1e-5, "{rule:?}: {losses:?} {other:?}");
        }
        assert_eq!(told.iter().all(Vec::is_empty), rule == GradientRule::Sum);
    }
}

/// Goal: gradients task by task are those of the sum. Method: GDOD that keeps every direction is the plain sum, which is one backward pass; two batches a step,
/// labels that are missing here and there, so that tasks have different numbers of them in each.
#[test]
fn tasks_add_up_to_the_sum() {
    let corpus = corpus(3, |row, task| task == 0 || (row + task) % (task + 2) == 0);
    let (expected, losses, _) = learn(&mut trainer(3, by(GradientRule::Sum), 2), &corpus);
    let (values, other, told) = learn(&mut trainer(3, by(UNTOUCHED), 2), &corpus);
    near(&values, &expected, 1e-5);
    assert_eq!(losses, other);
    // At first nothing comes through the head's last layer, which is zeros.
    for (name, weighing) in told[1..].iter().flatten() {
        assert_eq!(name, "");
        assert!(
            weighing
                .coefficients
                .iter()
                .all(|one| (one - 1.0).abs() < 1e-6)
        );
    }
    // And the rules do something else.
    let (values, _, told) = learn(&mut trainer(3, by(GradientRule::default()), 2), &corpus);
    assert!(values != expected);
    let moved = |weighing: &Weighing| {
        weighing
            .coefficients
            .iter()
            .any(|one| (one - 1.0).abs() > 0.01)
    };
    assert!(told.iter().flatten().any(|(_, weighing)| moved(weighing)));
    for (_, weighing) in told[1..].iter().flatten() {
        assert!(
            weighing.worst_cosine.is_some_and(|cosine| cosine > -1e-5),
            "{weighing:?}"
        );
    }
}

/// Goal: each task's loss is the mean over its own labels. Method: the first step's loss, before anything is learned: the mean over tasks of their mean losses by
/// hand, of which one task has few labels; by labels it is another.
#[test]
fn a_task_weighs_as_a_task() {
    let mut corpus = corpus(2, |row, task| task == 0 || row % 16 == 0);
    // The rare task's labels are all 0 and its log-odds far up: its loss is 4.
    for row in 0..ROWS {
        corpus.rows.labels[2 * row + 1] = 0.0;
        corpus.rows.base[2 * row + 1] = 4.0;
    }
    let many = ROWS / 16;
    let first = |objective| learn(&mut trainer(2, objective, many), &corpus).1[0];
    let common: f32 = (0..ROWS)
        .map(|row| {
            let up = corpus.rows.labels[2 * row] > 0.0;
            (if up { -0.1_f32 } else { 0.1 }).exp().ln_1p()
        })
        .sum::<f32>()
        / ROWS as f32;
    let rare = 4_f32.exp().ln_1p();
    let found = first(by(GradientRule::default()));
    assert!(
        (found - f32::midpoint(common, rare)).abs() < 1e-4,
        "{found}"
    );
    let by_labels = first(Objective::Labels);
    assert!(by_labels < found - 0.5, "{by_labels}");
}

/// Goal: labels that are missing are neutral. Method: a task that no row has a label of leaves the others as they are, to the bit, also where it has labels that
/// do not count.
#[test]
fn missing_labels_are_neutral() {
    let whole = corpus(3, |_, task| task < 2);
    let mut changed = corpus(3, |_, task| task < 2);
    for row in 0..ROWS {
        changed.rows.labels[3 * row + 2] = 1.0;
    }
    let two = corpus(2, |_, _| true);
    for rule in [
        GradientRule::default(),
        GradientRule::Mgda,
        GradientRule::AlignedMtl,
    ] {
        let (values, losses, told) = learn(&mut trainer(3, by(rule), 2), &whole);
        assert_eq!(told[0][0].1.coefficients.len(), 2);
        let other = learn(&mut trainer(3, by(rule), 2), &changed);
        assert!(values == other.0 && losses == other.1);
        let (expected, losses_of_two, _) = learn(&mut trainer(2, by(rule), 2), &two);
        for (one, other) in losses.iter().zip(&losses_of_two) {
            assert!((one - other).abs() < 1e-6);
        }
        let own = |name: &str| name.starts_with("head.out.") || name == "head.base";
        for ((name, one), (_, other)) in values.iter().zip(&expected) {
            if own(name) {
                let row = one.len() / 3;
                assert!(
                    one[..2 * row]
                        .iter()
                        .zip(other)
                        .all(|(one, other)| (one - other).abs() < 1e-5)
                );
                let first = if name == "head.base" { 1.0 } else { 0.0 };
                assert!(one[2 * row..].iter().all(|value| *value == first), "{name}");
            } else {
                assert!(
                    one.iter()
                        .zip(other)
                        .all(|(one, other)| (one - other).abs() < 1e-5),
                    "{name}"
                );
            }
        }
    }
}

/// Goal: layer by layer, each layer has its own say. Method: the layers that the rule was asked about, by name; what one task has alone is none of them.
#[test]
fn layers_are_weighed_by_themselves() {
    let corpus = corpus(2, |_, _| true);
    let objective = Objective::Tasks {
        rule: GradientRule::default(),
        scope: Scope::Layer,
    };
    let (_, _, told) = learn(&mut trainer(2, objective, 1), &corpus);
    let names: Vec<&str> = told[1].iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "empty",
            "first",
            "gaps",
            "head.hidden.0",
            "head.hidden.1",
            "head.item",
            "head.user",
            "layers.0",
            "layers.1",
            "norm"
        ]
    );
}

/// Goal: a loss that is no number stops learning, and names the task. Method: a row whose baseline says NaN of one task.
#[test]
fn a_task_that_is_no_number_is_named() {
    let mut corpus = corpus(2, |_, _| true);
    corpus.rows.base[1] = f32::NAN;
    let mut trainer = trainer(2, by(GradientRule::default()), 100);
    let pass = trainer.pass(&corpus, 0..ROWS, Position::default(), &mut |_, _| true);
    assert_eq!(
        pass.unwrap_err().to_string(),
        "after 0 steps the loss of task `task1` is NaN: nothing was learned from that"
    );
}
