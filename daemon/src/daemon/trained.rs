//! A trained model in the stream: the one of the configuration, opened and held against it; and, of whichever model scores, the thread of its deep layers.
//!
//! No score waits for that thread: a row takes the vectors that are there, and says which. When another model comes to score, the thread goes on with its layers: what they made before is found, the rest is made as
//! rows want it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_config::Config;
use headwater_consumers::assemble::{Assembler, Source};
use headwater_consumers::deepen::{Asked, DeepVectors, Deepen, Wanted};
use headwater_consumers::{DeepMetrics, Error, Metrics};
use headwater_model::bahe::BaheModel;
use headwater_state::{DEEP_VECTORS, EncoderId, Stores, Timestamp};
use parking_lot::Mutex;

use super::Inner;
use super::error::{StartError, StopError};
use super::pool::Pool;
use crate::status::ModelStatus;
use crate::supervisor::{Stopping, TaskKind};
use crate::world::unix_ms;

/// Runs, and items, that are taken at once.
const TAKEN_MAX: usize = 64;
/// How long the thread waits for work before it looks whether it is to stop.
const WAIT: Duration = Duration::from_millis(200);
/// Between two looks at what lacked vectors of texts.
const AGAIN_EVERY: Duration = Duration::from_millis(500);
/// Between two notes that our layers are in use.
const NOTE_EVERY: Duration = Duration::from_hours(1);
/// Vectors of former layers that are deleted between two batches of work.
const DELETED_MAX: usize = 500;
/// What lacks vectors of texts, at most: the oldest are left out, and asked for again by the next row that wants them.
const LATER_MAX: usize = 512;

/// Opens the model of `scoring.model`, as the start does, and holds it against the configuration.
///
/// # Errors
/// A model that is not there, not whole, or of something else.
pub fn check_model(config: &Config) -> Result<(), StartError> {
    let model = crate::trained::open(config)?;
    if let (Some(model), Some(named), true) = (model, &config.texts.encoder, config.texts.encode) {
        let encoder = crate::models::encoder(config, named, &crate::models::device(config)?)?;
        crate::trained::check_encoder(config, &model, encoder.id())?;
    }
    Ok(())
}

/// Opens the model of the configuration; `encoder` is what this instance encodes with, if it does.
///
/// # Errors
/// A model that is not there, not right, or not of this configuration.
pub(super) fn open(
    config: &Config,
    encoder: Option<[u8; 16]>,
) -> Result<Option<Arc<BaheModel>>, StartError> {
    let Some(model) = crate::trained::open(config)? else {
        return Ok(None);
    };
    if let Some(ours) = encoder {
        crate::trained::check_encoder(config, &model, ours)?;
    }
    let (path, version) = (config.scoring.model.as_deref(), model.version());
    tracing::info!(model = path, version, "trained model loaded");
    Ok(Some(Arc::new(model)))
}

/// The model that looks at texts, of the one that scores, with its vectors.
#[derive(Clone, Debug)]
struct AtWork {
    model: Arc<BaheModel>,
    vectors: Arc<DeepVectors>,
    asked: Arc<Asked>,
}

/// Where vectors of users and items are, of whichever model scores: those of former models stay in the store for a while, so that going back finds them.
#[derive(Debug)]
pub(super) struct Layers {
    stores: Arc<dyn Stores>,
    /// Bytes of vectors in memory.
    memory: u64,
    metrics: DeepMetrics,
    /// With the number of the champion's change that it came by: a worker that is behind the others takes nothing back.
    at_work: Mutex<(u64, Option<AtWork>)>,
}

impl Layers {
    /// Those of an instance that scores and has vectors of texts.
    pub(super) fn new(
        config: &Config,
        stores: &Arc<dyn Stores>,
        metrics: &Metrics,
    ) -> Option<Self> {
        let has_any = config.instance.workers > 0 && config.texts.encoder.is_some();
        has_any.then(|| Self {
            stores: Arc::clone(stores),
            memory: config.texts.deep_memory.get() / 2,
            metrics: metrics.deep.clone(),
            at_work: Mutex::default(),
        })
    }

    /// The vectors of a model, which is at work from this change on; none where another came since, which the worker learns of before its next turn.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn of(
        &self,
        change: u64,
        model: Option<&Arc<BaheModel>>,
    ) -> Result<Option<AtWork>, headwater_state::Error> {
        let (newest, at_work) = &mut *self.at_work.lock();
        if change < *newest {
            return Ok(None);
        }
        *newest = change;
        let Some(model) = model.filter(|model| model.deep().is_some()) else {
            *at_work = None;
            return Ok(None);
        };
        if let Some(held) = at_work
            .as_ref()
            .filter(|held| held.model.id() == model.id())
        {
            return Ok(Some(held.clone()));
        }
        let open = || {
            let store = self.stores.open(DEEP_VECTORS)?;
            DeepVectors::open(store, model, self.memory)
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
        let made = AtWork {
            model: Arc::clone(model),
            vectors: Arc::new(vectors),
            asked: Arc::new(Asked::new(self.metrics.clone())),
        };
        *at_work = Some(made.clone());
        Ok(Some(made))
    }

    fn current(&self) -> Option<AtWork> {
        self.at_work.lock().1.clone()
    }
}

impl Inner {
    /// How the model that scores is.
    pub(super) fn status_of(&self, model: &BaheModel) -> ModelStatus {
        let texts = self.texts.as_ref();
        let current = texts.and_then(|texts| texts.table.current());
        let ours = model.encoder();
        let at_work = self.layers.as_ref().and_then(Layers::current);
        ModelStatus {
            name: format!("{}-{}", BaheModel::NAME, model.version()),
            encoder_is_current: ours.is_none() || current.map(|current| current.id.0) == ours,
            waiting: at_work.map_or(0, |at_work| at_work.asked.len()),
            trouble: None,
        }
    }

    /// Has a worker's rows scored by a model, or by the baseline, from this change of the champion on.
    pub(super) fn score_in(
        &self,
        assembler: &mut Assembler,
        (change, model): (u64, Option<Arc<BaheModel>>),
        metrics: &Metrics,
    ) -> Result<(), Error> {
        let at_work = match &self.layers {
            Some(layers) => layers
                .of(change, model.as_ref())
                .map_err(|source| Error::Vectors { source })?,
            None => None,
        };
        let Some(model) = model else {
            assembler.score_by_baseline();
            return Ok(());
        };
        let deep = at_work.map(|at_work| (at_work.vectors, Source::Asked(at_work.asked)));
        assembler.score_with(model, deep, metrics)
    }
}

/// Starts the thread of the deep layers, where there may be any.
///
/// # Errors
/// If the system gives none.
pub(super) fn spawn(inner: &Arc<Inner>) -> std::io::Result<()> {
    if inner.layers.is_none() {
        return Ok(());
    }
    let ours = Arc::clone(inner);
    let pool = Pool::new("headwater-deep", 0)?;
    (inner.supervisor).spawn(TaskKind::Texts, "headwater-deep", move |stopping| {
        run(&ours, &pool, stopping).map_err(StopError::Deep)
    })
}

/// Layers of former models, whose vectors go when nobody has used them for long.
struct Former {
    vectors: Arc<DeepVectors>,
    keep_ms: i64,
    noted: Option<Instant>,
    unused: Vec<EncoderId>,
}

impl Former {
    /// Notes that ours are in use, and deletes some of the others.
    fn turn(&mut self) -> Result<(), Error> {
        let failed = |source| Error::Vectors { source };
        let users = &self.vectors.users;
        if self.noted.is_none_or(|noted| noted.elapsed() >= NOTE_EVERY) {
            self.noted = Some(Instant::now());
            let now = Timestamp(unix_ms());
            let unused = users.in_use(self.vectors.layers().id, now, now.minus(self.keep_ms));
            self.unused = unused.map_err(failed)?;
        }
        if let Some(layers) = self.unused.last() {
            let deleted = users.delete(*layers, DELETED_MAX);
            if deleted.map_err(|error| failed(error.into()))? < DELETED_MAX {
                tracing::info!(%layers, "vectors of a former model's layers deleted");
                self.unused.pop();
            }
        }
        Ok(())
    }
}

/// What the thread has of the model at work.
struct Turn {
    asked: Arc<Asked>,
    deepen: Deepen,
    former: Former,
    later: Wanted,
    looked: Instant,
    was_ready: bool,
}

impl Turn {
    fn of(inner: &Inner, at_work: AtWork) -> Option<Self> {
        let AtWork {
            model,
            vectors,
            asked,
        } = at_work;
        let texts = Arc::clone(&inner.texts.as_ref()?.table);
        Some(Self {
            former: Former {
                vectors: Arc::clone(&vectors),
                keep_ms: inner.config.texts.keep_former.millis(),
                noted: None,
                unused: Vec::new(),
            },
            deepen: Deepen::new(
                model,
                texts,
                vectors,
                inner.config.texts.deep_memory.get() / 2,
                inner.fast.deep.clone(),
            ),
            asked,
            later: Wanted::default(),
            looked: Instant::now(),
            was_ready: true,
        })
    }

    fn work(&mut self, pool: &Pool) -> Result<(), Error> {
        let Self {
            asked,
            deepen,
            later,
            ..
        } = self;
        self.former.turn()?;
        let wanted = asked.take(TAKEN_MAX, WAIT);
        if !wanted.is_empty() {
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
            let is_ready = deepen.has_its_encoder();
            if !is_ready && self.was_ready {
                tracing::warn!(
                    "the vectors of texts that there are, are not of the encoder that the model was trained on: the baseline scores"
                );
            }
            self.was_ready = is_ready;
        }
        Ok(())
    }
}

fn run(inner: &Inner, pool: &Pool, stopping: &Stopping) -> Result<(), Error> {
    let mut turn: Option<Turn> = None;
    while !stopping.is_set() {
        let at_work = inner.layers.as_ref().and_then(Layers::current);
        let is_other = match (&turn, &at_work) {
            (Some(turn), Some(at_work)) => !Arc::ptr_eq(&turn.asked, &at_work.asked),
            (None, None) => false,
            _ => true,
        };
        if is_other {
            turn = at_work.and_then(|at_work| Turn::of(inner, at_work));
        }
        match &mut turn {
            Some(turn) => turn.work(pool)?,
            None => drop(stopping.pause(WAIT)),
        }
    }
    Ok(())
}
