//! Learning that goes on: rows behind those that passes went over, a piece at a time in the order of time, each said before it is learned from.

use headwater_model::bahe::{Position, Trainer};

use super::calibrate::{laid, lines};
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
    /// is calibrated by the pieces before it, and the model is left as it was behind the last. A piece is learned from once what is scored next is later than all of it by the time that a label takes to be known; none: told to
    /// stop.
    pub(super) fn onward(
        &self,
        trainer: &mut Trainer,
        recorded: &Recorded,
        (known_after_ms, stop): (i64, &dyn Fn() -> bool),
        summary: &mut TrainSummary,
    ) -> Result<Option<Said>, TrainError> {
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
        let mut last = vec![vec![[1.0, 0.0]; tasks]; corpus.scenarios + 1];
        let pieces = &recorded.pieces;
        let spans: Vec<[i64; 2]> = pieces.iter().map(|of| recorded.span(of.clone())).collect();
        // The lines that fit the newest of the first so many pieces.
        let lines_by = |count: usize, bare: &[f32]| {
            let rows = pieces[count.saturating_sub(CALIBRATED_BY)].start..pieces[count - 1].end;
            let said = (rows.start - learned.end) * tasks..(rows.end - learned.end) * tasks;
            let sizes = (tasks, corpus.scenarios);
            lines(&corpus.rows, sizes, rows.start, &bare[said])
        };
        let learn = |trainer: &mut Trainer, number: usize| -> Result<(), TrainError> {
            let position = Position {
                epoch: self.passes + number as u64,
                ..Position::default()
            };
            trainer.pass(corpus, pieces[number].clone(), position, &mut |_, _| true)?;
            bar.at(pieces[number].end as u64, pieces[number].end as u64);
            Ok(())
        };
        let mut learned_from = 0;
        for (number, piece) in pieces.iter().enumerate() {
            if stop() {
                return Ok(None);
            }
            let known = known(&spans[..number], spans[number][0], known_after_ms);
            if known > learned_from {
                for number in learned_from..known {
                    learn(trainer, number)?;
                }
                learned_from = known;
                last = lines_by(known, &bare);
            }
            let of_piece = trainer.score(corpus, piece.clone(), &mut |_| {})?;
            // Those that validate are not told.
            let from = said.from.clamp(piece.start, piece.end);
            let told = &of_piece[(from - piece.start) * tasks..];
            (said.log_odds).extend(laid(&corpus.rows, from, told, &last));
            bare.extend(of_piece);
        }
        for number in learned_from..pieces.len() {
            learn(trainer, number)?;
        }
        bar.finish();
        if !pieces.is_empty() {
            let last = lines_by(pieces.len(), &bare);
            trainer.calibrate(&last)?;
            tracing::info!(lines = ?last, "calibrated: slope and shift by scenario and task");
            summary.calibration = last;
        }
        summary.onward = pieces.len();
        Ok(Some(said))
    }
}

/// How many of the first pieces, each of rows from one time to another, are known at a time: all of whose labels are, which take so long.
fn known(spans: &[[i64; 2]], time: i64, after_ms: i64) -> usize {
    let until = time.saturating_sub(after_ms);
    spans.partition_point(|[_, newest]| *newest < until)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: nothing is learned from before what became of it can be known. Method: pieces of known times, by the time that is scored and how long labels take; at the exact end it is not known yet.
    #[test]
    fn labels_take_their_time() {
        let spans = [[0, 9], [10, 19], [20, 24], [25, 25]];
        for (time, after_ms, wanted) in [
            (30, 0, 4),
            (25, 0, 3),
            (25, 1, 2),
            (26, 1, 3),
            (30, 5, 3),
            (29, 10, 1),
            (19, 10, 0),
            (9, i64::MAX, 0),
        ] {
            assert_eq!(known(&spans, time, after_ms), wanted, "{time} {after_ms}");
        }
        assert_eq!(known(&[], 5, 0), 0);
    }
}
