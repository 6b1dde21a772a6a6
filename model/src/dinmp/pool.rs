//! Attention over all that a user did, for one candidate after the other: what is computed for every pair of an atom and a candidate.
//!
//! Atoms are taken a few at a time, so that their hidden layers are made side by side; nothing of a pair is kept. Sums are made in the order of the atoms, each in a chain of its
//! own: a candidate's numbers do not depend on who else is asked about, nor on how wide the processor's vectors are.
#![expect(
    clippy::inline_always,
    reason = "only what is compiled into a loop that runs by the processor's own vectors can use them"
)]

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::language::kernel::exp;
use crate::wide::product;

use super::mark::SIDES;
use super::network::{Ahead, INNER, Inner, Looked, Network, Pooled, Row, Vector, WIDTH, add, line};
use super::seen::{Asked, Atom, Seen};

/// Atoms that are computed side by side.
pub(super) const ATOMS: usize = 8;

/// Rows that are computed one after the other, by one thread.
const PIECE: usize = 16;

/// What rows are pooled from.
#[derive(Clone, Copy)]
pub(super) struct Pools<'a> {
    pub(super) network: &'a Network,
    pub(super) seen: &'a Seen,
    pub(super) looked: &'a Looked,
    pub(super) ahead: &'a Ahead,
}

/// Buffers of one candidate after the other.
struct Buffers {
    keys: [Vector; ATOMS],
    inner: [Inner; ATOMS],
    /// Whether a group is the candidate's.
    is_of: Vec<bool>,
    pooled: Pooled,
}

/// Sums of rows, each given to `take` with its number.
struct Rows<'a, T> {
    of: Pools<'a>,
    rows: &'a [Row],
    take: T,
}

impl Network {
    /// The sums of the row at a place.
    #[cfg(test)]
    pub(super) fn pool(&self, seen: &Seen, looked: &Looked, ahead: &Ahead, place: usize) -> Pooled {
        let mut pooled = Pooled::default();
        let of = Pools {
            network: self,
            seen,
            looked,
            ahead,
        };
        of.each(&ahead.rows[place..=place], |_, of_row| {
            pooled = of_row.clone();
        });
        pooled
    }

    /// What comes out for each row, (rows, outputs), of candidates with these vectors, one a row; and what was computed ahead of it, for the way back.
    ///
    /// # Panics
    /// If a row's request or item is not among what is seen, or a mark's kind or stretch not among the network's.
    pub(super) fn forward(
        &self,
        seen: &Seen,
        looked: &Looked,
        (rows, candidates): (&[Asked], &[Vector]),
    ) -> (Vec<f32>, Ahead) {
        let outputs = Self::outputs(self.buckets);
        let ahead = self.ahead(seen, looked, (rows, candidates));
        let mut all = vec![0.0; rows.len() * outputs];
        let of = Pools {
            network: self,
            seen,
            looked,
            ahead: &ahead,
        };
        let fill = |to: &mut [f32], rows: &[Row]| {
            of.each(rows, |place, pooled| {
                let to = &mut to[place * outputs..][..outputs];
                self.write(pooled, &rows[place].candidate, to);
            });
        };
        if rows.len() <= PIECE {
            // A small request is done before other threads have heard of it.
            fill(&mut all, &ahead.rows);
            return (all, ahead);
        }
        let pieces = all.par_chunks_mut(PIECE * outputs);
        pieces
            .zip(ahead.rows.par_chunks(PIECE))
            .for_each(|(to, rows)| fill(to, rows));
        (all, ahead)
    }
}

impl Pools<'_> {
    /// Gives the sums of each row.
    pub(super) fn each(self, rows: &[Row], take: impl FnMut(usize, &Pooled)) {
        Arch::new().dispatch(Rows {
            of: self,
            rows,
            take,
        });
    }
}

#[cfg(test)]
impl Pools<'_> {
    /// The same by these vectors.
    pub(super) fn each_by<S: Simd>(self, simd: S, rows: &[Row], take: impl FnMut(usize, &Pooled)) {
        let of = self;
        S::vectorize(simd, Rows { of, rows, take });
    }
}

impl<T: FnMut(usize, &Pooled)> WithSimd for Rows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { of, rows, mut take } = self;
        let places = of.network.buckets * SIDES;
        let mut buffers = Buffers {
            keys: [[0.0; WIDTH]; ATOMS],
            inner: [[0.0; INNER]; ATOMS],
            is_of: vec![false; of.seen.keys().len()],
            pooled: Pooled {
                sums: vec![[0.0; WIDTH]; places],
                volumes: vec![0.0; places],
            },
        };
        for (place, row) in rows.iter().enumerate() {
            of.pool(simd, row, &mut buffers);
            take(place, &buffers.pooled);
        }
    }
}

/// The inner product of two lines, the first of which is lost: added up by halves, which is the same whatever lies in a vector.
#[inline(always)]
pub(super) fn dot<S: Simd>(simd: S, line: &mut Inner, other: &Inner) -> f32 {
    let (mut line, other) = (S::as_mut_simd_f32s(line).0, S::as_simd_f32s(other).0);
    for (one, other) in line.iter_mut().zip(other) {
        *one = simd.mul_f32s(*one, *other);
    }
    while line.len() > 1 {
        let (low, high) = line.split_at_mut(line.len() / 2);
        for (low, high) in low.iter_mut().zip(high) {
            *low = simd.add_f32s(*low, *high);
        }
        line = low;
    }
    simd.reduce_sum_f32s(line[0])
}

impl Pools<'_> {
    /// Vectors of some atoms' keys, and their hidden layers before they are bent; behind the last atom lies what lay there before.
    #[inline(always)]
    pub(super) fn hidden<S: Simd>(
        self,
        simd: S,
        atoms: &[Atom],
        (candidate, crossing): (&Inner, &[Inner; WIDTH]),
        keys: &mut [Vector; ATOMS],
        inner: &mut [Inner; ATOMS],
    ) {
        let Self { looked, ahead, .. } = self;
        for ((atom, key), inner) in atoms.iter().zip(&mut *keys).zip(&mut *inner) {
            let (item, mark) = (atom.item as usize, &ahead.marks[atom.mark as usize]);
            *key = looked.vectors[item];
            let begun = [&ahead.keys[item], candidate, &mark.inner];
            let [of_key, of_candidate, of_mark] = begun.map(|of| S::as_simd_f32s(of).0);
            let inner = S::as_mut_simd_f32s(inner).0;
            let all = inner.iter_mut().zip(of_key).zip(of_candidate).zip(of_mark);
            for (((inner, key), candidate), mark) in all {
                *inner = simd.add_f32s(*key, simd.add_f32s(*candidate, *mark));
            }
        }
        let (rows, lines) = (keys.as_flattened(), inner.as_flattened_mut());
        product(simd, rows, crossing.as_flattened(), lines, INNER);
    }

    #[inline(always)]
    fn pool<S: Simd>(self, simd: S, row: &Row, buffers: &mut Buffers) {
        let Self {
            network,
            seen,
            ahead,
            ..
        } = self;
        let Buffers {
            keys,
            inner,
            is_of,
            pooled,
        } = buffers;
        let asked = row.asked.item as usize;
        let crossing = network.crossing(&row.candidate);
        let attention: &Inner = line(&network.weights.attention, 0);
        let bias = network.weights.attention_bias[0];
        pooled.sums.as_flattened_mut().fill(0.0);
        pooled.volumes.fill(0.0);
        for group in seen.groups_of(asked) {
            is_of[*group as usize] = true;
        }
        for atoms in seen.atoms_of(row.asked.request).chunks(ATOMS) {
            self.hidden(simd, atoms, (&row.inner, &crossing), keys, inner);
            for line in inner.as_flattened_mut() {
                *line = *line / (1.0 + exp(-*line));
            }
            for ((atom, key), line) in atoms.iter().zip(&*keys).zip(&mut *inner) {
                let mark = &ahead.marks[atom.mark as usize];
                let weight = bias + dot(simd, line, attention);
                let groups = seen.groups_of(atom.item as usize);
                let common = groups.iter().filter(|group| is_of[**group as usize]);
                let share = common.count() as f32 / groups.len().max(1) as f32;
                for (side, share) in [share, 1.0 - share].into_iter().enumerate() {
                    if share != 0.0 {
                        let place = mark.bucket * SIDES + side;
                        pooled.volumes[place] += share;
                        add(&mut pooled.sums[place], weight * share, key);
                    }
                }
            }
        }
        for group in seen.groups_of(asked) {
            is_of[*group as usize] = false;
        }
    }
}
