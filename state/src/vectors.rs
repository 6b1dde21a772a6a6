//! Vectors of texts: what the shallow layers of a language model made of each distinct text, once.
//!
//! Every instance follows the topic of vectors into its own store, and reads them from there, through a cache in memory. A vector lies under its
//! encoder and the hash of its text, so vectors of two encoders never mix; which encoder is the current one is a record of the topic, too.
//! What a text's vector is never changes: a copy that is behind lacks some, and has none that is wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashSet;
use parking_lot::Mutex;

use crate::behavior::{TextHash, Timestamp};
use crate::entities::PinnedHasher;
use crate::error::{Damage, StoreError};
use crate::generations::Generations;
use crate::store::{Batch, Store};

mod former;
mod record;
mod spread;

use former::Former;
use spread::{Moved, Spreads};

pub use record::{CurrentEncoder, VectorKey, VectorRecord, read_vector, use_bytes, vector_bytes};
pub(crate) use record::{FORMAT, put_halves, read_halves, sealed, unsealed, versioned};
pub use spread::Spread;

use record::{CURRENT, POSITION, VECTOR, read_use};

/// Whose vectors: hash of all that they follow from, but texts and times. Of an encoder: weights, tokenizer, cut and pooling; of deep layers: the encoder,
/// their weights, and where runs begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EncoderId(pub [u8; 16]);

impl std::fmt::Display for EncoderId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What came of looking a vector up.
#[derive(Clone, Debug, PartialEq)]
pub enum Looked {
    /// There it is.
    Hit(Arc<[f32]>),
    /// It is not there (yet).
    Miss,
}

/// All vectors of an instance.
pub struct VectorTable {
    store: Arc<dyn Store>,
    /// Held by whoever writes, also while the store works: rows do not wait for that. None: nobody asks how the vectors lie.
    writer: Mutex<Option<Spreads>>,
    inner: Mutex<Inner>,
}

struct Inner {
    current: Option<CurrentEncoder>,
    positions: BTreeMap<i32, i64>,
    former: Former,
    spreads: BTreeMap<EncoderId, Arc<Spread>>,
    /// How wide the vectors are of encoders that were asked for; none: there are none of it.
    widths: BTreeMap<EncoderId, Option<u16>>,
    held: Generations<(EncoderId, TextHash), Arc<[f32]>>,
    /// Texts that were looked for and are not in the store: they need not be looked for there again.
    absent: HashSet<(EncoderId, TextHash), PinnedHasher>,
    /// How often something was written: who has found nothing in the store before one of these cannot say that there is nothing.
    written: u64,
    /// Whether a stored vector was not what was written.
    damaged: bool,
}

/// Texts remembered as absent, at most.
const ABSENT_MAX: usize = 100_000;
/// Bytes that a vector in memory takes beside its numbers, about.
const VECTOR_BYTES: usize = 80;

impl std::fmt::Debug for VectorTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inner = self.inner.lock();
        f.debug_struct("VectorTable")
            .field("current", &inner.current)
            .field("positions", &inner.positions)
            .finish_non_exhaustive()
    }
}

fn damaged(key: &[u8]) -> impl FnOnce(Damage) -> crate::Error {
    let key = key.escape_ascii().to_string();
    move |damage| crate::Error::Damaged { key, damage }
}

impl VectorTable {
    /// The table over a store, with so many bytes of vectors in memory.
    ///
    /// # Errors
    /// If the store cannot be read, or holds something else.
    pub fn open(store: Arc<dyn Store>, memory: u64) -> Result<Self, crate::Error> {
        let table = Self::bare(store, memory)?;
        let positions = table.positions();
        let spreads = Spreads::of(&*table.store, &positions)?;
        table.inner.lock().spreads = spreads.all();
        *table.writer.lock() = Some(spreads);
        Ok(table)
    }

    /// The same of vectors that nobody asks how they lie.
    ///
    /// # Errors
    /// As [`VectorTable::open`].
    pub fn bare(store: Arc<dyn Store>, memory: u64) -> Result<Self, crate::Error> {
        let current = store.get(&VectorKey::Current.bytes())?;
        let current = current
            .as_deref()
            .map(CurrentEncoder::read)
            .transpose()
            .map_err(damaged(&[CURRENT]))?;
        let mut positions = BTreeMap::new();
        let mut damage = None;
        store.scan(&[POSITION], &mut |key, value| {
            let read = || {
                let value = unsealed(value).ok()?;
                Some((key.get(1..5)?.try_into().ok()?, value.try_into().ok()?))
            };
            match read() {
                Some((partition, next)) => {
                    positions.insert(i32::from_le_bytes(partition), i64::from_le_bytes(next));
                }
                None => damage = Some(Damage::Key),
            }
            damage.is_none()
        })?;
        if let Some(damage) = damage {
            return Err(damaged(&[POSITION])(damage));
        }
        let former = Former::of(&*store)?.map_err(damaged(b"former"))?;
        Ok(Self {
            store,
            writer: Mutex::new(None),
            inner: Mutex::new(Inner {
                current,
                positions,
                former,
                spreads: BTreeMap::new(),
                widths: BTreeMap::new(),
                held: Generations::new(memory),
                absent: HashSet::default(),
                written: 0,
                damaged: false,
            }),
        })
    }

    /// How far each partition of the topic was taken in.
    pub fn positions(&self) -> BTreeMap<i32, i64> {
        self.inner.lock().positions.clone()
    }

    /// The encoder that was announced: its vectors are for whoever needs no other's.
    pub fn current(&self) -> Option<CurrentEncoder> {
        self.inner.lock().current
    }

    /// How the vectors of an encoder lie, all that are there now; none: there are none.
    pub fn spread(&self, encoder: EncoderId) -> Option<Arc<Spread>> {
        self.inner.lock().spreads.get(&encoder).map(Arc::clone)
    }

    /// An encoder of which there are vectors, whether or not it is the current one.
    ///
    /// # Errors
    /// The store's, or a vector that is damaged.
    pub fn encoder(&self, id: EncoderId) -> Result<Option<CurrentEncoder>, crate::Error> {
        let of = |width: Option<u16>| width.map(|width| CurrentEncoder { id, width });
        {
            let inner = self.inner.lock();
            if let Some(current) = inner.current.filter(|current| current.id == id) {
                return Ok(Some(current));
            }
            if let Some(width) = inner.widths.get(&id) {
                return Ok(of(*width));
            }
        }
        let mut first = None;
        let prefix = [&[VECTOR][..], &id.0].concat();
        self.store.scan(&prefix, &mut |key, value| {
            first = Some((key.to_vec(), value.to_vec()));
            false
        })?;
        let width = match first {
            Some((key, value)) => {
                let vector = read_vector(&value).map_err(|damage| self.is_damaged(&key, damage));
                Some(width_of(&vector?))
            }
            None => None,
        };
        let mut inner = self.inner.lock();
        // Unless one has come in between.
        let known = inner.widths.entry(id).or_insert(width);
        Ok(of(*known))
    }

    fn is_damaged(&self, key: &[u8], damage: Damage) -> crate::Error {
        self.inner.lock().damaged = true;
        damaged(key)(damage)
    }

    /// Bounds what is held in memory anew.
    pub fn set_memory(&self, bytes: u64) {
        self.inner.lock().held.set_bytes(bytes);
    }

    /// Bytes of vectors in memory, about.
    pub fn memory(&self) -> usize {
        self.inner.lock().held.bytes()
    }

    /// Takes records of the topic in: all of them reach the store, with the positions behind them, or none.
    ///
    /// # Errors
    /// The store's, or a record that is none of ours.
    pub fn apply<'a>(
        &self,
        records: impl IntoIterator<Item = VectorRecord<'a>>,
    ) -> Result<(), crate::Error> {
        let mut batch = Batch::new();
        let mut positions = BTreeMap::new();
        let mut current = None;
        let (mut arrived, mut made, mut announced) = (Vec::new(), Vec::new(), Vec::new());
        let mut moved = Moved::default();
        let mut writer = self.writer.lock();
        for record in records {
            positions.insert(record.next.0, record.next.1);
            let bad = || damaged(record.key);
            match VectorKey::read(record.key).map_err(bad())? {
                VectorKey::Current => {
                    let value = record.value.map(CurrentEncoder::read);
                    current = Some(value.transpose().map_err(bad())?);
                    announced.push(record.taken);
                }
                VectorKey::Used(encoder) => {
                    if record
                        .value
                        .map(read_use)
                        .transpose()
                        .map_err(bad())?
                        .is_some()
                    {
                        made.push((encoder, record.taken));
                    }
                }
                VectorKey::Vector(encoder, text) => {
                    let vector = record.value.map(read_vector).transpose();
                    let vector = vector.map_err(bad())?;
                    if vector.is_some() {
                        made.push((encoder, record.taken));
                    }
                    if let Some(spreads) = &*writer {
                        let of = (&*self.store, spreads);
                        moved.put(of, (encoder, record.key), vector.as_deref())?;
                    }
                    arrived.push((encoder, text, vector));
                }
            }
            batch.push((record.key.to_vec(), record.value.map(<[u8]>::to_vec)));
        }
        for (partition, next) in &positions {
            let key = [&[POSITION][..], &partition.to_le_bytes()].concat();
            batch.push((key, Some(sealed(next.to_le_bytes().to_vec()))));
        }
        {
            let mut inner = self.inner.lock();
            for taken in announced {
                inner.former.announced(taken, &mut batch);
            }
            for (encoder, taken) in made {
                inner.former.made(encoder, taken, &mut batch);
            }
            positions = inner
                .positions
                .clone()
                .into_iter()
                .chain(positions)
                .collect();
        }
        if let Some(spreads) = &*writer {
            spreads.write(&moved, &positions, &mut batch);
        }
        self.store.apply(&batch)?;
        let moved = writer.as_mut().map(|spreads| spreads.take(moved));
        let mut inner = self.inner.lock();
        inner.came_to_lie(moved.unwrap_or_default());
        inner.positions = positions;
        if let Some(current) = current {
            inner.current = current;
        }
        for (encoder, text, vector) in arrived {
            let Some(vector) = vector else {
                drop(inner.held.remove(&(encoder, text)));
                continue;
            };
            inner.came(encoder, width_of(&vector));
            // Others are read when they are wanted.
            let is_waited_for = inner.absent.remove(&(encoder, text));
            if is_waited_for {
                inner.keep((encoder, text), vector.into());
            }
        }
        Ok(())
    }

    /// Whether a stored vector was found damaged since this was last asked: the topic has it all, and is to be read again from its beginning.
    pub fn was_damaged(&self) -> bool {
        std::mem::take(&mut self.inner.lock().damaged)
    }

    /// Puts vectors of the current encoder that came by no topic: where the host makes them itself.
    ///
    /// # Errors
    /// The store's.
    pub fn insert(
        &self,
        encoder: CurrentEncoder,
        vectors: &[(TextHash, Vec<f32>)],
    ) -> Result<(), crate::Error> {
        let mut batch = Batch::new();
        batch.push((VectorKey::Current.bytes(), Some(encoder.bytes())));
        let mut moved = Moved::default();
        let mut writer = self.writer.lock();
        for (text, vector) in vectors {
            let key = VectorKey::Vector(encoder.id, *text).bytes();
            let bytes = vector_bytes(vector);
            if let Some(spreads) = &*writer {
                // As it will be read.
                let vector = read_vector(&bytes).map_err(damaged(&key))?;
                let of = (&*self.store, spreads);
                moved.put(of, (encoder.id, &key), Some(&vector))?;
            }
            batch.push((key, Some(bytes)));
        }
        if let Some(spreads) = &*writer {
            spreads.write(&moved, &self.positions(), &mut batch);
        }
        self.store.apply(&batch)?;
        let moved = writer.as_mut().map(|spreads| spreads.take(moved));
        let mut inner = self.inner.lock();
        inner.came_to_lie(moved.unwrap_or_default());
        inner.current = Some(encoder);
        inner.came(encoder.id, encoder.width);
        for (text, _) in vectors {
            inner.absent.remove(&(encoder.id, *text));
        }
        Ok(())
    }

    /// The vector of a text by that encoder: what is looked up under one never mixes with another's, however the current one changes in between. Of another
    /// width there is none.
    ///
    /// # Errors
    /// The store's.
    pub fn look(&self, encoder: CurrentEncoder, text: &TextHash) -> Result<Looked, crate::Error> {
        let of = (encoder.id, *text);
        let written = {
            let mut inner = self.inner.lock();
            if let Some(vector) = inner.held.get(&of) {
                let is_whole = vector.len() == usize::from(encoder.width);
                let hit = || Looked::Hit(Arc::clone(vector));
                return Ok(if is_whole { hit() } else { Looked::Miss });
            }
            if inner.absent.contains(&of) {
                return Ok(Looked::Miss);
            }
            inner.written
        };
        let key = VectorKey::Vector(encoder.id, *text).bytes();
        let stored = self.store.get(&key)?;
        let stored = stored.as_deref().map(read_vector).transpose();
        let stored = stored.map_err(|damage| self.is_damaged(&key, damage))?;
        let stored = stored.filter(|vector| vector.len() == usize::from(encoder.width));
        let mut inner = self.inner.lock();
        let Some(vector) = stored else {
            // Unless it has come in between.
            if inner.written == written {
                if inner.absent.len() >= ABSENT_MAX {
                    inner.absent.clear();
                }
                inner.absent.insert(of);
            }
            return Ok(Looked::Miss);
        };
        let vector: Arc<[f32]> = vector.into();
        inner.keep(of, Arc::clone(&vector));
        Ok(Looked::Hit(vector))
    }

    /// Encoders that were neither the current one nor made ready at or after a time: their vectors can go.
    pub fn unused_since(&self, time: Timestamp) -> Vec<EncoderId> {
        let inner = self.inner.lock();
        let current = inner.current.map(|current| current.id);
        current.map_or_else(Vec::new, |current| inner.former.unused_since(current, time))
    }

    /// Keys of the topic, up to `count`, under which vectors of an encoder lie, of those that `wanted` says. An encoder without any is forgotten.
    ///
    /// # Errors
    /// The store's.
    pub fn keys_of(
        &self,
        encoder: EncoderId,
        count: usize,
        wanted: &dyn Fn(&TextHash) -> bool,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let (mut keys, mut has_any) = (Vec::new(), false);
        let prefix = [&[VECTOR][..], &encoder.0].concat();
        self.store.scan(&prefix, &mut |key, _| {
            has_any = true;
            if let Ok(VectorKey::Vector(_, text)) = VectorKey::read(key)
                && wanted(&text)
            {
                keys.push(key.to_vec());
            }
            keys.len() < count
        })?;
        if !has_any {
            let mut batch = Batch::new();
            let mut inner = self.inner.lock();
            inner.former.gone(encoder, &mut batch);
            inner.widths.remove(&encoder);
            self.store.apply(&batch)?;
        }
        Ok(keys)
    }

    /// Whether the store has a text's vector of that encoder.
    ///
    /// # Errors
    /// The store's.
    pub fn has(&self, encoder: EncoderId, text: &TextHash) -> Result<bool, StoreError> {
        let key = VectorKey::Vector(encoder, *text).bytes();
        Ok(self.store.get(&key)?.is_some())
    }
}

impl Inner {
    fn keep(&mut self, of: (EncoderId, TextHash), vector: Arc<[f32]>) {
        let bytes = size_of_val(&*vector) + VECTOR_BYTES;
        self.held.insert(of, vector, bytes);
    }

    /// Something was written, and so these encoders' vectors lie now.
    fn came_to_lie(&mut self, spreads: Vec<(EncoderId, Option<Arc<Spread>>)>) {
        self.written += 1;
        for (encoder, spread) in spreads {
            match spread {
                Some(spread) => drop(self.spreads.insert(encoder, spread)),
                None => drop(self.spreads.remove(&encoder)),
            }
        }
    }

    /// An encoder has a vector of that width.
    fn came(&mut self, encoder: EncoderId, width: u16) {
        if let Some(none @ None) = self.widths.get_mut(&encoder) {
            *none = Some(width);
        }
    }
}

fn width_of(vector: &[f32]) -> u16 {
    u16::try_from(vector.len()).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;
