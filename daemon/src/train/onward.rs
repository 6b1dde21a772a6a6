//! Learning that goes on: rows behind those that passes went over, a piece at a time in the order of time, each said before it is learned from.

use std::collections::VecDeque;
use std::ops::Range;

use headwater_model::bahe::{Corpus, Position, Rows, Trainer};

use super::calibrate::{Lines, laid, lines};
use super::predict::Said;
use super::rows::Recorded;
use super::{TrainBahe, TrainError};
use crate::progress::Progress;

/// Part of the rates by which it goes on.
const PACE: f64 = 0.3;
/// Pieces that a calibration is made of, the newest that were said.
const CALIBRATED_BY: usize = 10;

/// What a learning that goes on takes from piece to piece, beside the trainer.
#[derive(Debug, Default)]
pub(super) struct Course {
    /// Pieces that were learned from.
    pub(super) pieces: usize,
    /// The newest of them: labels, and log-odds as they were said, before any line.
    said: VecDeque<(Rows, Vec<f32>)>,
}

impl Course {
    /// Puts a piece down that was learned from.
    fn take(&mut self, corpus: &Corpus, piece: Range<usize>, said: Vec<f32>) {
        let tasks = corpus.tasks.len();
        let labels = piece.start * tasks..piece.end * tasks;
        let scenario = corpus.rows.scenario.get(piece).unwrap_or_default();
        let rows = Rows {
            scenario: scenario.to_vec(),
            labels: corpus.rows.labels[labels.clone()].to_vec(),
            weights: corpus.rows.weights[labels].to_vec(),
            ..Rows::default()
        };
        self.said.push_back((rows, said));
        if self.said.len() > CALIBRATED_BY {
            self.said.pop_front();
        }
        self.pieces += 1;
    }

    /// The lines that fit what was said of the newest pieces.
    fn lines(&self, corpus: &Corpus) -> Lines {
        let (mut rows, mut said) = (Rows::default(), Vec::new());
        for (of, log_odds) in &self.said {
            rows.scenario.extend(&of.scenario);
            rows.labels.extend(&of.labels);
            rows.weights.extend(&of.weights);
            said.extend(log_odds);
        }
        lines(&rows, (corpus.tasks.len(), corpus.scenarios), 0, &said)
    }
}

impl TrainBahe {
    /// Goes over the rows behind those that are learned from, and gives what was said of those behind validation, and the lines to lay over what the model says from then on: what validated chose the pass and the first calibration.
    /// What is said of a piece is calibrated by the pieces before it, and the model is left as it was behind the last. A piece is learned from once what is scored next is later than all of it by the time that a label takes
    /// to be known; none: told to stop.
    pub(super) fn onward(
        &self,
        trainer: &mut Trainer,
        recorded: &Recorded,
        course: &mut Course,
        (known_after_ms, stop): (i64, &dyn Fn() -> bool),
    ) -> Result<Option<(Said, Lines)>, TrainError> {
        let corpus = &recorded.corpus;
        let tasks = corpus.tasks.len();
        let [.., scored] = recorded.splits();
        let mut said = Said {
            from: scored.start,
            log_odds: Vec::with_capacity(scored.len() * tasks),
        };
        trainer.keep_pace(PACE);
        let bar = Progress::new(Some(corpus.len() as u64), self.progress);
        let pieces = &recorded.pieces;
        let spans: Vec<[i64; 2]> = pieces.iter().map(|of| recorded.span(of.clone())).collect();
        // As it was said, before any line, of pieces that are not learned from yet.
        let mut bare: VecDeque<Vec<f32>> = VecDeque::new();
        let mut learned_from = 0;
        let mut learn = |trainer: &mut Trainer,
                         course: &mut Course,
                         until: usize,
                         bare: &mut VecDeque<Vec<f32>>| {
            for piece in &pieces[learned_from..until.max(learned_from)] {
                let position = Position {
                    epoch: self.passes + course.pieces as u64,
                    ..Position::default()
                };
                trainer.pass(corpus, piece.clone(), position, &mut |_, _| true)?;
                let said = bare.pop_front();
                let said = said.expect("invariant: a piece is scored before it is learned from");
                course.take(corpus, piece.clone(), said);
                bar.at(piece.end as u64, piece.end as u64);
            }
            learned_from = until.max(learned_from);
            Ok::<_, TrainError>(())
        };
        let mut last = course.lines(corpus);
        for (number, piece) in pieces.iter().enumerate() {
            if stop() {
                return Ok(None);
            }
            let known = known(&spans[..number], spans[number][0], known_after_ms);
            let before = course.pieces;
            learn(trainer, course, known, &mut bare)?;
            if course.pieces > before {
                last = course.lines(corpus);
            }
            let of_piece = trainer.score(corpus, piece.clone(), &mut |_| {})?;
            // Those that validate are not told.
            let from = said.from.clamp(piece.start, piece.end);
            let told = &of_piece[(from - piece.start) * tasks..];
            (said.log_odds).extend(laid(&corpus.rows, from, told, &last));
            bare.push_back(of_piece);
        }
        learn(trainer, course, pieces.len(), &mut bare)?;
        bar.finish();
        Ok(Some((said, course.lines(corpus))))
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
