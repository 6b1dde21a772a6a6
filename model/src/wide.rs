//! Products of a few rows with a matrix, by the widest vectors that the processor has: where scores are made.
//!
//! A number that comes out is one chain of fused multiplications and additions over the inputs, in their order. What is computed side by side (numbers of a row, rows) never meets, so
//! one row has the same bits alone and among others, and on every processor: vectors of 16, 8, 4 or 1. One that has no fused operation computes the same, slowly.
#![expect(
    clippy::inline_always,
    reason = "only what is compiled into a loop that runs by the processor's own vectors can use them"
)]

use pulp::{Arch, Simd, WithSimd};

/// Rows that are computed side by side: a vector of weights is read once for all of them.
const ROWS: usize = 8;
/// Vectors of one row that are computed side by side, where there is one row: a chain waits for itself.
const VECTORS: usize = 8;

/// Runs something with all that the processor has; loops that are inlined there become vectors. Nothing is fused that does not say so.
pub(crate) fn widest<R>(run: impl FnOnce() -> R) -> R {
    Arch::new().dispatch(run)
}

/// `out += rows · weights`: (rows, outputs), (rows, inputs), (inputs, outputs).
///
/// # Panics
/// If they are not of these shapes.
pub(crate) fn add_product(rows: &[f32], weights: &[f32], out: &mut [f32], outputs: usize) {
    Arch::new().dispatch(Product {
        rows,
        weights,
        out,
        outputs,
    });
}

struct Product<'a> {
    rows: &'a [f32],
    weights: &'a [f32],
    out: &'a mut [f32],
    outputs: usize,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            rows,
            weights,
            out,
            outputs,
        } = self;
        product(simd, rows, weights, out, outputs);
    }
}

/// The same within another's loop.
#[inline(always)]
pub(crate) fn product<S: Simd>(
    simd: S,
    rows: &[f32],
    weights: &[f32],
    out: &mut [f32],
    outputs: usize,
) {
    let inputs = weights.len() / outputs.max(1);
    assert!(
        weights.len() == inputs * outputs && rows.len() * outputs == out.len() * inputs,
        "rows, weights and lines of one product"
    );
    if inputs == 0 || outputs == 0 {
        return;
    }
    if !outputs.is_multiple_of(S::F32_LANES) {
        for (row, out) in rows.chunks(inputs).zip(out.chunks_mut(outputs)) {
            for (value, weights) in row.iter().zip(weights.chunks(outputs)) {
                for (to, weight) in out.iter_mut().zip(weights) {
                    *to = value.mul_add(*weight, *to);
                }
            }
        }
        return;
    }
    let weights = S::as_simd_f32s(weights).0;
    let vectors = outputs / S::F32_LANES;
    let mut blocks = rows.chunks_exact(ROWS * inputs);
    let mut outs = out.chunks_exact_mut(ROWS * outputs);
    for (rows, out) in (&mut blocks).zip(&mut outs) {
        let out = S::as_mut_simd_f32s(out).0;
        for at in 0..vectors {
            block::<S, ROWS, 1>(simd, rows, inputs, (weights, vectors, at), out);
        }
    }
    let rest = blocks.remainder().chunks_exact(inputs);
    for (row, out) in rest.zip(outs.into_remainder().chunks_exact_mut(outputs)) {
        let out = S::as_mut_simd_f32s(out).0;
        let mut at = 0;
        while at + VECTORS <= vectors {
            block::<S, 1, VECTORS>(simd, row, inputs, (weights, vectors, at), out);
            at += VECTORS;
        }
        while at < vectors {
            block::<S, 1, 1>(simd, row, inputs, (weights, vectors, at), out);
            at += 1;
        }
    }
}

/// A few rows, and a few vectors of their lines from `at` on: all chains of it at once.
#[inline(always)]
fn block<S: Simd, const R: usize, const V: usize>(
    simd: S,
    rows: &[f32],
    inputs: usize,
    (weights, vectors, at): (&[S::f32s], usize, usize),
    out: &mut [S::f32s],
) {
    let mut chains = [[simd.splat_f32s(0.0); V]; R];
    for (row, chains) in chains.iter_mut().enumerate() {
        chains.copy_from_slice(&out[row * vectors + at..][..V]);
    }
    let rows: [&[f32]; R] = std::array::from_fn(|row| &rows[row * inputs..][..inputs]);
    for (input, weights) in weights.chunks_exact(vectors).enumerate() {
        let weights = &weights[at..at + V];
        for (row, chains) in rows.iter().zip(&mut chains) {
            let value = simd.splat_f32s(row[input]);
            for (chain, weights) in chains.iter_mut().zip(weights) {
                *chain = simd.mul_add_f32s(value, *weights, *chain);
            }
        }
    }
    for (row, chains) in chains.iter().enumerate() {
        out[row * vectors + at..][..V].copy_from_slice(chains);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::Numbers;

    /// The same by the definition.
    fn naive(rows: &[f32], weights: &[f32], out: &mut [f32], outputs: usize) {
        let inputs = weights.len() / outputs;
        for (row, out) in rows.chunks(inputs).zip(out.chunks_mut(outputs)) {
            for (at, to) in out.iter_mut().enumerate() {
                for (input, value) in row.iter().enumerate() {
                    *to = value.mul_add(weights[input * outputs + at], *to);
                }
            }
        }
    }

    /// Goal: the same bits on every processor, for every number of rows. Method: products of many shapes with vectors of all widths that there are here, against the definition.
    #[test]
    fn all_widths_give_the_same_bits() {
        let mut numbers = Numbers(3);
        for (rows, inputs, outputs) in [
            (1, 16, 32),
            (7, 16, 32),
            (8, 346, 128),
            (9, 128, 64),
            (21, 5, 144),
            (3, 4, 1),
            (17, 3, 24),
            (2, 1, 16),
        ] {
            let a = numbers.normal(rows * inputs, 1.0);
            let weights = numbers.normal(inputs * outputs, 1.0);
            let begun = numbers.normal(rows * outputs, 1.0);
            let mut wanted = begun.clone();
            naive(&a, &weights, &mut wanted, outputs);
            let same = |what: &str, run: &dyn Fn(Product<'_>)| {
                let mut out = begun.clone();
                run(Product {
                    rows: &a,
                    weights: &weights,
                    out: &mut out,
                    outputs,
                });
                let bits = |of: &[f32]| of.iter().map(|one| one.to_bits()).collect::<Vec<_>>();
                assert_eq!(
                    bits(&out),
                    bits(&wanted),
                    "{what} {rows} {inputs} {outputs}"
                );
            };
            same("1", &|product| {
                Simd::vectorize(pulp::Scalar::new(), product);
            });
            same("the widest", &|product| Arch::new().dispatch(product));
            #[cfg(target_arch = "x86_64")]
            {
                let lacks =
                    |what: &str| println!("SKIPPED: vectors of {what}: this processor has none");
                match pulp::x86::V2::try_new() {
                    Some(simd) => same("4", &|product| Simd::vectorize(simd, product)),
                    None => lacks("4"),
                }
                match pulp::x86::V3::try_new() {
                    Some(simd) => same("8", &|product| Simd::vectorize(simd, product)),
                    None => lacks("8"),
                }
                match pulp::x86::V4::try_new() {
                    Some(simd) => same("16", &|product| Simd::vectorize(simd, product)),
                    None => lacks("16"),
                }
            }
        }
    }
}
