//! Keys: of the store's values and of the changelog's records. A byte once given to a kind is never given to another.
//!
//! A key opens with its kind; a user's id follows with its length, so that no user's keys are a prefix of another's.

use crate::behavior::{SequenceId, SlotId};
use crate::error::Damage;
use crate::format::{Put, Take};

/// Kinds of keys, in the store and on the changelog.
mod kind {
    /// Store: a user's root.
    pub(super) const ROOT: u8 = 1;
    /// Store: a page of a user's history.
    pub(super) const PAGE: u8 = 2;
    /// Both: a standing request.
    pub(super) const STANDING: u8 = 3;
    /// Both: the position.
    pub(super) const POSITION: u8 = 4;
    /// Changelog: a recent behavior.
    pub(super) const RECENT: u8 = 5;
    /// Changelog: an entry of history.
    pub(super) const ENTRY: u8 = 6;
    /// Changelog: what else is known of a user.
    pub(super) const META: u8 = 7;
    /// Changelog: when a standing request is to be scored again.
    pub(super) const DUE: u8 = 8;
    /// Store: a sequence.
    pub(super) const SEQUENCE: u8 = 9;
    /// Changelog: where a sequence starts.
    pub(super) const SEQUENCE_START: u8 = 10;
    /// Changelog: an entry of a sequence.
    pub(super) const SEQUENCE_ENTRY: u8 = 11;
    /// Store: a user's open rows.
    pub(super) const LABELS: u8 = 12;
    /// Changelog: what is kept of a user for the sake of labels, in one place.
    pub(super) const LABEL: u8 = 13;
}

/// A changelog record's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangelogKey<'a> {
    /// Where the state stands. One a partition, written with each step.
    Position,
    /// A user's salt, counts and late events.
    Meta {
        /// The user.
        user: &'a str,
    },
    /// One of a user's recent behaviors.
    Recent {
        /// The user.
        user: &'a str,
        /// Its place.
        place: u16,
    },
    /// One entry of a user's history.
    Entry {
        /// The user.
        user: &'a str,
        /// The slot.
        slot: SlotId,
        /// The key.
        key: &'a str,
    },
    /// A standing request.
    Standing {
        /// The user.
        user: &'a str,
        /// The request's id.
        request: &'a str,
    },
    /// When a standing request is to be scored again: apart from the request, which may be long.
    Due {
        /// The user.
        user: &'a str,
        /// The request's id.
        request: &'a str,
    },
    /// Where a sequence starts, once something has left it.
    SequenceStart {
        /// The user.
        user: &'a str,
        /// The sequence.
        sequence: SequenceId,
    },
    /// One entry of a sequence.
    SequenceEntry {
        /// The user.
        user: &'a str,
        /// The sequence.
        sequence: SequenceId,
        /// Its place.
        place: u16,
    },
    /// A row, an impression or a positive that labels follow from.
    Label {
        /// The user.
        user: &'a str,
        /// Its place.
        place: u32,
    },
}

impl<'a> ChangelogKey<'a> {
    /// Its bytes, appended.
    pub fn write(&self, to: &mut Vec<u8>) {
        match *self {
            Self::Position => to.put_u8(kind::POSITION),
            Self::Meta { user } => {
                to.put_u8(kind::META);
                to.put_str(user);
            }
            Self::Recent { user, place } => {
                to.put_u8(kind::RECENT);
                to.put_str(user);
                to.put_u16(place);
            }
            Self::Entry { user, slot, key } => {
                to.put_u8(kind::ENTRY);
                to.put_str(user);
                to.put_u32(slot.0);
                to.put(key.as_bytes());
            }
            Self::Standing { user, request } => {
                to.put_u8(kind::STANDING);
                to.put_str(user);
                to.put(request.as_bytes());
            }
            Self::Due { user, request } => {
                to.put_u8(kind::DUE);
                to.put_str(user);
                to.put(request.as_bytes());
            }
            Self::SequenceStart { user, sequence } => {
                to.put_u8(kind::SEQUENCE_START);
                to.put_str(user);
                to.put_u32(sequence.0);
            }
            Self::SequenceEntry {
                user,
                sequence,
                place,
            } => {
                to.put_u8(kind::SEQUENCE_ENTRY);
                to.put_str(user);
                to.put_u32(sequence.0);
                to.put_u16(place);
            }
            Self::Label { user, place } => {
                to.put_u8(kind::LABEL);
                to.put_str(user);
                to.put_u32(place);
            }
        }
    }

    /// Reads a key.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Damage> {
        let mut take = Take(bytes);
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| Damage::Text);
        let (key, end) = match take.u8()? {
            kind::POSITION => (Self::Position, take.end()),
            kind::META => (Self::Meta { user: take.str()? }, take.end()),
            kind::RECENT => (
                Self::Recent {
                    user: take.str()?,
                    place: take.u16()?,
                },
                take.end(),
            ),
            kind::ENTRY => (
                Self::Entry {
                    user: take.str()?,
                    slot: SlotId(take.u32()?),
                    key: text(take.0)?,
                },
                Ok(()),
            ),
            kind::STANDING => (
                Self::Standing {
                    user: take.str()?,
                    request: text(take.0)?,
                },
                Ok(()),
            ),
            kind::DUE => (
                Self::Due {
                    user: take.str()?,
                    request: text(take.0)?,
                },
                Ok(()),
            ),
            kind::SEQUENCE_START => (
                Self::SequenceStart {
                    user: take.str()?,
                    sequence: SequenceId(take.u32()?),
                },
                take.end(),
            ),
            kind::SEQUENCE_ENTRY => (
                Self::SequenceEntry {
                    user: take.str()?,
                    sequence: SequenceId(take.u32()?),
                    place: take.u16()?,
                },
                take.end(),
            ),
            kind::LABEL => (
                Self::Label {
                    user: take.str()?,
                    place: take.u32()?,
                },
                take.end(),
            ),
            _ => return Err(Damage::Key),
        };
        end?;
        Ok(key)
    }
}

pub(crate) fn root_key(user: &str, to: &mut Vec<u8>) {
    to.clear();
    to.put_u8(kind::ROOT);
    to.put_str(user);
}

pub(crate) fn page_key(user: &str, slot: SlotId, page: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(user.len() + 11);
    key.put_u8(kind::PAGE);
    key.put_str(user);
    key.put(&slot.0.to_be_bytes());
    key.put(&page.to_be_bytes());
    key
}

pub(crate) fn sequence_key(user: &str, sequence: SequenceId) -> Vec<u8> {
    let mut key = Vec::with_capacity(user.len() + 7);
    key.put_u8(kind::SEQUENCE);
    key.put_str(user);
    key.put(&sequence.0.to_be_bytes());
    key
}

/// A user's open rows in the store; without a user, the prefix of all of them.
pub(crate) fn labels_key(user: Option<&str>) -> Vec<u8> {
    let mut key = vec![kind::LABELS];
    if let Some(user) = user {
        key.put_str(user);
    }
    key
}

pub(crate) fn standing_prefix(user: Option<&str>) -> Vec<u8> {
    let mut key = vec![kind::STANDING];
    if let Some(user) = user {
        key.put_str(user);
    }
    key
}

pub(crate) const POSITION_KEY: &[u8] = &[kind::POSITION];
pub(crate) const ROOT_PREFIX: &[u8] = &[kind::ROOT];

/// The user of a key that is a kind and a user: of a root, or of open rows.
pub(crate) fn user_of_root(key: &[u8]) -> Result<&str, Damage> {
    let mut take = Take(key);
    take.u8()?;
    take.str()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what is written is read, and nothing else. Method: each kind, and each of its prefixes.
    #[test]
    fn keys_come_back() {
        let keys = [
            ChangelogKey::Position,
            ChangelogKey::Meta { user: "u" },
            ChangelogKey::Recent {
                user: "ü",
                place: 300,
            },
            ChangelogKey::Entry {
                user: "",
                slot: SlotId(7),
                key: "i",
            },
            ChangelogKey::Standing {
                user: "u",
                request: "",
            },
            ChangelogKey::Due {
                user: "u",
                request: "r",
            },
            ChangelogKey::SequenceStart {
                user: "u",
                sequence: SequenceId(9),
            },
            ChangelogKey::SequenceEntry {
                user: "u",
                sequence: SequenceId(9),
                place: 511,
            },
            ChangelogKey::Label {
                user: "u",
                place: 70_000,
            },
        ];
        for key in keys {
            let mut bytes = Vec::new();
            key.write(&mut bytes);
            assert_eq!(ChangelogKey::read(&bytes), Ok(key));
            assert_ne!(ChangelogKey::read(&bytes[..bytes.len() - 1]), Ok(key));
        }
        assert_eq!(ChangelogKey::read(&[99]), Err(Damage::Key));
    }
}
