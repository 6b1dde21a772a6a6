//! Following the topic of models: what is announced is copied to the state folder, verified, loaded, and held for the workers.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_config::{Config, Topic};
use headwater_consumers::log::{
    Log, LogError, PollLimit, Reader, RecordBatch, Start, TopicPartition,
};
use headwater_model::bahe::BaheModel;
use parking_lot::RwLock;

use super::{Announced, Cause, ChampionError, Named, Registry, Standing, copies, hex};

/// How long one look at the topic waits.
const LOOK: Duration = Duration::from_millis(200);
/// What one look takes at most.
const LIMIT: PollLimit = PollLimit {
    records: 1_000,
    bytes: 8 << 20,
    wait: LOOK,
};

/// Beside the copy of a model: it has scored here.
const SCORED: &str = "scored";

/// Between two tries of a disk.
const AGAIN_EVERY: Duration = Duration::from_secs(10);

/// The champion that is loaded. Workers look at its number before each turn: a step never sees two.
#[derive(Debug, Default)]
pub(crate) struct Held(RwLock<Loaded>);

#[derive(Debug, Default)]
struct Loaded {
    /// Raised with every change.
    number: u64,
    scoring: Scoring,
    /// Why the announced one is not the loaded one.
    trouble: Option<String>,
}

/// Who scores.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scoring {
    /// The champion; none: the baseline.
    pub(crate) model: Option<Arc<BaheModel>>,
    /// A model that scores some users.
    pub(crate) canary: Option<CanaryModel>,
    /// The champion that was announced, and scores once vectors of texts are there for it.
    pub(crate) ahead: Option<Arc<BaheModel>>,
}

/// A model that scores some users.
#[derive(Clone, Debug)]
pub(crate) struct CanaryModel {
    pub(crate) model: Arc<BaheModel>,
    /// Which share of them.
    pub(crate) share: f64,
    /// Whether vectors of its layers were made here, where the champion has others.
    pub(crate) is_made: bool,
}

impl Scoring {
    fn ids(&self) -> [Option<[u8; 16]>; 3] {
        let canary = self.canary.as_ref().map(|canary| &canary.model);
        let all = [self.model.as_ref(), canary, self.ahead.as_ref()];
        all.map(|model| model.map(|model| model.id()))
    }

    /// Whose vectors are made beside those of the champion: of the one that waits, or of a canary of other layers.
    pub(crate) fn beside(&self) -> Option<&Arc<BaheModel>> {
        let layers = |model: &Arc<BaheModel>| model.deep().map(|_| model.deep_id());
        let at_work = self.model.as_ref().and_then(layers);
        let canary = self.canary.as_ref().map(|canary| &canary.model);
        let has_own = |model: &&Arc<BaheModel>| {
            let of = layers(model);
            of.is_some() && of != at_work
        };
        self.ahead.as_ref().or_else(|| canary.filter(has_own))
    }
}

impl Held {
    /// Who scores, if that is another than at this number, with its own.
    pub(crate) fn other_than(&self, number: u64) -> Option<(u64, Scoring)> {
        let loaded = self.0.read();
        (loaded.number != number).then(|| (loaded.number, loaded.scoring.clone()))
    }

    /// Who scores, and why it is not who was announced.
    pub(crate) fn status(&self) -> (Option<Arc<BaheModel>>, Option<String>) {
        let loaded = self.0.read();
        (loaded.scoring.model.clone(), loaded.trouble.clone())
    }

    /// The announced champion that does not score yet.
    pub(crate) fn ahead(&self) -> Option<Arc<BaheModel>> {
        self.0.read().scoring.ahead.clone()
    }

    /// Whose vectors are made beside those of the champion, and whether it scores already what it is to.
    pub(crate) fn beside(&self) -> Option<(Arc<BaheModel>, bool)> {
        let loaded = self.0.read();
        let model = loaded.scoring.beside()?;
        let canary = loaded.scoring.canary.as_ref();
        let canary = canary.filter(|canary| canary.model.id() == model.id());
        let scores = loaded.scoring.ahead.is_none() && canary.is_some_and(|of| of.is_made);
        Some((Arc::clone(model), scores))
    }

    /// Has a model score that waited for its vectors, unless another was announced meanwhile: a champion all users, a canary some of them.
    pub(crate) fn take_over(&self, id: [u8; 16]) {
        let loaded = &mut *self.0.write();
        if let Some(model) = loaded.scoring.ahead.take_if(|model| model.id() == id) {
            loaded.scoring.model = Some(model);
            loaded.number += 1;
        } else if let Some(canary) = &mut loaded.scoring.canary
            && canary.model.id() == id
            && !canary.is_made
        {
            canary.is_made = true;
            loaded.number += 1;
        }
    }

    fn set(&self, mut scoring: Scoring) {
        let mut loaded = self.0.write();
        let id = |model: &Option<Arc<BaheModel>>| model.as_ref().map(|model| model.id());
        // It may have come to score while it was being loaded anew.
        if scoring.ahead.is_some() && id(&scoring.ahead) == id(&loaded.scoring.model) {
            scoring.model = scoring.ahead.take();
        }
        if loaded.scoring.ids() != scoring.ids() {
            loaded.number += 1;
            loaded.scoring = scoring;
        }
        loaded.trouble = None;
    }

    fn fail(&self, why: String) {
        self.0.write().trouble = Some(why);
    }
}

/// Notes that a model has scored here, beside its copy.
pub(crate) fn mark(config: &Config, id: [u8; 16]) {
    if let Err(error) = fs::write(copies(config).join(hex(id)).join(SCORED), "") {
        tracing::warn!(%error, "it is not noted that a model has scored: after a restart it waits for its vectors again");
    }
}

/// Reads the topic from its beginning, and on.
pub(crate) struct Follower {
    config: Config,
    held: Arc<Held>,
    reader: Box<dyn Reader>,
    registry: Registry,
    batch: RecordBatch,
    /// Whether what was read may change who scores, and was not looked at yet.
    is_news: bool,
    /// Whether this reader has come to the topic's end.
    was_at_end: bool,
    /// Whether nobody has scored yet in this process.
    at_start: bool,
    /// Who is noted as one that has scored.
    marked: Option<[u8; 16]>,
    /// When a disk is asked again that had no room for the announced model.
    again: Option<Instant>,
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
        let at_start = held.0.read().number == 0;
        Ok(Self {
            config: config.clone(),
            at_start,
            is_news: false,
            was_at_end: false,
            marked: None,
            held,
            reader,
            registry: Registry::default(),
            batch: RecordBatch::default(),
            again: None,
        })
    }

    /// Takes in what came since; gives whether the topic's end was reached. An announced model that cannot be loaded is told of, and the one that is loaded goes on.
    pub(crate) fn turn(&mut self) -> Result<bool, LogError> {
        self.reader.poll(LIMIT, &mut self.batch)?;
        for record in self.batch.iter() {
            self.is_news |= self.registry.take(&record);
        }
        let is_at_end = !self.batch.ends().is_empty();
        self.was_at_end |= is_at_end;
        if !self.was_at_end {
            // What was announced before is nobody's champion any more, on whose copies it would follow.
            return Ok(false);
        }
        if self.is_news || self.again.is_some_and(|again| again <= Instant::now()) {
            self.is_news = false;
            self.load();
        }
        self.mark();
        self.at_start &= !is_at_end;
        Ok(is_at_end)
    }

    /// Who scores here, if nobody has told yet that it does.
    pub(crate) fn untold(&self) -> Option<Arc<BaheModel>> {
        let (scores, _) = self.held.status();
        scores.filter(|model| !self.registry.is_told(model))
    }

    fn load(&mut self) {
        let name = |model: &BaheModel| format!("{}-{}", BaheModel::NAME, model.version());
        let loaded = self.try_load();
        // What else keeps it from being loaded stays so until something is announced.
        let is_passing = matches!(loaded, Err(ChampionError::File { .. }));
        self.again = is_passing.then(|| Instant::now() + AGAIN_EVERY);
        match loaded {
            Ok(scoring) => {
                let canary = scoring.canary.as_ref().map(|canary| name(&canary.model));
                self.held.set(scoring);
                let (scores, _) = self.held.status();
                let scores = scores.map_or_else(|| "baseline".to_owned(), |model| name(&model));
                match self.held.ahead() {
                    None => tracing::info!(
                        champion = scores,
                        canary,
                        "scores are made by the announced champion"
                    ),
                    Some(ahead) => tracing::info!(
                        champion = name(&ahead),
                        scores,
                        canary,
                        "the announced champion scores once vectors of texts are there for it"
                    ),
                }
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                let (scores, _) = self.held.status();
                let scores = scores.map_or_else(|| "baseline".to_owned(), |model| name(&model));
                tracing::warn!(
                    error,
                    scores,
                    "the announced champion cannot be loaded; who scored before goes on"
                );
                self.held.fail(headwater_consumers::words(error));
            }
        }
    }

    fn try_load(&self) -> Result<Scoring, ChampionError> {
        let standing = Standing::of(&self.registry)?;
        let mut scoring = Scoring::default();
        let mut kept: Vec<&Named> = Vec::new();
        if let Some(announced) = &standing.announced {
            if let Some(champion) = &announced.champion {
                let model = self.copy(champion)?;
                if model.encoder().is_some() && self.is_new(announced) {
                    scoring.ahead = Some(Arc::new(model));
                    scoring.model = self.before(announced);
                } else {
                    scoring.model = Some(Arc::new(model));
                }
            }
            // Rows that the former has scored can still be asked about; those of others cannot.
            kept.extend(announced.champion.iter().chain(&announced.former));
        }
        if let Some((canary, share)) = standing.canary() {
            // Without it the champion scores all.
            match self.copy(canary) {
                Ok(model) => {
                    scoring.canary = Some(CanaryModel {
                        model: Arc::new(model),
                        share,
                        is_made: false,
                    });
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(
                        error,
                        "the canary cannot be loaded; the champion scores all"
                    );
                }
            }
            kept.push(canary);
        }
        let at_work = self.held.status().0.map(|model| hex(model.id()));
        if scoring.model.is_some() || scoring.canary.is_some() {
            for entry in fs::read_dir(copies(&self.config))
                .into_iter()
                .flatten()
                .flatten()
            {
                let is_kept = |of: &str| entry.file_name() == *of;
                if !kept.iter().any(|of| is_kept(&of.id))
                    && !at_work.as_deref().is_some_and(is_kept)
                {
                    drop(fs::remove_dir_all(entry.path()));
                }
            }
        }
        Ok(scoring)
    }

    /// Whether the champion is to wait for its vectors: it has never scored here, and nowhere else either where an instance starts (it begins with the champion of the others) or the fleet goes back (its vectors are there).
    fn is_new(&self, announced: &Announced) -> bool {
        let is_back = matches!(
            announced.cause,
            Some(Cause::RolledBack | Cause::Disappointed)
        );
        let mark = |of: &Named| copies(&self.config).join(&of.id).join(SCORED);
        (announced.champion.as_ref()).is_some_and(|of| {
            !(mark(of).exists() || (is_back || self.at_start) && self.registry.has_scored(of))
        })
    }

    /// Who scores until a champion can: who does now; after a start, the former.
    fn before(&self, announced: &Announced) -> Option<Arc<BaheModel>> {
        if !self.at_start {
            return self.held.status().0;
        }
        match self.copy(announced.former.as_ref()?) {
            Ok(model) => Some(Arc::new(model)),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    "the former champion cannot be loaded; the baseline scores until the champion can"
                );
                None
            }
        }
    }

    /// Notes who scores.
    fn mark(&mut self) {
        let scores = self.held.status().0.map(|model| model.id());
        if scores == self.marked {
            return;
        }
        self.marked = scores;
        if let Some(id) = scores {
            mark(&self.config, id);
        }
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
