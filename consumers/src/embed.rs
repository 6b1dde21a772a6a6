//! What makes vectors of texts: a language model's shallow layers, or whatever stands in for them.
//!
//! Before it, canonical texts; after it, vectors that are whole: as wide as they should be, and of numbers that are.

use std::sync::Arc;

use headwater_model::language::TextEncoder;
use headwater_state::{CurrentEncoder, EncoderId};

/// What makes vectors of texts.
pub trait Embed: Send + std::fmt::Debug {
    /// Whose vectors they are.
    fn encoder(&self) -> CurrentEncoder;

    /// The vectors of canonical texts, in their order.
    ///
    /// # Errors
    /// What the model says.
    fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError>;

    /// Tokens that were run so far.
    fn tokens(&self) -> u64;
}

/// Why texts were not embedded.
pub type EmbedError = Box<dyn std::error::Error + Send + Sync>;

impl Embed for Arc<TextEncoder> {
    fn encoder(&self) -> CurrentEncoder {
        CurrentEncoder {
            id: EncoderId(self.id()),
            width: u16::try_from(self.width())
                .expect("invariant: language models have fewer than 65,536 numbers a position"),
        }
    }

    fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        Ok(self.encode(texts, self.batch_tokens())?)
    }

    fn tokens(&self) -> u64 {
        TextEncoder::tokens(self)
    }
}

/// The vectors of texts, each of them whole.
///
/// # Errors
/// The model's, or a vector that is not as it must be, with its text.
pub(crate) fn embed_whole(
    embed: &mut dyn Embed,
    texts: &[&str],
) -> Result<Vec<Vec<f32>>, EmbedError> {
    let vectors = embed.embed(texts)?;
    let width = usize::from(embed.encoder().width);
    if vectors.len() != texts.len() {
        return Err(format!("{} vectors of {} texts", vectors.len(), texts.len()).into());
    }
    let is_whole =
        |vector: &[f32]| vector.len() == width && vector.iter().all(|value| value.is_finite());
    match texts
        .iter()
        .zip(&vectors)
        .find(|(_, vector)| !is_whole(vector))
    {
        None => Ok(vectors),
        Some((text, _)) => {
            let shown: String = text.chars().take(80).collect();
            Err(format!("the vector of the text {shown:?} holds numbers that are not finite, or not as many as it should").into())
        }
    }
}
