//! The layers of one model at work, and what waits for them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_consumers::Error;
use headwater_consumers::deepen::{Asked, DeepVectors, Deepen, Wanted};
use headwater_state::TextHash;

use super::super::Inner;
use super::super::pool::Pool;
use super::layers::AtWork;

/// Runs, and items, that are taken at once.
pub(super) const TAKEN_MAX: usize = 64;
/// Between two looks at what lacked vectors of texts.
const AGAIN_EVERY: Duration = Duration::from_millis(500);
/// What lacks vectors of texts, at most: the oldest are left out, and asked for again by the next row that wants them.
const LATER_MAX: usize = 512;

/// What the thread has of a model with layers.
pub(super) struct Turn {
    vectors: Arc<DeepVectors>,
    asked: Arc<Asked>,
    deepen: Deepen,
    later: Wanted,
    looked: Instant,
    was_ready: bool,
}

impl Turn {
    pub(super) fn of(inner: &Inner, at_work: AtWork, memory: u64) -> Option<Self> {
        let AtWork {
            model,
            vectors,
            asked,
        } = at_work;
        let texts = Arc::clone(&inner.texts.as_ref()?.table);
        let metrics = inner.fast.deep.clone();
        Some(Self {
            deepen: Deepen::new(model, texts, Arc::clone(&vectors), memory, metrics),
            vectors,
            asked,
            later: Wanted::default(),
            looked: Instant::now(),
            was_ready: true,
        })
    }

    pub(super) fn is_of(&self, at_work: &AtWork) -> bool {
        Arc::ptr_eq(&self.asked, &at_work.asked)
    }

    /// Whether there are vectors of texts that the layers take.
    pub(super) fn has_its_encoder(&self) -> bool {
        self.deepen.has_its_encoder()
    }

    /// Bounds the keys and values in memory anew.
    pub(super) fn set_memory(&mut self, memory: u64) {
        self.deepen.set_memory(memory);
    }

    pub(super) fn vectors(&self) -> &DeepVectors {
        &self.vectors
    }

    /// Runs and items that wait.
    pub(super) fn waiting(&self) -> usize {
        self.asked.len()
    }

    /// Makes vectors of items; gives those whose texts have none yet.
    pub(super) fn make_items(&mut self, texts: &[TextHash]) -> Result<Vec<TextHash>, Error> {
        self.deepen.items(texts)
    }

    /// Makes so many runs and items that were asked for, for which it waits so long; gives whether there were any.
    pub(super) fn work(
        &mut self,
        pool: &Pool,
        count: usize,
        wait: Duration,
    ) -> Result<bool, Error> {
        let Self {
            asked,
            deepen,
            later,
            ..
        } = self;
        let wanted = asked.take(count, wait);
        let is_busy = !wanted.is_empty();
        if is_busy {
            let left = pool.run(|| deepen.work(wanted))?;
            later.runs.extend(left.runs);
            later.items.extend(left.items);
            let too_many = |length: usize| length.saturating_sub(LATER_MAX);
            let (runs, items) = (too_many(later.runs.len()), too_many(later.items.len()));
            later.runs.drain(..runs);
            later.items.drain(..items);
            asked.later(later.runs.len() + later.items.len(), runs + items);
        }
        if self.looked.elapsed() >= AGAIN_EVERY {
            self.looked = Instant::now();
            asked.later(0, 0);
            asked.again(std::mem::take(later));
        }
        Ok(is_busy)
    }

    /// Says so when vectors of texts are not there for the model that scores.
    pub(super) fn warn(&mut self) {
        let is_ready = self.deepen.has_its_encoder();
        if !is_ready && self.was_ready {
            tracing::warn!(
                "there are no vectors of texts of the encoder that the model was trained on: the baseline scores"
            );
        }
        self.was_ready = is_ready;
    }
}
