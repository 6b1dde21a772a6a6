//! What BAHE costs beside what it replaces, and beside `PyTorch` (`ops/bench/bahe` runs all of it).
//!
//! ```text
//! bahe cell VARIANT LENGTH MODEL FILE       rows of so many tokens of text, forward and backward: whole, top, bahe, mean
//! bahe advance                              a behavior more, and the sequence computed anew; many users at once
//! bahe step RUNS                            forward and backward of the deep layers, and with the optimizer, as bahe.py does them
//! bahe encode MODEL CUT FILE IDS TIMES      tokens a second through the shallow layers, of FILE so many times; the ids for bahe.py go to IDS
//! ```
//!
//! FILE has a behavior's text a line. Each answer is one JSON object. DEVICE (cpu, cuda), NUMBERS (f32, bf16) and BATCH (rows of a cell) are of the environment: cpu, f32 and 1
//! where it says nothing. On a GPU times are those until it is done.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and stops at the first surprise"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use headwater_config::DeviceChoice;
use headwater_model::bahe::{Adam, AdamSettings, Deep, DeepConfig, Pass, Run, Taken};
use headwater_model::device::{choose, memory_used, name};
use headwater_model::language::{
    Decoder, DecoderConfig, DecoderPass, Family, Kernels, LanguageTokenizer, TextEncoder, Weights,
};
use headwater_model::{DType, Device, Tensor, Var};
use serde_json::{Value, json};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CUT: usize = 8;
const LAYERS: usize = 2;

/// Where it is computed, and how.
struct Place {
    device: Device,
    numbers: DType,
    batch: usize,
}

impl Place {
    fn of_environment() -> Self {
        let asked = |name: &str| std::env::var(name).unwrap_or_default();
        let choice = match asked("DEVICE").as_str() {
            "" | "cpu" => DeviceChoice::Cpu,
            "cuda" => DeviceChoice::Cuda,
            other => panic!("DEVICE {other} is neither cpu nor cuda"),
        };
        let numbers = match asked("NUMBERS").as_str() {
            "" | "f32" => DType::F32,
            "bf16" => DType::BF16,
            other => panic!("NUMBERS {other} is neither f32 nor bf16"),
        };
        Self {
            device: choose(choice).unwrap().device,
            numbers,
            batch: asked("BATCH").parse().unwrap_or(1),
        }
    }

    /// Until the device is done.
    fn wait(&self) {
        self.device.synchronize().unwrap();
    }

    /// The most memory of the device that is in use while something happens, in MiB; of the CPU, that this process ever had.
    fn peak(&self, call: &mut dyn FnMut()) -> f64 {
        if self.device.is_cpu() {
            return peak();
        }
        self.wait();
        let (most, done) = (std::sync::atomic::AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    most.fetch_max(memory_used(&self.device).unwrap(), Ordering::Relaxed);
                    std::thread::sleep(Duration::from_micros(100));
                }
            });
            call();
            self.wait();
            done.store(true, Ordering::Relaxed);
        });
        most.into_inner() as f64 / f64::from(1 << 20)
    }

    /// What an answer is of.
    fn told(&self, answer: Value) -> Value {
        let mut answer = answer;
        answer["device"] = json!(name(&self.device));
        answer["numbers"] = json!(self.numbers.as_str());
        answer
    }
}

/// The most memory that this process ever had, in MiB, from /proc.
fn peak() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024.0
}

/// Seconds of each call, the first left out.
fn timed(times: usize, mut call: impl FnMut()) -> Vec<f64> {
    call();
    let mut seconds: Vec<f64> = (0..times)
        .map(|_| {
            let began = Instant::now();
            call();
            began.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds
}

fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

/// SmolLM2-135M's blocks.
fn blocks(layers: usize) -> DecoderConfig {
    DecoderConfig {
        family: Family::Llama,
        layers,
        width: 576,
        inner: 1_536,
        heads: 9,
        kv_heads: 3,
        head_width: 64,
        vocabulary: 49_152,
        positions_max: 2_048,
        rope_base: 100_000.0,
        norm_epsilon: 1e-5,
        first_token: 0,
        tied: true,
    }
}

fn deep(limit: usize, place: Option<&Place>) -> (Deep, Vec<(String, Var)>) {
    let config = DeepConfig {
        blocks: blocks(LAYERS),
        sequences: 1,
        limit,
    };
    let values = Deep::random(&config, 1).unwrap();
    let mut variables = Vec::new();
    let path = Path::new("random");
    let Some(place) = place else {
        let deep = Deep::of(&config, &values, path, &Device::Cpu, None).unwrap();
        return (deep, variables);
    };
    let deep = Deep::of(&config, &values, path, &place.device, Some(&mut variables)).unwrap();
    (deep.in_numbers(place.numbers), variables)
}

/// Vectors that differ, of about the length that states have.
fn vectors(count: usize, width: usize) -> Vec<Vec<f32>> {
    let number = |at: usize| ((at * 2_654_435_761) % 1_000_003) as f32 / 500_001.5 - 1.0;
    (0..count)
        .map(|row| {
            (0..width)
                .map(|at| 4.0 * number(row * width + at))
                .collect()
        })
        .collect()
}

/// A behavior's lines until so many tokens are together: their texts and tokens.
fn row_of(
    length: usize,
    tokenizer: &LanguageTokenizer,
    lines: &[String],
    row: usize,
) -> (Vec<String>, Vec<u32>) {
    let (mut texts, mut tokens) = (Vec::new(), Vec::new());
    for line in lines.iter().cycle().skip(row * 131) {
        if tokens.len() >= length {
            break;
        }
        tokens.extend(tokenizer.ids(&format!("{line}, ")).unwrap());
        texts.push(line.clone());
    }
    tokens.truncate(length);
    (texts, tokens)
}

/// Log-loss of one number, as a head over a pooled vector gives it.
fn loss(states: &Tensor) -> Tensor {
    let pooled = states.to_dtype(DType::F32).unwrap().mean(1).unwrap();
    let log_odds = pooled.sum(1).unwrap().mean_all().unwrap();
    let exp = log_odds.neg().unwrap().exp().unwrap();
    (exp + 1.0).unwrap().log().unwrap()
}

/// One variant at one length: seconds of each time, and the most memory.
fn measured(place: &Place, times: usize, mut call: impl FnMut()) -> (Vec<f64>, f64) {
    let seconds = timed(times, || {
        call();
        place.wait();
    });
    let most = place.peak(&mut call);
    (seconds, most)
}

fn cell(place: &Place, variant: &str, length: usize, model: &Path, lines: &[String]) -> Value {
    let device = &place.device;
    let before = memory_used(device).map(|bytes| bytes >> 20);
    let weights = Weights::open(model).unwrap();
    let tokenizer = LanguageTokenizer::of(&weights).unwrap();
    let rows = (0..place.batch).map(|row| row_of(length, &tokenizer, lines, row));
    let (texts, ids): (Vec<Vec<String>>, Vec<Vec<u32>>) = rows.unzip();
    let distinct = texts.iter().flatten().collect::<BTreeSet<_>>().len();
    let met: usize = texts.iter().map(Vec::len).sum();
    let behaviors = texts.iter().map(Vec::len).max().unwrap();
    let few = if device.is_cpu() { 2 } else { 7 };
    let states_of = |decoder: &Decoder| {
        let states = decoder.embed(&ids).unwrap();
        states.to_dtype(place.numbers).unwrap()
    };
    let mut embedding_seconds = None;
    let (seconds, most) = match variant {
        "whole" => {
            let all = weights.decoder().unwrap().layers;
            let (decoder, variables) = Decoder::load_trainable(&weights, 0..all, device).unwrap();
            let states = decoder.embed(&ids).unwrap();
            // The embedding's own part: the library adds its rows up one after the other.
            let ones = states.ones_like().unwrap();
            let alone = timed(1, || {
                drop((&states * &ones).unwrap().sum_all().unwrap().backward());
                place.wait();
            });
            embedding_seconds = Some(alone[0] / place.batch as f64);
            drop((states, ones));
            let measured = measured(place, few, || {
                let states = decoder.embed(&ids).unwrap();
                let inside = states.to_dtype(place.numbers).unwrap();
                let pass = decoder.run_kept(&inside, 0..all).unwrap();
                let (of_states, learned) = back_through(&decoder, &pass);
                // From there through the graph: the embedding learns, too.
                let of_states = of_states.to_dtype(DType::F32).unwrap();
                let below = (&states * of_states).unwrap().sum_all().unwrap();
                let embedding = below.backward().unwrap();
                let learns = variables.iter().filter(|(name, one)| {
                    learned.contains_key(name) || embedding.get(one).is_some()
                });
                // The last norm is no part of the loss.
                assert_eq!(learns.count() + 1, variables.len());
            });
            drop(variables);
            measured
        }
        "top" => {
            let below = Decoder::load_as(&weights, 0..CUT, device, place.numbers).unwrap();
            let layers = CUT..CUT + LAYERS;
            let (above, _variables) =
                Decoder::load_trainable(&weights, layers.clone(), device).unwrap();
            measured(place, few + 1, || {
                let states = states_of(&below);
                let states = below.run(&states, 0..CUT, Kernels::Fused).unwrap();
                let pass = above.run_kept(&states, layers.clone()).unwrap();
                back_through(&above, &pass);
            })
        }
        "bahe" | "mean" => {
            let encoder = TextEncoder::open(model, CUT, device).unwrap();
            let mut flat = Vec::new();
            for texts in &texts {
                // Rows are as long as the longest: padded with what is there.
                let shown = texts.iter().cycle().take(behaviors);
                let shown: Vec<&str> = shown.map(String::as_str).collect();
                flat.extend(
                    encoder
                        .encode(&shown, encoder.batch_tokens())
                        .unwrap()
                        .concat(),
                );
            }
            let shape = (place.batch, behaviors, encoder.width());
            drop(encoder);
            let vectors = Tensor::from_vec(flat, shape, device).unwrap();
            let gaps = Tensor::zeros((place.batch, behaviors), DType::U32, device).unwrap();
            if variant == "mean" {
                let scale = Var::new(1.0_f32, device).unwrap();
                measured(place, 20, || {
                    let scaled = vectors.broadcast_mul(&scale).unwrap();
                    loss(&scaled).backward().unwrap();
                })
            } else {
                let (deep, _variables) = deep(512, Some(place));
                measured(place, 10, || {
                    let pass = deep.forward_kept(&vectors, &gaps).unwrap();
                    back(&deep, &pass, loss);
                })
            }
        }
        other => panic!("{other} is none of whole, top, bahe, mean"),
    };
    let a_row = 1.0 / place.batch as f64;
    place.told(json!({"variant": variant, "length": length, "batch": place.batch, "seconds_a_row": median(&seconds) * a_row, "least": seconds[0] * a_row,
        "most": seconds[seconds.len() - 1] * a_row, "peak_mib": most, "before_mib": before, "embedding_seconds_a_row": embedding_seconds,
        "behaviors": behaviors, "distinct_texts": distinct, "repeat_factor": met as f64 / distinct as f64, "tokens_a_behavior": length as f64 / behaviors as f64}))
}

/// A behavior of a run, an hour after the one before it.
fn one(run: usize, vector: &[f32]) -> Taken<'_> {
    let gap = headwater_model::bahe::gap_of(Some(3_600_000));
    Taken { run, vector, gap }
}

/// One behavior more at history 500 beside the sequence computed anew; and many users at once.
fn advance() -> Value {
    const HISTORY: usize = 500;
    let (deep, _) = deep(512, None);
    let width = deep.config().blocks.width;
    let texts = vectors(HISTORY + 1, width);
    let mut run = deep.begin().unwrap();
    for text in &texts[..HISTORY] {
        deep.advance(&mut [&mut run], &[one(0, text)]).unwrap();
    }
    let longer = timed(200, || {
        let mut grown = run.clone();
        deep.advance(&mut [&mut grown], &[one(0, &texts[HISTORY])])
            .unwrap();
    });
    let copied = timed(200, || drop(run.clone()));
    let flat = Tensor::from_vec(texts.concat(), (1, HISTORY + 1, width), &Device::Cpu).unwrap();
    let gaps = Tensor::ones((1, HISTORY + 1), headwater_model::DType::U32, &Device::Cpu).unwrap();
    let anew = timed(10, || {
        deep.outputs(&flat, &gaps, Kernels::Fused).unwrap();
    });
    let step = median(&longer) - median(&copied);
    let many: BTreeMap<String, f64> = [1, 16, 64, 256]
        .into_iter()
        .map(|users| {
            let mut runs: Vec<Run> = vec![run.clone(); users];
            let taken: Vec<Taken<'_>> = (0..users).map(|run| one(run, &texts[HISTORY])).collect();
            let began = Instant::now();
            let rounds = 10;
            for _ in 0..rounds {
                let mut these: Vec<&mut Run> = runs.iter_mut().collect();
                deep.advance(&mut these, &taken).unwrap();
            }
            let rate = f64::from(rounds) * users as f64 / began.elapsed().as_secs_f64();
            (users.to_string(), rate)
        })
        .collect();
    let bytes = deep.run_bytes();
    json!({"history": HISTORY, "one_more_ms": step * 1e3, "anew_ms": median(&anew) * 1e3, "ratio": median(&anew) / step,
        "behaviors_a_second_by_users_at_once": many, "bytes_a_position": bytes.position, "bytes_of_a_full_run": bytes.full})
}

/// From the loss to the gradients of a decoder's states and tensors.
fn back_through(decoder: &Decoder, pass: &DecoderPass) -> (Tensor, BTreeMap<String, Tensor>) {
    let gradients = loss(pass.outputs()).backward().unwrap();
    let of_outputs = gradients.get(pass.outputs()).unwrap();
    decoder.backward(pass, of_outputs).unwrap()
}

/// From a loss to the gradients of all tensors.
fn back(deep: &Deep, pass: &Pass, loss: impl Fn(&Tensor) -> Tensor) -> BTreeMap<String, Tensor> {
    let gradients = loss(pass.outputs()).backward().unwrap();
    let mut all = BTreeMap::new();
    let of_outputs = gradients.get(pass.outputs()).unwrap();
    deep.backward(pass, of_outputs, &mut all).unwrap();
    assert_eq!(all.len(), 9 * LAYERS + 3);
    all
}

/// Runs of 128 behaviors through the deep layers and back.
fn step(place: &Place, runs: usize) -> Value {
    const LENGTH: usize = 128;
    /// Steps between two waits, where waiting is left out.
    const TOGETHER: usize = 10;
    let (deep, variables) = deep(LENGTH, Some(place));
    let width = deep.config().blocks.width;
    let flat = vectors(runs * LENGTH, width).concat();
    let vectors = Tensor::from_vec(flat, (runs, LENGTH, width), &place.device).unwrap();
    let gaps = Tensor::zeros((runs, LENGTH), DType::U32, &place.device).unwrap();
    let gradients = || {
        let pass = deep.forward_kept(&vectors, &gaps).unwrap();
        back(&deep, &pass, |outputs| {
            // Rows first: the library gives a mean over everything to one part of a GPU.
            outputs.sqr().unwrap().mean(2).unwrap().mean_all().unwrap()
        })
    };
    let (seconds, most) = measured(place, 7, || drop(gradients()));
    let together = (!place.device.is_cpu()).then(|| {
        let seconds = timed(7, || {
            (0..TOGETHER).for_each(|_| drop(gradients()));
            place.wait();
        });
        median(&seconds) / TOGETHER as f64 * 1e3
    });
    let settings = AdamSettings {
        rate: 1e-4,
        beta: [0.9, 0.999],
        epsilon: 1e-8,
        decay: 0.01,
    };
    let mut adam = Adam::new(settings, &variables, |_| 1.0);
    let (trained, most_trained) = measured(place, 7, || {
        adam.step(&gradients(), 1.0, 1.0).unwrap();
    });
    let rate = |seconds: f64| runs as f64 / seconds;
    place.told(json!({"step_ms": median(&seconds) * 1e3, "least_ms": seconds[0] * 1e3, "most_ms": seconds[6] * 1e3, "without_waiting_ms": together,
        "with_optimizer_ms": median(&trained) * 1e3, "with_optimizer_least_ms": trained[0] * 1e3, "with_optimizer_most_ms": trained[6] * 1e3,
        "samples_a_second": rate(median(&trained)), "peak_mib": most, "with_optimizer_peak_mib": most_trained,
        "runs": runs, "length": LENGTH, "layers": LAYERS}))
}

/// Batches of texts of about one length, as bahe.py makes them: ids behind a first one, padded behind.
fn batches(all: &[Vec<u32>], tokens_max: usize) -> Vec<Vec<Vec<u32>>> {
    let mut ids: Vec<Vec<u32>> = all.iter().filter(|ids| !ids.is_empty()).cloned().collect();
    ids.iter_mut().for_each(|ids| {
        ids.truncate(256);
        ids.insert(0, 0);
    });
    ids.sort_by_key(Vec::len);
    let mut batches = Vec::new();
    let mut rest = &ids[..];
    while !rest.is_empty() {
        let fits = |count: &usize| rest[count - 1].len() * count <= tokens_max;
        let count = (1..=rest.len()).take_while(fits).last().unwrap_or(1);
        let (batch, behind) = rest.split_at(count);
        let longest = batch[count - 1].len();
        let padded = batch.iter().cloned().map(|mut ids| {
            ids.resize(longest, 0);
            ids
        });
        batches.push(padded.collect());
        rest = behind;
    }
    batches
}

/// From texts to vectors, and the layers alone.
fn encode(
    place: &Place,
    model: &Path,
    cut: usize,
    (lines, times): (&[String], usize),
    ids: &Path,
) -> Value {
    let encoder = TextEncoder::open_as(model, cut, &place.device, place.numbers).unwrap();
    let weights = Weights::open(model).unwrap();
    let tokenizer = LanguageTokenizer::of(&weights).unwrap();
    let once: Vec<&str> = lines.iter().map(String::as_str).collect();
    let texts = once.repeat(times);
    let all: Vec<Vec<u32>> = texts
        .iter()
        .map(|text| tokenizer.ids(text).unwrap())
        .collect();
    std::fs::write(ids, serde_json::to_vec(&all).unwrap()).unwrap();
    let tokens_max = encoder.batch_tokens();
    let before = encoder.tokens();
    let seconds = timed(3, || {
        encoder.encode(&texts, tokens_max).unwrap();
    });
    let tokens = (encoder.tokens() - before) as f64 / 4.0;
    drop(encoder);
    let decoder = Decoder::load_as(&weights, 0..cut, &place.device, place.numbers).unwrap();
    let batches = batches(&all, tokens_max);
    let (layers, most) = measured(place, 3, || {
        for batch in &batches {
            let states = decoder.embed(batch).unwrap();
            let states = decoder.run(&states, 0..cut, Kernels::Fused).unwrap();
            let told = states.narrow(1, 1, states.dim(1).unwrap() - 1).unwrap();
            drop(told.mean(1).unwrap());
        }
    });
    place.told(json!({"texts": texts.len(), "tokens": tokens, "tokens_a_batch": tokens_max, "tokens_a_second": tokens / median(&seconds), "best": tokens / seconds[0],
        "layers_tokens_a_second": tokens / median(&layers), "layers_best": tokens / layers[0], "peak_mib": most}))
}

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|one| one != "--bench")
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let lines = |file: &str| -> Vec<String> {
        let text = std::fs::read_to_string(file).unwrap();
        text.lines().map(str::to_owned).collect()
    };
    let place = Place::of_environment();
    let answer = match arguments[..] {
        ["cell", variant, length, model, file] => cell(
            &place,
            variant,
            length.parse().unwrap(),
            Path::new(model),
            &lines(file),
        ),
        ["advance"] => advance(),
        ["step", runs] => step(&place, runs.parse().unwrap()),
        ["encode", model, cut, file, ids, times] => encode(
            &place,
            Path::new(model),
            cut.parse().unwrap(),
            (&lines(file), times.parse().unwrap()),
            Path::new(ids),
        ),
        _ => panic!(
            "bahe cell VARIANT LENGTH MODEL FILE | advance | step RUNS | encode MODEL CUT FILE IDS TIMES"
        ),
    };
    println!("{answer}");
}
