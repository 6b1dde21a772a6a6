//! History: for each slot a set of entries, one for each distinct key, in pages of a few dozen.
//!
//! An entry's page follows from its key's hash and the number of entries (linear hashing: one page is split for every
//! [`ENTRIES_PER_PAGE`] entries), and entries lie in a page in order of hash and key. So pages follow from the set of entries, and
//! a restored user has the same bytes (`STATE-2`); and an update touches one page, however long the history is.

use crate::behavior::{FixedSum, Timestamp, pinned_hash};
use crate::cell::{Cell, Cells, Grain};
use crate::error::Damage;
use crate::format::{Put, Take};

/// Entries of a page on average: about 3 KiB. More makes an update dearer, fewer makes more store keys.
pub(crate) const ENTRIES_PER_PAGE: u32 = 32;

/// How many pages hold this many entries.
pub(crate) fn pages_of(entries: u32) -> u32 {
    entries.div_ceil(ENTRIES_PER_PAGE).max(1)
}

/// The page of a hash among `pages`.
pub(crate) fn page_of(hash: u64, pages: u32) -> u32 {
    let round = pages.next_power_of_two();
    let page = (hash as u32) & (round - 1);
    if page < pages { page } else { page - round / 2 }
}

/// One page of packed entries: `[length u32][hash u64][key][cells]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) packed: Vec<u8>,
    pub(crate) dirty: bool,
}

/// One entry: what is known of one key, borrowed from its page.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Pinned hash of the key.
    pub hash: u64,
    /// The key: an item id, or an attribute's value.
    pub key: &'a str,
    /// Time of the first behavior.
    pub first: Timestamp,
    /// Time of the newest behavior.
    pub last: Timestamp,
    cells: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Its cells; the series of a cell is its scenario and kind.
    pub fn cells(&self) -> impl Iterator<Item = Cell> + use<'a> {
        let mut take = Take(self.cells);
        std::iter::from_fn(move || Cell::read(&mut take).ok())
    }

    fn parse(packed: &'a [u8]) -> Result<Self, Damage> {
        let mut take = Take(packed);
        take.u32()?;
        let hash = take.u64()?;
        let key = take.str()?;
        let first = Timestamp(take.i64()?);
        let last = Timestamp(take.i64()?);
        let count = take.u32()? as usize;
        if take.0.len() != count * Cell::BYTES {
            return Err(Damage::Contradiction);
        }
        Ok(Self {
            hash,
            key,
            first,
            last,
            cells: take.0,
        })
    }
}

fn pack(hash: u64, key: &str, cells: &Cells) -> Vec<u8> {
    let mut packed = Vec::with_capacity(64 + cells.len() * Cell::BYTES);
    packed.put_u32(0);
    packed.put_u64(hash);
    packed.put_str(key);
    cells.write(&mut packed);
    let length = packed.len() as u32;
    packed[..4].copy_from_slice(&length.to_le_bytes());
    packed
}

/// An entry's bytes from the store or the changelog: whoever works with them later relies on all that is checked here.
fn checked(packed: &[u8]) -> Result<Entry<'_>, Damage> {
    let entry = Entry::parse(packed)?;
    Cells::check(Take(entry.cells), entry.cells.len() / Cell::BYTES)?;
    if Take(packed).u32()? as usize != packed.len()
        || entry.hash != pinned_hash(entry.key.as_bytes())
    {
        return Err(Damage::Contradiction);
    }
    Ok(entry)
}

/// Checks an entry's bytes as the changelog holds them, for the key they are filed under.
pub(crate) fn check(packed: &[u8], key: &str) -> Result<(), Damage> {
    if checked(packed)?.key != key {
        return Err(Damage::Contradiction);
    }
    Ok(())
}

impl Page {
    pub(crate) fn read(take: Take<'_>) -> Result<Self, Damage> {
        let mut rest = take;
        let mut before = None;
        while !rest.is_empty() {
            let length = Take(rest.0).u32()? as usize;
            let entry = checked(rest.bytes(length)?)?;
            let order = (entry.hash, entry.key);
            if before.replace(order) >= Some(order) {
                return Err(Damage::Contradiction);
            }
        }
        Ok(Self {
            packed: take.0.to_vec(),
            dirty: false,
        })
    }

    fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.packed[..];
        std::iter::from_fn(move || {
            let length = u32::from_le_bytes(rest.get(..4)?.try_into().ok()?) as usize;
            let (slice, after) = rest.split_at(length);
            rest = after;
            Some(slice)
        })
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.slices()
            .map(|packed| Entry::parse(packed).expect("invariant: checked when it came in"))
    }

    /// Where the entry lies, or where it would.
    fn find(&self, hash: u64, key: &str) -> Result<std::ops::Range<usize>, usize> {
        let mut at = 0;
        for slice in self.slices() {
            let here = u64::from_le_bytes(slice[4..12].try_into().expect("invariant: checked"));
            if here >= hash {
                let entry = Entry::parse(slice).expect("invariant: checked when it came in");
                match (here, entry.key).cmp(&(hash, key)) {
                    std::cmp::Ordering::Less => {}
                    std::cmp::Ordering::Equal => return Ok(at..at + slice.len()),
                    std::cmp::Ordering::Greater => return Err(at),
                }
            }
            at += slice.len();
        }
        Err(at)
    }

    pub(crate) fn packed_of(&self, hash: u64, key: &str) -> Option<&[u8]> {
        self.find(hash, key).ok().map(|range| &self.packed[range])
    }

    /// Counts one behavior; true if the key is new.
    pub(crate) fn add(
        &mut self,
        hash: u64,
        key: &str,
        series: u64,
        time: Timestamp,
        sum: FixedSum,
    ) -> bool {
        self.dirty = true;
        let found = self.find(hash, key);
        let mut cells = match &found {
            Ok(range) => {
                let mut take = Take(&self.packed[range.clone()]);
                let skipped = take.bytes(4 + 8).and_then(|_| take.str());
                debug_assert!(skipped.is_ok());
                Cells::read(&mut take).expect("invariant: checked when it came in")
            }
            Err(_) => Cells::default(),
        };
        cells.add(Grain::USER, series, time, 1, sum);
        let packed = pack(hash, key, &cells);
        self.replace(found.clone(), packed);
        found.is_err()
    }

    /// Puts what the changelog says; `None` removes. Gives by how much the number of entries changed.
    pub(crate) fn apply(&mut self, hash: u64, key: &str, packed: Option<&[u8]>) -> i32 {
        self.dirty = true;
        let found = self.find(hash, key);
        match (packed, found) {
            (Some(packed), found) => {
                let new = found.is_err();
                self.replace(found, packed.to_vec());
                i32::from(new)
            }
            (None, Ok(range)) => {
                self.packed.drain(range);
                -1
            }
            (None, Err(_)) => 0,
        }
    }

    fn replace(&mut self, found: Result<std::ops::Range<usize>, usize>, packed: Vec<u8>) {
        match found {
            Ok(range) if range.len() == packed.len() => self.packed[range].copy_from_slice(&packed),
            Ok(range) => drop(self.packed.splice(range, packed)),
            Err(at) => drop(self.packed.splice(at..at, packed)),
        }
    }

    /// Moves the entries that belong to `page` among `pages` out of this one.
    pub(crate) fn split_off(&mut self, page: u32, pages: u32) -> Self {
        let mut stay = Vec::with_capacity(self.packed.len());
        let mut moved = Vec::new();
        for slice in self.slices() {
            let hash = u64::from_le_bytes(slice[4..12].try_into().expect("invariant: checked"));
            if page_of(hash, pages) == page {
                moved.put(slice);
            } else {
                stay.put(slice);
            }
        }
        self.packed = stay;
        self.dirty = true;
        Self {
            packed: moved,
            dirty: true,
        }
    }

    /// Takes in the entries of a page that is no more.
    pub(crate) fn merge(&mut self, other: &Self) {
        let mut slices: Vec<&[u8]> = self.slices().chain(other.slices()).collect();
        slices.sort_by_key(|slice| {
            let entry = Entry::parse(slice).expect("invariant: checked when it came in");
            (entry.hash, entry.key)
        });
        let packed = slices.concat();
        self.packed = packed;
        self.dirty = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: linear hashing is what it says. Method: growing by one page moves entries of one page alone, into the new one.
    #[test]
    fn growing_by_a_page_moves_entries_of_one_page() {
        for pages in 1..200u32 {
            let from: std::collections::BTreeSet<u32> = (0..5000u64)
                .map(|number| pinned_hash(&number.to_le_bytes()))
                .filter(|hash| page_of(*hash, pages + 1) != page_of(*hash, pages))
                .map(|hash| {
                    assert_eq!(page_of(hash, pages + 1), pages);
                    page_of(hash, pages)
                })
                .collect();
            assert_eq!(from.len(), 1, "{pages}");
        }
    }
}
