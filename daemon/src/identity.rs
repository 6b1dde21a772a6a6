//! The state folder's identity: whose it is, in which format, and that one process has it.
//!
//! Before it, the configuration names the folder; after it, stores and transactional ids carry the instance's name. A folder
//! that belongs to another prefix, group, instance or log, or that a newer build wrote, is refused: its positions would be taken for
//! those of other topics, and behaviors would be counted twice or never.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use headwater_config::Config;
use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::world::random;

/// The version of the folder's layout that this build writes, and the newest that it reads.
pub(crate) const FORMAT: u32 = 1;
/// The file that says whose folder it is.
const FILE: &str = "identity.json";
/// The file that is locked while a process has the folder.
const LOCK: &str = "lock";

/// Whose state folder it is. Holds the folder for this process until it is dropped.
#[derive(Debug)]
pub struct Identity {
    /// The instance's name, as in the fleet and in transactional ids.
    pub instance: String,
    /// Whether the folder was there before: the instance comes back.
    pub returns: bool,
    _lock: File,
}

#[derive(Debug, Deserialize, Serialize)]
struct Written {
    format: u32,
    instance: String,
    prefix: String,
    group: String,
    log: String,
}

/// Why a state folder cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The folder cannot be made, read or written.
    #[error("state folder {path}: {doing} failed")]
    Io {
        /// Folder or file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another process has it.
    #[error(
        "state folder {path} is in use by another process; `state.path` must be a folder of its own for each daemon"
    )]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// A newer build wrote it.
    #[error(
        "{path}: written in format {found}, this build reads up to {known}; start the newer build, or give `state.path` an empty folder (it is restored from the changelog; with the embedded log, whose folder \
         may lie within it, there is no other copy)"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// What this build reads.
        known: u32,
    },
    /// It belongs to somebody else.
    #[error(
        "{path}: this folder belongs to {key} `{found}`, and the configuration says `{wanted}`; give `state.path` a folder of its own"
    )]
    Other {
        /// The file.
        path: PathBuf,
        /// What differs.
        key: &'static str,
        /// What the folder says.
        found: String,
        /// What the configuration says.
        wanted: String,
    },
    /// The file is not what was written.
    #[error(
        "{path}: not an identity file; if the folder is Headwater's, empty it (it is restored from the changelog; keep the embedded log's folder, if one lies within)"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl IdentityError {
    /// How the process ends for it.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Io { .. } => Exit::Configuration,
            Self::Locked { .. }
            | Self::Newer { .. }
            | Self::Other { .. }
            | Self::Damaged { .. } => Exit::Format,
        }
    }
}

impl Identity {
    /// Takes the state folder of a configuration, and makes it at the first start.
    ///
    /// # Errors
    /// If it is another's, newer, damaged, in use, or cannot be written.
    pub fn take(config: &Config) -> Result<Self, IdentityError> {
        let folder = &config.state.path;
        std::fs::create_dir_all(folder).map_err(|source| IdentityError::Io {
            path: folder.clone(),
            doing: "making it",
            source,
        })?;
        let made = || Written {
            format: FORMAT,
            instance: config.instance.id.clone().unwrap_or_else(made_up),
            prefix: config.instance.prefix.clone(),
            group: config.group(),
            log: config.log.kind.to_string(),
        };
        Self::take_as(config, Some(&made))
    }

    /// Takes the state folder of a daemon that does not run, to look at it.
    ///
    /// # Errors
    /// As [`Identity::take`], and if there is none.
    pub fn take_existing(config: &Config) -> Result<Self, IdentityError> {
        Self::take_as(config, None)
    }

    fn take_as(config: &Config, made: Option<&dyn Fn() -> Written>) -> Result<Self, IdentityError> {
        let folder = &config.state.path;
        let io = |path: &Path, doing| {
            let path = path.to_owned();
            move |source| IdentityError::Io {
                path,
                doing,
                source,
            }
        };
        let lock_path = folder.join(LOCK);
        let lock = File::options()
            .write(true)
            .create(made.is_some())
            .truncate(false)
            .open(&lock_path)
            .map_err(io(&lock_path, "opening"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(IdentityError::Locked {
                    path: folder.clone(),
                });
            }
            Err(std::fs::TryLockError::Error(source)) => {
                return Err(io(&lock_path, "locking")(source));
            }
        }
        let path = folder.join(FILE);
        let (written, returns) = match (std::fs::read(&path), made) {
            (Ok(bytes), _) => (read(&path, &bytes)?, true),
            (Err(error), Some(made)) if error.kind() == std::io::ErrorKind::NotFound => {
                let made = made();
                write(&path, &made).map_err(io(&path, "writing"))?;
                (made, false)
            }
            (Err(error), _) => return Err(io(&path, "reading")(error)),
        };
        let wanted = [
            (
                "instance.prefix",
                &written.prefix,
                config.instance.prefix.clone(),
            ),
            ("group", &written.group, config.group()),
            ("log.kind", &written.log, config.log.kind.to_string()),
            (
                "instance.id",
                &written.instance,
                config
                    .instance
                    .id
                    .clone()
                    .unwrap_or_else(|| written.instance.clone()),
            ),
        ];
        for (key, found, wanted) in wanted {
            if *found != wanted {
                return Err(IdentityError::Other {
                    path,
                    key,
                    found: found.clone(),
                    wanted,
                });
            }
        }
        Ok(Self {
            instance: written.instance,
            returns,
            _lock: lock,
        })
    }
}

fn read(path: &Path, bytes: &[u8]) -> Result<Written, IdentityError> {
    // The format is looked at alone: what a newer build wrote beside it is not known here.
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let damaged = |source| IdentityError::Damaged {
        path: path.to_owned(),
        source,
    };
    let Format { format } = serde_json::from_slice(bytes).map_err(damaged)?;
    if format > FORMAT {
        return Err(IdentityError::Newer {
            path: path.to_owned(),
            found: format,
            known: FORMAT,
        });
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

/// Writes the file whole or not at all: a torn identity would make a new instance of an old folder.
fn write(path: &Path, written: &Written) -> std::io::Result<()> {
    let unfinished = path.with_extension("unfinished");
    let mut file = File::create(&unfinished)?;
    file.write_all(&serde_json::to_vec_pretty(written)?)?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path)
}

/// A name for an instance that was given none: 48 random bits, since names live as long as their folders and fleets are small.
fn made_up() -> String {
    let number = random::<6>()
        .iter()
        .fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    format!("hw-{number:012x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/var/lib/headwater/identity.json";

    fn golden(format: u32) -> PathBuf {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/identity");
        PathBuf::from(folder).join(format!("golden_{format}.json"))
    }

    fn written() -> Written {
        Written {
            format: FORMAT,
            instance: "hw-0123456789ab".to_owned(),
            prefix: "shop.".to_owned(),
            group: "shop.headwater".to_owned(),
            log: "kafka".to_owned(),
        }
    }

    /// Goal: folders of every version are read, and those of today are as they were. Method: what is written against the newest file
    /// (`BLESS=1` writes it again), and each file read.
    #[test]
    fn every_format_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        write(&path, &written()).unwrap();
        let now = std::fs::read_to_string(&path).unwrap();
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(golden(FORMAT), format!("{now}\n")).unwrap();
        }
        let held = std::fs::read_to_string(golden(FORMAT)).unwrap();
        assert_eq!(now, held.trim_end());
        for format in 1..=FORMAT {
            let held = std::fs::read(golden(format)).unwrap();
            let read = read(Path::new(PATH), &held).unwrap();
            assert_eq!(read.format, format);
            assert_eq!(
                (&*read.instance, &*read.prefix, &*read.group, &*read.log),
                ("hw-0123456789ab", "shop.", "shop.headwater", "kafka")
            );
        }
    }

    /// Goal: a folder that cannot be read says why and what to do. Method: the golden file of a newer format, cut short at every byte, and
    /// with a key left out.
    #[test]
    fn newer_and_damaged_files_are_told() {
        let held = std::fs::read_to_string(golden(FORMAT)).unwrap();
        let newer = held.replace(
            &format!("\"format\": {FORMAT}"),
            &format!("\"format\": {}, \"shards\": [1]", FORMAT + 1),
        );
        let said = read(Path::new(PATH), newer.as_bytes())
            .unwrap_err()
            .to_string();
        let (found, known) = (FORMAT + 1, FORMAT);
        assert!(
            said.starts_with(&format!("{PATH}: written in format {found}, this build reads up to {known}; start the newer build")),
            "{said}"
        );
        for length in 0..held.trim_end().len() {
            let error = read(Path::new(PATH), &held.as_bytes()[..length]).unwrap_err();
            assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
            assert_eq!(error.exit(), Exit::Format);
            assert!(
                error
                    .to_string()
                    .starts_with(&format!("{PATH}: not an identity file"))
            );
        }
        let lacks = held.replace("\"group\"", "\"grope\"");
        let error = read(Path::new(PATH), lacks.as_bytes()).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("missing field `group`"), "{source}");
    }
}
