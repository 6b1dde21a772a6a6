//! Texts and their vectors, with a small model and a tokenizer of words.

use std::path::Path;

use super::*;

/// A tokenizer of the words w0 … w95; everything else is unknown.
fn write_tokenizer(folder: &Path) {
    let mut vocabulary: serde_json::Map<_, _> = (0..96)
        .map(|word| (format!("w{word}"), (word + 1).into()))
        .collect();
    vocabulary.insert("?".to_owned(), 0.into());
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": null, "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "?"}
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

fn open(folder: &Path, cut: usize) -> TextEncoder {
    TextEncoder::open(folder, cut, &Device::Cpu).unwrap()
}

fn distance(one: &[f32], other: &[f32]) -> f32 {
    let pairs = one.iter().zip(other);
    pairs
        .map(|(one, other)| (one - other).abs())
        .fold(0.0, f32::max)
}

/// Goal: a text's vector is its own, whatever shares its batch, and however batches are cut. Method: texts of many lengths at once, with room for two tokens
/// and for many, against each alone.
#[test]
fn a_text_is_the_same_in_any_batch() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), Family::Llama, true);
    write_tokenizer(folder.path());
    let encoder = open(folder.path(), 2);
    let texts: Vec<String> = (0..40)
        .map(|text| {
            let words = (0..text % 13).map(|word| format!("w{}", (text * 7 + word * 5) % 96));
            words.collect::<Vec<_>>().join(" ")
        })
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let alone: Vec<Vec<f32>> = texts
        .iter()
        .map(|text| encoder.encode(&[text], 64).unwrap().remove(0))
        .collect();
    for tokens_max in [2, 30, 10_000] {
        let together = encoder.encode(&texts, tokens_max).unwrap();
        for (text, (one, other)) in texts.iter().zip(alone.iter().zip(&together)) {
            assert!(distance(one, other) < 1e-5, "{tokens_max}: {text}");
        }
    }
    assert!(distance(&alone[1], &alone[2]) > 1e-2);
    assert_eq!(alone[0], vec![0.0; 32], "a text without tokens");
}

/// Goal: any text has a vector or is defined to have none. Method: nothing, control characters, a hundred thousand bytes, and what differs only in spaces.
#[test]
fn odd_texts_are_defined() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), Family::Llama, true);
    // 256 tokens and the first: more positions than the small model has.
    let file = folder.path().join("config.json");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("embeddings\":64", "embeddings\":512")).unwrap();
    write_tokenizer(folder.path());
    let encoder = open(folder.path(), 1);
    let one = |text: &str| encoder.encode(&[text], 1_000).unwrap().remove(0);
    for nothing in ["", " \n\t", "\u{0}\u{7}"] {
        assert_eq!(one(nothing), vec![0.0; 32], "{nothing:?}");
    }
    assert_eq!(one("w1 w2"), one("\u{0}w1 \n\u{7f} w2\u{2003}"));
    assert_eq!(encoder.key("w1 w2"), encoder.key(" w1\tw2 "));
    assert_ne!(encoder.key("w1 w2"), encoder.key("w2 w1"));
    let long = "w3 ".repeat(40_000);
    assert_eq!(one(&long), one(&"w3 ".repeat(TEXT_TOKENS_MAX)));
    assert_ne!(one(&long), one(&"w3 ".repeat(TEXT_TOKENS_MAX - 1)));
    assert!(
        one(&"日本語".repeat(30_000))
            .iter()
            .all(|value| value.is_finite())
    );
}

/// Goal: what counts of a text counts of it again, wherever it is cut: it comes back from the topic of texts as it was sent. Method: words of one to four bytes a character, one behind the other, so that the cut is within one, at its end and at a
/// space; each shift of them.
#[test]
fn a_canonical_text_stays_as_it_is() {
    for word in ["a ", "ab ", "w3 ", "ä ", "日本 ", "𝄞 ", "x\u{7f}\n", "word"] {
        let words = word.repeat(20_000);
        for shift in 0..8 {
            let text = format!("{}{words}", "s".repeat(shift));
            let once = canonical(&text);
            assert!(once.len() > 16_000 && once.len() <= 16 << 10, "{word:?}");
            assert_eq!(canonical(&once), once, "{word:?} {shift}");
        }
    }
}

/// Goal: a model with few positions reads of a text as many tokens as it has positions for. Method: a text that is longer than the model, and its beginning.
#[test]
fn a_small_model_reads_what_it_can() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), Family::Llama, true);
    write_tokenizer(folder.path());
    let encoder = open(folder.path(), 2);
    let one = |words: usize| {
        encoder
            .encode(&[&"w3 ".repeat(words)], 64)
            .unwrap()
            .remove(0)
    };
    assert_eq!(one(500), one(63));
    assert_ne!(one(500), one(62));
}

/// Goal: vectors of two encoders never mix. Method: another cut, another weight, another tokenizer: another version and other keys; the same: the same.
#[test]
fn a_version_is_all_that_a_vector_follows_from() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), Family::Llama, true);
    write_tokenizer(folder.path());
    let first = open(folder.path(), 2);
    assert_eq!(first.version(), open(folder.path(), 2).version());
    let mut seen = vec![*first.version()];
    let mut differs = |cut| {
        let version = *open(folder.path(), cut).version();
        assert!(!seen.contains(&version));
        seen.push(version);
    };
    differs(3);
    let file = folder.path().join("tokenizer.json");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"w5\":6", "\"w5\":900")).unwrap();
    let gap = TextEncoder::open(folder.path(), 2, &Device::Cpu).unwrap_err();
    assert!(
        gap.to_string().contains("the id 900 over embeddings of 97"),
        "{gap}"
    );
    std::fs::write(&file, text.replace("\"w5\"", "\"v5\"")).unwrap();
    differs(2);
    let file = folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    differs(2);
    let other = open(folder.path(), 2);
    assert_ne!(first.key("w1"), other.key("w1"));
}

/// Goal: vectors that are pooled where states are, are those that are pooled here. Method: many texts at once by both, both families of models, with a bound at which
/// some, and all, of a text's states are left out; and on a GPU where there is one.
#[test]
fn pooling_at_once_gives_the_same() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), Family::Llama, true);
    write_tokenizer(folder.path());
    let any = crate::device::choose(headwater_config::DeviceChoice::Auto).unwrap();
    let texts: Vec<Vec<u32>> = (2..20)
        .map(|length| (0..length).map(|at| (at * 5 + length) % 96).collect())
        .collect();
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let mut left_out = 0;
    for longest in [f32::INFINITY, 1.9, 1.7, 0.0] {
        let right = open(folder.path(), 2).with_longest(longest);
        for device in [&Device::Cpu, &any.device] {
            let encoder = TextEncoder::open(folder.path(), 2, device).unwrap();
            let encoder = encoder.with_longest(longest);
            let (one, left) = right.pool_each(&texts).unwrap();
            left_out += left;
            for (one, other) in one.iter().zip(encoder.pool_at_once(&texts).unwrap()) {
                assert!(distance(one, &other) < 1e-5, "{longest}");
            }
        }
    }
    assert!(left_out > 20, "{left_out}: the bound was of no use");
}
