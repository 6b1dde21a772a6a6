//! The producer without transactions.

use std::sync::Arc;

use super::Shared;
use super::sink::Sink;
use crate::log::{LogError, Outgoing, Producer};

/// A producer that is idempotent and waits for all replicas.
pub(super) struct KafkaProducer(Sink);

impl KafkaProducer {
    pub(super) fn new(shared: &Arc<Shared>) -> Result<Self, LogError> {
        Ok(Self(Sink::immediate(
            shared,
            &format!("{}-producer", shared.settings.group),
        )?))
    }
}

impl Producer for KafkaProducer {
    fn send(&mut self, record: Outgoing<'_>) -> Result<(), LogError> {
        self.0.send(&record)
    }

    fn flush(&mut self) -> Result<(), LogError> {
        self.0.drain()
    }
}
