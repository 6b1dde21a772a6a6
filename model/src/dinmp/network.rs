//! The network's weights, and the way forward.
#![expect(
    clippy::inline_always,
    reason = "only what is compiled into a loop that runs by the processor's own vectors can use them"
)]

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};

use crate::gap::GAPS;
use crate::language::LanguageError;
use crate::language::error::computing;
use crate::language::kernel::{exp, squashed};
use crate::language::part::{Origin, Purpose, Source};
use crate::numbers::Numbers;
use crate::table::{RowKey, Snapshot};
use crate::wide::{add_product, widest};

use super::mark::{Mark, SIDES};
use super::reads::Reads;
use super::seen::{Asked, Seen};

/// Numbers of an item's vector: of a row of the table.
pub const WIDTH: usize = 16;
/// Width of the attention's hidden layer.
pub(super) const INNER: usize = 32;
/// Numbers of a mark.
pub(super) const MARK: usize = 16;
/// Part of a volume's logarithm that the head reads.
pub(super) const VOLUME: f32 = 0.25;
/// Matrices of weights.
const PARTS: usize = 14;

pub(super) type Inner = [f32; INNER];
pub(super) type Vector = [f32; WIDTH];

/// The weights, each a matrix that lies row by row: (in, out), so that one number of the input goes over a whole line.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Weights {
    /// (WIDTH, INNER) each
    pub(super) key: Vec<f32>,
    pub(super) candidate: Vec<f32>,
    pub(super) product: Vec<f32>,
    /// (MARK, INNER)
    pub(super) mark: Vec<f32>,
    /// (INNER) each
    pub(super) inner_bias: Vec<f32>,
    pub(super) attention: Vec<f32>,
    /// (1)
    pub(super) attention_bias: Vec<f32>,
    /// (kinds, MARK)
    pub(super) kinds: Vec<f32>,
    /// (buckets, MARK)
    pub(super) buckets: Vec<f32>,
    /// (GAPS, MARK)
    pub(super) recency: Vec<f32>,
    /// (buckets · SIDES, WIDTH)
    pub(super) empty: Vec<f32>,
    /// (WIDTH, WIDTH), (WIDTH, WIDTH), (buckets · SIDES, WIDTH): see [`super::among`]; empty without it.
    pub(super) among: Vec<f32>,
    pub(super) among_values: Vec<f32>,
    pub(super) among_places: Vec<f32>,
}

impl Weights {
    /// Name, shape and spread of the first values of each, in the order of [`Weights::parts_mut`]. What is not read has no lines.
    fn layout(
        (kinds, buckets): (usize, usize),
        reads: Reads,
    ) -> [(&'static str, [usize; 2], f32); PARTS] {
        let by_root = |inputs: usize| 1.0 / (inputs as f32).sqrt();
        let among = |lines: usize| [if reads.self_attention { lines } else { 0 }, WIDTH];
        [
            ("key", [WIDTH, INNER], by_root(WIDTH)),
            ("candidate", [WIDTH, INNER], by_root(WIDTH)),
            ("product", [WIDTH, INNER], by_root(WIDTH)),
            ("mark", [MARK, INNER], by_root(MARK)),
            ("inner_bias", [1, INNER], 0.0),
            ("attention", [1, INNER], 0.5 * by_root(INNER)),
            ("attention_bias", [1, 1], 0.0),
            ("kinds", [kinds, MARK], 0.5),
            ("buckets", [buckets, MARK], 0.3),
            ("recency", [GAPS, MARK], 0.1),
            ("empty", [buckets * SIDES, WIDTH], 0.0),
            ("among", among(WIDTH), by_root(WIDTH)),
            // Nothing is taken in before it is learned.
            ("among_values", among(WIDTH), 0.0),
            ("among_places", among(buckets * SIDES), 0.3),
        ]
    }

    pub(super) fn parts(&self) -> [&Vec<f32>; PARTS] {
        [
            &self.key,
            &self.candidate,
            &self.product,
            &self.mark,
            &self.inner_bias,
            &self.attention,
            &self.attention_bias,
            &self.kinds,
            &self.buckets,
            &self.recency,
            &self.empty,
            &self.among,
            &self.among_values,
            &self.among_places,
        ]
    }

    pub(super) fn parts_mut(&mut self) -> [&mut Vec<f32>; PARTS] {
        [
            &mut self.key,
            &mut self.candidate,
            &mut self.product,
            &mut self.mark,
            &mut self.inner_bias,
            &mut self.attention,
            &mut self.attention_bias,
            &mut self.kinds,
            &mut self.buckets,
            &mut self.recency,
            &mut self.empty,
            &mut self.among,
            &mut self.among_values,
            &mut self.among_places,
        ]
    }

    pub(super) fn zeros(sizes: (usize, usize), reads: Reads) -> Self {
        let mut zeros = Self::default();
        let layout = Self::layout(sizes, reads).into_iter();
        for (part, (_, [rows, columns], _)) in zeros.parts_mut().into_iter().zip(layout) {
            *part = vec![0.0; rows * columns];
        }
        zeros
    }
}

fn is_there((_, [lines, _], _): &(&str, [usize; 2], f32)) -> bool {
    *lines > 0
}

/// The network.
#[derive(Clone, Debug)]
pub struct Network {
    pub(super) kinds: usize,
    pub(super) buckets: usize,
    pub(super) reads: Reads,
    pub(super) weights: Weights,
}

/// Vectors of items, one behind the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Looked {
    pub(super) vectors: Vec<Vector>,
}

impl Looked {
    /// Of these, by rows that are already there: of each item the place of its id's row, then those of its groups, up to its end.
    pub(super) fn of_rows(values: &[f32], rows: &[u32], ends: &[usize]) -> Self {
        let row = |at: u32| &values[at as usize * WIDTH..][..WIDTH];
        let mut start = 0;
        let vectors = ends.iter().map(|end| {
            let of_item = rows[start..*end].iter().map(|place| row(*place));
            start = *end;
            vector(of_item)
        });
        Self {
            vectors: vectors.collect(),
        }
    }

    /// Of all that is seen, by a table as it is.
    pub fn of(seen: &Seen, table: &Snapshot) -> Self {
        let row = |key: RowKey| table.row(key).unwrap_or(table.unknown());
        // Items share their groups: each key is looked up once.
        let rows: Vec<&[f32]> = seen.keys().iter().map(|key| row(*key)).collect();
        let vectors = (0..seen.items()).map(|item| {
            let of_item = seen.keys_of(item).iter();
            vector(of_item.map(|key| rows[*key as usize]))
        });
        Self {
            vectors: vectors.collect(),
        }
    }
}

/// The vector of an item: its id's row, and the mean of its groups'.
fn vector<'a>(mut groups: impl ExactSizeIterator<Item = &'a [f32]>) -> Vector {
    let id = groups.next().expect("invariant: an item has an id");
    let mut vector: Vector = id.try_into().expect("invariant: rows are so wide");
    let share = 1.0 / groups.len().max(1) as f32;
    for group in groups {
        let group = group.iter();
        vector
            .iter_mut()
            .zip(group)
            .for_each(|(to, one)| *to += share * one);
    }
    vector
}

/// What is computed once for each item, row or mark of a batch.
#[derive(Debug)]
pub(super) struct Ahead {
    /// Of each item as a key.
    pub(super) keys: Vec<Inner>,
    /// Of each row.
    pub(super) rows: Vec<Row>,
    pub(super) marks: Vec<Marked>,
}

/// A row: whom it asks about, the candidate's vector, and its part of the hidden layer.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) asked: Asked,
    pub(super) candidate: Vector,
    pub(super) inner: Inner,
}

/// What a mark comes to.
#[derive(Clone, Debug)]
pub(super) struct Marked {
    pub(super) mark: [f32; MARK],
    pub(super) inner: Inner,
    pub(super) bucket: usize,
}

/// What a row's sums come to, before anything is made of them.
#[derive(Clone, Default)]
pub(super) struct Pooled {
    /// (buckets, SIDES)
    pub(super) sums: Vec<Vector>,
    /// How much lies in each: 0 is empty.
    pub(super) volumes: Vec<f32>,
}

/// `line += value · weights`; of a length that the compiler knows, so that lines stay in registers.
#[inline(always)]
pub(super) fn add<const N: usize>(line: &mut [f32; N], value: f32, weights: &[f32; N]) {
    for at in 0..N {
        line[at] += value * weights[at];
    }
}

/// The inner product, eight sums side by side.
#[inline(always)]
pub(super) fn dot<const N: usize>(one: &[f32; N], other: &[f32; N]) -> f32 {
    let mut sums = [0.0; 8];
    for at in 0..N {
        sums[at % 8] += one[at] * other[at];
    }
    sums.iter().sum()
}

/// The line of a matrix.
pub(super) fn line<const N: usize>(weights: &[f32], at: usize) -> &[f32; N] {
    &weights.as_chunks::<N>().0[at]
}

pub(super) fn through<const N: usize>(input: &[f32], weights: &[f32], line: &mut [f32; N]) {
    for (value, weights) in input.iter().zip(weights.as_chunks::<N>().0) {
        add(line, *value, weights);
    }
}

/// By what a sum is multiplied before it is read, from the logarithm of one and its volume: 1 / √(1 + volume). Between a sum, which grows without end as a user does more, and a mean, which forgets
/// how much there was.
#[inline(always)]
pub(super) fn part(volume: f32) -> f32 {
    exp(-0.5 * volume)
}

impl Network {
    /// Begins: first values, the same for the same seed, for so many kinds of events and stretches of time.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn random(
        sizes: (usize, usize),
        reads: Reads,
        seed: u64,
    ) -> Result<BTreeMap<String, Tensor>, LanguageError> {
        let mut numbers = Numbers(seed ^ 0x64_696e_6d70);
        let layout = Weights::layout(sizes, reads).into_iter();
        let values = layout
            .filter(is_there)
            .map(|(name, [rows, columns], spread)| {
                let values = numbers.normal(rows * columns, spread);
                let tensor = Tensor::from_vec(values, (rows, columns), &Device::Cpu)?;
                Ok((format!("dinmp.{name}"), tensor))
            });
        let values: candle_core::Result<_> = values.collect();
        values.map_err(computing("making first values"))
    }

    /// The network of these values, with so many kinds of events and stretches of time, that reads this much.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape, named; `path` is where they were read.
    pub fn of(
        (kinds, buckets): (usize, usize),
        reads: Reads,
        tensors: &BTreeMap<String, Tensor>,
        path: &Path,
    ) -> Result<Self, LanguageError> {
        let mut source = Source::new(
            Origin::Named { tensors, path },
            &Device::Cpu,
            Purpose::of(false),
        );
        let mut network = Self {
            kinds,
            buckets,
            reads,
            weights: Weights::zeros((kinds, buckets), reads),
        };
        let layout = Weights::layout((kinds, buckets), reads);
        for ((name, shape, _), part) in layout.into_iter().zip(network.weights.parts_mut()) {
            if part.is_empty() {
                continue;
            }
            let tensor = source.tensor(&format!("dinmp.{name}"), &shape)?;
            let values = tensor.flatten_all().and_then(|flat| flat.to_vec1::<f32>());
            *part = values.map_err(computing("reading the network"))?;
        }
        Ok(network)
    }

    /// Names and shapes of its tensors.
    pub(super) fn names(&self) -> impl Iterator<Item = (String, [usize; 2])> {
        let layout = Weights::layout((self.kinds, self.buckets), self.reads).into_iter();
        layout.map(|(name, shape, _)| (format!("dinmp.{name}"), shape))
    }

    /// Numbers that come out for a row, with so many stretches of time: products of each bucket's vector with the candidate ([`Network::matches`]), sums and volumes of the buckets, products of pairs of
    /// their vectors, and the candidate's vector. A bucket's vector is its sum, or what it has taken in of others beside it.
    #[must_use]
    pub fn outputs(buckets: usize) -> usize {
        let all = Self::matches(buckets);
        all + all * (WIDTH + 1) + all * (all - 1) / 2 + WIDTH
    }

    /// How many of them, the first, are products with the candidate.
    #[must_use]
    pub fn matches(buckets: usize) -> usize {
        buckets * SIDES
    }

    /// What is computed once for each mark, item and row; of each row the candidate's vector is given.
    pub(super) fn ahead(
        &self,
        seen: &Seen,
        looked: &Looked,
        (rows, candidates): (&[Asked], &[Vector]),
    ) -> Ahead {
        let weights = &self.weights;
        let vectors = looked.vectors.as_flattened();
        let mut keys = vec![[0.0; INNER]; looked.vectors.len()];
        add_product(vectors, &weights.key, keys.as_flattened_mut(), INNER);
        let rows = rows.iter().zip(candidates).map(|(asked, candidate)| {
            let mut inner = [0.0; INNER];
            inner.copy_from_slice(&weights.inner_bias);
            add_product(candidate, &weights.candidate, &mut inner, INNER);
            Row {
                asked: *asked,
                candidate: *candidate,
                inner,
            }
        });
        Ahead {
            keys,
            rows: rows.collect(),
            marks: widest(|| seen.marks().iter().map(|mark| self.marked(mark)).collect()),
        }
    }

    pub(super) fn marked(&self, of: &Mark) -> Marked {
        let weights = &self.weights;
        let mut mark = [0.0; MARK];
        for (kind, count) in &of.counts {
            let count = (*count as f32).ln_1p();
            add(&mut mark, count, line(&weights.kinds, (*kind).into()));
        }
        let bucket = usize::from(of.bucket);
        add(&mut mark, 1.0, line(&weights.buckets, bucket));
        add(&mut mark, 1.0, line(&weights.recency, of.recency.into()));
        let mut inner = [0.0; INNER];
        through(&mark, &weights.mark, &mut inner);
        Marked {
            mark,
            inner,
            bucket,
        }
    }

    /// The product's weights for one candidate: its numbers are in the lines already.
    pub(super) fn crossing(&self, candidate: &Vector) -> [Inner; WIDTH] {
        let mut lines = [[0.0; INNER]; WIDTH];
        for (at, to) in lines.iter_mut().enumerate() {
            add(to, candidate[at], line(&self.weights.product, at));
        }
        lines
    }

    /// The sums as they are read on: the part of them that their volume leaves, squashed, and of empty buckets what stands for them.
    #[inline(always)]
    pub(super) fn read(&self, pooled: &Pooled) -> Vec<Vector> {
        let mut read = pooled.sums.clone();
        for (read, volume) in read.iter_mut().zip(&pooled.volumes) {
            let part = part(squashed(*volume));
            for value in read {
                *value = squashed(*value * part);
            }
        }
        let empty = self.weights.empty.as_chunks::<WIDTH>().0;
        for ((read, volume), empty) in read.iter_mut().zip(&pooled.volumes).zip(empty) {
            if *volume <= 0.0 {
                *read = *empty;
            }
        }
        read
    }

    /// What is made of a row's sums, [`Network::outputs`] numbers.
    #[inline(always)]
    pub(super) fn write(&self, pooled: &Pooled, candidate: &Vector, to: &mut [f32]) {
        let read = self.read(pooled);
        let mixed = self.mixed(&read);
        let (matches, rest) = to.split_at_mut(read.len());
        for (to, one) in matches.iter_mut().zip(&*mixed) {
            *to = dot(one, candidate);
        }
        let (sums, rest) = rest.split_at_mut(read.len() * WIDTH);
        sums.copy_from_slice(read.as_flattened());
        let (volumes, rest) = rest.split_at_mut(read.len());
        for (to, volume) in volumes.iter_mut().zip(&pooled.volumes) {
            *to = VOLUME * squashed(*volume);
        }
        let (products, of_candidate) = rest.split_at_mut(rest.len() - WIDTH);
        if self.reads.products {
            let mut products = products.iter_mut();
            for (place, one) in mixed.iter().enumerate() {
                for (other, to) in mixed[..place].iter().zip(products.by_ref()) {
                    *to = dot(one, other);
                }
            }
        } else {
            products.fill(0.0);
        }
        of_candidate.copy_from_slice(candidate);
    }
}
