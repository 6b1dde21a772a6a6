//! A bounded map that forgets what was not used for long, at no cost for what is: two generations. What was used since the younger began is in it; when
//! that is full the older is forgotten, and the younger is the older.

use std::hash::Hash;

use hashbrown::{Equivalent, HashMap};

use crate::entities::PinnedHasher;

/// Two generations of values, and what each of them weighs.
#[derive(Debug)]
pub struct Generations<K, V> {
    young: Generation<K, V>,
    old: Generation<K, V>,
    /// Bytes of one generation at most.
    limit: usize,
}

#[derive(Debug)]
struct Generation<K, V> {
    values: HashMap<K, (V, usize), PinnedHasher>,
    bytes: usize,
}

impl<K, V> Default for Generation<K, V> {
    fn default() -> Self {
        Self {
            values: HashMap::default(),
            bytes: 0,
        }
    }
}

impl<K: Hash + Eq, V> Generations<K, V> {
    /// With so many bytes at most; a value that is heavier alone than half of them is held all the same, until the next comes.
    pub fn new(bytes: u64) -> Self {
        Self {
            young: Generation::default(),
            old: Generation::default(),
            limit: usize::try_from(bytes / 2).unwrap_or(usize::MAX),
        }
    }

    /// Bounds it anew: what is too much goes as others come.
    pub fn set_bytes(&mut self, bytes: u64) {
        self.limit = usize::try_from(bytes / 2).unwrap_or(usize::MAX);
    }

    /// A value, which is among the young again.
    pub fn get<Q: Hash + Equivalent<K> + ?Sized>(&mut self, key: &Q) -> Option<&V> {
        if !self.young.values.contains_key(key) {
            let (key, (value, bytes)) = self.old.take(key)?;
            self.insert(key, value, bytes);
        }
        self.young.values.get(key).map(|(value, _)| value)
    }

    /// Takes a value out.
    pub fn remove<Q: Hash + Equivalent<K> + ?Sized>(&mut self, key: &Q) -> Option<V> {
        let young = self.young.take(key);
        let (_, (value, _)) = young.or_else(|| self.old.take(key))?;
        Some(value)
    }

    /// Puts a value of so many bytes, in the place of what was there.
    pub fn insert(&mut self, key: K, value: V, bytes: usize) {
        drop(self.remove(&key));
        if self.young.bytes + bytes > self.limit {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.bytes += bytes;
        self.young.values.insert(key, (value, bytes));
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.young = Generation::default();
        self.old = Generation::default();
    }

    /// Whether there is such a value, which is not used by being asked for.
    pub fn holds<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> bool {
        self.young.values.contains_key(key) || self.old.values.contains_key(key)
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.young.bytes + self.old.bytes
    }
}

impl<K: Hash + Eq, V> Generation<K, V> {
    fn take<Q: Hash + Equivalent<K> + ?Sized>(&mut self, key: &Q) -> Option<(K, (V, usize))> {
        let taken = self.values.remove_entry(key)?;
        self.bytes -= taken.1.1;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what is used stays, what is not goes, and the bytes are those of what is held. Method: one value asked for between many others; replaced, taken,
    /// and one that is too heavy.
    #[test]
    fn what_is_used_stays() {
        let mut held = Generations::new(100);
        for number in 0..1000 {
            held.insert(number, number * 2, 10);
            if number >= 3 {
                assert_eq!(held.get(&3), Some(&6), "{number}");
            }
            assert!(held.bytes() <= 100, "{}", held.bytes());
        }
        assert!(!held.holds(&4) && held.holds(&999));
        held.insert(3, 7, 20);
        assert_eq!(held.get(&3), Some(&7));
        assert_eq!(held.get(&4), None);
        assert_eq!(held.remove(&3), Some(7));
        assert_eq!((held.remove(&3), held.holds(&3)), (None, false));
        held.clear();
        assert_eq!(held.bytes(), 0);
        held.insert(1, 1, 70);
        assert_eq!(held.get(&1), Some(&1));
        assert_eq!(held.bytes(), 70);
        held.insert(2, 2, 10);
        held.insert(3, 3, 50);
        assert!(!held.holds(&1));
    }
}
