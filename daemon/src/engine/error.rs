//! What can go wrong with an engine.

use headwater_consumers::decode::Reject;

use crate::exit::Exit;

/// What can go wrong with an engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The configuration breaks a rule.
    #[error("configuration refused")]
    Config(#[source] headwater_config::LoadError),
    /// The tasks of the configuration make no feature schema.
    #[error("tasks refused")]
    Tasks(#[from] headwater_model::FeatureSchemaError),
    /// A record cannot be read: nothing changed. With a log it would be a dead letter.
    #[error("record refused: {0}")]
    Refused(#[from] Reject),
    /// The language model of `texts.encoder` cannot be had.
    #[error("texts.encoder")]
    Encoder(#[from] crate::models::ModelsError),
    /// The model of `scoring.model` cannot be used.
    #[error("scoring.model")]
    Trained(#[from] crate::trained::TrainedError),
    /// The store's folder cannot be used.
    #[error("store not opened")]
    Store(#[source] headwater_state::StoreError),
    /// The step failed: the store, that is. The engine's state is not to be relied upon any more.
    #[error("step failed")]
    Step {
        /// Why.
        #[source]
        source: headwater_consumers::Error,
    },
    /// The step refused a record that was read before: a bug of Headwater.
    #[error("a record became a dead letter in the step: {reason}")]
    DeadLetter {
        /// Why.
        reason: String,
    },
}

impl EngineError {
    /// How a command ends for it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Config(_) | Self::Tasks(_) | Self::Refused(_) => Exit::Configuration,
            Self::Encoder(error) => error.exit(),
            Self::Trained(error) => error.exit(),
            Self::Store(error) => Exit::of_store(error),
            Self::Step { source } => Exit::of_consumers(source),
            Self::DeadLetter { .. } => Exit::Bug,
        }
    }
}
