//! The way back through the network, and to the rows of the table.
#![expect(
    clippy::inline_always,
    reason = "only what is compiled into a loop that runs by the processor's own vectors can use them"
)]

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::language::LanguageError;
use crate::language::error::computing;
use crate::language::kernel::exp;
use crate::table::{Dropout, Gathered, Table};

use super::network::{
    Ahead, INNER, Inner, Looked, MARK, Network, VOLUME, Vector, WIDTH, Weights, add, dot, part,
};
use super::pool::Pools;
use super::seen::Seen;

/// Parts of a batch whose gradients are added up by themselves: so many whatever the machine has, so that sums are the same everywhere.
const PARTS: usize = 4;

/// Gradients of a batch.
#[derive(Debug)]
pub struct Gradients {
    network: Weights,
    /// Of vectors of items, but as candidates.
    pub(super) vectors: Vec<Vector>,
    /// Of candidates' vectors, one a row.
    pub(super) candidates: Vec<Vector>,
}

/// The rows of a table that a batch reads.
#[derive(Debug)]
pub struct Rows {
    /// Positions: of each item its id, then its groups, one item behind the other.
    gathered: Gathered,
    /// Where each item's end.
    ends: Vec<usize>,
}

impl Rows {
    /// Gathers them. Who is left out is left out of one item, not of all that share the key.
    pub fn gather(seen: &Seen, table: &Table, dropout: Option<Dropout>) -> Self {
        let mut gathered = table.gather(seen.keys(), None);
        let places = gathered.rows();
        let positions = (0..seen.items()).flat_map(|item| seen.keys_of(item));
        let rows = positions.zip(0..).map(|(key, position)| {
            let left_out = dropout.is_some_and(|dropout| dropout.drops(position));
            if left_out { 0 } else { places[*key as usize] }
        });
        let rows = rows.collect();
        gathered.read_by(rows);
        Self {
            ends: seen.item_ends().to_vec(),
            gathered,
        }
    }

    /// The rows themselves.
    pub fn gathered(&self) -> &Gathered {
        &self.gathered
    }

    /// Vectors of items.
    pub fn looked(&self) -> Looked {
        Looked::of_rows(self.gathered.values(), self.gathered.rows(), &self.ends)
    }

    /// The same, were these the rows' numbers.
    #[cfg(test)]
    pub(super) fn looked_with(&self, values: &[f32]) -> Looked {
        Looked::of_rows(values, self.gathered.rows(), &self.ends)
    }

    /// Gradients of rows, (rows, WIDTH), from those of items' vectors.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub(super) fn gradient(&self, vectors: &[Vector]) -> Result<Tensor, LanguageError> {
        let mut sums = vec![0.0; self.gathered.values().len()];
        let mut start = 0;
        for (end, vector) in self.ends.iter().zip(vectors) {
            let (id, groups) = self.gathered.rows()[start..*end]
                .split_first()
                .expect("invariant: an item has an id");
            start = *end;
            let mut give = |row: u32, share: f32| {
                let to = sums[row as usize * WIDTH..][..WIDTH].iter_mut();
                to.zip(vector).for_each(|(to, one)| *to += share * one);
            };
            give(*id, 1.0);
            let share = 1.0 / groups.len().max(1) as f32;
            groups.iter().for_each(|group| give(*group, share));
        }
        let shape = (self.gathered.len(), WIDTH);
        Tensor::from_vec(sums, shape, &Device::Cpu).map_err(computing("learning"))
    }
}

/// Sums of a part of a batch.
pub(super) struct Sums {
    pub(super) network: Weights,
    pub(super) vectors: Vec<Vector>,
    pub(super) keys: Vec<Inner>,
    /// Of the part's rows.
    pub(super) candidates: Vec<Vector>,
    /// Of each mark's part in the hidden layer.
    pub(super) marks: Vec<Inner>,
}

impl Sums {
    fn new(network: &Network, items: usize, marks: usize) -> Self {
        Self {
            network: Weights::zeros((network.kinds, network.buckets), network.reads),
            vectors: vec![[0.0; WIDTH]; items],
            keys: vec![[0.0; INNER]; items],
            candidates: Vec::new(),
            marks: vec![[0.0; INNER]; marks],
        }
    }

    fn add(&mut self, other: &Self) {
        let parts = self.network.parts_mut().into_iter();
        for (to, from) in parts.zip(other.network.parts()) {
            each(to, from);
        }
        each(
            self.vectors.as_flattened_mut(),
            other.vectors.as_flattened(),
        );
        each(self.keys.as_flattened_mut(), other.keys.as_flattened());
        self.candidates.extend_from_slice(&other.candidates);
        each(self.marks.as_flattened_mut(), other.marks.as_flattened());
    }
}

pub(super) fn each(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

/// `to += one ⊗ other`
pub(super) fn outer<const N: usize>(to: &mut [f32], one: &[f32], other: &[f32; N]) {
    for (line, value) in to.as_chunks_mut::<N>().0.iter_mut().zip(one) {
        add(line, *value, other);
    }
}

/// `to += weights · line`: what comes back to the input of a matrix.
pub(super) fn back<const N: usize>(to: &mut [f32], weights: &[f32], line: &[f32; N]) {
    for (to, weights) in to.iter_mut().zip(weights.as_chunks::<N>().0) {
        *to += dot(weights, line);
    }
}

impl Network {
    /// Gradients of all that learns, from what came out of [`Network::forward`], (rows, outputs), and the gradient of that.
    ///
    /// # Panics
    /// If these are not as many numbers.
    #[must_use]
    pub(super) fn backward(
        &self,
        (seen, looked, ahead): (&Seen, &Looked, &Ahead),
        out: &[f32],
        gradient: &[f32],
    ) -> Gradients {
        let outputs = Self::outputs(self.buckets);
        let rows = &ahead.rows[..];
        let numbers = rows.len() * outputs;
        assert!(
            gradient.len() == numbers && out.len() == numbers,
            "a gradient for each number"
        );
        let of = Pools {
            network: self,
            seen,
            looked,
            ahead,
        };
        let part = rows.len().div_ceil(PARTS).max(1);
        let parts = rows.par_chunks(part).zip(out.par_chunks(part * outputs));
        let parts = parts.zip(gradient.par_chunks(part * outputs));
        let parts = parts.map(|((rows, out), gradients)| {
            let mut sums = Sums::new(self, seen.items(), seen.marks().len());
            of.back(rows, (out, gradients), &mut sums);
            sums
        });
        let mut parts = parts.collect::<Vec<_>>().into_iter();
        let mut sums = parts
            .next()
            .unwrap_or_else(|| Sums::new(self, seen.items(), seen.marks().len()));
        parts.for_each(|part| sums.add(&part));
        self.behind(seen, looked, ahead, sums)
    }

    /// From what came out to the row's sums, to what stands for empty ones and what goes on among them, and to the candidate.
    #[inline(always)]
    pub(super) fn unread(
        &self,
        (outputs, gradient): (&[f32], &[f32]),
        candidate: &Vector,
        of_sums: &mut [Vector],
        sums: &mut Weights,
    ) -> Vector {
        let places = of_sums.len();
        let (read, rest) = outputs[places..].split_at(places * WIDTH);
        let (read, volumes) = (read.as_chunks::<WIDTH>().0, &rest[..places]);
        let (of_matches, rest) = gradient.split_at(places);
        let (of_read, rest) = rest.split_at(places * WIDTH);
        let of_read = of_read.as_chunks::<WIDTH>().0;
        // What was read of volumes goes back to nothing that learns.
        let (of_products, of_itself) = rest[places..].split_at(places * (places - 1) / 2);
        let mixed = self.mixed(read);
        // Of what is mixed first, where it is not the sums themselves.
        let of_mixed = of_sums;
        if self.reads.self_attention {
            of_mixed.fill([0.0; WIDTH]);
        } else {
            of_mixed.copy_from_slice(of_read);
        }
        let mut of_candidate = [0.0; WIDTH];
        if self.reads.products {
            let mut of_products = of_products.iter();
            for place in 0..places {
                for (other, gradient) in (0..place).zip(of_products.by_ref()) {
                    for at in 0..WIDTH {
                        of_mixed[place][at] += gradient * mixed[other][at];
                        of_mixed[other][at] += gradient * mixed[place][at];
                    }
                }
            }
        }
        for ((of, one), gradient) in of_mixed.iter_mut().zip(&*mixed).zip(of_matches) {
            for at in 0..WIDTH {
                of[at] += gradient * candidate[at];
                of_candidate[at] += gradient * one[at];
            }
        }
        let of_sums = of_mixed;
        if self.reads.self_attention {
            self.unmix(read, of_sums, sums);
            each(of_sums.as_flattened_mut(), of_read.as_flattened());
        }
        each(&mut of_candidate, of_itself);
        let empty = sums.empty.as_chunks_mut::<WIDTH>().0;
        for (((of, read), volume), empty) in of_sums.iter_mut().zip(read).zip(volumes).zip(empty) {
            if *volume > 0.0 {
                // The slope of ln(1 + |z|) is 1 / (1 + |z|).
                let part = part(*volume / VOLUME);
                let squashed = of.iter_mut().zip(read);
                squashed.for_each(|(of, read)| *of *= part * exp(-read.abs()));
            } else {
                each(empty, of);
            }
        }
        of_candidate
    }

    /// From the sums over atoms to what was computed ahead of them.
    fn behind(&self, seen: &Seen, looked: &Looked, ahead: &Ahead, mut sums: Sums) -> Gradients {
        let weights = &self.weights;
        for (item, vector) in looked.vectors.iter().enumerate() {
            let keys = &sums.keys[item];
            let to = &mut sums.vectors[item];
            outer(&mut sums.network.key, vector, keys);
            back(to, &weights.key, keys);
        }
        let marks = seen.marks().iter().zip(&ahead.marks).zip(&sums.marks);
        for ((mark, marked), inner) in marks {
            outer(&mut sums.network.mark, &marked.mark, inner);
            let mut of_mark = [0.0; MARK];
            back(&mut of_mark, &weights.mark, inner);
            for (kind, count) in &mark.counts {
                let count = (*count as f32).ln_1p();
                let to = &mut sums.network.kinds[usize::from(*kind) * MARK..][..MARK];
                to.iter_mut()
                    .zip(&of_mark)
                    .for_each(|(to, of)| *to += count * of);
            }
            each(
                &mut sums.network.buckets[marked.bucket * MARK..][..MARK],
                &of_mark,
            );
            let recency = usize::from(mark.recency) * MARK;
            each(&mut sums.network.recency[recency..][..MARK], &of_mark);
        }
        Gradients {
            network: sums.network,
            vectors: sums.vectors,
            candidates: sums.candidates,
        }
    }

    /// Adds gradients of the network's tensors to `into`, by name.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn gather(
        &self,
        gradients: &Gradients,
        into: &mut BTreeMap<String, Tensor>,
    ) -> Result<(), LanguageError> {
        let parts = gradients.network.parts().into_iter();
        let parts = self.names().zip(parts);
        for ((name, shape), values) in parts.filter(|(_, values)| !values.is_empty()) {
            let add = |sum: Option<Tensor>| {
                let gradient = Tensor::from_slice(values, &shape[..], &Device::Cpu)?;
                match sum {
                    Some(sum) => sum + gradient,
                    None => Ok(gradient),
                }
            };
            let sum = add(into.remove(&name)).map_err(computing("gathering gradients"))?;
            into.insert(name, sum);
        }
        Ok(())
    }
}
