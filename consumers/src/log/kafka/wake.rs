//! What wakes a thread that waits on the queues of several clients. librdkafka's threads call [`Wake::wake`] when a queue gets
//! its first event; whoever polls has emptied the queues before it waits.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Longest wait in one go. librdkafka reports only the step from empty to not empty, and `poll` does not say whether it found
/// nothing or ate an event that was not a record: this bounds what such an event can cost.
const WAIT_MAX: Duration = Duration::from_millis(20);

/// A flag that can be waited for.
#[derive(Debug, Default)]
pub(super) struct Wake {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Wake {
    /// Wakes whoever waits, or spares the next wait.
    pub(super) fn wake(&self) {
        *self.woken.lock() = true;
        self.changed.notify_one();
    }

    /// Waits until woken, at most `wait` and never long: look again after it.
    pub(super) fn wait(&self, wait: Duration) {
        let mut woken = self.woken.lock();
        if !*woken {
            let _timed_out = self.changed.wait_for(&mut woken, wait.min(WAIT_MAX));
        }
        *woken = false;
    }

    /// A callback for a queue.
    pub(super) fn callback(self: &Arc<Self>) -> impl Fn() + Send + Sync + 'static {
        let wake = Arc::clone(self);
        move || wake.wake()
    }
}
