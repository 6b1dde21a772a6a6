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
    /// A vector comes; gives whether it is as wide as the others.
    fn add(&mut self, vector: &[f32]) -> bool {
        if self.count == 0 {
            self.sums = vec![0.0; vector.len()];
            self.squares = vec![0.0; vector.len()];
        }
        let is_ours = self.sums.len() == vector.len();
        if is_ours {
            self.count += 1;
            self.sum(vector, 1.0);
        }
        is_ours
    }

    /// One goes; gives whether it was there.
    fn remove(&mut self, vector: &[f32]) -> bool {
        let was_there = self.count > 0 && self.sums.len() == vector.len();
        if was_there {
            self.count -= 1;
            self.sum(vector, -1.0);
        }
        was_there
    }

    fn sum(&mut self, vector: &[f32], sign: f64) {
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

/// The sums of all encoders: of what lies in the store, and nothing else.
#[derive(Debug, Default)]
pub(super) struct Spreads {
    of: BTreeMap<EncoderId, Sums>,
    /// Whether they may be others by now, since what lay there could not be read: then they are counted anew at the next start.
    broken: bool,
}

/// Vectors that come and go together: sums as they will be.
#[derive(Debug, Default)]
pub(super) struct Moved {
    sums: BTreeMap<EncoderId, Sums>,
    /// By key, what lies there by then.
    lies: BTreeMap<Vec<u8>, Option<Vec<f32>>>,
    broken: bool,
}

fn key_of(encoder: EncoderId) -> Vec<u8> {
    [&[MOMENTS][..], &encoder.0].concat()
}

/// What lies beside the sums: how far the topic was taken in when they were written. A build that knows of no sums leaves another behind.
fn mark(positions: &BTreeMap<i32, i64>) -> Vec<u8> {
    let mut bytes = vec![super::FORMAT];
    for (partition, next) in positions {
        bytes.put(&partition.to_le_bytes());
        bytes.put(&next.to_le_bytes());
    }
    sealed(bytes)
}

impl Spreads {
    /// Those of a store, which has taken in so much; where they are not of all of that, they are counted anew.
    pub(super) fn of(
        store: &dyn Store,
        positions: &BTreeMap<i32, i64>,
    ) -> Result<Self, StoreError> {
        let (mut spreads, mut held) = (Self::default(), Batch::new());
        let is_whole = store
            .get(&[MOMENTS])?
            .is_some_and(|found| found == mark(positions));
        let mut is_read = is_whole;
        store.scan(&[MOMENTS], &mut |key, value| {
            let Ok(encoder) = key[1..].try_into().map(EncoderId) else {
                return true;
            };
            match Sums::read(value) {
                Ok(sums) => drop(spreads.of.insert(encoder, sums)),
                Err(_) => is_read = false,
            }
            held.push((key.to_vec(), None));
            true
        })?;
        if is_read {
            return Ok(spreads);
        }
        let mut moved = Moved::default();
        store.scan(&[VECTOR], &mut |key, value| {
            // One that is damaged is found by whoever looks it up.
            if let (Ok(VectorKey::Vector(encoder, _)), Ok(vector)) =
                (VectorKey::read(key), read_vector(value))
            {
                moved.sums.entry(encoder).or_default().add(&vector);
            }
            true
        })?;
        spreads.of.clear();
        if !moved.sums.is_empty() || !held.is_empty() {
            spreads.write(&moved, positions, &mut held);
            store.apply(&held)?;
            spreads.take(moved);
        }
        Ok(spreads)
    }

    /// Of each encoder how its vectors lie.
    pub(super) fn all(&self) -> BTreeMap<EncoderId, Arc<Spread>> {
        let of = self.of.iter();
        of.map(|(encoder, sums)| (*encoder, Arc::new(sums.spread())))
            .collect()
    }

    /// Puts sums down as they will be, and that they are of what was taken in up to these positions.
    pub(super) fn write(&self, moved: &Moved, positions: &BTreeMap<i32, i64>, batch: &mut Batch) {
        for (encoder, sums) in &moved.sums {
            let value = (sums.count > 0).then(|| sums.bytes());
            batch.push((key_of(*encoder), value));
        }
        let is_whole = !self.broken && !moved.broken;
        batch.push((vec![MOMENTS], is_whole.then(|| mark(positions))));
    }

    /// What moved is in the store. Gives how the vectors of these encoders lie; none: there are none any more.
    pub(super) fn take(&mut self, moved: Moved) -> Vec<(EncoderId, Option<Arc<Spread>>)> {
        self.broken |= moved.broken;
        let mut spreads = Vec::with_capacity(moved.sums.len());
        for (encoder, sums) in moved.sums {
            spreads.push((encoder, (sums.count > 0).then(|| Arc::new(sums.spread()))));
            if sums.count == 0 {
                self.of.remove(&encoder);
            } else {
                self.of.insert(encoder, sums);
            }
        }
        spreads
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
            None => match store.get(key)?.map(|bytes| read_vector(&bytes)) {
                Some(Err(_)) => {
                    self.broken = true;
                    None
                }
                found => found.and_then(Result::ok),
            },
        };
        let sums = self.sums.entry(encoder).or_insert_with(|| {
            let held = spreads.of.get(&encoder);
            held.cloned().unwrap_or_default()
        });
        if let Some(before) = before {
            self.broken |= !sums.remove(&before);
        }
        if let Some(vector) = vector {
            self.broken |= !sums.add(vector);
        }
        self.lies.insert(key.to_vec(), vector.map(<[f32]>::to_vec));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
