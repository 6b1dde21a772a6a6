//! Sequences through a partition: what a behavior writes, and what is left of it after a crash.

use super::*;
use crate::user::User;

const CLICKS: SequenceId = SequenceId(3);
const BUYS: SequenceId = SequenceId(4);

fn behavior(offset: i64, time: i64, sequences: &[SequenceId]) -> Behavior<'_> {
    Behavior {
        at: Coordinates { offset, index: 0 },
        time: Timestamp(time),
        event: offset as u64,
        kind: KindId(1),
        scenario: ScenarioId(1),
        item: Some("i"),
        value: None,
        attributes: &[],
        text: Some([offset as u8; 16]),
        sequences,
    }
}

/// Folds a behavior, and gives the kinds of the changelog's records of it, each once.
fn fold(partition: &mut Partition, behavior: &Behavior<'_>) -> Vec<String> {
    partition.fold("user-0", behavior, &mut || [1; 16]).unwrap();
    let mut kinds = Vec::new();
    let records = partition.changes(&mut |key, value| {
        assert!(value.is_some(), "nothing is deleted");
        kinds.push(match ChangelogKey::read(key).unwrap() {
            ChangelogKey::SequenceStart { sequence, .. } => format!("start of {}", sequence.0),
            ChangelogKey::SequenceEntry {
                sequence, place, ..
            } => format!("{place} of {}", sequence.0),
            ChangelogKey::Recent { .. } => "recent".to_owned(),
            other => format!("{other:?}").split(' ').next().unwrap().to_owned(),
        });
    });
    if records > 0 {
        partition.committed(behavior.at.offset);
    }
    kinds.retain(|kind| kind.contains("of"));
    kinds
}

fn opened(settings: Settings) -> Partition {
    Partition::open(MemoryStores::default().open(0).unwrap(), settings).unwrap()
}

fn user(partition: &mut Partition) -> &User {
    partition.whole_user("user-0").unwrap().unwrap()
}

fn offsets(partition: &mut Partition, id: SequenceId) -> (u64, Vec<i64>) {
    let sequence = user(partition).sequence(id).unwrap();
    let entries = sequence.entries().iter();
    (
        sequence.start(),
        entries.map(|entry| entry.at.offset).collect(),
    )
}

/// Goal: a behavior is one record a sequence, one more when the sequence begins anew, and places are taken again. Method: seven behaviors, a limit of
/// six; then one that is too old, one without a text, one that was counted before, and one in no sequence.
#[test]
fn a_behavior_is_one_record_a_sequence() {
    let mut partition = opened(SETTINGS);
    let both = [CLICKS, BUYS];
    assert_eq!(
        fold(&mut partition, &behavior(1, 10, &both)),
        ["0 of 3", "0 of 4"]
    );
    for offset in 2..6 {
        let place = format!("{} of 3", offset - 1);
        let records = fold(&mut partition, &behavior(offset, 10 * offset, &both[..1]));
        assert_eq!(records, [place]);
    }
    let sixth = fold(&mut partition, &behavior(6, 60, &both[..1]));
    assert_eq!(sixth, ["5 of 3", "start of 3"]);
    assert_eq!(offsets(&mut partition, CLICKS), (3, vec![4, 5, 6]));
    assert_eq!(
        fold(&mut partition, &behavior(7, 45, &both[..1])),
        ["0 of 3"]
    );
    let none: [&str; 0] = [];
    assert_eq!(
        fold(&mut partition, &behavior(8, 39, &both)),
        ["1 of 4"],
        "too old for one, not for the other"
    );
    let no_text = Behavior {
        text: None,
        ..behavior(9, 90, &both)
    };
    assert_eq!(fold(&mut partition, &no_text), none);
    assert_eq!(fold(&mut partition, &behavior(10, 91, &[])), none);
    let twice = Behavior {
        event: 10,
        ..behavior(11, 92, &both)
    };
    assert_eq!(fold(&mut partition, &twice), none);
    assert_eq!(offsets(&mut partition, CLICKS), (3, vec![4, 7, 5, 6]));
    assert_eq!(offsets(&mut partition, BUYS), (0, vec![1, 8]));
    assert!(user(&mut partition).sequence(SequenceId(5)).is_none());
}

/// Goal: late behaviors that are left out are in no sequence either, and late ones that count are. Method: one of each.
#[test]
fn late_behaviors_enter_if_they_count() {
    for drop_late in [false, true] {
        let mut partition = opened(Settings {
            allowed_lateness_ms: 5,
            drop_late,
            ..SETTINGS
        });
        fold(&mut partition, &behavior(1, 100, &[CLICKS]));
        fold(&mut partition, &behavior(2, 10, &[CLICKS]));
        let held = if drop_late { vec![1] } else { vec![2, 1] };
        assert_eq!(offsets(&mut partition, CLICKS), (0, held));
    }
}

/// Goal: a limit that is lowered holds from the next behavior on. Method: five of six, then a limit of two.
#[test]
fn a_lowered_limit_holds_from_the_next_behavior_on() {
    let mut partition = opened(SETTINGS);
    for offset in 1..=5 {
        fold(&mut partition, &behavior(offset, offset, &[CLICKS]));
    }
    partition.set_settings(Settings {
        sequence_max: 2,
        ..SETTINGS
    });
    assert_eq!(offsets(&mut partition, CLICKS).0, 0);
    fold(&mut partition, &behavior(6, 6, &[CLICKS]));
    assert_eq!(offsets(&mut partition, CLICKS), (5, vec![6]));
}

/// Goal: users without sequences cost nothing, and others one value a sequence, written when it changed. Method: what write-backs write.
#[test]
fn a_sequence_is_one_value() {
    let mut partition = opened(SETTINGS);
    let written = |partition: &mut Partition| {
        let done = partition.write_back(Timestamp(0)).run();
        let values = done.values;
        partition.written(done).unwrap();
        values
    };
    fold(&mut partition, &behavior(1, 1, &[]));
    assert_eq!(written(&mut partition), 2, "root and position");
    let before = partition.memory();
    fold(&mut partition, &behavior(2, 2, &[CLICKS, BUYS]));
    assert!(partition.memory() > before + 2 * size_of::<SequenceEntry>());
    assert_eq!(written(&mut partition), 4, "two sequences more");
    fold(&mut partition, &behavior(3, 3, &[BUYS]));
    assert_eq!(written(&mut partition), 3);
    fold(&mut partition, &behavior(4, 4, &[]));
    assert_eq!(written(&mut partition), 2);
}

/// Goal: a root that names a sequence which is not there is damage, with the sequence's name. Method: its value deleted.
#[test]
fn a_missing_sequence_is_damage() {
    let stores = MemoryStores::default();
    let mut partition = Partition::open(stores.open(0).unwrap(), SETTINGS).unwrap();
    fold(&mut partition, &behavior(1, 1, &[CLICKS]));
    dump(&mut partition, &stores);
    let store = stores.open(0).unwrap();
    let key = changelog::sequence_key("user-0", CLICKS);
    assert!(store.get(&key).unwrap().is_some());
    store.apply(&vec![(key, None)]).unwrap();
    let mut partition = Partition::open(store, SETTINGS).unwrap();
    let error = partition.whole_user("user-0").unwrap_err();
    assert!(
        matches!(&error, Error::Damaged { key, damage: Damage::Contradiction } if key == "sequence 00000003 of user user-0"),
        "{error}"
    );
}

fn store_of(values: &BTreeMap<Vec<u8>, Vec<u8>>) -> MemoryStores {
    let stores = MemoryStores::default();
    let batch = values
        .iter()
        .map(|(key, value)| (key.clone(), Some(value.clone())));
    stores.open(0).unwrap().apply(&batch.collect()).unwrap();
    stores
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Goal: STATE-2 where the store is ahead of its position, and where a replay is torn. Method: records from any offset on applied over the store that
    /// reflects all of them, as far as any other, and written back there; then from a third between the two to the end. The bytes are those that were.
    #[test]
    fn records_applied_again_change_nothing(ops in proptest::collection::vec(op(), 1..250), cuts in any::<[proptest::sample::Index; 3]>()) {
        let (store, changelog, ..) = run(&ops, &SETTINGS);
        let mut cuts = cuts.map(|cut| cut.index(changelog.len() + 1));
        cuts.sort_unstable();
        let [from, again, torn] = cuts;
        let stores = store_of(&store);
        let apply = |partition: &mut Partition, records: &[(Vec<u8>, Option<Vec<u8>>)]| {
            for (key, value) in records {
                partition.apply(key, value.as_deref()).unwrap();
            }
        };
        let mut partition = Partition::open(stores.open(0).unwrap(), SETTINGS).unwrap();
        apply(&mut partition, &changelog[from..torn]);
        dump(&mut partition, &stores);
        let mut partition = Partition::open(stores.open(0).unwrap(), SETTINGS).unwrap();
        apply(&mut partition, &changelog[again..]);
        prop_assert_eq!(&dump(&mut partition, &stores), &store);
        // The same from nothing.
        let stores = MemoryStores::default();
        let mut partition = Partition::open(stores.open(0).unwrap(), SETTINGS).unwrap();
        apply(&mut partition, &changelog[..torn]);
        dump(&mut partition, &stores);
        let mut partition = Partition::open(stores.open(0).unwrap(), SETTINGS).unwrap();
        apply(&mut partition, &changelog[again..]);
        partition.restored_to(changelog.len() as i64);
        prop_assert_eq!(&dump(&mut partition, &stores), &store);
    }
}

/// Goal: the property tests see sequences that begin anew, late behaviors among them. Method: a run of one user, and what came of it.
#[test]
fn runs_begin_anew_in_the_property_tests() {
    let ops: Vec<Op> = (0..40)
        .map(|number| Op::Fold {
            user: 0,
            item: Some(1),
            kind: 0,
            time: i64::from(number) * 10 - i64::from(number % 3) * 15,
            event: number + 1,
        })
        .collect();
    let (store, _, counted, _) = run(&ops, &SETTINGS);
    assert_eq!(counted.restarted(), 2);
    assert_eq!(Naive::of(&store_of(&store), SETTINGS), counted);
}
