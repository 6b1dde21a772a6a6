//! A pass through a decoder's layers that can be learned from, on a CPU: with the written way back in place of a graph.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{Tensor, Var};

use super::Decoder;
use crate::language::block::learn::{Company, Kept, Through};
use crate::language::error::{LanguageError, computing};
use crate::language::kernel::Turn;

/// What a way forward leaves.
#[derive(Debug)]
pub struct DecoderPass {
    /// (batch, positions, width)
    outputs: Var,
    layers: Range<usize>,
    blocks: Vec<Kept>,
    turn: Turn,
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
            let turn = self.turns.first(positions)?;
            let through = Through {
                config: &self.config,
                turn: &turn,
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
                turn,
            })
        };
        run().map_err(computing("running layers"))
    }

    /// From the gradient of what came out, of its shape, to that of the states that went in; those of the layers' tensors by name.
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
                turn: &pass.turn,
                company: Company::Runs,
            };
            let mut gradient = gradient.contiguous()?;
            for (layer, kept) in pass.layers.clone().zip(&pass.blocks).rev() {
                let block = &self.blocks[layer - self.first];
                let mut gather = |part: &str, of| {
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
