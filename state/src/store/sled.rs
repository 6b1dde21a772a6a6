//! sled 0.34.7: one database an instance, one tree a partition. Its own background flush is off: what it loses in a crash is
//! replayed from the changelog. Known weaknesses (files that do not open after an abrupt stop, panics over them, disk use) are why
//! [`super::open`] puts aside what does not open; every call here turns a panic into `Broken`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Batch, Store, Stores, guarded, tree_name};
use crate::error::StoreError;

pub(super) struct SledStores {
    db: ::sled::Db,
    path: PathBuf,
}

impl std::fmt::Debug for SledStores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SledStores")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

struct SledStore {
    tree: ::sled::Tree,
    path: PathBuf,
}

fn error_at(path: &Path, doing: &'static str) -> impl FnOnce(::sled::Error) -> StoreError {
    move |error| match error {
        ::sled::Error::Io(source) if source.kind() == std::io::ErrorKind::WouldBlock => {
            StoreError::Locked {
                path: path.to_owned(),
            }
        }
        // sled says "could not acquire lock" as an error of kind Other.
        ::sled::Error::Io(source) if source.to_string().contains("could not acquire lock") => {
            StoreError::Locked {
                path: path.to_owned(),
            }
        }
        ::sled::Error::Io(source) if source.kind() == std::io::ErrorKind::UnexpectedEof => {
            StoreError::Broken {
                path: path.to_owned(),
                reason: source.to_string(),
            }
        }
        ::sled::Error::Io(source) => StoreError::Io {
            path: path.to_owned(),
            doing,
            source,
        },
        error @ (::sled::Error::CollectionNotFound(_)
        | ::sled::Error::Unsupported(_)
        | ::sled::Error::ReportableBug(_)
        | ::sled::Error::Corruption { .. }) => StoreError::Broken {
            path: path.to_owned(),
            reason: error.to_string(),
        },
    }
}

impl SledStores {
    pub(super) fn open(path: &Path, memory: u64) -> Result<Self, StoreError> {
        let db = ::sled::Config::new()
            .path(path)
            // Pages are cached above; sled's resident size is a multiple of this setting.
            .cache_capacity((memory / 16).clamp(8 << 20, 128 << 20))
            .flush_every_ms(None)
            .open()
            .map_err(error_at(path, "opening"))?;
        Ok(Self {
            db,
            path: path.to_owned(),
        })
    }
}

impl Stores for SledStores {
    fn open(&self, partition: i32) -> Result<Arc<dyn Store>, StoreError> {
        guarded(&self.path, || {
            let tree = self
                .db
                .open_tree(tree_name(partition))
                .map_err(error_at(&self.path, "opening a tree"))?;
            Ok(Arc::new(SledStore {
                tree,
                path: self.path.clone(),
            }) as Arc<dyn Store>)
        })
    }

    fn remove(&self, partition: i32) -> Result<(), StoreError> {
        guarded(&self.path, || {
            self.db
                .drop_tree(tree_name(partition))
                .map_err(error_at(&self.path, "dropping a tree"))
                .map(|_| ())
        })
    }

    fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.db
            .size_on_disk()
            .map_err(error_at(&self.path, "measuring"))
    }

    fn sync(&self) -> Result<(), StoreError> {
        guarded(&self.path, || {
            self.db
                .flush()
                .map_err(error_at(&self.path, "syncing"))
                .map(|_| ())
        })
    }
}

impl Store for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        guarded(&self.path, || {
            let value = self
                .tree
                .get(key)
                .map_err(error_at(&self.path, "reading"))?;
            Ok(value.map(|value| value.to_vec()))
        })
    }

    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        guarded(&self.path, || {
            let mut changes = ::sled::Batch::default();
            for (key, value) in batch {
                match value {
                    Some(value) => changes.insert(key.as_slice(), value.as_slice()),
                    None => changes.remove(key.as_slice()),
                }
            }
            self.tree
                .apply_batch(changes)
                .map_err(error_at(&self.path, "writing"))
        })
    }

    fn scan(
        &self,
        prefix: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        guarded(&self.path, || {
            for pair in self.tree.scan_prefix(prefix) {
                let (key, value) = pair.map_err(error_at(&self.path, "scanning"))?;
                if !each(&key, &value) {
                    break;
                }
            }
            Ok(())
        })
    }
}
