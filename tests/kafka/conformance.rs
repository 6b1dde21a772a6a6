//! The suite that every log passes, on Apache Kafka.

use std::sync::Arc;

use headwater_consumers::log::Log;
use headwater_consumers::log::conformance::{self, Bench};
use headwater_consumers::log::kafka::KafkaLog;

use crate::broker::{bootstrap, settings};

struct OnKafka;

impl Bench for OnKafka {
    fn log(&self) -> Arc<dyn Log> {
        Arc::new(KafkaLog::connect(settings(bootstrap(), "conformance")).unwrap())
    }
}

/// Goal: Apache Kafka and the log inside this process keep the same promises. Method: the shared suite, a fresh prefix a case.
#[test]
fn the_log_on_kafka_conforms() {
    conformance::run(&OnKafka);
}
