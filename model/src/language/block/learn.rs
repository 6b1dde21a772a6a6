//! A block that learns on a CPU: what it computes on the way forward is kept, and the way back is written out, with no graph between.
//!
//! It gives what [`super::Block::forward`] gives with operations that have gradients, at less than half of the passes over memory.

use candle_core::{Result, Tensor};

use super::Block;
use crate::language::config::DecoderConfig;
use crate::language::kernel::{self, Turn};
use crate::language::part::Linear;

/// What a way forward leaves for the way back.
#[derive(Debug)]
pub(crate) struct Kept {
    /// (batch, positions, width), as it came.
    x: Tensor,
    attended: Tensor,
    /// (batch · key heads, queries that share a head · positions, head width)
    query: Tensor,
    /// (batch · key heads, positions, head width)
    key: Tensor,
    value: Tensor,
    weights: Tensor,
    /// (batch, positions, heads · head width)
    mixed: Tensor,
    between: Tensor,
    normed: Tensor,
    gate: Tensor,
    up: Tensor,
    gated: Tensor,
}

/// Takes the gradient of a tensor in, by what is behind the block's prefix in its name.
pub(crate) type Gather<'a> = dyn FnMut(&str, Tensor) -> Result<()> + 'a;

impl Block {
    /// States of all positions, (batch, positions, width), through the block.
    pub(crate) fn forward_kept(
        &self,
        x: &Tensor,
        turn: &Turn,
        config: &DecoderConfig,
    ) -> Result<(Tensor, Kept)> {
        let epsilon = config.norm_epsilon as f32;
        let x = &x.detach().contiguous()?;
        let attended = kernel::norm(x, &self.attention_norm, epsilon)?;
        let (query, key, value) = self.heads(&attended, turn, config)?;
        let weights = kernel::attention(&query.matmul(&key.t()?)?, scale(config))?;
        let positions = x.dim(1)?;
        let mixed = joined(&weights.matmul(&value)?, positions, config, None)?;
        let between = (x + forward(&self.output, &mixed)?)?;
        let normed = kernel::norm(&between, &self.inner_norm, epsilon)?;
        let (gate, up) = (forward(&self.gate, &normed)?, forward(&self.up, &normed)?);
        let gated = kernel::gate(&gate, &up)?;
        let out = (&between + forward(&self.down, &gated)?)?;
        let kept = Kept {
            x: x.clone(),
            attended,
            query,
            key,
            value,
            weights,
            mixed,
            between,
            normed,
            gate,
            up,
            gated,
        };
        Ok((out, kept))
    }

    /// Queries, keys and values of normed states, heads apart and turned; the queries that share a head of keys lie one under the other.
    pub(super) fn heads(
        &self,
        x: &Tensor,
        turn: &Turn,
        config: &DecoderConfig,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let (batch, positions, _) = x.dims3()?;
        let (heads, kv, wide) = (config.heads, config.kv_heads, config.head_width);
        let query = kernel::split(&forward(&self.query, x)?, heads, Some(turn))?;
        let key = kernel::split(&forward(&self.key, x)?, kv, Some(turn))?;
        let value = kernel::split(&forward(&self.value, x)?, kv, None)?;
        Ok((
            query.reshape((batch * kv, heads / kv * positions, wide))?,
            key.reshape((batch * kv, positions, wide))?,
            value.reshape((batch * kv, positions, wide))?,
        ))
    }

    /// From the gradient of what came out to that of what went in; those of the block's own tensors go to `gather`.
    pub(crate) fn backward(
        &self,
        kept: &Kept,
        turn: &Turn,
        config: &DecoderConfig,
        gradient: &Tensor,
        gather: &mut Gather<'_>,
    ) -> Result<Tensor> {
        let epsilon = config.norm_epsilon as f32;
        let gated = backward(("mlp.down_proj", &self.down), &kept.gated, gradient, gather)?;
        let (gate, up) = kernel::gate_back(&kept.gate, &kept.up, &gated)?;
        let normed = (backward(("mlp.gate_proj", &self.gate), &kept.normed, &gate, gather)?
            + backward(("mlp.up_proj", &self.up), &kept.normed, &up, gather)?)?;
        let (between, weight) =
            kernel::norm_back(&kept.between, &self.inner_norm, epsilon, &normed)?;
        gather("post_attention_layernorm.weight", weight)?;
        let between = (gradient + between)?;

        let mixed = backward(
            ("self_attn.o_proj", &self.output),
            &kept.mixed,
            &between,
            gather,
        )?;
        let mixed = kernel::split(&mixed, config.heads, None)?.reshape(kept.query.shape())?;
        let weights = mixed.matmul(&kept.value.t()?)?;
        let value = kept.weights.t()?.matmul(&mixed)?;
        let scores = kernel::attention_back(&kept.weights, scale(config), &weights)?;
        let positions = kept.x.dim(1)?;
        let query = joined(&scores.matmul(&kept.key)?, positions, config, Some(turn))?;
        let key = scores.t()?.matmul(&kept.query)?;
        let key = joined(&key, positions, config, Some(turn))?;
        let value = joined(&value, positions, config, None)?;
        let attended = &kept.attended;
        let attended = ((backward(("self_attn.q_proj", &self.query), attended, &query, gather)?
            + backward(("self_attn.k_proj", &self.key), attended, &key, gather)?)?
            + backward(("self_attn.v_proj", &self.value), attended, &value, gather)?)?;
        let (x, weight) = kernel::norm_back(&kept.x, &self.attention_norm, epsilon, &attended)?;
        gather("input_layernorm.weight", weight)?;
        between + x
    }
}

/// By what scores are multiplied.
pub(super) fn scale(config: &DecoderConfig) -> f32 {
    1.0 / (config.head_width as f32).sqrt()
}

/// (batch · key heads, heads that share one · positions, head width) to (batch, positions, heads · head width).
pub(super) fn joined(
    x: &Tensor,
    positions: usize,
    config: &DecoderConfig,
    turn: Option<&Turn>,
) -> Result<Tensor> {
    let (rows, under, wide) = x.dims3()?;
    let (batch, heads) = (rows / config.kv_heads, config.kv_heads * under / positions);
    kernel::join(&x.reshape((batch, heads, positions, wide))?, turn)
}

/// Without a graph, though the weight is a variable.
pub(super) fn forward(linear: &Linear, x: &Tensor) -> Result<Tensor> {
    let free = Linear {
        weight: linear.weight.detach(),
        bias: linear.bias.as_ref().map(Tensor::detach),
    };
    free.forward(x)
}

/// From the gradient of what came out, (batch, positions, out), to that of what went in, `x`; the weight's goes to `gather`.
fn backward(
    (name, linear): (&str, &Linear),
    x: &Tensor,
    gradient: &Tensor,
    gather: &mut Gather<'_>,
) -> Result<Tensor> {
    let (batch, positions, inputs) = x.dims3()?;
    let rows = batch * positions;
    let gradient = gradient.reshape((rows, ()))?;
    let weight = gradient.t()?.matmul(&x.reshape((rows, inputs))?)?;
    gather(&format!("{name}.weight"), weight)?;
    if linear.bias.is_some() {
        gather(&format!("{name}.bias"), kernel::over_rows(&gradient)?)?;
    }
    let through = gradient.matmul(&linear.weight.detach())?;
    through.reshape((batch, positions, inputs))
}
