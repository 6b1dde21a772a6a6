//! The item table: what items are, and their live statistics. Every instance holds the whole of it, in memory.
//!
//! It follows two topics: `items` (what the platform says of them) and `item-state` (statistics, made by the owners of
//! `item-deltas`). A row uses only cells that ended before its time (`STATE-3`).

use std::collections::BTreeMap;

use hashbrown::HashMap;

use crate::behavior::TextHash;
use crate::cell::Cells;
use crate::entities::{Entities, PinnedHasher};
use crate::error::Damage;
use crate::item_state;
use crate::statistics::Entity;

/// What is known of an item, as its newest record says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Item {
    /// Event time of the record, Unix milliseconds.
    pub time: i64,
    /// Where the record lies in its partition of the items topic; negative for one that lies in none.
    pub offset: i64,
    /// What sort of thing it is.
    pub item_type: Option<Box<str>>,
    /// Texts by name: title, author, ….
    pub fields: BTreeMap<Box<str>, Box<str>>,
    /// Its categories, as numbers of [`ItemTable::category_name`].
    pub categories: Box<[u32]>,
    /// Values of the configured attributes among its fields, numbered like categories.
    pub attributes: Box<[u32]>,
    /// Numbers by name.
    pub numeric: BTreeMap<Box<str>, f64>,
    /// Hash of the text that stands for it, where texts have vectors.
    pub text: Option<TextHash>,
}

/// All items, and the statistics of items, categories and scenarios.
#[derive(Debug, Default)]
pub struct ItemTable {
    items: HashMap<Box<str>, Item, PinnedHasher>,
    statistics: Entities,
    names: Vec<Box<str>>,
    numbers: HashMap<Box<str>, u32, PinnedHasher>,
    positions: BTreeMap<i32, i64>,
    item_bytes: usize,
    name_bytes: usize,
}

/// Bytes that an item table takes, about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ItemTableBytes {
    /// Of items: ids, texts, numbers.
    pub items: usize,
    /// Of the names of categories and attribute values. They are never given up: an item may come back to one.
    pub names: usize,
    /// Of statistics.
    pub statistics: usize,
}

impl ItemTableBytes {
    /// All of them.
    #[must_use]
    pub const fn all(self) -> usize {
        self.items + self.names + self.statistics
    }
}

/// Bytes of an item beside its texts, categories and numbers: its place in the map and what the allocator adds.
const ITEM_BYTES: usize = 248;
/// Bytes of a tree of texts, and of one of numbers, for every eleven of them.
const TREE_BYTES: [usize; 2] = [376, 288];
/// What the allocator adds to a name or text.
const TEXT_BYTES: usize = 8;
/// The same of a name, which is held twice.
const NAME_BYTES: usize = 112;

/// Bytes that an item takes in memory, about.
fn weight(id: &str, item: &Item) -> usize {
    let trees = item.fields.len().div_ceil(11) * TREE_BYTES[0]
        + item.numeric.len().div_ceil(11) * TREE_BYTES[1];
    let fields = item.fields.iter();
    let texts: usize = fields
        .map(|(name, text)| 2 * TEXT_BYTES + name.len() + text.len())
        .sum();
    let names = item.numeric.keys();
    let numbers: usize = names.map(|name| TEXT_BYTES + name.len()).sum();
    let sort = item.item_type.as_deref().map_or(0, str::len);
    let groups = item.categories.len() + item.attributes.len();
    ITEM_BYTES + id.len() + sort + trees + texts + numbers + groups * size_of::<u32>()
}

impl ItemTable {
    /// What is known of an item.
    pub fn item(&self, id: &str) -> Option<&Item> {
        self.items.get(id)
    }

    /// The ids of all items, in no order.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.items.keys().map(|id| &**id)
    }

    /// Puts an item, or deletes it. Its statistics stay.
    pub fn set_item(&mut self, id: &str, item: Option<Item>) {
        let held = match item {
            Some(item) => {
                self.item_bytes += weight(id, &item);
                self.items.insert(id.into(), item)
            }
            None => self.items.remove(id),
        };
        self.item_bytes -= held.map_or(0, |item| weight(id, &item));
    }

    /// Bytes that it takes, about.
    pub fn bytes(&self) -> ItemTableBytes {
        ItemTableBytes {
            items: self.item_bytes,
            names: self.name_bytes,
            statistics: self.statistics.bytes(),
        }
    }

    /// The number of a category or attribute value: names are held once.
    pub fn number_of(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = u32::try_from(self.names.len())
            .expect("invariant: memory holds fewer than 2^32 categories");
        self.name_bytes += NAME_BYTES + 2 * name.len();
        self.names.push(name.into());
        self.numbers.insert(name.into(), number);
        number
    }

    /// The number of a category, if any item ever had it.
    pub fn known_number(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    /// The name of a category by its number.
    pub fn category_name(&self, number: u32) -> &str {
        &self.names[number as usize]
    }

    /// How many numbers were given: an upper bound for tables by category.
    pub fn categories(&self) -> usize {
        self.names.len()
    }

    /// Statistics of an entity: cells with series of scenario and kind.
    pub fn statistics(&self, entity: Entity<'_>) -> Option<&Cells> {
        self.statistics.get(&entity.key())
    }

    /// Statistics by key, for those who made the key once.
    pub fn statistics_by_key(&self, key: &[u8]) -> Option<&Cells> {
        self.statistics.get(key)
    }

    /// The keys of all entities that statistics are kept of, whether something was counted of them or not.
    pub fn entities(&self) -> impl Iterator<Item = Box<[u8]>> {
        let items = self.ids().map(|id| Entity::Item(id).key());
        let groups = self.names.iter().map(|name| Entity::Category(name).key());
        items.chain(groups).chain([Entity::Total.key()])
    }

    /// Whether anything was counted yet.
    pub fn has_statistics(&self) -> bool {
        !self.statistics.is_empty()
    }

    /// A table of some items alone: what is known of them, their statistics and those of their groups, and those of all items together. Rows of these items are the same by it. None
    /// where it would take more bytes.
    #[must_use]
    pub fn part<'a>(
        &self,
        ids: impl IntoIterator<Item = &'a str>,
        bytes_max: usize,
    ) -> Option<Self> {
        let mut part = Self {
            positions: self.positions.clone(),
            ..Self::default()
        };
        part.take_statistics(self, Entity::Total);
        for id in ids {
            if part.bytes().all() > bytes_max {
                return None;
            }
            part.take_statistics(self, Entity::Item(id));
            let Some(item) = self.items.get(id) else {
                continue;
            };
            let mut own = item.clone();
            for number in own.categories.iter_mut().chain(own.attributes.iter_mut()) {
                let name = self.category_name(*number);
                part.take_statistics(self, Entity::Category(name));
                *number = part.number_of(name);
            }
            part.set_item(id, Some(own));
        }
        Some(part)
    }

    fn take_statistics(&mut self, of: &Self, entity: Entity<'_>) {
        let key = entity.key();
        if self.statistics.get(&key).is_none()
            && let Some(cells) = of.statistics.get(&key)
        {
            self.statistics.put(&key, Some(cells.clone()));
        }
    }

    /// Counts something at once, for the engine and for backtests, where nothing comes back by a topic.
    pub fn fold(&mut self, entity: Entity<'_>, delta: &crate::Delta) {
        self.statistics
            .change(&entity.key(), |cells| delta.apply(cells));
    }

    /// Applies a record of `item-state` and notes its position.
    pub fn apply_statistics(
        &mut self,
        (partition, offset): (i32, i64),
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), Damage> {
        item_state::apply(&mut self.statistics, key, value)?;
        self.positions.insert(partition, offset + 1);
        Ok(())
    }

    /// Next offset of each partition of `item-state`: what statistics a row saw.
    pub fn positions(&self) -> &BTreeMap<i32, i64> {
        &self.positions
    }

    /// How many items.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}
