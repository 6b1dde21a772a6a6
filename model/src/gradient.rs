//! One gradient of several tasks' gradients over the parameters that they share.
//!
//! Before it stands a trainer with one loss a task (the mean over the rows that have that task's label) and a backward pass for each; after it one step of
//! an optimizer. What belongs to one task alone (its row of the last layer) is none of this module's: it keeps its own gradient.
//!
//! All rules work on the tasks' Gram matrix alone: with task gradients g₁, g₂, … of d values, K = G Gᵀ, Kᵢⱼ = ⟨gᵢ, gⱼ⟩, (T, T) in f64. A rule makes of it one
//! coefficient a task, and the combined gradient is D = Σᵢ αᵢ gᵢ. So nothing of the size of the parameters is made but D, K can be summed over parts of the
//! parameters, and what decides is computed in f64 however the gradients are held. D stands for the sum of the gradients (of tasks that
//! all want the same, D is about T times that); who wants a mean divides by T.
//!
//! A task without a labelled row in a step has no gradient, which is not a gradient of zero: it is left out ([`TaskGradient::parameters`]).
//!
//! That no task is harmed is said of D alone, as a step of plain descent: ⟨D, gᵢ⟩ ≥ 0 for all i, where the rule says so. An optimizer with moments
//! (Adam) steps elsewhere, and a cut of D's length alone keeps it.

use serde::{Deserialize, Serialize};

mod combine;
mod cone;
mod eigen;
mod gdod;
mod gram;
mod neighbors;
mod weighing;

#[cfg(test)]
mod tests;

pub use combine::{Combined, Scope, TaskGradient, combine, layer_of};
pub use gdod::{Gdod, Keep};
pub use gram::Gram;
pub use weighing::Weighing;

/// Tasks at most: the decompositions are made for matrices of this size.
pub const TASKS_MAX: usize = 16;

/// How one gradient is made of several.
///
/// | rule | α of K | no task is harmed |
/// |---|---|---|
/// | `Sum` | 1 | no |
/// | `Gdod` | Σ over shared directions, and parts of others | hard, and whatever is repaired |
/// | `PcGrad` | each gradient loses what is against another | of two tasks |
/// | `Mgda` | the shortest gradient in the convex hull | yes |
/// | `CaGrad` | the best for the worst task near the mean | no |
/// | `AlignedMtl` | all directions made equally long | no |
///
/// One task that has a gradient (or the only one that has one that is not zero, but for `Mgda`) has α = 1 whatever the rule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GradientRule {
    /// Plain sum.
    Sum,
    /// Gradient Descent using Orthogonal Decomposition.
    Gdod(Gdod),
    /// Projecting conflicting gradients (Yu et al., `NeurIPS` 2020, algorithm 1): each gradient in turn, against each other one in random order, loses its
    /// part along that one where the two are opposed.
    PcGrad {
        /// Of the order; the same seed and draw ([`GradientRule::weigh`]) give the same.
        seed: u64,
    },
    /// The multiple-gradient descent algorithm (Désidéri 2012; Sener & Koltun, `NeurIPS` 2018, equation 3): T times the shortest vector
    /// of the convex hull. A task whose gradient is zero is at its best, and all others wait for it: D = 0.
    Mgda,
    /// Conflict-averse gradient descent (Liu et al., `NeurIPS` 2021, algorithm 1): max over d of minᵢ ⟨gᵢ, d⟩ where ‖d − g₀‖ ≤ c ‖g₀‖, g₀ the mean gradient.
    /// As the authors' code has it, d is divided by 1 + c²; D is T times that.
    CaGrad {
        /// c, from 0 (plain sum) to below 1.
        radius: f64,
    },
    /// Independent component alignment (Senushkin et al., CVPR 2023, section 4): the Gram matrix's directions all get the length of the shortest,
    /// α = σᵣ U Σ⁻¹ Uᵀ 1, σᵣ the least singular value that is not zero.
    AlignedMtl,
}

impl Default for GradientRule {
    /// GDOD as [`Gdod::default`] has it.
    fn default() -> Self {
        Self::Gdod(Gdod::default())
    }
}

impl GradientRule {
    /// Coefficients of these tasks' gradients, and what is to be known of them. `draw` numbers what is random (a step, and a layer of it): only
    /// `PcGrad` looks at it.
    ///
    /// # Errors
    /// A setting out of its range.
    pub fn weigh(&self, gram: &Gram, draw: u64) -> Result<Weighing, GradientError> {
        self.check()?;
        // To a size where nothing over- or underflows; a power of two, so that not a bit changes by it.
        let scaled = gram.scaled();
        let living = (0..gram.tasks()).filter(|task| scaled.at(*task, *task) > 0.0);
        let mut weighing = Weighing::default();
        let lonely = living.count() == 1 && (gram.tasks() == 1 || *self != Self::Mgda);
        weighing.coefficients = match self {
            _ if lonely => vec![1.0; gram.tasks()],
            Self::Sum => vec![1.0; gram.tasks()],
            Self::Gdod(gdod) => gdod.weigh(&scaled, &mut weighing),
            Self::PcGrad { seed } => neighbors::projected(&scaled, *seed, draw),
            Self::Mgda => neighbors::shortest(&scaled),
            Self::CaGrad { radius } => neighbors::averse(&scaled, *radius),
            Self::AlignedMtl => neighbors::aligned(&scaled),
        };
        let tolerance = match self {
            Self::Gdod(gdod) => gdod.tolerance,
            _ => Gdod::default().tolerance,
        };
        weighing.describe(&scaled, tolerance);
        weighing.lengths = (0..gram.tasks()).map(|task| gram.length(task)).collect();
        Ok(weighing)
    }

    fn check(&self) -> Result<(), GradientError> {
        let within = |name, value: f64, from: f64, to: f64| {
            if (from..=to).contains(&value) {
                return Ok(());
            }
            Err(GradientError::Setting {
                name,
                value,
                from,
                to,
            })
        };
        match self {
            Self::Sum | Self::PcGrad { .. } | Self::Mgda | Self::AlignedMtl => Ok(()),
            Self::CaGrad { radius } => within("radius", *radius, 0.0, 0.999),
            Self::Gdod(gdod) => {
                within("tolerance", gdod.tolerance, 0.0, 0.5)?;
                match gdod.keep {
                    Keep::Hard => Ok(()),
                    Keep::Soft { power } => within("power", power, 0.0, 64.0),
                    Keep::Blend { rest } => within("rest", rest, 0.0, 1.0),
                }
            }
        }
    }
}

/// Gradients that no step can be made of.
#[derive(Debug, thiserror::Error)]
pub enum GradientError {
    /// A value that is no number, or infinite: the step is to be left out.
    #[error("the gradient of task `{task}` is not finite{at}", at = at(.parameter.as_deref()))]
    NotFinite {
        /// Whose.
        task: String,
        /// Where, if it is known.
        parameter: Option<String>,
    },
    /// More tasks than [`TASKS_MAX`], or none.
    #[error("gradients of {0} tasks, where 1 to {TASKS_MAX} can be combined")]
    Tasks(usize),
    /// A matrix that is no Gram matrix, or gradients of different length.
    #[error("{0}")]
    Shape(String),
    /// A rule's setting.
    #[error("`{name}` is {value}, where {from} to {to} makes sense")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What it is.
        value: f64,
        /// The least.
        from: f64,
        /// The most.
        to: f64,
    },
    /// The tensor library failed.
    #[error("combining gradients")]
    Compute(#[from] candle_core::Error),
}

fn at(parameter: Option<&str>) -> String {
    let at = parameter.map(|name| format!(" at `{name}`"));
    at.unwrap_or_default()
}
