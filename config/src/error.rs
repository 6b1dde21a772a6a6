//! What can be wrong with a configuration.
//!
//! Before it, `tree`, `environment`, `decode` and `validate` find what is wrong; after it, `daemon` prints the lines and
//! exits with 2. All that was found is in one error, in the order of keys.

use std::fmt;

use crate::tree::Origin;

/// Everything that is wrong with a configuration; at least one problem.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct LoadError {
    problems: Vec<Problem>,
}

/// One thing that is wrong: `state.pth (/etc/headwater.toml:7): unknown key, did you mean …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key with its sections, such as `state.memory`; empty where a whole file is meant.
    pub key: String,
    /// Where the value was written; none where nothing was.
    pub origin: Option<Origin>,
    /// What is wrong with it. Never what is in a secret.
    pub reason: String,
}

impl LoadError {
    pub(crate) fn new(problems: Vec<Problem>) -> Self {
        assert!(
            !problems.is_empty(),
            "invariant: an error has at least one problem"
        );
        Self { problems }
    }

    /// Each thing that is wrong.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n")?;
            }
            problem.fmt(formatter)?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.origin, self.key.is_empty()) {
            (Some(origin), false) => write!(formatter, "{} ({origin}): ", self.key)?,
            (Some(origin), true) => write!(formatter, "{origin}: ")?,
            (None, false) => write!(formatter, "{}: ", self.key)?,
            (None, true) => {}
        }
        formatter.write_str(&self.reason)
    }
}
