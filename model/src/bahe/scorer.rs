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
use crate::language::kernel::{self, exp};
use crate::language::part::{Origin, Purpose, Source};
use crate::wide::{add_product, widest};

use super::head::HeadConfig;

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
        let flat = turned.and_then(|turned| turned.flatten_all()?.to_vec1());
        let bias = source.tensor(&format!("{name}.bias"), &[outputs])?;
        Ok(Self {
            outputs,
            weights: flat.map_err(computing(doing))?,
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

/// The head of a trained model.
#[derive(Debug)]
pub struct Scorer {
    config: HeadConfig,
    /// Numbers of a row that all candidates share.
    shared: usize,
    /// Mean and spread of each of a row's numbers, squashed.
    moments: Vec<[f32; 2]>,
    projections: Option<(Layer, Layer)>,
    hidden: [Layer; 2],
    out: Layer,
    base: Vec<f32>,
}

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
    out: Vec<f32>,
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
        scorer.centred(scorer.shared, own, &mut self.own);
        self.interest.extend_from_slice(interest);
    }
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
            let user = Layer::of(&mut source, "head.user", shape)?;
            Some((user, Layer::of(&mut source, "head.item", shape)?))
        };
        let [one, two] = config.inner;
        let base = source.tensor("head.base", &[config.tasks])?;
        Ok(Self {
            shared,
            moments,
            projections,
            hidden: [
                Layer::of(&mut source, "head.hidden.0", (one, config.inputs()))?,
                Layer::of(&mut source, "head.hidden.1", (two, one))?,
            ],
            out: Layer::of(&mut source, "head.out", (config.tasks, two))?,
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
        let same = self.same_of(batch.shared(), &vectors.users);
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
                self.answer(&piece, place, scores.candidate_mut(*candidate));
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
        let same = self.same_of(row.shared, users);
        let mut piece = Piece::default();
        piece.push(self, row.own, (users, item, interest));
        self.run(&same, &mut piece);
        self.answer(&piece, 0, scores);
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
    fn same_of(&self, shared: &[f32], users: &[f32]) -> Vec<f32> {
        assert_eq!(shared.len(), self.shared, "rows of the head's schema");
        let [item, _, of_shared, ..] = self.parts();
        let mut centred = Vec::new();
        self.centred(0, shared, &mut centred);
        let mut same = self.hidden[0].bias.clone();
        self.hidden[0].add(0..item.start, users, &mut same);
        self.hidden[0].add(of_shared, &centred, &mut same);
        same
    }

    /// The layers.
    fn run(&self, same: &[f32], piece: &mut Piece) {
        let [of_item, of_products, _, of_own, of_interest] = self.parts();
        let Piece {
            rows,
            items,
            products,
            own,
            interest,
            hidden: [one, two],
            out,
        } = piece;
        one.clear();
        (0..*rows).for_each(|_| one.extend_from_slice(same));
        for (of, x) in [
            (of_item, items),
            (of_products, products),
            (of_own, own),
            (of_interest, interest),
        ] {
            self.hidden[0].add(of, x, one);
        }
        widest(|| one.iter_mut().for_each(|value| *value = silu(*value)));
        self.hidden[1].apply(one, two, *rows);
        widest(|| two.iter_mut().for_each(|value| *value = silu(*value)));
        self.out.apply(two, out, *rows);
    }

    /// A candidate's probabilities in the place of the baseline's.
    fn answer(&self, piece: &Piece, place: usize, scores: &mut [f32]) {
        let tasks = self.base.len();
        let more = &piece.out[place * tasks..][..tasks];
        for (score, (more, base)) in scores.iter_mut().zip(more.iter().zip(&self.base)) {
            let log_odds = more + base_log_odds(*score) * base;
            *score = 1.0 / (1.0 + (-log_odds).exp());
        }
    }

    /// A row's numbers from the `first` on, as the network was trained on them, behind what is there.
    fn centred(&self, first: usize, values: &[f32], to: &mut Vec<f32>) {
        let moments = &self.moments[first..first + values.len()];
        let centred = values
            .iter()
            .zip(moments)
            .map(|(value, [mean, spread])| (squashed(*value) - mean) / spread);
        widest(|| to.extend(centred));
    }
}

fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}
