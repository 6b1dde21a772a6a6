//! Cases of the suite about records, readers and topics.
//!
//! Before them, `conformance` brings up the log; after them, it tells which failed.

use headwater_config::Topic;

use super::{Bench, Ground, LIMIT, Seen, changelog, input, plain, scores, spec};
use crate::log::{Created, LogError, Outgoing, PollLimit, RecordBatch, Start, TopicPartition};

/// Goal: a topic is made once, with the policy of its role. Method: make it twice, ask before and after.
pub(super) fn topics_are_made_once_and_described(bench: &dyn Bench) {
    let ground = Ground::new(bench, &[(Topic::Behaviors, 3)]);
    let log = &ground.log;
    assert_eq!(log.describe(Topic::Changelog).expect("an answer"), None);
    assert_eq!(
        log.create(&spec(Topic::Changelog, 2)).expect("a topic"),
        Created::Made
    );
    ground.until("the topic is described", || {
        log.describe(Topic::Changelog).expect("an answer").is_some()
    });
    assert_eq!(
        log.create(&spec(Topic::Changelog, 5)).expect("an answer"),
        Created::Existed
    );
    let changelog = log
        .describe(Topic::Changelog)
        .expect("an answer")
        .expect("a topic");
    assert_eq!(changelog.partitions, 2, "what existed is left as it is");
    assert!(
        changelog.cleanup_policy.contains("compact"),
        "{changelog:?}"
    );
    assert!(changelog.delete_retention_ms.is_some(), "{changelog:?}");
    let behaviors = log
        .describe(Topic::Behaviors)
        .expect("an answer")
        .expect("a topic");
    assert_eq!(
        (behaviors.partitions, &behaviors.cleanup_policy[..]),
        (3, "delete")
    );
}

/// Goal: who asks for a topic that is not there is told so. Method: its extent.
pub(super) fn a_missing_topic_is_named(bench: &dyn Bench) {
    let ground = Ground::new(bench, &[(Topic::Behaviors, 1)]);
    let extent = ground.log.extent(changelog(0));
    assert!(
        matches!(extent, Err(LogError::NoTopic { .. })),
        "{extent:?}"
    );
}

/// Goal: no byte changes on its way. Method: nulls, empties, headers of all kinds, every byte value, a large value.
pub(super) fn records_come_back_as_sent(bench: &dyn Bench) {
    let ground = Ground::new(bench, &[(Topic::Behaviors, 2)]);
    let all: Vec<u8> = (0..=255).collect();
    // Under a megabyte, which is what brokers accept by default.
    let large: Vec<u8> = (0..900_000_u32)
        .map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let headers: &[(&str, &[u8])] = &[
        ("trace", b"\x00\xff"),
        ("empty", b""),
        ("trace", b"again"),
        ("ä", &all),
    ];
    let sent = [
        Outgoing {
            to: input(0),
            key: Some(b"k"),
            value: Some(b"v"),
            headers,
        },
        Outgoing {
            to: input(0),
            key: None,
            value: Some(b"no key"),
            headers: &[],
        },
        Outgoing {
            to: input(0),
            key: Some(b""),
            value: Some(b""),
            headers: &[],
        },
        Outgoing {
            to: input(0),
            key: Some(b"no value"),
            value: None,
            headers: &[("reason", b"gone")],
        },
        Outgoing {
            to: input(0),
            key: Some(&all),
            value: Some(&large),
            headers: &[],
        },
        Outgoing {
            to: input(0),
            key: None,
            value: None,
            headers: &[],
        },
    ];
    let mut producer = ground.log.producer().expect("a producer");
    for record in sent {
        producer.send(record).expect("a send");
    }
    producer.flush().expect("a flush");
    let seen = ground.read(input(0));
    assert_eq!(seen.len(), sent.len());
    for (seen, sent) in seen.iter().zip(sent) {
        assert_eq!(seen.at, sent.to);
        assert_eq!(seen.key.as_deref(), sent.key);
        assert!(
            seen.value.as_deref() == sent.value,
            "value of {:?}",
            sent.key
        );
        let headers: Vec<_> = sent
            .headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Some(value.to_vec())))
            .collect();
        assert_eq!(seen.headers, headers);
    }
    assert_eq!(ground.read(input(1)), [], "the other partition has nothing");
}

/// Goal: offsets grow, and the extent holds them. Method: records of several flushes; an empty partition beside them.
pub(super) fn offsets_grow_within_the_extent(bench: &dyn Bench) {
    let ground = Ground::new(bench, &[(Topic::Behaviors, 2)]);
    let empty = ground.log.extent(input(0)).expect("an extent");
    assert_eq!(empty.first, empty.next, "nothing is there yet");
    for _ in 0..3 {
        ground.produce(input(0), &["a", "b", "c"]);
    }
    let seen = ground.read(input(0));
    assert_eq!(seen.len(), 9);
    assert!(
        seen.is_sorted_by(|left, right| left.offset < right.offset),
        "{seen:?}"
    );
    let extent = ground.log.extent(input(0)).expect("an extent");
    assert!(extent.first <= seen[0].offset, "{extent:?}");
    assert!(extent.next > seen[8].offset, "{extent:?}");
    assert_eq!(
        ground.log.extent(input(1)).expect("an extent").next,
        empty.next
    );
}

/// Goal: a reader begins at the beginning, at a record, after one, or at the end. Method: one of each.
pub(super) fn a_reader_begins_where_it_is_told(bench: &dyn Bench) {
    let ground = Ground::new(bench, &[(Topic::Behaviors, 1)]);
    ground.produce(input(0), &["a", "b", "c"]);
    let offsets: Vec<i64> = ground
        .read(input(0))
        .iter()
        .map(|seen| seen.offset)
        .collect();
    for (start, expected) in [
        (Start::Beginning, &["a", "b", "c", "d"][..]),
        (Start::At(offsets[1]), &["b", "c", "d"]),
        (Start::At(offsets[2] + 1), &["d"]),
        (Start::End, &["d"]),
    ] {
        // `d` is sent once the reader stands where it should: at first it is not there, later readers find it written again.
        let already = ground.values(input(0)).len() - 3;
        let mut reader = ground.log.reader().expect("a reader");
        reader.assign(input(0), start).expect("an assignment");
        let mut batch = RecordBatch::default();
        let mut seen = Vec::new();
        ground.until("the end is reached", || {
            reader.poll(LIMIT, &mut batch).expect("a poll");
            seen.extend(batch.iter().map(|record| Seen::of(record).text()));
            !batch.ends().is_empty()
        });
        ground.produce(input(0), &["d"]);
        let mut wanted: Vec<&str> = expected[..expected.len() - 1].to_vec();
        if start != Start::End {
            wanted.extend(std::iter::repeat_n("d", already));
        }
        wanted.push("d");
        ground.until("what comes later is read", || {
            reader.poll(LIMIT, &mut batch).expect("a poll");
            seen.extend(batch.iter().map(|record| Seen::of(record).text()));
            seen.len() >= wanted.len()
        });
        assert_eq!(seen, wanted, "{start:?}");
    }
}

/// Goal: a reader knows when it has read all that there is. Method: two partitions, one of which ends in a transaction, whose
/// marker takes an offset; the end is where the extent ends.
pub(super) fn a_reader_tells_the_ends_it_reached(bench: &dyn Bench) {
    let ground = Ground::new(bench, &[(Topic::Behaviors, 1), (Topic::Changelog, 3)]);
    ground.produce(changelog(0), &["a", "b"]);
    let mut driver = ground.member_with("one", &[0]);
    driver.member.begin().expect("a transaction");
    driver
        .member
        .send(plain(changelog(1), "c"))
        .expect("a send");
    driver
        .member
        .commit(driver.membership, &[])
        .expect("a commit");
    let mut reader = ground.log.reader().expect("a reader");
    for partition in 0..3 {
        reader
            .assign(changelog(partition), Start::Beginning)
            .expect("an assignment");
    }
    let mut batch = RecordBatch::default();
    let mut seen = 0;
    let mut ends = std::collections::BTreeMap::new();
    ground.until("all ends are reached", || {
        reader.poll(LIMIT, &mut batch).expect("a poll");
        seen += batch.len();
        ends.extend(batch.ends().iter().copied());
        if ends.len() == 3 {
            assert_eq!(seen, 3, "all records come before the ends");
        }
        ends.len() == 3
    });
    for (of, end) in ends {
        assert_eq!(
            end,
            ground.log.extent(of).expect("an extent").next,
            "{of:?}"
        );
    }
}

/// Goal: a partition that is not wanted any longer is not read. Method: unassign one of two, then send to both.
pub(super) fn an_unassigned_partition_is_not_read(bench: &dyn Bench) {
    let ground = Ground::new(bench, &[(Topic::Behaviors, 2)]);
    let mut reader = ground.log.reader().expect("a reader");
    reader
        .assign(input(0), Start::Beginning)
        .expect("an assignment");
    reader
        .assign(input(1), Start::Beginning)
        .expect("an assignment");
    reader.unassign(input(0)).expect("an unassignment");
    ground.produce(input(0), &["a"]);
    ground.produce(input(1), &["b"]);
    let mut batch = RecordBatch::default();
    let mut seen: Vec<TopicPartition> = Vec::new();
    ground.until("the other is read", || {
        reader.poll(LIMIT, &mut batch).expect("a poll");
        seen.extend(batch.iter().map(|record| record.at));
        !seen.is_empty()
    });
    assert_eq!(seen, [input(1)]);
}

/// Goal: a position that the log does not hold is an error that names it, never another position. Method: far behind the end.
pub(super) fn a_position_outside_of_the_log_is_an_error(bench: &dyn Bench) {
    let ground = Ground::new(bench, &[(Topic::Behaviors, 2)]);
    ground.produce(input(1), &["a"]);
    let mut reader = ground.log.reader().expect("a reader");
    let mut batch = RecordBatch::default();
    let mut error = reader.assign(input(1), Start::At(1000)).err();
    ground.until("the error is told", || {
        if error.is_none() {
            error = reader.poll(LIMIT, &mut batch).err();
            assert!(batch.is_empty(), "no record is at that position");
        }
        error.is_some()
    });
    let error = error.expect("invariant: it was told");
    let expected = matches!(
        error,
        LogError::OutOfRange {
            topic: Topic::Behaviors,
            partition: 1,
            offset: 1000
        }
    );
    assert!(expected, "{error:?}");
}

/// Goal: a deletion in a compacted topic is read as one. Method: a value and its tombstone; compaction may take the value.
pub(super) fn tombstones_come_back(bench: &dyn Bench) {
    let ground = Ground::new(bench, &[(Topic::Changelog, 1)]);
    let mut producer = ground.log.producer().expect("a producer");
    for value in [Some(&b"1"[..]), None] {
        let record = Outgoing {
            to: changelog(0),
            key: Some(b"k"),
            value,
            headers: &[],
        };
        producer.send(record).expect("a send");
    }
    producer.flush().expect("a flush");
    let seen = ground.read(changelog(0));
    let last = seen.last().expect("a record");
    assert_eq!(
        (&last.key, &last.value),
        (&Some(b"k".to_vec()), &None),
        "{seen:?}"
    );
}

/// Goal: a poll brings no more than it may, and the next ones bring the rest. Method: limits of records and of bytes.
pub(super) fn a_poll_keeps_its_limits(bench: &dyn Bench) {
    let ground = Ground::new(bench, &[(Topic::Scores, 2)]);
    let value = "v".repeat(100);
    for partition in 0..2 {
        ground.produce(scores(partition), &[&value[..]; 20]);
    }
    let few = PollLimit {
        records: 3,
        ..LIMIT
    };
    let small = PollLimit {
        bytes: 500,
        ..LIMIT
    };
    for (limit, most) in [(few, 3), (small, 5)] {
        let mut reader = ground.log.reader().expect("a reader");
        for partition in 0..2 {
            reader
                .assign(scores(partition), Start::Beginning)
                .expect("an assignment");
        }
        let mut batch = RecordBatch::default();
        let mut seen = Vec::new();
        ground.until("all records are read", || {
            reader.poll(limit, &mut batch).expect("a poll");
            assert!(
                batch.len() <= most,
                "{} records, limit {limit:?}",
                batch.len()
            );
            seen.extend(batch.iter().map(|record| (record.at, record.offset)));
            seen.len() >= 40
        });
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 40, "each record once");
    }
}
