//! The store: one partition's pages, on this machine's disk. The changelog is the truth and the store a copy of it, written
//! back in atomic batches together with the position that they reflect. So it need never be ahead of anything, and losing it costs
//! a restore, nothing else.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_config::Topic;

use crate::error::StoreError;

mod condemned;
mod fjall;
mod memory;
mod sled;

pub use memory::MemoryStores;

/// Changes that reach the store together or not at all; `None` deletes.
pub type Batch = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// The keys and values of one partition.
pub trait Store: Send + Sync {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Applies all changes or none.
    fn apply(&self, batch: &Batch) -> Result<(), StoreError>;

    /// Keys and values whose key begins with `prefix`, in order, until `each` says no.
    fn scan(
        &self,
        prefix: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError>;
}

/// Where vectors of texts lie among an instance's stores; the others are partitions'.
pub const VECTORS: i32 = -1;
/// Where vectors of users and items lie that deep layers made.
pub const DEEP_VECTORS: i32 = -2;

/// The stores of an instance, one for each partition, and those of vectors.
pub trait Stores: Send + Sync + std::fmt::Debug {
    /// The store of a partition, of [`VECTORS`] or of [`DEEP_VECTORS`], made if there is none.
    fn open(&self, partition: i32) -> Result<Arc<dyn Store>, StoreError>;

    /// Deletes a partition's store; the next `open` makes an empty one.
    fn remove(&self, partition: i32) -> Result<(), StoreError>;

    /// Bytes on disk.
    fn disk_bytes(&self) -> Result<u64, StoreError>;

    /// fsync.
    fn sync(&self) -> Result<(), StoreError>;
}

/// Which backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// sled 0.34.7.
    Sled,
    /// fjall 3.
    Fjall,
}

/// What came of opening the stores.
#[derive(Debug)]
pub struct Opened {
    /// The stores.
    pub stores: Arc<dyn Stores>,
    /// Where a folder that did not open was put aside, and why.
    pub put_aside: Option<(PathBuf, String)>,
    /// Older folders that were put aside, and are deleted now, or why not.
    pub removed: Vec<(PathBuf, std::io::Result<()>)>,
}

/// Folders that were put aside and are kept: for whoever wants to know what befell them.
const ASIDE_MAX: usize = 3;

/// How long [`open`] waits for a folder that is in use. A backend's own threads may hold it a little longer than its last handle lives (a
/// task of sled's pool that ends a write does), and a host that stops a daemon and starts another has done nothing wrong.
const PATIENCE: Duration = Duration::from_secs(5);

/// Opens the stores below `folder`. What does not open (sled's panics included), or was condemned by a process before, is renamed to `<name>.aside-<n>` and made anew: the
/// changelog has it all. The newest three of them are kept. A folder that stays in use is an error, never put aside.
pub fn open(folder: &Path, backend: Backend, memory: u64) -> Result<Opened, StoreError> {
    let name = match backend {
        Backend::Sled => "sled",
        Backend::Fjall => "fjall",
    };
    std::fs::create_dir_all(folder).map_err(|source| StoreError::Io {
        path: folder.to_owned(),
        doing: "making the folder",
        source,
    })?;
    let path = folder.join(name);
    let mut asides = asides(folder, name)?;
    let opened = match condemned::reason(&path)? {
        Some(reason) if path.exists() => Err(StoreError::Broken {
            path: path.clone(),
            reason,
        }),
        _ => try_open(&path, backend, memory),
    };
    let (stores, put_aside) = match opened {
        Ok(stores) => (stores, None),
        Err(StoreError::Broken { path, reason }) => {
            let number = asides.last().map_or(0, |(newest, _)| newest + 1);
            let aside = folder.join(format!("{name}.aside-{number}"));
            std::fs::rename(&path, &aside).map_err(|source| StoreError::Io {
                path: path.clone(),
                doing: "putting a damaged store aside",
                source,
            })?;
            asides.push((number, aside.clone()));
            condemned::forget(&path)?;
            (try_open(&path, backend, memory)?, Some((aside, reason)))
        }
        Err(error) => return Err(error),
    };
    let old = asides.len().saturating_sub(ASIDE_MAX);
    let removed = asides.drain(..old).map(|(_, aside)| {
        let outcome = std::fs::remove_dir_all(&aside);
        (aside, outcome)
    });
    Ok(Opened {
        stores: Arc::new(condemned::Mendable::new(stores, &path)),
        put_aside,
        removed: removed.collect(),
    })
}

/// The folders that were put aside, oldest first, and their numbers.
fn asides(folder: &Path, name: &str) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let listing = |source| StoreError::Io {
        path: folder.to_owned(),
        doing: "listing the folder",
        source,
    };
    let prefix = format!("{name}.aside-");
    let mut asides = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(listing)? {
        let entry = entry.map_err(listing)?;
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.strip_prefix(&prefix)?.parse().ok());
        if let Some(number) = number {
            asides.push((number, entry.path()));
        }
    }
    asides.sort_unstable();
    Ok(asides)
}

fn try_open(path: &Path, backend: Backend, memory: u64) -> Result<Arc<dyn Stores>, StoreError> {
    let until = Instant::now() + PATIENCE;
    loop {
        match open_once(path, backend, memory) {
            Err(StoreError::Locked { .. }) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(10));
            }
            opened => return opened,
        }
    }
}

fn open_once(path: &Path, backend: Backend, memory: u64) -> Result<Arc<dyn Stores>, StoreError> {
    guarded(path, || match backend {
        Backend::Sled => {
            sled::SledStores::open(path, memory).map(|stores| Arc::new(stores) as Arc<dyn Stores>)
        }
        Backend::Fjall => {
            fjall::FjallStores::open(path, memory).map(|stores| Arc::new(stores) as Arc<dyn Stores>)
        }
    })
}

/// Turns a backend's panic into `Broken`: sled 0.34 panics over damaged files.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let reason = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without words".to_owned());
        Err(StoreError::Broken {
            path: path.to_owned(),
            reason,
        })
    })
}

/// The name of a partition's tree. The topic is in it, so that nobody takes it for anything else.
fn tree_name(partition: i32) -> String {
    match partition {
        VECTORS => Topic::Embeddings.key().to_owned(),
        DEEP_VECTORS => "deep-vectors".to_owned(),
        partition => format!("{}-{partition}", Topic::Behaviors.key()),
    }
}

#[cfg(test)]
mod tests;
