//! BAHE: vectors of users and items from sequences of text vectors (SIGIR'24, "Breaking the Length Barrier"; sections 3.2 and 3.3).
//!
//! Before it, [`crate::language::TextEncoder`] makes one vector of each atomic text, once; state keeps each user's sequences as runs of (content hash,
//! time). After it, the vectors of user and item are features, and the head turns them into scores. The deep layers run over each of a user's
//! sequences by itself, so N sequences of M behaviors cost N·M² and not (N·M)².
//!
//! A vector is *defined* by the number of behaviors that came before ([`segment::start_of`]): so what is computed one position at a time
//! ([`Deep::advance`]) and what is computed anew ([`Deep::outputs`]) are the same, to rounding.

mod adam;
mod corpus;
mod deep;
mod head;
mod manifest;
mod model;
mod pass;
mod run;
mod scorer;
pub mod segment;
mod towers;
mod trainer;

#[cfg(test)]
mod tests;

pub use crate::gap::{GAPS, gap_of};
pub use adam::{Adam, AdamSettings};
pub use corpus::{Corpus, History, Rows};
pub use deep::{Deep, DeepConfig};
pub use head::{Head, HeadConfig, HeadInput, SeenTexts, cross_entropy, is_of_towers};
pub use manifest::{Described, FORMAT, Layers, MANIFEST, Manifest, VALUES, first_difference};
pub use model::BaheModel;
pub use pass::Pass;
pub use run::{Run, RunBytes, Taken};
pub use scorer::{RowVectors, Scorer, base_log_odds, squashed};
pub use trainer::{Depth, Objective, Place, Position, StepReport, TrainSettings, Trainer};
