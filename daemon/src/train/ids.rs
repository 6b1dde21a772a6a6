//! How rows of ids learn, in a model that weighs all that users did.

use headwater_model::KeyVectorSpec;
use headwater_model::dinmp::{Learning, RowSettings};
use headwater_model::language::LanguageError;
use serde::Serialize;

use crate::champion::VALUES_MAX;

/// How rows of ids learn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ids {
    /// Learning rate (Adagrad).
    pub rate: f64,
    /// Part of the ids that read the unknown row while it learns, so that this stands for ids that nobody knows.
    pub dropout: f64,
}

impl Default for Ids {
    fn default() -> Self {
        Self {
            rate: 0.05,
            dropout: 0.05,
        }
    }
}

/// Bytes that rows of ids may take.
const ROWS_BYTES: u64 = 1 << 30;
/// The same of a model that the topic of models is to carry: seven eighths of what it carries, the rest is the network's. Beyond it ids that were not met for longest read the unknown row.
const ROWS_CARRIED: u64 = VALUES_MAX as u64 / 8 * 7;
/// Rows begin with numbers between this and its contrary.
const SPREAD: f32 = 0.05;

impl Ids {
    /// What weighs key-vectors, before it learned anything; with whether the model is to be carried by the topic of models.
    pub(super) fn learning(
        self,
        spec: &KeyVectorSpec,
        (seed, is_carried): (u64, bool),
    ) -> Result<Learning, LanguageError> {
        let settings = RowSettings {
            rate: self.rate as f32,
            dropout: self.dropout,
            spread: SPREAD,
            memory: if is_carried { ROWS_CARRIED } else { ROWS_BYTES },
            seed,
        };
        Learning::new(spec.clone(), settings)
    }
}
