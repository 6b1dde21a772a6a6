//! A training that goes on: the model as it has come to be stays in memory, and learns from what was labelled since, and from nothing else.
//!
//! Passes over all rows teach most, and cost most. Between two of them what was learned so far is made to follow: each piece of new rows is scored, and then learned from once
//! ([`TrainBahe::onward`]), so what it says of new rows is what it would have said at their time. Rows that came to be labelled while passes went on are the first of them. When there are half as many new rows as it began with, another begins,
//! from all rows that there are, and this one goes on until that is done.

use headwater_config::Config;
use headwater_model::FeatureSchema;
use headwater_model::bahe::{BaheModel, Described, Trainer};

use super::artifact::Artifact;
use super::labelled::Reached;
use super::logged::{Asked, Looks};
use super::onward::Course;
use super::rows::{Before, Recorded};
use super::{PIECE, Source, TrainBahe, TrainError, TrainSummary, logged, trial};

/// Part of the rows that a training begins with that must have come since before another begins.
const GROWN: f64 = 0.5;
/// Part of the rows that a training must have (`train.rows_min`) that it goes on with at least.
const ON_WITH: usize = 10;

/// What it goes on with.
#[derive(Debug)]
pub(crate) struct Going {
    /// Without the lines that were laid over what it said.
    trainer: Trainer,
    course: Course,
    described: Described,
    schema: FeatureSchema,
    reached: Reached,
    before: Before,
    /// What the champion saw texts by; none: it looked at none.
    towers: Option<[u8; 16]>,
    /// What layers look at that learn; none: no layers do.
    looks: Option<Looks>,
    /// Requests of a piece.
    piece: usize,
    /// Rows that it began with, and that came since.
    rows: [usize; 2],
}

impl Going {
    /// Of a training that is done with its rows.
    pub(super) fn of(
        (trainer, course): (Trainer, Course),
        described: Described,
        recorded: &Recorded,
        (reached, towers, looks): (Reached, Option<[u8; 16]>, Option<Looks>),
    ) -> Self {
        Self {
            trainer,
            course,
            schema: recorded.schema.clone(),
            reached,
            towers,
            looks,
            before: Before {
                moments: recorded.moments.clone(),
                newest: recorded.newest(),
            },
            piece: ((recorded.requests as f64 * PIECE).round() as usize).max(1),
            rows: [described.rows.iter().sum(), 0],
            described,
        }
    }

    /// Whether there is so much that it has not gone over again and again that another is to begin.
    pub(crate) fn is_outgrown(&self) -> bool {
        let [began, since] = self.rows;
        since as f64 >= began as f64 * GROWN
    }
}

impl TrainBahe {
    /// Goes on, where there is something to go on with, and leaves there what comes of it.
    ///
    /// # Errors
    /// As [`TrainBahe::run`]. What cannot be read is tried again from where it was; where learning failed there is nothing to go on with any more.
    pub(crate) fn go_on(
        &self,
        config: &Config,
        going: &mut Option<Going>,
        stop: &dyn Fn() -> bool,
    ) -> Result<TrainSummary, TrainError> {
        let config = &self.effective(config);
        let (Some(held), Source::Log(log)) = (&*going, &self.source) else {
            unreachable!("invariant: it goes on with a log's rows");
        };
        let began = crate::world::unix_ms();
        let artifact = Artifact::open(&self.out)?;
        let _alone = artifact.alone()?;
        let champion = crate::champion::current(config, &**log, &self.out)?;
        if champion.as_ref().and_then(BaheModel::towers) != held.towers {
            // What it has learned to read is not logged any more.
            *going = None;
            return Ok(TrainSummary::default());
        }
        let [rows_min, rows_max] = self.log_rows;
        let rows = [rows_min.div_ceil(ON_WITH), rows_max];
        let (mut recorded, left_out, reached) = logged::read_on(
            (&self.reading(config, champion.as_ref()), &**log),
            Asked {
                champion: champion.as_ref(),
                reads: self.reads,
                looks: held.looks.as_ref(),
            },
            (&held.reached, &held.before),
            (held.piece, rows),
        )?;
        let mut summary = TrainSummary {
            rows: recorded.split_sizes(),
            left_out: [left_out.without_row, left_out.other_schema],
            waiting: left_out.waiting,
            without_vectors: left_out.without_vectors,
            newest: recorded.newest(),
            ..TrainSummary::default()
        };
        if recorded.corpus.is_empty() {
            let [without_row, other_schema] = summary.left_out;
            return Err(TrainError::NoRows {
                without_row,
                other_schema,
                waiting: summary.waiting,
            });
        }
        recorded.lay_vectors(held.trainer.device())?;
        // Whatever fails from here on has left a model behind that is neither the one nor the other.
        let Some(mut held) = going.take() else {
            unreachable!("invariant: it was there just now");
        };
        let pieces = held.course.pieces;
        let until = (trial::labels_ms(config), stop);
        let onward = self.onward(&mut held.trainer, &recorded, &mut held.course, until)?;
        let Some((said, lines)) = onward else {
            return Ok(summary);
        };
        summary.finished = true;
        summary.onward = held.course.pieces - pieces;
        held.rows[1] += recorded.corpus.len();
        held.described.rows[2] += recorded.corpus.len();
        held.described.reached = Some(reached.from.clone());
        held.reached = reached;
        held.before.newest = recorded.newest();
        let values = held.trainer.values()?;
        Self::lay(&mut held.trainer, lines, &mut summary)?;
        let described = held.described.clone();
        artifact.keep(&held.trainer.values()?, described, &held.schema)?;
        let beside = (&**log, champion.as_ref(), began);
        let of = (&held.trainer, Some(&said));
        summary.judged = Some(self.judge(config, beside, of, &recorded)?);
        held.trainer.restore(&values)?;
        *going = Some(held);
        Ok(summary)
    }
}

#[cfg(test)]
mod tests;
