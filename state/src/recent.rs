//! A user's recent behaviors: the last R, ordered by time, each with its exact time. What leaves them goes into history.
//!
//! Each sits in a numbered place (0 … R − 1) that is its key on the changelog: a newcomer takes the place of the one that leaves,
//! so an event is one changelog record here, whatever R is. The packed order is (time, offset, index), which with the places
//! follows from the records alone: a restored user has the same bytes (`STATE-2`).

use crate::behavior::{Behavior, Coordinates, FixedSum, KindId, ScenarioId, SlotId, Timestamp};
use crate::error::Damage;
use crate::format::{Put, Take};

/// A recent behavior, borrowed from its packed bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RecentBehavior<'a> {
    /// Its place.
    pub place: u16,
    /// When.
    pub time: Timestamp,
    /// Where it stood in the input.
    pub at: Coordinates,
    /// Pinned hash of its event id, or 0.
    pub event: u64,
    /// What was done.
    pub kind: KindId,
    /// Where.
    pub scenario: ScenarioId,
    /// Its value.
    pub value: Option<FixedSum>,
    /// To what.
    pub item: Option<&'a str>,
    attributes: &'a [u8],
}

const HAS_VALUE: u8 = 1;
const HAS_ITEM: u8 = 2;
/// Bytes before `flags`: length, place, time, offset, index, event, kind, scenario.
const TIME_AT: usize = 2 + 2;
const OFFSET_AT: usize = TIME_AT + 8;
const INDEX_AT: usize = OFFSET_AT + 8;
const EVENT_AT: usize = INDEX_AT + 2;
/// Bytes of most behaviors: ids are short and attributes few.
const PACKED_BYTES_USUAL: usize = 80;

impl<'a> RecentBehavior<'a> {
    /// Values of configured attributes.
    pub fn attributes(&self) -> impl Iterator<Item = (SlotId, &'a str)> + use<'a> {
        let mut take = Take(self.attributes);
        std::iter::from_fn(move || Some((SlotId(take.u32().ok()?), take.str().ok()?)))
    }

    fn parse(packed: &'a [u8]) -> Result<Self, Damage> {
        let mut take = Take(packed);
        take.u16()?;
        let place = take.u16()?;
        let time = Timestamp(take.i64()?);
        let at = Coordinates {
            offset: take.i64()?,
            index: take.u16()?,
        };
        let event = take.u64()?;
        let kind = KindId(take.u32()?);
        let scenario = ScenarioId(take.u32()?);
        let flags = take.u8()?;
        let value = if flags & HAS_VALUE == 0 {
            None
        } else {
            Some(FixedSum(take.i64()?))
        };
        let item = if flags & HAS_ITEM == 0 {
            None
        } else {
            Some(take.str()?)
        };
        let attributes = take.0;
        while !take.is_empty() {
            take.u32()?;
            take.str()?;
        }
        Ok(Self {
            place,
            time,
            at,
            event,
            kind,
            scenario,
            value,
            item,
            attributes,
        })
    }
}

/// Packs a behavior: `[length u16][place u16][time][offset][index][event][kind][scenario][flags][value?][item?][slot, text]*`.
fn pack(behavior: &Behavior<'_>, place: u16, to: &mut Vec<u8>) {
    let start = to.len();
    to.put_u16(0);
    to.put_u16(place);
    to.put_i64(behavior.time.0);
    to.put_i64(behavior.at.offset);
    to.put_u16(behavior.at.index);
    to.put_u64(behavior.event);
    to.put_u32(behavior.kind.0);
    to.put_u32(behavior.scenario.0);
    let flags = if behavior.value.is_some() {
        HAS_VALUE
    } else {
        0
    } | if behavior.item.is_some() { HAS_ITEM } else { 0 };
    to.put_u8(flags);
    if let Some(value) = behavior.value {
        to.put_i64(value.0);
    }
    if let Some(item) = behavior.item {
        to.put_str(item);
    }
    for (slot, text) in behavior.attributes {
        to.put_u32(slot.0);
        to.put_str(text);
    }
    let length = u16::try_from(to.len() - start)
        .expect("invariant: ids are at most 256 bytes and attributes at most 64");
    to[start..start + 2].copy_from_slice(&length.to_le_bytes());
}

/// The packed recent behaviors of a user.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    packed: Vec<u8>,
    count: u16,
    /// No place from here on is taken. As many as there are behaviors: then there is no hole, and nothing to look for.
    places: u16,
    /// Where the newest begins.
    newest_at: u32,
}

impl PartialEq for Recent {
    /// What follows from the packed bytes is not compared.
    fn eq(&self, other: &Self) -> bool {
        self.packed == other.packed
    }
}

impl Eq for Recent {}

impl Recent {
    /// How many.
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = RecentBehavior<'_>> {
        self.slices().map(|packed| {
            RecentBehavior::parse(packed).expect("invariant: checked when it came in")
        })
    }

    /// The oldest.
    pub fn oldest(&self) -> Option<RecentBehavior<'_>> {
        self.iter().next()
    }

    /// Begins to bring the bytes into the processor's caches, for who is going to read them soon.
    pub(crate) fn warm(&self) {
        let newest = self.packed.get(self.newest_at as usize);
        std::hint::black_box((self.packed.first().copied(), newest.copied()));
    }

    /// The newest.
    pub fn newest(&self) -> Option<RecentBehavior<'_>> {
        let packed = self.newest_packed()?;
        Some(RecentBehavior::parse(packed).expect("invariant: checked when it came in"))
    }

    /// Whether one of them has this event id.
    pub fn has_event(&self, event: u64) -> bool {
        let wanted = event.to_le_bytes();
        event != 0
            && self
                .slices()
                .any(|packed| packed[EVENT_AT..EVENT_AT + 8] == wanted)
    }

    /// Adds a behavior in a free place, and gives that place.
    pub(crate) fn insert(&mut self, behavior: &Behavior<'_>) -> u16 {
        let place = self.free_place();
        let order = (behavior.time.0, behavior.at.offset, behavior.at.index);
        if self
            .newest_packed()
            .is_none_or(|newest| order_of(newest) <= order)
        {
            self.begin_newest(PACKED_BYTES_USUAL);
            pack(behavior, place, &mut self.packed);
        } else {
            let mut bytes = Vec::with_capacity(PACKED_BYTES_USUAL);
            pack(behavior, place, &mut bytes);
            self.insert_packed(&bytes);
        }
        self.places = self.places.max(place.saturating_add(1));
        place
    }

    /// Takes the oldest out.
    pub(crate) fn take_oldest(&mut self) -> Option<Packed> {
        let length = self.slices().next()?.len();
        let oldest = self.packed[..length].to_vec();
        self.packed.drain(..length);
        self.count -= 1;
        self.newest_at = self.newest_at.saturating_sub(length as u32);
        Some(Packed(oldest))
    }

    /// The packed bytes in a place: the changelog's value.
    pub(crate) fn packed_in(&self, place: u16) -> Option<&[u8]> {
        let wanted = place.to_le_bytes();
        // Asked after an event, and then it is the newest.
        self.newest_packed()
            .filter(|packed| packed[2..4] == wanted)
            .or_else(|| self.slices().find(|packed| packed[2..4] == wanted))
    }

    fn newest_packed(&self) -> Option<&[u8]> {
        (self.count > 0).then(|| &self.packed[self.newest_at as usize..])
    }

    /// Makes room behind the newest for another, which is to be appended. Room comes by a quarter: there are many users, and
    /// doubling would leave a third of their memory empty.
    fn begin_newest(&mut self, bytes: usize) {
        let length = self.packed.len();
        if self.packed.capacity() - length < bytes {
            self.packed.reserve_exact(bytes.max(length / 4));
        }
        self.newest_at = length as u32;
        self.count += 1;
    }

    /// Puts what the changelog says into a place; `None` empties it. Checks the bytes.
    pub(crate) fn apply(&mut self, place: u16, packed: Option<&[u8]>) -> Result<(), Damage> {
        let mut at = 0;
        let held = self.slices().find_map(|slice| {
            let here = at;
            at += slice.len();
            (slice[2..4] == place.to_le_bytes()).then_some(here..here + slice.len())
        });
        if let Some(range) = held {
            self.packed.drain(range);
            self.count -= 1;
            self.find_newest();
        }
        if let Some(packed) = packed {
            check(packed)?;
            if RecentBehavior::parse(packed)?.place != place {
                return Err(Damage::Contradiction);
            }
            self.insert_packed(packed);
            self.places = self.places.max(place.saturating_add(1));
        }
        Ok(())
    }

    /// Bytes of memory held.
    pub(crate) fn bytes(&self) -> usize {
        self.packed.capacity()
    }

    pub(crate) fn write(&self, to: &mut Vec<u8>) {
        to.put_u16(self.count);
        to.put_u32(self.packed.len() as u32);
        to.put(&self.packed);
    }

    pub(crate) fn read(from: &mut Take<'_>) -> Result<Self, Damage> {
        let count = from.u16()?;
        let length = from.u32()? as usize;
        let packed = from.bytes(length)?.to_vec();
        let mut rest = &packed[..];
        let mut places = 0;
        let mut newest_at = 0;
        for _ in 0..count {
            newest_at = (packed.len() - rest.len()) as u32;
            let length = usize::from(Take(rest).u16()?);
            let slice = Take(rest).bytes(length)?;
            check(slice)?;
            places = places.max(place_of(slice).saturating_add(1));
            rest = &rest[length..];
        }
        if !rest.is_empty() {
            return Err(Damage::Long);
        }
        Ok(Self {
            packed,
            count,
            places,
            newest_at,
        })
    }

    fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.packed[..];
        std::iter::from_fn(move || {
            let length = usize::from(u16::from_le_bytes(rest.get(..2)?.try_into().ok()?));
            let (slice, after) = rest.split_at(length);
            rest = after;
            Some(slice)
        })
    }

    fn insert_packed(&mut self, packed: &[u8]) {
        let order = order_of(packed);
        if self
            .newest_packed()
            .is_none_or(|newest| order_of(newest) <= order)
        {
            self.begin_newest(packed.len());
            self.packed.extend_from_slice(packed);
            return;
        }
        let mut at = 0;
        for slice in self.slices() {
            if order_of(slice) > order {
                break;
            }
            at += slice.len();
        }
        self.packed.splice(at..at, packed.iter().copied());
        self.count += 1;
        self.newest_at += packed.len() as u32;
    }

    /// Looks for the newest, after what may have been the newest was taken out.
    fn find_newest(&mut self) {
        let newest = self.slices().last().map_or(0, <[u8]>::len);
        self.newest_at = (self.packed.len() - newest) as u32;
    }

    /// The lowest place that nobody has. Without holes that is the count.
    fn free_place(&self) -> u16 {
        let count = self.count;
        if count >= self.places {
            return count;
        }
        let mut taken = vec![false; usize::from(count) + 1];
        for slice in self.slices() {
            if let Some(taken) = taken.get_mut(usize::from(place_of(slice))) {
                *taken = true;
            }
        }
        taken
            .iter()
            .position(|taken| !taken)
            .expect("invariant: count behaviors cannot fill count + 1 places") as u16
    }
}

/// A behavior taken out of recent.
#[derive(Debug)]
pub(crate) struct Packed(Vec<u8>);

impl Packed {
    pub(crate) fn get(&self) -> RecentBehavior<'_> {
        RecentBehavior::parse(&self.0).expect("invariant: checked when it came in")
    }
}

fn place_of(packed: &[u8]) -> u16 {
    u16::from_le_bytes([packed[2], packed[3]])
}

fn check(packed: &[u8]) -> Result<(), Damage> {
    if usize::from(Take(packed).u16()?) != packed.len() {
        return Err(Damage::Contradiction);
    }
    RecentBehavior::parse(packed).map(|_| ())
}

fn order_of(packed: &[u8]) -> (i64, i64, u16) {
    let i64_at =
        |at: usize| i64::from_le_bytes(packed[at..at + 8].try_into().expect("invariant: checked"));
    (
        i64_at(TIME_AT),
        i64_at(OFFSET_AT),
        u16::from_le_bytes([packed[INDEX_AT], packed[INDEX_AT + 1]]),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Goal: STATE-2 for recent. Method: the records of the changelog, applied in another order, give the same bytes.
        #[test]
        fn places_give_the_same_bytes(times in proptest::collection::vec(0..20i64, 1..60)) {
            let mut recent = Recent::default();
            let mut records = std::collections::BTreeMap::new();
            for (offset, &time) in times.iter().enumerate() {
                if recent.len() == 8 {
                    let left = recent.take_oldest().unwrap();
                    records.insert(left.get().place, None);
                }
                let item = format!("item-{time}");
                let behavior = Behavior {
                    at: Coordinates { offset: offset as i64, index: 0 },
                    time: Timestamp(time), event: offset as u64 + 1, kind: KindId(1), scenario: ScenarioId(2),
                    item: Some(&item), value: Some(FixedSum(time)), attributes: &[(SlotId(9), "x")], text: None, sequences: &[],
                };
                let place = recent.insert(&behavior);
                records.insert(place, Some(recent.packed_in(place).unwrap().to_vec()));
                prop_assert!(recent.has_event(offset as u64 + 1));
            }
            let ordered: Vec<_> = recent.iter().map(|behavior| (behavior.time, behavior.at)).collect();
            prop_assert!(ordered.is_sorted());
            let mut restored = Recent::default();
            for (&place, packed) in records.iter().rev() {
                restored.apply(place, packed.as_deref()).unwrap();
            }
            prop_assert_eq!(&restored, &recent);
            let mut bytes = Vec::new();
            recent.write(&mut bytes);
            prop_assert_eq!(Recent::read(&mut Take(&bytes)).unwrap(), recent);
        }
    }
}
