//! `[train]`: whether this instance learns from what the fleet scored.
//!
//! Before it, `decode`; after it, `daemon` trains, judges and promotes by it.

use serde::Deserialize;

use crate::choice::choice;
use crate::quantity::{Ratio, Span};

choice! {
    /// What training lowers, where there are several tasks.
    ObjectiveChoice {
        /// The mean over all labels.
        Labels = "labels",
        /// The mean over tasks.
        Sum = "sum",
        /// The same by GDOD: no task is harmed.
        Gdod = "gdod",
        /// By `PCGrad`.
        PcGrad = "pcgrad",
        /// By MGDA.
        Mgda = "mgda",
        /// By `CAGrad`.
        CaGrad = "cagrad",
        /// By Aligned-MTL.
        AlignedMtl = "aligned-mtl",
    }
}

choice! {
    /// How what a user did at different times, and within and outside a candidate's categories, goes together.
    InteractionsChoice {
        /// Not at all.
        None = "none",
        /// By inner products of all pairs, as in a factorization machine.
        Products = "products",
        /// By self-attention.
        Attention = "attention",
        /// By products of what self-attention made.
        Both = "both",
    }
}

/// Whether this instance learns from what the fleet scored, and how often.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Between the end of one training and the beginning of the next; zero: never.
    pub every: Span,
    /// How long a challenger has to prove itself on rows that are scored from then on, and how long a former champion is held against who followed it; zero: who is
    /// better on the rows that training has kept aside takes over at once.
    pub trial: Span,
    /// Share of the users that a challenger scores, once it has proved itself, before it is champion; zero: none. Below 1.
    pub canary: Ratio,
    /// How long it does so at least.
    pub canary_for: Span,
    /// Labelled rows that there must be. At least 100.
    pub rows_min: usize,
    /// Labelled rows that are learned from at most: the newest. At least `rows_min`.
    pub rows_max: usize,
    /// Passes over them at most. 1 to 100.
    pub passes: u64,
    /// Learning rate. More than 0, at most 1.
    pub rate: f64,
    /// Whether layers that look at texts learn: a champion's, or where it has none the language model's own; else a head learns over a champion's as they are.
    pub learn_layers: bool,
    /// So many of the language model's own, where these are what learning begins with. 1 to 64.
    pub layers: usize,
    /// Parts of the second hidden layer that each task of each scenario mixes by weights of its own; 0: none. At most 64.
    pub experts: usize,
    /// Rank of the layer of crosses; 0: none. At most 256.
    pub cross: usize,
    /// How stretches and sides of what users did go together, where rows have key-vectors.
    pub interactions: InteractionsChoice,
    /// What it lowers, where there are several tasks.
    pub objective: ObjectiveChoice,
}
