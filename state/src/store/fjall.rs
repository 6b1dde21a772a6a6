//! fjall 3: one database an instance, one keyspace a partition. Less CPU and disk than sled, at bounded memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Batch, Store, Stores, guarded, tree_name};
use crate::error::StoreError;

pub(super) struct FjallStores {
    db: ::fjall::Database,
    path: PathBuf,
    /// Bytes of one partition's memtable: at 64 MiB, fjall's own, a few partitions would outweigh `state.memory`.
    memtable: u64,
}

impl std::fmt::Debug for FjallStores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FjallStores")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

struct FjallStore {
    db: ::fjall::Database,
    keyspace: ::fjall::Keyspace,
    path: PathBuf,
}

fn error_at(path: &Path, doing: &'static str) -> impl FnOnce(::fjall::Error) -> StoreError {
    move |error| match error {
        ::fjall::Error::Locked => StoreError::Locked {
            path: path.to_owned(),
        },
        ::fjall::Error::Io(source) => StoreError::Io {
            path: path.to_owned(),
            doing,
            source,
        },
        error => StoreError::Broken {
            path: path.to_owned(),
            reason: error.to_string(),
        },
    }
}

impl FjallStores {
    pub(super) fn open(path: &Path, memory: u64) -> Result<Self, StoreError> {
        let db = ::fjall::Database::builder(path)
            // Pages are cached above.
            .cache_size((memory / 16).clamp(8 << 20, 128 << 20))
            .manual_journal_persist(true)
            .worker_threads(1)
            .open()
            .map_err(error_at(path, "opening"))?;
        Ok(Self {
            db,
            path: path.to_owned(),
            memtable: (memory / 16).clamp(4 << 20, 32 << 20),
        })
    }
}

impl Stores for FjallStores {
    fn open(&self, partition: i32) -> Result<Arc<dyn Store>, StoreError> {
        guarded(&self.path, || {
            let keyspace = self
                .db
                .keyspace(&tree_name(partition), || {
                    ::fjall::KeyspaceCreateOptions::default().max_memtable_size(self.memtable)
                })
                .map_err(error_at(&self.path, "opening a keyspace"))?;
            let store = FjallStore {
                db: self.db.clone(),
                keyspace,
                path: self.path.clone(),
            };
            Ok(Arc::new(store) as Arc<dyn Store>)
        })
    }

    fn remove(&self, partition: i32) -> Result<(), StoreError> {
        guarded(&self.path, || {
            let name = tree_name(partition);
            let keyspace = self
                .db
                .keyspace(&name, ::fjall::KeyspaceCreateOptions::default)
                .map_err(error_at(&self.path, "opening a keyspace"))?;
            self.db
                .delete_keyspace(keyspace)
                .map_err(error_at(&self.path, "dropping a keyspace"))
        })
    }

    fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.db
            .disk_space()
            .map_err(error_at(&self.path, "measuring"))
    }

    fn sync(&self) -> Result<(), StoreError> {
        guarded(&self.path, || {
            self.db
                .persist(::fjall::PersistMode::SyncAll)
                .map_err(error_at(&self.path, "syncing"))
        })
    }
}

impl Store for FjallStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        guarded(&self.path, || {
            let value = self
                .keyspace
                .get(key)
                .map_err(error_at(&self.path, "reading"))?;
            Ok(value.map(|value| value.to_vec()))
        })
    }

    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        guarded(&self.path, || {
            // Buffer: to the page cache, so that kill -9 loses nothing; fsync is the caller's.
            let mut changes = self
                .db
                .batch()
                .durability(Some(::fjall::PersistMode::Buffer));
            for (key, value) in batch {
                match value {
                    Some(value) => changes.insert(&self.keyspace, key.as_slice(), value.as_slice()),
                    None => changes.remove(&self.keyspace, key.as_slice()),
                }
            }
            changes.commit().map_err(error_at(&self.path, "writing"))
        })
    }

    fn scan(
        &self,
        prefix: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        guarded(&self.path, || {
            for pair in self.keyspace.prefix(prefix) {
                let (key, value) = pair
                    .into_inner()
                    .map_err(error_at(&self.path, "scanning"))?;
                if !each(&key, &value) {
                    break;
                }
            }
            Ok(())
        })
    }
}
