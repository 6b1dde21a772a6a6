//! The daemon's own metrics. `docs/metrics.md` lists them with those of all crates, and a test holds the page against the registry.

use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

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
    /// Trainings by outcome: promoted, `on_trial`, kept, `too_few`, failed, stopped.
    pub trainings: IntCounterVec,
    /// Trials by seat and outcome: canary, promoted, dropped, `went_back`, failed.
    pub trials: IntCounterVec,
    /// Labelled rows of a trial's last look.
    pub trial_rows: IntGaugeVec,
    /// By how many errors the model on trial was better then.
    pub trial_z: GaugeVec,
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
        let trainings = IntCounterVec::new(
            Opts::new(
                "headwater_daemon_trainings_total",
                "Trainings on what was scored.",
            ),
            &["outcome"],
        )?;
        registry.register(Box::new(trainings.clone()))?;
        let trials = IntCounterVec::new(
            Opts::new(
                "headwater_daemon_trials_total",
                "Trials of models beside the champion, and what became of them.",
            ),
            &["seat", "outcome"],
        )?;
        registry.register(Box::new(trials.clone()))?;
        let trial_rows = IntGaugeVec::new(
            Opts::new(
                "headwater_daemon_trial_rows",
                "Labelled rows of a trial's last look.",
            ),
            &["seat"],
        )?;
        registry.register(Box::new(trial_rows.clone()))?;
        let trial_z = GaugeVec::new(
            Opts::new(
                "headwater_daemon_trial_z",
                "By how many errors the model on trial was better at the last look.",
            ),
            &["seat"],
        )?;
        registry.register(Box::new(trial_z.clone()))?;
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
            trainings,
            trials,
            trial_rows,
            trial_z,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Type and labels.
    type Form = (String, Vec<String>);

    /// The metrics that a page's tables list.
    fn of_page(page: &str) -> BTreeMap<String, Form> {
        page.lines()
            .filter_map(|line| {
                let cells: Vec<&str> = line.split('|').map(str::trim).collect();
                let [_, name, kind, labels, meaning, _] = cells[..] else {
                    return None;
                };
                let name = name.strip_prefix("`headwater_")?.strip_suffix('`')?;
                assert!(meaning.ends_with('.'), "{name} says nothing");
                let labels = labels.split(',').map(|label| label.trim().to_owned());
                let labels = labels.filter(|label| !label.is_empty()).collect();
                Some((format!("headwater_{name}"), (kind.to_owned(), labels)))
            })
            .collect()
    }

    /// The metrics that a source file makes: the type is the word before a name, the labels are the list after it.
    fn of_source(source: &str) -> BTreeMap<String, Form> {
        let source = source.split("#[cfg(test)]").next().unwrap();
        let parts: Vec<&str> = source.split("\"headwater_").collect();
        parts
            .windows(2)
            .map(|pair| {
                let before = pair[0].to_lowercase();
                let kind = ["histogram", "counter", "gauge"]
                    .into_iter()
                    .max_by_key(|kind| before.rfind(kind))
                    .unwrap();
                let (name, after) = pair[1].split_once('"').unwrap();
                // Up to the call's end: the next metric's labels are not this one's.
                let call = after.split(")?").next().unwrap();
                let labels = call
                    .split_once("&[")
                    .map_or("", |(_, list)| list.split(']').next().unwrap());
                let labels = labels
                    .split(',')
                    .map(|label| label.trim().trim_matches('"').to_owned())
                    .filter(|label| !label.is_empty())
                    .collect();
                (format!("headwater_{name}"), (kind.to_owned(), labels))
            })
            .collect()
    }

    /// Goal: docs/metrics.md lists what there is, and nothing else. Method: names, types and labels of the sources against the page's tables;
    /// and a second metric of each name on the page must be refused by a registry that has them all.
    #[test]
    fn the_page_lists_every_metric() {
        let page = of_page(include_str!("../../docs/metrics.md"));
        let mut made = of_source(include_str!("metrics.rs"));
        made.extend(of_source(include_str!("../../consumers/src/metrics.rs")));
        made.extend(of_source(include_str!(
            "../../consumers/src/metrics/deep.rs"
        )));
        for of_part in [
            include_str!("../../consumers/src/metrics/labels.rs"),
            include_str!("../../consumers/src/metrics/skew.rs"),
            include_str!("../../consumers/src/metrics/texts.rs"),
        ] {
            made.extend(of_source(of_part));
        }
        assert_eq!(page, made);

        let registry = Registry::new();
        headwater_consumers::Metrics::register(&registry).unwrap();
        Metrics::register(&registry).unwrap();
        for (name, (_, labels)) in &page {
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            let second = IntGaugeVec::new(Opts::new(name, "a second one"), &labels).unwrap();
            assert!(
                registry.register(Box::new(second)).is_err(),
                "{name} is not registered"
            );
        }
    }
}
