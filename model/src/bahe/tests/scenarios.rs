//! Scenarios, experts and crosses: what they are there for.

use super::*;
use crate::dinmp::Seen;
use crate::numbers::Numbers;

const ROWS: usize = 1_200;
const LEARNED: std::ops::Range<usize> = 0..900;

/// Rows of three numbers and a label that follows from two of them: in the first scenario from the first, in the second from its contrary; the third scenario's rows have none that learns. With
/// `crossed` it follows from whether the first two are of one sign, in all of them.
fn corpus(crossed: bool) -> Corpus {
    let mut numbers = Numbers(33);
    let mut rows = Rows::default();
    for row in 0..ROWS {
        let features = numbers.normal(3, 1.0);
        let scenario = (row % 2) as u32 + 1;
        let side = match (crossed, scenario) {
            (true, _) => features[0] * features[1],
            (false, 1) => features[0],
            (false, _) => -features[0],
        };
        rows.user.push(row as u32);
        rows.counts.push(0);
        rows.item.push(0);
        rows.scenario.push(scenario);
        rows.labels.push(f32::from(u8::from(side > 0.0)));
        rows.weights.push(1.0);
        rows.base.push(0.0);
        rows.features.extend(features);
    }
    Corpus {
        vectors: tensor(3, &[1, 1]),
        histories: vec![History::default(); ROWS],
        sequences: 0,
        scenarios: 2,
        features: 3,
        tasks: vec!["click".to_owned()],
        seen: Seen::default(),
        rows,
    }
}

fn trainer([scenarios, experts, cross]: [usize; 3], inner: [usize; 2]) -> Trainer {
    let head = HeadConfig {
        width: 0,
        sequences: 0,
        features: 3,
        tasks: 1,
        projected: 1,
        inner,
        interest: 0,
        matches: 0,
        scenarios,
        experts,
        cross,
    };
    let values = Head::random(&head, 3).unwrap();
    let settings = TrainSettings {
        adam: AdamSettings {
            rate: 1e-2,
            beta: [0.9, 0.99],
            epsilon: 1e-8,
            decay: 0.0,
        },
        deep_factor: 1.0,
        positions: 100,
        rows_max: 50,
        accumulate: 1,
        longest: 1.0,
        seed: 9,
        objective: Objective::Labels,
        falling: None,
    };
    let path = Path::new("here");
    let given = (None, settings);
    Trainer::new(Depth::None, &head, &values, path, given, &Place::cpu()).unwrap()
}

fn passes(trainer: &mut Trainer, corpus: &Corpus, count: u64) {
    let mut position = Position::default();
    while position.epoch < count {
        let next = trainer.pass(corpus, LEARNED, position, &mut |_, _| true);
        position = next.unwrap();
    }
}

/// How often the sign of what is said is the label's, of rows not learned from.
fn right(trainer: &Trainer, corpus: &Corpus) -> f64 {
    let rows = LEARNED.end..ROWS;
    let said = trainer.score(corpus, rows.clone(), &mut |_| {}).unwrap();
    let labels = &corpus.rows.labels[rows];
    let right = said.iter().zip(labels);
    let right = right.filter(|(said, label)| (**said > 0.0) == (**label > 0.0));
    right.count() as f64 / said.len() as f64
}

/// Goal: what holds in one scenario and the contrary in another is learned by a head that tells them apart, through the mix of experts alone too; and not by one that does not. Method: such rows; heads
/// with and without scenarios and experts, of which those with experts have their shifts held at zero.
#[test]
fn scenarios_are_told_apart() {
    let corpus = corpus(false);
    let mut without = trainer([0, 0, 0], [16, 8]);
    passes(&mut without, &corpus, 20);
    assert!(
        right(&without, &corpus) < 0.6,
        "{}",
        right(&without, &corpus)
    );
    let mut with = trainer([2, 0, 0], [16, 8]);
    passes(&mut with, &corpus, 20);
    assert!(right(&with, &corpus) > 0.95, "{}", right(&with, &corpus));
    // Rows of experts alone: the table of shifts is put back to zeros before anything is asked.
    let mut mixed = trainer([2, 4, 0], [16, 4]);
    let none = tensor(1, &[3, 16]).zeros_like().unwrap();
    for _ in 0..20 {
        passes(&mut mixed, &corpus, 1);
        let mut values = mixed.values().unwrap();
        values.insert("head.scenarios".to_owned(), none.clone());
        mixed.restore(&values).unwrap();
    }
    assert!(right(&mixed, &corpus) > 0.95, "{}", right(&mixed, &corpus));
    // Who is passed off as another has its row learned as well.
    let values = mixed.values().unwrap();
    let gates: Vec<Vec<f32>> = values["head.gates"].to_vec2().unwrap();
    assert!(
        gates.iter().all(|row| row.iter().any(|gate| *gate != 0.0)),
        "{gates:?}"
    );
    let lines: Vec<f32> = values["head.lines"]
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap();
    assert_eq!(lines, [1.0, 0.0].repeat(3), "lines do not learn");
}

/// Goal: a cross knows products of numbers that hidden layers must make up. Method: rows whose label is the sign of a product; a head whose hidden layers are too narrow for that, with a cross and without.
#[test]
fn crosses_are_learned() {
    let corpus = corpus(true);
    let mut without = trainer([0, 0, 0], [1, 1]);
    passes(&mut without, &corpus, 20);
    let mut with = trainer([0, 0, 4], [1, 1]);
    passes(&mut with, &corpus, 20);
    let (without, with) = (right(&without, &corpus), right(&with, &corpus));
    assert!(
        with > 0.93 && without < 0.75,
        "{with} with, {without} without"
    );
}

/// Goal: all that learns has the gradient that it should. Method: each tensor of a head with all parts, by finite differences of the loss of one batch.
#[test]
fn gradients_are_those_of_the_loss() {
    let corpus = corpus(false);
    let mut trainer = trainer([2, 2, 2], [4, 3]);
    let mut values = trainer.values().unwrap();
    for (seed, (name, value)) in values.iter_mut().enumerate() {
        if name != "head.lines" {
            *value = (tensor(seed as u64 + 1, value.dims()) * 0.3).unwrap();
        }
    }
    trainer.restore(&values).unwrap();
    let batch = vec![(0..40).collect::<Vec<usize>>()];
    let (_, gradients) = trainer.gradients(&corpus, &batch).unwrap();
    for (name, value) in &values {
        if name == "head.lines" {
            assert!(!gradients.contains_key(name));
            continue;
        }
        let gradient = gradients[name]
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        let flat = value.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for place in (0..flat.len()).step_by(flat.len().div_ceil(5)) {
            let mut loss_at = |by: f32| {
                let mut moved = flat.clone();
                moved[place] += by;
                let moved = Tensor::from_vec(moved, value.shape(), &Device::Cpu).unwrap();
                let mut others = values.clone();
                others.insert(name.clone(), moved);
                trainer.restore(&others).unwrap();
                f64::from(trainer.gradients(&corpus, &batch).unwrap().0)
            };
            let step = 1e-2;
            let slope = (loss_at(step) - loss_at(-step)) / (2.0 * f64::from(step));
            let found = f64::from(gradient[place]);
            assert!(
                (slope - found).abs() < 2e-4 + 0.02 * slope.abs(),
                "{name} {place}: {found}, {slope}"
            );
        }
    }
    trainer.restore(&values).unwrap();
}

/// Goal: each scenario's line is laid over what was laid before. Method: lines twice, of two scenarios and of another, against what was said before.
#[test]
fn lines_of_scenarios_are_laid_over_each_other() {
    let mut corpus = corpus(false);
    corpus.rows.scenario[0] = 0;
    let mut trainer = trainer([2, 2, 0], [8, 4]);
    passes(&mut trainer, &corpus, 2);
    let said = |trainer: &Trainer| trainer.score(&corpus, 0..9, &mut |_| {}).unwrap();
    let before = said(&trainer);
    let first = [[1.0, 0.5], [0.5, 0.25], [2.0, -1.0]];
    let second = [[0.9, 0.0], [1.5, 1.0], [1.0, 0.125]];
    for lines in [first, second] {
        trainer.calibrate(&lines.map(|line| vec![line])).unwrap();
    }
    for (row, (before, after)) in before.iter().zip(said(&trainer)).enumerate() {
        let scenario = corpus.rows.scenario[row] as usize;
        let mut expected = f64::from(*before);
        for [slope, shift] in [first[scenario], second[scenario]] {
            expected = expected * slope + shift;
        }
        assert!(
            (f64::from(after) - expected).abs() < 1e-4,
            "row {row}: {after}, not {expected}"
        );
    }
}
