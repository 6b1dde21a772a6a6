//! Vectors of users and items by a model's deep layers, beside the stream.
//!
//! Before it, steps fold behaviors into users' sequences and ask for what has changed ([`Asked`]); after it, rows read the vectors that are there
//! ([`DeepVectors`]), and never wait. A behavior more costs a run one position: its keys and values stay in memory, bounded, and a run that is not there is
//! made anew from the hashes and times in state. What a run is made of is compared by digest, so nothing of a state that never was, of another order, or of
//! another model is ever added to.

mod asked;

use std::sync::Arc;
use std::time::Instant;

use headwater_model::bahe::{BaheModel, Deep, Run, Taken, gap_of};
use headwater_state::{
    CurrentEncoder, EncoderId, Generations, Looked, Store, TextHash, UserVector, UserVectors,
    VectorTable,
};

use crate::error::Error;
use crate::metrics::DeepMetrics;

pub use asked::{Asked, Wanted, WantedRun};

/// Positions that go through the layers at once, about.
const POSITIONS_MAX: usize = 512;
/// Bytes of a run in memory beside its numbers, about.
const RUN_BYTES: usize = 200;

/// Vectors that deep layers made: of items by the hash of their text, of users by sequence.
#[derive(Debug)]
pub struct DeepVectors {
    layers: CurrentEncoder,
    /// Of users.
    pub users: UserVectors,
    /// Of items.
    pub items: VectorTable,
}

impl DeepVectors {
    /// Those in a store, for a model that looks at texts; half of so many bytes in memory for users, half for items.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn open(
        store: Arc<dyn Store>,
        model: &BaheModel,
        memory: u64,
    ) -> Result<Self, headwater_state::Error> {
        let width = u16::try_from(model.manifest().head.width)
            .expect("invariant: language models have fewer than 65,536 numbers a position");
        let layers = CurrentEncoder {
            id: EncoderId(model.deep_id()),
            width,
        };
        let items = VectorTable::bare(Arc::clone(&store), memory / 2)?;
        // What these layers made in an earlier life is found at once.
        items.insert(layers, &[])?;
        Ok(Self {
            layers,
            users: UserVectors::new(store, memory / 2),
            items,
        })
    }

    /// Bounds what is held in memory anew.
    pub fn set_memory(&self, memory: u64) {
        self.users.set_memory(memory / 2);
        self.items.set_memory(memory / 2);
    }

    /// Whose they are.
    pub fn layers(&self) -> CurrentEncoder {
        self.layers
    }
}

/// A run in memory, and what it is made of.
#[derive(Debug)]
struct Held {
    start: u64,
    digest: [u8; 16],
    run: Run,
}

/// The deep layers at work.
pub struct Deepen {
    model: Arc<BaheModel>,
    texts: Arc<VectorTable>,
    vectors: Arc<DeepVectors>,
    runs: Generations<(Arc<str>, usize), Held>,
    metrics: DeepMetrics,
}

impl std::fmt::Debug for Deepen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deepen")
            .field("layers", &self.vectors.layers)
            .finish_non_exhaustive()
    }
}

/// A run on its way.
struct Under<'a> {
    wanted: &'a WantedRun,
    /// Behaviors that it has.
    has: usize,
    /// Vectors of the texts behind them.
    next: Vec<Arc<[f32]>>,
}

impl Deepen {
    /// The layers of a model that looks at texts, with so many bytes of keys and values in memory.
    ///
    /// # Panics
    /// If the model looks at no texts.
    pub fn new(
        model: Arc<BaheModel>,
        texts: Arc<VectorTable>,
        vectors: Arc<DeepVectors>,
        memory: u64,
        metrics: DeepMetrics,
    ) -> Self {
        assert!(model.deep().is_some(), "a model that looks at texts");
        Self {
            model,
            texts,
            vectors,
            runs: Generations::new(memory),
            metrics,
        }
    }

    /// Bounds the keys and values in memory anew.
    pub fn set_memory(&mut self, memory: u64) {
        self.runs.set_bytes(memory);
    }

    /// Whether there are vectors of texts that the layers take.
    pub fn has_its_encoder(&self) -> bool {
        self.encoder().is_some()
    }

    /// The encoder whose vectors the layers take, if there are any.
    fn encoder(&self) -> Option<CurrentEncoder> {
        let of = EncoderId(self.model.encoder()?);
        // A damaged vector is none, as with texts.
        self.texts.encoder(of).ok().flatten()
    }

    /// Makes what is wanted, as far as the texts have vectors. Gives back what is to be tried again when more of them have.
    ///
    /// # Errors
    /// A store's, or what the tensor library says; vectors that are there stay.
    pub fn work(&mut self, wanted: Wanted) -> Result<Wanted, Error> {
        if self.encoder().is_none() {
            return Ok(wanted);
        }
        let items = self.items(&wanted.items)?;
        let whole = wanted.runs.iter().map(|run| run.sequence.entries().len());
        let whole: Vec<usize> = whole.collect();
        let reached = self.runs(&wanted.runs, &whole)?;
        let short = reached.iter().zip(&whole).map(|(is, wanted)| is < wanted);
        let mut left = Wanted {
            items,
            runs: Vec::new(),
        };
        for (run, short) in wanted.runs.into_iter().zip(short) {
            if short {
                left.runs.push(run);
            }
        }
        let memory = |part: &str, bytes: usize| {
            let gauge = self.metrics.memory.with_label_values(&[part]);
            gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        };
        memory("runs", self.runs.bytes());
        memory("users", self.vectors.users.memory());
        memory("items", self.vectors.items.memory());
        Ok(left)
    }

    /// Makes the vectors of items, by the hashes of their texts; gives those whose texts have none yet.
    ///
    /// # Errors
    /// As [`Deepen::work`].
    pub fn items(&mut self, texts: &[TextHash]) -> Result<Vec<TextHash>, Error> {
        let Some(encoder) = self.encoder() else {
            return Ok(texts.to_vec());
        };
        let (mut known, mut left) = (Vec::new(), Vec::new());
        for text in texts {
            match self.text(encoder, text)? {
                Some(vector) => known.push((*text, vector)),
                None => left.push(*text),
            }
        }
        for chunk in known.chunks(POSITIONS_MAX) {
            let began = Instant::now();
            let vectors: Vec<&[f32]> = chunk.iter().map(|(_, vector)| &**vector).collect();
            let made = deep(&self.model)
                .item_vectors(&vectors)
                .map_err(deep_failed)?;
            let texts = chunk.iter().map(|(text, _)| *text);
            let made: Vec<_> = texts.zip(made).collect();
            self.vectors
                .items
                .insert(self.vectors.layers, &made)
                .map_err(vectors_failed)?;
            // The constant first position, and the item's.
            self.took(2 * chunk.len(), began);
        }
        Ok(left)
    }

    /// Makes the vector of the first `until` behaviors of each run, or of as many of them as have vectors of their texts; gives how many these are.
    ///
    /// # Errors
    /// As [`Deepen::work`].
    pub fn runs(&mut self, wanted: &[WantedRun], until: &[usize]) -> Result<Vec<usize>, Error> {
        let Some(encoder) = self.encoder() else {
            return Ok(vec![0; wanted.len()]);
        };
        let mut reached = Vec::with_capacity(wanted.len());
        let (mut under, mut held, mut positions) = (Vec::new(), Vec::new(), 0);
        for (wanted, until) in wanted.iter().zip(until) {
            let (run, outcome) = self.take(wanted, *until)?;
            let mut next = Vec::new();
            for entry in &wanted.sequence.entries()[run.run.behaviors()..*until] {
                let Some(vector) = self.text(encoder, &entry.text)? else {
                    break;
                };
                next.push(vector);
            }
            if !next.is_empty() {
                self.metrics.runs.with_label_values(&[outcome]).inc();
            }
            let has = run.run.behaviors();
            reached.push(has + next.len());
            positions += next.len();
            held.push(run);
            under.push(Under { wanted, has, next });
            if positions >= POSITIONS_MAX {
                self.advance(&under, std::mem::take(&mut held))?;
                under.clear();
                positions = 0;
            }
        }
        self.advance(&under, held)?;
        Ok(reached)
    }

    /// The vector of a text. A damaged one is none, until whoever follows vectors has read it again.
    fn text(&self, encoder: CurrentEncoder, text: &TextHash) -> Result<Option<Arc<[f32]>>, Error> {
        match self.texts.look(encoder, text) {
            Ok(Looked::Hit(vector)) => Ok(Some(vector)),
            Ok(Looked::Miss) | Err(headwater_state::Error::Damaged { .. }) => Ok(None),
            Err(error) => Err(vectors_failed(error)),
        }
    }

    /// A run out of memory, or its beginning; and which.
    fn take(&mut self, wanted: &WantedRun, until: usize) -> Result<(Held, &'static str), Error> {
        let sequence = &wanted.sequence;
        let key = (Arc::clone(&wanted.user), wanted.place);
        let held = self.runs.remove(&key).filter(|held| {
            let has = held.run.behaviors();
            held.start == sequence.start() && has <= until && held.digest == sequence.digest(has)
        });
        if let Some(held) = held {
            return Ok((held, "held"));
        }
        self.metrics.positions.inc();
        let held = Held {
            start: sequence.start(),
            digest: sequence.digest(0),
            run: deep(&self.model).begin().map_err(deep_failed)?,
        };
        Ok((held, "anew"))
    }

    /// Takes the next behaviors into their runs, all of them at once, and puts what comes out.
    fn advance(&mut self, under: &[Under<'_>], mut held: Vec<Held>) -> Result<(), Error> {
        let began = Instant::now();
        let mut taken = Vec::new();
        for (run, one) in under.iter().enumerate() {
            let entries = one.wanted.sequence.entries();
            for (place, vector) in (one.has..).zip(&one.next) {
                let before = place.checked_sub(1).map(|before| entries[before].time);
                let gap = gap_of(before.map(|before| entries[place].time.since(before)));
                taken.push(Taken { run, vector, gap });
            }
        }
        let mut runs: Vec<&mut Run> = held.iter_mut().map(|held| &mut held.run).collect();
        let advanced = deep(&self.model).advance(&mut runs, &taken);
        advanced.map_err(deep_failed)?;
        self.took(taken.len(), began);
        let mut made = Vec::new();
        for (one, held) in under.iter().zip(&mut held) {
            let sequence = &one.wanted.sequence;
            let count = held.run.behaviors();
            held.digest = sequence.digest(count);
            let Some(vector) = held.run.vector() else {
                continue;
            };
            let vector = UserVector {
                start: held.start,
                count: u32::try_from(count).expect("invariant: runs are short"),
                digest: held.digest,
                newest: sequence.entries()[count - 1].time,
                vector: vector.into(),
            };
            made.push((&*one.wanted.user, sequence.id(), vector));
        }
        let put = self.vectors.users.put(self.vectors.layers.id, made);
        put.map_err(vectors_failed)?;
        for (one, held) in under.iter().zip(held) {
            let key = (Arc::clone(&one.wanted.user), one.wanted.place);
            let bytes = held.run.bytes() + key.0.len() + RUN_BYTES;
            self.runs.insert(key, held, bytes);
        }
        Ok(())
    }

    fn took(&self, positions: usize, began: Instant) {
        if positions > 0 {
            self.metrics.positions.inc_by(positions as u64);
            self.metrics.seconds.observe(began.elapsed().as_secs_f64());
        }
    }
}

fn deep(model: &BaheModel) -> &Deep {
    model.deep().expect("invariant: asked for when it was made")
}

fn deep_failed(error: headwater_model::language::LanguageError) -> Error {
    Error::Deep(Box::new(error))
}

fn vectors_failed(source: headwater_state::Error) -> Error {
    Error::Vectors { source }
}

#[cfg(test)]
mod tests;
