//! Deep layers in a daemon of the simulation: a model of two numbers a vector, real in all else, and who works for it.

use std::sync::Arc;
use std::time::Duration;

use headwater_config::Config;
use headwater_consumers::Error;
use headwater_consumers::assemble::{Assembler, Source};
use headwater_consumers::deepen::{Asked, DeepVectors, Deepen};
use headwater_model::bahe::{
    BaheModel, Deep, DeepConfig, Described, Head, HeadConfig, Layers, Objective,
};
use headwater_model::dinmp::{ItemKeys, Learning, Reads, RowSettings, Seen};
use headwater_model::language::{DecoderConfig, Family, LanguageError};
use headwater_model::{Device, Tensor};
use headwater_state::{DEEP_VECTORS, Stores, VectorTable};

use crate::cluster::Ground;
use crate::texts::ENCODER;

/// Numbers of a vector.
const WIDTH: usize = ENCODER.width as usize;

/// Runs and items that a turn works off.
const TAKEN: usize = 4;

/// The models of a configuration: an instance that starts has either.
pub(crate) fn models(config: &Config) -> [BaheModel; 2] {
    [6, 7].map(|seed| model(config, seed))
}

fn model(config: &Config, seed: u64) -> BaheModel {
    let assembler = Assembler::new(config).expect("invariant: the configured tasks make a schema");
    let schema = assembler.schema();
    let blocks = DecoderConfig {
        family: Family::Llama,
        layers: 1,
        width: WIDTH,
        inner: 3,
        heads: 1,
        kv_heads: 1,
        head_width: 2,
        vocabulary: 1,
        positions_max: config.texts.sequence_max + 1,
        rope_base: 10_000.0,
        norm_epsilon: 1e-5,
        first_token: 0,
        tied: true,
    };
    let sequences: Vec<String> = config.sequences.keys().cloned().collect();
    let interest = schema.key_vectors().map(|spec| {
        let settings = RowSettings {
            rate: 0.1,
            dropout: 0.0,
            spread: 0.5,
            memory: 1 << 20,
            seed,
        };
        let mut interest = Learning::new(spec.clone(), settings)?;
        // Of some of the items: others read the unknown row.
        let mut seen = Seen::default();
        for number in 0..8 {
            seen.item(ItemKeys::of(&format!("i{number}"), ["c0", "c1"]));
        }
        interest.meet(&seen, &vec![0; seen.keys().len()])?;
        Ok::<_, LanguageError>(interest)
    });
    let interest = interest.transpose().expect("invariant: small settings");
    let head = HeadConfig {
        width: WIDTH,
        sequences: sequences.len(),
        features: schema.shared().len() + schema.own().len(),
        tasks: schema.tasks().len(),
        projected: 3,
        inner: [4, 3],
        interest: interest.as_ref().map_or(0, Learning::outputs),
        matches: interest.as_ref().map_or(0, Learning::matches),
        scenarios: 0,
        experts: 0,
        cross: 0,
    };
    let deep = DeepConfig {
        blocks: blocks.clone(),
        sequences: sequences.len(),
        limit: config.texts.sequence_max,
    };
    let encoder: String = ENCODER.id.to_string().repeat(2);
    let make = || {
        let mut values = Head::random(&head, 5)?;
        // Of first values nothing comes out: here what the head sees is to be seen in scores.
        let shape = (head.tasks, head.inner[1]);
        let out = Tensor::full(0.7_f32, shape, &Device::Cpu).expect("invariant: a small tensor");
        values.insert("head.out.weight".to_owned(), out);
        values.extend(Deep::random(&deep, seed)?);
        if let Some(interest) = &interest {
            values.extend(interest.random(seed)?);
            values.extend(interest.tensors()?);
        }
        let described = Described {
            layers: (Layers::Deep, Some(blocks)),
            encoder: (Some(encoder), 1),
            limit: config.texts.sequence_max,
            sequences,
            scenarios: Vec::new(),
            features: vec![[0.5, 2.0]; head.features],
            key_vectors: schema.key_vectors().cloned(),
            reads: Reads::default(),
            head,
            objective: Objective::Labels,
            texts: Vec::new(),
            rows: [1, 0, 0],
            reached: None,
        };
        BaheModel::of(described, schema, &values)
    };
    make().expect("invariant: made to fit")
}

/// One daemon's.
pub(crate) struct DeepLayers {
    model: Arc<BaheModel>,
    pub(crate) vectors: Arc<DeepVectors>,
    asked: Arc<Asked>,
    deepen: Deepen,
}

impl DeepLayers {
    /// Opens the vectors, as the daemon does; nothing goes wrong here.
    pub(crate) fn open(
        ground: &Ground,
        stores: &dyn Stores,
        texts: &Arc<VectorTable>,
    ) -> Result<Self, String> {
        let [one, other] = models(&ground.plan.config);
        let model = Arc::new(if ground.fate.fork().once_in(3) {
            other
        } else {
            one
        });
        let open = || DeepVectors::open(stores.open(DEEP_VECTORS)?, &model, 2_000);
        let vectors = open().or_else(|_| {
            stores.remove(DEEP_VECTORS)?;
            open()
        });
        let vectors = Arc::new(vectors.map_err(|error| format!("deep vectors: {error:?}"))?);
        let deepen = Deepen::new(
            Arc::clone(&model),
            Arc::clone(texts),
            Arc::clone(&vectors),
            2_000,
            ground.metrics.deep.clone(),
        );
        Ok(Self {
            model,
            vectors,
            asked: Arc::new(Asked::new(ground.metrics.deep.clone())),
            deepen,
        })
    }

    /// Has rows scored by the model.
    pub(crate) fn score_in(&self, assembler: &mut Assembler, ground: &Ground) -> Result<(), Error> {
        let source = Source::Asked(Arc::clone(&self.asked));
        let deep = (Arc::clone(&self.vectors), source);
        assembler.score_with(Arc::clone(&self.model), Some(deep), &ground.metrics)
    }

    /// Works off some of what waits.
    pub(crate) fn turn(&mut self) -> Result<(), Error> {
        let wanted = self.asked.take(TAKEN, Duration::ZERO);
        let left = self.deepen.work(wanted)?;
        self.asked.again(left);
        Ok(())
    }
}
