//! A language model that is made in no time: random weights, three words.

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
