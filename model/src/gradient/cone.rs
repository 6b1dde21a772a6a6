//! Two nearest points that several rules need, by one small solver.
//!
//! Vectors come as their coordinates in the gradients' span ([`super::eigen::Eigen::coordinates`]), a few numbers each: a solver of the Gram matrix itself would
//! square what is small, and lose opposed gradients beside one that is a million times shorter.

use super::gram::inner;

/// Part of the target's size below which a slope is as good as none.
const MET: f64 = 1e-13;

/// Part of a column's own size below which it lies in the span of the others.
const DEPENDENT: f64 = 1e-10;

/// The nearest to Σᵢ αᵢ gᵢ of all vectors that harm no task (their inner product with no gᵢ is negative: the dual cone of the gradients): what
/// to add to the coefficients, none of it negative. By duality it is min over y ≥ 0 of ‖Σᵢ (αᵢ + yᵢ) gᵢ‖.
pub(super) fn repair(vectors: &[Vec<f64>], coefficients: &[f64]) -> Vec<f64> {
    let mut against = sum(vectors, coefficients);
    against.iter_mut().for_each(|value| *value = -*value);
    nonnegative(vectors, &against)
}

/// The shortest vector of the vectors' convex hull, as parts of them, which sum to 1.
///
/// With x = s·α, s = Σ x, the least of ‖Σ xᵢ gᵢ‖² + (s − 1)² over x ≥ 0 has the α that is looked for, whatever s is.
pub(super) fn shortest(vectors: &[Vec<f64>]) -> Vec<f64> {
    let lengths: Vec<f64> = vectors.iter().map(|one| inner(one, one).sqrt()).collect();
    let zeros = lengths.iter().filter(|length| **length <= 0.0).count();
    if zeros > 0 {
        let share = |length: &f64| f64::from(u8::from(*length <= 0.0)) / zeros as f64;
        return lengths.iter().map(share).collect();
    }
    // The shortest counts most: it sets the scale.
    let least = lengths.iter().copied().fold(f64::INFINITY, f64::min);
    let with_sum = vectors.iter().map(|vector| {
        let mut column: Vec<f64> = vector.iter().map(|value| value / least).collect();
        column.push(1.0);
        column
    });
    let with_sum: Vec<Vec<f64>> = with_sum.collect();
    let mut target = vec![0.0; with_sum[0].len()];
    target[with_sum[0].len() - 1] = 1.0;
    let parts = nonnegative(&with_sum, &target);
    let sum: f64 = parts.iter().sum();
    parts.iter().map(|part| part / sum).collect()
}

/// Σᵢ αᵢ gᵢ.
pub(super) fn sum(vectors: &[Vec<f64>], coefficients: &[f64]) -> Vec<f64> {
    let mut sum = vec![0.0; vectors[0].len()];
    for (vector, coefficient) in vectors.iter().zip(coefficients) {
        for (sum, value) in sum.iter_mut().zip(vector) {
            *sum += coefficient * value;
        }
    }
    sum
}

/// The least of ‖Σ xᵢ cᵢ − t‖ over x ≥ 0 (Lawson & Hanson 1974, chapter 23); columns may depend on each other.
fn nonnegative(columns: &[Vec<f64>], target: &[f64]) -> Vec<f64> {
    let size = columns.len();
    // All columns of length 1.
    let lengths: Vec<f64> = columns.iter().map(|one| inner(one, one).sqrt()).collect();
    let unit = |(column, length): (&Vec<f64>, &f64)| -> Vec<f64> {
        let length = if *length > 0.0 { *length } else { 1.0 };
        column.iter().map(|value| value / length).collect()
    };
    let columns: Vec<Vec<f64>> = columns.iter().zip(&lengths).map(unit).collect();
    let least = MET * inner(target, target).sqrt();
    let mut x = vec![0.0; size];
    let mut free: Vec<usize> = Vec::new();
    let mut barred = vec![false; size];
    // Each round frees one more, and the distance falls: a set of free ones never comes again, but for rounding.
    for _ in 0..8 * size {
        let reached = sum(&columns, &x);
        let left: Vec<f64> = target
            .iter()
            .zip(&reached)
            .map(|(to, at)| to - at)
            .collect();
        let slopes: Vec<f64> = columns.iter().map(|column| inner(column, &left)).collect();
        let next = (0..size)
            .filter(|place| !free.contains(place) && !barred[*place] && slopes[*place] > least)
            .max_by(|one, other| slopes[*one].total_cmp(&slopes[*other]));
        let Some(next) = next else {
            break;
        };
        free.push(next);
        let solved = solve(&columns, &free, target).filter(|x| x.last() > Some(&0.0));
        let Some(mut solved) = solved else {
            free.pop();
            barred[next] = true;
            continue;
        };
        loop {
            // As far toward the solution as all stay positive; the one that stops it leaves, so this ends.
            let stops = free.iter().zip(&solved).filter(|(_, to)| **to <= 0.0);
            let stop = stops
                .map(|(place, to)| (x[*place] / (x[*place] - to).max(f64::MIN_POSITIVE), *place))
                .min_by(|one, other| one.0.total_cmp(&other.0));
            let part = stop.map_or(1.0, |(part, _)| part);
            for (place, to) in free.iter().zip(&solved) {
                x[*place] = (x[*place] + part * (to - x[*place])).max(0.0);
            }
            let Some((_, stop)) = stop else {
                break;
            };
            x[stop] = 0.0;
            free.retain(|place| x[*place] > 0.0);
            match solve(&columns, &free, target) {
                Some(again) => solved = again,
                None => break,
            }
        }
        barred.fill(false);
    }
    let scaled = x.iter().zip(&lengths);
    scaled
        .map(|(x, length)| if *length > 0.0 { x / length } else { 0.0 })
        .collect()
}

/// The least of the distance on some columns, by orthogonalizing them (Gram and Schmidt, twice for the rounding); none where one depends on those before.
fn solve(columns: &[Vec<f64>], places: &[usize], target: &[f64]) -> Option<Vec<f64>> {
    let size = places.len();
    let mut units: Vec<Vec<f64>> = Vec::with_capacity(size);
    let mut upper = vec![vec![0.0; size]; size];
    for (at, place) in places.iter().enumerate() {
        let mut column = columns[*place].clone();
        for _ in 0..2 {
            for (before, unit) in units.iter().enumerate() {
                let along = inner(&column, unit);
                upper[before][at] += along;
                for (value, unit) in column.iter_mut().zip(unit) {
                    *value -= along * unit;
                }
            }
        }
        let left = inner(&column, &column).sqrt();
        if left <= DEPENDENT {
            return None;
        }
        upper[at][at] = left;
        units.push(column.iter().map(|value| value / left).collect());
    }
    let mut x: Vec<f64> = units.iter().map(|unit| inner(unit, target)).collect();
    for row in (0..size).rev() {
        let known = inner(&upper[row][row + 1..], &x[row + 1..]);
        x[row] = (x[row] - known) / upper[row][row];
    }
    Some(x)
}
