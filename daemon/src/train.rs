//! Training from recordings, or from what daemons logged: `headwater train bahe`.
//!
//! Before it stand the recordings that [`crate::backtest`] reads and a language model, or the topics of rows and labels; after it a model folder, and predictions for every row, which
//! whoever judges them reads. Rows come from [`crate::Engine`], so they are those that the daemon would have logged; a row sees what happened strictly
//! before its time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use headwater_config::{Config, DeviceChoice};
use headwater_consumers::log::Log;
use headwater_consumers::sequences::Sequences;
use headwater_model::bahe::{
    AdamSettings, Deep, DeepConfig, Depth, Described, FORMAT, Head, HeadConfig, Layers, Objective,
    Place, TrainSettings, Trainer,
};
use headwater_model::dinmp::{Learning, Reads};
use headwater_model::language::{DecoderConfig, Family, Shape, TextEncoder, Weights};
use headwater_model::{DType, Tensor};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::engine::EngineError;
use crate::report::Predicted;

mod artifact;
mod calibrate;
mod configured;
mod error;
mod going;
mod ids;
mod judged;
mod labelled;
mod logged;
mod moments;
mod objective;
mod onward;
mod passes;
mod place;
mod predict;
mod reading;
mod recordings;
mod rows;
mod run;
mod runs;
mod sight;
mod split;
mod towers;
mod trial;
mod vectors;

pub use configured::of_interactions;
pub use error::TrainError;
pub(crate) use going::Going;
pub use ids::Ids;
pub use judged::{Judged, Winner};
pub use objective::objective;
pub(crate) use trial::{Trials, Turn};

use artifact::hex;
use rows::{Recorded, told_apart};

/// Rows of a batch at most, and batches of a step.
const ROWS_MAX: usize = 1_024;
const ACCUMULATE: usize = 1;
/// Part of all requests that is scored before any of it is learned from, where learning goes on.
const PIECE: f64 = 0.01;

/// What becomes of texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Texts {
    /// Nothing: the rows' other numbers alone.
    None,
    /// Means of shallow vectors, without deep layers.
    Mean,
    /// Deep layers that stay as they are.
    Frozen,
    /// Deep layers that learn.
    Deep,
}

/// What becomes of the rows behind those that are learned from by passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Regime {
    /// They are scored by the model as it is then: nothing is learned from them.
    #[default]
    Frozen,
    /// In the order of time, a hundredth of all requests after the other: each is scored, and learned from once what became of it is known. Rows of a log judge by what was said before they were learned from: the way
    /// in which the model comes about, and not the model as it is in the end, which a trial must show.
    Prequential,
}

/// What the head is made of, beside its hidden layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Parts {
    /// Parts of the second hidden layer that tasks of scenarios mix; 0: none.
    pub experts: usize,
    /// Rank of the cross; 0: none.
    pub cross: usize,
}

/// Where rows come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Recordings, which go through the production step.
    Recordings {
        /// Item records, one a line; plain or gzipped.
        items: PathBuf,
        /// `{"topic", "record"}` a line, in the order of time; plain or gzipped.
        events: PathBuf,
    },
    /// The feature log and the labels of a log: rows as they were scored. Numbers alone are learned from; beside a champion that looks at texts, what its rows hold of them as well. Or layers learn ([`Texts::Deep`]): the champion's, and where it has none those of the configuration's language model, of rows that name texts (`texts.logged`).
    Log(Arc<dyn Log>),
}

/// What is trained, and on what.
#[derive(Clone, Debug)]
pub struct TrainBahe {
    /// Where rows come from.
    pub source: Source,
    /// A model folder, or a GGUF file. Of a log: the configuration's.
    pub model: PathBuf,
    /// Where the model goes, the vectors of texts, from which another run begins, and a checkpoint, from which a run that was cut off goes on.
    pub out: PathBuf,
    /// Where predictions of all rows go; none: nowhere.
    pub predictions: Option<PathBuf>,
    /// Where a page goes that shows how the rows behind validation were predicted; none: nowhere.
    pub report: Option<PathBuf>,
    /// What becomes of rows behind those that are learned from.
    pub regime: Regime,
    /// What becomes of texts.
    pub texts: Texts,
    /// Whether it weighs all that users did, by key-vectors.
    pub key_vectors: bool,
    /// How much of them; what is left out shows what it is worth.
    pub reads: Reads,
    /// How rows of ids learn, where it does.
    pub ids: Ids,
    /// Shallow layers: those below the cut. Of a log: those of the configuration.
    pub cut: usize,
    /// Deep layers. Of a log: where the champion has none.
    pub layers: usize,
    /// Behaviors of a run at most. Of a log: those of the configuration, or of the champion.
    pub limit: usize,
    /// Passes over the rows at most; it ends earlier when the validation loss rises.
    pub passes: u64,
    /// Learning rate of the head.
    pub rate: f64,
    /// Learning rate of the deep layers, as a part of the head's.
    pub deep_factor: f64,
    /// Positions of a batch.
    pub positions: usize,
    /// Where texts are encoded and layers learn.
    pub device: DeviceChoice,
    /// In what numbers deep layers are computed; none: what is usual there.
    pub numbers: Option<DType>,
    /// Share of the requests to learn from, and to validate on; those behind are scored alone.
    pub shares: [f64; 2],
    /// Of first values and of the order of rows.
    pub seed: u64,
    /// What the head is made of.
    pub parts: Parts,
    /// What it lowers, where there are several tasks.
    pub objective: Objective,
    /// Labelled rows of a log that there must be, and how many of them, the newest, are taken.
    pub log_rows: [usize; 2],
    /// The newest of them must be later than this, Unix milliseconds: what was learned from before is not learned from again.
    pub later_than: i64,
    /// What becomes of it if it is better than the champion there is, on rows behind those that it was made from.
    pub winner: Winner,
    /// Steps of this run at most: the next run goes on from there. None: to the end.
    pub steps: Option<u64>,
    /// Whether to draw bars.
    pub progress: bool,
}

/// What was trained.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TrainSummary {
    /// Rows learned from, validated on, and scored alone.
    pub rows: [usize; 3],
    /// Labelled items without a row in the feature log, and logged requests whose rows are of another schema: left out.
    pub left_out: [u64; 2],
    /// Labelled rows that do not hold what the champion sees of texts: left out.
    #[serde(skip_serializing_if = "is_zero")]
    pub without_vectors: u64,
    /// Labelled items that are left for later: another task's labels of their rows, of a longer window, may still come.
    pub waiting: u64,
    /// Texts asked for: of behaviors and of items.
    pub texts: u64,
    /// Of them distinct: what the shallow layers met.
    pub distinct_texts: usize,
    /// Tokens of the distinct texts that were encoded now, and how long that took.
    pub encoded: usize,
    /// Seconds of encoding.
    pub encode_seconds: f64,
    /// Seconds of the passes.
    pub train_seconds: f64,
    /// Mean loss of the validation rows before training and after each pass.
    pub validation_loss: Vec<f64>,
    /// The pass whose values were kept; 0: those before training.
    pub kept: usize,
    /// Mean share of pairs of tasks whose gradients were opposed, by pass; empty where no rule looks at them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<f64>,
    /// How well the rows behind validation were predicted, or without any those that validated, by task; empty unless predictions or a report are asked for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub predicted: BTreeMap<String, Predicted>,
    /// Pieces of rows that were learned from after they were scored.
    pub onward: usize,
    /// Slope and shift by scenario and task that were laid over the log-odds last, so that probabilities fit the validation rows, or the newest pieces; the first scenario stands for those that the model does not
    /// know, or for all.
    pub calibration: Vec<Vec<[f64; 2]>>,
    /// Positions of the deep layers, with padding, of all passes.
    pub positions: u64,
    /// Whether training has come to its end: if not, the next run goes on.
    pub finished: bool,
    /// Time of the newest row, Unix milliseconds.
    #[serde(skip)]
    pub newest: i64,
    /// How it stands beside the champion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judged: Option<Judged>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl TrainBahe {
    /// What rows are made by: the configuration, with the language model, cut and limit that are trained on, and no model that scores over the baseline,
    /// which the new one is to do itself.
    fn effective(&self, config: &Config) -> Config {
        let mut config = config.clone();
        config.scoring.model = None;
        config.texts.device = self.device;
        let of_recordings = matches!(self.source, Source::Recordings { .. });
        if of_recordings && self.texts != Texts::None {
            config.texts.encoder = Some(self.model.display().to_string());
        }
        // What was scored was scored by the configuration's.
        if of_recordings && config.texts.encoder.is_some() {
            config.texts.cut = self.cut;
        }
        if of_recordings {
            config.texts.sequence_max = self.limit;
        }
        // So that a champion that reads them can be opened.
        config.key_vectors.logged = true;
        config
    }

    /// What becomes of vectors, with the first values of deep layers: where a log's rows teach none that a champion has, the language model's own.
    fn depth(
        &self,
        config: &Config,
        encoder: Option<&TextEncoder>,
    ) -> Result<(Depth, BTreeMap<String, Tensor>), TrainError> {
        Ok(match (self.texts, encoder) {
            (Texts::None, _) | (_, None) => (Depth::None, BTreeMap::new()),
            (Texts::Mean, _) => (Depth::Mean { limit: self.limit }, BTreeMap::new()),
            (Texts::Frozen | Texts::Deep, Some(encoder)) => {
                let (values, config) = self.deep(config, encoder)?;
                let frozen = self.texts == Texts::Frozen;
                (Depth::Deep { config, frozen }, values)
            }
        })
    }

    /// What the model will say of itself.
    fn described(
        &self,
        config: &Config,
        recorded: &Recorded,
        encoder: Option<&TextEncoder>,
        (head, depth): (&HeadConfig, &Depth),
    ) -> Described {
        Described {
            layers: match depth {
                // Whose towers they are says more.
                Depth::None | Depth::Logged => (Layers::None, None),
                Depth::Mean { .. } => (Layers::Mean, None),
                Depth::Deep { config, .. } => (Layers::Deep, Some(config.blocks.clone())),
            },
            encoder: (
                encoder.map(|encoder| hex(encoder.version())),
                config.texts.cut,
            ),
            limit: config.texts.sequence_max,
            sequences: config.sequences.keys().cloned().collect(),
            scenarios: told_apart(config).to_vec(),
            head: head.clone(),
            features: recorded.moments.clone(),
            key_vectors: recorded
                .schema
                .key_vectors()
                .filter(|_| self.key_vectors)
                .cloned(),
            reads: self.reads,
            objective: self.objective,
            texts: Sequences::new(config).description(),
            rows: recorded.split_sizes(),
            reached: None,
        }
    }

    /// The model before it learned anything.
    fn trainer(
        &self,
        head: &HeadConfig,
        (depth, deep): (Depth, BTreeMap<String, Tensor>),
        interest: Option<Learning>,
        place: &Place,
    ) -> Result<Trainer, TrainError> {
        let mut values = Head::random(head, self.seed)?;
        values.extend(deep);
        if let Some(interest) = &interest {
            values.extend(interest.random(self.seed)?);
        }
        let settings = TrainSettings {
            adam: AdamSettings {
                rate: self.rate,
                beta: [0.9, 0.999],
                epsilon: 1e-8,
                decay: 0.01,
            },
            deep_factor: self.deep_factor,
            positions: self.positions,
            rows_max: ROWS_MAX,
            accumulate: ACCUMULATE,
            longest: 1.0,
            seed: self.seed,
            objective: self.objective,
            // Rows of ids are soon learned by heart: the last steps are to be small ones.
            falling: self.key_vectors.then_some(self.passes),
        };
        let given = (interest, settings);
        let trainer = Trainer::new(depth, head, &values, &self.model, given, place)?;
        Ok(trainer)
    }

    /// The model whose layers learn: a decoder must have as many above the cut.
    fn language_model(&self, config: &Config) -> Result<Weights, TrainError> {
        let weights = match (&self.source, &config.texts.encoder) {
            (Source::Log(_), Some(named)) => {
                Weights::open(&crate::models::locate(config, named).map_err(EngineError::from)?)?
            }
            _ => Weights::open(&self.model)?,
        };
        let (cut, layers) = (config.texts.cut, self.layers);
        match weights.shape() {
            Shape::Decoder(held) if cut + layers > held.layers => {
                let held = held.layers;
                Err(TrainError::Layers { layers, cut, held })
            }
            _ => Ok(weights),
        }
    }

    /// First values of the deep layers: the decoder's own above the cut; over an encoder, which has no such layers, random ones.
    fn deep(
        &self,
        config: &Config,
        encoder: &TextEncoder,
    ) -> Result<(BTreeMap<String, Tensor>, DeepConfig), TrainError> {
        let weights = self.language_model(config)?;
        let (cut, limit) = (config.texts.cut, config.texts.sequence_max);
        let deep = |blocks: DecoderConfig| DeepConfig {
            blocks: DecoderConfig {
                layers: self.layers,
                ..blocks
            },
            sequences: config.sequences.len(),
            limit,
        };
        match weights.shape() {
            Shape::Decoder(blocks) => {
                let config = deep(blocks.clone());
                let first = encoder.first_state()?;
                let values = Deep::above(&weights, cut, &first, &config)?;
                Ok((values, config))
            }
            Shape::Encoder(held) => {
                let config = deep(DecoderConfig {
                    family: Family::Llama,
                    layers: self.layers,
                    width: held.width,
                    inner: held.width * 8 / 3,
                    heads: held.heads,
                    kv_heads: held.heads,
                    head_width: held.width / held.heads,
                    vocabulary: held.vocabulary,
                    positions_max: limit + 1,
                    rope_base: 10_000.0,
                    norm_epsilon: 1e-5,
                    first_token: 0,
                    tied: true,
                });
                Ok((Deep::random(&config, self.seed)?, config))
            }
        }
    }

    /// Hash of what is trained on what.
    fn identity(
        &self,
        recorded: &Recorded,
        encoder: Option<&TextEncoder>,
        place: &Place,
    ) -> String {
        let mut hash = Sha256::new();
        let settings = (
            (self.texts, self.layers, self.limit),
            (self.rate, self.deep_factor, self.positions, self.seed),
            // A checkpoint of another network is not gone on with.
            (ROWS_MAX, ACCUMULATE, FORMAT),
        );
        hash.update(serde_json::to_vec(&settings).unwrap_or_default());
        // Nothing of what was always so: what was cut off before there was a choice goes on. Another device's sums are not the same to the bit.
        if self.objective != Objective::Labels {
            hash.update(serde_json::to_vec(&self.objective).unwrap_or_default());
        }
        if self.parts != Parts::default() {
            hash.update(serde_json::to_vec(&self.parts).unwrap_or_default());
        }
        if self.key_vectors {
            let of = (&self.ids, self.passes);
            hash.update(serde_json::to_vec(&of).unwrap_or_default());
        }
        if !self.reads.is_whole() {
            hash.update(serde_json::to_vec(&self.reads).unwrap_or_default());
        }
        if !place.device.is_cpu() || place.numbers != DType::F32 {
            hash.update(headwater_model::device::name(&place.device));
            hash.update(place.numbers.as_str());
        }
        hash.update(encoder.map_or([0; 32], |encoder| *encoder.version()));
        recorded.digest(&mut hash);
        hex(&hash.finalize())
    }
}
