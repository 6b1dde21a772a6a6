//! The state of one partition: its users in memory while they are used, over a store that has them all.
//!
//! Before it, `consumers::decode` makes behaviors; after it, `consumers::assemble` reads users. Nothing here reads a clock or a
//! random number: state is a function of the behaviors and their order, and a lost store is made again from the changelog.
//!
//! # How a step's changes become durable
//!
//! 1. [`Partition::fold`] changes users in memory. 2. [`Partition::changes`] gives the changelog records of the step, which go out in the
//! transaction of the step's input positions. 3. When that is committed, [`Partition::committed`] says so. 4. From time to time all
//! dirty users go to the store, and behind them the position that they reflect: [`Partition::write_back`].
//!
//! If the transaction fails, [`Partition::discard`] forgets every user that is not as in the store, and the changelog from the store's
//! position on is applied again. That is the one way of recovery: after a failed step, after a crash, and on a partition that moved here.
//!
//! So a behavior is counted once (`STATE-1`), and a store equals its changelog (`STATE-2`).

use std::collections::BTreeSet;
use std::sync::Arc;

use hashbrown::HashTable;

use crate::behavior::{Behavior, SlotId, Timestamp, pinned_hash};
use crate::changelog::{self, ChangelogKey};
use crate::error::{Damage, Error};
use crate::format::{self, Put};
use crate::labels::LabelRules;
use crate::page::Page;
use crate::position::Position;
use crate::store::{Batch, Store};
use crate::user::{Standing, Touched, User};

mod changes;
mod labels;
mod residents;
mod restore;
mod timers;
mod write_back;

pub use labels::Noted;
pub use write_back::{WriteBack, Written};

use changes::Changes;
use labels::LabelTimers;
use residents::fetch_page;
use timers::Timers;
use write_back::Begun;

/// Version of roots, pages, sequences, standing requests, open rows and positions in the store. Since 2 a root may end with the ids of sequences, since 3
/// it says whether there are open rows.
pub(crate) const STORE_VERSION: u8 = 3;
/// Version of the changelog's values. Their first byte; checksums are the log's. Since 2 there are records of sequences, since 3 of open rows.
pub(crate) const CHANGELOG_VERSION: u8 = 3;

/// What of the configuration the state follows.
#[derive(Clone, Debug)]
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
    /// Entries at which a sequence begins anew with its newest half: even, and at least 2.
    pub sequence_max: usize,
    /// What labels follow; `None`: no row is opened, and those that are open are given up.
    pub labels: Option<Arc<LabelRules>>,
}

/// Where a user lies in memory. It holds within a step: memory is dropped between steps only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

/// What became of a behavior.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folded {
    /// It was counted.
    Counted {
        /// Its user.
        place: Place,
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
    /// A write-back of which parts are still to be written.
    begun: Option<Begun>,
    /// What the call that is under way changes of its user.
    touched: Vec<Touched>,
    /// The step's changelog records so far.
    changes: Changes,
    position: Position,
    position_touched: bool,
    /// Steps whose changes were given out and are not committed yet.
    uncommitted: u32,
    writing: bool,
    since_write_back: u64,
    timers: Timers,
    label_timers: LabelTimers,
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
            begun: None,
            touched: Vec::new(),
            changes: Changes::default(),
            position: Position::start(),
            position_touched: false,
            uncommitted: 0,
            writing: false,
            since_write_back: 0,
            timers: Timers::default(),
            label_timers: LabelTimers::default(),
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
        let found = self.place(user)?;
        self.fold_at((user, found), behavior, salt)
    }

    /// The same for a user who was looked up in this step already ([`Partition::place`]), found or not.
    pub fn fold_at(
        &mut self,
        (user, found): (&str, Option<Place>),
        behavior: &Behavior<'_>,
        salt: &mut dyn FnMut() -> [u8; 16],
    ) -> Result<Folded, Error> {
        let late = self.meet(behavior.time);
        if late && self.settings.drop_late {
            return Ok(Folded::Late);
        }
        // Who was not found may have come since.
        let place = match found
            .map(|Place(place)| place)
            .or_else(|| self.resident(user))
        {
            Some(place) => place,
            None => self.insert_new(user, salt()),
        };
        let resident = self.residents[place as usize]
            .as_mut()
            .expect("invariant: places hold within a step");
        if resident.user.has_event(behavior.event) {
            return Ok(Folded::Duplicate);
        }
        let store = &self.store;
        let mut fetch = |slot, page| fetch_page(&**store, user, slot, page);
        let before = resident.user.recent.bytes() + resident.user.sequences_bytes();
        let recent_max = self.settings.recent_max;
        let touched = &mut self.touched;
        resident
            .user
            .fold(behavior, recent_max, &mut fetch, touched)?;
        let sequence_max = self.settings.sequence_max;
        resident
            .user
            .extend_sequences(behavior, sequence_max, touched);
        let mut forgotten = 0;
        if self.settings.keys_max > 0 {
            let slots = behavior.attributes.iter().map(|(slot, _)| *slot);
            for slot in std::iter::once(SlotId::ITEM).chain(slots) {
                let keys_max = self.settings.keys_max;
                forgotten += resident.user.forget(slot, keys_max, &mut fetch, touched)?;
            }
        }
        // An entry grows by a cell at most; what it really takes is measured at the next write-back.
        let after = resident.user.recent.bytes() + resident.user.sequences_bytes();
        let grown = (after + 32).saturating_sub(before);
        self.grow(place, grown);
        self.note(place);
        Ok(Folded::Counted {
            place: Place(place),
            late,
            forgotten,
        })
    }

    /// Takes note of the time of a behavior, which may be one of a user who is not kept here: what is late goes by all of them. Gives whether it is.
    pub fn meet(&mut self, time: Timestamp) -> bool {
        let before = self.position.watermark;
        let late = time < before.minus(self.settings.allowed_lateness_ms);
        if time > before {
            self.position.watermark = time;
            self.position_touched = true;
        }
        late
    }

    /// Looks a user up, in memory and in the store; `None` if nothing is known of them. Several look-ups in a row cost little more than
    /// one: the processor waits for all of them at once.
    pub fn place(&mut self, user: &str) -> Result<Option<Place>, Error> {
        let place = self.find(user)?.map(Place);
        if let Some(place) = place {
            self.user(place).warm();
        }
        Ok(place)
    }

    /// The user in a place. Pages of history may not be in memory: [`Partition::whole`].
    ///
    /// # Panics
    /// If the place is not of this step.
    pub fn user(&self, place: Place) -> &User {
        &self.residents[place.0 as usize]
            .as_ref()
            .expect("invariant: places hold within a step")
            .user
    }

    /// A user with recent behaviors, all pages of history, and standing requests; `None` if nothing is known of them.
    pub fn whole_user(&mut self, user: &str) -> Result<Option<&User>, Error> {
        match self.find(user)? {
            Some(place) => self.whole(Place(place)).map(Some),
            None => Ok(None),
        }
    }

    /// The user in a place, with all pages of history.
    ///
    /// # Panics
    /// If the place is not of this step.
    pub fn whole(&mut self, place: Place) -> Result<&User, Error> {
        let Place(place) = place;
        let store = &self.store;
        let resident = self.residents[place as usize]
            .as_mut()
            .expect("invariant: places hold within a step");
        let mut fetched = false;
        let id = &resident.id;
        let mut fetch = |slot, page| {
            fetched = true;
            fetch_page(&**store, id, slot, page)
        };
        for slot in &mut resident.user.slots {
            slot.load(&mut fetch)?;
        }
        if fetched {
            let weight = resident.user.bytes();
            let grown = weight.saturating_sub(resident.weight);
            self.grow(place, grown);
        }
        Ok(self.user(Place(place)))
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
                let place = self.insert_new(user, salt());
                self.note(place);
                place
            }
        };
        Ok(self.user(Place(place)).salt())
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
            None => self.insert_new(user, salt()),
        };
        let ends = standing.is_none();
        self.put_standing(place, request, standing);
        self.touched.push(Touched::Standing(request.into()));
        if ends {
            self.touched.push(Touched::Due(request.into()));
        }
        self.note(place);
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
        self.touched.push(Touched::Due(request.into()));
        self.note(place);
        Ok(())
    }

    /// Standing requests that are due or expired at `now`, earliest first: (user, request).
    pub fn due(&self, now: Timestamp) -> impl Iterator<Item = (Timestamp, &str, &str)> {
        self.timers.due(now)
    }

    /// Bytes of the timers of standing requests and open rows, about: of all users, in memory or not.
    pub fn timers_memory(&self) -> usize {
        self.timers.bytes() + self.label_timers.bytes()
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

    /// Forgets all that is not as in the store. After it the changelog is applied from [`Position::changelog`] on.
    pub fn discard(&mut self) -> Result<(), Error> {
        assert!(
            !self.writing,
            "invariant: a write-back is waited for before changes are discarded"
        );
        let begun = self.begun.take().map_or(Vec::new(), |begun| begun.users);
        for place in std::mem::take(&mut self.dirty).into_iter().chain(begun) {
            self.remove(place);
        }
        self.dirty_weight = 0;
        self.touched.clear();
        self.changes.clear();
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

#[cfg(test)]
mod tests;
