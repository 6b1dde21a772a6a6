//! Rows of a batch, ids that are left out of it on purpose, and the step of a row.

use candle_core::{Device, Tensor};

use super::TableError;
use super::key::{RowKey, mix};
use super::settings::Adagrad;

/// Ids left out at random, so that the unknown row learns to stand for ids of which nothing is known.
///
/// Whether a position reads the unknown row follows from seed, step and position alone: the same run leaves out the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Part of the positions, 0 to 1.
    pub rate: f64,
    /// Of the run.
    pub seed: u64,
    /// Number of the step.
    pub step: u64,
}

impl Dropout {
    /// Whether the id at a position of the batch is left out.
    pub fn drops(&self, position: u32) -> bool {
        let bits = mix(mix(mix(self.seed) ^ self.step) ^ u64::from(position));
        ((bits >> 11) as f64) < self.rate * (1_u64 << 53) as f64
    }
}

/// The rows that a batch reads, each once, in the order of their keys; the first is the unknown row, whether it is read or not.
#[derive(Clone, Debug, PartialEq)]
pub struct Gathered {
    width: usize,
    /// Of all rows but the first.
    keys: Vec<RowKey>,
    values: Vec<f32>,
    rows: Vec<u32>,
}

impl Gathered {
    pub(super) fn new(unknown: &[f32], positions: usize) -> Self {
        Self {
            width: unknown.len(),
            keys: Vec::new(),
            values: unknown.to_vec(),
            rows: vec![0; positions],
        }
    }

    /// One row more, and the positions that read it.
    pub(super) fn push(
        &mut self,
        key: RowKey,
        values: &[f32],
        positions: impl Iterator<Item = u32>,
    ) {
        self.keys.push(key);
        self.values.extend_from_slice(values);
        let row = self.keys.len() as u32;
        positions.for_each(|position| self.rows[position as usize] = row);
    }

    /// Says anew which position reads which row, 0 the unknown one: more positions may read these rows than there were keys.
    pub(crate) fn read_by(&mut self, rows: Vec<u32>) {
        self.rows = rows;
    }

    /// Keys of all rows but the first.
    pub(super) fn keys(&self) -> &[RowKey] {
        &self.keys
    }

    /// Rows, the unknown one among them: at least 1.
    pub fn len(&self) -> usize {
        self.keys.len() + 1
    }

    /// Never: the unknown row is always there.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Values, row after row: (rows, width).
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Of each position of the batch, its row here; 0 is the unknown row.
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// Values as a tensor (rows, width) of f32.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn tensor(&self, device: &Device) -> Result<Tensor, TableError> {
        let shape = (self.len(), self.width);
        Ok(Tensor::from_slice(&self.values, shape, device)?)
    }

    /// What each position reads as a tensor (positions) of u32, for `index_select`.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn index(&self, device: &Device) -> Result<Tensor, TableError> {
        Ok(Tensor::from_slice(&self.rows, self.rows.len(), device)?)
    }

    /// Sums gradients of positions, (positions, width), to those of rows, (rows, width): in f32, in the order of positions. The backward of `index_select` does the same.
    ///
    /// # Errors
    /// When there are not as many numbers.
    pub fn summed(&self, gradients: &[f32]) -> Result<Vec<f32>, TableError> {
        let (found, expected) = (gradients.len(), self.rows.len() * self.width);
        if found != expected {
            return Err(TableError::Length {
                what: "gradients of positions",
                found,
                expected,
            });
        }
        let mut sums = vec![0.0; self.values.len()];
        for (row, gradient) in self.rows.iter().zip(gradients.chunks_exact(self.width)) {
            let sum = &mut sums[*row as usize * self.width..][..self.width];
            sum.iter_mut()
                .zip(gradient)
                .for_each(|(sum, one)| *sum += one);
        }
        Ok(sums)
    }
}

/// What a step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stepped {
    /// Rows that it moved, the unknown one among them.
    pub rows: usize,
    /// Rows whose gradient was no number, or so long that its square is none: they stay as they were.
    pub refused: usize,
    /// Rows that were dropped since they were gathered.
    pub gone: usize,
}

impl Adagrad {
    /// Moves a row; whether it did (not, where the gradient is no number).
    pub(super) fn step(&self, values: &mut [f32], sum: &mut f32, gradient: &[f32]) -> bool {
        let squares: f32 = gradient.iter().map(|one| one * one).sum();
        let mean = squares / gradient.len() as f32;
        let to = *sum * self.memory + mean;
        let rate = self.rate / (to.sqrt() + self.epsilon);
        let moved = values.iter().zip(gradient);
        let mut moved = moved.map(|(value, gradient)| value - rate * gradient);
        if !to.is_finite() || !moved.all(f32::is_finite) {
            return false;
        }
        *sum = to;
        for (value, gradient) in values.iter_mut().zip(gradient) {
            *value -= rate * gradient;
        }
        true
    }
}
