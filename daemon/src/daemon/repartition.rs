//! The thread that brings a source that is not keyed by user into order, and what the fast loop then reads.
//!
//! Before it, `[source.behaviors] repartition = true`; after it, workers whose behaviors topic is the repartition topic, in Headwater's own
//! form. The two topics have changed places between the logs: in the stage's, behaviors are the source; in everybody else's, behaviors
//! are what the stage writes, and [`Topic::Repartition`] is the source.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use headwater_config::{Config, LogKind, Topic};
use headwater_consumers::log::kafka::{KafkaLog, KafkaSettings};
use headwater_consumers::log::{Log, TopicFacts, TopicPartition};
use headwater_consumers::repartition::{GROUP_SUFFIX, LABEL, Repartition};
use headwater_consumers::stage::Stage;
use headwater_consumers::{Error, Metrics, Reaction, words};

use super::back_off::BackOff;
use super::error::{StartError, StopError};
use super::kafka_settings;
use crate::fleet::ANNOUNCE_EVERY;
use crate::status::{Board, Stage as Phase, WorkerStatus};
use crate::supervisor::Stopping;
use crate::topics::{self, CheckError, Fault, Faults, Found};
use crate::world::SystemWorld;

/// The configuration by which the fast loop goes: the daemon's own, or, where a source is repartitioned, one whose behaviors are the
/// repartition topic in Headwater's own form.
pub(crate) fn of_fast_loop(config: &Config) -> Config {
    let mut fast = config.clone();
    if config.source.behaviors.repartition {
        fast.source.behaviors = Config::default_config().source.behaviors;
        std::mem::swap(&mut fast.topics.behaviors, &mut fast.topics.repartition);
    }
    fast
}

/// The log of the stage, if there is one; `brought` is whether the host brings the daemon's log.
///
/// # Errors
/// Where the log has no second group, or the brokers do not answer.
pub(crate) fn open_log(config: &Config, brought: bool) -> Result<Option<Arc<dyn Log>>, StartError> {
    if !config.source.behaviors.repartition {
        return Ok(None);
    }
    if brought || config.log.kind == LogKind::Embedded {
        return Err(StartError::RepartitionEmbedded);
    }
    Ok(Some(Arc::new(KafkaLog::connect(settings(config))?)))
}

/// The settings of the stage's clients: a group of its own, and transactional ids with it.
fn settings(config: &Config) -> KafkaSettings {
    let mut settings = kafka_settings(config);
    settings.group.push_str(GROUP_SUFFIX);
    // What the fast loop may repeat to its readers, the stage may not: state counts what it writes.
    settings.send_now = false;
    settings
}

/// Holds all topics against what they must be, the source too, and tells each by the key that names it.
pub(super) fn check(config: &Config, log: &dyn Log) -> Result<Found, CheckError> {
    if !config.source.behaviors.repartition {
        return topics::check(config, log);
    }
    let (found, mut faults) = match topics::check(&of_fast_loop(config), log) {
        Ok(found) => (Some(found), Vec::new()),
        Err(CheckError::Faults(Faults(faults))) => (None, faults),
        Err(error @ CheckError::Log(_)) => return Err(error),
    };
    for fault in &mut faults {
        if fault.key == Topic::Behaviors.key() {
            fault.key = Topic::Repartition.key();
        }
    }
    let reason = match log.describe(Topic::Repartition)? {
        None => Some(
            "does not exist; it is the source of behaviors (source.behaviors.repartition), and who writes to it makes it".to_owned(),
        ),
        Some(TopicFacts { cleanup_policy, .. }) if cleanup_policy.contains("compact") => Some(format!(
            "has cleanup.policy={cleanup_policy}: compaction keeps one record a key, and the others are lost unless they are read in time"
        )),
        Some(_) => None,
    };
    faults.extend(reason.map(|reason| Fault {
        key: Topic::Behaviors.key(),
        name: config.topic_name(Topic::Behaviors),
        reason,
    }));
    match found {
        Some(found) if faults.is_empty() => Ok(found),
        _ => Err(CheckError::Faults(Faults(faults))),
    }
}

/// What the thread works with.
pub(super) struct Repartitioning {
    pub(super) instance: String,
    /// The daemon's own configuration, which names the source and has its mapping.
    pub(super) config: Config,
    pub(super) found: Found,
    pub(super) log: Arc<dyn Log>,
    pub(super) metrics: Metrics,
    pub(super) board: Arc<Board>,
}

impl Repartitioning {
    pub(super) fn run(&self, stopping: &Stopping) -> Result<(), StopError> {
        let outcome = self.work(stopping);
        self.tell(Phase::Ended, None);
        outcome.map_err(StopError::Repartition)
    }

    fn work(&self, stopping: &Stopping) -> Result<(), Error> {
        let Some(mut stage) = self.join(stopping)? else {
            return Ok(());
        };
        let mut pauses = BackOff::new();
        let mut told: Option<Option<String>> = None;
        let mut measured: Option<Instant> = None;
        let mut here = BTreeSet::new();
        while !stopping.is_set() {
            stage.turn()?;
            if measured.is_none_or(|at| at.elapsed() >= ANNOUNCE_EVERY) {
                measured = Some(Instant::now());
                self.measure(&stage, &mut here);
            }
            let trouble = stage.trouble().map(str::to_owned);
            if stage.has_failed() {
                stopping.pause(pauses.next());
            } else if trouble.is_none() {
                pauses.reset();
            }
            if told.as_ref() != Some(&trouble) {
                self.tell(Phase::Running, trouble.clone());
                told = Some(trouble);
            }
        }
        tracing::info!(partitions = ?stage.reading().keys().collect::<Vec<_>>(), "letting the source go");
        stage.stop(stopping.forever())
    }

    /// Tells how far behind the source is read, of the partitions that are read here; what the brokers do not say now is told the next time.
    fn measure(&self, stage: &Stage<Repartition>, here: &mut BTreeSet<i32>) {
        let lag = &self.metrics.lag;
        for (number, next) in stage.reading() {
            let at = TopicPartition::new(Topic::Behaviors, *number);
            if let (Some(next), Ok(extent)) = (next, self.log.extent(at)) {
                lag.with_label_values(&[LABEL, &number.to_string()])
                    .set((extent.next - next).max(0));
                here.insert(*number);
            }
        }
        // Another instance's to tell.
        here.retain(|number| {
            let is_here = stage.reading().contains_key(number);
            if !is_here {
                drop(lag.remove_label_values(&[LABEL, &number.to_string()]));
            }
            is_here
        });
    }

    /// Becomes a member. Brokers that are away are waited for.
    fn join(&self, stopping: &Stopping) -> Result<Option<Stage<Repartition>>, Error> {
        let mut pauses = BackOff::new();
        self.tell(Phase::Joining, None);
        loop {
            let error = match self.log.member(&self.instance, 0) {
                Ok(member) => {
                    return Ok(Some(Repartition::stage(
                        &self.config,
                        Arc::clone(&self.log),
                        member,
                        (self.found.partitions, self.found.dead_letters),
                        self.metrics.clone(),
                        Box::new(SystemWorld),
                    )));
                }
                Err(error) => Error::from(error),
            };
            if error.reaction() != Reaction::Retry {
                return Err(error);
            }
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot join the group of the source"
            );
            self.tell(Phase::Joining, Some(words(&error)));
            if stopping.pause(pauses.next()) {
                return Ok(None);
            }
        }
    }

    /// The stage is told of as the worker after the last, so that its trouble is the daemon's. It has no partitions of users.
    fn tell(&self, stage: Phase, trouble: Option<String>) {
        self.board.tell(WorkerStatus {
            number: self.config.instance.workers,
            stage,
            trouble,
            ..WorkerStatus::default()
        });
    }
}
