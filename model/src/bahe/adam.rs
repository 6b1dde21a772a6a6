//! `AdamW` in one pass over each tensor, with a state that can be written down (Loshchilov & Hutter 2019, algorithm 2). On a GPU its moments stay there, and a step is
//! of the library's operations.

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, D, Device, InplaceOp2, Layout, Tensor, Var};

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
    moments: Moments,
    /// How much faster or slower than the rate.
    factor: f64,
}

/// Means of gradients and of their squares, where the variable is.
#[derive(Debug)]
enum Moments {
    Host(RefCell<[Vec<f32>; 2]>),
    /// None before the first step: zeros.
    Device(Option<[Tensor; 2]>),
}

impl Adam {
    /// Begins. `factor` says of each name how much faster or slower it learns; 0 freezes it.
    pub fn new(
        settings: AdamSettings,
        variables: &[(String, Var)],
        factor: impl Fn(&str) -> f64,
    ) -> Self {
        let variables = variables.iter().map(|(name, variable)| {
            let moments = if variable.device().is_cpu() {
                let zeros = vec![0.0; variable.as_tensor().elem_count()];
                Moments::Host(RefCell::new([zeros.clone(), zeros]))
            } else {
                Moments::Device(None)
            };
            Learning {
                name: name.clone(),
                variable: variable.clone(),
                moments,
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
            // What it was made of is of no use any more.
            let gradient = gradient.detach();
            let sum = match into.remove(&one.name) {
                Some(sum) => (sum + gradient).map_err(computing("gathering gradients"))?,
                None => gradient,
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
        let squares = squares(gradients).map_err(computing(doing))?;
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
        for one in &mut self.variables {
            let Some(gradient) = gradients.get(&one.name).filter(|_| one.factor > 0.0) else {
                continue;
            };
            let rate = self.settings.rate * self.pace * one.factor;
            let step = Step {
                scale: scale as f32,
                beta: [first as f32, second as f32],
                rate: (rate / (1.0 - first.powi(steps))) as f32,
                unbias: (1.0 / (1.0 - second.powi(steps))) as f32,
                epsilon: self.settings.epsilon as f32,
                keep: (1.0 - rate * self.settings.decay) as f32,
            };
            one.step(gradient, step).map_err(computing(doing))?;
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
            let both = one.moments(&Device::Cpu);
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
        for one in &mut self.variables {
            let name = format!("adam.{}", one.name);
            let count = one.variable.as_tensor().elem_count();
            let Some(both) = state.get(&name).filter(|both| both.dims() == [2, count]) else {
                return Err(LanguageError::Input(format!(
                    "the state of the optimizer lacks `{name}` of 2 times {count} values"
                )));
            };
            one.set_moments(both)
                .map_err(computing("reading the optimizer's state"))?;
        }
        self.steps = steps;
        Ok(())
    }
}

/// The sum of the squares of all gradients. One number comes from a GPU for all of them, and rows are summed before columns there: the library gives a sum over
/// everything to one part of it.
fn squares(gradients: &BTreeMap<String, Tensor>) -> candle_core::Result<f64> {
    let mut squares = 0.0;
    let mut elsewhere = Vec::new();
    for gradient in gradients.values() {
        let each = gradient.sqr()?;
        if each.device().is_cpu() {
            squares += f64::from(each.sum_all()?.to_scalar::<f32>()?);
        } else {
            elsewhere.push(each.sum(D::Minus1)?.sum_all()?);
        }
    }
    if !elsewhere.is_empty() {
        let sums = Tensor::stack(&elsewhere, 0)?.to_vec1::<f32>()?;
        squares += sums.into_iter().map(f64::from).sum::<f64>();
    }
    Ok(squares)
}

impl Learning {
    fn step(&mut self, gradient: &Tensor, step: Step) -> candle_core::Result<()> {
        let variable = self.variable.as_tensor();
        let gradient = gradient.detach().to_device(variable.device())?;
        let gradient = gradient.contiguous()?;
        match &mut self.moments {
            Moments::Host(moments) => variable.inplace_op2(&gradient, &OnHost { moments, step }),
            Moments::Device(moments) => {
                let [mean, square] = match moments.take() {
                    Some(both) => both,
                    None => [variable.zeros_like()?, variable.zeros_like()?],
                };
                let [first, second] = step.beta.map(f64::from);
                let gradient = (gradient * f64::from(step.scale))?;
                let mean = ((mean * first)? + (&gradient * (1.0 - first))?)?;
                let square = ((square * second)? + (gradient.sqr()? * (1.0 - second))?)?;
                let spread = (&square * f64::from(step.unbias))?.sqrt()?;
                let moved = (&mean * f64::from(step.rate))? / (spread + f64::from(step.epsilon))?;
                let kept = (variable.detach() * f64::from(step.keep))?;
                self.variable.set(&(kept - moved?)?)?;
                *moments = Some([mean, square]);
                Ok(())
            }
        }
    }

    /// (2, elements)
    fn moments(&self, device: &Device) -> candle_core::Result<Tensor> {
        let count = self.variable.elem_count();
        match &self.moments {
            Moments::Host(moments) => {
                Tensor::from_vec(moments.borrow().concat(), (2, count), device)
            }
            Moments::Device(Some([mean, square])) => {
                let both = Tensor::stack(&[mean.flatten_all()?, square.flatten_all()?], 0)?;
                both.to_device(device)
            }
            Moments::Device(None) => Tensor::zeros((2, count), candle_core::DType::F32, device),
        }
    }

    fn set_moments(&mut self, both: &Tensor) -> candle_core::Result<()> {
        match &mut self.moments {
            Moments::Host(moments) => {
                *moments.borrow_mut() = [both.get(0)?.to_vec1()?, both.get(1)?.to_vec1()?];
            }
            Moments::Device(moments) => {
                let one = |place| {
                    let flat = both.get(place)?.to_device(self.variable.device())?;
                    flat.reshape(self.variable.shape())
                };
                *moments = Some([one(0)?, one(1)?]);
            }
        }
        Ok(())
    }
}

/// One step of one tensor.
#[derive(Clone, Copy)]
struct Step {
    scale: f32,
    beta: [f32; 2],
    rate: f32,
    unbias: f32,
    epsilon: f32,
    keep: f32,
}

/// The same in one pass.
struct OnHost<'a> {
    moments: &'a RefCell<[Vec<f32>; 2]>,
    step: Step,
}

impl InplaceOp2 for OnHost<'_> {
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
        let step = self.step;
        let [first, second] = step.beta;
        let gradients = &gradients[gradients_from..gradients_to];
        let moments = means.iter_mut().zip(squares);
        for ((weight, gradient), (mean, square)) in
            weights[from..to].iter_mut().zip(gradients).zip(moments)
        {
            let gradient = gradient * step.scale;
            *mean = first * *mean + (1.0 - first) * gradient;
            *square = second * *square + (1.0 - second) * gradient * gradient;
            let spread = (*square * step.unbias).sqrt() + step.epsilon;
            *weight = *weight * step.keep - step.rate * *mean / spread;
        }
        Ok(())
    }
}
