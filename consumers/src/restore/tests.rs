//! Where a restored partition begins to read, and what is refused, by what the changelog, the group and the topics say.

use std::sync::atomic::{AtomicI64, Ordering};

use headwater_state::{MemoryStores, Partition, Settings, Statistics, Stores};

use super::*;
use crate::log::local::{LocalLog, Options};
use crate::log::{Outgoing, TopicSpec};

/// Next offsets of [`INPUTS`].
type Positions = [Option<i64>; 3];

/// Commits a position of the group.
fn commit(log: &LocalLog, at: TopicPartition) {
    let mut member = log.member("one", 0).unwrap();
    let mut batch = RecordBatch::default();
    let limit = PollLimit {
        records: 1,
        bytes: 1,
        wait: Duration::ZERO,
    };
    member.poll(limit, &mut batch).unwrap();
    member.begin().unwrap();
    member.commit(batch.membership(), &[(at, 5)]).unwrap();
}

/// A log with so many records in partition 0 of each input, and one in that of the item state.
fn log(records: usize, retention_bytes: u64) -> LocalLog {
    let clock = AtomicI64::new(0);
    let mut options = Options::new(move || clock.fetch_add(1, Ordering::Relaxed));
    options.retention_bytes = retention_bytes;
    let log = LocalLog::in_memory(options);
    for topic in INPUTS.into_iter().chain(FOLLOWED) {
        let spec = TopicSpec {
            topic,
            partitions: 2,
            replication_factor: 1,
            min_insync_replicas: 1,
        };
        log.create(&spec).unwrap();
        let count = match topic {
            Topic::Changelog => 0,
            Topic::ItemState => 1,
            _ => records,
        };
        for _ in 0..count {
            let mut producer = log.producer().unwrap();
            let record = Outgoing {
                to: TopicPartition::new(topic, 0),
                key: Some(b"k"),
                value: Some(b"v"),
                headers: &[],
            };
            producer.send(record).unwrap();
            producer.flush().unwrap();
        }
    }
    log
}

/// A partition of which nothing is known.
fn users() -> Partition {
    let settings = Settings {
        recent_max: 1,
        memory: 1 << 20,
        keys_max: 0,
        allowed_lateness_ms: 0,
        drop_late: false,
        sequence_max: 8,
        labels: None,
    };
    Partition::open(MemoryStores::default().open(0).unwrap(), settings).unwrap()
}

/// Begins reading where changelog (`ours`) and group say; gives how many records were gone.
fn begin(log: &LocalLog, ours: Positions, group: Positions) -> Result<u64, Error> {
    let mut users = users();
    for (topic, next) in INPUTS.into_iter().zip(ours) {
        if let Some(next) = next {
            users.advance(topic, next);
        }
    }
    let owned = Owned {
        number: 0,
        users,
        statistics: Statistics::default(),
    };
    let mut waiting = Restoring {
        owned,
        ends: Some([0, 1]),
        at: [0, 1],
        committed: group.to_vec(),
    };
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    let mut member = log.member("one", 0).unwrap();
    let limit = PollLimit {
        records: 1,
        bytes: 1,
        wait: Duration::ZERO,
    };
    member.poll(limit, &mut RecordBatch::default()).unwrap();
    start(&mut waiting, log, &mut *member, &metrics)?;
    let mut read = RecordBatch::default();
    let limit = PollLimit {
        records: 1_000,
        bytes: 1 << 20,
        wait: Duration::ZERO,
    };
    member.poll(limit, &mut read).unwrap();
    for record in read.iter() {
        let counted = waiting.owned.users.position().input(record.at.topic);
        assert!(counted.is_none_or(|next| record.offset >= next));
    }
    let gone = INPUTS.map(|topic| metrics.gap.with_label_values(&[topic.key()]).get());
    Ok(gone.iter().sum())
}

/// Goal: STATE-1: what was read is neither read again nor passed over, whatever became of topics and positions; each refusal says which
/// topic and position. Method: every way in which changelog, group and topics can disagree, and those in which they need not agree.
#[test]
fn positions_that_disagree_are_refused() {
    let log = log(10, 1 << 20);
    let (read, none) = (Some(5), None);
    for (ours, group) in [
        ([none; 3], [none; 3]),
        ([read; 3], [read; 3]),
        // All of an idle group have expired; those of topics that it has not subscribed to.
        ([read; 3], [none; 3]),
        ([read; 3], [read, none, none]),
        ([read, none, none], [none; 3]),
        ([Some(10); 3], [Some(10); 3]),
        // Set back: nothing is read again.
        ([Some(10); 3], [Some(4), Some(0), Some(10)]),
    ] {
        assert_eq!(begin(&log, ours, group).unwrap(), 0, "{ours:?} {group:?}");
    }
    for (ours, group, says) in [
        (
            [read; 3],
            [none, read, read],
            "partition 0 of topics.behaviors was read up to 5, and the group has no position in it any more",
        ),
        (
            [read; 3],
            [none, none, read],
            "of topics.behaviors was read up to 5, and the group has no position",
        ),
        (
            [read; 3],
            [read, none, read],
            "of topics.score_requests was read up to 5, and the group has no position",
        ),
        (
            [read; 3],
            [read, read, none],
            "of topics.item_deltas was read up to 5, and the group has no position",
        ),
        (
            [Some(11); 3],
            [Some(11); 3],
            "partition 0 of topics.behaviors ends at 10, and 11 was read already: the topic was made anew",
        ),
        (
            [Some(11), none, none],
            [none; 3],
            "of topics.behaviors ends at 10, and 11 was read already",
        ),
        (
            [read; 3],
            [Some(6), read, read],
            "the changelog reflects the input up to 5, the group has committed 6",
        ),
        (
            [none; 3],
            [read, none, none],
            "the changelog reflects the input up to 0, the group has committed 5",
        ),
    ] {
        let error = begin(&log, ours, group).unwrap_err();
        assert!(
            error.to_string().contains(says),
            "{ours:?} {group:?}: {error}"
        );
        assert_eq!(error.reaction(), crate::Reaction::Stop, "{error}");
    }
    // Only another partition has had deltas: all positions of a group expire, or those of the topic were dropped.
    let here = [read, none, none];
    assert_eq!(begin(&log, here, [none; 3]).unwrap(), 0);
    commit(&log, TopicPartition::new(Topic::ItemDeltas, 1));
    let error = begin(&log, here, [none; 3]).unwrap_err();
    assert!(matches!(error, Error::Forgotten { .. }), "{error}");
    let empty = self::log(0, 1 << 20);
    for topic in [Topic::Behaviors, Topic::ScoreRequests, Topic::ItemDeltas] {
        let ours = INPUTS.map(|other| (other == topic).then_some(0));
        assert_eq!(begin(&empty, ours, ours).unwrap(), 0);
    }
}

/// Goal: item state that was made anew is refused: its statistics would be missing for ever. Method: deltas were read, and it is empty.
#[test]
fn empty_item_state_is_refused() {
    let log = log(10, 1 << 20);
    let anew = LocalLog::in_memory(Options::new(|| 0));
    for topic in INPUTS.into_iter().chain(FOLLOWED) {
        let spec = TopicSpec {
            topic,
            partitions: 1,
            replication_factor: 1,
            min_insync_replicas: 1,
        };
        anew.create(&spec).unwrap();
    }
    assert_eq!(begin(&anew, [None; 3], [None; 3]).unwrap(), 0);
    assert_eq!(
        begin(&log, [None, None, Some(7)], [None, None, Some(7)]).unwrap(),
        0
    );
    let mut producer = anew.producer().unwrap();
    for _ in 0..7 {
        let to = TopicPartition::new(Topic::ItemDeltas, 0);
        let record = Outgoing {
            to,
            key: Some(b"k"),
            value: Some(b"v"),
            headers: &[],
        };
        producer.send(record).unwrap();
    }
    producer.flush().unwrap();
    let error = begin(&anew, [None, None, Some(7)], [None, None, Some(7)]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("topics.item_state partition 0`: is empty"),
        "{error}"
    );
}

/// Goal: records that retention deleted before they were read are counted, and reading goes on behind them. Method: a log that keeps little.
#[test]
fn what_retention_took_is_counted() {
    let log = log(200, 1_000);
    let first = |topic| log.extent(TopicPartition::new(topic, 0)).unwrap().first;
    assert!(first(Topic::Behaviors) > 5);
    let gone: i64 = INPUTS.map(|topic| first(topic) - 5).iter().sum();
    assert_eq!(
        begin(&log, [Some(5); 3], [Some(5); 3]).unwrap(),
        gone as u64
    );
}

/// Goal: a record that is not what was written is told by topic, partition, offset and key. Method: one in the changelog, one in the item
/// state.
#[test]
fn damaged_records_are_named() {
    let log = log(0, 1 << 20);
    for (topic, key, value, says) in [
        (
            Topic::Changelog,
            &b"\x03\x01\x00ur"[..],
            &b"\x01"[..],
            "topics.changelog partition 0 offset 8: record of key \\x03\\x01\\x00ur is damaged: bytes end too early",
        ),
        (
            Topic::ItemState,
            b"ii",
            b"\xff",
            "topics.item_state partition 0 offset 8: record of key ii is damaged: written in format version 255",
        ),
    ] {
        let mut restorer = Restorer::new(log.reader().unwrap());
        restorer.add(Owned {
            number: 0,
            users: users(),
            statistics: Statistics::default(),
        });
        let at = TopicPartition::new(topic, 0);
        restorer.batch.push(at, (8, 0), Some(key), Some(value), []);
        let error = restorer.apply().unwrap_err();
        assert!(error.to_string().starts_with(says), "{error}");
        assert_eq!(error.reaction(), crate::Reaction::Stop);
    }
}

/// Goal: a partition does not come among the records of an old poll. Method: one that is restored, while it may not join and when it may.
#[test]
fn a_restored_partition_waits_until_it_may_join() {
    let log = log(0, 1 << 20);
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    let mut member = log.member("one", 0).unwrap();
    let limit = PollLimit::NOTHING;
    member.poll(limit, &mut RecordBatch::default()).unwrap();
    let mut restorer = Restorer::new(log.reader().unwrap());
    let mut statistics = Statistics::default();
    statistics.position = 1;
    restorer.add(Owned {
        number: 0,
        users: users(),
        statistics,
    });
    for joins in [false, false, true] {
        let now = Timestamp(0);
        let ready = restorer.advance(&log, &mut *member, now, joins, &metrics);
        assert_eq!(ready.unwrap().len(), usize::from(joins));
    }
    assert!(restorer.is_idle());
}
