//! What a partition holds, and what it must hold: counted one by one, as nobody would who has many users.

use super::*;
use crate::sequence::SequenceEntry;

/// A behavior that a partition took in.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub(super) user: u8,
    pub(super) kind: u8,
    pub(super) sequences: Vec<SequenceId>,
    pub(super) entry: Option<SequenceEntry>,
}

/// Behaviors by user and kind, and the run of each user's sequences with the number of its first entry.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Naive {
    counts: BTreeMap<(u8, u8), u64>,
    runs: BTreeMap<(u8, SequenceId), (u64, Vec<SequenceEntry>)>,
}

impl Naive {
    pub(super) fn count(&mut self, taken: &Taken) {
        *self.counts.entry((taken.user, taken.kind)).or_insert(0) += 1;
        let Some(entry) = taken.entry else { return };
        let order = |entry: &SequenceEntry| (entry.time, entry.at);
        for id in &taken.sequences {
            let (start, run) = self.runs.entry((taken.user, *id)).or_default();
            if *start > 0 && order(&entry) < order(&run[0]) {
                continue;
            }
            run.push(entry);
            run.sort_by_key(order);
            if run.len() == SETTINGS.sequence_max {
                run.drain(..SETTINGS.sequence_max / 2);
                *start += SETTINGS.sequence_max as u64 / 2;
            }
        }
    }

    /// What a store holds.
    pub(super) fn of(stores: &MemoryStores, settings: Settings) -> Self {
        let mut partition = Partition::open(stores.open(0).unwrap(), settings).unwrap();
        let mut found = Self::default();
        for id in partition.user_ids().unwrap() {
            let user = partition.whole_user(&id).unwrap().unwrap();
            let number: u8 = id.trim_start_matches("user-").parse().unwrap();
            let recent = user.recent().iter().map(|behavior| (behavior.kind, 1));
            let history = user.history(SlotId::ITEM).flat_map(|entry| {
                entry
                    .cells()
                    .map(|cell| (crate::of_series(cell.series).1, u64::from(cell.count)))
            });
            for (kind, count) in recent.chain(history) {
                *found.counts.entry((number, kind.0 as u8)).or_insert(0) += count;
            }
            for sequence in user.sequences() {
                let run = (sequence.start(), sequence.entries().to_vec());
                found.runs.insert((number, sequence.id()), run);
            }
        }
        found
    }

    /// Runs that have begun anew.
    pub(super) fn restarted(&self) -> usize {
        self.runs.values().filter(|(start, _)| *start > 0).count()
    }
}
