//! Deep layers in a daemon of the simulation: models of two numbers a vector, real in all else, who works for them, and champions that come and go while it runs.

use std::sync::Arc;
use std::time::Duration;

use headwater_config::Config;
use headwater_consumers::assemble::{Assembler, Source};
use headwater_consumers::deepen::{Asked, DeepVectors, Deepen};
use headwater_consumers::{Error, Metrics};
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

/// Numbers that the head reads of one.
const PROJECTED: usize = 3;
/// Runs and items that a turn works off.
const TAKEN: usize = 4;

/// The models of a configuration: one, one of the same layers under another head, and one of other layers.
pub(crate) fn models(config: &Config) -> [BaheModel; 3] {
    [(6, 0.7), (6, 0.4), (7, 0.7)].map(|(layers, out)| model(config, layers, out))
}

fn model(config: &Config, seed: u64, out: f32) -> BaheModel {
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
    let reads = Reads {
        text: schema.key_vectors().is_some(),
        ..Reads::default()
    };
    let interest = schema.key_vectors().map(|spec| {
        let settings = RowSettings {
            rate: 0.1,
            dropout: 0.0,
            spread: 0.5,
            memory: 1 << 20,
            seed,
        };
        let interest = Learning::new(spec.clone(), settings)?;
        let mut interest = interest.reading(reads).with_texts(PROJECTED);
        // Of some of the items: others read the unknown row.
        let mut seen = Seen::reading(reads);
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
        projected: PROJECTED,
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
        let out = Tensor::full(out, shape, &Device::Cpu).expect("invariant: a small tensor");
        values.insert("head.out.weight".to_owned(), out);
        values.extend(Deep::random(&deep, seed)?);
        if let Some(interest) = &interest {
            values.extend(interest.random(seed)?);
            // As with the head: of first values nothing would come.
            let said = (0..PROJECTED * 16).map(|at| (at % 7) as f32 / 10.0 - 0.3);
            let said = Tensor::from_vec(said.collect(), (PROJECTED, 16), &Device::Cpu);
            let said = said.expect("invariant: a small tensor");
            values.insert("dinmp.text".to_owned(), said);
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
            reads,
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

/// A model that looks at texts, with its vectors and who makes them.
struct AtWork {
    model: Arc<BaheModel>,
    vectors: Arc<DeepVectors>,
    asked: Arc<Asked>,
    deepen: Deepen,
}

/// One daemon's: who scores, whose vectors are made before it does, and who scores some of the users.
pub(crate) struct DeepLayers {
    models: [Arc<BaheModel>; 3],
    /// None: the baseline.
    scores: Option<AtWork>,
    ahead: Option<AtWork>,
    /// Of the layers of the one that scores, or of those that are made ready.
    canary: Option<Arc<BaheModel>>,
    /// How often there was another champion.
    change: u64,
}

impl DeepLayers {
    /// Opens the vectors, as the daemon does; nothing goes wrong here.
    pub(crate) fn open(
        ground: &Ground,
        stores: &dyn Stores,
        texts: &Arc<VectorTable>,
    ) -> Result<Self, String> {
        let models = models(&ground.plan.config).map(Arc::new);
        let first = ground.fate.fork().below(3) as usize;
        Ok(Self {
            scores: Some(AtWork::open(&models[first], ground, stores, texts)?),
            models,
            ahead: None,
            canary: None,
            change: 0,
        })
    }

    /// Another champion is announced, is made ready, takes over, goes back or is given up; or some of the users have another head.
    pub(crate) fn change(
        &mut self,
        ground: &Ground,
        stores: &dyn Stores,
        texts: &Arc<VectorTable>,
    ) -> Result<(), String> {
        let mut random = ground.fate.fork();
        let drawn = &self.models[random.below(3) as usize];
        let id = |of: Option<&AtWork>| of.map(|of| of.model.deep_id());
        match random.below(6) {
            0 => {
                self.ahead = if id(self.scores.as_ref()) == Some(drawn.deep_id()) {
                    None
                } else {
                    Some(AtWork::open(drawn, ground, stores, texts)?)
                };
            }
            // It takes over with the vectors that it has; who scored before is held ready.
            1 if self.ahead.is_some() => std::mem::swap(&mut self.scores, &mut self.ahead),
            2 => (self.scores, self.ahead) = (None, self.scores.take()),
            // Another head over the same layers has their vectors.
            3 if self.scores.is_some() => {
                let scores = self.scores.as_mut().expect("asked for before");
                let has_its_layers = |of: &&Arc<BaheModel>| of.deep_id() == scores.model.deep_id();
                let mut others = self.models.iter().filter(has_its_layers);
                let other = others.find(|of| of.id() != scores.model.id());
                scores.model = Arc::clone(other.unwrap_or(&scores.model));
            }
            4 => self.canary = self.canary.is_none().then(|| Arc::clone(drawn)),
            _ => self.scores = Some(AtWork::open(drawn, ground, stores, texts)?),
        }
        // Vectors of one model's layers are made ready once.
        if id(self.ahead.as_ref()) == id(self.scores.as_ref()) {
            self.ahead = None;
        }
        self.change += 1;
        let scores = self.scores.as_ref().map(|of| of.model.version());
        let ahead = self.ahead.as_ref().map(|of| of.model.version());
        let canary = self.canary.as_ref().map(|of| of.version());
        ground
            .fate
            .tell(|| format!("now scores: {scores:?}, ahead: {ahead:?}, canary: {canary:?}"));
        Ok(())
    }

    /// Has rows scored by who scores now, where that is another than at this change.
    pub(crate) fn score_in(
        &self,
        assembler: &mut Assembler,
        change: &mut Option<u64>,
        metrics: &Metrics,
    ) -> Result<(), Error> {
        if *change == Some(self.change) {
            return Ok(());
        }
        *change = Some(self.change);
        let ahead = self.ahead.as_ref().map(|of| {
            let (model, asked) = (Arc::clone(&of.model), Arc::clone(&of.asked));
            (model, Arc::clone(&of.vectors), asked)
        });
        assembler.make_ahead(ahead, metrics)?;
        let vectors_of = |model: &Arc<BaheModel>| {
            let mut all = self.scores.iter().chain(&self.ahead);
            let of = all.find(|of| of.model.deep_id() == model.deep_id())?;
            let source = Source::Asked(Arc::clone(&of.asked));
            Some((Arc::clone(&of.vectors), source))
        };
        // Where nobody makes its vectors the champion scores all.
        let canary = self.canary.as_ref();
        let canary = canary.and_then(|model| {
            let vectors = vectors_of(model)?;
            Some(((Arc::clone(model), Some(vectors)), 0.5))
        });
        assembler.score_some_with(canary, metrics)?;
        let Some(scores) = &self.scores else {
            assembler.score_by_baseline();
            return Ok(());
        };
        let model = &scores.model;
        assembler.score_with(Arc::clone(model), vectors_of(model), metrics)
    }

    /// Works off some of what waits.
    pub(crate) fn turn(&mut self) -> Result<(), Error> {
        for of in self.scores.iter_mut().chain(&mut self.ahead) {
            let wanted = of.asked.take(TAKEN, Duration::ZERO);
            let left = of.deepen.work(wanted)?;
            of.asked.again(left);
        }
        Ok(())
    }
}

impl AtWork {
    fn open(
        model: &Arc<BaheModel>,
        ground: &Ground,
        stores: &dyn Stores,
        texts: &Arc<VectorTable>,
    ) -> Result<Self, String> {
        let open = || DeepVectors::open(stores.open(DEEP_VECTORS)?, model, 2_000);
        let vectors = open().or_else(|_| {
            stores.remove(DEEP_VECTORS)?;
            open()
        });
        let vectors = Arc::new(vectors.map_err(|error| format!("deep vectors: {error:?}"))?);
        let metrics = ground.metrics.deep.clone();
        Ok(Self {
            model: Arc::clone(model),
            deepen: Deepen::new(
                Arc::clone(model),
                Arc::clone(texts),
                Arc::clone(&vectors),
                2_000,
                metrics.clone(),
            ),
            vectors,
            asked: Arc::new(Asked::new(metrics)),
        })
    }
}
