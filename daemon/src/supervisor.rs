//! Every thread of the daemon, and what a failure of each does to the process.
//!
//! Before it, `daemon` says what each thread does; after it, whoever waits learns how the daemon ended. A thread is spawned here or
//! not at all: here it has a name, a guard that sees its panic, and a place in the count that a stop waits for.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use crate::daemon::StopError;

/// What a thread is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TaskKind {
    /// A member of the group and its partitions.
    Worker,
    /// The follower of items and their statistics.
    Items,
    /// Announcements to and from the other instances, and what is measured every few seconds.
    Fleet,
    /// Texts to vectors, and vectors to the own table.
    Texts,
    /// Which model scores.
    Champion,
    /// Learning from what was scored.
    Train,
    /// Holding what was scored against the log.
    Skew,
    /// HTTP.
    Admin,
}

/// What the failure of a thread does to the process. A panic is a bug and stops it always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// The daemon drains what it can and ends with the failure's exit code.
    Stop,
    /// The thread begins again after [`RESTART_PAUSE`], this often in an hour; then the daemon stops.
    Restart(usize),
}

/// Between a thread's failure and its next beginning.
pub const RESTART_PAUSE: Duration = Duration::from_secs(1);

impl TaskKind {
    /// The whole policy: every kind is named, none defaults.
    #[must_use]
    pub const fn on_failure(self) -> OnFailure {
        match self {
            // What can heal they wait out themselves; what comes out of them needs a person.
            Self::Worker | Self::Items => OnFailure::Stop,
            // Without the one, who owns what is told late; without the other nobody sees the daemon. Nothing is scored wrong.
            // The same of a champion that is not followed: who scored before goes on.
            Self::Fleet | Self::Admin | Self::Champion => OnFailure::Restart(20),
            // Scores go on without new vectors; what fails so often needs a person.
            Self::Texts | Self::Train | Self::Skew => OnFailure::Restart(5),
        }
    }

    /// When it is told to end: HTTP answers until everything else has ended.
    const fn ends_at(self) -> Phase {
        match self {
            Self::Worker
            | Self::Items
            | Self::Texts
            | Self::Fleet
            | Self::Champion
            | Self::Train
            | Self::Skew => Phase::Draining,
            Self::Admin => Phase::Ended,
        }
    }
}

/// How far a stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Working.
    Running,
    /// Workers commit, write back and leave.
    Draining,
    /// They have ended; HTTP ends.
    Ended,
}

/// All threads of one daemon.
#[derive(Clone, Debug)]
pub(crate) struct Supervisor {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// `Phase` as a number, to be looked at in every turn.
    phase: AtomicU8,
    state: Mutex<State>,
    changed: Condvar,
    /// The same for those who wait without a thread.
    told: watch::Sender<Phase>,
}

#[derive(Debug, Default)]
struct State {
    forever: bool,
    running: BTreeMap<TaskKind, usize>,
    threads: Vec<JoinHandle<()>>,
    failure: Option<StopError>,
    /// The failure's words, which stay when the failure was given to whoever waited.
    why: Option<String>,
}

/// A thread's view of its supervisor.
#[derive(Clone, Debug)]
pub(crate) struct Stopping {
    shared: Arc<Shared>,
    kind: TaskKind,
}

impl Supervisor {
    pub(crate) fn new() -> Self {
        let shared = Shared {
            phase: AtomicU8::new(Phase::Running as u8),
            state: Mutex::default(),
            changed: Condvar::new(),
            told: watch::Sender::new(Phase::Running),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Starts a thread that does `work`, and does it again where the policy says so.
    pub(crate) fn spawn(
        &self,
        kind: TaskKind,
        name: &str,
        mut work: impl FnMut(&Stopping) -> Result<(), StopError> + Send + 'static,
    ) -> std::io::Result<()> {
        let stopping = Stopping {
            shared: Arc::clone(&self.shared),
            kind,
        };
        let shared = Arc::clone(&self.shared);
        let mut state = self.shared.state.lock();
        let task = name.to_owned();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let outcome = catch_unwind(AssertUnwindSafe(|| {
                    guard(kind, &task, &stopping, &mut work)
                }));
                // What the thread held is let go before anybody is told that it has ended.
                drop(work);
                let failure = match outcome {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(error),
                    Err(panic) => Some(StopError::Panic {
                        thread: task,
                        message: words(&*panic),
                    }),
                };
                shared.ended(kind, failure);
            })?;
        *state.running.entry(kind).or_default() += 1;
        state.threads.push(thread);
        Ok(())
    }

    /// Asks everything to end; with `forever`, members leave the group for good. The first call decides.
    pub(crate) fn stop(&self, forever: bool) {
        let mut state = self.shared.state.lock();
        if self.shared.phase() == Phase::Running {
            state.forever = forever;
            self.shared.enter(Phase::Draining);
        }
    }

    /// Waits until everything has ended. The first failure is the outcome, given once.
    pub(crate) fn wait(&self) -> Result<(), StopError> {
        let mut state = self.shared.state.lock();
        while state
            .running
            .iter()
            .any(|(kind, count)| kind.ends_at() == Phase::Draining && *count > 0)
        {
            self.shared.changed.wait(&mut state);
        }
        self.shared.enter(Phase::Ended);
        while state.running.values().any(|count| *count > 0) {
            self.shared.changed.wait(&mut state);
        }
        let threads = std::mem::take(&mut state.threads);
        let failure = state.failure.take();
        drop(state);
        for thread in threads {
            // Its panic was caught and told of.
            drop(thread.join());
        }
        failure.map_or(Ok(()), Err)
    }

    pub(crate) fn phase(&self) -> Phase {
        self.shared.phase()
    }

    /// Why the daemon stops, if it is for a failure.
    pub(crate) fn why(&self) -> Option<String> {
        self.shared.state.lock().why.clone()
    }
}

impl Shared {
    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Running,
            1 => Phase::Draining,
            _ => Phase::Ended,
        }
    }

    /// Only with the state's lock held: phases follow one another.
    fn enter(&self, phase: Phase) {
        if self.phase() < phase {
            self.phase.store(phase as u8, Ordering::Release);
            self.told.send_replace(phase);
            self.changed.notify_all();
        }
    }

    fn ended(&self, kind: TaskKind, failure: Option<StopError>) {
        let mut state = self.state.lock();
        if let Some(count) = state.running.get_mut(&kind) {
            *count -= 1;
        }
        if let Some(failure) = failure {
            tracing::error!(error = &failure as &dyn std::error::Error, "stopping");
            state
                .why
                .get_or_insert_with(|| headwater_consumers::words(&failure));
            state.failure.get_or_insert(failure);
            self.enter(Phase::Draining);
        }
        drop(state);
        self.changed.notify_all();
    }
}

impl Stopping {
    /// Whether the thread is to end.
    pub(crate) fn is_set(&self) -> bool {
        self.shared.phase() >= self.kind.ends_at()
    }

    /// Whether members are to leave the group for good.
    pub(crate) fn forever(&self) -> bool {
        self.shared.state.lock().forever
    }

    /// Whether everything ends for a failure.
    pub(crate) fn failed(&self) -> bool {
        self.shared.state.lock().why.is_some()
    }

    /// Waits that long, or until the thread is to end; gives whether it is.
    pub(crate) fn pause(&self, length: Duration) -> bool {
        let deadline = Instant::now() + length;
        let mut state = self.shared.state.lock();
        while !self.is_set() {
            if self
                .shared
                .changed
                .wait_until(&mut state, deadline)
                .timed_out()
            {
                break;
            }
        }
        self.is_set()
    }

    /// The phase as it changes, for those who wait without a thread.
    pub(crate) fn watch(&self) -> watch::Receiver<Phase> {
        self.shared.told.subscribe()
    }
}

fn guard(
    kind: TaskKind,
    name: &str,
    stopping: &Stopping,
    work: &mut impl FnMut(&Stopping) -> Result<(), StopError>,
) -> Result<(), StopError> {
    let mut failures: Vec<Instant> = Vec::new();
    loop {
        let Err(error) = work(stopping) else {
            return Ok(());
        };
        let OnFailure::Restart(most) = kind.on_failure() else {
            return Err(error);
        };
        let now = Instant::now();
        failures.retain(|at| now.duration_since(*at) < Duration::from_secs(3600));
        failures.push(now);
        if failures.len() > most {
            return Err(error);
        }
        tracing::warn!(
            thread = name,
            error = &error as &dyn std::error::Error,
            "beginning again"
        );
        if stopping.pause(RESTART_PAUSE) {
            return Ok(());
        }
    }
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without words".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "the form of a thread's work")]
    fn until_stopped(stopping: &Stopping) -> Result<(), StopError> {
        while !stopping.pause(Duration::from_secs(60)) {}
        Ok(())
    }

    /// Goal: a panic stops the daemon, and is its outcome. Method: one thread panics, another waits to be told.
    #[test]
    fn a_panic_in_one_thread_ends_all() {
        let supervisor = Supervisor::new();
        supervisor
            .spawn(TaskKind::Items, "items", until_stopped)
            .unwrap();
        supervisor
            .spawn(TaskKind::Admin, "admin", until_stopped)
            .unwrap();
        supervisor
            .spawn(TaskKind::Worker, "worker-0", |_| panic!("on purpose"))
            .unwrap();
        match supervisor.wait() {
            Err(StopError::Panic { thread, message }) => {
                assert_eq!(
                    (thread.as_str(), message.as_str()),
                    ("worker-0", "on purpose")
                );
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(supervisor.phase(), Phase::Ended);
    }

    /// Goal: what may begin again does so, and not for ever. Method: a thread that fails at once, counted up to the limit of its kind
    /// by failures that lie before the pause; stopped while it pauses.
    #[test]
    fn a_thread_begins_again_until_it_is_stopped() {
        let supervisor = Supervisor::new();
        let (told, heard) = std::sync::mpsc::channel();
        supervisor
            .spawn(TaskKind::Fleet, "fleet", move |_| {
                told.send(()).unwrap();
                Err(StopError::Runtime {
                    source: std::io::Error::other("on purpose"),
                })
            })
            .unwrap();
        for _ in 0..2 {
            heard.recv_timeout(Duration::from_secs(10)).unwrap();
        }
        supervisor.stop(false);
        assert!(supervisor.wait().is_ok());
    }

    /// Goal: HTTP outlives the drain. Method: a worker that waits until the admin thread has seen that it is not yet to end.
    #[test]
    fn http_ends_last() {
        let supervisor = Supervisor::new();
        let (told, heard) = std::sync::mpsc::channel();
        supervisor
            .spawn(TaskKind::Admin, "admin", move |stopping| {
                let mut watch = stopping.watch();
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    watch
                        .wait_for(|phase| *phase == Phase::Draining)
                        .await
                        .unwrap();
                });
                told.send(stopping.is_set()).unwrap();
                until_stopped(stopping)
            })
            .unwrap();
        supervisor
            .spawn(TaskKind::Worker, "worker-0", move |stopping| {
                until_stopped(stopping)?;
                assert!(!heard.recv_timeout(Duration::from_secs(10)).unwrap());
                Ok(())
            })
            .unwrap();
        supervisor.stop(true);
        supervisor.wait().unwrap();
    }
}
