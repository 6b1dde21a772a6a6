//! The log of a configuration: Kafka, or the one inside this process.

use std::sync::Arc;

use headwater_config::{Config, Delivery, LogKind, Topic};
use headwater_consumers::log::kafka::{KafkaLog, KafkaSettings};
use headwater_consumers::log::local::{LocalLog, Options};
use headwater_consumers::log::{Log, LogError};

use super::error::StartError;
use crate::world::unix_ms;

/// Opens the log of a configuration. The embedded one is made, with its topics, if it is not there.
///
/// # Errors
/// If the brokers do not answer or refuse, or the folder of the embedded log is in use, damaged or not writable.
pub fn open_log(config: &Config) -> Result<Arc<dyn Log>, StartError> {
    match config.log.kind {
        LogKind::Kafka => Ok(Arc::new(KafkaLog::connect(kafka_settings(config))?)),
        LogKind::Embedded => {
            let path = config.log_path();
            let log =
                LocalLog::open(&path, local_options(config)).map_err(|source| match source {
                    source @ LogError::Refused { .. } => StartError::LogFolder { path, source },
                    source @ (LogError::Unavailable { .. }
                    | LogError::Fenced { .. }
                    | LogError::OutOfRange { .. }
                    | LogError::NoTopic { .. }
                    | LogError::Io { .. }
                    | LogError::Damaged { .. }) => StartError::Log(source),
                })?;
            if log.torn_bytes() > 0 {
                tracing::warn!(
                    bytes = log.torn_bytes(),
                    "the embedded log ended in an unfinished transaction, which was cut off"
                );
            }
            if let Some(fault) = crate::topics::misfit(config, &log)? {
                let faults = crate::topics::Faults(vec![fault]);
                return Err(StartError::Topics(faults.into()));
            }
            crate::topics::create(config, &log)?;
            Ok(Arc::new(log))
        }
    }
}

/// Holds the properties of the Kafka clients against librdkafka, as the start does, and connects to nothing.
///
/// # Errors
/// The first property that is refused, by name.
pub fn check_log(config: &Config) -> Result<(), StartError> {
    match config.log.kind {
        LogKind::Kafka => Ok(KafkaLog::check(&kafka_settings(config))?),
        LogKind::Embedded => Ok(()),
    }
}

/// The settings of the Kafka clients.
#[must_use]
pub fn kafka_settings(config: &Config) -> KafkaSettings {
    KafkaSettings {
        bootstrap: config.kafka.brokers.clone(),
        group: config.group(),
        input: Topic::Behaviors,
        topics: Topic::ALL
            .into_iter()
            .map(|topic| (topic, config.topic_name(topic)))
            .collect(),
        session_timeout: config.kafka.session_timeout.duration(),
        transaction_timeout: config.kafka.transaction_timeout.duration(),
        operation_timeout: config.kafka.operation_timeout.duration(),
        send_now: config.kafka.delivery == Delivery::AtLeastOnce,
        client: config
            .kafka
            .client
            .iter()
            .map(|(name, property)| (name.to_owned(), property.expose().to_owned()))
            .collect(),
        secrets: config
            .kafka
            .client
            .iter()
            .filter(|(_, property)| property.is_secret())
            .map(|(_, property)| property.expose().to_owned())
            .collect(),
    }
}

/// The settings of the embedded log.
#[must_use]
pub fn local_options(config: &Config) -> Options {
    let mut options = Options::new(unix_ms);
    options.group = config.group();
    options.session = config.kafka.session_timeout.duration();
    options.retention_bytes = config.log.retention.get();
    options.fsync = config.state.fsync;
    // Room for a record's key, headers and the dead letter around it.
    options.record_bytes_max = options
        .record_bytes_max
        .max(config.step.record_max.as_usize().saturating_mul(2));
    options
}
