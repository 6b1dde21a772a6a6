//! Stores in memory: for the engine without a log, for simulation (where faults tear at write-backs), and for tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;

use super::{Batch, Store, Stores};
use crate::error::StoreError;

/// Stores that live as long as this does.
#[derive(Debug, Default)]
pub struct MemoryStores {
    partitions: RwLock<BTreeMap<i32, Arc<MemoryStore>>>,
}

#[derive(Debug, Default)]
struct MemoryStore {
    values: RwLock<BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl Stores for MemoryStores {
    fn open(&self, partition: i32) -> Result<Arc<dyn Store>, StoreError> {
        Ok(Arc::clone(self.partitions.write().entry(partition).or_default()) as Arc<dyn Store>)
    }

    fn remove(&self, partition: i32) -> Result<(), StoreError> {
        self.partitions.write().remove(&partition);
        Ok(())
    }

    fn disk_bytes(&self) -> Result<u64, StoreError> {
        Ok(0)
    }

    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.values.read().get(key).cloned())
    }

    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut values = self.values.write();
        for (key, value) in batch {
            match value {
                Some(value) => drop(values.insert(key.clone(), value.clone())),
                None => drop(values.remove(key)),
            }
        }
        Ok(())
    }

    fn scan(
        &self,
        prefix: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        for (key, value) in self.values.read().range(prefix.to_vec()..) {
            if !key.starts_with(prefix) || !each(key, value) {
                break;
            }
        }
        Ok(())
    }
}
