//! The shape of a decoder, from `config.json` or from a GGUF file's metadata. What we do not compute is refused by its key: a model that runs with a
//! setting ignored gives plausible numbers that are wrong.

use std::ops::RangeInclusive;
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value};
use serde::{Deserialize, Serialize};

use super::error::LanguageError;

mod encoder;
mod fields;

pub use encoder::EncoderConfig;

use fields::{Fields, counted};

/// What counts may be: more is no model's, and would be asked of the system's memory before anybody finds that tensors are not there.
const LAYERS: RangeInclusive<usize> = 1..=1_024;
/// A vector's width is told in 16 bits.
const WIDTH: RangeInclusive<usize> = 1..=65_535;
const INNER: RangeInclusive<usize> = 1..=1 << 20;
const HEADS: RangeInclusive<usize> = 1..=1_024;
const HEAD_WIDTH: RangeInclusive<usize> = 2..=1_024;
const VOCABULARY: RangeInclusive<usize> = 1..=1 << 24;
/// A token, and what stands before and behind it.
const POSITIONS: RangeInclusive<usize> = 3..=1 << 30;
const SEGMENTS: RangeInclusive<usize> = 1..=1_024;

/// What kind of model it is, and its shape.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// A decoder.
    Decoder(DecoderConfig),
    /// An encoder of the BERT family.
    Encoder(EncoderConfig),
}

impl Shape {
    /// Layers.
    pub fn layers(&self) -> usize {
        match self {
            Self::Decoder(config) => config.layers,
            Self::Encoder(config) => config.layers,
        }
    }

    /// Token ids.
    pub fn vocabulary(&self) -> usize {
        match self {
            Self::Decoder(config) => config.vocabulary,
            Self::Encoder(config) => config.vocabulary,
        }
    }

    /// Reads `config.json` of a folder in Hugging Face's layout.
    pub(super) fn from_json(path: &Path, text: &[u8]) -> Result<Self, LanguageError> {
        let parsed: serde_json::Value =
            serde_json::from_slice(text).map_err(|error| LanguageError::File {
                path: path.to_owned(),
                problem: format!("is not JSON: {error}"),
            })?;
        let Some(map) = parsed.as_object() else {
            return Err(LanguageError::File {
                path: path.to_owned(),
                problem: "is not a JSON object".to_owned(),
            });
        };
        let fields = Fields { path, map };
        let decoder = |family| DecoderConfig::from_fields(&fields, family).map(Self::Decoder);
        match fields.get("model_type").and_then(|value| value.as_str()) {
            Some("llama") => decoder(Family::Llama),
            Some("qwen2") => decoder(Family::Qwen2),
            Some("bert") => EncoderConfig::from_fields(&fields).map(Self::Encoder),
            Some(other) => {
                let supported = "supported are \"bert\", \"llama\" and \"qwen2\"";
                Err(fields.wrong("model_type", format!("is \"{other}\"; {supported}")))
            }
            None => Err(fields.wrong("model_type", "is missing")),
        }
    }
}

/// Which family of decoders: they differ in names and in what has a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Llama, and `SmolLM2`, which is one.
    Llama,
    /// Qwen2: queries, keys and values have a bias.
    Qwen2,
}

/// The shape of a decoder with rotary positions, grouped queries and gated feed-forward parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    /// The family.
    pub family: Family,
    /// Blocks.
    pub layers: usize,
    /// Width of hidden states.
    pub width: usize,
    /// Width inside the feed-forward part.
    pub inner: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_width: usize,
    /// Token ids.
    pub vocabulary: usize,
    /// Positions that it was trained for.
    pub positions_max: usize,
    /// Base of the rotary frequencies.
    pub rope_base: f64,
    /// Added to the mean square before its root.
    pub norm_epsilon: f64,
    /// The token that begins a text.
    pub first_token: u32,
    /// Whether the head that gives token logits is the embedding itself.
    pub tied: bool,
}

impl DecoderConfig {
    fn from_fields(fields: &Fields<'_>, family: Family) -> Result<Self, LanguageError> {
        let path = fields.path;
        fields.only("hidden_act", &["silu", "swish"])?;
        for key in ["attention_bias", "mlp_bias", "use_sliding_window"] {
            fields.never(key)?;
        }
        fields.one("partial_rotary_factor")?;
        let mut rope_base = fields.number("rope_theta")?;
        // Newer files hold both in one object.
        for key in ["rope_scaling", "rope_parameters"] {
            let Some(value) = fields.get(key) else {
                continue;
            };
            let Some(map) = value.as_object() else {
                return Err(fields.wrong(key, format!("is {value}, not an object")));
            };
            let inner = Fields { path, map };
            let named = |error: LanguageError, within: &str| match error {
                LanguageError::Key { problem, .. } => {
                    fields.wrong(&format!("{key}.{within}"), problem)
                }
                other => other,
            };
            for kind in ["rope_type", "type"] {
                let only = inner.only(kind, &["default"]);
                only.map_err(|error| named(error, kind))?;
            }
            // Older files have a factor without a kind, and mean a kind that they do not name.
            for factor in ["factor", "partial_rotary_factor"] {
                inner.one(factor).map_err(|error| named(error, factor))?;
            }
            rope_base = inner.number("rope_theta")?.or(rope_base);
        }
        let heads = fields.needed("num_attention_heads", HEADS)?;
        let width = fields.needed("hidden_size", WIDTH)?;
        Self {
            family,
            layers: fields.needed("num_hidden_layers", LAYERS)?,
            width,
            inner: fields.needed("intermediate_size", INNER)?,
            heads,
            kv_heads: fields.count("num_key_value_heads", HEADS)?.unwrap_or(heads),
            head_width: fields
                .count("head_dim", HEAD_WIDTH)?
                .unwrap_or(width / heads),
            vocabulary: fields.needed("vocab_size", VOCABULARY)?,
            positions_max: fields
                .count("max_position_embeddings", POSITIONS)?
                .unwrap_or(2048),
            rope_base: rope_base.unwrap_or(10_000.0),
            norm_epsilon: fields.number("rms_norm_eps")?.unwrap_or(1e-6),
            first_token: fields.token("bos_token_id")?,
            tied: fields.flag("tie_word_embeddings")?,
        }
        .checked(path)
    }

    /// Reads the metadata of a GGUF file.
    pub(super) fn from_gguf(path: &Path, content: &Content) -> Result<Self, LanguageError> {
        let wrong = |key: &str, problem: String| LanguageError::Key {
            path: path.to_owned(),
            key: key.to_owned(),
            problem,
        };
        let text = |key: &str| match content.metadata.get(key) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(wrong(key, "is not a text".to_owned())),
            None => Err(wrong(key, "is missing".to_owned())),
        };
        let architecture = text("general.architecture")?;
        let family = match architecture.as_str() {
            "llama" => Family::Llama,
            "qwen2" => Family::Qwen2,
            other => {
                let problem = format!("is \"{other}\"; supported are \"llama\" and \"qwen2\"");
                return Err(wrong("general.architecture", problem));
            }
        };
        let find = |key: &str| content.metadata.get(&format!("{architecture}.{key}"));
        let full = |key: &str| format!("{architecture}.{key}");
        let count = |key: &str, within: RangeInclusive<usize>| {
            let Some(value) = find(key) else {
                return Ok(None);
            };
            let found = match value {
                Value::U32(value) => Some(u64::from(*value)),
                value => value.to_u64().ok(),
            };
            counted(found, within)
                .map(Some)
                .map_err(|problem| wrong(&full(key), format!("is {problem}")))
        };
        let needed = |key: &str, within: RangeInclusive<usize>| {
            count(key, within)?.ok_or_else(|| wrong(&full(key), "is missing".to_owned()))
        };
        let number = |key: &str| {
            let Some(value) = find(key) else {
                return Ok(None);
            };
            let found = value.to_f32().map(f64::from).or_else(|_| value.to_f64());
            let found = found.ok().filter(|one| one.is_finite() && *one > 0.0);
            found
                .map(Some)
                .ok_or_else(|| wrong(&full(key), "is not a positive number".to_owned()))
        };
        match find("rope.scaling.type") {
            None => {
                // Older files have a factor without a kind.
                for key in ["rope.scaling.factor", "rope.scale_linear"] {
                    if number(key)?.is_some_and(|factor| factor != 1.0) {
                        return Err(wrong(
                            &full(key),
                            "is not 1, which is not supported".to_owned(),
                        ));
                    }
                }
            }
            Some(Value::String(kind)) if kind == "none" => {}
            Some(kind) => {
                let problem = format!("is {kind:?}, which is not supported");
                return Err(wrong(&full("rope.scaling.type"), problem));
            }
        }
        let heads = needed("attention.head_count", HEADS)?;
        let width = needed("embedding_length", WIDTH)?;
        let turned = count("rope.dimension_count", HEAD_WIDTH)?;
        let head_width = count("attention.key_length", HEAD_WIDTH)?;
        let head_width = head_width.unwrap_or(width / heads);
        if turned.is_some_and(|turned| turned != head_width) {
            let problem = format!(
                "is not the width of a head, {head_width}: parts of heads are not turned alone"
            );
            return Err(wrong(&full("rope.dimension_count"), problem));
        }
        let embedding = content.tensor_infos.get("token_embd.weight");
        Self {
            family,
            layers: needed("block_count", LAYERS)?,
            width,
            inner: needed("feed_forward_length", INNER)?,
            heads,
            kv_heads: count("attention.head_count_kv", HEADS)?.unwrap_or(heads),
            head_width,
            vocabulary: embedding
                .and_then(|info| info.shape.dims().first().copied())
                .ok_or_else(|| LanguageError::Tensor {
                    path: path.to_owned(),
                    tensor: "token_embd.weight".to_owned(),
                    problem: "is missing".to_owned(),
                })?,
            positions_max: needed("context_length", POSITIONS)?,
            rope_base: number("rope.freq_base")?.unwrap_or(10_000.0),
            norm_epsilon: number("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-5),
            first_token: match content.metadata.get("tokenizer.ggml.bos_token_id") {
                Some(value) => value.to_u32().map_err(|_| {
                    wrong("tokenizer.ggml.bos_token_id", "is no token id".to_owned())
                })?,
                None => 0,
            },
            tied: !content.tensor_infos.contains_key("output.weight"),
        }
        .checked(path)
    }

    /// Refuses what contradicts itself.
    fn checked(self, path: &Path) -> Result<Self, LanguageError> {
        let problem = if !self.heads.is_multiple_of(self.kv_heads) {
            format!(
                "{} query heads cannot share {} heads of keys and values",
                self.heads, self.kv_heads
            )
        } else if self.first_token as usize >= self.vocabulary {
            format!(
                "the first token is {} of a vocabulary of {}",
                self.first_token, self.vocabulary
            )
        } else if !HEAD_WIDTH.contains(&self.head_width) || !self.head_width.is_multiple_of(2) {
            format!(
                "heads of width {} cannot be turned by rotary positions",
                self.head_width
            )
        } else {
            return Ok(self);
        };
        Err(LanguageError::File {
            path: path.to_owned(),
            problem,
        })
    }
}
