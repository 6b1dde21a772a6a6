//! The follower of items: every instance reads all of `items` and `item-state` into its item table.
//!
//! A record of `items` that cannot be read is counted and logged with its key and offset; what was known of the item before stays.
//! It is no dead letter: every instance reads it, again at each start, and it is still there, in the compacted topic.

use std::collections::BTreeMap;

use headwater_config::{Config, Topic};
use headwater_state::{Item, ItemTable};

use crate::decode::{DecodedItem, Decoder};
use crate::error::Error;
use crate::log::{Log, PollLimit, Reader, RecordBatch, Start, TopicPartition};
use crate::metrics::Metrics;
use crate::step::SharedItems;

/// Reads items and their statistics into the shared table.
pub struct ItemFollower {
    reader: Box<dyn Reader>,
    items: SharedItems,
    maker: ItemMaker,
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
            metrics,
            batch: RecordBatch::default(),
            behind,
        })
    }

    /// Whether the table holds all that was there when following began.
    pub fn is_caught_up(&self) -> bool {
        self.behind.is_empty()
    }

    /// Takes in what is there; gives the number of records.
    pub fn advance(&mut self, limit: PollLimit) -> Result<usize, Error> {
        self.reader.poll(limit, &mut self.batch)?;
        if !self.batch.is_empty() {
            let mut table = self.items.write();
            for record in self.batch.iter() {
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
                } else if let Err(reject) = self.maker.take_in(&mut table, key, record.value) {
                    self.metrics
                        .dead_lettered
                        .with_label_values(&[at.topic.key(), reject.code])
                        .inc();
                    tracing::warn!(
                        partition = at.partition,
                        offset = record.offset,
                        key = %key.escape_ascii(),
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
        }
        for (at, position) in self.batch.ends() {
            if self.behind.get(at).is_some_and(|end| position >= end) {
                self.behind.remove(at);
            }
        }
        Ok(self.batch.len())
    }
}

/// Makes items of records.
#[derive(Debug)]
pub struct ItemMaker {
    decoder: Decoder,
    attributes: Vec<String>,
}

impl ItemMaker {
    /// A maker for a configuration.
    pub fn new(config: &Config) -> Self {
        Self {
            decoder: Decoder::new(config),
            attributes: config.items.attributes.clone(),
        }
    }

    /// Puts the item of a record into the table; `None` deletes it.
    pub fn take_in(
        &self,
        table: &mut ItemTable,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), crate::decode::Reject> {
        match value {
            Some(value) => {
                let decoded = self.decoder.item(Some(key), value)?;
                self.put(table, &decoded);
            }
            None => {
                if let Ok(id) = std::str::from_utf8(key) {
                    table.set_item(id, None);
                }
            }
        }
        Ok(())
    }

    /// Puts a decoded item into the table: the record that the log has last is what holds, as in a compacted topic.
    pub fn put(&self, table: &mut ItemTable, decoded: &DecodedItem<'_>) {
        let attributes = self
            .attributes
            .iter()
            .filter_map(|name| {
                let text = decoded
                    .fields
                    .iter()
                    .find(|(field, _)| field == name)
                    .map(|(_, text)| text)?;
                (!text.is_empty()).then(|| format!("{name}={text}"))
            })
            .map(|name| table.number_of(&name))
            .collect();
        let mut categories: Vec<u32> = decoded
            .categories
            .iter()
            .map(|category| table.number_of(category))
            .collect();
        categories.sort_unstable();
        categories.dedup();
        let text = |text: &str| -> Box<str> { text.into() };
        let item = Item {
            time: decoded.time.0,
            item_type: decoded.item_type.as_deref().map(text),
            fields: decoded
                .fields
                .iter()
                .map(|(name, value)| (text(name), text(value)))
                .collect(),
            categories: categories.into(),
            attributes,
            numeric: decoded
                .numeric
                .iter()
                .map(|(name, value)| (text(name), *value))
                .collect(),
        };
        table.set_item(&decoded.item_id, Some(item));
    }
}
