//! What waits for the deep layers: bounded, each run and item once, the longest waiting first.
//!
//! Steps put, and never wait: what does not fit is left out and counted, and asked for again by the next behavior or row that wants it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use headwater_state::{Sequence, TextHash};
use parking_lot::{Condvar, Mutex};

use crate::metrics::DeepMetrics;

/// Bytes that wait at most, about.
const BYTES_MAX: usize = 32 << 20;
/// Bytes of a waiting run beside its behaviors, and of a waiting item, about.
const EACH_BYTES: usize = 200;

/// A run whose vector is wanted.
#[derive(Clone, Debug)]
pub struct WantedRun {
    /// Whose.
    pub user: Arc<str>,
    /// Which of the model's sequences.
    pub place: usize,
    /// Its behaviors.
    pub sequence: Sequence,
}

/// What is wanted of the deep layers.
#[derive(Debug, Default)]
pub struct Wanted {
    /// Vectors of users.
    pub runs: Vec<WantedRun>,
    /// Vectors of items, by the hashes of their texts.
    pub items: Vec<TextHash>,
}

impl Wanted {
    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.items.is_empty()
    }
}

/// What waits, between steps and the thread of the deep layers.
#[derive(Debug)]
pub struct Asked {
    waiting: Mutex<Waiting>,
    ready: Condvar,
    /// Runs and items that lack vectors of texts, and are with who works.
    later: AtomicUsize,
    metrics: DeepMetrics,
}

#[derive(Debug, Default)]
struct Waiting {
    runs: BTreeMap<(Arc<str>, usize), Sequence>,
    /// In the order in which they were asked for first.
    order: VecDeque<(Arc<str>, usize)>,
    items: BTreeSet<TextHash>,
    item_order: VecDeque<TextHash>,
    bytes: usize,
}

fn bytes_of(sequence: &Sequence) -> usize {
    EACH_BYTES + size_of_val(sequence.entries())
}

impl Asked {
    /// Nothing waits.
    pub fn new(metrics: DeepMetrics) -> Self {
        Self {
            waiting: Mutex::default(),
            ready: Condvar::new(),
            later: AtomicUsize::new(0),
            metrics,
        }
    }

    /// Asks for the vector of a user's sequence as it is now, in the place of what was asked for before.
    pub fn run(&self, user: &str, place: usize, sequence: &Sequence) {
        let mut waiting = self.waiting.lock();
        let key = (Arc::<str>::from(user), place);
        let bytes = bytes_of(sequence);
        let before = waiting.runs.get(&key).map_or(0, bytes_of);
        if waiting.bytes - before + bytes > BYTES_MAX {
            self.metrics.dropped.inc();
            return;
        }
        waiting.bytes = waiting.bytes - before + bytes;
        if before == 0 {
            waiting.order.push_back(key.clone());
        }
        waiting.runs.insert(key, sequence.clone());
        self.ready.notify_one();
    }

    /// Asks for the vector of an item, by the hash of its text.
    pub fn item(&self, text: TextHash) {
        let mut waiting = self.waiting.lock();
        if waiting.items.contains(&text) {
            return;
        }
        if waiting.bytes + EACH_BYTES > BYTES_MAX {
            self.metrics.dropped.inc();
            return;
        }
        waiting.bytes += EACH_BYTES;
        waiting.items.insert(text);
        waiting.item_order.push_back(text);
        self.ready.notify_one();
    }

    /// Asks again for what could not be made yet, unless it was asked for anew; of several of one sequence, the last is meant.
    pub fn again(&self, left: Wanted) {
        for run in left.runs.into_iter().rev() {
            let waits =
                (self.waiting.lock().runs).contains_key(&(Arc::clone(&run.user), run.place));
            if !waits {
                self.run(&run.user, run.place, &run.sequence);
            }
        }
        for item in left.items {
            self.item(item);
        }
    }

    /// Notes how many lack vectors of texts, and that so many of them were left out.
    pub fn later(&self, count: usize, dropped: usize) {
        self.later.store(count, Ordering::Relaxed);
        self.metrics.dropped.inc_by(dropped as u64);
    }

    /// The first so many of each that wait; waits for some as long as it is told.
    pub fn take(&self, count: usize, wait: Duration) -> Wanted {
        let mut waiting = self.waiting.lock();
        if waiting.len() == 0 {
            let _ = self.ready.wait_for(&mut waiting, wait);
        }
        let mut wanted = Wanted::default();
        while wanted.runs.len() < count
            && let Some(key) = waiting.order.pop_front()
        {
            let sequence = waiting.runs.remove(&key);
            let sequence = sequence.expect("invariant: what has an order waits");
            waiting.bytes -= bytes_of(&sequence);
            let (user, place) = key;
            wanted.runs.push(WantedRun {
                user,
                place,
                sequence,
            });
        }
        while wanted.items.len() < count
            && let Some(item) = waiting.item_order.pop_front()
        {
            waiting.items.remove(&item);
            waiting.bytes -= EACH_BYTES;
            wanted.items.push(item);
        }
        wanted
    }

    /// How many runs and items wait.
    pub fn len(&self) -> usize {
        self.waiting.lock().len() + self.later.load(Ordering::Relaxed)
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Waiting {
    fn len(&self) -> usize {
        self.order.len() + self.item_order.len()
    }
}
