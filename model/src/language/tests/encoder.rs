//! Encoders of the BERT family against candle-transformers' blocks.

use std::path::Path;

use candle_transformers::models::bert;

use super::*;

/// A small encoder of random weights in Hugging Face's layout: 2 layers, 4 heads.
pub(super) fn write(folder: &Path, prefix: &str) -> BTreeMap<String, Tensor> {
    let config = format!(
        r#"{{"model_type":"bert","hidden_size":32,"intermediate_size":48,"num_hidden_layers":2,"num_attention_heads":4,"vocab_size":{VOCABULARY},
        "max_position_embeddings":64,"type_vocab_size":2,"layer_norm_eps":1e-12,"hidden_act":"gelu","hidden_dropout_prob":0.1,
        "initializer_range":0.02,"pad_token_id":0}}"#
    );
    std::fs::write(folder.join("config.json"), config).unwrap();
    let mut random = Random::new();
    let mut put = |name: String, shape: &[usize], around| {
        random.put(format!("{prefix}{name}"), shape, around);
    };
    for (name, rows) in [("word", VOCABULARY), ("position", 64), ("token_type", 2)] {
        put(
            format!("embeddings.{name}_embeddings.weight"),
            &[rows, 32],
            0.0,
        );
    }
    let mut norm = |name: &str| {
        put(format!("{name}.LayerNorm.weight"), &[32], 1.0);
        put(format!("{name}.LayerNorm.bias"), &[32], 0.0);
    };
    norm("embeddings");
    for layer in 0..2 {
        norm(&format!("encoder.layer.{layer}.attention.output"));
        norm(&format!("encoder.layer.{layer}.output"));
    }
    for layer in 0..2 {
        for (name, rows, columns) in [
            ("attention.self.query", 32, 32),
            ("attention.self.key", 32, 32),
            ("attention.self.value", 32, 32),
            ("attention.output.dense", 32, 32),
            ("intermediate.dense", 48, 32),
            ("output.dense", 32, 48),
        ] {
            let name = format!("encoder.layer.{layer}.{name}");
            put(format!("{name}.weight"), &[rows, columns], 0.0);
            put(format!("{name}.bias"), &[rows], 0.0);
        }
    }
    save(&random.tensors, &folder.join("model.safetensors"));
    random.tensors
}

/// Goal: our encoder is the model that everybody means, and padding changes nothing. Method: states against candle-transformers', texts of two lengths in a
/// batch, with both kinds of kernels; and each text alone.
#[test]
fn states_equal_the_oracles() {
    for prefix in ["", "bert."] {
        let folder = tempfile::tempdir().unwrap();
        let tensors = write(folder.path(), prefix);
        let weights = Weights::open(folder.path()).unwrap();
        let encoder = Encoder::load(&weights, 2, &Device::Cpu).unwrap();
        let lengths = [11, 6];
        let mut padded = ids();
        padded[1].truncate(6);
        padded[1].resize(11, 0);
        let text = std::fs::read(folder.path().join("config.json")).unwrap();
        let config: bert::Config = serde_json::from_slice(&text).unwrap();
        let tensors = tensors.into_iter().collect();
        let vars = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let vars = if prefix.is_empty() {
            vars
        } else {
            vars.pp("bert")
        };
        let model = bert::BertModel::load(vars, &config).unwrap();
        let flat = Tensor::new(padded.clone(), &Device::Cpu).unwrap();
        let mask: Vec<Vec<u32>> = lengths
            .iter()
            .map(|length| (0..11).map(|at| u32::from(at < *length)).collect())
            .collect();
        let mask = Tensor::new(mask, &Device::Cpu).unwrap();
        let oracle = model
            .forward(&flat, &flat.zeros_like().unwrap(), Some(&mask))
            .unwrap();
        for kernels in [Kernels::Fused, Kernels::Differentiable] {
            let states = encoder.embed(&padded, kernels).unwrap();
            let states = encoder.run(&states, &lengths, 0..2, kernels).unwrap();
            for (row, length) in lengths.into_iter().enumerate() {
                let ours = states.i((row, ..length)).unwrap();
                let theirs = oracle.i((row, ..length)).unwrap();
                let difference = largest_difference(&ours, &theirs);
                assert!(difference < 2e-5, "{prefix}, {kernels:?}: {difference}");
                let alone = encoder.embed(&[padded[row][..length].to_vec()], kernels);
                let alone = encoder.run(&alone.unwrap(), &[length], 0..2, kernels);
                let difference = largest_difference(&ours, &alone.unwrap().i(0).unwrap());
                assert!(difference < 1e-5, "{kernels:?} alone: {difference}");
            }
        }
    }
}

/// Goal: what an encoder cannot do is told. Method: wrong configurations, wrong lengths, and each kind of model where the other is needed.
#[test]
fn odd_encoders_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "");
    let weights = Weights::open(folder.path()).unwrap();
    let encoder = Encoder::load(&weights, 1, &Device::Cpu).unwrap();
    let states = encoder.embed(&ids(), Kernels::Fused).unwrap();
    let run = |lengths: &[usize], layers| encoder.run(&states, lengths, layers, Kernels::Fused);
    for (refused, said) in [
        (
            run(&[11, 0], 0..1).unwrap_err(),
            "lengths [11, 0] of 2 texts",
        ),
        (
            run(&[12, 1], 0..1).unwrap_err(),
            "lengths [12, 1] of 2 texts",
        ),
        (run(&[11], 0..1).unwrap_err(), "lengths [11] of 2 texts"),
        (
            run(&[11, 11], 0..2).unwrap_err(),
            "layers 0..2 where 1 are loaded",
        ),
        (
            encoder.embed(&[vec![1; 65]], Kernels::Fused).unwrap_err(),
            "65 positions of a model for 64",
        ),
        (
            Encoder::load(&weights, 3, &Device::Cpu).unwrap_err(),
            "3 layers of a model of 2",
        ),
        (
            Decoder::load(&weights, 0..1, &Device::Cpu).unwrap_err(),
            "is an encoder; a decoder is needed",
        ),
    ] {
        assert!(refused.to_string().contains(said), "{refused}");
    }
    let file = folder.path().join("config.json");
    let text = std::fs::read_to_string(&file).unwrap();
    for (from, to, said) in [
        ("\"gelu\"", "\"relu\"", "`hidden_act` is \"relu\""),
        (
            "\"num_attention_heads\":4",
            "\"num_attention_heads\":5",
            "`num_attention_heads` is 5, not a divisor of 32",
        ),
        (
            "\"vocab_size\"",
            "\"position_embedding_type\":\"relative_key\",\"vocab_size\"",
            "`position_embedding_type` is \"relative_key\"",
        ),
    ] {
        assert!(text.contains(from), "{from}");
        std::fs::write(&file, text.replace(from, to)).unwrap();
        let error = Weights::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}
