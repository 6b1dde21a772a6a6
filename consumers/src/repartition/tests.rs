//! The stage over the log inside this process, with the faults that it injects.

use std::sync::atomic::AtomicI64;

use super::*;
use crate::error::Reaction;
use crate::log::Outgoing;
use crate::log::local::LocalLog;
use crate::log::local::faults::{Fault, Op};
use crate::stage::bench::{self, Lying, NOW, Script, StandingStill, contents};

const MAPPING: &str = "[step]\nwait = \"1ms\"\n[source.behaviors]\nmapped = true\nrepartition = true\nevents = \"/list\"\nuser_id = \"/u\"\n\
                       time = \"^/t\"\nconstant = { kind = \"click\", scenario = \"feed\" }\n";

/// A log with a source of three partitions and a repartition topic of four, the faults to come, and what moves its clock.
fn bench() -> (Arc<LocalLog>, Script, Arc<AtomicI64>) {
    bench::log(&[
        (Topic::Behaviors, 3),
        (Topic::Repartition, 4),
        (Topic::DeadLetters, 1),
    ])
}

fn stage(log: &Arc<LocalLog>, toml: &str) -> Stage<Repartition> {
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    let member = log.member("one", 0).unwrap();
    let config = Config::from_toml(toml).unwrap();
    Repartition::stage(
        &config,
        Arc::clone(log) as Arc<dyn Log>,
        member,
        (4, 1),
        metrics,
        Box::new(StandingStill),
    )
}

fn produce(log: &LocalLog, partition: i32, value: &[u8]) {
    produce_with(log, partition, value, &[]);
}

fn produce_with(log: &LocalLog, partition: i32, value: &[u8], headers: &[(&str, &[u8])]) {
    let record = Outgoing {
        to: TopicPartition::new(Topic::Behaviors, partition),
        key: Some(b"device"),
        value: Some(value),
        headers,
    };
    bench::put(log, record);
}

/// Record `number` of a history: three events of users that lie in every partition.
fn record(number: usize) -> String {
    let users: Vec<_> = (0..3)
        .map(|event| serde_json::json!({"u": number % 7 + event}))
        .collect();
    serde_json::json!({"t": NOW, "list": users}).to_string()
}

fn run_to_the_end(stage: &mut Stage<Repartition>, log: &LocalLog, events: usize) {
    for _ in 0..1000 {
        stage.turn().unwrap();
        if contents(log, Topic::Repartition).len() >= events {
            return;
        }
    }
    panic!("in vain: {stage:?}");
}

/// Goal: records that hold many events are passed on in transactions of about a poll's size, and none is left out. Method: five records of 400 events of one user in
/// one poll, where a poll has 300 records at most: each marker of a transaction takes an offset.
#[test]
fn many_events_are_many_transactions() {
    let (log, ..) = bench();
    let list: Vec<_> = (0..400).map(|_| serde_json::json!({"u": 1})).collect();
    for _ in 0..5 {
        let record = serde_json::json!({"t": NOW, "list": list}).to_string();
        produce(&log, 0, record.as_bytes());
    }
    let few = MAPPING.replace("[step]\n", "[step]\nrecords_max = 300\n");
    let mut stage = stage(&log, &few);
    run_to_the_end(&mut stage, &log, 2_000);
    assert_eq!(contents(&log, Topic::Repartition).len(), 2_000);
    let number = partition_of(b"1", 4);
    let extent = log
        .extent(TopicPartition::new(Topic::Repartition, number))
        .unwrap();
    assert_eq!(extent.next - extent.first, 2_000 + 5);
    let source = TopicPartition::new(Topic::Behaviors, 0);
    assert_eq!(stage.reading()[&0], Some(log.extent(source).unwrap().next));
}

/// Goal: each event is there once, in the partition that Java's murmur2 gives its user, with its coordinates; what cannot be read is a dead
/// letter. Method: 60 records of three events in three partitions, each commit or poll failing once in every way there is.
#[test]
fn each_event_is_passed_on_once_whatever_fails() {
    let faults = [
        (Op::Commit, Fault::CommitAborted),
        (Op::Commit, Fault::CommitUnknown { happened: true }),
        (Op::Commit, Fault::CommitUnknown { happened: false }),
        (Op::Commit, Fault::Unavailable),
        (Op::Commit, Fault::Lose),
        (Op::Send, Fault::Unavailable),
        (Op::Begin, Fault::Unavailable),
        (Op::Poll, Fault::Lose),
        (Op::Committed, Fault::Unavailable),
    ];
    for fault in faults {
        let (log, script, _) = bench();
        for number in 0..30 {
            produce(&log, number as i32 % 3, record(number).as_bytes());
        }
        let mut stage = stage(&log, MAPPING);
        run_to_the_end(&mut stage, &log, 90);
        script.lock().push_back(fault);
        for number in 30..60 {
            produce(&log, number as i32 % 3, record(number).as_bytes());
        }
        produce(&log, 0, br#"{"list": [{"u": 1}]}"#);
        run_to_the_end(&mut stage, &log, 180);
        if fault.0 != Op::Committed {
            assert!(script.lock().is_empty(), "{fault:?} was not met");
        }
        let found = contents(&log, Topic::Repartition);
        let mut expected: Vec<_> = (0..60)
            .flat_map(|number| {
                // A commit marker takes no offset of the source: its records were not written in transactions of ours.
                (0..3).map(move |event| {
                    (
                        format!("headwater.behaviors-{}-", number % 3),
                        (number % 7 + event).to_string(),
                        event,
                    )
                })
            })
            .collect();
        let mut got = Vec::new();
        for lying in &found {
            assert_eq!(lying.partition, partition_of(&lying.key, 4));
            let user = std::str::from_utf8(&lying.key).unwrap();
            let value: serde_json::Value = serde_json::from_slice(&lying.value).unwrap();
            assert_eq!(
                value,
                serde_json::json!({"user_id": user, "kind": "click", "scenario": "feed", "time": NOW})
            );
            let (place, index) = lying.id.rsplit_once('.').unwrap();
            let (topic, _) = place.rsplit_once('-').unwrap();
            got.push((format!("{topic}-"), user.to_owned(), index.parse().unwrap()));
        }
        let mut ids: Vec<_> = found.iter().map(|lying| &lying.id).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 180, "{fault:?}: an event is there twice");
        expected.sort();
        got.sort();
        assert_eq!(got, expected, "{fault:?}");
        for _ in 0..10 {
            stage.turn().unwrap();
        }
        let letters = contents(&log, Topic::DeadLetters);
        assert_eq!(letters.len(), 1, "{fault:?}");
        assert_eq!(letters[0].value, br#"{"list": [{"u": 1}]}"#);
    }
}

/// Goal: records of our own form are passed on as they are, keyed. Method: one with a key that we do not know.
#[test]
fn our_own_form_is_passed_on_as_it_is() {
    let (log, _, _) = bench();
    let value =
        format!(r#"{{"user_id":"u","kind":"click","scenario":"s","time":{NOW},"theirs":[1]}}"#);
    produce(&log, 2, value.as_bytes());
    let mut stage = stage(
        &log,
        "[step]\nwait = \"1ms\"\n[source.behaviors]\nrepartition = true\n",
    );
    run_to_the_end(&mut stage, &log, 1);
    let found = contents(&log, Topic::Repartition);
    assert_eq!(found.len(), 1);
    let Lying {
        partition,
        key,
        value: passed,
        id,
    } = &found[0];
    assert_eq!((*partition, &key[..]), (partition_of(b"u", 4), &b"u"[..]));
    assert_eq!(id, "headwater.behaviors-2-0.0");
    assert_eq!(passed, value.as_bytes());
}

/// Goal: events of a dead letter that was sent again can be told apart, and known again. Method: one letter, sent twice.
#[test]
fn events_of_a_dead_letter_keep_its_name() {
    let (log, _, _) = bench();
    for _ in 0..2 {
        produce_with(
            &log,
            0,
            record(0).as_bytes(),
            &[(HEADER_REDRIVE, b"0-7"), ("theirs", b"x")],
        );
    }
    let mut stage = stage(&log, MAPPING);
    run_to_the_end(&mut stage, &log, 6);
    let mut reader = log.reader().unwrap();
    for number in 0..4 {
        let of = TopicPartition::new(Topic::Repartition, number);
        reader.assign(of, Start::Beginning).unwrap();
    }
    let limit = PollLimit {
        records: 100,
        bytes: usize::MAX,
        wait: Duration::ZERO,
    };
    let mut batch = RecordBatch::default();
    reader.poll(limit, &mut batch).unwrap();
    let names = batch.iter().map(|record| {
        assert_eq!(record.headers.iter().count(), 3);
        let name = record.headers.get(HEADER_REDRIVE).unwrap();
        String::from_utf8(name.to_vec()).unwrap()
    });
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(
        names,
        ["0-7.0", "0-7.0", "0-7.1", "0-7.1", "0-7.2", "0-7.2"]
    );
}

/// Goal: a rival ends the stage, and what it had open is not seen. Method: fenced at its commit.
#[test]
fn a_rival_ends_the_stage() {
    let (log, script, _) = bench();
    produce(&log, 0, record(0).as_bytes());
    let mut stage = stage(&log, MAPPING);
    script.lock().push_back((Op::Commit, Fault::Fence));
    let ended = (0..1000).find_map(|_| stage.turn().err()).unwrap();
    assert_eq!(ended.reaction(), Reaction::Release);
    assert!(contents(&log, Topic::Repartition).is_empty());
}

/// Goal: positions that are gone are not taken for a beginning. Method: a repartition topic with a record in it, and a group without
/// positions.
#[test]
fn lost_positions_are_refused() {
    let (log, _, _) = bench();
    let record = Outgoing {
        to: TopicPartition::new(Topic::Repartition, 1),
        key: Some(b"u"),
        value: Some(b"{}"),
        headers: &[],
    };
    bench::put(&log, record);
    let mut stage = stage(&log, MAPPING);
    let ended = (0..1000).find_map(|_| stage.turn().err()).unwrap();
    assert_eq!(ended.reaction(), Reaction::Stop);
    assert!(
        ended.to_string().starts_with(
            "topic `headwater.behaviors`: the group with the suffix `-repartition` has no position in it, and topics.repartition holds records"
        ),
        "{ended}"
    );
}

/// Goal: PIPE-2 and LIMIT-1: an event that is too long for the repartition topic stops nobody. Method: records near the limit, of our own
/// form and a stranger's, each between two good ones; a text that JSON writes six times as long.
#[test]
fn what_is_too_long_to_write_is_a_dead_letter() {
    let blank = " ".repeat(950_000);
    let own = |event: &str, blank: &str| {
        format!(
            r#"{{"event_id":"{event}","user_id":"u","kind":"click","scenario":"s","time":{NOW}{blank}}}"#
        )
    };
    let mapped = |query: &str| {
        serde_json::json!({"t": NOW, "list": [{"u": 1, "q": query}, {"u": 2}]}).to_string()
    };
    let mapping = format!("{MAPPING}query = \"/q\"\n");
    let mapping = mapping.replace("constant =", "constant  =");
    for (toml, good, bad, written) in [
        (
            "[step]\nwait = \"1ms\"\n[source.behaviors]\nrepartition = true\n",
            own("a", ""),
            own("b", &blank),
            2,
        ),
        (
            &*mapping,
            mapped("red"),
            mapped(&"\u{1}".repeat(160_000)),
            4,
        ),
    ] {
        let (log, _, _) = bench();
        for value in [&good, &bad, &good] {
            assert!(value.len() < 1 << 20);
            produce(&log, 0, value.as_bytes());
        }
        let mut stage = stage(&log, toml);
        for _ in 0..20 {
            stage.turn().unwrap();
        }
        assert_eq!(contents(&log, Topic::Repartition).len(), written);
        let letters = contents(&log, Topic::DeadLetters);
        assert_eq!(letters.len(), 1);
    }
}
