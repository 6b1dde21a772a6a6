//! Where an item starts that nobody has learned from yet: what its text says of its vector.
//!
//! Before it, the item's vector as its rows make it ([`super::network::Looked`]), and what the head reads of its text; after it, the vector of the candidate. A row of an id holds what is known of it beyond categories and text, so a new
//! one starts there; while it learns, ids that read the unknown row on purpose teach what texts are worth by themselves (`DropoutNet`: Volkovs, Yu and Poutanen, NIPS 2017).
//! Of what users did before it knows rows alone: logged rows name no texts of these.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};

use crate::language::LanguageError;
use crate::language::error::computing;
use crate::language::part::{Origin, Purpose, Source};
use crate::wide::add_product;

use super::learn::outer;
use super::network::{Looked, Vector, WIDTH};
use super::seen::Asked;

/// The name of its tensor.
pub(super) const NAME: &str = "dinmp.text";

/// The weights, (numbers of a text, WIDTH); none where no text is read.
#[derive(Clone, Debug, Default)]
pub(super) struct Start {
    weights: Vec<f32>,
}

impl Start {
    /// First values, of texts of so many numbers: nothing is said before it is learned.
    pub(super) fn zeros(numbers: usize) -> candle_core::Result<Tensor> {
        Tensor::from_vec(
            vec![0.0_f32; numbers * WIDTH],
            (numbers, WIDTH),
            &Device::Cpu,
        )
    }

    /// Of these values, where texts of so many numbers are read.
    ///
    /// # Errors
    /// A tensor of another shape; `path` is where they were read.
    pub(super) fn of(
        tensors: &BTreeMap<String, Tensor>,
        numbers: usize,
        path: &Path,
    ) -> Result<Self, LanguageError> {
        if !tensors.contains_key(NAME) {
            return Ok(Self::default());
        }
        let origin = Origin::Named { tensors, path };
        let mut source = Source::new(origin, &Device::Cpu, Purpose::of(false));
        let weights = source.tensor(NAME, &[numbers, WIDTH])?;
        let weights = weights.flatten_all().and_then(|flat| flat.to_vec1::<f32>());
        let weights = weights.map_err(computing("reading the network"))?;
        Ok(Self { weights })
    }

    /// Numbers of a text that it reads.
    pub(super) fn numbers(&self) -> usize {
        self.weights.len() / WIDTH
    }

    /// Vectors of candidates, one a row; of each its text, (rows, numbers).
    pub(super) fn candidates(&self, looked: &Looked, rows: &[Asked], texts: &[f32]) -> Vec<Vector> {
        assert_eq!(
            texts.len(),
            rows.len() * self.numbers(),
            "a text for each candidate"
        );
        let vectors = rows.iter().map(|row| looked.vectors[row.item as usize]);
        let mut vectors: Vec<Vector> = vectors.collect();
        if !self.weights.is_empty() {
            add_product(texts, &self.weights, vectors.as_flattened_mut(), WIDTH);
        }
        vectors
    }

    /// From the gradients of candidates' vectors, one a row, to the items' and, under its name, to its own.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub(super) fn back(
        &self,
        (rows, texts): (&[Asked], &[f32]),
        of_candidates: &[Vector],
        to: &mut [Vector],
        into: &mut BTreeMap<String, Tensor>,
    ) -> Result<(), LanguageError> {
        for (row, of) in rows.iter().zip(of_candidates) {
            let to = to[row.item as usize].iter_mut();
            to.zip(of).for_each(|(to, of)| *to += of);
        }
        if self.weights.is_empty() {
            return Ok(());
        }
        let mut sums = vec![0.0; self.weights.len()];
        for (text, of) in texts.chunks(self.numbers()).zip(of_candidates) {
            outer(&mut sums, text, of);
        }
        let add = |sum: Option<Tensor>| {
            let gradient = Tensor::from_vec(sums, (self.numbers(), WIDTH), &Device::Cpu)?;
            match sum {
                Some(sum) => &sum + gradient.to_device(sum.device())?,
                None => Ok(gradient),
            }
        };
        let sum = add(into.remove(NAME)).map_err(computing("gathering gradients"))?;
        into.insert(NAME.to_owned(), sum);
        Ok(())
    }
}
