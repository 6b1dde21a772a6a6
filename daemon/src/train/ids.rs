//! How rows of ids learn, in a model that weighs all that users did.

use headwater_model::KeyVectorSpec;
use headwater_model::dinmp::{Learning, RowSettings};
use headwater_model::language::LanguageError;
use serde::Serialize;

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
/// Rows begin with numbers between this and its contrary.
const SPREAD: f32 = 0.05;

impl Ids {
    /// What weighs key-vectors, before it learned anything.
    pub(super) fn learning(
        self,
        spec: &KeyVectorSpec,
        seed: u64,
    ) -> Result<Learning, LanguageError> {
        let settings = RowSettings {
            rate: self.rate as f32,
            dropout: self.dropout,
            spread: SPREAD,
            memory: ROWS_BYTES,
            seed,
        };
        Learning::new(spec.clone(), settings)
    }
}
