//! A folder in Hugging Face's layout: `model.safetensors`, or several files that `model.safetensors.index.json` lists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, Metadata};

use super::{computing, read, wrong};
use crate::language::error::LanguageError;

/// Bytes of a header at most, as the format itself has it.
const HEADER_MAX: u64 = 100_000_000;

/// Which tensor is in which file, where there are several.
const INDEX: &str = "model.safetensors.index.json";

/// The files of a folder and where each tensor lies.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    tensors: BTreeMap<String, Placed>,
}

#[derive(Debug)]
struct Placed {
    file: PathBuf,
    dtype: Dtype,
    shape: Vec<usize>,
    at: u64,
    bytes: usize,
}

/// Which file holds which tensor.
#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Self, LanguageError> {
        let index = path.join(INDEX);
        let mut folder = Self {
            path: path.to_owned(),
            tensors: BTreeMap::new(),
        };
        if !index.exists() {
            folder.add(&path.join("model.safetensors"))?;
            return Ok(folder);
        }
        let parsed: Index =
            serde_json::from_slice(&read(&index)?).map_err(|error| LanguageError::File {
                path: index.clone(),
                problem: format!("is no index of tensors: {error}"),
            })?;
        let files: BTreeSet<&String> = parsed.weight_map.values().collect();
        for file in files {
            if Path::new(file).components().count() != 1 {
                return Err(LanguageError::File {
                    path: index,
                    problem: format!("names a file outside of its folder: `{file}`"),
                });
            }
            folder.add(&path.join(file))?;
        }
        for (tensor, file) in &parsed.weight_map {
            let placed = folder.tensors.get(tensor);
            if placed.is_none_or(|placed| placed.file != path.join(file)) {
                return Err(wrong(&index, tensor, format!("is not in `{file}`")));
            }
        }
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// All files that the model is made of, in an order of their own.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let weights: BTreeSet<&PathBuf> = self.tensors.values().map(|one| &one.file).collect();
        let named = ["config.json", "tokenizer.json"].map(|name| self.path.join(name));
        let index = Some(self.path.join(INDEX)).filter(|path| path.exists());
        named
            .into_iter()
            .chain(index)
            .chain(weights.into_iter().cloned())
            .collect()
    }

    /// Reads a file's header and checks it against the file's length: what is cut off is found before anything is read.
    fn add(&mut self, path: &Path) -> Result<(), LanguageError> {
        let failed = |source| LanguageError::Read {
            path: path.to_owned(),
            source,
        };
        let bad = |problem: String| LanguageError::File {
            path: path.to_owned(),
            problem,
        };
        let mut file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut size = [0; 8];
        if length < 8 {
            return Err(bad(format!("is no safetensors file: {length} bytes")));
        }
        file.read_exact(&mut size).map_err(failed)?;
        let header = u64::from_le_bytes(size);
        if header > HEADER_MAX || header > length - 8 {
            return Err(bad(format!(
                "is no safetensors file, or is cut off: a header of {header} bytes in {length}"
            )));
        }
        let mut bytes = vec![0; header as usize];
        file.read_exact(&mut bytes).map_err(failed)?;
        let metadata: Metadata = serde_json::from_slice(&bytes)
            .map_err(|error| bad(format!("has a header that cannot be read: {error}")))?;
        let whole = 8 + header + metadata.data_len() as u64;
        if whole != length {
            return Err(bad(format!(
                "is cut off or too long: its header tells of {whole} bytes, it has {length}"
            )));
        }
        for (name, info) in metadata.tensors() {
            let (from, to) = info.data_offsets;
            let placed = Placed {
                file: path.to_owned(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                at: 8 + header + from as u64,
                bytes: to - from,
            };
            if let Some(before) = self.tensors.insert(name.clone(), placed) {
                let also = before.file.display();
                return Err(wrong(path, &name, format!("is in {also}, too")));
            }
        }
        Ok(())
    }

    /// A tensor as f32, and the file that it is from.
    pub(super) fn tensor(
        &self,
        name: &str,
        shape: &[usize],
    ) -> Result<(PathBuf, Tensor), LanguageError> {
        // Some exports leave the common prefix out, and some put one before.
        let placed = self
            .tensors
            .get(name)
            .or_else(|| self.tensors.get(name.strip_prefix("model.")?))
            .or_else(|| self.tensors.get(&format!("bert.{name}")))
            .ok_or_else(|| wrong(&self.path, name, "is missing"))?;
        if placed.shape != shape {
            let problem = format!("has the shape {:?}, not {shape:?}", placed.shape);
            return Err(wrong(&placed.file, name, problem));
        }
        let dtype = match placed.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => {
                let problem = format!("is of type {other:?}; supported are F32, F16 and BF16");
                return Err(wrong(&placed.file, name, problem));
            }
        };
        let failed = |source| LanguageError::Read {
            path: placed.file.clone(),
            source,
        };
        let mut file = File::open(&placed.file).map_err(failed)?;
        file.seek(SeekFrom::Start(placed.at)).map_err(failed)?;
        let mut bytes = vec![0; placed.bytes];
        file.read_exact(&mut bytes).map_err(failed)?;
        let tensor = Tensor::from_raw_buffer(&bytes, dtype, shape, &Device::Cpu)
            .and_then(|tensor| tensor.to_dtype(DType::F32))
            .map_err(computing("reading a tensor"))?;
        Ok((placed.file.clone(), tensor))
    }
}
