//! The daemon's own metrics. `docs/metrics.md` lists them with those of all crates, and a test holds the page against the registry.

use prometheus::{IntCounter, IntGauge, IntGaugeVec, Opts, Registry};

/// Handles to every metric of this crate.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// 1 where the daemon is ready.
    pub ready: IntGauge,
    /// When it was started.
    pub start: IntGauge,
    /// Stores that did not open.
    pub put_aside: IntCounter,
    /// Copies that were away for too long.
    pub discarded: IntCounter,
    /// Instances that announced themselves lately.
    pub fleet: IntGauge,
    /// Bytes of the stores on disk.
    pub store_bytes: IntGauge,
}

impl Metrics {
    /// Makes and registers every metric.
    ///
    /// # Errors
    /// If the registry has one of that name already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let counter = |name: &str, help: &str| {
            let metric = IntCounter::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let build = IntGaugeVec::new(
            Opts::new("headwater_daemon_build_info", "What runs; always 1."),
            &["version"],
        )?;
        registry.register(Box::new(build.clone()))?;
        build.with_label_values(&[crate::VERSION]).set(1);
        Ok(Self {
            ready: gauge(
                "headwater_daemon_ready",
                "1 where the daemon is ready, else 0.",
            )?,
            start: gauge(
                "headwater_daemon_start_timestamp_seconds",
                "When the daemon was started.",
            )?,
            put_aside: counter(
                "headwater_daemon_stores_put_aside_total",
                "Store folders that did not open and were renamed.",
            )?,
            discarded: counter(
                "headwater_daemon_copies_discarded_total",
                "Local copies of partitions that were away for too long.",
            )?,
            fleet: gauge(
                "headwater_daemon_fleet_instances",
                "Instances that announced themselves lately, this one included.",
            )?,
            store_bytes: gauge(
                "headwater_state_store_bytes",
                "Bytes of the stores on disk.",
            )?,
        })
    }
}
