//! Cells by entity, and the bytes that they take in memory. Before it stand the records of `item-deltas` and `item-state`; after it the
//! statistics of a partition's owner ([`crate::Statistics`]), and those of all partitions in each instance's [`crate::ItemTable`].

use crate::cell::Cells;

/// Bytes of an entity beside its key and cells: its place in the map, a third of which is empty, and what the allocator adds.
const PLACE_BYTES: usize = 128;

/// Hashes keys with [`crate::pinned_hash`]: no random seed, so that a run can be repeated.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PinnedHasher;

impl std::hash::BuildHasher for PinnedHasher {
    type Hasher = xxhash_rust::xxh3::Xxh3Default;

    fn build_hasher(&self) -> Self::Hasher {
        xxhash_rust::xxh3::Xxh3Default::new()
    }
}

/// Cells by the key of their entity.
#[derive(Debug, Default)]
pub(crate) struct Entities {
    cells: hashbrown::HashMap<Box<[u8]>, Cells, PinnedHasher>,
    bytes: usize,
}

fn weight(key: &[u8], cells: &Cells) -> usize {
    PLACE_BYTES + key.len() + cells.bytes()
}

impl Entities {
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Cells> {
        self.cells.get(key)
    }

    /// Changes an entity's cells; one that is not there yet begins with none.
    pub(crate) fn change<T>(&mut self, key: &[u8], change: impl FnOnce(&mut Cells) -> T) -> T {
        let held = self.cells.get(key);
        self.bytes -= held.map_or(0, |cells| weight(key, cells));
        let cells = self.cells.entry_ref(key).or_default();
        let changed = change(cells);
        self.bytes += weight(key, cells);
        changed
    }

    /// Puts an entity's cells, or takes them away.
    pub(crate) fn put(&mut self, key: &[u8], cells: Option<Cells>) {
        let held = match cells {
            Some(cells) => {
                self.bytes += weight(key, &cells);
                self.cells.insert(key.into(), cells)
            }
            None => self.cells.remove(key),
        };
        self.bytes -= held.map_or(0, |cells| weight(key, &cells));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &Cells)> {
        self.cells.iter().map(|(key, cells)| (&**key, cells))
    }

    pub(crate) fn len(&self) -> usize {
        self.cells.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Bytes in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behavior::{FixedSum, Timestamp};
    use crate::cell::Grain;

    /// Goal: what is said of memory is what is held. Method: entities come, grow, are replaced and go, and none is left.
    #[test]
    fn bytes_follow_what_is_held() {
        let mut entities = Entities::default();
        let mut before = 0;
        for minute in 0..200 {
            entities.change(b"i1", |cells| {
                let time = Timestamp(minute * 60_000);
                cells.add(Grain::ITEM, 1, time, 1, FixedSum(0));
            });
            assert!(entities.bytes() >= before);
            before = entities.bytes();
        }
        assert!(before > 200 * size_of::<crate::Cell>(), "{before}");
        entities.put(b"i2", Some(Cells::default()));
        assert_eq!(entities.bytes(), before + PLACE_BYTES + 2);
        entities.put(b"i1", Some(Cells::default()));
        assert_eq!(entities.bytes(), 2 * (PLACE_BYTES + 2));
        entities.put(b"i1", None);
        entities.put(b"i2", None);
        entities.put(b"i3", None);
        assert_eq!((entities.bytes(), entities.len()), (0, 0));
    }
}
