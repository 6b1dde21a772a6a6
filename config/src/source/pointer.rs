//! Where a field lies in a JSON value: RFC 6901, and `^` for the record around an event.
//!
//! Before it, a configuration says `"/user/id"` or `"^/session/user"`; after it, `consumers::decode` walks the tokens.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// Where the walk begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Base {
    /// At the event: the element of the array of events, or the record where there is no such array.
    Event,
    /// At the record, whatever it holds: the pointer was written with `^` before it.
    Record,
}

/// A JSON pointer (RFC 6901) that was found well-formed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pointer {
    base: Base,
    tokens: Vec<String>,
}

/// Depth of a pointer: deeper documents are not read by hand-written mappings.
const TOKENS_MAX: usize = 32;

impl Pointer {
    /// Where the walk begins.
    #[must_use]
    pub const fn base(&self) -> Base {
        self.base
    }

    /// The steps of the walk, unescaped. In an object a token is a key; in an array it is an index if it is `0` or digits
    /// that do not begin with `0`, and finds nothing else. No tokens: the base itself.
    #[must_use]
    pub fn tokens(&self) -> &[String] {
        &self.tokens
    }
}

impl FromStr for Pointer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (base, path) = match text.strip_prefix('^') {
            Some(path) => (Base::Record, path),
            None => (Base::Event, text),
        };
        let mut parts = path.split('/');
        if parts.next() != Some("") {
            return Err(format!(
                "\"{text}\" is not a JSON pointer: it begins with `/`, as in \"/user/id\" (or \"^/user/id\", in the record around the event)"
            ));
        }
        let tokens = parts
            .map(|token| unescape(token, text))
            .collect::<Result<Vec<_>, _>>()?;
        if tokens.len() > TOKENS_MAX {
            return Err(format!("\"{text}\" is deeper than {TOKENS_MAX} levels"));
        }
        Ok(Self { base, tokens })
    }
}

fn unescape(token: &str, pointer: &str) -> Result<String, String> {
    let mut plain = String::with_capacity(token.len());
    let mut letters = token.chars();
    while let Some(letter) = letters.next() {
        if letter != '~' {
            plain.push(letter);
            continue;
        }
        match letters.next() {
            Some('0') => plain.push('~'),
            Some('1') => plain.push('/'),
            _ => {
                return Err(format!(
                    "\"{pointer}\" is not a JSON pointer: `~` is written `~0`, and `/` in a key `~1`"
                ));
            }
        }
    }
    Ok(plain)
}

impl fmt::Display for Pointer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.base == Base::Record {
            formatter.write_str("^")?;
        }
        for token in &self.tokens {
            write!(
                formatter,
                "/{}",
                token.replace('~', "~0").replace('/', "~1")
            )?;
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Pointer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::text::parse(deserializer, EXPECTING, |text| {
            if text.is_empty() {
                Err("it is empty: a JSON pointer is wanted, such as \"/user/id\"".to_owned())
            } else {
                text.parse()
            }
        })
    }
}

const EXPECTING: &str = "a JSON pointer in quotes, such as \"/user/id\"";

/// A pointer, or none where the text is empty.
pub(super) fn optional<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Pointer>, D::Error> {
    crate::text::parse(deserializer, EXPECTING, |text| {
        if text.is_empty() {
            Ok(None)
        } else {
            text.parse().map(Some)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Goal: pointers are read as RFC 6901 says, and `^` reaches the record. Method: the RFC's own examples (section 5).
    #[test]
    fn the_examples_of_the_rfc_are_read() {
        for (text, tokens) in [
            ("/foo", vec!["foo"]),
            ("/foo/0", vec!["foo", "0"]),
            ("/", vec![""]),
            ("/a~1b", vec!["a/b"]),
            ("/c%d", vec!["c%d"]),
            ("/m~0n", vec!["m~n"]),
            ("/ ", vec![" "]),
            ("/~01", vec!["~1"]),
        ] {
            let pointer: Pointer = text.parse().unwrap();
            assert_eq!(pointer.tokens(), tokens, "{text}");
            assert_eq!(pointer.base(), Base::Event);
        }
        let whole: Pointer = "^".parse().unwrap();
        assert_eq!((whole.base(), whole.tokens().len()), (Base::Record, 0));
        let outside: Pointer = "^/user/id".parse().unwrap();
        assert_eq!(outside.base(), Base::Record);
        assert_eq!(outside.tokens(), ["user", "id"]);
    }

    /// Goal: what is no pointer is refused in words that help. Method: golden messages.
    #[test]
    fn what_is_no_pointer_is_refused() {
        let refused = |text: &str| text.parse::<Pointer>().unwrap_err();
        assert_eq!(
            refused("user.id"),
            "\"user.id\" is not a JSON pointer: it begins with `/`, as in \"/user/id\" (or \"^/user/id\", in the record around the event)"
        );
        assert_eq!(
            refused("/a~b"),
            "\"/a~b\" is not a JSON pointer: `~` is written `~0`, and `/` in a key `~1`"
        );
        assert_eq!(
            refused("/a~").split(':').next(),
            Some("\"/a~\" is not a JSON pointer")
        );
        assert!(refused(&"/x".repeat(33)).ends_with("is deeper than 32 levels"));
    }

    proptest! {
        /// Goal: what is printed is read back as the same pointer. Method: any tokens, both bases.
        #[test]
        fn printed_pointers_are_read_back(tokens in prop::collection::vec("[ -~]{0,6}", 1..6), record: bool) {
            let base = if record { Base::Record } else { Base::Event };
            let pointer = Pointer { base, tokens };
            prop_assert_eq!(pointer.to_string().parse(), Ok(pointer));
        }
    }
}
