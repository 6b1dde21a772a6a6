//! How an encoder's vectors lie: mean and deviation of each number, over all texts that have one.
//!
//! Vectors of a language model have most in common, whatever their texts say (Ethayarajh, EMNLP 2019; Mu and Viswanath, ICLR 2018): cosines of strangers and of kin differ little. Without
//! the mean, and with each number in its own deviations, they tell texts apart. Sums are kept with the vectors, in the same batch: they are those of what lies in the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Damage, StoreError};
use crate::format::Put as _;
use crate::store::{Batch, Store};

use super::{EncoderId, VECTOR, VectorKey, read_vector, sealed, unsealed, versioned};

/// Of the store alone: an encoder's sums.
const MOMENTS: u8 = b'm';

/// Part of the numbers' mean deviation that each has at least: what hardly ever differs says little, and would say most.
const LEAST: f64 = 0.01;

/// Mean and deviations of an encoder's vectors.
#[derive(Debug, PartialEq)]
pub struct Spread {
    mean: Vec<f32>,
    /// One over the deviation.
    scale: Vec<f32>,
}

impl Spread {
    /// A vector without the mean, each number in its own deviations; empty for a vector of another width.
    pub fn standardise(&self, vector: &[f32], to: &mut Vec<f32>) {
        to.clear();
        if vector.len() == self.mean.len() {
            let of = self.mean.iter().zip(&self.scale);
            let numbers = vector.iter().zip(of);
            to.extend(numbers.map(|(value, (mean, scale))| (value - mean) * scale));
        }
    }
}

/// Sums over an encoder's vectors.
#[derive(Clone, Debug, Default, PartialEq)]
struct Sums {
    count: u64,
    sums: Vec<f64>,
    squares: Vec<f64>,
}

impl Sums {
    /// A vector comes, or goes (`sign` -1). Of another width than the others it is left out.
    fn add(&mut self, vector: &[f32], sign: f64) {
        if self.count == 0 {
            self.sums = vec![0.0; vector.len()];
            self.squares = vec![0.0; vector.len()];
        }
        if self.sums.len() != vector.len() {
            return;
        }
        self.count = self.count.wrapping_add_signed(sign as i64);
        let sums = self.sums.iter_mut().zip(&mut self.squares);
        for ((sum, square), value) in sums.zip(vector) {
            let value = f64::from(*value);
            *sum += sign * value;
            *square += sign * value * value;
        }
    }

    fn spread(&self) -> Spread {
        let count = self.count as f64;
        let means: Vec<f64> = self.sums.iter().map(|sum| sum / count).collect();
        let numbers = means.iter().zip(&self.squares);
        let deviations: Vec<f64> = numbers
            .map(|(mean, square)| (square / count - mean * mean).max(0.0).sqrt())
            .collect();
        let least = LEAST * deviations.iter().sum::<f64>() / deviations.len().max(1) as f64;
        let scale = |deviation: &f64| {
            let deviation = deviation.max(least);
            if deviation > 0.0 {
                (1.0 / deviation) as f32
            } else {
                0.0
            }
        };
        Spread {
            mean: means.iter().map(|mean| *mean as f32).collect(),
            scale: deviations.iter().map(scale).collect(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![super::FORMAT];
        bytes.put(&self.count.to_le_bytes());
        for number in self.sums.iter().chain(&self.squares) {
            bytes.put(&number.to_le_bytes());
        }
        sealed(bytes)
    }

    fn read(bytes: &[u8]) -> Result<Self, Damage> {
        let content = versioned(unsealed(bytes)?)?.0;
        let (count, numbers) = content.split_first_chunk().ok_or(Damage::Short)?;
        let (numbers, rest) = numbers.as_chunks();
        if !rest.is_empty() || !numbers.len().is_multiple_of(2) {
            return Err(Damage::Long);
        }
        let numbers: Vec<f64> = numbers.iter().map(|of| f64::from_le_bytes(*of)).collect();
        let (sums, squares) = numbers.split_at(numbers.len() / 2);
        Ok(Self {
            count: u64::from_le_bytes(*count),
            sums: sums.to_vec(),
            squares: squares.to_vec(),
        })
    }
}

/// The sums of all encoders, and what follows from them, once it was asked for.
#[derive(Debug, Default)]
pub(super) struct Spreads {
    of: BTreeMap<EncoderId, (Sums, Option<Arc<Spread>>)>,
}

/// Vectors that come and go together: sums as they will be.
#[derive(Debug, Default)]
pub(super) struct Moved {
    sums: BTreeMap<EncoderId, Sums>,
    /// By key, what lies there by then.
    lies: BTreeMap<Vec<u8>, Option<Vec<f32>>>,
}

fn key_of(encoder: EncoderId) -> Vec<u8> {
    [&[MOMENTS][..], &encoder.0].concat()
}

impl Spreads {
    /// Those of a store; where it has vectors, and was written before there were any, they are counted once.
    pub(super) fn of(store: &dyn Store) -> Result<Result<Self, Damage>, StoreError> {
        let (mut spreads, mut damage) = (Self::default(), None);
        store.scan(&[MOMENTS], &mut |key, value| {
            let encoder = key[1..].try_into().map_err(|_| Damage::Key);
            let read = encoder.and_then(|encoder| Ok((EncoderId(encoder), Sums::read(value)?)));
            match read {
                Ok((encoder, sums)) => drop(spreads.of.insert(encoder, (sums, None))),
                Err(found) => damage = Some(found),
            }
            damage.is_none()
        })?;
        if let Some(damage) = damage {
            return Ok(Err(damage));
        }
        if spreads.of.is_empty() {
            let mut moved = Moved::default();
            store.scan(&[VECTOR], &mut |key, value| {
                // One that is damaged is found by whoever looks it up.
                if let (Ok(VectorKey::Vector(encoder, _)), Ok(vector)) =
                    (VectorKey::read(key), read_vector(value))
                {
                    moved.sums.entry(encoder).or_default().add(&vector, 1.0);
                }
                true
            })?;
            if !moved.sums.is_empty() {
                let mut batch = Batch::new();
                moved.write(&mut batch);
                store.apply(&batch)?;
                spreads.take(moved);
            }
        }
        Ok(Ok(spreads))
    }

    /// How an encoder's vectors lie; none: there are none.
    pub(super) fn get(&mut self, encoder: EncoderId) -> Option<Arc<Spread>> {
        let (sums, spread) = self.of.get_mut(&encoder)?;
        let spread = spread.get_or_insert_with(|| Arc::new(sums.spread()));
        Some(Arc::clone(spread))
    }

    /// What moved is in the store.
    pub(super) fn take(&mut self, moved: Moved) {
        for (encoder, sums) in moved.sums {
            if sums.count == 0 {
                self.of.remove(&encoder);
            } else {
                self.of.insert(encoder, (sums, None));
            }
        }
    }
}

impl Moved {
    /// A vector is put under a key, or none is.
    pub(super) fn put(
        &mut self,
        (store, spreads): (&dyn Store, &Spreads),
        (encoder, key): (EncoderId, &[u8]),
        vector: Option<&[f32]>,
    ) -> Result<(), StoreError> {
        let before = match self.lies.remove(key) {
            Some(lies) => lies,
            None => store.get(key)?.and_then(|bytes| read_vector(&bytes).ok()),
        };
        let sums = self.sums.entry(encoder).or_insert_with(|| {
            let held = spreads.of.get(&encoder);
            held.map(|(sums, _)| sums.clone()).unwrap_or_default()
        });
        if let Some(before) = before {
            sums.add(&before, -1.0);
        }
        if let Some(vector) = vector {
            sums.add(vector, 1.0);
        }
        self.lies.insert(key.to_vec(), vector.map(<[f32]>::to_vec));
        Ok(())
    }

    /// Puts the sums down.
    pub(super) fn write(&self, batch: &mut Batch) {
        for (encoder, sums) in &self.sums {
            let value = (sums.count > 0).then(|| sums.bytes());
            batch.push((key_of(*encoder), value));
        }
    }
}

#[cfg(test)]
mod tests;
