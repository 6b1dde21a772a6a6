//! What BAHE costs beside what it replaces, and beside `PyTorch` (`ops/bench/bahe` runs all of it).
//!
//! ```text
//! bahe cell VARIANT LENGTH MODEL FILE     a row of so many tokens of text, forward and backward: whole, top, bahe, mean
//! bahe advance                            a behavior more, and the sequence computed anew; many users at once
//! bahe step                               forward and backward of the deep layers, as peer.py does them
//! bahe encode MODEL CUT FILE IDS          tokens a second through the shallow layers; the ids for peer.py go to IDS
//! ```
//!
//! FILE has a behavior's text a line. Each answer is one JSON object.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and stops at the first surprise"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use headwater_model::bahe::{Deep, DeepConfig, Pass, Run, Taken};
use headwater_model::language::{
    Decoder, DecoderConfig, DecoderPass, Family, Kernels, LanguageTokenizer, TextEncoder, Weights,
};
use headwater_model::{Device, Tensor};
use serde_json::{Value, json};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CUT: usize = 8;
const LAYERS: usize = 2;
const TOKENS_MAX: usize = 2_048;

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

fn deep(limit: usize, trained: bool) -> Deep {
    let config = DeepConfig {
        blocks: blocks(LAYERS),
        sequences: 1,
        limit,
    };
    let values = Deep::random(&config, 1).unwrap();
    let mut variables = Vec::new();
    let variables = trained.then_some(&mut variables);
    Deep::of(
        &config,
        &values,
        Path::new("random"),
        &Device::Cpu,
        variables,
    )
    .unwrap()
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
) -> (Vec<String>, Vec<u32>) {
    let (mut texts, mut tokens) = (Vec::new(), Vec::new());
    for line in lines.iter().cycle() {
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
    let pooled = states.mean(1).unwrap();
    let log_odds = pooled.sum_all().unwrap();
    let exp = log_odds.neg().unwrap().exp().unwrap();
    (exp + 1.0).unwrap().log().unwrap()
}

fn cell(variant: &str, length: usize, model: &Path, lines: &[String]) -> Value {
    let weights = Weights::open(model).unwrap();
    let tokenizer = LanguageTokenizer::of(&weights).unwrap();
    let (texts, tokens) = row_of(length, &tokenizer, lines);
    let distinct = texts.iter().collect::<BTreeSet<_>>().len();
    let ids = vec![tokens];
    let seconds = match variant {
        "whole" => {
            let all = weights.decoder().unwrap().layers;
            let (decoder, variables) =
                Decoder::load_trainable(&weights, 0..all, &Device::Cpu).unwrap();
            let seconds = timed(2, || {
                let states = decoder.embed(&ids).unwrap();
                let pass = decoder.run_kept(&states, 0..all).unwrap();
                let (of_states, learned) = back_through(&decoder, &pass);
                // From there through the graph: the embedding learns, too.
                let below = (&states * of_states).unwrap().sum_all().unwrap();
                let embedding = below.backward().unwrap();
                let learns = variables.iter().filter(|(name, one)| {
                    learned.contains_key(name) || embedding.get(one).is_some()
                });
                // The last norm is no part of the loss.
                assert_eq!(learns.count() + 1, variables.len());
            });
            drop(variables);
            seconds
        }
        "top" => {
            let below = Decoder::load(&weights, 0..CUT, &Device::Cpu).unwrap();
            let layers = CUT..CUT + LAYERS;
            let (above, _variables) =
                Decoder::load_trainable(&weights, layers.clone(), &Device::Cpu).unwrap();
            timed(3, || {
                let states = below.embed(&ids).unwrap();
                let states = below.run(&states, 0..CUT, Kernels::Fused).unwrap();
                let pass = above.run_kept(&states, layers.clone()).unwrap();
                back_through(&above, &pass);
            })
        }
        "bahe" | "mean" => {
            let encoder = TextEncoder::open(model, CUT, &Device::Cpu).unwrap();
            let shown: Vec<&str> = texts.iter().map(String::as_str).collect();
            let flat = encoder.encode(&shown, TOKENS_MAX).unwrap().concat();
            let shape = (1, texts.len(), encoder.width());
            drop(encoder);
            let vectors = Tensor::from_vec(flat, shape, &Device::Cpu).unwrap();
            let gaps = Tensor::zeros((1, texts.len()), headwater_model::DType::U32, &Device::Cpu);
            let gaps = gaps.unwrap();
            if variant == "mean" {
                let scale = headwater_model::Var::new(1.0_f32, &Device::Cpu).unwrap();
                timed(20, || {
                    let scaled = vectors.broadcast_mul(&scale).unwrap();
                    loss(&scaled).backward().unwrap();
                })
            } else {
                let deep = deep(512, true);
                timed(10, || {
                    let pass = deep.forward_kept(&vectors, &gaps).unwrap();
                    back(&deep, &pass, loss);
                })
            }
        }
        other => panic!("{other} is none of whole, top, bahe, mean"),
    };
    json!({"variant": variant, "length": length, "seconds_a_row": median(&seconds), "least": seconds[0], "peak_mib": peak(),
        "behaviors": texts.len(), "distinct_texts": distinct, "tokens_a_behavior": length as f64 / texts.len() as f64})
}

/// A behavior of a run, an hour after the one before it.
fn one(run: usize, vector: &[f32]) -> Taken<'_> {
    let gap = headwater_model::bahe::gap_of(Some(3_600_000));
    Taken { run, vector, gap }
}

/// One behavior more at history 500 beside the sequence computed anew; and many users at once.
fn advance() -> Value {
    const HISTORY: usize = 500;
    let deep = deep(512, false);
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

/// Sixteen runs of 128 behaviors through the deep layers and back.
/// From the loss to the gradients of a decoder's states and tensors.
fn back_through(decoder: &Decoder, pass: &DecoderPass) -> (Tensor, BTreeMap<String, Tensor>) {
    let gradients = loss(pass.outputs()).backward().unwrap();
    let of_outputs = gradients.get(pass.outputs()).unwrap();
    decoder.backward(pass, of_outputs).unwrap()
}

/// From a loss to the gradients of all tensors.
fn back(deep: &Deep, pass: &Pass, loss: impl Fn(&Tensor) -> Tensor) {
    let gradients = loss(pass.outputs()).backward().unwrap();
    let mut all = BTreeMap::new();
    let of_outputs = gradients.get(pass.outputs()).unwrap();
    deep.backward(pass, of_outputs, &mut all).unwrap();
    assert_eq!(all.len(), 9 * LAYERS + 3);
}

fn step() -> Value {
    const RUNS: usize = 16;
    const LENGTH: usize = 128;
    let deep = deep(LENGTH, true);
    let width = deep.config().blocks.width;
    let flat = vectors(RUNS * LENGTH, width).concat();
    let vectors = Tensor::from_vec(flat, (RUNS, LENGTH, width), &Device::Cpu).unwrap();
    let gaps = Tensor::zeros((RUNS, LENGTH), headwater_model::DType::U32, &Device::Cpu).unwrap();
    let seconds = timed(7, || {
        let pass = deep.forward_kept(&vectors, &gaps).unwrap();
        back(&deep, &pass, |outputs| {
            outputs.sqr().unwrap().mean_all().unwrap()
        });
    });
    json!({"step_ms": median(&seconds) * 1e3, "least_ms": seconds[0] * 1e3, "runs": RUNS, "length": LENGTH, "layers": LAYERS})
}

fn encode(model: &Path, cut: usize, lines: &[String], ids: &Path) -> Value {
    let encoder = TextEncoder::open(model, cut, &Device::Cpu).unwrap();
    let tokenizer = LanguageTokenizer::of(&Weights::open(model).unwrap()).unwrap();
    let texts: Vec<&str> = lines.iter().map(String::as_str).collect();
    let all: Vec<Vec<u32>> = texts
        .iter()
        .map(|text| tokenizer.ids(text).unwrap())
        .collect();
    std::fs::write(ids, serde_json::to_vec(&all).unwrap()).unwrap();
    let before = encoder.tokens();
    let seconds = timed(3, || {
        encoder.encode(&texts, TOKENS_MAX).unwrap();
    });
    let tokens = (encoder.tokens() - before) as f64 / 4.0;
    json!({"texts": texts.len(), "tokens": tokens, "tokens_a_second": tokens / median(&seconds), "best": tokens / seconds[0]})
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
    let answer = match arguments[..] {
        ["cell", variant, length, model, file] => cell(
            variant,
            length.parse().unwrap(),
            Path::new(model),
            &lines(file),
        ),
        ["advance"] => advance(),
        ["step"] => step(),
        ["encode", model, cut, file, ids] => encode(
            Path::new(model),
            cut.parse().unwrap(),
            &lines(file),
            Path::new(ids),
        ),
        _ => panic!(
            "bahe cell VARIANT LENGTH MODEL FILE | advance | step | encode MODEL CUT FILE IDS"
        ),
    };
    println!("{answer}");
}
