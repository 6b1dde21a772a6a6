//! What a model that was trained says of all rows, in the form that whoever judges it reads.

use headwater_config::Config;
use headwater_model::bahe::Trainer;

use super::rows::Recorded;
use super::{TrainBahe, TrainError};
use crate::predictions::Predictions;
use crate::progress::Progress;

impl TrainBahe {
    /// Writes the probabilities of all rows.
    pub(super) fn predict(
        &self,
        trainer: &Trainer,
        recorded: &Recorded,
        config: &Config,
        path: &std::path::Path,
    ) -> Result<(), TrainError> {
        let corpus = &recorded.corpus;
        let bar = Progress::new(Some(corpus.len() as u64), self.progress);
        let scores = trainer.score(corpus, 0..corpus.len(), &mut |done| {
            bar.at(done as u64, done as u64);
        })?;
        bar.finish();
        let mut predictions = Predictions::open(path)?;
        let tasks: Vec<&String> = config.tasks.keys().collect();
        for (row, of_row) in scores.chunks(corpus.tasks.len()).enumerate() {
            let (request, item) = recorded.named(row);
            for (task, log_odds) in tasks.iter().zip(of_row) {
                if recorded.holds(row, task) {
                    let probability = 1.0 / (1.0 + (-log_odds).exp());
                    predictions.line([request, item, task], &probability.to_string())?;
                }
            }
        }
        Ok(predictions.finish()?)
    }
}
