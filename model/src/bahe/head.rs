//! The head: vectors of user and item, and the row's other numbers, to log-odds. The place where a larger model plugs in.
//!
//! Rows of several scenarios are one network's, which tells them apart by three things: a shift of the first hidden layer; *experts*, parts of the second, which each task of each scenario mixes by its own
//! weights (multi-gate mixture of experts, Ma et al., KDD 2018, with a gate that reads the scenario alone: whoever serves has one scenario a request, so the mix is folded into the last layer, and costs nothing a candidate. Experts
//! of a scenario's own, as in PLE, would starve where a scenario is small); and a line over each task's log-odds, which calibration lays. A scenario that is not among them has the rows of *another one*, which learn
//! from rows that are passed off as such.
//!
//! Beside the hidden layers stands a *cross*: one layer of DCN-V2 of low rank (Wang et al., WWW 2021), x₀ ⊙ (U V x₀ + b) + x₀, read by the tasks. One layer, because then each task's part is
//! z · M x₀ and a line over x₀: products of x₀ alone, whose user part is computed once a request like that of the first hidden layer. What is of higher degree is the hidden layers' business.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::language::LanguageError;
use crate::language::error::computing;
use crate::language::kernel;
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
    /// How many of these, the first, are products of what the user did with the item, which speak for it as they are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub matches: usize,
    /// Scenarios that it tells apart, and one for all others; 0: it knows nothing of scenarios.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub scenarios: usize,
    /// Parts of the second hidden layer that tasks mix, each of `inner[1]` numbers; 0: it is one, and all of it is read.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub experts: usize,
    /// Rank of the cross; 0: there is none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cross: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Scenarios, experts and ranks at most: tables and matrices of a manifest that asks for more are not made.
const PARTS_MAX: usize = 4_096;

impl HeadConfig {
    /// Numbers that go into the first hidden layer: the projections of the user's vectors and of the item's, the products of each of the user's with
    /// the item's, the row's, and those of interest.
    pub(super) fn inputs(&self) -> usize {
        (2 * self.sequences + 1) * self.projections() + self.features + self.interest
    }

    /// Numbers that it reads of a vector: of an item's text, and of each of the user's sequences.
    pub fn projections(&self) -> usize {
        if self.width == 0 { 0 } else { self.projected }
    }

    /// Width of the second hidden layer.
    pub(super) fn second(&self) -> usize {
        self.inner[1] * self.experts.max(1)
    }

    /// Rows of what it has of scenarios: the first is of those that it does not know.
    pub(super) fn places(&self) -> usize {
        self.scenarios + 1
    }

    /// Whether no part of it is larger than anybody can mean.
    pub(super) fn is_sane(&self) -> bool {
        let parts = [self.scenarios, self.experts, self.cross];
        parts.iter().all(|part| *part <= PARTS_MAX) && self.matches <= self.interest
    }
}

/// A line over each task's log-odds in each scenario, slope and shift: what calibration lays, and learning leaves alone.
pub(super) const LINES: &str = "head.lines";

/// What tasks read of interest beside the hidden layers.
pub(super) const DIRECT: &str = "head.direct";

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
    of_scenarios: Option<OfScenarios>,
    /// (scenarios, tasks · experts): how the tasks mix experts, before the softmax; without scenarios there is one row.
    gates: Option<Tensor>,
    cross: Option<Cross>,
    /// (tasks, interest): what tasks read of interest beside the hidden layers. These learn slowly to multiply, and hide from rows of ids what these could say.
    direct: Option<Tensor>,
}

/// What it has of each scenario.
#[derive(Debug)]
struct OfScenarios {
    /// (scenarios, inner): what is added to the first hidden layer.
    shifts: Tensor,
    /// (scenarios, tasks · 2): slopes and shifts.
    lines: Tensor,
}

/// One layer of crosses, and how tasks read it.
#[derive(Debug)]
struct Cross {
    /// (rank, inputs)
    down: Tensor,
    /// (inputs, rank), and what is added.
    up: Linear,
    /// (tasks, inputs)
    out: Tensor,
}

/// What the head sees of texts: of users, and of items.
#[derive(Clone, Copy, Debug)]
pub enum SeenTexts<'a> {
    /// Vectors of users, (rows, sequences, width), and of items, (rows, width).
    Vectors(&'a Tensor, &'a Tensor),
    /// Its own projections of them, as rows were logged: (rows, sequences, projected) and (rows, projected).
    Projections(&'a Tensor, &'a Tensor),
}

/// What the head is asked about, a row each.
#[derive(Debug)]
pub struct HeadInput<'a> {
    /// None: it looks at no texts.
    pub texts: Option<SeenTexts<'a>>,
    /// (rows, features)
    pub features: &'a Tensor,
    /// (rows, interest)
    pub interest: Option<&'a Tensor>,
    /// The baseline's log-odds, (rows, tasks).
    pub base: &'a Tensor,
    /// The scenarios, (rows); 0: another one. None: all are.
    pub scenarios: Option<&'a Tensor>,
}

impl Head {
    /// First values, the same for the same seed: what comes out is the baseline's, where there is no interest.
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
            linear("head.hidden.1", config.second(), one, 1.4)?;
            linear("head.out", config.tasks, two, 0.0)?;
            let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
            if config.cross > 0 {
                // Numbers of its own: all else begins the same, with a cross and without.
                let mut numbers = Numbers::of(seed, 1);
                let (inputs, rank) = (config.inputs(), config.cross);
                let mut normal = |rows: usize, columns: usize| {
                    let drawn = numbers.normal(rows * columns, 1.0 / (columns as f32).sqrt());
                    Tensor::from_vec(drawn, (rows, columns), &Device::Cpu)
                };
                values.insert("head.cross.down".to_owned(), normal(rank, inputs)?);
                values.insert("head.cross.up.weight".to_owned(), normal(inputs, rank)?);
                values.insert("head.cross.up.bias".to_owned(), zeros(&[inputs])?);
                let read = zeros(&[config.tasks, inputs])?;
                values.insert("head.cross.out".to_owned(), read);
            }
            if config.interest > 0 {
                let mut read = vec![0.0_f32; config.interest];
                read[..config.matches].fill(1.0);
                let shape = (config.tasks, config.interest);
                let read = Tensor::from_vec(read.repeat(config.tasks), shape, &Device::Cpu)?;
                values.insert(DIRECT.to_owned(), read);
            }
            if config.experts > 0 {
                // All alike: what experts begin as differs, and so does what becomes of them.
                let even = zeros(&[config.places(), config.tasks * config.experts])?;
                values.insert("head.gates".to_owned(), even);
            }
            if config.scenarios > 0 {
                values.insert("head.scenarios".to_owned(), zeros(&[config.places(), one])?);
                let line = [1.0_f32, 0.0].repeat(config.places() * config.tasks);
                let lines = (config.places(), 2 * config.tasks);
                let lines = Tensor::from_vec(line, lines, &Device::Cpu)?;
                values.insert(LINES.to_owned(), lines);
            }
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
                source.linear("head.hidden.1", (config.second(), one), true)?,
            ],
            out: source.linear("head.out", (config.tasks, two), true)?,
            base: source.tensor("head.base", &[config.tasks])?,
            of_scenarios: if config.scenarios == 0 {
                None
            } else {
                let (places, tasks) = (config.places(), config.tasks);
                Some(OfScenarios {
                    shifts: source.tensor("head.scenarios", &[places, one])?,
                    lines: source.tensor(LINES, &[places, 2 * tasks])?,
                })
            },
            gates: if config.experts == 0 {
                None
            } else {
                let shape = [config.places(), config.tasks * config.experts];
                Some(source.tensor("head.gates", &shape)?)
            },
            cross: if config.cross == 0 {
                None
            } else {
                let (inputs, rank) = (config.inputs(), config.cross);
                Some(Cross {
                    down: source.tensor("head.cross.down", &[rank, inputs])?,
                    up: source.linear("head.cross.up", (inputs, rank), true)?,
                    out: source.tensor("head.cross.out", &[config.tasks, inputs])?,
                })
            },
            direct: if config.interest == 0 {
                None
            } else {
                Some(source.tensor(DIRECT, &[config.tasks, config.interest])?)
            },
            config: config.clone(),
        };
        if let Some(variables) = variables {
            variables.extend(source.done().variables());
        }
        Ok(head)
    }

    /// What it looks like.
    pub(super) fn config(&self) -> &HeadConfig {
        &self.config
    }

    /// What it reads of items' vectors, (rows, projected), with no way back.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub(super) fn projected(&self, items: &Tensor) -> Result<Tensor, LanguageError> {
        let (_, item) = (self.projections.as_ref()).expect("invariant: it looks at vectors");
        let items = items.detach().unsqueeze(0);
        let projected = items.and_then(|items| item.forward(&items)?.squeeze(0));
        let projected = projected.map_err(computing("projecting texts"))?;
        Ok(projected.detach())
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
            let seen = match (&self.projections, input.texts) {
                (Some((user, item)), Some(SeenTexts::Vectors(users, items))) => {
                    Some((user.forward(users)?, flat(item, items)?))
                }
                (_, Some(SeenTexts::Projections(users, items))) => {
                    Some((users.clone(), items.clone()))
                }
                (None, Some(SeenTexts::Vectors(..))) | (_, None) => None,
            };
            if let Some((users, items)) = seen {
                let products = users.broadcast_mul(&items.unsqueeze(1)?)?;
                let wide = (rows, self.config.sequences * self.config.projected);
                parts.extend([users.reshape(wide)?, items, products.reshape(wide)?]);
            }
            parts.push(input.features.clone());
            parts.extend(input.interest.cloned());
            let inputs = Tensor::cat(&parts, 1)?;
            let scenarios = match input.scenarios {
                Some(scenarios) if self.config.scenarios > 0 => scenarios.clone(),
                Some(_) | None => Tensor::zeros(rows, DType::U32, inputs.device())?,
            };
            let [one, two] = &self.hidden;
            let mut x = flat(one, &inputs)?;
            if let Some(of) = &self.of_scenarios {
                x = (x + kernel::picked(&of.shifts, &scenarios)?)?;
            }
            let x = flat(two, &x.silu()?)?.silu()?;
            let mut odds = match &self.gates {
                Some(gates) => self.mixed(&kernel::picked(gates, &scenarios)?, &x)?,
                None => flat(&self.out, &x)?,
            };
            if let Some(cross) = &self.cross {
                let low = inputs.matmul(&cross.down.t()?)?;
                let crossed = ((&inputs * flat(&cross.up, &low)?)? + &inputs)?;
                odds = (odds + crossed.matmul(&cross.out.t()?)?)?;
            }
            if let (Some(direct), Some(interest)) = (&self.direct, input.interest) {
                odds = (odds + interest.matmul(&direct.t()?)?)?;
            }
            let odds = (odds + input.base.broadcast_mul(&self.base)?)?;
            let Some(of) = &self.of_scenarios else {
                return Ok(odds);
            };
            let lines = kernel::picked(&of.lines, &scenarios)?;
            let lines = lines.reshape((rows, self.config.tasks, 2))?;
            let part = |part: usize| lines.narrow(2, part, 1)?.squeeze(2);
            (odds * part(0)?)? + part(1)?
        };
        forward().map_err(computing("running the head"))
    }

    /// What tasks read of experts, (rows, experts · numbers), each by its mix of gates, (rows, tasks · experts).
    fn mixed(&self, gates: &Tensor, x: &Tensor) -> candle_core::Result<Tensor> {
        let (rows, experts) = (x.dim(0)?, self.config.experts);
        let gates = gates.reshape((rows, self.config.tasks, experts))?;
        let gates = gates
            .broadcast_sub(&gates.max_keepdim(2)?.detach())?
            .exp()?;
        let gates = gates.broadcast_div(&gates.sum_keepdim(2)?)?;
        let x = x.reshape((rows, experts, self.config.inner[1]))?;
        let mixed = gates.matmul(&x)?.broadcast_mul(&self.out.weight)?.sum(2)?;
        match &self.out.bias {
            Some(bias) => mixed.broadcast_add(bias),
            None => Ok(mixed),
        }
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

/// Whether the parameter of this name is a projection of vectors.
pub(super) fn is_projection(name: &str) -> bool {
    name.starts_with("head.user.") || name.starts_with("head.item.")
}

/// Whether a tensor of this name is one of the layers above texts.
pub(super) fn is_of_layers(name: &str) -> bool {
    let others = ["head.", "dinmp.", "table."];
    !others.iter().any(|other| name.starts_with(other))
}

/// Whether a model's tensor of this name is one of what it sees texts by.
pub fn is_of_towers(name: &str) -> bool {
    is_of_layers(name) || is_projection(name)
}

/// Whether the parameter of this name has a part for each task which no other task looks at, so that tasks do not share it.
pub(super) fn of_one_task(name: &str) -> bool {
    name.starts_with("head.out.") || ["head.base", "head.gates", "head.cross.out"].contains(&name)
}
