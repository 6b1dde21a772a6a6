//! Reading values that are written as text: one visitor for all of them.
//!
//! Before it, `decode` hands over a value; after it, `quantity`, `source::pointer` and the sections hold types. An empty
//! text stands for "none" where `default.toml` says so.

use std::fmt;
use std::path::PathBuf;

use serde::de::{Deserializer, Error, Visitor};

/// Hands a text to `parse`; whatever is not text is refused with `expecting`, which should show how it is written.
pub(crate) fn parse<'de, D, T, F>(
    deserializer: D,
    expecting: &'static str,
    parse: F,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    F: FnOnce(&str) -> Result<T, String>,
{
    struct Text<F> {
        expecting: &'static str,
        parse: F,
    }

    impl<T, F: FnOnce(&str) -> Result<T, String>> Visitor<'_> for Text<F> {
        type Value = T;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str(self.expecting)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            (self.parse)(text).map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Text { expecting, parse })
}

/// Text, or none where it is empty.
pub(crate) fn optional<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    parse(deserializer, "text in quotes", |text| {
        Ok((!text.is_empty()).then(|| text.to_owned()))
    })
}

/// A path, or none where it is empty.
pub(crate) fn optional_path<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<PathBuf>, D::Error> {
    optional(deserializer).map(|text| text.map(PathBuf::from))
}
