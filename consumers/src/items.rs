//! The follower of items: every instance reads all of `items` and `item-state` into its item table.
//!
//! Of two records of an item the one with the newer `time` holds, in whatever order they come ([`order`]).
//!
//! A record of `items` that cannot be read is counted and logged with its key and offset; what was known of the item before stays.
//! It is no dead letter: every instance reads it, again at each start, and it is still there, in the compacted topic.

use std::collections::BTreeMap;

use headwater_config::{Config, Topic};
use headwater_state::{ItemTable, Timestamp};

use crate::decode::{ID_BYTES_MAX, Reject};
use crate::error::Error;
use crate::log::{Log, PollLimit, Producer, Reader, Record, RecordBatch, Start, TopicPartition};
use crate::metrics::Metrics;
use crate::step::{SharedItems, taken};

mod maker;
mod order;
#[cfg(test)]
mod tests;

pub use maker::ItemMaker;
pub use order::HEADER_PUT_BACK;
use order::Order;

/// Reads items and their statistics into the shared table.
pub struct ItemFollower {
    reader: Box<dyn Reader>,
    items: SharedItems,
    maker: ItemMaker,
    order: Order,
    /// For what is put back: made when the first is.
    producer: Option<Box<dyn Producer>>,
    metrics: Metrics,
    batch: RecordBatch,
    /// Where each partition ended when following began, until it is reached.
    behind: BTreeMap<TopicPartition, i64>,
}

impl std::fmt::Debug for ItemFollower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ItemFollower")
            .field("behind", &self.behind)
            .finish_non_exhaustive()
    }
}

impl ItemFollower {
    /// A follower of all partitions of both topics, from their beginning.
    pub fn new(
        config: &Config,
        log: &dyn Log,
        items: SharedItems,
        metrics: Metrics,
    ) -> Result<Self, Error> {
        let mut reader = log.reader()?;
        let mut behind = BTreeMap::new();
        for topic in [Topic::Items, Topic::ItemState] {
            let Some(facts) = log.describe(topic)? else {
                return Err(crate::log::LogError::NoTopic {
                    name: config.topic_name(topic),
                }
                .into());
            };
            for partition in 0..facts.partitions {
                let at = TopicPartition::new(topic, partition);
                reader.assign(at, Start::Beginning)?;
                let extent = log.extent(at)?;
                if extent.next > extent.first {
                    behind.insert(at, extent.next);
                }
            }
        }
        Ok(Self {
            reader,
            items,
            maker: ItemMaker::new(config),
            order: Order::default(),
            producer: None,
            metrics,
            batch: RecordBatch::default(),
            behind,
        })
    }

    /// Whether the table holds all that was there when following began.
    pub fn is_caught_up(&self) -> bool {
        self.behind.is_empty()
    }

    /// Takes in what is there; gives the number of records. `now` is for records that say of themselves that they are of the future.
    pub fn advance(&mut self, limit: PollLimit, now: Timestamp) -> Result<usize, Error> {
        self.reader.poll(limit, &mut self.batch)?;
        let batch = std::mem::take(&mut self.batch);
        let taken_in = self.take_in(&batch, now);
        self.batch = batch;
        taken_in?;
        for (at, position) in self.batch.ends() {
            if self.behind.get(at).is_some_and(|end| position >= end) {
                self.behind.remove(at);
            }
        }
        Ok(self.batch.len())
    }

    fn take_in(&mut self, batch: &RecordBatch, now: Timestamp) -> Result<(), Error> {
        if !batch.is_empty() {
            let items = SharedItems::clone(&self.items);
            let mut table = items.write();
            for record in batch.iter() {
                let at = record.at;
                let key = record.key.unwrap_or_default();
                if at.topic == Topic::ItemState {
                    table
                        .apply_statistics((at.partition, record.offset), key, record.value)
                        .map_err(|damage| Error::Internal {
                            at,
                            offset: record.offset,
                            reason: damage.to_string(),
                        })?;
                } else if let Err(reject) = self.item(&mut table, &record, now) {
                    self.metrics
                        .dead_lettered
                        .with_label_values(&[at.topic.key(), reject.code])
                        .inc();
                    tracing::warn!(
                        partition = at.partition,
                        offset = record.offset,
                        key = %key[..key.len().min(ID_BYTES_MAX)].escape_ascii(),
                        %reject,
                        "item record not read"
                    );
                }
                if self
                    .behind
                    .get(&at)
                    .is_some_and(|end| record.offset + 1 >= *end)
                {
                    self.behind.remove(&at);
                }
            }
            self.metrics.items.set(table.len() as i64);
            let bytes = table.bytes();
            for (part, bytes) in [
                ("items", bytes.items),
                ("names", bytes.names),
                ("statistics", bytes.statistics),
            ] {
                let gauge = self.metrics.item_table_bytes.with_label_values(&[part]);
                gauge.set(bytes as i64);
            }
        }
        Ok(())
    }

    /// Takes in a record of `items`; null deletes.
    fn item(
        &mut self,
        table: &mut ItemTable,
        record: &Record<'_>,
        now: Timestamp,
    ) -> Result<(), Reject> {
        let key = record.key.unwrap_or_default();
        let Some(value) = record.value else {
            if let Ok(id) = std::str::from_utf8(key) {
                if self.order.is_void(id, table.item(id), record) {
                    self.order.is_out_of_order(id, record);
                } else {
                    table.set_item(id, None);
                    self.order.ended(id, record.offset);
                }
            }
            return Ok(());
        };
        let decoded = self.maker.read(key, value, taken(record, now).0)?;
        let id = &*decoded.item_id;
        let newest = if self.order.is_void(id, table.item(id), record) {
            let again = self.maker.make(table, &decoded, record.offset);
            Order::is_the_same(table, id, again)
        } else {
            self.maker.put(table, &decoded, record.offset)
        };
        if newest {
            self.order.is_in_order(id);
        } else {
            self.metrics.items_out_of_order.inc();
            self.order.is_out_of_order(id, record);
        }
        Ok(())
    }
}
