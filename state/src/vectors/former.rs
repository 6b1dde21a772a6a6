//! Encoders that are not in use any more, by what the topic says: when each had its newest vector, and since when the current one is that.
//!
//! One that is just being made ready has new vectors, and one that was in use until lately was replaced lately: neither is taken for unused.

use std::collections::BTreeMap;

use crate::behavior::Timestamp;
use crate::error::{Damage, StoreError};
use crate::store::{Batch, Store};

use super::{EncoderId, sealed, unsealed};

/// Of the store alone: the newest vector of an encoder.
const NEWEST: u8 = b'n';
/// Of the store alone: since when the current encoder is that.
const SINCE: u8 = b's';

/// When encoders had their newest vectors, and when one became the current.
#[derive(Debug, Default)]
pub(super) struct Former {
    since: Option<Timestamp>,
    newest: BTreeMap<EncoderId, Timestamp>,
}

fn newest_key(encoder: EncoderId) -> Vec<u8> {
    [&[NEWEST][..], &encoder.0].concat()
}

fn time_bytes(time: Timestamp) -> Vec<u8> {
    sealed(time.0.to_le_bytes().to_vec())
}

fn read_time(bytes: &[u8]) -> Result<Timestamp, Damage> {
    let bytes = unsealed(bytes)?.try_into().map_err(|_| Damage::Short)?;
    Ok(Timestamp(i64::from_le_bytes(bytes)))
}

impl Former {
    /// What a store says of them.
    pub(super) fn of(store: &dyn Store) -> Result<Result<Self, Damage>, StoreError> {
        let mut former = Self::default();
        let mut damage = None;
        if let Some(bytes) = store.get(&[SINCE])? {
            match read_time(&bytes) {
                Ok(since) => former.since = Some(since),
                Err(found) => damage = Some(found),
            }
        }
        store.scan(&[NEWEST], &mut |key, value| {
            let encoder = key[1..].try_into().map_err(|_| Damage::Key);
            let read = encoder.and_then(|encoder| Ok((EncoderId(encoder), read_time(value)?)));
            match read {
                Ok((encoder, time)) => drop(former.newest.insert(encoder, time)),
                Err(found) => damage = Some(found),
            }
            damage.is_none()
        })?;
        Ok(damage.map_or(Ok(former), Err))
    }

    /// An encoder became the current one.
    pub(super) fn announced(&mut self, time: Timestamp, batch: &mut Batch) {
        self.since = Some(time);
        batch.push((vec![SINCE], Some(time_bytes(time))));
    }

    /// An encoder had a vector.
    pub(super) fn made(&mut self, encoder: EncoderId, time: Timestamp, batch: &mut Batch) {
        let newest = self.newest.entry(encoder).or_insert(Timestamp::MIN);
        // To the minute: not every vector is worth a record more.
        if time.since(*newest) >= 60_000 {
            *newest = time;
            batch.push((newest_key(encoder), Some(time_bytes(time))));
        }
    }

    /// An encoder has no vectors any more.
    pub(super) fn gone(&mut self, encoder: EncoderId, batch: &mut Batch) {
        if self.newest.remove(&encoder).is_some() {
            batch.push((newest_key(encoder), None));
        }
    }

    /// Encoders other than the current one that were neither in use nor made ready at or after a time.
    pub(super) fn unused_since(&self, current: EncoderId, time: Timestamp) -> Vec<EncoderId> {
        if self.since.is_none_or(|since| since >= time) {
            return Vec::new();
        }
        let others = self
            .newest
            .iter()
            .filter(|(encoder, _)| **encoder != current);
        let unused = others.filter(|(_, newest)| **newest < time);
        unused.map(|(encoder, _)| *encoder).collect()
    }
}
