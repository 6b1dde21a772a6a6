//! A trained model in the stream: opened and held against the configuration, and the thread of its deep layers.
//!
//! No score waits for that thread: a row takes the vectors that are there, and says which.

use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_config::Config;
use headwater_consumers::assemble::{Assembler, Source};
use headwater_consumers::deepen::{Asked, DeepVectors, Deepen, Wanted};
use headwater_consumers::{Error, Metrics};
use headwater_model::bahe::BaheModel;
use headwater_state::{DEEP_VECTORS, EncoderId, Stores, Timestamp, VectorTable};

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

/// What an instance has of a trained model.
#[derive(Debug)]
pub(super) struct Trained {
    pub(super) model: Arc<BaheModel>,
    /// Where it looks at texts.
    deep: Option<(Arc<DeepVectors>, Arc<Asked>)>,
}

impl Trained {
    pub(super) fn status(&self, texts: Option<&VectorTable>) -> ModelStatus {
        let current = texts.and_then(VectorTable::current);
        let ours = self.model.encoder();
        ModelStatus {
            name: format!("{}-{}", BaheModel::NAME, self.model.version()),
            encoder_is_current: ours.is_none() || current.map(|current| current.id.0) == ours,
            waiting: self.deep.as_ref().map_or(0, |(_, asked)| asked.len()),
            trouble: None,
        }
    }

    /// Has a worker's rows scored by it.
    pub(super) fn score_in(
        &self,
        assembler: &mut Assembler,
        metrics: &Metrics,
    ) -> Result<(), Error> {
        let deep = self.deep.as_ref().map(|(vectors, asked)| {
            let source = Source::Asked(Arc::clone(asked));
            (Arc::clone(vectors), source)
        });
        assembler.score_with(Arc::clone(&self.model), deep, metrics)
    }
}

/// Opens the model of the configuration and its vectors; `encoder` is what this instance encodes with, if it does.
///
/// # Errors
/// A model that is not there, not right, or not of this configuration; a store that cannot be read.
pub(super) fn open(
    config: &Config,
    stores: &dyn Stores,
    encoder: Option<[u8; 16]>,
    metrics: &Metrics,
) -> Result<Option<Trained>, StartError> {
    let Some(model) = crate::trained::open(config)? else {
        return Ok(None);
    };
    if let Some(ours) = encoder {
        crate::trained::check_encoder(config, &model, ours)?;
    }
    let model = Arc::new(model);
    let deep = if model.deep().is_some() {
        let open = || {
            let store = stores.open(DEEP_VECTORS)?;
            DeepVectors::open(store, &model, config.texts.deep_memory.get() / 2)
        };
        let opened = match open() {
            // They are made again.
            Err(error @ headwater_state::Error::Damaged { .. }) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    "stored vectors of users and items are damaged; making them again"
                );
                stores.remove(DEEP_VECTORS)?;
                open()
            }
            opened => opened,
        };
        let vectors = opened.map_err(|source| StartError::Vectors { source })?;
        Some((
            Arc::new(vectors),
            Arc::new(Asked::new(metrics.deep.clone())),
        ))
    } else {
        None
    };
    let trained = Trained { model, deep };
    let model = &trained.model;
    let (path, version) = (config.scoring.model.as_deref(), model.version());
    tracing::info!(model = path, version, "trained model loaded");
    Ok(Some(trained))
}

/// Starts the thread of the deep layers, where there are any.
///
/// # Errors
/// If the system gives none.
pub(super) fn spawn(inner: &Arc<Inner>) -> std::io::Result<()> {
    let (Some(trained), Some(texts)) = (&inner.trained, &inner.texts) else {
        return Ok(());
    };
    let Some((vectors, asked)) = &trained.deep else {
        return Ok(());
    };
    let mut deepen = Deepen::new(
        Arc::clone(&trained.model),
        Arc::clone(&texts.table),
        Arc::clone(vectors),
        inner.config.texts.deep_memory.get() / 2,
        inner.fast.deep.clone(),
    );
    let asked = Arc::clone(asked);
    let mut former = Former {
        vectors: Arc::clone(vectors),
        keep_ms: inner.config.texts.keep_former.millis(),
        noted: None,
        unused: Vec::new(),
    };
    let pool = Pool::new("headwater-deep", 0)?;
    (inner.supervisor).spawn(TaskKind::Texts, "headwater-deep", move |stopping| {
        run((&mut deepen, &pool), &mut former, &asked, stopping).map_err(StopError::Deep)
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

fn run(
    (deepen, pool): (&mut Deepen, &Pool),
    former: &mut Former,
    asked: &Asked,
    stopping: &Stopping,
) -> Result<(), Error> {
    let mut later = Wanted::default();
    let mut looked = Instant::now();
    let mut was_ready = true;
    while !stopping.is_set() {
        former.turn()?;
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
        if looked.elapsed() >= AGAIN_EVERY {
            looked = Instant::now();
            asked.later(0, 0);
            asked.again(std::mem::take(&mut later));
            let is_ready = deepen.has_its_encoder();
            if !is_ready && was_ready {
                tracing::warn!(
                    "the vectors of texts that there are, are not of the encoder that the model was trained on: the baseline scores"
                );
            }
            was_ready = is_ready;
        }
    }
    Ok(())
}
