//! Texts to vectors: the layers below the cut, run once for each distinct text, and pooled.
//!
//! Before it, templates make the texts of behaviors and items; after it, a vector lies under its content hash ([`TextEncoder::key`]), which holds
//! everything that the vector follows from: the encoder's version (weights, tokenizer, cut, pooling), and the text. So vectors of two encoders never mix.
//!
//! A causal model parks attention on its first position, and on a few words that carry little, with activations that make all texts look alike
//! (attention sinks). So a decoder gets a constant token before each text, and the mean leaves out its position and every other whose
//! state is far longer than is usual. An encoder gets the frame that it was trained with, and the mean is over all of it.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{D, DType, Device, IndexOp as _, Tensor};
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use super::config::Shape;
use super::decoder::Decoder;
use super::encoder::Encoder;
use super::error::{LanguageError, computing};
use super::part::Kernels;
use super::tokenizer::LanguageTokenizer;
use super::weights::Weights;

/// Tokens of one text at most, or as many as the model has positions for; what is behind is cut.
pub const TEXT_TOKENS_MAX: usize = 256;

/// Changes whenever the same text and weights would give another vector.
const RECIPE: &str = "headwater-text-1: canonical, first 256 tokens, mean less sinks";

/// The token that parts documents where there is one: what a model met before texts in training takes the attention that goes nowhere. `SmolLM2`'s chat
/// token does not: after it the second position of many texts is a sink, too.
const FIRST_TOKEN: &str = "<|endoftext|>";

/// A state so many times as long as the median of [`USUAL`] is a sink's. Measured with `SmolLM2` cut at 8: sinks 7 to 9 times, all others below 2.
const SINK: f32 = 3.0;

/// A text whose states have the usual length, most of them.
const USUAL: &str = "She walked to the market in the morning, bought bread and apples, and told an old friend about the film";

/// Bytes of a text that are looked at, at most: more than [`TEXT_TOKENS_MAX`] tokens ever are.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// Tokens of a batch, with padding: as many as fill what computes them.
const BATCH_TOKENS: usize = 2_048;
/// The same on a GPU. With 256 tokens a text, attention of 65,536 takes 600 MB a layer.
const BATCH_TOKENS_GPU: usize = 65_536;

/// The shallow layers of a language model.
#[derive(Debug)]
pub struct TextEncoder {
    device: Device,
    model: Model,
    tokenizer: LanguageTokenizer,
    /// Layers that are run.
    cut: usize,
    /// What a decoder gets before each text.
    first_token: u32,
    /// A decoder's state that is longer says nothing of its text.
    longest: f32,
    version: [u8; 32],
    /// Tokens that were run.
    tokens: AtomicU64,
}

#[derive(Debug)]
enum Model {
    Decoder(Box<Decoder>),
    Encoder(Box<Encoder>),
}

impl TextEncoder {
    /// The first `cut` layers of a model folder or a GGUF file.
    pub fn open(path: &Path, cut: usize, device: &Device) -> Result<Self, LanguageError> {
        Self::open_as(path, cut, device, DType::F32)
    }

    /// The same of a decoder in other numbers, which is another encoder: vectors agree to two digits.
    pub fn open_as(
        path: &Path,
        cut: usize,
        device: &Device,
        numbers: DType,
    ) -> Result<Self, LanguageError> {
        let weights = Weights::open(path)?;
        let tokenizer = LanguageTokenizer::of(&weights)?;
        let model = match weights.shape() {
            Shape::Decoder(_) => {
                let decoder = Decoder::load_as(&weights, 0..cut, device, numbers)?;
                Model::Decoder(Box::new(decoder))
            }
            Shape::Encoder(_) if numbers != DType::F32 => {
                let words = "an encoder of the BERT family is run in f32 alone".to_owned();
                return Err(LanguageError::Input(words));
            }
            Shape::Encoder(_) => Model::Encoder(Box::new(Encoder::load(&weights, cut, device)?)),
        };
        let first_token = match (tokenizer.id(FIRST_TOKEN), weights.shape()) {
            (Some(token), _) => token,
            (None, Shape::Decoder(config)) => config.first_token,
            (None, Shape::Encoder(_)) => 0,
        };
        let mut hash = Sha256::new();
        hash.update(RECIPE);
        hash.update((cut as u64).to_le_bytes());
        weights.digest(&mut hash)?;
        if numbers != DType::F32 {
            hash.update(numbers.as_str());
        }
        let mut encoder = Self {
            device: device.clone(),
            model,
            tokenizer,
            cut,
            first_token,
            longest: f32::INFINITY,
            version: hash.finalize().into(),
            tokens: AtomicU64::new(0),
        };
        encoder.longest = SINK * encoder.usual_length()?;
        Ok(encoder)
    }

    /// Where it is run.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Tokens that are best run at once: what [`TextEncoder::encode`] may be given.
    pub fn batch_tokens(&self) -> usize {
        if self.device.is_cpu() {
            BATCH_TOKENS
        } else {
            BATCH_TOKENS_GPU
        }
    }

    /// The median length of the states of [`USUAL`].
    fn usual_length(&self) -> Result<f32, LanguageError> {
        let ids = self.ids(USUAL)?;
        let mut lengths: Vec<f32> = self
            .listed(&[&ids])?
            .swap_remove(0)
            .iter()
            .map(|state| length(state))
            .collect();
        lengths.sort_by(f32::total_cmp);
        Ok(lengths[lengths.len() / 2])
    }

    /// The encoder's version: a hash of weights, tokenizer, cut and pooling.
    pub fn version(&self) -> &[u8; 32] {
        &self.version
    }

    /// Tokens of texts that were run so far, padding left out.
    pub fn tokens(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }

    /// Numbers in a vector.
    pub fn width(&self) -> usize {
        match &self.model {
            Model::Decoder(decoder) => decoder.config().width,
            Model::Encoder(encoder) => encoder.config().width,
        }
    }

    /// The state of the constant position before each text, after the last layer that is run: what takes attention there takes it in the layers above, too.
    ///
    /// # Errors
    /// None but the tensor library's, and an encoder of the BERT family, which has no such position.
    pub fn first_state(&self) -> Result<Vec<f32>, LanguageError> {
        match self.model {
            Model::Decoder(_) => Ok(self.listed(&[&[self.first_token]])?.remove(0).remove(0)),
            Model::Encoder(_) => Err(LanguageError::Input(
                "an encoder has no constant first position".to_owned(),
            )),
        }
    }

    /// The encoder's half of content hashes: the beginning of its version.
    pub fn id(&self) -> [u8; 16] {
        *self
            .version
            .first_chunk()
            .expect("invariant: a version is longer")
    }

    /// The content hash under which a text's vector lies: whose, and of what.
    pub fn key(&self, text: &str) -> [u8; 32] {
        let mut key = [0; 32];
        key[..16].copy_from_slice(&self.id());
        key[16..].copy_from_slice(&text_hash(&canonical(text)));
        key
    }

    /// The vectors of texts, each as if it were alone, to rounding. Batches are cut so that none has more than `tokens_max` tokens with padding (one text
    /// at least). A text without tokens has the vector 0.
    pub fn encode(
        &self,
        texts: &[&str],
        tokens_max: usize,
    ) -> Result<Vec<Vec<f32>>, LanguageError> {
        let ids = texts.par_iter().enumerate();
        let ids = ids.map(|(place, text)| Ok((place, self.ids(&canonical(text))?)));
        let mut ids = ids.collect::<Result<Vec<_>, LanguageError>>()?;
        // Texts of about one length share a batch: little padding is computed.
        ids.sort_by_key(|(place, ids)| (ids.len(), *place));
        let mut vectors = vec![vec![0.0; self.width()]; texts.len()];
        let mut rest = &ids[ids.partition_point(|(_, ids)| ids.is_empty())..];
        while !rest.is_empty() {
            let fits = |count: &usize| rest[count - 1].1.len() * count <= tokens_max;
            let count = (1..=rest.len()).take_while(fits).last().unwrap_or(1);
            let (batch, behind) = rest.split_at(count);
            let ids: Vec<&[u32]> = batch.iter().map(|(_, ids)| &**ids).collect();
            let pooled = if self.device.is_cpu() {
                let states = self.listed(&ids)?.into_iter();
                states.map(|states| self.pool(&states)).collect()
            } else {
                self.pool_at_once(&ids)?
            };
            for ((place, _), vector) in batch.iter().zip(pooled) {
                vectors[*place] = vector;
            }
            rest = behind;
        }
        Ok(vectors)
    }

    /// The same with another bound above which a state says nothing.
    #[cfg(test)]
    pub(super) fn with_longest(mut self, longest: f32) -> Self {
        self.longest = longest;
        self
    }

    /// Each text's vector as [`TextEncoder::pool`] makes it, and how many states were longer than the bound.
    #[cfg(test)]
    pub(super) fn pool_each(
        &self,
        texts: &[&[u32]],
    ) -> Result<(Vec<Vec<f32>>, usize), LanguageError> {
        let states = self.listed(texts)?;
        let longer = states.iter().flatten();
        let longer = longer.filter(|state| length(state) > self.longest).count();
        Ok((states.iter().map(|of| self.pool(of)).collect(), longer))
    }

    /// The ids that are run; none for a text without tokens.
    fn ids(&self, text: &str) -> Result<Vec<u32>, LanguageError> {
        let mut ids = self.tokenizer.ids(text)?;
        if ids.is_empty() {
            return Ok(ids);
        }
        match &self.model {
            Model::Decoder(decoder) => {
                ids.truncate(TEXT_TOKENS_MAX.min(decoder.positions_max() - 1));
                ids.insert(0, self.first_token);
            }
            Model::Encoder(encoder) => {
                ids = self.tokenizer.framed_ids(text)?;
                if let Some(last) = ids.pop() {
                    let before = encoder.config().positions_max - 1;
                    ids.truncate((TEXT_TOKENS_MAX + 1).min(before));
                    ids.push(last);
                }
            }
        }
        Ok(ids)
    }

    /// The states of texts after the last layer that is run, (texts, positions, width), f32, padded behind.
    fn states(&self, texts: &[&[u32]]) -> Result<Tensor, LanguageError> {
        let lengths: Vec<usize> = texts.iter().map(|ids| ids.len()).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let tokens: usize = lengths.iter().sum();
        self.tokens.fetch_add(tokens as u64, Ordering::Relaxed);
        let padded: Vec<Vec<u32>> = texts
            .iter()
            .map(|ids| {
                let mut ids = ids.to_vec();
                ids.resize(longest, 0);
                ids
            })
            .collect();
        let kernels = Kernels::Fused;
        let states = match &self.model {
            Model::Decoder(decoder) => {
                let states = decoder.embed(&padded)?;
                decoder.run(&states, 0..self.cut, kernels)?
            }
            Model::Encoder(encoder) => {
                let states = encoder.embed(&padded, kernels)?;
                encoder.run(&states, &lengths, 0..self.cut, kernels)?
            }
        };
        states
            .to_dtype(DType::F32)
            .map_err(computing("reading states"))
    }

    /// The same, position by position.
    fn listed(&self, texts: &[&[u32]]) -> Result<Vec<Vec<Vec<f32>>>, LanguageError> {
        let states = self.states(texts)?;
        let of = |(row, ids): (usize, &&[u32])| states.i((row, ..ids.len()))?.to_vec2();
        let states: candle_core::Result<_> = texts.iter().enumerate().map(of).collect();
        states.map_err(computing("reading states"))
    }

    /// What [`TextEncoder::pool`] makes of each text's states, where those are: a vector a text comes back, and not its states.
    pub(super) fn pool_at_once(&self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, LanguageError> {
        let states = self.states(texts)?;
        let pool = || {
            let (count, positions, _) = states.dims3()?;
            let from = usize::from(matches!(self.model, Model::Decoder(_)));
            let of_text = |ids: &&[u32]| {
                let length = ids.len();
                (0..positions).map(move |at| f32::from(u8::from((from..length).contains(&at))))
            };
            let of_text: Vec<f32> = texts.iter().flat_map(of_text).collect();
            let of_text = Tensor::from_vec(of_text, (count, positions), &self.device)?;
            let told = if from == 1 {
                let lengths = states.sqr()?.sum(D::Minus1)?.sqrt()?;
                let usual = lengths.le(f64::from(self.longest))?.to_dtype(DType::F32)?;
                let told = (&of_text * usual)?;
                // Nothing but sinks: that is what there is to say.
                let any = told
                    .sum_keepdim(1)?
                    .gt(0.0)?
                    .broadcast_as(of_text.shape())?;
                any.where_cond(&told, &of_text)?
            } else {
                of_text
            };
            let counts = told.sum_keepdim(1)?;
            let sums = told.unsqueeze(1)?.matmul(&states)?.squeeze(1)?;
            sums.broadcast_div(&counts)?.to_vec2()
        };
        pool().map_err(computing("pooling states"))
    }

    /// The mean of a text's states, less those that say nothing of it.
    fn pool(&self, states: &[Vec<f32>]) -> Vec<f32> {
        let told: Vec<&Vec<f32>> = match &self.model {
            Model::Decoder(_) => {
                let text = &states[1..];
                let told = text.iter().filter(|state| length(state) <= self.longest);
                let told: Vec<_> = told.collect();
                // Nothing but sinks: that is what there is to say.
                if told.is_empty() {
                    text.iter().collect()
                } else {
                    told
                }
            }
            Model::Encoder(_) => states.iter().collect(),
        };
        mean(&told)
    }
}

fn length(state: &[f32]) -> f32 {
    state.iter().map(|one| one * one).sum::<f32>().sqrt()
}

fn mean(positions: &[&Vec<f32>]) -> Vec<f32> {
    let mut sum = vec![0.0; positions.first().map_or(0, |state| state.len())];
    for state in positions {
        for (sum, value) in sum.iter_mut().zip(*state) {
            *sum += value;
        }
    }
    let count = positions.len() as f32;
    sum.iter().map(|sum| sum / count).collect()
}

/// The hash of a canonical text: half of its content hash.
pub fn text_hash(canonical: &str) -> [u8; 16] {
    let hash: [u8; 32] = Sha256::digest(canonical).into();
    *hash.first_chunk().expect("invariant: a hash is longer")
}

/// The text that counts: runs of white space and control characters are one space, none at its ends, and what is far behind any cut is left out.
pub fn canonical(text: &str) -> String {
    let words = text.split(|one: char| one.is_whitespace() || one.is_control());
    let mut canonical = String::with_capacity(text.len().min(TEXT_BYTES_MAX));
    for word in words.filter(|word| !word.is_empty()) {
        if !canonical.is_empty() {
            canonical.push(' ');
        }
        canonical.push_str(word);
        if canonical.len() >= TEXT_BYTES_MAX {
            canonical.truncate(canonical.floor_char_boundary(TEXT_BYTES_MAX));
            break;
        }
    }
    // Where the cut is at a space, there is one at the end.
    canonical.truncate(canonical.trim_end().len());
    canonical
}
