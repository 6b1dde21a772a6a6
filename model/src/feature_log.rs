//! A request's rows as they were scored, in the form of the feature log: one JSON object a request.
//!
//! Written by the *publish* stage of `consumers` from the batch and its scores; read by `explain`, and by whoever
//! learns from what was served. It promises that numbers come back bit for bit, so that a score can be computed again
//! from its logged row.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::baseline::Scores;
use crate::feature::{FeatureBatch, FeatureRow, FeatureSchema};

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
    /// The numbers that all candidates share.
    pub shared: Cow<'a, [f32]>,
    /// The candidates, in the request's order.
    #[serde(borrow)]
    pub candidates: Vec<LoggedCandidate<'a>>,
}

/// One candidate's row and scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoggedCandidate<'a> {
    /// The item.
    #[serde(borrow)]
    pub item_id: Cow<'a, str>,
    /// Its own numbers, in the schema's order.
    pub values: Cow<'a, [f32]>,
    /// Its probabilities, one a task in the schema's order.
    pub scores: Cow<'a, [f32]>,
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
            shared: batch.shared().into(),
            candidates,
        }
    }

    /// Appends the JSON form. A number that is not finite has none, and is refused before a byte is written.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), FeatureLogError> {
        let lists = std::iter::once(("the shared part".to_owned(), &self.shared)).chain(
            self.candidates.iter().flat_map(|candidate| {
                let values = format!("values of item {}", candidate.item_id);
                let scores = format!("scores of item {}", candidate.item_id);
                [(values, &candidate.values), (scores, &candidate.scores)]
            }),
        );
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
