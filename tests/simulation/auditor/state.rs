//! `STATE-1` and `STATE-2`: users against the naive count, and every store against the changelog alone. And rows against the salts: each
//! bears the pseudonym of a user whom state knows, so that erasing the state unlinks it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headwater_config::{Delivery, Topic};
use headwater_consumers::log::{Log, TopicPartition};
use headwater_consumers::pseudonym::pseudonym;
use headwater_consumers::worker::settings_of;
use headwater_model::language::text_hash;
use headwater_state::{
    KindId, MemoryStores, Partition, ScenarioId, Sequence, SlotId, Store, Stores, Timestamp, User,
    of_series,
};
use headwater_tests::naive_vectors::{Done, Run};

use super::deep;
use super::naive::{Counted, World};
use super::{Seen, read_all};
use crate::stores::SimStores;
use crate::workload::Plan;

type Dump = BTreeMap<Vec<u8>, Vec<u8>>;

pub(crate) fn judge(
    log: &dyn Log,
    plan: &Plan,
    world: &World,
    owners: &[(i32, usize)],
    stores: &[Arc<SimStores>],
) -> Result<(), String> {
    let changelog = read_all(log, Topic::Changelog)?;
    let rows = read_all(log, Topic::FeatureLog)?;
    for partition in 0..plan.partitions {
        let owner = owners.iter().find(|(number, _)| *number == partition);
        let (_, owner) = owner.ok_or_else(|| format!("nobody owns partition {partition}"))?;
        let records: Vec<&Seen> = changelog
            .iter()
            .filter(|seen| seen.partition == partition)
            .collect();
        let end = log
            .extent(TopicPartition::new(Topic::Changelog, partition))
            .map_err(|error| format!("{error:?}"))?
            .next;
        // From nothing but the changelog.
        let (mut truth, expected) =
            copy(plan, &Stored::nothing(), &records, end).map_err(|error| {
                format!("STATE-2: partition {partition} from the changelog: {error}")
            })?;
        users(plan, world, partition, &mut truth)
            .map_err(|error| format!("STATE-1: partition {partition}: {error}"))?;
        // At least once, rows of steps that failed are there too: nobody kept their salts.
        if plan.config.kafka.delivery == Delivery::ExactlyOnce {
            let rows = rows.iter().filter(|seen| seen.partition == partition);
            pseudonyms(rows, &mut truth)?;
        }
        for (place, stores) in stores.iter().enumerate() {
            let Some((_, store)) = stores
                .all()
                .into_iter()
                .find(|(number, _)| *number == partition)
            else {
                if place == *owner {
                    return Err(format!("the owner has no store of partition {partition}"));
                }
                continue;
            };
            // Damage that nobody has met yet is met when it is read.
            if store.is_damaged() {
                continue;
            }
            let stored = Stored(store.dump());
            if place == *owner && !records.is_empty() {
                // The owner wrote everything back when it stopped: nothing of the changelog is left to apply.
                let last = records.last().map_or(0, |seen| seen.offset);
                let at = stored.position(plan)?;
                if !(last + 1..=end).contains(&at) {
                    return Err(format!(
                        "STATE-2: partition {partition}: the owner stopped at {at} of {end} (last record {last})"
                    ));
                }
            }
            let (_, found) = copy(plan, &stored, &records, end).map_err(|error| {
                format!("STATE-2: copy {place} of partition {partition}: {error}")
            })?;
            differ(&expected, &found).map_err(|error| {
                format!("STATE-2: copy {place} of partition {partition} (owner: {owner}): {error}")
            })?;
        }
    }
    Ok(())
}

struct Stored(Dump);

impl Stored {
    fn nothing() -> Self {
        Self(Dump::new())
    }

    fn open(&self, plan: &Plan) -> Result<(Partition, Arc<dyn Store>), String> {
        let stores = MemoryStores::default();
        let store = stores.open(0).map_err(|error| format!("{error:?}"))?;
        let batch = self
            .0
            .iter()
            .map(|(key, value)| (key.clone(), Some(value.clone())))
            .collect();
        store.apply(&batch).map_err(|error| format!("{error:?}"))?;
        let settings = settings_of(&plan.config, 1);
        let partition =
            Partition::open(Arc::clone(&store), settings).map_err(|error| format!("{error:?}"))?;
        Ok((partition, store))
    }

    fn position(&self, plan: &Plan) -> Result<i64, String> {
        Ok(self.open(plan)?.0.position().changelog)
    }
}

/// A store after the rest of the changelog was applied to it and everything was written back.
fn copy(
    plan: &Plan,
    stored: &Stored,
    records: &[&Seen],
    end: i64,
) -> Result<(Partition, Dump), String> {
    let (mut partition, store) = stored.open(plan)?;
    let from = partition.position().changelog;
    for seen in records.iter().filter(|seen| seen.offset >= from) {
        partition
            .apply(&seen.key, seen.value.as_deref())
            .map_err(|error| format!("{error:?}"))?;
    }
    partition.restored_to(end);
    let written = partition.write_back(Timestamp(0)).run();
    partition
        .written(written)
        .map_err(|error| format!("{error:?}"))?;
    let mut dump = Dump::new();
    store
        .scan(&[], &mut |key, value| {
            dump.insert(key.to_vec(), value.to_vec());
            true
        })
        .map_err(|error| format!("{error:?}"))?;
    Ok((partition, dump))
}

fn differ(expected: &Dump, found: &Dump) -> Result<(), String> {
    let keys: BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    for key in keys {
        if expected.get(key) != found.get(key) {
            return Err(format!(
                "key {}: the changelog says {:?}, the store {:?}",
                key.escape_ascii(),
                expected
                    .get(key)
                    .map(|value| value.escape_ascii().to_string()),
                found.get(key).map(|value| value.escape_ascii().to_string()),
            ));
        }
    }
    Ok(())
}

/// Counts and sums of one key of a slot, by scenario and kind, and the first and the newest time.
#[derive(Debug, Default, PartialEq)]
struct Sums {
    first: i64,
    last: i64,
    by: BTreeMap<(u32, u32), (u64, i64)>,
}

impl Sums {
    fn add(&mut self, series: (u32, u32), (first, last): (i64, i64), count: u64, sum: i64) {
        if self.by.is_empty() || first < self.first {
            self.first = first;
        }
        if self.by.is_empty() || last > self.last {
            self.last = last;
        }
        let held = self.by.entry(series).or_default();
        held.0 += count;
        held.1 += sum;
    }
}

fn series(counted: &Counted) -> (u32, u32) {
    (
        ScenarioId::of(&counted.scenario).0,
        KindId::of(&counted.kind).0,
    )
}

fn users(plan: &Plan, world: &World, partition: i32, state: &mut Partition) -> Result<(), String> {
    let expected: BTreeSet<String> = world
        .counted
        .iter()
        .filter(|counted| counted.partition == partition)
        .map(|counted| counted.user.clone())
        .collect();
    let found = state.user_ids().map_err(|error| format!("{error:?}"))?;
    if let Some(user) = expected.difference(&found).next() {
        return Err(format!("user {user} is not there"));
    }
    for user in &found {
        let known = state
            .whole_user(user)
            .map_err(|error| format!("{error:?}"))?;
        let known = known.ok_or_else(|| format!("user {user} is listed and is not there"))?;
        let of = world.of(partition, user);
        judge_user(plan, &of, known)
            .and_then(|()| judge_sequence(plan, &of, known))
            .map_err(|error| format!("user {user}: {error}"))?;
    }
    Ok(())
}

fn pseudonyms<'a>(
    rows: impl Iterator<Item = &'a Seen>,
    state: &mut Partition,
) -> Result<(), String> {
    let wrong = |error| format!("{error:?}");
    let mut known = BTreeSet::new();
    for id in state.user_ids().map_err(wrong)? {
        let user = state.whole_user(&id).map_err(wrong)?;
        known.extend(user.map(|user| pseudonym(&id, user.salt())));
    }
    for row in rows {
        let name = String::from_utf8_lossy(&row.key);
        if !known.contains(&*name) {
            return Err(format!(
                "a row of {name}, who is nobody's pseudonym: {row:?}"
            ));
        }
    }
    Ok(())
}

/// A user's sequence against the naive run of what counted, in the order in which it came.
fn judge_sequence(plan: &Plan, counted: &[&Counted], user: &User) -> Result<(), String> {
    let mut came: Vec<&Counted> = counted.to_vec();
    came.sort_by_key(|counted| (counted.offset, counted.index));
    let expected = if plan.texts {
        deep::run_of(&plan.config, came.into_iter())
    } else {
        Run::default()
    };
    let entry = |done: &Done| (text_hash(&done.text), done.time, done.offset);
    let expected_entries: Vec<_> = expected.entries.iter().map(entry).collect();
    let mut sequences = user.sequences();
    let found = sequences.next();
    let entries = found.into_iter().flat_map(Sequence::entries);
    let entries: Vec<_> = entries
        .map(|entry| (entry.text, entry.time.0, entry.at.offset))
        .collect();
    let start = found.map_or(0, Sequence::start);
    if (start, &entries) != (expected.start, &expected_entries) || sequences.next().is_some() {
        return Err(format!("its sequence must be {expected:?}, is {found:?}"));
    }
    Ok(())
}

fn judge_user(plan: &Plan, counted: &[&Counted], user: &User) -> Result<(), String> {
    let recent_max = plan.config.state.recent;
    let cut = counted.len().saturating_sub(recent_max);
    let (history, recent) = counted.split_at(cut);
    let expected: Vec<String> = recent
        .iter()
        .map(|counted| {
            format!(
                "{} {} {:?} {:?} {:?} {:?}",
                counted.time,
                counted.offset,
                series(counted),
                counted.item,
                counted.value,
                slots(counted)
            )
        })
        .collect();
    let found: Vec<String> = user
        .recent()
        .iter()
        .map(|behavior| {
            let slots: BTreeMap<u32, &str> = behavior
                .attributes()
                .map(|(slot, text)| (slot.0, text))
                .collect();
            format!(
                "{} {} {:?} {:?} {:?} {:?}",
                behavior.time.0,
                behavior.at.offset,
                (behavior.scenario.0, behavior.kind.0),
                behavior.item.map(str::to_owned),
                behavior.value.map(|value| value.0),
                slots
            )
        })
        .collect();
    if expected != found {
        return Err(format!(
            "recent is {found:#?}, and must be {expected:#?}; all: {counted:#?}"
        ));
    }
    let mut expected: BTreeMap<(u32, String), Sums> = BTreeMap::new();
    for behavior in history {
        let item = (SlotId::ITEM.0, behavior.item.clone().unwrap_or_default());
        let attributes = slots(behavior)
            .into_iter()
            .map(|(slot, text)| (slot, text.to_owned()));
        for key in std::iter::once(item).chain(attributes) {
            let times = (behavior.time, behavior.time);
            let value = behavior.value.unwrap_or_default();
            expected
                .entry(key)
                .or_default()
                .add(series(behavior), times, 1, value);
        }
    }
    let mut found: BTreeMap<(u32, String), Sums> = BTreeMap::new();
    for (slot, entries) in user.slots() {
        let mut count = 0;
        for entry in user.history(slot) {
            count += 1;
            let sums = found.entry((slot.0, entry.key.to_owned())).or_default();
            for cell in entry.cells() {
                let (scenario, kind) = of_series(cell.series);
                let times = (entry.first.0, entry.last.0);
                sums.add(
                    (scenario.0, kind.0),
                    times,
                    u64::from(cell.count),
                    cell.sum.0,
                );
            }
        }
        if count != entries {
            return Err(format!(
                "slot {slot:?} says {entries} entries and has {count}"
            ));
        }
    }
    if expected != found {
        return Err(format!(
            "history is {found:#?}, and must be {expected:#?}; all: {counted:#?}"
        ));
    }
    let newest = history.iter().map(|counted| counted.time).max();
    if newest.unwrap_or(i64::MIN) != user.history_newest().0 {
        return Err(format!(
            "history's newest is {:?}, and must be {newest:?}",
            user.history_newest()
        ));
    }
    Ok(())
}

/// The attributes by slot.
fn slots(counted: &Counted) -> BTreeMap<u32, &str> {
    counted
        .attributes
        .iter()
        .map(|(name, text)| (SlotId::of(name).0, text.as_str()))
        .collect()
}
