//! What was sent and is not in the log yet: the records of an open transaction, or of a producer's queue.
//!
//! Before it, a member or producer takes records; after it, `partitions` gives them offsets and makes them a frame. Records are
//! packed as they are sent, so that a commit copies a few large pieces.

use std::collections::BTreeMap;

use super::format::{self, CHUNK_BYTES};
use crate::log::{LogError, Outgoing, TopicPartition};

/// Bytes of one transaction: all of it is held in memory and becomes one frame, whose positions must fit `u32`.
const TRANSACTION_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Buffers that are kept for the next transaction: 16 MiB of usual chunks.
const SPARE_MAX: usize = 64;

/// Records by partition, packed.
#[derive(Debug, Default)]
pub(super) struct Pending {
    chunks: BTreeMap<TopicPartition, Vec<Chunk>>,
    spare: Vec<Vec<u8>>,
    bytes: usize,
}

/// Records of one partition, packed one after the other.
#[derive(Debug)]
pub(super) struct Chunk {
    pub bytes: Vec<u8>,
    pub count: u32,
}

impl Pending {
    /// Adds a record.
    pub(super) fn push(
        &mut self,
        record: &Outgoing<'_>,
        timestamp: i64,
        record_bytes_max: usize,
    ) -> Result<(), LogError> {
        let headers: usize = record
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        let size =
            record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len) + headers;
        if size > record_bytes_max {
            return Err(super::refused(
                "sending",
                format!(
                    "a record of {size} bytes for {:?} partition {} is over the limit of {record_bytes_max}",
                    record.to.topic, record.to.partition
                ),
            ));
        }
        if self.bytes + size > TRANSACTION_BYTES_MAX {
            return Err(super::refused(
                "sending",
                format!("the transaction is over the limit of {TRANSACTION_BYTES_MAX} bytes"),
            ));
        }
        let chunks = self.chunks.entry(record.to).or_default();
        if chunks
            .last()
            .is_none_or(|chunk| chunk.bytes.len() >= CHUNK_BYTES)
        {
            chunks.push(Chunk {
                bytes: self.spare.pop().unwrap_or_default(),
                count: 0,
            });
        }
        let chunk = chunks.last_mut().expect("invariant: one was pushed");
        let before = chunk.bytes.len();
        format::put_record(
            &mut chunk.bytes,
            (chunk.count, timestamp),
            record.key,
            record.value,
            record.headers,
        );
        chunk.count += 1;
        self.bytes += chunk.bytes.len() - before;
        Ok(())
    }

    /// Forgets all records, keeps the memory.
    pub(super) fn clear(&mut self) {
        for chunks in self.chunks.values_mut() {
            for mut chunk in chunks.drain(..) {
                if self.spare.len() < SPARE_MAX {
                    chunk.bytes.clear();
                    self.spare.push(chunk.bytes);
                }
            }
        }
        self.bytes = 0;
    }

    /// Bytes of all records.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many chunks.
    pub(super) fn len(&self) -> usize {
        self.chunks.values().map(Vec::len).sum()
    }

    /// The chunks of each partition that has any, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (TopicPartition, &[Chunk])> {
        self.chunks
            .iter()
            .filter(|(_, chunks)| !chunks.is_empty())
            .map(|(of, chunks)| (*of, &chunks[..]))
    }
}
