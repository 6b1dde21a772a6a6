//! The shape of an encoder of the BERT family.

use super::fields::Fields;
use super::{HEADS, INNER, LAYERS, POSITIONS, SEGMENTS, VOCABULARY, WIDTH};
use crate::language::error::LanguageError;

/// The shape of an encoder with learned positions, full attention and norms after each part.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// Blocks.
    pub layers: usize,
    /// Width of hidden states.
    pub width: usize,
    /// Width inside the feed-forward part.
    pub inner: usize,
    /// Heads.
    pub heads: usize,
    /// Token ids.
    pub vocabulary: usize,
    /// Positions that it has.
    pub positions_max: usize,
    /// Kinds of segments, of which the first is used.
    pub segments: usize,
    /// Added to the variance before its root.
    pub norm_epsilon: f64,
}

impl EncoderConfig {
    pub(super) fn from_fields(fields: &Fields<'_>) -> Result<Self, LanguageError> {
        fields.only("hidden_act", &["gelu"])?;
        fields.only("position_embedding_type", &["absolute"])?;
        fields.never("is_decoder")?;
        let config = Self {
            layers: fields.needed("num_hidden_layers", LAYERS)?,
            width: fields.needed("hidden_size", WIDTH)?,
            inner: fields.needed("intermediate_size", INNER)?,
            heads: fields.needed("num_attention_heads", HEADS)?,
            vocabulary: fields.needed("vocab_size", VOCABULARY)?,
            positions_max: fields
                .count("max_position_embeddings", POSITIONS)?
                .unwrap_or(512),
            segments: fields.count("type_vocab_size", SEGMENTS)?.unwrap_or(2),
            norm_epsilon: fields.number("layer_norm_eps")?.unwrap_or(1e-12),
        };
        if config.width.is_multiple_of(config.heads) {
            return Ok(config);
        }
        let problem = format!("is {}, not a divisor of {}", config.heads, config.width);
        Err(fields.wrong("num_attention_heads", problem))
    }
}
