//! Following the topic of models: what is announced is copied to the state folder, verified, loaded, and held for the workers.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use headwater_config::{Config, Topic};
use headwater_consumers::log::{
    Log, LogError, PollLimit, Reader, RecordBatch, Start, TopicPartition,
};
use headwater_model::bahe::BaheModel;
use parking_lot::RwLock;

use super::{ChampionError, Named, Registry, copies, hex};

/// How long one look at the topic waits.
const LOOK: Duration = Duration::from_millis(200);
/// What one look takes at most.
const LIMIT: PollLimit = PollLimit {
    records: 1_000,
    bytes: 8 << 20,
    wait: LOOK,
};

/// The champion that is loaded. Workers look at its number before each turn: a step never sees two.
#[derive(Debug, Default)]
pub(crate) struct Held(RwLock<Loaded>);

#[derive(Debug, Default)]
struct Loaded {
    /// Raised with every change.
    number: u64,
    model: Option<Arc<BaheModel>>,
    /// Why the announced one is not the loaded one.
    trouble: Option<String>,
}

impl Held {
    /// The champion, if it is another than the one of this number, with its own.
    pub(crate) fn other_than(&self, number: u64) -> Option<(u64, Option<Arc<BaheModel>>)> {
        let loaded = self.0.read();
        (loaded.number != number).then(|| (loaded.number, loaded.model.clone()))
    }

    /// Who scores, and why it is not who was announced.
    pub(crate) fn status(&self) -> (Option<Arc<BaheModel>>, Option<String>) {
        let loaded = self.0.read();
        (loaded.model.clone(), loaded.trouble.clone())
    }

    fn set(&self, model: Option<Arc<BaheModel>>) {
        let mut loaded = self.0.write();
        let id = |model: &Option<Arc<BaheModel>>| model.as_ref().map(|model| model.id());
        if id(&loaded.model) != id(&model) {
            loaded.number += 1;
            loaded.model = model;
        }
        loaded.trouble = None;
    }

    fn fail(&self, why: String) {
        self.0.write().trouble = Some(why);
    }
}

/// Reads the topic from its beginning, and on.
pub(crate) struct Follower {
    config: Config,
    held: Arc<Held>,
    reader: Box<dyn Reader>,
    registry: Registry,
    batch: RecordBatch,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").finish_non_exhaustive()
    }
}

impl Follower {
    pub(crate) fn new(config: &Config, log: &dyn Log, held: Arc<Held>) -> Result<Self, LogError> {
        let mut reader = log.reader()?;
        reader.assign(TopicPartition::new(Topic::Models, 0), Start::Beginning)?;
        Ok(Self {
            config: config.clone(),
            held,
            reader,
            registry: Registry::default(),
            batch: RecordBatch::default(),
        })
    }

    /// Takes in what came since; gives whether the topic's end was reached. An announced model that cannot be loaded is told of, and the one that is loaded goes on.
    pub(crate) fn turn(&mut self) -> Result<bool, LogError> {
        self.reader.poll(LIMIT, &mut self.batch)?;
        let mut is_news = false;
        for record in self.batch.iter() {
            is_news |= self.registry.take(&record);
        }
        if is_news {
            self.load();
        }
        Ok(!self.batch.ends().is_empty())
    }

    fn load(&self) {
        match self.try_load() {
            Ok(model) => {
                let name = model.as_ref().map_or_else(
                    || "baseline".to_owned(),
                    |model| format!("{}-{}", BaheModel::NAME, model.version()),
                );
                tracing::info!(champion = name, "scores are made by the announced champion");
                self.held.set(model.map(Arc::new));
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    "the announced champion cannot be loaded; who scored before goes on"
                );
                self.held.fail(headwater_consumers::words(error));
            }
        }
    }

    fn try_load(&self) -> Result<Option<BaheModel>, ChampionError> {
        let Some(announced) = self.registry.announced()? else {
            return Ok(None);
        };
        let Some(champion) = &announced.champion else {
            return Ok(None);
        };
        let model = self.copy(champion)?;
        // Rows that the former has scored can still be asked about; those of others cannot.
        let kept = [Some(champion), announced.former.as_ref()];
        let kept: Vec<&str> = kept.into_iter().flatten().map(|named| &*named.id).collect();
        for entry in fs::read_dir(copies(&self.config))
            .into_iter()
            .flatten()
            .flatten()
        {
            if !kept.iter().any(|id| entry.file_name() == **id) {
                drop(fs::remove_dir_all(entry.path()));
            }
        }
        Ok(Some(model))
    }

    /// Opens the copy of a model, made if there is none that is whole.
    fn copy(&self, champion: &Named) -> Result<BaheModel, ChampionError> {
        let folder = copies(&self.config).join(&champion.id);
        if let Ok(model) = crate::trained::open_folder(&self.config, &folder)
            && hex(model.id()) == champion.id
        {
            return Ok(model);
        }
        let partial = copies(&self.config).join("partial");
        let model = self.registry.copy(&self.config, champion, &partial)?;
        drop(fs::remove_dir_all(&folder));
        fs::rename(&partial, &folder).map_err(|source| ChampionError::File {
            path: folder.clone(),
            source,
        })?;
        Ok(model)
    }
}
