//! A block that learns: what it computes on the way forward is kept, and the way back is written out, with no graph between.
//!
//! All of it is in the numbers that the states are: of weights that are f32 and states in 16 bits a copy is made for each product (mixed precision).
//! It gives what [`super::Block::forward`] gives with operations that have gradients, at less than half of the passes over memory.

use candle_core::{Result, Tensor};

use super::{Block, Positions};
use crate::language::config::DecoderConfig;
use crate::language::kernel::alone::{self, Heads};
use crate::language::kernel::{self, Turn};
use crate::language::part::Linear;

/// What a way through a block goes by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Through<'a> {
    pub(crate) config: &'a DecoderConfig,
    pub(crate) positions: &'a Positions,
    /// Which rows of states see which.
    pub(crate) company: Company,
}

/// Which rows of states, (batch, positions, width), see which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Company {
    /// Each batch is a run: a position sees those before it.
    Runs,
    /// One batch, whose first position is that of all runs; each other is the one behind it in a run of its own.
    Alone,
}

/// What a way forward leaves for the way back.
#[derive(Debug)]
pub(crate) struct Kept {
    /// (batch, positions, width), as it came.
    x: Tensor,
    attended: Tensor,
    seen: Seen,
    /// (batch, positions, heads · head width)
    mixed: Tensor,
    between: Tensor,
    normed: Tensor,
    gate: Tensor,
    up: Tensor,
    gated: Tensor,
}

/// What attention leaves, as it lies in its company.
#[derive(Debug)]
struct Seen {
    /// Of runs (batch · key heads, queries that share a head · positions, head width); else (positions, heads · head width).
    query: Tensor,
    /// Of runs (batch · key heads, positions, head width); else (positions, key heads · head width).
    key: Tensor,
    value: Tensor,
    weights: Tensor,
}

/// Takes the gradient of a tensor in, by what is behind the block's prefix in its name.
pub(crate) type Gather<'a> = dyn FnMut(&str, Tensor) -> Result<()> + 'a;

impl Through<'_> {
    fn epsilon(&self) -> f32 {
        self.config.norm_epsilon as f32
    }

    fn heads(&self) -> Heads {
        Heads {
            heads: self.config.heads,
            kv: self.config.kv_heads,
            wide: self.config.head_width,
        }
    }

    /// (batch, positions, all) to (batch · key heads, heads that share one · positions, head width), turned where it is asked for.
    fn split(&self, x: &Tensor, heads: usize, turn: Option<&Turn>) -> Result<Tensor> {
        let (batch, positions, _) = x.dims3()?;
        let kv = self.config.kv_heads;
        let shape = (batch * kv, heads / kv * positions, self.config.head_width);
        kernel::split(x, heads, turn)?.reshape(shape)
    }

    /// The way back.
    fn join(&self, x: &Tensor, positions: usize, turn: Option<&Turn>) -> Result<Tensor> {
        let (rows, under, wide) = x.dims3()?;
        let kv = self.config.kv_heads;
        let shape = (rows / kv, kv * under / positions, positions, wide);
        kernel::join(&x.reshape(shape)?, turn)
    }
}

impl Block {
    /// States of all positions, (batch, positions, width), through the block.
    pub(crate) fn forward_kept(&self, x: &Tensor, through: Through<'_>) -> Result<(Tensor, Kept)> {
        let x = &x.detach().contiguous()?;
        let attended = kernel::norm(x, &self.attention_norm, through.epsilon())?;
        let (mixed, seen) = self.look(&attended, through)?;
        let between = (x + forward(&self.output, &mixed)?)?;
        let normed = kernel::norm(&between, &self.inner_norm, through.epsilon())?;
        let (gate, up) = (forward(&self.gate, &normed)?, forward(&self.up, &normed)?);
        let gated = kernel::gate(&gate, &up)?;
        let out = (&between + forward(&self.down, &gated)?)?;
        let kept = Kept {
            x: x.clone(),
            attended,
            seen,
            mixed,
            between,
            normed,
            gate,
            up,
            gated,
        };
        Ok((out, kept))
    }

    /// What positions see of each other, (batch, positions, heads · head width), from normed states.
    fn look(&self, x: &Tensor, through: Through<'_>) -> Result<(Tensor, Seen)> {
        let (query, key) = (forward(&self.query, x)?, forward(&self.key, x)?);
        let value = forward(&self.value, x)?;
        let (config, positions) = (through.config, through.positions);
        let turn = &positions.turn;
        if through.company == Company::Alone {
            let (query, key, value) = (query.squeeze(0)?, key.squeeze(0)?, value.squeeze(0)?);
            let heads = through.heads();
            let (mixed, weights) = alone::attention(&query, &key, &value, heads, turn)?;
            let seen = Seen {
                query,
                key,
                value,
                weights,
            };
            return Ok((mixed.unsqueeze(0)?, seen));
        }
        let query = through.split(&query, config.heads, Some(&positions.queries))?;
        let key = through.split(&key, config.kv_heads, Some(turn))?;
        let value = through.split(&value, config.kv_heads, None)?;
        let weights = kernel::attention(
            &query.matmul(&key.t()?)?,
            positions.scale,
            positions.ahead.as_ref(),
        )?;
        let mixed = through.join(&weights.matmul(&value)?, x.dim(1)?, None)?;
        let seen = Seen {
            query,
            key,
            value,
            weights,
        };
        Ok((mixed, seen))
    }

    /// From the gradient of what came out to that of what went in; those of the block's own tensors go to `gather`.
    pub(crate) fn backward(
        &self,
        kept: &Kept,
        through: Through<'_>,
        gradient: &Tensor,
        gather: &mut Gather<'_>,
    ) -> Result<Tensor> {
        let down = ("mlp.down_proj", &self.down);
        let gated = backward(down, &kept.gated, gradient, gather)?;
        let (gate, up) = kernel::gate_back(&kept.gate, &kept.up, &gated)?;
        let gate = backward(("mlp.gate_proj", &self.gate), &kept.normed, &gate, gather)?;
        let up = backward(("mlp.up_proj", &self.up), &kept.normed, &up, gather)?;
        let epsilon = through.epsilon();
        let (between, weight) =
            kernel::norm_back(&kept.between, &self.inner_norm, epsilon, &(gate + up)?)?;
        gather("post_attention_layernorm.weight", weight)?;
        let between = (gradient + between)?;

        let output = ("self_attn.o_proj", &self.output);
        let mixed = backward(output, &kept.mixed, &between, gather)?;
        let [query, key, value] = kept.seen.backward(&mixed, through)?;
        let attended = &kept.attended;
        let query = backward(("self_attn.q_proj", &self.query), attended, &query, gather)?;
        let key = backward(("self_attn.k_proj", &self.key), attended, &key, gather)?;
        let value = backward(("self_attn.v_proj", &self.value), attended, &value, gather)?;
        let attended = ((query + key)? + value)?;
        let (x, weight) = kernel::norm_back(&kept.x, &self.attention_norm, epsilon, &attended)?;
        gather("input_layernorm.weight", weight)?;
        between + x
    }
}

impl Seen {
    /// From the gradient of what was seen, (batch, positions, heads · head width), to those of queries, keys and values, (batch, positions, all) each.
    fn backward(&self, mixed: &Tensor, through: Through<'_>) -> Result<[Tensor; 3]> {
        let turn = &through.positions.turn;
        if through.company == Company::Alone {
            let of = [&self.query, &self.key, &self.value, &self.weights];
            let [query, key, value] = alone::attention_back(of, through.heads(), turn, mixed)?;
            return Ok([query.unsqueeze(0)?, key.unsqueeze(0)?, value.unsqueeze(0)?]);
        }
        let positions = mixed.dim(1)?;
        let mixed = through.split(mixed, through.config.heads, None)?;
        let weights = mixed.matmul(&self.value.t()?)?;
        let value = self.weights.t()?.matmul(&mixed)?;
        let scores = kernel::attention_back(&self.weights, through.positions.scale, &weights)?;
        let query = scores.matmul(&self.key)?;
        let key = scores.t()?.matmul(&self.query)?;
        Ok([
            through.join(&query, positions, Some(&through.positions.queries))?,
            through.join(&key, positions, Some(turn))?,
            through.join(&value, positions, None)?,
        ])
    }
}

/// Without a graph, though the weight is a variable.
fn forward(linear: &Linear, x: &Tensor) -> Result<Tensor> {
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
    let through = gradient.matmul(&linear.weight.detach().to_dtype(gradient.dtype())?)?;
    through.reshape((batch, positions, inputs))
}
