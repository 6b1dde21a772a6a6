//! The group: who reads which partition.
//!
//! Before it, members come, poll, give back and go; after it stand the rebalances that their polls report. It is a function of
//! these calls and of the times that they bring along, nothing else.
//!
//! A partition has an *owner* and a *target*. They differ while it moves: the owner is asked (`revoked`) at its next poll, goes on
//! owning until it gives back, and only then the target's next poll makes it the owner (`assigned`). Targets are balanced and
//! sticky, and change when a seat comes or goes: a member that is merely away keeps its seat until the session timeout, and so
//! its return changes nobody's partitions.

use std::collections::BTreeMap;

use crate::log::Rebalance;

/// The name of a member's place in the group, unique for ever: who was expelled and came back sits on another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SeatId(u64);

/// All seats and places.
#[derive(Debug)]
pub(super) struct Group {
    seats: BTreeMap<String, Seat>,
    places: Vec<Place>,
    /// Counts seats and assignments.
    count: u64,
    /// Counts changes that a poll may have to report.
    version: u64,
    session_ms: i64,
    rebalance_ms: i64,
}

#[derive(Debug)]
struct Seat {
    id: SeatId,
    instance: String,
    seen: i64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    owner: Option<SeatId>,
    target: Option<SeatId>,
    /// When the owner was assigned it, in `count`.
    since: u64,
    /// When the owner was asked to give it back, Unix milliseconds.
    asked: Option<i64>,
}

/// What one handle of a member knows of its seat.
#[derive(Debug)]
pub(super) struct View {
    /// The seat.
    pub seat: SeatId,
    /// The newest assignment that was reported.
    pub token: u64,
    /// Partitions that were reported as assigned, and whether they were asked back.
    held: BTreeMap<i32, bool>,
    version: u64,
}

impl View {
    /// Whether this handle may read a partition.
    pub(super) fn holds(&self, partition: i32) -> bool {
        self.held.contains_key(&partition)
    }
}

impl Group {
    /// A group without members.
    pub(super) fn new(session_ms: i64, rebalance_ms: i64) -> Self {
        Self {
            seats: BTreeMap::new(),
            places: Vec::new(),
            count: 0,
            version: 0,
            session_ms,
            rebalance_ms,
        }
    }

    /// Sets how many partitions there are.
    pub(super) fn set_partitions(&mut self, count: usize) {
        self.places.resize(count, Place::default());
        self.balance();
    }

    /// Takes a member's seat, the one that it left if it is still kept.
    pub(super) fn join(&mut self, identity: &str, instance: &str, now: i64) -> View {
        self.expire(now);
        let next = SeatId(self.count + 1);
        let seat = self
            .seats
            .entry(identity.to_owned())
            .or_insert_with(|| Seat {
                id: next,
                instance: instance.to_owned(),
                seen: now,
            });
        seat.seen = now;
        let id = seat.id;
        if id == next {
            self.count += 1;
            self.balance();
        }
        self.version += 1;
        View {
            seat: id,
            token: self.count,
            held: BTreeMap::new(),
            version: 0,
        }
    }

    /// Takes a member's seat away: its partitions are free.
    pub(super) fn remove(&mut self, identity: &str) {
        if let Some(seat) = self.seats.remove(identity) {
            for place in self
                .places
                .iter_mut()
                .filter(|place| place.owner == Some(seat.id))
            {
                (place.owner, place.asked) = (None, None);
            }
            self.balance();
        }
    }

    /// Takes away all seats of an instance.
    pub(super) fn remove_instance(&mut self, instance: &str) {
        let gone: Vec<String> = self
            .seats
            .iter()
            .filter(|(_, seat)| seat.instance == instance)
            .map(|(identity, _)| identity.clone())
            .collect();
        for identity in gone {
            self.remove(&identity);
        }
    }

    /// Notes a sign of life, and says what changed for this handle since its last one.
    pub(super) fn poll(
        &mut self,
        identity: &str,
        instance: &str,
        view: &mut View,
        now: i64,
    ) -> Rebalance {
        self.expire(now);
        let mut changes = Rebalance::default();
        let Some(seat) = self
            .seats
            .get_mut(identity)
            .filter(|seat| seat.id == view.seat)
        else {
            // Expelled. What it held is reported lost now, what it gets on its new seat by a later poll: a driver need not tell
            // the partition that went from the same one that came back.
            changes.lost = view.held.keys().copied().collect();
            *view = self.join(identity, instance, now);
            return changes;
        };
        seat.seen = now;
        if view.version == self.version {
            return changes;
        }
        let me = Some(view.seat);
        let mut freed = false;
        for (partition, place) in (0..).zip(&mut self.places) {
            match (
                view.held.get(&partition),
                place.owner == me,
                place.target == me,
            ) {
                (Some(_), false, _) => {
                    changes.lost.push(partition);
                }
                // A former handle of this seat was asked for it, or would have been: this one has nothing to finish.
                (None, true, false) => {
                    (place.owner, place.asked) = (None, None);
                    freed = true;
                }
                (Some(false), true, false) => {
                    place.asked = Some(now);
                    changes.revoked.push(partition);
                }
                (None, true, true) => changes.assigned.push(partition),
                (None, false, true) if place.owner.is_none() => {
                    place.owner = me;
                    changes.assigned.push(partition);
                }
                _ => {}
            }
        }
        if !changes.is_empty() {
            self.count += 1;
            view.token = self.count;
        }
        for partition in &changes.assigned {
            let place = &mut self.places[*partition as usize];
            (place.since, place.asked) = (self.count, None);
            view.held.insert(*partition, false);
        }
        for partition in &changes.revoked {
            view.held.insert(*partition, true);
        }
        for partition in &changes.lost {
            view.held.remove(partition);
        }
        self.version += u64::from(freed);
        view.version = self.version;
        changes
    }

    /// Gives partitions back.
    pub(super) fn release(&mut self, view: &mut View, partitions: &[i32]) {
        for partition in partitions {
            let Some(place) = usize::try_from(*partition)
                .ok()
                .and_then(|index| self.places.get_mut(index))
            else {
                continue;
            };
            if view.held.remove(partition).is_some() && place.owner == Some(view.seat) {
                (place.owner, place.asked) = (None, None);
                self.version += 1;
            }
        }
    }

    /// Whether a position of this partition may be committed with this proof.
    pub(super) fn vouches(&self, view: &View, membership: u64, partition: i32) -> bool {
        let place = usize::try_from(partition)
            .ok()
            .and_then(|index| self.places.get(index));
        membership <= view.token
            && place
                .is_some_and(|place| place.owner == Some(view.seat) && place.since <= membership)
    }

    /// Counts changes.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Expels who has not been seen for the session timeout, or keeps others waiting for a partition too long.
    fn expire(&mut self, now: i64) {
        let late = |seat: &Seat| {
            let held_up = self.places.iter().any(|place| {
                place.owner == Some(seat.id)
                    && place
                        .asked
                        .is_some_and(|asked| now - asked > self.rebalance_ms)
            });
            held_up || now - seat.seen > self.session_ms
        };
        let gone: Vec<String> = self
            .seats
            .iter()
            .filter(|(_, seat)| late(seat))
            .map(|(identity, _)| identity.clone())
            .collect();
        for identity in gone {
            self.remove(&identity);
        }
    }

    /// Gives every partition a target: as even as can be, moving as few as can be, and the same whenever the history is.
    fn balance(&mut self) {
        self.version += 1;
        let mut claims: BTreeMap<SeatId, Vec<usize>> = self
            .seats
            .values()
            .map(|seat| (seat.id, Vec::new()))
            .collect();
        let mut free = Vec::new();
        for (index, place) in self.places.iter().enumerate() {
            let claim = [place.target, place.owner]
                .into_iter()
                .flatten()
                .find(|seat| claims.contains_key(seat));
            match claim.and_then(|seat| claims.get_mut(&seat)) {
                Some(claimed) => claimed.push(index),
                None => free.push(index),
            }
        }
        let Some(share) = self.places.len().checked_div(claims.len()) else {
            self.places.iter_mut().for_each(|place| place.target = None);
            return;
        };
        let mut larger = self.places.len() % claims.len();
        // Who claims most keeps the larger shares, so that fewest move.
        let mut order: Vec<(SeatId, Vec<usize>)> = claims.into_iter().collect();
        order.sort_by_key(|(seat, claimed)| (std::cmp::Reverse(claimed.len()), *seat));
        let mut wanting = Vec::new();
        for (seat, claimed) in order {
            let quota = share + usize::from(larger > 0);
            larger = larger.saturating_sub(1);
            let kept = claimed.len().min(quota);
            claimed[..kept]
                .iter()
                .for_each(|index| self.places[*index].target = Some(seat));
            free.extend_from_slice(&claimed[kept..]);
            wanting.extend(std::iter::repeat_n(seat, quota - kept));
        }
        free.sort_unstable();
        for (index, seat) in free.into_iter().zip(wanting) {
            self.places[index].target = Some(seat);
        }
    }
}

#[cfg(test)]
mod tests;
