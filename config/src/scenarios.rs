//! `[scenarios]`: places of the product known by name.
//!
//! Before it, `decode`; after it, statistics and metrics by scenario.

use serde::Deserialize;

/// Places of the product known by name.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct ScenariosConfig {
    /// Their names, at most 1,000; every other scenario is [`ScenariosConfig::OTHER`].
    pub names: Vec<String>,
}

impl ScenariosConfig {
    /// The name under which scenarios that have none share statistics and metrics.
    pub const OTHER: &'static str = "other";
}
