//! `[tasks.*]`: what is predicted.
//!
//! Before it, `decode`; after it, `model` has one head (or one baseline) a task.

use serde::Deserialize;

use crate::choice::choice;
use crate::quantity::Span;

choice! {
    /// What a task's label says of what followed.
    LabelKind {
        /// Whether a positive came.
        Binary = "binary",
        /// How many came.
        Count = "count",
        /// The sum of their values.
        Value = "value",
    }
}

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
    /// How long after its being shown a positive counts for a row.
    #[serde(default = "window")]
    pub window: Span,
    /// What its label says.
    #[serde(default = "label")]
    pub label: LabelKind,
}

// What a task has that does not say: as the default task has it.

const fn window() -> Span {
    Span::from_secs(30 * 60)
}

const fn label() -> LabelKind {
    LabelKind::Binary
}

#[cfg(test)]
mod tests {
    use crate::Config;

    /// Goal: what a task may leave out is as in `default.toml`, which says so. Method: both read.
    #[test]
    fn what_is_left_out_is_as_in_the_default_task() {
        let text =
            "[tasks.like]\npositive = [\"like\"]\ntrials = [\"impression\"]\nscenarios = []\n";
        let read = |text: &str| Config::from_toml(text).expect("it is right").tasks;
        let (own, default) = (&read(text)["like"], &read("")["click"]);
        assert_eq!((own.window, own.label), (default.window, default.label));
    }
}
