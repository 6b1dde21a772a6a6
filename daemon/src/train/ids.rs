//! What a model that weighs all that users did learns from, and how its rows of ids learn.

use headwater_model::dinmp::{Asked, ItemKeys, Learning, RowSettings, Seen};
use headwater_model::language::LanguageError;
use headwater_model::{KeyVectorSpec, LoggedRequest};
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

/// Takes in what a logged request sees of its user's past; gives what each of its candidates asks about, none where rows see nothing of it.
pub(super) fn told(
    logged: &LoggedRequest<'_>,
    spec: Option<&KeyVectorSpec>,
    seen: &mut Seen,
) -> Result<Vec<Asked>, String> {
    let Some(spec) = spec else {
        return Ok(Vec::new());
    };
    let of = logged.key_vectors.as_ref();
    let of = of.ok_or("it was logged without key-vectors")?;
    let request = seen.request(of, spec)?;
    let candidates = logged.candidates.iter();
    let asked = candidates.map(|candidate| {
        let groups = candidate.groups.iter().map(|name| &**name);
        let item = seen.item(ItemKeys::of(&candidate.item_id, groups));
        Asked { request, item }
    });
    Ok(asked.collect())
}
