//! Records as programs make them: typed, and written as the JSON that the input topics carry.
//!
//! Before it stands the host program; after it [`super::Engine`], or a log. What is read is the JSON alone, so a record that a program
//! wrote by other means is as good.

use std::collections::BTreeMap;

use serde::Serialize;

/// What one user did. Fields that are `None` or empty are left out of the record.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Behavior {
    /// Identity: a behavior whose id was counted before is not counted again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// Who; at most 256 bytes, as all ids.
    pub user_id: String,
    /// To which item.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item_id: Option<String>,
    /// What: one of `kinds.names`.
    pub kind: String,
    /// Where.
    pub scenario: String,
    /// When, Unix milliseconds.
    pub time: i64,
    /// Which request's answer led to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// At which place of the list, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<u32>,
    /// A number that the kind carries: stars, seconds, money.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// Attributes by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// Candidates to score for one user.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ScoreRequest {
    /// Its id, which the answer bears.
    pub request_id: String,
    /// For whom.
    pub user_id: String,
    /// Where.
    pub scenario: String,
    /// As of when, Unix milliseconds: behaviors at this time or later are not seen.
    pub time: i64,
    /// Ids of the items.
    pub candidates: Vec<String>,
    /// Milliseconds after `time` within which an answer is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<i64>,
}

/// What an item is.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Item {
    /// Its id.
    pub item_id: String,
    /// When this was said of it, Unix milliseconds.
    pub time: i64,
    /// What sort of thing it is.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub item_type: Option<String>,
    /// Texts by name: title, author, ….
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, String>,
    /// Its categories.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub categories: Vec<String>,
    /// Numbers by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub numeric: BTreeMap<String, f64>,
}

macro_rules! to_json {
    ($($record:ident)*) => {$(
        impl $record {
            /// The record's JSON.
            ///
            /// # Panics
            /// Never: texts and numbers are always JSON (a number that is not finite becomes `null`).
            pub fn to_json(&self) -> Vec<u8> {
                serde_json::to_vec(self).expect("invariant: texts and numbers are JSON")
            }
        }
    )*};
}

to_json!(Behavior ScoreRequest Item);
