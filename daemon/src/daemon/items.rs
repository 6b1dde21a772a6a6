//! The thread that follows items and their statistics into the shared table.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_config::Config;
use headwater_consumers::items::ItemFollower;
use headwater_consumers::log::{Log, LogError, PollLimit};
use headwater_consumers::partitioner::partition_of;
use headwater_consumers::step::SharedItems;
use headwater_consumers::{Error, Metrics, Reaction, words};
use headwater_state::Timestamp;

use super::back_off::BackOff;
use super::error::StopError;
use crate::status::Board;
use crate::supervisor::Stopping;
use crate::world::unix_ms;

/// What is read of items at once: the table is locked while it is taken in.
const LIMIT: PollLimit = PollLimit {
    records: 2_000,
    bytes: 4 << 20,
    wait: Duration::from_millis(200),
};

/// How long putting back rests after the log has refused it: somebody must give the right to write first.
const REFUSED_FOR: Duration = Duration::from_mins(10);

/// What the thread works with.
pub(crate) struct Following {
    pub(crate) config: Config,
    /// Partitions of the behaviors topic: an item belongs to the owner of the one of its id.
    pub(crate) partitions: i32,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) items: SharedItems,
    pub(crate) metrics: Metrics,
    pub(crate) board: Arc<Board>,
}

impl Following {
    /// Follows until it is told to end. Brokers that are away are waited for.
    pub(crate) fn run(&self, stopping: &Stopping) -> Result<(), StopError> {
        let mut pauses = BackOff::new();
        let mut caught_up = false;
        let mut follower: Option<ItemFollower> = None;
        let mut putting = Putting::default();
        while !stopping.is_set() {
            match self.advance(&mut follower) {
                Ok(now) => {
                    pauses.reset();
                    if now && !caught_up {
                        tracing::info!(items = self.items.read().len(), "items read");
                    }
                    // A follower made anew reads what the table has already.
                    caught_up |= now;
                    self.board.tell_items(caught_up, None);
                    if let Some(follower) = &mut follower {
                        self.put_back(follower, &mut putting);
                    }
                }
                Err(error) if error.reaction() == Reaction::Retry => {
                    if matches!(error, Error::Log(LogError::OutOfRange { .. })) {
                        follower = None;
                    }
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "items cannot be read"
                    );
                    self.board.tell_items(caught_up, Some(words(&error)));
                    stopping.pause(pauses.next());
                }
                Err(error) => return Err(StopError::Items(error)),
            }
        }
        Ok(())
    }

    fn advance(&self, follower: &mut Option<ItemFollower>) -> Result<bool, Error> {
        let follower = match follower {
            Some(follower) => follower,
            None => follower.insert(ItemFollower::new(
                &self.config,
                &*self.log,
                Arc::clone(&self.items),
                self.metrics.clone(),
            )?),
        };
        follower.advance(LIMIT, Timestamp(unix_ms()))?;
        Ok(follower.is_caught_up())
    }

    /// Puts newer item records back behind older ones. It is no trouble of ours if that fails: what holds here is right.
    fn put_back(&self, follower: &mut ItemFollower, putting: &mut Putting) {
        if putting.rests.is_some_and(|until| Instant::now() < until) {
            return;
        }
        let working: BTreeSet<i32> = self
            .board
            .workers()
            .into_iter()
            .flat_map(|worker| worker.working)
            .collect();
        let mine = |id: &str| working.contains(&partition_of(id.as_bytes(), self.partitions));
        match follower.put_back(&*self.log, &mine) {
            Ok(0) => putting.pauses.reset(),
            Ok(count) => tracing::info!(count, "newer item records put back behind older ones"),
            Err(error) => {
                let pause = match &error {
                    Error::Log(LogError::Refused { .. }) => REFUSED_FOR,
                    _ => putting.pauses.next(),
                };
                putting.rests = Some(Instant::now() + pause);
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "newer item records cannot be put back behind older ones: compaction will keep the older"
                );
            }
        }
    }
}

/// When putting back is tried again after it has failed.
struct Putting {
    pauses: BackOff,
    rests: Option<Instant>,
}

impl Default for Putting {
    fn default() -> Self {
        Self {
            pauses: BackOff::new(),
            rests: None,
        }
    }
}
