//! What can be wrong with one key, in the operator's words.
//!
//! Before it, serde finds that a value is not what a type wants; after it, `decode` makes a [`crate::Problem`] of it.

use std::fmt::{self, Write};

use serde::de::{Error, Expected, Unexpected};

use super::known_keys;
use crate::tree::Node;

/// One fault and the way to it. The innermost key comes first while serde unwinds.
#[derive(Debug)]
pub(crate) struct Fault {
    way: Vec<Turn>,
    what: What,
}

#[derive(Debug)]
enum Turn {
    Key(String),
    Index(usize),
}

#[derive(Debug)]
enum What {
    /// The key at the end of the way is none of `known`.
    UnknownKey {
        known: &'static [&'static str],
    },
    /// The word is none of `known`.
    UnknownWord {
        word: String,
        known: &'static [&'static str],
    },
    Missing(&'static str),
    /// Everything else, in words.
    Said(String),
}

impl Fault {
    fn new(what: What) -> Self {
        Self {
            way: Vec::new(),
            what,
        }
    }

    pub(super) fn at_key(mut self, key: &str) -> Self {
        self.way.push(Turn::Key(key.to_owned()));
        self
    }

    pub(super) fn at_index(mut self, index: usize) -> Self {
        self.way.push(Turn::Index(index));
        self
    }

    pub(super) fn is_missing(&self) -> bool {
        matches!(self.what, What::Missing(_))
    }

    /// The keys on the way, as far as the first array: that is what can be repaired.
    pub(super) fn keys(&self) -> Vec<String> {
        let missing = match self.what {
            What::Missing(field) => Some(field.to_owned()),
            What::UnknownKey { .. } | What::UnknownWord { .. } | What::Said(_) => None,
        };
        let mut keys: Vec<String> = self
            .way
            .iter()
            .rev()
            .map_while(|turn| match turn {
                Turn::Key(key) => Some(key.clone()),
                Turn::Index(_) => None,
            })
            .collect();
        keys.extend(missing);
        keys
    }

    /// The whole way, as it is printed.
    pub(super) fn place(&self) -> String {
        let mut place = String::new();
        for turn in self.way.iter().rev() {
            match turn {
                Turn::Key(key) if place.is_empty() => place.push_str(key),
                Turn::Key(key) => {
                    place.push('.');
                    place.push_str(key);
                }
                Turn::Index(index) => {
                    write!(place, "[{index}]").expect("invariant: a string can grow");
                }
            }
        }
        if let What::Missing(field) = self.what {
            if !place.is_empty() {
                place.push('.');
            }
            place.push_str(field);
        }
        place
    }

    /// What is wrong, with the nearest key or word there is.
    pub(super) fn reason(&self, defaults: &Node) -> String {
        match &self.what {
            What::UnknownKey { known } => self.unknown_key(known, defaults),
            What::UnknownWord { word, known } => match nearest(word, known.iter().copied()) {
                Some(near) => format!(
                    "\"{word}\" is none of {}; did you mean \"{near}\"?",
                    quoted(known)
                ),
                None => format!("\"{word}\" is none of {}", quoted(known)),
            },
            What::Missing(_) => "it is missing: nothing can be assumed here".to_owned(),
            What::Said(reason) => reason.clone(),
        }
    }

    fn unknown_key(&self, known: &[&str], defaults: &Node) -> String {
        let path = self.keys();
        let Some((key, section)) = path.split_last() else {
            return "unknown key".to_owned();
        };
        let sibling = nearest(key, known.iter().copied()).map(|near| {
            let mut path = section.to_vec();
            path.push(near.to_owned());
            path.join(".")
        });
        // The right key in the wrong section, or without one.
        let elsewhere = || {
            known_keys(defaults)
                .into_iter()
                .find(|(_, path)| path.last() == Some(key))
                .map(|(name, _)| name)
        };
        match sibling.or_else(elsewhere) {
            Some(near) => format!("unknown key; did you mean `{near}`?"),
            None if known.is_empty() => "unknown key".to_owned(),
            None => format!("unknown key; known here: {}", known.join(", ")),
        }
    }
}

/// The word most like `word`, if one is like it at all: every third letter may be wrong.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&word.to_lowercase(), candidate),
                candidate,
            )
        })
        .min()
        .filter(|(distance, candidate)| {
            *distance <= (candidate.chars().count().max(word.chars().count()) / 3).max(1)
        })
        .map(|(_, candidate)| candidate)
}

fn quoted(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("\"{word}\""))
        .collect::<Vec<_>>()
        .join(", ")
}

/// What was found. Text is not quoted.
fn found(unexpected: Unexpected<'_>) -> String {
    match unexpected {
        Unexpected::Bool(truth) => truth.to_string(),
        Unexpected::Unsigned(number) => number.to_string(),
        Unexpected::Signed(number) => number.to_string(),
        Unexpected::Float(number) => number.to_string(),
        Unexpected::Str(_) => "text".to_owned(),
        Unexpected::Seq => "an array".to_owned(),
        Unexpected::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}

/// What was wanted: serde's names of types in the words of TOML.
fn wanted(expected: &dyn Expected) -> String {
    let name = expected.to_string();
    let whole = |max: &dyn fmt::Display| format!("a whole number from 0 to {max}");
    match name.as_str() {
        "a string" => "text in quotes".to_owned(),
        "path string" => "a path in quotes".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "an array".to_owned(),
        "a map" => "a table".to_owned(),
        "u16" => whole(&u16::MAX),
        "u32" => whole(&u32::MAX),
        "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        "i32" | "i64" => "a whole number".to_owned(),
        "f64" | "f32" => "a number".to_owned(),
        other if other.starts_with("struct ") => "a table".to_owned(),
        _ => name,
    }
}

impl Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(What::Said(message.to_string()))
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!(
            "wanted {}, found {}",
            wanted(expected),
            found(unexpected)
        ))
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn unknown_variant(word: &str, known: &'static [&'static str]) -> Self {
        Self::new(What::UnknownWord {
            word: word.to_owned(),
            known,
        })
    }

    fn unknown_field(_: &str, known: &'static [&'static str]) -> Self {
        Self::new(What::UnknownKey { known })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(What::Missing(field))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", self.what)
    }
}

impl std::error::Error for Fault {}
