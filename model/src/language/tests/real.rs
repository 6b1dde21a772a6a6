//! Real weights, where `HEADWATER_MODELS` names a folder that holds them. Without it these tests say so and show nothing.

use std::path::PathBuf;

use super::*;

fn model(name: &str) -> Option<PathBuf> {
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

/// Goal: a real model in a GGUF file is read right: configuration, tokenizer, rows and weights. Method: SmolLM2-135M answers a question that it can
/// only answer if all of that is right.
#[test]
fn a_real_model_answers() {
    let Some(path) = model("SmolLM2-135M-Instruct.Q4_1.gguf") else {
        return;
    };
    let weights = Weights::open(&path).unwrap();
    let config = weights.config().clone();
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
    let tokenizer = LanguageTokenizer::of(&weights).unwrap();
    let decoder = Decoder::load(&weights, 0..30, &Device::Cpu).unwrap();
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
    let answer = tokenizer.text(&ids[prompt..]).unwrap();
    assert_eq!(answer, "The capital of France is Paris.");
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
