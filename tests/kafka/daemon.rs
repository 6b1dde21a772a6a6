//! The whole daemon over Apache Kafka, in this process: started with a configuration of its own, fed, and looked at by its metrics.

use std::path::Path;

use headwater::daemon::open_log;
use headwater::{Handle, topics};
use headwater_config::{Config, Topic};
use headwater_consumers::log::{Log, LogError, Outgoing, TopicPartition};
use headwater_consumers::partitioner::partition_of;
use serde_json::json;

use crate::broker::until;

pub(crate) const PARTITIONS: i32 = 4;

/// A configuration with topics and a group that nobody else has.
pub(crate) fn config(brokers: &str, test: &str, state: &Path, more: &str) -> Config {
    let toml = format!(
        "kafka.brokers = \"{brokers}\"\ninstance.id = \"one\"\ninstance.prefix = \"{test}-{}.\"\ntopics.partitions = {PARTITIONS}\n\
         state.path = \"{}\"\nadmin.address = \"\"\nscoring.on_behavior = \"item\"\nscoring.feature_log = false\n{more}\n",
        std::process::id(),
        state.display()
    );
    Config::from_toml(&toml).unwrap()
}

/// The log of a configuration, with all of its topics.
pub(crate) fn log(config: &Config) -> std::sync::Arc<dyn Log> {
    let log = open_log(config).unwrap();
    topics::create(config, &*log).unwrap();
    log
}

/// A click with an event id, some seconds before now.
pub(crate) fn click(user: &str, event: &str) -> Vec<u8> {
    let time = headwater::now_ms() - 10_000;
    json!({"user_id": user, "item_id": "i", "kind": "click", "scenario": "feed", "time": time, "event_id": event})
        .to_string()
        .into_bytes()
}

/// Sends behaviors to where their users belong.
pub(crate) fn behave(log: &dyn Log, behaviors: &[(String, Vec<u8>)]) {
    try_behave(log, behaviors).unwrap();
}

/// The same where brokers may be away.
pub(crate) fn try_behave(log: &dyn Log, behaviors: &[(String, Vec<u8>)]) -> Result<(), LogError> {
    let mut producer = log.producer()?;
    for (user, value) in behaviors {
        let partition = partition_of(user.as_bytes(), PARTITIONS);
        let record = Outgoing {
            to: TopicPartition::new(Topic::Behaviors, partition),
            key: Some(user.as_bytes()),
            value: Some(value),
            headers: &[],
        };
        producer.send(record)?;
    }
    producer.flush()
}

/// Clicks of users, numbered from `from` on.
pub(crate) fn clicks(from: usize, count: usize) -> Vec<(String, Vec<u8>)> {
    (from..from + count)
        .map(|number| {
            let user = format!("u{}", number % 20);
            let value = click(&user, &format!("e{number}"));
            (user, value)
        })
        .collect()
}

/// The sum of a counter over its labels.
pub(crate) fn counter(handle: &Handle, name: &str) -> u64 {
    let families = handle.registry().gather();
    let family = families.iter().find(|family| family.name() == name);
    family.map_or(0, |family| {
        let metrics = family.get_metric().iter();
        metrics
            .map(|metric| metric.get_counter().get_value() as u64)
            .sum()
    })
}

/// Waits until so many behaviors have been counted by this daemon.
pub(crate) fn wait_counted(handle: &Handle, count: u64) {
    until("behaviors to be counted", || {
        assert!(handle.is_running(), "it ended: {:?}", handle.wait());
        (counter(handle, "headwater_state_behaviors_folded_total") >= count).then_some(())
    });
}

/// What an error says, its sources included.
pub(crate) fn words(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", words(source)),
        None => error.to_string(),
    }
}
