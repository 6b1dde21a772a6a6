//! Headwater's models: the rows that scorers read, and the scorers.
//!
//! `consumers` fills a [`FeatureBatch`] for each score request (its *assemble* stage, the only place where features
//! are computed); a scorer of this crate turns it into probabilities; what was read and answered is logged as a
//! [`LoggedRequest`]. Nothing here reads a clock, the environment or randomness: the same batch gives the same bits.

pub mod bahe;
mod baseline;
pub mod device;
pub mod dinmp;
mod feature;
mod feature_log;
mod gap;
pub mod gradient;
mod judge;
mod labels;
pub mod language;
mod numbers;
pub mod table;
mod wide;

pub use candle_core::{DType, Device, Tensor, Var};

pub use baseline::{
    Base, Baseline, Contribution, Explanation, Scores, Smoothing, SmoothingError, Term,
};
pub use feature::{
    Against, Column, Columns, Counts, Feature, FeatureBatch, FeatureRow, FeatureSchema,
    FeatureSchemaError, HalfLives, KeyVectorSpec, KeyVectors, Level, LikenessSpec, Meaning,
    Projection, Quantity, TaskSpec, Translation,
};
pub use feature_log::{
    FeatureLogError, LogHead, LoggedCandidate, LoggedRequest, LoggedSequence, LoggedVectors,
};
pub use judge::{
    Compared, Difference, Judgement, LABELS_MIN, Shown, USERS_MIN, Verdict, Z_MIN, difference,
    is_harm, judge, next_look,
};
pub use labels::{LabelledRow, LabelsError, LoggedExample, Policy};
