//! Bytes that are not what was written, under a checksum that fits: a reader refuses them, or what it takes can be worked with.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::format::seal;

/// A change of some bytes: where, what, and how many bytes of it are cut out, put in or put over.
fn spoil() -> impl Strategy<Value = Vec<(Index, u8, u8)>> {
    let byte = prop_oneof![
        Just(0u8),
        Just(1),
        Just(0x7f),
        Just(0x80),
        Just(0xff),
        any::<u8>()
    ];
    proptest::collection::vec((any::<Index>(), byte, 0..12u8), 1..4)
}

fn spoilt(bytes: &[u8], changes: &[(Index, u8, u8)]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (at, byte, how) in changes {
        let at = at.index(bytes.len() + 1);
        let run = usize::from(how % 4) * 3 + 1;
        let end = (at + run).min(bytes.len());
        match how / 4 {
            0 => bytes[at..end].fill(*byte),
            1 => drop(bytes.drain(at..end)),
            _ => drop(bytes.splice(at..at, std::iter::repeat_n(*byte, run))),
        }
    }
    bytes
}

/// Reads everything of a partition and works on with it: users behave, entries are forgotten, all is written back and read again.
fn work(stores: &MemoryStores, partition: &mut Partition) -> Result<(), Error> {
    let ids: Vec<String> = partition.user_ids()?.into_iter().collect();
    for id in &ids {
        partition.whole_user(id)?;
    }
    told(partition);
    let author = [(SlotId::of("author"), "a\0")];
    let sequences = [SequenceId::of("all"), SequenceId::of("valued")];
    for id in &ids {
        for (number, item) in ["i1", "i2", "i3", "i4", "i5", "i1"].into_iter().enumerate() {
            let late = behavior(100, 5, Some(item), &author);
            let new = behavior(200 + number as i64, NOW + 400 * DAY_MS, Some(item), &author);
            for behavior in [late, new] {
                let behavior = in_sequences(behavior, &sequences);
                partition.fold(id, &behavior, &mut || [1; 16])?;
            }
        }
        if let Some(place) = partition.place(id)? {
            open_rows(partition, id);
            partition.show(place, ("r\0", "i3"), (Timestamp(NOW), Some(1)));
        }
        partition.release(id)?;
        partition.set_due(id, "r1", Some(Timestamp(NOW)))?;
        partition.set_standing(id, "r3", None, &mut || [1; 16])?;
    }
    told(partition);
    partition.changes(&mut |_, _| {});
    partition.committed(1);
    stored(partition, stores);
    let mut again = Partition::open(stores.open(0).unwrap(), settings())?;
    for id in &ids {
        again.whole_user(id)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    /// Goal: no stored bytes make a partition panic, now or later. Method: golden values of the store, spoilt under a checksum that fits; all of
    /// them read, and worked on with.
    #[test]
    fn spoilt_stores_are_refused_or_work(which in any::<Index>(), changes in spoil()) {
        let mut lines = held("store", STORE_VERSION);
        let line = which.index(lines.len());
        let value = lines[line].2.as_mut().unwrap();
        let bytes = spoilt(&value[5..], &changes);
        *value = seal(STORE_VERSION, |to| to.extend(bytes));
        let stores = store_of(&lines);
        let opened = Partition::open(stores.open(0).unwrap(), settings());
        let worked = opened.and_then(|mut partition| work(&stores, &mut partition));
        prop_assert!(matches!(worked, Ok(()) | Err(Error::Damaged { .. })), "{worked:?}");
    }

    /// Goal: the same of the changelog. Method: golden records, one of them spoilt; what is accepted is worked on with.
    #[test]
    fn spoilt_changelogs_are_refused_or_work(which in any::<Index>(), changes in spoil(), key_too in any::<bool>()) {
        let mut lines = held("changelog", CHANGELOG_VERSION);
        let line = which.index(lines.len());
        let (_, key, value) = &mut lines[line];
        match value {
            Some(value) if !key_too => *value = spoilt(value, &changes),
            _ => *key = spoilt(key, &changes),
        }
        let stores = MemoryStores::default();
        let mut partition = Partition::open(stores.open(0).unwrap(), settings()).unwrap();
        let mut applied = Ok(());
        for (_, key, value) in &lines {
            applied = applied.and_then(|()| partition.apply(key, value.as_deref()));
        }
        let worked = applied.and_then(|()| work(&stores, &mut partition));
        prop_assert!(matches!(worked, Ok(()) | Err(Error::Damaged { .. } | Error::Changelog { .. })), "{worked:?}");
    }

    /// Goal: the same of item statistics. Method: golden deltas and cells, spoilt; what is accepted is folded into and written again.
    #[test]
    fn spoilt_statistics_are_refused_or_work(which in any::<Index>(), changes in spoil()) {
        let lines = held("statistics", STATISTICS_VERSION);
        let (_, good) = statistics();
        let (_, key, value) = &lines[which.index(lines.len())];
        let value = spoilt(value.as_ref().unwrap(), &changes);
        let mut statistics = Statistics::default();
        if statistics.apply(key, Some(&value)).is_ok() {
            for entity in [Entity::Total, Entity::Item("i\0"), Entity::Category("c")] {
                statistics.fold(&entity.key(), &good);
            }
        }
        if let Ok(delta) = Delta::read(&value) {
            statistics.fold(&Entity::Total.key(), &delta);
            statistics.fold(&Entity::Total.key(), &good);
        }
        let mut written = Vec::new();
        statistics.changes(&mut |key, value| written.push((key.to_vec(), value.to_vec())));
        for (key, value) in written {
            Statistics::default().apply(&key, Some(&value)).unwrap();
        }
    }
}
