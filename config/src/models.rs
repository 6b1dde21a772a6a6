//! `[models]`: where language models lie.
//!
//! Before it, `decode`; after it, `daemon::models` fetches them there, and whoever runs one reads it from there.

use std::path::PathBuf;

use serde::Deserialize;

/// Where language models lie.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct ModelsConfig {
    /// Their folder; none: see [`crate::Config::models_path`].
    #[serde(deserialize_with = "crate::text::optional_path")]
    pub path: Option<PathBuf>,
}
