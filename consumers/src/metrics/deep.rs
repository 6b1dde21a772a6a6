//! The metrics of what trained models look at: deep layers with their vectors, and key-vectors.

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Handles to every metric of deep layers.
#[derive(Clone, Debug)]
pub struct DeepMetrics {
    /// Vectors of users looked up for rows, one a sequence, by outcome: current, behind, empty, miss, late.
    pub users: IntCounterVec,
    /// Vectors of items looked up for rows, by outcome: hit, miss, `no_text`, failed.
    pub items: IntCounterVec,
    /// Runs that behaviors were taken into, by outcome: held in memory, or made anew.
    pub runs: IntCounterVec,
    /// Positions that went through the deep layers: behaviors, and the beginnings of runs.
    pub positions: IntCounter,
    /// Time of a batch of them.
    pub seconds: Histogram,
    /// Runs and items that wait.
    pub queue: IntGauge,
    /// Items of a champion, or a canary, that does not score yet, by state: made, missing.
    pub ahead: IntGaugeVec,
    /// Runs and items that were not taken in, because too many waited.
    pub dropped: IntCounter,
    /// Bytes in memory by part: runs, users, items.
    pub memory: IntGaugeVec,
    /// Rows for which a trained model gave what is no number.
    pub refused: IntCounter,
    /// Items left out of the key-vectors of rows, which a record of the feature log could not hold.
    pub left_out: IntCounter,
}

const SECONDS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

impl DeepMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let counter = |name: &str, help: &str| {
            let metric = IntCounter::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let seconds = Histogram::with_opts(
            HistogramOpts::new(
                "headwater_consumers_deep_seconds",
                "Time of a batch of positions through the deep layers.",
            )
            .buckets(SECONDS.to_vec()),
        )?;
        registry.register(Box::new(seconds.clone()))?;
        let queue = IntGauge::new(
            "headwater_consumers_deep_queue",
            "Runs and items that wait for the deep layers.",
        )?;
        registry.register(Box::new(queue.clone()))?;
        let ahead = IntGaugeVec::new(
            Opts::new(
                "headwater_consumers_ahead_items",
                "Items of an announced champion or canary that scores once their vectors are there.",
            ),
            &["state"],
        )?;
        registry.register(Box::new(ahead.clone()))?;
        let memory = IntGaugeVec::new(
            Opts::new(
                "headwater_consumers_deep_memory_bytes",
                "What deep layers hold in memory.",
            ),
            &["part"],
        )?;
        registry.register(Box::new(memory.clone()))?;
        let left_out = counter(
            "headwater_consumers_key_vectors_left_out_total",
            "Items left out of the key-vectors of rows, which a record of the feature log could not hold.",
        )?;
        let refused = counter(
            "headwater_consumers_scores_refused_total",
            "Requests for which a trained model gave what is no finite number: they have the baseline's scores.",
        )?;
        Ok(Self {
            refused,
            left_out,
            users: counters(
                "headwater_consumers_user_vector_lookups_total",
                "Vectors of users looked up for rows.",
                &["outcome"],
            )?,
            items: counters(
                "headwater_consumers_item_vector_lookups_total",
                "Vectors of items looked up for rows.",
                &["outcome"],
            )?,
            runs: counters(
                "headwater_consumers_deep_runs_total",
                "Runs that behaviors were taken into.",
                &["outcome"],
            )?,
            positions: counter(
                "headwater_consumers_deep_positions_total",
                "Positions that went through the deep layers.",
            )?,
            seconds,
            queue,
            ahead,
            dropped: counter(
                "headwater_consumers_deep_dropped_total",
                "Runs and items that were not taken in because too many waited.",
            )?,
            memory,
        })
    }
}
