//! `[items]`: what of items is read.
//!
//! Before it, `decode`; after it, the item table and the rates by attribute.

use serde::Deserialize;

/// What of items is read.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct ItemsConfig {
    /// Fields of items whose values group them, such as `author`; at most 16.
    pub attributes: Vec<String>,
}
