//! A stage beside the fast loop: a group of its own that reads one topic in whatever partitions it lies, makes other records of it, and
//! commits them with the positions that they come from in one transaction (`PIPE-1`). A record that cannot be read is a dead letter from
//! here, in the same transaction (`PIPE-2`). A stage has no state but those positions.
//!
//! Before it stands the log; what it makes of records is its [`Work`]'s: [`crate::repartition`] and [`crate::encode`].

use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_config::Topic;
use headwater_state::Timestamp;

use crate::answer;
use crate::decode::Reject;
use crate::error::{Error, Reaction, words};
use crate::log::{
    Log, Member, Outgoing, PollLimit, Rebalance, Record, RecordBatch, Start, TopicPartition,
};
use crate::metrics::Metrics;
use crate::trouble::Trouble;
use crate::worker::World;

#[cfg(test)]
pub(crate) mod bench;

/// What a stage makes of records.
pub trait Work: Send {
    /// Takes a record in; what it becomes goes to `output` now or when the poll is [finished](Work::finish). All of a record or nothing.
    ///
    /// # Errors
    /// What is wrong with it: the stage makes a dead letter of it.
    fn take(
        &mut self,
        record: &Record<'_>,
        now: Timestamp,
        output: &mut RecordBatch,
    ) -> Result<(), Reject>;

    /// After all records of a poll.
    ///
    /// # Errors
    /// What [`Error::reaction`] says of it.
    fn finish(&mut self, output: &mut RecordBatch) -> Result<(), Error>;

    /// What was taken in does not count: it comes again.
    fn forget(&mut self);

    /// Before partitions are read from their beginning because the group has no position in any of `new`.
    ///
    /// # Errors
    /// If that would be wrong.
    fn anew(&self, log: &dyn Log, member: &mut dyn Member) -> Result<(), Error>;

    /// Whether a partition is to be read from its beginning though the group has a position in it: what came of it is gone.
    fn read_again(&mut self, _partition: i32) -> bool {
        false
    }
}

/// What a stage is made of.
pub struct Parts<W> {
    /// The stage's log, of its own group.
    pub log: Arc<dyn Log>,
    /// Its member.
    pub member: Box<dyn Member>,
    /// What it does.
    pub work: W,
    /// The topic that the group's members are assigned.
    pub input: Topic,
    /// Its name on the brokers, for headers and errors.
    pub name: String,
    /// What it is called in metrics.
    pub label: &'static str,
    /// Bounds of one poll.
    pub limit: PollLimit,
    /// Partitions of the dead letters.
    pub dead_letter_partitions: i32,
    /// Where metrics are told.
    pub metrics: Metrics,
    /// The time.
    pub world: Box<dyn World>,
}

impl<W> std::fmt::Debug for Parts<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts")
            .field("input", &self.name)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// One member of the stage's group and the partitions it reads, on one thread.
pub struct Stage<W> {
    parts: Parts<W>,
    /// Our partitions of the input, and where each has been read to; none: reading has not begun.
    reading: BTreeMap<i32, Option<i64>>,
    batch: RecordBatch,
    output: RecordBatch,
    trouble: Trouble,
    recovering: bool,
}

impl<W> std::fmt::Debug for Stage<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage")
            .field("input", &self.parts.name)
            .field("reading", &self.reading)
            .finish_non_exhaustive()
    }
}

impl<W: Work> Stage<W> {
    /// A stage with a member of its own.
    pub fn new(parts: Parts<W>) -> Self {
        Self {
            parts,
            reading: BTreeMap::new(),
            batch: RecordBatch::default(),
            output: RecordBatch::default(),
            trouble: Trouble::default(),
            recovering: false,
        }
    }

    /// One turn: poll, work, commit. An error has been reacted to already where the reaction is to go on.
    ///
    /// # Errors
    /// What must end the stage: see [`Error::reaction`].
    pub fn turn(&mut self) -> Result<(), Error> {
        match self.try_turn() {
            Ok(committed) => {
                let quiet = self.is_quiet();
                let now = self.parts.world.now();
                self.trouble.went_well(committed, quiet, now);
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

    /// Whether the last turn found nothing to do.
    pub fn is_quiet(&self) -> bool {
        self.batch.is_empty() && self.reading.values().all(Option::is_some)
    }

    /// Partitions of the input that are read here, and where each has been read to.
    pub fn reading(&self) -> &BTreeMap<i32, Option<i64>> {
        &self.reading
    }

    /// Leaves the group; with `forever`, its partitions move at once.
    ///
    /// # Errors
    /// The log's.
    pub fn stop(self, forever: bool) -> Result<(), Error> {
        Ok(self.parts.member.leave(forever)?)
    }

    /// Gives whether anything was committed.
    fn try_turn(&mut self) -> Result<bool, Error> {
        if self.recovering {
            self.recover()?;
        }
        self.start()?;
        let rebalance = self.parts.member.poll(self.parts.limit, &mut self.batch)?;
        self.rebalance(&rebalance)?;
        self.pass_on()
    }

    /// Nothing is pending between turns: what is asked back can be given at once.
    fn rebalance(&mut self, rebalance: &Rebalance) -> Result<(), Error> {
        if rebalance.is_empty() {
            return Ok(());
        }
        tracing::info!(topic = self.parts.name, assigned = ?rebalance.assigned, revoked = ?rebalance.revoked, lost = ?rebalance.lost, "partitions moved");
        for number in rebalance.lost.iter().chain(&rebalance.revoked) {
            self.reading.remove(number);
        }
        for number in &rebalance.assigned {
            self.reading.insert(*number, None);
        }
        if !rebalance.revoked.is_empty() {
            self.parts.member.release(&rebalance.revoked)?;
        }
        Ok(())
    }

    /// Begins reading partitions that are ours and not read yet, where the group has committed.
    fn start(&mut self) -> Result<(), Error> {
        let new: Vec<TopicPartition> = self
            .reading
            .iter()
            .filter(|(_, next)| next.is_none())
            .map(|(number, _)| TopicPartition::new(self.parts.input, *number))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        let committed = self.parts.member.committed(&new)?;
        if committed.iter().all(Option::is_none) {
            let Parts {
                log, member, work, ..
            } = &mut self.parts;
            work.anew(&**log, &mut **member)?;
        }
        let mut at = Vec::new();
        for (of, committed) in new.iter().zip(committed) {
            let extent = self.parts.log.extent(*of)?;
            let from = match committed {
                None => Start::Beginning,
                Some(_) if self.parts.work.read_again(of.partition) => Start::Beginning,
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
                        topic = self.parts.name,
                        partition = of.partition,
                        lost,
                        "records deleted by retention before they were read"
                    );
                    let gap = &self.parts.metrics.gap;
                    gap.with_label_values(&[self.parts.label])
                        .inc_by(lost as u64);
                    Start::At(extent.first)
                }
                Some(position) => Start::At(position),
            };
            at.push((*of, from));
        }
        self.parts.member.start(&at)?;
        for (of, from) in at {
            let next = match from {
                Start::At(position) => position,
                Start::Beginning | Start::End => 0,
            };
            self.reading.insert(of.partition, Some(next));
        }
        Ok(())
    }

    /// Writes what was polled, and commits: in several transactions where records give more than they are. Gives whether there was anything.
    fn pass_on(&mut self) -> Result<bool, Error> {
        let polled = &self.parts.metrics.polled;
        polled
            .with_label_values(&[self.parts.label])
            .inc_by(self.batch.len() as u64);
        let (mut from, mut committed) = (0, false);
        while from < self.batch.len() {
            let next = self.take(&mut from);
            if next.is_empty() {
                continue;
            }
            self.parts.work.finish(&mut self.output)?;
            self.commit(next)?;
            committed = true;
        }
        Ok(committed)
    }

    /// Takes records from a place of the batch on, until all are taken or as much was given out as a poll may bring: one record may hold an array of 65,536
    /// events. Gives where each partition is read to then.
    fn take(&mut self, from: &mut usize) -> BTreeMap<i32, i64> {
        let now = self.parts.world.now();
        self.output.clear();
        let mut next: BTreeMap<i32, i64> = BTreeMap::new();
        let limit = self.parts.limit;
        while *from < self.batch.len()
            && self.output.len() < limit.records
            && self.output.bytes() < limit.bytes
        {
            let record = self.batch.get(*from);
            *from += 1;
            let Some(Some(expected)) = self.reading.get(&record.at.partition) else {
                continue;
            };
            let expected = next.get(&record.at.partition).unwrap_or(expected);
            if record.at.topic != self.parts.input || record.offset < *expected {
                continue;
            }
            next.insert(record.at.partition, record.offset + 1);
            if let Err(reject) = self.parts.work.take(&record, now, &mut self.output) {
                let dead_lettered = &self.parts.metrics.dead_lettered;
                let labels = [self.parts.label, reject.code];
                dead_lettered.with_label_values(&labels).inc();
                answer::push_dead_letter(
                    &mut self.output,
                    record.at.partition % self.parts.dead_letter_partitions,
                    &self.parts.name,
                    &record,
                    &reject,
                    now,
                );
            }
        }
        next
    }

    /// Writes what was given out, with the positions, as one transaction.
    fn commit(&mut self, next: BTreeMap<i32, i64>) -> Result<(), Error> {
        let member = &mut self.parts.member;
        member.begin()?;
        let mut headers = Vec::new();
        for record in self.output.iter() {
            headers.clear();
            let theirs = record.headers.iter();
            headers.extend(theirs.map(|(name, value)| (name, value.unwrap_or_default())));
            member.send(Outgoing {
                to: record.at,
                key: record.key,
                value: record.value,
                headers: &headers,
            })?;
        }
        let positions: Vec<_> = next
            .iter()
            .map(|(number, next)| (TopicPartition::new(self.parts.input, *number), *next))
            .collect();
        member.commit(self.batch.membership(), &positions)?;
        for (number, next) in next {
            self.reading.insert(number, Some(next));
        }
        Ok(())
    }

    /// Does what the error asks for; gives it back where that is to stop.
    fn react(&mut self, error: Error) -> Result<(), Error> {
        let reaction = error.reaction();
        let errors = &self.parts.metrics.errors;
        errors.with_label_values(&[reaction.label()]).inc();
        match reaction {
            // There is no copy here that could be restored.
            Reaction::Stop | Reaction::Release | Reaction::Restore => return Err(error),
            Reaction::Retry => tracing::warn!(
                topic = self.parts.name,
                error = &error as &dyn std::error::Error,
                "going back to the last position"
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
        self.parts.work.forget();
        for next in self.reading.values_mut() {
            *next = None;
        }
        self.parts.member.recover()?;
        self.recovering = false;
        Ok(())
    }
}
