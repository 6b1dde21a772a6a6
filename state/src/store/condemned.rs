//! Stores whose damage cannot be mended a partition at a time.
//!
//! A partition whose bytes are damaged is deleted and made again from the changelog. Where the backend cannot even delete it (sled reads what it deletes), or
//! where it is damaged again, the files themselves are bad: a note beside them says so, and the next start puts the whole folder aside.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Store, Stores};
use crate::error::StoreError;

/// How often a partition may be made again by one process: what is damaged twice is not damaged by chance.
const REMOVALS_MAX: u32 = 1;

/// Stores that are condemned when they cannot be mended.
#[derive(Debug)]
pub(super) struct Mendable {
    inner: Arc<dyn Stores>,
    path: PathBuf,
    removals: Mutex<BTreeMap<i32, u32>>,
}

/// Where it is noted that a folder's files are bad.
fn note(path: &Path) -> PathBuf {
    path.with_extension("condemned")
}

/// Why a folder was condemned, if it was.
pub(super) fn reason(path: &Path) -> Result<Option<String>, StoreError> {
    let note = note(path);
    match std::fs::read(&note) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::Io {
            path: note,
            doing: "reading",
            source,
        }),
    }
}

/// Forgets it: the folder has been put aside.
pub(super) fn forget(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(note(path)) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(StoreError::Io {
            path: note(path),
            doing: "deleting",
            source,
        }),
        _ => Ok(()),
    }
}

impl Mendable {
    pub(super) fn new(inner: Arc<dyn Stores>, path: &Path) -> Self {
        Self {
            inner,
            path: path.to_owned(),
            removals: Mutex::default(),
        }
    }

    fn condemn(&self, reason: String) -> StoreError {
        match std::fs::write(note(&self.path), &reason) {
            Ok(()) => StoreError::Condemned {
                path: self.path.clone(),
                reason,
            },
            Err(source) => StoreError::Io {
                path: note(&self.path),
                doing: "writing",
                source,
            },
        }
    }
}

impl Stores for Mendable {
    fn open(&self, partition: i32) -> Result<Arc<dyn Store>, StoreError> {
        self.inner.open(partition)
    }

    fn remove(&self, partition: i32) -> Result<(), StoreError> {
        let removals = {
            let mut removals = self.removals.lock();
            let removals = removals.entry(partition).or_default();
            *removals += 1;
            *removals
        };
        if removals > REMOVALS_MAX {
            return Err(self.condemn(format!("partition {partition} was damaged again")));
        }
        match self.inner.remove(partition) {
            Err(StoreError::Broken { reason, .. }) => Err(self.condemn(reason)),
            other => other,
        }
    }

    fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.inner.disk_bytes()
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.inner.sync()
    }
}
