//! Tests of the local log: the suite of every log, and what this one promises beyond it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::log::conformance::{self, Bench};

/// A clock that stands still.
fn options() -> Options {
    Options::new(|| 1_000_000)
}

struct InMemory;

impl Bench for InMemory {
    fn log(&self) -> Arc<dyn Log> {
        Arc::new(LocalLog::in_memory(options()))
    }
}

struct OnDisk {
    folder: PathBuf,
    count: AtomicU64,
    segment_bytes: u64,
}

impl Bench for OnDisk {
    fn log(&self) -> Arc<dyn Log> {
        let folder = self
            .folder
            .join(self.count.fetch_add(1, Ordering::Relaxed).to_string());
        let options = Options {
            segment_bytes: self.segment_bytes,
            ..options()
        };
        Arc::new(LocalLog::open(&folder, options).unwrap())
    }
}

/// Goal: the local log does what every log must. Method: the suite, in memory.
#[test]
fn conforms_in_memory() {
    conformance::run(&InMemory);
}

/// Goal: the same on disk, however records fall into segments. Method: the suite, with usual and with tiny segments.
#[test]
fn conforms_on_disk() {
    for segment_bytes in [32 << 20, 0] {
        let folder = tempfile::tempdir().unwrap();
        conformance::run(&OnDisk {
            folder: folder.path().to_owned(),
            count: AtomicU64::new(0),
            segment_bytes,
        });
    }
}
