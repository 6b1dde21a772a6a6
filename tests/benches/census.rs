//! What rules for the gradients of several tasks are worth where the tasks are three of one person (`ops/bench/census` runs it over rules and seeds).
//!
//! ```text
//! census FOLDER OBJECTIVE SEED SAID [TASK]     learns from FOLDER/rows.safetensors by an objective of `headwater train bahe`, TASK alone where one is named; log-odds of the rows that are judged go to SAID, a JSON object to the output
//! ```
//!
//! The head alone, over the rows' numbers. The pass whose mean log loss over tasks is least on the rows that validate is judged.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and stops at the first surprise"
)]

use std::path::Path;
use std::time::Instant;

use headwater::train::objective;
use headwater_config::ObjectiveChoice;
use headwater_model::bahe::{
    AdamSettings, Corpus, Depth, Head, HeadConfig, History, Place, Position, Rows, TrainSettings,
    Trainer,
};
use headwater_model::dinmp::Seen;
use headwater_model::language::from_safetensors;
use headwater_model::{Device, Tensor};
use serde_json::json;

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TASKS: [&str; 3] = ["income", "never_married", "college"];
const PASSES: u64 = 12;
const BATCH: usize = 1_024;

/// Mean log loss of some rows over the labels that count.
fn loss(said: &[f32], rows: &Rows, from: usize) -> f64 {
    let at = from * TASKS.len();
    let labels = rows.labels[at..].iter().zip(&rows.weights[at..]);
    let (mut sum, mut count) = (0.0, 0.0);
    for (said, (label, weight)) in said.iter().zip(labels) {
        let toward = f64::from(if *label > 0.0 { -said } else { *said });
        sum += f64::from(*weight) * (toward.max(0.0) + (-toward.abs()).exp().ln_1p());
        count += f64::from(*weight);
    }
    sum / count
}

fn main() {
    // Cargo says so to whatever it runs.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let arguments = arguments.strip_suffix(&["--bench"]).unwrap_or(&arguments);
    let [folder, choice, seed, said, alone @ ..] = arguments else {
        println!("census FOLDER OBJECTIVE SEED SAID [TASK]");
        return;
    };
    let mut all = ObjectiveChoice::ALL.iter().copied();
    let choice = all.find(|one| one.as_str() == *choice).unwrap();
    let seed: u64 = seed.parse().unwrap();
    let alone = alone
        .first()
        .map(|name| TASKS.iter().position(|task| task == name).unwrap());

    let folder = Path::new(folder);
    let tensors = std::fs::read(folder.join("rows.safetensors")).unwrap();
    let tensors = from_safetensors(&tensors).unwrap();
    let flat = |name: &str| {
        tensors[name]
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
    };
    let (count, features) = tensors["features"].dims2().unwrap();
    let sizes = std::fs::read_to_string(folder.join("sizes")).unwrap();
    let sizes: Vec<usize> = sizes.split(' ').map(|size| size.parse().unwrap()).collect();
    let [learned, validated, _] = sizes[..] else {
        panic!("three sizes")
    };
    let labels = flat("labels");
    let counts = |task: usize| f32::from(u8::from(alone.is_none_or(|alone| alone == task)));
    // What comes before anything is learned: each task's rate.
    let base = (0..TASKS.len()).map(|task| {
        let ones: f32 = labels[..learned * TASKS.len()]
            .iter()
            .skip(task)
            .step_by(TASKS.len())
            .sum();
        (ones / (learned as f32 - ones)).ln()
    });
    let base: Vec<f32> = base.collect();
    let corpus = Corpus {
        vectors: Tensor::zeros((1, 1), headwater_model::DType::F32, &Device::Cpu).unwrap(),
        histories: vec![History::default()],
        sequences: 0,
        scenarios: 0,
        features,
        tasks: TASKS.map(str::to_owned).to_vec(),
        seen: Seen::default(),
        rows: Rows {
            user: vec![0; count],
            item: vec![0; count],
            features: flat("features"),
            base: base.repeat(count),
            weights: (0..labels.len())
                .map(|place| counts(place % TASKS.len()))
                .collect(),
            labels,
            ..Rows::default()
        },
    };
    let head = HeadConfig {
        width: 0,
        sequences: 0,
        features,
        tasks: TASKS.len(),
        projected: 1,
        inner: [128, 64],
        interest: 0,
        matches: 0,
        scenarios: 0,
        experts: 0,
        cross: 0,
    };
    let settings = TrainSettings {
        adam: AdamSettings {
            rate: 1e-3,
            beta: [0.9, 0.999],
            epsilon: 1e-8,
            decay: 0.01,
        },
        deep_factor: 1.0,
        positions: 1,
        rows_max: BATCH,
        accumulate: 1,
        longest: 1.0,
        seed,
        objective: objective(choice, seed),
        falling: None,
    };
    let values = Head::random(&head, seed).unwrap();
    let given = (None, settings);
    let mut trainer =
        Trainer::new(Depth::None, &head, &values, folder, given, &Place::cpu()).unwrap();
    let say = |trainer: &Trainer, rows| trainer.score(&corpus, rows, &mut |_| {}).unwrap();

    let mut position = Position::default();
    let (mut best, mut losses) = ((f64::INFINITY, Vec::new(), 0), Vec::new());
    let (mut conflicts, mut worst, mut steps_ms) = (Vec::new(), f64::INFINITY, Vec::new());
    while position.epoch < PASSES {
        let mut began = Instant::now();
        position = trainer
            .pass(&corpus, 0..learned, position, &mut |_, report| {
                steps_ms.push(began.elapsed().as_secs_f64() * 1e3);
                for (_, weighing) in &report.weighings {
                    conflicts.push(weighing.conflict_rate);
                    worst = worst.min(weighing.worst_cosine.unwrap_or(worst));
                }
                began = Instant::now();
                true
            })
            .unwrap();
        let now = loss(
            &say(&trainer, learned..learned + validated),
            &corpus.rows,
            learned,
        );
        losses.push(now);
        if now < best.0 {
            best = (
                now,
                say(&trainer, learned + validated..count),
                position.epoch,
            );
        }
    }
    let bytes: Vec<u8> = best.1.iter().flat_map(|odds| odds.to_le_bytes()).collect();
    std::fs::write(said, bytes).unwrap();
    steps_ms.sort_by(f64::total_cmp);
    let mean = conflicts.iter().sum::<f64>() / conflicts.len().max(1) as f64;
    let told = json!({
        "kept": best.2, "validation_loss": losses, "step_ms": steps_ms[steps_ms.len() / 2],
        "conflicts": (!conflicts.is_empty()).then_some(mean), "worst_cosine": worst.is_finite().then_some(worst),
    });
    println!("{told}");
}
