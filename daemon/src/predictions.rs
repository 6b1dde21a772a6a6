//! The table of predictions: what was said of each row, a line each, whole or not there.
//!
//! Before it stand [`crate::backtest`] and [`crate::train`]; after it, whoever judges predictions.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::exit::Exit;

/// The first line.
pub const HEADER: &str = "request_id\titem_id\ttask\tprobability";

/// Why predictions cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum PredictionsError {
    /// The file.
    #[error("{}: cannot be written", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// An id that a table cannot hold.
    #[error("{what} {id:?} has a tab or a line's end in it, which predictions cannot hold")]
    Id {
        /// Which id.
        what: &'static str,
        /// The id.
        id: String,
    },
}

impl PredictionsError {
    /// How the process ends for it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        use std::io::ErrorKind;
        match self {
            Self::Id { .. } => Exit::Configuration,
            // A place where nothing can be made; all else, such as a full disk, may heal.
            Self::Write { source, .. }
                if matches!(
                    source.kind(),
                    ErrorKind::NotFound
                        | ErrorKind::InvalidInput
                        | ErrorKind::NotADirectory
                        | ErrorKind::IsADirectory
                        | ErrorKind::PermissionDenied
                        | ErrorKind::ReadOnlyFilesystem
                ) =>
            {
                Exit::Configuration
            }
            Self::Write { .. } => Exit::TryAgain,
        }
    }
}

/// The table.
pub(crate) struct Predictions {
    path: PathBuf,
    to: Box<dyn Finish>,
    partial: Partial,
    text: Vec<u8>,
}

/// The file that is written until the table is whole, if there is one: what is not put in its place is deleted.
struct Partial(Option<PathBuf>);

impl Partial {
    fn put(mut self, path: &Path) -> std::io::Result<()> {
        if let Some(name) = &self.0 {
            std::fs::rename(name, path)?;
        }
        self.0 = None;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(name) = &self.0 {
            // Whatever keeps it from being deleted, the failure before it is the one to tell.
            drop(std::fs::remove_file(name));
        }
    }
}

/// A writer with an end of its own.
trait Finish: Write {
    fn finish(self: Box<Self>) -> std::io::Result<()>;
}

impl<W: Write> Finish for BufWriter<W> {
    fn finish(mut self: Box<Self>) -> std::io::Result<()> {
        self.flush()
    }
}

impl<W: Write> Finish for flate2::write::GzEncoder<W> {
    fn finish(self: Box<Self>) -> std::io::Result<()> {
        flate2::write::GzEncoder::finish(*self)?.flush()
    }
}

/// Whether a file could be made of that name, as far as can be told before: what takes hours is not to end at a folder that is not there.
pub(crate) fn check_place(path: &Path) -> Result<(), PredictionsError> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let found = std::fs::metadata(folder.unwrap_or(Path::new(".")));
    let kind = match found {
        Err(source) => Err(source),
        Ok(found) if !found.is_dir() => Err(std::io::ErrorKind::NotADirectory.into()),
        Ok(_) if path.is_dir() => Err(std::io::ErrorKind::IsADirectory.into()),
        Ok(_) => Ok(()),
    };
    kind.map_err(|source| PredictionsError::Write {
        path: path.to_owned(),
        source,
    })
}

/// Whether what is written has places of its own: nothing that is read is written over, and nothing twice. What is no file of its own, such as a pipe, may be named again and again.
pub(crate) fn check_apart(written: &[&Path], read: &[&Path]) -> Result<(), PredictionsError> {
    let of = |path: &Path| {
        let there = std::fs::canonicalize(path).or_else(|_| std::path::absolute(path));
        there.unwrap_or_else(|_| path.to_owned())
    };
    for (at, path) in written.iter().enumerate() {
        let mut others = read.iter().chain(&written[..at]);
        let is_file = path.is_file() || !path.exists();
        if is_file && others.any(|other| of(other) == of(path)) {
            return Err(PredictionsError::Write {
                path: (*path).to_owned(),
                source: std::io::Error::new(
                    std::io::ErrorKind::InvalidInput,
                    "it is read as well, or something else is written there",
                ),
            });
        }
    }
    Ok(())
}

/// Writes a file under another name, and moves it when it is whole.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), PredictionsError> {
    let written = if is_in_place(path) {
        std::fs::write(path, bytes)
    } else {
        let mut name = path.as_os_str().to_owned();
        name.push(".partial");
        let name = PathBuf::from(name);
        let partial = Partial(Some(name.clone()));
        std::fs::write(&name, bytes).and_then(|()| partial.put(path))
    };
    written.map_err(|source| PredictionsError::Write {
        path: path.to_owned(),
        source,
    })
}

/// Whether what is there is written into: a device, a pipe or a link is not to be replaced by a file.
fn is_in_place(path: &Path) -> bool {
    let found = std::fs::symlink_metadata(path);
    found.is_ok_and(|found| !found.is_file())
}

impl Predictions {
    /// Opens the table: `-` is standard output, and what ends in `.gz` is packed. A file is written under another name and moved at the end, so that one of
    /// that name is a whole one; the other is deleted if it does not come to that.
    pub(crate) fn open(path: &Path) -> Result<Self, PredictionsError> {
        let fail = |source| PredictionsError::Write {
            path: path.to_owned(),
            source,
        };
        let in_place = is_in_place(path);
        let mut partial = Partial(None);
        let raw: Box<dyn Write> = if path == Path::new("-") {
            Box::new(std::io::stdout())
        } else if in_place {
            Box::new(File::create(path).map_err(fail)?)
        } else {
            let mut name = path.as_os_str().to_owned();
            name.push(".partial");
            let name = PathBuf::from(name);
            let file = File::create(&name).map_err(fail)?;
            partial = Partial(Some(name));
            Box::new(file)
        };
        let buffered = BufWriter::with_capacity(1 << 18, raw);
        let mut to: Box<dyn Finish> = if path.extension().is_some_and(|end| end == "gz") {
            Box::new(flate2::write::GzEncoder::new(
                buffered,
                flate2::Compression::fast(),
            ))
        } else {
            Box::new(buffered)
        };
        writeln!(to, "{HEADER}").map_err(fail)?;
        Ok(Self {
            path: path.to_owned(),
            to,
            partial,
            text: Vec::new(),
        })
    }

    /// One line: request, item and task, and the probability as it is to be read.
    pub(crate) fn line(
        &mut self,
        [request, item, task]: [&str; 3],
        probability: &str,
    ) -> Result<(), PredictionsError> {
        check("request_id", request)?;
        check("item_id", item)?;
        self.text.clear();
        for cell in [request, item, task] {
            self.text.extend_from_slice(cell.as_bytes());
            self.text.push(b'\t');
        }
        self.text.extend_from_slice(probability.as_bytes());
        self.text.push(b'\n');
        self.to
            .write_all(&self.text)
            .map_err(|source| PredictionsError::Write {
                path: self.path.clone(),
                source,
            })
    }

    /// Puts the whole table in its place.
    pub(crate) fn finish(self) -> Result<(), PredictionsError> {
        let Self {
            path, to, partial, ..
        } = self;
        to.finish()
            .and_then(|()| partial.put(&path))
            .map_err(|source| PredictionsError::Write { path, source })
    }
}

fn check(what: &'static str, id: &str) -> Result<(), PredictionsError> {
    if id.contains(['\t', '\n', '\r']) {
        return Err(PredictionsError::Id {
            what,
            id: id.to_owned(),
        });
    }
    Ok(())
}
