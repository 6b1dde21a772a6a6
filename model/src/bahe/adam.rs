//! `AdamW` in one pass over each tensor, with a state that can be written down (Loshchilov & Hutter 2019, algorithm 2).

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, InplaceOp2, Layout, Tensor, Var};

use crate::language::LanguageError;
use crate::language::error::computing;

/// How fast it learns, and what it forgets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamSettings {
    /// Learning rate.
    pub rate: f64,
    /// How slowly the mean of gradients and that of their squares forget.
    pub beta: [f64; 2],
    /// Added to the root of the mean square.
    pub epsilon: f64,
    /// Part of each weight that a step takes away, times the rate.
    pub decay: f64,
}

/// The optimizer of some variables.
#[derive(Debug)]
pub struct Adam {
    settings: AdamSettings,
    variables: Vec<Learning>,
    steps: u64,
    /// Part of the rate that it goes by now.
    pace: f64,
}

#[derive(Debug)]
struct Learning {
    name: String,
    variable: Var,
    /// Means of gradients and of their squares, as the variable lies.
    moments: RefCell<[Vec<f32>; 2]>,
    /// How much faster or slower than the rate.
    factor: f64,
}

impl Adam {
    /// Begins. `factor` says of each name how much faster or slower it learns; 0 freezes it.
    pub fn new(
        settings: AdamSettings,
        variables: &[(String, Var)],
        factor: impl Fn(&str) -> f64,
    ) -> Self {
        let variables = variables.iter().map(|(name, variable)| {
            let zeros = vec![0.0; variable.as_tensor().elem_count()];
            Learning {
                name: name.clone(),
                variable: variable.clone(),
                moments: RefCell::new([zeros.clone(), zeros]),
                factor: factor(name),
            }
        });
        Self {
            settings,
            variables: variables.collect(),
            steps: 0,
            pace: 1.0,
        }
    }

    /// Steps so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// From now on goes by this part of the rate.
    pub fn set_pace(&mut self, pace: f64) {
        self.pace = pace;
    }

    /// Whether the variable of this name is one that steps change.
    pub(super) fn learns(&self, name: &str) -> bool {
        let mut learning = self.variables.iter().filter(|one| one.factor > 0.0);
        learning.any(|one| one.name == name)
    }

    /// Adds `gradients` of what learns to those gathered for the next step.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn gather(
        &self,
        gradients: &GradStore,
        into: &mut BTreeMap<String, Tensor>,
    ) -> Result<(), LanguageError> {
        // What is frozen has no part in the length that is cut.
        for one in self.variables.iter().filter(|one| one.factor > 0.0) {
            let Some(gradient) = gradients.get(one.variable.as_tensor()) else {
                continue;
            };
            let sum = match into.remove(&one.name) {
                Some(sum) => (sum + gradient).map_err(computing("gathering gradients"))?,
                None => gradient.clone(),
            };
            into.insert(one.name.clone(), sum);
        }
        Ok(())
    }

    /// One step against gradients (times `scale`), after their whole length was cut to `longest`; the answer is the length before. Gradients that are no
    /// numbers change nothing, and come back as such.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn step(
        &mut self,
        gradients: &BTreeMap<String, Tensor>,
        scale: f64,
        longest: f64,
    ) -> Result<f64, LanguageError> {
        let doing = "taking a step";
        let mut squares = 0.0;
        for gradient in gradients.values() {
            let sum = gradient.sqr().and_then(|squares| squares.sum_all());
            let sum = sum.and_then(|sum| sum.to_scalar::<f32>());
            squares += f64::from(sum.map_err(computing(doing))?);
        }
        let length = squares.sqrt() * scale;
        if !length.is_finite() {
            return Ok(length);
        }
        self.steps += 1;
        let scale = scale
            * if length > longest {
                longest / length
            } else {
                1.0
            };
        let [first, second] = self.settings.beta;
        let steps = self.steps.min(1 << 30) as i32;
        for one in &self.variables {
            let Some(gradient) = gradients.get(&one.name).filter(|_| one.factor > 0.0) else {
                continue;
            };
            let rate = self.settings.rate * self.pace * one.factor;
            let op = Step {
                moments: &one.moments,
                scale: scale as f32,
                beta: [first as f32, second as f32],
                rate: (rate / (1.0 - first.powi(steps))) as f32,
                unbias: (1.0 / (1.0 - second.powi(steps))) as f32,
                epsilon: self.settings.epsilon as f32,
                keep: (1.0 - rate * self.settings.decay) as f32,
            };
            let gradient = gradient.contiguous().map_err(computing(doing))?;
            one.variable
                .as_tensor()
                .inplace_op2(&gradient, &op)
                .map_err(computing(doing))?;
        }
        Ok(length)
    }

    /// Its state by name, beside the variables' own values: (2, elements) each.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>, LanguageError> {
        let mut state = BTreeMap::new();
        for one in &self.variables {
            let moments = one.moments.borrow();
            let both = Tensor::from_vec(
                moments.concat(),
                (2, moments[0].len()),
                &candle_core::Device::Cpu,
            );
            state.insert(
                format!("adam.{}", one.name),
                both.map_err(computing("writing the optimizer down"))?,
            );
        }
        Ok(state)
    }

    /// Goes on from a state.
    ///
    /// # Errors
    /// A tensor that is missing or of another size.
    pub fn resume(
        &mut self,
        state: &BTreeMap<String, Tensor>,
        steps: u64,
    ) -> Result<(), LanguageError> {
        for one in &self.variables {
            let name = format!("adam.{}", one.name);
            let both = state.get(&name).map(Tensor::to_vec2::<f32>);
            let count = one.variable.as_tensor().elem_count();
            match both {
                Some(Ok(both)) if both.len() == 2 && both[0].len() == count => {
                    let mut both = both.into_iter();
                    *one.moments.borrow_mut() = [
                        both.next().unwrap_or_default(),
                        both.next().unwrap_or_default(),
                    ];
                }
                _ => {
                    return Err(LanguageError::Input(format!(
                        "the state of the optimizer lacks `{name}` of 2 times {count} values"
                    )));
                }
            }
        }
        self.steps = steps;
        Ok(())
    }
}

/// One step of one tensor.
struct Step<'a> {
    moments: &'a RefCell<[Vec<f32>; 2]>,
    scale: f32,
    beta: [f32; 2],
    rate: f32,
    unbias: f32,
    epsilon: f32,
    keep: f32,
}

impl InplaceOp2 for Step<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(
        &self,
        weights: &mut CpuStorage,
        weights_layout: &Layout,
        gradients: &CpuStorage,
        gradients_layout: &Layout,
    ) -> candle_core::Result<()> {
        let (CpuStorage::F32(weights), CpuStorage::F32(gradients)) = (weights, gradients) else {
            candle_core::bail!("weights and gradients must be f32");
        };
        let (Some((from, to)), Some((gradients_from, gradients_to))) = (
            weights_layout.contiguous_offsets(),
            gradients_layout.contiguous_offsets(),
        ) else {
            candle_core::bail!("weights and gradients must lie in one piece");
        };
        let mut moments = self.moments.borrow_mut();
        let [means, squares] = &mut *moments;
        let [first, second] = self.beta;
        let gradients = &gradients[gradients_from..gradients_to];
        let moments = means.iter_mut().zip(squares);
        for ((weight, gradient), (mean, square)) in
            weights[from..to].iter_mut().zip(gradients).zip(moments)
        {
            let gradient = gradient * self.scale;
            *mean = first * *mean + (1.0 - first) * gradient;
            *square = second * *square + (1.0 - second) * gradient * gradient;
            let spread = (*square * self.unbias).sqrt() + self.epsilon;
            *weight = *weight * self.keep - self.rate * *mean / spread;
        }
        Ok(())
    }
}
