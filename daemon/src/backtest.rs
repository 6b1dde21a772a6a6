//! A backtest: recorded events through the production step, without Kafka, and a prediction for each candidate.
//!
//! Before it stand two recordings, items and events; after it a table of predictions, which whoever judges them reads. The events
//! go through [`Engine`] in their order, so the same files give the same bytes, however steps are cut; nothing that happened at or
//! after a request's time is seen by its rows.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use headwater_config::{Config, Topic};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::engine::{Engine, EngineError};
use crate::exit::Exit;
use crate::predictions::{Predictions, PredictionsError, check_apart};
use crate::progress::Progress;
use crate::recording::{Recording, RecordingError, envelope};

pub use crate::predictions::HEADER;

/// Events between two looks at the clock.
const PROGRESS_EVENTS: u64 = 1024;

/// What a backtest reads and writes.
#[derive(Clone, Debug)]
pub struct Backtest {
    /// Item records, one a line; plain or gzipped.
    pub items: PathBuf,
    /// `{"topic", "record"}` a line, in the order of time; plain or gzipped.
    pub events: PathBuf,
    /// Where predictions go; gzipped if it ends in `.gz`, standard output if it is `-`.
    pub predictions: PathBuf,
    /// Records of a step at most; none: as configured. It changes nothing but speed.
    pub step_records: Option<usize>,
    /// Folder for users that do not fit into `state.memory`; none: all stays in memory.
    pub folder: Option<PathBuf>,
    /// Whether to draw a bar.
    pub progress: bool,
}

/// What a backtest did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Item records.
    pub items: u64,
    /// Behaviors read.
    pub behaviors: u64,
    /// Of them, not counted since their event id was counted before.
    pub duplicates: u64,
    /// Of them, not counted since they were late.
    pub late: u64,
    /// Score requests read.
    pub requests: u64,
    /// Of them, not scored, by status.
    pub refused: BTreeMap<String, u64>,
    /// Behaviors and requests that stand behind one with a later time: a request that is answered before a behavior is read does not see it.
    pub out_of_order: u64,
    /// Line of the first of them in the file of events.
    pub first_out_of_order: Option<u64>,
    /// Lines of the predictions, less the first.
    pub predictions: u64,
    /// How long it took.
    pub seconds: f64,
    /// Events (behaviors and requests) a second.
    pub events_per_second: f64,
}

/// Why a backtest ended.
#[derive(Debug, thiserror::Error)]
pub enum BacktestError {
    /// A recording cannot be read, or a line of it.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The predictions cannot be written.
    #[error(transparent)]
    Predictions(#[from] PredictionsError),
}

impl BacktestError {
    /// How the process ends for it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Recording(_) => Exit::Configuration,
            Self::Predictions(error) => error.exit(),
            Self::Engine(error) => error.exit(),
        }
    }
}

impl Backtest {
    /// Runs it.
    ///
    /// # Errors
    /// The first line that cannot be used, or whatever else keeps the predictions from being whole. They are written under another
    /// name and moved at the end, so that a file of that name is a whole one.
    pub fn run(&self, config: &Config) -> Result<Summary, BacktestError> {
        let began = Instant::now();
        if self.predictions != Path::new("-") {
            check_apart(&[&self.predictions], &[&self.items, &self.events])?;
        }
        let mut engine = match &self.folder {
            Some(folder) => Engine::in_folder(config, folder)?,
            None => Engine::new(config)?,
        };
        if let Some(records) = self.step_records {
            engine = engine.with_step_records(records);
        }
        let mut summary = Summary::default();
        self.read_items(&mut engine, &mut summary)?;
        let mut events = Recording::open(&self.events)?;
        let progress = Progress::new(events.size(), self.progress);
        let mut predictions = Answers::open(&self.predictions, config)?;
        let mut count = 0;
        while let Some(line) = events.next_line()? {
            if let Err(reason) = take_in(line, &mut engine, &mut summary)? {
                return Err(events.bad(reason).into());
            }
            if summary.first_out_of_order.is_none() && engine.out_of_order() > 0 {
                summary.first_out_of_order = Some(events.number());
            }
            predictions.take_from(&mut engine, &mut summary)?;
            count += 1;
            if count % PROGRESS_EVENTS == 0 {
                progress.at(events.bytes_read(), count);
            }
        }
        engine.step()?;
        predictions.take_from(&mut engine, &mut summary)?;
        predictions.table.finish()?;
        progress.finish();
        summary.duplicates = engine.dropped("duplicate")?;
        summary.late = engine.dropped("late")?;
        summary.out_of_order = engine.out_of_order();
        summary.seconds = began.elapsed().as_secs_f64();
        summary.events_per_second = count as f64 / summary.seconds.max(1e-9);
        Ok(summary)
    }

    fn read_items(&self, engine: &mut Engine, summary: &mut Summary) -> Result<(), BacktestError> {
        let mut items = Recording::open(&self.items)?;
        while let Some(line) = items.next_line()? {
            match engine.item(line) {
                Ok(()) => summary.items += 1,
                Err(EngineError::Refused(reject)) => {
                    return Err(items.bad(reject.to_string()).into());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Hands a line to the engine; the inner error says what is wrong with the line.
fn take_in(
    line: &[u8],
    engine: &mut Engine,
    summary: &mut Summary,
) -> Result<Result<(), String>, EngineError> {
    let (topic, record) = match envelope(line) {
        Ok(found) => found,
        Err(reason) => return Ok(Err(reason)),
    };
    let (taken, count) = match topic {
        Topic::Behaviors => (engine.ingest(record), &mut summary.behaviors),
        Topic::ScoreRequests => (engine.queue(record), &mut summary.requests),
        Topic::Items
        | Topic::Scores
        | Topic::StandingScores
        | Topic::FeatureLog
        | Topic::Labels
        | Topic::Changelog
        | Topic::ItemDeltas
        | Topic::ItemState
        | Topic::Fleet
        | Topic::DeadLetters
        | Topic::Repartition
        | Topic::Texts
        | Topic::Embeddings
        | Topic::Models => (engine.item(record), &mut summary.items),
    };
    match taken {
        Ok(()) => {
            *count += 1;
            Ok(Ok(()))
        }
        Err(EngineError::Refused(reject)) => Ok(Err(reject.to_string())),
        Err(error) => Err(error),
    }
}

/// An answer as far as predictions go: probabilities stay the text that they are, the shortest that reads back as the same number.
#[derive(Deserialize)]
struct Answered<'a> {
    #[serde(borrow)]
    request_id: Cow<'a, str>,
    #[serde(borrow)]
    scenario: Cow<'a, str>,
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow)]
    items: Vec<Scored<'a>>,
}

#[derive(Deserialize)]
struct Scored<'a> {
    #[serde(borrow)]
    item_id: Cow<'a, str>,
    #[serde(borrow)]
    tasks: BTreeMap<&'a str, &'a RawValue>,
}

/// Answers on their way to the table.
struct Answers {
    table: Predictions,
    /// Scenarios of each task that does not hold in all.
    scenarios: BTreeMap<String, Vec<String>>,
}

impl Answers {
    fn open(path: &Path, config: &Config) -> Result<Self, BacktestError> {
        Ok(Self {
            table: Predictions::open(path)?,
            scenarios: config
                .tasks
                .iter()
                .filter(|(_, task)| !task.scenarios.is_empty())
                .map(|(name, task)| (name.clone(), task.scenarios.clone()))
                .collect(),
        })
    }

    /// Writes the answers that the engine has.
    fn take_from(
        &mut self,
        engine: &mut Engine,
        summary: &mut Summary,
    ) -> Result<(), BacktestError> {
        let mut outcome = Ok(());
        engine.take_answers(|json| {
            if outcome.is_ok() {
                outcome = self.put(json, summary);
            }
        });
        outcome
    }

    fn put(&mut self, json: &[u8], summary: &mut Summary) -> Result<(), BacktestError> {
        let answer: Answered<'_> =
            serde_json::from_slice(json).expect("invariant: an answer of the step is an answer");
        if answer.status != "ok" {
            *summary
                .refused
                .entry(answer.status.into_owned())
                .or_default() += 1;
            return Ok(());
        }
        for item in &answer.items {
            for (task, probability) in &item.tasks {
                let holds = self.scenarios.get(*task).is_none_or(|scenarios| {
                    scenarios
                        .iter()
                        .any(|scenario| *scenario == answer.scenario)
                });
                if holds {
                    let names = [&*answer.request_id, &*item.item_id, task];
                    self.table.line(names, probability.get())?;
                    summary.predictions += 1;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
