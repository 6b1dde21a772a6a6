//! Deep layers taken from real weights, where `HEADWATER_MODELS` names a folder that holds them.

use super::*;
use crate::language::tests::real::model;
use crate::language::{TextEncoder, Weights};

const CUT: usize = 8;

fn alike(one: &[f32], other: &[f32]) -> f32 {
    let length = |one: &[f32]| one.iter().map(|value| value * value).sum::<f32>().sqrt();
    let dot: f32 = one.iter().zip(other).map(|(a, b)| a * b).sum();
    dot / length(one) / length(other)
}

/// Goal: attention has somewhere to go in the deep layers, too: vectors of unrelated items differ. Method: layers 8 to 10 of `SmolLM2` over six titles; the same
/// without the constant position, as a run whose first behavior is the title, shows what would be.
#[test]
fn unrelated_items_differ() {
    let Some(path) = model("SmolLM2-135M-Instruct.Q4_1.gguf") else {
        return;
    };
    let encoder = TextEncoder::open(&path, CUT, &Device::Cpu).unwrap();
    let weights = Weights::open(&path).unwrap();
    let mut blocks = weights.decoder().unwrap().clone();
    blocks.layers = 2;
    let config = DeepConfig {
        blocks,
        sequences: 1,
        limit: 64,
    };
    let first = encoder.first_state().unwrap();
    let values = Deep::above(&weights, CUT, &first, &config).unwrap();
    let deep = Deep::of(&config, &values, &path, &Device::Cpu, None).unwrap();
    let titles = [
        "The Matrix, science fiction",
        "Running shoes, sport",
        "Lasagne, Italian kitchen",
        "Introduction to algebra, mathematics",
        "Garden chair, furniture",
        "Paris in three days, travel",
    ];
    let vectors = encoder.encode(&titles, 1_024).unwrap();
    let width = encoder.width();
    let flat = Tensor::from_vec(vectors.concat(), (titles.len(), width), &Device::Cpu).unwrap();
    let items = deep.items(&flat, Kernels::Fused).unwrap();
    let items: Vec<Vec<f32>> = items.to_vec2().unwrap();
    let mut sum = 0.0;
    for one in 0..items.len() {
        for other in 0..one {
            let cosine = alike(&items[one], &items[other]);
            assert!(cosine < 0.95, "{} {}: {cosine}", titles[one], titles[other]);
            sum += cosine;
        }
    }
    let mean = sum / 15.0;
    println!("mean cosine of unrelated items {mean}");
    assert!(mean < 0.9, "{mean}");
}
