//! A decoder's blocks, run over any range of layers.
//!
//! Before it, [`super::Weights`]; after it, hidden states of every position, which a caller pools, or feeds to the layers above, or turns into
//! token logits. Attention is causal, so padding behind a text changes nothing before it, and needs no mask.

use std::ops::Range;

use candle_core::{D, DType, Device, Tensor, Var};
use candle_nn::ops::{rms_norm, rms_norm_slow, softmax, softmax_last_dim};
use candle_nn::rotary_emb::{rope, rope_slow};

use super::config::{DecoderConfig, Family};
use super::error::{LanguageError, computing};
use super::part::{Kernels, Linear, Purpose, Source, look_up};
use super::weights::Weights;

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
    cosines: Tensor,
    sines: Tensor,
}

#[derive(Debug)]
struct Top {
    norm: Tensor,
    /// (vocabulary, width); `None`: the embedding.
    head: Option<Tensor>,
}

#[derive(Debug)]
struct Block {
    attention_norm: Tensor,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    inner_norm: Tensor,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Decoder {
    /// Loads the embedding and a range of layers; with the last layer the norm and the head, too.
    pub fn load(
        weights: &Weights,
        layers: Range<usize>,
        device: &Device,
    ) -> Result<Self, LanguageError> {
        let mut source = Source::new(weights, device, Purpose::Use);
        Self::from_source(&mut source, layers)
    }

    /// The same with every tensor as a variable, by its name. Whoever trains must run with [`Kernels::Differentiable`].
    pub fn load_trainable(
        weights: &Weights,
        layers: Range<usize>,
        device: &Device,
    ) -> Result<(Self, Vec<(String, Var)>), LanguageError> {
        let mut source = Source::new(weights, device, Purpose::Train(Vec::new()));
        let decoder = Self::from_source(&mut source, layers)?;
        let variables = match source.purpose {
            Purpose::Train(variables) => variables,
            Purpose::Use | Purpose::List(_) => Vec::new(),
        };
        Ok((decoder, variables))
    }

    pub(super) fn from_source(
        source: &mut Source<'_>,
        layers: Range<usize>,
    ) -> Result<Self, LanguageError> {
        let config = source.weights.decoder()?.clone();
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
            .map(|layer| Block::load(source, layer))
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
        let (cosines, sines) =
            rotations(&config, source.device).map_err(computing("making rotary positions"))?;
        Ok(Self {
            first: layers.start,
            config,
            embedding,
            blocks,
            top,
            cosines,
            sines,
        })
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
        let held = self.first..self.first + self.blocks.len();
        if layers.start < held.start || layers.end > held.end || layers.start > layers.end {
            return Err(LanguageError::Input(format!(
                "layers {layers:?} where {held:?} are loaded"
            )));
        }
        let positions = states.dim(1).map_err(computing("running layers"))?;
        if positions > self.config.positions_max {
            return Err(LanguageError::Input(format!(
                "{positions} positions of a model for {}",
                self.config.positions_max
            )));
        }
        let run = || {
            let turn = (
                self.cosines.narrow(0, 0, positions)?,
                self.sines.narrow(0, 0, positions)?,
            );
            let mask = causal_mask(positions, states.device())?;
            let mut states = states.clone();
            for block in &self.blocks[layers.start - self.first..layers.end - self.first] {
                states = block.forward(&states, &turn, &mask, &self.config, kernels)?;
            }
            Ok(states)
        };
        run().map_err(computing("running layers"))
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

impl Block {
    fn load(source: &mut Source<'_>, layer: usize) -> Result<Self, LanguageError> {
        let config = source.weights.decoder()?.clone();
        let (width, inner) = (config.width, config.inner);
        let queries = config.heads * config.head_width;
        let keys = config.kv_heads * config.head_width;
        let biased = config.family == Family::Qwen2;
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let mut linear = |part: &str, shape, biased| source.linear(&name(part), shape, biased);
        let query = linear("self_attn.q_proj", (queries, width), biased)?;
        let key = linear("self_attn.k_proj", (keys, width), biased)?;
        let value = linear("self_attn.v_proj", (keys, width), biased)?;
        let output = linear("self_attn.o_proj", (width, queries), false)?;
        let gate = linear("mlp.gate_proj", (inner, width), false)?;
        let up = linear("mlp.up_proj", (inner, width), false)?;
        let down = linear("mlp.down_proj", (width, inner), false)?;
        let mut norm = |part: &str| source.tensor(&name(part), &[width]);
        Ok(Self {
            attention_norm: norm("input_layernorm.weight")?,
            inner_norm: norm("post_attention_layernorm.weight")?,
            query,
            key,
            value,
            output,
            gate,
            up,
            down,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        turn: &(Tensor, Tensor),
        mask: &Tensor,
        config: &DecoderConfig,
        kernels: Kernels,
    ) -> candle_core::Result<Tensor> {
        let attended = normed(x, &self.attention_norm, config, kernels)?;
        let x = (x + self.attend(&attended, turn, mask, config, kernels)?)?;
        let y = normed(&x, &self.inner_norm, config, kernels)?;
        let gated = (self.gate.forward(&y)?.silu()? * self.up.forward(&y)?)?;
        x + self.down.forward(&gated)?
    }

    fn attend(
        &self,
        x: &Tensor,
        (cosines, sines): &(Tensor, Tensor),
        mask: &Tensor,
        config: &DecoderConfig,
        kernels: Kernels,
    ) -> candle_core::Result<Tensor> {
        let (batch, positions, _) = x.dims3()?;
        let (heads, kv, wide) = (config.heads, config.kv_heads, config.head_width);
        let split = |x: Tensor, heads| {
            x.reshape((batch, positions, heads, wide))?
                .transpose(1, 2)?
                .contiguous()
        };
        let turned = |x: &Tensor| match kernels {
            Kernels::Fused => rope(x, cosines, sines),
            Kernels::Differentiable => rope_slow(x, cosines, sines),
        };
        let query = turned(&split(self.query.forward(x)?, heads)?)?;
        let key = turned(&split(self.key.forward(x)?, kv)?)?;
        let value = split(self.value.forward(x)?, kv)?;
        // The queries that share a head of keys lie one under the other: keys are not repeated.
        let group = heads / kv;
        let query = query.reshape((batch * kv, group * positions, wide))?;
        let key = key.reshape((batch * kv, positions, wide))?;
        let value = value.reshape((batch * kv, positions, wide))?;
        let scores = (query.matmul(&key.t()?)? * (1.0 / (wide as f64).sqrt()))?;
        let scores = scores
            .reshape((batch * kv, group, positions, positions))?
            .broadcast_add(mask)?;
        let weights = match kernels {
            Kernels::Fused => softmax_last_dim(&scores)?,
            Kernels::Differentiable => softmax(&scores, D::Minus1)?,
        };
        let weights = weights.reshape((batch * kv, group * positions, positions))?;
        let mixed = weights
            .matmul(&value)?
            .reshape((batch, heads, positions, wide))?
            .transpose(1, 2)?
            .reshape((batch, positions, heads * wide))?;
        self.output.forward(&mixed)
    }
}

fn normed(
    x: &Tensor,
    weight: &Tensor,
    config: &DecoderConfig,
    kernels: Kernels,
) -> candle_core::Result<Tensor> {
    let epsilon = config.norm_epsilon as f32;
    match kernels {
        Kernels::Fused => rms_norm(&x.contiguous()?, weight, epsilon),
        Kernels::Differentiable => rms_norm_slow(x, weight, epsilon),
    }
}

/// Cosines and sines of every position, (positions, half of a head's width).
fn rotations(config: &DecoderConfig, device: &Device) -> candle_core::Result<(Tensor, Tensor)> {
    let half = config.head_width / 2;
    let frequencies: Vec<f64> = (0..half)
        .map(|index| config.rope_base.powf(-(index as f64) / half as f64))
        .collect();
    let angles: Vec<f64> = (0..config.positions_max)
        .flat_map(|position| frequencies.iter().map(move |one| position as f64 * one))
        .collect();
    let angles = Tensor::from_vec(angles, (config.positions_max, half), device)?;
    Ok((
        angles.cos()?.to_dtype(DType::F32)?,
        angles.sin()?.to_dtype(DType::F32)?,
    ))
}

/// 0 where a position may look, minus infinity where that would be ahead, (positions, positions).
fn causal_mask(positions: usize, device: &Device) -> candle_core::Result<Tensor> {
    let mask: Vec<f32> = (0..positions)
        .flat_map(|from| {
            (0..positions).map(move |to| if to > from { f32::NEG_INFINITY } else { 0.0 })
        })
        .collect();
    Tensor::from_vec(mask, (positions, positions), device)
}
