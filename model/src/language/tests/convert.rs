//! Models that are checked whole, and GGUF files that become folders.

use std::fs;

use candle_core::Device;
use candle_core::quantized::GgmlDType;

use super::gguf::{write, write_as};
use super::*;

/// Goal: a file, as a folder, is the same model: no value changes. Method: quantised files of both families are converted; shape, every tensor to the
/// bit, the ids of texts with a control token in them, and how far the work was.
#[test]
fn a_file_becomes_a_folder() {
    for (family, architecture) in [(Family::Llama, "llama"), (Family::Qwen2, "qwen2")] {
        let folder = tempfile::tempdir().unwrap();
        let tensors = write_model(folder.path(), family, family == Family::Llama);
        let path = folder.path().join("model.gguf");
        let matrices = match family {
            Family::Llama => GgmlDType::Q4_0,
            Family::Qwen2 => GgmlDType::F16,
        };
        write_as(&path, &tensors, architecture, matrices, "smollm");
        let file = Weights::open(&path).unwrap();
        let made = folder.path().join("made");
        fs::create_dir(&made).unwrap();
        let mut course = Vec::new();
        convert(&file, &made, &mut |done, whole| course.push((done, whole))).unwrap();
        let whole: usize = tensors.values().map(|one| one.elem_count() * 4).sum();
        assert_eq!(course.last(), Some(&(whole as u64, whole as u64)));
        assert_eq!(course.len(), tensors.len());

        let read = Weights::open(&made).unwrap();
        check(&read, &mut |_, _| {}).unwrap();
        assert_eq!(read.shape(), file.shape());
        for (name, tensor) in &tensors {
            let of = |weights: &Weights| weights.tensor(name, tensor.dims(), &Device::Cpu);
            let difference = largest_difference(&of(&file).unwrap(), &of(&read).unwrap());
            assert_eq!(difference, 0.0, "{name}");
        }
        let (one, other) = (
            LanguageTokenizer::of(&file).unwrap(),
            LanguageTokenizer::of(&read).unwrap(),
        );
        for text in ["the the", "22", "<|end|>the", ""] {
            assert_eq!(one.ids(text).unwrap(), other.ids(text).unwrap(), "{text}");
        }
        assert_eq!(other.ids("the the").unwrap(), [6, 4, 1, 6, 4]);
        assert_eq!(other.ids("22").unwrap(), [7, 7]);
        assert_eq!(other.id("<|end|>"), Some(0));
        let mode = |name: &str| fs::metadata(made.join(name)).unwrap().permissions();
        assert_eq!(mode("model.safetensors"), mode("config.json"));
    }
}

/// Goal: what is spoilt anywhere is found by the check and by the conversion, which leaves no tensors behind. Method: files that end early, in a late tensor,
/// and a value that is no number.
#[test]
fn a_spoilt_model_is_not_converted() {
    let folder = tempfile::tempdir().unwrap();
    let mut tensors = write_model(folder.path(), Family::Llama, true);
    let path = folder.path().join("model.gguf");
    let made = folder.path().join("made");
    fs::create_dir(&made).unwrap();
    let both = |what: &str| {
        let file = Weights::open(&path).unwrap();
        let checked = check(&file, &mut |_, _| {}).unwrap_err().to_string();
        let converted = convert(&file, &made, &mut |_, _| {}).unwrap_err();
        for error in [checked, converted.to_string()] {
            assert!(
                error.contains("model.gguf: tensor") && error.contains(what),
                "{error}"
            );
        }
        assert!(!made.join("model.safetensors").exists(), "{what}");
    };
    write(&path, &tensors, "llama");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 200]).unwrap();
    both("cut off");
    let name = "model.layers.2.mlp.up_proj.weight";
    let mut values = tensors[name].flatten_all().unwrap().to_vec1().unwrap();
    values[77] = f32::NAN;
    let spoilt = Tensor::from_vec(values, tensors[name].dims(), &Device::Cpu).unwrap();
    tensors.insert(name.to_owned(), spoilt);
    write(&path, &tensors, "llama");
    both("`model.layers.2.mlp.up_proj.weight` holds values that are no numbers");
}

/// Goal: the check asks for every tensor that loading asks for. Method: each tensor of a decoder and of an encoder is left out, one at a time.
#[test]
fn the_check_misses_no_tensor() {
    let decoder = tempfile::tempdir().unwrap();
    write_model(decoder.path(), Family::Qwen2, false);
    let encoder = tempfile::tempdir().unwrap();
    super::encoder::write(encoder.path(), "");
    for folder in [decoder.path(), encoder.path()] {
        let file = folder.join("model.safetensors");
        let tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
        let tensors: BTreeMap<String, Tensor> = tensors.into_iter().collect();
        fs::write(folder.join("tokenizer.json"), TOKENIZER).unwrap();
        let checked = || check(&Weights::open(folder)?, &mut |_, _| {});
        checked().unwrap();
        for name in tensors.keys() {
            let mut without = tensors.clone();
            without.remove(name);
            save(&without, &file);
            let error = checked().unwrap_err().to_string();
            assert!(
                error.contains(&format!("tensor `{name}` is missing")),
                "{error}"
            );
        }
        save(&tensors, &file);
        fs::remove_file(folder.join("tokenizer.json")).unwrap();
        let error = checked().unwrap_err().to_string();
        assert!(error.contains("tokenizer.json: cannot be read"), "{error}");
    }
}

const TOKENIZER: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"Whitespace"},
    "post_processor":null,"decoder":null,"model":{"type":"WordLevel","vocab":{"[UNK]":0,"a":1,"b":2},"unk_token":"[UNK]"}}"#;
