//! Users in memory over the store: found, read, dropped, and what was noted of them.

use super::{
    ChangelogKey, Damage, Error, Page, Partition, Resident, STORE_VERSION, SlotId, Standing, Store,
    Touched, User, changelog, format, pinned_hash,
};
use crate::labels::Labels;
use crate::sequence::Sequence;

impl Partition {
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

    /// A user that is in memory.
    pub(super) fn resident(&self, user: &str) -> Option<u32> {
        let same = |place: &u32| {
            self.residents[*place as usize]
                .as_ref()
                .is_some_and(|resident| *resident.id == *user)
        };
        let hash = pinned_hash(user.as_bytes());
        self.index.find(hash, same).copied()
    }

    pub(super) fn find(&mut self, user: &str) -> Result<Option<u32>, Error> {
        if let Some(place) = self.resident(user) {
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
        let (mut loaded, beside) = format::open(STORE_VERSION, &bytes)
            .and_then(User::read_root)
            .map_err(damaged)?;
        if beside.standing {
            let mut bad = None;
            self.store.scan(
                &changelog::standing_prefix(Some(user)),
                &mut |key, value| {
                    match stored_standing(key, value) {
                        Ok((_, standing)) => loaded.standing.push(standing),
                        Err(damage) => bad = Some(damage),
                    }
                    bad.is_none()
                },
            )?;
            if let Some(damage) = bad {
                return Err(damaged(damage));
            }
        }
        if beside.labels {
            loaded.labels = fetch_labels(&*self.store, user)?;
        }
        for sequence in &mut loaded.sequences {
            fetch_sequence(&*self.store, user, sequence)?;
        }
        Ok(Some(self.insert(user, loaded)))
    }

    /// A user not seen before.
    pub(super) fn insert_new(&mut self, id: &str, salt: [u8; 16]) -> u32 {
        self.touched.push(Touched::Meta);
        self.insert(id, User::new(salt))
    }

    pub(super) fn insert(&mut self, id: &str, user: User) -> u32 {
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
        place
    }

    pub(super) fn remove(&mut self, place: u32) {
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

    pub(super) fn grow(&mut self, place: u32, bytes: usize) {
        let resident = self.residents[place as usize]
            .as_mut()
            .expect("invariant: found just now");
        resident.weight += bytes;
        self.weight += bytes;
        if resident.dirty {
            self.dirty_weight += bytes;
        }
    }

    pub(super) fn mark_dirty(&mut self, place: u32) {
        let resident = self.residents[place as usize]
            .as_mut()
            .expect("invariant: found just now");
        if !std::mem::replace(&mut resident.dirty, true) {
            self.dirty.push(place);
            self.dirty_weight += resident.weight;
        }
    }

    pub(super) fn put_standing(&mut self, place: u32, request: &str, standing: Option<Standing>) {
        let resident = self.residents[place as usize]
            .as_mut()
            .expect("invariant: found just now");
        if let Some(held) = resident
            .user
            .standing
            .iter()
            .find(|held| held.request == request)
        {
            self.timers.remove(&resident.id, held);
        }
        if let Some(standing) = &standing {
            self.timers.insert(&resident.id, standing);
        }
        resident.user.set_standing(request, standing);
    }

    pub(super) fn read_position(&mut self) -> Result<(), Error> {
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

    /// The timers of all standing requests and open rows of the store: after a discard memory holds nothing else.
    pub(super) fn read_timers(&mut self) -> Result<(), Error> {
        self.read_label_timers()?;
        self.timers.clear();
        let timers = &mut self.timers;
        let mut bad = None;
        self.store
            .scan(&changelog::standing_prefix(None), &mut |key, value| {
                match stored_standing(key, value) {
                    Ok((user, standing)) => timers.insert(user, &standing),
                    Err(damage) => bad = Some(damage),
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

/// A standing request as the store holds it, and whose it is.
fn stored_standing<'a>(key: &'a [u8], value: &[u8]) -> Result<(&'a str, Standing), Damage> {
    let ChangelogKey::Standing { user, request } = ChangelogKey::read(key)? else {
        return Err(Damage::Key);
    };
    let take = format::open(STORE_VERSION, value)?;
    Ok((user, Standing::read(take, request)?))
}

/// Reads the open rows of a user whose root says that there are some.
fn fetch_labels(store: &dyn Store, user: &str) -> Result<Labels, Error> {
    let damaged = |damage| Error::Damaged {
        key: format!("open rows of user {user}"),
        damage,
    };
    let bytes = store
        .get(&changelog::labels_key(Some(user)))?
        .ok_or_else(|| damaged(Damage::Contradiction))?;
    format::open(STORE_VERSION, &bytes)
        .and_then(Labels::read)
        .map_err(damaged)
}

/// Reads what the store holds of a sequence that a root names.
fn fetch_sequence(store: &dyn Store, user: &str, sequence: &mut Sequence) -> Result<(), Error> {
    let id = sequence.id();
    let damaged = |damage| Error::Damaged {
        key: format!("sequence {:08x} of user {user}", id.0),
        damage,
    };
    let bytes = store
        .get(&changelog::sequence_key(user, id))?
        .ok_or_else(|| damaged(Damage::Contradiction))?;
    *sequence = format::open(STORE_VERSION, &bytes)
        .and_then(|take| Sequence::read(id, take))
        .map_err(damaged)?;
    Ok(())
}

pub(super) fn fetch_page(
    store: &dyn Store,
    user: &str,
    slot: SlotId,
    page: u32,
) -> Result<Page, Error> {
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
