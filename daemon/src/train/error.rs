//! What can end a training.

use headwater_consumers::log::LogError;
use headwater_model::gradient::TASKS_MAX;
use headwater_model::language::LanguageError;

use super::artifact::ArtifactError;
use crate::champion::ChampionError;
use crate::engine::EngineError;
use crate::exit::Exit;
use crate::predictions::PredictionsError;
use crate::recording::RecordingError;

/// Why training ended.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A recording cannot be read, or a line of it.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The language model, or what is computed by it.
    #[error(transparent)]
    Model(#[from] LanguageError),
    /// The folder of the model.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The predictions cannot be written.
    #[error(transparent)]
    Predictions(#[from] PredictionsError),
    /// More rows to learn from and validate on than there are.
    #[error("--train {learned} and --valid {validated} are more than all requests together")]
    Shares {
        /// Share to learn from.
        learned: f64,
        /// Share to validate on.
        validated: f64,
    },
    /// Nothing says which pass is the best.
    #[error(
        "no row to validate on: --valid says of how many requests, behind those that are learned from"
    )]
    NoValidation,
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A record of rows or labels cannot be read.
    #[error("{place}: {reason}")]
    Logged {
        /// Topic, partition and offset.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// The configured tasks make no schema.
    #[error(transparent)]
    Schema(headwater_model::FeatureSchemaError),
    /// The champion cannot be read, or the model not be made one.
    #[error(transparent)]
    Champion(#[from] ChampionError),
    /// It would be promoted to nobody.
    #[error(
        "--promote and --on-trial: scoring.model names a model, and instances that have one follow no champion"
    )]
    NobodyFollows,
    /// Nothing of a log can be learned from.
    #[error(
        "no labelled row to learn from: {without_row} labelled items have no row in the feature log, {other_schema} requests were scored under other tasks or settings, {waiting} labelled items wait until the last of another task's window is over as well; labels come when their windows have closed (labels.examples)"
    )]
    NoRows {
        /// Labelled items without a row.
        without_row: u64,
        /// Requests of another schema.
        other_schema: u64,
        /// Labelled items that are left for later.
        waiting: u64,
    },
    /// There are not enough labelled rows so far.
    #[error("{found} labelled rows, and {wanted} are wanted")]
    TooFew {
        /// How many there are.
        found: usize,
        /// How many there must be.
        wanted: usize,
    },
    /// There are not enough rows so far that hold what a model beside this champion learns from.
    #[error("{found} labelled rows hold what the champion sees of texts, and {wanted} are wanted")]
    TooFewVectors {
        /// How many there are.
        found: usize,
        /// How many there must be.
        wanted: usize,
    },
    /// The rows that judge would be learned from.
    #[error(
        "--promote with --regime prequential: what would be promoted has learned from the rows that judge it; --on-trial shows it on later ones"
    )]
    OnwardPromoted,
    /// More tasks than a rule makes one gradient of.
    #[error(
        "--objective: {found} tasks, and a rule makes one gradient of at most {TASKS_MAX}; labels takes any number"
    )]
    Tasks {
        /// How many there are.
        found: usize,
    },
    /// Rows of the log hold no texts.
    #[error(
        "--log learns from what rows hold: with --texts none (beside a champion that looks at texts, over its layers as they are), or with --texts deep (layers learn: these, or where there are none those of texts.encoder)"
    )]
    TextsOfLog,
    /// There are no layers that could learn.
    #[error(
        "--log with --texts deep: there are no layers that could learn: the champion looks at means of texts, or at none, and texts.encoder is empty, or texts.logged off"
    )]
    NoLayers,
    /// The language model has fewer layers than are to learn above the cut.
    #[error(
        "--layers (train.layers): {layers} layers above {cut} of a model of {held}; --cut (texts.cut) says how many are below"
    )]
    Layers {
        /// How many are to learn.
        layers: usize,
        /// How many are below.
        cut: usize,
        /// How many it has.
        held: usize,
    },
    /// There is nothing to learn from.
    #[error(
        "no row has a label: requests need behaviors that carry their request_id, of kinds that tasks speak of; of a log's, labels.examples and windows that have closed"
    )]
    NoLabels,
}

impl TrainError {
    /// How the process ends for it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Log(error) => Exit::of_log(error),
            Self::Champion(error) => error.exit(),
            Self::Logged { .. } => Exit::Format,
            Self::Recording(_)
            | Self::Schema(_)
            | Self::OnwardPromoted
            | Self::Tasks { .. }
            | Self::TextsOfLog
            | Self::NoLayers
            | Self::Layers { .. }
            | Self::NobodyFollows
            | Self::TooFew { .. }
            | Self::TooFewVectors { .. }
            | Self::NoRows { .. }
            | Self::Model(_)
            | Self::Shares { .. }
            | Self::NoValidation
            | Self::NoLabels => Exit::Configuration,
            Self::Engine(error) => error.exit(),
            Self::Artifact(error) => error.exit(),
            Self::Predictions(error) => error.exit(),
        }
    }
}
