//! Daemons as a host would run them: each with its stores, its item table and its workers, started, driven, stopped and killed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use headwater_consumers::items::ItemFollower;
use headwater_consumers::log::{Log, PollLimit};
use headwater_consumers::partitioner::partition_of;
use headwater_consumers::step::{Pipeline, SharedItems};
use headwater_consumers::worker::{Status, Worker, World};
use headwater_consumers::{Error, Metrics, Reaction};
use headwater_state::Timestamp;

use crate::fate::{Crash, Fate};
use crate::random::Random;
use crate::skew::Skew;
use crate::stores::SimStores;
use crate::texts::Texts;
use crate::workload::Plan;

/// What all daemons share.
pub(crate) struct Ground {
    pub log: Arc<dyn Log>,
    pub fate: Arc<Fate>,
    pub plan: Plan,
    pub metrics: Metrics,
    /// Rows that are to be made again, where they can be.
    pub skew: Option<Skew>,
}

pub(crate) struct SimWorld(pub(crate) Arc<Fate>);

impl World for SimWorld {
    fn now(&mut self) -> Timestamp {
        Timestamp(self.0.now())
    }

    fn salt(&mut self) -> [u8; 16] {
        self.0.salt()
    }
}

/// One daemon.
pub(crate) struct Daemon {
    pub name: String,
    pub stores: Arc<SimStores>,
    items: SharedItems,
    follower: Option<ItemFollower>,
    pub workers: Vec<Option<Worker>>,
    /// The champion's change that each worker has followed.
    followed: Vec<Option<u64>>,
    pub texts: Option<Texts>,
    /// Somebody else runs under this name now.
    pub replaced: bool,
    told: Vec<Status>,
}

/// What one poll of the item follower takes.
const ITEMS: PollLimit = PollLimit {
    records: 1_000,
    bytes: 1 << 20,
    wait: Duration::ZERO,
};

/// What came of a call: it went through, the daemon is dead, or it is not what a daemon may do.
pub(crate) enum Came<T> {
    Through(T),
    Dead,
    Wrong(String),
}

impl Daemon {
    pub(crate) fn new(name: &str, workers: usize, stores: Arc<SimStores>) -> Self {
        Self {
            name: name.to_owned(),
            stores,
            items: SharedItems::default(),
            follower: None,
            workers: (0..workers).map(|_| None).collect(),
            followed: vec![None; workers],
            texts: None,
            replaced: false,
            told: vec![Status::default(); workers],
        }
    }

    /// Whether any worker runs.
    pub(crate) fn is_up(&self) -> bool {
        self.workers.iter().any(Option::is_some)
    }

    /// Whether all workers run.
    pub(crate) fn is_whole(&self) -> bool {
        self.workers.iter().all(Option::is_some)
    }

    /// Starts the workers that are not running; items are read to the end first.
    pub(crate) fn start(&mut self, ground: &Ground) -> Result<(), String> {
        if self.follower.is_none() {
            self.items = SharedItems::default();
            let follower = ItemFollower::new(
                &ground.plan.config,
                &*ground.log,
                Arc::clone(&self.items),
                ground.metrics.clone(),
            );
            self.follower = Some(follower.map_err(|error| format!("item follower: {error:?}"))?);
        }
        for _ in 0..1_000 {
            if self
                .follower
                .as_ref()
                .is_some_and(ItemFollower::is_caught_up)
            {
                break;
            }
            self.follow(ground)?;
        }
        if ground.plan.texts && !self.start_texts(ground)? {
            return Ok(());
        }
        for number in 0..self.workers.len() {
            if self.workers[number].is_some() {
                continue;
            }
            ground
                .fate
                .tell(|| format!("{}-{number} starts", self.name));
            let made = guarded(ground, true, || {
                let member = ground.log.member(&self.name, number)?;
                let mut pipeline = Pipeline::new(
                    &ground.plan.config,
                    (ground.plan.partitions, ground.plan.dead_letter_partitions),
                    ground.metrics.clone(),
                )
                .expect("invariant: the configured tasks make a schema");
                if let Some(skew) = &ground.skew {
                    pipeline.sample(skew.sampler());
                }
                if let Some(texts) = &self.texts {
                    let table = Arc::clone(&texts.table);
                    let assembler = pipeline.assembler();
                    assembler.read_vectors(&ground.plan.config, table, &ground.metrics);
                    if let Some(deep) = &texts.deep {
                        let followed = &mut self.followed[number];
                        *followed = None;
                        deep.score_in(assembler, followed, &ground.metrics)?;
                    }
                }
                let world = Box::new(SimWorld(Arc::clone(&ground.fate)));
                let worker = Worker::new(
                    &ground.plan.config,
                    Arc::clone(&ground.log),
                    Arc::clone(&self.stores) as Arc<dyn headwater_state::Stores>,
                    member,
                    pipeline,
                    Arc::clone(&self.items),
                    world,
                )?;
                Ok(worker.with_write_backs_inline(1))
            });
            match made {
                Came::Through(worker) => self.workers[number] = Some(worker),
                Came::Dead => {
                    self.die();
                    return Ok(());
                }
                Came::Wrong(words) => {
                    return Err(format!("{}-{number} did not start: {words}", self.name));
                }
            }
        }
        Ok(())
    }

    /// Opens what it has of texts and joins those who encode, where it does not yet. Gives whether it lives.
    fn start_texts(&mut self, ground: &Ground) -> Result<bool, String> {
        let texts = match &mut self.texts {
            Some(texts) => texts,
            None => self.texts.insert(Texts::open(ground, &*self.stores)?),
        };
        if texts.stage.is_some() {
            return Ok(true);
        }
        match guarded(ground, true, || Ok(texts.join(ground, &self.name)?)) {
            Came::Through(stage) => texts.stage = Some(stage),
            Came::Dead => {
                self.die();
                return Ok(false);
            }
            Came::Wrong(words) => return Err(format!("{} does not encode: {words}", self.name)),
        }
        Ok(true)
    }

    /// Partitions of texts that it makes vectors of.
    pub(crate) fn encodes(&self) -> usize {
        let stage = self.texts.as_ref().and_then(|texts| texts.stage.as_ref());
        stage.map_or(0, |stage| stage.reading().len())
    }

    /// Vectors that came, and a turn of who makes them.
    pub(crate) fn turn_texts(&mut self, ground: &Ground) -> Result<(), String> {
        let Some(texts) = &mut self.texts else {
            return Ok(());
        };
        texts.follow()?;
        if let Some(deep) = &mut texts.deep {
            match guarded(ground, false, || deep.turn()) {
                Came::Through(()) => {}
                Came::Dead => {
                    self.die();
                    return Ok(());
                }
                Came::Wrong(words) => return Err(format!("{}: deep layers: {words}", self.name)),
            }
        }
        let Some(stage) = &mut texts.stage else {
            return Ok(());
        };
        match guarded(ground, false, || stage.turn()) {
            Came::Through(()) => {}
            Came::Dead => self.die(),
            Came::Wrong(words) => return Err(format!("{} encodes: {words}", self.name)),
        }
        Ok(())
    }

    /// Another champion is announced, or somebody else scores.
    pub(crate) fn change_champion(&mut self, ground: &Ground) -> Result<(), String> {
        let Some(texts) = &mut self.texts else {
            return Ok(());
        };
        let Some(deep) = &mut texts.deep else {
            return Ok(());
        };
        ground
            .fate
            .tell(|| format!("{} has another champion", self.name));
        deep.change(ground, &*self.stores, &texts.table)
    }

    /// Lets the item table follow, and puts back what is out of order.
    pub(crate) fn follow(&mut self, ground: &Ground) -> Result<(), String> {
        let Some(follower) = &mut self.follower else {
            return Ok(());
        };
        // First it puts back, by what it knew when it last looked: others may have written since.
        let workers = self.workers.iter().flatten();
        let working: Vec<i32> = workers.flat_map(|worker| worker.status().working).collect();
        let partitions = ground.plan.partitions;
        let mine = |id: &str| working.contains(&partition_of(id.as_bytes(), partitions));
        let put_back = || match follower.put_back(&*ground.log, &mine) {
            // It is tried again the next time.
            Err(error) if error.reaction() == Reaction::Retry => Ok(0),
            other => other,
        };
        match guarded(ground, false, put_back) {
            Came::Through(_) => {}
            Came::Dead => {
                self.die();
                return Ok(());
            }
            Came::Wrong(words) => return Err(words),
        }
        let now = Timestamp(ground.fate.now());
        let advanced = follower.advance(ITEMS, now);
        advanced.map_err(|error| format!("item follower of {}: {error:?}", self.name))?;
        Ok(())
    }

    /// What it knows of items.
    pub(crate) fn items(&self) -> Option<&SharedItems> {
        self.follower.as_ref().map(|_| &self.items)
    }

    /// One turn of a worker.
    pub(crate) fn turn(&mut self, number: usize, ground: &Ground) -> Result<(), String> {
        let Some(worker) = &mut self.workers[number] else {
            return Ok(());
        };
        let deep = self.texts.as_ref().and_then(|texts| texts.deep.as_ref());
        let followed = &mut self.followed[number];
        let turned = guarded(ground, false, || {
            // As the daemon does: between two turns.
            if let Some(deep) = deep {
                deep.score_in(worker.assembler(), followed, &ground.metrics)?;
            }
            worker.turn()
        });
        if let Some(skew) = &ground.skew {
            skew.keep();
        }
        match turned {
            Came::Through(()) => {
                let status = worker.status();
                if self.told[number] != status {
                    ground
                        .fate
                        .tell(|| format!("{}-{number} {status:?}", self.name));
                    self.told[number] = status;
                }
                Ok(())
            }
            Came::Dead => {
                self.die();
                Ok(())
            }
            Came::Wrong(words) => Err(format!("{}-{number}: {words}", self.name)),
        }
    }

    /// Stops in order: drains, writes back, leaves.
    pub(crate) fn stop(&mut self, forever: bool, ground: &Ground) -> Result<(), String> {
        for number in 0..self.workers.len() {
            let Some(worker) = self.workers[number].take() else {
                continue;
            };
            ground
                .fate
                .tell(|| format!("{}-{number} stops, forever: {forever}", self.name));
            if let Came::Wrong(words) = guarded(ground, true, || worker.stop(forever)) {
                return Err(format!("{}-{number} did not stop: {words}", self.name));
            }
        }
        let stage = self.texts.as_mut().and_then(|texts| texts.stage.take());
        if let Some(stage) = stage
            && let Came::Wrong(words) = guarded(ground, true, || stage.stop(forever))
        {
            return Err(format!("{} did not stop to encode: {words}", self.name));
        }
        self.die();
        Ok(())
    }

    /// kill -9.
    pub(crate) fn die(&mut self) {
        self.workers.iter_mut().for_each(|worker| *worker = None);
        self.follower = None;
        self.texts = None;
    }

    /// What a crash can do to the disk.
    pub(crate) fn suffer(&self, random: &mut Random, fate: &Fate) {
        match random.below(6) {
            0 => {
                fate.tell(|| format!("{} has a new disk", self.name));
                self.stores.empty();
            }
            1 | 2 => {
                for (number, store) in self.stores.all() {
                    fate.tell(|| format!("{} loses write-backs of {number}", self.name));
                    store.roll_back(random);
                }
            }
            3 => {
                for (number, store) in self.stores.all() {
                    if random.once_in(2) {
                        fate.tell(|| format!("{} has a flipped bit in {number}", self.name));
                        store.damage(random);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Makes a call in which things may go wrong, and judges what comes out. `may_retry`: what may heal is for the host to try again.
fn guarded<T>(
    ground: &Ground,
    may_retry: bool,
    call: impl FnOnce() -> Result<T, Error>,
) -> Came<T> {
    let fate = &ground.fate;
    fate.arm(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    fate.arm(false);
    match result {
        Ok(Ok(value)) => Came::Through(value),
        Ok(Err(error)) => {
            fate.tell(|| format!("  gives up: {error:?}"));
            let may = match error.reaction() {
                Reaction::Retry => may_retry,
                Reaction::Release => fate.somebody_was_fenced(),
                Reaction::Stop => is_of_vectors(&error) || fate.disk_has_refused() && is_io(&error),
                Reaction::Restore => false,
            };
            if may {
                Came::Dead
            } else {
                Came::Wrong(format!("{:?} {error:?}", error.reaction()))
            }
        }
        Err(panic) if panic.is::<Crash>() => {
            fate.tell(|| "  dies".to_owned());
            Came::Dead
        }
        Err(panic) => {
            let words = panic.downcast_ref::<String>().cloned();
            let words =
                words.or_else(|| panic.downcast_ref::<&str>().map(|&words| words.to_owned()));
            Came::Wrong(format!("panic: {}", words.unwrap_or_default()))
        }
    }
}

/// A store of vectors that fails ends the process, and is made again.
fn is_of_vectors(error: &Error) -> bool {
    matches!(
        error,
        Error::Vectors {
            source: headwater_state::Error::Store(_)
        }
    )
}

fn is_io(error: &Error) -> bool {
    matches!(
        error,
        Error::State {
            source: headwater_state::Error::Store(headwater_state::StoreError::Io { .. }),
            ..
        }
    )
}
