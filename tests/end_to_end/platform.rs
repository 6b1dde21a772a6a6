//! What a platform does: sends JSON to topics, keyed and partitioned as Java's clients do.

use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, ThreadedProducer};
use serde_json::Value;

pub(crate) type Producer = ThreadedProducer<DefaultProducerContext>;

pub(crate) fn producer(bootstrap: &str) -> Producer {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("partitioner", "murmur2_random")
        .set("log_level", "1")
        .create()
        .unwrap()
}

pub(crate) fn send(producer: &Producer, topic: &str, key: &str, value: &Value) {
    let value = value.to_string();
    producer
        .send(BaseRecord::to(topic).key(key).payload(&value))
        .unwrap_or_else(|(error, _)| panic!("sending to {topic}: {error}"));
}
