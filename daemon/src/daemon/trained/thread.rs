//! The thread of the deep layers: of whichever model scores first of all, and beside it of one that is made ready to.
//!
//! When another model comes to score, the thread goes on with its layers: what they made before is found, the rest is made as rows want it, and of items that nobody asks for in between.

use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_consumers::Error;
use headwater_model::bahe::BaheModel;
use headwater_state::{EncoderId, Timestamp};

use super::super::error::StopError;
use super::super::pool::Pool;
use super::super::{Inner, champion};
use super::ahead::{Ahead, RUNS_MAX, Walk};
use super::layers::{AHEAD_SHARE, Layers};
use super::turn::{TAKEN_MAX, Turn};
use crate::supervisor::{Stopping, TaskKind};
use crate::world::unix_ms;

/// How long the thread waits for work before it looks whether it is to stop.
const WAIT: Duration = Duration::from_millis(200);
/// Between two notes that our layers are in use.
const NOTE_EVERY: Duration = Duration::from_hours(1);
/// Vectors of former layers that are deleted between two batches of work.
const DELETED_MAX: usize = 500;

/// Starts the thread, where there may be any layers.
///
/// # Errors
/// If the system gives none.
pub(in super::super) fn spawn(inner: &Arc<Inner>) -> std::io::Result<()> {
    if inner.layers.is_none() {
        return Ok(());
    }
    let ours = Arc::clone(inner);
    let pool = Pool::new("headwater-deep", 0)?;
    (inner.supervisor).spawn(TaskKind::Texts, "headwater-deep", move |stopping| {
        run(&ours, &pool, stopping).map_err(StopError::Deep)
    })
}

/// Layers of former models, whose vectors go when nobody has used them for long.
#[derive(Default)]
struct Former {
    in_use: Vec<EncoderId>,
    noted: Option<Instant>,
    unused: Vec<EncoderId>,
}

impl Former {
    /// Notes which layers are in use, and deletes some vectors of the others.
    fn turn(&mut self, turns: [Option<&Turn>; 2], keep_ms: i64) -> Result<(), Error> {
        let failed = |source| Error::Vectors { source };
        let turns = || turns.into_iter().flatten();
        let Some(vectors) = turns().next().map(Turn::vectors) else {
            return Ok(());
        };
        let in_use: Vec<EncoderId> = turns().map(|turn| turn.vectors().layers().id).collect();
        let is_due = self.noted.is_none_or(|noted| noted.elapsed() >= NOTE_EVERY);
        if is_due || self.in_use != in_use {
            self.noted = Some(Instant::now());
            let now = Timestamp(unix_ms());
            let unused = (vectors.users).in_use(&in_use, now, now.minus(keep_ms));
            self.unused = unused.map_err(failed)?;
            self.in_use = in_use;
        }
        if let Some(layers) = self.unused.last() {
            let deleted = vectors.users.delete(*layers, DELETED_MAX);
            if deleted.map_err(|error| failed(error.into()))? < DELETED_MAX {
                tracing::info!(%layers, "vectors of a former model's layers deleted");
                self.unused.pop();
            }
        }
        Ok(())
    }
}

/// Who the thread works for.
#[derive(Default)]
struct Work {
    at_work: Option<Turn>,
    /// Over the items of the model at work; none: it is done.
    walk: Option<Walk>,
    walked: bool,
    ahead: Option<Ahead>,
    /// Whether that one scores already: a canary, some users.
    has_taken_over: bool,
    former: Former,
}

impl Work {
    /// Goes by who scores now, and who is made ready. Who was made ready and scores now keeps what it has in memory.
    fn follow(&mut self, inner: &Inner) {
        let chosen = inner.layers.as_ref().map(Layers::chosen);
        let chosen = chosen.unwrap_or_default();
        let memory = inner.config.texts.deep_memory.get() / 2;
        let is_other = match (&self.at_work, &chosen.at_work) {
            (Some(turn), Some(at_work)) => !turn.is_of(at_work),
            (None, None) => false,
            _ => true,
        };
        if is_other {
            let made = self.ahead.as_mut().and_then(|ahead| ahead.turn.take());
            self.at_work = chosen.at_work.and_then(|at_work| match made {
                Some(mut turn) if turn.is_of(&at_work) => {
                    turn.set_memory(memory);
                    Some(turn)
                }
                _ => Turn::of(inner, at_work, memory),
            });
            (self.walk, self.walked) = (None, false);
        }
        let beside = inner.champion.beside();
        let is_same = match (&self.ahead, &beside) {
            (Some(ahead), Some((model, _))) => ahead.is_of(model),
            (None, None) => true,
            _ => false,
        };
        self.has_taken_over = beside.as_ref().is_some_and(|(_, scores)| *scores);
        if !is_same {
            self.ahead = beside.map(|(model, _)| Ahead::new(model));
            inner.fast.deep.ahead.reset();
        }
        if let (Some(ahead), Some(of)) = (&mut self.ahead, chosen.ahead)
            && ahead.model().deep_id() == of.model.deep_id()
            && !ahead.turn.as_ref().is_some_and(|turn| turn.is_of(&of))
        {
            ahead.turn = Turn::of(inner, of, memory / AHEAD_SHARE);
        }
    }

    /// Makes some vectors.
    fn turn(&mut self, inner: &Inner, pool: &Pool, stopping: &Stopping) -> Result<(), Error> {
        let ahead = self.ahead.as_ref().and_then(|ahead| ahead.turn.as_ref());
        let keep_ms = inner.config.texts.keep_former.millis();
        (self.former).turn([self.at_work.as_ref(), ahead], keep_ms)?;
        let mut wait = WAIT;
        if let Some(ahead) = &mut self.ahead {
            let share = inner.config.texts.background.get();
            // Whoever scores does not wait, be it for some.
            let share = if self.has_taken_over { 1.0 } else { share };
            let mut rests = ahead.rests(share);
            if rests.is_zero() {
                let runs_max = if self.has_taken_over {
                    TAKEN_MAX
                } else {
                    RUNS_MAX
                };
                let is_busy = ahead.work(inner, pool, runs_max)?;
                if !self.has_taken_over {
                    ahead.tell(inner);
                }
                if !self.has_taken_over && ahead.is_ready(inner) {
                    take_over(inner, ahead);
                }
                rests = if is_busy { ahead.rests(share) } else { WAIT };
            }
            wait = wait.min(rests);
        }
        let Some(turn) = &mut self.at_work else {
            stopping.pause(wait);
            return Ok(());
        };
        if !self.walked && self.walk.is_none() && turn.has_its_encoder() {
            self.walk = Walk::begin(inner);
        }
        if self.walk.is_some() {
            wait = Duration::ZERO;
        }
        let is_busy = turn.work(pool, TAKEN_MAX, wait)?;
        turn.warn();
        let of_canary = self.ahead.as_ref().filter(|_| self.has_taken_over);
        let waiting = turn.waiting() + of_canary.map_or(0, |of| of.status().waiting);
        inner.fast.deep.queue.set(waiting as i64);
        // Whoever asks comes first.
        if let Some(walk) = self.walk.as_mut().filter(|_| !is_busy)
            && !walk.step((turn, pool), &|_| Ok(false))?
        {
            (self.walk, self.walked) = (None, true);
        }
        Ok(())
    }
}

fn take_over(inner: &Inner, ahead: &Ahead) {
    let status = ahead.status();
    let is_it = |of: Arc<BaheModel>| ahead.is_of(&of);
    let is_champion = inner.champion.ahead().is_some_and(is_it);
    tracing::info!(
        model = status.name,
        items = status.items,
        made = status.made,
        is_champion,
        "vectors of texts are there: it scores what it is to"
    );
    if is_champion {
        // Before its first score: whoever starts again goes on with it, and who comes after it goes back to it.
        crate::champion::mark(&inner.config, ahead.model().id());
        champion::tell_scored(inner, ahead.model());
    }
    inner.champion.take_over(ahead.model().id());
    inner.fast.deep.ahead.reset();
}

fn run(inner: &Inner, pool: &Pool, stopping: &Stopping) -> Result<(), Error> {
    let mut work = Work::default();
    while !stopping.is_set() {
        work.follow(inner);
        let waits = work.ahead.as_ref().filter(|_| !work.has_taken_over);
        let status = waits.map(Ahead::status);
        if let Some(layers) = &inner.layers {
            layers.tell(status);
        }
        work.turn(inner, pool, stopping)?;
    }
    Ok(())
}
