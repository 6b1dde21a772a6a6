//! An encoder's blocks (BERT), run over any range of layers.
//!
//! Before it, [`super::Weights`]; after it, hidden states, which a caller pools. Every position looks at every other, so padding needs a mask: texts of a
//! batch come with their lengths.

use std::ops::Range;

use candle_core::{D, Device, Tensor};
use candle_nn::ops::{layer_norm, layer_norm_slow, softmax, softmax_last_dim};

use super::config::EncoderConfig;
use super::error::{LanguageError, computing};
use super::part::{Kernels, Linear, Origin, Purpose, Source, look_up};
use super::weights::Weights;

/// An encoder, or its first layers.
#[derive(Debug)]
pub struct Encoder {
    config: EncoderConfig,
    /// (vocabulary, width)
    words: Tensor,
    /// (positions, width)
    positions: Tensor,
    /// (segments, width)
    segments: Tensor,
    norm: Norm,
    blocks: Vec<Block>,
}

#[derive(Debug)]
struct Norm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f32,
}

#[derive(Debug)]
struct Block {
    query: Linear,
    key: Linear,
    value: Linear,
    attended: Linear,
    attention_norm: Norm,
    inner: Linear,
    output: Linear,
    output_norm: Norm,
}

impl Encoder {
    /// Loads the embeddings and the first layers.
    pub fn load(weights: &Weights, layers: usize, device: &Device) -> Result<Self, LanguageError> {
        let mut source = Source::new(Origin::Model(weights), device, Purpose::Use);
        Self::from_source(&mut source, weights.encoder()?, layers)
    }

    pub(super) fn from_source(
        source: &mut Source<'_>,
        config: &EncoderConfig,
        layers: usize,
    ) -> Result<Self, LanguageError> {
        if layers > config.layers {
            return Err(LanguageError::Input(format!(
                "{layers} layers of a model of {}",
                config.layers
            )));
        }
        let width = config.width;
        let words = source.tensor(
            "embeddings.word_embeddings.weight",
            &[config.vocabulary, width],
        )?;
        let positions = source.tensor(
            "embeddings.position_embeddings.weight",
            &[config.positions_max, width],
        )?;
        let segments = source.tensor(
            "embeddings.token_type_embeddings.weight",
            &[config.segments, width],
        )?;
        let norm = Norm::load(source, "embeddings.LayerNorm", config)?;
        let blocks = (0..layers)
            .map(|layer| Block::load(source, layer, config))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            config: config.clone(),
            words,
            positions,
            segments,
            norm,
            blocks,
        })
    }

    /// The model's shape.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// Token ids, (batch, positions), to hidden states before the first layer, (batch, positions, width).
    pub fn embed(&self, ids: &[Vec<u32>], kernels: Kernels) -> Result<Tensor, LanguageError> {
        let words = look_up(&self.words, ids)?;
        let embed = || {
            let positions = self.positions.narrow(0, 0, words.dim(1)?)?;
            let segment = self.segments.narrow(0, 0, 1)?;
            let states = words.broadcast_add(&positions)?.broadcast_add(&segment)?;
            self.norm.forward(&states, kernels)
        };
        self.fits(ids.first().map_or(0, Vec::len))?;
        embed().map_err(computing("looking tokens up"))
    }

    fn fits(&self, positions: usize) -> Result<(), LanguageError> {
        if positions > self.config.positions_max {
            return Err(LanguageError::Input(format!(
                "{positions} positions of a model for {}",
                self.config.positions_max
            )));
        }
        Ok(())
    }

    /// Runs layers over hidden states, (batch, positions, width), of texts of these lengths: what stands behind a text is not looked at, and its own states
    /// mean nothing.
    pub fn run(
        &self,
        states: &Tensor,
        lengths: &[usize],
        layers: Range<usize>,
        kernels: Kernels,
    ) -> Result<Tensor, LanguageError> {
        if layers.start > layers.end || layers.end > self.blocks.len() {
            return Err(LanguageError::Input(format!(
                "layers {layers:?} where {} are loaded",
                self.blocks.len()
            )));
        }
        let (batch, positions, _) = states.dims3().map_err(computing("running layers"))?;
        if lengths.len() != batch || lengths.iter().any(|one| !(1..=positions).contains(one)) {
            return Err(LanguageError::Input(format!(
                "lengths {lengths:?} of {batch} texts in {positions} positions"
            )));
        }
        let run = || {
            let mask: Vec<f32> = lengths
                .iter()
                .flat_map(|length| {
                    (0..positions).map(move |at| if at < *length { 0.0 } else { f32::NEG_INFINITY })
                })
                .collect();
            let mask = Tensor::from_vec(mask, (batch, 1, 1, positions), states.device())?
                .to_dtype(states.dtype())?;
            let mut states = states.clone();
            for block in &self.blocks[layers] {
                states = block.forward(&states, &mask, self.config.heads, kernels)?;
            }
            Ok(states)
        };
        run().map_err(computing("running layers"))
    }
}

impl Norm {
    fn load(
        source: &mut Source<'_>,
        name: &str,
        config: &EncoderConfig,
    ) -> Result<Self, LanguageError> {
        Ok(Self {
            weight: source.tensor(&format!("{name}.weight"), &[config.width])?,
            bias: source.tensor(&format!("{name}.bias"), &[config.width])?,
            epsilon: config.norm_epsilon as f32,
        })
    }

    fn forward(&self, x: &Tensor, kernels: Kernels) -> candle_core::Result<Tensor> {
        let (weight, bias) = (&self.weight, &self.bias);
        match kernels {
            Kernels::Fused => layer_norm(&x.contiguous()?, weight, bias, self.epsilon),
            Kernels::Differentiable => layer_norm_slow(x, weight, bias, self.epsilon),
        }
    }
}

impl Block {
    fn load(
        source: &mut Source<'_>,
        layer: usize,
        config: &EncoderConfig,
    ) -> Result<Self, LanguageError> {
        let (width, inner) = (config.width, config.inner);
        let name = |part: &str| format!("encoder.layer.{layer}.{part}");
        let mut linear = |part: &str, shape| source.linear(&name(part), shape, true);
        let query = linear("attention.self.query", (width, width))?;
        let key = linear("attention.self.key", (width, width))?;
        let value = linear("attention.self.value", (width, width))?;
        let attended = linear("attention.output.dense", (width, width))?;
        let between = linear("intermediate.dense", (inner, width))?;
        let output = linear("output.dense", (width, inner))?;
        let mut norm = |part: &str| Norm::load(source, &name(part), config);
        Ok(Self {
            attention_norm: norm("attention.output.LayerNorm")?,
            output_norm: norm("output.LayerNorm")?,
            query,
            key,
            value,
            attended,
            inner: between,
            output,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        mask: &Tensor,
        heads: usize,
        kernels: Kernels,
    ) -> candle_core::Result<Tensor> {
        let (batch, positions, width) = x.dims3()?;
        let wide = width / heads;
        let split = |x: Tensor| {
            x.reshape((batch, positions, heads, wide))?
                .transpose(1, 2)?
                .contiguous()
        };
        let query = split(self.query.forward(x)?)?;
        let key = split(self.key.forward(x)?)?;
        let value = split(self.value.forward(x)?)?;
        let scores = (query.matmul(&key.t()?)? * (1.0 / (wide as f64).sqrt()))?;
        let scores = scores.broadcast_add(mask)?;
        let weights = match kernels {
            Kernels::Fused => softmax_last_dim(&scores)?,
            Kernels::Differentiable => softmax(&scores, D::Minus1)?,
        };
        let mixed = weights
            .matmul(&value)?
            .transpose(1, 2)?
            .reshape((batch, positions, width))?;
        let x = (x + self.attended.forward(&mixed)?)?;
        let x = self.attention_norm.forward(&x, kernels)?;
        let between = self.inner.forward(&x)?.gelu_erf()?;
        let x = (&x + self.output.forward(&between)?)?;
        self.output_norm.forward(&x, kernels)
    }
}
