//! The head as it answers: the same network as [`super::Head`], over plain slices, candidate by candidate.
//!
//! Before it, the baseline has scored a request's rows, and vectors of its user and of its candidates were looked up; after it, each candidate that has a
//! vector has the head's probability, and the others keep the baseline's. What is the same for all candidates of a request is computed once. A candidate's
//! numbers are added up in an order that does not depend on the others: alone or among thousands, it has the same score to the bit.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use candle_core::{Device, Tensor};

use crate::baseline::Scores;
use crate::feature::{FeatureBatch, FeatureRow};
use crate::language::LanguageError;
use crate::language::error::computing;
use crate::language::kernel::dot;
use crate::language::part::{Origin, Purpose, Source};

use super::head::HeadConfig;

/// What a row's number is to a model before it is centred: a count of a thousand is not a hundred times one of ten.
#[must_use]
pub fn squashed(value: f32) -> f32 {
    value.signum() * value.abs().ln_1p()
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

    /// The projection of a candidate's vector, if it has one.
    pub fn item(&self, candidate: usize) -> Option<&[f32]> {
        let from = candidate * self.projected;
        self.known[candidate].then(|| &self.items[from..from + self.projected])
    }

    /// Candidates that have a vector.
    pub fn known(&self) -> usize {
        self.known.iter().filter(|known| **known).count()
    }
}

/// A row of weights for each number that comes out.
#[derive(Debug)]
struct Rows {
    columns: usize,
    weights: Vec<f32>,
    bias: Vec<f32>,
}

impl Rows {
    fn of(
        source: &mut Source<'_>,
        name: &str,
        (rows, columns): (usize, usize),
    ) -> Result<Self, LanguageError> {
        let mut read = |name: &str, shape: &[usize]| {
            let tensor = source.tensor(name, shape)?.flatten_all();
            tensor
                .and_then(|tensor| tensor.to_vec1::<f32>())
                .map_err(computing("reading the head"))
        };
        Ok(Self {
            columns,
            weights: read(&format!("{name}.weight"), &[rows, columns])?,
            bias: read(&format!("{name}.bias"), &[rows])?,
        })
    }

    fn rows(&self) -> impl Iterator<Item = (&[f32], f32)> {
        let rows = self.weights.chunks(self.columns);
        rows.zip(self.bias.iter().copied())
    }

    fn apply(&self, x: &[f32], y: &mut Vec<f32>) {
        y.clear();
        y.extend(self.rows().map(|(row, bias)| bias + dot(row, x)));
    }
}

/// The head of a trained model.
#[derive(Debug)]
pub struct Scorer {
    config: HeadConfig,
    /// Numbers of a row that all candidates share.
    shared: usize,
    /// Mean and spread of each of a row's numbers, squashed.
    moments: Vec<[f32; 2]>,
    projections: Option<(Rows, Rows)>,
    hidden: [Rows; 2],
    out: Rows,
    base: Vec<f32>,
}

/// Buffers of one request.
#[derive(Debug, Default)]
struct Buffers {
    shared: Vec<f32>,
    own: Vec<f32>,
    products: Vec<f32>,
    same: Vec<f32>,
    hidden: [Vec<f32>; 2],
    out: Vec<f32>,
}

impl Scorer {
    /// The head of these values; of a row's numbers, the first `shared` are the same for all candidates of a request.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape, named; `path` is where they were read.
    ///
    /// # Panics
    /// If there is not one pair of moments a number.
    pub fn of(
        config: &HeadConfig,
        shared: usize,
        moments: Vec<[f32; 2]>,
        tensors: &BTreeMap<String, Tensor>,
        path: &Path,
    ) -> Result<Self, LanguageError> {
        assert_eq!(
            moments.len(),
            config.features,
            "one pair of moments a number"
        );
        let purpose = Purpose::of(false);
        let mut source = Source::new(Origin::Named { tensors, path }, &Device::Cpu, purpose);
        let shape = (config.projected, config.width);
        let projections = if config.width == 0 {
            None
        } else {
            let user = Rows::of(&mut source, "head.user", shape)?;
            Some((user, Rows::of(&mut source, "head.item", shape)?))
        };
        let [one, two] = config.inner;
        let base = source.tensor("head.base", &[config.tasks])?;
        Ok(Self {
            shared,
            moments,
            projections,
            hidden: [
                Rows::of(&mut source, "head.hidden.0", (one, config.inputs()))?,
                Rows::of(&mut source, "head.hidden.1", (two, one))?,
            ],
            out: Rows::of(&mut source, "head.out", (config.tasks, two))?,
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
        let wide = if config.width == 0 {
            0
        } else {
            config.projected
        };
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
        for (to, (row, bias)) in to.iter_mut().zip(user.rows()) {
            *to = bias + dot(row, vector);
        }
    }

    /// Sets a candidate's vector, (width).
    ///
    /// # Panics
    /// If there is no such candidate, or the head looks at no vectors.
    pub fn set_item(&self, candidate: usize, vector: &[f32], vectors: &mut RowVectors) {
        let (_, item) = self.projections.as_ref().expect("a head with vectors");
        let from = candidate * vectors.projected;
        let to = &mut vectors.items[from..from + vectors.projected];
        for (to, (row, bias)) in to.iter_mut().zip(item.rows()) {
            *to = bias + dot(row, vector);
        }
        vectors.known[candidate] = true;
    }

    /// Puts the head's probabilities in the place of the baseline's, for all candidates that have a vector. `interest` is what [`crate::dinmp::Network::forward`] gives
    /// of them, where the head looks at it.
    ///
    /// # Panics
    /// If batch, scores and vectors are not of one request, or not of this head's schema.
    pub fn score(
        &self,
        batch: &FeatureBatch,
        (vectors, interest): (&RowVectors, &[f32]),
        scores: &mut Scores,
    ) {
        let mut buffers = self.same_of(batch.shared(), &vectors.users);
        let wide = self.config.interest;
        assert_eq!(
            interest.len(),
            batch.len() * wide,
            "interest in each candidate"
        );
        for candidate in 0..batch.len() {
            if vectors.known[candidate] {
                let from = candidate * vectors.projected;
                let item = &vectors.items[from..from + vectors.projected];
                let row = batch.row(candidate);
                let scores = scores.candidate_mut(candidate);
                let interest = &interest[candidate * wide..][..wide];
                let seen = (&*vectors.users, item, interest);
                self.candidate(&mut buffers, row.own, seen, scores);
            }
        }
    }

    /// The same of one row that was logged: of users and item the projections, and the interest; `scores` are the baseline's probabilities.
    ///
    /// # Panics
    /// If they are not of this head's widths.
    pub fn score_row(
        &self,
        row: FeatureRow<'_>,
        (users, item, interest): (&[f32], &[f32], &[f32]),
        scores: &mut [f32],
    ) {
        assert_eq!(interest.len(), self.config.interest, "the row's interest");
        let mut buffers = self.same_of(row.shared, users);
        self.candidate(&mut buffers, row.own, (users, item, interest), scores);
    }

    /// Where the parts of the first layer's inputs begin ([`HeadConfig::inputs`]): item, products, shared numbers, own numbers, interest.
    fn parts(&self) -> [Range<usize>; 5] {
        let wide = if self.config.width == 0 {
            0
        } else {
            self.config.projected
        };
        let users = self.config.sequences * wide;
        let products = users + wide;
        let shared = products + users;
        let own = shared + self.shared;
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

    /// What the first layer makes of what all candidates share.
    fn same_of(&self, shared: &[f32], users: &[f32]) -> Buffers {
        assert_eq!(shared.len(), self.shared, "rows of the head's schema");
        let mut buffers = Buffers::default();
        let [item, _, of_shared, ..] = self.parts();
        self.centred(0, shared, &mut buffers.shared);
        let same = self.hidden[0].rows().map(|(row, bias)| {
            bias + dot(&row[..item.start], users) + dot(&row[of_shared.clone()], &buffers.shared)
        });
        buffers.same = same.collect();
        buffers
    }

    fn candidate(
        &self,
        buffers: &mut Buffers,
        own: &[f32],
        (users, item, interest): (&[f32], &[f32], &[f32]),
        scores: &mut [f32],
    ) {
        let [of_item, of_products, _, of_own, of_interest] = self.parts();
        self.centred(self.shared, own, &mut buffers.own);
        buffers.products.clear();
        // Without vectors there is no item to take products with.
        for user in users.chunks(item.len().max(1)) {
            let products = user.iter().zip(item).map(|(user, item)| user * item);
            buffers.products.extend(products);
        }
        let [one, two] = &mut buffers.hidden;
        one.clear();
        let rows = self.hidden[0].rows().zip(&buffers.same);
        one.extend(rows.map(|((row, _), same)| {
            let item = dot(&row[of_item.clone()], item);
            let products = dot(&row[of_products.clone()], &buffers.products);
            let interest = dot(&row[of_interest.clone()], interest);
            silu(same + item + products + dot(&row[of_own.clone()], &buffers.own) + interest)
        }));
        self.hidden[1].apply(one, two);
        two.iter_mut().for_each(|value| *value = silu(*value));
        self.out.apply(two, &mut buffers.out);
        let believed = buffers.out.iter().zip(&self.base);
        for (score, (more, base)) in scores.iter_mut().zip(believed) {
            let log_odds = more + base_log_odds(*score) * base;
            *score = 1.0 / (1.0 + (-log_odds).exp());
        }
    }

    /// A row's numbers from the `first` on, as the network was trained on them.
    fn centred(&self, first: usize, values: &[f32], to: &mut Vec<f32>) {
        let moments = &self.moments[first..first + values.len()];
        to.clear();
        to.extend(
            values
                .iter()
                .zip(moments)
                .map(|(value, [mean, spread])| (squashed(*value) - mean) / spread),
        );
    }
}

fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}
