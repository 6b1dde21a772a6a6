//! The records of a step by partition and topic, as indexes into the poll's batch. Before it stands the poll, after it the merge by time.
//!
//! What a step leaves stays in the batch. The next step sorts the same batch again, and takes what the positions have not passed.

use std::collections::BTreeMap;

use headwater_config::Topic;

use super::Owned;
use crate::log::RecordBatch;

/// The records of one partition in a step, by topic. Kept from step to step for its memory.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    pub(super) behaviors: Vec<u32>,
    pub(super) requests: Vec<u32>,
    pub(super) deltas: Vec<u32>,
    /// Whether records were left to the next step.
    pub(super) rest: bool,
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
            inputs.take(batch, (at.topic, offset), index as u32, owned);
        }
    }
}

impl Inputs {
    fn clear(&mut self) {
        self.behaviors.clear();
        self.requests.clear();
        self.deltas.clear();
        self.rest = false;
    }

    /// The topics that a step reads, and the records of each.
    pub(super) fn topics(&self) -> [(Topic, &[u32]); 3] {
        [
            (Topic::Behaviors, &self.behaviors),
            (Topic::ScoreRequests, &self.requests),
            (Topic::ItemDeltas, &self.deltas),
        ]
    }

    fn of(&mut self, topic: Topic) -> Option<&mut Vec<u32>> {
        match topic {
            Topic::Behaviors => Some(&mut self.behaviors),
            Topic::ScoreRequests => Some(&mut self.requests),
            Topic::ItemDeltas => Some(&mut self.deltas),
            Topic::Items
            | Topic::Scores
            | Topic::StandingScores
            | Topic::FeatureLog
            | Topic::Labels
            | Topic::Changelog
            | Topic::ItemState
            | Topic::Fleet
            | Topic::DeadLetters
            | Topic::Repartition
            | Topic::Texts
            | Topic::Embeddings
            | Topic::Models => None,
        }
    }

    fn take(
        &mut self,
        batch: &RecordBatch,
        (topic, offset): (Topic, i64),
        index: u32,
        owned: &Owned,
    ) {
        let Some(taken) = self.of(topic) else {
            return;
        };
        // A record counts once by its coordinates, whatever the log delivers twice.
        let expected = next(batch, taken).or_else(|| owned.users.position().input(topic));
        if expected.is_none_or(|expected| offset >= expected) {
            taken.push(index);
        }
    }

    /// Leaves the records of a topic from this offset on to the next step.
    pub(super) fn leave(&mut self, batch: &RecordBatch, topic: Topic, offset: i64) {
        if let Some(taken) = self.of(topic) {
            let before = taken.partition_point(|index| batch.place(*index as usize).1 < offset);
            let rest = taken.len() > before;
            taken.truncate(before);
            self.rest |= rest;
        }
    }
}

/// The offset after the last of these records.
pub(super) fn next(batch: &RecordBatch, records: &[u32]) -> Option<i64> {
    let last = records.last()?;
    Some(batch.place(*last as usize).1 + 1)
}
