//! What a step changes, as changelog records. Each is written when its user is at hand, not at the end of the step: by then thousands
//! of others have been there, and fetching it into the processor's caches again costs more than writing it.

use super::{CHANGELOG_VERSION, ChangelogKey, Partition, Put, Touched, User};

/// Changelog records in one buffer, in their order.
#[derive(Debug, Default)]
pub(super) struct Changes {
    bytes: Vec<u8>,
    /// Where each record's key ends, where its value ends, and whether it has one.
    records: Vec<(usize, usize, bool)>,
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.records.clear();
    }

    /// Adds a record; `value` says whether there is one (without it the record deletes its key).
    fn push(&mut self, key: &ChangelogKey<'_>, value: impl FnOnce(&mut Vec<u8>) -> bool) {
        key.write(&mut self.bytes);
        let key_end = self.bytes.len();
        self.bytes.put_u8(CHANGELOG_VERSION);
        let found = value(&mut self.bytes);
        if !found {
            self.bytes.truncate(key_end);
        }
        self.records.push((key_end, self.bytes.len(), found));
    }

    fn push_user(&mut self, id: &str, user: &User, touched: &Touched) {
        let put = |packed: Option<&[u8]>, to: &mut Vec<u8>| {
            if let Some(packed) = packed {
                to.put(packed);
            }
            packed.is_some()
        };
        match touched {
            Touched::Meta => self.push(&ChangelogKey::Meta { user: id }, |to| {
                user.write_meta(to);
                true
            }),
            Touched::Recent(place) => {
                let key = ChangelogKey::Recent {
                    user: id,
                    place: *place,
                };
                self.push(&key, |to| put(user.recent.packed_in(*place), to));
            }
            Touched::Entry(slot, hash, entry) => {
                let key = ChangelogKey::Entry {
                    user: id,
                    slot: *slot,
                    key: entry,
                };
                let slot = user.slots.iter().find(|candidate| candidate.id == *slot);
                let page = slot.and_then(|slot| {
                    let page = crate::page::page_of(*hash, slot.pages.len() as u32);
                    slot.pages[page as usize].as_ref()
                });
                let packed = page.and_then(|page| page.packed_of(*hash, entry));
                self.push(&key, |to| put(packed, to));
            }
            Touched::Standing(request) => {
                let standing = user.standing_of(request);
                self.push(&ChangelogKey::Standing { user: id, request }, |to| {
                    standing.inspect(|standing| standing.write(to)).is_some()
                });
            }
            Touched::SequenceStart(sequence) => {
                let key = ChangelogKey::SequenceStart {
                    user: id,
                    sequence: *sequence,
                };
                let sequence = user.sequence(*sequence);
                self.push(&key, |to| {
                    sequence.is_some_and(|sequence| sequence.write_start(to))
                });
            }
            Touched::SequenceEntry(sequence, place) => {
                let key = ChangelogKey::SequenceEntry {
                    user: id,
                    sequence: *sequence,
                    place: *place,
                };
                let entry = user
                    .sequence(*sequence)
                    .and_then(|held| held.entry_in(*place));
                self.push(&key, |to| entry.inspect(|entry| entry.write(to)).is_some());
            }
            Touched::Label(place) => {
                let key = ChangelogKey::Label {
                    user: id,
                    place: *place,
                };
                self.push(&key, |to| user.labels.write_place(*place, to));
            }
            Touched::Due(request) => {
                let due = user.standing_of(request).and_then(|standing| standing.due);
                self.push(&ChangelogKey::Due { user: id, request }, |to| {
                    due.inspect(|due| to.put_i64(due.0)).is_some()
                });
            }
        }
    }
}

impl Partition {
    /// Writes down what the call under way has touched of a user, who differs from the store from now on.
    pub(super) fn note(&mut self, place: u32) {
        let resident = self.residents[place as usize]
            .as_ref()
            .expect("invariant: touched users stay");
        for touched in self.touched.drain(..) {
            self.changes
                .push_user(&resident.id, &resident.user, &touched);
        }
        self.mark_dirty(place);
    }

    /// Bytes of the changelog records that [`Partition::changes`] is to give.
    pub fn changes_bytes(&self) -> usize {
        self.changes.bytes()
    }

    /// The changelog records of the step: key and value, `None` deletes. The position comes last. Gives their number.
    pub fn changes(&mut self, emit: &mut dyn FnMut(&[u8], Option<&[u8]>)) -> usize {
        if std::mem::take(&mut self.position_touched) || !self.changes.is_empty() {
            let position = &self.position;
            self.changes.push(&ChangelogKey::Position, |to| {
                position.write(to);
                true
            });
        }
        let mut start = 0;
        for (key_end, end, found) in &self.changes.records {
            let value = &self.changes.bytes[*key_end..*end];
            emit(&self.changes.bytes[start..*key_end], found.then_some(value));
            start = *end;
        }
        let count = self.changes.records.len();
        if count > 0 {
            self.uncommitted += 1;
            self.since_write_back += count as u64;
        }
        self.changes.clear();
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
}
