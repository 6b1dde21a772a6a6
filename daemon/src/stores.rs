//! The stores, synced if the configuration says so, and less the copies that were away for too long.
//!
//! Before it, `state` opens the folder; after it, workers open their partitions' stores. The changelog is compacted: a deletion stays
//! in it for `delete.retention.ms` alone. A copy that missed it would keep what was deleted for ever, so a copy that was last
//! written before half of that time is thrown away and restored from the beginning.

use std::sync::Arc;

use headwater_state::{Batch, Partition, Store, StoreError, Stores};

use crate::metrics::Metrics;
use crate::world::unix_ms;

/// Stores that look at a copy's age when it is opened.
pub(crate) struct AgedStores {
    inner: Arc<dyn Stores>,
    age_ms_max: i64,
    fsync: bool,
    metrics: Metrics,
}

/// A store whose batches are on the disk when they are said to be.
struct SyncedStore {
    store: Arc<dyn Store>,
    stores: Arc<dyn Stores>,
}

impl std::fmt::Debug for AgedStores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgedStores")
            .field("inner", &self.inner)
            .field("age_ms_max", &self.age_ms_max)
            .finish_non_exhaustive()
    }
}

impl AgedStores {
    pub(crate) fn new(
        inner: Arc<dyn Stores>,
        age_ms_max: i64,
        fsync: bool,
        metrics: Metrics,
    ) -> Self {
        Self {
            inner,
            age_ms_max,
            fsync,
            metrics,
        }
    }
}

impl Stores for AgedStores {
    fn open(&self, partition: i32) -> Result<Arc<dyn Store>, StoreError> {
        let store = self.open_aged(partition)?;
        if !self.fsync {
            return Ok(store);
        }
        Ok(Arc::new(SyncedStore {
            store,
            stores: Arc::clone(&self.inner),
        }))
    }

    fn remove(&self, partition: i32) -> Result<(), StoreError> {
        self.inner.remove(partition)
    }

    fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.inner.disk_bytes()
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.inner.sync()
    }
}

impl AgedStores {
    fn open_aged(&self, partition: i32) -> Result<Arc<dyn Store>, StoreError> {
        let store = self.inner.open(partition)?;
        // A position that cannot be read is damage, which whoever opens the partition finds and mends.
        let Ok(Some(written)) = Partition::last_written(&*store) else {
            return Ok(store);
        };
        let age_ms = unix_ms().saturating_sub(written.0);
        if age_ms <= self.age_ms_max {
            return Ok(store);
        }
        tracing::warn!(
            partition,
            age_hours = age_ms / 3_600_000,
            hours_max = self.age_ms_max / 3_600_000,
            "local copy was away for too long; restoring all of it"
        );
        self.metrics.discarded.inc();
        drop(store);
        self.inner.remove(partition)?;
        self.inner.open(partition)
    }
}

impl Store for SyncedStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(key)
    }

    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        self.store.apply(batch)?;
        self.stores.sync()
    }

    fn scan(
        &self,
        prefix: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        self.store.scan(prefix, each)
    }
}

#[cfg(test)]
mod tests {
    use headwater_state::{MemoryStores, Settings, Timestamp};

    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn written(stores: &dyn Stores, ago_ms: i64) {
        let settings = Settings {
            recent_max: 8,
            memory: 1 << 20,
            keys_max: 0,
            allowed_lateness_ms: 0,
            drop_late: false,
            sequence_max: 8,
            labels: None,
        };
        let mut partition = Partition::open(stores.open(0).unwrap(), settings).unwrap();
        partition.restored_to(7);
        let now = Timestamp(unix_ms() - ago_ms);
        let done = partition.write_back(now).run();
        partition.written(done).unwrap();
    }

    /// Goal: a copy that may have missed deletions is thrown away, a younger one is not. Method: one written an hour less, and one an hour
    /// more than the bound ago.
    #[test]
    fn a_copy_that_was_away_for_too_long_is_thrown_away() {
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        for (ago_ms, discarded) in [(11 * HOUR_MS, 0), (13 * HOUR_MS, 1)] {
            let inner: Arc<dyn Stores> = Arc::new(MemoryStores::default());
            written(&*inner, ago_ms);
            let aged = AgedStores::new(Arc::clone(&inner), 12 * HOUR_MS, false, metrics.clone());
            let store = aged.open(0).unwrap();
            let found = Partition::last_written(&*store).unwrap();
            assert_eq!(found.is_none(), discarded == 1, "{ago_ms}");
            assert_eq!(metrics.discarded.get(), discarded);
        }
    }
}
