//! A page: rows in the order of their keys.

use std::sync::OnceLock;

use xxhash_rust::xxh3::xxh3_128;

use super::key::RowKey;

/// Rows of a page in the mean: a table of n rows has n / 64 pages, rounded up.
pub const ROWS_IN_PAGE: usize = 64;
/// Rows of a page at most. Pages that wait for their split have 128 in the mean, so ids that were not made for it never come near.
pub const ROWS_IN_PAGE_MAX: usize = 512;

/// What becomes of a row that a page was asked to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    New,
    Full,
}

/// Rows, sorted by key.
#[derive(Debug, Default)]
pub(super) struct Page {
    keys: Vec<RowKey>,
    /// Row after row: its values, and the sum of its squared gradients.
    numbers: Vec<f32>,
    /// Hour of the last meeting.
    touched: Vec<u32>,
    /// Hash of its bytes, once somebody asked.
    hash: OnceLock<u128>,
}

/// A copy is made to be changed: it has no hash yet.
impl Clone for Page {
    fn clone(&self) -> Self {
        Self {
            keys: self.keys.clone(),
            numbers: self.numbers.clone(),
            touched: self.touched.clone(),
            hash: OnceLock::new(),
        }
    }
}

impl Page {
    /// Rows that a page makes room for at a time.
    pub(super) const ROOM: usize = 8;

    /// Bytes of a row, in memory and on disk.
    pub(super) const fn bytes_of_row(width: usize) -> usize {
        16 + 4 * (width + 1) + 4
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn keys(&self) -> &[RowKey] {
        &self.keys
    }

    pub(super) fn touched(&self) -> &[u32] {
        &self.touched
    }

    /// Where the row of a key lies here.
    pub(super) fn find(&self, key: RowKey) -> Option<usize> {
        self.keys.binary_search(&key).ok()
    }

    /// Values of a row, and the sum of its squared gradients.
    pub(super) fn row(&self, at: usize, width: usize) -> (&[f32], f32) {
        let row = &self.numbers[at * (width + 1)..][..=width];
        (&row[..width], row[width])
    }

    /// Forgets the hash: whoever changes a page begins here.
    pub(super) fn changing(&mut self) -> &mut Self {
        self.hash = OnceLock::new();
        self
    }

    pub(super) fn row_mut(&mut self, at: usize, width: usize) -> (&mut [f32], &mut f32) {
        let row = &mut self.numbers[at * (width + 1)..][..=width];
        let (values, sum) = row.split_at_mut(width);
        (values, &mut sum[0])
    }

    pub(super) fn touch(&mut self, at: usize, hour: u32) {
        self.touched[at] = hour;
    }

    /// Takes a row (values, then the sum) whose key is not here.
    pub(super) fn insert(&mut self, key: RowKey, row: &[f32], hour: u32) -> Inserted {
        if self.len() >= ROWS_IN_PAGE_MAX {
            return Inserted::Full;
        }
        if self.keys.len() == self.keys.capacity() {
            self.keys.reserve_exact(Self::ROOM);
            self.numbers.reserve_exact(Self::ROOM * row.len());
            self.touched.reserve_exact(Self::ROOM);
        }
        let at = self.keys.partition_point(|other| *other < key);
        self.keys.insert(at, key);
        let from = at * row.len();
        self.numbers.splice(from..from, row.iter().copied());
        self.touched.insert(at, hour);
        Inserted::New
    }

    /// A page of those rows that are wanted, in the same order.
    fn select(&self, width: usize, wanted: impl Fn(RowKey, u32) -> bool) -> Self {
        let rows = self.keys.iter().zip(&self.touched).enumerate();
        let rows = rows.filter(|(_, (key, touched))| wanted(**key, **touched));
        let rows: Vec<usize> = rows.map(|(at, _)| at).collect();
        let numbers = rows.iter().map(|at| &self.numbers[at * (width + 1)..]);
        let mut selected = Self {
            keys: rows.iter().map(|at| self.keys[*at]).collect(),
            numbers: Vec::with_capacity(rows.len() * (width + 1)),
            touched: rows.iter().map(|at| self.touched[*at]).collect(),
            hash: OnceLock::new(),
        };
        numbers.for_each(|row| selected.numbers.extend_from_slice(&row[..=width]));
        selected
    }

    /// Two pages: rows that stay, and those that go.
    pub(super) fn split(&self, width: usize, goes: impl Fn(RowKey) -> bool) -> [Self; 2] {
        [
            self.select(width, |key, _| !goes(key)),
            self.select(width, |key, _| goes(key)),
        ]
    }

    /// A page of the rows that are kept, or none where all are.
    pub(super) fn retained(
        &self,
        width: usize,
        keep: impl Fn(RowKey, u32) -> bool,
    ) -> Option<Self> {
        let mut rows = self.keys.iter().zip(&self.touched);
        let all = rows.all(|(key, touched)| keep(*key, *touched));
        (!all).then(|| self.select(width, keep))
    }

    /// One page of two that have no key in common.
    pub(super) fn merged(&self, other: &Self, width: usize) -> Self {
        let mut rows: Vec<(&Self, usize)> = (0..self.len()).map(|at| (self, at)).collect();
        rows.extend((0..other.len()).map(|at| (other, at)));
        rows.sort_unstable_by_key(|(page, at)| page.keys[*at]);
        let mut merged = Self {
            keys: rows.iter().map(|(page, at)| page.keys[*at]).collect(),
            numbers: Vec::with_capacity(rows.len() * (width + 1)),
            touched: rows.iter().map(|(page, at)| page.touched[*at]).collect(),
            hash: OnceLock::new(),
        };
        for (page, at) in rows {
            let row = &page.numbers[at * (width + 1)..][..=width];
            merged.numbers.extend_from_slice(row);
        }
        merged
    }

    /// Its bytes on disk, little-endian: all keys, all numbers, all hours.
    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        into.clear();
        into.extend(self.keys.iter().flat_map(|key| key.to_bytes()));
        into.extend(self.numbers.iter().flat_map(|number| number.to_le_bytes()));
        into.extend(self.touched.iter().flat_map(|hour| hour.to_le_bytes()));
    }

    /// The hash of its bytes, xxh3 of 128 bits; it is computed once.
    pub(super) fn hash(&self) -> u128 {
        *self.hash.get_or_init(|| {
            let mut bytes = Vec::new();
            self.encode(&mut bytes);
            xxh3_128(&bytes)
        })
    }

    /// A page of bytes whose hash was compared.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(super) fn decode(bytes: &[u8], width: usize, hash: u128) -> Result<Self, &'static str> {
        let row = Self::bytes_of_row(width);
        let rows = bytes.len() / row;
        if rows * row != bytes.len() {
            return Err("is not a whole number of rows");
        }
        if rows > ROWS_IN_PAGE_MAX {
            return Err("has more rows than a page may have");
        }
        let (keys, rest) = bytes.split_at(16 * rows);
        let (numbers, touched) = rest.split_at(4 * (width + 1) * rows);
        let (keys, _) = keys.as_chunks();
        let (numbers, _) = numbers.as_chunks();
        let (touched, _) = touched.as_chunks();
        let page = Self {
            keys: keys.iter().map(|key| RowKey::from_bytes(*key)).collect(),
            numbers: numbers.iter().map(|one| f32::from_le_bytes(*one)).collect(),
            touched: touched.iter().map(|one| u32::from_le_bytes(*one)).collect(),
            hash: OnceLock::from(hash),
        };
        if !page.keys.is_sorted_by(|first, second| first < second) {
            return Err("has keys out of order");
        }
        if !page.numbers.iter().all(|number| number.is_finite()) {
            return Err("holds what is no number");
        }
        Ok(page)
    }
}
