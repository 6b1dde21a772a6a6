//! Text to token ids, as the model's own tokenizer has it: `tokenizer.json` of a folder, or a GGUF file's metadata.

use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::tokenizer::TokenizerFromGguf as _;
use tokenizers::models::ModelWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{SplitDelimiterBehavior, Tokenizer};

use super::error::LanguageError;
use super::weights::Weights;

/// A model's tokenizer.
#[derive(Debug)]
pub struct LanguageTokenizer {
    tokenizer: Tokenizer,
}

impl LanguageTokenizer {
    /// The tokenizer that lies beside a model's weights. Its own padding and truncation are off: an operator's file must not cut texts unseen.
    pub fn of(weights: &Weights) -> Result<Self, LanguageError> {
        let mut tokenizer = if let Some(file) = weights.gguf() {
            from_gguf(file.content()).map_err(|problem| LanguageError::File {
                path: weights.path().to_owned(),
                problem: format!("holds no tokenizer that is supported: {problem}"),
            })?
        } else {
            let path = weights.path().join("tokenizer.json");
            let bytes = std::fs::read(&path).map_err(|source| LanguageError::Read {
                path: path.clone(),
                source,
            })?;
            Tokenizer::from_bytes(bytes).map_err(|error| LanguageError::File {
                path,
                problem: format!("is no tokenizer: {error}"),
            })?
        };
        let wrong = |error: tokenizers::Error| LanguageError::File {
            path: weights.path().to_owned(),
            problem: format!("has a tokenizer that cannot be set up: {error}"),
        };
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(wrong)?;
        tokenizer.set_encode_special_tokens(true);
        // Ids may have gaps.
        let largest = tokenizer.get_vocab(true).into_values().max();
        if let Some(largest) = largest.filter(|id| *id as usize >= weights.shape().vocabulary()) {
            return Err(LanguageError::File {
                path: weights.path().to_owned(),
                problem: format!(
                    "has a tokenizer with the id {largest} over embeddings of {}",
                    weights.shape().vocabulary()
                ),
            });
        }
        Ok(Self { tokenizer })
    }

    /// The ids of a text, none put before or behind. What looks like one of the model's control tokens is text: whoever writes `<|im_end|>` into a
    /// title ends nothing.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>, LanguageError> {
        self.tokenizer
            .encode_fast(text, false)
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|error| LanguageError::Input(format!("a text has no tokens: {error}")))
    }

    /// The ids of a text between those that the model's tokenizer puts before and behind (`[CLS]` and `[SEP]`): what an encoder was trained on.
    pub fn framed_ids(&self, text: &str) -> Result<Vec<u32>, LanguageError> {
        self.tokenizer
            .encode_fast(text, true)
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|error| LanguageError::Input(format!("a text has no tokens: {error}")))
    }

    /// The id of a token by its name, control tokens included.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// The text of ids, control tokens left out.
    pub fn text(&self, ids: &[u32]) -> Result<String, LanguageError> {
        self.tokenizer
            .decode(ids, true)
            .map_err(|error| LanguageError::Input(format!("ids that are no text: {error}")))
    }

    /// Writes it down as `tokenizer.json`.
    pub(super) fn write(&self, path: &Path) -> Result<(), LanguageError> {
        let written = self.tokenizer.save(path, false);
        written.map_err(|error| LanguageError::File {
            path: path.to_owned(),
            problem: format!("cannot be written: {error}"),
        })
    }
}

/// The pieces that Llama 3 cuts a text into.
const LLAMA_3: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The library reads most of it, and takes every kind that it does not know for one that has a space put before every text: GPT-2's own and `smollm` (digits one
/// by one) have none. What llama.cpp writes for Llama 3, `llama-bpe`, it knows under another name, and without the rule that a piece which is a token is
/// that token, whatever the merges make of it.
fn from_gguf(content: &Content) -> Result<Tokenizer, String> {
    let mut tokenizer = Tokenizer::from_gguf(content).map_err(|error| error.to_string())?;
    let pre = match content.metadata.get("tokenizer.ggml.pre") {
        Some(Value::String(pre)) => pre.as_str(),
        Some(_) | None => return Err("`tokenizer.ggml.pre` is missing".to_owned()),
    };
    let bytes = PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true));
    match pre {
        "qwen2" => {}
        "gpt-2" | "gpt2" => {
            tokenizer.with_pre_tokenizer(Some(bytes));
        }
        "smollm" => {
            let single_digits = PreTokenizerWrapper::Digits(Digits::new(true));
            let sequence = Sequence::new(vec![single_digits, bytes]);
            tokenizer.with_pre_tokenizer(Some(PreTokenizerWrapper::Sequence(sequence)));
        }
        "llama-bpe" | "llama3" | "llama-v3" => {
            let pattern = SplitPattern::Regex(LLAMA_3.to_owned());
            let pieces = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                .map_err(|error| error.to_string())?;
            let bytes = PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, false));
            let sequence = Sequence::new(vec![PreTokenizerWrapper::Split(pieces), bytes]);
            tokenizer.with_pre_tokenizer(Some(PreTokenizerWrapper::Sequence(sequence)));
            let mut model = tokenizer.get_model().clone();
            if let ModelWrapper::BPE(pairs) = &mut model {
                pairs.ignore_merges = true;
            }
            tokenizer.with_model(model);
        }
        other => return Err(format!("`tokenizer.ggml.pre` is \"{other}\"")),
    }
    Ok(tokenizer)
}
