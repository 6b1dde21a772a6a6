//! Answers as programs hold them: the JSON of the `scores` topic, read back into owned values.
//!
//! Before it stands the step, or the `scores` topic of any log; after it the host program.

use std::collections::BTreeMap;

use serde::Deserialize;

/// An answer to a score request.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Answer {
    /// The request's id.
    pub request_id: String,
    /// For whom.
    pub user_id: String,
    /// Where.
    pub scenario: String,
    /// Row time, Unix milliseconds.
    pub time: i64,
    /// `ok`, or why nothing was scored: `expired`, `future`, `too_many_candidates`.
    pub status: String,
    /// Who scored.
    pub model: String,
    /// Which part of how many, where the answer is one of several records.
    #[serde(default)]
    pub part: Option<[usize; 2]>,
    /// The scores, in the order of the candidates.
    pub items: Vec<ScoredItem>,
    /// From the user's newest counted behavior to the answer, milliseconds; none where there is no behavior.
    #[serde(default)]
    pub freshness_ms: Option<i64>,
    /// What makes the scores less than they could be.
    #[serde(default)]
    pub degraded: Vec<String>,
}

/// One scored candidate.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ScoredItem {
    /// The item.
    pub item_id: String,
    /// Probability of the first task that holds in the scenario.
    pub score: f32,
    /// Probability of each task that holds in the scenario.
    pub tasks: BTreeMap<String, f32>,
}

impl Answer {
    /// Reads a record of the `scores` topic.
    ///
    /// # Errors
    /// If it is not an answer.
    pub fn read(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    pub(super) fn of_json(json: &[u8]) -> Self {
        Self::read(json).expect("invariant: an answer of the step is an answer")
    }

    /// One answer of its parts, which are in order.
    pub(super) fn join(parts: Vec<Self>) -> Self {
        let mut parts = parts.into_iter();
        let mut whole = parts
            .next()
            .expect("invariant: every request that is read is answered");
        for part in parts {
            whole.items.extend(part.items);
        }
        whole.part = None;
        whole
    }
}
