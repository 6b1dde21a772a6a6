//! Gradients as a trainer has them, tensors by parameter: to one, by a rule, over all of them or layer by layer.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::gram::Gram;
use super::{GradientError, GradientRule, Weighing};

/// Over what a rule looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All shared parameters at once.
    #[default]
    Global,
    /// Each layer by itself ([`layer_of`]). What harms no task in any layer harms none at all; the converse does not hold.
    Layer,
}

/// What one task says.
#[derive(Clone, Debug)]
pub struct TaskGradient {
    /// Its name.
    pub task: String,
    /// The gradient of its loss by each shared parameter, in f32 (or what becomes f32); a parameter that is not there has a gradient of zero. None: the task has no
    /// labelled row in this step and takes no part.
    pub parameters: Option<BTreeMap<String, Tensor>>,
}

/// What was made of them.
#[derive(Debug)]
pub struct Combined {
    /// D, of each parameter that any task has, shaped as it is, in f32.
    pub parameters: BTreeMap<String, Tensor>,
    /// The tasks that took part, in their order: [`Weighing::coefficients`] are theirs.
    pub tasks: Vec<String>,
    /// What was decided: of each layer, by name; or once, under no name, of all.
    pub weighings: Vec<(String, Weighing)>,
}

/// The layer of a parameter: its name up to the first number (`layers.3` of `layers.3.mlp.up_proj.weight`); without one, all but the last part
/// (`head.user` of `head.user.weight`); or the name itself (`norm`).
pub fn layer_of(parameter: &str) -> &str {
    let mut end = 0;
    for part in parameter.split('.') {
        end += part.len();
        if !part.is_empty() && part.bytes().all(|letter| letter.is_ascii_digit()) {
            return &parameter[..end];
        }
        end += 1;
    }
    parameter
        .rsplit_once('.')
        .map_or(parameter, |(layer, _)| layer)
}

/// One gradient of the tasks' gradients. `step` numbers the step, for rules that draw at random. Where no task takes part nothing comes out.
///
/// # Errors
/// A gradient that is not finite, by task and parameter; gradients of one parameter that have different shapes; too many tasks.
pub fn combine(
    tasks: &[TaskGradient],
    rule: &GradientRule,
    scope: Scope,
    step: u64,
) -> Result<Combined, GradientError> {
    let part = tasks.iter().filter_map(|task| {
        let parameters = task.parameters.as_ref()?;
        Some((task.task.as_str(), parameters))
    });
    let part: Vec<(&str, &BTreeMap<String, Tensor>)> = part.collect();
    let mut combined = Combined {
        parameters: BTreeMap::new(),
        tasks: part.iter().map(|(task, _)| (*task).to_owned()).collect(),
        weighings: Vec::new(),
    };
    if part.is_empty() {
        return Ok(combined);
    }
    let mut layers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let names: std::collections::BTreeSet<&String> =
        part.iter().flat_map(|(_, one)| one.keys()).collect();
    for name in names {
        let layer = match scope {
            Scope::Global => "",
            Scope::Layer => layer_of(name),
        };
        layers.entry(layer).or_default().push(name);
    }
    for (number, (layer, names)) in layers.iter().enumerate() {
        let mut gram = Gram::zeros(part.len())?;
        for name in names {
            let (_, values) = values_of(&part, name)?;
            let slices: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
            gram.add(&slices)
                .map_err(|error| named(error, &part, name))?;
        }
        // One layer's draws are not another's.
        let draw = step.wrapping_mul(1 << 16).wrapping_add(number as u64);
        let weighing = rule.weigh(&gram, draw)?;
        for name in names {
            let (shape, values) = values_of(&part, name)?;
            let sum = weighted(&values, &weighing.coefficients);
            let sum = Tensor::from_vec(sum, shape, &Device::Cpu)?;
            combined.parameters.insert((*name).to_owned(), sum);
        }
        combined.weighings.push(((*layer).to_owned(), weighing));
    }
    Ok(combined)
}

/// The shape of a parameter, and each task's gradient by it, flat; empty where a task has none.
fn values_of(
    part: &[(&str, &BTreeMap<String, Tensor>)],
    name: &str,
) -> Result<(Vec<usize>, Vec<Vec<f32>>), GradientError> {
    let mut shape: Option<&[usize]> = None;
    let mut values = Vec::with_capacity(part.len());
    for (task, gradients) in part {
        let Some(gradient) = gradients.get(name) else {
            values.push(Vec::new());
            continue;
        };
        let expected = *shape.get_or_insert(gradient.dims());
        if expected != gradient.dims() {
            return Err(GradientError::Shape(format!(
                "the gradient of task `{task}` at `{name}` has shape {:?}, another's {expected:?}",
                gradient.dims()
            )));
        }
        let flat = gradient.flatten_all()?.to_dtype(DType::F32)?;
        values.push(flat.to_vec1::<f32>()?);
    }
    Ok((shape.unwrap_or_default().to_vec(), values))
}

/// Σ αᵢ gᵢ, each value summed in f64.
fn weighted(values: &[Vec<f32>], coefficients: &[f64]) -> Vec<f32> {
    let length = values.iter().map(Vec::len).max().unwrap_or(0);
    let mut sums = vec![0.0; length];
    for (values, coefficient) in values.iter().zip(coefficients) {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += coefficient * f64::from(*value);
        }
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}

/// The same error with the task's and the parameter's name.
fn named(
    error: GradientError,
    part: &[(&str, &BTreeMap<String, Tensor>)],
    name: &str,
) -> GradientError {
    let GradientError::NotFinite { task, .. } = error else {
        return error;
    };
    let number: usize = task.parse().expect("invariant: it is numbered");
    GradientError::NotFinite {
        task: part[number].0.to_owned(),
        parameter: Some(name.to_owned()),
    }
}
