//! What a model says of itself: what it was trained on, what it looks like, and the hashes that hold it together.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::dinmp::{Reads, matches, outputs};
use crate::feature::{Columns, FeatureSchema, KeyVectorSpec, Projection};
use crate::language::{DecoderConfig, LanguageError};

use super::head::HeadConfig;
use super::trainer::Objective;

/// The version of models that this build writes and reads: raised with each change of the network, whose values are others then.
pub const FORMAT: u32 = 5;
/// What kind of model it is.
pub(super) const KIND: &str = "bahe";
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
    pub(super) values: String,
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

    pub(super) fn read(path: &Path, text: &[u8]) -> Result<Self, LanguageError> {
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
    pub(super) fn places_in(
        &self,
        schema: &FeatureSchema,
        path: &Path,
    ) -> Result<Projection, LanguageError> {
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
