//! A logged row, taken apart: each feature by its name, each score term by term.
//!
//! Before it, `explain` found the record; after it, people and programs read. Every score is computed again from its row, and the view
//! says whether it came out the same to the bit (`MODEL-1`).

use headwater_config::Config;
use headwater_consumers::assemble::Assembler;
use headwater_model::{FeatureLogError, FeatureSchema, LoggedRequest};
use serde::{Deserialize, Serialize};

/// Rows of a request that were logged together.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct RowsView {
    /// Who scored, with its version.
    pub model: String,
    /// Hash of the feature schema.
    pub schema: String,
    /// The user's pseudonym.
    pub user: String,
    /// Where the candidates were to be shown.
    pub scenario: String,
    /// The rows' time, Unix milliseconds.
    pub time: i64,
    /// The position of the item statistics that the rows saw.
    pub item_state: i64,
    /// Whose vectors of texts the rows saw, where they saw any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embeddings: Option<String>,
    /// How many candidates the record has.
    pub candidates: usize,
    /// Features that all candidates share.
    pub shared: Vec<FeatureView>,
    /// The candidates that were asked for.
    pub rows: Vec<RowView>,
}

/// One feature's value.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct FeatureView {
    /// `task.level.quantity`, or `text.sequence.when`.
    pub name: String,
    /// Its value.
    pub value: f32,
}

/// One candidate's row.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct RowView {
    /// The item.
    pub item_id: String,
    /// Its own features.
    pub features: Vec<FeatureView>,
    /// Its scores.
    pub scores: Vec<ScoreView>,
}

/// One score, term by term.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ScoreView {
    /// The task.
    pub task: String,
    /// The probability as it was logged.
    pub score: f32,
    /// Whether the row gives the same probability again, to the bit.
    pub same: bool,
    /// The log-odds, which are the terms' sum.
    pub log_odds: f64,
    /// The terms, in the order in which they are summed.
    pub terms: Vec<TermView>,
}

/// One term of a score.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct TermView {
    /// Its name.
    pub term: String,
    /// Trials that it read.
    pub trials: f64,
    /// Positives that it read.
    pub positives: f64,
    /// The rate that was expected of them.
    pub expected_rate: f64,
    /// What it adds to the log-odds.
    pub log_odds: f64,
}

/// Which candidates are shown: a request may have 10,000.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// These items alone; empty: the best.
    pub items: Vec<String>,
    /// How many of the best, by the first task's score.
    pub best: usize,
}

/// Takes rows apart by a configuration's schema.
#[derive(Debug)]
pub(crate) struct Reader(Assembler);

impl Reader {
    pub(crate) fn new(config: &Config) -> Result<Self, headwater_model::FeatureSchemaError> {
        Assembler::new(config).map(Self)
    }

    /// Takes a record of the feature log apart.
    pub(crate) fn read(
        &self,
        record: &[u8],
        selection: &Selection,
    ) -> Result<RowsView, FeatureLogError> {
        let logged = LoggedRequest::read(record)?;
        let schema = self.0.schema();
        let rows: Vec<_> = logged.rows(schema)?.collect();
        let chosen = choose(&logged, selection);
        Ok(RowsView {
            model: format!("{}-{}", logged.model, logged.version),
            schema: format!("{:016x}", logged.schema),
            user: logged.user.to_string(),
            scenario: logged.scenario.to_string(),
            time: logged.time,
            item_state: logged.item_state,
            embeddings: logged.embeddings.as_ref().map(ToString::to_string),
            candidates: logged.candidates.len(),
            shared: features(schema.shared(), &logged.shared),
            rows: chosen
                .into_iter()
                .map(|place| {
                    let candidate = &logged.candidates[place];
                    RowView {
                        item_id: candidate.item_id.to_string(),
                        features: features(schema.own(), &candidate.values),
                        scores: self.scores(schema, rows[place], &candidate.scores),
                    }
                })
                .collect(),
        })
    }

    fn scores(
        &self,
        schema: &FeatureSchema,
        row: headwater_model::FeatureRow<'_>,
        scores: &[f32],
    ) -> Vec<ScoreView> {
        let tasks = schema.tasks().iter().zip(scores).enumerate();
        tasks
            .map(|(place, (task, &score))| {
                let again = self.0.baseline().explain(row, place);
                ScoreView {
                    task: task.name.clone(),
                    score,
                    same: again.probability.to_bits() == score.to_bits(),
                    log_odds: again.log_odds,
                    terms: again
                        .contributions
                        .iter()
                        .map(|part| TermView {
                            term: part.term.name().to_owned(),
                            trials: part.trials,
                            positives: part.positives,
                            expected_rate: part.expected_rate,
                            log_odds: part.log_odds,
                        })
                        .collect(),
                }
            })
            .collect()
    }
}

fn features(names: &[headwater_model::Feature], values: &[f32]) -> Vec<FeatureView> {
    names
        .iter()
        .zip(values)
        .map(|(feature, &value)| FeatureView {
            name: feature.name.clone(),
            value,
        })
        .collect()
}

/// Places of the candidates to show.
fn choose(logged: &LoggedRequest<'_>, selection: &Selection) -> Vec<usize> {
    let mut places: Vec<usize> = (0..logged.candidates.len()).collect();
    if selection.items.is_empty() {
        let score = |place: &usize| {
            logged.candidates[*place]
                .scores
                .first()
                .copied()
                .unwrap_or(0.0)
        };
        places.sort_by(|one, other| score(other).total_cmp(&score(one)));
        places.truncate(selection.best);
    } else {
        places.retain(|place| {
            let item = &logged.candidates[*place].item_id;
            selection.items.iter().any(|wanted| wanted == item)
        });
    }
    places
}
