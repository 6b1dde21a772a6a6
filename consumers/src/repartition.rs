//! A source that is not keyed by user, brought into order: its records are read in whatever partitions they lie, and each event is
//! written to the repartition topic, keyed by its user, where the fast loop reads it.
//!
//! Before it stands the platform's topic; after it, a [`crate::worker::Worker`] whose behaviors topic is the repartition topic. The stage
//! has a log of its own: a group `<group>-repartition` with transactional ids of its own, in which [`Topic::Behaviors`] is the source.
//! Events and source positions are one transaction, so that each event is in the repartition topic exactly once (`PIPE-1`); a record that
//! cannot be read is a dead letter from here, in the same transaction (`PIPE-2`). The stage has no state but those positions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use headwater_config::{Config, Topic};
use headwater_state::Timestamp;

use crate::answer::{self, HEADER_ID, HEADER_REDRIVE};
use crate::decode::mapped::{Event, Events};
use crate::decode::{Decoder, Reject};
use crate::error::{Error, Reaction, words};
use crate::log::{
    Log, LogError, Member, Outgoing, PollLimit, Rebalance, Record, RecordBatch, Start,
    TopicPartition,
};
use crate::metrics::Metrics;
use crate::partitioner::partition_of;
use crate::step::taken;
use crate::trouble::Trouble;
use crate::worker::World;

/// Header: name, partition and offset of the source's record.
pub const HEADER_SOURCE: &str = "headwater-source";

/// What the group of the stage is called, after the daemon's.
pub const GROUP_SUFFIX: &str = "-repartition";

/// The source in the stage's metrics, where the fast loop's own topic is `behaviors`.
const LABEL: &str = "source";

/// One member of the stage's group and the source partitions it reads, on one thread.
pub struct Repartition {
    log: Arc<dyn Log>,
    member: Box<dyn Member>,
    decoder: Decoder,
    world: Box<dyn World>,
    metrics: Metrics,
    limit: PollLimit,
    /// Name of the source, for headers.
    source: String,
    partitions: i32,
    dead_letter_partitions: i32,
    /// Our partitions of the source, and where each has been read to; none: reading has not begun.
    reading: BTreeMap<i32, Option<i64>>,
    batch: RecordBatch,
    output: RecordBatch,
    scratch: Vec<u8>,
    trouble: Trouble,
    recovering: bool,
}

impl std::fmt::Debug for Repartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repartition")
            .field("source", &self.source)
            .field("reading", &self.reading)
            .finish_non_exhaustive()
    }
}

impl Repartition {
    /// A stage with a member of its own. `log` is the stage's: its [`Topic::Behaviors`] is the source, its [`Topic::Repartition`] where the
    /// fast loop reads. `config` names the source as `topics.behaviors` and has its mapping; `partitions` is the count of the
    /// repartition topic, and of the dead letters.
    pub fn new(
        config: &Config,
        log: Arc<dyn Log>,
        member: Box<dyn Member>,
        (partitions, dead_letter_partitions): (i32, i32),
        metrics: Metrics,
        world: Box<dyn World>,
    ) -> Self {
        Self {
            log,
            member,
            decoder: Decoder::new(config),
            world,
            metrics,
            limit: PollLimit {
                records: config.step.records_max,
                bytes: config.step.bytes_max.as_usize(),
                wait: config.step.wait.duration(),
            },
            source: config.topic_name(Topic::Behaviors),
            partitions,
            dead_letter_partitions,
            reading: BTreeMap::new(),
            batch: RecordBatch::default(),
            output: RecordBatch::default(),
            scratch: Vec::new(),
            trouble: Trouble::default(),
            recovering: false,
        }
    }

    /// One turn: poll, decode, commit. An error has been reacted to already where the reaction is to go on.
    ///
    /// # Errors
    /// What must end the stage: see [`Error::reaction`].
    pub fn turn(&mut self) -> Result<(), Error> {
        match self.try_turn() {
            Ok(committed) => {
                let quiet = self.batch.is_empty() && self.reading.values().all(Option::is_some);
                self.trouble.went_well(committed, quiet, self.world.now());
                Ok(())
            }
            Err(error) => self.react(error),
        }
    }

    /// What the stage waits for, if it does, until something was committed.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.what()
    }

    /// Whether the last turn failed: the host pauses before the next.
    pub fn has_failed(&self) -> bool {
        self.trouble.is_new()
    }

    /// Partitions of the source that are read here.
    pub fn partitions(&self) -> impl Iterator<Item = i32> {
        self.reading.keys().copied()
    }

    /// Leaves the group; with `forever`, its partitions move at once.
    ///
    /// # Errors
    /// The log's.
    pub fn stop(self, forever: bool) -> Result<(), Error> {
        Ok(self.member.leave(forever)?)
    }

    /// Gives whether anything was committed.
    fn try_turn(&mut self) -> Result<bool, Error> {
        if self.recovering {
            self.recover()?;
        }
        self.start()?;
        let rebalance = self.member.poll(self.limit, &mut self.batch)?;
        self.rebalance(&rebalance)?;
        self.pass_on()
    }

    /// Nothing is pending between turns: what is asked back can be given at once.
    fn rebalance(&mut self, rebalance: &Rebalance) -> Result<(), Error> {
        if rebalance.is_empty() {
            return Ok(());
        }
        tracing::info!(assigned = ?rebalance.assigned, revoked = ?rebalance.revoked, lost = ?rebalance.lost, "source partitions moved");
        for number in rebalance.lost.iter().chain(&rebalance.revoked) {
            self.reading.remove(number);
        }
        for number in &rebalance.assigned {
            self.reading.insert(*number, None);
        }
        if !rebalance.revoked.is_empty() {
            self.member.release(&rebalance.revoked)?;
        }
        Ok(())
    }

    /// Begins reading partitions that are ours and not read yet, where the group has committed.
    fn start(&mut self) -> Result<(), Error> {
        let new: Vec<TopicPartition> = self
            .reading
            .iter()
            .filter(|(_, next)| next.is_none())
            .map(|(number, _)| TopicPartition::new(Topic::Behaviors, *number))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        let mut at = Vec::new();
        for (of, committed) in new.iter().zip(self.committed(&new)?) {
            let extent = self.log.extent(*of)?;
            let from = match committed {
                None => Start::Beginning,
                Some(position) if position > extent.next => {
                    return Err(Error::Recreated {
                        at: *of,
                        next: extent.next,
                        position,
                    });
                }
                Some(position) if position < extent.first => {
                    let lost = extent.first - position;
                    tracing::error!(
                        topic = self.source,
                        partition = of.partition,
                        lost,
                        "records deleted by retention before they were read"
                    );
                    let gap = self.metrics.gap.with_label_values(&[LABEL]);
                    gap.inc_by(lost as u64);
                    Start::At(extent.first)
                }
                Some(position) => Start::At(position),
            };
            at.push((*of, from));
        }
        self.member.start(&at)?;
        for (of, from) in at {
            let next = match from {
                Start::At(position) => position,
                Start::Beginning | Start::End => 0,
            };
            self.reading.insert(of.partition, Some(next));
        }
        Ok(())
    }

    /// The committed positions of our new partitions. Where the group has none at all and the repartition topic holds records, the
    /// positions are gone (they expire when nobody reads for `offsets.retention.minutes`): reading from the beginning would
    /// count everything twice, and nobody here can know from where to go on.
    fn committed(&mut self, new: &[TopicPartition]) -> Result<Vec<Option<i64>>, Error> {
        let committed = self.member.committed(new)?;
        if committed.iter().any(Option::is_some) {
            return Ok(committed);
        }
        // Before all positions: a transaction of another member then cannot fall in between.
        let written = self.is_written()?;
        let facts = self.log.describe(Topic::Behaviors)?;
        let all: Vec<_> = (0..facts.map_or(0, |facts| facts.partitions))
            .map(|number| TopicPartition::new(Topic::Behaviors, number))
            .collect();
        if !written || self.member.committed(&all)?.iter().any(Option::is_some) {
            return Ok(committed);
        }
        Err(Error::Topic {
            name: self.source.clone(),
            reason: format!(
                "the group with the suffix `{GROUP_SUFFIX}` has no position in it, and topics.repartition holds records already: the \
                 positions have expired or were deleted, and reading from the beginning would count events twice. Set them by \
                 kafka-consumer-groups.sh --reset-offsets to where reading ended (the newest records of topics.repartition name it in \
                 their header {HEADER_SOURCE})"
            ),
        })
    }

    /// Whether any record was committed to the repartition topic. Its offsets alone do not tell: aborted records have some too.
    fn is_written(&self) -> Result<bool, Error> {
        const LOOKS: usize = 25;
        let mut reader = self.log.reader()?;
        let mut open = BTreeMap::new();
        for number in 0..self.partitions {
            let of = TopicPartition::new(Topic::Repartition, number);
            let extent = self.log.extent(of)?;
            if extent.next > extent.first {
                reader.assign(of, Start::Beginning)?;
                open.insert(of, extent.next);
            }
        }
        let limit = PollLimit {
            records: 1,
            bytes: 1,
            wait: Duration::from_millis(200),
        };
        let mut batch = RecordBatch::default();
        for _ in 0..LOOKS {
            if open.is_empty() {
                return Ok(false);
            }
            reader.poll(limit, &mut batch)?;
            if !batch.is_empty() {
                return Ok(true);
            }
            for (of, position) in batch.ends() {
                if open.get(of).is_some_and(|next| position >= next) {
                    open.remove(of);
                }
            }
        }
        Err(Error::Log(LogError::Unavailable {
            doing: "looking whether the repartition topic holds records",
            source: "it did not come to its end in five seconds".into(),
        }))
    }

    /// Writes what was polled, and commits. Gives whether there was anything.
    fn pass_on(&mut self) -> Result<bool, Error> {
        if self.batch.is_empty() {
            return Ok(false);
        }
        let now = self.world.now();
        self.output.clear();
        let mut next: BTreeMap<i32, i64> = BTreeMap::new();
        let batch = std::mem::take(&mut self.batch);
        for record in batch.iter() {
            let Some(Some(expected)) = self.reading.get(&record.at.partition) else {
                continue;
            };
            let expected = next.get(&record.at.partition).unwrap_or(expected);
            if record.at.topic != Topic::Behaviors || record.offset < *expected {
                continue;
            }
            next.insert(record.at.partition, record.offset + 1);
            if let Err(reject) = self.record(&record, now) {
                let dead_lettered = &self.metrics.dead_lettered;
                dead_lettered.with_label_values(&[LABEL, reject.code]).inc();
                answer::push_dead_letter(
                    &mut self.output,
                    record.at.partition % self.dead_letter_partitions,
                    &self.source,
                    &record,
                    &reject,
                    now,
                );
            }
        }
        let membership = batch.membership();
        let polled = self.metrics.polled.with_label_values(&[LABEL]);
        polled.inc_by(batch.len() as u64);
        self.batch = batch;
        if next.is_empty() {
            return Ok(false);
        }
        self.member.begin()?;
        let mut headers = Vec::new();
        for record in self.output.iter() {
            headers.clear();
            let theirs = record.headers.iter();
            headers.extend(theirs.map(|(name, value)| (name, value.unwrap_or_default())));
            self.member.send(Outgoing {
                to: record.at,
                key: record.key,
                value: record.value,
                headers: &headers,
            })?;
        }
        let positions: Vec<_> = next
            .iter()
            .map(|(number, next)| (TopicPartition::new(Topic::Behaviors, *number), *next))
            .collect();
        self.member.commit(membership, &positions)?;
        for (number, next) in next {
            self.reading.insert(number, Some(next));
        }
        Ok(true)
    }

    /// The events of a record, to the output: all of them or none.
    fn record(&mut self, record: &Record<'_>, now: Timestamp) -> Result<(), Reject> {
        let taken = taken(record, now).0;
        let Some(mapping) = self.decoder.mapping() else {
            // A record of our own form with another key: passed on as it is, with what we do not know.
            let behavior = self.decoder.behavior(record.value, taken)?;
            let value = record.value.unwrap_or_default();
            fits(value.len())?;
            push(
                &mut self.output,
                &self.source,
                self.partitions,
                record,
                (&behavior.user, 0),
                value,
            );
            return Ok(());
        };
        let Events { events, skipped } = self.decoder.events(mapping, record.value, taken)?;
        if skipped > 0 {
            let dropped = self.metrics.dropped.with_label_values(&["unmapped_kind"]);
            dropped.inc_by(skipped);
        }
        for event in &events {
            // A text of one byte has at most six in JSON.
            if event.bytes() > answer::RECORD_BYTES_MAX / 8 {
                let written = serde_json::to_vec(event);
                fits(written.expect("invariant: an event is plain JSON").len())?;
            }
        }
        for event in &events {
            self.scratch.clear();
            serde_json::to_writer(&mut self.scratch, event)
                .expect("invariant: an event is plain JSON");
            let Event { user_id, index, .. } = event;
            push(
                &mut self.output,
                &self.source,
                self.partitions,
                record,
                (user_id, *index),
                &self.scratch,
            );
        }
        Ok(())
    }

    /// Does what the error asks for; gives it back where that is to stop.
    fn react(&mut self, error: Error) -> Result<(), Error> {
        let reaction = error.reaction();
        let errors = &self.metrics.errors;
        errors.with_label_values(&[reaction.label()]).inc();
        match reaction {
            // There is no copy here that could be restored.
            Reaction::Stop | Reaction::Release | Reaction::Restore => return Err(error),
            Reaction::Retry => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "going back to the last position in the source"
            ),
        }
        self.trouble.failed(words(&error));
        match self.recover() {
            Ok(()) => Ok(()),
            // The host's pause between turns is the back-off.
            Err(error) if error.reaction() == Reaction::Retry => {
                self.trouble.failed(words(&error));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Takes back what is not known to be committed; every partition begins again where the group says.
    fn recover(&mut self) -> Result<(), Error> {
        self.recovering = true;
        self.output.clear();
        for next in self.reading.values_mut() {
            *next = None;
        }
        self.member.recover()?;
        self.recovering = false;
        Ok(())
    }
}

/// Refuses what is longer, written again, than a record of ours may be.
fn fits(bytes: usize) -> Result<(), Reject> {
    let room = answer::RECORD_BYTES_MAX;
    if bytes > room {
        return Err(Reject::too_large_to_write(bytes, room));
    }
    Ok(())
}

fn push(
    to: &mut RecordBatch,
    source: &str,
    partitions: i32,
    record: &Record<'_>,
    (user, index): (&str, u16),
    value: &[u8],
) {
    let place = format!("{source}-{}-{}", record.at.partition, record.offset);
    let id = format!("{place}.{index}");
    let at = TopicPartition::new(
        Topic::Repartition,
        partition_of(user.as_bytes(), partitions),
    );
    let headers = [
        (HEADER_ID, Some(id.as_bytes())),
        (HEADER_SOURCE, Some(place.as_bytes())),
    ];
    // Of a record that was sent again, each event keeps which dead letter it was, and which event of it.
    let redriven = record.headers.get(HEADER_REDRIVE);
    let redriven = redriven.map(|letter| [letter, format!(".{index}").as_bytes()].concat());
    let redriven = redriven
        .as_deref()
        .map(|letter| (HEADER_REDRIVE, Some(letter)));
    to.push(
        at,
        (0, 0),
        Some(user.as_bytes()),
        Some(value),
        headers.into_iter().chain(redriven),
    );
}

#[cfg(test)]
mod tests;
