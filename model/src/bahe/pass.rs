//! A pass through the deep layers that can be learned from: forward now, back when the loss has been computed.
//!
//! The head's graph of gradients begins at what comes out here ([`Pass::outputs`]); from its gradient there the way back goes on by hand
//! ([`crate::language::block::learn`]), as often as there are losses.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor, Var};

use crate::language::LanguageError;
use crate::language::block::Positions;
use crate::language::block::learn::{Company, Kept, Through};
use crate::language::error::computing;
use crate::language::kernel;
use crate::language::part::Kernels;

use super::deep::Deep;
use crate::gap::GAPS;

/// What a way forward leaves.
#[derive(Debug)]
pub struct Pass {
    /// (runs, behaviors, width), or of items (items, width), f32
    outputs: Var,
    blocks: Vec<Kept>,
    positions: Positions,
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
        self.forward(vectors, gaps, Company::Runs, vectors.dims())
    }

    /// The same of items: arguments and what comes out are those of [`Deep::items`].
    ///
    /// # Errors
    /// As there.
    pub fn items_kept(&self, vectors: &Tensor) -> Result<Pass, LanguageError> {
        // Elsewhere than in our kernels each has the constant position for itself: twice the work, and no code of its own.
        let (company, beside) = if kernel::ours(vectors.device(), self.numbers) {
            (Company::Alone, 0)
        } else {
            (Company::Runs, 1)
        };
        let shaped = || {
            let gaps = Tensor::zeros(vectors.dim(0)?, DType::U32, vectors.device())?;
            Ok((vectors.unsqueeze(beside)?, gaps))
        };
        let (shaped, gaps) = shaped().map_err(computing("shaping items"))?;
        self.forward(&shaped, gaps, company, vectors.dims())
    }

    fn forward(
        &self,
        vectors: &Tensor,
        gaps: Tensor,
        company: Company,
        shape: &[usize],
    ) -> Result<Pass, LanguageError> {
        let run = || {
            let config = &self.config.blocks;
            let behaviors = vectors.dim(1)?;
            let count = match company {
                Company::Runs => behaviors + 1,
                Company::Alone => 2,
            };
            let inputs = self.inputs(vectors, &gaps)?.detach();
            let mut states = inputs.to_dtype(self.numbers)?;
            let kernels = Kernels::Fused;
            let positions = self.turns.positions(count, &states, config, kernels)?;
            let through = Through {
                config,
                positions: &positions,
                company,
            };
            let mut blocks = Vec::with_capacity(self.blocks.len());
            for block in &self.blocks {
                let (out, kept) = block.forward_kept(&states, through)?;
                blocks.push(kept);
                states = out;
            }
            let last = states.narrow(1, 1, behaviors)?.contiguous()?;
            let outputs = kernel::norm(&last, &self.norm, config.norm_epsilon as f32)?;
            let outputs = outputs.reshape(shape)?.to_dtype(DType::F32)?;
            Ok(Pass {
                outputs: Var::from_tensor(&outputs)?,
                blocks,
                positions,
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
            let gradient = gradient.to_dtype(DType::F32)?;
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
            // What it was made of is of no use any more.
            let gradient = gradient.detach().contiguous()?;
            let gradient = gradient.reshape(pass.last.shape())?;
            let through = Through {
                config,
                positions: &pass.positions,
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
            let first = gradient.narrow(1, 0, 1)?.to_dtype(DType::F32)?;
            add("first".to_owned(), first.sum((0, 1))?)?;
            let of_behaviors = gradient.narrow(1, 1, behaviors)?.contiguous()?;
            let of_behaviors = of_behaviors.reshape((runs * behaviors, width))?;
            let gaps = kernel::added_by_index(&of_behaviors, &pass.gaps, GAPS)?;
            add("gaps".to_owned(), gaps)
        };
        run().map_err(computing("learning"))
    }
}
