//! GDOD: the gradients' parts along the directions that all tasks share (Dong et al., CIKM 2022, "GDOD: Effective Gradient Descent using Orthogonal
//! Decomposition for Multi-Task Learning").
//!
//! With the singular value decomposition G = U Σ Vᵀ, task i has the coordinate cᵢⱼ = uᵢⱼ σⱼ on direction vⱼ. A direction is *shared* where no two tasks'
//! coordinates have different signs, else in *conflict*. The step keeps the part wⱼ of each direction, D = Σᵢ Σⱼ wⱼ cᵢⱼ vⱼ. Because K = U Σ² Uᵀ and
//! vⱼ = Σᵢ gᵢ uᵢⱼ / σⱼ, that is D = Σᵢ αᵢ gᵢ with
//!
//! ```text
//! α = Σⱼ wⱼ (1ᵀuⱼ) uⱼ
//! ```
//!
//! where neither V nor a division by a small σ is left. What the weights of directions in conflict are is open in what is published: [`Keep`] has
//! what is known to be sound. Where w is 1 on shared directions and 0 elsewhere, ⟨D, gᵢ⟩ = Σ over shared j of (Σₖ cₖⱼ) cᵢⱼ ≥ 0: no task is harmed. But two
//! shared directions have no task in common, so there is mostly one, and of three or more tasks often none: hence the fallback and the repair.

use serde::{Deserialize, Serialize};

use super::Weighing;
use super::cone::repair;
use super::eigen::Eigen;
use super::gram::{Gram, inner};

/// Part of an eigenvalue by which the next one differs at least: closer ones are one, with any basis of their space.
const TIE: f64 = 1e-7;

/// Part of a task's gradient below which a coordinate has no sign whatever the tolerance: gradients in f32 are not known better, and between eigenvalues that are just
/// no tie the decomposition's own rounding is a hundredth of it.
const SIGNLESS: f64 = 1e-8;

/// What is kept of a direction.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// Shared ones whole, others not. Where none is shared nothing is left; with [`Gdod::repair`], what `Soft` with power 1 leaves.
    Hard,
    /// Shared ones whole, of others the part p to a power, where p = |Σᵢ cᵢⱼ| / Σᵢ |cᵢⱼ| says how far they are of one sign.
    Soft {
        /// From 0 (plain sum) up.
        power: f64,
    },
    /// Shared ones whole, of others a fixed part.
    Blend {
        /// From 0 (hard) to 1 (plain sum).
        rest: f64,
    },
}

/// Settings of GDOD.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gdod {
    /// What is kept of a direction.
    pub keep: Keep,
    /// τ: a coordinate of at most this part of the task's gradient has no sign. Without it tasks that are all but orthogonal are dropped at random; the
    /// guarantees without repair hold up to it.
    pub tolerance: f64,
    /// Whether the step is moved to the nearest one that harms no task.
    pub repair: bool,
}

impl Default for Gdod {
    /// Soft, τ = 0.02, repaired.
    fn default() -> Self {
        Self {
            keep: Keep::Soft { power: 1.0 },
            tolerance: 0.02,
            repair: true,
        }
    }
}

/// A direction vⱼ of the gradients' span, as the coordinates show it.
#[derive(Clone, Debug)]
pub(super) struct Direction {
    /// λⱼ = σⱼ²: all tasks' squared coordinates together.
    pub(super) energy: f64,
    /// uⱼ: of length 1, and its sum is not negative.
    pub(super) vector: Vec<f64>,
    pub(super) shared: bool,
}

impl Direction {
    /// All directions that are more than rounding. Of an eigenvalue that several have the first is the projection of 1, and the others' sum is zero: so what
    /// follows does not depend on which basis the decomposition found.
    pub(super) fn all(gram: &Gram, tolerance: f64) -> Vec<Self> {
        let living = Eigen::living(gram);
        let lengths: Vec<f64> = (0..gram.tasks()).map(|task| gram.length(task)).collect();
        let mut directions = Vec::new();
        let mut from = 0;
        while from < living.values.len() {
            let mut to = from + 1;
            while to < living.values.len()
                && living.values[to - 1] - living.values[to] <= TIE * living.values[to - 1]
            {
                to += 1;
            }
            for (vector, energy) in untied(&living.vectors[from..to])
                .into_iter()
                .zip(&living.values[from..to])
            {
                let shared = one_signed(&vector, *energy, &lengths, tolerance);
                directions.push(Self {
                    energy: *energy,
                    vector,
                    shared,
                });
            }
            from = to;
        }
        directions
    }
}

/// The same space, with the projection of 1 first.
fn untied(vectors: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let sums: Vec<f64> = vectors.iter().map(|vector| vector.iter().sum()).collect();
    let size = inner(&sums, &sums).sqrt();
    let mut made: Vec<Vec<f64>> = Vec::with_capacity(vectors.len());
    if vectors.len() > 1 && size > 1e-9 {
        let part = |task: usize| {
            let parts = vectors.iter().zip(&sums);
            parts.map(|(vector, sum)| vector[task] * sum).sum::<f64>() / size
        };
        made.push((0..vectors[0].len()).map(part).collect());
    }
    // The rest as it was, without what is taken; once more for the rounding (Gram and Schmidt).
    let first = made.len();
    let mut rest: Vec<(f64, Vec<f64>)> = Vec::new();
    for vector in vectors {
        let mut vector = vector.clone();
        for _ in 0..2 {
            for taken in made[..first].iter().chain(rest.iter().map(|(_, one)| one)) {
                let along = inner(&vector, taken);
                for (place, taken) in vector.iter_mut().zip(taken) {
                    *place -= along * taken;
                }
            }
        }
        let left = inner(&vector, &vector).sqrt();
        // Of the vectors one is now too many: that of which least is left.
        let unit = |place: &f64| if left > 1e-7 { place / left } else { *place };
        rest.push((left, vector.iter().map(unit).collect()));
    }
    if first == 1 {
        let least = (0..rest.len()).min_by(|one, other| rest[*one].0.total_cmp(&rest[*other].0));
        rest.remove(least.expect("invariant: there are some"));
    }
    made.extend(rest.into_iter().map(|(_, vector)| vector));
    for vector in &mut made {
        if vector.iter().sum::<f64>() < 0.0 {
            vector.iter_mut().for_each(|place| *place = -*place);
        }
    }
    made
}

/// Whether no two coordinates have different signs, of those that have one.
fn one_signed(vector: &[f64], energy: f64, lengths: &[f64], tolerance: f64) -> bool {
    let coordinates = vector.iter().map(|part| part * energy.sqrt());
    let signs = coordinates.zip(lengths).filter_map(|(part, length)| {
        (part.abs() > tolerance.max(SIGNLESS) * length).then_some(part > 0.0)
    });
    let signs: Vec<bool> = signs.collect();
    signs.iter().all(|sign| *sign) || !signs.iter().any(|sign| *sign)
}

impl Gdod {
    /// Coefficients. `weighing` is told what it took.
    pub(super) fn weigh(&self, gram: &Gram, weighing: &mut Weighing) -> Vec<f64> {
        let directions = Direction::all(gram, self.tolerance);
        let none = !directions.iter().any(|direction| direction.shared);
        let mut keep = self.keep;
        if none && self.repair && keep == Keep::Hard {
            keep = Keep::Soft { power: 1.0 };
            weighing.fallback = true;
        }
        let mut coefficients = vec![0.0; gram.tasks()];
        for direction in &directions {
            let sum: f64 = direction.vector.iter().sum();
            let part = sum * keep.part(direction);
            for (coefficient, place) in coefficients.iter_mut().zip(&direction.vector) {
                *coefficient += part * place;
            }
        }
        if self.repair {
            let vectors = Eigen::living(gram).coordinates(gram.tasks());
            let more = repair(&vectors, &coefficients);
            weighing.repaired = more.iter().any(|more| *more > 0.0);
            for (coefficient, more) in coefficients.iter_mut().zip(more) {
                *coefficient += more;
            }
        }
        coefficients
    }
}

impl Keep {
    /// w of a direction.
    fn part(self, direction: &Direction) -> f64 {
        if direction.shared {
            return 1.0;
        }
        match self {
            Self::Hard => 0.0,
            Self::Soft { power } => {
                let sum: f64 = direction.vector.iter().sum();
                let sizes: f64 = direction.vector.iter().map(|part| part.abs()).sum();
                (sum.abs() / sizes).powf(power)
            }
            Self::Blend { rest } => rest,
        }
    }
}
