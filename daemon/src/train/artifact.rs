//! The folder of a model: its values, and a manifest that says what they are of.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use headwater_model::bahe::{Described, MANIFEST, Manifest, Position, Trainer, VALUES};
use headwater_model::language::{LanguageError, from_safetensors, to_safetensors};
use headwater_model::{FeatureSchema, Tensor};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::exit::Exit;

use super::TrainError;

/// The folder.
#[derive(Debug)]
pub(super) struct Artifact(PathBuf);

/// How far a training has come.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Course {
    /// Hash of what is trained on what: another training does not go on from here.
    pub(super) of: String,
    /// Whole passes, batches of this one, and steps of the optimizer.
    pub(super) position: (u64, usize, u64),
    /// Mean loss of the validation rows before training and after each pass.
    pub(super) validation_loss: Vec<f64>,
    /// The pass with the least of them.
    pub(super) kept: usize,
    /// Positions of the deep layers so far.
    pub(super) positions: u64,
    /// Seconds of the passes so far.
    pub(super) seconds: f64,
    /// Hash of the values' file.
    #[serde(default)]
    pub(super) values: String,
}

impl Course {
    /// The file of its values.
    fn file(&self) -> String {
        let (epoch, _, steps) = self.position;
        format!("checkpoint-{epoch}-{steps}.safetensors")
    }
}

/// As the trainer has it.
pub(super) fn position((epoch, batch, steps): (u64, usize, u64)) -> Position {
    Position {
        epoch,
        batch,
        steps,
    }
}

/// A training to go on with.
#[derive(Debug)]
pub(super) struct Unfinished {
    pub(super) course: Course,
    pub(super) values: BTreeMap<String, Tensor>,
    pub(super) best: BTreeMap<String, Tensor>,
}

/// The file of a course.
const COURSE: &str = "checkpoint.json";
/// Before the names of the best values so far.
const BEST: &str = "best.";

/// Why a model's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// It cannot be read or written.
    #[error("{}: cannot be read or written", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another training works in it.
    #[error("{}: another training is at work in this folder", path.display())]
    Taken {
        /// The folder.
        path: PathBuf,
    },
    /// Values cannot be written.
    #[error("{}: values cannot be written", path.display())]
    Values {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<LanguageError>,
    },
}

impl ArtifactError {
    /// How the process ends for it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Io { .. } | Self::Taken { .. } => Exit::TryAgain,
            Self::Values { .. } => Exit::Bug,
        }
    }
}

impl Artifact {
    pub(super) fn open(folder: &Path) -> Result<Self, ArtifactError> {
        fs::create_dir_all(folder).map_err(|source| ArtifactError::Io {
            path: folder.to_owned(),
            source,
        })?;
        Ok(Self(folder.to_owned()))
    }

    /// The folder for one training alone, for as long as the handle is held: of two the last would have it all, and the other nothing.
    pub(super) fn alone(&self) -> Result<fs::File, ArtifactError> {
        let io = |source| ArtifactError::Io {
            path: self.0.clone(),
            source,
        };
        let folder = fs::File::open(&self.0).map_err(io)?;
        match folder.try_lock() {
            Ok(()) => Ok(folder),
            Err(fs::TryLockError::WouldBlock) => Err(ArtifactError::Taken {
                path: self.0.clone(),
            }),
            Err(fs::TryLockError::Error(source)) => Err(io(source)),
        }
    }

    /// The file of an encoder's vectors.
    pub(super) fn vectors(&self, version: &[u8; 32]) -> PathBuf {
        self.0.join(format!("vectors-{}.bin", &hex(version)[..16]))
    }

    /// All that training needs to go on: values first, under a name of their own, then the course that names them.
    pub(super) fn checkpoint(
        &self,
        trainer: &Trainer,
        best: &BTreeMap<String, Tensor>,
        course: &Course,
    ) -> Result<(), TrainError> {
        let mut values = trainer.checkpoint()?;
        let best = best.iter();
        values.extend(best.map(|(name, value)| (format!("{BEST}{name}"), value.clone())));
        let bytes = self.write_values(&course.file(), &values)?;
        let course = Course {
            values: hex(&Sha256::digest(bytes)),
            ..course.clone()
        };
        let text = serde_json::to_vec(&course).unwrap_or_default();
        self.write(COURSE, &text)?;
        self.remove_values(&course.file())
    }

    /// Removes values of checkpoints but one: those that were left by whatever was cut off.
    fn remove_values(&self, but: &str) -> Result<(), TrainError> {
        let io = |source| ArtifactError::Io {
            path: self.0.clone(),
            source,
        };
        for entry in fs::read_dir(&self.0).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("checkpoint-") && name.ends_with(".safetensors") && name != but {
                self.remove(&name)?;
            }
        }
        Ok(())
    }

    /// A training of that identity that has not come to its end: how far it was, its values and the optimizer's, and the best values so far.
    pub(super) fn unfinished(&self, of: &str) -> Result<Option<Unfinished>, TrainError> {
        let Some(course) = self.course()?.filter(|course| course.of == of) else {
            return Ok(None);
        };
        let path = self.0.join(course.file());
        let bytes = fs::read(&path).unwrap_or_default();
        if hex(&Sha256::digest(&bytes)) != course.values {
            tracing::warn!(path = %path.display(), "the checkpoint's values are missing or damaged: training begins anew");
            return Ok(None);
        }
        let mut values = from_safetensors(&bytes)?;
        let mut best = BTreeMap::new();
        values.retain(|name, value| match name.strip_prefix(BEST) {
            Some(name) => {
                best.insert(name.to_owned(), value.clone());
                false
            }
            None => true,
        });
        Ok(Some(Unfinished {
            course,
            values,
            best,
        }))
    }

    /// Training is done: there is nothing to go on with.
    pub(super) fn finished(&self) -> Result<(), TrainError> {
        self.remove(COURSE)?;
        self.remove_values("")
    }

    fn course(&self) -> Result<Option<Course>, ArtifactError> {
        let path = self.0.join(COURSE);
        match fs::read(&path) {
            // One of another version: training begins anew.
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ArtifactError::Io { path, source }),
        }
    }

    fn remove(&self, name: &str) -> Result<(), ArtifactError> {
        let path = self.0.join(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(ArtifactError::Io { path, source })
            }
            _ => Ok(()),
        }
    }

    /// The model itself: values first, then the manifest that makes them a model.
    pub(super) fn keep(
        &self,
        values: &BTreeMap<String, Tensor>,
        described: Described,
        schema: &FeatureSchema,
    ) -> Result<(), TrainError> {
        let bytes = self.write_values(VALUES, values)?;
        let manifest = Manifest::of(described, schema, &bytes);
        Ok(self.write(MANIFEST, &manifest.bytes())?)
    }

    fn write_values(
        &self,
        name: &str,
        values: &BTreeMap<String, Tensor>,
    ) -> Result<Vec<u8>, ArtifactError> {
        let bytes = to_safetensors(values).map_err(|source| ArtifactError::Values {
            path: self.0.join(name),
            source: Box::new(source),
        })?;
        self.write(name, &bytes)?;
        Ok(bytes)
    }

    /// Whole or not at all.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), ArtifactError> {
        let path = self.0.join(name);
        let partial = self.0.join(format!("{name}.partial"));
        let write = || {
            let mut file = fs::File::create(&partial)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&partial, &path)
        };
        write().map_err(|source| ArtifactError::Io {
            path: path.clone(),
            source,
        })
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
