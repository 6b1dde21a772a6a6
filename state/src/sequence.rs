//! A sequence of a user's behaviors: the newest run of those of some kinds, as hashes of their texts and exact times.
//!
//! Before it stands [`crate::Partition::fold`]; after it, whoever makes a vector of the run. A run grows to its limit and then begins anew with its
//! newest half, so where it starts follows from the number of behaviors alone, and what is computed of its first entries holds while it grows.
//!
//! Each entry sits in a numbered place that is its key on the changelog, and one more record says where the run starts. What lies before the start
//! is dead in whatever place: beginning anew is that one record, nothing is deleted, and the places of the dead are taken again. The order is
//! (time, offset, index, place), so a sequence follows from the newest record of each key, whatever order they come in: a restored one has the same
//! bytes (`STATE-2`). Records that are applied again, over a store that is ahead of them, may miss for a while what has since left; they end with
//! the start behind which that lies.

use xxhash_rust::xxh3::xxh3_128;

use crate::behavior::TextHash;
use crate::behavior::{Coordinates, SequenceId, Timestamp};
use crate::error::Damage;
use crate::format::{Put, Take};

/// Places that can be: far more than a sequence may be configured to have. More is damage, and no reason to ask for memory.
const PLACES_MAX: u16 = 1 << 15;
/// Bytes of an entry in the store: place, text, time, offset, index.
const ENTRY_BYTES: usize = 2 + 16 + 8 + 8 + 2;
/// Behaviors that one user can have. More is damage.
const START_MAX: u64 = 1 << 48;

/// One behavior in a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceEntry {
    /// Hash of the text that stands for it.
    pub text: TextHash,
    /// When.
    pub time: Timestamp,
    /// Where it stood in the input.
    pub at: Coordinates,
}

/// What entries are ordered by: the place only tells apart what no input tells apart.
type Order = (Timestamp, Coordinates, u16);

impl SequenceEntry {
    pub(crate) fn write(&self, to: &mut Vec<u8>) {
        to.put(&self.text);
        to.put_i64(self.time.0);
        to.put_i64(self.at.offset);
        to.put_u16(self.at.index);
    }

    fn take(from: &mut Take<'_>) -> Result<Self, Damage> {
        Ok(Self {
            text: from.bytes(16)?.try_into().map_err(|_| Damage::Short)?,
            time: Timestamp(from.i64()?),
            at: Coordinates {
                offset: from.i64()?,
                index: from.u16()?,
            },
        })
    }

    /// Reads what the changelog holds.
    pub(crate) fn read(mut from: Take<'_>) -> Result<Self, Damage> {
        let entry = Self::take(&mut from)?;
        from.end()?;
        Ok(entry)
    }

    fn order(&self, place: u16) -> Order {
        (self.time, self.at, place)
    }
}

/// Where a run starts, once something has left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SequenceStart {
    /// Behaviors before it.
    before: u64,
    /// Its first entry: what comes before that is dead.
    first: Order,
}

impl SequenceStart {
    fn write(&self, to: &mut Vec<u8>) {
        let (time, at, place) = self.first;
        to.put_u64(self.before);
        to.put_i64(time.0);
        to.put_i64(at.offset);
        to.put_u16(at.index);
        to.put_u16(place);
    }

    fn take(from: &mut Take<'_>) -> Result<Self, Damage> {
        let before = from.u64()?;
        if !(1..=START_MAX).contains(&before) {
            return Err(Damage::Contradiction);
        }
        let time = Timestamp(from.i64()?);
        let at = Coordinates {
            offset: from.i64()?,
            index: from.u16()?,
        };
        Ok(Self {
            before,
            first: (time, at, from.u16()?),
        })
    }

    /// Reads what the changelog holds.
    pub(crate) fn read(mut from: Take<'_>) -> Result<Self, Damage> {
        let start = Self::take(&mut from)?;
        from.end()?;
        Ok(start)
    }
}

/// What an insertion changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inserted {
    /// Where the entry now sits, if it is in the run.
    pub(crate) place: Option<u16>,
    /// Whether the run begins anew.
    pub(crate) restarted: bool,
}

/// The newest run of one sequence of a user.
#[derive(Clone, Debug)]
pub struct Sequence {
    id: SequenceId,
    start: Option<SequenceStart>,
    /// In their order.
    entries: Vec<SequenceEntry>,
    /// The place of each.
    places: Vec<u16>,
    /// Whether it is not as in the store.
    pub(crate) dirty: bool,
}

impl Sequence {
    pub(crate) fn new(id: SequenceId) -> Self {
        Self {
            id,
            start: None,
            entries: Vec::new(),
            places: Vec::new(),
            dirty: false,
        }
    }

    /// Which sequence.
    pub fn id(&self) -> SequenceId {
        self.id
    }

    /// Behaviors that were in the sequence and have left it: the number of the first entry.
    pub fn start(&self) -> u64 {
        self.start.map_or(0, |start| start.before)
    }

    /// The run, in order of (time, coordinates).
    pub fn entries(&self) -> &[SequenceEntry] {
        &self.entries
    }

    /// How many entries are strictly before a time.
    pub fn before(&self, time: Timestamp) -> usize {
        self.entries.partition_point(|entry| entry.time < time)
    }

    /// Digest of where the run starts, and of text and time of each of its first `count` entries. Never to be changed: what was computed of a run may lie
    /// under its digest.
    ///
    /// # Panics
    /// If there are fewer entries.
    pub fn digest(&self, count: usize) -> [u8; 16] {
        let first = xxh3_128(&self.start().to_le_bytes()).to_le_bytes();
        self.entries[..count].iter().fold(first, digest_with)
    }

    /// The digests of all counts, from none to all entries, in one pass.
    pub fn digests(&self) -> Vec<[u8; 16]> {
        let mut digests = Vec::with_capacity(self.entries.len() + 1);
        digests.push(self.digest(0));
        for entry in &self.entries {
            digests.push(digest_with(digests[digests.len() - 1], entry));
        }
        digests
    }

    /// Puts a behavior in at the place of its time. One that is older than a run which has left others behind would be among those, and stays out.
    pub(crate) fn insert(&mut self, entry: SequenceEntry, sequence_max: usize) -> Inserted {
        let too_old = self.start.is_some_and(|start| {
            let (time, at, _) = start.first;
            (entry.time, entry.at) <= (time, at)
        });
        if too_old {
            return Inserted::default();
        }
        let place = self.free_place();
        self.insert_in(place, entry);
        self.dirty = true;
        let restarted = self.restart(sequence_max);
        // A late one may be among those that leave at once.
        let held = !restarted || self.places.contains(&place);
        Inserted {
            place: held.then_some(place),
            restarted,
        }
    }

    /// Lets the oldest go where the run has come to its limit, or past one that was lowered.
    fn restart(&mut self, sequence_max: usize) -> bool {
        let half = (sequence_max as u64 / 2).max(1);
        let count = self.start() + self.entries.len() as u64;
        let before = (count / half).saturating_sub(1) * half;
        let gone = before.saturating_sub(self.start()) as usize;
        if gone == 0 {
            return false;
        }
        self.entries.drain(..gone);
        self.places.drain(..gone);
        self.start = Some(SequenceStart {
            before,
            first: self.entries[0].order(self.places[0]),
        });
        true
    }

    /// The lowest place that no living entry has.
    fn free_place(&self) -> u16 {
        let mut taken = vec![false; self.places.len() + 1];
        for &place in &self.places {
            if let Some(taken) = taken.get_mut(usize::from(place)) {
                *taken = true;
            }
        }
        let free = taken.iter().position(|taken| !taken);
        free.expect("invariant: n entries cannot fill n + 1 places") as u16
    }

    fn insert_in(&mut self, place: u16, entry: SequenceEntry) {
        let order = entry.order(place);
        // Most come in order of their times.
        let newest = self.entries.last().zip(self.places.last());
        let number = if newest.is_none_or(|(newest, place)| newest.order(*place) < order) {
            self.entries.len()
        } else {
            self.lying_before(order)
        };
        // Room comes by a quarter: there are many users.
        if self.entries.len() == self.entries.capacity() {
            let more = (self.entries.len() / 4).max(4);
            self.entries.reserve_exact(more);
            self.places.reserve_exact(more);
        }
        self.entries.insert(number, entry);
        self.places.insert(number, place);
    }

    /// How many entries are before an order.
    fn lying_before(&self, order: Order) -> usize {
        let times = self.before(order.0);
        let same = self.entries[times..].iter().zip(&self.places[times..]);
        times
            + same
                .take_while(|(entry, place)| entry.order(**place) < order)
                .count()
    }

    // The changelog.

    /// Writes where the run starts; `false` if nothing has left it yet.
    pub(crate) fn write_start(&self, to: &mut Vec<u8>) -> bool {
        self.start.inspect(|start| start.write(to)).is_some()
    }

    /// The entry in a place.
    pub(crate) fn entry_in(&self, place: u16) -> Option<&SequenceEntry> {
        // Asked after a behavior, and then it is among the newest.
        let number = self.places.iter().rposition(|held| *held == place)?;
        self.entries.get(number)
    }

    /// Puts what the changelog says into a place; `None` empties it.
    pub(crate) fn apply_entry(
        &mut self,
        place: u16,
        entry: Option<SequenceEntry>,
    ) -> Result<(), Damage> {
        if place >= PLACES_MAX {
            return Err(Damage::Contradiction);
        }
        if let Some(number) = self.places.iter().position(|held| *held == place) {
            self.entries.remove(number);
            self.places.remove(number);
        }
        let is_dead = |order| self.start.is_some_and(|start| order < start.first);
        if let Some(entry) = entry.filter(|entry| !is_dead(entry.order(place))) {
            self.insert_in(place, entry);
        }
        self.dirty = true;
        Ok(())
    }

    /// Puts what the changelog says of where the run starts.
    pub(crate) fn apply_start(&mut self, start: Option<SequenceStart>) {
        let dead = start.map_or(0, |start| self.lying_before(start.first));
        self.entries.drain(..dead);
        self.places.drain(..dead);
        self.start = start;
        self.dirty = true;
    }

    // The store.

    pub(crate) fn write(&self, to: &mut Vec<u8>) {
        to.put_u8(u8::from(self.start.is_some()));
        if let Some(start) = &self.start {
            start.write(to);
        }
        to.put_u16(self.entries.len() as u16);
        for (entry, place) in self.entries.iter().zip(&self.places) {
            to.put_u16(*place);
            entry.write(to);
        }
    }

    pub(crate) fn read(id: SequenceId, mut from: Take<'_>) -> Result<Self, Damage> {
        let mut sequence = Self::new(id);
        sequence.start = match from.u8()? {
            0 => None,
            1 => Some(SequenceStart::take(&mut from)?),
            _ => return Err(Damage::Contradiction),
        };
        let count = usize::from(from.u16()?);
        if from.0.len() != count * ENTRY_BYTES {
            return Err(Damage::Contradiction);
        }
        sequence.entries.reserve_exact(count);
        sequence.places.reserve_exact(count);
        let mut taken = [0u64; PLACES_MAX as usize / 64];
        let mut before = None;
        for _ in 0..count {
            let place = from.u16()?;
            let entry = SequenceEntry::take(&mut from)?;
            let order = entry.order(place);
            let ordered = match before {
                Some(before) => before < order,
                None => sequence.start.is_none_or(|start| start.first <= order),
            };
            let (word, bit) = (usize::from(place) / 64, 1 << (place % 64));
            if !ordered || taken.get(word).is_none_or(|word| word & bit != 0) {
                return Err(Damage::Contradiction);
            }
            taken[word] |= bit;
            before = Some(order);
            sequence.entries.push(entry);
            sequence.places.push(place);
        }
        Ok(sequence)
    }

    /// Begins to bring its end into the processor's caches, for who is going to add to it soon.
    pub(crate) fn warm(&self) {
        let newest = self.entries.last().map(|entry| entry.time);
        std::hint::black_box((newest, self.places.first().copied()));
    }

    /// Bytes of memory held.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.entries.capacity() * size_of::<SequenceEntry>()
            + self.places.capacity() * size_of::<u16>()
    }
}

/// The digest of what `digest` is of, and an entry.
fn digest_with(digest: [u8; 16], entry: &SequenceEntry) -> [u8; 16] {
    let mut bytes = [0; 40];
    bytes[..16].copy_from_slice(&digest);
    bytes[16..32].copy_from_slice(&entry.text);
    bytes[32..].copy_from_slice(&entry.time.0.to_le_bytes());
    xxh3_128(&bytes).to_le_bytes()
}

#[cfg(test)]
mod tests;
