//! Models that cannot be used, and what is said of them.

use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};

use super::*;

fn whole(path: &Path) -> Result<Decoder, LanguageError> {
    let weights = Weights::open(path)?;
    Decoder::load(&weights, 0..weights.decoder()?.layers, &Device::Cpu)
}

/// Goal: whatever is wrong with a folder is told by its key or tensor, and nothing runs. Method: one thing wrong at a time.
#[test]
fn what_is_wrong_is_named() {
    let set = |folder: &Path, from: &str, to: &str| {
        let file = folder.join("config.json");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{from}");
        fs::write(&file, text.replace(from, to)).unwrap();
    };
    let put = |folder: &Path, change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
        let file = folder.join("model.safetensors");
        let held = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
        let mut tensors = held.into_iter().collect();
        change(&mut tensors);
        save(&tensors, &file);
    };
    let cases: Vec<(&str, Box<dyn Fn(&Path)>)> = vec![
        (
            "config.json: `model_type` is \"gemma3\"",
            Box::new(|folder| set(folder, "\"llama\"", "\"gemma3\"")),
        ),
        (
            "config.json: `hidden_size` is missing",
            Box::new(|folder| set(folder, "hidden_size", "hidden")),
        ),
        (
            "config.json: `num_hidden_layers` is \"three\", not a count",
            Box::new(|folder| {
                set(
                    folder,
                    "\"num_hidden_layers\":3",
                    "\"num_hidden_layers\":\"three\"",
                );
            }),
        ),
        (
            "config.json: `hidden_act` is \"gelu\"",
            Box::new(|folder| set(folder, "\"silu\"", "\"gelu\"")),
        ),
        (
            "config.json: `rope_scaling.rope_type` is \"yarn\"",
            Box::new(|folder| {
                set(
                    folder,
                    "\"hidden_act\"",
                    "\"rope_scaling\":{\"rope_type\":\"yarn\"},\"hidden_act\"",
                );
            }),
        ),
        (
            "config.json: `use_sliding_window` is true",
            Box::new(|folder| {
                set(
                    folder,
                    "\"use_sliding_window\":false",
                    "\"use_sliding_window\":true",
                );
            }),
        ),
        (
            "4 query heads cannot share 3",
            Box::new(|folder| {
                set(
                    folder,
                    "\"num_key_value_heads\":2",
                    "\"num_key_value_heads\":3",
                );
            }),
        ),
        (
            "config.json: is not JSON",
            Box::new(|folder| fs::write(folder.join("config.json"), "{").unwrap()),
        ),
        (
            "config.json: cannot be read",
            Box::new(|folder| fs::remove_file(folder.join("config.json")).unwrap()),
        ),
        (
            "tensor `model.layers.1.mlp.up_proj.weight` is missing",
            Box::new(|folder| {
                put(folder, &|tensors| {
                    tensors.remove("model.layers.1.mlp.up_proj.weight").unwrap();
                });
            }),
        ),
        (
            "model.safetensors: tensor `model.norm.weight` has the shape [31], not [32]",
            Box::new(|folder| {
                put(folder, &|tensors| {
                    let short = tensors["model.norm.weight"].narrow(0, 0, 31).unwrap();
                    tensors.insert("model.norm.weight".to_owned(), short);
                });
            }),
        ),
        (
            "tensor `model.layers.2.self_attn.q_proj.weight` holds values that are no numbers",
            Box::new(|folder| {
                put(folder, &|tensors| {
                    let name = "model.layers.2.self_attn.q_proj.weight";
                    let mut values = tensors[name]
                        .flatten_all()
                        .unwrap()
                        .to_vec1::<f32>()
                        .unwrap();
                    values[77] = f32::NAN;
                    let spoilt = Tensor::from_vec(values, (32, 32), &Device::Cpu).unwrap();
                    tensors.insert(name.to_owned(), spoilt);
                });
            }),
        ),
        (
            "tensor `model.norm.weight` is of type I64",
            Box::new(|folder| {
                put(folder, &|tensors| {
                    let whole = tensors["model.norm.weight"].to_dtype(DType::I64).unwrap();
                    tensors.insert("model.norm.weight".to_owned(), whole);
                });
            }),
        ),
        (
            "model.safetensors: is cut off or too long",
            Box::new(|folder| {
                let file = folder.join("model.safetensors");
                let bytes = fs::read(&file).unwrap();
                fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
            }),
        ),
        (
            "model.safetensors: is no safetensors file, or is cut off",
            Box::new(|folder| {
                let file = folder.join("model.safetensors");
                let bytes = fs::read(&file).unwrap();
                fs::write(&file, &bytes[..100]).unwrap();
            }),
        ),
        (
            "model.safetensors: has a header that cannot be read",
            Box::new(|folder| {
                let file = folder.join("model.safetensors");
                let mut bytes = fs::read(&file).unwrap();
                bytes[8] = b'!';
                fs::write(&file, bytes).unwrap();
            }),
        ),
    ];
    for (said, spoil) in cases {
        let folder = tempfile::tempdir().unwrap();
        write_model(folder.path(), Family::Llama, true);
        assert!(whole(folder.path()).is_ok());
        spoil(folder.path());
        let error = whole(folder.path()).expect_err(said).to_string();
        assert!(error.contains(said), "{error}\nnot: {said}");
        assert!(error.contains(&*folder.path().to_string_lossy()), "{error}");
    }
}

/// Goal: what would change what is computed and is not supported, and counts that are no model's, are refused by their key, before anything is laid out. Method: one at a time.
#[test]
fn odd_settings_are_refused() {
    for (key, value) in [
        ("rope_scaling.factor", "{\"factor\":8.0}"),
        ("partial_rotary_factor", "0.5"),
        ("num_hidden_layers", "1073741824"),
        ("hidden_size", "65536"),
        ("head_dim", "1073741824"),
        ("max_position_embeddings", "2"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write_model(folder.path(), Family::Llama, true);
        let file = folder.path().join("config.json");
        let text = fs::read_to_string(&file).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        let name = key.split('.').next().unwrap();
        config[name] = serde_json::from_str(value).unwrap();
        fs::write(&file, config.to_string()).unwrap();
        let error = Weights::open(folder.path()).unwrap_err().to_string();
        let said = format!("config.json: `{key}` is ");
        assert!(error.contains(&said), "{error}");
    }
}

/// Goal: what a model says of its positions costs no memory. Method: a thousand million of them.
#[test]
fn many_positions_are_not_laid_out() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), Family::Llama, true);
    let file = folder.path().join("config.json");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(
        &file,
        text.replace("embeddings\":64", "embeddings\":1073741824"),
    )
    .unwrap();
    let decoder = whole(folder.path()).unwrap();
    assert_eq!(decoder.config().positions_max, 1 << 30);
    assert_eq!(decoder.positions_max(), 8_192);
}

/// Goal: sharded folders are read, and a shard that lacks what the index promises is found. Method: a folder split in two; then a wrong index, and one that
/// points outside.
#[test]
fn shards_are_one_model() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = write_model(folder.path(), Family::Llama, false);
    let one = whole(folder.path()).unwrap();
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let mut shards: [BTreeMap<String, Tensor>; 2] = Default::default();
    let mut map = serde_json::Map::new();
    let shard = |number: usize| format!("model-0000{}-of-00002.safetensors", number + 1);
    for (number, (name, tensor)) in tensors.into_iter().enumerate() {
        map.insert(name.clone(), shard(number % 2).into());
        shards[number % 2].insert(name, tensor);
    }
    for (number, tensors) in shards.iter().enumerate() {
        save(tensors, &folder.path().join(shard(number)));
    }
    let index = folder.path().join("model.safetensors.index.json");
    let write = |map: &serde_json::Map<String, serde_json::Value>| {
        fs::write(&index, serde_json::json!({ "weight_map": map }).to_string()).unwrap();
    };
    write(&map);
    let sharded = whole(folder.path()).unwrap();
    let files = Weights::open(folder.path()).unwrap().files();
    let expected = [
        "config.json",
        "tokenizer.json",
        "model.safetensors.index.json",
        &shard(0),
        &shard(1),
    ];
    assert_eq!(files, expected.map(|name| folder.path().join(name)));
    let states = |decoder: &Decoder| {
        let states = decoder.embed(&ids()).unwrap();
        decoder.run(&states, 0..3, Kernels::Fused).unwrap()
    };
    assert_eq!(largest_difference(&states(&one), &states(&sharded)), 0.0);

    let mut wrong = map.clone();
    wrong.insert("model.norm.weight2".to_owned(), shard(0).into());
    write(&wrong);
    let error = whole(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("tensor `model.norm.weight2` is not in"),
        "{error}"
    );
    map.insert(
        "model.norm.weight".to_owned(),
        "../model.safetensors".into(),
    );
    write(&map);
    let error = whole(folder.path()).unwrap_err().to_string();
    assert!(error.contains("outside of its folder"), "{error}");
}

/// Goal: ids and lengths that a model has not are refused. Method: an id too high, texts of two lengths, none, and one position too many.
#[test]
fn odd_input_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), Family::Llama, true);
    let decoder = whole(folder.path()).unwrap();
    for (ids, said) in [
        (vec![vec![97]], "token id 97 of a vocabulary of 97"),
        (vec![vec![1], vec![1, 2]], "texts of one length"),
        (vec![], "at least one token"),
        (vec![vec![]], "at least one token"),
    ] {
        let error = decoder.embed(&ids).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    let long = decoder.embed(&[vec![1; 65]]).unwrap();
    let error = decoder.run(&long, 0..3, Kernels::Fused).unwrap_err();
    assert!(
        error.to_string().contains("65 positions of a model for 64"),
        "{error}"
    );
}
