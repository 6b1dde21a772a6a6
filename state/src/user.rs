//! A user: recent behaviors, history by slot, sequences, and standing requests. In memory while it is used, in the store as one root value,
//! and a value for each page of history, each sequence and each standing request.

use crate::behavior::{Behavior, FixedSum, SequenceId, SlotId, Timestamp, pinned_hash};
use crate::cell::Length;
use crate::error::Damage;
use crate::format::{Put, Take};
use crate::labels::Labels;
use crate::page::{Entry, Page, page_of, pages_of};
use crate::recent::Recent;
use crate::sequence::Sequence;
use crate::statistics::series;

mod sequences;

/// How many event ids of late behaviors a user remembers: those that went straight into history, past recent.
const LATE_EVENTS_MAX: usize = 32;

/// Entries of one slot that can be: some 4 GB of one user. More is damage, and no reason to ask for memory.
const ENTRIES_MAX: u32 = 1 << 26;

/// In a root, beside the number of standing requests (1,000 at most): whether there are open rows.
const HAS_LABELS: u16 = 1 << 15;

/// What of a user lies in values of its own, beside pages and sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Beside {
    pub(crate) standing: bool,
    pub(crate) labels: bool,
}

/// A standing request: candidates that are scored again as the user behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The request's id: the newest request of an id replaces the one before.
    pub request: String,
    /// When it ends.
    pub expires: Timestamp,
    /// When it is to be scored again, if it is.
    pub due: Option<Timestamp>,
    /// The request itself, as `consumers` wrote it.
    pub body: Vec<u8>,
}

impl Standing {
    pub(crate) fn write(&self, to: &mut Vec<u8>) {
        to.put_i64(self.expires.0);
        to.put_i64(self.due.map_or(i64::MIN, |due| due.0));
        to.put_str(&self.request);
        to.put(&self.body);
    }

    /// Reads the standing request that is filed under `request`.
    pub(crate) fn read(mut from: Take<'_>, filed: &str) -> Result<Self, Damage> {
        let expires = Timestamp(from.i64()?);
        let due = from.i64()?;
        let request = from.str()?;
        if request != filed {
            return Err(Damage::Contradiction);
        }
        Ok(Self {
            request: request.to_owned(),
            expires,
            due: (due != i64::MIN).then_some(Timestamp(due)),
            body: from.0.to_vec(),
        })
    }
}

/// What a behavior or a request changes of a user: the keys of its changelog records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Touched {
    Meta,
    Recent(u16),
    Entry(SlotId, u64, Box<str>),
    Standing(Box<str>),
    Due(Box<str>),
    SequenceStart(SequenceId),
    SequenceEntry(SequenceId, u16),
    Label(u32),
}

/// Notes a change once.
fn touch(all: &mut Vec<Touched>, touched: Touched) {
    if !all.contains(&touched) {
        all.push(touched);
    }
}

/// The pages of one slot of history. Those not read from the store yet are `None`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slot {
    pub(crate) id: SlotId,
    pub(crate) entries: u32,
    pub(crate) pages: Vec<Option<Page>>,
}

/// A user's state.
#[derive(Clone, Debug, Default)]
pub struct User {
    salt: [u8; 16],
    forgotten: u64,
    late_events: Vec<u64>,
    history_newest: Timestamp,
    pub(crate) recent: Recent,
    pub(crate) slots: Vec<Slot>,
    /// In order of their ids.
    pub(crate) sequences: Vec<Sequence>,
    pub(crate) standing: Vec<Standing>,
    pub(crate) standing_dirty: Vec<Box<str>>,
    pub(crate) labels: Labels,
    pub(crate) labels_dirty: bool,
    /// Pages that are no more, to be deleted from the store.
    pub(crate) dropped_pages: Vec<(SlotId, u32)>,
}

/// Reads a page of history from the store.
pub(crate) type Fetch<'a> = dyn FnMut(SlotId, u32) -> Result<Page, crate::Error> + 'a;

impl User {
    /// A user not seen before.
    pub(crate) fn new(salt: [u8; 16]) -> Self {
        Self {
            salt,
            history_newest: Timestamp::MIN,
            ..Self::default()
        }
    }

    /// A user whose first changelog record is just being applied.
    pub(crate) fn blank() -> Self {
        Self {
            history_newest: Timestamp::MIN,
            ..Self::default()
        }
    }

    /// Recent behaviors, oldest first.
    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// Entries of a slot, in no particular order. All pages must have been read: [`crate::Partition::whole_user`].
    pub fn history(&self, slot: SlotId) -> impl Iterator<Item = Entry<'_>> {
        self.slots
            .iter()
            .filter(move |candidate| candidate.id == slot)
            .flat_map(|slot| slot.pages.iter())
            .flat_map(|page| {
                page.as_ref()
                    .expect("invariant: whole_user read all pages")
                    .entries()
            })
    }

    /// The slots that have entries, and how many.
    pub fn slots(&self) -> impl Iterator<Item = (SlotId, u32)> {
        self.slots.iter().map(|slot| (slot.id, slot.entries))
    }

    /// Time of the newest behavior in history, or [`Timestamp::MIN`]: a read before it is too late to be exact.
    pub fn history_newest(&self) -> Timestamp {
        self.history_newest
    }

    /// Time of the oldest behavior that is counted, none where there is none. All pages must have been read: [`crate::Partition::whole_user`].
    pub fn oldest(&self) -> Option<Timestamp> {
        let recent = self.recent.oldest().map(|behavior| behavior.time);
        let history = self.history(SlotId::ITEM).map(|entry| entry.first).min();
        recent.into_iter().chain(history).min()
    }

    /// Entries that retention has forgotten.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// The salt of the user's pseudonym.
    pub fn salt(&self) -> [u8; 16] {
        self.salt
    }

    /// Standing requests.
    pub fn standing(&self) -> &[Standing] {
        &self.standing
    }

    /// Rows whose labels can still change, and what they follow from.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Whether a behavior with this event id was counted, as far as is remembered.
    pub fn has_event(&self, event: u64) -> bool {
        event != 0 && (self.recent.has_event(event) || self.late_events.contains(&event))
    }

    /// The standing request of an id.
    pub(crate) fn standing_of(&self, request: &str) -> Option<&Standing> {
        let mut held = self.standing.iter();
        held.find(|standing| standing.request == request)
    }

    /// Takes a behavior in; what leaves recent goes into history.
    pub(crate) fn fold(
        &mut self,
        behavior: &Behavior<'_>,
        recent_max: usize,
        fetch: &mut Fetch<'_>,
        touched: &mut Vec<Touched>,
    ) -> Result<(), crate::Error> {
        let full = self.recent.len() >= recent_max;
        if full
            && self
                .recent
                .oldest()
                .is_some_and(|oldest| (behavior.time, behavior.at) < (oldest.time, oldest.at))
        {
            if behavior.event != 0 {
                // A stored state may hold more than this build keeps.
                let old = (self.late_events.len() + 1).saturating_sub(LATE_EVENTS_MAX);
                self.late_events.drain(..old);
                self.late_events.push(behavior.event);
                touch(touched, Touched::Meta);
            }
            let attributes = behavior.attributes.iter().copied();
            return self.fold_into_history(
                behavior.item,
                attributes,
                (
                    series(behavior.scenario, behavior.kind),
                    behavior.time,
                    behavior.value,
                ),
                fetch,
                touched,
            );
        }
        // More than one leaves where the setting was lowered.
        while self.recent.len() >= recent_max {
            let Some(left) = self.recent.take_oldest() else {
                break;
            };
            let left = left.get();
            touch(touched, Touched::Recent(left.place));
            self.fold_into_history(
                left.item,
                left.attributes(),
                (series(left.scenario, left.kind), left.time, left.value),
                fetch,
                touched,
            )?;
        }
        let place = self.recent.insert(behavior);
        touch(touched, Touched::Recent(place));
        Ok(())
    }

    fn fold_into_history<'b>(
        &mut self,
        item: Option<&'b str>,
        attributes: impl Iterator<Item = (SlotId, &'b str)>,
        (series, time, value): (u64, Timestamp, Option<FixedSum>),
        fetch: &mut Fetch<'_>,
        touched: &mut Vec<Touched>,
    ) -> Result<(), crate::Error> {
        self.history_newest = self.history_newest.max(time);
        // A behavior on no item is counted under the empty key, so that every behavior of history is in some entry.
        let keys = std::iter::once((SlotId::ITEM, item.unwrap_or_default())).chain(attributes);
        for (id, key) in keys {
            let hash = pinned_hash(key.as_bytes());
            let slot = self.slot_mut(id);
            let page = slot.page_mut(hash, fetch)?;
            if page.add(hash, key, series, time, value.unwrap_or_default()) {
                slot.entries += 1;
                slot.fit(fetch)?;
            }
            touch(touched, Touched::Entry(id, hash, key.into()));
        }
        Ok(())
    }

    /// Forgets the least active entries of a slot that holds more than `keys_max` by an eighth, down to `keys_max`.
    pub(crate) fn forget(
        &mut self,
        id: SlotId,
        keys_max: u32,
        fetch: &mut Fetch<'_>,
        touched: &mut Vec<Touched>,
    ) -> Result<u64, crate::Error> {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == id) else {
            return Ok(0);
        };
        if slot.entries <= keys_max + keys_max / 8 {
            return Ok(0);
        }
        slot.load(fetch)?;
        let newest = self.history_newest;
        let mut activity: Vec<(f64, u64, Box<str>)> = slot
            .pages
            .iter()
            .flatten()
            .flat_map(Page::entries)
            .map(|entry| (activity_of(&entry, newest), entry.hash, entry.key.into()))
            .collect();
        activity.sort_by(|a, b| {
            a.0.total_cmp(&b.0)
                .then_with(|| (a.1, &a.2).cmp(&(b.1, &b.2)))
        });
        activity.truncate((slot.entries - keys_max) as usize);
        for (_, hash, key) in &activity {
            let page = slot.page_mut(*hash, fetch)?;
            let change = page.apply(*hash, key, None);
            slot.entries = slot.entries.saturating_add_signed(change);
        }
        let gone = slot.fit(fetch)?;
        self.dropped_pages
            .extend(gone.into_iter().map(|page| (id, page)));
        let forgotten = activity.len() as u64;
        for (_, hash, key) in activity {
            touch(touched, Touched::Entry(id, hash, key));
        }
        self.forgotten = self.forgotten.saturating_add(forgotten);
        touch(touched, Touched::Meta);
        Ok(forgotten)
    }

    pub(crate) fn slot_mut(&mut self, id: SlotId) -> &mut Slot {
        let place = match self.slots.binary_search_by_key(&id, |slot| slot.id) {
            Ok(place) => place,
            Err(place) => {
                self.slots.insert(
                    place,
                    Slot {
                        id,
                        entries: 0,
                        pages: vec![Some(Page::default())],
                    },
                );
                place
            }
        };
        &mut self.slots[place]
    }

    /// Puts a standing request, or ends it.
    pub(crate) fn set_standing(&mut self, request: &str, standing: Option<Standing>) {
        let place = self
            .standing
            .iter()
            .position(|held| held.request == request);
        match (place, standing) {
            (Some(place), Some(standing)) => self.standing[place] = standing,
            (Some(place), None) => drop(self.standing.remove(place)),
            (None, Some(standing)) => self.standing.push(standing),
            (None, None) => return,
        }
        self.standing.sort_by(|a, b| a.request.cmp(&b.request));
        if !self.standing_dirty.iter().any(|dirty| **dirty == *request) {
            self.standing_dirty.push(request.into());
        }
    }

    // The changelog.

    pub(crate) fn write_meta(&self, to: &mut Vec<u8>) {
        to.put(&self.salt);
        to.put_u64(self.forgotten);
        to.put_u8(self.late_events.len() as u8);
        for event in &self.late_events {
            to.put_u64(*event);
        }
    }

    pub(crate) fn read_meta(&mut self, take: &mut Take<'_>) -> Result<(), Damage> {
        self.salt = take.bytes(16)?.try_into().map_err(|_| Damage::Short)?;
        self.forgotten = take.u64()?;
        let count = take.u8()?;
        self.late_events = (0..count).map(|_| take.u64()).collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Puts what the changelog says of an entry.
    pub(crate) fn apply_entry(
        &mut self,
        id: SlotId,
        key: &str,
        packed: Option<&[u8]>,
        fetch: &mut Fetch<'_>,
    ) -> Result<(), crate::Error> {
        let hash = pinned_hash(key.as_bytes());
        let slot = self.slot_mut(id);
        let change = slot.page_mut(hash, fetch)?.apply(hash, key, packed);
        slot.entries = slot.entries.saturating_add_signed(change);
        let gone = slot.fit(fetch)?;
        if let Some(packed) = slot
            .page_mut(hash, fetch)?
            .packed_of(hash, key)
            .filter(|_| packed.is_some())
        {
            let mut take = Take(packed);
            let newest = take
                .bytes(12)
                .and_then(|_| take.str())
                .and_then(|_| take.i64())
                .and_then(|_| take.i64());
            self.history_newest = self.history_newest.max(Timestamp(
                newest.expect("invariant: checked when it came in"),
            ));
        }
        self.dropped_pages
            .extend(gone.into_iter().map(|page| (id, page)));
        Ok(())
    }

    // The store.

    pub(crate) fn write_root(&self, to: &mut Vec<u8>) {
        self.write_meta(to);
        to.put_i64(self.history_newest.0);
        let labels = if self.labels.is_empty() {
            0
        } else {
            HAS_LABELS
        };
        to.put_u16(self.standing.len() as u16 | labels);
        to.put_u16(self.slots.len() as u16);
        for slot in &self.slots {
            to.put_u32(slot.id.0);
            to.put_u32(slot.entries);
        }
        self.recent.write(to);
        self.write_sequence_ids(to);
    }

    /// Reads a root; pages of history stay in the store. What else lies there is for the caller to read; sequences are there with nothing in
    /// them.
    pub(crate) fn read_root(mut take: Take<'_>) -> Result<(Self, Beside), Damage> {
        let mut user = Self::default();
        user.read_meta(&mut take)?;
        user.history_newest = Timestamp(take.i64()?);
        let beside = take.u16()?;
        let slots = take.u16()?;
        for _ in 0..slots {
            let id = SlotId(take.u32()?);
            let entries = take.u32()?;
            let in_order = user.slots.last().is_none_or(|before| before.id < id);
            if entries > ENTRIES_MAX || !in_order {
                return Err(Damage::Contradiction);
            }
            user.slots.push(Slot {
                id,
                entries,
                pages: vec![None; pages_of(entries) as usize],
            });
        }
        user.recent = Recent::read(&mut take)?;
        user.read_sequence_ids(&mut take)?;
        take.end()?;
        let beside = Beside {
            standing: beside & !HAS_LABELS > 0,
            labels: beside & HAS_LABELS != 0,
        };
        Ok((user, beside))
    }

    /// Bytes that it takes in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        let pages: usize = self
            .slots
            .iter()
            .flat_map(|slot| &slot.pages)
            .map(|page| {
                size_of::<Option<Page>>() + page.as_ref().map_or(0, |page| page.packed.len())
            })
            .sum();
        let standing: usize = self
            .standing
            .iter()
            .map(|standing| standing.body.len() + 96)
            .sum();
        size_of::<Self>()
            + self.recent.bytes()
            + pages
            + standing
            + self.sequences_bytes()
            + self.labels.bytes()
            + self.slots.len() * size_of::<Slot>()
    }
}

/// Decayed count of an entry's behaviors, with a half-life of 30 days before the newest of the slot.
fn activity_of(entry: &Entry<'_>, newest: Timestamp) -> f64 {
    entry
        .cells()
        .map(|cell| {
            let at = if cell.length == Length::Older {
                entry.first
            } else {
                cell.middle()
            };
            f64::from(cell.count) * (-(newest.since(at) as f64) / 2_592_000_000.0).exp2()
        })
        .sum()
}

impl Slot {
    pub(crate) fn page_mut(
        &mut self,
        hash: u64,
        fetch: &mut Fetch<'_>,
    ) -> Result<&mut Page, crate::Error> {
        let number = page_of(hash, self.pages.len() as u32);
        self.page_at(number, fetch)
    }

    fn page_at(&mut self, number: u32, fetch: &mut Fetch<'_>) -> Result<&mut Page, crate::Error> {
        let page = &mut self.pages[number as usize];
        if page.is_none() {
            *page = Some(fetch(self.id, number)?);
        }
        Ok(page.as_mut().expect("invariant: read just now"))
    }

    /// Reads all pages.
    pub(crate) fn load(&mut self, fetch: &mut Fetch<'_>) -> Result<(), crate::Error> {
        for number in 0..self.pages.len() as u32 {
            self.page_at(number, fetch)?;
        }
        Ok(())
    }

    /// Splits or merges until there are as many pages as the entries ask for; gives the numbers of pages that are no more.
    fn fit(&mut self, fetch: &mut Fetch<'_>) -> Result<Vec<u32>, crate::Error> {
        let wanted = pages_of(self.entries);
        let mut gone = Vec::new();
        while (self.pages.len() as u32) < wanted {
            let new = self.pages.len() as u32;
            // The one page whose entries move to the new one.
            let from = new - (new + 1).next_power_of_two() / 2;
            let page = self.page_at(from, fetch)?.split_off(new, new + 1);
            self.pages.push(Some(page));
        }
        while (self.pages.len() as u32) > wanted {
            let last = self.pages.len() as u32 - 1;
            let into = last - (last + 1).next_power_of_two() / 2;
            self.page_at(last, fetch)?;
            let page = self
                .pages
                .pop()
                .flatten()
                .expect("invariant: read just now");
            self.page_at(into, fetch)?.merge(&page);
            gone.push(last);
        }
        Ok(gone)
    }
}

#[cfg(test)]
mod tests;
