//! A logged row, taken apart: each feature by its name, each score term by term.
//!
//! Before it, `explain` found the record; after it, people and programs read. Every score is computed again from its row, and the view
//! says whether it came out the same to the bit (`MODEL-1`).

use std::cell::OnceCell;

use headwater_config::Config;
use headwater_consumers::assemble::Assembler;
use headwater_consumers::log::Log;
use headwater_model::bahe::{BaheModel, base_log_odds};
use headwater_model::{Explanation, FeatureLogError, FeatureRow, LoggedRequest};
use serde::{Deserialize, Serialize};

use crate::schemas::Schemas;

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
pub(crate) struct Reader<'a> {
    config: &'a Config,
    log: &'a dyn Log,
    assembler: Assembler,
    /// How rows of other schemas are read, once there was one; none: what was told of them cannot be read.
    schemas: OnceCell<Option<Schemas>>,
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

/// A logged request as one of the configuration's schema.
struct Taken<'a> {
    logged: LoggedRequest<'a>,
    /// Hash of the schema that it was logged under.
    schema: u64,
    /// The tasks that it was scored for: their places in the configuration's schema.
    tasks: Vec<usize>,
    /// What was said of these, by candidate.
    scores: Vec<Vec<f32>>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(
        config: &'a Config,
        log: &'a dyn Log,
    ) -> Result<Self, headwater_model::FeatureSchemaError> {
        Ok(Self {
            config,
            log,
            schemas: OnceCell::new(),
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
        (config, log): (&'a Config, &'a dyn Log),
        model: BaheModel,
    ) -> Result<Self, headwater_model::FeatureSchemaError> {
        Ok(Self {
            config,
            log,
            schemas: OnceCell::new(),
            assembler: Assembler::new(config)?,
            models: vec![model],
            is_given: true,
        })
    }

    /// Reads a record of the feature log; one from before a task or a likeness was added by what each number means.
    fn take<'r>(&self, record: &'r [u8]) -> Result<Taken<'r>, FeatureLogError> {
        let mut logged = LoggedRequest::read(record)?;
        let ours = self.assembler.schema();
        let schema = logged.schema;
        let all = || (0..ours.tasks().len()).map(Some).collect();
        let other = (schema != ours.hash()).then(|| self.schemas()).flatten();
        let translation = other.and_then(|schemas| schemas.of(schema));
        let places: Vec<Option<usize>> = translation.map_or_else(all, |of| of.places().to_vec());
        let candidates = logged.candidates.iter();
        let scores = candidates.map(|candidate| {
            let told = places.iter().zip(&*candidate.scores);
            told.filter_map(|(place, score)| place.map(|_| *score))
                .collect()
        });
        let scores = scores.collect();
        if let Some(translation) = translation {
            translation.apply(&mut logged)?;
        }
        Ok(Taken {
            logged,
            schema,
            tasks: places.into_iter().flatten().collect(),
            scores,
        })
    }

    fn schemas(&self) -> Option<&Schemas> {
        let read = || {
            let schemas = Schemas::read(self.config, self.log, self.assembler.schema());
            let told = schemas.inspect_err(|error| {
                let error = error as &dyn std::error::Error;
                tracing::warn!(error, "what was told of other schemas cannot be read");
            });
            told.ok()
        };
        self.schemas.get_or_init(read).as_ref()
    }

    /// What the baseline says of the tasks that a row was scored for, which are all that there were then.
    fn explained(&self, row: FeatureRow<'_>, tasks: &[usize]) -> Vec<Explanation> {
        let explain = |task: &usize| self.assembler.baseline().explain_among(row, *task, tasks);
        tasks.iter().map(explain).collect()
    }

    /// Computes all scores of a record of the feature log again; gives who made them, too.
    pub(crate) fn replay(&self, record: &[u8]) -> Result<(String, Vec<Replayed>), FeatureLogError> {
        let taken = self.take(record)?;
        let logged = &taken.logged;
        let schema = self.assembler.schema();
        let mut replayed = Vec::new();
        for (place, row) in logged.rows(schema)?.enumerate() {
            let explained = self.explained(row, &taken.tasks);
            let again = self.again(&taken, row, place, &explained);
            let scores = taken.tasks.iter().zip(&taken.scores[place]);
            for (number, (task, score)) in scores.enumerate() {
                replayed.push(Replayed {
                    item_id: logged.candidates[place].item_id.to_string(),
                    task: schema.tasks()[*task].name.clone(),
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
        let taken = self.take(record)?;
        let logged = &taken.logged;
        let schema = self.assembler.schema();
        let rows: Vec<_> = logged.rows(schema)?.collect();
        let chosen = choose(&taken, selection);
        // What nobody looked at is in no score.
        let vectors = logged.vectors.as_ref().filter(|of| !of.is_of_nobody());
        let sequences = vectors.iter().flat_map(|vectors| &vectors.sequences);
        let sequences = sequences.map(|of| SequenceView {
            name: of.name.to_string(),
            start: of.start,
            length: of.length,
            used: of.used,
        });
        Ok(RowsView {
            model: format!("{}-{}", logged.model, logged.version),
            schema: format!("{:016x}", taken.schema),
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
                        vector: vectors.map(|_| !candidate.vector.is_empty()),
                        scores: self.scores(&taken, rows[place], place),
                    }
                })
                .collect(),
        })
    }

    fn scores(&self, taken: &Taken<'_>, row: FeatureRow<'_>, place: usize) -> Vec<ScoreView> {
        let explained = self.explained(row, &taken.tasks);
        let again = self.again(taken, row, place, &explained);
        let tasks = taken.tasks.iter().zip(&taken.scores[place]).enumerate();
        tasks
            .map(|(place, (&task, &score))| {
                let task = &self.assembler.schema().tasks()[task];
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

    /// The scores of a row, of the tasks that it was scored for, computed again from what the baseline says of them. None where another model than ours made them.
    fn again(
        &self,
        taken: &Taken<'_>,
        row: FeatureRow<'_>,
        place: usize,
        explained: &[Explanation],
    ) -> Option<Vec<f32>> {
        let logged = &taken.logged;
        let candidate = &logged.candidates[place];
        let base = explained.iter().map(|of| of.probability);
        if logged.model != BaheModel::NAME {
            return Some(base.collect());
        }
        let mut scores = vec![0.0; self.assembler.schema().tasks().len()];
        for (task, base) in taken.tasks.iter().zip(base) {
            scores[*task] = base;
        }
        let of_tasks = |scores: &[f32]| taken.tasks.iter().map(|task| scores[*task]).collect();
        let mut models = self.models.iter();
        let model = models.find(|model| self.is_given || model.version() == logged.version)?;
        let head = model.scorer().config();
        let users = logged.vectors.as_ref().map_or(&[][..], |of| &*of.users);
        let item = &*candidate.vector;
        let wide = head.projections();
        if item.is_empty() && wide > 0 {
            // It had no vector, and has the baseline's.
            return Some(of_tasks(&scores));
        }
        if users.len() != head.sequences * wide || item.len() != wide {
            return None;
        }
        let mut interest = Vec::new();
        if let Some(of) = model.interest() {
            let mut seen = of.seen();
            let asked = seen.logged(logged, of.spec()).ok()?;
            let text = &item[..of.texts()];
            interest = of.forward(&seen, &asked[place..=place], text);
        }
        let seen = (users, item, &*interest);
        let scenario = model.scenario(&logged.scenario);
        let to = (self.assembler.baseline(), &mut scores[..]);
        model.scorer().score_row((row, scenario), seen, to);
        Some(of_tasks(&scores))
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
fn choose(taken: &Taken<'_>, selection: &Selection) -> Vec<usize> {
    let logged = &taken.logged;
    let mut places: Vec<usize> = (0..logged.candidates.len()).collect();
    if selection.items.is_empty() {
        let score = |place: &usize| taken.scores[*place].first().copied().unwrap_or(0.0);
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
