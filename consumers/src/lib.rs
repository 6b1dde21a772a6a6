//! The fast loop: a behavior in the log becomes a score in the log, exactly once.
//!
//! The data's way is the order of the modules: [`log`] brings records, [`decode`] reads them, [`step`] folds and assembles
//! ([`assemble`]) and scores, [`answer`] says what is published, and [`worker`] commits it all in one transaction.

pub mod answer;
pub mod assemble;
pub mod decode;
pub mod deepen;
pub mod embed;
pub mod embeddings;
pub mod encode;
mod error;
mod explore;
pub mod items;
mod json;
pub mod log;
mod metrics;
pub mod partitioner;
pub mod pseudonym;
pub mod repartition;
mod restore;
pub mod sequences;
pub mod skew;
pub mod stage;
pub mod step;
pub mod texts;
mod trouble;
pub mod worker;
mod write_back;

pub use error::{Error, Reaction, words};
pub use explore::RandomOrder;
pub use metrics::{BESIDE_USERS, DeepMetrics, LabelMetrics, Metrics, SkewMetrics, TextMetrics};
pub use step::{label_rules, makes_labels};
