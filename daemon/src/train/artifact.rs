//! The folder of a model: its values, and a manifest that says what they are of.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use headwater_model::Tensor;
use headwater_model::bahe::{Position, Trainer};
use headwater_model::language::{LanguageError, TextEncoder, to_safetensors};
use serde_json::json;

use crate::exit::Exit;

use super::rows::Recorded;
use super::{TrainBahe, TrainError};

/// The folder.
#[derive(Debug)]
pub(super) struct Artifact(PathBuf);

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
            Self::Io { .. } => Exit::TryAgain,
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

    /// The file of an encoder's vectors.
    pub(super) fn vectors(&self, version: &[u8; 32]) -> PathBuf {
        self.0.join(format!("vectors-{}.bin", &hex(version)[..16]))
    }

    /// All that training needs to go on.
    pub(super) fn checkpoint(
        &self,
        trainer: &Trainer,
        position: Position,
    ) -> Result<(), TrainError> {
        self.write_values("checkpoint.safetensors", &trainer.checkpoint()?)?;
        let position =
            json!({"epoch": position.epoch, "batch": position.batch, "steps": position.steps});
        Ok(self.write("checkpoint.json", position.to_string().as_bytes())?)
    }

    /// The model itself: values first, then the manifest that makes them a model.
    pub(super) fn keep(
        &self,
        trainer: &Trainer,
        encoder: Option<&TextEncoder>,
        training: &TrainBahe,
        recorded: &Recorded,
    ) -> Result<(), TrainError> {
        self.write_values("model.safetensors", &trainer.values()?)?;
        let manifest = json!({
            "format": 1,
            "kind": "bahe",
            "encoder": encoder.map(|encoder| hex(encoder.version())),
            "texts": training.texts,
            "cut": training.cut,
            "layers": training.layers,
            "limit": training.limit,
            "sequences": recorded.corpus.sequences,
            "features": recorded.moments,
            "rows": recorded.split_sizes(),
        });
        let mut text = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
        text.push(b'\n');
        Ok(self.write("manifest.json", &text)?)
    }

    fn write_values(
        &self,
        name: &str,
        values: &std::collections::BTreeMap<String, Tensor>,
    ) -> Result<(), ArtifactError> {
        let path = self.0.join(name);
        let bytes = to_safetensors(values).map_err(|source| ArtifactError::Values {
            path: path.clone(),
            source: Box::new(source),
        })?;
        self.write(name, &bytes)
    }

    /// Whole or not at all.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), ArtifactError> {
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
