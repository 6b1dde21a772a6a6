//! What is there after the process was killed, and what is said of files that are damaged.

use std::fs;
use std::path::Path;

use super::*;

fn segments(folder: &Path) -> Vec<PathBuf> {
    segment::list(folder)
        .unwrap()
        .into_iter()
        .map(|(_, path)| path)
        .collect()
}

/// Copies a log as it lies there, as a kill would leave it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for path in segments(from) {
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// All that a log says.
fn everything(log: &LocalLog) -> (Vec<Contents>, Vec<Extent>, Vec<Option<i64>>) {
    let places = || {
        [Topic::Behaviors, Topic::Changelog, Topic::Scores]
            .into_iter()
            .flat_map(|topic| [at(topic, 0), at(topic, 1)])
    };
    let committed = member(log)
        .committed(&places().collect::<Vec<_>>())
        .unwrap();
    (
        places().map(|of| contents(log, of)).collect(),
        places().map(|of| log.extent(of).unwrap()).collect(),
        committed,
    )
}

/// A few transactions, the last of which writes to two topics and commits a position.
fn fill(log: &LocalLog) {
    make_topics(log, 2);
    let mut member = member(log);
    for round in 0..3 {
        let (key, value) = (format!("k{round}"), format!("v{round}"));
        let records = [
            record(at(Topic::Changelog, 0), &key, Some(&value)),
            record(at(Topic::Changelog, 1), "same", Some(&value)),
            record(at(Topic::Scores, 1), "u", None),
        ];
        transact(
            &mut *member,
            &records,
            &[(at(Topic::Behaviors, 0), round + 1)],
        )
        .unwrap();
        member
            .send_now(record(at(Topic::Scores, 0), "now", Some(&value)))
            .unwrap();
    }
    let records = [
        record(at(Topic::Changelog, 0), "last", Some("l")),
        record(at(Topic::Scores, 0), "last", Some("l")),
    ];
    transact(
        &mut *member,
        &records,
        &[(at(Topic::Behaviors, 0), 100), (at(Topic::Behaviors, 1), 7)],
    )
    .unwrap();
    member.begin().unwrap();
    member
        .send(record(at(Topic::Changelog, 0), "open", Some("o")))
        .unwrap();
}

/// Goal: PIPE-1 after a kill: all that was committed is there, nothing else. Method: reopen after a drop with an open transaction.
#[test]
fn a_reopened_log_says_the_same() {
    for segment_bytes in [32 << 20, 0] {
        let folder = tempfile::tempdir().unwrap();
        let options = || Options {
            segment_bytes,
            ..options()
        };
        let log = LocalLog::open(folder.path(), options()).unwrap();
        fill(&log);
        // Else the cleaner, which goes on by itself, might take superseded records between the two looks.
        log.clean().unwrap();
        let before = everything(&log);
        assert_eq!(before.2[..2], [Some(100), Some(7)]);
        drop(log);
        let log = LocalLog::open(folder.path(), options()).unwrap();
        assert_eq!(log.torn_bytes(), 0);
        assert_eq!(everything(&log), before);
    }
}

/// Goal: a transaction is there whole or not at all, wherever a kill cuts its frame, and the log goes on from there. Method: cut the
/// file at every byte of the last frame; also with zeros from there on, as after a loss of power.
#[test]
fn a_torn_tail_is_the_log_before_it_at_every_byte() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    let log = LocalLog::open(&whole, options()).unwrap();
    make_topics(&log, 2);
    let mut writer = member(&log);
    transact(
        &mut *writer,
        &[record(at(Topic::Changelog, 0), "a", Some("1"))],
        &[(at(Topic::Behaviors, 0), 1)],
    )
    .unwrap();
    let before = everything(&log);
    let mut writer = member(&log);
    let path = segments(&whole).pop().unwrap();
    let start = fs::metadata(&path).unwrap().len();
    let records = [
        record(at(Topic::Changelog, 0), "b", Some("2")),
        record(at(Topic::Scores, 1), "c", None),
    ];
    transact(&mut *writer, &records, &[(at(Topic::Behaviors, 0), 2)]).unwrap();
    let after = everything(&log);
    let bytes = fs::read(&path).unwrap();
    for cut in start as usize..=bytes.len() {
        for zeros in [0, 1, 4096] {
            let torn = folder.path().join(format!("{cut}-{zeros}"));
            copy(&whole, &torn);
            let mut left = bytes[..cut].to_vec();
            left.resize(cut + zeros, 0);
            fs::write(torn.join(path.file_name().unwrap()), &left).unwrap();
            let log = LocalLog::open(&torn, options()).unwrap();
            let (expected, kept) = if cut < bytes.len() {
                (&before, start as usize)
            } else {
                (&after, cut)
            };
            assert_eq!(
                log.torn_bytes(),
                (cut + zeros - kept) as u64,
                "cut at {cut}"
            );
            assert_eq!(everything(&log), *expected, "cut at {cut}");
            transact(
                &mut *member(&log),
                &records,
                &[(at(Topic::Behaviors, 0), 2)],
            )
            .unwrap();
            let again = everything(&log);
            drop(log);
            let log = LocalLog::open(&torn, options()).unwrap();
            assert_eq!(
                (log.torn_bytes(), everything(&log)),
                (0, again),
                "cut at {cut}, then reopened"
            );
            drop(log);
            fs::remove_dir_all(&torn).unwrap();
        }
    }
}

/// Goal: damage is never read past in silence. Method: change every byte of every segment, one at a time.
#[test]
fn a_changed_byte_is_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    let log = LocalLog::open(
        &whole,
        Options {
            segment_bytes: 600,
            ..options()
        },
    )
    .unwrap();
    fill(&log);
    drop(log);
    let paths = segments(&whole);
    assert!(paths.len() > 1, "{paths:?}");
    for path in paths {
        let bytes = fs::read(&path).unwrap();
        for index in 0..bytes.len() {
            if (format::HEADER_BYTES - 4..format::HEADER_BYTES).contains(&index) {
                continue; // Padding of the header.
            }
            let damaged = folder.path().join("damaged");
            copy(&whole, &damaged);
            let mut bytes = bytes.clone();
            bytes[index] ^= 0x40;
            let there = damaged.join(path.file_name().unwrap());
            fs::write(&there, &bytes).unwrap();
            match LocalLog::open(&damaged, options()) {
                Err(LogError::Damaged { path, at }) => {
                    assert_eq!(path, there);
                    assert!(at <= index as u64, "byte {index} told as {at}");
                }
                other => panic!("byte {index} of {}: {other:?}", there.display()),
            }
            fs::remove_dir_all(&damaged).unwrap();
        }
    }
}

/// Goal: what changes on the disk while the log runs is told, and not passed on. Method: a byte of each record changed behind an open log's
/// back; all readers, again and again.
#[test]
fn a_byte_changed_while_it_runs_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let log = LocalLog::open(folder.path(), options()).unwrap();
    fill(&log);
    let path = segments(folder.path()).pop().unwrap();
    let bytes = fs::read(&path).unwrap();
    let read = || {
        let mut reader = log.reader().unwrap();
        let topics = [Topic::Behaviors, Topic::Changelog];
        for of in topics
            .into_iter()
            .flat_map(|topic| [at(topic, 0), at(topic, 1)])
        {
            drop(reader.assign(of, Start::Beginning));
        }
        let mut batch = RecordBatch::default();
        let mut records = Vec::new();
        loop {
            match reader.poll(NOW, &mut batch) {
                Ok(()) if batch.is_empty() => return (records, None),
                Ok(()) => {}
                Err(error) => {
                    let again = reader.poll(NOW, &mut batch).unwrap_err();
                    assert_eq!(again.to_string(), error.to_string());
                    return (records, Some(error));
                }
            }
            let all = batch.iter();
            records.extend(all.map(|record| {
                let value = record.value.map(<[u8]>::to_vec);
                (
                    record.at,
                    record.offset,
                    record.key.map(<[u8]>::to_vec),
                    value,
                )
            }));
        }
    };
    let (whole, error) = read();
    assert!(error.is_none() && whole.len() > 3, "{error:?}");
    let mut found = 0;
    for index in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[index] ^= 0x40;
        fs::write(&path, &bytes).unwrap();
        let (records, error) = read();
        assert!(
            records.iter().all(|record| whole.contains(record)),
            "byte {index}"
        );
        match error {
            None => assert_eq!(records.len(), whole.len(), "byte {index} is of no record"),
            Some(LogError::Damaged { path: told, at }) => {
                assert_eq!(told, path);
                assert!(at <= index as u64, "byte {index} told as {at}");
                found += 1;
            }
            Some(error) => panic!("{error}"),
        }
    }
    assert!(found > 20 * whole.len(), "{found}");
}

/// Goal: two processes never write to one folder. Method: open it twice; after the first one is dropped, the second one may.
#[test]
fn a_folder_is_open_once() {
    let folder = tempfile::tempdir().unwrap();
    let first = LocalLog::open(folder.path(), options()).unwrap();
    make_topics(&first, 1);
    let handle = first.member("one", 0).unwrap();
    drop(first);
    let second = LocalLog::open(folder.path(), options());
    assert!(
        matches!(second, Err(LogError::Refused { .. })),
        "{second:?}"
    );
    drop(handle);
    LocalLog::open(folder.path(), options()).unwrap();
}

/// Goal: the format of version 1 is what it was, and is read. Method: the bytes of a small log against golden ones (`BLESS=1` writes them
/// again), and a log of the golden bytes alone; then of another version, and damaged.
#[test]
fn the_bytes_have_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    let log = LocalLog::open(folder.path(), options()).unwrap();
    let spec = TopicSpec {
        topic: Topic::Behaviors,
        partitions: 1,
        replication_factor: 1,
        min_insync_replicas: 1,
    };
    log.create(&spec).unwrap();
    let sent = Outgoing {
        headers: &[("h", b"1")],
        ..record(at(Topic::Behaviors, 0), "k", None)
    };
    transact(&mut *member(&log), &[sent], &[(at(Topic::Behaviors, 0), 5)]).unwrap();
    let bytes = fs::read(segments(folder.path()).pop().unwrap()).unwrap();
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/log/local/tests/golden_1.hex"
    );
    if std::env::var_os("BLESS").is_some() {
        fs::write(path, format!("{}\n", hex.concat())).unwrap();
    }
    let held = fs::read_to_string(path).unwrap();
    assert_eq!(hex.concat(), held.trim_end());
    let golden: Vec<u8> = (0..held.trim_end().len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&held[at..at + 2], 16).unwrap())
        .collect();

    let reopened = |bytes: &[u8]| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("00000000000000000001.segment");
        fs::write(&path, bytes).unwrap();
        LocalLog::open(folder.path(), options()).map(|log| (log, folder))
    };
    let (log, _folder) = reopened(&golden).unwrap();
    let behaviors = at(Topic::Behaviors, 0);
    assert_eq!(contents(&log, behaviors), [(0, "k".to_owned(), None)]);
    assert_eq!(member(&log).committed(&[behaviors]).unwrap(), [Some(5)]);
    let damaged = |at: usize, expected: u64| {
        let mut bytes = golden.clone();
        bytes[at] ^= 0x03;
        match reopened(&bytes).map(|(log, _)| log) {
            Err(LogError::Damaged { path, at }) => {
                assert!(path.ends_with("00000000000000000001.segment"), "{path:?}");
                assert_eq!(at, expected);
            }
            other => panic!("byte {at}: {other:?}"),
        }
    };
    // "HWLOCAL1" becomes "HWLOCAL2"; then the header's checksum, and a byte of the first frame.
    damaged(7, 0);
    damaged(24, 0);
    damaged(40, 32);
}
