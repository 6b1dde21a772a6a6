//! A trained model in the stream: the one of the configuration, opened and held against it; and, of whichever model scores, or is made ready to, the thread of its deep layers.
//!
//! No score waits for that thread: a row takes the vectors that are there, and says which.

mod ahead;
mod layers;
mod thread;
mod turn;

use std::sync::Arc;

use headwater_config::Config;
use headwater_consumers::assemble::{Assembler, Source};
use headwater_consumers::{Error, Metrics};
use headwater_model::bahe::BaheModel;
use headwater_state::EncoderId;

use super::Inner;
use super::error::StartError;
use crate::champion::{CanaryModel, Scoring};
use crate::status::ModelStatus;

pub(super) use layers::Layers;
pub(super) use thread::spawn;

/// Opens the model of `scoring.model`, as the start does, and holds it against the configuration.
///
/// # Errors
/// A model that is not there, not whole, or of something else.
pub fn check_model(config: &Config) -> Result<(), StartError> {
    let model = crate::trained::open(config)?;
    if let (Some(model), Some(named), true) = (model, &config.texts.encoder, config.texts.encode) {
        let encoder = crate::models::encoder(config, named, &crate::models::device(config)?)?;
        crate::trained::check_encoder(config, &model, encoder.id())?;
    }
    Ok(())
}

/// Opens the model of the configuration; `encoder` is what this instance encodes with, if it does.
///
/// # Errors
/// A model that is not there, not right, or not of this configuration.
pub(super) fn open(
    config: &Config,
    encoder: Option<[u8; 16]>,
) -> Result<Option<Arc<BaheModel>>, StartError> {
    let Some(model) = crate::trained::open(config)? else {
        return Ok(None);
    };
    if let Some(ours) = encoder {
        crate::trained::check_encoder(config, &model, ours)?;
    }
    let (path, version) = (config.scoring.model.as_deref(), model.version());
    tracing::info!(model = path, version, "trained model loaded");
    Ok(Some(Arc::new(model)))
}

impl Inner {
    /// How the model that scores is, and who is made ready.
    pub(super) fn status_of(&self, model: &BaheModel) -> ModelStatus {
        let texts = self.texts.as_ref();
        let encoder = model.encoder().map(EncoderId);
        let has = |of: EncoderId| texts.is_some_and(|texts| texts.has_any_of(of));
        let layers = self.layers.as_ref();
        ModelStatus {
            name: format!("{}-{}", BaheModel::NAME, model.version()),
            has_encoder: encoder.is_none_or(has),
            waiting: layers.map_or(0, Layers::waiting),
            ahead: layers.and_then(Layers::ahead),
            trouble: None,
        }
    }

    /// Has a worker's rows scored by a model, or by the baseline, from this change of the champion on.
    pub(super) fn score_in(
        &self,
        assembler: &mut Assembler,
        (change, scoring): (u64, &Scoring),
        metrics: &Metrics,
    ) -> Result<(), Error> {
        let model = scoring.model.as_ref();
        let chosen = match &self.layers {
            Some(layers) => layers
                .of(change, [model, scoring.beside()])
                .map_err(|source| Error::Vectors { source })?,
            None => layers::Chosen::default(),
        };
        let ahead = (chosen.ahead.clone()).map(|of| (of.model, of.vectors, of.asked));
        assembler.make_ahead(ahead, metrics)?;
        // With the champion's vectors, where it has its layers, else with those that were made for it; until they are, the champion scores all.
        let vectors_of = |canary: &CanaryModel| {
            let made = chosen.ahead.as_ref().filter(|_| canary.is_made);
            let mut all = chosen.at_work.iter().chain(made);
            let of = all.find(|of| of.model.deep_id() == canary.model.deep_id())?;
            let source = Source::Asked(Arc::clone(&of.asked));
            Some((Arc::clone(&of.vectors), source))
        };
        let canary = scoring.canary.as_ref().and_then(|canary| {
            let vectors = vectors_of(canary);
            let is_whole = vectors.is_some() || canary.model.deep().is_none();
            is_whole.then(|| ((Arc::clone(&canary.model), vectors), canary.share))
        });
        assembler.score_some_with(canary, metrics)?;
        let Some(model) = model else {
            assembler.score_by_baseline();
            return Ok(());
        };
        let deep = (chosen.at_work).map(|of| (of.vectors, Source::Asked(of.asked)));
        assembler.score_with(Arc::clone(model), deep, metrics)
    }
}
