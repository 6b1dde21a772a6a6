//! When standing requests are to be scored again, or end: of all users of a partition, in memory or not. Before it stands what puts and ends
//! them, and the store at the start; after it a step asks what is due.

use std::collections::BTreeSet;

use super::{Standing, Timestamp};

/// Bytes of a timer beside its texts: its place in the set and what the allocator adds.
const PLACE_BYTES: usize = 104;

/// Timers in order of their times: (time, user, request).
#[derive(Debug, Default)]
pub(super) struct Timers {
    set: BTreeSet<(Timestamp, Box<str>, Box<str>)>,
    bytes: usize,
}

fn timer(user: &str, standing: &Standing) -> (Timestamp, Box<str>, Box<str>) {
    let at = standing
        .due
        .map_or(standing.expires, |due| due.min(standing.expires));
    (at, user.into(), standing.request.as_str().into())
}

impl Timers {
    pub(super) fn insert(&mut self, user: &str, standing: &Standing) {
        if self.set.insert(timer(user, standing)) {
            self.bytes += PLACE_BYTES + user.len() + standing.request.len();
        }
    }

    pub(super) fn remove(&mut self, user: &str, standing: &Standing) {
        if self.set.remove(&timer(user, standing)) {
            self.bytes -= PLACE_BYTES + user.len() + standing.request.len();
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn due(&self, now: Timestamp) -> impl Iterator<Item = (Timestamp, &str, &str)> {
        self.set
            .iter()
            .take_while(move |(at, ..)| *at <= now)
            .map(|(at, user, request)| (*at, &**user, &**request))
    }

    /// Bytes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
