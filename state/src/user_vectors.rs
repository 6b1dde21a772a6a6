//! Vectors of users: what deep layers made of a user's sequences, one vector a sequence, and of which of its behaviors.
//!
//! They follow from state and are no part of it: no changelog holds them, and one that is missing, damaged or of another instance's state is made again. So a
//! vector says of what it is made, the digest of its sequence's first behaviors, and whoever reads it compares that with the sequence before them: a vector
//! of a state that never was (a step that was not committed, a partition that was elsewhere in between) is never taken for one of this.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::behavior::{SequenceId, Timestamp};
use crate::error::{Damage, StoreError};
use crate::format::{Put, Take};
use crate::generations::Generations;
use crate::store::{Batch, Store};
use crate::vectors::{EncoderId, FORMAT, put_halves, read_halves, sealed, unsealed, versioned};

/// Kinds of the keys in the store: vectors of users, those of items ([`crate::VectorTable`]), and when layers were in use last.
const USER: u8 = b'u';
const ITEM: u8 = b'v';
const USED: u8 = b'l';
/// Vectors of a user and sequence that are kept: the newest, and for rows that are a moment older, the one before.
const KEPT: usize = 2;
/// Bytes that a vector in memory takes beside its numbers and its key, about.
const BESIDE_BYTES: usize = 240;

/// A user's vector of one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct UserVector {
    /// Where the run begins: behaviors of the sequence before it.
    pub start: u64,
    /// Behaviors of the run that it is made of; at least one.
    pub count: u32,
    /// Digest of these behaviors ([`crate::Sequence::digest`]).
    pub digest: [u8; 16],
    /// Time of the newest of them.
    pub newest: Timestamp,
    /// The numbers.
    pub vector: Arc<[f32]>,
}

impl UserVector {
    fn write(&self, to: &mut Vec<u8>) {
        to.put_u64(self.start);
        to.put_u32(self.count);
        to.put(&self.digest);
        to.put_i64(self.newest.0);
        to.put_u16(u16::try_from(self.vector.len()).expect("invariant: vectors are narrower"));
        put_halves(&self.vector, to);
    }

    fn read(take: &mut Take<'_>) -> Result<Self, Damage> {
        Ok(Self {
            start: take.u64()?,
            count: take.u32()?,
            digest: take.bytes(16)?.try_into().map_err(|_| Damage::Short)?,
            newest: Timestamp(take.i64()?),
            vector: {
                let width = usize::from(take.u16()?);
                read_halves(take.bytes(2 * width)?)?.into()
            },
        })
    }
}

/// Vectors, newest first, as they are stored.
fn write_all(kept: &[UserVector]) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    kept.iter().for_each(|one| one.write(&mut bytes));
    sealed(bytes)
}

fn read_all(bytes: &[u8]) -> Result<Vec<UserVector>, Damage> {
    let mut take: Take<'_> = versioned(unsealed(bytes)?)?;
    let mut kept = Vec::with_capacity(KEPT);
    while !take.0.is_empty() {
        kept.push(UserVector::read(&mut take)?);
    }
    Ok(kept)
}

/// All vectors of users of an instance, in its own store, with a cache in memory.
pub struct UserVectors {
    store: Arc<dyn Store>,
    held: Mutex<Generations<Box<[u8]>, Vec<UserVector>>>,
}

impl std::fmt::Debug for UserVectors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserVectors").finish_non_exhaustive()
    }
}

fn key_of(layers: EncoderId, user: &str, sequence: SequenceId) -> Vec<u8> {
    let mut key = Vec::with_capacity(24 + user.len());
    key.put_u8(USER);
    key.put(&layers.0);
    key.put_str(user);
    key.put_u32(sequence.0);
    key
}

impl UserVectors {
    /// Those of a store, with so many bytes of them in memory.
    pub fn new(store: Arc<dyn Store>, memory: u64) -> Self {
        Self {
            store,
            held: Mutex::new(Generations::new(memory)),
        }
    }

    /// The vectors of a user's sequence by these layers that are kept: the one that was put last, and the one before. Whether they are of the sequence as it
    /// is now, their digests say.
    ///
    /// # Errors
    /// The store's, or a vector that is damaged: it is to be made again.
    pub fn get(
        &self,
        layers: EncoderId,
        user: &str,
        sequence: SequenceId,
    ) -> Result<Vec<UserVector>, crate::Error> {
        let key = key_of(layers, user, sequence);
        if let Some(kept) = self.held.lock().get(&*key) {
            return Ok(kept.clone());
        }
        let Some(stored) = self.store.get(&key)? else {
            return Ok(Vec::new());
        };
        let kept = read_all(&stored).map_err(|damage| crate::Error::Damaged {
            key: key.escape_ascii().to_string(),
            damage,
        })?;
        let mut held = self.held.lock();
        // Unless a newer one was put in between.
        if !held.holds(&*key) {
            hold(&mut held, key, kept.clone());
        }
        Ok(kept)
    }

    /// Puts vectors by these layers, each in the place of the one before.
    ///
    /// # Errors
    /// The store's.
    pub fn put(
        &self,
        layers: EncoderId,
        vectors: Vec<(&str, SequenceId, UserVector)>,
    ) -> Result<(), crate::Error> {
        let mut batch = Batch::new();
        for (user, sequence, vector) in vectors {
            // One that cannot be read is replaced.
            let mut kept = match self.get(layers, user, sequence) {
                Ok(kept) => kept,
                Err(crate::Error::Damaged { .. }) => Vec::new(),
                Err(error) => return Err(error),
            };
            kept.retain(|one| (one.count, one.digest) != (vector.count, vector.digest));
            kept.insert(0, vector);
            kept.truncate(KEPT);
            let key = key_of(layers, user, sequence);
            let bytes = write_all(&kept);
            // What is read is what will be read after a restart: rounded. A number that is none comes of layers that are not right.
            let rounded = read_all(&bytes).map_err(|damage| crate::Error::Damaged {
                key: format!("vector of {user}"),
                damage,
            })?;
            batch.push((key.clone(), Some(bytes)));
            hold(&mut self.held.lock(), key, rounded);
        }
        Ok(self.store.apply(&batch)?)
    }

    /// Notes which layers are in use, and gives those that were in use last before a time.
    ///
    /// # Errors
    /// The store's, or a note that is damaged.
    pub fn in_use(
        &self,
        layers: &[EncoderId],
        now: Timestamp,
        before: Timestamp,
    ) -> Result<Vec<EncoderId>, crate::Error> {
        let key = |layers: &EncoderId| [&[USED][..], &layers.0].concat();
        let note = sealed(now.0.to_le_bytes().to_vec());
        let notes = layers.iter().map(|of| (key(of), Some(note.clone())));
        self.store.apply(&notes.collect())?;
        let (mut unused, mut damaged) = (Vec::new(), None);
        self.store.scan(&[USED], &mut |key, value| {
            let read = || -> Result<_, Damage> {
                let time = unsealed(value)?.try_into().map_err(|_| Damage::Short)?;
                let layers = key[1..].try_into().map_err(|_| Damage::Key)?;
                Ok((EncoderId(layers), Timestamp(i64::from_le_bytes(time))))
            };
            match read() {
                Ok((other, used)) if !layers.contains(&other) && used < before => {
                    unused.push(other);
                }
                Ok(_) => {}
                Err(damage) => {
                    let key = key.escape_ascii().to_string();
                    damaged = Some(crate::Error::Damaged { key, damage });
                }
            }
            damaged.is_none()
        })?;
        damaged.map_or(Ok(unused), Err)
    }

    /// Bounds what is held in memory anew.
    pub fn set_memory(&self, bytes: u64) {
        self.held.lock().set_bytes(bytes);
    }

    /// Deletes up to `count` vectors of layers, of users and of items; with the last of them, the note of their use. Gives how many.
    ///
    /// # Errors
    /// The store's.
    pub fn delete(&self, layers: EncoderId, count: usize) -> Result<usize, StoreError> {
        let mut batch = Batch::new();
        for kind in [USER, ITEM] {
            let prefix = [&[kind][..], &layers.0].concat();
            self.store.scan(&prefix, &mut |key, _| {
                let fits = batch.len() < count;
                if fits {
                    batch.push((key.to_vec(), None));
                }
                fits
            })?;
        }
        let deleted = batch.len();
        if deleted < count {
            batch.push(([&[USED][..], &layers.0].concat(), None));
        }
        self.store.apply(&batch)?;
        Ok(deleted)
    }

    /// Bytes in memory, about.
    pub fn memory(&self) -> usize {
        self.held.lock().bytes()
    }
}

fn hold(held: &mut Generations<Box<[u8]>, Vec<UserVector>>, key: Vec<u8>, kept: Vec<UserVector>) {
    let numbers: usize = kept.iter().map(|one| size_of_val(&*one.vector)).sum();
    let bytes = numbers + key.len() + BESIDE_BYTES;
    held.insert(key.into(), kept, bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemoryStores, Stores};

    const LAYERS: EncoderId = EncoderId([7; 16]);
    const SEQUENCE: SequenceId = SequenceId(3);

    fn vector(count: u32) -> UserVector {
        UserVector {
            start: 256,
            count,
            digest: [count as u8; 16],
            newest: Timestamp(1_000 + i64::from(count)),
            vector: [0.5, -2.0, count as f32].into(),
        }
    }

    /// Goal: the newest vector of a user's sequence and the one before are found, after a restart too, and nobody else's; memory is bounded. Method: many users in little memory,
    /// other layers, another sequence, a user whose id begins like another's.
    #[test]
    fn the_newest_vector_is_found() {
        let stores = MemoryStores::default();
        let open = || UserVectors::new(stores.open(crate::DEEP_VECTORS).unwrap(), 4_000);
        let vectors = open();
        let user = |number: u32| format!("u{number}");
        for round in [1, 2] {
            for number in 0..300 {
                let user = user(number);
                let one = vec![(&*user, SEQUENCE, vector(number + round))];
                vectors.put(LAYERS, one).unwrap();
                assert!(vectors.memory() <= 4_000, "{}", vectors.memory());
            }
        }
        for vectors in [vectors, open()] {
            for number in 0..300 {
                let found = vectors.get(LAYERS, &user(number), SEQUENCE).unwrap();
                assert_eq!(found, [vector(number + 2), vector(number + 1)]);
                assert!(vectors.memory() <= 4_000);
            }
            let none = [
                vectors.get(EncoderId([8; 16]), "u1", SEQUENCE).unwrap(),
                vectors.get(LAYERS, "u1", SequenceId(4)).unwrap(),
                vectors.get(LAYERS, "u", SEQUENCE).unwrap(),
            ];
            assert!(none.iter().all(Vec::is_empty), "{none:?}");
        }
    }

    /// Goal: vectors of layers that were not in use for long are deleted, part by part, and no other. Method: two layers used in turn.
    #[test]
    fn unused_layers_go() {
        let stores = MemoryStores::default();
        let store = stores.open(crate::DEEP_VECTORS).unwrap();
        let vectors = UserVectors::new(Arc::clone(&store), 4_000);
        let other = EncoderId([8; 16]);
        for layers in [LAYERS, other] {
            for user in ["a", "b", "c"] {
                let one = vec![(user, SEQUENCE, vector(1))];
                vectors.put(layers, one).unwrap();
            }
            let item = [&[ITEM][..], &layers.0, &[1; 16]].concat();
            store.apply(&vec![(item, Some(vec![1]))]).unwrap();
        }
        let at = Timestamp;
        assert!(vectors.in_use(&[LAYERS], at(10), at(5)).unwrap().is_empty());
        assert!(vectors.in_use(&[other], at(20), at(5)).unwrap().is_empty());
        assert_eq!(vectors.in_use(&[other], at(30), at(15)).unwrap(), [LAYERS]);
        let both = [LAYERS, other];
        assert!(vectors.in_use(&both, at(12), at(30)).unwrap().is_empty());
        let left = || store_keys(&*store);
        let before = left();
        assert_eq!(vectors.delete(LAYERS, 3).unwrap(), 3);
        assert_eq!(vectors.in_use(&[other], at(30), at(15)).unwrap(), [LAYERS]);
        assert_eq!(vectors.delete(LAYERS, 3).unwrap(), 1);
        assert!(vectors.in_use(&[other], at(30), at(15)).unwrap().is_empty());
        assert_eq!(left(), before - 5);
        let found = vectors.get(other, "b", SEQUENCE).unwrap();
        assert_eq!(found, [vector(1)]);
    }

    fn store_keys(store: &dyn Store) -> usize {
        let mut count = 0;
        store
            .scan(&[], &mut |_, _| {
                count += 1;
                true
            })
            .unwrap();
        count
    }

    /// Goal: a damaged vector is told of and never given, and another can be put in its place. Method: each byte of it turned, and cut short.
    #[test]
    fn damage_is_told() {
        let stores = MemoryStores::default();
        let store = stores.open(crate::DEEP_VECTORS).unwrap();
        let key = key_of(LAYERS, "u", SEQUENCE);
        let whole = write_all(&[vector(9)]);
        for place in 0..=whole.len() {
            let mut spoilt = whole.clone();
            match spoilt.get_mut(place) {
                Some(byte) => *byte ^= 0x10,
                None => spoilt.truncate(place - 1),
            }
            store.apply(&vec![(key.clone(), Some(spoilt))]).unwrap();
            let vectors = UserVectors::new(Arc::clone(&store), 0);
            let error = vectors.get(LAYERS, "u", SEQUENCE).unwrap_err();
            assert!(matches!(error, crate::Error::Damaged { .. }), "{error}");
            let again = vec![("u", SEQUENCE, vector(9))];
            vectors.put(LAYERS, again).unwrap();
            let found = vectors.get(LAYERS, "u", SEQUENCE).unwrap();
            assert_eq!(found, [vector(9)]);
        }
    }
}
