//! What cleaning keeps, and what the log costs at most.

use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;

use super::*;

const OF: TopicPartition = at(Topic::Changelog, 0);

/// The newest value of each key, tombstones left out.
fn newest(contents: &Contents) -> BTreeMap<String, String> {
    let mut newest = BTreeMap::new();
    for (_, key, value) in contents {
        match value {
            Some(value) => newest.insert(key.clone(), value.clone()),
            None => newest.remove(key),
        };
    }
    newest
}

/// Waits until the log holds so little: on disk, cleaning goes on beside the writers.
fn shrinks(log: &LocalLog, is_small: impl Fn(&Usage) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_small(&log.usage()) {
        assert!(Instant::now() < deadline, "{:?}", log.usage());
        std::thread::yield_now();
    }
}

fn small() -> Options {
    Options {
        segment_bytes: 4096,
        retention_bytes: 20_000,
        ..options()
    }
}

/// Goal: a topic that deletes is bounded, and a reader that is behind is told so. Method: write much more than is kept.
#[test]
fn retention_bounds_what_deletes() {
    let folder = tempfile::tempdir().unwrap();
    for log in [
        LocalLog::in_memory(small()),
        LocalLog::open(folder.path(), small()).unwrap(),
    ] {
        make_topics(&log, 1);
        let mut writer = member(&log);
        let mut late = log.reader().unwrap();
        late.assign(at(Topic::Scores, 0), Start::Beginning).unwrap();
        for round in 0..2000 {
            let value = format!("{round:0100}");
            transact(
                &mut *writer,
                &[record(at(Topic::Scores, 0), "k", Some(&value))],
                &[],
            )
            .unwrap();
        }
        shrinks(&log, |usage| usage.bytes < 80_000);
        let contents = contents(&log, at(Topic::Scores, 0));
        assert!(
            (100..250).contains(&contents.len()),
            "{} records",
            contents.len()
        );
        assert_eq!(contents.last().unwrap().2, Some(format!("{:0100}", 1999)));
        assert_eq!(
            log.extent(at(Topic::Scores, 0)).unwrap().first,
            contents[0].0
        );
        let error = late.poll(NOW, &mut RecordBatch::default());
        assert!(
            matches!(error, Err(LogError::OutOfRange { offset: 0, .. })),
            "{error:?}"
        );
    }
    let reopened = LocalLog::open(folder.path(), small()).unwrap();
    let contents = contents(&reopened, at(Topic::Scores, 0));
    assert!(
        (100..250).contains(&contents.len()),
        "{} records",
        contents.len()
    );
    assert_eq!(
        reopened.extent(at(Topic::Scores, 0)).unwrap().first,
        contents[0].0
    );
}

/// Goal: a compacted topic is bounded by its keys, not by its records; positions and the end stay. Method: few keys, many records.
#[test]
fn compaction_bounds_what_compacts() {
    let folder = tempfile::tempdir().unwrap();
    let log = LocalLog::open(folder.path(), small()).unwrap();
    make_topics(&log, 1);
    let mut writer = member(&log);
    for round in 0..5000_i64 {
        let (key, value) = (format!("k{}", round % 20), format!("{round:0100}"));
        let positions = [(at(Topic::Behaviors, 0), round)];
        transact(&mut *writer, &[record(OF, &key, Some(&value))], &positions).unwrap();
    }
    shrinks(&log, |usage| usage.bytes < 40_000 && usage.chunks < 100);
    let (before, extent) = (newest(&contents(&log, OF)), log.extent(OF).unwrap());
    assert_eq!(before.len(), 20);
    assert_eq!(before["k19"], format!("{:0100}", 4999));
    drop(writer);
    drop(log);
    let log = LocalLog::open(folder.path(), small()).unwrap();
    assert_eq!(newest(&contents(&log, OF)), before);
    assert_eq!(log.extent(OF).unwrap(), extent);
    assert_eq!(
        member(&log).committed(&[at(Topic::Behaviors, 0)]).unwrap(),
        [Some(4999)]
    );
}

/// Goal: a tombstone is kept for the delete retention, and then goes. Method: a clock that is moved.
#[test]
fn tombstones_go_after_the_delete_retention() {
    let time = Arc::new(AtomicU64::new(0));
    let clock = Arc::clone(&time);
    let options = Options {
        segment_bytes: 0,
        delete_retention: Duration::from_secs(10),
        ..Options::new(move || clock.load(Ordering::Relaxed) as i64)
    };
    let log = LocalLog::in_memory(options);
    make_topics(&log, 1);
    let mut writer = member(&log);
    for value in [Some("1"), None] {
        transact(&mut *writer, &[record(OF, "gone", value)], &[]).unwrap();
    }
    transact(&mut *writer, &[record(OF, "other", Some("2"))], &[]).unwrap();
    let keys = |log: &LocalLog| {
        contents(log, OF)
            .into_iter()
            .map(|(_, key, _)| key)
            .collect::<Vec<_>>()
    };
    time.store(9_000, Ordering::Relaxed);
    log.clean().unwrap();
    assert_eq!(keys(&log), ["gone", "other"]);
    time.store(10_001, Ordering::Relaxed);
    log.clean().unwrap();
    assert_eq!(keys(&log), ["other"]);
}

/// Goal: a kill in the middle of cleaning harms nothing. Method: put back each segment that cleaning had taken in, alone and together.
#[test]
fn interrupted_cleaning_leaves_the_same_log() {
    let folder = tempfile::tempdir().unwrap();
    let log = LocalLog::open(
        folder.path(),
        Options {
            segment_bytes: 2000,
            ..options()
        },
    )
    .unwrap();
    make_topics(&log, 1);
    let mut writer = member(&log);
    for round in 0..60 {
        let (key, value) = (format!("k{}", round * 7 % 50), format!("{round:050}"));
        let value = (round % 9 != 0).then_some(&value[..]);
        transact(
            &mut *writer,
            &[
                record(OF, &key, value),
                record(at(Topic::Scores, 0), "s", value),
            ],
            &[],
        )
        .unwrap();
    }
    drop(writer);
    drop(log);
    // Larger segments: what was closed becomes one.
    let log = LocalLog::open(folder.path(), options()).unwrap();
    let old: Vec<_> = segment::list(folder.path())
        .unwrap()
        .into_iter()
        .map(|(_, path)| (fs::read(&path).unwrap(), path))
        .collect();
    let everything = |log: &LocalLog| {
        (
            newest(&contents(log, OF)),
            contents(log, at(Topic::Scores, 0)),
        )
    };
    let before = everything(&log);
    log.clean().unwrap();
    let cleaned = contents(&log, OF);
    assert_eq!(everything(&log), before);
    drop(log);
    let gone: Vec<_> = old.iter().filter(|(_, path)| !path.exists()).collect();
    assert!(!gone.is_empty(), "cleaning joined segments");
    for first in 0..gone.len() {
        for (bytes, path) in &gone[first..] {
            fs::write(path, bytes).unwrap();
        }
        fs::write(
            folder.path().join("00000000000000000009.unfinished"),
            b"half",
        )
        .unwrap();
        let log = LocalLog::open(folder.path(), options()).unwrap();
        assert_eq!(contents(&log, OF), cleaned);
        assert_eq!(everything(&log), before);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    /// Goal: whatever is written, cleaned and reopened when, every key's newest value is there, offsets never change, and what
    /// does not compact is all there. Method: random histories against a list of all that was committed.
    #[test]
    fn cleaning_keeps_what_matters(
        steps in prop::collection::vec((0..8_u8, 0..12_u8, 0..200_usize), 1..120),
        segment_bytes in 200..5000_u64,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let options = || Options { segment_bytes, ..options() };
        let mut log = LocalLog::open(folder.path(), options()).unwrap();
        make_topics(&log, 2);
        let mut all = Contents::new();
        let mut scores = 0;
        for (number, (what, key, length)) in steps.into_iter().enumerate() {
            match what {
                0 => log.clean().unwrap(),
                1 => {
                    drop(log);
                    log = LocalLog::open(folder.path(), options()).unwrap();
                }
                _ => {
                    let (key, text) = (format!("k{key}"), format!("{number} {}", "v".repeat(length)));
                    let value = (what != 2).then_some(&text[..]);
                    let records = [record(OF, &key, value), record(at(Topic::Scores, 1), "s", Some(&text))];
                    let done = transact(&mut *member(&log), &records, &[(at(Topic::Behaviors, 1), number as i64)]).unwrap();
                    all.push((done.next[0].1 - 1, key, value.map(str::to_owned)));
                    scores += 1;
                }
            }
            let there = contents(&log, OF);
            prop_assert_eq!(newest(&there), newest(&all));
            prop_assert!(there.iter().all(|one| all.contains(one)), "{:?} of {:?}", there, all);
            prop_assert!(there.is_sorted_by_key(|one| one.0));
            prop_assert_eq!(contents(&log, at(Topic::Scores, 1)).len(), scores);
        }
    }
}
