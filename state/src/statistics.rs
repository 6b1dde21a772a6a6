//! Statistics of items, categories and scenarios: counts by scenario, kind and time cell, the same on every instance.
//!
//! A step sums what its behaviors say of each [`Entity`] into a [`Delta`]; the deltas go to the topic `item-deltas` in the step's
//! transaction. The owner of a partition of that topic folds them into [`Statistics`] and publishes what changed to `item-state`,
//! in the transaction of the deltas' positions. Every instance follows `item-state` into its [`crate::ItemTable`]. All sums are of
//! integers, so they come out the same to the bit in whatever order instances deliver them.

use std::collections::{BTreeMap, BTreeSet};

use crate::behavior::{FixedSum, KindId, ScenarioId, Timestamp, pinned_hash};
use crate::cell::{Cells, Grain, Length};
use crate::entities::Entities;
use crate::error::Damage;
use crate::format::{Put, versioned};
use crate::item_state;

/// Version of the values of `item-deltas` and `item-state`: their first byte. 1: a record of `item-state` was a whole entity.
pub(crate) const STATISTICS_VERSION: u8 = 2;

/// What statistics are kept of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entity<'a> {
    /// All items together.
    Total,
    /// An item, by id.
    Item(&'a str),
    /// A category, or another group of items, by name.
    Category(&'a str),
}

impl<'a> Entity<'a> {
    /// Its key on the topics: a letter and the id.
    pub fn key(self) -> Box<[u8]> {
        let (letter, id) = match self {
            Self::Total => (b't', ""),
            Self::Item(id) => (b'i', id),
            Self::Category(name) => (b'c', name),
        };
        let mut key = Vec::with_capacity(1 + id.len());
        key.put_u8(letter);
        key.put(id.as_bytes());
        key.into()
    }

    /// The entity of a key.
    pub fn of_key(key: &'a [u8]) -> Result<Self, Damage> {
        let (letter, id) = key.split_first().ok_or(Damage::Short)?;
        let id = std::str::from_utf8(id).map_err(|_| Damage::Text)?;
        match (letter, id) {
            (b't', "") => Ok(Self::Total),
            (b'i', id) => Ok(Self::Item(id)),
            (b'c', id) => Ok(Self::Category(id)),
            _ => Err(Damage::Key),
        }
    }
}

/// Scenario and kind as one series of cells.
pub fn series(scenario: ScenarioId, kind: KindId) -> u64 {
    u64::from(scenario.0) << 32 | u64::from(kind.0)
}

/// Scenario and kind of a series.
pub fn of_series(series: u64) -> (ScenarioId, KindId) {
    (ScenarioId((series >> 32) as u32), KindId(series as u32))
}

/// What one step adds to one entity: counts by series and minute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta(BTreeMap<(u64, u32), (u32, FixedSum)>);

impl Delta {
    /// Bytes of one count.
    pub const COUNT_BYTES: usize = 8 + 4 + 4 + 8;

    /// Counts one behavior; true if nothing was counted of its series and minute before.
    pub fn add(
        &mut self,
        scenario: ScenarioId,
        kind: KindId,
        time: Timestamp,
        value: FixedSum,
    ) -> bool {
        let minute = time
            .0
            .div_euclid(Length::Minute.ms())
            .clamp(0, i64::from(u32::MAX)) as u32;
        let (count, sum) = self.0.entry((series(scenario, kind), minute)).or_default();
        let new = *count == 0;
        *count = count.saturating_add(1);
        *sum = sum.plus(value);
        new
    }

    /// Whether nothing is counted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what another delta of the same entity says.
    pub fn merge(&mut self, other: &Self) {
        for (place, (count, sum)) in &other.0 {
            let (held, held_sum) = self.0.entry(*place).or_default();
            *held = held.saturating_add(*count);
            *held_sum = held_sum.plus(*sum);
        }
    }

    /// The series that it counts into.
    fn series(&self) -> impl Iterator<Item = u64> {
        let mut before = None;
        let all = self.0.keys().map(|(series, _)| *series);
        all.filter(move |series| before.replace(*series) != Some(*series))
    }

    /// Keeps the first `counts` of its counts and gives the others, if there are more: one after the other they are folded as the whole is.
    pub fn split(&mut self, counts: usize) -> Option<Self> {
        let at = *self.0.keys().nth(counts)?;
        Some(Self(self.0.split_off(&at)))
    }

    /// Its bytes: `[version][series u64, minute u32, count u32, sum i64]*`.
    pub fn write(&self, to: &mut Vec<u8>) {
        to.put_u8(STATISTICS_VERSION);
        for ((series, minute), (count, sum)) in &self.0 {
            to.put_u64(*series);
            to.put_u32(*minute);
            to.put_u32(*count);
            to.put_i64(sum.0);
        }
    }

    /// Adds its counts to an entity's cells.
    pub fn apply(&self, cells: &mut Cells) {
        for ((series, minute), (count, sum)) in &self.0 {
            cells.add(
                Grain::ITEM,
                *series,
                Timestamp(i64::from(*minute) * Length::Minute.ms()),
                *count,
                *sum,
            );
        }
    }

    /// Reads what `write` wrote.
    pub fn read(bytes: &[u8]) -> Result<Self, Damage> {
        let mut take = versioned(STATISTICS_VERSION, bytes)?;
        let mut counts = BTreeMap::new();
        while !take.is_empty() {
            counts.insert(
                (take.u64()?, take.u32()?),
                (take.u32()?, FixedSum(take.i64()?)),
            );
        }
        Ok(Self(counts))
    }
}

/// The statistics of the entities of one partition, as its owner holds them.
#[derive(Debug, Default)]
pub struct Statistics {
    entities: Entities,
    /// For each step that is not committed yet, oldest first: the entities it changed, as they were before it.
    undo: Vec<BTreeMap<Box<[u8]>, Option<Cells>>>,
    open: BTreeMap<Box<[u8]>, Option<Cells>>,
    /// Entities and series that the step counted into.
    counted: BTreeSet<(Box<[u8]>, u64)>,
    /// Bytes of the records that [`Statistics::changes`] is to give.
    open_bytes: usize,
    /// `item-state` is reflected up to here (exclusive).
    pub position: i64,
}

impl Statistics {
    /// Folds a delta.
    pub fn fold(&mut self, key: &[u8], delta: &Delta) {
        if !self.open.contains_key(key) {
            let before = self.entities.get(key).cloned();
            self.open.insert(key.into(), before);
        }
        let (counted, open_bytes) = (&mut self.counted, &mut self.open_bytes);
        self.entities.change(key, |cells| {
            delta.apply(cells);
            for series in delta.series() {
                if counted.insert((key.into(), series)) {
                    let cells = cells.series(series).len();
                    *open_bytes += key.len() + 25 + cells * item_state::CELL_BYTES;
                }
            }
        });
    }

    /// Bytes of the records that [`Statistics::changes`] is to give, about.
    pub fn changes_bytes(&self) -> usize {
        self.open_bytes
    }

    /// The records of the step: each changed series of an entity and its cells, in order of entities and series. Gives their number.
    pub fn changes(&mut self, emit: &mut dyn FnMut(&[u8], &[u8])) -> usize {
        self.open_bytes = 0;
        self.counted.clear();
        let open = std::mem::take(&mut self.open);
        let (mut key, mut value) = (Vec::new(), Vec::new());
        let mut count = 0;
        let none = Cells::default();
        for (entity, before) in &open {
            let Some(now) = self.entities.get(entity) else {
                continue;
            };
            for (series, cells) in item_state::changed(before.as_ref().unwrap_or(&none), now) {
                item_state::key(entity, series, &mut key);
                item_state::write(now, cells, &mut value);
                emit(&key, &value);
                count += 1;
            }
        }
        self.undo.push(open);
        count
    }

    /// The oldest step whose changes were given out is committed. `next` is where `item-state` stands, if the step wrote there.
    pub fn committed(&mut self, next: Option<i64>) {
        if !self.undo.is_empty() {
            self.undo.remove(0);
        }
        if let Some(next) = next {
            self.position = next;
        }
    }

    /// Takes back everything that is not committed. After it `item-state` is applied from `position` on.
    pub fn discard(&mut self) {
        self.open_bytes = 0;
        self.counted.clear();
        self.undo.push(std::mem::take(&mut self.open));
        for layer in std::mem::take(&mut self.undo).into_iter().rev() {
            for (key, before) in layer {
                self.entities.put(&key, before);
            }
        }
    }

    /// Applies a record of `item-state`.
    pub fn apply(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), Damage> {
        item_state::apply(&mut self.entities, key, value)
    }

    /// Each entity's key and cells, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Cells)> {
        self.entities.iter()
    }

    /// How many entities.
    pub fn len(&self) -> usize {
        self.entities.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entities.is_empty()
    }

    /// Bytes in memory, about.
    pub fn memory(&self) -> usize {
        self.entities.bytes()
    }

    /// The cells of an entity.
    pub fn get(&self, entity: Entity<'_>) -> Option<&Cells> {
        self.entities.get(&entity.key())
    }
}

/// The id of a category's name, for whoever sums over categories.
pub fn category_id(name: &str) -> u64 {
    pinned_hash(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a failed step leaves nothing behind. Method: two steps pipelined, the first committed or not, then discard.
    #[test]
    fn discard_takes_back_what_is_not_committed() {
        let click = KindId::of("click");
        let mut delta = Delta::default();
        delta.add(ScenarioId(1), click, Timestamp(120_000), FixedSum(5));
        let key = Entity::Item("i").key();
        let count = |statistics: &Statistics| {
            statistics
                .get(Entity::Item("i"))
                .map_or(0, |cells| cells.iter().map(|cell| cell.count).sum::<u32>())
        };
        for (committed, expected) in [(0, 1), (1, 2), (2, 3)] {
            let mut statistics = Statistics::default();
            for step in 0..3 {
                statistics.fold(&key, &delta);
                assert_eq!(statistics.changes(&mut |_, _| {}), 1);
                if step == 0 || step <= committed {
                    statistics.committed(Some(step));
                }
            }
            statistics.fold(&key, &delta);
            statistics.discard();
            assert_eq!(count(&statistics), expected);
        }
    }

    /// Goal: what is written is read. Method: a delta of two scenarios.
    #[test]
    fn bytes_come_back() {
        let mut delta = Delta::default();
        delta.add(ScenarioId(1), KindId(2), Timestamp(60_000), FixedSum(5));
        delta.add(
            ScenarioId(u32::MAX),
            KindId(3),
            Timestamp(600_000),
            FixedSum(-5),
        );
        let mut bytes = Vec::new();
        delta.write(&mut bytes);
        assert_eq!(Delta::read(&bytes), Ok(delta.clone()));
        assert!(Delta::read(&bytes[..bytes.len() - 1]).is_err());
        assert_eq!(
            of_series(series(ScenarioId(9), KindId(8))),
            (ScenarioId(9), KindId(8))
        );
    }
}
