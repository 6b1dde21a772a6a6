//! Vectors in the engine: made when a row needs them, so that what comes out does not depend on how fast anybody is.

use std::sync::Arc;

use headwater_config::Config;
use headwater_consumers::Metrics;
use headwater_consumers::assemble::{Assembler, Source};
use headwater_consumers::deepen::{DeepVectors, Deepen};
use headwater_consumers::embed::Embed;
use headwater_model::bahe::BaheModel;
use headwater_state::{DEEP_VECTORS, MemoryStores, Stores, VECTORS, VectorTable};

use super::EngineError;

/// Has an assembler make vectors of texts, by `embed` or else by the configuration's encoder, and score with the model, where the configuration has them.
pub(super) fn at_once(
    config: &Config,
    assembler: &mut Assembler,
    metrics: &Metrics,
    embed: Option<Box<dyn Embed>>,
) -> Result<(), EngineError> {
    let model = crate::trained::open(config)?.map(Arc::new);
    let stores = MemoryStores::default();
    let Some(named) = &config.texts.encoder else {
        return match model {
            Some(model) => score_with(assembler, model, None, metrics),
            None => Ok(()),
        };
    };
    let embed = match embed {
        Some(embed) => embed,
        None => Box::new(Arc::new(crate::models::encoder(
            config,
            named,
            &crate::models::device(config)?,
        )?)),
    };
    let store = stores.open(VECTORS).map_err(EngineError::Store)?;
    let table = VectorTable::open(store, config.texts.memory.get())
        .expect("invariant: an empty store is not damaged");
    let table = Arc::new(table);
    assembler.read_vectors(config, Arc::clone(&table), metrics);
    if let Some(model) = model {
        crate::trained::check_encoder(config, &model, embed.encoder().id.0)?;
        let deep = if model.deep().is_some() {
            let store = stores.open(DEEP_VECTORS).map_err(EngineError::Store)?;
            let memory = config.texts.deep_memory.get() / 2;
            let vectors = DeepVectors::open(store, &model, memory)
                .expect("invariant: an empty store is not damaged");
            let vectors = Arc::new(vectors);
            let deepen = Deepen::new(
                Arc::clone(&model),
                table,
                Arc::clone(&vectors),
                memory,
                metrics.deep.clone(),
            );
            Some((vectors, Source::AtOnce(Box::new(deepen))))
        } else {
            None
        };
        score_with(assembler, model, deep, metrics)?;
    }
    assembler.embed_at_once(embed);
    Ok(())
}

fn score_with(
    assembler: &mut Assembler,
    model: Arc<BaheModel>,
    deep: Option<(Arc<DeepVectors>, Source)>,
    metrics: &Metrics,
) -> Result<(), EngineError> {
    let set = assembler.score_with(model, deep, metrics);
    set.map_err(|source| EngineError::Step { source })
}
