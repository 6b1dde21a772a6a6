//! The rules that GDOD is compared with, as coefficients of the same Gram matrix. All stand for the sum of the gradients.

use crate::numbers::Numbers;

use super::cone;
use super::eigen::Eigen;
use super::gram::{Gram, inner};

/// Halvings of the interval where `CAGrad`'s multiplier lies, which is twelve decimal orders wide.
const HALVINGS: usize = 64;

/// `PCGrad`: row i of A begins as gradient i alone; where it is against gradient j, it loses what it has along that one. α is the sum of rows.
pub(super) fn projected(gram: &Gram, seed: u64, draw: u64) -> Vec<f64> {
    let tasks = gram.tasks();
    let mut numbers = Numbers::of(seed, draw);
    let mut coefficients = vec![0.0; tasks];
    for task in 0..tasks {
        let mut others: Vec<usize> = (0..tasks).filter(|other| *other != task).collect();
        numbers.shuffle(&mut others);
        let mut row = vec![0.0; tasks];
        row[task] = 1.0;
        for other in others {
            let along = gram.times(&row)[other];
            if along < 0.0 && gram.at(other, other) > 0.0 {
                row[other] -= along / gram.at(other, other);
            }
        }
        for (coefficient, part) in coefficients.iter_mut().zip(row) {
            *coefficient += part;
        }
    }
    coefficients
}

/// MGDA: T times the shortest vector of the convex hull.
pub(super) fn shortest(gram: &Gram) -> Vec<f64> {
    let tasks = gram.tasks();
    let parts = cone::shortest(&Eigen::living(gram).coordinates(tasks));
    parts.iter().map(|part| part * tasks as f64).collect()
}

/// `CAGrad`: g₀ + c ‖g₀‖ / ‖h‖ · h for the h of the convex hull with the least ⟨h, g₀⟩ + c ‖g₀‖ ‖h‖.
///
/// The product of lengths is the least over s > 0 of ½ (s c² ‖g₀‖² + ‖h‖² / s). For one s, h + s g₀ is the shortest vector of the hull of the gᵢ + s g₀; s is
/// where ‖h‖ = s c ‖g₀‖, and lies between 0 and the longest gradient over c ‖g₀‖, since what is to be least is convex in both. Where h is zero
/// (the tasks are at odds), no step is worth more than 0 to the worst task; of those that are worth that, the one next to g₀ is taken.
pub(super) fn averse(gram: &Gram, radius: f64) -> Vec<f64> {
    let tasks = gram.tasks() as f64;
    let vectors = Eigen::living(gram).coordinates(gram.tasks());
    let even = vec![1.0 / tasks; gram.tasks()];
    let mean = cone::sum(&vectors, &even);
    let reach = radius * inner(&mean, &mean).sqrt();
    let longest = (0..gram.tasks()).map(|task| gram.length(task));
    let longest = longest.fold(0.0, f64::max);
    if reach <= 1e-12 * longest {
        return vec![1.0; gram.tasks()];
    }
    let worst = |shift: f64| {
        let shifted = vectors.iter().map(|vector| {
            let pairs = vector.iter().zip(&mean);
            pairs.map(|(value, mean)| value + shift * mean).collect()
        });
        let parts = cone::shortest(&shifted.collect::<Vec<Vec<f64>>>());
        let hull = cone::sum(&vectors, &parts);
        (parts, inner(&hull, &hull).sqrt())
    };
    let mut high = longest / reach;
    let mut low = high * 1e-12;
    for _ in 0..HALVINGS {
        let middle = low.sqrt() * high.sqrt();
        if worst(middle).1 > middle * reach {
            low = middle;
        } else {
            high = middle;
        }
    }
    let (parts, length) = worst(high);
    let more: Vec<f64> = if length > 1e-9 * longest {
        parts.iter().map(|part| reach / length * part).collect()
    } else {
        cone::repair(&vectors, &even)
    };
    let scale = 1.0 / (1.0 + radius * radius);
    more.iter()
        .map(|more| scale * (1.0 + tasks * more))
        .collect()
}

/// Aligned-MTL: all directions of the gradients as long as the shortest one.
pub(super) fn aligned(gram: &Gram) -> Vec<f64> {
    let living = Eigen::living(gram);
    let mut coefficients = vec![0.0; gram.tasks()];
    let least = living.values.last().copied().unwrap_or(0.0);
    for (value, vector) in living.values.iter().zip(&living.vectors) {
        let part = (least / value).sqrt() * vector.iter().sum::<f64>();
        for (coefficient, place) in coefficients.iter_mut().zip(vector) {
            *coefficient += part * place;
        }
    }
    coefficients
}
