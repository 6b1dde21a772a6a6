//! `[kinds]`: what users do.
//!
//! Before it, `decode`; after it, `consumers::decode` knows a behavior's kind by its place in `names`.

use serde::Deserialize;

/// What users do.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct KindsConfig {
    /// Every kind of behavior, 1 to 64; the place of a kind is its number in a row.
    pub names: Vec<String>,
    /// Those of `names` that only say that something was shown.
    pub impressions: Vec<String>,
}
