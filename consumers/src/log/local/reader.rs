//! Readers and producers outside the group.
//!
//! Before them, item followers, restores and the command line call; after them stand `cursor` and `partitions`.

use std::sync::Arc;
use std::time::Instant;

use super::cursor::{Cursor, Cursors};
use super::faults::{Fault, Op};
use super::pending::Pending;
use super::{Broker, INJECTED, unavailable};
use crate::log::{
    LogError, Outgoing, PollLimit, Producer, Reader, RecordBatch, Start, TopicPartition,
};

/// What a producer gathers before it writes.
const QUEUE_BYTES: usize = 256 * 1024;

/// A reader.
#[derive(Debug)]
pub(super) struct LocalReader {
    broker: Arc<Broker>,
    cursors: Cursors,
    ends: Vec<(usize, i64)>,
}

impl LocalReader {
    pub(super) fn new(broker: &Arc<Broker>) -> Self {
        Self {
            broker: Arc::clone(broker),
            cursors: Cursors::default(),
            ends: Vec::new(),
        }
    }
}

impl Reader for LocalReader {
    fn assign(&mut self, from: TopicPartition, start: Start) -> Result<(), LogError> {
        if self.broker.fault(Op::Assign, "reader") == Fault::Unavailable {
            return Err(unavailable("beginning to read", INJECTED));
        }
        self.cursors.insert(Cursor::new(&self.broker, from, start)?);
        Ok(())
    }

    fn unassign(&mut self, from: TopicPartition) -> Result<(), LogError> {
        self.cursors.retain(|of| of != from);
        Ok(())
    }

    fn poll(&mut self, limit: PollLimit, into: &mut RecordBatch) -> Result<(), LogError> {
        into.clear();
        let fault = self.broker.fault(Op::Read, "reader");
        if fault == Fault::Unavailable {
            return Err(unavailable("polling", INJECTED));
        }
        let mut until = None;
        loop {
            let seen = self.broker.seen();
            self.cursors
                .fetch(&self.broker, limit, fault, into, &mut self.ends)?;
            let mut news = !into.is_empty() || limit.wait.is_zero() || limit.records == 0;
            for (place, end) in &self.ends {
                news |= self.cursors.at(*place).reports(*end);
            }
            let until = *until.get_or_insert_with(|| Instant::now() + limit.wait);
            // An end that was reached is news once; later polls wait, and tell it again at last.
            if news || !self.broker.wait(seen, until) {
                for (place, end) in &self.ends {
                    into.push_end(self.cursors.at(*place).of(), *end);
                }
                return Ok(());
            }
        }
    }
}

/// A producer. What was not flushed goes with it.
#[derive(Debug)]
pub(super) struct LocalProducer {
    broker: Arc<Broker>,
    queue: Pending,
    /// The first failure since the last flush.
    failed: Option<LogError>,
}

impl LocalProducer {
    pub(super) fn new(broker: &Arc<Broker>) -> Self {
        Self {
            broker: Arc::clone(broker),
            queue: Pending::default(),
            failed: None,
        }
    }

    fn write(&mut self) {
        if self.queue.bytes() > 0 {
            let written = self.broker.append(&self.queue);
            self.queue.clear();
            if let Err(error) = written {
                self.failed.get_or_insert(error);
            }
        }
    }
}

impl Producer for LocalProducer {
    fn send(&mut self, record: Outgoing<'_>) -> Result<(), LogError> {
        if self.broker.fault(Op::Enqueue, "producer") == Fault::Unavailable {
            return Err(unavailable("sending", INJECTED));
        }
        self.broker.enqueue(&mut self.queue, &record)?;
        if self.queue.bytes() >= QUEUE_BYTES {
            self.write();
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), LogError> {
        if self.broker.fault(Op::Flush, "producer") == Fault::Unavailable {
            return Err(unavailable("flushing", INJECTED));
        }
        self.write();
        self.failed.take().map_or(Ok(()), Err)
    }
}
