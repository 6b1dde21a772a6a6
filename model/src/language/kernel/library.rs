//! The same as [`super`] of the tensor library's operations, without a graph: on a GPU, where ours do not run, and in 16 bits.
//!
//! Sums over rows or columns are products with ones (which add up in f32, whatever they take), and picking rows is one with zeros and ones: the library's own kernels
//! for these give a whole GPU's work to a few of its threads. What is the same for a whole row or column is
//! made as large as what it meets ([`spread`]): the library divides twice a dimension and number where shapes differ.

use candle_core::{D, DType, Result, Tensor};
use candle_nn::ops::{rms_norm, sigmoid, softmax_last_dim};
use candle_nn::rotary_emb::rope;

use super::Turn;

pub(super) fn norm(x: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor> {
    let weight = weight.detach().to_dtype(x.dtype())?;
    rms_norm(&x.contiguous()?, &weight, epsilon)
}

pub(super) fn norm_back(
    x: &Tensor,
    weight: &Tensor,
    epsilon: f32,
    gradient: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let width = weight.elem_count();
    let (numbers, device) = (x.dtype(), x.device());
    let rows = |of: &Tensor| of.contiguous()?.reshape(((), width))?.to_dtype(numbers);
    let (wide, gradient) = (rows(x)?, rows(gradient)?);
    let weight = weight.detach().to_dtype(numbers)?;
    let across = Tensor::ones((1, width), numbers, device)?;
    let down = Tensor::ones((gradient.dim(0)?, 1), numbers, device)?;
    let squares = (wide.sqr()?.matmul(&across.t()?)? / width as f64)?;
    let scale = (squares.to_dtype(DType::F32)? + f64::from(epsilon))?;
    let scale = scale.sqrt()?.recip()?.to_dtype(numbers)?;
    let normed = rms_norm(&wide, &across.squeeze(0)?, epsilon)?;
    let both = (&normed * &gradient)?;
    let of_weight = over_rows(&both)?;
    let along = (both.matmul(&weight.unsqueeze(1)?)? / width as f64)?;
    let of_normed = (gradient * spread(&down, &weight.unsqueeze(0)?)?)?;
    let out = (of_normed - (normed * spread(&along, &across)?)?)?;
    let out = (out * spread(&scale, &across)?)?;
    Ok((out.reshape(x.shape())?, of_weight))
}

/// A column, (rows, 1), times a row, (1, width).
fn spread(column: &Tensor, row: &Tensor) -> Result<Tensor> {
    column.matmul(row)
}

/// In f32.
pub(super) fn over_rows(x: &Tensor) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    let rows = x.reshape(((), width))?;
    let ones = Tensor::ones((1, rows.dim(0)?), x.dtype(), x.device())?;
    ones.matmul(&rows)?.squeeze(0)?.to_dtype(DType::F32)
}

pub(super) fn split(x: &Tensor, heads: usize, turn: Option<&Turn>) -> Result<Tensor> {
    let (batch, positions, all) = x.dims3()?;
    let apart = x
        .reshape((batch, positions, heads, all / heads))?
        .transpose(1, 2)?
        .contiguous()?;
    match turn {
        Some((cosines, sines)) => rope(&apart, cosines, sines),
        None => Ok(apart),
    }
}

pub(super) fn join(x: &Tensor, turn: Option<&Turn>) -> Result<Tensor> {
    let (batch, heads, positions, wide) = x.dims4()?;
    let turned = match turn {
        Some((cosines, sines)) => rope(&x.contiguous()?, cosines, &sines.neg()?)?,
        None => x.clone(),
    };
    turned
        .transpose(1, 2)?
        .reshape((batch, positions, heads * wide))
}

pub(super) fn attention(scores: &Tensor, scale: f32, ahead: &Tensor) -> Result<Tensor> {
    let scaled = scaled(scores, scale)?;
    softmax_last_dim(&(scaled + ahead)?)
}

fn scaled(x: &Tensor, scale: f32) -> Result<Tensor> {
    if scale == 1.0 {
        Ok(x.clone())
    } else {
        x * f64::from(scale)
    }
}

pub(super) fn attention_back(weights: &Tensor, scale: f32, gradient: &Tensor) -> Result<Tensor> {
    let positions = weights.dim(D::Minus1)?;
    let ones = Tensor::ones((1, positions), weights.dtype(), weights.device())?;
    let both = (weights * gradient)?.reshape(((), positions))?;
    let mean = spread(&both.matmul(&ones.t()?)?, &ones)?.reshape(weights.shape())?;
    scaled(&(weights * (gradient - mean)?)?, scale)
}

pub(super) fn gate(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.silu()? * up
}

pub(super) fn gate_back(gate: &Tensor, up: &Tensor, gradient: &Tensor) -> Result<(Tensor, Tensor)> {
    let open = sigmoid(gate)?;
    let silu = (gate * &open)?;
    let of_up = (gradient * &silu)?;
    let slope = (open * ((gate - silu)? + 1.0)?)?;
    Ok((((gradient * up)? * slope)?, of_up))
}

pub(super) fn repeated(x: &Tensor, times: usize) -> Result<Tensor> {
    let ones = Tensor::ones((times, 1), x.dtype(), x.device())?;
    spread(&ones, &x.reshape((1, ()))?)
}

/// In f32.
pub(super) fn added_by_index(rows: &Tensor, index: &Tensor, count: usize) -> Result<Tensor> {
    let of = Tensor::arange(0, count as u32, rows.device())?.unsqueeze(1)?;
    let picks = of
        .broadcast_eq(&index.unsqueeze(0)?)?
        .to_dtype(DType::F32)?;
    picks.matmul(&rows.to_dtype(DType::F32)?)
}

/// With a way back, to `rows` alone that is of use.
pub(super) fn picked(rows: &Tensor, index: &Tensor) -> Result<Tensor> {
    let all = Tensor::arange(0, rows.dim(0)? as u32, rows.device())?.unsqueeze(0)?;
    let picks = index.unsqueeze(1)?.broadcast_eq(&all)?;
    picks.to_dtype(rows.dtype())?.matmul(rows)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::super as ours;
    use super::*;
    use crate::language::block::causal_mask;
    use crate::numbers::Numbers;

    fn random(seed: u64, shape: &[usize]) -> Tensor {
        let values = Numbers(seed).normal(shape.iter().product(), 1.0);
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn agree(name: &str, one: &Tensor, other: &Tensor) {
        assert_eq!(one.dims(), other.dims(), "{name}");
        let off = (one - other).unwrap().abs().unwrap().max_all().unwrap();
        let off = off.to_scalar::<f32>().unwrap();
        assert!(off < 2e-5, "{name}: {off}");
    }

    /// Goal: both ways to compute a block, and its way back, are one. Method: each function by both on a CPU, on values that look like nothing.
    #[test]
    fn the_library_gives_what_ours_give() {
        let (batch, heads, positions, wide) = (3, 4, 7, 6);
        let width = heads * wide;
        let (x, gradient) = (
            random(1, &[batch, positions, width]),
            random(2, &[batch, positions, width]),
        );
        let weight = random(3, &[width]);
        agree(
            "norm",
            &norm(&x, &weight, 1e-5).unwrap(),
            &ours::norm(&x, &weight, 1e-5).unwrap(),
        );
        let (of_x, of_weight) = norm_back(&x, &weight, 1e-5, &gradient).unwrap();
        let right = ours::norm_back(&x, &weight, 1e-5, &gradient).unwrap();
        agree("norm's way back", &of_x, &right.0);
        agree("norm's weight", &of_weight, &right.1);
        let rows = x.reshape(((), width)).unwrap();
        agree(
            "rows",
            &over_rows(&rows).unwrap(),
            &ours::over_rows(&rows).unwrap(),
        );

        let angles = random(4, &[positions, wide / 2]);
        let turn = (angles.cos().unwrap(), angles.sin().unwrap());
        for turn in [None, Some(&turn)] {
            let apart = split(&x, heads, turn).unwrap();
            agree("split", &apart, &ours::split(&x, heads, turn).unwrap());
            let together = join(&apart, turn).unwrap();
            agree("join", &together, &ours::join(&apart, turn).unwrap());
            agree("there and back", &together, &x);
        }

        let scores = random(5, &[batch * 2, 2 * positions, positions]);
        let ahead = causal_mask(positions, &scores).unwrap();
        let ahead = repeated(&ahead, batch * 4).unwrap();
        let ahead = ahead.reshape(scores.shape()).unwrap();
        let weights = attention(&scores, 0.4, &ahead).unwrap();
        agree(
            "attention",
            &weights,
            &ours::attention(&scores, 0.4, None).unwrap(),
        );
        let gradient = random(6, &[batch * 2, 2 * positions, positions]);
        agree(
            "attention's way back",
            &attention_back(&weights, 0.4, &gradient).unwrap(),
            &ours::attention_back(&weights, 0.4, &gradient).unwrap(),
        );

        let (open, up) = (random(7, &[5, 9]), random(8, &[5, 9]));
        agree(
            "gate",
            &gate(&open, &up).unwrap(),
            &ours::gate(&open, &up).unwrap(),
        );
        let gradient = random(9, &[5, 9]);
        let (of_gate, of_up) = gate_back(&open, &up, &gradient).unwrap();
        let right = ours::gate_back(&open, &up, &gradient).unwrap();
        agree("gate's way back", &of_gate, &right.0);
        agree("up's way back", &of_up, &right.1);
    }

    /// Goal: rows are picked and added by index as the library's own operations do, with the same gradients. Method: an index with repetitions, both ways.
    #[test]
    fn products_pick_and_add_rows() {
        let rows = Var::from_tensor(&random(1, &[4, 5])).unwrap();
        let index = Tensor::new(&[2_u32, 0, 2, 3, 3, 2], &Device::Cpu).unwrap();
        let weights = random(2, &[6, 5]);
        let gradient = |picked: &Tensor| {
            let loss = (picked * &weights).unwrap().sum_all().unwrap();
            let gradients = loss.backward().unwrap();
            gradients.get(rows.as_tensor()).unwrap().clone()
        };
        let (one, other) = (
            picked(&rows, &index).unwrap(),
            rows.index_select(&index, 0).unwrap(),
        );
        agree("picked", &one, &other);
        agree("picked's way back", &gradient(&one), &gradient(&other));
        agree(
            "added",
            &added_by_index(&weights, &index, 4).unwrap(),
            &ours::added_by_index(&weights, &index, 4).unwrap(),
        );
    }
}
