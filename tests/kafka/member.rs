//! A member's way through reading, writing and fencing.

use headwater_config::Topic;
use headwater_consumers::log::{CommitError, Log, Membership, RecordBatch, Start, TopicPartition};

use crate::broker::{LIMIT, assigned, log, until, value, values};

/// Goal: what is polled and written is committed with its positions, together. Method: one member reads two partitions, copies
/// them to the changelog in a transaction, and is followed by a second that asks for the positions.
#[test]
fn a_transaction_commits_records_and_positions() {
    let log = log("slice", &[Topic::Behaviors, Topic::Changelog], 2);
    let mut producer = log.producer().unwrap();
    for number in 0..100 {
        producer
            .send(value(
                Topic::Behaviors,
                number % 2,
                format!("{number}").as_bytes(),
            ))
            .unwrap();
    }
    producer.flush().unwrap();

    let mut member = log.member("one", 0).unwrap();
    assert_eq!(assigned(&mut *member, 2), [0, 1]);
    let inputs = [0, 1].map(|partition| TopicPartition::new(Topic::Behaviors, partition));
    assert_eq!(member.committed(&inputs).unwrap(), [None, None]);
    member
        .start(&inputs.map(|at| (at, Start::Beginning)))
        .unwrap();
    let mut batch = RecordBatch::default();
    let mut copied = 0;
    let mut told = Vec::new();
    until("all records", || {
        assert!(member.poll(LIMIT, &mut batch).unwrap().is_empty());
        if batch.is_empty() {
            return None;
        }
        member.begin().unwrap();
        let mut positions = [0, 0];
        for record in batch.iter() {
            positions[record.at.partition as usize] = record.offset + 1;
            member
                .send(value(
                    Topic::Changelog,
                    record.at.partition,
                    record.value.unwrap(),
                ))
                .unwrap();
        }
        let positions: Vec<_> = inputs
            .iter()
            .map(|at| (*at, positions[at.partition as usize]))
            .filter(|(_, next)| *next > 0)
            .collect();
        told.extend(member.commit(batch.membership(), &positions).unwrap().next);
        copied += batch.len();
        (copied == 100).then_some(())
    });
    assert_eq!(member.committed(&inputs).unwrap(), [Some(50), Some(50)]);
    for partition in [0, 1] {
        let at = TopicPartition::new(Topic::Changelog, partition);
        let expected: Vec<_> = (0..50)
            .map(|number| format!("{}", 2 * number + partition).into_bytes())
            .collect();
        assert_eq!(values(&log, at), expected);
        let last = told
            .iter()
            .filter(|(of, _)| *of == at)
            .map(|(_, next)| *next)
            .max()
            .unwrap();
        // The marker of the commit lies behind the last record.
        assert_eq!(log.extent(at).unwrap().next, last + 1);
    }
    member.leave(false).unwrap();
}

/// Goal: a newer member with the same identity fences the older, whose open records are never seen. Method: the older has a
/// transaction open when the newer comes.
#[test]
fn a_zombie_is_fenced() {
    let log = log("zombie", &[Topic::Behaviors, Topic::Changelog], 1);
    let mut older = log.member("one", 0).unwrap();
    assert_eq!(assigned(&mut *older, 1), [0]);
    older.begin().unwrap();
    older
        .send(value(Topic::Changelog, 0, b"of the zombie"))
        .unwrap();

    let mut newer = log.member("one", 0).unwrap();
    newer.begin().unwrap();
    newer
        .send(value(Topic::Changelog, 0, b"of the newer"))
        .unwrap();
    newer.commit(Membership(0), &[]).unwrap();
    match older.commit(Membership(1), &[]) {
        Err(CommitError::Fenced(_)) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(
        values(&log, TopicPartition::new(Topic::Changelog, 0)),
        [b"of the newer"]
    );
}

/// Goal: what a member gave back just before it was killed does not stay nobody's, although it comes back under its static name and the
/// brokers rebalance nothing then. Method: a member is asked for a partition and is never heard of again; its successor and the other.
#[test]
fn partitions_of_nobody_are_given_out_again() {
    let log = log("orphans", &[Topic::Behaviors, Topic::Changelog], 2);
    let mut older = log.member("one", 0).unwrap();
    assert_eq!(assigned(&mut *older, 2), [0, 1]);
    let mut other = log.member("two", 0).unwrap();
    let mut batch = RecordBatch::default();
    let revoked = until("a partition to be asked back", || {
        assert!(other.poll(LIMIT, &mut batch).unwrap().is_empty());
        let revoked = older.poll(LIMIT, &mut batch).unwrap().revoked;
        (!revoked.is_empty()).then_some(revoked)
    });
    assert_eq!(revoked.len(), 1);
    // As if killed: it neither gives back nor leaves. Its heartbeats end when its successor comes.
    Box::leak(older);
    let mut newer = log.member("one", 0).unwrap();
    let mut held = [Vec::new(), Vec::new()];
    until("both to have one each", || {
        for (member, held) in [&mut newer, &mut other].into_iter().zip(&mut held) {
            let rebalance = member.poll(LIMIT, &mut batch).unwrap();
            held.retain(|partition| !rebalance.lost.contains(partition));
            held.retain(|partition| !rebalance.revoked.contains(partition));
            held.extend(rebalance.assigned);
            member.release(&rebalance.revoked).unwrap();
        }
        (held[0].len() == 1 && held[1].len() == 1).then_some(())
    });
}
