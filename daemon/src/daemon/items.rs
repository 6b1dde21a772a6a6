//! The thread that follows items and their statistics into the shared table.

use std::sync::Arc;
use std::time::Duration;

use headwater_config::Config;
use headwater_consumers::items::ItemFollower;
use headwater_consumers::log::{Log, LogError, PollLimit};
use headwater_consumers::step::SharedItems;
use headwater_consumers::{Error, Metrics, Reaction, words};

use super::back_off::BackOff;
use super::error::StopError;
use crate::status::Board;
use crate::supervisor::Stopping;

/// What is read of items at once: the table is locked while it is taken in.
const LIMIT: PollLimit = PollLimit {
    records: 2_000,
    bytes: 4 << 20,
    wait: Duration::from_millis(200),
};

/// What the thread works with.
pub(crate) struct Following {
    pub(crate) config: Config,
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
        follower.advance(LIMIT)?;
        Ok(follower.is_caught_up())
    }
}
