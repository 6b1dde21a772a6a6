//! Where vectors of users and items are, of whichever models look at texts: the one that scores, and the one that is made ready to.
//!
//! Those of former models stay in the store for a while, so that going back finds them.

use std::sync::Arc;

use headwater_config::Config;
use headwater_consumers::deepen::{Asked, DeepVectors};
use headwater_consumers::{DeepMetrics, Metrics};
use headwater_model::bahe::BaheModel;
use headwater_state::{DEEP_VECTORS, Stores};
use parking_lot::Mutex;

use crate::status::AheadStatus;

/// What a model that is made ready has of the memory that the one at work has.
pub(super) const AHEAD_SHARE: u64 = 4;

/// A model that looks at texts, with its vectors.
#[derive(Clone, Debug)]
pub(super) struct AtWork {
    pub(super) model: Arc<BaheModel>,
    pub(super) vectors: Arc<DeepVectors>,
    pub(super) asked: Arc<Asked>,
}

/// Who has layers of its own, of who scores and of who is made ready to.
#[derive(Clone, Debug, Default)]
pub(super) struct Chosen {
    pub(super) at_work: Option<AtWork>,
    pub(super) ahead: Option<AtWork>,
}

/// Vectors of the layers in use.
#[derive(Debug)]
pub(crate) struct Layers {
    stores: Arc<dyn Stores>,
    /// Bytes of vectors in memory.
    memory: u64,
    metrics: DeepMetrics,
    /// With the number of the champion's change that it came by: a worker that is behind the others takes nothing back.
    chosen: Mutex<(u64, Chosen)>,
    /// How far the one is that is made ready.
    ahead: Mutex<Option<AheadStatus>>,
}

impl Layers {
    /// Those of an instance that scores and has vectors of texts.
    pub(crate) fn new(
        config: &Config,
        stores: &Arc<dyn Stores>,
        metrics: &Metrics,
    ) -> Option<Self> {
        let has_any = config.instance.workers > 0 && config.texts.encoder.is_some();
        has_any.then(|| Self {
            stores: Arc::clone(stores),
            memory: config.texts.deep_memory.get() / 2,
            metrics: metrics.deep.clone(),
            chosen: Mutex::default(),
            ahead: Mutex::default(),
        })
    }

    /// The vectors of who scores from this change on, and of who is made ready; none where another change came since, which the worker learns of before its next turn.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub(super) fn of(
        &self,
        change: u64,
        [scores, ahead]: [Option<&Arc<BaheModel>>; 2],
    ) -> Result<Chosen, headwater_state::Error> {
        let (newest, chosen) = &mut *self.chosen.lock();
        if change < *newest {
            return Ok(Chosen::default());
        }
        let find = |model: Option<&Arc<BaheModel>>, memory: u64| {
            let Some(model) = model.filter(|model| model.deep().is_some()) else {
                return Ok(None);
            };
            let held = [&chosen.at_work, &chosen.ahead].into_iter().flatten();
            let mut held = held.filter(|held| held.model.deep_id() == model.deep_id());
            if let Some(held) = held.next() {
                held.vectors.set_memory(memory);
                return Ok(Some(held.clone()));
            }
            self.open(model, memory).map(Some)
        };
        let at_work = find(scores, self.memory)?;
        // With the same layers there is nothing to be made ready.
        let layers = at_work.as_ref().map(|held| held.model.deep_id());
        let ahead = ahead.filter(|model| Some(model.deep_id()) != layers);
        let ahead = find(ahead, self.memory / AHEAD_SHARE)?;
        let found = Chosen { at_work, ahead };
        (*newest, *chosen) = (change, found.clone());
        Ok(found)
    }

    fn open(&self, model: &Arc<BaheModel>, memory: u64) -> Result<AtWork, headwater_state::Error> {
        let open = || {
            let store = self.stores.open(DEEP_VECTORS)?;
            DeepVectors::open(store, model, memory)
        };
        let vectors = match open() {
            // They are made again.
            Err(error @ headwater_state::Error::Damaged { .. }) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    "stored vectors of users and items are damaged; making them again"
                );
                self.stores.remove(DEEP_VECTORS)?;
                open()?
            }
            opened => opened?,
        };
        Ok(AtWork {
            model: Arc::clone(model),
            vectors: Arc::new(vectors),
            asked: Arc::new(Asked::new(self.metrics.clone())),
        })
    }

    /// Tells how far the model is that is made ready; none: there is none.
    pub(super) fn tell(&self, ahead: Option<AheadStatus>) {
        *self.ahead.lock() = ahead;
    }

    /// How far the model is that is made ready, if there is one.
    pub(crate) fn ahead(&self) -> Option<AheadStatus> {
        self.ahead.lock().clone()
    }

    /// Runs and items that wait, of the model that scores.
    pub(super) fn waiting(&self) -> usize {
        let chosen = self.chosen.lock();
        (chosen.1.at_work.as_ref()).map_or(0, |at_work| at_work.asked.len())
    }

    /// Who has layers now.
    pub(super) fn chosen(&self) -> Chosen {
        self.chosen.lock().1.clone()
    }
}
