//! What each fault does, and that two runs with the same faults are the same.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::super::faults::{Call, Fault, Op};
use super::*;

/// Faults that are given in turn, each at the next call of its operation.
type Script = Arc<Mutex<VecDeque<(Op, Fault)>>>;

fn scripted() -> (LocalLog, Script) {
    let script = Script::default();
    let hook = Arc::clone(&script);
    let faults = move |call: Call<'_>| {
        let mut script = hook.lock();
        match script.front() {
            Some((op, fault)) if *op == call.op => {
                let fault = *fault;
                script.pop_front();
                fault
            }
            _ => Fault::Pass,
        }
    };
    let log = LocalLog::in_memory(Options {
        faults: Some(Arc::new(faults)),
        ..options()
    });
    make_topics(&log, 2);
    (log, script)
}

const POSITION: (TopicPartition, i64) = (at(Topic::Behaviors, 0), 9);

fn one() -> [Outgoing<'static>; 1] {
    [record(at(Topic::Changelog, 0), "k", Some("v"))]
}

/// Goal: an unknown outcome may be either, and nothing else can be done before `recover` has settled it. Method: both.
#[test]
fn an_unknown_commit_happened_or_not() {
    for happened in [true, false] {
        let (log, script) = scripted();
        let mut member = member(&log);
        script
            .lock()
            .push_back((Op::Commit, Fault::CommitUnknown { happened }));
        let done = transact(&mut *member, &one(), &[POSITION]);
        assert!(matches!(done, Err(CommitError::Unknown(_))), "{done:?}");
        assert!(member.begin().is_err());
        assert!(member.committed(&[POSITION.0]).is_err());
        member.recover().unwrap();
        assert_eq!(
            member.committed(&[POSITION.0]).unwrap(),
            [happened.then_some(9)]
        );
        assert_eq!(
            contents(&log, at(Topic::Changelog, 0)).len(),
            usize::from(happened)
        );
        transact(&mut *member, &one(), &[POSITION]).unwrap();
    }
}

/// Goal: a late commit is told by its positions before it is seen everywhere, lies within what is written, and is seen once its member goes
/// on. Method: the first of two partitions lags, a reader beside it and one that begins behind what is stable.
#[test]
fn a_late_commit_is_seen_partition_by_partition() {
    let (log, script) = scripted();
    let (lags, other) = (at(Topic::Changelog, 0), at(Topic::Changelog, 1));
    let mut member = member(&log);
    let both = [lags, other].map(|of| record(of, "k", Some("v")));
    let late = Fault::CommitLate {
        which: 1,
        ms: 1_000,
    };
    script.lock().push_back((Op::Commit, late));
    let committed = transact(&mut *member, &both, &[POSITION]).unwrap();
    assert_eq!(committed.next, [(lags, 1), (other, 1)]);
    assert_eq!(member.committed(&[POSITION.0]).unwrap(), [Some(9)]);
    assert_eq!(log.extent(lags).unwrap().next, 0);
    assert_eq!(log.written(lags).unwrap(), log.extent(other).unwrap());
    assert_eq!(
        (contents(&log, lags).len(), contents(&log, other).len()),
        (0, 1)
    );
    let mut behind = log.reader().unwrap();
    behind.assign(lags, Start::At(1)).unwrap();
    let mut batch = RecordBatch::default();
    behind.poll(NOW, &mut batch).unwrap();
    assert_eq!((batch.len(), batch.ends()), (0, &[(lags, 1)][..]));

    transact(&mut *member, &both, &[POSITION]).unwrap();
    assert_eq!(contents(&log, lags).len(), 2);
    behind.poll(NOW, &mut batch).unwrap();
    assert_eq!(batch.len(), 1);
}

/// Goal: a refused commit leaves nothing and the next one works. Method: refuse it, or let the brokers be away.
#[test]
fn an_aborted_commit_leaves_nothing() {
    for fault in [Fault::CommitAborted, Fault::Unavailable] {
        let (log, script) = scripted();
        let mut member = member(&log);
        script.lock().push_back((Op::Commit, fault));
        let done = transact(&mut *member, &one(), &[POSITION]);
        assert!(matches!(done, Err(CommitError::Aborted(_))), "{done:?}");
        assert_eq!(member.committed(&[POSITION.0]).unwrap(), [None]);
        transact(&mut *member, &one(), &[POSITION]).unwrap();
        assert_eq!(contents(&log, at(Topic::Changelog, 0)).len(), 1);
    }
}

/// Goal: a fenced member is out for good, whatever it calls. Method: fence it at the commit.
#[test]
fn a_fence_is_for_good() {
    let (log, script) = scripted();
    let mut fenced = member(&log);
    script.lock().push_back((Op::Commit, Fault::Fence));
    let done = transact(&mut *fenced, &one(), &[POSITION]);
    assert!(matches!(done, Err(CommitError::Fenced(_))), "{done:?}");
    let is_fenced = |result: Result<(), LogError>| {
        assert!(matches!(result, Err(LogError::Fenced { .. })), "{result:?}");
    };
    is_fenced(fenced.begin());
    is_fenced(fenced.recover());
    is_fenced(fenced.committed(&[POSITION.0]).map(drop));
    is_fenced(fenced.poll(NOW, &mut RecordBatch::default()).map(drop));
    is_fenced(fenced.leave(true));
    transact(&mut *member(&log), &one(), &[POSITION]).unwrap();
}

/// Goal: an expired session means that partitions are lost, and their positions refused. Method: let it expire at a commit, then look
/// at the next polls.
#[test]
fn a_lost_session_is_told_and_refused() {
    let (log, script) = scripted();
    let mut member = member(&log);
    script.lock().push_back((Op::Commit, Fault::Lose));
    let done = transact(&mut *member, &one(), &[POSITION]);
    assert!(matches!(done, Err(CommitError::Aborted(_))), "{done:?}");
    let mut batch = RecordBatch::default();
    let changes = member.poll(NOW, &mut batch).unwrap();
    assert_eq!((changes.lost, changes.assigned), (vec![0, 1], vec![]));
    let changes = member.poll(NOW, &mut batch).unwrap();
    assert_eq!((changes.lost, changes.assigned), (vec![], vec![0, 1]));
    transact(&mut *member, &one(), &[POSITION]).unwrap();
}

/// Goal: polls that are cut and mixed lose, repeat and reorder nothing within a partition; the same seed gives the same polls.
/// Method: two partitions, many shapes, two runs.
#[test]
fn shaped_polls_hold_everything_in_order() {
    let run = || {
        let (log, script) = scripted();
        let mut member = member(&log);
        let mut producer = log.producer().unwrap();
        for index in 0..200 {
            producer
                .send(record(
                    at(Topic::Behaviors, index % 2),
                    &index.to_string(),
                    None,
                ))
                .unwrap();
        }
        producer.flush().unwrap();
        member
            .start(&[0, 1].map(|partition| (at(Topic::Behaviors, partition), Start::Beginning)))
            .unwrap();
        let mut batch = RecordBatch::default();
        let mut seen: Vec<(TopicPartition, i64)> = Vec::new();
        for order in 0..200 {
            let records = (order % 7) as usize;
            script
                .lock()
                .push_back((Op::Poll, Fault::Shape { records, order }));
            member.poll(NOW, &mut batch).unwrap();
            assert!(batch.len() <= records);
            seen.extend(batch.iter().map(|record| (record.at, record.offset)));
        }
        seen
    };
    let seen = run();
    for partition in 0..2 {
        let offsets: Vec<i64> = seen
            .iter()
            .filter(|(of, _)| of.partition == partition)
            .map(|(_, offset)| *offset)
            .collect();
        assert_eq!(offsets, (0..100).collect::<Vec<_>>());
    }
    let alternations = seen
        .windows(2)
        .filter(|pair| pair[0].0 != pair[1].0)
        .count();
    assert!(alternations > 30, "{alternations}");
    assert_eq!(run(), seen);
}

/// Goal: sessions are measured by the given clock alone. Method: a member that is dropped keeps its partitions until then.
#[test]
fn a_dropped_members_partitions_move_when_its_session_ends() {
    let time = Arc::new(AtomicU64::new(0));
    let clock = Arc::clone(&time);
    let log = LocalLog::in_memory(Options::new(move || clock.load(Ordering::Relaxed) as i64));
    make_topics(&log, 2);
    drop(member(&log));
    let mut other = log.member("two", 0).unwrap();
    let mut batch = RecordBatch::default();
    for (now, expected) in [(44_000, vec![]), (45_000, vec![]), (45_001, vec![0, 1])] {
        time.store(now, Ordering::Relaxed);
        let changes = other.poll(NOW, &mut batch).unwrap();
        assert_eq!(changes.assigned, expected, "at {now}");
    }
}

/// Goal: LIMIT-1: what is too large, keyless or out of place is refused with its particulars. Method: one of each.
#[test]
fn wrong_records_are_refused() {
    let (log, _) = scripted();
    let mut producer = log.producer().unwrap();
    let large = "x".repeat(16 << 20);
    let changelog = at(Topic::Changelog, 0);
    for (wrong, says) in [
        (
            record(changelog, "k", Some(&large)),
            "over the limit of 16777216",
        ),
        (
            Outgoing {
                key: None,
                ..record(changelog, "k", None)
            },
            "must have keys",
        ),
        (
            record(at(Topic::Changelog, 2), "k", None),
            "has 2 partitions, there is no 2",
        ),
        (
            record(at(Topic::Changelog, -1), "k", None),
            "has 2 partitions, there is no -1",
        ),
    ] {
        match producer.send(wrong) {
            Err(LogError::Refused { source, .. }) => {
                assert!(source.to_string().contains(says), "{source}");
            }
            other => panic!("{says}: {other:?}"),
        }
    }
    let missing = producer.send(record(at(Topic::Items, 0), "k", None));
    assert!(
        matches!(missing, Err(LogError::NoTopic { .. })),
        "{missing:?}"
    );
    producer.flush().unwrap();
    assert_eq!(contents(&log, changelog), []);
}
