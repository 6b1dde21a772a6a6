//! Learning that goes on: rows behind those that passes went over, a piece at a time in the order of time, each said before it is learned from.

use headwater_model::bahe::{Position, Trainer};

use super::calibrate::lines;
use super::predict::Said;
use super::rows::Recorded;
use super::{TrainBahe, TrainError, TrainSummary};
use crate::progress::Progress;

/// Part of the rates by which it goes on.
const PACE: f64 = 0.3;
/// Pieces that a calibration is made of, the newest that were said.
const CALIBRATED_BY: usize = 10;

impl TrainBahe {
    /// Goes over the rows behind those that are learned from, and gives what was said of those behind validation: what validated chose the pass and the first calibration. What is said of a piece
    /// is calibrated by the pieces before it, and the model is left as it was behind the last.
    pub(super) fn onward(
        &self,
        trainer: &mut Trainer,
        recorded: &Recorded,
        summary: &mut TrainSummary,
    ) -> Result<Said, TrainError> {
        let corpus = &recorded.corpus;
        let tasks = corpus.tasks.len();
        let [learned, _, scored] = recorded.splits();
        let mut said = Said {
            from: scored.start,
            log_odds: Vec::with_capacity(scored.len() * tasks),
        };
        // As they were said, before any line.
        let mut bare = Vec::with_capacity((corpus.len() - learned.end) * tasks);
        trainer.keep_pace(PACE);
        let bar = Progress::new(Some(corpus.len() as u64), self.progress);
        let sizes = (tasks, corpus.scenarios);
        let mut last = vec![vec![[1.0, 0.0]; tasks]; corpus.scenarios + 1];
        for (number, piece) in recorded.pieces.iter().enumerate() {
            let of_piece = trainer.score(corpus, piece.clone(), &mut |_| {})?;
            for (row, of_row) in piece.clone().zip(of_piece.chunks(tasks)) {
                if row < said.from {
                    continue;
                }
                let scenario = corpus.rows.scenario.get(row);
                let lines = of_row
                    .iter()
                    .zip(&last[scenario.map_or(0, |of| *of as usize)]);
                let lines = lines.map(|(log_odds, [slope, shift])| {
                    (slope * f64::from(*log_odds) + shift) as f32
                });
                said.log_odds.extend(lines);
            }
            bare.extend(of_piece);
            let first = recorded.pieces[(number + 1).saturating_sub(CALIBRATED_BY)].start;
            last = lines(
                &corpus.rows,
                sizes,
                first,
                &bare[(first - learned.end) * tasks..],
            );
            let position = Position {
                epoch: self.passes + number as u64,
                ..Position::default()
            };
            trainer.pass(corpus, piece.clone(), position, &mut |_, _| true)?;
            bar.at(piece.end as u64, piece.end as u64);
        }
        bar.finish();
        if !recorded.pieces.is_empty() {
            trainer.calibrate(&last)?;
            tracing::info!(lines = ?last, "calibrated: slope and shift by scenario and task");
            summary.calibration = last;
        }
        summary.onward = recorded.pieces.len();
        Ok(said)
    }
}
