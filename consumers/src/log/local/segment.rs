//! A piece of the local log: a file, or bytes in memory.
//!
//! Before it, `format` makes the frames; after it, cursors read chunks back. A segment only grows; once it is closed, it never
//! changes: cleaning writes another one and replaces it. Whoever still holds the old one may go on reading it.

use std::fs::{File, OpenOptions};
use std::io::Error as IoError;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;

use super::format;
use crate::log::LogError;

/// How a segment's file ends; before it stands its id in 20 digits.
const EXTENSION: &str = "segment";

/// One segment.
#[derive(Debug)]
pub(super) struct Segment {
    /// Segments are ordered by their ids.
    pub id: u64,
    place: Place,
    length: AtomicU64,
    /// Bytes of chunks that the partitions still point to.
    live: AtomicU64,
    /// Whether it is being cleaned: its path may hold its successor already, and must not be removed.
    cleaning: AtomicBool,
    /// Whether there may be a part of a frame behind `length`, of an append that failed.
    frayed: AtomicBool,
}

#[derive(Debug)]
enum Place {
    Memory(RwLock<Vec<u8>>),
    File(File, PathBuf),
}

/// An [`LogError::Io`].
pub(super) fn io(path: &Path, doing: &'static str) -> impl FnOnce(IoError) -> LogError {
    let path = path.to_owned();
    move |source| LogError::Io {
        path,
        doing,
        source,
    }
}

impl Segment {
    /// Makes a segment that holds these frames; in a folder, it is there whole or not at all, and takes the place of the one
    /// of the same id.
    pub(super) fn create(
        folder: Option<&Path>,
        (id, through): (u64, u64),
        frames: &[u8],
    ) -> Result<Arc<Self>, LogError> {
        let header = format::header(id, through);
        let length = (header.len() + frames.len()) as u64;
        let place = match folder {
            None => {
                let mut bytes = Vec::with_capacity(header.len() + frames.len());
                bytes.extend_from_slice(&header);
                bytes.extend_from_slice(frames);
                Place::Memory(RwLock::new(bytes))
            }
            Some(folder) => {
                let path = path_of(folder, id);
                let unfinished = path.with_extension("unfinished");
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .open(&unfinished)
                    .map_err(io(&unfinished, "creating"))?;
                file.write_all_at(&header, 0)
                    .map_err(io(&unfinished, "writing"))?;
                file.write_all_at(frames, header.len() as u64)
                    .map_err(io(&unfinished, "writing"))?;
                file.sync_all().map_err(io(&unfinished, "syncing"))?;
                std::fs::rename(&unfinished, &path).map_err(io(&path, "replacing"))?;
                sync_folder(folder)?;
                Place::File(file, path)
            }
        };
        Ok(Arc::new(Self::new(id, place, length)))
    }

    /// A segment whose file was read already and is whole up to `length`; what is behind it is cut off.
    pub(super) fn reopen(path: PathBuf, id: u64, length: u64) -> Result<Arc<Self>, LogError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(io(&path, "opening"))?;
        if file.metadata().map_err(io(&path, "opening"))?.len() != length {
            file.set_len(length)
                .map_err(io(&path, "cutting the torn tail of"))?;
        }
        Ok(Arc::new(Self::new(id, Place::File(file, path), length)))
    }

    fn new(id: u64, place: Place, length: u64) -> Self {
        Self {
            id,
            place,
            length: AtomicU64::new(length),
            live: AtomicU64::new(0),
            cleaning: AtomicBool::new(false),
            frayed: AtomicBool::new(false),
        }
    }

    /// Appends a frame; the answer is where it begins. After an error nothing of it is there.
    pub(super) fn append(&self, frame: &[u8], fsync: bool) -> Result<u64, LogError> {
        let at = self.length();
        match &self.place {
            Place::Memory(bytes) => bytes.write().extend_from_slice(frame),
            Place::File(file, path) => {
                if self.frayed.load(Ordering::Relaxed) {
                    file.set_len(at)
                        .map_err(io(path, "cutting an unfinished write of"))?;
                    self.frayed.store(false, Ordering::Relaxed);
                }
                let mut written = file.write_all_at(frame, at);
                if written.is_ok() && fsync {
                    written = file.sync_data();
                }
                if let Err(source) = written {
                    // What got onto the disk must not be found by the next start: this transaction is reported as not committed.
                    let cut = file.set_len(at);
                    self.frayed.store(cut.is_err(), Ordering::Relaxed);
                    return Err(io(path, "appending")(source));
                }
            }
        }
        self.length
            .store(at + frame.len() as u64, Ordering::Release);
        Ok(at)
    }

    /// Makes sure that all of it is on the disk.
    pub(super) fn sync(&self) -> Result<(), LogError> {
        match &self.place {
            Place::Memory(_) => Ok(()),
            Place::File(file, path) => file.sync_data().map_err(io(path, "syncing")),
        }
    }

    /// Reads `length` bytes at `at` into `into`, which is cleared first.
    pub(super) fn read(&self, at: u32, length: u32, into: &mut Vec<u8>) -> Result<(), LogError> {
        into.clear();
        match &self.place {
            Place::Memory(bytes) => {
                let bytes = bytes.read();
                let part = bytes.get(at as usize..at as usize + length as usize);
                into.extend_from_slice(part.expect("invariant: an index points into its segment"));
                Ok(())
            }
            Place::File(file, path) => {
                into.resize(length as usize, 0);
                file.read_exact_at(into, u64::from(at))
                    .map_err(io(path, "reading"))
            }
        }
    }

    /// Removes its file. A segment in memory goes with its last holder.
    pub(super) fn remove(&self) -> Result<(), LogError> {
        match &self.place {
            Place::Memory(_) => Ok(()),
            Place::File(_, path) => std::fs::remove_file(path).map_err(io(path, "removing")),
        }
    }

    /// Its bytes.
    pub(super) fn length(&self) -> u64 {
        self.length.load(Ordering::Acquire)
    }

    /// Bytes of it that are still pointed to.
    pub(super) fn live(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// Counts bytes that are pointed to from now on.
    pub(super) fn add_live(&self, bytes: u64) {
        self.live.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that nobody points to any longer.
    pub(super) fn sub_live(&self, bytes: u64) {
        self.live.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether it is being cleaned.
    pub(super) fn is_cleaning(&self) -> bool {
        self.cleaning.load(Ordering::Acquire)
    }

    /// Notes whether it is being cleaned.
    pub(super) fn set_cleaning(&self, cleaning: bool) {
        self.cleaning.store(cleaning, Ordering::Release);
    }

    /// The error for bytes at `at` that are not what was written.
    pub(super) fn damaged(&self, at: u64) -> LogError {
        let path = match &self.place {
            Place::Memory(_) => PathBuf::from("memory"),
            Place::File(_, path) => path.clone(),
        };
        LogError::Damaged { path, at }
    }
}

/// Makes sure that the names in a folder are on the disk.
fn sync_folder(folder: &Path) -> Result<(), LogError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(io(folder, "syncing"))
}

fn path_of(folder: &Path, id: u64) -> PathBuf {
    folder.join(format!("{id:020}.{EXTENSION}"))
}

/// The segments' files of a folder in order. What an interrupted start or cleaning left unfinished is removed.
pub(super) fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>, LogError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io(folder, "listing"))? {
        let path = entry.map_err(io(folder, "listing"))?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("unfinished") => std::fs::remove_file(&path).map_err(io(&path, "removing"))?,
            Some(EXTENSION) => {
                let id = path
                    .file_stem()
                    .and_then(|stem| stem.to_str())
                    .and_then(|stem| stem.parse().ok());
                let id = id.ok_or_else(|| LogError::Damaged {
                    path: path.clone(),
                    at: 0,
                })?;
                found.push((id, path));
            }
            _ => {}
        }
    }
    found.sort();
    Ok(found)
}
