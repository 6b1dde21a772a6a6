//! Language models as people have them: read from a folder or a file, checked, and run layer by layer.
//!
//! Before it, an operator names a model folder (Hugging Face's layout) or a GGUF file; after it, texts become token ids ([`LanguageTokenizer`]) and
//! token ids become hidden states ([`Decoder`]), with the layers cut wherever the caller likes: the layers below the cut meet each text
//! once, those above it run over sequences of what comes out (BAHE, SIGIR'24; section 3 there).
//!
//! The blocks are our own, because those of candle-transformers cannot be cut, give no hidden states and cut gradients silently; they serve as the
//! oracle of the tests.

pub(crate) mod block;
mod config;
mod convert;
mod decoder;
mod encoder;
pub(crate) mod error;
pub(crate) mod kernel;
pub(crate) mod part;
mod text;
mod tokenizer;
mod weights;

#[cfg(test)]
pub(crate) mod tests;

pub use config::{DecoderConfig, EncoderConfig, Family, Shape};
pub use convert::{CONVERSION, check, convert};
pub use decoder::{Decoder, DecoderPass};
pub use encoder::Encoder;
pub use error::LanguageError;
pub use part::Kernels;
pub use text::{TEXT_TOKENS_MAX, TextEncoder, canonical, text_hash};
pub use tokenizer::LanguageTokenizer;
pub use weights::{Weights, from_safetensors, to_safetensors};
