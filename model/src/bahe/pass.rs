//! A pass through the deep layers that can be learned from: forward now, back when the loss has been computed.
//!
//! The head's graph of gradients begins at what comes out here ([`Pass::outputs`]); from its gradient there the way back goes on by hand
//! ([`crate::language::block::learn`]), as often as there are losses.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};

use crate::language::LanguageError;
use crate::language::block::learn::{Company, Kept, Through};
use crate::language::error::computing;
use crate::language::kernel::{self, Turn};

use super::deep::Deep;
use crate::gap::GAPS;

/// What a way forward leaves.
#[derive(Debug)]
pub struct Pass {
    /// (runs, behaviors, width), or of items (1, items, width)
    outputs: Var,
    blocks: Vec<Kept>,
    turn: Turn,
    company: Company,
    /// What came out of the last block at behaviors.
    last: Tensor,
    /// One a behavior: the kinds of gaps.
    gaps: Tensor,
}

impl Pass {
    /// What [`Deep::outputs`] gives, (runs, behaviors, width), or [`Deep::items`], (items, width), as the beginning of a graph.
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
        self.fits(vectors)?;
        let gaps = gaps.flatten_all().map_err(computing("laying runs out"))?;
        self.forward(vectors, gaps, Company::Runs)
    }

    /// The same of items: arguments and what comes out are those of [`Deep::items`].
    ///
    /// # Errors
    /// As there.
    pub fn items_kept(&self, vectors: &Tensor) -> Result<Pass, LanguageError> {
        let shaped = || {
            let gaps = Tensor::zeros(vectors.dim(0)?, candle_core::DType::U32, vectors.device())?;
            Ok((vectors.unsqueeze(0)?, gaps))
        };
        let (vectors, gaps) = shaped().map_err(computing("shaping items"))?;
        self.forward(&vectors, gaps, Company::Alone)
    }

    fn forward(
        &self,
        vectors: &Tensor,
        gaps: Tensor,
        company: Company,
    ) -> Result<Pass, LanguageError> {
        let run = || {
            let config = &self.config.blocks;
            let behaviors = vectors.dim(1)?;
            let turn = match company {
                Company::Runs => self.turns.first(behaviors + 1)?,
                Company::Alone => self.turns.first(2)?,
            };
            let through = Through {
                config,
                turn: &turn,
                company,
            };
            let mut states = self.inputs(vectors, &gaps)?.detach();
            let mut blocks = Vec::with_capacity(self.blocks.len());
            for block in &self.blocks {
                let (out, kept) = block.forward_kept(&states, through)?;
                blocks.push(kept);
                states = out;
            }
            let last = states.narrow(1, 1, behaviors)?.contiguous()?;
            let outputs = kernel::norm(&last, &self.norm, config.norm_epsilon as f32)?;
            let outputs = match company {
                Company::Runs => outputs,
                Company::Alone => outputs.squeeze(0)?,
            };
            Ok(Pass {
                outputs: Var::from_tensor(&outputs)?,
                blocks,
                turn,
                company,
                last,
                gaps,
            })
        };
        run().map_err(computing("running the deep layers"))
    }

    /// The way back: from the gradient of what came out, of its shape, to those of the layers' tensors, which are added to `into` by name.
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
            let (runs, behaviors, width) = pass.last.dims3()?;
            let gradient = gradient.contiguous()?.reshape(pass.last.shape())?;
            let through = Through {
                config,
                turn: &pass.turn,
                company: pass.company,
            };
            let epsilon = config.norm_epsilon as f32;
            let (behind, norm) = kernel::norm_back(&pass.last, &self.norm, epsilon, &gradient)?;
            add("norm".to_owned(), norm)?;
            // Nobody asked for what came out at the constant position.
            let mut gradient = behind.pad_with_zeros(1, 1, 0)?.contiguous()?;
            let blocks = self.blocks.iter().zip(&pass.blocks).enumerate();
            for (layer, (block, kept)) in blocks.rev() {
                let mut gather = |part: &str, of| add(format!("layers.{layer}.{part}"), of);
                gradient = block.backward(kept, through, &gradient, &mut gather)?;
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
