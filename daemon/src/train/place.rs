//! Where a training computes: the device of its layers and of the encoder, and in what numbers.

use std::sync::Arc;

use headwater_config::Config;
use headwater_model::bahe::Place;
use headwater_model::device::{name, usual_numbers};
use headwater_model::language::TextEncoder;
use headwater_model::{DType, Device};

use super::{Texts, TrainBahe, TrainError};
use crate::engine::EngineError;

impl TrainBahe {
    /// The shallow layers, where rows or what is trained look at texts.
    pub(super) fn encoder(
        config: &Config,
        device: &Device,
    ) -> Result<Option<Arc<TextEncoder>>, TrainError> {
        let Some(named) = &config.texts.encoder else {
            return Ok(None);
        };
        let opened = crate::models::encoder(config, named, device).map_err(EngineError::from)?;
        Ok(Some(Arc::new(opened)))
    }

    /// Where it computes.
    pub(super) fn place(&self, config: &Config) -> Result<Place, TrainError> {
        let device = crate::models::device(config).map_err(EngineError::from)?;
        // Between deep layers alone are there other numbers than f32.
        let numbers = match self.texts {
            Texts::None | Texts::Mean => DType::F32,
            Texts::Frozen | Texts::Deep => self.numbers.unwrap_or_else(|| usual_numbers(&device)),
        };
        tracing::info!(
            device = name(&device),
            numbers = numbers.as_str(),
            "training"
        );
        Ok(Place { device, numbers })
    }
}
