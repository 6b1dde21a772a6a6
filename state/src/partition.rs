//! The state of one partition: its users in memory while they are used, over a store that has them all.
//!
//! Before it, `consumers::decode` makes behaviors; after it, `consumers::assemble` reads users. Nothing here reads a clock or a
//! random number: state is a function of the behaviors and their order, and a lost store is made again from the changelog.
//!
//! # How a step's changes become durable
//!
//! 1. [`Partition::fold`] changes users in memory. 2. [`Partition::changes`] gives the changelog records of the step, which go out in the
//! transaction of the step's input positions. 3. When that is committed, [`Partition::committed`] says so. 4. From time to time all
//! dirty users go to the store in one atomic batch with the position that they reflect: [`Partition::write_back`].
//!
//! If the transaction fails, [`Partition::discard`] forgets every user that is not as in the store, and the changelog from the store's
//! position on is applied again. That is the one way of recovery: after a failed step, after a crash, and on a partition that moved here.
//!
//! # Invariants
//!
//! - `STATE-1` a behavior is counted exactly once, whatever crashes when.
//! - `STATE-2` a store, and its changelog replayed from the start, hold the same bytes at the same offset.

use std::collections::BTreeSet;
use std::sync::Arc;

use hashbrown::HashTable;

use crate::behavior::{Behavior, SlotId, Timestamp, pinned_hash};
use crate::changelog::{self, ChangelogKey};
use crate::error::{Damage, Error};
use crate::format::{self, Put};
use crate::page::Page;
use crate::store::{Batch, Store};
use crate::user::{Position, Standing, Touched, User};

mod residents;
mod restore;
mod write_back;

pub use write_back::{WriteBack, Written};

use residents::fetch_page;

/// Version of roots, pages, standing requests and positions in the store.
const STORE_VERSION: u8 = 1;
/// Version of the changelog's values. Their first byte; checksums are the log's.
const CHANGELOG_VERSION: u8 = 1;

/// What of the configuration the state follows.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Behaviors kept with their exact times.
    pub recent_max: usize,
    /// Bytes of users in memory, of this partition.
    pub memory: usize,
    /// Distinct keys of a slot; 0: all.
    pub keys_max: u32,
    /// A behavior older than the watermark by more is late.
    pub allowed_lateness_ms: i64,
    /// Whether late behaviors are left out.
    pub drop_late: bool,
}

/// What became of a behavior.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folded {
    /// It was counted.
    Counted {
        /// Whether it was late all the same.
        late: bool,
        /// How many entries retention has forgotten for it.
        forgotten: u64,
    },
    /// Its event id was counted before.
    Duplicate,
    /// It was late, and left out.
    Late,
}

/// What the cache did since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Users found in memory.
    pub hits: u64,
    /// Users that had to be read from the store, or were not there either.
    pub misses: u64,
    /// Users dropped from memory.
    pub evictions: u64,
}

struct Resident {
    id: Box<str>,
    user: User,
    weight: usize,
    used: bool,
    dirty: bool,
    writing: bool,
}

/// The state of one partition.
pub struct Partition {
    store: Arc<dyn Store>,
    settings: Settings,
    residents: Vec<Option<Resident>>,
    free: Vec<u32>,
    index: HashTable<u32>,
    hand: usize,
    weight: usize,
    dirty: Vec<u32>,
    dirty_weight: usize,
    touched: Vec<u32>,
    position: Position,
    position_touched: bool,
    /// Steps whose changes were given out and are not committed yet.
    uncommitted: u32,
    writing: bool,
    since_write_back: u64,
    timers: BTreeSet<(Timestamp, Box<str>, Box<str>)>,
    counts: CacheCounts,
    scratch: Vec<u8>,
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partition")
            .field("position", &self.position)
            .field("users", &self.index.len())
            .field("weight", &self.weight)
            .finish_non_exhaustive()
    }
}

impl Partition {
    /// A partition over its store, at the position that the store reflects.
    pub fn open(store: Arc<dyn Store>, settings: Settings) -> Result<Self, Error> {
        let mut partition = Self {
            store,
            settings,
            residents: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            hand: 0,
            weight: 0,
            dirty: Vec::new(),
            dirty_weight: 0,
            touched: Vec::new(),
            position: Position::start(),
            position_touched: false,
            uncommitted: 0,
            writing: false,
            since_write_back: 0,
            timers: BTreeSet::new(),
            counts: CacheCounts::default(),
            scratch: Vec::new(),
        };
        partition.read_position()?;
        partition.read_timers()?;
        Ok(partition)
    }

    /// When the store was last written, Unix milliseconds as they were given to `write_back`; `None` for an empty store.
    pub fn last_written(store: &dyn Store) -> Result<Option<Timestamp>, Error> {
        let Some(bytes) = store.get(changelog::POSITION_KEY)? else {
            return Ok(None);
        };
        let damaged = |damage| Error::Damaged {
            key: "position".to_owned(),
            damage,
        };
        let mut take = format::open(STORE_VERSION, &bytes).map_err(damaged)?;
        Ok(Some(Timestamp(take.i64().map_err(damaged)?)))
    }

    /// What the state reflects.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Changes what is followed of the configuration.
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    // ------------------------------------------------------------------------------------------------ a step

    /// Takes a behavior in. `salt` is asked for once for each new user.
    pub fn fold(
        &mut self,
        user: &str,
        behavior: &Behavior<'_>,
        salt: &mut dyn FnMut() -> [u8; 16],
    ) -> Result<Folded, Error> {
        let late = behavior.time
            < self
                .position
                .watermark
                .minus(self.settings.allowed_lateness_ms);
        if late && self.settings.drop_late {
            return Ok(Folded::Late);
        }
        if behavior.time > self.position.watermark {
            self.position.watermark = behavior.time;
            self.position_touched = true;
        }
        let place = match self.find(user)? {
            Some(place) => place,
            None => self.insert(user, User::new(salt())),
        };
        let resident = self.residents[place as usize]
            .as_mut()
            .expect("invariant: found just now");
        if resident.user.has_event(behavior.event) {
            return Ok(Folded::Duplicate);
        }
        let store = &self.store;
        let mut fetch = |slot, page| fetch_page(&**store, user, slot, page);
        let before = resident.user.recent.bytes();
        let untouched = resident.user.touched.is_empty();
        resident
            .user
            .fold(behavior, self.settings.recent_max, &mut fetch)?;
        let mut forgotten = 0;
        if self.settings.keys_max > 0 {
            let slots = behavior.attributes.iter().map(|(slot, _)| *slot);
            for slot in std::iter::once(SlotId::ITEM).chain(slots) {
                forgotten += resident
                    .user
                    .forget(slot, self.settings.keys_max, &mut fetch)?;
            }
        }
        // An entry grows by a cell at most; what it really takes is measured at the next write-back.
        let grown = (resident.user.recent.bytes() + 32).saturating_sub(before);
        self.grow(place, grown);
        if untouched || self.touched.last() != Some(&place) {
            self.note_touched(place, untouched);
        }
        self.mark_dirty(place);
        Ok(Folded::Counted { late, forgotten })
    }

    /// A user with recent behaviors, all pages of history, and standing requests; `None` if nothing is known of them.
    pub fn whole_user(&mut self, user: &str) -> Result<Option<&User>, Error> {
        let Some(place) = self.find(user)? else {
            return Ok(None);
        };
        let store = &self.store;
        let resident = self.residents[place as usize]
            .as_mut()
            .expect("invariant: found just now");
        let mut fetched = false;
        let mut fetch = |slot, page| {
            fetched = true;
            fetch_page(&**store, user, slot, page)
        };
        for slot in &mut resident.user.slots {
            slot.load(&mut fetch)?;
        }
        if fetched {
            let weight = resident.user.bytes();
            let grown = weight.saturating_sub(resident.weight);
            self.grow(place, grown);
        }
        Ok(self.residents[place as usize]
            .as_ref()
            .map(|resident| &resident.user))
    }

    /// A user that is in memory: after `fold`, say. Pages of history may not be.
    pub fn resident(&self, user: &str) -> Option<&User> {
        let same = |place: &u32| {
            self.residents[*place as usize]
                .as_ref()
                .is_some_and(|resident| *resident.id == *user)
        };
        let place = self.index.find(pinned_hash(user.as_bytes()), same)?;
        self.residents[*place as usize]
            .as_ref()
            .map(|resident| &resident.user)
    }

    /// The salt of the user's pseudonym. Who is not known yet is known from here on: the rows of a user bear one pseudonym from the first on,
    /// and nobody can find them once this state is erased.
    pub fn salt_of(
        &mut self,
        user: &str,
        salt: &mut dyn FnMut() -> [u8; 16],
    ) -> Result<[u8; 16], Error> {
        let place = match self.find(user)? {
            Some(place) => place,
            None => {
                let place = self.insert(user, User::new(salt()));
                self.mark_dirty(place);
                place
            }
        };
        let resident = self.residents[place as usize]
            .as_ref()
            .expect("invariant: found just now");
        Ok(resident.user.salt())
    }

    /// Puts a standing request of a user, or ends it (`None`).
    pub fn set_standing(
        &mut self,
        user: &str,
        request: &str,
        standing: Option<Standing>,
        salt: &mut dyn FnMut() -> [u8; 16],
    ) -> Result<(), Error> {
        let place = match self.find(user)? {
            Some(place) => place,
            None if standing.is_none() => return Ok(()),
            None => self.insert(user, User::new(salt())),
        };
        let ends = standing.is_none();
        self.put_standing(place, request, standing);
        let resident = self.residents[place as usize]
            .as_mut()
            .expect("invariant: found just now");
        let untouched = resident.user.touched.is_empty();
        resident.user.touch(Touched::Standing(request.into()));
        if ends {
            resident.user.touch(Touched::Due(request.into()));
        }
        self.note_touched(place, untouched);
        self.mark_dirty(place);
        Ok(())
    }

    /// Says when a standing request is to be scored again, or (`None`) that it is current.
    pub fn set_due(
        &mut self,
        user: &str,
        request: &str,
        due: Option<Timestamp>,
    ) -> Result<(), Error> {
        let Some(place) = self.find(user)? else {
            return Ok(());
        };
        let resident = self.residents[place as usize]
            .as_mut()
            .expect("invariant: found just now");
        let Some(held) = resident
            .user
            .standing
            .iter()
            .find(|held| held.request == request)
        else {
            return Ok(());
        };
        let standing = Standing {
            due,
            ..held.clone()
        };
        self.put_standing(place, request, Some(standing));
        let resident = self.residents[place as usize]
            .as_mut()
            .expect("invariant: found just now");
        let untouched = resident.user.touched.is_empty();
        resident.user.touch(Touched::Due(request.into()));
        self.note_touched(place, untouched);
        self.mark_dirty(place);
        Ok(())
    }

    /// Standing requests that are due or expired at `now`, earliest first: (user, request).
    pub fn due(&self, now: Timestamp) -> impl Iterator<Item = (Timestamp, &str, &str)> {
        self.timers
            .iter()
            .take_while(move |(at, ..)| *at <= now)
            .map(|(at, user, request)| (*at, &**user, &**request))
    }

    /// Notes the next offset to read of an input topic.
    pub fn advance(&mut self, topic: headwater_config::Topic, next: i64) {
        self.position.advance(topic, next);
        self.position_touched = true;
    }

    /// Pins the partition count of the input topics.
    pub fn pin_partitions(&mut self, partitions: i32) {
        self.position.partitions = partitions;
        self.position_touched = true;
    }

    /// The changelog records of the step: key and value, `None` deletes. The position comes last. Gives their number.
    pub fn changes(&mut self, emit: &mut dyn FnMut(&[u8], Option<&[u8]>)) -> usize {
        let mut key = Vec::with_capacity(64);
        let mut value = Vec::with_capacity(256);
        let mut count = 0;
        for place in std::mem::take(&mut self.touched) {
            let resident = self.residents[place as usize]
                .as_mut()
                .expect("invariant: touched users stay");
            for touched in std::mem::take(&mut resident.user.touched) {
                key.clear();
                value.clear();
                value.put_u8(CHANGELOG_VERSION);
                let found =
                    write_change(&resident.id, &resident.user, &touched, &mut key, &mut value);
                emit(&key, found.then_some(&value));
                count += 1;
            }
        }
        if std::mem::take(&mut self.position_touched) || count > 0 {
            key.clear();
            value.clear();
            ChangelogKey::Position.write(&mut key);
            value.put_u8(CHANGELOG_VERSION);
            self.position.write(&mut value);
            emit(&key, Some(&value));
            count += 1;
            self.uncommitted += 1;
            self.since_write_back += count as u64;
        }
        count
    }

    /// The oldest step whose changes were given out is committed; the changelog's next offset is `changelog_next`.
    pub fn committed(&mut self, changelog_next: i64) {
        assert!(
            self.uncommitted > 0,
            "invariant: only a step with changes is committed"
        );
        self.uncommitted -= 1;
        self.position.changelog = changelog_next;
    }

    /// Forgets all that is not as in the store. After it the changelog is applied from [`Position::changelog`] on.
    pub fn discard(&mut self) -> Result<(), Error> {
        assert!(
            !self.writing,
            "invariant: a write-back is waited for before changes are discarded"
        );
        for place in std::mem::take(&mut self.dirty) {
            self.remove(place);
        }
        self.dirty_weight = 0;
        self.touched.clear();
        self.uncommitted = 0;
        self.position = Position::start();
        self.position_touched = false;
        self.read_position()?;
        self.read_timers()
    }

    /// Bytes of users in memory, about.
    pub fn memory(&self) -> usize {
        self.weight
    }

    /// Users in memory.
    pub fn residents(&self) -> usize {
        self.index.len()
    }

    /// What the cache did since this was last asked.
    pub fn take_counts(&mut self) -> CacheCounts {
        std::mem::take(&mut self.counts)
    }

    /// The ids of all users, from the store and from memory.
    pub fn user_ids(&self) -> Result<BTreeSet<String>, Error> {
        let mut ids = BTreeSet::new();
        let mut bad = None;
        self.store.scan(
            changelog::ROOT_PREFIX,
            &mut |key, _| match changelog::user_of_root(key) {
                Ok(id) => {
                    ids.insert(id.to_owned());
                    true
                }
                Err(damage) => {
                    bad = Some(damage);
                    false
                }
            },
        )?;
        if let Some(damage) = bad {
            return Err(Error::Damaged {
                key: "a root".to_owned(),
                damage,
            });
        }
        ids.extend(
            self.residents
                .iter()
                .flatten()
                .map(|resident| String::from(&*resident.id)),
        );
        Ok(ids)
    }
}

/// Writes the key and the value of a change; false where the change is that nothing is there any more.
fn write_change(
    id: &str,
    user: &User,
    touched: &Touched,
    key: &mut Vec<u8>,
    value: &mut Vec<u8>,
) -> bool {
    let found = match touched {
        Touched::Meta => {
            ChangelogKey::Meta { user: id }.write(key);
            user.write_meta(value);
            return true;
        }
        Touched::Recent(place) => {
            ChangelogKey::Recent {
                user: id,
                place: *place,
            }
            .write(key);
            user.recent.packed_in(*place)
        }
        Touched::Entry(slot, hash, entry) => {
            ChangelogKey::Entry {
                user: id,
                slot: *slot,
                key: entry,
            }
            .write(key);
            user.slots
                .iter()
                .find(|candidate| candidate.id == *slot)
                .and_then(|slot| {
                    slot.pages[crate::page::page_of(*hash, slot.pages.len() as u32) as usize]
                        .as_ref()
                })
                .and_then(|page| page.packed_of(*hash, entry))
        }
        Touched::Standing(request) => {
            ChangelogKey::Standing { user: id, request }.write(key);
            let standing = user
                .standing
                .iter()
                .find(|standing| *standing.request == **request);
            if let Some(standing) = standing {
                standing.write(value);
            }
            return standing.is_some();
        }
        Touched::Due(request) => {
            ChangelogKey::Due { user: id, request }.write(key);
            let due = user
                .standing
                .iter()
                .find(|standing| *standing.request == **request)
                .and_then(|standing| standing.due);
            if let Some(due) = due {
                value.put_i64(due.0);
            }
            return due.is_some();
        }
    };
    if let Some(packed) = found {
        value.put(packed);
    }
    found.is_some()
}

#[cfg(test)]
mod tests;
