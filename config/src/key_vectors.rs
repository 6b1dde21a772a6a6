//! `[key_vectors]`: what rows see of all that their users did.
//!
//! Before it, `decode`; after it, `consumers` lays key-vectors out by it, and models are trained on them.

use serde::Deserialize;

use crate::quantity::Span;

/// What rows see of all that their users did.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct KeyVectorsConfig {
    /// Whether rows have them.
    pub logged: bool,
    /// Edges of the stretches of time before a row, ascending.
    pub buckets: Vec<Span>,
}
