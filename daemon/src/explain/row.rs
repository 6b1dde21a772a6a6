//! A logged row, taken apart: each feature by its name, each score term by term.
//!
//! Before it, `explain` found the record; after it, people and programs read. Every score is computed again from its row, and the view
//! says whether it came out the same to the bit (`MODEL-1`).

use headwater_config::Config;
use headwater_consumers::assemble::Assembler;
use headwater_model::bahe::{BaheModel, base_log_odds};
use headwater_model::{FeatureLogError, FeatureRow, LoggedRequest};
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
    /// What a trained model saw of the user's sequences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sequences: Vec<SequenceView>,
    /// How many candidates the record has.
    pub candidates: usize,
    /// Features that all candidates share.
    pub shared: Vec<FeatureView>,
    /// The candidates that were asked for.
    pub rows: Vec<RowView>,
}

/// One of the user's sequences, as a trained model saw it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct SequenceView {
    /// Its name.
    pub name: String,
    /// Behaviors of the sequence before its run.
    pub start: u64,
    /// Behaviors of the run before the row.
    pub length: usize,
    /// Those of them that the vector was made of.
    pub used: usize,
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
    /// Whether it had a vector for the trained model, where one scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector: Option<bool>,
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
    /// Whether the row gives the same probability again, to the bit; none where it cannot be computed: the model that scored is not the configured one.
    pub same: Option<bool>,
    /// The baseline's log-odds, which are the terms' sum: the score's own, where the baseline scored.
    pub log_odds: f64,
    /// The terms, in the order in which they are summed.
    pub terms: Vec<TermView>,
    /// What a trained model adds to the log-odds, where one scored and is the configured one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_adds: Option<f64>,
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

/// Takes rows apart by a configuration's schema, and computes scores again with its model.
#[derive(Debug)]
pub(crate) struct Reader {
    assembler: Assembler,
    /// The configured one, and the champions that this instance has copies of: what others scored is not computed again.
    models: Vec<BaheModel>,
    /// Whether the one model is taken for whoever scored.
    is_given: bool,
}

/// A score of a logged row, and what it is when it is computed again.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Replayed {
    /// The candidate.
    pub item_id: String,
    /// The task.
    pub task: String,
    /// As it was published; none: it was not, or is not there any more.
    pub published: Option<f32>,
    /// As it was logged.
    pub logged: f32,
    /// Computed again, from the row and the model; none: that model is not here.
    pub again: Option<f32>,
}

impl Replayed {
    /// Whether all that there is of it is the same, to the bit.
    #[must_use]
    pub fn is_same(&self) -> bool {
        let is_logged = |other: f32| other.to_bits() == self.logged.to_bits();
        self.published.is_none_or(is_logged) && self.again.is_some_and(is_logged)
    }
}

impl Reader {
    pub(crate) fn new(config: &Config) -> Result<Self, headwater_model::FeatureSchemaError> {
        Ok(Self {
            assembler: Assembler::new(config)?,
            models: match crate::trained::open(config) {
                Ok(Some(model)) => vec![model],
                Ok(None) => crate::champion::copied(config),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "scores of the model are not computed again");
                    Vec::new()
                }
            },
            is_given: false,
        })
    }

    /// One that takes this model for whoever scored.
    pub(crate) fn with(
        config: &Config,
        model: BaheModel,
    ) -> Result<Self, headwater_model::FeatureSchemaError> {
        Ok(Self {
            assembler: Assembler::new(config)?,
            models: vec![model],
            is_given: true,
        })
    }

    /// Computes all scores of a record of the feature log again; gives who made them, too.
    pub(crate) fn replay(&self, record: &[u8]) -> Result<(String, Vec<Replayed>), FeatureLogError> {
        let logged = LoggedRequest::read(record)?;
        let schema = self.assembler.schema();
        let tasks = schema.tasks();
        let mut replayed = Vec::new();
        for (place, row) in logged.rows(schema)?.enumerate() {
            let probability = |task| self.assembler.baseline().explain(row, task).probability;
            let base: Vec<f32> = (0..tasks.len()).map(probability).collect();
            let again = self.again(&logged, row, place, &base);
            let candidate = &logged.candidates[place];
            for (number, (task, score)) in tasks.iter().zip(&*candidate.scores).enumerate() {
                replayed.push(Replayed {
                    item_id: candidate.item_id.to_string(),
                    task: task.name.clone(),
                    published: None,
                    logged: *score,
                    again: again.as_ref().map(|again| again[number]),
                });
            }
        }
        Ok((format!("{}-{}", logged.model, logged.version), replayed))
    }

    /// Takes a record of the feature log apart.
    pub(crate) fn read(
        &self,
        record: &[u8],
        selection: &Selection,
    ) -> Result<RowsView, FeatureLogError> {
        let logged = LoggedRequest::read(record)?;
        let schema = self.assembler.schema();
        let rows: Vec<_> = logged.rows(schema)?.collect();
        let chosen = choose(&logged, selection);
        let sequences = logged.vectors.iter().flat_map(|vectors| &vectors.sequences);
        let sequences = sequences.map(|of| SequenceView {
            name: of.name.to_string(),
            start: of.start,
            length: of.length,
            used: of.used,
        });
        Ok(RowsView {
            model: format!("{}-{}", logged.model, logged.version),
            schema: format!("{:016x}", logged.schema),
            user: logged.user.to_string(),
            scenario: logged.scenario.to_string(),
            time: logged.time,
            item_state: logged.item_state,
            embeddings: logged.embeddings.as_ref().map(ToString::to_string),
            sequences: sequences.collect(),
            candidates: logged.candidates.len(),
            shared: features(schema.shared(), &logged.shared),
            rows: chosen
                .into_iter()
                .map(|place| {
                    let candidate = &logged.candidates[place];
                    RowView {
                        item_id: candidate.item_id.to_string(),
                        features: features(schema.own(), &candidate.values),
                        vector: (logged.vectors.as_ref()).map(|_| !candidate.vector.is_empty()),
                        scores: self.scores(&logged, rows[place], place),
                    }
                })
                .collect(),
        })
    }

    fn scores(
        &self,
        logged: &LoggedRequest<'_>,
        row: FeatureRow<'_>,
        place: usize,
    ) -> Vec<ScoreView> {
        let candidate = &logged.candidates[place];
        let tasks = self.assembler.schema().tasks();
        let explained: Vec<_> = (0..tasks.len())
            .map(|task| self.assembler.baseline().explain(row, task))
            .collect();
        let base: Vec<f32> = explained.iter().map(|of| of.probability).collect();
        let again = self.again(logged, row, place, &base);
        let tasks = tasks.iter().zip(&*candidate.scores).enumerate();
        tasks
            .map(|(place, (task, &score))| {
                let of = &explained[place];
                let again = again.as_ref().map(|again| again[place]);
                ScoreView {
                    task: task.name.clone(),
                    score,
                    same: again.map(|again| again.to_bits() == score.to_bits()),
                    log_odds: of.log_odds,
                    model_adds: again
                        .filter(|again| again.to_bits() != of.probability.to_bits())
                        .map(|again| f64::from(base_log_odds(again)) - of.log_odds),
                    terms: of
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

    /// The scores of a row, computed again; `base` are the baseline's. None where another model than ours made them.
    fn again(
        &self,
        logged: &LoggedRequest<'_>,
        row: FeatureRow<'_>,
        place: usize,
        base: &[f32],
    ) -> Option<Vec<f32>> {
        let candidate = &logged.candidates[place];
        let mut scores = base.to_vec();
        if logged.model != BaheModel::NAME {
            return Some(scores);
        }
        let mut models = self.models.iter();
        let model = models.find(|model| self.is_given || model.version() == logged.version)?;
        let head = model.scorer().config();
        let users = logged.vectors.as_ref().map_or(&[][..], |of| &*of.users);
        let item = &*candidate.vector;
        let wide = if head.width == 0 { 0 } else { head.projected };
        if item.is_empty() && wide > 0 {
            // It had no vector, and has the baseline's.
            return Some(scores);
        }
        if users.len() != head.sequences * wide || item.len() != wide {
            return None;
        }
        let mut interest = Vec::new();
        if let Some(of) = model.interest() {
            let mut seen = of.seen();
            let asked = seen.logged(logged, of.spec()).ok()?;
            interest = of.forward(&seen, &asked[place..=place]);
        }
        let seen = (users, item, &*interest);
        let scenario = model.scenario(&logged.scenario);
        let to = (self.assembler.baseline(), &mut scores[..]);
        model.scorer().score_row((row, scenario), seen, to);
        Some(scores)
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
