//! Stores that outlive their daemon's crashes, and suffer for it: writes that never were, writes whose answer got lost, backends
//! that break, bytes that flip, and, without fsync, the newest write-backs gone after a crash.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use headwater_state::{Batch, Store, StoreError, Stores};

use crate::fate::{Fate, StoreFault, crash};
use crate::random::Random;

type Values = BTreeMap<Vec<u8>, Vec<u8>>;

/// How many write-backs a crash can take along.
const LOST_MAX: usize = 3;

/// The stores of one daemon.
#[derive(Debug)]
pub(crate) struct SimStores {
    fate: Arc<Fate>,
    partitions: Mutex<BTreeMap<i32, Arc<SimStore>>>,
}

/// The store of one partition.
#[derive(Debug)]
pub(crate) struct SimStore {
    fate: Arc<Fate>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    values: Values,
    /// As it was before the newest write-backs, the newest last.
    before: VecDeque<Values>,
    /// Whether a value was changed behind its back.
    damaged: bool,
}

impl SimStores {
    pub(crate) fn new(fate: Arc<Fate>) -> Arc<Self> {
        Arc::new(Self {
            fate,
            partitions: Mutex::default(),
        })
    }

    fn partitions(&self) -> MutexGuard<'_, BTreeMap<i32, Arc<SimStore>>> {
        self.partitions
            .lock()
            .expect("invariant: nobody panics with the lock")
    }

    /// The stores there are.
    pub(crate) fn all(&self) -> Vec<(i32, Arc<SimStore>)> {
        self.partitions()
            .iter()
            .map(|(number, store)| (*number, Arc::clone(store)))
            .collect()
    }

    /// A new disk.
    pub(crate) fn empty(&self) {
        self.partitions().clear();
    }
}

impl SimStore {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held
            .lock()
            .expect("invariant: nobody panics with the lock")
    }

    /// Loses some of the newest write-backs: what was not on disk when the power went.
    pub(crate) fn roll_back(&self, random: &mut Random) {
        let mut held = self.held();
        for _ in 0..=random.below(LOST_MAX as u64) {
            if let Some(values) = held.before.pop_back() {
                held.values = values;
            }
        }
        held.before.clear();
    }

    /// Flips a bit of a value.
    pub(crate) fn damage(&self, random: &mut Random) {
        let mut held = self.held();
        let place = random.below(held.values.len() as u64) as usize;
        if let Some(value) = held.values.values_mut().nth(place) {
            let at = random.below(value.len() as u64) as usize;
            value[at] ^= 1 << random.below(8);
            held.damaged = true;
        }
    }

    /// Whether there may be damage that nobody has seen yet.
    pub(crate) fn is_damaged(&self) -> bool {
        self.held().damaged
    }

    /// Everything in it.
    pub(crate) fn dump(&self) -> Values {
        self.held().values.clone()
    }

    fn broken() -> StoreError {
        StoreError::Broken {
            path: "simulated".into(),
            reason: "injected".to_owned(),
        }
    }

    fn refused() -> StoreError {
        StoreError::Io {
            path: "simulated".into(),
            doing: "whatever",
            source: std::io::Error::other("injected"),
        }
    }

    fn read(&self) -> Result<MutexGuard<'_, Held>, StoreError> {
        match self.fate.before_store(false) {
            StoreFault::Pass => {}
            StoreFault::Crash { .. } => crash(),
            StoreFault::Broken { .. } => return Err(Self::broken()),
            StoreFault::Io => return Err(Self::refused()),
            StoreFault::Damage => self.damage(&mut self.fate.fork()),
        }
        Ok(self.held())
    }
}

impl Stores for SimStores {
    fn open(&self, partition: i32) -> Result<Arc<dyn Store>, StoreError> {
        let store = Arc::clone(self.partitions().entry(partition).or_insert_with(|| {
            Arc::new(SimStore {
                fate: Arc::clone(&self.fate),
                held: Mutex::default(),
            })
        }));
        drop(store.read()?);
        Ok(store)
    }

    fn remove(&self, partition: i32) -> Result<(), StoreError> {
        match self.fate.before_store(false) {
            StoreFault::Crash { .. } => crash(),
            StoreFault::Io => return Err(SimStore::refused()),
            StoreFault::Pass | StoreFault::Broken { .. } | StoreFault::Damage => {}
        }
        self.partitions().remove(&partition);
        Ok(())
    }

    fn disk_bytes(&self) -> Result<u64, StoreError> {
        Ok(0)
    }

    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Store for SimStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.read()?.values.get(key).cloned())
    }

    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        let fault = self.fate.before_store(true);
        match fault {
            StoreFault::Crash { after: false } => crash(),
            StoreFault::Broken { after: false } => return Err(Self::broken()),
            StoreFault::Io => return Err(Self::refused()),
            StoreFault::Damage => self.damage(&mut self.fate.fork()),
            StoreFault::Pass | StoreFault::Crash { .. } | StoreFault::Broken { .. } => {}
        }
        let mut held = self.held();
        let before = held.values.clone();
        held.before.push_back(before);
        if held.before.len() > LOST_MAX {
            held.before.pop_front();
        }
        for (key, value) in batch {
            match value {
                Some(value) => drop(held.values.insert(key.clone(), value.clone())),
                None => drop(held.values.remove(key)),
            }
        }
        drop(held);
        match fault {
            StoreFault::Crash { after: true } => crash(),
            StoreFault::Broken { after: true } => Err(Self::broken()),
            _ => Ok(()),
        }
    }

    fn scan(
        &self,
        prefix: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let values = self.read()?.values.clone();
        for (key, value) in values.range(prefix.to_vec()..) {
            if !key.starts_with(prefix) || !each(key, value) {
                break;
            }
        }
        Ok(())
    }
}
