//! A pass through a decoder's layers that can be learned from: with the written way back in place of a graph.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{DType, Tensor, Var};

use super::Decoder;
use crate::language::block::Positions;
use crate::language::block::learn::{Company, Kept, Through};
use crate::language::error::{LanguageError, computing};
use crate::language::part::Kernels;

/// What a way forward leaves.
#[derive(Debug)]
pub struct DecoderPass {
    /// (batch, positions, width)
    outputs: Var,
    layers: Range<usize>,
    blocks: Vec<Kept>,
    positions: Positions,
}

impl DecoderPass {
    /// Hidden states after the last of the layers, (batch, positions, width), as the beginning of a graph.
    pub fn outputs(&self) -> &Tensor {
        self.outputs.as_tensor()
    }
}

impl Decoder {
    /// What [`Decoder::run`] gives, with the way back.
    ///
    /// # Errors
    /// As there.
    pub fn run_kept(
        &self,
        states: &Tensor,
        layers: Range<usize>,
    ) -> Result<DecoderPass, LanguageError> {
        let positions = self.fits(states, &layers)?;
        let run = || {
            let positions =
                self.turns
                    .positions(positions, states, &self.config, Kernels::Fused)?;
            let through = Through {
                config: &self.config,
                positions: &positions,
                company: Company::Runs,
            };
            let mut states = states.detach();
            let mut blocks = Vec::with_capacity(layers.len());
            for block in &self.blocks[layers.start - self.first..layers.end - self.first] {
                let (out, kept) = block.forward_kept(&states, through)?;
                blocks.push(kept);
                states = out;
            }
            let outputs = Var::from_tensor(&states)?;
            Ok(DecoderPass {
                outputs,
                layers,
                blocks,
                positions,
            })
        };
        run().map_err(computing("running layers"))
    }

    /// From the gradient of what came out, of its shape, to that of the states that went in; those of the layers' tensors by name, f32.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn backward(
        &self,
        pass: &DecoderPass,
        gradient: &Tensor,
    ) -> Result<(Tensor, BTreeMap<String, Tensor>), LanguageError> {
        let mut all = BTreeMap::new();
        let mut run = || {
            let through = Through {
                config: &self.config,
                positions: &pass.positions,
                company: Company::Runs,
            };
            // What it was made of is of no use any more.
            let mut gradient = gradient.detach().contiguous()?;
            for (layer, kept) in pass.layers.clone().zip(&pass.blocks).rev() {
                let block = &self.blocks[layer - self.first];
                let mut gather = |part: &str, of: Tensor| {
                    let of = of.to_dtype(DType::F32)?;
                    all.insert(format!("model.layers.{layer}.{part}"), of);
                    Ok(())
                };
                gradient = block.backward(kept, through, &gradient, &mut gather)?;
            }
            Ok(gradient)
        };
        let gradient = run().map_err(computing("learning"))?;
        Ok((gradient, all))
    }
}
