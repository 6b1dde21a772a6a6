//! `[texts]` and `[sequences]`: what text stands for an item and for a behavior, and which behaviors make a sequence.
//!
//! Before it, `decode`; after it, whoever embeds texts fills the templates from records.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::Deserializer;

use crate::choice::choice;
use crate::quantity::{Bytes, Ratio, Span};
use crate::text;

choice! {
    /// Where models of texts are computed.
    DeviceChoice {
        /// On a GPU if this program can and there is one, else on the CPU.
        Auto = "auto",
        /// On the CPU.
        Cpu = "cpu",
        /// On an NVIDIA GPU, and nowhere else.
        Cuda = "cuda",
    }
}

/// What text stands for what.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct TextsConfig {
    /// For an item.
    pub item: Template,
    /// The language model that makes vectors of texts: a name in the cache, a folder or a file; none: no vectors.
    #[serde(deserialize_with = "text::optional")]
    pub encoder: Option<String>,
    /// Its layers that are run. At least 1.
    pub cut: usize,
    /// Where they are run.
    pub device: DeviceChoice,
    /// Behaviors at which a sequence begins anew with its newest half. Even, and at least 2.
    pub sequence_max: usize,
    /// Whether this instance makes vectors for all.
    pub encode: bool,
    /// Whether rows that were scored without a look at texts name those that there were: of what the user did, and of the candidates.
    pub logged: bool,
    /// Share of the time that an encoder which is not the current one yet may work, and layers of a champion or canary that does not score yet.
    pub background: Ratio,
    /// How long a champion that looks at texts, or a canary of other layers, makes vectors of users before it scores.
    pub made_ahead: Span,
    /// How long vectors of an encoder that is not in use any more are kept.
    pub keep_former: Span,
    /// Vectors in memory.
    pub memory: Bytes,
    /// What deep layers hold in memory: half of it keys and values of runs, half vectors of users and items.
    pub deep_memory: Bytes,
    /// Edges of the times before a row in which its user's behaviors are put together, ascending.
    pub buckets: Vec<Span>,
    /// For a behavior: by `scenario/kind`, by kind, or for all others by `*`.
    pub behaviors: BTreeMap<String, Template>,
}

impl TextsConfig {
    /// What stands for all behaviors that have no template of their own.
    pub const ALL: &str = "*";

    /// The template of a kind of behavior in a scenario: the most particular there is.
    pub fn behavior(&self, scenario: &str, kind: &str) -> Option<&Template> {
        let both = format!("{scenario}/{kind}");
        [both.as_str(), kind, Self::ALL]
            .iter()
            .find_map(|name| self.behaviors.get(*name))
    }
}

/// A text with fields of records in it, such as `{kind} {item.title}`. A field that a record has not is empty; `{{` is a brace.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    source: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Plain(String),
    Field(Field),
}

/// A field of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// `{kind}`: a behavior's kind.
    Kind,
    /// `{scenario}`: where it happened.
    Scenario,
    /// `{value}`: its number.
    Value,
    /// `{attributes.NAME}`: one of its attributes.
    Attribute(String),
    /// `{item}`: the text of its item.
    Item,
    /// `{item.id}`
    ItemId,
    /// `{item.categories}`, with commas between them.
    ItemCategories,
    /// `{item.NAME}`: a field or a number of the item's record.
    ItemField(String),
}

impl Field {
    fn parse(name: &str) -> Result<Self, String> {
        let part = |rest: &str| (!rest.is_empty()).then(|| rest.to_owned());
        let field = match name {
            "kind" => Some(Self::Kind),
            "scenario" => Some(Self::Scenario),
            "value" => Some(Self::Value),
            "item" => Some(Self::Item),
            "item.id" => Some(Self::ItemId),
            "item.categories" => Some(Self::ItemCategories),
            _ => match name.split_once('.') {
                Some(("attributes", rest)) => part(rest).map(Self::Attribute),
                Some(("item", rest)) => part(rest).map(Self::ItemField),
                _ => None,
            },
        };
        field.ok_or_else(|| {
            format!(
                "`{{{name}}}` is no field: there are kind, scenario, value, attributes.NAME, item, item.id, item.categories and item.NAME"
            )
        })
    }

    /// Whether an item's record has it.
    fn is_of_item(&self) -> bool {
        matches!(
            self,
            Self::ItemId | Self::ItemCategories | Self::ItemField(_)
        )
    }
}

impl Template {
    fn parse(source: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = source;
        while let Some(place) = rest.find(['{', '}']) {
            plain.push_str(&rest[..place]);
            let brace = &rest[place..=place];
            rest = &rest[place + 1..];
            if let Some(behind) = rest.strip_prefix(brace) {
                plain.push_str(brace);
                rest = behind;
                continue;
            }
            let (name, behind) = match rest.split_once('}') {
                Some(found) if brace == "{" => found,
                _ => {
                    return Err(format!(
                        "\"{source}\" has a `{brace}` alone: a brace as such is written `{brace}{brace}`"
                    ));
                }
            };
            if !plain.is_empty() {
                parts.push(Part::Plain(std::mem::take(&mut plain)));
            }
            parts.push(Part::Field(Field::parse(name)?));
            rest = behind;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Plain(plain));
        }
        Ok(Self {
            source: source.to_owned(),
            parts,
        })
    }

    /// The text: `put` appends what a record has for a field.
    pub fn fill(&self, mut put: impl FnMut(&Field, &mut String)) -> String {
        let mut text = String::with_capacity(64);
        for part in &self.parts {
            match part {
                Part::Plain(plain) => text.push_str(plain),
                Part::Field(field) => put(field, &mut text),
            }
        }
        text
    }

    fn fields(&self) -> impl Iterator<Item = &Field> {
        self.parts.iter().filter_map(|part| match part {
            Part::Field(field) => Some(field),
            Part::Plain(_) => None,
        })
    }

    /// Whether there is a field that no item's record has.
    pub(crate) fn not_of_items(&self) -> bool {
        self.fields().any(|field| !field.is_of_item())
    }

    /// The attributes of behaviors that are in it.
    pub(crate) fn attributes(&self) -> impl Iterator<Item = &str> {
        self.fields().filter_map(|field| match field {
            Field::Attribute(name) => Some(name.as_str()),
            _ => None,
        })
    }
}

/// As it was written.
impl fmt::Display for Template {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.source)
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", self.source)
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::parse(
            deserializer,
            "a text with fields such as \"{kind} {item.title}\"",
            Self::parse,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(source: &str) -> String {
        let template = Template::parse(source).unwrap();
        assert_eq!(template.to_string(), source);
        template.fill(|field, text| text.push_str(&format!("<{field:?}>")))
    }

    /// Goal: every field stands where it was put, and braces can be written. Method: each once.
    #[test]
    fn fields_are_filled_in() {
        assert_eq!(filled(""), "");
        assert_eq!(filled("plain, ünïcödé"), "plain, ünïcödé");
        assert_eq!(filled("{kind} {item}: {value}"), "<Kind> <Item>: <Value>");
        assert_eq!(
            filled("{scenario}{item.id}{item.categories}"),
            "<Scenario><ItemId><ItemCategories>"
        );
        assert_eq!(
            filled("{attributes.query} {item.title}"),
            "<Attribute(\"query\")> <ItemField(\"title\")>"
        );
        assert_eq!(filled("a {{b}} {{{kind}}}"), "a {b} {<Kind>}");
    }

    /// Goal: a mistake is named. Method: braces alone, and fields that are none.
    #[test]
    fn mistakes_are_named() {
        let said = |source: &str| Template::parse(source).unwrap_err();
        assert!(said("{kind").contains("\"{kind\" has a `{` alone"));
        assert!(said("kind} x").contains("has a `}` alone"));
        assert!(said("{titel}").contains("`{titel}` is no field"));
        assert!(said("{}").contains("`{}` is no field"));
        assert!(said("{item.}").contains("`{item.}` is no field"));
    }
}
