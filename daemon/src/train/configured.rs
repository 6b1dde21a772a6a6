//! The training that a configuration describes by itself: that of an instance which trains, and of a backtest that learns.

use std::path::PathBuf;

use headwater_config::{Config, DeviceChoice, InteractionsChoice};
use headwater_model::dinmp::Reads;

use super::{Ids, Parts, Regime, Source, Texts, TrainBahe, Winner, objective};

impl TrainBahe {
    /// What an instance of this configuration would make of rows: by `[train]`, over the rows' numbers, and over all that users did where `key_vectors.logged` says that rows have it. What becomes of the
    /// model, and where it lies, is for the caller to say: as it is here it stays.
    #[must_use]
    pub fn as_configured(config: &Config, source: Source, out: PathBuf) -> Self {
        let settings = &config.train;
        let layers = settings.learn_layers && matches!(source, Source::Log(_));
        Self {
            source,
            model: PathBuf::new(),
            out,
            predictions: None,
            report: None,
            regime: Regime::Frozen,
            texts: if layers { Texts::Deep } else { Texts::None },
            key_vectors: config.key_vectors.logged,
            reads: of_interactions(Reads::default(), settings.interactions),
            ids: Ids::default(),
            cut: config.texts.cut,
            layers: settings.layers,
            limit: config.texts.sequence_max,
            passes: settings.passes,
            rate: settings.rate,
            deep_factor: 0.1,
            positions: 4_096,
            // The head alone gains nothing by a GPU.
            device: if config.key_vectors.logged || layers {
                config.texts.device
            } else {
                DeviceChoice::Cpu
            },
            numbers: None,
            shares: [0.7, 0.1],
            seed: 0,
            parts: Parts {
                experts: settings.experts,
                cross: settings.cross,
            },
            objective: objective(settings.objective, 0),
            log_rows: [settings.rows_min, settings.rows_max],
            later_than: i64::MIN,
            winner: Winner::Stays,
            steps: None,
            progress: false,
        }
    }
}

/// The same with these interactions.
#[must_use]
pub fn of_interactions(reads: Reads, choice: InteractionsChoice) -> Reads {
    use InteractionsChoice::{Attention, Both, Products};
    Reads {
        products: matches!(choice, Products | Both),
        self_attention: matches!(choice, Attention | Both),
        ..reads
    }
}
