//! A language model that is made in no time, random weights and three words, and recordings from which a model over it can learn.

use std::fs;
use std::path::Path;

use serde_json::json;

const TOKENIZER: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"Whitespace"},
    "post_processor":null,"decoder":null,"model":{"type":"WordLevel","vocab":{"[UNK]":0,"a":1,"b":2},"unk_token":"[UNK]"}}"#;

/// Writes a decoder of two layers in Hugging Face's layout, its tensors in two files; the last row of one of them may be left out.
pub fn write_model(folder: &Path, lacking: Option<&str>) {
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

/// Writes recordings to learn from, items and events: users see two items; even ones like one of them, odd ones the other.
pub fn write_recordings(folder: &Path) -> [String; 2] {
    let items = ["a", "b"].map(|title| {
        json!({"item_id": format!("i{title}"), "time": 1_700_000_000_000_i64, "fields": {"title": title}, "categories": []}).to_string()
    });
    let mut events = Vec::new();
    for step in 0..12_i64 {
        for user in 0..40 {
            let time = 1_700_000_100_000 + step * 60_000 + user;
            let (request, user_id) = (format!("r{step}-{user}"), format!("u{user}"));
            let wanted = if user % 2 == 0 { "ia" } else { "ib" };
            let asked = json!({"request_id": request, "user_id": user_id, "scenario": "home", "time": time, "candidates": ["ia", "ib"]});
            events.push(json!({"topic": "score-requests", "record": asked}).to_string());
            for (item, kind) in [("ia", "impression"), ("ib", "impression"), (wanted, "like")] {
                let done = json!({"event_id": format!("{request}-{item}-{kind}"), "user_id": user_id, "item_id": item, "kind": kind, "scenario": "home",
                    "time": time + 1, "request_id": request});
                events.push(json!({"topic": "behaviors", "record": done}).to_string());
            }
        }
    }
    let files = ["items.jsonl", "events.jsonl"].map(|name| folder.join(name).display().to_string());
    fs::write(&files[0], items.join("\n")).unwrap();
    fs::write(&files[1], events.join("\n")).unwrap();
    files
}
