//! What a rule decided, and what is to be known of the gradients it saw.

use super::gdod::Direction;
use super::gram::{Gram, inner};

/// Coefficients of the tasks' gradients, and telemetry of the step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weighing {
    /// α: one a task.
    pub coefficients: Vec<f64>,
    /// ‖gᵢ‖: one a task. The longest has most to say of the directions.
    pub lengths: Vec<f64>,
    /// Directions that all tasks share, in the sense of GDOD; for other rules with its default tolerance.
    pub shared: usize,
    /// Part of all gradients' squared length that lies in shared directions: 0 to 1, 1 where there is nothing to share.
    pub shared_energy: f64,
    /// Part of the pairs of gradients that are not zero whose inner product is negative; 0 where there is no pair.
    pub conflict_rate: f64,
    /// The least cosine of D with a gradient that is not zero: negative where a task is harmed; none where D is zero, or rounding.
    pub worst_cosine: Option<f64>,
    /// Whether no direction was shared, and a hard rule took the soft one.
    pub fallback: bool,
    /// Whether the step had to be moved so that it harms no task.
    pub repaired: bool,
}

impl Weighing {
    /// Fills in all but the coefficients, which are there, and what the rule itself told. All but lengths do not depend on the gradients' unit.
    pub(super) fn describe(&mut self, gram: &Gram, tolerance: f64) {
        let tasks = gram.tasks();
        let lengths: Vec<f64> = (0..tasks).map(|task| gram.length(task)).collect();
        let directions = Direction::all(gram, tolerance);
        let shared = directions.iter().filter(|direction| direction.shared);
        self.shared = shared.clone().count();
        let all: f64 = directions.iter().map(|direction| direction.energy).sum();
        self.shared_energy = if all > 0.0 {
            shared.map(|direction| direction.energy).sum::<f64>() / all
        } else {
            1.0
        };
        let living: Vec<usize> = (0..tasks).filter(|task| lengths[*task] > 0.0).collect();
        let (mut pairs, mut against) = (0, 0);
        for (at, one) in living.iter().enumerate() {
            for other in &living[at + 1..] {
                pairs += 1;
                against += usize::from(gram.at(*one, *other) < 0.0);
            }
        }
        self.conflict_rate = against as f64 / f64::from(pairs.max(1));
        let worth = gram.times(&self.coefficients);
        let square = inner(&worth, &self.coefficients);
        let sizes: Vec<f64> = self.coefficients.iter().map(|one| one.abs()).collect();
        let cosines = living
            .iter()
            .map(|task| worth[*task] / (square.sqrt() * lengths[*task]));
        // Below that the gradients have canceled each other out but for rounding.
        let sure = square > 1e-14 * inner(&sizes, &lengths).powi(2);
        self.worst_cosine = cosines.min_by(f64::total_cmp).filter(|_| sure);
    }
}
