//! The head as it answers: the same network as [`super::Head`], over plain slices, candidate by candidate.
//!
//! Before it, the baseline has scored a request's rows, and vectors of its user and of its candidates were looked up; after it, each candidate that has a
//! vector has the head's probability, and the others keep the baseline's. What is the same for all candidates of a request is computed once. A candidate's
//! numbers are added up in an order that does not depend on the others: alone or among thousands, it has the same score to the bit.
//!
//! What is of one scenario is folded before anybody asks: how tasks mix experts into the weights of the last layer, one a scenario; a cross of rank r into linear maps of its inputs, since what
//! a task t reads of x₀ ⊙ (U V x₀ + b) + x₀ by weights c is z · y + l with z = V x₀, y = Uᵀ (c ⊙ x₀) and l = (c ⊙ (1 + b)) · x₀.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use candle_core::{Device, Tensor};

use crate::baseline::{Baseline, Scores};
use crate::feature::{FeatureBatch, FeatureRow, Projection};
use crate::language::LanguageError;
use crate::language::error::computing;
use crate::language::kernel::{self, exp};
use crate::language::part::{Origin, Purpose, Source};
use crate::wide::{add_product, widest};

use super::head::{DIRECT, HeadConfig, LINES};

/// What a row's number is to a model before it is centred: a count of a thousand is not a hundred times one of ten.
#[must_use]
pub fn squashed(value: f32) -> f32 {
    kernel::squashed(value)
}

/// The baseline's log-odds, as the head begins with them.
#[must_use]
pub fn base_log_odds(probability: f32) -> f32 {
    let probability = probability.clamp(1e-6, 1.0 - 1e-6);
    (probability / (1.0 - probability)).ln()
}

/// What the head sees of the vectors of one request, in buffers that are used again for the next: their projections.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowVectors {
    projected: usize,
    /// (sequences, projected)
    users: Vec<f32>,
    /// (candidates, projected)
    items: Vec<f32>,
    known: Vec<bool>,
}

impl RowVectors {
    /// The projections of the user's vectors, (sequences, projected), one behind the other.
    pub fn users(&self) -> &[f32] {
        &self.users
    }

    /// The projections of candidates' vectors, (candidates, projected); 0 of those without one.
    pub fn items(&self) -> &[f32] {
        &self.items
    }

    /// The projection of a candidate's vector, if it has one.
    pub fn item(&self, candidate: usize) -> Option<&[f32]> {
        let from = candidate * self.projected;
        self.known[candidate].then(|| &self.items[from..from + self.projected])
    }

    /// Whether all of it is finite numbers.
    pub fn is_finite(&self) -> bool {
        let mut all = self.users.iter().chain(&self.items);
        all.all(|value| value.is_finite())
    }

    /// Candidates that have a vector.
    pub fn known(&self) -> usize {
        self.known.iter().filter(|known| **known).count()
    }
}

/// Weights as products take them, (inputs, outputs), and what is added.
#[derive(Debug)]
struct Layer {
    outputs: usize,
    weights: Vec<f32>,
    bias: Vec<f32>,
}

impl Layer {
    fn of(
        source: &mut Source<'_>,
        name: &str,
        (outputs, inputs): (usize, usize),
    ) -> Result<Self, LanguageError> {
        let doing = "reading the head";
        let weights = source.tensor(&format!("{name}.weight"), &[outputs, inputs])?;
        let turned = weights.t().and_then(|turned| turned.contiguous());
        let turned = turned.map_err(computing(doing))?;
        let bias = source.tensor(&format!("{name}.bias"), &[outputs])?;
        Ok(Self {
            outputs,
            weights: flat(&turned)?,
            bias: bias.to_vec1().map_err(computing(doing))?,
        })
    }

    /// Adds what some of the inputs come to, of so many rows: `out += x · weights`.
    fn add(&self, inputs: Range<usize>, x: &[f32], out: &mut [f32]) {
        let weights = &self.weights[inputs.start * self.outputs..inputs.end * self.outputs];
        if !weights.is_empty() {
            add_product(x, weights, out, self.outputs);
        }
    }

    /// Of rows of all inputs.
    fn apply(&self, x: &[f32], out: &mut Vec<f32>, rows: usize) {
        out.clear();
        (0..rows).for_each(|_| out.extend_from_slice(&self.bias));
        add_product(x, &self.weights, out, self.outputs);
    }
}

impl Layer {
    /// The cross, folded; none where there is none.
    fn of_cross(
        source: &mut Source<'_>,
        config: &HeadConfig,
    ) -> Result<Option<Self>, LanguageError> {
        let (inputs, rank, tasks) = (config.inputs(), config.cross, config.tasks);
        if rank == 0 {
            return Ok(None);
        }
        let down = flat(&source.tensor("head.cross.down", &[rank, inputs])?)?;
        let up = flat(&source.tensor("head.cross.up.weight", &[inputs, rank])?)?;
        let more = flat(&source.tensor("head.cross.up.bias", &[inputs])?)?;
        let read = flat(&source.tensor("head.cross.out", &[tasks, inputs])?)?;
        let outputs = (rank + tasks * rank + tasks).next_multiple_of(LANES);
        let mut weights = vec![0.0; inputs * outputs];
        for (input, line) in weights.chunks_mut(outputs).enumerate() {
            let of = |task: usize| read[task * inputs + input];
            for at in 0..rank {
                line[at] = down[at * inputs + input];
                for task in 0..tasks {
                    line[(1 + task) * rank + at] = of(task) * up[input * rank + at];
                }
            }
            for task in 0..tasks {
                line[(1 + tasks) * rank + task] = of(task) * (1.0 + more[input]);
            }
        }
        Ok(Some(Self {
            outputs,
            weights,
            bias: vec![0.0; outputs],
        }))
    }
}

/// What the head has of each scenario, with the last layer as its tasks mix experts there; `bias` is the first hidden layer's.
fn scenarios(
    source: &mut Source<'_>,
    config: &HeadConfig,
    bias: &[f32],
) -> Result<Vec<Scenario>, LanguageError> {
    let (places, tasks) = (config.places(), config.tasks);
    let (experts, [one, two]) = (config.experts.max(1), config.inner);
    let out = flat(&source.tensor("head.out.weight", &[tasks, two])?)?;
    let out_bias = flat(&source.tensor("head.out.bias", &[tasks])?)?;
    let mut tables = None;
    if config.scenarios > 0 {
        let shifts = source.tensor("head.scenarios", &[places, one])?;
        let lines = source.tensor(LINES, &[places, 2 * tasks])?;
        tables = Some((flat(&shifts)?, flat(&lines)?));
    }
    let mut gates = vec![0.0; places * tasks * experts];
    if config.experts > 0 {
        gates = flat(&source.tensor("head.gates", &[places, tasks * experts])?)?;
    }
    let of = |place: usize| {
        let mut weights = vec![0.0; experts * two * tasks];
        for task in 0..tasks {
            let gates = &gates[(place * tasks + task) * experts..][..experts];
            let most = gates.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let all: f32 = gates.iter().map(|gate| (gate - most).exp()).sum();
            for (expert, gate) in gates.iter().enumerate() {
                let part = (gate - most).exp() / all;
                for at in 0..two {
                    weights[(expert * two + at) * tasks + task] = part * out[task * two + at];
                }
            }
        }
        let (mut bias, mut lines) = (bias.to_vec(), vec![[1.0, 0.0]; tasks]);
        if let Some((shifts, all)) = &tables {
            let shifts = &shifts[place * one..][..one];
            bias.iter_mut()
                .zip(shifts)
                .for_each(|(bias, shift)| *bias += shift);
            let of_place = &all[place * 2 * tasks..][..2 * tasks];
            lines.copy_from_slice(of_place.as_chunks::<2>().0);
        }
        Scenario {
            bias,
            out: Layer {
                outputs: tasks,
                weights,
                bias: out_bias.clone(),
            },
            lines,
        }
    };
    Ok((0..places).map(of).collect())
}

fn flat(tensor: &Tensor) -> Result<Vec<f32>, LanguageError> {
    let flat = tensor.flatten_all().and_then(|flat| flat.to_vec1());
    flat.map_err(computing("reading the head"))
}

/// The head of a trained model.
#[derive(Debug)]
pub struct Scorer {
    config: HeadConfig,
    /// Where a row has the numbers and tasks that it was trained on.
    places: Projection,
    /// Mean and spread of each of these numbers, squashed: of those of the shared part, and of a candidate's.
    moments: [Vec<[f32; 2]>; 2],
    projections: Option<(Layer, Layer)>,
    hidden: [Layer; 2],
    base: Vec<f32>,
    /// The cross as one layer over the inputs: z; of each task y; then of each task l, and nothing up to a whole number of vectors.
    cross: Option<Layer>,
    /// What tasks read of interest as it is, (tasks, interest); empty where there is none.
    direct: Vec<f32>,
    /// By scenario, the first those that are none of ours.
    scenarios: Vec<Scenario>,
}

/// What it has of a scenario.
#[derive(Debug)]
struct Scenario {
    /// What is added to the first hidden layer, its bias included.
    bias: Vec<f32>,
    out: Layer,
    /// Slope and shift of each task.
    lines: Vec<[f32; 2]>,
}

/// Numbers of a layer's outputs that are a whole number of vectors on any processor.
const LANES: usize = 16;

/// Candidates that are computed at once: what they take lies near the processor.
const PIECE: usize = 64;

/// Some candidates of a request, each thing of them one behind the other.
#[derive(Debug, Default)]
struct Piece {
    rows: usize,
    items: Vec<f32>,
    products: Vec<f32>,
    own: Vec<f32>,
    interest: Vec<f32>,
    hidden: [Vec<f32>; 2],
    cross: Vec<f32>,
    out: Vec<f32>,
}

/// What the first layers make of what all candidates share.
struct Same<'a> {
    hidden: Vec<f32>,
    cross: Vec<f32>,
    scenario: &'a Scenario,
}

impl Piece {
    fn clear(&mut self) {
        self.rows = 0;
        self.items.clear();
        self.products.clear();
        self.own.clear();
        self.interest.clear();
    }

    fn push(
        &mut self,
        scorer: &Scorer,
        own: &[f32],
        (users, item, interest): (&[f32], &[f32], &[f32]),
    ) {
        self.rows += 1;
        self.items.extend_from_slice(item);
        // Without vectors there is no item to take products with.
        for user in users.chunks(item.len().max(1)) {
            let products = user.iter().zip(item).map(|(user, item)| user * item);
            self.products.extend(products);
        }
        let (places, moments) = (&scorer.places.own, &scorer.moments[1]);
        centred(places, moments, own, &mut self.own);
        self.interest.extend_from_slice(interest);
    }
}

impl Scorer {
    /// The head of these values, for rows that have its numbers and tasks at these places.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape, named; `path` is where they were read.
    ///
    /// # Panics
    /// If there is not one pair of moments, and one place, a number, and one place a task.
    pub fn of(
        config: &HeadConfig,
        places: Projection,
        moments: &[[f32; 2]],
        tensors: &BTreeMap<String, Tensor>,
        path: &Path,
    ) -> Result<Self, LanguageError> {
        assert_eq!(
            moments.len(),
            config.features,
            "one pair of moments a number"
        );
        assert_eq!(
            [places.shared.len() + places.own.len(), places.tasks.len()],
            [config.features, config.tasks],
            "one place a number and a task"
        );
        let shared = places.shared.len();
        let purpose = Purpose::of(false);
        let mut source = Source::new(Origin::Named { tensors, path }, &Device::Cpu, purpose);
        let shape = (config.projected, config.width);
        let projections = if config.width == 0 {
            None
        } else {
            let user = Layer::of(&mut source, "head.user", shape)?;
            Some((user, Layer::of(&mut source, "head.item", shape)?))
        };
        let one = config.inner[0];
        let base = source.tensor("head.base", &[config.tasks])?;
        let hidden = [
            Layer::of(&mut source, "head.hidden.0", (one, config.inputs()))?,
            Layer::of(&mut source, "head.hidden.1", (config.second(), one))?,
        ];
        Ok(Self {
            moments: [moments[..shared].to_vec(), moments[shared..].to_vec()],
            places,
            projections,
            cross: Layer::of_cross(&mut source, config)?,
            direct: match config.interest {
                0 => Vec::new(),
                interest => flat(&source.tensor(DIRECT, &[config.tasks, interest])?)?,
            },
            scenarios: scenarios(&mut source, config, &hidden[0].bias)?,
            hidden,
            base: base.to_vec1().map_err(computing("reading the head"))?,
            config: config.clone(),
        })
    }

    /// What the head looks like.
    pub fn config(&self) -> &HeadConfig {
        &self.config
    }

    /// Begins a request of so many candidates: none has a vector, and the user's are 0 until they are set.
    pub fn begin(&self, candidates: usize, vectors: &mut RowVectors) {
        let config = &self.config;
        let wide = config.projections();
        vectors.projected = wide;
        vectors.users.clear();
        vectors.users.resize(config.sequences * wide, 0.0);
        vectors.items.clear();
        vectors.items.resize(candidates * wide, 0.0);
        vectors.known.clear();
        // A head that looks at no vector lacks none.
        vectors.known.resize(candidates, config.width == 0);
    }

    /// Sets the vector, (width), of one of the user's sequences.
    ///
    /// # Panics
    /// If the head has no such sequence, or looks at no vectors.
    pub fn set_user(&self, sequence: usize, vector: &[f32], vectors: &mut RowVectors) {
        let (user, _) = self.projections.as_ref().expect("a head with vectors");
        let from = sequence * vectors.projected;
        let to = &mut vectors.users[from..from + vectors.projected];
        to.copy_from_slice(&user.bias);
        add_product(vector, &user.weights, to, user.outputs);
    }

    /// Sets a candidate's vector, (width).
    ///
    /// # Panics
    /// If there is no such candidate, or the head looks at no vectors.
    pub fn set_item(&self, candidate: usize, vector: &[f32], vectors: &mut RowVectors) {
        let (_, item) = self.projections.as_ref().expect("a head with vectors");
        let from = candidate * vectors.projected;
        let to = &mut vectors.items[from..from + vectors.projected];
        to.copy_from_slice(&item.bias);
        add_product(vector, &item.weights, to, item.outputs);
        vectors.known[candidate] = true;
    }

    /// Puts the head's probabilities in the place of the baseline's, for all candidates that have a vector. `interest` is what [`crate::dinmp::Network::forward`] gives
    /// of them, where the head looks at it; `scenario` is the request's ([`super::BaheModel::scenario`]). Tasks that the model does not know keep the baseline's.
    ///
    /// # Panics
    /// If batch, scores and vectors are not of one request, or not of this head's schema.
    pub fn score(
        &self,
        (batch, scenario): (&FeatureBatch, usize),
        (vectors, interest): (&RowVectors, &[f32]),
        (baseline, scores): (&Baseline, &mut Scores),
    ) {
        let same = self.same_of((batch.shared(), scenario), &vectors.users);
        let wide = self.config.interest;
        assert_eq!(
            interest.len(),
            batch.len() * wide,
            "interest in each candidate"
        );
        let known: Vec<usize> = (0..batch.len())
            .filter(|candidate| vectors.known[*candidate])
            .collect();
        let mut piece = Piece::default();
        for candidates in known.chunks(PIECE) {
            piece.clear();
            for candidate in candidates {
                let item = &vectors.items[candidate * vectors.projected..][..vectors.projected];
                let interest = &interest[candidate * wide..][..wide];
                let seen = (&*vectors.users, item, interest);
                piece.push(self, batch.row(*candidate).own, seen);
            }
            self.run(&same, &mut piece);
            for (place, candidate) in candidates.iter().enumerate() {
                let scores = scores.candidate_mut(*candidate);
                self.begin_with(baseline, batch.row(*candidate), scores);
                self.answer(&same, &piece, place, scores);
            }
        }
    }

    /// The same of one row that was logged: of users and item the projections, and the interest; `scores` are the baseline's probabilities.
    ///
    /// # Panics
    /// If they are not of this head's widths.
    pub fn score_row(
        &self,
        (row, scenario): (FeatureRow<'_>, usize),
        (users, item, interest): (&[f32], &[f32], &[f32]),
        (baseline, scores): (&Baseline, &mut [f32]),
    ) {
        assert_eq!(interest.len(), self.config.interest, "the row's interest");
        let same = self.same_of((row.shared, scenario), users);
        let mut piece = Piece::default();
        piece.push(self, row.own, (users, item, interest));
        self.run(&same, &mut piece);
        self.begin_with(baseline, row, scores);
        self.answer(&same, &piece, 0, scores);
    }

    /// Where the parts of the first layer's inputs begin ([`HeadConfig::inputs`]): item, products, shared numbers, own numbers, interest.
    fn parts(&self) -> [Range<usize>; 5] {
        let wide = self.config.projections();
        let users = self.config.sequences * wide;
        let products = users + wide;
        let shared = products + users;
        let own = shared + self.places.shared.len();
        let inputs = self.config.inputs();
        let interest = inputs - self.config.interest;
        [
            users..products,
            products..shared,
            shared..own,
            own..interest,
            interest..inputs,
        ]
    }

    /// What the first layers make of what all candidates share.
    fn same_of(&self, (shared, scenario): (&[f32], usize), users: &[f32]) -> Same<'_> {
        let [item, _, of_shared, ..] = self.parts();
        let mut numbers = Vec::new();
        centred(&self.places.shared, &self.moments[0], shared, &mut numbers);
        let scenario = &self.scenarios[scenario];
        let both = |layer: &Layer, mut same: Vec<f32>| {
            layer.add(0..item.start, users, &mut same);
            layer.add(of_shared.clone(), &numbers, &mut same);
            same
        };
        let cross = self.cross.as_ref();
        Same {
            hidden: both(&self.hidden[0], scenario.bias.clone()),
            cross: cross.map_or_else(Vec::new, |cross| both(cross, cross.bias.clone())),
            scenario,
        }
    }

    /// The layers.
    fn run(&self, same: &Same<'_>, piece: &mut Piece) {
        let [of_item, of_products, _, of_own, of_interest] = self.parts();
        let Piece {
            rows,
            items,
            products,
            own,
            interest,
            hidden: [one, two],
            cross,
            out,
        } = piece;
        let first = |layer: &Layer, same: &[f32], to: &mut Vec<f32>| {
            to.clear();
            (0..*rows).for_each(|_| to.extend_from_slice(same));
            layer.add(of_item.clone(), items, to);
            layer.add(of_products.clone(), products, to);
            layer.add(of_own.clone(), own, to);
            layer.add(of_interest.clone(), interest, to);
        };
        first(&self.hidden[0], &same.hidden, one);
        widest(|| one.iter_mut().for_each(|value| *value = silu(*value)));
        self.hidden[1].apply(one, two, *rows);
        widest(|| two.iter_mut().for_each(|value| *value = silu(*value)));
        same.scenario.out.apply(two, out, *rows);
        if !self.direct.is_empty() {
            let wide = self.config.interest;
            let rows = interest.chunks(wide).zip(out.chunks_mut(self.config.tasks));
            widest(|| {
                for (interest, out) in rows {
                    for (out, read) in out.iter_mut().zip(self.direct.chunks(wide)) {
                        *out += kernel::dot(read, interest);
                    }
                }
            });
        }
        if let Some(layer) = &self.cross {
            first(layer, &same.cross, cross);
            let tasks = self.config.tasks;
            let rows = cross.chunks(layer.outputs).zip(out.chunks_mut(tasks));
            widest(|| {
                for (crossed, out) in rows {
                    let (z, rest) = crossed.split_at(self.config.cross);
                    let (ys, straight) = rest.split_at(tasks * z.len());
                    let of_task = ys.chunks(z.len()).zip(straight);
                    for (out, (y, straight)) in out.iter_mut().zip(of_task) {
                        *out += straight + kernel::dot(z, y);
                    }
                }
            });
        }
    }

    /// The baseline's probabilities as they would be if rows had the tasks alone that the model was trained on: others say something of an item, too.
    fn begin_with(&self, baseline: &Baseline, row: FeatureRow<'_>, scores: &mut [f32]) {
        let tasks = &self.places.tasks;
        if tasks.iter().copied().ne(0..scores.len()) {
            for &task in tasks {
                scores[task] = baseline.explain_among(row, task, tasks).probability;
            }
        }
    }

    /// A candidate's probabilities in the place of the baseline's.
    fn answer(&self, same: &Same<'_>, piece: &Piece, place: usize, scores: &mut [f32]) {
        let tasks = self.base.len();
        let more = &piece.out[place * tasks..][..tasks];
        let of_tasks = more.iter().zip(&self.base).zip(&same.scenario.lines);
        for (at, ((more, base), [slope, shift])) in self.places.tasks.iter().zip(of_tasks) {
            let score = &mut scores[*at];
            let log_odds = (more + base_log_odds(*score) * base) * slope + shift;
            *score = 1.0 / (1.0 + (-log_odds).exp());
        }
    }
}

/// Those of a part's numbers that the network was trained on, as it was, behind what is there.
fn centred(places: &[usize], moments: &[[f32; 2]], values: &[f32], to: &mut Vec<f32>) {
    let from = to.len();
    to.extend(places.iter().map(|at| values[*at]));
    let numbers = &mut to[from..];
    widest(|| {
        for (value, [mean, spread]) in numbers.iter_mut().zip(moments) {
            *value = (squashed(*value) - mean) / spread;
        }
    });
}

fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}
