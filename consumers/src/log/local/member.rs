//! A member of the local log's group.
//!
//! Before it, a worker calls; after it, `group` says what it may read, `cursor` reads it, and `partitions` takes what it commits.
//! What it has sent stays with it until the commit: whoever drops a member drops its open transaction, and nobody ever saw it.

use std::sync::Arc;
use std::time::Instant;

use headwater_config::Topic;

use super::cursor::{Cursor, Cursors};
use super::faults::{Call, Fault, Op};
use super::group::View;
use super::partitions::State;
use super::pending::Pending;
use super::{Broker, INJECTED, Seats, refused, unavailable};
use crate::log::{
    CommitError, Committed, LogError, Member, Membership, Outgoing, PollLimit, Rebalance,
    RecordBatch, Start, TopicPartition,
};

/// What a transactional id is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transaction {
    None,
    Open,
    /// The answer to a commit got lost.
    InDoubt,
}

/// A member.
#[derive(Debug)]
pub(super) struct LocalMember {
    broker: Arc<Broker>,
    seats: Seats,
    instance: String,
    identity: String,
    epoch: u64,
    view: View,
    cursors: Cursors,
    transaction: Transaction,
    pending: Pending,
    ends: Vec<(usize, i64)>,
}

impl LocalMember {
    /// Takes the transactional id and the seat; fences whoever had them.
    pub(super) fn new(
        broker: &Arc<Broker>,
        seats: Seats,
        instance: &str,
        worker: usize,
    ) -> Result<Self, LogError> {
        let identity = seats.identity(instance, worker);
        if broker.fault(Op::Join, &identity) == Fault::Unavailable {
            return Err(unavailable("joining the group", INJECTED));
        }
        let now = (broker.options.clock)();
        let mut state = broker.state.lock();
        if !state.topics.contains_key(&seats.input) {
            return Err(super::no_topic(seats.input));
        }
        let epoch = next_epoch(&mut state, &identity);
        state.settle(&identity, now);
        let view = state.group(&seats).join(&identity, instance, now);
        drop(state);
        broker.changed.notify_all();
        Ok(Self {
            broker: Arc::clone(broker),
            seats,
            instance: instance.to_owned(),
            identity,
            epoch,
            view,
            cursors: Cursors::default(),
            transaction: Transaction::None,
            pending: Pending::default(),
            ends: Vec::new(),
        })
    }

    /// Asks what befalls this operation, and lets it happen as far as it is the same for all of them.
    fn fault(&mut self, op: Op, doing: &'static str) -> Result<Fault, LogError> {
        let fault = self.broker.fault(op, &self.identity);
        match fault {
            Fault::Unavailable => return Err(unavailable(doing, INJECTED)),
            Fault::Fence => {
                next_epoch(&mut self.broker.state.lock(), &self.identity);
            }
            Fault::Lose => {
                let mut state = self.broker.state.lock();
                state.group(&self.seats).remove(&self.identity);
                drop(state);
                self.broker.changed.notify_all();
            }
            Fault::Pass
            | Fault::CommitAborted
            | Fault::CommitLate { .. }
            | Fault::CommitUnknown { .. }
            | Fault::Shape { .. } => {}
        }
        Ok(fault)
    }

    fn check_fenced(&self, state: &State) -> Result<(), LogError> {
        if state.epochs.get(&self.identity) == Some(&self.epoch) {
            return Ok(());
        }
        Err(LogError::Fenced {
            identity: self.identity.clone(),
        })
    }

    fn commit_now(
        &mut self,
        membership: Membership,
        positions: &[(TopicPartition, i64)],
        fault: Fault,
    ) -> Result<Committed, CommitError> {
        let now = (self.broker.options.clock)();
        let mut state = self.broker.state.lock();
        self.check_fenced(&state).map_err(CommitError::Fenced)?;
        state.settle(&self.identity, now);
        for (of, _) in positions {
            state.partition(*of).map_err(CommitError::Aborted)?;
            let group = state.group(&self.seats);
            if !group.vouches(&self.view, membership.0, of.partition) {
                let partition = of.partition;
                let why =
                    format!("partition {partition} is not ours under the membership of that poll");
                return Err(CommitError::Aborted(unavailable(
                    "committing positions",
                    &why,
                )));
            }
        }
        let appended = state
            .append(
                &self.pending,
                (self.seats.number, positions),
                true,
                &self.broker.options,
            )
            .map_err(CommitError::Aborted)?;
        if let Fault::CommitLate { which, ms } = fault {
            state.delay(&self.identity, &appended, which, now + ms);
        }
        drop(state);
        self.broker.appended(appended.rolled);
        let restored_from =
            |of: &TopicPartition| matches!(of.topic, Topic::Changelog | Topic::ItemState);
        Ok(Committed {
            next: appended
                .next
                .into_iter()
                .filter(|(of, _)| restored_from(of))
                .collect(),
            times: None,
        })
    }
}

/// Begins another epoch of a transactional id: whoever has an older one is fenced.
fn next_epoch(state: &mut State, identity: &str) -> u64 {
    let epoch = state.epochs.entry(identity.to_owned()).or_default();
    *epoch += 1;
    *epoch
}

impl Member for LocalMember {
    fn poll(&mut self, limit: PollLimit, into: &mut RecordBatch) -> Result<Rebalance, LogError> {
        into.clear();
        let fault = self.fault(Op::Poll, "polling")?;
        let mut until = None;
        loop {
            let mut state = self.broker.state.lock();
            self.check_fenced(&state)?;
            let group = state.group(&self.seats);
            let before = group.version();
            let now = (self.broker.options.clock)();
            let changes = group.poll(&self.identity, &self.instance, &mut self.view, now);
            if group.version() != before {
                self.broker.changed.notify_all();
            }
            let seen = (state.appends, state.groups_version());
            drop(state);
            if !changes.is_empty() {
                let gone = |of: TopicPartition| {
                    changes.lost.contains(&of.partition) || changes.revoked.contains(&of.partition)
                };
                self.cursors.retain(|of| !gone(of));
            }
            into.set_membership(Membership(self.view.token));
            let fetched = self
                .cursors
                .fetch(&self.broker, limit, fault, into, &mut self.ends);
            if !into.is_empty() || !changes.is_empty() {
                return Ok(changes);
            }
            fetched?;
            if limit.wait.is_zero() || limit.records == 0 {
                return Ok(changes);
            }
            let until = *until.get_or_insert_with(|| Instant::now() + limit.wait);
            if !self.broker.wait(seen, until) {
                return Ok(changes);
            }
        }
    }

    fn committed(&mut self, of: &[TopicPartition]) -> Result<Vec<Option<i64>>, LogError> {
        self.fault(Op::Committed, "asking for committed positions")?;
        if self.transaction == Transaction::InDoubt {
            let why = "a transaction of ours is in doubt: recover first";
            return Err(unavailable("asking for committed positions", why));
        }
        let state = self.broker.state.lock();
        self.check_fenced(&state)?;
        state.committed(self.seats.number, of)
    }

    fn start(&mut self, at: &[(TopicPartition, Start)]) -> Result<(), LogError> {
        self.fault(Op::Start, "beginning to read")?;
        for (of, start) in at {
            if !self.view.holds(of.partition) {
                return Err(refused(
                    "beginning to read",
                    format!("partition {} is not assigned", of.partition),
                ));
            }
            self.cursors.insert(Cursor::new(&self.broker, *of, *start)?);
        }
        Ok(())
    }

    fn pause(&mut self, partition: i32) -> Result<(), LogError> {
        self.fault(Op::Pause, "pausing")?;
        self.cursors.retain(|of| of.partition != partition);
        Ok(())
    }

    fn release(&mut self, partitions: &[i32]) -> Result<(), LogError> {
        self.fault(Op::Release, "giving partitions back")?;
        self.cursors
            .retain(|of| !partitions.contains(&of.partition));
        let mut state = self.broker.state.lock();
        self.check_fenced(&state)?;
        let group = state.group(&self.seats);
        group.release(&mut self.view, partitions);
        drop(state);
        self.broker.changed.notify_all();
        Ok(())
    }

    fn begin(&mut self) -> Result<(), LogError> {
        self.fault(Op::Begin, "opening a transaction")?;
        self.check_fenced(&self.broker.state.lock())?;
        match self.transaction {
            Transaction::None => {
                self.transaction = Transaction::Open;
                Ok(())
            }
            Transaction::Open => Err(refused("opening a transaction", "one is open".to_owned())),
            Transaction::InDoubt => Err(refused(
                "opening a transaction",
                "the last one is in doubt: recover first".to_owned(),
            )),
        }
    }

    fn send(&mut self, record: Outgoing<'_>) -> Result<(), LogError> {
        self.fault(Op::Send, "sending")?;
        if self.transaction != Transaction::Open {
            return Err(refused("sending", "no transaction is open".to_owned()));
        }
        self.broker.enqueue(&mut self.pending, &record)
    }

    fn send_now(&mut self, record: Outgoing<'_>) -> Result<(), LogError> {
        self.fault(Op::SendNow, "sending")?;
        let mut one = Pending::default();
        self.broker.enqueue(&mut one, &record)?;
        self.broker.append(&one)
    }

    fn commit(
        &mut self,
        membership: Membership,
        positions: &[(TopicPartition, i64)],
    ) -> Result<Committed, CommitError> {
        let fault = self.fault(Op::Commit, "committing");
        if self.transaction != Transaction::Open {
            return Err(CommitError::Aborted(refused(
                "committing",
                "no transaction is open".to_owned(),
            )));
        }
        self.transaction = Transaction::None;
        let result = match fault {
            Err(error) => Err(CommitError::Aborted(error)),
            Ok(Fault::CommitAborted) => {
                Err(CommitError::Aborted(unavailable("committing", INJECTED)))
            }
            Ok(Fault::CommitUnknown { happened }) => {
                self.transaction = Transaction::InDoubt;
                let refusal = happened
                    .then(|| self.commit_now(membership, positions, Fault::Pass).err())
                    .flatten();
                Err(match refusal {
                    Some(CommitError::Fenced(error)) => CommitError::Fenced(error),
                    _ => CommitError::Unknown(unavailable("committing", INJECTED)),
                })
            }
            Ok(fault) => self.commit_now(membership, positions, fault),
        };
        self.pending.clear();
        result
    }

    fn abort(&mut self) -> Result<(), LogError> {
        self.fault(Op::Abort, "aborting")?;
        self.pending.clear();
        if self.transaction == Transaction::InDoubt {
            return Err(refused(
                "aborting",
                "the transaction is in doubt: recover first".to_owned(),
            ));
        }
        self.transaction = Transaction::None;
        Ok(())
    }

    fn recover(&mut self) -> Result<(), LogError> {
        self.fault(Op::Recover, "recovering")?;
        let mut state = self.broker.state.lock();
        self.check_fenced(&state)?;
        self.epoch = next_epoch(&mut state, &self.identity);
        state.settle(&self.identity, (self.broker.options.clock)());
        drop(state);
        self.pending.clear();
        self.transaction = Transaction::None;
        Ok(())
    }

    fn leave(mut self: Box<Self>, forever: bool) -> Result<(), LogError> {
        self.fault(Op::Leave, "leaving")?;
        let mut state = self.broker.state.lock();
        self.check_fenced(&state)?;
        if forever {
            state.group(&self.seats).remove(&self.identity);
        }
        drop(state);
        self.broker.changed.notify_all();
        Ok(())
    }
}

impl Broker {
    /// Asks the hook.
    pub(super) fn fault(&self, op: Op, identity: &str) -> Fault {
        self.options
            .faults
            .as_ref()
            .map_or(Fault::Pass, |faults| faults.before(Call { op, identity }))
    }
}
