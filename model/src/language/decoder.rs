//! A decoder's blocks, run over any range of layers.
//!
//! Before it, [`super::Weights`]; after it, hidden states of every position, which a caller pools, or feeds to the layers above, or turns into
//! token logits. Attention is causal, so padding behind a text changes nothing before it, and needs no mask.

use std::ops::Range;

use candle_core::{DType, Device, Tensor, Var};

use super::block::{Block, Turns, normed};
use super::config::DecoderConfig;
use super::error::{LanguageError, computing};
use super::part::{Kernels, Linear, Origin, Purpose, Source, look_up};
use super::weights::Weights;

mod pass;

pub use pass::DecoderPass;

/// Positions of one pass, at most, whatever a model says that it was trained for: a table of them is held.
const POSITIONS_MAX: usize = 8_192;

/// A decoder, or some layers of one.
#[derive(Debug)]
pub struct Decoder {
    config: DecoderConfig,
    /// (vocabulary, width)
    embedding: Tensor,
    first: usize,
    blocks: Vec<Block>,
    /// The last norm and the head: where the last layer is there.
    top: Option<Top>,
    turns: Turns,
}

#[derive(Debug)]
struct Top {
    norm: Tensor,
    /// (vocabulary, width); `None`: the embedding.
    head: Option<Tensor>,
}

impl Decoder {
    /// Loads the embedding and a range of layers; with the last layer the norm and the head, too.
    pub fn load(
        weights: &Weights,
        layers: Range<usize>,
        device: &Device,
    ) -> Result<Self, LanguageError> {
        Self::load_as(weights, layers, device, DType::F32)
    }

    /// The same in other numbers: [`DType::BF16`] is half of the memory, and on a GPU several times as fast, and vectors agree to two digits.
    pub fn load_as(
        weights: &Weights,
        layers: Range<usize>,
        device: &Device,
        numbers: DType,
    ) -> Result<Self, LanguageError> {
        let source = Source::new(Origin::Model(weights), device, Purpose::Use);
        let mut source = source.in_numbers(numbers);
        Self::from_source(&mut source, weights.decoder()?, layers)
    }

    /// The same with every tensor as a variable, f32, by its name. Whoever trains must run with [`Kernels::Differentiable`], or by [`Decoder::run_kept`].
    pub fn load_trainable(
        weights: &Weights,
        layers: Range<usize>,
        device: &Device,
    ) -> Result<(Self, Vec<(String, Var)>), LanguageError> {
        let purpose = Purpose::Train(Vec::new());
        let mut source = Source::new(Origin::Model(weights), device, purpose);
        let decoder = Self::from_source(&mut source, weights.decoder()?, layers)?;
        Ok((decoder, source.done().variables()))
    }

    pub(super) fn from_source(
        source: &mut Source<'_>,
        config: &DecoderConfig,
        layers: Range<usize>,
    ) -> Result<Self, LanguageError> {
        if layers.start > layers.end || layers.end > config.layers {
            return Err(LanguageError::Input(format!(
                "layers {layers:?} of a model of {}",
                config.layers
            )));
        }
        let tokens = [config.vocabulary, config.width];
        let embedding = source.tensor("model.embed_tokens.weight", &tokens)?;
        let blocks = layers
            .clone()
            .map(|layer| Block::load(source, config, &format!("model.layers.{layer}")))
            .collect::<Result<Vec<_>, _>>()?;
        let top = (layers.end == config.layers)
            .then(|| {
                let head = (!config.tied)
                    .then(|| source.tensor("lm_head.weight", &tokens))
                    .transpose()?;
                let norm = source.tensor("model.norm.weight", &[config.width])?;
                Ok::<_, LanguageError>(Top { norm, head })
            })
            .transpose()?;
        let positions = config.positions_max.min(POSITIONS_MAX);
        let turns = Turns::new(config, positions, source.device())?;
        Ok(Self {
            first: layers.start,
            config: config.clone(),
            embedding,
            blocks,
            top,
            turns,
        })
    }

    /// Positions that it can be run over at once: those that it was trained for, as far as anybody needs them.
    pub fn positions_max(&self) -> usize {
        self.config.positions_max.min(POSITIONS_MAX)
    }

    /// The model's shape.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Token ids, (batch, positions), to hidden states before the first layer, (batch, positions, width).
    pub fn embed(&self, ids: &[Vec<u32>]) -> Result<Tensor, LanguageError> {
        look_up(&self.embedding, ids)
    }

    /// Runs layers over hidden states, (batch, positions, width): layers by their number in the whole model, positions from 0.
    pub fn run(
        &self,
        states: &Tensor,
        layers: Range<usize>,
        kernels: Kernels,
    ) -> Result<Tensor, LanguageError> {
        let positions = self.fits(states, &layers)?;
        let run = || {
            let config = &self.config;
            let positions = self.turns.positions(positions, states, config, kernels)?;
            let mut states = states.clone();
            for block in &self.blocks[layers.start - self.first..layers.end - self.first] {
                states = block.forward(&states, &positions, config, kernels)?;
            }
            Ok(states)
        };
        run().map_err(computing("running layers"))
    }

    /// How many positions states have, if they and the layers are what is held.
    fn fits(&self, states: &Tensor, layers: &Range<usize>) -> Result<usize, LanguageError> {
        let held = self.first..self.first + self.blocks.len();
        if layers.start < held.start || layers.end > held.end || layers.start > layers.end {
            return Err(LanguageError::Input(format!(
                "layers {layers:?} where {held:?} are loaded"
            )));
        }
        let positions = states.dim(1).map_err(computing("running layers"))?;
        if positions > self.positions_max() {
            return Err(LanguageError::Input(format!(
                "{positions} positions of a model for {}",
                self.positions_max()
            )));
        }
        Ok(positions)
    }

    /// Hidden states after the last layer to logits of the next token, (batch, positions, vocabulary).
    pub fn logits(&self, states: &Tensor, kernels: Kernels) -> Result<Tensor, LanguageError> {
        let Some(top) = &self.top else {
            return Err(LanguageError::Input(
                "logits of a model whose last layer is not loaded".to_owned(),
            ));
        };
        let head = Linear {
            weight: top.head.as_ref().unwrap_or(&self.embedding).clone(),
            bias: None,
        };
        normed(states, &top.norm, &self.config, kernels)
            .and_then(|states| head.forward(&states))
            .map_err(computing("computing logits"))
    }
}
