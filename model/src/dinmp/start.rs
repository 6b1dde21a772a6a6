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

/// The name of its weights.
pub const TEXT: &str = "dinmp.text";
/// And of the means and spreads of what it reads. Texts have much in common, which says nothing of any: by it alone a step would move all candidates at once, and further than rows of ids do.
pub const TEXT_SCALE: &str = "dinmp.text_scale";

/// The weights, (numbers of a text, WIDTH), over numbers with their mean taken off and divided by their spread, (2, numbers); none where no text is read.
#[derive(Clone, Debug, Default)]
pub(super) struct Start {
    weights: Vec<f32>,
    scale: Vec<f32>,
}

/// Spreads are at least this part of the mean, and this more.
const SPREAD_MIN: [f64; 2] = [0.05, 1e-3];

impl Start {
    /// First values, of texts of so many numbers: nothing is said before it is learned. What is read is read as it is until somebody has looked at it.
    pub(super) fn first(numbers: usize) -> candle_core::Result<[(String, Tensor); 2]> {
        let weights = vec![0.0_f32; numbers * WIDTH];
        let weights = Tensor::from_vec(weights, (numbers, WIDTH), &Device::Cpu)?;
        let scale = [vec![0.0_f32; numbers], vec![1.0; numbers]].concat();
        let scale = Tensor::from_vec(scale, (2, numbers), &Device::Cpu)?;
        Ok([(TEXT.to_owned(), weights), (TEXT_SCALE.to_owned(), scale)])
    }

    /// Means and spreads of texts, (texts, numbers).
    ///
    /// # Errors
    /// None but the tensor library's.
    pub(super) fn scale_of(texts: &Tensor) -> candle_core::Result<Tensor> {
        let means = texts.mean_keepdim(0)?;
        let squares = texts.broadcast_sub(&means)?.sqr()?.mean_keepdim(0)?;
        // What is always the same says nothing, and vectors are kept in 16 bits: what differs by no more than these leave is no difference.
        let least = ((means.abs()? * SPREAD_MIN[0])? + SPREAD_MIN[1])?;
        let spreads = squares.sqrt()?.maximum(&least)?;
        Tensor::cat(&[&means, &spreads], 0)
    }

    /// Of these values, where texts of so many numbers are read.
    ///
    /// # Errors
    /// A tensor that is missing, of another shape, or of spreads that nothing can be divided by; `path` is where they were read.
    pub(super) fn of(
        tensors: &BTreeMap<String, Tensor>,
        numbers: usize,
        path: &Path,
    ) -> Result<Self, LanguageError> {
        if numbers == 0 {
            return Ok(Self::default());
        }
        let origin = Origin::Named { tensors, path };
        let mut source = Source::new(origin, &Device::Cpu, Purpose::of(false));
        let mut read = |name: &str, shape: [usize; 2]| {
            let tensor = source.tensor(name, &shape)?;
            let flat = tensor.flatten_all().and_then(|flat| flat.to_vec1::<f32>());
            flat.map_err(computing("reading the network"))
        };
        let start = Self {
            weights: read(TEXT, [numbers, WIDTH])?,
            scale: read(TEXT_SCALE, [2, numbers])?,
        };
        let is_odd = |spread: &f32| !spread.is_finite() || *spread <= 0.0;
        if start.scale[numbers..].iter().any(is_odd) {
            return Err(LanguageError::Tensor {
                path: path.to_owned(),
                tensor: TEXT_SCALE.to_owned(),
                problem: "has a spread that is not more than 0".to_owned(),
            });
        }
        Ok(start)
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
            let texts = self.scaled(texts);
            add_product(&texts, &self.weights, vectors.as_flattened_mut(), WIDTH);
        }
        vectors
    }

    fn scaled(&self, texts: &[f32]) -> Vec<f32> {
        let (means, spreads) = self.scale.split_at(self.numbers());
        let scaled = texts.chunks(self.numbers()).flat_map(|text| {
            let of = text.iter().zip(means).zip(spreads);
            of.map(|((value, mean), spread)| (value - mean) / spread)
        });
        scaled.collect()
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
        let texts = self.scaled(texts);
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
        let sum = add(into.remove(TEXT)).map_err(computing("gathering gradients"))?;
        into.insert(TEXT.to_owned(), sum);
        Ok(())
    }
}
