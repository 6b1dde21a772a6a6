//! The network where a GPU learns: what is once an item, mark or row is of the library's operations, with its graph; what is once a pair of atom and candidate is two kernels.
//!
//! Before the kernels stands one graph, behind them another, and their gradients are handed from one to the other here. On a CPU, for tests, the kernels are plain loops: all but these
//! themselves is tested without a GPU.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Tensor, Var};

use crate::gap::GAPS;
use crate::language::LanguageError;
use crate::language::error::computing;

use super::among::SCALE;
use super::mark::SIDES;
use super::network::{INNER, Looked, VOLUME, Vector, WIDTH};
use super::reads::Reads;
use super::seen::{Asked, Seen};

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(test)]
mod plain;

/// Numbers of a row before the kernels: the candidate's part of the hidden layer, and the product's weights times the candidate.
const ROW: usize = INNER + WIDTH * INNER;

/// What the kernels read, or its gradients.
#[derive(Debug)]
struct Parts {
    /// (items, WIDTH + INNER): vectors, and the key's part of the hidden layer.
    items: Tensor,
    /// (marks, INNER): their part of the hidden layer.
    marks: Tensor,
    /// (rows, ROW)
    rows: Tensor,
    /// (INNER + 1): weights and bias.
    attention: Tensor,
}

/// Where which atoms are, as the kernels read it: u32, in one piece each.
#[derive(Debug)]
struct Atoms {
    /// Of each atom.
    items: Tensor,
    marks: Tensor,
    /// (rows, 3): where a row's atoms begin, where they end, its candidate.
    rows: Tensor,
    /// Of each mark.
    buckets: Tensor,
    /// Of each item, where its groups end.
    group_ends: Tensor,
    groups: Tensor,
    /// Buckets with their sides.
    places: usize,
}

/// A way forward on a device.
#[derive(Debug)]
pub(super) struct OnDevice {
    atoms: Atoms,
    parts: Parts,
    values: Values,
    /// Vectors of all items, (items, WIDTH), and of those that rows ask about, (rows, WIDTH): where gradients end.
    vectors: [Var; 2],
    /// (rows, places · (WIDTH + 1)): sums, then volumes; where the second graph begins.
    pooled: Var,
    /// What the head reads, (rows, outputs).
    pub(super) outputs: Tensor,
}

/// The network's variables, by the names of [`super::Network`]'s tensors.
#[derive(Debug)]
struct Values(BTreeMap<String, Tensor>);

impl Values {
    fn of(&self, name: &str) -> Result<&Tensor> {
        let name = format!("dinmp.{name}");
        let value = self.0.get(&name);
        value.ok_or_else(|| candle_core::Error::Msg(format!("the values lack `{name}`")))
    }
}

fn places(values: Vec<u32>, device: &Device) -> Result<Tensor> {
    // The library makes no tensor of nothing.
    let values = if values.is_empty() { vec![0] } else { values };
    let count = values.len();
    Tensor::from_vec(values, count, device)
}

impl Atoms {
    fn of(seen: &Seen, rows: &[Asked], buckets: usize, device: &Device) -> Result<Self> {
        let all = seen.atoms();
        let of_rows = rows.iter().flat_map(|row| {
            let [from, to] = seen.places_of(row.request);
            [from as u32, to as u32, row.item]
        });
        let (mut ends, mut groups) = (Vec::new(), Vec::new());
        for item in 0..seen.items() {
            groups.extend_from_slice(seen.groups_of(item));
            ends.push(groups.len() as u32);
        }
        let marks = seen.marks().iter();
        Ok(Self {
            items: places(all.iter().map(|atom| atom.item).collect(), device)?,
            marks: places(all.iter().map(|atom| atom.mark).collect(), device)?,
            rows: places(of_rows.collect(), device)?,
            buckets: places(marks.map(|mark| mark.bucket.into()).collect(), device)?,
            group_ends: places(ends, device)?,
            groups: places(groups, device)?,
            places: buckets * SIDES,
        })
    }
}

/// Marks as rows of a matrix: the logarithms of counts, then which stretch and which recency it is, (marks, kinds + buckets + GAPS).
fn marks(seen: &Seen, kinds: usize, buckets: usize, device: &Device) -> Result<Tensor> {
    let wide = kinds + buckets + GAPS;
    // A batch of empty pasts has a mark that nobody reads.
    let count = seen.marks().len().max(1);
    let mut all = vec![0.0; count * wide];
    for (line, mark) in all.chunks_mut(wide).zip(seen.marks()) {
        for (kind, count) in &mark.counts {
            line[usize::from(*kind)] = (*count as f32).ln_1p();
        }
        line[kinds + usize::from(mark.bucket)] = 1.0;
        line[kinds + buckets + usize::from(mark.recency)] = 1.0;
    }
    Tensor::from_vec(all, (count, wide), device)
}

fn vectors(of: &[Vector], device: &Device) -> Result<Var> {
    let flat = Tensor::from_slice(of.as_flattened(), (of.len(), WIDTH), device)?;
    Var::from_tensor(&flat)
}

/// sign(x) ln(1 + |x|)
fn squashed(x: &Tensor) -> Result<Tensor> {
    let bent = (x.sign()?.detach() * (x.abs()? + 1.0)?.log()?)?;
    // Its slope at 0 is 1, where the sign has none: unknown ids begin with zeros.
    let at_zero = x.eq(0.0)?.to_dtype(x.dtype())?;
    bent + ((x - x.detach())? * at_zero)?
}

impl Parts {
    /// The first graph.
    fn of(values: &Values, marks: &Tensor, items: &Tensor, asked: &Tensor) -> Result<Self> {
        let keys = items.matmul(values.of("key")?)?;
        let of_kinds = [
            values.of("kinds")?,
            values.of("buckets")?,
            values.of("recency")?,
        ];
        let marked = marks.matmul(&Tensor::cat(&of_kinds, 0)?)?;
        let candidates = asked.matmul(values.of("candidate")?)?;
        let candidates = candidates.broadcast_add(values.of("inner_bias")?)?;
        let product = values.of("product")?.unsqueeze(0)?;
        let crossing = asked.unsqueeze(2)?.broadcast_mul(&product)?;
        let crossing = crossing.reshape((asked.dim(0)?, WIDTH * INNER))?;
        let bias = values.of("attention_bias")?.flatten_all()?;
        Ok(Self {
            items: Tensor::cat(&[items, &keys], 1)?,
            marks: marked.matmul(values.of("mark")?)?,
            rows: Tensor::cat(&[candidates, crossing], 1)?,
            attention: Tensor::cat(&[&values.of("attention")?.flatten_all()?, &bias], 0)?,
        })
    }

    /// A number whose slope by each part is that of `gradients`.
    fn along(&self, gradients: &Self) -> Result<Tensor> {
        let pairs = [
            (&self.items, &gradients.items),
            (&self.marks, &gradients.marks),
            (&self.rows, &gradients.rows),
            (&self.attention, &gradients.attention),
        ];
        let sums = pairs
            .iter()
            .map(|(part, of)| (*part * &of.detach())?.sum_all());
        let sums = sums.collect::<Result<Vec<_>>>()?;
        Tensor::stack(&sums, 0)?.sum_all()
    }

    /// The kernel's way forward, (rows, places · (WIDTH + 1)).
    fn pool(&self, atoms: &Atoms) -> Result<Tensor> {
        match self.items.device() {
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => cuda::pool(device, atoms, self),
            #[cfg(test)]
            Device::Cpu => plain::pool(atoms, self),
            other => candle_core::bail!("no attention for {other:?}"),
        }
    }

    /// And its way back, from the gradient of what came out.
    fn unpool(&self, atoms: &Atoms, gradient: &Tensor) -> Result<Self> {
        match self.items.device() {
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => cuda::unpool(device, atoms, self, gradient),
            #[cfg(test)]
            Device::Cpu => plain::unpool(atoms, self, gradient),
            other => candle_core::bail!("no attention for {other:?} of {:?}", gradient.shape()),
        }
    }
}

/// The second graph: what the head reads of sums, volumes and candidates, in the order of [`super::Network`]'s own.
fn read(
    values: &Values,
    pooled: &Tensor,
    asked: &Tensor,
    (places, reads): (usize, Reads),
) -> Result<Tensor> {
    let rows = pooled.dim(0)?;
    let volumes = pooled.narrow(1, places * WIDTH, places)?.detach();
    let sums = pooled.narrow(1, 0, places * WIDTH)?;
    let sums = sums.reshape((rows, places, WIDTH))?;
    let full = volumes.gt(0.0)?.to_dtype(pooled.dtype())?.unsqueeze(2)?;
    let empty = values.of("empty")?.unsqueeze(0)?;
    let instead = (1.0 - &full)?.broadcast_mul(&empty)?;
    let part = (&volumes + 1.0)?.sqrt()?.recip()?.unsqueeze(2)?;
    let sums = squashed(&sums.broadcast_mul(&part)?)?;
    let read = (sums.broadcast_mul(&full)? + instead)?;
    let sums_read = read.reshape((rows, places * WIDTH))?;
    let mixed = if reads.self_attention {
        mixed(values, &read)?
    } else {
        read
    };
    let products = mixed.matmul(&mixed.t()?.contiguous()?)?;
    let products = products.reshape((rows, places * places))?;
    let pairs: Vec<u32> = (0..places)
        .flat_map(|one| (0..one).map(move |other| (one * places + other) as u32))
        .collect();
    let mut chosen = vec![0.0_f32; places * places * pairs.len()];
    for (column, pair) in pairs.iter().enumerate() {
        chosen[*pair as usize * pairs.len() + column] = f32::from(u8::from(reads.products));
    }
    // A product with ones and zeros, since the library is slow in picking columns back.
    let shape = (places * places, pairs.len());
    let chosen = Tensor::from_vec(chosen, shape, pooled.device())?;
    let matches = mixed.matmul(&asked.unsqueeze(2)?)?.squeeze(2)?;
    let parts = [
        matches,
        sums_read,
        (squashed(&volumes)? * f64::from(VOLUME))?,
        products.matmul(&chosen)?,
        asked.clone(),
    ];
    Tensor::cat(&parts, 1)
}

/// What goes on among buckets ([`super::among`]), (rows, places, WIDTH).
fn mixed(values: &Values, read: &Tensor) -> Result<Tensor> {
    let (rows, places, _) = read.dims3()?;
    let through = |of: &Tensor, name: &str| -> Result<Tensor> {
        let flat = of.reshape((rows * places, WIDTH))?;
        flat.matmul(values.of(name)?)?
            .reshape((rows, places, WIDTH))
    };
    let placed = read.broadcast_add(&values.of("among_places")?.unsqueeze(0)?)?;
    let likes = through(&placed, "among")?.matmul(&placed.t()?.contiguous()?)?;
    // By hand: the library's own has no way back.
    let likes = (likes * f64::from(SCALE))?;
    let likes = likes
        .broadcast_sub(&likes.max_keepdim(2)?.detach())?
        .exp()?;
    let shares = likes.broadcast_div(&likes.sum_keepdim(2)?)?;
    read + shares.matmul(&through(read, "among_values")?)?
}

impl OnDevice {
    /// The way forward of some rows by these values, which are where they are to be computed.
    pub(super) fn forward(
        (kinds, buckets, reads): (usize, usize, Reads),
        values: &BTreeMap<String, Tensor>,
        (seen, looked): (&Seen, &Looked),
        (rows, candidates): (&[Asked], &[Vector]),
        device: &Device,
    ) -> std::result::Result<Self, LanguageError> {
        let run = || {
            let values = Values(values.clone());
            let atoms = Atoms::of(seen, rows, buckets, device)?;
            let vectors = [
                vectors(&looked.vectors, device)?,
                vectors(candidates, device)?,
            ];
            let marks = marks(seen, kinds, buckets, device)?;
            let [items, asked] = [vectors[0].as_tensor(), vectors[1].as_tensor()];
            let parts = Parts::of(&values, &marks, items, asked)?;
            let pooled = Var::from_tensor(&parts.pool(&atoms)?)?;
            let outputs = read(&values, &pooled, asked, (atoms.places, reads))?;
            Ok(Self {
                atoms,
                parts,
                values,
                vectors,
                pooled,
                outputs,
            })
        };
        run().map_err(computing("running the network of interest"))
    }

    /// The way back, from the gradients of all that came behind: those of vectors, of items and of those that rows ask about; those of the network's tensors are added to `into` by name. What stands for empty buckets is of the second graph, whose
    /// gradients the caller has.
    pub(super) fn backward(
        &self,
        gradients: &GradStore,
        into: &mut BTreeMap<String, Tensor>,
    ) -> std::result::Result<[Vec<Vector>; 2], LanguageError> {
        let mut run = || {
            let [items, asked] = &self.vectors;
            let rows = |of: &Tensor| -> Result<Vec<Vector>> {
                let flat = of.flatten_all()?.to_vec1::<f32>()?;
                Ok(flat.as_chunks::<WIDTH>().0.to_vec())
            };
            let mut of_vectors = [items, asked].map(|of| vec![[0.0; WIDTH]; of.dims()[0]]);
            let mut add = |at: usize, of: Option<&Tensor>| -> Result<()> {
                if let Some(of) = of {
                    let all = of_vectors[at].as_flattened_mut().iter_mut();
                    let of = rows(of)?;
                    all.zip(of.as_flattened()).for_each(|(to, of)| *to += of);
                }
                Ok(())
            };
            add(1, gradients.get(asked.as_tensor()))?;
            if let Some(gradient) = gradients.get(self.pooled.as_tensor()) {
                let gradient = gradient.detach().contiguous()?;
                let behind = self.parts.unpool(&self.atoms, &gradient)?;
                let gradients = self.parts.along(&behind)?.backward()?;
                add(0, gradients.get(items.as_tensor()))?;
                add(1, gradients.get(asked.as_tensor()))?;
                for (name, value) in &self.values.0 {
                    if let Some(gradient) = gradients.get(value) {
                        let gradient = gradient.detach();
                        let sum = match into.remove(name) {
                            Some(sum) => (sum + gradient)?,
                            None => gradient,
                        };
                        into.insert(name.clone(), sum);
                    }
                }
            }
            Ok(of_vectors)
        };
        run().map_err(computing("learning interest"))
    }
}
