//! The deep layers: trainable, causal, over the vectors of a sequence's texts.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};

use crate::language::block::{Block, Turns, normed};
use crate::language::error::computing;
use crate::language::kernel;
use crate::language::part::{Kernels, Origin, Purpose, Source};
use crate::language::{DecoderConfig, Family, LanguageError, Weights};
use crate::numbers::Numbers;

use crate::gap::GAPS;

/// What the deep layers look like.
#[derive(Clone, Debug, PartialEq)]
pub struct DeepConfig {
    /// Their blocks: width, heads, rotary base. `layers` is how many they are; vocabulary and head are not used.
    pub blocks: DecoderConfig,
    /// Sequences a user has, each run by itself.
    pub sequences: usize,
    /// Behaviors of a run at most, even.
    pub limit: usize,
}

/// The deep layers.
///
/// A run begins with a constant position, learned and not pooled, which takes the attention that goes nowhere; each behavior is the vector of its text
/// plus that of its gap ([`super::gap_of`]). What comes out of the last layer is normed; the mean of a run's outputs is its vector, and a sequence without
/// behaviors has a learned one.
#[derive(Debug)]
pub struct Deep {
    pub(super) config: DeepConfig,
    pub(super) blocks: Vec<Block>,
    /// (width)
    pub(super) first: Tensor,
    /// ([`GAPS`], width)
    pub(super) gaps: Tensor,
    /// (width)
    pub(super) norm: Tensor,
    /// (sequences, width)
    pub(super) empty: Tensor,
    pub(super) turns: Turns,
    /// What is between vectors and outputs, which are f32.
    pub(super) numbers: DType,
}

impl Deep {
    /// First values: the `layers` of a decoder above its cut, and what its first token is there (`first`, the state of the position that takes
    /// attention).
    ///
    /// # Errors
    /// A model that is no decoder, or has too few layers.
    pub fn above(
        weights: &Weights,
        cut: usize,
        first: &[f32],
        config: &DeepConfig,
    ) -> Result<BTreeMap<String, Tensor>, LanguageError> {
        let blocks = &config.blocks;
        let held = weights.decoder()?;
        if cut + blocks.layers > held.layers {
            return Err(LanguageError::Input(format!(
                "{} layers above {cut} of a model of {}",
                blocks.layers, held.layers
            )));
        }
        let purpose = Purpose::Train(Vec::new());
        let mut source = Source::new(Origin::Model(weights), &Device::Cpu, purpose);
        for layer in cut..cut + blocks.layers {
            Block::load(&mut source, held, &format!("model.layers.{layer}"))?;
        }
        let mut values = rest(config, first).map_err(computing("making first values"))?;
        for (name, variable) in source.done().variables() {
            let (number, part) = name
                .strip_prefix("model.layers.")
                .and_then(|name| name.split_once('.'))
                .expect("invariant: named so above");
            let number: usize = number.parse().expect("invariant: named so above");
            values.insert(
                format!("layers.{}.{part}", number - cut),
                variable.as_tensor().clone(),
            );
        }
        Ok(values)
    }

    /// First values where there is no decoder to take them from: the same for the same seed.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn random(
        config: &DeepConfig,
        seed: u64,
    ) -> Result<BTreeMap<String, Tensor>, LanguageError> {
        let blocks = &config.blocks;
        let (width, inner) = (blocks.width, blocks.inner);
        let (queries, keys) = (
            blocks.heads * blocks.head_width,
            blocks.kv_heads * blocks.head_width,
        );
        let mut numbers = Numbers(seed);
        let first: Vec<f32> = numbers.normal(width, 1.0);
        let mut make = || {
            let mut values = rest(config, &first)?;
            for layer in 0..blocks.layers {
                for (part, (rows, columns)) in [
                    ("self_attn.q_proj", (queries, width)),
                    ("self_attn.k_proj", (keys, width)),
                    ("self_attn.v_proj", (keys, width)),
                    ("self_attn.o_proj", (width, queries)),
                    ("mlp.gate_proj", (inner, width)),
                    ("mlp.up_proj", (inner, width)),
                    ("mlp.down_proj", (width, inner)),
                ] {
                    let spread = 1.0 / (columns as f32).sqrt();
                    let weight = numbers.normal(rows * columns, spread);
                    let weight = Tensor::from_vec(weight, (rows, columns), &Device::Cpu)?;
                    values.insert(format!("layers.{layer}.{part}.weight"), weight);
                }
                for part in ["input_layernorm", "post_attention_layernorm"] {
                    let ones = Tensor::ones(width, candle_core::DType::F32, &Device::Cpu)?;
                    values.insert(format!("layers.{layer}.{part}.weight"), ones);
                }
            }
            Ok(values)
        };
        make().map_err(computing("making first values"))
    }

    /// The layers of these values; with `variables`, each as a variable that can learn, by its name.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape, named; `path` is where they were read.
    pub fn of(
        config: &DeepConfig,
        tensors: &BTreeMap<String, Tensor>,
        path: &Path,
        device: &Device,
        variables: Option<&mut Vec<(String, Var)>>,
    ) -> Result<Self, LanguageError> {
        let purpose = Purpose::of(variables.is_some());
        let mut source = Source::new(Origin::Named { tensors, path }, device, purpose);
        let width = config.blocks.width;
        let blocks = (0..config.blocks.layers)
            .map(|layer| Block::load(&mut source, &config.blocks, &format!("layers.{layer}")))
            .collect::<Result<Vec<_>, _>>()?;
        let deep = Self {
            blocks,
            first: source.tensor("first", &[width])?,
            gaps: source.tensor("gaps", &[GAPS, width])?,
            norm: source.tensor("norm", &[width])?,
            empty: source.tensor("empty", &[config.sequences, width])?,
            turns: Turns::new(&config.blocks, config.limit + 1, device)?,
            config: config.clone(),
            numbers: DType::F32,
        };
        if let Some(variables) = variables {
            variables.extend(source.done().variables());
        }
        Ok(deep)
    }

    /// The same computed in other numbers: with [`DType::BF16`] products take and give 16 bits, while weights, outputs and gradients of weights stay f32.
    #[must_use]
    pub fn in_numbers(mut self, numbers: DType) -> Self {
        self.numbers = numbers;
        self
    }

    /// What they look like.
    pub fn config(&self) -> &DeepConfig {
        &self.config
    }

    /// What comes out at each behavior of some runs: (runs, behaviors, width), from vectors of texts of that shape and the kinds of gaps, (runs, behaviors).
    /// Runs are padded behind: what comes out there means nothing, and changes nothing before it.
    ///
    /// # Errors
    /// Shapes that do not fit, or a run over the limit.
    pub fn outputs(
        &self,
        vectors: &Tensor,
        gaps: &Tensor,
        kernels: Kernels,
    ) -> Result<Tensor, LanguageError> {
        let behaviors = self.fits(vectors)?;
        let run = || {
            let mut states = self.inputs(vectors, gaps)?.to_dtype(self.numbers)?;
            let config = &self.config.blocks;
            let positions = self
                .turns
                .positions(behaviors + 1, &states, config, kernels)?;
            for block in &self.blocks {
                states = block.forward(&states, &positions, config, kernels)?;
            }
            let states = states.narrow(1, 1, behaviors)?.contiguous()?;
            normed(&states, &self.norm, &self.config.blocks, kernels)?.to_dtype(DType::F32)
        };
        run().map_err(computing("running the deep layers"))
    }

    /// How many behaviors runs have, if they are none too many and as wide as the layers.
    pub(super) fn fits(&self, vectors: &Tensor) -> Result<usize, LanguageError> {
        let (_, behaviors, width) = vectors
            .dims3()
            .map_err(computing("running the deep layers"))?;
        if behaviors > self.config.limit || width != self.config.blocks.width {
            return Err(LanguageError::Input(format!(
                "runs of {behaviors} behaviors of width {width}, where {} of width {} are the most",
                self.config.limit, self.config.blocks.width
            )));
        }
        Ok(behaviors)
    }

    /// What goes into the first block, (runs, 1 + behaviors, width).
    pub(super) fn inputs(&self, vectors: &Tensor, gaps: &Tensor) -> candle_core::Result<Tensor> {
        let (runs, behaviors, width) = vectors.dims3()?;
        let gaps = self.gaps.index_select(&gaps.flatten_all()?, 0)?;
        let inputs = (vectors + gaps.reshape((runs, behaviors, width))?)?;
        let first = self
            .first
            .reshape((1, 1, width))?
            .broadcast_as((runs, 1, width))?;
        Tensor::cat(&[&first.contiguous()?, &inputs], 1)
    }

    /// Vectors, (places, width): of each place (run, behaviors counted from the run's start), the mean of the run's outputs up to there; a place without
    /// behaviors has the vector of its sequence's emptiness. `sequences` says of which sequence each place is.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn pooled(
        &self,
        outputs: &Tensor,
        places: &[(usize, usize)],
        sequences: &[usize],
    ) -> Result<Tensor, LanguageError> {
        if !kernel::ours(outputs.device(), self.numbers) {
            return self
                .pooled_by_product(outputs, places, sequences)
                .map_err(computing("pooling"));
        }
        let pool = || {
            let device = outputs.device();
            let (runs, behaviors, width) = outputs.dims3()?;
            // Sums up to each behavior, as one product.
            let ones: Vec<f32> = (0..behaviors)
                .flat_map(|to| (0..behaviors).map(move |from| f32::from(u8::from(from <= to))))
                .collect();
            let ones = Tensor::from_vec(ones, (1, behaviors, behaviors), device)?;
            let sums = ones
                .broadcast_as((runs, behaviors, behaviors))?
                .contiguous()?
                .matmul(outputs)?
                .reshape((runs * behaviors, width))?;
            // One table for all places: sums, then the emptiness of each sequence.
            let table = Tensor::cat(&[&sums, &self.empty], 0)?;
            let row = |(&(run, count), &sequence): (&(usize, usize), &usize)| {
                if count == 0 {
                    (runs * behaviors + sequence) as u32
                } else {
                    (run * behaviors + count - 1) as u32
                }
            };
            let rows: Vec<u32> = places.iter().zip(sequences).map(row).collect();
            let rows = Tensor::from_vec(rows, places.len(), device)?;
            let parts: Vec<f32> = places
                .iter()
                .map(|(_, count)| 1.0 / (*count).max(1) as f32)
                .collect();
            let parts = Tensor::from_vec(parts, (places.len(), 1), device)?;
            table.index_select(&rows, 0)?.broadcast_mul(&parts)
        };
        pool().map_err(computing("pooling"))
    }

    /// The same as one product with what each place takes of each output. It is more work, and all of it is of the kind that a GPU is fast at.
    fn pooled_by_product(
        &self,
        outputs: &Tensor,
        places: &[(usize, usize)],
        sequences: &[usize],
    ) -> candle_core::Result<Tensor> {
        let device = outputs.device();
        let (runs, behaviors, width) = outputs.dims3()?;
        let column = |of: &dyn Fn(&(usize, usize)) -> u32| {
            let values: Vec<u32> = places.iter().map(of).collect();
            Tensor::from_vec(values, (places.len(), 1), device)
        };
        let from = column(&|(run, _)| (run * behaviors) as u32)?;
        let to = column(&|(run, count)| (run * behaviors + count) as u32)?;
        let counts = column(&|(_, count)| (*count).max(1) as u32)?.to_dtype(DType::F32)?;
        let all = Tensor::arange(0, (runs * behaviors) as u32, device)?.unsqueeze(0)?;
        let takes = (all.broadcast_ge(&from)? * all.broadcast_lt(&to)?)?;
        let takes = takes.to_dtype(DType::F32)?.broadcast_div(&counts)?;
        let means = takes.matmul(&outputs.reshape((runs * behaviors, width))?)?;
        let mut empty = vec![0.0_f32; places.len() * self.config.sequences];
        for (place, ((_, count), sequence)) in places.iter().zip(sequences).enumerate() {
            if *count == 0 {
                empty[place * self.config.sequences + sequence] = 1.0;
            }
        }
        let empty = Tensor::from_vec(empty, (places.len(), self.config.sequences), device)?;
        means + empty.matmul(&self.empty)?
    }

    /// What rows see of one run of a sequence, of plain vectors of its texts, (behaviors, width), and kinds of gaps: its vector after so many behaviors each.
    ///
    /// # Errors
    /// Vectors that are not as wide as the layers, or a run over the limit.
    pub fn run_vectors(
        &self,
        sequence: usize,
        (vectors, gaps): (&[&[f32]], &[u32]),
        counts: &[usize],
    ) -> Result<Vec<Vec<f32>>, LanguageError> {
        let width = self.config.blocks.width;
        // A run without behaviors has one that nobody sees.
        let shape = (1, gaps.len().max(1), width);
        let mut flat = vectors.concat();
        flat.resize(flat.len().max(width), 0.0);
        let mut gaps = gaps.to_vec();
        gaps.resize(shape.1, 0);
        let laid = || {
            let vectors = Tensor::from_vec(flat, shape, &Device::Cpu)?;
            Ok((vectors, Tensor::from_vec(gaps, (1, shape.1), &Device::Cpu)?))
        };
        let (vectors, gaps) = laid().map_err(computing("laying a run out"))?;
        let outputs = self.outputs(&vectors, &gaps, Kernels::Fused)?;
        let places: Vec<(usize, usize)> = counts.iter().map(|count| (0, *count)).collect();
        let pooled = self.pooled(&outputs, &places, &vec![sequence; places.len()])?;
        pooled.to_vec2().map_err(computing("pooling"))
    }

    /// Vectors of items, (items, width), from those of their texts, (items, width): each a run of one behavior.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn items(&self, vectors: &Tensor, kernels: Kernels) -> Result<Tensor, LanguageError> {
        if kernels == Kernels::Fused {
            return Ok(self.items_kept(vectors)?.outputs().detach());
        }
        let shaped = || {
            let shape = (vectors.dim(0)?, 1);
            let gaps = Tensor::zeros(shape, candle_core::DType::U32, vectors.device())?;
            Ok((vectors.unsqueeze(1)?, gaps))
        };
        let (vectors, gaps) = shaped().map_err(computing("shaping items"))?;
        self.outputs(&vectors, &gaps, kernels)?
            .squeeze(1)
            .map_err(computing("shaping items"))
    }

    /// The same, of plain vectors.
    ///
    /// # Errors
    /// Vectors that are not as wide as the layers.
    pub fn item_vectors(&self, vectors: &[&[f32]]) -> Result<Vec<Vec<f32>>, LanguageError> {
        let flat = Tensor::from_vec(
            vectors.concat(),
            (vectors.len(), self.config.blocks.width),
            &Device::Cpu,
        );
        let vectors = flat.map_err(computing("shaping items"))?;
        let made = self.items(&vectors, Kernels::Fused)?;
        made.to_vec2().map_err(computing("shaping items"))
    }
}

/// Deep layers that are none: a run's vector is the mean of its texts' vectors, each over the root of its mean square, and an item's is its text's.
pub(super) fn mean_of_texts(
    width: usize,
    sequences: usize,
    limit: usize,
    device: &Device,
) -> Result<Deep, LanguageError> {
    let config = DeepConfig {
        blocks: DecoderConfig {
            family: Family::Llama,
            layers: 0,
            width,
            inner: 0,
            heads: 1,
            kv_heads: 1,
            head_width: 2,
            vocabulary: 0,
            positions_max: limit + 1,
            rope_base: 10_000.0,
            norm_epsilon: 1e-6,
            first_token: 0,
            tied: true,
        },
        sequences,
        limit,
    };
    let values = rest(&config, &vec![0.0; width]).map_err(computing("making first values"))?;
    Deep::of(&config, &values, Path::new(""), device, None)
}

/// First values of what is no block.
fn rest(config: &DeepConfig, first: &[f32]) -> candle_core::Result<BTreeMap<String, Tensor>> {
    let width = config.blocks.width;
    let device = Device::Cpu;
    let zeros = |rows: usize| Tensor::zeros((rows, width), candle_core::DType::F32, &device);
    Ok(BTreeMap::from([
        (
            "first".to_owned(),
            Tensor::from_slice(first, first.len(), &device)?,
        ),
        ("gaps".to_owned(), zeros(GAPS)?),
        (
            "norm".to_owned(),
            Tensor::ones(width, candle_core::DType::F32, &device)?,
        ),
        ("empty".to_owned(), zeros(config.sequences)?),
    ]))
}
