//! A pass through the deep layers that can be learned from: forward now, back when the loss has been computed.
//!
//! The head's graph of gradients begins at what comes out here ([`Pass::outputs`]); from its gradient there the way back goes on by hand
//! ([`crate::language::block::learn`]), as often as there are losses.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};

use crate::language::LanguageError;
use crate::language::block::learn::Kept;
use crate::language::error::computing;
use crate::language::kernel::{self, Turn};

use super::deep::Deep;
use super::gap::GAPS;

/// What a way forward leaves.
#[derive(Debug)]
pub struct Pass {
    /// (runs, behaviors, width)
    outputs: Var,
    blocks: Vec<Kept>,
    turn: Turn,
    /// What came out of the last block at behaviors.
    last: Tensor,
    /// (runs · behaviors): the kinds of gaps.
    gaps: Tensor,
}

impl Pass {
    /// What [`Deep::outputs`] gives, as the beginning of a graph.
    pub fn outputs(&self) -> &Tensor {
        self.outputs.as_tensor()
    }
}

impl Deep {
    /// The way forward: arguments and what comes out are those of [`Deep::outputs`].
    ///
    /// # Errors
    /// As there.
    pub fn forward_kept(&self, vectors: &Tensor, gaps: &Tensor) -> Result<Pass, LanguageError> {
        let behaviors = self.fits(vectors)?;
        let run = || {
            let config = &self.config.blocks;
            let turn = self.turns.first(behaviors + 1)?;
            let mut states = self.inputs(vectors, gaps)?.detach();
            let mut blocks = Vec::with_capacity(self.blocks.len());
            for block in &self.blocks {
                let (out, kept) = block.forward_kept(&states, &turn, config)?;
                blocks.push(kept);
                states = out;
            }
            let last = states.narrow(1, 1, behaviors)?.contiguous()?;
            let outputs = kernel::norm(&last, &self.norm, config.norm_epsilon as f32)?;
            Ok(Pass {
                outputs: Var::from_tensor(&outputs)?,
                blocks,
                turn,
                last,
                gaps: gaps.flatten_all()?,
            })
        };
        run().map_err(computing("running the deep layers"))
    }

    /// The way back: from the gradient of what came out, (runs, behaviors, width), to those of the layers' tensors, which are added to `into` by name.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn backward(
        &self,
        pass: &Pass,
        gradient: &Tensor,
        into: &mut BTreeMap<String, Tensor>,
    ) -> Result<(), LanguageError> {
        let mut add = |name: String, gradient: Tensor| {
            let sum = match into.remove(&name) {
                Some(sum) => (sum + gradient)?,
                None => gradient,
            };
            into.insert(name, sum);
            Ok(())
        };
        let mut run = || {
            let config = &self.config.blocks;
            let (runs, behaviors, width) = gradient.dims3()?;
            let gradient = gradient.contiguous()?;
            let epsilon = config.norm_epsilon as f32;
            let (behind, norm) = kernel::norm_back(&pass.last, &self.norm, epsilon, &gradient)?;
            add("norm".to_owned(), norm)?;
            // Nobody asked for what came out at the constant position.
            let mut gradient = behind.pad_with_zeros(1, 1, 0)?.contiguous()?;
            let blocks = self.blocks.iter().zip(&pass.blocks).enumerate();
            for (layer, (block, kept)) in blocks.rev() {
                let mut gather = |part: &str, of| add(format!("layers.{layer}.{part}"), of);
                gradient = block.backward(kept, &pass.turn, config, &gradient, &mut gather)?;
            }
            let first = gradient.narrow(1, 0, 1)?.sum((0, 1))?;
            add("first".to_owned(), first)?;
            let of_behaviors = gradient.narrow(1, 1, behaviors)?.contiguous()?;
            let of_behaviors = of_behaviors.reshape((runs * behaviors, width))?;
            let gaps = Tensor::zeros((GAPS, width), gradient.dtype(), gradient.device())?;
            add(
                "gaps".to_owned(),
                gaps.index_add(&pass.gaps, &of_behaviors, 0)?,
            )
        };
        run().map_err(computing("learning"))
    }
}
