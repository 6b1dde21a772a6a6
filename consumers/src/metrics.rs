//! The fast loop's metrics. Names and labels are the constants below; `docs/metrics.md` lists them, and a test holds the two together.

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

mod deep;
mod labels;
mod skew;
mod texts;

pub use deep::DeepMetrics;
pub use labels::LabelMetrics;
pub use skew::SkewMetrics;
pub use texts::TextMetrics;

/// The parts of [`Metrics::beside_bytes`]: what a partition holds beside its users.
pub const BESIDE_USERS: [&str; 2] = ["timers", "statistics"];

/// Handles to every metric of this crate.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Event time of what caused a score, to its publication, by scenario.
    pub freshness: HistogramVec,
    /// Time of a step's stages: poll, step, send, commit; and of a commit's: acknowledge, positions, decide.
    pub step_seconds: HistogramVec,
    /// Records polled, by topic.
    pub polled: IntCounterVec,
    /// Records that became dead letters, by topic and reason.
    pub dead_lettered: IntCounterVec,
    /// Records in a partition that their key does not belong to, by topic.
    pub misplaced: IntCounterVec,
    /// Records lost to retention before they were read, by topic.
    pub gap: IntCounterVec,
    /// Records behind the end of the input, by topic and partition.
    pub lag: IntGaugeVec,
    /// Errors by reaction.
    pub errors: IntCounterVec,
    /// Steps committed.
    pub steps: IntCounter,
    /// Behaviors folded.
    pub folded: IntCounterVec,
    /// Behaviors not folded, by reason: duplicate, late.
    pub dropped: IntCounterVec,
    /// Behaviors that were late and counted all the same.
    pub late_kept: IntCounter,
    /// Entries forgotten by retention.
    pub forgotten: IntCounter,
    /// Newest event time, by partition.
    pub watermark: IntGaugeVec,
    /// Score requests by outcome.
    pub requests: IntCounterVec,
    /// Candidates scored, by scenario.
    pub scores: IntCounterVec,
    /// Changelog records and bytes.
    pub changelog_records: IntCounter,
    /// Bytes of keys and values sent to the changelog.
    pub changelog_bytes: IntCounter,
    /// Partitions owned, by state: working, restoring.
    pub partitions: IntGaugeVec,
    /// Changelog records still to be applied, by partition.
    pub restore_remaining: IntGaugeVec,
    /// Lookups of users by outcome: hit, miss.
    pub cache_lookups: IntCounterVec,
    /// Users dropped from memory.
    pub cache_evictions: IntCounter,
    /// Bytes of users in memory, by partition.
    pub memory_bytes: IntGaugeVec,
    /// Bytes of a partition beside its users, by partition and part: timers, statistics.
    pub beside_bytes: IntGaugeVec,
    /// Bytes of the item table by part: items, names, statistics.
    pub item_table_bytes: IntGaugeVec,
    /// Values written back to the store.
    pub written_back: IntCounter,
    /// Time of a write-back.
    pub write_back_seconds: Histogram,
    /// Items in the table.
    pub items: IntGauge,
    /// Item records older than the one that held, left out.
    pub items_out_of_order: IntCounter,
    /// Item records written again behind an older one.
    pub items_put_back: IntCounter,
    /// Labels of scored rows.
    pub labels: LabelMetrics,
    /// Texts and their vectors.
    pub texts: TextMetrics,
    /// Deep layers and their vectors.
    pub deep: DeepMetrics,
    /// Rows that are held against the log.
    pub skew: SkewMetrics,
}

const FAST: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
    2.5, 10.0,
];
const FRESH: [f64; 15] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 900.0, 7200.0,
];

/// A metric, registered.
fn registered<M: Collector + Clone + 'static>(
    registry: &Registry,
    metric: M,
) -> Result<M, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

impl Metrics {
    /// Makes and registers every metric.
    ///
    /// # Errors
    /// If the registry has one of that name already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| registered(registry, IntCounter::new(name, help)?);
        let counters = |name: &str, help: &str, labels: &[&str]| {
            registered(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            registered(registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
        };
        let histograms = |name: &str, help: &str, labels: &[&str], buckets: &[f64]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            registered(registry, HistogramVec::new(options, labels)?)
        };
        Ok(Self {
            freshness: histograms(
                "headwater_consumers_freshness_seconds",
                "From the event time of a behavior to the commit of the step that counted it.",
                &["scenario"],
                &FRESH,
            )?,
            step_seconds: histograms(
                "headwater_consumers_step_seconds",
                "Time of a step's stages.",
                &["stage"],
                &FAST,
            )?,
            polled: counters(
                "headwater_consumers_records_polled_total",
                "Records polled.",
                &["topic"],
            )?,
            dead_lettered: counters(
                "headwater_consumers_records_dead_lettered_total",
                "Records that could not be read, and are dead letters now.",
                &["topic", "reason"],
            )?,
            misplaced: counters(
                "headwater_consumers_records_misplaced_total",
                "Records in a partition that their key does not belong to.",
                &["topic"],
            )?,
            gap: counters(
                "headwater_consumers_records_gap_total",
                "Records that the log's retention deleted before they were read.",
                &["topic"],
            )?,
            lag: gauges(
                "headwater_consumers_lag_records",
                "Records behind the end of the input.",
                &["topic", "partition"],
            )?,
            errors: counters(
                "headwater_consumers_errors_total",
                "Errors, by what was done about them.",
                &["reaction"],
            )?,
            steps: counter("headwater_consumers_steps_total", "Steps committed.")?,
            folded: counters(
                "headwater_state_behaviors_folded_total",
                "Behaviors counted in state.",
                &["scenario"],
            )?,
            dropped: counters(
                "headwater_state_behaviors_dropped_total",
                "Behaviors not counted.",
                &["reason"],
            )?,
            late_kept: counter(
                "headwater_state_behaviors_late_kept_total",
                "Behaviors that were late and counted.",
            )?,
            forgotten: counter(
                "headwater_state_entries_forgotten_total",
                "Entries of history forgotten by retention.",
            )?,
            watermark: gauges(
                "headwater_state_watermark_timestamp_seconds",
                "Newest event time of a partition.",
                &["partition"],
            )?,
            requests: counters(
                "headwater_consumers_requests_total",
                "Score requests by outcome.",
                &["outcome"],
            )?,
            scores: counters(
                "headwater_model_scores_total",
                "Candidates scored.",
                &["scenario", "role"],
            )?,
            changelog_records: counter(
                "headwater_consumers_changelog_records_total",
                "Records sent to the changelog.",
            )?,
            changelog_bytes: counter(
                "headwater_consumers_changelog_bytes_total",
                "Bytes of keys and values sent to the changelog.",
            )?,
            partitions: gauges(
                "headwater_consumers_partitions",
                "Partitions owned, by state.",
                &["state"],
            )?,
            restore_remaining: gauges(
                "headwater_state_restore_remaining_records",
                "Changelog records still to be applied.",
                &["partition"],
            )?,
            cache_lookups: counters(
                "headwater_state_cache_lookups_total",
                "Lookups of users in memory.",
                &["outcome"],
            )?,
            cache_evictions: counter(
                "headwater_state_cache_evictions_total",
                "Users dropped from memory.",
            )?,
            memory_bytes: gauges(
                "headwater_state_memory_bytes",
                "Users in memory.",
                &["partition"],
            )?,
            beside_bytes: gauges(
                "headwater_state_memory_beside_users_bytes",
                "What a partition holds in memory beside users.",
                &["partition", "part"],
            )?,
            item_table_bytes: gauges(
                "headwater_state_item_table_bytes",
                "The item table.",
                &["part"],
            )?,
            written_back: counter(
                "headwater_state_values_written_back_total",
                "Values written back to the store.",
            )?,
            write_back_seconds: write_backs(registry)?,
            items: items(registry)?,
            items_out_of_order: counter(
                "headwater_consumers_items_out_of_order_total",
                "Item records older than the one that holds, left out.",
            )?,
            items_put_back: counter(
                "headwater_consumers_items_put_back_total",
                "Item records written again behind an older one.",
            )?,
            labels: LabelMetrics::register(registry)?,
            texts: TextMetrics::register(registry)?,
            deep: DeepMetrics::register(registry)?,
            skew: SkewMetrics::register(registry)?,
        })
    }

    /// Notes what a partition holds beside its users, in the order of [`BESIDE_USERS`].
    pub(crate) fn beside_users(&self, number: i32, bytes: [usize; 2]) {
        let number = number.to_string();
        for (part, bytes) in BESIDE_USERS.into_iter().zip(bytes) {
            let gauge = self.beside_bytes.with_label_values(&[&number, part]);
            gauge.set(bytes as i64);
        }
    }
}

fn items(registry: &Registry) -> Result<IntGauge, prometheus::Error> {
    let items = IntGauge::new("headwater_state_items", "Items in the item table.")?;
    registry.register(Box::new(items.clone()))?;
    Ok(items)
}

fn write_backs(registry: &Registry) -> Result<Histogram, prometheus::Error> {
    let name = "headwater_state_write_back_seconds";
    let help = "Time of a write-back to the store.";
    let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(FAST.to_vec()))?;
    registry.register(Box::new(histogram.clone()))?;
    Ok(histogram)
}
