//! The model cache on disk: a folder of models, each with a manifest that says what it is, where it came from and what every byte of it must be.
//!
//! ```text
//! smollm2-135m.json                  the manifest: names the folder, and its files with their sha256
//! smollm2-135m-0f3a…/                the model, in Hugging Face's layout; called after its bytes, never changed
//! .smollm2-135m.lock                 locked by whoever fetches it
//! .smollm2-135m-bcc8….part           a download that is not whole yet
//! .smollm2-135m.new/                 a model that is being made
//! ```
//!
//! A model is there once its manifest is, which is renamed into place last: what went before it may end anywhere, and another model of that name stays as it
//! was.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{ModelsError, io};
use super::sum;
use crate::progress::Progress;

/// The version of the manifest that this build writes, and the newest that it reads.
const FORMAT: u32 = 1;

/// A folder of models.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

/// What is known of a model in the cache.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Manifest {
    /// Of this file.
    pub format: u32,
    /// The model's name.
    pub name: String,
    /// Its folder's name, in the cache.
    pub folder: String,
    /// Where it came from: a package with its version, or what `--from` said.
    pub source: String,
    /// Of the package, or of the file that it was made from; empty for a folder of somebody's own.
    pub source_sha256: String,
    /// The license of its weights, as far as that is known.
    pub license: String,
    /// Which conversion made it of a GGUF file; 0: it was none.
    pub conversion: u32,
    /// Its files.
    pub files: Vec<ManifestFile>,
}

/// The manifest's format alone: what a newer build wrote beside it is not known here.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// A file of a model.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct ManifestFile {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
    /// In hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// Holds a model's name for this process until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Cache {
    /// The cache in this folder, which need not be there.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The model of that name: its manifest and its folder. Nothing is verified.
    ///
    /// # Errors
    /// If the manifest cannot be read, or is a newer build's.
    pub fn find(&self, name: &str) -> Result<Option<(Manifest, PathBuf)>, ModelsError> {
        let path = self.manifest_path(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(path, "reading it")(error)),
        };
        let wrong = |problem: String| ModelsError::Manifest {
            path: path.clone(),
            problem,
        };
        let unread = |error| {
            wrong(format!(
                "no manifest of a model: {error}; remove it, and fetch the model again"
            ))
        };
        let Format { format } = serde_json::from_slice(&bytes).map_err(unread)?;
        if format > FORMAT {
            return Err(wrong(format!(
                "written in format {format}, this build reads up to {FORMAT}"
            )));
        }
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(unread)?;
        let names = manifest.files.iter().map(|file| &file.name);
        if names
            .chain([&manifest.folder])
            .any(|name| name.is_empty() || name.contains(['/', '\\']) || name == "..")
        {
            return Err(wrong("names what is outside of its folder".to_owned()));
        }
        let folder = self.folder.join(&manifest.folder);
        Ok(Some((manifest, folder)))
    }

    /// The names of all models.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn names(&self) -> Result<Vec<String>, ModelsError> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io(&self.folder, "reading it")(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(io(&self.folder, "reading it"))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(name) = name.strip_suffix(".json").filter(|name| is_name(name)) {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// What is wrong with a model's files, if anything: lengths, and with `whole` every byte.
    ///
    /// # Errors
    /// If a file that is there cannot be read.
    pub fn fault(
        &self,
        manifest: &Manifest,
        whole: bool,
        progress: bool,
    ) -> Result<Option<String>, ModelsError> {
        let folder = self.folder.join(&manifest.folder);
        for file in &manifest.files {
            let path = folder.join(&file.name);
            let found = match fs::metadata(&path) {
                Ok(metadata) => metadata.len(),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Ok(Some(format!("{} is missing", path.display())));
                }
                Err(error) => return Err(io(path, "looking at it")(error)),
            };
            if found != file.bytes {
                let expected = file.bytes;
                return Ok(Some(format!(
                    "{} has {found} bytes, not {expected}",
                    path.display()
                )));
            }
        }
        let bar = Progress::new(Some(manifest.bytes()), progress);
        let mut done = 0;
        for file in manifest.files.iter().filter(|_| whole) {
            let path = folder.join(&file.name);
            if sum::of_file(&path)? != file.sha256 {
                bar.finish();
                return Ok(Some(format!("{} is damaged", path.display())));
            }
            done += file.bytes;
            bar.at_bytes("verifying", done, 0);
        }
        bar.finish();
        Ok(None)
    }

    /// Takes a name for this process; waits, and says so, while another has it.
    pub(super) fn lock(&self, name: &str, say: &dyn Fn(&str)) -> Result<Lock, ModelsError> {
        fs::create_dir_all(&self.folder).map_err(io(&self.folder, "making it"))?;
        let path = self.folder.join(format!(".{name}.lock"));
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io(&path, "opening it"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                say(&format!(
                    "another process fetches {name} just now: waiting for it"
                ));
                file.lock().map_err(io(&path, "locking it"))?;
            }
            Err(TryLockError::Error(error)) => return Err(io(&path, "locking it")(error)),
        }
        Ok(Lock { _file: file })
    }

    /// Where a download of a model grows; `key` says of what.
    pub(super) fn part(&self, name: &str, key: &str) -> PathBuf {
        self.folder.join(format!(".{name}-{}.part", &key[..16]))
    }

    /// An empty folder to make a model in. Whoever held the name before may have left one.
    pub(super) fn new_folder(&self, name: &str) -> Result<PathBuf, ModelsError> {
        let folder = self.folder.join(format!(".{name}.new"));
        remove_folder(&folder)?;
        fs::create_dir(&folder).map_err(io(&folder, "making it"))?;
        Ok(folder)
    }

    /// Puts a model that was made into its place, whole or not at all. `about` says what is known of it beside its files, `whole` what stands there
    /// unhurt: of the same bytes, it stays; others are removed, and so are downloads.
    pub(super) fn put(
        &self,
        mut about: Manifest,
        made: &Path,
        whole: Option<&Manifest>,
    ) -> Result<(Manifest, PathBuf), ModelsError> {
        for entry in fs::read_dir(made).map_err(io(made, "reading it"))? {
            let path = entry.map_err(io(made, "reading it"))?.path();
            let file = File::open(&path).map_err(io(&path, "opening it"))?;
            file.sync_all().map_err(io(&path, "making it durable"))?;
            let metadata = file.metadata().map_err(io(&path, "looking at it"))?;
            about.files.push(ManifestFile {
                name: path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
                bytes: metadata.len(),
                sha256: sum::of_file(&path)?,
            });
        }
        sync(made)?;
        about.files.sort_by(|one, other| one.name.cmp(&other.name));
        let all: String = about
            .files
            .iter()
            .map(|file| format!("{} {}\n", file.sha256, file.name))
            .collect();
        about.format = FORMAT;
        about.folder = format!("{}-{}", about.name, &sum::of_text(&all)[..DIGEST]);
        let folder = self.folder.join(&about.folder);
        let path = self.manifest_path(&about.name);
        let stays = whole.is_some_and(|whole| whole.files == about.files);
        if folder.exists() && !stays {
            // Of the same bytes once, and damaged since, or left by a run that did not come to its end: nobody may find it on the way.
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(io(path, "removing it")(error));
                }
                Ok(()) | Err(_) => {}
            }
            remove_folder(&folder)?;
        }
        if stays {
            remove_folder(made)?;
        } else {
            fs::rename(made, &folder).map_err(io(&folder, "moving it into place"))?;
            sync(&self.folder)?;
        }
        let written = self.folder.join(format!(".{}.json.new", about.name));
        let mut file = File::create(&written).map_err(io(&written, "making it"))?;
        let text = serde_json::to_string_pretty(&about)
            .expect("invariant: texts and numbers can be written as JSON");
        file.write_all(format!("{text}\n").as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(io(&written, "writing it"))?;
        fs::rename(&written, &path).map_err(io(&path, "moving it into place"))?;
        sync(&self.folder)?;
        self.tidy(&about)?;
        Ok((about, folder))
    }

    /// Removes what a model's name has left beside the model.
    fn tidy(&self, kept: &Manifest) -> Result<(), ModelsError> {
        let name = &kept.name;
        for entry in fs::read_dir(&self.folder).map_err(io(&self.folder, "reading it"))? {
            let path = entry.map_err(io(&self.folder, "reading it"))?.path();
            let file = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let rest = |file: &str| file.strip_prefix(&format!("{name}-")).map(str::to_owned);
            if rest(&file).is_some_and(|rest| is_digest(&rest)) && file != kept.folder {
                remove_folder(&path)?;
            }
            let part = file
                .strip_prefix('.')
                .and_then(|file| rest(file)?.strip_suffix(".part").map(str::to_owned));
            if part.is_some_and(|key| key.len() == 16 && is_hex(&key)) {
                fs::remove_file(&path).map_err(io(&path, "removing it"))?;
            }
        }
        Ok(())
    }

    fn manifest_path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }
}

/// Removes a folder that need not be there.
pub(super) fn remove_folder(folder: &Path) -> Result<(), ModelsError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io(folder, "removing it")(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Digits of a model's sum in its folder's name.
const DIGEST: usize = 12;

fn is_digest(text: &str) -> bool {
    text.len() == DIGEST && is_hex(text)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a name can be a model's.
pub(super) fn is_name(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 64
        && name.bytes().next().is_some_and(letter)
        && name
            .bytes()
            .all(|byte| letter(byte) || b"._-".contains(&byte))
}

/// Makes a folder's entries durable.
fn sync(folder: &Path) -> Result<(), ModelsError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(io(folder, "making it durable"))
}
