//! What was said of rows, on its way to whoever judges it: the table of predictions, and the page that shows them.

use std::path::{Path, PathBuf};

use headwater_config::Config;
use headwater_model::bahe::Trainer;

use super::rows::Recorded;
use super::{Source, TrainBahe, TrainError, TrainSummary};
use crate::predictions::{Predictions, PredictionsError, check_apart, check_place};
use crate::progress::Progress;
use crate::report::Report;

/// Log-odds of all rows from one on, a row's tasks behind each other.
pub(super) struct Said {
    pub(super) from: usize,
    pub(super) log_odds: Vec<f32>,
}

impl Said {
    /// What a trainer says of all rows.
    pub(super) fn by(
        trainer: &Trainer,
        recorded: &Recorded,
        progress: bool,
    ) -> Result<Self, TrainError> {
        let corpus = &recorded.corpus;
        let bar = Progress::new(Some(corpus.len() as u64), progress);
        let log_odds = trainer.score(corpus, 0..corpus.len(), &mut |done| {
            bar.at(done as u64, done as u64);
        })?;
        bar.finish();
        Ok(Self { from: 0, log_odds })
    }

    /// Rows with what was said of each, by task.
    fn rows(&self, tasks: usize) -> impl Iterator<Item = (usize, &[f32])> {
        (self.from..).zip(self.log_odds.chunks(tasks))
    }
}

impl TrainBahe {
    /// Whether what is to be told in the end has a place.
    pub(super) fn check_places(&self) -> Result<(), TrainError> {
        let is_output = |path: &&PathBuf| path.as_path() == Path::new("-");
        if let Some(path) = self.report.as_ref().filter(is_output) {
            let source = std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                "a page is a file, and no part of the output",
            );
            let path = path.clone();
            return Err(PredictionsError::Write { path, source }.into());
        }
        let table = self.predictions.iter().filter(|path| !is_output(path));
        let written: Vec<&Path> = table.chain(&self.report).map(PathBuf::as_path).collect();
        written.iter().try_for_each(|path| check_place(path))?;
        let read: &[&Path] = match &self.source {
            Source::Recordings { items, events } => &[items, events],
            Source::Log(_) => &[],
        };
        check_apart(&written, read)?;
        Ok(())
    }

    /// Writes predictions down, where they are asked for, and gives the rows behind validation as they were predicted.
    pub(super) fn tell(
        &self,
        said: &Said,
        recorded: &Recorded,
        config: &Config,
    ) -> Result<Report, TrainError> {
        let tasks: Vec<&String> = config.tasks.keys().collect();
        if let Some(path) = &self.predictions {
            let mut predictions = Predictions::open(path)?;
            for (row, of_row) in said.rows(tasks.len()) {
                let (request, item) = recorded.named(row);
                for (task, log_odds) in tasks.iter().zip(of_row) {
                    if recorded.holds(row, task) {
                        let probability = 1.0 / (1.0 + (-log_odds).exp());
                        predictions.line([request, item, task], &probability.to_string())?;
                    }
                }
            }
            predictions.finish()?;
        }
        let [_, validated, scored] = recorded.splits();
        // Without rows behind them, those that validated, if they are told.
        let shown = if scored.is_empty() { validated } else { scored };
        let mut report = Report::default();
        let rows = &recorded.corpus.rows;
        for (row, of_row) in said
            .rows(tasks.len())
            .filter(|(row, _)| shown.contains(row))
        {
            for (place, (task, log_odds)) in tasks.iter().zip(of_row).enumerate() {
                let at = row * tasks.len() + place;
                if rows.weights[at] > 0.0 {
                    let label = (rows.labels[at] > 0.0, rows.weights[at].into());
                    let both = [*log_odds, rows.base[at]];
                    report.take(task, recorded.time(row), label, both);
                }
            }
        }
        Ok(report)
    }

    /// What the page says of how its model came about.
    pub(super) fn words(&self, summary: &TrainSummary) -> Vec<[String; 2]> {
        let [learned, validated, scored] = summary.rows;
        let losses = summary.validation_loss.iter();
        let losses: Vec<String> = losses.map(|loss| format!("{loss:.4}")).collect();
        let said = |what: &str, value: String| [what.to_owned(), value];
        let mut words = vec![
            said(
                "rows learned from, validated on, scored",
                format!("{learned}, {validated}, {scored}"),
            ),
            said(
                "validation loss before training and after each pass",
                losses.join(", "),
            ),
            said("pass that was kept", summary.kept.to_string()),
            said("seed", self.seed.to_string()),
        ];
        words.push(match summary.onward {
            0 => said("regime", "frozen: nothing was learned from the rows shown here".to_owned()),
            pieces => said("regime", format!("prequential: {pieces} pieces in the order of time, each scored before it was learned from")),
        });
        words
    }
}
