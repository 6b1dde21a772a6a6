//! Tensors of a model, by their Hugging Face names, from a folder of safetensors (sharded or not) or from a GGUF file.
//!
//! Only what is asked for is read, and each tensor is checked when it is: there, of the shape that the configuration promises, whole, and finite. All
//! come as f32.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use sha2::{Digest as _, Sha256};

use super::config::{DecoderConfig, EncoderConfig, Shape};
use super::error::{LanguageError, computing};

mod folder;
mod gguf;

use folder::Folder;
use gguf::GgufFile;

/// The tensors of a model.
#[derive(Debug)]
pub struct Weights {
    shape: Shape,
    files: Files,
}

#[derive(Debug)]
enum Files {
    Folder(Folder),
    Gguf(Box<GgufFile>),
}

impl Weights {
    /// Opens a model folder, or a GGUF file: reads its configuration and its list of tensors, no values yet.
    pub fn open(path: &Path) -> Result<Self, LanguageError> {
        if path.is_dir() {
            let file = path.join("config.json");
            let shape = Shape::from_json(&file, &read(&file)?)?;
            let files = Files::Folder(Folder::open(path)?);
            return Ok(Self { shape, files });
        }
        let file = GgufFile::open(path)?;
        let config = DecoderConfig::from_gguf(path, file.content())?;
        file.check(&config)?;
        let shape = Shape::Decoder(config);
        let files = Files::Gguf(Box::new(file));
        Ok(Self { shape, files })
    }

    /// Takes in every byte that a vector follows from: configuration, tokenizer and weights.
    pub(super) fn digest(&self, hash: &mut Sha256) -> Result<(), LanguageError> {
        for path in self.files() {
            let failed = |source| LanguageError::Read {
                path: path.clone(),
                source,
            };
            let mut file = std::fs::File::open(&path).map_err(failed)?;
            hash.update(file.metadata().map_err(failed)?.len().to_le_bytes());
            std::io::copy(&mut file, hash).map_err(failed)?;
        }
        Ok(())
    }

    /// What kind of model it is, and its shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The shape of a decoder; an error if it is none.
    pub fn decoder(&self) -> Result<&DecoderConfig, LanguageError> {
        match &self.shape {
            Shape::Decoder(config) => Ok(config),
            Shape::Encoder(_) => Err(self.another("an encoder; a decoder is needed here")),
        }
    }

    /// The shape of an encoder; an error if it is none.
    pub fn encoder(&self) -> Result<&EncoderConfig, LanguageError> {
        match &self.shape {
            Shape::Encoder(config) => Ok(config),
            Shape::Decoder(_) => Err(self.another("a decoder; an encoder is needed here")),
        }
    }

    fn another(&self, what: &str) -> LanguageError {
        LanguageError::File {
            path: self.path().to_owned(),
            problem: format!("is {what}"),
        }
    }

    /// The GGUF file's metadata, which hold its tokenizer.
    pub(super) fn gguf(&self) -> Option<&GgufFile> {
        match &self.files {
            Files::Gguf(file) => Some(file),
            Files::Folder(_) => None,
        }
    }

    /// The folder or the file.
    pub fn path(&self) -> &Path {
        match &self.files {
            Files::Folder(folder) => folder.path(),
            Files::Gguf(file) => file.path(),
        }
    }

    /// Every file that the model is made of: the GGUF file, or those of the folder, in an order of their own.
    pub fn files(&self) -> Vec<PathBuf> {
        match &self.files {
            Files::Folder(folder) => folder.files(),
            Files::Gguf(file) => vec![file.path().to_owned()],
        }
    }

    /// A tensor of that shape, as f32.
    pub fn tensor(
        &self,
        name: &str,
        shape: &[usize],
        device: &Device,
    ) -> Result<Tensor, LanguageError> {
        let (path, tensor) = match &self.files {
            Files::Folder(folder) => folder.tensor(name, shape)?,
            Files::Gguf(file) => file.tensor(name, shape, self.decoder()?)?,
        };
        let finite = tensor
            .abs()
            .and_then(|tensor| tensor.max_all())
            .and_then(|largest| largest.to_scalar::<f32>())
            .map_err(computing("looking at a tensor"))?;
        // A maximum passes over NaN: the sum does not.
        let sum = tensor
            .sum_all()
            .and_then(|sum| sum.to_scalar::<f32>())
            .map_err(computing("looking at a tensor"))?;
        if !finite.is_finite() || sum.is_nan() {
            return Err(LanguageError::Tensor {
                path,
                tensor: name.to_owned(),
                problem: "holds values that are no numbers".to_owned(),
            });
        }
        tensor
            .to_device(device)
            .map_err(computing("moving a tensor"))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, LanguageError> {
    std::fs::read(path).map_err(|source| LanguageError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Says that a tensor is not as it should be.
fn wrong(path: &Path, tensor: &str, problem: impl Into<String>) -> LanguageError {
    LanguageError::Tensor {
        path: PathBuf::from(path),
        tensor: tensor.to_owned(),
        problem: problem.into(),
    }
}

/// Values by name, as the bytes of a file that [`Weights`] and everybody else reads.
///
/// # Errors
/// None but the tensor library's.
pub fn to_safetensors(values: &BTreeMap<String, Tensor>) -> Result<Vec<u8>, LanguageError> {
    safetensors::serialize(values, None)
        .map_err(|error| LanguageError::Input(format!("values that cannot be written: {error}")))
}

/// The tensors of a file that [`to_safetensors`] wrote.
///
/// # Errors
/// Bytes that are no such file.
pub fn from_safetensors(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>, LanguageError> {
    let read = candle_core::safetensors::load_buffer(bytes, &Device::Cpu);
    Ok(read
        .map_err(computing("reading tensors"))?
        .into_iter()
        .collect())
}
