//! `[tasks.*]`: what is predicted.
//!
//! Before it, `decode`; after it, `model` has one head (or one baseline) a task.

use serde::Deserialize;

/// One thing that is predicted.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct TaskConfig {
    /// Kinds that count as its success.
    pub positive: Vec<String>,
    /// Kinds that each count as one chance.
    pub trials: Vec<String>,
    /// Scenarios for which it is predicted; empty: all.
    pub scenarios: Vec<String>,
}
