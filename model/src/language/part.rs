//! What decoders and encoders are both made of.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};

use super::error::{LanguageError, computing};
use super::weights::Weights;

/// How a block is computed. The results agree to rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernels {
    /// Fast, and without a graph of gradients, of which it says nothing ([`super::kernel`]).
    Fused,
    /// Composed of operations that all have gradients.
    Differentiable,
}

/// A linear map; the weight lies as in the files: (out, in).
#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
}

/// What tensors are read from.
pub(crate) enum Origin<'a> {
    /// A model as people have it.
    Model(&'a Weights),
    /// Tensors by their names: a checkpoint, or first values.
    Named {
        tensors: &'a BTreeMap<String, Tensor>,
        /// Where they were read, for errors.
        path: &'a Path,
    },
}

/// Where a model's tensors come from, and what for.
pub(crate) struct Source<'a> {
    origin: Origin<'a>,
    device: &'a Device,
    /// What tensors are made that are used as they are; what learns stays as it is.
    numbers: DType,
    purpose: Purpose,
}

/// What tensors are asked for.
pub(crate) enum Purpose {
    /// To be used as they are.
    Use,
    /// To learn: each is a variable.
    Train(Vec<(String, Var)>),
    /// To know which there must be: none is read.
    List(Vec<(String, Vec<usize>)>),
}

impl Purpose {
    /// To learn, or to be used as they are.
    pub(crate) fn of(learns: bool) -> Self {
        if learns {
            Self::Train(Vec::new())
        } else {
            Self::Use
        }
    }

    /// The variables, where they were asked for.
    pub(crate) fn variables(self) -> Vec<(String, Var)> {
        match self {
            Self::Train(variables) => variables,
            Self::Use | Self::List(_) => Vec::new(),
        }
    }
}

impl<'a> Source<'a> {
    pub(crate) fn new(origin: Origin<'a>, device: &'a Device, purpose: Purpose) -> Self {
        Self {
            origin,
            device,
            numbers: DType::F32,
            purpose,
        }
    }

    /// The same with what is used as numbers of this kind.
    pub(crate) fn in_numbers(mut self, numbers: DType) -> Self {
        self.numbers = numbers;
        self
    }

    /// Where tensors go.
    pub(crate) fn device(&self) -> &'a Device {
        self.device
    }

    /// What came of the purpose.
    pub(crate) fn done(self) -> Purpose {
        self.purpose
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<Tensor, LanguageError> {
        match &self.origin {
            Origin::Model(weights) => weights.tensor(name, shape, self.device),
            Origin::Named { tensors, path } => named(tensors, path, name, shape)?
                .to_device(self.device)
                .map_err(computing("moving a tensor")),
        }
    }

    pub(crate) fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, LanguageError> {
        if let Purpose::List(names) = &mut self.purpose {
            names.push((name.to_owned(), shape.to_vec()));
            // One number that stands for all: it takes no room.
            return Tensor::new(0.0_f32, self.device)
                .and_then(|one| one.broadcast_as(shape))
                .map_err(computing("listing tensors"));
        }
        let tensor = self.read(name, shape)?;
        let Purpose::Train(variables) = &mut self.purpose else {
            return tensor
                .to_dtype(self.numbers)
                .map_err(computing("making numbers smaller"));
        };
        let variable = Var::from_tensor(&tensor).map_err(computing("making a variable"))?;
        let tensor = variable.as_tensor().clone();
        variables.push((name.to_owned(), variable));
        Ok(tensor)
    }

    pub(crate) fn linear(
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

fn named(
    tensors: &BTreeMap<String, Tensor>,
    path: &Path,
    name: &str,
    shape: &[usize],
) -> Result<Tensor, LanguageError> {
    let problem = |problem| LanguageError::Tensor {
        path: path.to_owned(),
        tensor: name.to_owned(),
        problem,
    };
    let tensor = tensors
        .get(name)
        .ok_or_else(|| problem("is missing".to_owned()))?;
    if tensor.dims() != shape {
        let words = format!("has shape {:?}, where {shape:?} is needed", tensor.dims());
        return Err(problem(words));
    }
    Ok(tensor.clone())
}

impl Linear {
    /// (batch, positions, in) to (batch, positions, out): one product for all positions.
    pub(crate) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, positions, inputs) = x.dims3()?;
        let flat = x.reshape((batch * positions, inputs))?;
        // Weights that learn are f32, whatever the states are.
        let y = flat.matmul(&self.weight.to_dtype(x.dtype())?.t()?)?;
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(&bias.to_dtype(x.dtype())?)?,
            None => y,
        };
        y.reshape((batch, positions, ()))
    }
}

/// Token ids, (batch, positions), all texts of one length, to rows of an embedding, (batch, positions, width).
pub(crate) fn look_up(embedding: &Tensor, ids: &[Vec<u32>]) -> Result<Tensor, LanguageError> {
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
