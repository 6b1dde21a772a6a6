//! A partition against its changelog, against crashes, and against a naive count.

use std::collections::BTreeMap;

use headwater_config::Topic;
use proptest::prelude::*;

use super::*;
use crate::behavior::{Coordinates, FixedSum, KindId, ScenarioId, SequenceId};
use crate::sequence::SequenceEntry;
use crate::store::{MemoryStores, Stores};

mod labels;
mod naive;
mod sequences;

use labels::{label, release_all, rules, waiting};
use naive::{Naive, Taken};

const SETTINGS: Settings = Settings {
    recent_max: 4,
    memory: 4096,
    keys_max: 0,
    allowed_lateness_ms: 1_000_000_000_000,
    drop_late: false,
    sequence_max: 6,
    labels: None,
};

#[derive(Clone, Debug)]
enum Op {
    Fold {
        user: u8,
        item: Option<u8>,
        kind: u8,
        time: i64,
        event: u8,
    },
    Commit,
    Fail,
    WriteBack {
        lost: bool,
        /// Users in it at most; 0: all.
        part: usize,
    },
    Reopen,
    Stand {
        user: u8,
        request: u8,
        due: Option<i64>,
        ends: bool,
    },
    Due {
        user: u8,
        request: u8,
        due: Option<i64>,
    },
    /// User, what, request, item, and how long before the watermark.
    Label(u8, u8, u8, u8, i64),
    Release,
}

fn op() -> impl Strategy<Value = Op> {
    let fold = (
        0..4u8,
        proptest::option::weighted(0.9, 0..90u8),
        0..2u8,
        0..400_000_000_000i64,
        any::<u8>(),
    )
        .prop_map(|(user, item, kind, time, event)| Op::Fold {
            user,
            item,
            kind,
            time,
            event,
        });
    prop_oneof![
        12 => fold,
        3 => Just(Op::Commit),
        1 => Just(Op::Fail),
        3 => (any::<bool>(), 0..3usize).prop_map(|(lost, part)| Op::WriteBack { lost, part }),
        1 => Just(Op::Reopen),
        1 => (0..4u8, 0..2u8, proptest::option::of(0..100i64))
            .prop_map(|(user, request, due)| Op::Due { user, request, due }),
        1 => (0..4u8, 0..2u8, proptest::option::of(0..100i64), any::<bool>())
            .prop_map(|(user, request, due, ends)| Op::Stand { user, request, due, ends }),
        6 => (0..4u8, 0..4u8, 0..2u8, 0..3u8, 0..4_000_000_000i64)
            .prop_map(|(user, what, request, item, ago)| Op::Label(user, what, request, item, ago)),
        1 => Just(Op::Release),
    ]
}

type Changelog = Vec<(Vec<u8>, Option<Vec<u8>>)>;

fn dump(partition: &mut Partition, stores: &MemoryStores) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let write_back = partition.write_back(Timestamp(0));
    partition.written(write_back.run()).unwrap();
    let mut all = BTreeMap::new();
    stores
        .open(0)
        .unwrap()
        .scan(&[], &mut |key, value| {
            all.insert(key.to_vec(), value.to_vec());
            true
        })
        .unwrap();
    all
}

fn replay(partition: &mut Partition, changelog: &Changelog) {
    let from = partition.position().changelog as usize;
    for (key, value) in &changelog[from..] {
        partition.apply(key, value.as_deref()).unwrap();
    }
    partition.restored_to(changelog.len() as i64);
}

fn run(ops: &[Op], settings: &Settings) -> (BTreeMap<Vec<u8>, Vec<u8>>, Changelog, Naive, u64) {
    let stores = MemoryStores::default();
    let settings = Settings {
        labels: Some(rules()),
        ..settings.clone()
    };
    let open = || Partition::open(stores.open(0).unwrap(), settings.clone()).unwrap();
    let mut partition = open();
    let mut changelog: Changelog = Vec::new();
    // What was committed.
    let mut counted = Naive::default();
    let mut pending: Vec<Taken> = Vec::new();
    let mut forgotten_total = 0;
    let mut offset = 0;
    let mut salt = 0u8;
    let mut salts = || {
        salt += 1;
        [salt; 16]
    };
    let commit = |partition: &mut Partition,
                  changelog: &mut Changelog,
                  pending: &mut Vec<Taken>,
                  counted: &mut Naive,
                  offset: i64| {
        partition.advance(Topic::Behaviors, offset);
        partition
            .changes(&mut |key, value| changelog.push((key.to_vec(), value.map(<[u8]>::to_vec))));
        partition.committed(changelog.len() as i64);
        for taken in pending.drain(..) {
            counted.count(&taken);
        }
    };
    for op in ops {
        match op {
            Op::Fold {
                user,
                item,
                kind,
                time,
                event,
            } => {
                offset += 1;
                let item = item.map(|item| format!("item-{item}"));
                let text = (event % 5 > 0).then_some([*event; 16]);
                let sequences = &[SequenceId(3), SequenceId(4)][usize::from(event % 4 == 0)..];
                let behavior = Behavior {
                    at: Coordinates { offset, index: 0 },
                    time: Timestamp(*time),
                    event: u64::from(*event),
                    kind: KindId(u32::from(*kind)),
                    scenario: ScenarioId(3),
                    item: item.as_deref(),
                    value: (*event > 100).then_some(FixedSum(i64::from(*event))),
                    attributes: &[(SlotId(8), "x"), (SlotId(9), "y")][..usize::from(*event) % 3],
                    text,
                    sequences,
                };
                match partition
                    .fold(&format!("user-{user}"), &behavior, &mut salts)
                    .unwrap()
                {
                    Folded::Counted { forgotten, .. } => {
                        forgotten_total += forgotten;
                        let entry = text.map(|text| SequenceEntry {
                            text,
                            time: behavior.time,
                            at: behavior.at,
                        });
                        pending.push(Taken {
                            user: *user,
                            kind: *kind,
                            sequences: sequences.to_vec(),
                            entry,
                        });
                    }
                    Folded::Duplicate => {}
                    Folded::Late => panic!("nothing is late here"),
                }
            }
            Op::Commit => commit(
                &mut partition,
                &mut changelog,
                &mut pending,
                &mut counted,
                offset,
            ),
            Op::Fail => {
                // The changes were sent, and the transaction aborted.
                partition.changes(&mut |_, _| {});
                pending.clear();
                partition.discard().unwrap();
                replay(&mut partition, &changelog);
            }
            Op::WriteBack { lost, part } => {
                commit(
                    &mut partition,
                    &mut changelog,
                    &mut pending,
                    &mut counted,
                    offset,
                );
                let write_back = match part {
                    0 => partition.write_back(Timestamp(0)),
                    part => partition.write_back_part(Timestamp(0), *part),
                };
                if *lost {
                    // A crash before the write reached the store.
                    drop(write_back);
                    partition = open();
                    replay(&mut partition, &changelog);
                } else {
                    partition.written(write_back.run()).unwrap();
                    partition.evict();
                }
            }
            Op::Reopen => {
                pending.clear();
                partition = open();
                replay(&mut partition, &changelog);
            }
            Op::Label(user, what, request, item, ago) => {
                label(&mut partition, (*user, *what, *request, *item, *ago));
            }
            Op::Release => release_all(&mut partition),
            Op::Due { user, request, due } => {
                let (user, request) = (format!("user-{user}"), format!("request-{request}"));
                partition
                    .set_due(&user, &request, due.map(Timestamp))
                    .unwrap();
            }
            Op::Stand {
                user,
                request,
                due,
                ends,
            } => {
                let request = format!("request-{request}");
                let standing = (!ends).then(|| Standing {
                    request: request.clone(),
                    expires: Timestamp(50),
                    due: due.map(Timestamp),
                    body: vec![7; 5],
                });
                partition
                    .set_standing(&format!("user-{user}"), &request, standing, &mut salts)
                    .unwrap();
            }
        }
    }
    commit(
        &mut partition,
        &mut changelog,
        &mut pending,
        &mut counted,
        offset,
    );
    let (open, due) = waiting(&mut partition);
    assert!(open.is_subset(&due), "{open:?} {due:?}");
    (
        dump(&mut partition, &stores),
        changelog,
        counted,
        forgotten_total,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Goal: STATE-1 and STATE-2. Method: random steps with aborts, crashes and lost write-backs; the store equals the one that its changelog
    /// gives, played whole and played compacted, and its counts equal a naive count of what was committed.
    #[test]
    fn store_equals_changelog_and_count(ops in proptest::collection::vec(op(), 1..250)) {
        let (store, changelog, counted, _) = run(&ops, &SETTINGS);
        let mut compacted: BTreeMap<Vec<u8>, (usize, Option<Vec<u8>>)> = BTreeMap::new();
        for (offset, (key, value)) in changelog.iter().enumerate() {
            compacted.insert(key.clone(), (offset, value.clone()));
        }
        let mut compacted: Vec<_> = compacted.into_iter().collect();
        compacted.sort_by_key(|(_, (offset, _))| *offset);
        let compacted: Changelog = compacted.into_iter().map(|(key, (_, value))| (key, value)).collect();
        for (changelog, length) in [(&changelog, changelog.len()), (&compacted, changelog.len())] {
            let stores = MemoryStores::default();
            let settings = Settings { labels: Some(rules()), ..SETTINGS };
            let mut restored = Partition::open(stores.open(0).unwrap(), settings).unwrap();
            replay(&mut restored, changelog);
            restored.restored_to(length as i64);
            let (open, due) = waiting(&mut restored);
            prop_assert!(open.is_subset(&due), "{open:?} {due:?}");
            let dumped = dump(&mut restored, &stores);
            prop_assert_eq!(&dumped, &store);
            prop_assert_eq!(&Naive::of(&stores, SETTINGS), &counted);
        }
    }

    /// Goal: retention bounds the keys and counts what it forgets, and STATE-2 holds with it. Method: as above, with three keys a slot.
    #[test]
    fn retention_is_bounded_and_replayable(ops in proptest::collection::vec(op(), 1..250)) {
        let settings = Settings { keys_max: 40, ..SETTINGS };
        let (store, changelog, _, _) = run(&ops, &settings);
        let stores = MemoryStores::default();
        let mut restored = Partition::open(stores.open(0).unwrap(), settings).unwrap();
        replay(&mut restored, &changelog);
        prop_assert_eq!(dump(&mut restored, &stores), store);
        for id in restored.user_ids().unwrap() {
            let user = restored.whole_user(&id).unwrap().unwrap();
            prop_assert!(user.slots().all(|(_, entries)| entries <= 45));
        }
    }
}

/// Goal: a write-back in parts ends, holds each user whole, and lets the position come last. Method: ten users in parts of four, and folds in
/// between; then all.
#[test]
fn parts_end_with_the_position() {
    let stores = MemoryStores::default();
    let mut partition = Partition::open(stores.open(0).unwrap(), SETTINGS).unwrap();
    let mut offset = 0;
    let mut fold = |partition: &mut Partition, user: i32| {
        offset += 1;
        let behavior = Behavior {
            at: Coordinates { offset, index: 0 },
            time: Timestamp(offset),
            event: 0,
            kind: KindId(1),
            scenario: ScenarioId(1),
            item: Some("i"),
            value: None,
            attributes: &[],
            text: None,
            sequences: &[],
        };
        partition
            .fold(&format!("u{user}"), &behavior, &mut || [1; 16])
            .unwrap();
        partition.changes(&mut |_, _| {});
        partition.committed(offset);
    };
    for user in 0..10 {
        fold(&mut partition, user);
    }
    let stored = |stores: &MemoryStores| {
        let opened = Partition::open(stores.open(0).unwrap(), SETTINGS).unwrap();
        opened.position().changelog
    };
    let mut sizes = Vec::new();
    for user in 0..3 {
        let part = partition.write_back_part(Timestamp(0), 4).run();
        sizes.push(part.values);
        partition.written(part).unwrap();
        assert_eq!(stored(&stores), if user < 2 { 0 } else { 10 });
        assert_eq!(partition.is_written_in_part(), user < 2);
        fold(&mut partition, user);
    }
    // Users of one value each, and the position with the last part: what it says is what was when the first part began.
    assert_eq!(sizes, [4, 4, 3]);
    let rest = partition.write_back(Timestamp(0)).run();
    assert!(rest.values <= 4, "{}", rest.values);
    partition.written(rest).unwrap();
    assert_eq!(stored(&stores), 13);
    assert!(!partition.is_dirty());
}

/// A store that takes no batch once it is told so.
struct Refusing {
    inner: Arc<dyn Store>,
    refuses: std::sync::atomic::AtomicBool,
}

impl Store for Refusing {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, crate::StoreError> {
        self.inner.get(key)
    }

    fn apply(&self, batch: &Batch) -> Result<(), crate::StoreError> {
        if self.refuses.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(crate::StoreError::Broken {
                path: "here".into(),
                reason: "refused".to_owned(),
            });
        }
        self.inner.apply(batch)
    }

    fn scan(
        &self,
        prefix: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), crate::StoreError> {
        self.inner.scan(prefix, each)
    }
}

/// Goal: what did not reach the store does not stay in memory after a discard, where it would pass for what lies there. Method: a standing request is
/// written as due, becomes current, and the write-back of that fails; after a discard and the changelog's records it has one timer, the right one.
#[test]
fn a_failed_write_back_leaves_nothing_behind() {
    let store = Arc::new(Refusing {
        inner: MemoryStores::default().open(0).unwrap(),
        refuses: false.into(),
    });
    let mut partition = Partition::open(Arc::clone(&store) as Arc<dyn Store>, SETTINGS).unwrap();
    let mut changelog: Changelog = Vec::new();
    let mut commit = |partition: &mut Partition| {
        partition
            .changes(&mut |key, value| changelog.push((key.to_vec(), value.map(<[u8]>::to_vec))));
        partition.committed(changelog.len() as i64);
    };
    let standing = Standing {
        request: "r".to_owned(),
        expires: Timestamp(1_000),
        due: Some(Timestamp(10)),
        body: vec![7; 5],
    };
    partition
        .set_standing("u", "r", Some(standing), &mut || [1; 16])
        .unwrap();
    commit(&mut partition);
    let written = partition.write_back(Timestamp(0)).run();
    partition.written(written).unwrap();
    partition.set_due("u", "r", None).unwrap();
    commit(&mut partition);
    store
        .refuses
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let written = partition.write_back(Timestamp(0)).run();
    partition.written(written).unwrap_err();
    partition.discard().unwrap();
    let timers = |partition: &Partition| -> Vec<i64> {
        partition
            .due(Timestamp(2_000))
            .map(|(at, ..)| at.0)
            .collect()
    };
    assert_eq!(timers(&partition), [10], "as the store has it");
    replay(&mut partition, &changelog);
    assert_eq!(timers(&partition), [1_000]);
}

/// Goal: an update touches one page, however long the history is. Method: 20,000 keys, then count what one more behavior writes.
#[test]
fn an_update_touches_one_page() {
    let stores = MemoryStores::default();
    let mut partition = Partition::open(stores.open(0).unwrap(), SETTINGS).unwrap();
    let fold = |partition: &mut Partition, number: i64| {
        let item = format!("item-{}", number % 20_000);
        let behavior = Behavior {
            at: Coordinates {
                offset: number,
                index: 0,
            },
            time: Timestamp(number),
            event: 0,
            kind: KindId(1),
            scenario: ScenarioId(1),
            item: Some(&item),
            value: None,
            attributes: &[],
            text: None,
            sequences: &[],
        };
        partition.fold("u", &behavior, &mut || [1; 16]).unwrap();
    };
    for number in 0..20_500 {
        fold(&mut partition, number);
    }
    partition.changes(&mut |_, _| {});
    partition.committed(1);
    let first = partition.write_back(Timestamp(0)).run();
    assert!(first.values > 20_000 / 64, "{}", first.values);
    partition.written(first).unwrap();
    fold(&mut partition, 20_500);
    let mut records = 0;
    partition.changes(&mut |_, _| records += 1);
    partition.committed(2);
    assert_eq!(records, 3, "one recent behavior, one entry, the position");
    let second = partition.write_back(Timestamp(0)).run();
    assert_eq!(second.values, 3, "the root, one page, the position");
    partition.written(second).unwrap();
}

/// Goal: bytes of another version, or damaged ones, are never read as state. Method: each byte of a stored root flipped in turn.
#[test]
fn damage_is_found() {
    let stores = MemoryStores::default();
    let mut partition = Partition::open(stores.open(0).unwrap(), SETTINGS).unwrap();
    let behavior = Behavior {
        at: Coordinates {
            offset: 1,
            index: 0,
        },
        time: Timestamp(5),
        event: 9,
        kind: KindId(1),
        scenario: ScenarioId(1),
        item: Some("i"),
        value: None,
        attributes: &[],
        text: None,
        sequences: &[],
    };
    partition.fold("u", &behavior, &mut || [1; 16]).unwrap();
    partition.changes(&mut |_, _| {});
    partition.committed(1);
    dump(&mut partition, &stores);
    let store = stores.open(0).unwrap();
    let mut key = Vec::new();
    changelog::root_key("u", &mut key);
    let root = store.get(&key).unwrap().unwrap();
    for at in 0..root.len() {
        let mut bad = root.clone();
        bad[at] ^= 0x40;
        store.apply(&vec![(key.clone(), Some(bad))]).unwrap();
        let mut partition = Partition::open(stores.open(0).unwrap(), SETTINGS).unwrap();
        assert!(
            matches!(partition.whole_user("u"), Err(Error::Damaged { .. })),
            "byte {at}"
        );
    }
}

/// Goal: a standing request is filed under its own id, or refused: later nobody would find it. Method: one under the key of another, from the
/// changelog and from the store.
#[test]
fn a_standing_request_under_anothers_key_is_damage() {
    let stores = MemoryStores::default();
    let mut partition = Partition::open(stores.open(0).unwrap(), SETTINGS).unwrap();
    let standing = Standing {
        request: "r".to_owned(),
        expires: Timestamp(9),
        due: None,
        body: b"{}".to_vec(),
    };
    partition
        .set_standing("u", "r", Some(standing), &mut || [1; 16])
        .unwrap();
    let other = |key: &[u8]| {
        let mut other = Vec::new();
        if let Ok(ChangelogKey::Standing { user, .. }) = ChangelogKey::read(key) {
            ChangelogKey::Standing { user, request: "q" }.write(&mut other);
        }
        (!other.is_empty()).then_some(other)
    };
    let mut refused = 0;
    partition.changes(&mut |key, value| {
        let Some(other) = other(key) else { return };
        let empty = MemoryStores::default();
        let mut restored = Partition::open(empty.open(0).unwrap(), SETTINGS).unwrap();
        restored.apply(key, value).unwrap();
        let error = restored.apply(&other, value).unwrap_err();
        let told = other.escape_ascii().to_string();
        assert!(
            matches!(&error, Error::Changelog { key, damage: Damage::Contradiction } if *key == told),
            "{error}"
        );
        refused += 1;
    });
    assert_eq!(refused, 1);
    partition.committed(1);
    for (key, value) in dump(&mut partition, &stores) {
        if let Some(other) = other(&key) {
            let store = stores.open(0).unwrap();
            store
                .apply(&vec![(key, None), (other, Some(value))])
                .unwrap();
            refused += 1;
        }
    }
    assert_eq!(refused, 2);
    let opened = Partition::open(stores.open(0).unwrap(), SETTINGS);
    assert!(matches!(
        opened,
        Err(Error::Damaged {
            damage: Damage::Contradiction,
            ..
        })
    ));
}
