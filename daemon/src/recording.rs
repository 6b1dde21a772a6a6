//! Recordings: files of JSON lines that hold records, plain or gzipped, as [`crate::backtest`] and [`crate::produce`] read them.
//!
//! Before it stand files and standard input; after it the engine, or a log. A line that cannot be used is an error that names the file
//! and the line; nothing is passed over but blank lines.

use std::borrow::Cow;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use headwater_config::Topic;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Bytes of a line at most: a record is at most 1 GiB by configuration, and nobody types such a line.
const LINE_BYTES_MAX: usize = 1 << 30;

/// What can go wrong with a recording.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file cannot be read.
    #[error("{}: cannot be read", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A line cannot be used.
    #[error("{}, line {line}: {reason}", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
}

/// A file of JSON lines, or standard input.
pub struct Recording {
    path: PathBuf,
    source: Box<dyn BufRead>,
    line: Vec<u8>,
    number: u64,
    read: Arc<AtomicU64>,
    size: Option<u64>,
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recording")
            .field("path", &self.path)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// Counts the bytes that come from the disk, packed or not.
struct Counted<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(to)?;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

impl Recording {
    /// Opens a file; `-` is standard input. Gzip is told by its first bytes, not by the name.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn open(path: &Path) -> Result<Self, RecordingError> {
        let io = |source| RecordingError::Io {
            path: path.to_owned(),
            source,
        };
        let read = Arc::new(AtomicU64::new(0));
        let mut size = None;
        let raw: Box<dyn Read> = if path == Path::new("-") {
            Box::new(std::io::stdin())
        } else {
            let file = std::fs::File::open(path).map_err(io)?;
            let facts = file.metadata().map_err(io)?;
            size = facts.is_file().then_some(facts.len());
            Box::new(file)
        };
        let mut plain = BufReader::with_capacity(
            1 << 18,
            Counted {
                inner: raw,
                read: Arc::clone(&read),
            },
        );
        let is_gzip = plain.fill_buf().map_err(io)?.starts_with(&[0x1f, 0x8b]);
        let source: Box<dyn BufRead> = if is_gzip {
            let unpacked = flate2::bufread::MultiGzDecoder::new(plain);
            Box::new(BufReader::with_capacity(1 << 18, unpacked))
        } else {
            Box::new(plain)
        };
        Ok(Self {
            path: path.to_owned(),
            source,
            line: Vec::new(),
            number: 0,
            read,
            size,
        })
    }

    /// The next line that is not blank, without its end; `None` after the last.
    ///
    /// # Errors
    /// A file that cannot be read on (a torn gzip file too), or a line beyond all measure.
    pub fn next_line(&mut self) -> Result<Option<&[u8]>, RecordingError> {
        loop {
            self.line.clear();
            let count = self
                .source
                .by_ref()
                .take(LINE_BYTES_MAX as u64 + 1)
                .read_until(b'\n', &mut self.line)
                .map_err(|source| RecordingError::Io {
                    path: self.path.clone(),
                    source,
                })?;
            if count == 0 {
                return Ok(None);
            }
            self.number += 1;
            if self.line.len() > LINE_BYTES_MAX {
                return Err(self.bad(format!("longer than {} MiB", LINE_BYTES_MAX >> 20)));
            }
            if !self.line.trim_ascii().is_empty() {
                return Ok(Some(self.line.trim_ascii()));
            }
        }
    }

    /// Number of the last line, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The last line is wrong, and why.
    pub fn bad(&self, reason: impl Into<String>) -> RecordingError {
        RecordingError::Line {
            path: self.path.clone(),
            line: self.number,
            reason: reason.into(),
        }
    }

    /// Bytes read of the file so far.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Bytes of the file, where that is known.
    pub fn size(&self) -> Option<u64> {
        self.size
    }
}

/// A line of recorded events: `{"topic": "behaviors" | "score-requests" | "items", "record": {…}}`.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    topic: Cow<'a, str>,
    #[serde(borrow)]
    record: &'a RawValue,
}

/// The topic and the record's bytes of a line of recorded events.
///
/// # Errors
/// In words, what is wrong with the line.
pub fn envelope(line: &[u8]) -> Result<(Topic, &[u8]), String> {
    let envelope: Envelope<'_> = serde_json::from_slice(line)
        .map_err(|error| format!("not {{\"topic\": …, \"record\": {{…}}}}: {error}"))?;
    let topic = topic_of(&envelope.topic)?;
    Ok((topic, envelope.record.get().as_bytes()))
}

/// An input topic by its role.
///
/// # Errors
/// In words, that there is no such input, and which there are.
pub fn topic_of(name: &str) -> Result<Topic, String> {
    match name {
        "behaviors" => Ok(Topic::Behaviors),
        "score-requests" | "score_requests" => Ok(Topic::ScoreRequests),
        "items" => Ok(Topic::Items),
        _ => Err(format!(
            "topic `{name}` is none of behaviors, score-requests, items"
        )),
    }
}
