//! A member of the group: membership ([`Group`]), reading ([`Source`]) and transactions ([`Sink`]) as one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use super::error::{self, OrderError};
use super::group::Group;
use super::orphans::Watch;
use super::sink::{Failed, Sink};
use super::source::Source;
use super::wake::Wake;
use crate::log::{
    CommitError, CommitTimes, Committed, LogError, Member, Membership, Outgoing, PollLimit,
    Rebalance, RecordBatch, Start, TopicPartition,
};

/// A member of the group.
pub(super) struct KafkaMember {
    shared: Arc<Shared>,
    identity: String,
    group: Group,
    watch: Watch,
    source: Source,
    wake: Arc<Wake>,
    /// The transactional producer; `None` when it cannot be trusted any more: `recover` makes another.
    sink: Option<Sink>,
    /// The producer of `send_now`.
    immediate: Option<Sink>,
    /// When the open transaction was opened.
    open: Option<Instant>,
}

impl KafkaMember {
    pub(super) fn new(shared: Arc<Shared>, identity: String) -> Result<Self, LogError> {
        // The producer first: it waits until the predecessor's transaction is aborted, and fences it.
        let sink = Sink::transactional(&shared, &identity)?;
        let wake = Arc::new(Wake::default());
        let source = Source::new(&shared, &identity, false, &wake)?;
        let group = Group::join(&shared, &identity, Some(&wake), Membership::default())?;
        let mut member = Self {
            shared,
            identity,
            group,
            watch: Watch::default(),
            source,
            wake,
            sink: Some(sink),
            immediate: None,
            open: None,
        };
        if member.shared.settings.send_now {
            member.immediate()?;
        }
        Ok(member)
    }

    fn immediate(&mut self) -> Result<&mut Sink, LogError> {
        if self.immediate.is_none() {
            self.immediate = Some(Sink::immediate(
                &self.shared,
                &format!("{}-now", self.identity),
            )?);
        }
        Ok(self.immediate.as_mut().expect("invariant: made above"))
    }

    fn sink(&mut self, doing: &'static str) -> Result<&mut Sink, LogError> {
        self.sink
            .as_mut()
            .ok_or_else(|| error::unavailable(doing, OrderError::NotRecovered))
    }

    fn open_sink(&mut self, doing: &'static str) -> Result<&mut Sink, LogError> {
        if self.open.is_none() {
            return Err(error::unavailable(doing, OrderError::NoTransaction));
        }
        self.sink(doing)
    }

    /// Everything that a commit does before it decides.
    fn prepare(
        &mut self,
        membership: Membership,
        positions: &[(TopicPartition, i64)],
    ) -> Result<CommitTimes, Failed> {
        const DOING: &str = "committing";
        let began = Instant::now();
        let (Some(sink), Some(_)) = (&mut self.sink, self.open) else {
            return Err(Failed::Abort(error::unavailable(
                DOING,
                OrderError::NoTransaction,
            )));
        };
        // At least once: what was sent at once must have arrived before the input counts as done.
        if let Some(immediate) = &self.immediate {
            immediate.drain().map_err(Failed::Abort)?;
        }
        let metadata = match positions {
            [] => None,
            positions => Some(
                self.group
                    .vouch(membership, positions)
                    .map_err(Failed::Abort)?,
            ),
        };
        sink.drain().map_err(|error| match error {
            LogError::Fenced { .. } => Failed::Fenced(error),
            other => Failed::Abort(other),
        })?;
        let acknowledge = began.elapsed();
        if let Some(metadata) = metadata {
            sink.send_positions(positions, metadata)?;
        }
        Ok(CommitTimes {
            acknowledge,
            positions: began.elapsed().saturating_sub(acknowledge),
            decide: Duration::ZERO,
        })
    }

    /// Joins the group again after the brokers said that another has our place there, if nobody has.
    ///
    /// librdkafka 2.12 fences itself: when its session has timed out (brokers away for longer than that) it forgets its member id
    /// but goes on with heartbeats under the instance id, and the brokers answer with the code for a rival. A rival takes the
    /// transactional id before the place in the group, so the producer knows.
    fn rejoin(&mut self) -> Result<Rebalance, LogError> {
        const DOING: &str = "asking whether another member has our place";
        let timed_out = self.timed_out();
        self.abort()
            .map_err(|error| Self::unless(timed_out, error))?;
        let position = [(TopicPartition::new(self.shared.settings.input, 0), 0)];
        let metadata = self.group.any_metadata();
        self.begin()?;
        let sink = self.sink(DOING)?;
        // Never committed: only who answers is of interest.
        match metadata.map(|metadata| sink.send_positions(&position, &metadata)) {
            Some(Err(Failed::Fenced(error))) => return Err(error),
            Some(Err(Failed::Abort(error) | Failed::Unknown(error))) => {
                tracing::debug!(target: "kafka", client = self.identity, %error, "our place was taken by nobody");
            }
            Some(Ok(())) | None => {}
        }
        self.abort()?;
        let lost = self.group.owned();
        tracing::warn!(target: "kafka", client = self.identity, ?lost, "joining the group again");
        self.source.unassign(|at| lost.contains(&at.partition))?;
        let next = Membership(self.group.membership().0 + 1);
        self.group = Group::join(&self.shared, &self.identity, Some(&self.wake), next)?;
        Ok(Rebalance {
            lost,
            ..Rebalance::default()
        })
    }

    /// Leaves the group and joins it again, so that partitions that are nobody's are given to somebody.
    fn join_anew(&mut self, orphans: &[i32]) -> Result<Rebalance, LogError> {
        let lost = self.group.owned();
        tracing::warn!(target: "kafka", client = self.identity, ?orphans, ?lost, "partitions are nobody's; joining the group anew");
        self.source.unassign(|at| lost.contains(&at.partition))?;
        let next = Membership(self.group.membership().0 + 1);
        if let Err(error) = self.group.leave(self.shared.settings.operation_timeout) {
            tracing::debug!(target: "kafka", client = self.identity, %error, "leaving the group failed");
        }
        self.group = Group::join(&self.shared, &self.identity, Some(&self.wake), next)?;
        Ok(Rebalance {
            lost,
            ..Rebalance::default()
        })
    }

    /// A transaction that was open for too long is aborted by the brokers, who then answer as if we were fenced.
    fn unless(timed_out: bool, error: LogError) -> LogError {
        match error {
            LogError::Fenced { .. } if timed_out => {
                error::unavailable("writing", OrderError::TransactionTimedOut)
            }
            other => other,
        }
    }

    /// Gives the producer up: nobody knows what became of its transaction.
    fn distrust(&mut self) {
        self.open = None;
        self.sink = None;
    }

    /// Whether the brokers have aborted the open transaction by themselves. They tell it by the same codes as fencing.
    fn timed_out(&self) -> bool {
        self.open
            .is_some_and(|begun| begun.elapsed() >= self.shared.settings.transaction_timeout)
    }

    fn committed_ends(&self, sink: &Sink, times: CommitTimes) -> Result<Committed, LogError> {
        let mut next = Vec::new();
        for (at, end) in sink.ends() {
            let end = match end {
                Some(end) => end,
                None => self.shared.extent(&self.shared.peeking, at)?.next,
            };
            next.push((at, end));
        }
        Ok(Committed {
            next,
            times: Some(times),
        })
    }
}

impl Member for KafkaMember {
    fn poll(&mut self, limit: PollLimit, into: &mut RecordBatch) -> Result<Rebalance, LogError> {
        into.clear();
        let deadline = Instant::now() + limit.wait;
        loop {
            let rebalance = match self.group.serve() {
                Err(LogError::Fenced { .. }) => self.rejoin()?,
                served => served?,
            };
            self.watch.follow(self.group.membership());
            let rebalance = match self.watch.look(&self.shared, &self.identity) {
                Some(orphans) if rebalance.is_empty() => self.join_anew(&orphans)?,
                _ => rebalance,
            };
            if !rebalance.is_empty() {
                self.source
                    .unassign(|at| rebalance.lost.contains(&at.partition))?;
                into.set_membership(self.group.membership());
                return Ok(rebalance);
            }
            self.source.drain(limit, into)?;
            into.set_membership(self.group.membership());
            let left = deadline.saturating_duration_since(Instant::now());
            if !into.is_empty() || left == Duration::ZERO {
                return Ok(rebalance);
            }
            self.wake.wait(left);
        }
    }

    fn committed(&mut self, of: &[TopicPartition]) -> Result<Vec<Option<i64>>, LogError> {
        self.source.committed(of)
    }

    fn start(&mut self, at: &[(TopicPartition, Start)]) -> Result<(), LogError> {
        self.source.assign(at)
    }

    fn pause(&mut self, partition: i32) -> Result<(), LogError> {
        self.source.unassign(|at| at.partition == partition)
    }

    fn release(&mut self, partitions: &[i32]) -> Result<(), LogError> {
        self.source
            .unassign(|at| partitions.contains(&at.partition))?;
        self.group.release(partitions)
    }

    fn begin(&mut self) -> Result<(), LogError> {
        self.sink("opening a transaction")?.begin()?;
        self.open = Some(Instant::now());
        Ok(())
    }

    fn send(&mut self, record: Outgoing<'_>) -> Result<(), LogError> {
        let timed_out = self.timed_out();
        self.open_sink("sending a record")?
            .send(&record)
            .map_err(|error| Self::unless(timed_out, error))
    }

    fn send_now(&mut self, record: Outgoing<'_>) -> Result<(), LogError> {
        let immediate = self.immediate()?;
        immediate.failure()?;
        immediate.send(&record)
    }

    fn commit(
        &mut self,
        membership: Membership,
        positions: &[(TopicPartition, i64)],
    ) -> Result<Committed, CommitError> {
        let prepared = self.prepare(membership, positions);
        let began = Instant::now();
        let decided = match (prepared, &self.sink) {
            (Ok(times), Some(sink)) => sink.commit().map(|()| (times, sink)),
            (Ok(_), None) => Err(Failed::Abort(error::unavailable(
                "committing",
                OrderError::NoTransaction,
            ))),
            (Err(failed), _) => Err(failed),
        };
        let failed = match decided {
            Ok((times, sink)) => {
                self.open = None;
                let times = CommitTimes {
                    decide: began.elapsed(),
                    ..times
                };
                return self
                    .committed_ends(sink, times)
                    .map_err(CommitError::Unknown);
            }
            Err(failed) => failed,
        };
        Err(match failed {
            Failed::Abort(error) => {
                // Whether or not this works: without a commit it is never committed.
                let timed_out = self.timed_out();
                if let Err(error) = self.abort() {
                    tracing::debug!(target: "kafka", client = self.identity, %error, "aborting failed; recover will do it");
                }
                CommitError::Aborted(Self::unless(timed_out, error))
            }
            Failed::Fenced(_) if self.timed_out() => {
                self.distrust();
                CommitError::Unknown(error::unavailable(
                    "committing",
                    OrderError::TransactionTimedOut,
                ))
            }
            Failed::Fenced(error) => {
                self.open = None;
                CommitError::Fenced(error)
            }
            Failed::Unknown(error) => {
                self.distrust();
                CommitError::Unknown(error)
            }
        })
    }

    fn abort(&mut self) -> Result<(), LogError> {
        let timed_out = self.timed_out();
        if self.open.take().is_none() {
            return Ok(());
        }
        let aborted = self.sink("aborting")?.abort();
        aborted.map_err(|error| {
            let error = Self::unless(timed_out, error);
            if !matches!(error, LogError::Fenced { .. }) {
                self.distrust();
            }
            error
        })
    }

    fn recover(&mut self) -> Result<(), LogError> {
        self.open = None;
        self.sink = None;
        self.immediate = None;
        self.sink = Some(Sink::transactional(&self.shared, &self.identity)?);
        if self.shared.settings.send_now {
            self.immediate()?;
        }
        Ok(())
    }

    fn leave(mut self: Box<Self>, forever: bool) -> Result<(), LogError> {
        let aborted = self.abort();
        let Self {
            shared,
            mut group,
            source,
            sink,
            immediate,
            ..
        } = *self;
        drop((source, sink, immediate));
        if forever {
            group.leave(shared.settings.operation_timeout)?;
        } else {
            drop(group);
        }
        aborted
    }
}
