//! The head: vectors of user and item, and the row's other numbers, to log-odds. The place where a larger model plugs in.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::language::LanguageError;
use crate::language::error::computing;
use crate::language::part::{Linear, Origin, Purpose, Source};
use crate::numbers::Numbers;

/// What the head looks like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// Width of vectors; 0: it looks at none.
    pub width: usize,
    /// Sequences of a user.
    pub sequences: usize,
    /// The row's other numbers.
    pub features: usize,
    /// Log-odds that come out, one a task.
    pub tasks: usize,
    /// Numbers that are left of a vector.
    pub projected: usize,
    /// Width of the two hidden layers.
    pub inner: [usize; 2],
    /// Numbers of the user's interest in the item ([`crate::dinmp`]); 0: none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub interest: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl HeadConfig {
    /// Numbers that go into the first hidden layer: the projections of the user's vectors and of the item's, the products of each of the user's with
    /// the item's, the row's, and those of interest.
    pub(super) fn inputs(&self) -> usize {
        let vectors = if self.width == 0 {
            0
        } else {
            2 * self.sequences + 1
        };
        vectors * self.projected + self.features + self.interest
    }
}

/// A deep neural network over vectors and numbers, whose log-odds are added to those of the baseline: so it begins as the baseline, and learns what that
/// does not know.
#[derive(Debug)]
pub struct Head {
    config: HeadConfig,
    projections: Option<(Linear, Linear)>,
    hidden: [Linear; 2],
    out: Linear,
    /// (tasks): how much of the baseline's log-odds is believed.
    base: Tensor,
}

/// What the head is asked about, a row each.
#[derive(Debug)]
pub struct HeadInput<'a> {
    /// Vectors of users, (rows, sequences, width), and of items, (rows, width).
    pub vectors: Option<(&'a Tensor, &'a Tensor)>,
    /// (rows, features)
    pub features: &'a Tensor,
    /// (rows, interest)
    pub interest: Option<&'a Tensor>,
    /// The baseline's log-odds, (rows, tasks).
    pub base: &'a Tensor,
}

impl Head {
    /// First values, the same for the same seed: what comes out is the baseline's.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn random(
        config: &HeadConfig,
        seed: u64,
    ) -> Result<BTreeMap<String, Tensor>, LanguageError> {
        let mut numbers = Numbers(seed);
        let mut make = || {
            let mut values = BTreeMap::new();
            let mut linear = |name: &str, rows: usize, columns: usize, spread: f32| {
                let weight = numbers.normal(rows * columns, spread / (columns as f32).sqrt());
                let weight = Tensor::from_vec(weight, (rows, columns), &Device::Cpu)?;
                values.insert(format!("{name}.weight"), weight);
                let bias = Tensor::zeros(rows, DType::F32, &Device::Cpu)?;
                values.insert(format!("{name}.bias"), bias);
                candle_core::Result::Ok(())
            };
            if config.width > 0 {
                linear("head.user", config.projected, config.width, 1.0)?;
                linear("head.item", config.projected, config.width, 1.0)?;
            }
            let [one, two] = config.inner;
            linear("head.hidden.0", one, config.inputs(), 1.4)?;
            linear("head.hidden.1", two, one, 1.4)?;
            linear("head.out", config.tasks, two, 0.0)?;
            let ones = Tensor::ones(config.tasks, DType::F32, &Device::Cpu)?;
            values.insert("head.base".to_owned(), ones);
            Ok(values)
        };
        make().map_err(computing("making first values"))
    }

    /// The head of these values; with `variables`, each as a variable that can learn, by its name.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape, named; `path` is where they were read.
    pub fn of(
        config: &HeadConfig,
        tensors: &BTreeMap<String, Tensor>,
        path: &Path,
        device: &Device,
        variables: Option<&mut Vec<(String, Var)>>,
    ) -> Result<Self, LanguageError> {
        let purpose = Purpose::of(variables.is_some());
        let mut source = Source::new(Origin::Named { tensors, path }, device, purpose);
        let shape = (config.projected, config.width);
        let projections = if config.width == 0 {
            None
        } else {
            let user = source.linear("head.user", shape, true)?;
            Some((user, source.linear("head.item", shape, true)?))
        };
        let [one, two] = config.inner;
        let head = Self {
            projections,
            hidden: [
                source.linear("head.hidden.0", (one, config.inputs()), true)?,
                source.linear("head.hidden.1", (two, one), true)?,
            ],
            out: source.linear("head.out", (config.tasks, two), true)?,
            base: source.tensor("head.base", &[config.tasks])?,
            config: config.clone(),
        };
        if let Some(variables) = variables {
            variables.extend(source.done().variables());
        }
        Ok(head)
    }

    /// Log-odds, (rows, tasks).
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, input: &HeadInput<'_>) -> Result<Tensor, LanguageError> {
        let forward = || {
            let rows = input.features.dim(0)?;
            let flat = |linear: &Linear, x: &Tensor| linear.forward(&x.unsqueeze(0)?)?.squeeze(0);
            let mut parts = Vec::new();
            if let (Some((user, item)), Some((users, items))) = (&self.projections, input.vectors) {
                let items = flat(item, items)?;
                let users = user.forward(users)?;
                let products = users.broadcast_mul(&items.unsqueeze(1)?)?;
                let wide = (rows, self.config.sequences * self.config.projected);
                parts.extend([users.reshape(wide)?, items, products.reshape(wide)?]);
            }
            parts.push(input.features.clone());
            parts.extend(input.interest.cloned());
            let mut x = Tensor::cat(&parts, 1)?;
            for hidden in &self.hidden {
                x = flat(hidden, &x)?.silu()?;
            }
            flat(&self.out, &x)? + input.base.broadcast_mul(&self.base)?
        };
        forward().map_err(computing("running the head"))
    }
}

/// Mean binary cross-entropy of log-odds, (rows, tasks), with labels of that shape; only rows whose weight is not 0 count, each by its weight. Stable at any
/// log-odds: the library's own is the logarithm of a rounded sigmoid, infinite at 20.
///
/// # Errors
/// None but the tensor library's.
pub fn cross_entropy(
    log_odds: &Tensor,
    labels: &Tensor,
    weights: &Tensor,
) -> Result<Tensor, LanguageError> {
    let compute = || {
        let each = cross_entropies(log_odds, labels)?;
        let counted = weights.sum_all()?.to_scalar::<f32>()?.max(1.0);
        (each * weights)?.sum_all()? / f64::from(counted)
    };
    compute().map_err(computing("computing the loss"))
}

/// The same of each task by itself, (tasks): its rows' sum by weight over `counts`, one a task; 0 where that is 0.
pub(super) fn cross_entropy_by_task(
    log_odds: &Tensor,
    labels: &Tensor,
    weights: &Tensor,
    counts: &[f32],
) -> Result<Tensor, LanguageError> {
    let compute = || {
        let each = cross_entropies(log_odds, labels)?;
        let parts = counts
            .iter()
            .map(|count| if *count > 0.0 { 1.0 / count } else { 0.0 });
        let parts: Vec<f32> = parts.collect();
        let parts = Tensor::from_vec(parts, counts.len(), log_odds.device())?;
        (each * weights)?.sum(0)? * parts
    };
    compute().map_err(computing("computing the loss"))
}

/// Of each log-odds by itself.
fn cross_entropies(log_odds: &Tensor, labels: &Tensor) -> candle_core::Result<Tensor> {
    let positive = log_odds.relu()?;
    let behind = (log_odds.abs()?.neg()?.exp()? + 1.0)?.log()?;
    (positive - (log_odds * labels)?)? + behind
}

/// Whether the parameter of this name has a part for each task which no other task looks at, so that tasks do not share it.
pub(super) fn of_one_task(name: &str) -> bool {
    name.starts_with("head.out.") || name == "head.base"
}
