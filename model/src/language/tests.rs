//! Our blocks against candle-transformers', cuts against whole runs, and what is refused.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, IndexOp as _, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, qwen2};

use super::*;

mod convert;
mod encoder;
mod gguf;
pub(crate) mod real;
mod reference;
mod refusals;
mod text;

const VOCABULARY: usize = 97;

/// Tensors of random values, the same each time.
pub(super) struct Random {
    seed: u64,
    pub(super) tensors: BTreeMap<String, Tensor>,
}

impl Random {
    pub(super) fn new() -> Self {
        Self {
            seed: 1,
            tensors: BTreeMap::new(),
        }
    }

    pub(super) fn put(&mut self, name: String, shape: &[usize], around: f32) {
        let count = shape.iter().product();
        let values: Vec<f32> = std::iter::repeat_with(|| {
            let next = self.seed.wrapping_mul(6_364_136_223_846_793_005);
            self.seed = next.wrapping_add(1);
            around + ((self.seed >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.4
        })
        .take(count)
        .collect();
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        self.tensors.insert(name, tensor);
    }
}

/// A small model of random weights in Hugging Face's layout: 3 layers, 4 heads over 2.
pub(crate) fn write_model(folder: &Path, family: Family, tied: bool) -> BTreeMap<String, Tensor> {
    let model_type = match family {
        Family::Llama => "llama",
        Family::Qwen2 => "qwen2",
    };
    let config = format!(
        r#"{{"model_type":"{model_type}","bos_token_id":1,"hidden_size":32,"intermediate_size":48,"num_hidden_layers":3,"num_attention_heads":4,
        "num_key_value_heads":2,"vocab_size":{VOCABULARY},"max_position_embeddings":64,"rms_norm_eps":1e-5,"rope_theta":10000.0,
        "hidden_act":"silu","tie_word_embeddings":{tied},"sliding_window":64,"max_window_layers":3,"use_sliding_window":false}}"#
    );
    std::fs::write(folder.join("config.json"), config).unwrap();
    let mut all = Random::new();
    let mut random = |name: String, shape: &[usize], around| all.put(name, shape, around);
    random(
        "model.embed_tokens.weight".to_owned(),
        &[VOCABULARY, 32],
        0.0,
    );
    random("model.norm.weight".to_owned(), &[32], 1.0);
    if !tied {
        random("lm_head.weight".to_owned(), &[VOCABULARY, 32], 0.0);
    }
    for layer in 0..3 {
        let mut part = |part: &str, shape: &[usize], around| {
            random(format!("model.layers.{layer}.{part}"), shape, around);
        };
        part("input_layernorm.weight", &[32], 1.0);
        part("post_attention_layernorm.weight", &[32], 1.0);
        for (name, rows) in [("q", 32), ("k", 16), ("v", 16)] {
            part(&format!("self_attn.{name}_proj.weight"), &[rows, 32], 0.0);
            if family == Family::Qwen2 {
                part(&format!("self_attn.{name}_proj.bias"), &[rows], 0.0);
            }
        }
        part("self_attn.o_proj.weight", &[32, 32], 0.0);
        part("mlp.gate_proj.weight", &[48, 32], 0.0);
        part("mlp.up_proj.weight", &[48, 32], 0.0);
        part("mlp.down_proj.weight", &[32, 48], 0.0);
    }
    save(&all.tensors, &folder.join("model.safetensors"));
    all.tensors
}

pub(super) fn save(tensors: &BTreeMap<String, Tensor>, file: &Path) {
    safetensors::serialize_to_file(tensors, None, file).unwrap();
}

fn ids() -> Vec<Vec<u32>> {
    vec![
        (0..11).map(|n| n * 7 % VOCABULARY as u32).collect(),
        (0..11).map(|n| (n * n + 3) % VOCABULARY as u32).collect(),
    ]
}

fn largest_difference(one: &Tensor, other: &Tensor) -> f32 {
    let difference = (one - other).unwrap().abs().unwrap();
    difference.max_all().unwrap().to_scalar().unwrap()
}

fn load(folder: &Path) -> Decoder {
    let weights = Weights::open(folder).unwrap();
    Decoder::load(&weights, 0..weights.decoder().unwrap().layers, &Device::Cpu).unwrap()
}

/// Goal: our blocks are the model that everybody means. Method: logits of the last position against candle-transformers', both families, tied and not,
/// both kinds of kernels.
#[test]
fn logits_equal_the_oracles() {
    for (family, tied) in [
        (Family::Llama, true),
        (Family::Llama, false),
        (Family::Qwen2, true),
        (Family::Qwen2, false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let tensors = write_model(folder.path(), family, tied);
        let decoder = load(folder.path());
        let text = std::fs::read(folder.path().join("config.json")).unwrap();
        let vars = || {
            VarBuilder::from_tensors(
                tensors.clone().into_iter().collect(),
                DType::F32,
                &Device::Cpu,
            )
        };
        let flat = Tensor::new(ids(), &Device::Cpu).unwrap();
        let oracle = match family {
            Family::Llama => {
                let config: llama::LlamaConfig = serde_json::from_slice(&text).unwrap();
                let config = config.into_config(false);
                let mut cache =
                    llama::Cache::new(false, DType::F32, &config, &Device::Cpu).unwrap();
                let model = llama::Llama::load(vars(), &config).unwrap();
                model.forward(&flat, 0, &mut cache).unwrap()
            }
            Family::Qwen2 => {
                let config: qwen2::Config = serde_json::from_slice(&text).unwrap();
                let mut model = qwen2::ModelForCausalLM::new(&config, vars()).unwrap();
                model.forward(&flat, 0).unwrap().i((.., 0)).unwrap()
            }
        };
        for kernels in [Kernels::Fused, Kernels::Differentiable] {
            let states = decoder.embed(&ids()).unwrap();
            let states = decoder.run(&states, 0..3, kernels).unwrap();
            let logits = decoder.logits(&states, kernels).unwrap();
            let difference = largest_difference(&logits.i((.., 10)).unwrap(), &oracle);
            let size: f32 = oracle
                .abs()
                .unwrap()
                .max_all()
                .unwrap()
                .to_scalar()
                .unwrap();
            assert!(size > 0.5, "{size}");
            assert!(
                difference < 2e-5,
                "{family:?}, tied {tied}, {kernels:?}: {difference}"
            );
        }
    }
}

/// Goal: a model may be cut anywhere. Method: layers below a cut, and the others loaded by themselves above it, against all at once: the same bits.
#[test]
fn a_cut_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), Family::Llama, true);
    let whole = load(folder.path());
    let weights = Weights::open(folder.path()).unwrap();
    let states = whole.embed(&ids()).unwrap();
    let all = whole.run(&states, 0..3, Kernels::Fused).unwrap();
    for cut in 0..=3 {
        let shallow = Decoder::load(&weights, 0..cut, &Device::Cpu).unwrap();
        let deep = Decoder::load(&weights, cut..3, &Device::Cpu).unwrap();
        let between = shallow.run(&states, 0..cut, Kernels::Fused).unwrap();
        let above = deep.run(&between, cut..3, Kernels::Fused).unwrap();
        assert_eq!(largest_difference(&all, &above), 0.0, "cut at {cut}");
        if cut < 3 {
            let refused = shallow.logits(&between, Kernels::Fused).unwrap_err();
            assert!(refused.to_string().contains("last layer"), "{refused}");
            let refused = shallow.run(&between, cut..3, Kernels::Fused).unwrap_err();
            assert!(refused.to_string().contains("are loaded"), "{refused}");
        }
    }
}

/// Goal: what stands behind a text changes nothing before it, so that texts of several lengths can share a batch. Method: a text alone, and padded beside
/// a longer one.
#[test]
fn padding_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), Family::Qwen2, false);
    let decoder = load(folder.path());
    let run = |ids: &[Vec<u32>]| {
        let states = decoder.embed(ids).unwrap();
        decoder.run(&states, 0..3, Kernels::Fused).unwrap()
    };
    let short: Vec<u32> = ids()[0][..5].to_vec();
    let mut padded = short.clone();
    padded.resize(11, 0);
    let alone = run(&[short]);
    let beside = run(&[padded, ids()[1].clone()]);
    let same = beside.i((..1, ..5)).unwrap();
    assert!(largest_difference(&alone, &same) < 1e-5);
    // And a token before them does.
    let mut other = ids()[0][..5].to_vec();
    other[0] = 50;
    let changed = run(&[other]);
    assert!(largest_difference(&alone.i((.., 4)).unwrap(), &changed.i((.., 4)).unwrap()) > 1e-3);
}

/// Goal: with differentiable kernels every weight of a block can learn; candle's fused ones lose gradients without a word. Method: a loss over the states, and
/// a gradient asked for each tensor that was loaded.
#[test]
fn every_weight_has_a_gradient() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = write_model(folder.path(), Family::Qwen2, false);
    let gradients = |kernels| {
        let weights = Weights::open(folder.path()).unwrap();
        let (decoder, vars) = Decoder::load_trainable(&weights, 0..3, &Device::Cpu).unwrap();
        let states = decoder.embed(&ids()).unwrap();
        let states = decoder.run(&states, 0..3, kernels).unwrap();
        let logits = decoder.logits(&states, kernels).unwrap();
        let loss = logits.sqr().unwrap().mean_all().unwrap();
        let gradients = loss.backward().unwrap();
        let moved = |var: &candle_core::Var| {
            gradients.get(var).is_some_and(|gradient| {
                let largest = gradient.abs().unwrap().max_all().unwrap();
                largest.to_scalar::<f32>().unwrap() > 0.0
            })
        };
        let with: Vec<String> = vars
            .iter()
            .filter(|(_, var)| moved(var))
            .map(|(name, _)| name.clone())
            .collect();
        (with.len(), vars.len())
    };
    assert_eq!(
        gradients(Kernels::Differentiable),
        (tensors.len(), tensors.len())
    );
    let (with, all) = gradients(Kernels::Fused);
    assert!(with < all, "the fused kernels have gradients now: {with}");
}

/// Goal: the written way back through a decoder's layers gives what the graph gives, down to the states that went in. Method: all layers and some of them, each
/// tensor against the graph's.
#[test]
fn the_way_back_through_a_decoder_is_the_graphs() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), Family::Qwen2, true);
    let weights = Weights::open(folder.path()).unwrap();
    for layers in [0..3, 1..3] {
        let (decoder, vars) =
            Decoder::load_trainable(&weights, layers.clone(), &Device::Cpu).unwrap();
        let states = candle_core::Var::from_tensor(&decoder.embed(&ids()).unwrap()).unwrap();
        let states = states.as_tensor();
        let loss = |outputs: &Tensor| outputs.sqr().unwrap().sum_all().unwrap();
        let graph = decoder.run(states, layers.clone(), Kernels::Differentiable);
        let graph = loss(&graph.unwrap()).backward().unwrap();
        let pass = decoder.run_kept(states, layers).unwrap();
        let from = loss(pass.outputs()).backward().unwrap();
        let from = from.get(pass.outputs()).unwrap();
        let (of_states, mut found) = decoder.backward(&pass, from).unwrap();
        found.insert("states".to_owned(), of_states);
        let ours = vars.iter().filter(|(name, _)| name.contains("layers"));
        let all = ours.map(|(name, var)| (name.as_str(), var.as_tensor()));
        let mut compared = 0;
        for (name, tensor) in all.chain([("states", states)]) {
            let (right, found) = (graph.get(tensor).unwrap(), &found[name]);
            let size = right.abs().unwrap().max_all().unwrap();
            let off = (found - right).unwrap().abs().unwrap().max_all().unwrap();
            let (size, off) = (
                size.to_scalar::<f32>().unwrap(),
                off.to_scalar::<f32>().unwrap(),
            );
            assert!(off <= 2e-4 * size, "{name}: {off} of {size}");
            compared += 1;
        }
        assert_eq!(compared, found.len());
    }
}

/// Goal: the gradient is the slope. Method: central differences of a loss over single weights of each kind.
#[test]
fn gradients_are_slopes() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), Family::Qwen2, true);
    let weights = Weights::open(folder.path()).unwrap();
    let (decoder, vars) = Decoder::load_trainable(&weights, 0..3, &Device::Cpu).unwrap();
    let loss = || {
        let states = decoder.embed(&ids()).unwrap();
        let states = decoder.run(&states, 0..3, Kernels::Differentiable).unwrap();
        let logits = decoder.logits(&states, Kernels::Differentiable).unwrap();
        logits.sqr().unwrap().sum_all().unwrap()
    };
    let gradients = loss().backward().unwrap();
    for (name, var) in &vars {
        let gradient = gradients.get(var).unwrap().flatten_all().unwrap();
        let gradient = gradient.to_vec1::<f32>().unwrap();
        let at = (0..gradient.len())
            .max_by(|one, other| gradient[*one].abs().total_cmp(&gradient[*other].abs()))
            .unwrap();
        let values = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let step = 2e-3_f32;
        let moved = |by: f32| {
            let mut values = values.clone();
            values[at] += by;
            let values = Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap();
            var.set(&values).unwrap();
            loss()
                .to_dtype(DType::F64)
                .unwrap()
                .to_scalar::<f64>()
                .unwrap()
        };
        let slope = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
        moved(0.0);
        let gradient = f64::from(gradient[at]);
        assert!(
            (slope - gradient).abs() < 0.02 * gradient.abs() + 0.05,
            "{name}: slope {slope}, gradient {gradient}"
        );
    }
}
