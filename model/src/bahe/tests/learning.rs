//! What can be learned, and that it is learned the same way twice.

use std::collections::BTreeMap;

use super::*;
use crate::dinmp::Seen;

const TEXTS: usize = 8;
const USERS: usize = 240;

/// Users of one sequence of behaviors, one row each: the label is whether the first behavior was of text 0. The others are drawn alike, so that only the order
/// tells. A second sequence stays empty.
fn corpus() -> Corpus {
    let mut numbers = crate::numbers::Numbers(11);
    let mut histories = Vec::new();
    let mut rows = Rows::default();
    for user in 0..USERS {
        let first = user % 2;
        let mut texts: Vec<u32> = (0..5)
            .map(|_| (numbers.uniform() * TEXTS as f64) as u32)
            .collect();
        // Both kinds of users have both texts somewhere.
        texts.extend([0, 1]);
        numbers.shuffle(&mut texts);
        texts.insert(0, first as u32);
        let times: Vec<i64> = (0..8).map(|step| step * 60_000).collect();
        histories.extend([History::of(texts, &times), History::default()]);
        rows.user.push(2 * user as u32);
        rows.counts.extend([7, 0]);
        rows.item.push((user / 2 % TEXTS) as u32);
        rows.features.extend([1.0, (user / 2 % 3) as f32]);
        rows.base.push(0.3);
        rows.labels.push(f32::from(u8::from(first == 0)));
        rows.weights.push(1.0);
    }
    Corpus {
        vectors: tensor(3, &[TEXTS, WIDTH]),
        histories,
        sequences: 2,
        scenarios: 0,
        features: 2,
        tasks: vec!["click".to_owned()],
        seen: Seen::default(),
        rows,
    }
}

fn settings() -> TrainSettings {
    TrainSettings {
        adam: AdamSettings {
            rate: 5e-3,
            beta: [0.9, 0.99],
            epsilon: 1e-8,
            decay: 0.0,
        },
        deep_factor: 1.0,
        positions: 400,
        rows_max: 32,
        accumulate: 2,
        longest: 1.0,
        seed: 1,
        objective: Objective::Labels,
        falling: None,
    }
}

fn trainer(depth: Depth, width: usize) -> Trainer {
    let head = HeadConfig {
        width,
        sequences: 2,
        features: 2,
        tasks: 1,
        projected: 8,
        inner: [16, 8],
        interest: 0,
        matches: 0,
        scenarios: 0,
        experts: 0,
        cross: 0,
    };
    let mut values = Head::random(&head, 3).unwrap();
    values.extend(Deep::random(&config(), 5).unwrap());
    let path = Path::new("here");
    let given = (None, settings());
    Trainer::new(depth, &head, &values, path, given, &Place::cpu()).unwrap()
}

fn deep_depth(frozen: bool) -> Depth {
    Depth::Deep {
        config: config(),
        frozen,
    }
}

/// Learns from two thirds of the users; the answer is the loss of the others.
fn learn(trainer: &mut Trainer, corpus: &Corpus, passes: u64) -> f32 {
    let mut position = Position::default();
    let seen = USERS / 3 * 2;
    while position.epoch < passes {
        position = trainer
            .pass(corpus, 0..seen, position, &mut |_, _| true)
            .unwrap();
    }
    let scores = trainer.score(corpus, seen..USERS, &mut |_| {}).unwrap();
    let labels = &corpus.rows.labels[seen..];
    let losses = scores.iter().zip(labels).map(|(score, label)| {
        let toward = if *label > 0.0 { -score } else { *score };
        toward.exp().ln_1p()
    });
    losses.sum::<f32>() / labels.len() as f32
}

/// Goal: the deep layers learn what no mean can know. Method: a label that follows from the order alone, for users not learned from; the same head over
/// means of the same vectors stays where guessing is.
#[test]
fn order_is_learned_by_the_deep_layers_alone() {
    let corpus = corpus();
    let deep = learn(&mut trainer(deep_depth(false), WIDTH), &corpus, 25);
    assert!(deep < 0.2, "{deep}");
    let mean = learn(
        &mut trainer(Depth::Mean { limit: LIMIT }, WIDTH),
        &corpus,
        5,
    );
    assert!(mean > 0.6, "{mean}");
}

/// Goal: the model begins as the baseline. Method: its first scores are the baseline's log-odds, in all depths.
#[test]
fn the_first_scores_are_the_baselines() {
    let corpus = corpus();
    for (depth, width) in [
        (Depth::None, 0),
        (Depth::Mean { limit: LIMIT }, WIDTH),
        (deep_depth(false), WIDTH),
    ] {
        let mut told = 0;
        let scores = trainer(depth, width).score(&corpus, 10..50, &mut |done| told = done);
        assert_eq!(scores.unwrap(), vec![0.3; 40]);
        assert_eq!(told, 40);
    }
}

/// Goal: training that was cut off goes on to the bit. Method: three passes at once, and the same with a checkpoint in the middle of the second, taken up by another
/// trainer.
#[test]
fn a_checkpoint_goes_on_to_the_bit() {
    let corpus = corpus();
    let bits = |trainer: &Trainer| -> BTreeMap<String, Vec<f32>> {
        let values = trainer.checkpoint().unwrap().into_iter();
        values
            .map(|(name, value)| (name, value.flatten_all().unwrap().to_vec1().unwrap()))
            .collect()
    };
    let mut whole = trainer(deep_depth(false), WIDTH);
    learn(&mut whole, &corpus, 3);

    let mut first = trainer(deep_depth(false), WIDTH);
    let second_pass = first
        .pass(
            &corpus,
            0..USERS / 3 * 2,
            Position::default(),
            &mut |_, _| true,
        )
        .unwrap();
    let cut = first
        .pass(&corpus, 0..USERS / 3 * 2, second_pass, &mut |_, report| {
            report.position.batch < 4
        })
        .unwrap();
    assert_eq!((cut.epoch, cut.batch), (1, 4));
    // As it would be read from a file: values alone, nothing that computed them.
    let written: BTreeMap<String, Tensor> = first
        .checkpoint()
        .unwrap()
        .into_iter()
        .map(|(name, value)| {
            let shape = value.dims().to_vec();
            let values = value.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
        })
        .collect();
    let mut resumed = trainer(deep_depth(false), WIDTH);
    resumed.resume(&written, cut).unwrap();
    let mut position = cut;
    while position.epoch < 3 {
        position = resumed
            .pass(&corpus, 0..USERS / 3 * 2, position, &mut |_, _| true)
            .unwrap();
    }
    assert!(bits(&whole) == bits(&resumed));
}

/// Goal: every tensor learns, and frozen ones do not. Method: two steps of the head's last layer, which begins as zeros, let gradients through; after a pass all
/// values differ, or those of the head alone.
#[test]
fn everything_learns_that_is_not_frozen() {
    let corpus = corpus();
    for frozen in [false, true] {
        let mut trainer = trainer(deep_depth(frozen), WIDTH);
        let values = |trainer: &Trainer| -> Vec<(String, Vec<f32>)> {
            let values = trainer.values().unwrap().into_iter();
            values
                .map(|(name, value)| (name, value.flatten_all().unwrap().to_vec1().unwrap()))
                .collect()
        };
        let before = values(&trainer);
        learn(&mut trainer, &corpus, 1);
        for ((name, before), (_, after)) in before.iter().zip(values(&trainer)) {
            let learns = name.starts_with("head.") || !frozen;
            assert_eq!(*before != after, learns, "{name}, frozen: {frozen}");
        }
    }
}

/// Goal: a row sees what was before it, and nothing else. Method: behaviors behind a row's count change; its score does not.
#[test]
fn a_row_does_not_see_what_comes_later() {
    let mut corpus = corpus();
    let mut trainer = trainer(deep_depth(false), WIDTH);
    learn(&mut trainer, &corpus, 1);
    let before = trainer.score(&corpus, 0..USERS, &mut |_| {}).unwrap();
    for history in corpus.histories.iter_mut().step_by(2) {
        let last = history.texts.last_mut().unwrap();
        *last = (*last + 1) % TEXTS as u32;
        *history.gaps.last_mut().unwrap() += 4;
    }
    assert_eq!(
        before,
        trainer.score(&corpus, 0..USERS, &mut |_| {}).unwrap()
    );
    for history in corpus.histories.iter_mut().step_by(2) {
        history.texts[6] = (history.texts[6] + 1) % TEXTS as u32;
    }
    assert_ne!(
        before,
        trainer.score(&corpus, 0..USERS, &mut |_| {}).unwrap()
    );
}

/// Goal: the loss is a number wherever log-odds go, and so is its gradient. Method: far log-odds with both labels against what they must be, and rows without
/// a label, which count for nothing.
#[test]
fn the_loss_is_stable() {
    let log_odds = Var::new(
        &[[50.0_f32], [-50.0], [50.0], [0.0], [1000.0]],
        &Device::Cpu,
    )
    .unwrap();
    let labels = Tensor::new(&[[0.0_f32], [0.0], [1.0], [1.0], [0.0]], &Device::Cpu).unwrap();
    let weights = Tensor::new(&[[1.0_f32], [1.0], [1.0], [1.0], [0.0]], &Device::Cpu).unwrap();
    let loss = cross_entropy(log_odds.as_tensor(), &labels, &weights).unwrap();
    let expected = (50.0 + std::f32::consts::LN_2) / 4.0;
    assert!((loss.to_scalar::<f32>().unwrap() - expected).abs() < 1e-5);
    let gradients = loss.backward().unwrap();
    let gradient = gradients.get(log_odds.as_tensor()).unwrap();
    let gradient = gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let expected = [0.25, 0.0, 0.0, -0.125, 0.0];
    for (found, expected) in gradient.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6, "{gradient:?}");
    }
}
