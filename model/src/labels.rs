//! What became of a scored row, in the form of the labels' topic: one JSON object a row and window.
//!
//! Written by the *publish* stage of `consumers` from what `state` kept of the row; read by whoever learns, beside the
//! [`crate::LoggedRequest`] of the same row.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The form's version; a reader refuses others.
const FORMAT: u32 = 1;

/// Who put the candidates in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Their scores.
    Scored,
    /// Chance.
    Random,
}

/// A row with the labels that are final, or corrected ones.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelledRow<'a> {
    /// The row: what its records in the feature log are called (`headwater-id`) without their parts.
    pub row: Cow<'a, str>,
    /// The request.
    pub request_id: Cow<'a, str>,
    /// The user's pseudonym.
    pub user: Cow<'a, str>,
    /// Where the candidates were to be shown.
    pub scenario: Cow<'a, str>,
    /// The row's time, Unix milliseconds.
    pub time: i64,
    /// The longest window of the tasks in it, milliseconds. Tasks of longer ones come in a record of their own.
    pub window_ms: i64,
    /// Who put the candidates in order.
    pub policy: Policy,
    /// Whether its items were published before, or should have been: what it says of them replaces that.
    pub correction: bool,
    /// What was shown of it.
    pub items: Vec<LoggedExample<'a>>,
}

/// A shown item of a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoggedExample<'a> {
    /// The item.
    #[serde(borrow)]
    pub item_id: Cow<'a, str>,
    /// When it was shown, Unix milliseconds.
    pub shown: i64,
    /// Where in the list, where the platform said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u32>,
    /// With which probability the policy gave it the place that it had; none where nothing was left to chance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub propensity: Option<f64>,
    /// For how many it stands: more than 1 where of examples without a positive only a share is published, 0 where a correction makes it one of those that are
    /// left out.
    pub weight: f64,
    /// Labels by task. A task that is not named has none (yet): that is not 0.
    #[serde(borrow)]
    pub labels: BTreeMap<Cow<'a, str>, f64>,
}

/// Why a record of the labels' topic cannot be used.
#[derive(Debug, Error)]
pub enum LabelsError {
    /// The bytes are no JSON of this form.
    #[error("the record is no labelled row")]
    Form(#[source] serde_json::Error),
    /// Another version wrote it.
    #[error("the record has form {found}, this version reads form {FORMAT}")]
    Format {
        /// The form found.
        found: u32,
    },
}

/// The JSON form.
#[derive(Serialize, Deserialize)]
struct Form<'a> {
    format: u32,
    #[serde(borrow)]
    row: Cow<'a, str>,
    #[serde(borrow)]
    request_id: Cow<'a, str>,
    #[serde(borrow)]
    user: Cow<'a, str>,
    #[serde(borrow)]
    scenario: Cow<'a, str>,
    time: i64,
    window_ms: i64,
    policy: Policy,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    correction: bool,
    #[serde(borrow)]
    items: Cow<'a, [LoggedExample<'a>]>,
}

impl<'a> LabelledRow<'a> {
    /// Appends the JSON form.
    ///
    /// # Panics
    /// Never: texts and finite numbers are JSON.
    pub fn write(&self, out: &mut Vec<u8>) {
        let form = Form {
            format: FORMAT,
            row: Cow::Borrowed(&self.row),
            request_id: Cow::Borrowed(&self.request_id),
            user: Cow::Borrowed(&self.user),
            scenario: Cow::Borrowed(&self.scenario),
            time: self.time,
            window_ms: self.window_ms,
            policy: self.policy,
            correction: self.correction,
            items: Cow::Borrowed(&self.items),
        };
        serde_json::to_writer(out, &form).expect("invariant: texts and numbers are JSON");
    }

    /// Reads the JSON form.
    ///
    /// # Errors
    /// If it is not of this form, or of another version of it.
    pub fn read(bytes: &'a [u8]) -> Result<Self, LabelsError> {
        let form: Form<'a> = serde_json::from_slice(bytes).map_err(LabelsError::Form)?;
        if form.format != FORMAT {
            return Err(LabelsError::Format { found: form.format });
        }
        Ok(Self {
            row: form.row,
            request_id: form.request_id,
            user: form.user,
            scenario: form.scenario,
            time: form.time,
            window_ms: form.window_ms,
            policy: form.policy,
            correction: form.correction,
            items: form.items.into_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what is written is read, and what others read stays as it is. Method: a row with and without what may be missing, its bytes, and a form
    /// that nobody knows.
    #[test]
    fn what_is_written_is_read() {
        let example = |position, propensity| LoggedExample {
            item_id: "i\"1".into(),
            shown: 12,
            position,
            propensity,
            weight: 1.0,
            labels: BTreeMap::from([("click".into(), 1.0)]),
        };
        let row = LabelledRow {
            row: "requests-0-7".into(),
            request_id: "r".into(),
            user: "ab".into(),
            scenario: "feed".into(),
            time: 10,
            window_ms: 1000,
            policy: Policy::Random,
            correction: true,
            items: vec![example(Some(3), Some(0.25)), example(None, None)],
        };
        let mut bytes = Vec::new();
        row.write(&mut bytes);
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(
            text,
            r#"{"format":1,"row":"requests-0-7","request_id":"r","user":"ab","scenario":"feed","time":10,"window_ms":1000,"policy":"random","correction":true,"items":[{"item_id":"i\"1","shown":12,"position":3,"propensity":0.25,"weight":1.0,"labels":{"click":1.0}},{"item_id":"i\"1","shown":12,"weight":1.0,"labels":{"click":1.0}}]}"#
        );
        assert_eq!(LabelledRow::read(text.as_bytes()).unwrap(), row);
        let other = text.replace("\"format\":1", "\"format\":2");
        let error = LabelledRow::read(other.as_bytes()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the record has form 2, this version reads form 1"
        );
        assert!(LabelledRow::read(b"{}").is_err());
    }
}
