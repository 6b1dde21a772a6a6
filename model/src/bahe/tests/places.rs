//! A GPU against the CPU, and 16 bits against f32: forward, loss, the gradient of every tensor, and steps.

use std::collections::BTreeMap;
use std::io::Write as _;

use candle_core::DType;
use headwater_config::DeviceChoice;

use super::*;
use crate::device::choose;
use crate::language::{Decoder, Weights};

/// Where, and how far from the CPU in f32 it may be, by the length of what differs over the length of what is right.
struct Case {
    place: Place,
    name: &'static str,
    /// Of outputs and the loss.
    forward: f64,
    /// Of gradients.
    back: f64,
}

/// 16 bits, which the CPU has as well, and the GPU where there is one. Who runs this where there is none is told, also if it passes.
fn cases() -> Vec<Case> {
    let case = |device: &Device, numbers, name, forward, back| Case {
        place: Place {
            device: device.clone(),
            numbers,
        },
        name,
        forward,
        back,
    };
    let mut cases = vec![case(&Device::Cpu, DType::BF16, "CPU, bf16", 2e-2, 6e-2)];
    let chosen = choose(DeviceChoice::Auto).unwrap();
    match chosen.no_gpu {
        // Not by a macro, which the test harness would keep to itself.
        Some(why) => writeln!(
            std::io::stderr(),
            "SKIPPED: a GPU was not held against the CPU: {why}"
        )
        .unwrap(),
        None => {
            cases.push(case(&chosen.device, DType::F32, "GPU, f32", 1e-5, 1e-4));
            cases.push(case(&chosen.device, DType::BF16, "GPU, bf16", 2e-2, 6e-2));
        }
    }
    cases
}

/// How far `one` is from `right`.
fn off(one: &Tensor, right: &Tensor) -> f64 {
    let flat = |of: &Tensor| {
        let of = of.to_device(&Device::Cpu).unwrap().flatten_all().unwrap();
        of.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(one.dims(), right.dims());
    let (one, right) = (flat(one), flat(right));
    let length = |of: &mut dyn Iterator<Item = f64>| of.map(|x| x * x).sum::<f64>().sqrt();
    let pairs = one.iter().zip(&right);
    let apart = length(&mut pairs.map(|(one, right)| f64::from(one - right)));
    let whole = length(&mut right.iter().map(|right| f64::from(*right)));
    assert!(whole > 0.0, "nothing to hold it against");
    apart / whole
}

/// Two layers of SmolLM2-135M's shape.
fn config() -> DeepConfig {
    DeepConfig {
        blocks: DecoderConfig {
            width: 576,
            inner: 1_536,
            heads: 9,
            kv_heads: 3,
            head_width: 64,
            rope_base: 100_000.0,
            positions_max: 64,
            ..super::config().blocks
        },
        sequences: 2,
        limit: 32,
    }
}

/// A head over two sequences and two tasks.
fn head() -> HeadConfig {
    HeadConfig {
        width: 576,
        sequences: 2,
        features: 3,
        tasks: 2,
        projected: 8,
        inner: [16, 8],
        interest: 0,
        matches: 0,
        scenarios: 0,
        experts: 0,
        cross: 0,
    }
}

/// Values of which none is a constant: what is 0 would let no gradient through.
fn values() -> BTreeMap<String, Tensor> {
    let mut values = Head::random(&head(), 3).unwrap();
    values.extend(Deep::random(&config(), 5).unwrap());
    for (seed, (name, value)) in values.iter_mut().enumerate() {
        let constant = name.ends_with("norm.weight")
            || ["norm", "gaps", "empty", "head.base", "head.out.weight"].contains(&name.as_str())
            || name.rsplit('.').next() == Some("bias");
        if constant {
            let shape = value.dims().to_vec();
            *value = (&*value + tensor(seed as u64, &shape)).unwrap();
        }
    }
    values
}

/// Users of one to thirty behaviors in one sequence, and none or three in the other.
fn corpus() -> Corpus {
    let (users, texts) = (12, 40);
    let mut histories = Vec::new();
    let mut rows = Rows::default();
    for user in 0..users {
        let behaviors = 1 + user * 29 / (users - 1);
        let texts_of = |many: usize| (0..many).map(|at| ((at * 7 + user * 3) % texts) as u32);
        let times = |many: usize| (0..many).map(|at| (at * at) as i64 * 40_000);
        let other = user % 2 * 3;
        for many in [behaviors, other] {
            let times: Vec<i64> = times(many).collect();
            histories.push(History::of(texts_of(many).collect(), &times));
        }
        for row in 0..2 {
            rows.user.push(2 * user as u32);
            rows.counts
                .extend([(behaviors - behaviors * row / 2) as u32, other as u32]);
            rows.item.push(((user + row) % texts) as u32);
            rows.features
                .extend([1.0, user as f32 / 6.0 - 1.0, row as f32]);
            rows.base.extend([0.3, -0.8]);
            rows.labels
                .extend([(user % 2) as f32, ((user + row) % 3 / 2) as f32]);
            rows.weights.extend([1.0, (row % 2) as f32]);
        }
    }
    Corpus {
        vectors: (tensor(3, &[texts, 576]) * 6.0).unwrap(),
        histories,
        sequences: 2,
        scenarios: 0,
        features: 3,
        tasks: vec!["click".to_owned(), "like".to_owned()],
        seen: crate::dinmp::Seen::default(),
        rows,
    }
}

fn trainer(place: &Place, objective: Objective) -> Trainer {
    let settings = TrainSettings {
        adam: AdamSettings {
            rate: 1e-2,
            beta: [0.9, 0.99],
            // Large: a step follows the gradient's size, and rounding stays rounding.
            epsilon: 1.0,
            decay: 0.01,
        },
        deep_factor: 0.5,
        positions: 300,
        rows_max: 8,
        accumulate: 2,
        longest: 0.5,
        seed: 1,
        objective,
        falling: None,
    };
    let depth = Depth::Deep {
        config: config(),
        frozen: false,
    };
    let path = Path::new("here");
    Trainer::new(depth, &head(), &values(), path, (None, settings), place).unwrap()
}

/// Goal: what learns somewhere else learns the same. Method: the loss and the gradient of every trainable tensor of a step over several batches, log-odds of all rows, and all
/// values after a pass of clipped steps with decay; with one gradient for all, and with one a task.
#[test]
fn learning_is_the_same_everywhere() {
    let corpus = corpus();
    let rows = corpus.len();
    let batches: Vec<Vec<usize>> = vec![(0..rows / 2).collect(), (rows / 2..rows).collect()];
    for objective in [
        Objective::Labels,
        Objective::Tasks {
            rule: crate::gradient::GradientRule::default(),
            scope: crate::gradient::Scope::Global,
        },
    ] {
        let mut right = trainer(&Place::cpu(), objective);
        let (right_loss, right_gradients) = right.gradients(&corpus, &batches).unwrap();
        assert_eq!(right_gradients.len(), right.values().unwrap().len());
        let scored = |trainer: &Trainer| {
            let scores = trainer.score(&corpus, 0..rows, &mut |_| {}).unwrap();
            Tensor::from_vec(scores, (rows, 2), &Device::Cpu).unwrap()
        };
        let right_scores = scored(&right);
        let pass = |trainer: &mut Trainer| {
            trainer
                .pass(&corpus, 0..rows, Position::default(), &mut |_, _| true)
                .unwrap();
            trainer.values().unwrap()
        };
        let before = right.values().unwrap();
        let right_values = pass(&mut right);
        for case in cases() {
            let mut trainer = trainer(&case.place, objective);
            let (loss, gradients) = trainer.gradients(&corpus, &batches).unwrap();
            let name = case.name;
            assert!(
                f64::from((loss - right_loss).abs()) < case.forward * f64::from(right_loss),
                "{name}: loss {loss} for {right_loss}"
            );
            let scores = off(&scored(&trainer), &right_scores);
            assert!(scores < case.forward, "{name}: log-odds are {scores} off");
            let mut worst = (0.0, "");
            for (tensor, right) in &right_gradients {
                let off = off(&gradients[tensor], right);
                worst = if off > worst.0 { (off, tensor) } else { worst };
            }
            assert_eq!(gradients.len(), right_gradients.len());
            assert!(worst.0 < case.back, "{name}: gradient {worst:?} off");
            let values = pass(&mut trainer);
            let mut moved = (0.0, "");
            for (tensor, right) in &right_values {
                let change = |of: &Tensor| (of - &before[tensor]).unwrap();
                let off = off(&change(&values[tensor]), &change(right));
                moved = if off > moved.0 { (off, tensor) } else { moved };
            }
            // A step is a difference of rounded values.
            assert!(
                moved.0 < 2.0 * case.back + 1e-3,
                "{name}: a pass moved {moved:?} off"
            );
            writeln!(
                std::io::stderr(),
                "{name}: loss {loss:.6} for {right_loss:.6}, log-odds off by {scores:.1e}, gradients by {:.1e} at most ({}), a pass by {:.1e} ({})",
                worst.0, worst.1, moved.0, moved.1
            )
            .unwrap();
        }
    }
}

/// Goal: a training that was begun on one device can be gone on with, and served, on another. Method: a checkpoint of two steps is taken up by the CPU and by
/// another trainer there; both end as they would have.
#[test]
fn a_checkpoint_is_of_no_device() {
    let corpus = corpus();
    for case in cases() {
        let steps = |trainer: &mut Trainer, from: Position, until: u64| {
            let mut each = |_: &Trainer, report: StepReport| report.position.steps < until;
            trainer
                .pass(&corpus, 0..corpus.len(), from, &mut each)
                .unwrap()
        };
        let mut first = trainer(&case.place, Objective::Labels);
        let position = steps(&mut first, Position::default(), 1);
        let written = first.checkpoint().unwrap();
        assert!(written.values().all(|value| value.device().is_cpu()));
        steps(&mut first, position, u64::MAX);
        for (place, tolerance) in [(&case.place, 0.0), (&Place::cpu(), 0.1)] {
            let mut other = trainer(place, Objective::Labels);
            other.resume(&written, position).unwrap();
            steps(&mut other, position, u64::MAX);
            let ours = other.checkpoint().unwrap();
            for (name, value) in first.checkpoint().unwrap() {
                let moved = if name.starts_with("adam.") {
                    off(&ours[&name], &value)
                } else {
                    let change = |of: &Tensor| (of - &written[&name]).unwrap();
                    off(&change(&ours[&name]), &change(&value))
                };
                assert!(moved <= tolerance, "{}: {name} is {moved} off", case.name);
            }
        }
    }
}

/// Goal: shallow layers give the same states everywhere, for encoding and with the way back. Method: three layers of a small model, both families.
#[test]
fn shallow_layers_are_the_same_everywhere() {
    for family in [Family::Llama, Family::Qwen2] {
        let folder = tempfile::tempdir().unwrap();
        crate::language::tests::write_model(folder.path(), family, true);
        let weights = Weights::open(folder.path()).unwrap();
        let ids = vec![(0..30).map(|at| at * 7 % 90).collect::<Vec<u32>>(); 2];
        let right = Decoder::load(&weights, 0..3, &Device::Cpu).unwrap();
        let states = right.embed(&ids).unwrap();
        let right = right.run(&states, 0..3, Kernels::Fused).unwrap();
        for case in cases() {
            let Place { device, numbers } = &case.place;
            let decoder = Decoder::load_as(&weights, 0..3, device, *numbers).unwrap();
            let states = decoder.embed(&ids).unwrap();
            for kernels in [Kernels::Fused, Kernels::Differentiable] {
                let off = off(&decoder.run(&states, 0..3, kernels).unwrap(), &right);
                assert!(off < case.forward, "{}, {kernels:?}: {off}", case.name);
            }
            let (learns, _) = Decoder::load_trainable(&weights, 0..3, device).unwrap();
            let states = learns.embed(&ids).unwrap().to_dtype(*numbers).unwrap();
            let pass = learns.run_kept(&states, 0..3).unwrap();
            let off = off(pass.outputs(), &right);
            assert!(off < case.forward, "{}, kept: {off}", case.name);
        }
    }
}
