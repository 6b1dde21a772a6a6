//! The trained model of `scoring.model`: a folder that `headwater train` wrote, held against the configuration that it is to work under.
//!
//! Before it, training; after it, the daemon, the engine and `explain` score with it. A model that was trained on other rows, other texts or other sequences
//! is refused here, before anything is scored, unless its rows have all that it was trained on, and more: it would give plausible numbers that are wrong.

use std::path::{Path, PathBuf};

use headwater_config::Config;
use headwater_consumers::assemble::Assembler;
use headwater_consumers::sequences::Sequences;
use headwater_model::bahe::{BaheModel, MANIFEST, first_difference};
use headwater_model::language::LanguageError;
use headwater_state::EncoderId;

use crate::exit::Exit;

/// Why the model of `scoring.model` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrainedError {
    /// The configured tasks make no rows.
    #[error(transparent)]
    Schema(#[from] headwater_model::FeatureSchemaError),
    /// It is not there, or not whole, or of other rows.
    #[error(transparent)]
    Model(#[from] LanguageError),
    /// It looks at texts, and the configuration has no encoder.
    #[error(
        "{}: it was trained on vectors of the encoder {encoder}, and texts.encoder is empty", path.display()
    )]
    NoEncoder {
        /// The manifest.
        path: PathBuf,
        /// Whose vectors it looks at.
        encoder: EncoderId,
    },
    /// It was trained on another encoder's vectors.
    #[error(
        "{}: it was trained on vectors of the encoder {trained_on}, and texts.encoder with texts.cut makes those of {ours}", path.display()
    )]
    OtherEncoder {
        /// The manifest.
        path: PathBuf,
        /// Whose vectors it looks at.
        trained_on: EncoderId,
        /// Whose this instance makes.
        ours: EncoderId,
    },
    /// It looks at a sequence that the configuration has not.
    #[error(
        "{}: it looks at the sequence `{sequence}`, which [sequences] has not", path.display()
    )]
    Sequence {
        /// The manifest.
        path: PathBuf,
        /// The sequence.
        sequence: String,
    },
    /// Other texts stand for behaviors.
    #[error("{}: {difference}", path.display())]
    Texts {
        /// The manifest.
        path: PathBuf,
        /// What is not the same.
        difference: String,
    },
    /// Its runs begin anew at another length.
    #[error(
        "{}: its runs begin anew at {limit} behaviors, and texts.sequence_max is {sequence_max}", path.display()
    )]
    Limit {
        /// The manifest.
        path: PathBuf,
        /// Where its runs begin anew.
        limit: usize,
        /// Where those of the configuration do.
        sequence_max: usize,
    },
}

impl TrainedError {
    /// How the process ends for it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Model(LanguageError::Compute { .. }) => Exit::Bug,
            Self::Schema(_)
            | Self::Model(_)
            | Self::NoEncoder { .. }
            | Self::OtherEncoder { .. }
            | Self::Sequence { .. }
            | Self::Texts { .. }
            | Self::Limit { .. } => Exit::Configuration,
        }
    }
}

/// Opens the model of the configuration, if it names one.
///
/// # Errors
/// A model that is not there, not whole, or not of this configuration.
pub(crate) fn open(config: &Config) -> Result<Option<BaheModel>, TrainedError> {
    let folder = config.scoring.model.as_ref().map(Path::new);
    folder.map(|folder| open_folder(config, folder)).transpose()
}

/// Opens the model of a folder.
///
/// # Errors
/// A model that is not there, not whole, or not of this configuration.
pub(crate) fn open_folder(config: &Config, folder: &Path) -> Result<BaheModel, TrainedError> {
    let path = || folder.join(MANIFEST);
    let assembler = Assembler::new(config)?;
    let model = BaheModel::open(folder, assembler.schema())?;
    let known = &model.manifest().tasks;
    let tasks = assembler.schema().tasks().iter().map(|task| &*task.name);
    let unknown: Vec<&str> = tasks
        .filter(|task| !known.iter().any(|one| one == task))
        .collect();
    if !unknown.is_empty() {
        let (tasks, model) = (unknown.join(", "), model.version());
        tracing::info!(
            model,
            tasks,
            "these tasks came after the model was trained: they have the baseline's scores"
        );
    }
    let Some(encoder) = model.encoder() else {
        return Ok(model);
    };
    if config.texts.encoder.is_none() {
        return Err(TrainedError::NoEncoder {
            path: path(),
            encoder: EncoderId(encoder),
        });
    }
    let manifest = model.manifest();
    let mut sequences = manifest.sequences.iter();
    if let Some(sequence) = sequences.find(|name| !config.sequences.contains_key(*name)) {
        return Err(TrainedError::Sequence {
            path: path(),
            sequence: sequence.clone(),
        });
    }
    let ours = Sequences::new(config).description();
    if manifest.texts_described != ours {
        let difference =
            first_difference(&manifest.texts_described, ours.iter().map(String::as_str));
        return Err(TrainedError::Texts {
            path: path(),
            difference,
        });
    }
    if manifest.limit != config.texts.sequence_max {
        return Err(TrainedError::Limit {
            path: path(),
            limit: manifest.limit,
            sequence_max: config.texts.sequence_max,
        });
    }
    Ok(model)
}

/// Holds a model against the encoder that this instance makes vectors with.
///
/// # Errors
/// If it was trained on another's.
pub(crate) fn check_encoder(
    config: &Config,
    model: &BaheModel,
    ours: [u8; 16],
) -> Result<(), TrainedError> {
    match model.encoder() {
        Some(trained_on) if trained_on != ours => Err(TrainedError::OtherEncoder {
            path: Path::new(config.scoring.model.as_deref().unwrap_or_default()).join(MANIFEST),
            trained_on: EncoderId(trained_on),
            ours: EncoderId(ours),
        }),
        Some(_) | None => Ok(()),
    }
}
