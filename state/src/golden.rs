//! Every byte of state that outlives the process, as each version wrote it.
//!
//! Before it stands `golden/<what>_<version>.hex`, one line a value: what it is, its key and its value in hex (`-`: a tombstone). What is
//! written now must be the newest file to the byte, and every file must be read. `BLESS=1` writes the newest files again, so that a
//! change of format shows as a diff; who changes a format raises its version first, and the file of the old one stays.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use headwater_config::Topic;

use crate::behavior::{
    Behavior, Coordinates, FixedSum, KindId, ScenarioId, SequenceId, SlotId, Timestamp, pinned_hash,
};
use crate::changelog::ChangelogKey;
use crate::error::{Damage, Error};
use crate::labels::{LabelRules, LabelTask, OpenRow, Positive};
use crate::partition::{CHANGELOG_VERSION, Folded, Partition, STORE_VERSION, Settings};
use crate::statistics::{Delta, Entity, STATISTICS_VERSION, Statistics};
use crate::store::{MemoryStores, Stores};
use crate::user::Standing;

mod spoilt;

/// A value as it is written: what it is, its key, and its bytes or a tombstone.
type Line = (String, Vec<u8>, Option<Vec<u8>>);

const SETTINGS: Settings = Settings {
    recent_max: 2,
    memory: 1 << 20,
    keys_max: 2,
    allowed_lateness_ms: 365 * DAY_MS,
    drop_late: false,
    sequence_max: 4,
    labels: None,
};
/// The first version of store and changelog that has open rows.
const LABELS_SINCE: u8 = 3;

/// The settings with what labels follow.
fn settings() -> Settings {
    let task = |kind: &str, window_ms| LabelTask {
        positive: vec![KindId::of(kind)],
        scenarios: Vec::new(),
        window_ms,
    };
    Settings {
        labels: Some(Arc::new(LabelRules {
            shown_within_ms: 1_000,
            late_ms: 10_000,
            open_max: 100,
            tasks: vec![task("click", 500), task("buy", DAY_MS)],
        })),
        ..SETTINGS
    }
}

/// The first version of store and changelog that has sequences.
const SEQUENCES_SINCE: u8 = 2;
const DAY_MS: i64 = 86_400_000;
const NOW: i64 = 1_700_000_000_000;
/// Text that is awkward: a NUL and more bytes than letters.
const USER: &str = "u\0ü";

fn file(what: &str, version: u8) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/golden");
    PathBuf::from(folder).join(format!("{what}_{version}.hex"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

/// Holds what is written now against the newest file.
fn check(what: &str, version: u8, lines: &[Line]) {
    let path = file(what, version);
    let now: String = lines
        .iter()
        .map(|(name, key, value)| {
            let value = value.as_deref().map_or_else(|| "-".to_owned(), hex);
            format!("{name} {} {value}\n", hex(key))
        })
        .collect();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let held = std::fs::read_to_string(&path).unwrap();
    assert_eq!(now, held, "{}: see the head of this file", path.display());
}

/// What a file holds.
fn held(what: &str, version: u8) -> Vec<Line> {
    let text = std::fs::read_to_string(file(what, version)).unwrap();
    text.lines()
        .map(|line| {
            let mut words = line.split(' ');
            let mut next = || words.next().unwrap();
            let (name, key, value) = (next(), next(), next());
            let value = (value != "-").then(|| bytes(value));
            (name.to_owned(), bytes(key), value)
        })
        .collect()
}

fn behavior<'a>(
    offset: i64,
    time: i64,
    item: Option<&'a str>,
    attributes: &'a [(SlotId, &'a str)],
) -> Behavior<'a> {
    Behavior {
        at: Coordinates {
            offset,
            index: (offset % 3) as u16,
        },
        time: Timestamp(time),
        event: offset as u64 + 1,
        kind: KindId::of("click"),
        scenario: ScenarioId::of("feed"),
        item,
        value: (offset % 2 == 0).then(|| FixedSum::of(-2.5)),
        attributes,
        text: None,
        sequences: &[],
    }
}

/// The same with a text, in two sequences or, where it has no value, in one.
fn in_sequences<'a>(behavior: Behavior<'a>, ids: &'a [SequenceId; 2]) -> Behavior<'a> {
    Behavior {
        text: Some([behavior.event as u8; 16]),
        sequences: &ids[..=usize::from(behavior.value.is_some())],
        ..behavior
    }
}

/// A history with everything that a version writes: cells of every length, late behaviors, a forgotten entry, sequences that grow and one that begins
/// anew, standing requests, an ended one.
fn written(stores: &MemoryStores, version: u8) -> (Partition, Vec<Line>) {
    let ids = [SequenceId::of("all"), SequenceId::of("valued")];
    let mut partition = Partition::open(stores.open(0).unwrap(), settings()).unwrap();
    let mut changelog = Vec::new();
    let fold = |partition: &mut Partition, user: &str, behavior: &Behavior<'_>| {
        let behavior = if version >= SEQUENCES_SINCE {
            in_sequences(*behavior, &ids)
        } else {
            *behavior
        };
        let folded = partition.fold(user, &behavior, &mut || [0xA5; 16]).unwrap();
        assert!(matches!(folded, Folded::Counted { .. }), "{folded:?}");
    };
    let mut commit = |partition: &mut Partition| {
        partition.changes(&mut |key, value| {
            let name = match ChangelogKey::read(key).unwrap() {
                ChangelogKey::Position => "position",
                ChangelogKey::Meta { .. } => "meta",
                ChangelogKey::Recent { .. } => "recent",
                ChangelogKey::Entry { .. } => "entry",
                ChangelogKey::Standing { .. } => "standing",
                ChangelogKey::Due { .. } => "due",
                ChangelogKey::SequenceStart { .. } => "sequence-start",
                ChangelogKey::SequenceEntry { .. } => "sequence-entry",
                ChangelogKey::Label { .. } => "label",
            };
            changelog.push((name.to_owned(), key.to_vec(), value.map(<[u8]>::to_vec)));
        });
        partition.committed(changelog.len() as i64);
    };
    let standing = |request: &str, due| Standing {
        request: request.to_owned(),
        expires: Timestamp(NOW + DAY_MS),
        due,
        body: br#"{"candidates":["i1"]}"#.to_vec(),
    };
    let author = [(SlotId::of("author"), "a\0")];
    for (offset, days, item, attributes) in [
        (0, 900, Some("i1"), &author[..]),
        (1, 60, Some("i1"), &[]),
        (2, 3, Some("i1"), &[]),
        (3, 1, Some("i1"), &[]),
        (4, 0, None, &author),
        (5, 0, Some("i2"), &[]),
    ] {
        let behavior = behavior(offset, NOW - days * DAY_MS + offset, item, attributes);
        fold(&mut partition, USER, &behavior);
    }
    fold(&mut partition, "v", &behavior(6, NOW, Some("i1"), &[]));
    for (request, due) in [("r1", Some(Timestamp(NOW + 5))), ("r2", None), ("r3", None)] {
        partition
            .set_standing(USER, request, Some(standing(request, due)), &mut || [0; 16])
            .unwrap();
        partition.set_due(USER, request, due).unwrap();
    }
    if version >= LABELS_SINCE {
        open_rows(&mut partition, USER);
    }
    partition.advance(Topic::Behaviors, 7);
    partition.advance(Topic::ScoreRequests, 3);
    partition.pin_partitions(8);
    commit(&mut partition);
    // Older than all that is recent: straight into history. What then leaves recent makes a third key, and one is forgotten.
    fold(
        &mut partition,
        USER,
        &behavior(7, NOW - 2 * DAY_MS, Some("i3"), &[]),
    );
    fold(
        &mut partition,
        USER,
        &behavior(8, NOW + 1_000, Some("i4"), &[]),
    );
    partition
        .set_standing(USER, "r2", None, &mut || [0; 16])
        .unwrap();
    if version >= LABELS_SINCE {
        partition.release(USER).unwrap();
    }
    partition.advance(Topic::Behaviors, 9);
    commit(&mut partition);
    (partition, changelog)
}

/// Rows of each sort: one that is shown whole, one that is shown item by item and stays, and one that is over with the next behavior.
fn open_rows(partition: &mut Partition, user: &str) {
    let place = partition.place(user).unwrap().unwrap();
    for (id, days, whole, random) in [
        ("a", 0, &["i1", "i\0"][..], true),
        ("b", 0, &[], false),
        ("c", 3, &[], false),
    ] {
        let time = Timestamp(NOW - days * DAY_MS);
        let names = (id, "r\0", "Feed");
        let shown = whole.iter().copied();
        let row = OpenRow::new(names, (ScenarioId::of("feed"), time), (2, random), shown);
        partition.open_row(place, row);
    }
    for (item, position) in [("i2", Some(7)), ("i3", None)] {
        partition.show(place, ("r\0", item), (Timestamp(NOW + 1), position));
    }
    for (number, value) in [None, Some(FixedSum::of(2.5))].into_iter().enumerate() {
        let positive = Positive {
            time: Timestamp(NOW + 2),
            kind: KindId::of("click"),
            item: pinned_hash(b"i2"),
            request: pinned_hash(b"r\0"),
            value,
            at: Coordinates {
                offset: 6,
                index: number as u16,
            },
        };
        partition.act(place, "i2", positive);
    }
}

/// Writes a partition back and gives all that is in its store.
fn stored(partition: &mut Partition, stores: &MemoryStores) -> Vec<Line> {
    let write_back = partition.write_back(Timestamp(NOW));
    partition.written(write_back.run()).unwrap();
    let mut lines = Vec::new();
    let mut each = |key: &[u8], value: &[u8]| {
        let name = match key[0] {
            1 => "root",
            2 => "page",
            3 => "standing",
            4 => "position",
            9 => "sequence",
            12 => "labels",
            other => panic!("no kind of key: {other}"),
        };
        lines.push((name.to_owned(), key.to_vec(), Some(value.to_vec())));
        true
    };
    stores.open(0).unwrap().scan(&[], &mut each).unwrap();
    lines
}

fn store_of(lines: &[Line]) -> MemoryStores {
    let stores = MemoryStores::default();
    let batch = lines
        .iter()
        .map(|(_, key, value)| (key.clone(), value.clone()));
    stores.open(0).unwrap().apply(&batch.collect()).unwrap();
    stores
}

/// All that a partition knows, in words.
fn told(partition: &mut Partition) -> String {
    let mut text = format!("{:?}\n", partition.position());
    for id in partition.user_ids().unwrap() {
        let user = partition.whole_user(&id).unwrap().unwrap();
        write!(
            text,
            "{id:?} salt {:?} forgotten {} newest of history {:?} late {}\n{:?}\n",
            user.salt(),
            user.forgotten(),
            user.history_newest(),
            user.has_event(8),
            user.standing()
        )
        .unwrap();
        for recent in user.recent().iter() {
            let attributes: Vec<_> = recent.attributes().collect();
            writeln!(text, "{recent:?} {attributes:?}").unwrap();
        }
        for sequence in user.sequences() {
            writeln!(
                text,
                "{:?} from {}: {:?} {:?}",
                sequence.id(),
                sequence.start(),
                sequence.entries(),
                sequence.digests()
            )
            .unwrap();
        }
        writeln!(text, "{:?}", user.labels()).unwrap();
        for (slot, entries) in user.slots() {
            writeln!(text, "{slot:?} {entries}").unwrap();
            for entry in user.history(slot) {
                let cells: Vec<_> = entry.cells().collect();
                writeln!(
                    text,
                    "{:?} {:?} {:?} {cells:?}",
                    entry.key, entry.first, entry.last
                )
                .unwrap();
            }
        }
    }
    let due: Vec<_> = partition.due(Timestamp(i64::MAX)).collect();
    writeln!(text, "{due:?}").unwrap();
    let due: BTreeSet<_> = partition.labels_due().collect();
    writeln!(text, "{due:?}").unwrap();
    text
}

/// Values of the statistics' topics: a delta of each sort of entity, and the cells that it makes.
fn statistics() -> (Vec<Line>, Delta) {
    let mut delta = Delta::default();
    let mut add = |scenario, days: i64, value| {
        let time = Timestamp(NOW - days * DAY_MS);
        delta.add(scenario, KindId::of("click"), time, FixedSum::of(value));
    };
    add(ScenarioId::of("feed"), 0, 1.5);
    add(ScenarioId::of("feed"), 0, 1.5);
    add(ScenarioId::of("other"), 1, 0.0);
    add(ScenarioId::of("other"), 20, -7.0);
    add(ScenarioId::of("other"), 300, 0.25);
    add(ScenarioId::of("other"), 3_000, 0.0);
    let mut lines = Vec::new();
    let mut folded = Statistics::default();
    for (name, entity) in [
        ("total", Entity::Total),
        ("item", Entity::Item("i\0")),
        ("category", Entity::Category("c")),
    ] {
        let (key, mut value) = (entity.key(), Vec::new());
        delta.write(&mut value);
        lines.push((format!("delta-{name}"), key.to_vec(), Some(value)));
        folded.fold(&key, &delta);
    }
    folded.changes(&mut |key, value| {
        lines.push(("state".to_owned(), key.to_vec(), Some(value.to_vec())));
    });
    (lines, delta)
}

/// Goal: what is written is what was written before, to the byte, and all kinds of it are looked at. Method: a history with everything in
/// it, against the files of the newest versions.
#[test]
fn what_is_written_has_not_changed() {
    let stores = MemoryStores::default();
    let (mut partition, changelog) = written(&stores, STORE_VERSION);
    let store = stored(&mut partition, &stores);
    let names = |lines: &[Line], tombstones: bool| -> BTreeSet<String> {
        let wanted = lines.iter().filter(|line| line.2.is_none() == tombstones);
        wanted.map(|line| line.0.clone()).collect()
    };
    let all = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let kinds: BTreeSet<String> = all(&[
        "due",
        "entry",
        "meta",
        "label",
        "position",
        "recent",
        "sequence-entry",
        "sequence-start",
        "standing",
    ]);
    assert_eq!(names(&changelog, false), kinds);
    let ended: BTreeSet<String> = all(&["due", "entry", "label", "standing"]);
    assert_eq!(names(&changelog, true), ended);
    let kinds: BTreeSet<String> =
        all(&["labels", "page", "position", "root", "sequence", "standing"]);
    assert_eq!(names(&store, false), kinds);
    check("changelog", CHANGELOG_VERSION, &changelog);
    check("store", STORE_VERSION, &store);
    check("statistics", STATISTICS_VERSION, &statistics().0);
}

/// What is written today of what a version could hold.
fn today(version: u8) -> (Partition, Vec<Line>) {
    let stores = MemoryStores::default();
    let (mut partition, _) = written(&stores, version);
    let lines = stored(&mut partition, &stores);
    (partition, lines)
}

/// Goal: one reader takes every version there ever was. Method: each file is read, and tells the same as what is written today.
#[test]
fn every_version_is_read() {
    for version in 1..=STORE_VERSION {
        let old = store_of(&held("store", version));
        let mut read = Partition::open(old.open(0).unwrap(), settings()).unwrap();
        let (mut partition, _) = today(version);
        assert_eq!(told(&mut read), told(&mut partition), "store {version}");
    }
    for version in 1..=CHANGELOG_VERSION {
        let empty = MemoryStores::default();
        let mut restored = Partition::open(empty.open(0).unwrap(), settings()).unwrap();
        let changelog = held("changelog", version);
        for (name, key, value) in &changelog {
            let applied = restored.apply(key, value.as_deref());
            applied.unwrap_or_else(|error| panic!("changelog {version}, {name}: {error}"));
        }
        restored.restored_to(changelog.len() as i64);
        assert_eq!(
            stored(&mut restored, &empty),
            today(version).1,
            "changelog {version} (STATE-2)"
        );
    }
    for version in 1..=STATISTICS_VERSION {
        let (_, delta) = statistics();
        let mut cells = crate::cell::Cells::default();
        delta.apply(&mut cells);
        let mut read = Statistics::default();
        for (name, key, value) in held("statistics", version) {
            let value = value.unwrap();
            if name == "state" {
                read.apply(&key, Some(&value)).unwrap();
            } else {
                Entity::of_key(&key).unwrap();
                assert_eq!(Delta::read(&value).unwrap(), delta, "{version}");
            }
        }
        for entity in [Entity::Total, Entity::Item("i\0"), Entity::Category("c")] {
            assert_eq!(read.get(entity), Some(&cells), "{version}");
        }
        assert_eq!(read.len(), 3, "{version}");
    }
}

/// What reading everything of a store says, with one of its values spoilt.
fn said_of_store(lines: &[Line], spoilt: usize, spoil: &dyn Fn(&mut Vec<u8>)) -> String {
    let mut lines = lines.to_vec();
    spoil(lines[spoilt].2.as_mut().unwrap());
    let stores = store_of(&lines);
    let read = Partition::open(stores.open(0).unwrap(), settings()).and_then(|mut partition| {
        let users = partition.user_ids()?;
        users
            .iter()
            .try_for_each(|id| partition.whole_user(id).map(|_| ()))
    });
    words(&read.expect_err("a spoilt value was read"))
}

fn words(error: &Error) -> String {
    let damage = match error {
        Error::Damaged { damage, .. } | Error::Changelog { damage, .. } => *damage,
        Error::Store(_) => panic!("{error}"),
    };
    format!("{error}: {damage}")
}

/// Goal: what a newer build wrote is refused with both versions, and what is damaged is told as damage; each names the key. Method: the
/// version of each golden value raised, and its last byte changed.
#[test]
fn newer_and_damaged_values_are_told() {
    let of_version = |found: u8| {
        format!(
            "written in format version {found}, this build reads versions up to {}",
            found - 1
        )
    };
    let lines = held("store", STORE_VERSION);
    for at in 0..lines.len() {
        let what = match &*lines[at].0 {
            "root" | "page" | "sequence" => "user ",
            "labels" => "open rows",
            "standing" => "standing request",
            _ => "position",
        };
        let newer = said_of_store(&lines, at, &|value| value[0] = STORE_VERSION + 1);
        assert!(newer.contains(what), "{newer}");
        let told = of_version(STORE_VERSION + 1);
        assert!(newer.ends_with(&format!("is damaged: {told}")), "{newer}");
        let damaged = said_of_store(&lines, at, &|value| *value.last_mut().unwrap() ^= 1);
        assert!(damaged.contains(what), "{damaged}");
        assert!(
            damaged.ends_with("is damaged: checksum differs"),
            "{damaged}"
        );
    }
    let mut partition =
        Partition::open(MemoryStores::default().open(0).unwrap(), settings()).unwrap();
    for (name, key, value) in held("changelog", CHANGELOG_VERSION) {
        let Some(mut value) = value else { continue };
        value[0] = CHANGELOG_VERSION + 1;
        let newer = words(&partition.apply(&key, Some(&value)).unwrap_err());
        assert_eq!(
            newer,
            format!(
                "changelog record is damaged (key {}): {}",
                key.escape_ascii(),
                of_version(CHANGELOG_VERSION + 1)
            ),
            "{name}"
        );
        let short = words(&partition.apply(&key, Some(&[])).unwrap_err());
        assert!(short.ends_with("bytes end too early"), "{name}: {short}");
    }
    for (name, key, value) in held("statistics", STATISTICS_VERSION) {
        let mut value = value.unwrap();
        value[0] = STATISTICS_VERSION + 1;
        let newer = Damage::Version {
            found: STATISTICS_VERSION + 1,
            known: STATISTICS_VERSION,
        };
        assert_eq!(Delta::read(&value), Err(newer), "{name}");
        let applied = Statistics::default().apply(&key, Some(&value));
        assert_eq!(applied, Err(newer), "{name}");
    }
}

/// Goal: no bytes whatever make a reader panic, and a reader never takes what was cut short for whole. Method: every golden changelog
/// record and key with each of its bytes changed in turn, and at each length; what is accepted must be able to be looked at whole.
#[test]
fn spoilt_changelog_records_are_never_taken_for_others() {
    let lines = held("changelog", CHANGELOG_VERSION);
    let apply = |key: &[u8], value: Option<&[u8]>| {
        let stores = MemoryStores::default();
        let mut partition = Partition::open(stores.open(0).unwrap(), settings()).unwrap();
        let applied = partition.apply(key, value);
        if applied.is_ok() {
            told(&mut partition);
        }
        applied
    };
    for (name, key, value) in &lines {
        for at in 0..key.len() {
            for bit in [0x01, 0x40, 0x80] {
                let mut key = key.clone();
                key[at] ^= bit;
                drop(apply(&key, value.as_deref()));
            }
            drop(apply(&key[..at], value.as_deref()));
        }
        let Some(value) = value else { continue };
        for at in 0..value.len() {
            for bit in [0x01, 0x40, 0x80] {
                let mut value = value.clone();
                value[at] ^= bit;
                drop(apply(key, Some(&value)));
            }
            let cut = apply(key, Some(&value[..at]));
            // The request itself is at the end of a standing one, and is whatever `consumers` wrote.
            let within = name != "standing" || at < value.len() - 21;
            assert!(cut.is_err() || !within, "{name} cut at {at}");
        }
    }
}
