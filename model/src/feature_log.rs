//! A request's rows as they were scored, in the form of the feature log: one JSON object a request.
//!
//! Written by the *publish* stage of `consumers` from the batch and its scores; read by `explain`, and by whoever
//! learns from what was served. It promises that numbers come back bit for bit, so that a score can be computed again
//! from its logged row.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::baseline::Scores;
use crate::feature::{FeatureBatch, FeatureRow, FeatureSchema, KeyVectors};

#[cfg(test)]
mod tests;

/// The form's version; a reader refuses others.
const FORMAT: u32 = 1;

/// One scored request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoggedRequest<'a> {
    /// The form's version.
    format: u32,
    /// [`FeatureSchema::hash`] of the rows, as 16 hexadecimal digits.
    #[serde(with = "hex")]
    pub schema: u64,
    /// The model that scored, such as `baseline`.
    #[serde(borrow)]
    pub model: Cow<'a, str>,
    /// Its version.
    pub version: u32,
    /// The request.
    #[serde(borrow)]
    pub request_id: Cow<'a, str>,
    /// The user's pseudonym.
    #[serde(borrow)]
    pub user: Cow<'a, str>,
    /// Where the candidates were to be shown.
    #[serde(borrow)]
    pub scenario: Cow<'a, str>,
    /// The row's time, Unix milliseconds.
    pub time: i64,
    /// The position of the item state that the rows saw.
    pub item_state: i64,
    /// Whose vectors of texts the rows saw, where they saw any.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub embeddings: Option<Cow<'a, str>>,
    /// What the model saw of the user's sequences, where it looks at them.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub vectors: Option<LoggedVectors<'a>>,
    /// What the user did with each item, where rows have that.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub key_vectors: Option<KeyVectors<'a>>,
    /// The numbers that all candidates share.
    pub shared: Cow<'a, [f32]>,
    /// The candidates, in the request's order.
    #[serde(borrow)]
    pub candidates: Vec<LoggedCandidate<'a>>,
}

/// What a model saw of a user's sequences, or what it could have seen where nobody looked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoggedVectors<'a> {
    /// The deep layers that made the vectors: [`crate::bahe::BaheModel::deep_id`] in hexadecimal. Empty where nobody looked: then there are no vectors, and runs are told alone.
    #[serde(borrow)]
    pub layers: Cow<'a, str>,
    /// What the head saw these vectors by: [`crate::bahe::BaheModel::towers`] in hexadecimal. Empty in rows of builds that did not say.
    #[serde(borrow, default, skip_serializing_if = "str::is_empty")]
    pub towers: Cow<'a, str>,
    /// The sequences, in the model's order.
    #[serde(borrow)]
    pub sequences: Vec<LoggedSequence<'a>>,
    /// What the head saw of the user's vectors: their projections, (sequences, projected), one behind the other.
    pub users: Cow<'a, [f32]>,
}

impl LoggedVectors<'_> {
    /// Whether nobody looked at texts: the runs are those that there were.
    pub fn is_of_nobody(&self) -> bool {
        self.layers.is_empty()
    }
}

/// A run of a user's behaviors as a row saw it: all that a vector can be made of again, by any layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoggedSequence<'a> {
    /// The sequence, as it is configured.
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    /// Behaviors of the sequence before the run.
    pub start: u64,
    /// Behaviors of the run before the row; 0 with a `start`: the row is older than the run, and what it would have seen has left.
    pub length: usize,
    /// Those of them that the vector was made of; 0: none, it is the vector of an empty sequence.
    pub used: usize,
    /// Hashes of their texts, 16 bytes each, one behind the other in base64.
    #[serde(borrow)]
    pub texts: Cow<'a, str>,
    /// Kinds of the gaps before each of them ([`crate::bahe::gap_of`]).
    pub gaps: Cow<'a, [u8]>,
}

/// One candidate's row and scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoggedCandidate<'a> {
    /// The item.
    #[serde(borrow)]
    pub item_id: Cow<'a, str>,
    /// Its own numbers, in the schema's order.
    pub values: Cow<'a, [f32]>,
    /// What the head saw of its vector: the projection; empty where it had none, and has the baseline's scores.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub vector: Cow<'a, [f32]>,
    /// The hash of its text, 16 bytes in base64, where the head saw its vector, or nobody looked; empty: it had no text. None where it had no vector, and in rows of builds that did not say.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Cow<'a, str>>,
    /// Its categories and attributes, where rows have key-vectors.
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Cow<'a, str>>,
    /// Its probabilities, one a task in the schema's order.
    pub scores: Cow<'a, [f32]>,
}

fn is_empty(numbers: &[f32]) -> bool {
    numbers.is_empty()
}

/// Why a record of the feature log cannot be used.
#[derive(Debug, Error)]
pub enum FeatureLogError {
    /// The bytes are no JSON of this form.
    #[error("the record is no logged request")]
    Form(#[source] serde_json::Error),
    /// A number cannot be written.
    #[error("request {request_id}: {what} holds a number that is not finite")]
    NotFinite {
        /// The request.
        request_id: String,
        /// Which numbers.
        what: String,
    },
    /// Another version wrote it.
    #[error("the record has form {found}, this version reads form {FORMAT}")]
    Format {
        /// The form found.
        found: u32,
    },
    /// The rows are of another schema.
    #[error("request {request_id} was logged under schema {found:016x}, not {expected:016x}")]
    Schema {
        /// The request.
        request_id: String,
        /// The record's schema.
        found: u64,
        /// The reader's.
        expected: u64,
    },
    /// A list is shorter or longer than the schema says.
    #[error("request {request_id}: {what} holds {found} numbers, its schema says {expected}")]
    Width {
        /// The request.
        request_id: String,
        /// Which numbers.
        what: String,
        /// How many there are.
        found: usize,
        /// How many there must be.
        expected: usize,
    },
}

/// What the log says of a request besides its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogHead<'a> {
    /// The model that scored.
    pub model: &'a str,
    /// Its version.
    pub version: u32,
    /// The request.
    pub request_id: &'a str,
    /// The user's pseudonym.
    pub user: &'a str,
    /// Where the candidates were to be shown.
    pub scenario: &'a str,
    /// The position of the item state that the rows saw.
    pub item_state: i64,
    /// Whose vectors of texts the rows saw.
    pub embeddings: Option<&'a str>,
}

impl<'a> LoggedRequest<'a> {
    /// A batch and its scores as they are logged; `items` are the candidates' ids, in the batch's order.
    pub fn of(
        head: LogHead<'a>,
        schema: &FeatureSchema,
        items: impl IntoIterator<Item = &'a str>,
        batch: &'a FeatureBatch,
        scores: &'a Scores,
    ) -> Self {
        let candidates: Vec<_> = items
            .into_iter()
            .zip(batch.rows())
            .enumerate()
            .map(|(place, (item_id, row))| LoggedCandidate {
                item_id: item_id.into(),
                values: row.own.into(),
                vector: Cow::default(),
                text: None,
                groups: Vec::new(),
                scores: scores.candidate(place).into(),
            })
            .collect();
        assert_eq!(
            candidates.len(),
            batch.len(),
            "each row of the batch needs its item; this is a bug"
        );
        Self {
            format: FORMAT,
            schema: schema.hash(),
            model: head.model.into(),
            version: head.version,
            request_id: head.request_id.into(),
            user: head.user.into(),
            scenario: head.scenario.into(),
            time: batch.time_ms(),
            item_state: head.item_state,
            embeddings: head.embeddings.map(Cow::Borrowed),
            vectors: None,
            key_vectors: None,
            shared: batch.shared().into(),
            candidates,
        }
    }

    /// Appends the JSON form. A number that is not finite has none, and is refused before a byte is written.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), FeatureLogError> {
        let vectors = self.vectors.iter();
        let shared = std::iter::once(("the shared part".to_owned(), &self.shared));
        let shared = shared.chain(vectors.map(|of| ("the user's vectors".to_owned(), &of.users)));
        let lists = shared.chain(self.candidates.iter().flat_map(|candidate| {
            let of = |what: &str| format!("{what} of item {}", candidate.item_id);
            [
                (of("values"), &candidate.values),
                (of("the vector"), &candidate.vector),
                (of("scores"), &candidate.scores),
            ]
        }));
        for (what, list) in lists {
            if !list.iter().all(|value| value.is_finite()) {
                return Err(FeatureLogError::NotFinite {
                    request_id: self.request_id.to_string(),
                    what,
                });
            }
        }
        serde_json::to_writer(out, self).map_err(FeatureLogError::Form)
    }

    /// Reads the JSON form.
    pub fn read(bytes: &'a [u8]) -> Result<Self, FeatureLogError> {
        let found: Self = serde_json::from_slice(bytes).map_err(FeatureLogError::Form)?;
        if found.format == FORMAT {
            Ok(found)
        } else {
            Err(FeatureLogError::Format {
                found: found.format,
            })
        }
    }

    /// The rows, after a check that they are of the schema and whole.
    pub fn rows<'s>(
        &'s self,
        schema: &FeatureSchema,
    ) -> Result<impl ExactSizeIterator<Item = FeatureRow<'s>> + use<'s, 'a>, FeatureLogError> {
        if self.schema != schema.hash() {
            return Err(FeatureLogError::Schema {
                request_id: self.request_id.to_string(),
                found: self.schema,
                expected: schema.hash(),
            });
        }
        let width = |what: String, found: usize, expected: usize| {
            if found == expected {
                Ok(())
            } else {
                Err(FeatureLogError::Width {
                    request_id: self.request_id.to_string(),
                    what,
                    found,
                    expected,
                })
            }
        };
        width(
            "the shared part".to_owned(),
            self.shared.len(),
            schema.shared().len(),
        )?;
        for candidate in &self.candidates {
            let item = &candidate.item_id;
            width(
                format!("values of item {item}"),
                candidate.values.len(),
                schema.own().len(),
            )?;
            width(
                format!("scores of item {item}"),
                candidate.scores.len(),
                schema.tasks().len(),
            )?;
        }
        Ok(self.candidates.iter().map(|candidate| FeatureRow {
            shared: &self.shared,
            own: &candidate.values,
        }))
    }
}

/// A u64 as 16 hexadecimal digits: JSON's readers elsewhere hold numbers as f64, which would lose bits.
mod hex {
    use std::borrow::Cow;

    use serde::{Deserialize, Deserializer, Serializer, de};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
    pub(super) fn serialize<S: Serializer>(value: &u64, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(&format_args!("{value:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(source: D) -> Result<u64, D::Error> {
        let text = Cow::<str>::deserialize(source)?;
        let digits = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 16 || !text.bytes().all(digits) {
            return Err(de::Error::custom(format_args!(
                "{text:?} must be 16 hexadecimal digits"
            )));
        }
        u64::from_str_radix(&text, 16).map_err(de::Error::custom)
    }
}
