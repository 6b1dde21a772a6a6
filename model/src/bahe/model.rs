//! A trained model as a folder: `model.safetensors`, its values, and `manifest.json`, which says what they are of.
//!
//! Before it, [`super::Trainer`] has learned; after it, the stream computes vectors with the deep layers and scores with the head. The manifest names all that
//! the values rest on (the encoder of texts, sequences, tasks, the schema of rows), so that nothing else is ever fed to them, and holds the hash of the
//! values: a folder is what was written, or it is refused.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Tensor};
use sha2::{Digest as _, Sha256};

use crate::dinmp::Interest;
use crate::feature::FeatureSchema;
use crate::feature_log::{LoggedRequest, LoggedVectors};
use crate::language::{LanguageError, from_safetensors, to_safetensors};

use super::deep::Deep;
use super::manifest::{Described, KIND, Layers, MANIFEST, Manifest, VALUES, half, hex};
use super::scorer::Scorer;
use super::towers::{deep_id, deep_of, towers_of};

/// A trained model.
#[derive(Debug)]
pub struct BaheModel {
    manifest: Manifest,
    id: [u8; 16],
    deep: Option<Deep>,
    deep_id: [u8; 16],
    towers: Option<[u8; 16]>,
    interest: Option<Interest>,
    scorer: Scorer,
}

impl BaheModel {
    /// Opens a folder, for rows of that schema.
    ///
    /// # Errors
    /// A folder that is none of a model, values that are not what the manifest says, or a model of other rows.
    pub fn open(folder: &Path, schema: &FeatureSchema) -> Result<Self, LanguageError> {
        let read = |name: &str| {
            let path = folder.join(name);
            // A pipe of that name would never end.
            let is_file = std::fs::metadata(&path).is_ok_and(|found| found.is_file());
            let read = if is_file || !path.exists() {
                std::fs::read(&path)
            } else {
                Err(std::io::Error::other("is no file"))
            };
            match read {
                Ok(bytes) => Ok((path, bytes)),
                Err(source) => Err(LanguageError::Read { path, source }),
            }
        };
        let (path, text) = read(MANIFEST)?;
        let manifest = Manifest::read(&path, &text)?;
        manifest.places_in(schema, &path)?;
        let (path, bytes) = read(VALUES)?;
        let found = hex(&Sha256::digest(&bytes));
        if found != manifest.values {
            return Err(LanguageError::File {
                path,
                problem: format!(
                    "has the hash {found}, where its manifest says {}: it was cut off or changed",
                    manifest.values
                ),
            });
        }
        let tensors = from_safetensors(&bytes).map_err(|error| LanguageError::File {
            path: path.clone(),
            problem: format!("cannot be read: {}", words(&error)),
        })?;
        // Rows of ids have keys and hours beside numbers, and are looked at where they are read.
        let others = |name: &str| name.starts_with("table.");
        if let Some((name, odd)) =
            (tensors.iter()).find(|(name, tensor)| tensor.dtype() != DType::F32 && !others(name))
        {
            return Err(LanguageError::Tensor {
                path,
                tensor: name.clone(),
                problem: format!("is of {:?}, and what is learned is of F32", odd.dtype()),
            });
        }
        let numbers = tensors.iter();
        for (name, tensor) in numbers.filter(|(_, tensor)| tensor.dtype() == DType::F32) {
            let sum = tensor.sum_all().and_then(|sum| sum.to_scalar::<f32>());
            if !sum.is_ok_and(f32::is_finite) {
                return Err(LanguageError::Tensor {
                    path,
                    tensor: name.clone(),
                    problem: "holds what is no finite number".to_owned(),
                });
            }
        }
        Self::with(manifest, schema, &tensors, &path)
    }

    /// Whether the model of this manifest could be opened for rows of that schema.
    ///
    /// # Errors
    /// As [`BaheModel::open`], of all that a manifest says.
    pub fn is_for(manifest: &[u8], schema: &FeatureSchema) -> Result<(), LanguageError> {
        let path = Path::new(MANIFEST);
        let places = Manifest::read(path, manifest)?.places_in(schema, path);
        places.map(drop)
    }

    /// Whether rows that the model of this manifest scores name all that this one's vectors are made of: of the same encoder, the texts of its sequences, as far back as its runs begin. `is_logged`: whether rows of a model that looks at none name them.
    ///
    /// # Errors
    /// A manifest that is none.
    pub fn is_told_by(&self, manifest: &[u8], is_logged: bool) -> Result<bool, LanguageError> {
        let theirs = Manifest::read(Path::new(MANIFEST), manifest)?;
        if theirs.layers == Layers::None {
            return Ok(is_logged);
        }
        let ours = &self.manifest;
        let names = |name: &String| theirs.sequences.contains(name);
        let is_told = theirs.encoder == ours.encoder
            && theirs.limit >= ours.limit
            && ours.sequences.iter().all(names);
        Ok(is_told)
    }

    /// A model that lies nowhere: what [`BaheModel::open`] makes of a folder with these values.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn of(
        described: Described,
        schema: &FeatureSchema,
        values: &BTreeMap<String, Tensor>,
    ) -> Result<Self, LanguageError> {
        let manifest = Manifest::of(described, schema, &to_safetensors(values)?);
        Self::with(manifest, schema, values, Path::new("the values"))
    }

    fn with(
        manifest: Manifest,
        schema: &FeatureSchema,
        tensors: &BTreeMap<String, Tensor>,
        path: &Path,
    ) -> Result<Self, LanguageError> {
        let places = manifest.places_in(schema, path)?;
        let scorer = Scorer::of(&manifest.head, places, &manifest.features, tensors, path)?;
        let deep = deep_of(&manifest, tensors, path)?;
        let deep_id = deep_id(&manifest, tensors)?;
        Ok(Self {
            id: half(&Sha256::digest(manifest.bytes())),
            towers: (deep.as_ref())
                .map(|_| towers_of(deep_id, tensors))
                .transpose()?,
            deep,
            deep_id,
            interest: match &manifest.key_vectors {
                Some(spec) => {
                    let of = (spec, manifest.reads, manifest.head.projections());
                    Some(Interest::of(of, tensors, path)?)
                }
                None => None,
            },
            manifest,
            scorer,
        })
    }

    /// What it is of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What models of this kind are called.
    pub const NAME: &str = KIND;

    /// The beginning of its id, as answers and rows name it.
    pub fn version(&self) -> u32 {
        u32::from_be_bytes(*self.id.first_chunk().expect("invariant: ids are longer"))
    }

    /// Hash of manifest and values.
    pub fn id(&self) -> [u8; 16] {
        self.id
    }

    /// The encoder whose vectors it was trained on: the beginning of its version, as vectors lie under it.
    pub fn encoder(&self) -> Option<[u8; 16]> {
        let version = self.manifest.encoder.as_ref()?;
        let mut id = [0; 16];
        for (byte, digits) in id.iter_mut().zip(version.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(id)
    }

    /// The layers that make vectors of users and items, where it looks at texts.
    pub fn deep(&self) -> Option<&Deep> {
        self.deep.as_ref()
    }

    /// Hash of all that such a vector follows from, but texts and times: encoder, layers, and where runs begin. Two models with the same deep layers share
    /// vectors.
    pub fn deep_id(&self) -> [u8; 16] {
        self.deep_id
    }

    /// Hash of all that the head's view of texts follows from, but texts and times: the layers, and its projections of their vectors. What one model saw, another with the same towers would have seen. None: it looks at no texts.
    pub fn towers(&self) -> Option<[u8; 16]> {
        self.towers
    }

    /// Which of the head's scenarios one of this name is; 0: none of them.
    pub fn scenario(&self, name: &str) -> usize {
        let scenarios = &self.manifest.scenarios;
        let found = scenarios.iter().position(|one| one == name);
        found.map_or(0, |place| place + 1)
    }

    /// What the head saw of texts when it scored a candidate: projections of the user's vectors, and the candidate's; nothing where it looks at none. None where it would not know: a model with other towers scored the candidate, or the baseline did.
    pub fn saw<'a>(
        &self,
        logged: &'a LoggedRequest<'_>,
        candidate: usize,
    ) -> Option<(&'a [f32], &'a [f32])> {
        let head = &self.manifest.head;
        if head.width == 0 {
            return Some((&[], &[]));
        }
        let users = logged.vectors.as_ref().map_or(&[][..], |of| &*of.users);
        let item = &*logged.candidates[candidate].vector;
        let towers = logged.vectors.as_ref().map_or("", |of| &of.towers);
        let is_ours = if towers.is_empty() {
            logged.model == KIND && logged.version == self.version()
        } else {
            self.towers.is_some_and(|ours| hex(&ours) == towers)
        };
        let is_whole =
            [users.len(), item.len()] == [head.sequences * head.projected, head.projected];
        (is_ours && is_whole).then_some((users, item))
    }

    /// Whether a row does not hold what this model sees of texts: its likenesses are of another encoder's vectors, a trained model scored it by other towers, or it names the texts and nobody looked at them.
    pub fn is_blind_to(&self, logged: &LoggedRequest<'_>) -> bool {
        let encoder = self.encoder().map(|encoder| hex(&encoder));
        if encoder.is_some_and(|ours| logged.embeddings.as_deref() != Some(&*ours)) {
            return true;
        }
        let Some(towers) = self.towers else {
            return false;
        };
        if (logged.vectors.as_ref()).is_some_and(LoggedVectors::is_of_nobody) {
            return true;
        }
        let theirs = logged.vectors.as_ref().map_or("", |of| &*of.towers);
        let is_ours = if theirs.is_empty() {
            logged.version == self.version()
        } else {
            hex(&towers) == theirs
        };
        logged.model == KIND && !is_ours
    }

    /// What weighs all that a user did, where it does.
    pub fn interest(&self) -> Option<&Interest> {
        self.interest.as_ref()
    }

    /// The head.
    pub fn scorer(&self) -> &Scorer {
        &self.scorer
    }
}

/// An error with what caused it.
fn words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}
