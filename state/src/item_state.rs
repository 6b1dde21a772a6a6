//! Records of `item-state`: one a series (scenario and kind) of an entity. A step writes the series that it changed, and a record is bounded
//! by the cells that one series keeps, some 5 KB, however many scenarios and kinds a platform has.
//!
//! Before it stand [`crate::Statistics`], after it the topic, and the owner's restart and each instance's item table that read it. Builds of
//! version 1 wrote all series of an entity in one record under the entity's own key; such a record lies before those that have replaced parts
//! of it, and is read as it was.

use crate::cell::{Cell, Cells};
use crate::entities::Entities;
use crate::error::Damage;
use crate::format::{Put, Take, versioned};
use crate::statistics::{Entity, STATISTICS_VERSION};

/// Bytes of a cell: its series is in the key.
pub(crate) const CELL_BYTES: usize = Cell::BYTES - 8;

/// The key of a series: the entity's letter as a capital, the series, the entity's id.
pub(crate) fn key(entity: &[u8], series: u64, to: &mut Vec<u8>) {
    to.clear();
    to.put_u8(entity[0].to_ascii_uppercase());
    to.put(&series.to_be_bytes());
    to.put(&entity[1..]);
}

/// The value of a series: `[version][first i64][last i64]` of the entity, and the cells of the series without it.
pub(crate) fn write(entity: &Cells, cells: &[Cell], to: &mut Vec<u8>) {
    to.clear();
    to.put_u8(STATISTICS_VERSION);
    to.put_i64(entity.first.0);
    to.put_i64(entity.last.0);
    for cell in cells {
        to.put_u8(cell.length as u8);
        to.put_u32(cell.number);
        to.put_u32(cell.count);
        to.put_i64(cell.sum.0);
    }
}

fn read(series: u64, take: &mut Take<'_>) -> Result<Cells, Damage> {
    let (first, last) = (take.i64()?, take.i64()?);
    let count = take.0.len() / CELL_BYTES;
    if count * CELL_BYTES != take.0.len() {
        return Err(Damage::Short);
    }
    let mut whole = Vec::with_capacity(20 + count * Cell::BYTES);
    whole.put_i64(first);
    whole.put_i64(last);
    whole.put_u32(count as u32);
    for _ in 0..count {
        whole.put_u64(series);
        whole.put(take.bytes(CELL_BYTES)?);
    }
    Cells::read(&mut Take(&whole))
}

/// Takes a record in.
pub(crate) fn apply(
    entities: &mut Entities,
    key: &[u8],
    value: Option<&[u8]>,
) -> Result<(), Damage> {
    let (letter, rest) = key.split_first().ok_or(Damage::Short)?;
    if !letter.is_ascii_uppercase() {
        Entity::of_key(key)?;
        let cells = value.map(|value| {
            let mut take = versioned(STATISTICS_VERSION, value)?;
            let cells = Cells::read(&mut take)?;
            take.end()?;
            Ok(cells)
        });
        entities.put(key, cells.transpose()?);
        return Ok(());
    }
    let (series, id) = rest.split_first_chunk().ok_or(Damage::Short)?;
    let series = u64::from_be_bytes(*series);
    let mut entity = vec![letter.to_ascii_lowercase()];
    entity.put(id);
    Entity::of_key(&entity)?;
    let cells = match value {
        Some(value) => read(series, &mut versioned(STATISTICS_VERSION, value)?)?,
        None => Cells::default(),
    };
    let empty = entities.change(&entity, |held| {
        held.set_series(series, cells);
        held.is_empty()
    });
    if empty {
        entities.put(&entity, None);
    }
    Ok(())
}

/// Series of which `now` says something else than `before`.
pub(crate) fn changed<'a>(
    before: &'a Cells,
    now: &'a Cells,
) -> impl Iterator<Item = (u64, &'a [Cell])> {
    now.by_series()
        .filter(|(series, cells)| before.series(*series) != *cells)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behavior::{FixedSum, KindId, ScenarioId, Timestamp};
    use crate::statistics::{Delta, Statistics};

    const MINUTE_MS: i64 = 60_000;

    fn delta(scenario: u32, minute: i64) -> Delta {
        let mut delta = Delta::default();
        let time = Timestamp(minute * MINUTE_MS);
        delta.add(ScenarioId(scenario), KindId(1), time, FixedSum(minute));
        delta
    }

    /// Records of a step.
    fn records(statistics: &mut Statistics) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut records = Vec::new();
        statistics.changes(&mut |key, value| records.push((key.to_vec(), value.to_vec())));
        statistics.committed(None);
        records
    }

    fn told(statistics: &Statistics) -> String {
        format!("{:?}", statistics.get(Entity::Total))
    }

    /// Goal: a record is bounded, a step writes what it changed, and who reads the records holds the same. Method: two hundred scenarios that
    /// are counted for years into one entity, one scenario a step; a reader of each record, one of the newest records alone, and one that was
    /// given a record of version 1 half way.
    #[test]
    fn records_are_bounded_and_hold_the_whole() {
        const SCENARIOS: u32 = 200;
        let entity = Entity::Total.key();
        let mut owner = Statistics::default();
        let (mut follower, mut upgraded) = (Statistics::default(), Statistics::default());
        let mut compacted = std::collections::BTreeMap::new();
        let mut bytes = 0;
        let minutes = (0..4_000)
            .map(|step| step * 311)
            .chain(1_244_000..1_245_200);
        for (step, minute) in (0..).zip(minutes) {
            owner.fold(&entity, &delta(step % SCENARIOS, minute));
            let whole = step == 3_000;
            for (key, value) in records(&mut owner) {
                assert!(value.len() < 5_000, "{}", value.len());
                bytes += value.len();
                follower.apply(&key, Some(&value)).unwrap();
                if step > 3_000 {
                    upgraded.apply(&key, Some(&value)).unwrap();
                }
                compacted.insert(key, value);
            }
            if whole {
                let mut old = vec![1];
                owner.get(Entity::Total).unwrap().write(&mut old);
                upgraded.apply(&entity, Some(&old)).unwrap();
            }
        }
        assert_eq!(compacted.len(), SCENARIOS as usize);
        let mut restarted = Statistics::default();
        for (key, value) in &compacted {
            restarted.apply(key, Some(value)).unwrap();
        }
        for reader in [&follower, &upgraded, &restarted] {
            assert!(told(reader) == told(&owner));
        }
        let mut old = Vec::new();
        owner.get(Entity::Total).unwrap().write(&mut old);
        assert!(old.len() > 100_000, "{}", old.len());
        assert!(bytes / 5_200 < old.len() / 4, "{}", bytes / 5_200);
        for key in compacted.keys() {
            restarted.apply(key, None).unwrap();
        }
        assert_eq!((restarted.len(), restarted.memory()), (0, 0));
    }

    /// Goal: bytes that are no record are refused. Method: a record cut at each length, and keys of none.
    #[test]
    fn what_is_no_record_is_refused() {
        let mut owner = Statistics::default();
        owner.fold(&Entity::Item("i").key(), &delta(1, 7));
        let (key, value) = records(&mut owner).pop().unwrap();
        for at in 0..value.len() {
            let cut = Statistics::default().apply(&key, Some(&value[..at]));
            assert!(cut.is_err() || at == value.len() - CELL_BYTES, "{at}");
        }
        for at in 0..key.len() - 1 {
            assert!(
                Statistics::default()
                    .apply(&key[..at], Some(&value))
                    .is_err(),
                "{at}"
            );
        }
        let other = Statistics::default().apply(b"X12345678i", Some(&value));
        assert_eq!(other, Err(Damage::Key));
    }
}
