//! The metrics of labels.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// Handles to every metric of labels.
#[derive(Clone, Debug)]
pub struct LabelMetrics {
    /// Scored rows by what became of them: opened, released, corrected.
    pub rows: IntCounterVec,
    /// Examples by what became of them: published, `left_out`.
    pub examples: IntCounterVec,
    /// Impressions by outcome: matched, unmatched.
    pub impressions: IntCounterVec,
    /// Rows given up before their labels were final.
    forgotten: IntCounter,
}

impl LabelMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let forgotten = IntCounter::new(
            "headwater_consumers_label_rows_forgotten_total",
            "Rows given up before their labels were final.",
        )?;
        registry.register(Box::new(forgotten.clone()))?;
        Ok(Self {
            rows: counters(
                "headwater_consumers_label_rows_total",
                "Scored rows that may become examples.",
                &["what"],
            )?,
            examples: counters(
                "headwater_consumers_label_examples_total",
                "Shown items of rows whose labels are final.",
                &["what"],
            )?,
            impressions: counters(
                "headwater_consumers_label_impressions_total",
                "Impressions, by whether they show an open row.",
                &["outcome"],
            )?,
            forgotten,
        })
    }

    pub(crate) fn forgotten(&self, rows: u64) {
        self.forgotten.inc_by(rows);
    }
}
