//! A worker: one member of the group and the partitions it owns, start to end on one thread.
//!
//! A turn polls, computes a step, sends it, and the next turn commits it before it polls: whoever keeps up waits for nothing but their own
//! transaction. A worker that lags behind computes the next step while the last one's records are on their way, over
//! state that is not committed yet. The order of commit is the design: the world first, our own copy second. Whoever crashes in
//! between finds the changelog ahead of the store and applies the difference; the other order would leave the store ahead of a transaction
//! that never was, and count its records twice (`STATE-1`).
//!
//! After any failure there is one way: take back what is not committed, ask the log what really happened, apply the changelog's difference,
//! go on from there ([`crate::restore`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use headwater_config::{Config, Topic};
use headwater_state::{Partition, Statistics, Stores, Timestamp};

use crate::error::{Error, Reaction, words};
use crate::log::{
    Log, LogError, Member, Membership, Outgoing, PollLimit, Rebalance, RecordBatch, TopicPartition,
};
use crate::restore::Restorer;
use crate::step::{Owned, Pipeline, SharedItems, StepOutput};
use crate::trouble::Trouble;
use crate::write_back::Writer;

mod commit;
mod partitions;
mod settings;

use settings::settings_of_share;

pub use settings::settings_of;

/// What a worker needs from its host: the time, and salts for new users.
pub trait World: Send {
    /// Now, Unix milliseconds: for deadlines, timers and freshness, never for features.
    fn now(&mut self) -> Timestamp;

    /// Sixteen random bytes.
    fn salt(&mut self) -> [u8; 16];
}

/// What a worker tells the outside after each turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Partitions that work.
    pub working: Vec<i32>,
    /// Partitions that are being restored, and how many changelog records they still lack.
    pub restoring: Vec<(i32, i64)>,
    /// What the worker is waiting for, if it is.
    pub trouble: Option<String>,
}

/// A step whose records are on their way.
#[derive(Debug)]
struct Pending {
    membership: Membership,
    positions: Vec<(TopicPartition, i64)>,
    changed: Vec<(i32, bool)>,
    causes: Vec<(headwater_state::ScenarioId, Timestamp)>,
}

/// One member and its partitions.
pub struct Worker {
    log: Arc<dyn Log>,
    stores: Arc<dyn Stores>,
    member: Box<dyn Member>,
    pipeline: Pipeline,
    items: SharedItems,
    world: Box<dyn World>,
    restorer: Restorer,
    writer: Writer,
    owned: BTreeMap<i32, Owned>,
    /// Partitions that are ours and whose stores are still to be opened, and whether each is to be made again first.
    arriving: BTreeMap<i32, bool>,
    /// Revoked partitions, to be given back once nothing is pending.
    leaving: Vec<i32>,
    pending: Option<Pending>,
    batch: RecordBatch,
    /// Whether the last poll found so much that more is waiting: then computing and committing overlap.
    behind: bool,
    /// What is polled while the last step's rest is taken first: nothing.
    nothing: RecordBatch,
    output: StepOutput,
    limits: Limits,
    last_write_back: BTreeMap<i32, Timestamp>,
    trouble: Trouble,
    /// Transactions committed.
    commits: u64,
    /// A recovery that did not come to its end: to be tried again before anything else.
    recovering: bool,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("owned", &self.owned.keys())
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Limits {
    records: usize,
    bytes: usize,
    wait: Duration,
    write_back_ms: i64,
    write_back_users: usize,
    settings: headwater_state::Settings,
    workers: usize,
}

/// Changelog records after which a partition is written back, however young it is: what a crash makes us apply again, at about a
/// million a second.
const REPLAY_RECORDS_MAX: u64 = 500_000;

/// Users that are written back in one go at least, where the worker keeps up: about a millisecond of ours, and of readers of a store that lets nobody read
/// while it is written (sled).
const WRITE_BACK_USERS: usize = 128;

impl Worker {
    /// A worker with a member of its own.
    pub fn new(
        config: &Config,
        log: Arc<dyn Log>,
        stores: Arc<dyn Stores>,
        member: Box<dyn Member>,
        pipeline: Pipeline,
        items: SharedItems,
        world: Box<dyn World>,
    ) -> Result<Self, Error> {
        let restorer = Restorer::new(log.reader()?);
        let writer = Writer::new(pipeline.metrics().clone());
        Ok(Self {
            restorer,
            writer,
            log,
            stores,
            member,
            pipeline,
            items,
            world,
            owned: BTreeMap::new(),
            arriving: BTreeMap::new(),
            leaving: Vec::new(),
            pending: None,
            batch: RecordBatch::default(),
            behind: false,
            nothing: RecordBatch::default(),
            output: StepOutput::default(),
            limits: Limits {
                records: config.step.records_max,
                bytes: config.step.bytes_max.as_usize(),
                wait: config.step.wait.duration(),
                write_back_ms: config.state.write_back.millis(),
                write_back_users: WRITE_BACK_USERS,
                settings: settings_of(config, 1),
                workers: config.instance.workers,
            },
            last_write_back: BTreeMap::new(),
            trouble: Trouble::default(),
            commits: 0,
            recovering: false,
        })
    }

    /// Runs write-backs on the worker's own thread, so many users at a time: for simulations, which must be the same every time.
    #[must_use]
    pub fn with_write_backs_inline(mut self, users: usize) -> Self {
        self.writer = Writer::inline(self.pipeline.metrics().clone());
        self.limits.write_back_users = users;
        self
    }

    /// One turn: poll, step, commit. An error has been reacted to already where the reaction is to go on; what comes out must end
    /// the worker.
    pub fn turn(&mut self) -> Result<(), Error> {
        let commits = self.commits;
        match self.try_turn() {
            Ok(()) => {
                let quiet = self.batch.is_empty()
                    && self.pending.is_none()
                    && self.arriving.is_empty()
                    && self.restorer.is_idle();
                let committed = self.commits > commits;
                self.trouble.went_well(committed, quiet, self.world.now());
                Ok(())
            }
            Err(error) => self.react(error),
        }
    }

    fn try_turn(&mut self) -> Result<(), Error> {
        if self.recovering {
            self.recover()?;
        }
        if !self.behind && !self.output.rest {
            self.commit_pending()?;
        }
        let busy = self.pending.is_some() || !self.restorer.is_idle();
        let wait = if busy {
            Duration::ZERO
        } else {
            self.limits.wait
        };
        // What the last step has left of its poll comes first; a poll is also the heartbeat, and tells of rebalances.
        let (limit, batch) = if self.output.rest {
            (PollLimit::NOTHING, &mut self.nothing)
        } else {
            let limit = PollLimit {
                records: self.limits.records,
                bytes: self.limits.bytes,
                wait,
            };
            (limit, &mut self.batch)
        };
        let rebalance = {
            let _timer = self
                .pipeline
                .metrics()
                .step_seconds
                .with_label_values(&["poll"])
                .start_timer();
            self.member.poll(limit, batch)?
        };
        self.behind = 2 * self.batch.len() >= self.limits.records
            || 2 * self.batch.bytes() >= self.limits.bytes;
        self.rebalance(&rebalance)?;
        self.open_arriving()?;
        self.compute()?;
        self.commit_pending()?;
        self.send()?;
        if !self.leaving.is_empty() {
            self.commit_pending()?;
            self.give_back()?;
        }
        self.restore()?;
        self.write_back()
    }

    /// Commits what is pending, writes everything back, and leaves the group; with `forever`, its partitions move at once.
    pub fn stop(mut self, forever: bool) -> Result<(), Error> {
        self.commit_pending()?;
        for number in self.owned.keys().copied().collect::<Vec<_>>() {
            self.flush(number).or_else(keep_going)?;
        }
        self.member.leave(forever)?;
        Ok(())
    }

    /// Who makes rows and has them scored: between two turns another model may take over.
    pub fn assembler(&mut self) -> &mut crate::assemble::Assembler {
        self.pipeline.assembler()
    }

    /// What is to be told of it.
    pub fn status(&self) -> Status {
        Status {
            working: self.owned.keys().copied().collect(),
            restoring: self
                .arriving
                .keys()
                .map(|number| (*number, 0))
                .chain(self.restorer.remaining())
                .collect(),
            trouble: self.trouble.what().map(str::to_owned),
        }
    }

    /// A partition that works here, for those who look at state.
    pub fn partition(&mut self, number: i32) -> Option<&mut Partition> {
        self.owned.get_mut(&number).map(|owned| &mut owned.users)
    }

    /// The partitions that work here.
    pub fn partitions(&self) -> impl Iterator<Item = i32> {
        self.owned.keys().copied()
    }

    // ------------------------------------------------------------------------------------------------ a step

    fn compute(&mut self) -> Result<(), Error> {
        self.output.clear();
        let now = self.world.now();
        let due = self.owned.values().any(|owned| {
            owned.users.due(now).next().is_some() || owned.users.labels_due().next().is_some()
        });
        if self.batch.is_empty() && !due {
            return Ok(());
        }
        let _timer = self
            .pipeline
            .metrics()
            .step_seconds
            .with_label_values(&["step"])
            .start_timer();
        let items = self.items.read();
        let world = &mut self.world;
        self.pipeline.step(
            &self.batch,
            &mut self.owned,
            &items,
            now,
            &mut || world.salt(),
            &mut self.output,
        )?;
        drop(items);
        self.check_width()
    }

    fn send(&mut self) -> Result<(), Error> {
        if self.output.is_empty() {
            return Ok(());
        }
        let _timer = self
            .pipeline
            .metrics()
            .step_seconds
            .with_label_values(&["send"])
            .start_timer();
        let member = &mut self.member;
        send_all(&self.output.immediate, |record| member.send_now(record))?;
        member.begin()?;
        send_all(&self.output.transactional, |record| member.send(record))?;
        self.pending = Some(Pending {
            membership: self.batch.membership(),
            positions: std::mem::take(&mut self.output.positions),
            changed: std::mem::take(&mut self.output.changed),
            causes: std::mem::take(&mut self.output.causes),
        });
        Ok(())
    }

    // --------------------------------------------------------------------------------------- recovery

    /// Does what the error asks for; gives it back where that is to stop.
    fn react(&mut self, error: Error) -> Result<(), Error> {
        let reaction = error.reaction();
        self.pipeline
            .metrics()
            .errors
            .with_label_values(&[reaction.label()])
            .inc();
        match reaction {
            Reaction::Stop | Reaction::Release => return Err(error),
            Reaction::Retry => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "going back to the last commit"
                );
            }
            Reaction::Restore => {
                if let Error::State { partition, .. } = &error {
                    tracing::warn!(
                        partition,
                        error = &error as &dyn std::error::Error,
                        "store made again"
                    );
                    self.arriving.insert(*partition, true);
                    self.let_go(*partition)?;
                }
            }
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

    /// Whether the last turn failed: the host pauses before the next. Trouble itself lasts until something was committed.
    pub fn has_failed(&self) -> bool {
        self.trouble.is_new()
    }

    /// Whether there is no trouble.
    pub fn is_well(&self) -> bool {
        self.trouble.what().is_none()
    }

    /// Takes back everything that is not known to be committed, and restores from the log's truth.
    fn recover(&mut self) -> Result<(), Error> {
        self.recovering = true;
        self.pending = None;
        self.pipeline.forget_asked();
        // What the last step left is polled again, like all that is not committed.
        self.output.clear();
        // First state goes back: whatever fails after this, nothing half done is left in memory.
        for number in self.owned.keys().copied().collect::<Vec<_>>() {
            self.writer
                .wait(number, &mut self.owned)
                .or_else(keep_going)?;
            let Some(mut owned) = self.owned.remove(&number) else {
                continue;
            };
            let discarded = owned.users.discard().map_err(|source| Error::State {
                partition: number,
                source,
            });
            match discarded {
                Ok(()) => {
                    owned.statistics.discard();
                    self.restorer.add(owned);
                }
                Err(error) if error.reaction() == Reaction::Restore => {
                    tracing::warn!(
                        partition = number,
                        error = &error as &dyn std::error::Error,
                        "store made again"
                    );
                    self.arriving.insert(number, true);
                }
                Err(error) => {
                    self.arriving.insert(number, false);
                    return Err(error);
                }
            }
        }
        self.restorer.begin_again();
        self.member.recover()?;
        self.recovering = false;
        Ok(())
    }

    // ------------------------------------------------------------------------------------------ the store

    fn write_back(&mut self) -> Result<(), Error> {
        self.writer.collect(&mut self.owned)?;
        let now = self.world.now();
        let mut due: Vec<i32> = Vec::new();
        for (number, owned) in &mut self.owned {
            let counts = owned.users.take_counts();
            let metrics = self.pipeline.metrics();
            metrics
                .cache_lookups
                .with_label_values(&["hit"])
                .inc_by(counts.hits);
            metrics
                .cache_lookups
                .with_label_values(&["miss"])
                .inc_by(counts.misses);
            metrics.cache_evictions.inc_by(counts.evictions);
            metrics
                .memory_bytes
                .with_label_values(&[&number.to_string()])
                .set(owned.users.memory() as i64);
            let beside = [owned.users.timers_memory(), owned.statistics.memory()];
            metrics.beside_users(*number, beside);
            let last = self.last_write_back.entry(*number).or_insert(now);
            let aged = now.since(*last) >= self.limits.write_back_ms && owned.users.is_dirty();
            if !owned.users.is_writing()
                && (aged
                    || owned.users.is_written_in_part()
                    || owned.users.wants_write_back(REPLAY_RECORDS_MAX))
            {
                due.push(*number);
            }
        }
        // One partition a turn: their bursts do not add up. What was begun comes first.
        let in_part = |number: &i32| self.owned[number].users.is_written_in_part();
        let next = due.iter().find(|number| in_part(number)).or(due.first());
        if let Some(number) = next.copied() {
            // Only what is committed may reach the store: for this once the pipeline is drained.
            self.commit_pending()?;
            if let Some(owned) = self.owned.get_mut(&number) {
                self.last_write_back.insert(number, now);
                // Who lags behind drains rarely, and all at once.
                let write_back = if self.behind {
                    owned.users.write_back(now)
                } else {
                    // Twice what a turn can make dirty: it comes to an end.
                    let users = self.limits.write_back_users.max(2 * self.batch.len());
                    owned.users.write_back_part(now, users)
                };
                self.writer.start(number, write_back)?;
            }
        }
        for owned in self.owned.values_mut() {
            owned.users.evict();
        }
        Ok(())
    }

    /// Writes a partition back and waits for it.
    fn flush(&mut self, number: i32) -> Result<(), Error> {
        self.writer.wait(number, &mut self.owned)?;
        let now = self.world.now();
        if let Some(owned) = self
            .owned
            .get_mut(&number)
            .filter(|owned| owned.users.is_dirty())
        {
            self.writer.start(number, owned.users.write_back(now))?;
            self.writer.wait(number, &mut self.owned)?;
        }
        Ok(())
    }
}

/// Sends the records of a batch in order.
fn send_all(
    batch: &RecordBatch,
    mut send: impl FnMut(Outgoing<'_>) -> Result<(), LogError>,
) -> Result<(), LogError> {
    let mut headers = Vec::new();
    for record in batch.iter() {
        headers.clear();
        let all = record.headers.iter();
        headers.extend(all.map(|(name, value)| (name, value.unwrap_or_default())));
        send(Outgoing {
            to: record.at,
            key: record.key,
            value: record.value,
            headers: &headers,
        })?;
    }
    Ok(())
}

/// A store that fails while its changes are thrown away anyway is found again when it is opened.
fn keep_going(error: Error) -> Result<(), Error> {
    match error.reaction() {
        Reaction::Restore => Ok(()),
        Reaction::Retry | Reaction::Release | Reaction::Stop => Err(error),
    }
}

#[cfg(test)]
mod tests;
