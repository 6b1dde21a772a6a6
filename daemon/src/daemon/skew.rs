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

/// Offsets that are read between two looks whether to end.
const PIECE: i64 = 500_000;

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

/// Makes all that the samples are of again, and compares.
fn look(
    inner: &Inner,
    config: &Config,
    samples: Vec<Sample>,
    stopping: &Stopping,
) -> Result<(), Error> {
    let (log, metrics) = (&*inner.log, &inner.fast.skew);
    let mut told = Told::new(&samples, inner.found.partitions, metrics.clone());
    for partition in told.partitions() {
        let of = TopicPartition::new(Topic::ItemDeltas, partition);
        let extent = log.extent(of)?;
        if extent.first > 0 {
            told.is_cut(partition);
        }
        let whole = [extent.first, extent.next];
        if !read(log, of, whole, stopping, &mut |record| told.take(record))? {
            return Ok(());
        }
    }
    told.finish();
    let mut by_partition: BTreeMap<i32, Vec<Sample>> = BTreeMap::new();
    for sample in samples {
        let of = by_partition.entry(sample.partition).or_default();
        of.push(sample);
    }
    for (partition, samples) in by_partition {
        let of = TopicPartition::new(Topic::Behaviors, partition);
        let extent = log.extent(of)?;
        let mut again = Again::new(config, partition, samples, extent.first, metrics.clone())?;
        let until = again.until().min(extent.next);
        let now = Timestamp(unix_ms());
        let mut take = |record: &Record<'_>| again.take(record, now);
        if !read(log, of, [extent.first, until], stopping, &mut take)? {
            return Ok(());
        }
        again.finish(until)?;
    }
    Ok(())
}

/// Gives each record of a stretch to `take`; whether all were given: not where the thread is to end.
fn read(
    log: &dyn Log,
    of: TopicPartition,
    [mut from, until]: [i64; 2],
    stopping: &Stopping,
    take: &mut dyn FnMut(&Record<'_>) -> Result<(), Error>,
) -> Result<bool, Error> {
    while from < until {
        if stopping.is_set() {
            return Ok(false);
        }
        let next = until.min(from + PIECE);
        let stretch = Stretch {
            of,
            from,
            until: next,
        };
        let mut failed = None;
        scan::read(log, &[stretch], &mut |record| {
            if failed.is_none() {
                failed = take(record).err();
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        from = next;
    }
    Ok(true)
}
