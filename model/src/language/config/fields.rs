//! Keys of a configuration file, with errors that name them.

use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::Map;

use crate::language::error::LanguageError;

/// A count within its bounds; else what it is not.
pub(super) fn counted(count: Option<u64>, within: RangeInclusive<usize>) -> Result<usize, String> {
    let Some(count) = count else {
        return Err("not a count".to_owned());
    };
    let found = usize::try_from(count).ok();
    found
        .filter(|count| within.contains(count))
        .ok_or_else(|| format!("not from {} to {}", within.start(), within.end()))
}

/// Keys and values of one file.
pub(super) struct Fields<'a> {
    pub(super) path: &'a Path,
    pub(super) map: &'a Map<String, serde_json::Value>,
}

impl Fields<'_> {
    pub(super) fn wrong(&self, key: &str, problem: impl Into<String>) -> LanguageError {
        LanguageError::Key {
            path: self.path.to_owned(),
            key: key.to_owned(),
            problem: problem.into(),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&serde_json::Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// A count, within what is a model's.
    pub(super) fn count(
        &self,
        key: &str,
        within: RangeInclusive<usize>,
    ) -> Result<Option<usize>, LanguageError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let count = value.as_u64();
        counted(count, within)
            .map(Some)
            .map_err(|problem| self.wrong(key, format!("is {value}, {problem}")))
    }

    pub(super) fn needed(
        &self,
        key: &str,
        within: RangeInclusive<usize>,
    ) -> Result<usize, LanguageError> {
        self.count(key, within)?
            .ok_or_else(|| self.wrong(key, "is missing"))
    }

    /// A token's id; 0 where there is none.
    pub(super) fn token(&self, key: &str) -> Result<u32, LanguageError> {
        let Some(value) = self.get(key) else {
            return Ok(0);
        };
        value
            .as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| self.wrong(key, format!("is {value}, not a token id")))
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, LanguageError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let number = value
            .as_f64()
            .filter(|number| number.is_finite() && *number > 0.0)
            .ok_or_else(|| self.wrong(key, format!("is {value}, not a positive number")))?;
        Ok(Some(number))
    }

    pub(super) fn flag(&self, key: &str) -> Result<bool, LanguageError> {
        match self.get(key) {
            None => Ok(false),
            Some(serde_json::Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.wrong(key, format!("is {other}, not true or false"))),
        }
    }

    /// Refuses a setting that would change what is computed.
    pub(super) fn only(&self, key: &str, supported: &[&str]) -> Result<(), LanguageError> {
        match self.get(key) {
            None => Ok(()),
            Some(serde_json::Value::String(value)) if supported.contains(&value.as_str()) => Ok(()),
            Some(other) => {
                Err(self.wrong(key, format!("is {other}; supported is {supported:?} alone")))
            }
        }
    }

    /// Refuses a factor that would change what is computed: any but 1.
    pub(super) fn one(&self, key: &str) -> Result<(), LanguageError> {
        match self.number(key)? {
            Some(factor) if factor != 1.0 => {
                Err(self.wrong(key, format!("is {factor}, which is not supported")))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn never(&self, key: &str) -> Result<(), LanguageError> {
        if self.flag(key)? {
            return Err(self.wrong(key, "is true, which is not supported"));
        }
        Ok(())
    }
}
