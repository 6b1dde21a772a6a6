//! Restoring: making partitions what the log says they are, beside those that work.
//!
//! For each partition: the group's stable committed positions first, then the end of its changelog and of its item state, then all records
//! between what the store reflects and those ends. Then reading begins at the position that the changelog carries; the group's must not be beyond
//! it, for then the state would lack what lies between. The store tells how far it has come, so only the difference is read.
//!
//! The ends are those of all records, stable or not, and are waited for. The brokers mark a committed transaction in one partition after
//! the other, so the group's positions may tell of one that the changelog's readers, or only those of the item state, do not see yet.

use std::collections::BTreeMap;
use std::time::Duration;

use headwater_config::Topic;

use crate::error::Error;
use crate::log::{Log, LogError, Member, PollLimit, Reader, RecordBatch, Start, TopicPartition};
use crate::metrics::Metrics;
use crate::step::Owned;
use headwater_state::Timestamp;

/// Records applied in one turn: what works beside a restore waits for about this long.
const RECORDS_A_TURN: usize = 20_000;

/// The topics whose partition is read with that of the behaviors.
const INPUTS: [Topic; 3] = [Topic::Behaviors, Topic::ScoreRequests, Topic::ItemDeltas];

/// Partitions that are being restored.
pub(crate) struct Restorer {
    reader: Box<dyn Reader>,
    batch: RecordBatch,
    waiting: BTreeMap<i32, Restoring>,
}

impl std::fmt::Debug for Restorer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Restorer")
            .field("waiting", &self.waiting.keys())
            .finish_non_exhaustive()
    }
}

struct Restoring {
    owned: Owned,
    /// Where changelog and item state end, once they are known; reading has begun then.
    ends: Option<[i64; 2]>,
    /// How far both have been applied.
    at: [i64; 2],
    committed: Vec<Option<i64>>,
}

const FOLLOWED: [Topic; 2] = [Topic::Changelog, Topic::ItemState];

impl Restorer {
    pub(crate) fn new(reader: Box<dyn Reader>) -> Self {
        Self {
            reader,
            batch: RecordBatch::default(),
            waiting: BTreeMap::new(),
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many records each partition still lacks.
    pub(crate) fn remaining(&self) -> Vec<(i32, i64)> {
        self.waiting
            .iter()
            .map(|(number, waiting)| {
                let lacking = waiting.ends.map_or(0, |ends| {
                    (0..2)
                        .map(|which| (ends[which] - waiting.at[which]).max(0))
                        .sum()
                });
                (*number, lacking)
            })
            .collect()
    }

    pub(crate) fn add(&mut self, owned: Owned) {
        let at = [owned.users.position().changelog, owned.statistics.position];
        self.waiting.insert(
            owned.number,
            Restoring {
                owned,
                ends: None,
                at,
                committed: Vec::new(),
            },
        );
    }

    /// Forgets a partition that is no longer ours.
    pub(crate) fn cancel(&mut self, number: i32) -> Result<(), LogError> {
        if self
            .waiting
            .remove(&number)
            .is_some_and(|waiting| waiting.ends.is_some())
        {
            self.unassign(number)?;
        }
        Ok(())
    }

    /// After a failure: ends and positions are to be asked again.
    pub(crate) fn begin_again(&mut self) {
        for waiting in self.waiting.values_mut() {
            waiting.ends = None;
        }
    }

    /// Applies some records; gives the partitions that are done, reading already, if they may join.
    pub(crate) fn advance(
        &mut self,
        log: &dyn Log,
        member: &mut dyn Member,
        now: Timestamp,
        joins: bool,
        metrics: &Metrics,
    ) -> Result<Vec<Owned>, Error> {
        for (number, waiting) in &mut self.waiting {
            if waiting.ends.is_none() {
                let of = INPUTS.map(|topic| TopicPartition::new(topic, *number));
                waiting.committed = member.committed(&of)?;
                let mut ends = [0; 2];
                for (which, topic) in FOLLOWED.into_iter().enumerate() {
                    let at = TopicPartition::new(topic, *number);
                    let written = log.written(at)?;
                    ends[which] = written.next;
                    if waiting.at[which] > written.next {
                        let name = format!("{topic} partition {number}");
                        let reason = format!(
                            "ends at {}, and the local copy reflects it up to {}: it was made anew. What it held is in the local copies alone: restore the topic; or, if that may be lost, remove the store's folder in `state.path`",
                            written.next, waiting.at[which]
                        );
                        return Err(Error::Topic { name, reason });
                    }
                    let start = if waiting.at[which] < written.first {
                        Start::Beginning
                    } else {
                        Start::At(waiting.at[which])
                    };
                    if ends[which] > waiting.at[which] {
                        self.reader.assign(at, start)?;
                    }
                }
                waiting.ends = Some(ends);
            }
        }
        if self.remaining().iter().any(|(_, lacking)| *lacking > 0) {
            let limit = PollLimit {
                records: RECORDS_A_TURN,
                bytes: 16 << 20,
                wait: Duration::from_millis(20),
            };
            self.reader.poll(limit, &mut self.batch)?;
            self.apply()?;
            self.write_back(now)?;
        }
        for (number, lacking) in self.remaining() {
            metrics
                .restore_remaining
                .with_label_values(&[&number.to_string()])
                .set(lacking);
        }
        let done: Vec<i32> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| {
                joins
                    && waiting
                        .ends
                        .is_some_and(|ends| waiting.at[0] >= ends[0] && waiting.at[1] >= ends[1])
            })
            .map(|(number, _)| *number)
            .collect();
        let mut ready = Vec::new();
        for number in done {
            match self.finish(number, log, member, metrics) {
                Ok(owned) => ready.push(owned),
                Err(error) => {
                    // Those are still ours: to be asked again after the recovery.
                    ready.into_iter().for_each(|owned| self.add(owned));
                    return Err(error);
                }
            }
        }
        Ok(ready)
    }

    /// Begins reading a partition to which everything has been applied.
    fn finish(
        &mut self,
        number: i32,
        log: &dyn Log,
        member: &mut dyn Member,
        metrics: &Metrics,
    ) -> Result<Owned, Error> {
        self.unassign(number)?;
        let waiting = self
            .waiting
            .get_mut(&number)
            .expect("invariant: found just now");
        waiting.owned.users.restored_to(waiting.at[0]);
        waiting.owned.statistics.position = waiting.at[1];
        start(waiting, log, member, metrics)?;
        let waiting = self
            .waiting
            .remove(&number)
            .expect("invariant: found just now");
        Ok(waiting.owned)
    }

    fn apply(&mut self) -> Result<(), Error> {
        for record in self.batch.iter() {
            let number = record.at.partition;
            let Some(waiting) = self.waiting.get_mut(&number) else {
                continue;
            };
            let Some(which) = FOLLOWED.iter().position(|topic| *topic == record.at.topic) else {
                continue;
            };
            if record.offset < waiting.at[which] {
                continue;
            }
            let key = record.key.unwrap_or_default();
            if which == 0 {
                let applied = waiting.owned.users.apply(key, record.value);
                applied.map_err(|source| match source {
                    headwater_state::Error::Changelog { key, damage } => Error::Internal {
                        at: record.at,
                        offset: record.offset,
                        reason: format!("record of key {key} is damaged: {damage}"),
                    },
                    source => Error::State {
                        partition: number,
                        source,
                    },
                })?;
            } else {
                waiting
                    .owned
                    .statistics
                    .apply(key, record.value)
                    .map_err(|damage| Error::Internal {
                        at: record.at,
                        offset: record.offset,
                        reason: format!(
                            "record of key {} is damaged: {damage}",
                            key.escape_ascii()
                        ),
                    })?;
            }
            waiting.at[which] = record.offset + 1;
        }
        for (of, position) in self.batch.ends() {
            let Some(waiting) = self.waiting.get_mut(&of.partition) else {
                continue;
            };
            if let Some(which) = FOLLOWED.iter().position(|topic| *topic == of.topic) {
                waiting.at[which] = waiting.at[which].max(*position);
            }
        }
        Ok(())
    }

    /// A long restore is written back on its way, so that memory stays bounded and a crash does not begin it again.
    fn write_back(&mut self, now: Timestamp) -> Result<(), Error> {
        for (number, waiting) in &mut self.waiting {
            let users = &mut waiting.owned.users;
            if users.wants_write_back(u64::MAX) {
                users.restored_to(waiting.at[0]);
                let written = users.write_back(now).run();
                users.written(written).map_err(|source| Error::State {
                    partition: *number,
                    source,
                })?;
            }
            users.evict();
        }
        Ok(())
    }

    fn unassign(&mut self, number: i32) -> Result<(), LogError> {
        for topic in FOLLOWED {
            self.reader.unassign(TopicPartition::new(topic, number))?;
        }
        Ok(())
    }
}

/// Begins reading a restored partition's inputs where the changelog says.
fn start(
    waiting: &mut Restoring,
    log: &dyn Log,
    member: &mut dyn Member,
    metrics: &Metrics,
) -> Result<(), Error> {
    let number = waiting.owned.number;
    let mut at = Vec::new();
    for (place, topic) in INPUTS.into_iter().enumerate() {
        let of = TopicPartition::new(topic, number);
        let ours = waiting.owned.users.position().input(topic);
        let group = waiting.committed.get(place).copied().flatten();
        let position = match (ours, group) {
            (Some(position), None) if others_are_held(waiting, topic, log, member)? => {
                return Err(Error::Forgotten { at: of, position });
            }
            // Expired offsets of the group never fall back to a reset: the changelog's position rules.
            (Some(ours), None) => Some(ours),
            // Set back, by an operator or by brokers that forgot: the changelog tells what the state has counted, and that was one transaction
            // with the position. The next commit tells the group.
            (Some(changelog), Some(group)) if group < changelog => {
                tracing::warn!(
                    topic = topic.key(),
                    partition = number,
                    changelog,
                    group,
                    "the group's position is behind what the state has counted: going on at the changelog's"
                );
                Some(changelog)
            }
            (Some(changelog), Some(group)) if changelog < group => {
                return Err(Error::Disagreement {
                    topic,
                    partition: number,
                    changelog,
                    group,
                });
            }
            (None, Some(group)) => {
                return Err(Error::Disagreement {
                    topic,
                    partition: number,
                    changelog: 0,
                    group,
                });
            }
            (ours, _) => ours,
        };
        let extent = log.extent(of)?;
        let from = match position {
            None => Start::Beginning,
            Some(position) if position > extent.next => {
                return Err(Error::Recreated {
                    at: of,
                    next: extent.next,
                    position,
                });
            }
            Some(position) if position < extent.first => {
                let lost = extent.first - position;
                tracing::error!(
                    topic = topic.key(),
                    partition = number,
                    lost,
                    "records deleted by retention before they were read"
                );
                metrics
                    .gap
                    .with_label_values(&[topic.key()])
                    .inc_by(lost as u64);
                Start::At(extent.first)
            }
            Some(position) => Start::At(position),
        };
        at.push((of, from));
    }
    // Deltas and the statistics that they make are one transaction: who has read the ones has written the others.
    let statistics = log.extent(TopicPartition::new(Topic::ItemState, number))?;
    let deltas = waiting.owned.users.position().input(Topic::ItemDeltas);
    if statistics.next == 0 && deltas.is_some_and(|read| read > 0) {
        return Err(Error::Topic {
            name: format!("{} partition {number}", Topic::ItemState),
            reason: "is empty, and statistics were written to it: it was made anew; restore it, or go on under a new `instance.prefix`"
                .to_owned(),
        });
    }
    member.start(&at)?;
    Ok(())
}

/// Whether the group has positions that do not outlive the one of `topic`. The brokers drop the positions of a topic that is deleted; those
/// of an idle group expire together, and of one at work those of topics that it has not subscribed to, which are all but the behaviors.
fn others_are_held(
    waiting: &Restoring,
    topic: Topic,
    log: &dyn Log,
    member: &mut dyn Member,
) -> Result<bool, LogError> {
    let unsubscribed = |other: Topic| other != Topic::Behaviors && other != topic;
    let mut here = INPUTS.into_iter().zip(&waiting.committed);
    if here.any(|(other, held)| unsubscribed(other) && held.is_some()) {
        return Ok(true);
    }
    if topic != Topic::Behaviors {
        return Ok(false);
    }
    // This partition may never have had a request or a delta: those of the others are of the same group.
    let partitions = log.describe(topic)?.map_or(0, |facts| facts.partitions);
    let others: Vec<TopicPartition> = (0..partitions)
        .flat_map(|number| INPUTS.map(|other| TopicPartition::new(other, number)))
        .filter(|of| unsubscribed(of.topic))
        .collect();
    Ok(member.committed(&others)?.iter().any(Option::is_some))
}

#[cfg(test)]
mod tests;
