//! What a block does between its products of matrices, on a CPU: each thing in one pass over memory, and its way back.
//!
//! Elsewhere, and in 16 bits, the same functions are computed by the library ([`library`]).
//!
//! No graph of gradients sees any of it: whoever learns calls the way back himself ([`super::block::learn`]). The library's own operations would make a
//! tensor for every sign of the formulas, on the way back two. All tensors are f32, and lie in one piece. Sums are made in an order that follows from
//! the shapes alone, so that results do not depend on how many threads there are.

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor, bail};
use rayon::prelude::*;

pub(crate) mod alone;
mod library;

/// Numbers that a thread takes at once, about.
const PIECE: usize = 16_384;

/// Cosines and sines of the positions from 0 on, (positions, half of a head's width) each.
pub(crate) type Turn = (Tensor, Tensor);

/// Whether numbers of this kind on this device are computed here, and not by the library.
pub(crate) fn ours(device: &Device, numbers: DType) -> bool {
    device.is_cpu() && numbers != DType::BF16
}

fn is_ours(x: &Tensor) -> bool {
    ours(x.device(), x.dtype())
}

/// A tensor's numbers, while it is held.
struct Floats<H> {
    held: H,
    range: Range<usize>,
}

/// Those of a tensor.
fn floats(tensor: &Tensor) -> Result<Floats<impl Deref<Target = Storage>>> {
    let (held, layout) = tensor.storage_and_layout();
    let (Storage::Cpu(CpuStorage::F32(_)), Some((from, to))) =
        (&*held, layout.contiguous_offsets())
    else {
        bail!("a kernel for the CPU needs f32 in one piece");
    };
    let range = from..to;
    Ok(Floats { held, range })
}

impl<H: Deref<Target = Storage>> Deref for Floats<H> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.held {
            Storage::Cpu(CpuStorage::F32(all)) => &all[self.range.clone()],
            _ => unreachable!("invariant: looked at before"),
        }
    }
}

fn made(values: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// How many rows of a width are a piece.
fn rows_of(width: usize) -> usize {
    (PIECE / width.max(1)).max(1)
}

/// The exponential function within 2 units in the last place, from 2⁻¹²⁶ on (0 below e⁻⁸⁷); without branches, so that a loop over it takes many at once.
#[inline]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding it leaves a whole number in the lowest bits.
    const WHOLE: f32 = 12_582_912.0;
    const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let held = x.clamp(-87.3, 88.3);
    let shifted = held * std::f32::consts::LOG2_E + WHOLE;
    let whole = shifted - WHOLE;
    let rest = held - whole * LN2[0] - whole * LN2[1];
    // Of (e^r - 1 - r) / r², minimax on ±ln 2 / 2 (Cephes, expf).
    let mut sum = 1.987_569_1e-4_f32;
    for coefficient in [
        1.398_2e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        sum = sum * rest + coefficient;
    }
    let near = sum * rest * rest + rest + 1.0;
    let scaled = f32::from_bits(near.to_bits().wrapping_add(shifted.to_bits() << 23));
    if x < -87.0 { 0.0 } else { scaled }
}

/// ln(1 + |x|) with the sign of a finite x, within 2 units in the last place; without branches, as [`exp`].
#[inline]
pub(crate) fn squashed(x: f32) -> f32 {
    // Of the root of 1/2: what is above it up to its double has the exponent 0.
    const ROOT: u32 = 0x3f35_04f3;
    const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let held = x.abs();
    let whole = 1.0 + held;
    // What the sum has lost of x, by the slope of the logarithm.
    let lost = (held - (whole - 1.0)) / whole;
    let shifted = whole.to_bits().wrapping_sub(ROOT);
    let exponent = (shifted.cast_signed() >> 23) as f32;
    let near = f32::from_bits((shifted & 0x007f_ffff) + ROOT) - 1.0;
    let square = near * near;
    // Of (ln (1 + f) - f + f² / 2) / f³, minimax between the roots of 1/2 and 2 (Cephes, logf).
    let mut sum = 7.037_683_6e-2_f32;
    for coefficient in [
        -1.151_461e-1,
        1.167_699_9e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ] {
        sum = sum * near + coefficient;
    }
    let small = sum * near * square + exponent * LN2[1] - 0.5 * square + lost;
    (near + small + exponent * LN2[0]).copysign(x)
}

/// With eight sums side by side: the compiler may not reorder one.
pub(crate) fn dot(one: &[f32], other: &[f32]) -> f32 {
    let mut sums = [0.0; 8];
    let (ones, rest) = one.as_chunks::<8>();
    let (others, other_rest) = other.as_chunks::<8>();
    for (one, other) in ones.iter().zip(others) {
        for lane in 0..8 {
            sums[lane] += one[lane] * other[lane];
        }
    }
    let behind = rest.iter().zip(other_rest).map(|(one, other)| one * other);
    sums.iter().sum::<f32>() + behind.sum::<f32>()
}

fn sum(values: &[f32]) -> f32 {
    let mut sums = [0.0; 8];
    let (eights, rest) = values.as_chunks::<8>();
    for eight in eights {
        for lane in 0..8 {
            sums[lane] += eight[lane];
        }
    }
    sums.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

/// 1 over the root of a row's mean square.
fn shrinking(row: &[f32], epsilon: f32) -> f32 {
    1.0 / (dot(row, row) / row.len() as f32 + epsilon).sqrt()
}

/// Each row over the root of its mean square, times the weight (Zhang & Sennrich 2019, equation 4).
pub(crate) fn norm(x: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor> {
    if !is_ours(x) {
        return library::norm(x, weight, epsilon);
    }
    let (rows, weights) = (floats(x)?, floats(weight)?);
    let width = weights.len();
    let piece = rows_of(width) * width;
    let weights = &*weights;
    let mut out = vec![0.0; rows.len()];
    out.par_chunks_mut(piece)
        .zip(rows.par_chunks(piece))
        .for_each(|(out, rows)| {
            for (out, row) in out.chunks_mut(width).zip(rows.chunks(width)) {
                let scale = shrinking(row, epsilon);
                for ((out, x), weight) in out.iter_mut().zip(row).zip(weights) {
                    *out = x * scale * weight;
                }
            }
        });
    made(out, x.dims())
}

/// The way back of [`norm`]: gradients of the rows, and of the weight in f32.
pub(crate) fn norm_back(
    x: &Tensor,
    weight: &Tensor,
    epsilon: f32,
    gradient: &Tensor,
) -> Result<(Tensor, Tensor)> {
    if !is_ours(x) {
        return library::norm_back(x, weight, epsilon, gradient);
    }
    let (rows, weights, gradients) = (floats(x)?, floats(weight)?, floats(gradient)?);
    let width = weights.len();
    let piece = rows_of(width) * width;
    let weights = &*weights;
    let mut out = vec![0.0; rows.len()];
    let of_weight: Vec<Vec<f32>> = out
        .par_chunks_mut(piece)
        .zip(rows.par_chunks(piece).zip(gradients.par_chunks(piece)))
        .map(|(out, (rows, gradients))| {
            let mut of_weight = vec![0.0; width];
            let rows = rows.chunks(width).zip(gradients.chunks(width));
            for (out, (row, gradient)) in out.chunks_mut(width).zip(rows) {
                let scale = shrinking(row, epsilon);
                for (out, (weight, gradient)) in out.iter_mut().zip(weights.iter().zip(gradient)) {
                    *out = weight * gradient;
                }
                let along = dot(out, row) * scale * scale / width as f32;
                let each = out.iter_mut().zip(&mut of_weight);
                for ((out, of_weight), (x, gradient)) in each.zip(row.iter().zip(gradient)) {
                    *of_weight += gradient * x * scale;
                    *out = (*out - x * along) * scale;
                }
            }
            of_weight
        })
        .collect();
    Ok((
        made(out, x.dims())?,
        made(added(of_weight, width), &[width])?,
    ))
}

fn added(parts: Vec<Vec<f32>>, width: usize) -> Vec<f32> {
    parts.into_iter().fold(vec![0.0; width], |mut all, part| {
        all.iter_mut()
            .zip(part)
            .for_each(|(all, part)| *all += part);
        all
    })
}

/// Sums over rows, (rows, width) to (width), in f32: the gradient of a bias.
pub(crate) fn over_rows(x: &Tensor) -> Result<Tensor> {
    if !is_ours(x) {
        return library::over_rows(x);
    }
    let width = x.dim(candle_core::D::Minus1)?;
    let rows = floats(x)?;
    let parts = rows
        .par_chunks(rows_of(width) * width)
        .map(|rows| added(rows.chunks(width).map(<[f32]>::to_vec).collect(), width))
        .collect();
    made(added(parts, width), &[width])
}

/// Turns the halves of a head against each other by a position's angles (Su et al. 2021, equation 34, halves in place of pairs); `sign` −1 turns back.
fn turned(to: &mut [f32], from: &[f32], (cosines, sines): (&[f32], &[f32]), sign: f32) {
    let half = cosines.len();
    let (low, high) = to.split_at_mut(half);
    let (from_low, from_high) = from.split_at(half);
    let angles = cosines.iter().zip(sines);
    let from = from_low.iter().zip(from_high);
    for (((low, high), (cosine, sine)), (from_low, from_high)) in
        low.iter_mut().zip(high).zip(angles).zip(from)
    {
        let sine = sign * sine;
        *low = from_low * cosine - from_high * sine;
        *high = from_high * cosine + from_low * sine;
    }
}

/// (batch, positions, heads · head width) to (batch, heads, positions, head width), each head turned by its position where that is asked for.
pub(crate) fn split(x: &Tensor, heads: usize, turn: Option<&Turn>) -> Result<Tensor> {
    if !is_ours(x) {
        return library::split(x, heads, turn);
    }
    let (batch, positions, all) = x.dims3()?;
    let out = moved(x, [positions, heads, all / heads], true, turn, 1.0)?;
    made(out, &[batch, heads, positions, all / heads])
}

/// The way back: (batch, heads, positions, head width) to (batch, positions, heads · head width), turned back.
pub(crate) fn join(x: &Tensor, turn: Option<&Turn>) -> Result<Tensor> {
    if !is_ours(x) {
        return library::join(x, turn);
    }
    let (batch, heads, positions, wide) = x.dims4()?;
    let out = moved(x, [positions, heads, wide], false, turn, -1.0)?;
    made(out, &[batch, positions, heads * wide])
}

fn moved(
    x: &Tensor,
    [positions, heads, wide]: [usize; 3],
    apart: bool,
    turn: Option<&Turn>,
    sign: f32,
) -> Result<Vec<f32>> {
    let from = floats(x)?;
    let angles = turn
        .map(|(cosines, sines)| Ok::<_, candle_core::Error>((floats(cosines)?, floats(sines)?)))
        .transpose()?;
    let angles = angles
        .as_ref()
        .map(|(cosines, sines)| (&**cosines, &**sines));
    let half = wide / 2;
    let one = positions * heads * wide;
    let piece = (PIECE / one.max(1)).max(1) * one;
    let mut out = vec![0.0; from.len()];
    out.par_chunks_mut(piece.max(1))
        .zip(from.par_chunks(piece.max(1)))
        .for_each(|(out, from)| {
            for (out, from) in out.chunks_mut(one).zip(from.chunks(one)) {
                for position in 0..positions {
                    for head in 0..heads {
                        let together = (position * heads + head) * wide;
                        let by_head = (head * positions + position) * wide;
                        let (to, at) = if apart {
                            (by_head, together)
                        } else {
                            (together, by_head)
                        };
                        let (to, from) = (&mut out[to..to + wide], &from[at..at + wide]);
                        match angles {
                            Some((cosines, sines)) => {
                                let at = position * half..(position + 1) * half;
                                turned(to, from, (&cosines[at.clone()], &sines[at]), sign);
                            }
                            None => to.copy_from_slice(from),
                        }
                    }
                }
            }
        });
    Ok(out)
}

/// Attention of scores, (any, rows, positions), of which row r is of position r mod positions: scaled, nothing ahead, each row's sum 1 (Vaswani et al.
/// 2017, equation 1, under a causal mask). `ahead` is that mask, as large as the scores: the library needs one.
pub(crate) fn attention(scores: &Tensor, scale: f32, ahead: Option<&Tensor>) -> Result<Tensor> {
    if !is_ours(scores) {
        let Some(ahead) = ahead else {
            bail!("attention by the library needs a mask");
        };
        return library::attention(scores, scale, ahead);
    }
    let positions = scores.dim(candle_core::D::Minus1)?;
    let all = floats(scores)?;
    let rows = rows_of(positions);
    let mut out = vec![0.0; all.len()];
    out.par_chunks_mut(rows * positions)
        .zip(all.par_chunks(rows * positions))
        .enumerate()
        .for_each(|(piece, (out, scores))| {
            let pairs = out.chunks_mut(positions).zip(scores.chunks(positions));
            for (row, (out, scores)) in pairs.enumerate() {
                let seen = (piece * rows + row) % positions + 1;
                let (out, scores) = (&mut out[..seen], &scores[..seen]);
                let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                for (out, score) in out.iter_mut().zip(scores) {
                    *out = exp((score - highest) * scale);
                }
                let part = 1.0 / sum(out);
                out.iter_mut().for_each(|out| *out *= part);
            }
        });
    made(out, scores.dims())
}

/// The way back of [`attention`], from what it gave: the gradient of the scores.
pub(crate) fn attention_back(weights: &Tensor, scale: f32, gradient: &Tensor) -> Result<Tensor> {
    if !is_ours(weights) {
        return library::attention_back(weights, scale, gradient);
    }
    let positions = weights.dim(candle_core::D::Minus1)?;
    let (all, gradients) = (floats(weights)?, floats(gradient)?);
    let rows = rows_of(positions);
    let mut out = vec![0.0; all.len()];
    out.par_chunks_mut(rows * positions)
        .zip(all.par_chunks(rows * positions))
        .zip(gradients.par_chunks(rows * positions))
        .enumerate()
        .for_each(|(piece, ((out, weights), gradients))| {
            let pairs = weights.chunks(positions).zip(gradients.chunks(positions));
            for (row, (out, (weights, gradients))) in
                out.chunks_mut(positions).zip(pairs).enumerate()
            {
                let seen = (piece * rows + row) % positions + 1;
                let mean = dot(&weights[..seen], &gradients[..seen]);
                for (out, (weight, gradient)) in
                    out[..seen].iter_mut().zip(weights.iter().zip(gradients))
                {
                    *out = scale * weight * (gradient - mean);
                }
            }
        });
    made(out, weights.dims())
}

/// silu(gate) · up (Shazeer 2020, equation 6).
pub(crate) fn gate(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if !is_ours(gate) {
        return library::gate(gate, up);
    }
    let (gates, ups) = (floats(gate)?, floats(up)?);
    let mut out = vec![0.0; gates.len()];
    out.par_chunks_mut(PIECE)
        .zip(gates.par_chunks(PIECE).zip(ups.par_chunks(PIECE)))
        .for_each(|(out, (gates, ups))| {
            for (out, (gate, up)) in out.iter_mut().zip(gates.iter().zip(ups)) {
                *out = gate / (1.0 + exp(-gate)) * up;
            }
        });
    made(out, gate.dims())
}

/// The way back of [`gate`]: gradients of the gate and of what it lets through.
pub(crate) fn gate_back(gate: &Tensor, up: &Tensor, gradient: &Tensor) -> Result<(Tensor, Tensor)> {
    if !is_ours(gate) {
        return library::gate_back(gate, up, gradient);
    }
    let (gates, ups, gradients) = (floats(gate)?, floats(up)?, floats(gradient)?);
    let (mut of_gate, mut of_up) = (vec![0.0; gates.len()], vec![0.0; gates.len()]);
    of_gate
        .par_chunks_mut(PIECE)
        .zip(of_up.par_chunks_mut(PIECE))
        .zip(gates.par_chunks(PIECE).zip(ups.par_chunks(PIECE)))
        .zip(gradients.par_chunks(PIECE))
        .for_each(|(((of_gate, of_up), (gates, ups)), gradients)| {
            let outs = of_gate.iter_mut().zip(of_up);
            let ins = gates.iter().zip(ups).zip(gradients);
            for ((of_gate, of_up), ((gate, up), gradient)) in outs.zip(ins) {
                let open = 1.0 / (1.0 + exp(-gate));
                *of_up = gradient * gate * open;
                *of_gate = gradient * up * open * (1.0 + gate * (1.0 - open));
            }
        });
    Ok((made(of_gate, gate.dims())?, made(of_up, gate.dims())?))
}

/// The same numbers so many times, (times, numbers).
pub(crate) fn repeated(x: &Tensor, times: usize) -> Result<Tensor> {
    library::repeated(x, times)
}

/// Sums of the rows, (rows, width), that have the same index, (rows): (count, width), in f32.
pub(crate) fn added_by_index(rows: &Tensor, index: &Tensor, count: usize) -> Result<Tensor> {
    if !is_ours(rows) {
        return library::added_by_index(rows, index, count);
    }
    let zeros = Tensor::zeros((count, rows.dim(1)?), rows.dtype(), rows.device())?;
    zeros.index_add(index, rows, 0)
}

/// The rows, (any, width), that an index names, (rows): with the library's gradients.
pub(crate) fn picked(rows: &Tensor, index: &Tensor) -> Result<Tensor> {
    if !is_ours(rows) {
        return library::picked(rows, index);
    }
    rows.index_select(index, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the exponential is right wherever it is asked for, and no NaN is made a number. Method: against f64 over its whole range, and the extremes.
    #[test]
    fn the_exponential_is_right_to_the_last_places() {
        let mut worst = 0.0_f64;
        for step in -86_900..88_200 {
            let x = step as f32 / 1_000.0;
            let right = f64::from(x).exp();
            worst = worst.max(((f64::from(exp(x)) - right) / right).abs());
        }
        assert!(worst < 2.5e-7, "{worst}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e30), 0.0);
        assert!(exp(f32::INFINITY) > 1e38);
        assert!(exp(f32::NAN).is_nan() && exp(-f32::NAN).is_nan());
    }

    /// Goal: the squashed number is right wherever it is asked for, and no NaN is made a number. Method: against f64 over all magnitudes of both signs, and the extremes.
    #[test]
    fn squashed_numbers_are_right_to_the_last_places() {
        let mut worst = 0.0_f64;
        for step in -600_000..600_000 {
            let x = 10_f32.powf(step as f32 / 20_000.0);
            let right = f64::from(x).ln_1p();
            worst = worst.max(((f64::from(squashed(x)) - right) / right).abs());
            assert_eq!(squashed(-x), -squashed(x));
        }
        assert!(worst < 2.5e-7, "{worst}");
        assert_eq!(squashed(0.0), 0.0);
        assert_eq!(squashed(f32::MIN_POSITIVE), f32::MIN_POSITIVE);
        assert!((squashed(f32::MAX) - 88.722_84).abs() < 1e-4);
        assert!(squashed(f32::NAN).is_nan());
    }

    /// Goal: what these kernels cannot read they refuse. Method: f64, and a tensor that does not lie in one piece.
    #[test]
    fn odd_tensors_are_refused() {
        let one = Tensor::ones((4, 4), candle_core::DType::F64, &Device::Cpu).unwrap();
        assert!(norm(&one, &one.get(0).unwrap(), 1e-5).is_err());
        let lying = Tensor::ones((4, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        let weight = Tensor::ones(4, candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(norm(&lying.t().unwrap(), &weight, 1e-5).is_err());
    }
}
