//! Self-attention among a row's buckets: each takes in what the others hold, by how they go together.
//!
//! Over the sums R as they are read, (places, WIDTH), with a learned vector of each place E: `R' = R + softmax((R + E) M (R + E)ᵀ / √WIDTH) R V`, one head (Vaswani et al. 2017; among fields of a row `AutoInt`, Song et al. 2019).
//! Weights of queries and of keys are met in their product alone, so they are one matrix M. V begins at zero: R' is R until something is learned. What is made of R' is products, with the candidate
//! and of pairs; the head reads R itself beside them, so that the way back finds all that it needs in what came out.
#![expect(
    clippy::inline_always,
    reason = "only what is compiled into a loop that runs by the processor's own vectors can use them"
)]

use std::borrow::Cow;

use crate::language::kernel::exp;

use super::learn::{back, each, outer};
use super::network::{Network, Vector, WIDTH, Weights, add, dot, line, through};

/// 1 / √WIDTH
pub(super) const SCALE: f32 = 0.25;
const _: () = assert!(WIDTH == 16, "SCALE is its root's inverse");

/// What comes of some buckets on the way.
struct Look {
    /// R + E.
    placed: Vec<Vector>,
    /// (R + E) M.
    turned: Vec<Vector>,
    /// R V.
    values: Vec<Vector>,
    /// What each takes of each, (places, places): lines add up to 1.
    shares: Vec<f32>,
}

#[inline(always)]
fn through_all(of: &[Vector], weights: &[f32]) -> Vec<Vector> {
    let one = |of: &Vector| {
        let mut to = [0.0; WIDTH];
        through(of, weights, &mut to);
        to
    };
    of.iter().map(one).collect()
}

impl Network {
    #[inline(always)]
    fn look(&self, read: &[Vector]) -> Look {
        let weights = &self.weights;
        let mut placed = read.to_vec();
        for (place, of) in placed.iter_mut().enumerate() {
            add(of, 1.0, line(&weights.among_places, place));
        }
        let turned = through_all(&placed, &weights.among);
        let mut shares = Vec::with_capacity(read.len() * read.len());
        for one in &turned {
            let from = shares.len();
            shares.extend(placed.iter().map(|other| SCALE * dot(one, other)));
            let of_one = &mut shares[from..];
            let most = of_one.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            of_one
                .iter_mut()
                .for_each(|share| *share = exp(*share - most));
            let all: f32 = of_one.iter().sum();
            of_one.iter_mut().for_each(|share| *share /= all);
        }
        Look {
            values: through_all(read, &weights.among_values),
            placed,
            turned,
            shares,
        }
    }

    /// Buckets after they have looked at each other; without self-attention as they are.
    #[inline(always)]
    pub(super) fn mixed<'a>(&self, read: &'a [Vector]) -> Cow<'a, [Vector]> {
        if !self.reads.self_attention {
            return Cow::Borrowed(read);
        }
        let look = self.look(read);
        let mut mixed = read.to_vec();
        for (to, shares) in mixed.iter_mut().zip(look.shares.chunks(read.len())) {
            for (share, value) in shares.iter().zip(&look.values) {
                add(to, *share, value);
            }
        }
        Cow::Owned(mixed)
    }

    /// The way back: from gradients of what is mixed to those of what was read, which take their place, and of the weights, which are added to `sums`.
    #[inline(always)]
    pub(super) fn unmix(&self, read: &[Vector], of: &mut [Vector], sums: &mut Weights) {
        let (weights, look, places) = (&self.weights, self.look(read), read.len());
        let mut of_values = vec![[0.0; WIDTH]; places];
        let mut of_placed = vec![[0.0; WIDTH]; places];
        for (place, of) in of.iter().enumerate() {
            let shares = &look.shares[place * places..][..places];
            let mut of_shares = Vec::with_capacity(places);
            for ((share, value), to) in shares.iter().zip(&look.values).zip(&mut of_values) {
                of_shares.push(dot(of, value));
                add(to, *share, of);
            }
            let mean: f32 = shares.iter().zip(&of_shares).map(|(a, b)| a * b).sum();
            let mut of_turned = [0.0; WIDTH];
            for (other, (share, of_share)) in shares.iter().zip(of_shares).enumerate() {
                let slope = SCALE * share * (of_share - mean);
                add(&mut of_turned, slope, &look.placed[other]);
                add(&mut of_placed[other], slope, &look.turned[place]);
            }
            outer(&mut sums.among, &look.placed[place], &of_turned);
            back(&mut of_placed[place], &weights.among, &of_turned);
        }
        let all = of
            .iter_mut()
            .zip(read)
            .zip(of_values.iter().zip(&of_placed));
        for ((of, read), (of_value, of_placed)) in all {
            outer(&mut sums.among_values, read, of_value);
            back(of, &weights.among_values, of_value);
            each(of, of_placed);
        }
        each(&mut sums.among_places, of_placed.as_flattened());
    }
}
