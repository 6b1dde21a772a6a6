//! Membership of the consumer group, and nothing else: this client is assigned no partition in librdkafka's sense and fetches
//! nothing. What the group gives and takes is told to the member, which reads by [`super::source`].
//!
//! It promises that a partition that is asked back stays ours until [`Group::release`] (the brokers wait for it within the session
//! timeout), and that [`Group::vouch`] gives group metadata only for partitions that have been ours without a gap since
//! they were polled. The metadata is taken after each rebalance that a poll has told of; a later one that has not been
//! told yet makes the brokers refuse it. It is never taken at commit: fresh metadata would be accepted for partitions that
//! are no longer ours.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Statistics, TopicPartitionList};

use super::client::{self, Logging};
use super::error::{self, OrderError};
use super::wake::Wake;
use super::{Shared, admin};
use crate::log::{LogError, Membership, Rebalance, TopicPartition};

/// A place in the group.
pub(super) struct Group {
    consumer: BaseConsumer<Rebalances>,
    shared: Arc<Shared>,
    identity: String,
    /// Partitions that are ours, with the membership since which they have been.
    owned: BTreeMap<i32, Membership>,
    /// Partitions that are asked back and not yet released.
    awaiting: BTreeSet<i32>,
    membership: Membership,
    joined: bool,
    metadata: Option<Arc<ConsumerGroupMetadata>>,
    /// An error that came together with a rebalance: for the next call.
    stash: Option<LogError>,
    /// We are fenced, for good.
    fenced: bool,
}

impl Group {
    /// Joins the group under that identity; the brokers answer while [`Group::serve`] is called. Memberships are numbered on from
    /// `after`.
    pub(super) fn join(
        shared: &Arc<Shared>,
        identity: &str,
        wake: Option<&Arc<Wake>>,
        after: Membership,
    ) -> Result<Self, LogError> {
        let context = Rebalances {
            logging: Logging::new(&shared.settings, identity),
            told: Mutex::default(),
            stage: Mutex::new(Stage::Member),
        };
        let mut consumer = client::grouped(&shared.settings, identity, context)?;
        if let Some(wake) = wake {
            consumer.set_nonempty_callback(wake.callback());
        }
        consumer
            .subscribe(&[shared.names.of(shared.settings.input)])
            .map_err(|error| error::of("joining the group", error, identity))?;
        Ok(Self {
            consumer,
            shared: Arc::clone(shared),
            identity: identity.to_owned(),
            owned: BTreeMap::new(),
            awaiting: BTreeSet::new(),
            membership: after,
            joined: false,
            metadata: None,
            stash: None,
            fenced: false,
        })
    }

    /// Serves what the brokers said since the last call; never waits.
    pub(super) fn serve(&mut self) -> Result<Rebalance, LogError> {
        if self.fenced {
            return Err(LogError::Fenced {
                identity: self.identity.clone(),
            });
        }
        if let Some(error) = self.stash.take() {
            return Err(error);
        }
        let mut failure = None;
        loop {
            let before = self.consumer.context().served();
            match self.consumer.poll(Duration::ZERO) {
                None if self.consumer.context().served() == before => break,
                None | Some(Ok(_)) => {}
                Some(Err(error)) => failure = self.judge(error).or(failure),
            }
        }
        let told = std::mem::take(&mut *self.consumer.context().told.lock());
        if !told.changed {
            return failure.map_or_else(|| Ok(Rebalance::default()), Err);
        }
        self.stash = failure;
        Ok(self.follow(told))
    }

    /// Takes over what a rebalance changed.
    fn follow(&mut self, told: Told) -> Rebalance {
        self.membership.0 += 1;
        self.joined = true;
        self.metadata = self.consumer.group_metadata().map(Arc::new);
        for partition in &told.rebalance.lost {
            self.owned.remove(partition);
            self.awaiting.remove(partition);
        }
        for partition in &told.rebalance.assigned {
            self.owned.insert(*partition, self.membership);
        }
        self.awaiting.extend(&told.rebalance.revoked);
        tracing::info!(
            target: "kafka",
            client = self.identity,
            assigned = ?told.rebalance.assigned,
            revoked = ?told.rebalance.revoked,
            lost = ?told.rebalance.lost,
            "rebalance"
        );
        told.rebalance
    }

    /// The membership as of the last poll.
    pub(super) fn membership(&self) -> Membership {
        self.membership
    }

    /// The partitions that are ours.
    pub(super) fn owned(&self) -> Vec<i32> {
        self.owned.keys().copied().collect()
    }

    /// The metadata as of now, for a question whose answer is thrown away.
    pub(super) fn any_metadata(&self) -> Option<Arc<ConsumerGroupMetadata>> {
        self.consumer.group_metadata().map(Arc::new)
    }

    /// The metadata with which positions of these partitions can be committed, if they have been ours ever since they were polled
    /// under `membership`.
    pub(super) fn vouch(
        &self,
        membership: Membership,
        positions: &[(TopicPartition, i64)],
    ) -> Result<&Arc<ConsumerGroupMetadata>, LogError> {
        const DOING: &str = "committing positions";
        for (at, _) in positions {
            if self
                .owned
                .get(&at.partition)
                .is_none_or(|since| *since > membership)
            {
                return Err(error::unavailable(
                    DOING,
                    OrderError::Moved {
                        partition: at.partition,
                    },
                ));
            }
        }
        let partition = positions.first().map_or(-1, |(at, _)| at.partition);
        self.metadata
            .as_ref()
            .ok_or_else(|| error::unavailable(DOING, OrderError::Moved { partition }))
    }

    /// Gives back partitions that were asked back. The brokers hear of it when the last of them is given.
    pub(super) fn release(&mut self, partitions: &[i32]) -> Result<(), LogError> {
        let mut any = false;
        for partition in partitions {
            any |= self.awaiting.remove(partition);
            self.owned.remove(partition);
        }
        if !any || !self.awaiting.is_empty() {
            return Ok(());
        }
        self.consumer
            .incremental_unassign(&TopicPartitionList::new())
            .map_err(|error| error::of("giving partitions back", error, &self.identity))
    }

    /// Leaves the group for good: its partitions move at once.
    pub(super) fn leave(&mut self, within: Duration) -> Result<(), LogError> {
        const DOING: &str = "leaving the group";
        let deadline = Instant::now() + within;
        let wait = Duration::from_millis(20);
        // Who leaves must have joined: the brokers know the static member by the id that they gave to the last who joined.
        while !self.joined && Instant::now() < deadline {
            self.serve()?;
            std::thread::park_timeout(wait);
        }
        *self.consumer.context().stage.lock() = Stage::Leaving;
        self.end_revocation();
        // A static member that is closed stays in the group; one that unsubscribes leaves it.
        self.consumer.unsubscribe();
        loop {
            self.serve()?;
            if !admin::is_member(&self.shared, &self.identity)? {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(error::unavailable(DOING, OrderError::Unacknowledged));
            }
            std::thread::park_timeout(wait);
        }
    }

    /// librdkafka waits for the answer to a revocation before it does anything else, closing included.
    fn end_revocation(&mut self) {
        let unserved = !std::mem::take(&mut *self.consumer.context().told.lock())
            .rebalance
            .revoked
            .is_empty();
        if unserved || !self.awaiting.is_empty() {
            self.awaiting.clear();
            if let Err(error) = self
                .consumer
                .incremental_unassign(&TopicPartitionList::new())
            {
                tracing::warn!(target: "kafka", client = self.identity, %error, "giving partitions back failed");
            }
        }
    }

    /// What an error event means, if anything: most are librdkafka's own business, and heal.
    fn judge(&mut self, error: KafkaError) -> Option<LogError> {
        const DOING: &str = "being a member of the group";
        let fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
        match error::code(&error)? {
            Code::UnknownTopicOrPartition | Code::UnknownTopic => {
                Some(self.shared.missing(self.shared.settings.input))
            }
            code if error::is_fenced(code) => {
                self.fenced = true;
                Some(error::of(DOING, error, &self.identity))
            }
            code if fatal || code == Code::AllBrokersDown || error::is_refusal(code) => {
                Some(error::of(DOING, error, &self.identity))
            }
            _ => None,
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        *self.consumer.context().stage.lock() = Stage::Leaving;
        self.end_revocation();
        *self.consumer.context().stage.lock() = Stage::Closing;
    }
}

/// What the brokers said, until the next poll tells it.
#[derive(Debug, Default)]
struct Told {
    rebalance: Rebalance,
    changed: bool,
    served: u64,
}

/// How rebalances are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// What is asked back is given by `release`.
    Member,
    /// What is asked back is given at once.
    Leaving,
    /// The client is being closed: the first answer from now on is its last.
    Closing,
    /// The last answer is given. librdkafka may have asked twice, for an assignment and then for all of it; it is done with the
    /// first answer, and would never take notice of the second, for which we would wait without end.
    Closed,
}

/// Takes the rebalances of a group's client. librdkafka calls it from within `poll`, and from within closing.
struct Rebalances {
    logging: Logging,
    told: Mutex<Told>,
    stage: Mutex<Stage>,
}

impl Rebalances {
    fn served(&self) -> u64 {
        self.told.lock().served
    }
}

impl ConsumerContext for Rebalances {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        what: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let stage = {
            let mut stage = self.stage.lock();
            let now = *stage;
            if now == Stage::Closing {
                *stage = Stage::Closed;
            }
            now
        };
        if stage == Stage::Closed {
            return;
        }
        let numbers: Vec<i32> = partitions
            .elements()
            .iter()
            .map(TopicPartitionListElem::partition)
            .collect();
        let nothing = TopicPartitionList::new();
        let assign = what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        // With an assignment of nothing, always: librdkafka only wants to hear that we have heard.
        let answered = if assign {
            consumer.incremental_assign(&nothing)
        } else if consumer.assignment_lost() || stage != Stage::Member {
            let answered = consumer.incremental_unassign(&nothing);
            let mut told = self.told.lock();
            told.rebalance
                .assigned
                .retain(|partition| !numbers.contains(partition));
            told.rebalance
                .revoked
                .retain(|partition| !numbers.contains(partition));
            told.rebalance.lost.extend(&numbers);
            answered
        } else {
            self.told.lock().rebalance.revoked.extend(&numbers);
            Ok(())
        };
        let mut told = self.told.lock();
        if assign {
            told.rebalance.assigned.extend(&numbers);
        }
        told.changed = true;
        told.served += 1;
        if let Err(error) = answered {
            tracing::warn!(target: "kafka", %error, "answering a rebalance failed");
        }
    }
}

impl ClientContext for Rebalances {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.told.lock().served += 1;
        self.logging.log(level, facility, line);
    }

    fn stats(&self, _: Statistics) {}

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.logging.error(error, reason);
    }
}
