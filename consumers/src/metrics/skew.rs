//! The metrics of rows that are held against the log.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use super::registered;

/// Handles to every metric of skew.
#[derive(Clone, Debug)]
pub struct SkewMetrics {
    /// Requests by what became of them: same, differs, unsure, `left_out`.
    pub rows: IntCounterVec,
    /// Entities of statistics: same, differs, unsure.
    pub statistics: IntCounterVec,
    /// Records read for it.
    pub records: IntCounter,
    /// Looks that could not be had.
    pub failed: IntCounter,
}

impl SkewMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            registered(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let counter = |name: &str, help: &str| registered(registry, IntCounter::new(name, help)?);
        let skew = Self {
            rows: counters(
                "headwater_consumers_skew_rows_total",
                "Scored requests whose rows were made again from the log, by outcome.",
                &["outcome"],
            )?,
            statistics: counters(
                "headwater_consumers_skew_statistics_total",
                "Entities whose statistics were made again from the item deltas, by outcome.",
                &["outcome"],
            )?,
            records: counter(
                "headwater_consumers_skew_records_total",
                "Records read to make rows and statistics again.",
            )?,
            failed: counter(
                "headwater_consumers_skew_looks_failed_total",
                "Looks that ended before their time, because the log or memory failed.",
            )?,
        };
        // All are there from the beginning: what goes from nothing to some is no increase to Prometheus.
        for outcome in ["same", "differs", "unsure", "left_out"] {
            skew.rows.with_label_values(&[outcome]);
            skew.statistics.with_label_values(&[outcome]);
        }
        Ok(skew)
    }
}
