//! Restoring: the changelog's records, applied to users in memory.

use super::{
    CHANGELOG_VERSION, ChangelogKey, Error, Partition, Standing, Timestamp, User, fetch_page,
    format,
};
use crate::sequence::{SequenceEntry, SequenceStart};

impl Partition {
    /// Applies a changelog record: the state is then as it was when the record was written.
    pub fn apply(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), Error> {
        let damaged = |damage| Error::Changelog {
            key: format!("{}", key.escape_ascii()),
            damage,
        };
        let parsed = ChangelogKey::read(key).map_err(damaged)?;
        let value = value
            .map(|value| format::versioned(CHANGELOG_VERSION, value).map(|take| take.0))
            .transpose()
            .map_err(damaged)?;
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
            | ChangelogKey::Due { user, .. }
            | ChangelogKey::SequenceStart { user, .. }
            | ChangelogKey::SequenceEntry { user, .. }
            | ChangelogKey::Label { user, .. } => user,
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
                    .map(|value| Standing::read(format::Take(value), request))
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
            ChangelogKey::SequenceStart { sequence, .. } => {
                let start = value
                    .map(|value| SequenceStart::read(format::Take(value)))
                    .transpose()
                    .map_err(damaged)?;
                resident.user.sequence_mut(sequence).apply_start(start);
            }
            ChangelogKey::SequenceEntry {
                sequence, place, ..
            } => {
                let entry = value
                    .map(|value| SequenceEntry::read(format::Take(value)))
                    .transpose()
                    .map_err(damaged)?;
                let sequence = resident.user.sequence_mut(sequence);
                sequence.apply_entry(place, entry).map_err(damaged)?;
            }
            ChangelogKey::Label { place: at, .. } => {
                let take = value.map(format::Take);
                let row = resident.user.labels.apply(at, take).map_err(damaged)?;
                resident.user.labels_dirty = true;
                if let Some(row) = row {
                    self.expect_labels(place, row);
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
}
