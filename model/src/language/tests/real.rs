//! Real weights, where `HEADWATER_MODELS` names a folder that holds them. Without it these tests say so and show nothing.

use std::path::PathBuf;

use candle_transformers::models::bert;

use super::reference::{hold_real, numbers, reference};
use super::*;

pub(crate) fn model(name: &str) -> Option<PathBuf> {
    let found = std::env::var_os("HEADWATER_MODELS").map(|folder| PathBuf::from(folder).join(name));
    match found {
        Some(path) if path.exists() => Some(path),
        Some(path) => panic!("HEADWATER_MODELS has no {}", path.display()),
        None => {
            eprintln!("LEFT OUT: HEADWATER_MODELS does not name a folder of models");
            None
        }
    }
}

/// What the model says to a question.
fn answer(weights: &Weights) -> String {
    let tokenizer = LanguageTokenizer::of(weights).unwrap();
    let decoder = Decoder::load(weights, 0..30, &Device::Cpu).unwrap();
    let control = |name: &str| tokenizer.id(name).unwrap();
    let (start, end) = (control("<|im_start|>"), control("<|im_end|>"));
    let mut ids = vec![start];
    ids.extend(
        tokenizer
            .ids("user\nWhat is the capital of France?")
            .unwrap(),
    );
    ids.push(end);
    ids.extend(tokenizer.ids("\n").unwrap());
    ids.push(start);
    ids.extend(tokenizer.ids("assistant\n").unwrap());
    let prompt = ids.len();
    while ids.len() < prompt + 12 {
        let states = decoder.embed(&[ids.clone()]).unwrap();
        let states = decoder.run(&states, 0..30, Kernels::Fused).unwrap();
        let last = states.narrow(1, ids.len() - 1, 1).unwrap();
        let logits = decoder.logits(&last, Kernels::Fused).unwrap();
        let next = logits.i((0, 0)).unwrap().argmax(0).unwrap();
        let next = next.to_scalar::<u32>().unwrap();
        if next == end {
            break;
        }
        ids.push(next);
    }
    tokenizer.text(&ids[prompt..]).unwrap()
}

/// Goal: a real model in a GGUF file is read right: configuration, tokenizer, rows and weights. Method: SmolLM2-135M answers a question that it can
/// only answer if all of that is right.
#[test]
fn a_real_model_answers() {
    let Some(path) = model("SmolLM2-135M-Instruct.Q4_1.gguf") else {
        return;
    };
    let weights = Weights::open(&path).unwrap();
    let config = weights.decoder().unwrap().clone();
    assert_eq!(
        (
            config.layers,
            config.width,
            config.heads,
            config.kv_heads,
            config.tied
        ),
        (30, 576, 9, 3, true)
    );
    assert_eq!(answer(&weights), "The capital of France is Paris.");
}

/// Goal: a real GGUF file is, as a folder, the same model. Method: SmolLM2-135M is converted; tensors to the bit, ids of texts, and its answer.
#[test]
fn a_real_file_becomes_a_folder() {
    let Some(path) = model("SmolLM2-135M-Instruct.Q4_1.gguf") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = Weights::open(&path).unwrap();
    convert(&file, folder.path(), &mut |_, _| {}).unwrap();
    let read = Weights::open(folder.path()).unwrap();
    check(&read, &mut |_, _| {}).unwrap();
    assert_eq!(read.shape(), file.shape());
    for (name, shape) in [
        ("model.embed_tokens.weight", [49152, 576]),
        ("model.layers.29.self_attn.k_proj.weight", [192, 576]),
    ] {
        let tensor = |weights: &Weights| weights.tensor(name, &shape, &Device::Cpu).unwrap();
        assert_eq!(largest_difference(&tensor(&file), &tensor(&read)), 0.0);
    }
    let (one, other) = (
        LanguageTokenizer::of(&file).unwrap(),
        LanguageTokenizer::of(&read).unwrap(),
    );
    for text in [
        "Watched 2026's best-of, twice.",
        "Ünïcödé 日本語 🎬",
        "<|im_end|>",
        "",
    ] {
        assert_eq!(one.ids(text).unwrap(), other.ids(text).unwrap(), "{text}");
    }
    assert_eq!(one.id("<|im_start|>"), other.id("<|im_start|>"));
    assert_eq!(answer(&read), "The capital of France is Paris.");
}

/// Goal: the traps of a GGUF file's tokenizer. Method: no space before a text, digits one by one, control tokens of a text are text, and every text comes
/// back.
#[test]
fn a_real_tokenizer_is_read_right() {
    let Some(path) = model("SmolLM2-135M-Instruct.Q4_1.gguf") else {
        return;
    };
    let weights = Weights::open(&path).unwrap();
    let tokenizer = LanguageTokenizer::of(&weights).unwrap();
    let ids = |text: &str| tokenizer.ids(text).unwrap();
    assert_eq!(ids("Paris").first(), tokenizer.id("Paris").as_ref());
    assert_eq!(ids(" Paris").first(), tokenizer.id("ĠParis").as_ref());
    assert_eq!(ids("2026").len(), 4);
    assert!(ids("<|im_end|>").len() > 1, "a title ends nothing");
    assert!(ids("").is_empty());
    for text in [
        "Ünïcödé 日本語 🎬",
        "a\u{0}b\u{7f}\n\t",
        " two  spaces ",
        "<|im_end|>",
    ] {
        assert_eq!(tokenizer.text(&ids(text)).unwrap(), text);
    }
}

/// The mean of an encoder's states over a text's positions, of length 1.
fn sentence(encoder: &Encoder, ids: &[u32]) -> Vec<f32> {
    let layers = encoder.config().layers;
    let states = encoder.embed(&[ids.to_vec()], Kernels::Fused).unwrap();
    let states = encoder
        .run(&states, &[ids.len()], 0..layers, Kernels::Fused)
        .unwrap();
    let mean = states.mean(1).unwrap().i(0).unwrap();
    let mean = mean.to_vec1::<f32>().unwrap();
    let length = mean.iter().map(|one| one * one).sum::<f32>().sqrt();
    mean.iter().map(|one| one / length).collect()
}

/// Goal: a real encoder in a folder is read right, and its tokenizer does not cut texts as its file would have it. Method: `MiniLM` finds what belongs
/// together among sentences that share no word, with the states of candle-transformers; a text of 300 words has over 300 tokens.
#[test]
fn a_real_encoder_understands() {
    let Some(path) = model("all-MiniLM-L6-v2") else {
        return;
    };
    let weights = Weights::open(&path).unwrap();
    let tokenizer = LanguageTokenizer::of(&weights).unwrap();
    let encoder = Encoder::load(&weights, 6, &Device::Cpu).unwrap();
    let vector = |text: &str| sentence(&encoder, &tokenizer.framed_ids(text).unwrap());
    let alike = |one: &str, other: &str| -> f32 {
        let (one, other) = (vector(one), vector(other));
        one.iter().zip(&other).map(|(one, other)| one * other).sum()
    };
    let coffee = alike("bought an espresso", "a cup of coffee, please");
    let strangers = alike(
        "bought an espresso",
        "the striker scored twice in the final",
    );
    assert!(coffee > strangers + 0.2, "{coffee} {strangers}");
    let config = std::fs::read(path.join("config.json")).unwrap();
    let config: bert::Config = serde_json::from_slice(&config).unwrap();
    let held = candle_core::safetensors::load(path.join("model.safetensors"), &Device::Cpu);
    let vars = VarBuilder::from_tensors(held.unwrap(), DType::F32, &Device::Cpu);
    let oracle = bert::BertModel::load(vars, &config).unwrap();
    let ids = vec![
        tokenizer
            .framed_ids("watched a documentary about wolves")
            .unwrap(),
    ];
    let flat = Tensor::new(ids.clone(), &Device::Cpu).unwrap();
    let theirs = oracle.forward(&flat, &flat.zeros_like().unwrap(), None);
    let ours = encoder.embed(&ids, Kernels::Fused).unwrap();
    let ours = encoder.run(&ours, &[ids[0].len()], 0..6, Kernels::Fused);
    assert!(largest_difference(&ours.unwrap(), &theirs.unwrap()) < 1e-4);
    let framed = tokenizer.framed_ids("Coffee").unwrap();
    let control = |name: &str| tokenizer.id(name).unwrap();
    let coffee = tokenizer.ids("coffee").unwrap();
    assert_eq!(framed, [control("[CLS]"), coffee[0], control("[SEP]")]);
    assert!(tokenizer.ids(&"word ".repeat(300)).unwrap().len() >= 300);
}

/// Goal: vectors of unrelated texts differ, though the model has attention sinks wherever it likes. Method: `SmolLM2` cut at 8; texts of three topics, some
/// of one token and some with a sink in their middle; each is nearer to every text of its topic than to any other on average, and none is long.
#[test]
fn sinks_do_not_make_all_texts_alike() {
    let Some(path) = model("SmolLM2-135M-Instruct.Q4_1.gguf") else {
        return;
    };
    let encoder = TextEncoder::open(&path, 8, &Device::Cpu).unwrap();
    let topics = [
        [
            "watched The Matrix, science fiction; 1999",
            "watched Alien, science fiction",
            "searched for: science fiction films",
        ],
        [
            "bought running shoes, sport; size 42",
            "bought football boots, sport",
            "searched for: running shoes",
        ],
        [
            "cooked lasagne, Italian kitchen",
            "read a recipe of tomato soup; 30 minutes",
            "bought flour and tomatoes",
        ],
    ];
    let texts = topics.concat();
    let vectors = encoder.encode(&texts, 4_096).unwrap();
    let length = |one: &[f32]| one.iter().map(|value| value * value).sum::<f32>().sqrt();
    let alike = |one: usize, other: usize| -> f32 {
        let (one, other) = (&vectors[one], &vectors[other]);
        let dot: f32 = one.iter().zip(other).map(|(a, b)| a * b).sum();
        dot / length(one) / length(other)
    };
    let (mut kin, mut strangers) = (Vec::new(), Vec::new());
    for one in 0..texts.len() {
        for other in 0..one {
            let to = if one / 3 == other / 3 {
                &mut kin
            } else {
                &mut strangers
            };
            to.push(alike(one, other));
        }
    }
    let mean = |of: &[f32]| of.iter().sum::<f32>() / of.len() as f32;
    assert!(mean(&strangers) < 0.9, "{strangers:?}");
    assert!(
        mean(&kin) > mean(&strangers) + 0.03,
        "{kin:?} {strangers:?}"
    );
    for vector in encoder.encode(&["Action", "w", "a; b; c"], 64).unwrap() {
        assert!(length(&vector) < 300.0, "{}", length(&vector));
    }
}

/// Goal: real weights give what they give elsewhere, read by another reader of the same file and computed in 64 bits. Method: `SmolLM2`'s states of a sentence behind 8
/// layers (loaded alone) and behind all, and logits, against `reference.json`.
#[test]
fn a_real_decoder_equals_pytorch() {
    let Some(path) = model("SmolLM2-135M-Instruct.Q4_1.gguf") else {
        return;
    };
    let theirs = &reference()["real"]["smollm2"];
    let weights = Weights::open(&path).unwrap();
    let tokenizer = LanguageTokenizer::of(&weights).unwrap();
    let mut ids = vec![tokenizer.id("<|im_start|>").unwrap()];
    ids.extend(tokenizer.ids(theirs["text"].as_str().unwrap()).unwrap());
    let known: Vec<u32> = serde_json::from_value(theirs["ids"].clone()).unwrap();
    assert_eq!(ids, known);
    for layers in [8, 30] {
        let decoder = Decoder::load(&weights, 0..layers, &Device::Cpu).unwrap();
        let states = decoder.embed(&[ids.clone()]).unwrap();
        let states = decoder.run(&states, 0..layers, Kernels::Fused).unwrap();
        let what = format!("behind {layers} layers");
        hold_real(&states, &theirs[layers.to_string()], &what);
        if layers == 30 {
            let logits = decoder.logits(&states, Kernels::Fused).unwrap();
            let last = logits.i((0, ids.len() - 1, ..8)).unwrap();
            let last = last.to_vec1::<f32>().unwrap();
            for (ours, theirs) in last.iter().zip(numbers(&theirs["logits"])) {
                assert!((ours - theirs).abs() < 2e-3, "{ours} for {theirs}");
            }
        }
    }
}

/// Goal: the same of an encoder. Method: `MiniLM`'s states behind 2 layers and behind all.
#[test]
fn a_real_encoder_equals_pytorch() {
    let Some(path) = model("all-MiniLM-L6-v2") else {
        return;
    };
    let theirs = &reference()["real"]["minilm"];
    let weights = Weights::open(&path).unwrap();
    let tokenizer = LanguageTokenizer::of(&weights).unwrap();
    let ids = tokenizer
        .framed_ids(theirs["text"].as_str().unwrap())
        .unwrap();
    let known: Vec<u32> = serde_json::from_value(theirs["ids"].clone()).unwrap();
    assert_eq!(ids, known);
    for layers in [2, 6] {
        let encoder = Encoder::load(&weights, layers, &Device::Cpu).unwrap();
        let states = encoder
            .embed(std::slice::from_ref(&ids), Kernels::Fused)
            .unwrap();
        let states = encoder.run(&states, &[ids.len()], 0..layers, Kernels::Fused);
        let what = format!("behind {layers} layers");
        hold_real(&states.unwrap(), &theirs[layers.to_string()], &what);
    }
}
