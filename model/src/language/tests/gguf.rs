//! GGUF files, written here from the same random model.

use std::fs::{self, File};
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use super::*;

/// A file as llama.cpp's converter writes it: other names, and the rows of queries and keys in pairs.
pub(super) fn write(file: &Path, tensors: &BTreeMap<String, Tensor>, architecture: &str) {
    write_as(file, tensors, architecture, GgmlDType::F32, "smollm");
}

/// The same with matrices quantised, where a row is made of whole blocks, and with a tokenizer of this kind.
pub(super) fn write_as(
    file: &Path,
    tensors: &BTreeMap<String, Tensor>,
    architecture: &str,
    matrices: GgmlDType,
    pre: &str,
) {
    write_with(file, tensors, architecture, (matrices, pre), &[]);
}

/// The same with these values of keys, beside the usual ones or in their place.
fn write_with(
    file: &Path,
    tensors: &BTreeMap<String, Tensor>,
    architecture: &str,
    (matrices, pre): (GgmlDType, &str),
    more: &[(&str, Value)],
) {
    let paired = |tensor: &Tensor, heads: usize| {
        let (rows, columns) = tensor.dims2().unwrap();
        let halves = tensor
            .reshape((heads, 2, rows / heads / 2, columns))
            .unwrap();
        let pairs = halves.transpose(1, 2).unwrap().contiguous().unwrap();
        pairs.reshape((rows, columns)).unwrap()
    };
    let mut written = Vec::new();
    for (name, tensor) in tensors {
        let name = match name.as_str() {
            "model.embed_tokens.weight" => "token_embd.weight".to_owned(),
            "model.norm.weight" => "output_norm.weight".to_owned(),
            "lm_head.weight" => "output.weight".to_owned(),
            layer => layer
                .replace("model.layers.", "blk.")
                .replace("input_layernorm", "attn_norm")
                .replace("post_attention_layernorm", "ffn_norm")
                .replace("self_attn.o_proj", "attn_output")
                .replace("self_attn.", "attn_")
                .replace("mlp.", "ffn_")
                .replace("_proj", ""),
        };
        let tensor = match (
            architecture,
            name.rsplit_once('.').unwrap().0.rsplit_once('.'),
        ) {
            ("llama", Some((_, "attn_q"))) if tensor.rank() == 2 => paired(tensor, 4),
            ("llama", Some((_, "attn_k"))) if tensor.rank() == 2 => paired(tensor, 2),
            _ => tensor.clone(),
        };
        let columns = tensor.dims().last().unwrap();
        let kind = if tensor.rank() == 2 && columns.is_multiple_of(matrices.block_size()) {
            matrices
        } else {
            GgmlDType::F32
        };
        written.push((name, QTensor::quantize(&tensor, kind).unwrap()));
    }
    written.sort_by(|one, other| one.0.cmp(&other.0));
    let key = |key: &str| format!("{architecture}.{key}");
    let texts = |texts: &[&str]| {
        Value::Array(
            texts
                .iter()
                .map(|one| Value::String((*one).to_owned()))
                .collect(),
        )
    };
    let tokens = [
        "<|end|>",
        "Ġ",
        "t",
        "h",
        "e",
        "Ġt",
        "th",
        "2",
        "Ġthe",
        "<|start|>",
    ];
    let kinds = (0..tokens.len()).map(|at| Value::I32(if at % 9 == 0 { 3 } else { 1 }));
    let tokenizer = |key: &str| format!("tokenizer.ggml.{key}");
    let metadata = [
        (tokenizer("model"), Value::String("gpt2".to_owned())),
        (tokenizer("pre"), Value::String(pre.to_owned())),
        (tokenizer("tokens"), texts(&tokens)),
        (tokenizer("merges"), texts(&["t h", "Ġ t"])),
        (tokenizer("token_type"), Value::Array(kinds.collect())),
        (tokenizer("bos_token_id"), Value::U32(9)),
        (tokenizer("eos_token_id"), Value::U32(0)),
        (
            "general.architecture".to_owned(),
            Value::String(architecture.to_owned()),
        ),
        (key("block_count"), Value::U32(3)),
        (key("embedding_length"), Value::U32(32)),
        (key("feed_forward_length"), Value::U32(48)),
        (key("attention.head_count"), Value::U32(4)),
        (key("attention.head_count_kv"), Value::U32(2)),
        (key("context_length"), Value::U32(64)),
        (key("attention.layer_norm_rms_epsilon"), Value::F32(1e-5)),
        (key("rope.freq_base"), Value::F32(10_000.0)),
    ];
    let usual = metadata.iter().map(|(key, value)| (key.as_str(), value));
    let usual = usual.filter(|(key, _)| more.iter().all(|(other, _)| other != key));
    let metadata: Vec<_> = usual
        .chain(more.iter().map(|(key, value)| (*key, value)))
        .collect();
    let tensors: Vec<_> = written
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    gguf_file::write(&mut File::create(file).unwrap(), &metadata, &tensors).unwrap();
}

/// Goal: a GGUF file is the model that it was converted from. Method: a folder and the same model as a file, both families: the same states.
#[test]
fn a_file_equals_its_folder() {
    for (family, architecture) in [(Family::Llama, "llama"), (Family::Qwen2, "qwen2")] {
        let folder = tempfile::tempdir().unwrap();
        let tensors = write_model(folder.path(), family, false);
        let file = folder.path().join("model.gguf");
        write(&file, &tensors, architecture);
        let states = |path: &Path| {
            let weights = Weights::open(path).unwrap();
            let decoder = Decoder::load(&weights, 0..3, &Device::Cpu).unwrap();
            let states = decoder.embed(&ids()).unwrap();
            let states = decoder.run(&states, 0..3, Kernels::Fused).unwrap();
            (decoder.config().clone(), states)
        };
        let (whole, one) = states(folder.path());
        let (read, other) = states(&file);
        assert_eq!(read.kv_heads, whole.kv_heads);
        assert!(
            largest_difference(&one, &other) < 1e-6,
            "{family:?}: {}",
            largest_difference(&one, &other)
        );
    }
}

/// Goal: each kind of tokenizer is read as llama.cpp means it. Method: a text with and without a space before it; a piece that is a token of its own, which merges do
/// not lead to; a kind that nobody knows.
#[test]
fn kinds_of_tokenizers_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = write_model(folder.path(), Family::Llama, true);
    let file = folder.path().join("model.gguf");
    let read = |pre: &str| {
        write_as(&file, &tensors, "llama", GgmlDType::F32, pre);
        LanguageTokenizer::of(&Weights::open(&file).unwrap())
    };
    for (pre, spaced) in [
        ("gpt-2", &[1, 6, 4][..]),
        ("qwen2", &[1, 6, 4]),
        ("smollm", &[1, 6, 4]),
        ("llama-bpe", &[8]),
    ] {
        let tokenizer = read(pre).unwrap();
        assert_eq!(tokenizer.ids("the").unwrap(), [6, 4], "{pre}");
        assert_eq!(tokenizer.ids(" the").unwrap(), spaced, "{pre}");
        assert_eq!(tokenizer.text(&[8, 1, 6, 4]).unwrap(), " the the", "{pre}");
    }
    let error = read("tekken").unwrap_err().to_string();
    assert!(
        error.contains("`tokenizer.ggml.pre` is \"tekken\""),
        "{error}"
    );
}

/// Goal: what would change what is computed, or take all memory, is refused by its key or tensor. Method: one thing at a time in a file that is right: keys of rotary positions, numbers that are none, counts that are no model's, tensors that nobody reads; and what changes nothing.
#[test]
fn what_is_not_computed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = write_model(folder.path(), Family::Llama, true);
    let file = folder.path().join("model.gguf");
    let kind = (GgmlDType::F32, "smollm");
    let open = |tensors: &BTreeMap<String, Tensor>, more: &[(&str, Value)]| {
        write_with(&file, tensors, "llama", kind, more);
        Weights::open(&file)
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    let none = Value::String("none".to_owned());
    for more in [
        vec![],
        vec![("llama.rope.scaling.factor", Value::F32(1.0))],
        vec![
            ("llama.rope.scaling.type", none),
            ("llama.rope.scaling.factor", Value::F32(8.0)),
        ],
        vec![("llama.rope.dimension_count", Value::U32(8))],
    ] {
        assert_eq!(open(&tensors, &more), Ok(()));
    }
    for (key, value) in [
        (
            "llama.rope.scaling.type",
            Value::String("linear".to_owned()),
        ),
        ("llama.rope.scaling.type", Value::U32(1)),
        ("llama.rope.scaling.factor", Value::F32(8.0)),
        ("llama.rope.scale_linear", Value::F32(4.0)),
        ("llama.rope.dimension_count", Value::U32(2)),
        ("llama.rope.freq_base", Value::F32(-5.0)),
        (
            "llama.attention.layer_norm_rms_epsilon",
            Value::F32(f32::NAN),
        ),
        ("llama.block_count", Value::U32(u32::MAX)),
        ("llama.embedding_length", Value::U32(1 << 30)),
        ("llama.attention.head_count", Value::U32(0)),
    ] {
        let said = open(&tensors, &[(key, value)]).unwrap_err();
        assert!(said.contains(&format!("`{key}`")), "{said}");
    }
    for (name, shape) in [
        ("rope_freqs.weight", vec![4]),
        ("model.layers.0.self_attn.q_proj.bias", vec![32]),
        ("model.layers.3.input_layernorm.weight", vec![32]),
    ] {
        let mut more = tensors.clone();
        let ones = Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
        more.insert(name.to_owned(), ones);
        let said = open(&more, &[]).unwrap_err();
        assert!(
            said.contains("tensor `") && said.contains("not supported"),
            "{said}"
        );
    }
    let alignment = [("general.alignment", Value::U32(0))];
    let said = open(&tensors, &alignment).unwrap_err();
    assert!(said.contains("is no GGUF file"), "{said}");
}

/// Goal: a file that is cut off, or of another kind, is found before it is used. Method: a file shortened everywhere, an unknown architecture, and no file at
/// all.
#[test]
fn a_spoilt_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = write_model(folder.path(), Family::Llama, true);
    let file = folder.path().join("model.gguf");
    write(&file, &tensors, "llama");
    let bytes = fs::read(&file).unwrap();
    let open = || {
        let weights = Weights::open(&file)?;
        Decoder::load(&weights, 0..3, &Device::Cpu)
    };
    assert!(open().is_ok());
    for length in [0, 3, 20, 200, 1000, bytes.len() / 2, bytes.len() - 200] {
        fs::write(&file, &bytes[..length]).unwrap();
        let error = open().unwrap_err().to_string();
        assert!(error.contains("model.gguf"), "{error}");
        assert!(
            error.contains("cut off") || error.contains("missing"),
            "{length}: {error}"
        );
    }
    write(&file, &tensors, "gemma3");
    let error = open().unwrap_err().to_string();
    assert!(
        error.contains("`general.architecture` is \"gemma3\""),
        "{error}"
    );
    fs::remove_file(&file).unwrap();
    let error = open().unwrap_err().to_string();
    assert!(error.contains("model.gguf: cannot be read"), "{error}");
}
