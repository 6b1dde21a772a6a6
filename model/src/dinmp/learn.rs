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
use crate::table::{Dropout, Gathered, RowKey, Table};
use crate::wide::widest;

use super::network::{
    Ahead, INNER, Inner, Looked, MARK, Network, Pooled, SAID, SIDES, Said, TOLD, Vector, WIDTH,
    Weights, add, dot, hidden, line, own, sigmoid,
};
use super::seen::{Asked, Seen};

/// Parts of a batch whose gradients are added up by themselves: so many whatever the machine has, so that sums are the same everywhere.
const PARTS: usize = 4;

/// Gradients of a batch.
#[derive(Debug)]
pub struct Gradients {
    network: Weights,
    /// Of vectors of items.
    vectors: Vec<Vector>,
}

/// The rows of a table that a batch reads.
#[derive(Debug)]
pub struct Rows {
    gathered: Gathered,
    /// Of each item: its id's row, and those of its groups.
    items: Vec<(u32, Vec<u32>)>,
}

impl Rows {
    /// Gathers them.
    pub fn gather(seen: &Seen, table: &Table, dropout: Option<Dropout>) -> Self {
        let gathered = table.gather(&Self::keys(seen), dropout);
        let mut rows = gathered.rows().iter().copied();
        let mut next = || rows.next().expect("invariant: a row for each key");
        let items = seen.items().iter().map(|item| {
            let id = next();
            (id, item.groups.iter().map(|_| next()).collect())
        });
        let items = items.collect();
        Self { gathered, items }
    }

    /// Keys of all rows that are asked for: of each item its id's, then its groups'.
    pub fn keys(seen: &Seen) -> Vec<RowKey> {
        let keys = seen.items().iter();
        keys.flat_map(|item| std::iter::once(item.id).chain(item.groups.iter().copied()))
            .collect()
    }

    /// The rows themselves.
    pub fn gathered(&self) -> &Gathered {
        &self.gathered
    }

    /// Vectors of items.
    pub fn looked(&self) -> Looked {
        Looked::of_rows(self.gathered.values(), &self.items)
    }

    /// The same, were these the rows' numbers.
    #[cfg(test)]
    pub(super) fn looked_with(&self, values: &[f32]) -> Looked {
        Looked::of_rows(values, &self.items)
    }

    /// Gradients of rows, (rows, WIDTH), from those of items' vectors.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn gradient(&self, gradients: &Gradients) -> Result<Tensor, LanguageError> {
        let mut sums = vec![0.0; self.gathered.values().len()];
        for ((id, groups), vector) in self.items.iter().zip(&gradients.vectors) {
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
struct Sums {
    network: Weights,
    vectors: Vec<Vector>,
    keys: Vec<Inner>,
    candidates: Vec<Inner>,
    /// Of each mark: of its part in the hidden layer, of its scale, and of what it tells.
    marks: Vec<(Inner, Vector, [f32; TOLD])>,
}

impl Sums {
    fn new(network: &Network, items: usize, marks: usize) -> Self {
        Self {
            network: Weights::zeros(network.kinds, network.buckets),
            vectors: vec![[0.0; WIDTH]; items],
            keys: vec![[0.0; INNER]; items],
            candidates: vec![[0.0; INNER]; items],
            marks: vec![([0.0; INNER], [0.0; WIDTH], [0.0; TOLD]); marks],
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
        each(
            self.candidates.as_flattened_mut(),
            other.candidates.as_flattened(),
        );
        for (to, from) in self.marks.iter_mut().zip(&other.marks) {
            each(&mut to.0, &from.0);
            each(&mut to.1, &from.1);
            each(&mut to.2, &from.2);
        }
    }
}

fn each(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

/// `to += one ⊗ other`
fn outer<const N: usize>(to: &mut [f32], one: &[f32], other: &[f32; N]) {
    for (line, value) in to.as_chunks_mut::<N>().0.iter_mut().zip(one) {
        add(line, *value, other);
    }
}

/// `to += weights · line`: what comes back to the input of a matrix.
fn back<const N: usize>(to: &mut [f32], weights: &[f32], line: &[f32; N]) {
    for (to, weights) in to.iter_mut().zip(weights.as_chunks::<N>().0) {
        *to += dot(weights, line);
    }
}

impl Network {
    /// Gradients of all that learns, from those of what came out of [`Network::forward`], (rows, outputs).
    ///
    /// # Panics
    /// If these are not as many numbers.
    #[must_use]
    pub fn backward(
        &self,
        seen: &Seen,
        looked: &Looked,
        rows: &[Asked],
        gradient: &[f32],
    ) -> Gradients {
        let outputs = Self::outputs(self.buckets);
        assert_eq!(
            gradient.len(),
            rows.len() * outputs,
            "a gradient for each number"
        );
        let ahead = self.ahead(seen, looked, rows);
        let part = rows.len().div_ceil(PARTS).max(1);
        let parts = rows
            .par_chunks(part)
            .zip(gradient.par_chunks(part * outputs));
        let parts = parts.map(|(rows, gradients)| {
            let mut sums = Sums::new(self, seen.items().len(), seen.marks().len());
            widest(|| {
                for (row, gradient) in rows.iter().zip(gradients.chunks_exact(outputs)) {
                    self.row_back((seen, looked, &ahead), *row, gradient, &mut sums);
                }
            });
            sums
        });
        let mut parts = parts.collect::<Vec<_>>().into_iter();
        let mut sums = parts
            .next()
            .unwrap_or_else(|| Sums::new(self, seen.items().len(), seen.marks().len()));
        parts.for_each(|part| sums.add(&part));
        self.behind(seen, looked, &ahead, sums)
    }

    /// Of a row: from what came out to its sums, and from these to its atoms.
    #[inline(always)]
    fn row_back(
        &self,
        (seen, looked, ahead): (&Seen, &Looked, &Ahead),
        row: Asked,
        gradient: &[f32],
        sums: &mut Sums,
    ) {
        let asked = row.item as usize;
        let candidate = &looked.vectors[asked];
        let pooled = self.pool(seen, looked, ahead, row);
        let (mut of_sums, mut of_candidate) = self.unread(&pooled, candidate, gradient);
        let empty = sums.network.empty.as_chunks_mut::<SAID>().0;
        let places = of_sums.iter_mut().zip(&pooled.sums).zip(&pooled.volumes);
        for (((of, sum), volume), empty) in places.zip(empty) {
            if *volume > 0.0 {
                of.iter_mut()
                    .zip(sum)
                    .for_each(|(of, sum)| *of /= 1.0 + sum.abs());
            } else {
                each(empty, of);
            }
        }
        // Of h ⊗ the hidden layer: from it come the product's weights and the candidate.
        let mut crossed = [[0.0; INNER]; WIDTH];
        let (mut of_attention, mut of_bias, mut of_asked) = ([0.0; INNER], 0.0, [0.0; INNER]);
        let weights = &self.weights;
        let attention: &Inner = line(&weights.attention, 0);
        let crossing = self.crossing(candidate);
        let lines = &weights.product.as_chunks::<INNER>().0[..WIDTH];
        for atom in seen.atoms_of(row.request) {
            let (item, place) = (atom.item as usize, atom.mark as usize);
            let (key, mark) = (&looked.vectors[item], &ahead.marks[place]);
            let before = [&ahead.keys[item], &ahead.candidates[asked], &mark.inner];
            let inner = hidden(before, key, &crossing);
            let bends = sigmoid(&inner);
            let mut bent = bends;
            for at in 0..INNER {
                bent[at] *= inner[at];
            }
            let weight = weights.attention_bias[0] + dot(attention, &bent);
            let share = seen.share(item, asked);
            let mut of_said: Said = [0.0; SAID];
            for (side, share) in [share, 1.0 - share].into_iter().enumerate() {
                add(&mut of_said, share, &of_sums[mark.bucket * SIDES + side]);
            }
            let own: &Vector = own(&of_said);
            let told: &[f32; TOLD] = of_said.last_chunk().expect("invariant: the rest of it");
            let mut of_weight = dot(told, &mark.told);
            let (of_inner, of_scale, of_told) = &mut sums.marks[place];
            let of_key = &mut sums.vectors[item];
            for at in 0..WIDTH {
                of_weight += own[at] * key[at] * mark.scale[at];
                of_key[at] += weight * own[at] * mark.scale[at];
                of_scale[at] += weight * own[at] * key[at];
            }
            add(of_told, weight, told);
            of_bias += of_weight;
            add(&mut of_attention, of_weight, &bent);
            let mut below = [0.0; INNER];
            for at in 0..INNER {
                // x σ(x), whose slope is σ (1 + x (1 − σ))
                let slope = bends[at] * (1.0 + inner[at] * (1.0 - bends[at]));
                below[at] = of_weight * attention[at] * slope;
            }
            add(of_inner, 1.0, &below);
            add(&mut sums.keys[item], 1.0, &below);
            add(&mut of_asked, 1.0, &below);
            for at in 0..WIDTH {
                add(&mut crossed[at], key[at], &below);
                of_key[at] += dot(&crossing[at], &below);
            }
        }
        sums.network.attention_bias[0] += of_bias;
        each(&mut sums.network.attention, &of_attention);
        each(&mut sums.candidates[asked], &of_asked);
        let products = sums.network.product.as_chunks_mut::<INNER>().0;
        for at in 0..WIDTH {
            add(&mut products[at], candidate[at], &crossed[at]);
            of_candidate[at] += dot(&crossed[at], &lines[at]);
        }
        each(&mut sums.vectors[asked], &of_candidate);
    }

    /// From what came out to what was read of the sums, and to the candidate.
    fn unread(&self, pooled: &Pooled, candidate: &Vector, gradient: &[f32]) -> (Vec<Said>, Vector) {
        let read = self.read(pooled);
        let (of_read, rest) = gradient.split_at(read.len() * SAID);
        let mut of_read = of_read.as_chunks::<SAID>().0.to_vec();
        let mut rest = rest[read.len()..].iter().copied();
        let mut next = || rest.next().expect("invariant: a gradient for each number");
        let mut of_candidate = [0.0; WIDTH];
        for place in 0..read.len() {
            for other in 0..place {
                let gradient = next();
                for at in 0..WIDTH {
                    of_read[place][at] += gradient * read[other][at];
                    of_read[other][at] += gradient * read[place][at];
                }
            }
        }
        for (of, one) in of_read.iter_mut().zip(&read) {
            let gradient = next();
            for at in 0..WIDTH {
                of[at] += gradient * candidate[at];
                of_candidate[at] += gradient * one[at];
            }
        }
        of_candidate.iter_mut().for_each(|to| *to += next());
        (of_read, of_candidate)
    }

    /// From the sums over atoms to what was computed ahead of them.
    fn behind(&self, seen: &Seen, looked: &Looked, ahead: &Ahead, mut sums: Sums) -> Gradients {
        let weights = &self.weights;
        for (item, vector) in looked.vectors.iter().enumerate() {
            let (keys, candidates) = (&sums.keys[item], &sums.candidates[item]);
            let to = &mut sums.vectors[item];
            outer(&mut sums.network.key, vector, keys);
            back(to, &weights.key, keys);
            outer(&mut sums.network.candidate, vector, candidates);
            back(to, &weights.candidate, candidates);
            each(&mut sums.network.inner_bias, candidates);
        }
        let marks = seen.marks().iter().zip(&ahead.marks).zip(&sums.marks);
        for ((mark, marked), (inner, scale, told)) in marks {
            outer(&mut sums.network.mark, &marked.mark, inner);
            outer(&mut sums.network.scale, &marked.mark, scale);
            outer(&mut sums.network.told, &marked.mark, told);
            let mut of_mark = [0.0; MARK];
            back(&mut of_mark, &weights.mark, inner);
            back(&mut of_mark, &weights.scale, scale);
            back(&mut of_mark, &weights.told, told);
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
        let parts = gradients.network.parts();
        for ((name, shape), values) in self.names().zip(parts) {
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
