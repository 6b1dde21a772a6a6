//! Item records to items of the table: which of two records of an item holds, and what of it is kept.
//!
//! Before it stands `decode`; after it the item table, of the follower or of an engine.

use headwater_config::{Config, Template};
use headwater_model::language::text_hash;
use headwater_state::{Item, ItemTable};

use crate::decode::{DecodedItem, Decoder, Reject};
use crate::texts;

/// Makes items of records.
#[derive(Debug)]
pub struct ItemMaker {
    decoder: Decoder,
    attributes: Vec<String>,
    /// What text stands for an item, where texts have vectors.
    text: Option<Template>,
}

impl ItemMaker {
    /// A maker for a configuration.
    pub fn new(config: &Config) -> Self {
        Self {
            decoder: Decoder::new(config),
            attributes: config.items.attributes.clone(),
            text: (config.texts.encoder.is_some()).then(|| config.texts.item.clone()),
        }
    }

    /// Reads a record of the items topic; `taken` is when the log took it (Unix milliseconds; negative: not known).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read<'a>(
        &self,
        key: &[u8],
        value: &'a [u8],
        taken: i64,
    ) -> Result<DecodedItem<'a>, Reject> {
        self.decoder.item(Some(key), value, taken)
    }

    /// Puts an item into the table, unless the table knows a newer one by the records' own times; of equal times the later record holds.
    /// Gives whether it was put. `offset` is where its record lies in its partition, negative where it lies in none.
    pub fn put(&self, table: &mut ItemTable, decoded: &DecodedItem<'_>, offset: i64) -> bool {
        let held = table.item(&decoded.item_id);
        if held.is_some_and(|held| held.time > decoded.time.0) {
            return false;
        }
        let item = self.make(table, decoded, offset);
        table.set_item(&decoded.item_id, Some(item));
        true
    }

    pub(super) fn make(
        &self,
        table: &mut ItemTable,
        decoded: &DecodedItem<'_>,
        offset: i64,
    ) -> Item {
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
        let mut item = Item {
            time: decoded.time.0,
            offset,
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
            text: None,
        };
        if let Some(template) = &self.text {
            let text = texts::of_item(template, &decoded.item_id, &item, table);
            item.text = (!text.is_empty()).then(|| text_hash(&text));
        }
        item
    }
}
