//! A trained model as a folder: `model.safetensors`, its values, and `manifest.json`, which says what they are of.
//!
//! Before it, [`super::Trainer`] has learned; after it, the stream computes vectors with the deep layers and scores with the head. The manifest names all that
//! the values rest on (the encoder of texts, sequences, tasks, the schema of rows), so that nothing else is ever fed to them, and holds the hash of the
//! values: a folder is what was written, or it is refused.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::dinmp::{Interest, Reads, matches, outputs};
use crate::feature::{Columns, FeatureSchema, KeyVectorSpec, Projection};
use crate::feature_log::LoggedRequest;
use crate::language::{DecoderConfig, LanguageError, from_safetensors, to_safetensors};

use super::deep::Deep;
use super::head::HeadConfig;
use super::scorer::Scorer;
use super::towers::{deep_id, deep_of, towers_of};
use super::trainer::Objective;

/// The version of models that this build writes and reads: raised with each change of the network, whose values are others then.
pub const FORMAT: u32 = 5;
/// What kind of model it is.
const KIND: &str = "bahe";
/// Behaviors of a run at most: more than any configuration allows.
const LIMIT_MAX: usize = 4_096;
/// The file of the manifest.
pub const MANIFEST: &str = "manifest.json";
/// The file of values.
pub const VALUES: &str = "model.safetensors";

/// What becomes of the vectors of texts in a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layers {
    /// Nothing: the row's other numbers alone.
    None,
    /// Means, without deep layers.
    Mean,
    /// Deep layers.
    Deep,
}

/// What values are of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: u32,
    kind: String,
    /// Hash of the values' file, SHA-256 in hexadecimal.
    values: String,
    /// The same of this manifest, where it is empty.
    manifest: String,
    /// What becomes of texts.
    pub layers: Layers,
    /// Version of the encoder of texts, in hexadecimal; none where neither vectors nor rows have anything of texts.
    pub encoder: Option<String>,
    /// Its layers that are run.
    pub cut: usize,
    /// The deep layers, where there are any.
    pub blocks: Option<DecoderConfig>,
    /// Behaviors of a run at most.
    pub limit: usize,
    /// Sequences of a user, in the order in which the head takes them.
    pub sequences: Vec<String>,
    /// Hash of the schema of rows, as 16 hexadecimal digits.
    pub schema: String,
    /// What it is the hash of, a line a thing.
    rows_described: Vec<String>,
    /// The same for others: rows that have all of it, and more, are read too. Models of before have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    columns: Option<Columns>,
    /// What stands for behaviors in its sequences, and which those are: a line a thing.
    pub texts_described: Vec<String>,
    /// Tasks, in the order of the head's log-odds.
    pub tasks: Vec<String>,
    /// Scenarios that the head tells apart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scenarios: Vec<String>,
    /// The head.
    pub head: HeadConfig,
    /// Mean and spread of each number of a row, squashed.
    pub features: Vec<[f32; 2]>,
    /// The key-vectors that it weighs, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_vectors: Option<KeyVectorSpec>,
    /// How much of them.
    #[serde(default, skip_serializing_if = "Reads::is_whole")]
    pub reads: Reads,
    /// What learning lowered.
    pub objective: Objective,
    /// Rows learned from, validated on, and scored alone.
    pub rows: [usize; 3],
    /// Up to where the topics of labels and of rows were used up for it, by learning, validating or judging: next offsets by partition; none: it is of recordings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<[Vec<i64>; 2]>,
}

/// What all manifests have had.
#[derive(Deserialize)]
struct FormatAndKind {
    format: u32,
    kind: String,
}

/// What a manifest says besides its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// See [`Manifest::layers`]; with what the deep layers look like.
    pub layers: (Layers, Option<DecoderConfig>),
    /// See [`Manifest::encoder`] and [`Manifest::cut`].
    pub encoder: (Option<String>, usize),
    /// See [`Manifest::limit`].
    pub limit: usize,
    /// See [`Manifest::sequences`].
    pub sequences: Vec<String>,
    /// See [`Manifest::texts_described`].
    pub texts: Vec<String>,
    /// See [`Manifest::scenarios`].
    pub scenarios: Vec<String>,
    /// See [`Manifest::head`].
    pub head: HeadConfig,
    /// See [`Manifest::features`].
    pub features: Vec<[f32; 2]>,
    /// See [`Manifest::key_vectors`].
    pub key_vectors: Option<KeyVectorSpec>,
    /// See [`Manifest::reads`].
    pub reads: Reads,
    /// See [`Manifest::objective`].
    pub objective: Objective,
    /// See [`Manifest::rows`].
    pub rows: [usize; 3],
    /// See [`Manifest::reached`].
    pub reached: Option<[Vec<i64>; 2]>,
}

impl Manifest {
    /// The manifest of values that are written as these bytes.
    pub fn of(described: Described, schema: &FeatureSchema, values: &[u8]) -> Self {
        let tasks = schema.tasks().iter().map(|task| task.name.clone());
        let mut manifest = Self {
            format: FORMAT,
            kind: KIND.to_owned(),
            values: hex(&Sha256::digest(values)),
            manifest: String::new(),
            layers: described.layers.0,
            blocks: described.layers.1,
            encoder: described.encoder.0,
            cut: described.encoder.1,
            limit: described.limit,
            sequences: described.sequences,
            schema: format!("{:016x}", schema.hash()),
            rows_described: schema.description().lines().map(str::to_owned).collect(),
            columns: Some(schema.columns()),
            texts_described: described.texts,
            tasks: tasks.collect(),
            scenarios: described.scenarios,
            head: described.head,
            features: described.features,
            key_vectors: described.key_vectors,
            reads: described.reads,
            objective: described.objective,
            rows: described.rows,
            reached: described.reached,
        };
        manifest.manifest = manifest.sum();
        manifest
    }

    /// The hash of all of it but itself.
    pub(super) fn sum(&self) -> String {
        let bare = Self {
            manifest: String::new(),
            ..self.clone()
        };
        hex(&Sha256::digest(bare.bytes()))
    }

    /// As it is written.
    pub fn bytes(&self) -> Vec<u8> {
        let mut text =
            serde_json::to_vec_pretty(self).expect("invariant: texts and numbers are JSON");
        text.push(b'\n');
        text
    }

    fn read(path: &Path, text: &[u8]) -> Result<Self, LanguageError> {
        let wrong = |problem: String| LanguageError::File {
            path: path.to_owned(),
            problem,
        };
        let not = |error: serde_json::Error| wrong(format!("is no manifest of a model: {error}"));
        // The format first: another one may have other keys.
        let head: FormatAndKind = serde_json::from_slice(text).map_err(not)?;
        if head.format != FORMAT || head.kind != KIND {
            return Err(wrong(format!(
                "is of format {} and kind \"{}\"; this build reads format {FORMAT} of \"{KIND}\": train it anew",
                head.format, head.kind
            )));
        }
        let manifest: Self = serde_json::from_slice(text).map_err(not)?;
        if manifest.manifest != manifest.sum() {
            return Err(wrong("was changed since it was written".to_owned()));
        }
        let head = &manifest.head;
        let has_width = head.width > 0;
        let is_hash =
            |text: &String| text.len() == 64 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let odd =
            |[mean, spread]: &[f32; 2]| !mean.is_finite() || !spread.is_finite() || *spread <= 0.0;
        let blocks = manifest.blocks.as_ref();
        let odd_blocks = blocks.is_some_and(|blocks| {
            let numbers = [blocks.norm_epsilon, blocks.rope_base];
            blocks.width != head.width || !numbers.iter().all(|one| *one > 0.0 && one.is_finite())
        });
        let columns = manifest.columns.as_ref();
        let odd_columns = columns.is_some_and(|columns| {
            columns.tasks != manifest.tasks
                || !columns.are_told_apart()
                || columns.shared.len() + columns.own.len() != head.features
        });
        let spec = manifest.key_vectors.as_ref();
        let outputs = spec.map_or(0, |spec| outputs(spec.stretches()));
        let matches = spec.map_or(0, |spec| matches(spec.stretches()));
        let contradictions = [
            (
                [head.interest, head.matches] != [outputs, matches],
                "key_vectors",
            ),
            (spec.is_none() && !manifest.reads.is_whole(), "reads"),
            (has_width && manifest.encoder.is_none(), "encoder"),
            (!manifest.encoder.iter().all(is_hash), "encoder"),
            ((manifest.layers == Layers::None) == has_width, "layers"),
            (
                (manifest.layers == Layers::Deep) != blocks.is_some(),
                "blocks",
            ),
            (odd_blocks, "blocks"),
            (head.sequences != manifest.sequences.len(), "sequences"),
            (head.tasks != manifest.tasks.len(), "tasks"),
            (odd_columns, "columns"),
            (head.scenarios != manifest.scenarios.len(), "scenarios"),
            (!head.is_sane(), "head"),
            (head.features != manifest.features.len(), "features"),
            (manifest.features.iter().any(odd), "features"),
            (
                !(2..=LIMIT_MAX).contains(&manifest.limit) || !manifest.limit.is_multiple_of(2),
                "limit",
            ),
        ];
        match contradictions.iter().find(|(wrong, _)| *wrong) {
            None => Ok(manifest),
            Some((_, key)) => Err(LanguageError::Key {
                path: path.to_owned(),
                key: (*key).to_owned(),
                problem: "is odd, or does not go with the rest".to_owned(),
            }),
        }
    }
}

impl Manifest {
    /// Where rows of that schema have what it was trained on: all of it, meaning the same.
    fn places_in(&self, schema: &FeatureSchema, path: &Path) -> Result<Projection, LanguageError> {
        let ours = format!("{:016x}", schema.hash());
        let columns = match &self.columns {
            Some(columns) => columns.clone(),
            None if self.schema == ours => schema.columns(),
            // Of before columns were told.
            None => Columns::default(),
        };
        let places = Projection::new(&columns, schema);
        let problem = match places {
            Ok(places)
                if [places.shared.len() + places.own.len(), places.tasks.len()]
                    == [self.head.features, self.head.tasks] =>
            {
                return self.check_key_vectors(schema, path).map(|()| places);
            }
            Ok(_) => String::new(),
            Err(lacked) => format!("`{lacked}` is not there, or means something else; "),
        };
        Err(LanguageError::Key {
            path: path.to_owned(),
            key: "schema".to_owned(),
            problem: format!(
                "is {}, where rows are of {ours} by this configuration, and a model reads rows that have all that it was trained on: {problem}{}",
                self.schema,
                first_difference(&self.rows_described, schema.description().lines())
            ),
        })
    }

    /// Whether rows of that schema have the key-vectors that it weighs.
    fn check_key_vectors(&self, schema: &FeatureSchema, path: &Path) -> Result<(), LanguageError> {
        let spec = self.key_vectors.as_ref();
        if let Some(spec) = spec.filter(|spec| Some(*spec) != schema.key_vectors()) {
            return Err(LanguageError::Key {
                path: path.to_owned(),
                key: "key_vectors".to_owned(),
                problem: format!(
                    "are of {spec:?}, and its rows have {}: key_vectors.logged, key_vectors.buckets and kinds.names say what they have",
                    schema
                        .key_vectors()
                        .map_or("none".to_owned(), |ours| format!("{ours:?}"))
                ),
            });
        }
        Ok(())
    }
}

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

    /// [`BaheModel::towers`] of the model of this manifest and these values.
    ///
    /// # Errors
    /// As [`BaheModel::open`], of all that says what it sees texts by.
    pub fn towers_in(manifest: &[u8], values: &[u8]) -> Result<Option<[u8; 16]>, LanguageError> {
        let manifest = Manifest::read(Path::new(MANIFEST), manifest)?;
        if manifest.layers == Layers::None {
            return Ok(None);
        }
        let tensors = from_safetensors(values)?;
        towers_of(deep_id(&manifest, &tensors)?, &tensors).map(Some)
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
                Some(spec) => Some(Interest::of((spec, manifest.reads), tensors, path)?),
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

    /// Whether a row does not hold what this model sees of texts: its likenesses are of another encoder's vectors, or a trained model scored it by other towers.
    pub fn is_blind_to(&self, logged: &LoggedRequest<'_>) -> bool {
        let encoder = self.encoder().map(|encoder| hex(&encoder));
        if encoder.is_some_and(|ours| logged.embeddings.as_deref() != Some(&*ours)) {
            return true;
        }
        let Some(towers) = self.towers else {
            return false;
        };
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

/// The first thing that is not the same in two descriptions.
pub fn first_difference<'a>(trained: &[String], ours: impl Iterator<Item = &'a str>) -> String {
    let ours: Vec<&str> = ours.collect();
    let places = trained.len().max(ours.len());
    let of = |place: usize| {
        let trained = trained.get(place).map_or("nothing", String::as_str);
        (trained, ours.get(place).copied().unwrap_or("nothing"))
    };
    let differs = (0..places).map(of).find(|(trained, ours)| trained != ours);
    differs.map_or_else(String::new, |(trained, ours)| {
        format!("it was trained on `{trained}`, and here is `{ours}`")
    })
}

pub(super) fn half(hash: &[u8]) -> [u8; 16] {
    *hash.first_chunk().expect("invariant: a hash is longer")
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
