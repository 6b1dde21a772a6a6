//! The block that decoders and deep layers are made of: root-mean-square norms, grouped queries with rotary positions, a gated feed-forward part.

use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops::{rms_norm_slow, softmax};
use candle_nn::rotary_emb::rope_slow;

use super::config::{DecoderConfig, Family};
use super::error::{LanguageError, computing};
use super::kernel::{self, Turn};
use super::part::{Kernels, Linear, Source};

pub(crate) mod learn;

use learn::{Company, Through};

/// A block's weights.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) attention_norm: Tensor,
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) output: Linear,
    pub(crate) inner_norm: Tensor,
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
}

/// Cosines and sines by which queries and keys are turned, (positions, half of a head's width) each.
#[derive(Debug)]
pub(crate) struct Turns {
    pub(crate) cosines: Tensor,
    pub(crate) sines: Tensor,
}

/// What positions, from 0 on, are to each other in a pass.
#[derive(Clone, Debug)]
pub(crate) struct Positions {
    /// How keys are turned.
    pub(crate) turn: Turn,
    /// How queries are turned: the same, but that the scale of scores may be in it.
    pub(crate) queries: Turn,
    /// By what scores are multiplied then.
    pub(crate) scale: f32,
    /// What is not seen, for whoever needs a mask: (positions, positions), or as large as the scores.
    pub(crate) ahead: Option<Tensor>,
}

impl Turns {
    /// Those of the positions from 0 on.
    pub(crate) fn new(
        config: &DecoderConfig,
        positions: usize,
        device: &Device,
    ) -> Result<Self, LanguageError> {
        let half = config.head_width / 2;
        let frequencies: Vec<f64> = (0..half)
            .map(|index| config.rope_base.powf(-(index as f64) / half as f64))
            .collect();
        let angles: Vec<f64> = (0..positions)
            .flat_map(|position| frequencies.iter().map(move |one| position as f64 * one))
            .collect();
        let make = || {
            let angles = Tensor::from_vec(angles, (positions, half), device)?;
            Ok(Self {
                cosines: angles.cos()?.to_dtype(DType::F32)?,
                sines: angles.sin()?.to_dtype(DType::F32)?,
            })
        };
        make().map_err(computing("making rotary positions"))
    }

    /// The first `count` positions of a pass of states, (batch, positions, width).
    pub(crate) fn positions(
        &self,
        count: usize,
        states: &Tensor,
        config: &DecoderConfig,
        kernels: Kernels,
    ) -> candle_core::Result<Positions> {
        let numbers = states.dtype();
        let first = |of: &Tensor| of.narrow(0, 0, count)?.to_dtype(numbers);
        let turn = (first(&self.cosines)?, first(&self.sines)?);
        let scale = 1.0 / (config.head_width as f32).sqrt();
        if kernels == Kernels::Differentiable || kernel::ours(states.device(), numbers) {
            let ahead = (kernels == Kernels::Differentiable)
                .then(|| causal_mask(count, states))
                .transpose()?;
            return Ok(Positions {
                queries: turn.clone(),
                turn,
                scale,
                ahead,
            });
        }
        // Once a pass, and not once a layer: the scale, and a mask for every row of scores.
        let scaled = |of: &Tensor| of * f64::from(scale);
        let (rows, kv) = (states.dim(0)? * config.kv_heads, config.kv_heads);
        let under = config.heads / kv * count;
        let ahead = kernel::repeated(&causal_mask(count, states)?, rows * (under / count))?;
        Ok(Positions {
            queries: (scaled(&turn.0)?, scaled(&turn.1)?),
            turn,
            scale: 1.0,
            ahead: Some(ahead.reshape((rows, under, count))?),
        })
    }
}

impl Block {
    /// Loads a block whose tensors' names begin with `prefix`.
    pub(crate) fn load(
        source: &mut Source<'_>,
        config: &DecoderConfig,
        prefix: &str,
    ) -> Result<Self, LanguageError> {
        let (width, inner) = (config.width, config.inner);
        let queries = config.heads * config.head_width;
        let keys = config.kv_heads * config.head_width;
        let biased = config.family == Family::Qwen2;
        let name = |part: &str| format!("{prefix}.{part}");
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

    /// States of all positions, (batch, positions, width), through the block.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        positions: &Positions,
        config: &DecoderConfig,
        kernels: Kernels,
    ) -> candle_core::Result<Tensor> {
        if kernels == Kernels::Fused {
            let through = Through {
                config,
                positions,
                company: Company::Runs,
            };
            return Ok(self.forward_kept(x, through)?.0);
        }
        let attended = normed(x, &self.attention_norm, config, kernels)?;
        let x = (x + self.attend(&attended, positions, config)?)?;
        let y = normed(&x, &self.inner_norm, config, kernels)?;
        let gated = (self.gate.forward(&y)?.silu()? * self.up.forward(&y)?)?;
        x + self.down.forward(&gated)?
    }

    fn attend(
        &self,
        x: &Tensor,
        places: &Positions,
        config: &DecoderConfig,
    ) -> candle_core::Result<Tensor> {
        let (batch, positions, _) = x.dims3()?;
        let (heads, kv, wide) = (config.heads, config.kv_heads, config.head_width);
        let split = |x: Tensor, heads| {
            x.reshape((batch, positions, heads, wide))?
                .transpose(1, 2)?
                .contiguous()
        };
        let (cosines, sines) = &places.turn;
        let turned = |x: &Tensor| rope_slow(x, cosines, sines);
        let query = turned(&split(self.query.forward(x)?, heads)?)?;
        let key = turned(&split(self.key.forward(x)?, kv)?)?;
        let value = split(self.value.forward(x)?, kv)?;
        // The queries that share a head of keys lie one under the other: keys are not repeated.
        let group = heads / kv;
        let query = query.reshape((batch * kv, group * positions, wide))?;
        let key = key.reshape((batch * kv, positions, wide))?;
        let value = value.reshape((batch * kv, positions, wide))?;
        let scores = (query.matmul(&key.t()?)? * f64::from(places.scale))?;
        let scores = scores.reshape((batch * kv, group, positions, positions))?;
        let scores = match &places.ahead {
            Some(ahead) => scores.broadcast_add(ahead)?,
            None => scores,
        };
        let weights =
            softmax(&scores, D::Minus1)?.reshape((batch * kv, group * positions, positions))?;
        let mixed = weights
            .matmul(&value)?
            .reshape((batch, heads, positions, wide))?
            .transpose(1, 2)?
            .reshape((batch, positions, heads * wide))?;
        self.output.forward(&mixed)
    }
}

/// Each state over the root of its mean square, times the weight.
pub(crate) fn normed(
    x: &Tensor,
    weight: &Tensor,
    config: &DecoderConfig,
    kernels: Kernels,
) -> candle_core::Result<Tensor> {
    let epsilon = config.norm_epsilon as f32;
    match kernels {
        Kernels::Fused => kernel::norm(&x.contiguous()?, &weight.detach(), epsilon),
        Kernels::Differentiable => rms_norm_slow(x, &weight.to_dtype(x.dtype())?, epsilon),
    }
}

/// What is added to the score of a position that is ahead: nothing is left of it. An infinite one would make products of the mask no number.
const AHEAD: f32 = -1e30;

/// 0 where a position may look, [`AHEAD`] where that would be ahead, (positions, positions).
pub(crate) fn causal_mask(positions: usize, like: &Tensor) -> candle_core::Result<Tensor> {
    let device = like.device();
    let shape = (positions, positions);
    let places = Tensor::arange(0, positions as u32, device)?;
    let is_ahead = places.unsqueeze(0)?.broadcast_gt(&places.unsqueeze(1)?)?;
    let all = |value: f32| {
        Tensor::new(value, device)?
            .to_dtype(like.dtype())?
            .broadcast_as(shape)
    };
    is_ahead.where_cond(&all(AHEAD)?, &all(0.0)?)
}
