//! Skew: whether rows are what the log says. Some of the requests that are scored are handed over with what their rows were made of ([`Sample`]); later, beside the
//! fast loop, their users are made again from all records of behaviors that the log has ([`Again`]), and statistics from all item deltas ([`Told`]).
//!
//! Before it stands the step, which hands over, and the log, which is read from its beginning; after it metrics, and a line in the log for each thing that is not the same.
//!
//! # What it shows, and what it cannot
//!
//! A row follows from its user's behaviors up to a position of the input, and from what was known of items when it was scored. The first is computed again by the
//! production code, but in one go and in memory: no cache, no store, no changelog, no other worker, no crash. So what differs was lost, counted twice or spoilt on the way.
//! What was known of items is handed over as it was; of it the statistics are held against the deltas. Likenesses are left out: which vectors of
//! texts were there is in no log.
//!
//! Where the log has deleted records that a user or an entity may follow from, nothing can be said (`unsure`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use headwater_config::Config;
use headwater_state::{Coordinates, ScenarioId, Timestamp, User};

use crate::assemble::{RowRequest, Served};
use crate::explore::share_of;
use crate::metrics::SkewMetrics;

mod again;
#[cfg(test)]
mod tests;
mod told;

pub use again::Again;
pub use told::Told;

/// Requests that wait to be held against the log, at most; and bytes of theirs.
const SAMPLES_MAX: usize = 64;
const BYTES_MAX: usize = 64 << 20;

/// A request whose rows are to be made again.
#[derive(Debug)]
pub struct Sample {
    /// Its user's partition.
    pub partition: i32,
    /// The last behavior of the partition that it could see.
    pub(crate) through: Coordinates,
    /// Whether its user was known.
    pub(crate) is_known: bool,
    /// The oldest behavior that was counted of its user; and whether some were forgotten, which were older or not.
    pub(crate) oldest: Option<Timestamp>,
    pub(crate) is_forgetful: bool,
    /// When it was scored, by the clock.
    pub(crate) scored: Timestamp,
    request_id: String,
    user: String,
    scenario_name: String,
    scenario: ScenarioId,
    time: Timestamp,
    candidates: Vec<String>,
    served: Served,
    /// Its place among the bytes that wait, given up when it is looked at.
    room: Option<Room>,
}

/// Bytes among those that wait.
#[derive(Debug)]
struct Room {
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl Room {
    fn take(all: &Arc<AtomicUsize>, bytes: usize) -> Option<Self> {
        let before = all.fetch_add(bytes, Ordering::Relaxed);
        let room = Self {
            bytes,
            all: Arc::clone(all),
        };
        (before + bytes <= BYTES_MAX).then_some(room)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Sample {
    pub(crate) fn new(
        partition: i32,
        request: &RowRequest<'_>,
        through: Coordinates,
        (user, scored): (Option<&User>, Timestamp),
        served: Served,
    ) -> Self {
        let candidates = request.candidates.iter();
        Self {
            partition,
            through,
            is_known: user.is_some(),
            oldest: user.and_then(User::oldest),
            is_forgetful: user.is_some_and(|user| user.forgotten() > 0),
            scored,
            request_id: request.request_id.to_owned(),
            user: request.user.to_owned(),
            scenario_name: request.scenario_name.to_owned(),
            scenario: request.scenario,
            time: request.time,
            candidates: candidates.map(|id| (*id).to_owned()).collect(),
            served,
            room: None,
        }
    }
}

/// Hands requests over.
#[derive(Clone, Debug)]
pub struct Sampler {
    share: f64,
    to: SyncSender<Sample>,
    waiting: Arc<AtomicUsize>,
    metrics: SkewMetrics,
}

impl Sampler {
    /// One of the configuration's share, and where what it hands over arrives; none where that is zero.
    #[must_use]
    pub fn new(config: &Config, metrics: SkewMetrics) -> Option<(Self, Receiver<Sample>)> {
        let share = config.skew.share.get();
        let (to, samples) = sync_channel(SAMPLES_MAX);
        let sampler = Self {
            share,
            to,
            waiting: Arc::default(),
            metrics,
        };
        (share > 0.0).then_some((sampler, samples))
    }

    /// Whether a request, as it is scored at this time, is of the share.
    pub(crate) fn wants(&self, request: &RowRequest<'_>) -> bool {
        let mut name = b"skew\0".to_vec();
        name.extend_from_slice(&request.time.0.to_le_bytes());
        name.extend_from_slice(&(request.user.len() as u64).to_le_bytes());
        name.extend_from_slice(request.user.as_bytes());
        name.extend_from_slice(request.request_id.as_bytes());
        share_of(&name) < self.share
    }

    /// Counts requests that nobody will look at.
    pub fn leave_out(&self, requests: usize) {
        let left_out = self.metrics.rows.with_label_values(&["left_out"]);
        left_out.inc_by(requests as u64);
    }

    /// Hands a request over; what there is no room for (or none at all: it was too large) is counted.
    pub(crate) fn give(&self, sample: Option<Sample>) {
        let given = sample.is_some_and(|mut sample| {
            sample.room = Room::take(&self.waiting, sample.served.bytes());
            sample.room.is_some() && self.to.try_send(sample).is_ok()
        });
        if !given {
            self.leave_out(1);
        }
    }
}

/// What became of a thing that was made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Same,
    Differs,
    /// The log does not have all that it may follow from.
    Unsure,
}

impl Outcome {
    const fn label(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Differs => "differs",
            Self::Unsure => "unsure",
        }
    }
}

/// Records that tell when a log begins: a single producer's clock may be wrong.
const BEGINNING: u32 = 8;

/// Where a log that has lost its first records begins: what happened later than that is there, since nothing is counted that is further ahead of the log's clock than `state.max_ahead`.
#[derive(Clone, Copy, Debug)]
struct Beginning {
    is_cut: bool,
    begins: Option<Timestamp>,
    noted: u32,
}

impl Beginning {
    /// Of a partition whose oldest record has the offset `first`.
    fn of(first: i64) -> Self {
        Self {
            is_cut: first > 0,
            begins: None,
            noted: 0,
        }
    }

    /// Takes note of a record, which the log took at this time.
    fn note(&mut self, taken: Timestamp, max_ahead_ms: i64) {
        if self.noted < BEGINNING {
            self.noted += 1;
            self.begins = self.begins.max(Some(taken.plus(max_ahead_ms)));
        }
    }

    /// Whether all of what began at `oldest` is there.
    fn has(self, oldest: Option<Timestamp>) -> bool {
        let is_later = |begins| oldest.is_some_and(|oldest| oldest > begins);
        !self.is_cut || self.begins.is_some_and(is_later)
    }
}
