//! The follower of vectors: every instance reads all of [`Topic::Embeddings`] into its own table, and goes on where its store has ended.
//!
//! Before it, the stage that [encodes](crate::encode); after it, rows are assembled with the vectors that are there. A record that is none is counted and
//! logged with its offset, and passed over: what its text's vector was before stays.

use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_config::{Config, Topic};
use headwater_state::{Timestamp, VectorRecord, VectorTable};

use crate::error::Error;
use crate::log::{Log, LogError, PollLimit, Reader, RecordBatch, Start, TopicPartition};
use crate::metrics::Metrics;

/// Reads vectors into the table.
pub struct VectorFollower {
    reader: Box<dyn Reader>,
    table: Arc<VectorTable>,
    partitions: i32,
    /// Ends, as they were at first, of partitions that are not read so far yet.
    behind: BTreeMap<TopicPartition, i64>,
    metrics: Metrics,
    batch: RecordBatch,
}

impl std::fmt::Debug for VectorFollower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VectorFollower")
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

impl VectorFollower {
    /// A follower of all partitions, from where the table has ended. A topic that was made anew is read from its beginning: vectors say themselves whose they are.
    ///
    /// # Errors
    /// The log's.
    pub fn new(
        config: &Config,
        log: &dyn Log,
        table: Arc<VectorTable>,
        metrics: Metrics,
    ) -> Result<Self, Error> {
        let mut reader = log.reader()?;
        let Some(facts) = log.describe(Topic::Embeddings)? else {
            let name = config.topic_name(Topic::Embeddings);
            return Err(LogError::NoTopic { name }.into());
        };
        let positions = table.positions();
        let mut behind = BTreeMap::new();
        for partition in 0..facts.partitions {
            let at = TopicPartition::new(Topic::Embeddings, partition);
            let extent = log.extent(at)?;
            let start = match positions.get(&partition) {
                Some(position) if (extent.first..=extent.next).contains(position) => {
                    Start::At(*position)
                }
                _ => Start::Beginning,
            };
            reader.assign(at, start)?;
            let is_there = matches!(start, Start::At(position) if position >= extent.next);
            if extent.first < extent.next && !is_there {
                behind.insert(at, extent.next);
            }
        }
        Ok(Self {
            reader,
            table,
            partitions: facts.partitions,
            behind,
            metrics,
            batch: RecordBatch::default(),
        })
    }

    /// Whether the table holds all that was there when following began.
    pub fn is_caught_up(&self) -> bool {
        self.behind.is_empty()
    }

    /// Takes in what is there; gives the number of records.
    ///
    /// # Errors
    /// The log's, or the store's.
    pub fn advance(&mut self, limit: PollLimit) -> Result<usize, Error> {
        if self.table.was_damaged() {
            tracing::warn!("a stored vector is damaged; reading all of them again");
            for partition in 0..self.partitions {
                let at = TopicPartition::new(Topic::Embeddings, partition);
                self.reader.assign(at, Start::Beginning)?;
            }
        }
        self.reader.poll(limit, &mut self.batch)?;
        let mut records = Vec::with_capacity(self.batch.len());
        for record in self.batch.iter() {
            let at = record.at;
            let taken = VectorRecord {
                next: (at.partition, record.offset + 1),
                taken: Timestamp(record.timestamp),
                key: record.key.unwrap_or_default(),
                value: record.value,
            };
            match taken.check() {
                Ok(()) => records.push(taken),
                Err(damage) => {
                    let labels = [at.topic.key(), "unreadable"];
                    self.metrics.dead_lettered.with_label_values(&labels).inc();
                    let (partition, offset) = (at.partition, record.offset);
                    tracing::warn!(partition, offset, %damage, "vector not read");
                }
            }
        }
        let count = records.len();
        if count > 0 {
            self.table
                .apply(records)
                .map_err(|source| Error::Vectors { source })?;
        }
        for (at, position) in self.batch.ends() {
            if self.behind.get(at).is_some_and(|end| position >= end) {
                self.behind.remove(at);
            }
        }
        let bytes = self.table.memory();
        self.metrics.texts.memory.set(bytes as i64);
        Ok(count)
    }
}
