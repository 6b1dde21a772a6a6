//! Our blocks against numbers that `PyTorch` computed in 64 bits: `reference.json`, made by `reference.py` beside it.

use std::fs;
use std::path::Path;

use candle_core::{Device, IndexOp as _, Tensor};
use serde_json::Value;

use super::*;

pub(super) fn reference() -> Value {
    serde_json::from_str(include_str!("reference.json")).unwrap()
}

/// The values of a small model's tensor, as the script has them: a hash of its name and of each value's place.
fn formula(name: &str, shape: &[usize], around: f64) -> Tensor {
    let seed = name.bytes().fold(2_166_136_261_u32, |seed, byte| {
        (seed ^ u32::from(byte)).wrapping_mul(16_777_619)
    });
    let count = shape.iter().product::<usize>() as u32;
    let values: Vec<f32> = (0..count)
        .map(|at| {
            let mut x = seed.wrapping_add(at.wrapping_mul(2_654_435_761));
            x ^= x >> 16;
            x = x.wrapping_mul(0x045d_9f3b);
            x ^= x >> 16;
            (around + (f64::from(x >> 8) / f64::from(1 << 24) - 0.5) * 0.4) as f32
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Writes a small model in Hugging Face's layout.
fn write(folder: &Path, config: &Value, tensors: &[(String, Vec<usize>)]) {
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let tensors = tensors.iter().map(|(name, shape)| {
        let norm = name.to_lowercase().contains("norm") && name.ends_with("weight");
        let around = if norm { 1.0 } else { 0.0 };
        (name.clone(), formula(name, shape, around))
    });
    save(&tensors.collect(), &folder.join("model.safetensors"));
}

fn decoder_tensors(biased: bool, tied: bool) -> Vec<(String, Vec<usize>)> {
    let mut all = vec![
        ("model.embed_tokens.weight".to_owned(), vec![13, 8]),
        ("model.norm.weight".to_owned(), vec![8]),
    ];
    if !tied {
        all.push(("lm_head.weight".to_owned(), vec![13, 8]));
    }
    for layer in 0..2 {
        let mut put = |name: &str, shape: Vec<usize>| {
            all.push((format!("model.layers.{layer}.{name}"), shape));
        };
        put("input_layernorm.weight", vec![8]);
        put("post_attention_layernorm.weight", vec![8]);
        for (name, rows) in [("q", 16), ("k", 8), ("v", 8)] {
            put(&format!("self_attn.{name}_proj.weight"), vec![rows, 8]);
            if biased {
                put(&format!("self_attn.{name}_proj.bias"), vec![rows]);
            }
        }
        put("self_attn.o_proj.weight", vec![8, 16]);
        put("mlp.gate_proj.weight", vec![12, 8]);
        put("mlp.up_proj.weight", vec![12, 8]);
        put("mlp.down_proj.weight", vec![8, 12]);
    }
    all
}

fn encoder_tensors() -> Vec<(String, Vec<usize>)> {
    let mut all = Vec::new();
    for (name, rows) in [("word", 13), ("position", 16), ("token_type", 2)] {
        all.push((
            format!("embeddings.{name}_embeddings.weight"),
            vec![rows, 8],
        ));
    }
    let mut norms = vec!["embeddings.LayerNorm".to_owned()];
    for layer in 0..2 {
        for (name, rows, columns) in [
            ("attention.self.query", 8, 8),
            ("attention.self.key", 8, 8),
            ("attention.self.value", 8, 8),
            ("attention.output.dense", 8, 8),
            ("intermediate.dense", 12, 8),
            ("output.dense", 8, 12),
        ] {
            let name = format!("encoder.layer.{layer}.{name}");
            all.push((format!("{name}.weight"), vec![rows, columns]));
            all.push((format!("{name}.bias"), vec![rows]));
        }
        norms.push(format!("encoder.layer.{layer}.attention.output.LayerNorm"));
        norms.push(format!("encoder.layer.{layer}.output.LayerNorm"));
    }
    for norm in norms {
        all.push((format!("{norm}.weight"), vec![8]));
        all.push((format!("{norm}.bias"), vec![8]));
    }
    all
}

pub(super) fn numbers(value: &Value) -> Vec<f32> {
    let numbers = value.as_array().unwrap().iter();
    numbers.map(|one| one.as_f64().unwrap() as f32).collect()
}

/// Holds numbers of ours against the script's: the largest difference, by the largest number.
fn hold(ours: &[f32], theirs: &Value, what: &str) {
    let theirs = numbers(theirs);
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let largest = theirs.iter().fold(0.0_f32, |most, one| most.max(one.abs()));
    let pairs = ours.iter().zip(&theirs);
    let difference = pairs.fold(0.0_f32, |most, (one, other)| most.max((one - other).abs()));
    assert!(largest > 1e-3, "{what}: nothing to be held against");
    assert!(
        difference < 2e-6 * largest.max(1.0),
        "{what}: {difference} of {largest}"
    );
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn texts(small: &Value) -> Vec<Vec<u32>> {
    serde_json::from_value(small["ids"].clone()).unwrap()
}

/// Goal: a decoder's states, logits and gradients are those of the definition, computed by nobody that we share code with. Method: `PyTorch` in 64 bits; every
/// layer of a small Llama and a small Qwen2, both kinds of kernels; of Llama the gradient of each weight.
#[test]
fn decoders_equal_pytorch() {
    let small = &reference()["small"];
    let ids = texts(small);
    for (family, biased, tied) in [("llama", false, false), ("qwen2", true, true)] {
        let theirs = &small[family];
        let folder = tempfile::tempdir().unwrap();
        let tensors = decoder_tensors(biased, tied);
        write(folder.path(), &theirs["config"], &tensors);
        let weights = Weights::open(folder.path()).unwrap();
        let (decoder, variables) = Decoder::load_trainable(&weights, 0..2, &Device::Cpu).unwrap();
        for kernels in [Kernels::Fused, Kernels::Differentiable] {
            let mut states = decoder.embed(&ids).unwrap();
            for layer in 0..=2 {
                let what = format!("{family}, {kernels:?}, behind {layer} layers");
                hold(&values(&states), &theirs["states"][layer], &what);
                if layer < 2 {
                    states = decoder.run(&states, layer..layer + 1, kernels).unwrap();
                }
            }
            let logits = decoder.logits(&states, kernels).unwrap();
            let what = format!("{family}, {kernels:?}, logits");
            hold(&values(&logits), &theirs["logits"], &what);
            if kernels == Kernels::Fused || family == "qwen2" {
                continue;
            }
            let probe = formula("probe", &[2, 6, 13], 0.0);
            let loss = (logits * probe).unwrap().sum_all().unwrap();
            let gradients = loss.backward().unwrap();
            let known = theirs["gradients"].as_object().unwrap();
            assert_eq!(
                (variables.len(), known.len()),
                (tensors.len(), tensors.len())
            );
            for (name, variable) in &variables {
                let gradient = gradients.get(variable).unwrap();
                hold(
                    &values(gradient),
                    &known[name],
                    &format!("gradient of {name}"),
                );
            }
        }
    }
}

/// Goal: an encoder's states are those of the definition. Method: `PyTorch` in 64 bits; every layer of a small BERT, two texts of unlike lengths in a batch, both
/// kinds of kernels.
#[test]
fn encoders_equal_pytorch() {
    let small = &reference()["small"];
    let ids = texts(small);
    let lengths: Vec<usize> = serde_json::from_value(small["lengths"].clone()).unwrap();
    let theirs = &small["bert"];
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &theirs["config"], &encoder_tensors());
    let weights = Weights::open(folder.path()).unwrap();
    let encoder = Encoder::load(&weights, 2, &Device::Cpu).unwrap();
    for kernels in [Kernels::Fused, Kernels::Differentiable] {
        let mut states = encoder.embed(&ids, kernels).unwrap();
        for layer in 0..=2 {
            // Behind a text there is nothing to compare.
            let mut all = numbers(&theirs["states"][layer]);
            let kept = |all: &mut Vec<f32>| all.truncate((6 + lengths[1]) * 8);
            let mut ours = values(&states);
            kept(&mut all);
            kept(&mut ours);
            let what = format!("{kernels:?}, behind {layer} layers");
            hold(&ours, &all.into(), &what);
            if layer < 2 {
                let next = encoder.run(&states, &lengths, layer..layer + 1, kernels);
                states = next.unwrap();
            }
        }
    }
}

/// Holds states of one text, (1, positions, width), against the script's length and first numbers of each position.
pub(super) fn hold_real(states: &Tensor, theirs: &Value, what: &str) {
    let rows = theirs.as_array().unwrap();
    assert_eq!(states.dim(1).unwrap(), rows.len(), "{what}");
    for (position, row) in rows.iter().enumerate() {
        let ours = values(&states.i((0, position)).unwrap());
        let expected = row["length"].as_f64().unwrap() as f32;
        let length = ours.iter().map(|one| one * one).sum::<f32>().sqrt();
        let what = format!("{what}, position {position}");
        assert!(
            (length - expected).abs() < 1e-4 * expected,
            "{what}: {length} for {expected}"
        );
        for (ours, theirs) in ours.iter().zip(numbers(&row["first"])) {
            assert!(
                (ours - theirs).abs() < 1e-4 * expected,
                "{what}: {ours} for {theirs}"
            );
        }
    }
}
