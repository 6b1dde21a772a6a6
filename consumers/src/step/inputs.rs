//! The records of one partition in a step, by topic. Before it stands the poll's batch, after it the merge by time.

use headwater_config::Topic;

use super::Owned;
use crate::log::{Record, RecordBatch};

/// The records of one partition in a step, by topic, and where each topic then stands.
pub(super) struct Inputs<'a> {
    pub(super) behaviors: Vec<Record<'a>>,
    pub(super) requests: Vec<Record<'a>>,
    pub(super) deltas: Vec<Record<'a>>,
    pub(super) next: Vec<(Topic, i64)>,
    pub(super) polled: Vec<(Topic, u64)>,
}

impl<'a> Inputs<'a> {
    pub(super) fn new(batch: &'a RecordBatch, indexes: &[usize], owned: &Owned) -> Self {
        let mut inputs = Self {
            behaviors: Vec::new(),
            requests: Vec::new(),
            deltas: Vec::new(),
            next: Vec::new(),
            polled: Vec::new(),
        };
        for &index in indexes {
            let record = batch.get(index);
            let topic = record.at.topic;
            // A record counts once by its coordinates, whatever the log delivers twice.
            let expected = inputs
                .next
                .iter()
                .find(|(other, _)| *other == topic)
                .map(|(_, next)| *next)
                .or_else(|| owned.users.position().input(topic));
            if expected.is_some_and(|expected| record.offset < expected) {
                continue;
            }
            match topic {
                Topic::Behaviors => inputs.behaviors.push(record),
                Topic::ScoreRequests => inputs.requests.push(record),
                Topic::ItemDeltas => inputs.deltas.push(record),
                Topic::Items
                | Topic::Scores
                | Topic::StandingScores
                | Topic::FeatureLog
                | Topic::Changelog
                | Topic::ItemState
                | Topic::Fleet
                | Topic::DeadLetters
                | Topic::Repartition => continue,
            }
            match inputs.next.iter_mut().find(|(other, _)| *other == topic) {
                Some((_, next)) => *next = record.offset + 1,
                None => inputs.next.push((topic, record.offset + 1)),
            }
            match inputs.polled.iter_mut().find(|(other, _)| *other == topic) {
                Some((_, count)) => *count += 1,
                None => inputs.polled.push((topic, 1)),
            }
        }
        inputs
    }
}
