//! The thread that speaks to the fleet and, since it wakes every few seconds anyway, measures what is not measured in a step.

use std::collections::BTreeSet;
use std::time::Instant;

use headwater_config::Topic;
use headwater_consumers::log::LogError;

use super::Inner;
use super::back_off::BackOff;
use super::error::StopError;
use crate::fleet::{self, ANNOUNCE_EVERY, Announcement, Speaker};
use crate::supervisor::Stopping;

/// Speaks until it is told to end. Brokers that are away are waited for.
pub(crate) fn run(inner: &Inner, stopping: &Stopping) -> Result<(), StopError> {
    let mut pauses = BackOff::new();
    let mut speaker: Option<Speaker> = None;
    let mut measured: Option<Instant> = None;
    let mut here = Vec::new();
    let mut warned = BTreeSet::new();
    while !stopping.is_set() {
        let due = measured.is_none_or(|at| at.elapsed() >= ANNOUNCE_EVERY);
        match turn(inner, &mut speaker, due.then_some(&mut here)) {
            Ok(()) => {
                pauses.reset();
                if due {
                    measured = Some(Instant::now());
                    warn_of_others(inner, &mut warned);
                }
            }
            Err(error @ (LogError::Unavailable { .. } | LogError::OutOfRange { .. })) => {
                // A reader is made anew: what it held may be of a topic that is no more.
                speaker = None;
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "fleet topic not reached"
                );
                stopping.pause(pauses.next());
            }
            Err(
                error @ (LogError::Fenced { .. }
                | LogError::NoTopic { .. }
                | LogError::Refused { .. }
                | LogError::Io { .. }
                | LogError::Damaged { .. }),
            ) => return Err(StopError::Fleet(error)),
        }
    }
    // The last word is a courtesy: without it the announcement grows old.
    if let Some(mut speaker) = speaker {
        let said = if stopping.forever() || !stopping.failed() {
            speaker.leave(&inner.identity.instance)
        } else {
            // It is started again, and somebody looks for it until then.
            let mut said = announcement(inner);
            said.working.clear();
            said.restoring.clear();
            speaker.announce(said)
        };
        if let Err(error) = said {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the fleet was not told of the stop"
            );
        }
    }
    Ok(())
}

/// Says once of each instance that it goes by another configuration: what a user's rows are made of would depend on who owns him.
fn warn_of_others(inner: &Inner, warned: &mut BTreeSet<(String, String)>) {
    let ours = &inner.config_hash;
    for other in inner.fleet.of_other_configurations(ours, fleet::now()) {
        if warned.insert(other.clone()) {
            let (instance, config_hash) = other;
            tracing::warn!(
                instance,
                config_hash,
                ours,
                "another instance of the group goes by another configuration"
            );
        }
    }
}

fn turn(
    inner: &Inner,
    speaker: &mut Option<Speaker>,
    measure: Option<&mut Vec<i32>>,
) -> Result<(), LogError> {
    let speaker = if let Some(speaker) = speaker {
        speaker
    } else {
        let name = inner.config.topic_name(Topic::Fleet);
        speaker.insert(Speaker::new(&*inner.log, &name, inner.fleet.clone())?)
    };
    speaker.listen()?;
    speaker.announce(announcement(inner))?;
    inner.readiness();
    if let Some(measured) = measure {
        self::measure(inner, measured)?;
    }
    Ok(())
}

fn announcement(inner: &Inner) -> Announcement {
    let status = inner.status();
    Announcement {
        instance: inner.identity.instance.clone(),
        address: inner.told_address.clone(),
        working: status.working().collect(),
        restoring: status.restoring().collect(),
        version: crate::VERSION.to_owned(),
        config_hash: inner.config_hash.clone(),
        time: fleet::now(),
    }
}

fn measure(inner: &Inner, measured: &mut Vec<i32>) -> Result<(), LogError> {
    let now = fleet::now();
    inner.metrics.fleet.set(inner.fleet.fresh(now) as i64);
    if let Ok(bytes) = inner.stores.disk_bytes() {
        inner.metrics.store_bytes.set(bytes as i64);
    }
    let status = inner.status();
    let partitions = &inner.fast.partitions;
    partitions
        .with_label_values(&["working"])
        .set(status.working().count() as i64);
    partitions
        .with_label_values(&["restoring"])
        .set(status.restoring().count() as i64);
    let positions: Vec<_> = inner.positions.lock().values().flatten().copied().collect();
    // Each costs a question to the brokers: of many partitions some are asked each time, in turn.
    let turns = positions.len().div_ceil(EXTENTS_A_TURN).max(1);
    let turn = now.unsigned_abs() / ANNOUNCE_EVERY.as_millis() as u64 % turns as u64;
    for (at, next) in positions.iter().skip(turn as usize).step_by(turns) {
        let behind = inner.log.extent(*at)?.next - next;
        let number = at.partition.to_string();
        let lag = &inner.fast.lag;
        lag.with_label_values(&[at.topic.key(), &number])
            .set(behind.max(0));
    }
    // A partition that has moved is another instance's to measure. Any of these may never have been set.
    let here: Vec<i32> = status.working().chain(status.restoring()).collect();
    for gone in measured.iter().filter(|old| !here.contains(old)) {
        let number = gone.to_string();
        for topic in INPUTS {
            drop(inner.fast.lag.remove_label_values(&[topic.key(), &number]));
        }
        let fast = &inner.fast;
        for gauge in [&fast.watermark, &fast.memory_bytes, &fast.restore_remaining] {
            drop(gauge.remove_label_values(&[&number]));
        }
        for part in headwater_consumers::BESIDE_USERS {
            drop(fast.beside_bytes.remove_label_values(&[&number, part]));
        }
    }
    *measured = here;
    Ok(())
}

/// Extents that are asked for in one turn: at 1 ms each the others do not wait for our announcement.
const EXTENTS_A_TURN: usize = 96;
/// The topics that have a lag.
const INPUTS: [Topic; 3] = [Topic::Behaviors, Topic::ScoreRequests, Topic::ItemDeltas];
