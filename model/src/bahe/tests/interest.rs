//! Learning what users' pasts say of a candidate, and saying it again.

use headwater_config::DeviceChoice;

use super::*;
use crate::device::choose;
use crate::dinmp::{Asked, ItemKeys, Learning, Mark, Reads, RowSettings, Seen};
use crate::feature::{FeatureBatch, FeatureSchema, KeyVectorSpec, LikenessSpec, TaskSpec};
use crate::{HalfLives, Scores};

const ITEMS: usize = 24;
const ROWS: usize = 900;
const DAY: i64 = 86_400_000;

fn spec() -> KeyVectorSpec {
    KeyVectorSpec {
        kinds: vec!["like".to_owned(), "dislike".to_owned()],
        edges_ms: vec![DAY],
    }
}

/// Items are of two sorts that nothing names. A user likes those of one sort and dislikes those of the other, and so is the label; the row's number is
/// noise. Two tasks: the second is the contrary of the first, and lacks its label in every third row.
fn corpus() -> Corpus {
    corpus_by(Reads::default())
}

/// The same, of which so much is read.
fn corpus_by(reads: Reads) -> Corpus {
    let mut numbers = crate::numbers::Numbers(5);
    let mut draw = |below: usize| (numbers.uniform() * below as f64) as usize;
    let (mut seen, mut rows) = (Seen::reading(reads), Rows::default());
    let item = |number: usize| ItemKeys::of(&format!("item {number}"), []);
    for user in 0..ROWS {
        let liked = draw(2);
        for _ in 0..6 {
            let number = draw(ITEMS);
            let kind = u8::from(number % 2 != liked);
            let age = draw(4) as i64 * DAY;
            let place = seen.item(item(number));
            let stretch = u8::from(age >= DAY);
            seen.atom(place, Mark::new(stretch, age, vec![(kind, 1)]));
        }
        let candidate = draw(ITEMS);
        let request = seen.end_request(&format!("user {user}"));
        let item = seen.item(item(candidate));
        rows.asked.push(Asked { request, item });
        let label = if candidate % 2 == liked { 1.0 } else { 0.0 };
        rows.user.push(user as u32);
        rows.item.push(0);
        rows.features.push(draw(100) as f32 / 50.0 - 1.0);
        rows.base.extend([0.1, -0.1]);
        rows.labels.extend([label, 1.0 - label]);
        rows.weights
            .extend([1.0, if user % 3 == 0 { 0.0 } else { 1.0 }]);
    }
    Corpus {
        vectors: tensor(1, &[1, 1]),
        histories: vec![History::default(); ROWS],
        sequences: 0,
        scenarios: 0,
        features: 1,
        tasks: vec!["click".to_owned(), "hide".to_owned()],
        seen,
        rows,
    }
}

fn learning() -> Learning {
    let settings = RowSettings {
        rate: 0.1,
        dropout: 0.05,
        spread: 0.05,
        memory: 1 << 20,
        seed: 3,
    };
    Learning::new(spec(), settings).unwrap()
}

fn head(features: usize) -> HeadConfig {
    HeadConfig {
        width: 0,
        sequences: 0,
        features,
        tasks: 2,
        projected: 4,
        inner: [16, 8],
        interest: learning().outputs(),
        matches: learning().matches(),
        scenarios: 0,
        experts: 0,
        cross: 0,
    }
}

fn trainer(features: usize, objective: Objective) -> Trainer {
    let all = (Reads::default(), objective);
    trainer_at((&Place::cpu(), false), features, all)
}

/// One that computes somewhere, and reads so much; `apart`: as if that were no CPU.
fn trainer_at(
    (place, apart): (&Place, bool),
    features: usize,
    (reads, objective): (Reads, Objective),
) -> Trainer {
    let (mut interest, head) = (learning().reading(reads), head(features));
    interest.apart = apart;
    let mut values = Head::random(&head, 3).unwrap();
    values.extend(interest.random(3).unwrap());
    let settings = TrainSettings {
        adam: AdamSettings {
            rate: 4e-3,
            beta: [0.9, 0.99],
            epsilon: 1e-8,
            decay: 0.0,
        },
        deep_factor: 1.0,
        positions: 64,
        rows_max: 50,
        accumulate: 1,
        longest: 1.0,
        seed: 9,
        objective,
        falling: Some(20),
    };
    let given = (Some(interest), settings);
    let path = Path::new("here");
    Trainer::new(Depth::None, &head, &values, path, given, place).unwrap()
}

const LEARNED: std::ops::Range<usize> = 0..ROWS - 150;

fn passes(trainer: &mut Trainer, corpus: &Corpus, mut position: Position, until: u64) {
    while position.epoch < until {
        let next = trainer.pass(corpus, LEARNED, position, &mut |_, _| true);
        position = next.unwrap();
    }
}

/// How often the sign of what is said is the label's, of rows not learned from, by task.
fn right(trainer: &Trainer, corpus: &Corpus) -> [f64; 2] {
    let rows = LEARNED.end..ROWS;
    let said = trainer.score(corpus, rows.clone(), &mut |_| {}).unwrap();
    [0, 1].map(|task| {
        let right = rows.clone().filter(|row| {
            let said = said[(row - rows.start) * 2 + task];
            (said > 0.0) == (corpus.rows.labels[row * 2 + task] > 0.0)
        });
        right.count() as f64 / rows.len() as f64
    })
}

/// Goal: what two items have to do with each other is learned from what users did with both, of users that were not learned from; each objective learns it. Method:
/// the sorts above, which no number of a row knows of.
#[test]
fn sorts_that_nobody_named_are_learned() {
    let corpus = corpus();
    let gdod = Objective::Tasks {
        rule: crate::gradient::GradientRule::default(),
        scope: crate::gradient::Scope::Global,
    };
    for objective in [Objective::Labels, gdod] {
        let mut trainer = trainer(1, objective);
        let before = right(&trainer, &corpus);
        passes(&mut trainer, &corpus, Position::default(), 12);
        let after = right(&trainer, &corpus);
        assert!(before.iter().all(|right| *right < 0.65), "{before:?}");
        assert!(
            after.iter().all(|right| *right > 0.9),
            "{objective:?}: {after:?}"
        );
    }
}

/// Goal: users are told apart by who they are, where nothing is known of what they did. Method: the sorts above, of users without a past who
/// come again and again, against the same rows with users who come once.
#[test]
fn users_without_a_past_are_told_apart() {
    let of = |users: usize| {
        let (mut corpus, mut numbers) = (corpus(), crate::numbers::Numbers(7));
        let mut seen = Seen::default();
        for row in 0..ROWS {
            let request = seen.end_request(&format!("user {}", row % users));
            let candidate = (numbers.uniform() * ITEMS as f64) as usize;
            let item = seen.item(ItemKeys::of(&format!("item {candidate}"), []));
            corpus.rows.asked[row] = Asked { request, item };
            let label = if candidate % 2 == row % users % 2 {
                1.0
            } else {
                0.0
            };
            corpus.rows.labels[2 * row..][..2].copy_from_slice(&[label, 1.0 - label]);
        }
        corpus.seen = seen;
        let mut trainer = trainer(1, Objective::Labels);
        passes(&mut trainer, &corpus, Position::default(), 12);
        right(&trainer, &corpus)
    };
    let [again, once] = [of(11), of(ROWS)];
    assert!(again.iter().all(|right| *right > 0.9), "{again:?}");
    assert!(once.iter().all(|right| *right < 0.65), "{once:?}");
}

/// Goal: who learns on a GPU learns the same, and a CPU goes on from there. Method: losses of a pass and what is said afterwards, of a trainer that goes a device's way, on a CPU and on a GPU
/// where there is one, with one gradient for all tasks and with one a task, and with self-attention; then a checkpoint that a CPU takes up.
#[test]
fn a_device_learns_the_same() {
    let gdod = Objective::Tasks {
        rule: crate::gradient::GradientRule::default(),
        scope: crate::gradient::Scope::Global,
    };
    let whole = Reads::default();
    let among = Reads {
        self_attention: true,
        ..whole
    };
    let chosen = choose(DeviceChoice::Auto).unwrap();
    if let Some(why) = &chosen.no_gpu {
        println!("SKIPPED: learning on a GPU was not held against the CPU: {why}");
    }
    let gpu = Place {
        device: chosen.device,
        numbers: candle_core::DType::F32,
    };
    let learn = |corpus: &Corpus, trainer: &mut Trainer| {
        let mut losses = Vec::new();
        let at = trainer.pass(corpus, LEARNED, Position::default(), &mut |_, report| {
            losses.push(report.loss);
            true
        });
        let said = trainer.score(corpus, LEARNED.end..ROWS, &mut |_| {});
        (at.unwrap(), [losses, said.unwrap()].concat())
    };
    let labels = Objective::Labels;
    for how in [(whole, labels), (whole, gdod), (among, labels)] {
        let corpus = corpus_by(how.0);
        let on_cpu = || trainer_at((&Place::cpu(), false), 1, how);
        let (_, right) = learn(&corpus, &mut on_cpu());
        for place in [&Place::cpu(), &gpu] {
            let mut there = trainer_at((place, true), 1, how);
            let (at, found) = learn(&corpus, &mut there);
            for (one, other) in found.iter().zip(&right) {
                assert!((one - other).abs() < 2e-3, "{one}, on a CPU {other}");
            }
            let mut here = on_cpu();
            here.resume(&there.checkpoint().unwrap(), at).unwrap();
            let said = here.score(&corpus, LEARNED.end..ROWS, &mut |_| {});
            let rest = &found[found.len() - said.as_ref().unwrap().len()..];
            for (one, other) in said.unwrap().iter().zip(rest) {
                assert!(
                    (one - other).abs() < 1e-4,
                    "{one}, where it learned {other}"
                );
            }
        }
    }
}

/// Goal: a line over a task's log-odds is a part of the head. Method: what is said before and after, of both tasks.
#[test]
fn a_line_is_laid_over_each_task() {
    let corpus = corpus();
    let mut trainer = trainer(1, Objective::Labels);
    passes(&mut trainer, &corpus, Position::default(), 2);
    let said = |trainer: &Trainer| trainer.score(&corpus, 0..40, &mut |_| {}).unwrap();
    let before = said(&trainer);
    let lines = [[0.5, 0.25], [2.0, -1.0]];
    trainer.calibrate(&[lines.to_vec()]).unwrap();
    for (place, (before, after)) in before.iter().zip(said(&trainer)).enumerate() {
        let [slope, shift] = lines[place % 2].map(|one| one as f32);
        let expected = slope * before + shift;
        assert!((after - expected).abs() < 1e-4, "{after}, not {expected}");
    }
}

/// Goal: training that was cut off goes on to the bit, rows of ids with it. Method: four passes at once, and the same by way of a checkpoint in the midst of the second.
#[test]
fn a_checkpoint_with_rows_of_ids_goes_on_to_the_bit() {
    let corpus = corpus();
    let bits = |trainer: &Trainer| crate::language::to_safetensors(&trainer.checkpoint().unwrap());
    let mut whole = trainer(1, Objective::Labels);
    passes(&mut whole, &corpus, Position::default(), 4);
    let mut first = trainer(1, Objective::Labels);
    passes(&mut first, &corpus, Position::default(), 1);
    let from = Position {
        epoch: 1,
        batch: 0,
        steps: 15,
    };
    let cut = first.pass(&corpus, LEARNED, from, &mut |_, report| {
        report.position.batch < 4
    });
    let cut = cut.unwrap();
    assert_eq!((cut.epoch, cut.batch, cut.steps), (1, 4, 19));
    let written = crate::language::to_safetensors(&first.checkpoint().unwrap()).unwrap();
    let read = crate::language::from_safetensors(&written).unwrap();
    let mut resumed = trainer(1, Objective::Labels);
    resumed.resume(&read, cut).unwrap();
    passes(&mut resumed, &corpus, cut, 4);
    assert!(bits(&whole).unwrap() == bits(&resumed).unwrap());
}

/// Goal: a trained model says what training said, candidate by candidate, and a candidate's score does not depend on the others. Method: a request of the corpus's items, by the
/// trainer and by the model that is read from its values.
#[test]
fn a_model_says_what_training_said() {
    let lives = HalfLives {
        short_ms: None,
        long_ms: None,
    };
    let task = |name: &str| TaskSpec {
        name: name.to_owned(),
        definition: String::new(),
        item: lives,
        user: lives,
    };
    let tasks = vec![task("click"), task("hide")];
    let schema = FeatureSchema::with(tasks, LikenessSpec::default(), Some(spec())).unwrap();
    let mut corpus = corpus();
    let wide = schema.shared().len() + schema.own().len();
    // Rows of the schema: what nobody set, in all of them.
    let mut batch = FeatureBatch::new(&schema);
    batch.begin(1_000_000, ITEMS);
    let numbers: Vec<f32> = batch
        .shared()
        .iter()
        .chain(batch.row(0).own)
        .copied()
        .collect();
    corpus.features = wide;
    corpus.rows.features = vec![0.0; ROWS * wide];
    let moments: Vec<[f32; 2]> = numbers.iter().map(|one| [squashed(*one), 1.0]).collect();
    let mut trainer = trainer(wide, Objective::Labels);
    passes(&mut trainer, &corpus, Position::default(), 2);
    let described = Described {
        layers: (Layers::None, None),
        encoder: (None, 1),
        limit: 2,
        sequences: Vec::new(),
        scenarios: Vec::new(),
        texts: Vec::new(),
        head: head(wide),
        features: moments,
        key_vectors: Some(spec()),
        reads: Reads::default(),
        objective: Objective::Labels,
        rows: [1, 0, 0],
        reached: None,
    };
    let model = BaheModel::of(described.clone(), &schema, &trainer.values().unwrap()).unwrap();
    let interest = model.interest().unwrap();
    assert!(interest.rows() > 0);
    // One user's past, and every item as a candidate.
    let candidates: Vec<Asked> = (0..ITEMS as u32)
        .map(|item| Asked { request: 7, item })
        .collect();
    let row = corpus
        .rows
        .asked
        .iter()
        .position(|asked| asked.request == 7)
        .unwrap();
    for (place, asked) in candidates.iter().enumerate() {
        corpus.rows.asked[row + place] = *asked;
        corpus.rows.base[(row + place) * 2..][..2].copy_from_slice(&[0.4, -0.2]);
    }
    let rows = row..row + ITEMS;
    let said = trainer.score(&corpus, rows, &mut |_| {}).unwrap();
    let (seen, asked) = corpus.seen.part(&candidates);
    let of = interest.forward(&seen, &asked, &[]);
    let base = |log_odds: f32| 1.0 / (1.0 + (-log_odds).exp());
    let mut scores = Scores::default();
    crate::Baseline::default().score(&batch, &mut scores);
    for candidate in 0..ITEMS {
        let to = scores.candidate_mut(candidate);
        to.copy_from_slice(&[base(0.4), base(-0.2)]);
    }
    let mut vectors = RowVectors::default();
    model.scorer().begin(ITEMS, &mut vectors);
    model.scorer().score(
        (&batch, 0),
        (&vectors, &of),
        (&crate::Baseline::default(), &mut scores),
    );
    for candidate in 0..ITEMS {
        for task in 0..2 {
            let trained = base(said[candidate * 2 + task]);
            let served = scores.get(candidate, task);
            assert!(
                (trained - served).abs() < 1e-5,
                "{served}, in training {trained}"
            );
        }
        let (seen, asked) = corpus.seen.part(&candidates[candidate..=candidate]);
        let alone = interest.forward(&seen, &asked, &[]);
        let mut one = [base(0.4), base(-0.2)];
        let seen = (&[][..], &[][..], &*alone);
        model.scorer().score_row(
            (batch.row(candidate), 0),
            seen,
            (&crate::Baseline::default(), &mut one),
        );
        assert_eq!(one, [scores.get(candidate, 0), scores.get(candidate, 1)]);
    }
    // Key-vectors of other kinds are not what it learned.
    let mut other = spec();
    other.kinds.swap(0, 1);
    let tasks = vec![task("click"), task("hide")];
    let other = FeatureSchema::with(tasks, LikenessSpec::default(), Some(other)).unwrap();
    let error = BaheModel::of(described, &other, &trainer.values().unwrap()).unwrap_err();
    assert!(error.to_string().contains("key_vectors"), "{error}");
}
