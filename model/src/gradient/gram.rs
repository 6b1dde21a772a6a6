//! The Gram matrix of the tasks' gradients: all that a rule sees of them.

use super::{GradientError, TASKS_MAX};

/// Values of each gradient that are taken in together: all pairs of them stay in the cache.
const BLOCK: usize = 4_096;

/// Inner products of the tasks' gradients, (tasks, tasks), in the square of the gradients' unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Gram {
    tasks: usize,
    /// Row by row, symmetric.
    values: Vec<f64>,
}

impl Gram {
    /// Of gradients that have no values yet: [`Gram::add`] them part by part.
    ///
    /// # Errors
    /// No task, or more than [`TASKS_MAX`].
    pub fn zeros(tasks: usize) -> Result<Self, GradientError> {
        if !(1..=TASKS_MAX).contains(&tasks) {
            return Err(GradientError::Tasks(tasks));
        }
        Ok(Self {
            tasks,
            values: vec![0.0; tasks * tasks],
        })
    }

    /// A matrix that was summed elsewhere, row by row. It is taken as symmetric: of each pair the mean counts.
    ///
    /// # Errors
    /// Values that are not `tasks` times `tasks`, that are not finite (the task is named by its number), or larger than the gradients' lengths allow.
    pub fn new(tasks: usize, values: &[f64]) -> Result<Self, GradientError> {
        let mut gram = Self::zeros(tasks)?;
        if values.len() != tasks * tasks {
            return Err(GradientError::Shape(format!(
                "a matrix of {} values, where {tasks} tasks have {}",
                values.len(),
                tasks * tasks
            )));
        }
        for one in 0..tasks {
            for other in 0..tasks {
                let value = f64::midpoint(values[one * tasks + other], values[other * tasks + one]);
                if !value.is_finite() {
                    return Err(GradientError::NotFinite {
                        task: one.to_string(),
                        parameter: None,
                    });
                }
                gram.values[one * tasks + other] = value;
            }
        }
        for one in 0..tasks {
            for other in 0..tasks {
                let most =
                    gram.at(one, one).max(0.0).sqrt() * gram.at(other, other).max(0.0).sqrt();
                if gram.at(one, one) < 0.0 || gram.at(one, other).abs() > most * (1.0 + 1e-6) {
                    return Err(GradientError::Shape(format!(
                        "{} is no inner product of tasks {one} and {other}",
                        gram.at(one, other)
                    )));
                }
            }
        }
        Ok(gram)
    }

    /// Takes in a part of the gradients: one slice a task, all of one length, in the order of tasks; an empty slice is a part of zeros.
    ///
    /// # Errors
    /// A value that is not finite (the task is named by its number), slices that are not one a task or of different length.
    pub fn add(&mut self, parts: &[&[f32]]) -> Result<(), GradientError> {
        let length = parts.iter().map(|part| part.len()).max().unwrap_or(0);
        let fits = |part: &&[f32]| part.is_empty() || part.len() == length;
        if parts.len() != self.tasks || !parts.iter().all(fits) {
            let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
            return Err(GradientError::Shape(format!(
                "gradients of {lengths:?} values, where {} tasks have as many each, or none",
                self.tasks
            )));
        }
        let mut sums = vec![0.0; self.tasks * self.tasks];
        for from in (0..length).step_by(BLOCK) {
            let to = length.min(from + BLOCK);
            for (one, first) in parts.iter().enumerate() {
                for (other, second) in parts.iter().enumerate().skip(one) {
                    if !first.is_empty() && !second.is_empty() {
                        sums[one * self.tasks + other] += dot(&first[from..to], &second[from..to]);
                    }
                }
            }
        }
        // The square of a finite f32 is finite in f64, and so is the sum of as many as memory holds.
        if let Some(task) = (0..self.tasks).find(|task| !sums[task * self.tasks + task].is_finite())
        {
            return Err(GradientError::NotFinite {
                task: task.to_string(),
                parameter: None,
            });
        }
        for one in 0..self.tasks {
            for other in one..self.tasks {
                self.values[one * self.tasks + other] += sums[one * self.tasks + other];
                self.values[other * self.tasks + one] = self.values[one * self.tasks + other];
            }
        }
        Ok(())
    }

    /// How many tasks there are.
    pub fn tasks(&self) -> usize {
        self.tasks
    }

    /// The inner product of two tasks' gradients.
    pub fn at(&self, one: usize, other: usize) -> f64 {
        self.values[one * self.tasks + other]
    }

    /// Length of a task's gradient.
    pub fn length(&self, task: usize) -> f64 {
        self.at(task, task).max(0.0).sqrt()
    }

    /// K α: what a step along Σᵢ αᵢ gᵢ is worth to each task, ⟨D, gᵢ⟩.
    pub fn times(&self, coefficients: &[f64]) -> Vec<f64> {
        let rows = self.values.chunks(self.tasks);
        rows.map(|row| inner(row, coefficients)).collect()
    }

    /// The same gradients times a power of two, the longest of them between 1 and 2 long: rules look at directions and proportions alone.
    pub(super) fn scaled(&self) -> Self {
        let longest = (0..self.tasks).map(|task| self.at(task, task));
        let longest = longest.fold(0.0, f64::max);
        if longest == 0.0 {
            return self.clone();
        }
        // In two steps: the power itself may be out of range where the matrix is made of the smallest numbers.
        let power = -(longest.log2().floor() as i32);
        let (half, rest) = (power / 2, power - power / 2);
        let scaled = |value: &f64| value * 2_f64.powi(half) * 2_f64.powi(rest);
        Self {
            tasks: self.tasks,
            values: self.values.iter().map(scaled).collect(),
        }
    }
}

/// Inner product in f64, in eight sums side by side: the order is fixed, and the processor adds them at once.
fn dot(one: &[f32], other: &[f32]) -> f64 {
    let mut sums = [0.0; 8];
    let (ones, others) = (one.chunks_exact(8), other.chunks_exact(8));
    let tail = ones.remainder().iter().zip(others.remainder());
    let tail: f64 = tail
        .map(|(one, other)| f64::from(*one) * f64::from(*other))
        .sum();
    for (one, other) in ones.zip(others) {
        for lane in 0..8 {
            sums[lane] += f64::from(one[lane]) * f64::from(other[lane]);
        }
    }
    sums.iter().sum::<f64>() + tail
}

/// Inner product.
pub(super) fn inner(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}
