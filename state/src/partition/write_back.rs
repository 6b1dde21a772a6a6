//! Write-backs: dirty users go to the store, and behind them the position that they reflect.
//!
//! They may go in parts, a few users each, so that neither the worker nor the store's readers wait for all of them. A user whole is in one
//! part, and the position comes with the last one, as it was when the first was begun: after a crash in between, the store holds users that are ahead
//! of its position. That is right, because a changelog record holds what a key *is*, not what was added to it: the records behind the position
//! end in the same state whatever was there (`STATE-1`).

use super::{
    Arc, Batch, ChangelogKey, Error, Partition, Put, STORE_VERSION, Store, Timestamp, User,
    changelog, format,
};

/// A write-back that goes in parts.
pub(super) struct Begun {
    /// Users that were dirty when it began and are not written yet.
    pub(super) users: Vec<u32>,
    /// The position of that time.
    position: Vec<u8>,
    /// Changelog records that the store then lacked.
    records: u64,
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

impl Partition {
    /// Whether dirty users should go to the store: because there are many, or because many records would have to be replayed.
    pub fn wants_write_back(&self, records_max: u64) -> bool {
        !self.writing
            && (self.dirty_weight > self.settings.memory / 2
                || self.since_write_back >= records_max)
    }

    /// Whether anything would be written back.
    pub fn is_dirty(&self) -> bool {
        self.begun.is_some() || !self.dirty.is_empty() || self.since_write_back > 0
    }

    /// Whether a write-back is on its way.
    pub fn is_writing(&self) -> bool {
        self.writing
    }

    /// Whether a write-back was begun and lacks further parts.
    pub fn is_written_in_part(&self) -> bool {
        self.begun.is_some()
    }

    /// All dirty users and the position, to be written in one batch. Only when nothing is uncommitted, and one at a time.
    pub fn write_back(&mut self, now: Timestamp) -> WriteBack {
        let mut users = self.begun.take().map_or(Vec::new(), |begun| begun.users);
        users.append(&mut self.dirty);
        let position = self.sealed_position(now);
        self.since_write_back = 0;
        self.write(users, Some(position))
    }

    /// A part of them, `users_max` at most: of a write-back that was begun, or of one that begins. The position, as it is now, goes with the last
    /// part. The same conditions hold for each part.
    pub fn write_back_part(&mut self, now: Timestamp, users_max: usize) -> WriteBack {
        let mut begun = self.begun.take().unwrap_or_else(|| Begun {
            users: std::mem::take(&mut self.dirty),
            position: self.sealed_position(now),
            records: self.since_write_back,
        });
        if begun.users.len() <= users_max {
            self.since_write_back -= begun.records;
            return self.write(begun.users, Some(begun.position));
        }
        let part = begun.users.split_off(begun.users.len() - users_max);
        self.begun = Some(begun);
        self.write(part, None)
    }

    fn write(&mut self, users: Vec<u32>, position: Option<Vec<u8>>) -> WriteBack {
        assert!(
            self.uncommitted == 0 && self.changes.is_empty(),
            "invariant: only what is committed goes to the store"
        );
        assert!(!self.writing, "invariant: one write-back at a time");
        self.writing = true;
        let mut batch: Batch = Vec::with_capacity(users.len() + 1);
        for &place in &users {
            let resident = self.residents[place as usize]
                .as_mut()
                .expect("invariant: dirty users stay");
            resident.dirty = false;
            resident.writing = true;
            write_user(&resident.id, &mut resident.user, &mut batch);
            self.dirty_weight -= resident.weight;
            let weight = resident.user.bytes() + resident.id.len();
            self.weight = self.weight + weight - resident.weight;
            resident.weight = weight;
        }
        batch.extend(position.map(|position| (changelog::POSITION_KEY.to_vec(), Some(position))));
        WriteBack {
            store: Arc::clone(&self.store),
            batch,
            users,
        }
    }

    fn sealed_position(&self, now: Timestamp) -> Vec<u8> {
        format::seal(STORE_VERSION, |to| {
            to.put_i64(now.0);
            to.put_i64(self.position.changelog);
            self.position.write(to);
        })
    }

    /// What became of the write-back. After a failed one the store is made anew, changes are discarded, or the daemon stops: in each case users come from
    /// the changelog again, so those that did not reach the store must not pass for what lies there.
    pub fn written(&mut self, written: Written) -> Result<(), Error> {
        self.writing = false;
        for place in written.users {
            let resident = self.residents[place as usize]
                .as_mut()
                .expect("invariant: users being written stay");
            resident.writing = false;
            if written.result.is_err() {
                self.mark_dirty(place);
            }
        }
        Ok(written.result?)
    }
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
    for sequence in &mut user.sequences {
        if std::mem::take(&mut sequence.dirty) {
            let value = format::seal(STORE_VERSION, |to| sequence.write(to));
            batch.push((changelog::sequence_key(id, sequence.id()), Some(value)));
        }
    }
    if std::mem::take(&mut user.labels_dirty) {
        let labels = &user.labels;
        let value =
            (!labels.is_empty()).then(|| format::seal(STORE_VERSION, |to| labels.write(to)));
        batch.push((changelog::labels_key(Some(id)), value));
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
