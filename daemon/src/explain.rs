//! Which row made a score: found by the request's id in the scores and the feature log.
//!
//! Before it, steps published answers and logged their rows; after it, `GET /explain/{request}` and `headwater explain`. Topics are read
//! from their end backwards, in stretches that grow: what is asked for is most often young.

use std::path::Path;

use headwater_config::{Config, Topic};
use headwater_consumers::log::{Log, LogError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::scan::{self, Stretch};

mod row;

pub use row::{
    FeatureView, Replayed, RowView, RowsView, ScoreView, Selection, SequenceView, TermView,
};

/// Records that are looked at first in each partition; each further look takes twice as many.
const FIRST_LOOK: i64 = 10_000;
/// What was found so near to where a look began may be a part of more: parts of an answer, and the rows of a request, lie side by side.
const EDGE: i64 = 1_000;

/// A published answer.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Answered {
    /// Where it lies.
    pub at: At,
    /// The record.
    pub record: Value,
}

/// Logged rows.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Logged {
    /// Where they lie.
    pub at: At,
    /// The rows, taken apart; none where that is not possible.
    pub rows: Option<RowsView>,
    /// Why it is not, and then the record.
    pub unreadable: Option<(String, Value)>,
}

/// Where a record lies, and what caused it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct At {
    /// The topic's key in the configuration: `scores`, `standing_scores` or `feature_log`.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The header `headwater-id`: the coordinates of what caused it.
    pub id: String,
}

/// All that was published and logged for a request.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Explanation {
    /// The request.
    pub request_id: String,
    /// Its answers, oldest first, those of `standing_scores` last; several where it was split, standing, or asked again: of answers that lie far apart the newest.
    pub answers: Vec<Answered>,
    /// Its rows, oldest first.
    pub logged: Vec<Logged>,
}

impl Explanation {
    /// What there is, or none where the topics hold nothing of the request.
    #[must_use]
    pub fn found(self) -> Option<Self> {
        (!self.answers.is_empty() || !self.logged.is_empty()).then_some(self)
    }

    /// Why there is none.
    #[must_use]
    pub fn missing(request: &str) -> String {
        format!(
            "no request `{request}` in the scores and the feature log: never answered, or older than what the topics keep"
        )
    }
}

/// Scores of logged rows, computed again.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Replay {
    /// Where the rows lie.
    pub at: At,
    /// Who made the scores.
    pub model: String,
    /// The scores, candidate by candidate.
    pub scores: Vec<Replayed>,
}

/// Why a request cannot be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The model that is to compute its scores again cannot be used.
    #[error(transparent)]
    Model(#[from] crate::trained::TrainedError),
    /// A record of the feature log cannot be read.
    #[error("feature_log-{partition} at offset {offset}", partition = at.partition, offset = at.offset)]
    Row {
        /// Where it lies.
        at: At,
        /// Why.
        #[source]
        source: Box<headwater_model::FeatureLogError>,
    },
    /// The log's.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The configured tasks make no feature schema.
    #[error(transparent)]
    Schema(#[from] headwater_model::FeatureSchemaError),
}

/// Finds what was published and logged for a request. An explanation without answers and rows means that the topics do not hold any.
///
/// # Errors
/// The log's, or that the configuration has no schema.
pub fn find(
    config: &Config,
    log: &dyn Log,
    request: &str,
    selection: &Selection,
) -> Result<Explanation, ExplainError> {
    let reader = row::Reader::new(config, log)?;
    let mut answers = newest(config, log, Topic::Scores, request, None)?;
    // What a standing request was answered first is not what its readers see now.
    answers.extend(newest(config, log, Topic::StandingScores, request, None)?);
    // Answers and rows of a request lie in partitions of the same number.
    let partition = answers.first().map(|(at, ..)| at.partition);
    let rows = newest(config, log, Topic::FeatureLog, request, partition)?;
    Ok(Explanation {
        request_id: request.to_owned(),
        answers: answers
            .into_iter()
            .map(|(at, record, _)| Answered { at, record })
            .collect(),
        logged: rows
            .into_iter()
            .map(|(at, record, bytes)| {
                let (rows, unreadable) = match reader.read(&bytes, selection) {
                    Ok(rows) => (Some(rows), None),
                    Err(error) => (None, Some((words(&error), record))),
                };
                Logged {
                    at,
                    rows,
                    unreadable,
                }
            })
            .collect(),
    })
}

/// Computes every published score of a request again, from its logged rows and the model that made them: a copy of this machine's, or the one of the folder `model`, which is then taken for
/// whoever scored. Nothing: the feature log has no rows of it.
///
/// # Errors
/// The log's, a model that cannot be used, or rows that are of another configuration.
pub fn replay(
    config: &Config,
    log: &dyn Log,
    request: &str,
    model: Option<&Path>,
) -> Result<Vec<Replay>, ExplainError> {
    let reader = match model {
        Some(folder) => {
            let model = crate::trained::open_folder(config, folder)?;
            row::Reader::with((config, log), model)?
        }
        None => row::Reader::new(config, log)?,
    };
    let mut answers = newest(config, log, Topic::Scores, request, None)?;
    answers.extend(newest(config, log, Topic::StandingScores, request, None)?);
    let rows = newest(config, log, Topic::FeatureLog, request, None)?;
    let mut replays = Vec::new();
    for (at, _, bytes) in rows {
        let (model, mut scores) = reader.replay(&bytes).map_err(|source| ExplainError::Row {
            at: at.clone(),
            source: Box::new(source),
        })?;
        // The part is the last number of either.
        let cause = |id: &str| {
            id.rsplit_once('-')
                .map_or(id, |(cause, _)| cause)
                .to_owned()
        };
        let of_rows = answers
            .iter()
            .filter(|(answer, ..)| answer.id == at.id || answer.id == cause(&at.id))
            .filter_map(|(_, record, _)| record["items"].as_array())
            .flatten();
        for item in of_rows {
            let of_item = scores.iter_mut();
            for score in of_item.filter(|score| item["item_id"] == *score.item_id) {
                let published = item["tasks"][&score.task].as_f64();
                score.published = published.map(|published| published as f32);
            }
        }
        replays.push(Replay { at, model, scores });
    }
    Ok(replays)
}

/// An error's words, and what a person may conclude from them.
fn words(error: &headwater_model::FeatureLogError) -> String {
    match error {
        headwater_model::FeatureLogError::Schema { .. } => {
            format!("{error}: the tasks were configured otherwise when it was scored")
        }
        other => other.to_string(),
    }
}

/// Where a record lies, what it says, and its bytes.
type Evidence = (At, Value, Vec<u8>);

fn newest(
    config: &Config,
    log: &dyn Log,
    topic: Topic,
    request: &str,
    partition: Option<i32>,
) -> Result<Vec<Evidence>, LogError> {
    let mut left = scan::whole(log, topic, &config.topic_name(topic))?;
    left.retain(|stretch| partition.is_none_or(|partition| stretch.of.partition == partition));
    let needle = serde_json::to_string(request).expect("invariant: text is JSON");
    let mut length = FIRST_LOOK;
    let mut found = Vec::new();
    while left.iter().any(|stretch| stretch.from < stretch.until) {
        let look: Vec<Stretch> = left
            .iter()
            .map(|stretch| Stretch {
                from: stretch.from.max(stretch.until - length),
                ..*stretch
            })
            .collect();
        scan::read(log, &look, &mut |record| {
            // Most records are of others: one look for the id's bytes is enough to know.
            let Some(value) = record
                .value
                .filter(|value| contains(value, needle.as_bytes()))
            else {
                return;
            };
            let Ok(json) = serde_json::from_slice::<Value>(value) else {
                return;
            };
            if json.get("request_id").and_then(Value::as_str) == Some(request) {
                let id = record.headers.get("headwater-id").unwrap_or_default();
                let at = At {
                    topic: record.at.topic.key().to_owned(),
                    partition: record.at.partition,
                    offset: record.offset,
                    id: String::from_utf8_lossy(id).into_owned(),
                };
                found.push((at, json, value.to_vec()));
            }
        })?;
        let at_the_edge = left.iter().zip(&look).any(|(whole, looked)| {
            let is_here =
                |at: &At| at.partition == looked.of.partition && at.offset < looked.from + EDGE;
            looked.from > whole.from && found.iter().any(|(at, ..)| is_here(at))
        });
        if !found.is_empty() && !at_the_edge {
            break;
        }
        for (stretch, looked) in left.iter_mut().zip(look) {
            stretch.until = looked.from;
        }
        length *= 2;
    }
    found.sort_by_key(|(at, ..): &Evidence| (at.partition, at.offset));
    Ok(found)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}
