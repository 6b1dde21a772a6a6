//! What decoders and encoders are both made of.

use candle_core::{Device, Tensor, Var};

use super::error::{LanguageError, computing};
use super::weights::Weights;

/// How a block is computed. The results agree to rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernels {
    /// The library's fused operations: fast, and without gradients, of which they say nothing.
    Fused,
    /// Composed of operations that all have gradients.
    Differentiable,
}

/// A linear map; the weight lies as in the files: (out, in).
#[derive(Debug)]
pub(super) struct Linear {
    pub(super) weight: Tensor,
    pub(super) bias: Option<Tensor>,
}

/// Where a model's tensors come from, and what for.
pub(super) struct Source<'a> {
    pub(super) weights: &'a Weights,
    pub(super) device: &'a Device,
    pub(super) purpose: Purpose,
}

/// What tensors are asked for.
pub(super) enum Purpose {
    /// To be used as they are.
    Use,
    /// To learn: each is a variable.
    Train(Vec<(String, Var)>),
    /// To know which there must be: none is read.
    List(Vec<(String, Vec<usize>)>),
}

impl<'a> Source<'a> {
    pub(super) fn new(weights: &'a Weights, device: &'a Device, purpose: Purpose) -> Self {
        Self {
            weights,
            device,
            purpose,
        }
    }

    pub(super) fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, LanguageError> {
        match &mut self.purpose {
            Purpose::Use => self.weights.tensor(name, shape, self.device),
            Purpose::Train(variables) => {
                let tensor = self.weights.tensor(name, shape, self.device)?;
                let variable = Var::from_tensor(&tensor).map_err(computing("making a variable"))?;
                let tensor = variable.as_tensor().clone();
                variables.push((name.to_owned(), variable));
                Ok(tensor)
            }
            Purpose::List(names) => {
                names.push((name.to_owned(), shape.to_vec()));
                // One number that stands for all: it takes no room.
                Tensor::new(0.0_f32, self.device)
                    .and_then(|one| one.broadcast_as(shape))
                    .map_err(computing("listing tensors"))
            }
        }
    }

    pub(super) fn linear(
        &mut self,
        name: &str,
        (outputs, inputs): (usize, usize),
        biased: bool,
    ) -> Result<Linear, LanguageError> {
        let weight = self.tensor(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = biased
            .then(|| self.tensor(&format!("{name}.bias"), &[outputs]))
            .transpose()?;
        Ok(Linear { weight, bias })
    }
}

impl Linear {
    /// (batch, positions, in) to (batch, positions, out): one product for all positions.
    pub(super) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, positions, inputs) = x.dims3()?;
        let flat = x.reshape((batch * positions, inputs))?;
        let y = flat.matmul(&self.weight.t()?)?;
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        y.reshape((batch, positions, ()))
    }
}

/// Token ids, (batch, positions), all texts of one length, to rows of an embedding, (batch, positions, width).
pub(super) fn look_up(embedding: &Tensor, ids: &[Vec<u32>]) -> Result<Tensor, LanguageError> {
    let positions = ids.first().map_or(0, Vec::len);
    if positions == 0 || ids.iter().any(|ids| ids.len() != positions) {
        return Err(LanguageError::Input(
            "a batch needs texts of one length, at least one token".to_owned(),
        ));
    }
    let (vocabulary, width) = embedding.dims2().map_err(computing("looking tokens up"))?;
    if let Some(id) = ids.iter().flatten().find(|id| **id as usize >= vocabulary) {
        return Err(LanguageError::Input(format!(
            "token id {id} of a vocabulary of {vocabulary}"
        )));
    }
    let flat: Vec<u32> = ids.iter().flatten().copied().collect();
    Tensor::new(flat, embedding.device())
        .and_then(|flat| embedding.index_select(&flat, 0))
        .and_then(|states| states.reshape((ids.len(), positions, width)))
        .map_err(computing("looking tokens up"))
}
