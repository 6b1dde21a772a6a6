//! The thread that holds rows that were scored against the log: now and then it takes what workers have handed over, and makes it again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use headwater_config::{Config, Topic};
use headwater_consumers::log::{Log, Record, TopicPartition};
use headwater_consumers::skew::{Again, Sample, Told};
use headwater_consumers::{Error, words};
use headwater_state::Timestamp;

use super::Inner;
use super::pool::{LETS_PASS, lets_pass};
use crate::scan::{self, Stretch};
use crate::supervisor::{Stopping, TaskKind};
use crate::world::unix_ms;

/// Starts the thread, where workers hand rows over; `fast` is what they go by.
///
/// # Errors
/// If the system gives none.
pub(super) fn spawn(
    inner: &Arc<Inner>,
    fast: &Config,
    samples: Option<Receiver<Sample>>,
) -> std::io::Result<()> {
    let Some(samples) = samples else {
        return Ok(());
    };
    let (of, config) = (Arc::clone(inner), fast.clone());
    (inner.supervisor).spawn(TaskKind::Skew, "headwater-skew", move |stopping| {
        lets_pass(LETS_PASS);
        while !stopping.pause(config.skew.every.duration()) {
            let found: Vec<Sample> = samples.try_iter().collect();
            if found.is_empty() {
                continue;
            }
            let requests = found.len();
            match look(&of, &config, found, stopping) {
                Ok(()) if stopping.is_set() => {}
                Ok(()) => tracing::debug!(requests, "rows held against the log"),
                Err(error) => {
                    of.fast.skew.failed.inc();
                    let error = words(&error);
                    tracing::warn!(error, requests, "rows cannot be held against the log");
                }
            }
        }
        Ok(())
    })
}

/// Makes all that the samples are of again, and compares; of a partition that cannot be read the samples are left out, and the others are looked at all the same.
fn look(
    inner: &Inner,
    config: &Config,
    samples: Vec<Sample>,
    stopping: &Stopping,
) -> Result<(), Error> {
    let told = Told::new(
        config,
        &samples,
        (inner.found.partitions, Timestamp(inner.started)),
        inner.fast.skew.clone(),
    );
    let mut outcome = Ok(());
    let mut by_partition: BTreeMap<i32, Vec<Sample>> = BTreeMap::new();
    for sample in samples {
        let of = by_partition.entry(sample.partition).or_default();
        of.push(sample);
    }
    for (partition, samples) in by_partition {
        let requests = samples.len();
        let done = rows(inner, config, (partition, samples), stopping);
        if let (true, Some(sampler)) = (done.is_err(), &inner.sampler) {
            sampler.leave_out(requests);
        }
        outcome = outcome.and(done);
    }
    outcome.and(statistics(&*inner.log, told, stopping))
}

/// Makes the rows of one partition's samples again.
fn rows(
    inner: &Inner,
    config: &Config,
    (partition, samples): (i32, Vec<Sample>),
    stopping: &Stopping,
) -> Result<(), Error> {
    let (log, metrics) = (&*inner.log, inner.fast.skew.clone());
    let of = TopicPartition::new(Topic::Behaviors, partition);
    let extent = log.extent(of)?;
    let mut again = Again::new(config, partition, samples, extent.first, metrics)?;
    let until = again.until().min(extent.next);
    let now = Timestamp(unix_ms());
    let stretch = Stretch {
        of,
        from: extent.first,
        until,
    };
    if read(log, stretch, stopping, &mut |record: &Record<'_>| {
        again.take(record, now)
    })? {
        again.finish(until)?;
    }
    Ok(())
}

/// Makes statistics again.
fn statistics(log: &dyn Log, mut told: Told, stopping: &Stopping) -> Result<(), Error> {
    let now = Timestamp(unix_ms());
    for partition in told.partitions() {
        let of = TopicPartition::new(Topic::ItemDeltas, partition);
        let extent = log.extent(of)?;
        told.begin(partition, extent.first);
        let stretch = Stretch {
            of,
            from: extent.first,
            until: extent.next,
        };
        if !read(log, stretch, stopping, &mut |record: &Record<'_>| {
            told.take(record, now)
        })? {
            return Ok(());
        }
    }
    told.finish();
    Ok(())
}

/// Gives each record of a stretch to `take`; whether all were given: not where the thread is to end.
fn read(
    log: &dyn Log,
    stretch: Stretch,
    stopping: &Stopping,
    take: &mut dyn FnMut(&Record<'_>) -> Result<(), Error>,
) -> Result<bool, Error> {
    let mut outcome = Ok(true);
    scan::read_while(log, &[stretch], &mut |record| {
        outcome = if stopping.is_set() {
            Ok(false)
        } else {
            take(record).map(|()| true)
        };
        matches!(outcome, Ok(true))
    })?;
    outcome
}
