//! Passes over the rows that are learned from, until the validation loss rises or there were enough.

use std::time::{Duration, Instant};

use headwater_model::bahe::Trainer;

use super::artifact::{Artifact, Course, Unfinished, position};
use super::calibrate;
use super::rows::Recorded;
use super::{TrainBahe, TrainError, TrainSummary};
use crate::progress::Progress;

/// How much is lost when a run is cut off.
const CHECKPOINT_EVERY: Duration = Duration::from_mins(5);

impl TrainBahe {
    /// Passes until the validation loss rises, or there were enough; keeps the best values. What was cut off goes on where it was, to the bit.
    pub(super) fn learn(
        &self,
        trainer: &mut Trainer,
        recorded: &Recorded,
        artifact: &Artifact,
        (of, stop): (String, &dyn Fn() -> bool),
        summary: &mut TrainSummary,
    ) -> Result<(), TrainError> {
        let corpus = &recorded.corpus;
        let [learned, validated, _] = recorded.splits();
        let loss = |trainer: &Trainer| -> Result<f64, TrainError> {
            let scores = trainer.score(corpus, validated.clone(), &mut |_| {})?;
            // As it will be served: how far a network's probabilities are off from step to step is no reason to keep another pass.
            let sizes = (corpus.tasks.len(), corpus.scenarios);
            let lines = calibrate::lines(&corpus.rows, sizes, validated.start, &scores);
            let calibrated = calibrate::laid(&corpus.rows, validated.start, &scores, &lines);
            Ok(recorded.loss(validated.clone(), &calibrated))
        };
        let (mut course, mut best) = match artifact.unfinished(&of)? {
            Some(Unfinished {
                course,
                values,
                best,
            }) => {
                let (epoch, batch, steps) = course.position;
                tracing::info!(pass = epoch, batch, steps, "going on from the checkpoint");
                trainer.resume(&values, position(course.position))?;
                (course, best)
            }
            None => {
                let course = Course {
                    of,
                    validation_loss: vec![loss(trainer)?],
                    ..Course::default()
                };
                (course, trainer.values()?)
            }
        };
        let mut left = self.steps;
        let mut rises = course.kept + 1 < course.validation_loss.len() && !self.key_vectors;
        while course.position.0 < self.passes && !rises && left != Some(0) && !stop() {
            let began = Instant::now();
            let bar = Progress::new(Some(learned.len() as u64), self.progress);
            let (mut done, mut positions, mut loss_sum) = (0, 0, 0.0);
            let (mut conflicts, mut worst) = (Vec::new(), f64::INFINITY);
            let (mut shared, mut coefficients) = (0.0, vec![0.0; corpus.tasks.len()]);
            let mut whole = 0.0;
            let from = position(course.position);
            let reached = trainer.pass(corpus, learned.clone(), from, &mut |_, report| {
                done += report.rows as u64;
                loss_sum += f64::from(report.loss) * report.rows as f64;
                positions += report.positions as u64;
                for (_, weighing) in &report.weighings {
                    conflicts.push(weighing.conflict_rate);
                    worst = worst.min(weighing.worst_cosine.unwrap_or(worst));
                    shared += weighing.shared_energy;
                    // Where a task has no label in a step, who is who is not told.
                    if weighing.coefficients.len() == coefficients.len() {
                        whole += 1.0;
                        let sums = coefficients.iter_mut().zip(&weighing.coefficients);
                        sums.for_each(|(sum, one)| *sum += one);
                    }
                }
                bar.at(done, done);
                left = left.map(|left| left - 1);
                left != Some(0) && began.elapsed() < CHECKPOINT_EVERY && !stop()
            })?;
            bar.finish();
            if !conflicts.is_empty() {
                let rate = conflicts.iter().sum::<f64>() / conflicts.len() as f64;
                summary.conflicts.push(rate);
                let coefficients = coefficients.iter().map(|sum| sum / f64::max(whole, 1.0));
                let coefficients: Vec<f64> = coefficients.collect();
                tracing::info!(
                    conflict_rate = rate,
                    shared_energy = shared / conflicts.len() as f64,
                    ?coefficients,
                    worst_cosine = worst,
                    "gradients of tasks were made one"
                );
            }
            course.positions += positions;
            course.position = (reached.epoch, reached.batch, reached.steps);
            if reached.epoch > from.epoch {
                let now = loss(trainer)?;
                let learned = loss_sum / f64::max(done as f64, 1.0);
                tracing::info!(pass = reached.epoch, loss = now, learned, "validated");
                let least = course.validation_loss[course.kept];
                course.validation_loss.push(now);
                if now < least {
                    best = trainer.values()?;
                    course.kept = reached.epoch as usize;
                } else {
                    // Where rates are to fall, the last passes are the best ones.
                    rises = !self.key_vectors;
                }
            }
            course.seconds += began.elapsed().as_secs_f64();
            artifact.checkpoint(trainer, &best, &course)?;
        }
        summary.finished = course.position.0 >= self.passes || rises;
        summary.validation_loss = course.validation_loss;
        summary.kept = course.kept;
        summary.positions = course.positions;
        summary.train_seconds = course.seconds;
        Ok(trainer.restore(&best)?)
    }
}
