//! Fate: what goes wrong, and when. Every call of a worker on the log and on its stores asks here first.
//!
//! Before it stands the seed; after it the log's [`Faults`] hook and [`crate::stores`]. It also holds the clock. A crash is a panic
//! that carries [`Crash`] and is caught around the worker's turn: so a daemon can die between any two calls.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use headwater_consumers::log::local::faults::{Call, Fault, Faults, Op};

use crate::random::Random;

/// When the simulated world begins, Unix milliseconds.
pub(crate) const BEGINNING: i64 = 1_700_000_000_000;

/// What a crash unwinds with.
pub(crate) struct Crash;

/// What can befall a call, and how often relative to one another.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mix {
    pub crash: u64,
    pub unavailable: u64,
    pub fence: u64,
    pub lose: u64,
    pub aborted: u64,
    pub unknown_happened: u64,
    pub unknown_lost: u64,
    pub late: u64,
    pub store_broken: u64,
    pub store_io: u64,
    pub store_damage: u64,
}

/// What befalls a call on a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreFault {
    Pass,
    /// The process dies before the call, or (where it writes) after it.
    Crash {
        after: bool,
    },
    /// The backend says that it is broken, before or after it did what it was told.
    Broken {
        after: bool,
    },
    /// The disk refuses.
    Io,
    /// A stored value changes, then the call goes through.
    Damage,
}

#[derive(Debug)]
struct Inner {
    random: Random,
    armed: bool,
    /// One call in so many is befallen; 0: none.
    rate: u64,
    /// One poll in so many is cut short and mixed; 0: none.
    shape: u64,
    mix: Mix,
    fenced: bool,
    io: bool,
    befallen: u64,
    story: Option<Vec<String>>,
}

/// Who decides, and what time it is.
#[derive(Debug)]
pub(crate) struct Fate {
    inner: Mutex<Inner>,
    clock: AtomicI64,
}

impl Fate {
    /// Fate by a seed; with `told`, it keeps a story of what happened.
    pub(crate) fn new(mut random: Random, mix: Mix, rate: u64, told: bool) -> Arc<Self> {
        let shape = *random.pick(&[0, 2, 5]);
        Arc::new(Self {
            inner: Mutex::new(Inner {
                random,
                armed: false,
                rate,
                shape,
                mix,
                fenced: false,
                io: false,
                befallen: 0,
                story: told.then(Vec::new),
            }),
            clock: AtomicI64::new(BEGINNING),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .expect("invariant: nobody panics with the lock")
    }

    /// Now, Unix milliseconds.
    pub(crate) fn now(&self) -> i64 {
        self.clock.load(Ordering::Relaxed)
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, ms: i64) {
        self.clock.fetch_add(ms, Ordering::Relaxed);
    }

    /// Whether something may go wrong from now on.
    pub(crate) fn arm(&self, armed: bool) {
        self.inner().armed = armed;
    }

    /// No more faults, until the end.
    pub(crate) fn rest(&self) {
        let mut inner = self.inner();
        (inner.rate, inner.shape) = (0, 0);
    }

    /// Whether anybody was ever fenced, so that a worker may say so.
    pub(crate) fn somebody_was_fenced(&self) -> bool {
        self.inner().fenced
    }

    /// Notes that somebody takes an identity that another may still have.
    pub(crate) fn fence(&self) {
        self.inner().fenced = true;
    }

    /// Whether the disk has ever refused. A worker may hear of it a turn later.
    pub(crate) fn disk_has_refused(&self) -> bool {
        self.inner().io
    }

    /// How many calls were befallen.
    pub(crate) fn befallen(&self) -> u64 {
        self.inner().befallen
    }

    /// Adds to the story, if one is kept.
    pub(crate) fn tell(&self, words: impl FnOnce() -> String) {
        let now = self.now() - BEGINNING;
        let mut inner = self.inner();
        if let Some(story) = &mut inner.story {
            story.push(format!("{now:>9} ms  {}", words()));
        }
    }

    /// The story so far.
    pub(crate) fn story(&self) -> Vec<String> {
        self.inner().story.clone().unwrap_or_default()
    }

    /// A salt, or another 16 bytes that nobody else has.
    pub(crate) fn salt(&self) -> [u8; 16] {
        let mut inner = self.inner();
        let (a, b) = (inner.random.next(), inner.random.next());
        let mut salt = [0; 16];
        salt[..8].copy_from_slice(&a.to_le_bytes());
        salt[8..].copy_from_slice(&b.to_le_bytes());
        salt
    }

    /// Numbers for whoever needs some in the middle of a call.
    pub(crate) fn fork(&self) -> Random {
        self.inner().random.fork()
    }

    /// What befalls a call on a store; `writes`: it applies a batch.
    pub(crate) fn before_store(&self, writes: bool) -> StoreFault {
        let mut inner = self.inner();
        // Reads are many: an error of a read is as likely as one of a write over a run.
        let rate = if writes { inner.rate / 4 } else { inner.rate };
        if !inner.armed || inner.rate == 0 || !inner.random.once_in(rate.max(2)) {
            return StoreFault::Pass;
        }
        let mix = inner.mix;
        let after = writes && inner.random.once_in(2);
        let fault = match inner.random.weighted(&[
            mix.crash,
            mix.store_broken,
            mix.store_io,
            mix.store_damage,
            1,
        ]) {
            0 => StoreFault::Crash { after },
            1 => StoreFault::Broken { after },
            2 => StoreFault::Io,
            3 => StoreFault::Damage,
            _ => StoreFault::Pass,
        };
        inner.io |= fault == StoreFault::Io;
        inner.befallen += u64::from(fault != StoreFault::Pass);
        drop(inner);
        if fault != StoreFault::Pass {
            self.tell(|| format!("  ! store, writes: {writes}: {fault:?}"));
        }
        fault
    }

    /// What befalls a call on the log; `None` is a crash.
    fn before_log(&self, call: Call<'_>) -> Option<Fault> {
        let mut inner = self.inner();
        if !inner.armed {
            return Some(Fault::Pass);
        }
        let polls = matches!(call.op, Op::Poll | Op::Read);
        let rate = match call.op {
            Op::Send | Op::SendNow => inner.rate * 4,
            Op::Commit => inner.rate / 6,
            _ => inner.rate,
        };
        if inner.rate == 0 || !inner.random.once_in(rate.max(2)) {
            if !polls
                || inner.shape == 0
                || !{
                    let shape = inner.shape;
                    inner.random.once_in(shape)
                }
            {
                return Some(Fault::Pass);
            }
            // A reader that gets nothing waits for real time: it gets one at least.
            let least = u64::from(call.op == Op::Read);
            let records = (least + inner.random.below(9)) as usize;
            let order = inner.random.next();
            return Some(Fault::Shape { records, order });
        }
        let mix = inner.mix;
        let member = !matches!(call.identity, "reader" | "log" | "producer");
        let commit = u64::from(call.op == Op::Commit);
        let weights = [
            mix.crash,
            mix.unavailable,
            if member { mix.fence } else { 0 },
            if member { mix.lose } else { 0 },
            commit * mix.aborted * 4,
            commit * mix.unknown_happened * 4,
            commit * mix.unknown_lost * 4,
            commit * mix.late * 4,
            1,
        ];
        let fault = match inner.random.weighted(&weights) {
            0 => None,
            1 => Some(Fault::Unavailable),
            2 => Some(Fault::Fence),
            3 => Some(Fault::Lose),
            4 => Some(Fault::CommitAborted),
            5 => Some(Fault::CommitUnknown { happened: true }),
            6 => Some(Fault::CommitUnknown { happened: false }),
            7 => Some(Fault::CommitLate {
                which: inner.random.next(),
                ms: inner.random.within(0, 6_000),
            }),
            _ => Some(Fault::Pass),
        };
        inner.fenced |= fault == Some(Fault::Fence);
        inner.befallen += u64::from(fault != Some(Fault::Pass));
        drop(inner);
        if fault != Some(Fault::Pass) {
            let what = fault.map_or("Crash".to_owned(), |fault| format!("{fault:?}"));
            self.tell(|| format!("  ! {:?} of {}: {what}", call.op, call.identity));
        }
        fault
    }
}

/// The hook of the log.
#[derive(Clone, Debug)]
pub(crate) struct Hook(pub(crate) Arc<Fate>);

impl Faults for Hook {
    fn before(&self, call: Call<'_>) -> Fault {
        match self.0.before_log(call) {
            Some(fault) => fault,
            None => crash(),
        }
    }
}

/// The process dies here.
pub(crate) fn crash() -> ! {
    // Not `panic!`: a crash is no news for the panic hook.
    std::panic::resume_unwind(Box::new(Crash))
}
