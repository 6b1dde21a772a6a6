//! The thread that cleans a log on disk, so that no commit waits for it.
//!
//! Before it, appends close segments and ask for cleaning; after it, `clean` does the work. Who closes a segment while the cleaner
//! has not even begun with what was asked before cleans as well, and waits for it: disk stays bounded however fast the writers are.
//! A log in memory has no cleaner, its writers clean always: its runs are repeatable.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use super::{Broker, segment};
use crate::log::LogError;

/// What was asked of the cleaner.
#[derive(Debug, Default)]
pub(super) struct Requests {
    state: Mutex<Asked>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Asked {
    /// Whether there is a cleaner.
    runs: bool,
    cleaning: bool,
    stopping: bool,
}

/// The thread. Dropped, it ends what it is at and stops.
#[derive(Debug)]
pub(super) struct Cleaner {
    broker: Arc<Broker>,
    thread: Option<JoinHandle<()>>,
}

impl Cleaner {
    /// Starts it.
    pub(super) fn start(broker: &Arc<Broker>, folder: &Path) -> Result<Self, LogError> {
        let shared = Arc::clone(broker);
        let thread = std::thread::Builder::new()
            .name("log-cleaner".to_owned())
            .spawn(move || {
                while shared.requests.next() {
                    shared.clean_or_warn();
                }
            })
            .map_err(segment::io(folder, "starting the cleaner of"))?;
        broker.requests.state.lock().runs = true;
        Ok(Self {
            broker: Arc::clone(broker),
            thread: Some(thread),
        })
    }
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        {
            let mut asked = self.broker.requests.state.lock();
            (asked.runs, asked.stopping) = (false, true);
        }
        self.broker.requests.changed.notify_all();
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the cleaner of the local log has panicked");
        }
    }
}

impl Requests {
    /// Waits for work; the answer is false when there will be none.
    fn next(&self) -> bool {
        let mut asked = self.state.lock();
        while !asked.cleaning && !asked.stopping {
            self.changed.wait(&mut asked);
        }
        asked.cleaning = false;
        !asked.stopping
    }

    /// Asks the cleaner. The answer is whether it will do; else the caller must clean.
    fn ask(&self) -> bool {
        let mut asked = self.state.lock();
        if !asked.runs || asked.cleaning {
            return false;
        }
        asked.cleaning = true;
        self.changed.notify_all();
        true
    }
}

impl Broker {
    /// A segment was closed: cleaning may be worth it.
    pub(super) fn closed_segment(&self) {
        if !self.requests.ask() {
            self.clean_or_warn();
        }
    }

    /// Cleans. What fails is tried again when the next segment is closed; nothing is lost meanwhile but room.
    fn clean_or_warn(&self) {
        if let Err(error) = self.clean(false) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cleaning of the local log failed"
            );
        }
    }
}
