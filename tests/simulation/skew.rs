//! Rows that were scored, made again from the log when all is at rest: whatever crashed in between, none may differ.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::mpsc::Receiver;

use headwater_config::{Config, Topic};
use headwater_consumers::Metrics;
use headwater_consumers::log::{Log, PollLimit, RecordBatch, Start, TopicPartition};
use headwater_consumers::skew::{Again, Sample, Sampler, Told};
use headwater_state::Timestamp;

use crate::run::Tally;

/// Samples of one run at most.
const KEPT_MAX: usize = 300;

/// Who takes samples, and those that were taken.
pub(crate) struct Skew {
    sampler: Sampler,
    taken: Mutex<(Receiver<Sample>, Vec<Sample>)>,
    metrics: Metrics,
}

impl Skew {
    pub(crate) fn new(config: &Config) -> Option<Self> {
        let metrics = Metrics::register(&prometheus::Registry::new()).ok()?;
        let (sampler, samples) = Sampler::new(config, metrics.skew.clone())?;
        Some(Self {
            sampler,
            taken: Mutex::new((samples, Vec::new())),
            metrics,
        })
    }

    pub(crate) fn sampler(&self) -> Sampler {
        self.keep();
        self.sampler.clone()
    }

    /// Makes room for more.
    pub(crate) fn keep(&self) {
        let mut taken = self.taken.lock().expect("invariant: no lock is poisoned");
        let (samples, kept) = &mut *taken;
        let room = KEPT_MAX.saturating_sub(kept.len());
        kept.extend(samples.try_iter().take(room));
    }

    /// Holds what was taken against a log that has everything.
    pub(crate) fn judge(
        &self,
        log: &dyn Log,
        (config, partitions): (&Config, i32),
        now: Timestamp,
        tally: &mut Tally,
    ) -> Result<(), String> {
        self.keep();
        let mut taken = self.taken.lock().expect("invariant: no lock is poisoned");
        let samples = std::mem::take(&mut taken.1);
        let wrong = |error| format!("making rows again: {error:?}");
        let mut told = Told::new(
            config,
            &samples,
            (partitions, Timestamp::MIN),
            self.metrics.skew.clone(),
        );
        for partition in told.partitions() {
            told.begin(partition, 0);
            for record in read(log, TopicPartition::new(Topic::ItemDeltas, partition))?.iter() {
                told.take(&record, now).map_err(wrong)?;
            }
        }
        told.finish();
        let mut by_partition: BTreeMap<i32, Vec<Sample>> = BTreeMap::new();
        for sample in samples {
            let of = by_partition.entry(sample.partition).or_default();
            of.push(sample);
        }
        for (partition, samples) in by_partition {
            let metrics = self.metrics.skew.clone();
            let again = Again::new(config, partition, samples, 0, metrics);
            let mut again = again.map_err(wrong)?;
            let until = again.until();
            for record in read(log, TopicPartition::new(Topic::Behaviors, partition))?.iter() {
                if record.offset < until {
                    again.take(&record, now).map_err(wrong)?;
                }
            }
            again.finish(until).map_err(wrong)?;
        }
        let skew = &self.metrics.skew;
        tally.made_again += skew.rows.with_label_values(&["same"]).get();
        for (what, counters) in [("rows", &skew.rows), ("statistics", &skew.statistics)] {
            for outcome in ["differs", "unsure"] {
                let count = counters.with_label_values(&[outcome]).get();
                if count > 0 {
                    return Err(format!(
                        "of {what} made again from the log, {outcome}: {count}"
                    ));
                }
            }
        }
        Ok(())
    }
}

fn read(log: &dyn Log, of: TopicPartition) -> Result<RecordBatch, String> {
    let wrong = |error| format!("reading {of:?}: {error:?}");
    let mut reader = log.reader().map_err(wrong)?;
    reader.assign(of, Start::Beginning).map_err(wrong)?;
    let limit = PollLimit {
        records: 100_000,
        bytes: 1 << 30,
        wait: std::time::Duration::ZERO,
    };
    let mut batch = RecordBatch::default();
    reader.poll(limit, &mut batch).map_err(wrong)?;
    Ok(batch)
}
