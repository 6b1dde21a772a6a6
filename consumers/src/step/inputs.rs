//! The records of a step by partition and topic, as indexes into the poll's batch. Before it stands the poll, after it the merge by time.

use std::collections::BTreeMap;

use headwater_config::Topic;

use super::Owned;
use crate::log::RecordBatch;

/// The records of one partition in a step, by topic, and where each topic then stands. Kept from step to step for its memory.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    pub(super) behaviors: Vec<u32>,
    pub(super) requests: Vec<u32>,
    pub(super) deltas: Vec<u32>,
    pub(super) next: Vec<(Topic, i64)>,
    pub(super) polled: Vec<(Topic, u64)>,
}

/// Sorts a batch by the partitions that are owned; records of others are passed over: they are not ours.
pub(super) fn sort(
    batch: &RecordBatch,
    owned: &BTreeMap<i32, Owned>,
    into: &mut BTreeMap<i32, Inputs>,
) {
    into.retain(|number, _| owned.contains_key(number));
    into.values_mut().for_each(Inputs::clear);
    for number in owned.keys() {
        into.entry(*number).or_default();
    }
    for index in 0..batch.len() {
        let (at, offset) = batch.place(index);
        if let (Some(inputs), Some(owned)) = (into.get_mut(&at.partition), owned.get(&at.partition))
        {
            inputs.take(at.topic, offset, index as u32, owned);
        }
    }
}

impl Inputs {
    fn clear(&mut self) {
        self.behaviors.clear();
        self.requests.clear();
        self.deltas.clear();
        self.next.clear();
        self.polled.clear();
    }

    fn take(&mut self, topic: Topic, offset: i64, index: u32, owned: &Owned) {
        // A record counts once by its coordinates, whatever the log delivers twice.
        let expected = self
            .next
            .iter()
            .find(|(other, _)| *other == topic)
            .map(|(_, next)| *next)
            .or_else(|| owned.users.position().input(topic));
        if expected.is_some_and(|expected| offset < expected) {
            return;
        }
        match topic {
            Topic::Behaviors => self.behaviors.push(index),
            Topic::ScoreRequests => self.requests.push(index),
            Topic::ItemDeltas => self.deltas.push(index),
            Topic::Items
            | Topic::Scores
            | Topic::StandingScores
            | Topic::FeatureLog
            | Topic::Changelog
            | Topic::ItemState
            | Topic::Fleet
            | Topic::DeadLetters
            | Topic::Repartition => return,
        }
        match self.next.iter_mut().find(|(other, _)| *other == topic) {
            Some((_, next)) => *next = offset + 1,
            None => self.next.push((topic, offset + 1)),
        }
        match self.polled.iter_mut().find(|(other, _)| *other == topic) {
            Some((_, count)) => *count += 1,
            None => self.polled.push((topic, 1)),
        }
    }
}
