//! The block that decoders and deep layers are made of: root-mean-square norms, grouped queries with rotary positions, a gated feed-forward part.

use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops::{rms_norm, rms_norm_slow, softmax, softmax_last_dim};
use candle_nn::rotary_emb::{rope, rope_slow};

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

    /// Those of the first positions.
    pub(crate) fn first(&self, positions: usize) -> candle_core::Result<Turn> {
        Ok((
            self.cosines.narrow(0, 0, positions)?,
            self.sines.narrow(0, 0, positions)?,
        ))
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
        turn: &Turn,
        mask: &Tensor,
        config: &DecoderConfig,
        kernels: Kernels,
    ) -> candle_core::Result<Tensor> {
        if kernels.ours(x.device()) {
            let through = Through {
                config,
                turn,
                company: Company::Runs,
            };
            return Ok(self.forward_kept(x, through)?.0);
        }
        let attended = normed(x, &self.attention_norm, config, kernels)?;
        let x = (x + self.attend(&attended, turn, mask, config, kernels)?)?;
        let y = normed(&x, &self.inner_norm, config, kernels)?;
        let gated = (self.gate.forward(&y)?.silu()? * self.up.forward(&y)?)?;
        x + self.down.forward(&gated)?
    }

    fn attend(
        &self,
        x: &Tensor,
        (cosines, sines): &Turn,
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

/// Each state over the root of its mean square, times the weight.
pub(crate) fn normed(
    x: &Tensor,
    weight: &Tensor,
    config: &DecoderConfig,
    kernels: Kernels,
) -> candle_core::Result<Tensor> {
    let epsilon = config.norm_epsilon as f32;
    match kernels {
        Kernels::Fused if kernels.ours(x.device()) => {
            kernel::norm(&x.contiguous()?, &weight.detach(), epsilon)
        }
        Kernels::Fused => rms_norm(&x.contiguous()?, weight, epsilon),
        Kernels::Differentiable => rms_norm_slow(x, weight, epsilon),
    }
}

/// 0 where a position may look, minus infinity where that would be ahead, (positions, positions).
pub(crate) fn causal_mask(positions: usize, device: &Device) -> candle_core::Result<Tensor> {
    let mask: Vec<f32> = (0..positions)
        .flat_map(|from| {
            (0..positions).map(move |to| if to > from { f32::NEG_INFINITY } else { 0.0 })
        })
        .collect();
    Tensor::from_vec(mask, (positions, positions), device)
}
