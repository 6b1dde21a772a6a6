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

/// Dirty users on their way to the store.
pub struct WriteBack {
    store: Arc<dyn Store>,
    batch: Batch,
    users: Vec<u32>,
}

impl std::fmt::Debug for WriteBack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteBack")
            .field("values", &self.batch.len())
            .finish_non_exhaustive()
    }
}

impl WriteBack {
    /// Writes the batch: may run on any thread. The result goes to [`Partition::written`].
    pub fn run(self) -> Written {
        Written {
            result: self.store.apply(&self.batch),
            values: self.batch.len(),
            users: self.users,
        }
    }
}

/// What became of a write-back.
#[derive(Debug)]
pub struct Written {
    result: Result<(), crate::StoreError>,
    /// Values written.
    pub values: usize,
    users: Vec<u32>,
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

    // ------------------------------------------------------------------------------------------ restoring

    /// Applies a changelog record: the state is then as it was when the record was written.
    pub fn apply(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), Error> {
        let damaged = |damage| Error::Changelog {
            key: format!("{}", key.escape_ascii()),
            damage,
        };
        let parsed = ChangelogKey::read(key).map_err(damaged)?;
        let value = match value {
            None => None,
            Some([CHANGELOG_VERSION, rest @ ..]) => Some(rest),
            Some([found, ..]) => {
                return Err(damaged(Damage::Version {
                    found: *found,
                    known: CHANGELOG_VERSION,
                }));
            }
            Some([]) => return Err(damaged(Damage::Short)),
        };
        self.since_write_back += 1;
        let user = match parsed {
            ChangelogKey::Position => {
                if let Some(value) = value {
                    let mut take = format::Take(value);
                    self.position
                        .read(&mut take)
                        .and_then(|()| take.end())
                        .map_err(damaged)?;
                }
                return Ok(());
            }
            ChangelogKey::Meta { user }
            | ChangelogKey::Recent { user, .. }
            | ChangelogKey::Entry { user, .. }
            | ChangelogKey::Standing { user, .. }
            | ChangelogKey::Due { user, .. } => user,
        };
        let place = match (self.find(user)?, value) {
            (Some(place), _) => place,
            (None, None) => return Ok(()),
            (None, Some(_)) => self.insert(user, User::blank()),
        };
        let store = &self.store;
        let mut fetch = |slot, page| fetch_page(&**store, user, slot, page);
        let resident = self.residents[place as usize]
            .as_mut()
            .expect("invariant: found just now");
        match parsed {
            ChangelogKey::Position => {}
            ChangelogKey::Meta { .. } => {
                if let Some(value) = value {
                    let mut take = format::Take(value);
                    resident
                        .user
                        .read_meta(&mut take)
                        .and_then(|()| take.end())
                        .map_err(damaged)?;
                }
            }
            ChangelogKey::Recent { place, .. } => {
                resident.user.recent.apply(place, value).map_err(damaged)?;
            }
            ChangelogKey::Entry { slot, key, .. } => {
                if let Some(packed) = value {
                    crate::page::check(packed, key).map_err(damaged)?;
                }
                resident.user.apply_entry(slot, key, value, &mut fetch)?;
            }
            ChangelogKey::Standing { request, .. } => {
                let standing = value
                    .map(|value| Standing::read(format::Take(value)))
                    .transpose()
                    .map_err(damaged)?;
                self.put_standing(place, request, standing);
            }
            ChangelogKey::Due { request, .. } => {
                let due = value
                    .map(|value| format::Take(value).i64())
                    .transpose()
                    .map_err(damaged)?;
                let held = resident
                    .user
                    .standing
                    .iter()
                    .find(|held| held.request == request);
                if let Some(held) = held {
                    let standing = Standing {
                        due: due.map(Timestamp),
                        ..held.clone()
                    };
                    self.put_standing(place, request, Some(standing));
                }
            }
        }
        self.grow(place, value.map_or(0, <[u8]>::len));
        self.mark_dirty(place);
        Ok(())
    }

    /// The changelog has been applied up to here.
    pub fn restored_to(&mut self, changelog_next: i64) {
        self.position.changelog = self.position.changelog.max(changelog_next);
    }

    // ------------------------------------------------------------------------------------- memory and store

    /// Whether dirty users should go to the store: because there are many, or because many records would have to be replayed.
    pub fn wants_write_back(&self, records_max: u64) -> bool {
        !self.writing
            && (self.dirty_weight > self.settings.memory / 2
                || self.since_write_back >= records_max)
    }

    /// Whether anything would be written back.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty() || self.since_write_back > 0
    }

    /// Whether a write-back is on its way.
    pub fn is_writing(&self) -> bool {
        self.writing
    }

    /// All dirty users and the position, to be written in one batch. Only when nothing is uncommitted, and one at a time.
    pub fn write_back(&mut self, now: Timestamp) -> WriteBack {
        assert!(
            self.uncommitted == 0 && self.touched.is_empty(),
            "invariant: only what is committed goes to the store"
        );
        assert!(!self.writing, "invariant: one write-back at a time");
        self.writing = true;
        self.since_write_back = 0;
        self.dirty_weight = 0;
        let users = std::mem::take(&mut self.dirty);
        let mut batch: Batch = Vec::with_capacity(users.len() + 1);
        for &place in &users {
            let resident = self.residents[place as usize]
                .as_mut()
                .expect("invariant: dirty users stay");
            resident.dirty = false;
            resident.writing = true;
            write_user(&resident.id, &mut resident.user, &mut batch);
            let weight = resident.user.bytes() + resident.id.len();
            self.weight = self.weight + weight - resident.weight;
            resident.weight = weight;
        }
        let position = format::seal(STORE_VERSION, |to| {
            to.put_i64(now.0);
            to.put_i64(self.position.changelog);
            self.position.write(to);
        });
        batch.push((changelog::POSITION_KEY.to_vec(), Some(position)));
        WriteBack {
            store: Arc::clone(&self.store),
            batch,
            users,
        }
    }

    /// What became of the write-back.
    pub fn written(&mut self, written: Written) -> Result<(), Error> {
        self.writing = false;
        let failed = written.result.is_err();
        for place in written.users {
            let resident = self.residents[place as usize]
                .as_mut()
                .expect("invariant: users being written stay");
            resident.writing = false;
            if failed {
                // Not in the store: it must be written again, or discarded.
                let weight = resident.weight;
                if !std::mem::replace(&mut resident.dirty, true) {
                    self.dirty.push(place);
                    self.dirty_weight += weight;
                }
                for slot in &mut resident.user.slots {
                    slot.pages
                        .iter_mut()
                        .flatten()
                        .for_each(|page| page.dirty = true);
                }
            }
        }
        Ok(written.result?)
    }

    /// Drops clean users until memory is within its setting, as far as that goes.
    pub fn evict(&mut self) {
        let mut looked = 0;
        while self.weight > self.settings.memory && looked < 2 * self.residents.len() {
            self.hand = (self.hand + 1) % self.residents.len();
            looked += 1;
            let Some(resident) = &mut self.residents[self.hand] else {
                continue;
            };
            let used = std::mem::replace(&mut resident.used, false);
            if used || resident.dirty || resident.writing {
                continue;
            }
            self.remove(self.hand as u32);
            self.counts.evictions += 1;
        }
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

    fn find(&mut self, user: &str) -> Result<Option<u32>, Error> {
        let hash = pinned_hash(user.as_bytes());
        let residents = &self.residents;
        let same = |place: &u32| {
            residents[*place as usize]
                .as_ref()
                .is_some_and(|resident| *resident.id == *user)
        };
        if let Some(&place) = self.index.find(hash, same) {
            self.counts.hits += 1;
            self.residents[place as usize]
                .as_mut()
                .expect("invariant: found just now")
                .used = true;
            return Ok(Some(place));
        }
        self.counts.misses += 1;
        changelog::root_key(user, &mut self.scratch);
        let Some(bytes) = self.store.get(&self.scratch)? else {
            return Ok(None);
        };
        let damaged = |damage| Error::Damaged {
            key: format!("user {user}"),
            damage,
        };
        let (mut loaded, standing) = format::open(STORE_VERSION, &bytes)
            .and_then(User::read_root)
            .map_err(damaged)?;
        if standing > 0 {
            let mut bad = None;
            self.store
                .scan(&changelog::standing_prefix(Some(user)), &mut |_, value| {
                    match format::open(STORE_VERSION, value).and_then(Standing::read) {
                        Ok(standing) => loaded.standing.push(standing),
                        Err(damage) => bad = Some(damage),
                    }
                    bad.is_none()
                })?;
            if let Some(damage) = bad {
                return Err(damaged(damage));
            }
        }
        Ok(Some(self.insert(user, loaded)))
    }

    fn insert(&mut self, id: &str, user: User) -> u32 {
        let weight = user.bytes() + id.len();
        let resident = Resident {
            id: id.into(),
            user,
            weight,
            used: true,
            dirty: false,
            writing: false,
        };
        let place = if let Some(place) = self.free.pop() {
            self.residents[place as usize] = Some(resident);
            place
        } else {
            self.residents.push(Some(resident));
            u32::try_from(self.residents.len() - 1)
                .expect("invariant: memory holds fewer than 2^32 users")
        };
        self.weight += weight;
        let residents = &self.residents;
        let hash_of = |place: &u32| {
            pinned_hash(
                residents[*place as usize]
                    .as_ref()
                    .expect("invariant: indexed users exist")
                    .id
                    .as_bytes(),
            )
        };
        self.index
            .insert_unique(pinned_hash(id.as_bytes()), place, hash_of);
        let touched = self.residents[place as usize]
            .as_ref()
            .is_some_and(|resident| !resident.user.touched.is_empty());
        if touched {
            self.touched.push(place);
        }
        place
    }

    fn remove(&mut self, place: u32) {
        let resident = self.residents[place as usize]
            .take()
            .expect("invariant: only what is there is removed");
        self.weight -= resident.weight;
        self.free.push(place);
        if let Ok(found) = self
            .index
            .find_entry(pinned_hash(resident.id.as_bytes()), |other| *other == place)
        {
            found.remove();
        }
    }

    fn grow(&mut self, place: u32, bytes: usize) {
        let resident = self.residents[place as usize]
            .as_mut()
            .expect("invariant: found just now");
        resident.weight += bytes;
        self.weight += bytes;
        if resident.dirty {
            self.dirty_weight += bytes;
        }
    }

    fn note_touched(&mut self, place: u32, untouched: bool) {
        if untouched {
            self.touched.push(place);
        }
    }

    fn mark_dirty(&mut self, place: u32) {
        let resident = self.residents[place as usize]
            .as_mut()
            .expect("invariant: found just now");
        if !std::mem::replace(&mut resident.dirty, true) {
            self.dirty.push(place);
            self.dirty_weight += resident.weight;
        }
    }

    fn put_standing(&mut self, place: u32, request: &str, standing: Option<Standing>) {
        let resident = self.residents[place as usize]
            .as_mut()
            .expect("invariant: found just now");
        if let Some(held) = resident
            .user
            .standing
            .iter()
            .find(|held| held.request == request)
        {
            self.timers.remove(&timer(&resident.id, held));
        }
        if let Some(standing) = &standing {
            self.timers.insert(timer(&resident.id, standing));
        }
        resident.user.set_standing(request, standing);
    }

    fn read_position(&mut self) -> Result<(), Error> {
        let Some(bytes) = self.store.get(changelog::POSITION_KEY)? else {
            return Ok(());
        };
        let damaged = |damage| Error::Damaged {
            key: "position".to_owned(),
            damage,
        };
        let mut take = format::open(STORE_VERSION, &bytes).map_err(damaged)?;
        take.i64().map_err(damaged)?;
        self.position.changelog = take.i64().map_err(damaged)?;
        self.position
            .read(&mut take)
            .and_then(|()| take.end())
            .map_err(damaged)
    }

    /// The timers of all standing requests of the store: after a discard memory holds nothing else.
    fn read_timers(&mut self) -> Result<(), Error> {
        self.timers.clear();
        let timers = &mut self.timers;
        let mut bad = None;
        self.store
            .scan(&changelog::standing_prefix(None), &mut |key, value| {
                let user = ChangelogKey::read(key);
                let standing = format::open(STORE_VERSION, value).and_then(Standing::read);
                match (user, standing) {
                    (Ok(ChangelogKey::Standing { user, .. }), Ok(standing)) => {
                        timers.insert(timer(user, &standing));
                    }
                    (Err(damage), _) | (_, Err(damage)) => bad = Some(damage),
                    (Ok(_), Ok(_)) => bad = Some(Damage::Key),
                }
                bad.is_none()
            })?;
        bad.map_or(Ok(()), |damage| {
            Err(Error::Damaged {
                key: "a standing request".to_owned(),
                damage,
            })
        })
    }
}

fn timer(user: &str, standing: &Standing) -> (Timestamp, Box<str>, Box<str>) {
    let at = standing
        .due
        .map_or(standing.expires, |due| due.min(standing.expires));
    (at, user.into(), standing.request.as_str().into())
}

fn fetch_page(store: &dyn Store, user: &str, slot: SlotId, page: u32) -> Result<Page, Error> {
    let damaged = |damage| Error::Damaged {
        key: format!("page {page} of user {user}"),
        damage,
    };
    let bytes = store
        .get(&changelog::page_key(user, slot, page))?
        .ok_or_else(|| damaged(Damage::Contradiction))?;
    format::open(STORE_VERSION, &bytes)
        .and_then(Page::read)
        .map_err(damaged)
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

/// Writes what of a user is not as in the store.
fn write_user(id: &str, user: &mut User, batch: &mut Batch) {
    let mut root = Vec::new();
    changelog::root_key(id, &mut root);
    batch.push((
        root,
        Some(format::seal(STORE_VERSION, |to| user.write_root(to))),
    ));
    for (slot, page) in std::mem::take(&mut user.dropped_pages) {
        let alive = user
            .slots
            .iter()
            .any(|held| held.id == slot && (page as usize) < held.pages.len());
        if !alive {
            batch.push((changelog::page_key(id, slot, page), None));
        }
    }
    for slot in &mut user.slots {
        for (number, page) in slot.pages.iter_mut().enumerate() {
            if let Some(page) = page.as_mut().filter(|page| page.dirty) {
                page.dirty = false;
                let value = format::seal(STORE_VERSION, |to| to.put(&page.packed));
                batch.push((changelog::page_key(id, slot.id, number as u32), Some(value)));
            }
        }
    }
    for request in std::mem::take(&mut user.standing_dirty) {
        let mut key = Vec::new();
        ChangelogKey::Standing {
            user: id,
            request: &request,
        }
        .write(&mut key);
        let standing = user
            .standing
            .iter()
            .find(|standing| *standing.request == *request);
        let value = standing.map(|standing| format::seal(STORE_VERSION, |to| standing.write(to)));
        batch.push((key, value));
    }
}

#[cfg(test)]
mod tests;
