//! A run that grows: its keys and values, so that a behavior more costs the deep layers one position. Of a run that is made anew many positions go
//! through at once.

use candle_core::{Device, Tensor};
use half::f16;
use half::slice::HalfFloatSliceExt as _;

use crate::language::LanguageError;
use crate::language::block::{Block, normed};
use crate::language::error::computing;
use crate::language::kernel::dot;
use crate::language::part::Kernels;

use super::deep::Deep;

/// Keys and values of a run's positions in each layer, in 16 bits, and the sum of its outputs. What it holds can be made anew from the run's texts and times.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Of each layer: keys of all positions, one behind the other, (positions, key heads · head width), the constant first position included.
    keys: Vec<Vec<f16>>,
    values: Vec<Vec<f16>>,
    sum: Vec<f32>,
    behaviors: usize,
}

/// One behavior that is taken into a run.
#[derive(Clone, Copy, Debug)]
pub struct Taken<'a> {
    /// The run, by its place among those that are given.
    pub run: usize,
    /// The vector of its text.
    pub vector: &'a [f32],
    /// The kind of its gap ([`super::gap_of`]).
    pub gap: u32,
}

/// What runs cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunBytes {
    /// Bytes of a position.
    pub position: usize,
    /// Bytes of a full run.
    pub full: usize,
}

impl Run {
    /// Behaviors so far.
    pub fn behaviors(&self) -> usize {
        self.behaviors
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let halves = |all: &[Vec<f16>]| all.iter().map(Vec::capacity).sum::<usize>();
        let halves = halves(&self.keys) + halves(&self.values);
        halves * size_of::<f16>() + self.sum.capacity() * size_of::<f32>()
    }

    /// The run's vector, (width): the mean of its outputs; `None` while it is empty.
    pub fn vector(&self) -> Option<Vec<f32>> {
        let count = self.behaviors as f32;
        (self.behaviors > 0).then(|| self.sum.iter().map(|sum| sum / count).collect())
    }
}

impl Deep {
    /// What runs cost in memory.
    pub fn run_bytes(&self) -> RunBytes {
        let blocks = &self.config.blocks;
        let position = 2 * blocks.layers * blocks.kv_heads * blocks.head_width * size_of::<f16>();
        RunBytes {
            position,
            full: (self.config.limit + 1) * position + blocks.width * size_of::<f32>(),
        }
    }

    /// A run without behaviors: its first position alone.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn begin(&self) -> Result<Run, LanguageError> {
        let layers = self.config.blocks.layers;
        let mut run = Run {
            keys: vec![Vec::new(); layers],
            values: vec![Vec::new(); layers],
            sum: vec![0.0; self.config.blocks.width],
            behaviors: 0,
        };
        let first = self.first.to_device(&Device::Cpu);
        let first = first.and_then(|first| first.unsqueeze(0));
        let first = first.map_err(computing("beginning a run"))?;
        self.step(&mut [&mut run], &[0], first)
            .map_err(computing("beginning a run"))?;
        Ok(run)
    }

    /// The vector of a sequence without behaviors, (width).
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn emptiness(&self, sequence: usize) -> Result<Vec<f32>, LanguageError> {
        let row = self.empty.get(sequence).and_then(|row| row.to_vec1());
        row.map_err(computing("reading a vector"))
    }

    /// Takes behaviors into runs: those of one run in their order, of several runs in any. A run that is at the limit is to be begun anew by the caller.
    ///
    /// # Errors
    /// A run that would pass its limit, or a vector that does not fit; no run has changed then.
    ///
    /// # Panics
    /// If a behavior is of a run that is not there.
    pub fn advance(&self, runs: &mut [&mut Run], taken: &[Taken<'_>]) -> Result<(), LanguageError> {
        let width = self.config.blocks.width;
        let mut lengths: Vec<usize> = runs.iter().map(|run| run.behaviors).collect();
        for one in taken {
            lengths[one.run] += 1;
            if lengths[one.run] > self.config.limit {
                return Err(LanguageError::Input(format!(
                    "a run of {} behaviors, which is the limit",
                    self.config.limit
                )));
            }
            if one.vector.len() != width {
                return Err(LanguageError::Input(format!(
                    "a vector of width {} for layers of width {width}",
                    one.vector.len()
                )));
            }
        }
        if taken.is_empty() {
            return Ok(());
        }
        let mut advance = || {
            let flat: Vec<f32> = taken.iter().flat_map(|one| one.vector).copied().collect();
            let vectors = Tensor::from_vec(flat, (taken.len(), width), &Device::Cpu)?;
            let gaps: Vec<u32> = taken.iter().map(|one| one.gap).collect();
            let gaps = Tensor::from_vec(gaps, taken.len(), self.gaps.device())?;
            let states = (vectors + self.gaps.index_select(&gaps, 0)?)?;
            let of: Vec<usize> = taken.iter().map(|one| one.run).collect();
            let states = self.step(runs, &of, states)?;
            let outputs = normed(&states, &self.norm, &self.config.blocks, Kernels::Fused)?;
            for (run, output) in of.iter().zip(outputs.to_vec2::<f32>()?) {
                let run = &mut *runs[*run];
                for (sum, output) in run.sum.iter_mut().zip(output) {
                    *sum += output;
                }
                run.behaviors += 1;
            }
            Ok(())
        };
        let taken = advance().map_err(computing("taking behaviors in"));
        if taken.is_err() {
            // Some layers may have taken them, and others not.
            let floats = self.config.blocks.kv_heads * self.config.blocks.head_width;
            for run in runs {
                let length = (run.behaviors + 1) * floats;
                run.keys.iter_mut().for_each(|keys| keys.truncate(length));
                let values = run.values.iter_mut();
                values.for_each(|values| values.truncate(length));
            }
        }
        taken
    }

    /// Positions, (positions, width), of the runs named beside them, through all layers.
    fn step(
        &self,
        runs: &mut [&mut Run],
        of: &[usize],
        states: Tensor,
    ) -> candle_core::Result<Tensor> {
        let mut states = states;
        for (layer, block) in self.blocks.iter().enumerate() {
            states = self.step_block(runs, of, layer, block, &states)?;
        }
        Ok(states)
    }

    fn step_block(
        &self,
        runs: &mut [&mut Run],
        of: &[usize],
        layer: usize,
        block: &Block,
        states: &Tensor,
    ) -> candle_core::Result<Tensor> {
        let config = &self.config.blocks;
        let (count, wide) = (of.len(), config.head_width);
        let kernels = Kernels::Fused;
        let (rows, row) = ((count, 1, config.width), (count, config.width));
        let x = normed(states, &block.attention_norm, config, kernels)?.reshape(rows)?;
        let lists = |y: Tensor| y.flatten_from(1)?.to_vec2::<f32>();
        let mut queries = lists(block.query.forward(&x)?)?;
        let mut keys = lists(block.key.forward(&x)?)?;
        let values = lists(block.value.forward(&x)?)?;
        let mut mixed = vec![0.0; count * config.heads * wide];
        let mut seen = Seen::default();
        let each = mixed.chunks_mut(config.heads * wide);
        // In their order: a position sees those of its run that were before it, and itself.
        for (place, (run, mixed)) in of.iter().zip(each).enumerate() {
            let run = &mut *runs[*run];
            // The first position is 0, and has no behavior.
            let position = run.keys[layer].len() / (config.kv_heads * wide);
            let cosines = self.turns.cosines.get(position)?.to_vec1::<f32>()?;
            let sines = self.turns.sines.get(position)?.to_vec1::<f32>()?;
            turn(&mut queries[place], &cosines, &sines);
            turn(&mut keys[place], &cosines, &sines);
            let halves = |all: &[f32]| all.iter().copied().map(f16::from_f32).collect::<Vec<_>>();
            run.keys[layer].extend(halves(&keys[place]));
            run.values[layer].extend(halves(&values[place]));
            seen.read(&run.keys[layer], &run.values[layer]);
            attend(&queries[place], &seen, (config.kv_heads, wide), mixed);
        }
        let mixed = Tensor::from_vec(mixed, (count, 1, config.heads * wide), &Device::Cpu)?;
        let x = (states + block.output.forward(&mixed)?.reshape(row)?)?;
        let y = normed(&x, &block.inner_norm, config, kernels)?.reshape(rows)?;
        let gated = (block.gate.forward(&y)?.silu()? * block.up.forward(&y)?)?;
        x + block.down.forward(&gated)?.reshape(row)?
    }
}

/// Turns each head's halves against each other.
fn turn(heads: &mut [f32], cosines: &[f32], sines: &[f32]) {
    for head in heads.chunks_mut(2 * cosines.len()) {
        let (low, high) = head.split_at_mut(cosines.len());
        for (((low, high), cosine), sine) in low.iter_mut().zip(high).zip(cosines).zip(sines) {
            (*low, *high) = (*low * cosine - *high * sine, *high * cosine + *low * sine);
        }
    }
}

/// A run's keys and values as numbers that can be reckoned with, in buffers that are used again.
#[derive(Default)]
struct Seen {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Seen {
    fn read(&mut self, keys: &[f16], values: &[f16]) {
        for (to, from) in [(&mut self.keys, keys), (&mut self.values, values)] {
            to.resize(from.len(), 0.0);
            from.convert_to_f32_slice(to);
        }
    }
}

/// What one position's heads see in a run, the position itself included.
fn attend(
    queries: &[f32],
    Seen { keys, values }: &Seen,
    (kv_heads, wide): (usize, usize),
    mixed: &mut [f32],
) {
    let stride = kv_heads * wide;
    let group = queries.len() / stride;
    let scale = 1.0 / (wide as f32).sqrt();
    let mut weights = vec![0.0; keys.len() / stride];
    for (head, (query, mixed)) in queries.chunks(wide).zip(mixed.chunks_mut(wide)).enumerate() {
        let from = head / group * wide;
        for (weight, key) in weights.iter_mut().zip(keys.chunks(stride)) {
            *weight = scale * dot(query, &key[from..from + wide]);
        }
        let highest = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for weight in &mut weights {
            *weight = (*weight - highest).exp();
            sum += *weight;
        }
        for (weight, value) in weights.iter().zip(values.chunks(stride)) {
            let weight = weight / sum;
            for (mixed, value) in mixed.iter_mut().zip(&value[from..from + wide]) {
                *mixed += weight * value;
            }
        }
    }
}
