//! The metrics of texts and their vectors.

use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};

/// Handles to every metric of texts.
#[derive(Clone, Debug)]
pub struct TextMetrics {
    /// Vectors looked up for rows, by outcome: hit, miss, `no_text`, failed.
    pub lookups: IntCounterVec,
    /// Texts sent to be embedded.
    pub asked: IntCounter,
    /// Texts embedded here.
    pub encoded: IntCounter,
    /// Texts that were asked for again, and had a vector.
    pub repeated: IntCounter,
    /// Tokens that went through the shallow layers.
    pub tokens: IntCounter,
    /// Time of a batch of texts.
    pub encode_seconds: Histogram,
    /// Texts that wait.
    pub queue: IntGauge,
    /// Age of the text that was taken last.
    pub queue_age: Gauge,
    /// Bytes of vectors in memory.
    pub memory: IntGauge,
}

const SECONDS: [f64; 11] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

impl TextMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            let metric = IntCounter::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauge = |name: &str, help: &str| {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let lookups = IntCounterVec::new(
            Opts::new(
                "headwater_consumers_text_vector_lookups_total",
                "Vectors of texts looked up for rows.",
            ),
            &["outcome"],
        )?;
        registry.register(Box::new(lookups.clone()))?;
        let encode_seconds = Histogram::with_opts(
            HistogramOpts::new(
                "headwater_consumers_text_encode_seconds",
                "Time of embedding one poll's texts.",
            )
            .buckets(SECONDS.to_vec()),
        )?;
        registry.register(Box::new(encode_seconds.clone()))?;
        let queue_age = Gauge::new(
            "headwater_consumers_text_queue_age_seconds",
            "How long the text that was taken last had waited.",
        )?;
        registry.register(Box::new(queue_age.clone()))?;
        Ok(Self {
            lookups,
            asked: counter(
                "headwater_consumers_texts_asked_total",
                "Texts sent to be embedded.",
            )?,
            encoded: counter(
                "headwater_consumers_texts_encoded_total",
                "Texts embedded by this instance.",
            )?,
            repeated: counter(
                "headwater_consumers_texts_repeated_total",
                "Texts that were sent to be embedded and had a vector already.",
            )?,
            tokens: counter(
                "headwater_consumers_text_tokens_total",
                "Tokens that went through the shallow layers here.",
            )?,
            encode_seconds,
            queue: gauge(
                "headwater_consumers_text_queue_records",
                "Texts of all partitions that wait to be embedded.",
            )?,
            queue_age,
            memory: gauge(
                "headwater_state_text_vectors_memory_bytes",
                "Vectors of texts in memory.",
            )?,
        })
    }
}
