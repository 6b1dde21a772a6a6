//! A broker that goes away and comes back.

use std::time::Duration;

use headwater_config::Topic;
use headwater_consumers::log::kafka::KafkaLog;
use headwater_consumers::log::{CommitError, Log, LogError, RecordBatch, Start, TopicPartition};

use headwater::{Daemon, Handle};

use crate::broker::{Broker, LIMIT, assigned, create, settings, until, value, values};
use crate::daemon::{PARTITIONS, behave, clicks, config, try_behave, wait_counted};

/// Goal: a broker that is killed and comes back loses and repeats nothing that was committed. Method: kill -9 with a transaction
/// open and more to come; each call says that it cannot, none lies; after `recover` the positions tell what happened.
#[test]
fn a_killed_broker_is_survived() {
    let broker = Broker::start();
    let mut settings = settings(broker.bootstrap(), "outage");
    settings.operation_timeout = std::time::Duration::from_secs(5);
    let log = KafkaLog::connect(settings).unwrap();
    create(&log, &[Topic::Behaviors, Topic::Changelog], 1);
    let input = TopicPartition::new(Topic::Behaviors, 0);
    let mut producer = log.producer().unwrap();
    producer.send(value(Topic::Behaviors, 0, b"input")).unwrap();
    producer.flush().unwrap();
    let mut member = log.member("one", 0).unwrap();
    assert_eq!(assigned(&mut *member, 1), [0]);
    member.start(&[(input, Start::Beginning)]).unwrap();
    let mut batch = RecordBatch::default();
    until("the record", || {
        member.poll(LIMIT, &mut batch).unwrap();
        (batch.len() == 1).then_some(())
    });
    member.begin().unwrap();
    member.send(value(Topic::Changelog, 0, b"before")).unwrap();
    member.commit(batch.membership(), &[(input, 1)]).unwrap();
    member.begin().unwrap();
    member.send(value(Topic::Changelog, 0, b"within")).unwrap();

    broker.run("kill");
    let membership = batch.membership();
    match member.commit(membership, &[(input, 2)]) {
        Err(
            CommitError::Aborted(LogError::Unavailable { .. })
            | CommitError::Unknown(LogError::Unavailable { .. }),
        ) => {}
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        member.recover(),
        Err(LogError::Unavailable { .. })
    ));
    broker.run("start");
    until("recovery", || member.recover().ok());
    let committed = until("the committed position", || member.committed(&[input]).ok());
    assert_eq!(
        committed,
        [Some(1)],
        "the transaction was not committed: its records had not been acknowledged"
    );

    // The session of the member timed out meanwhile: it loses its partition and is assigned it again, and is not fenced.
    let mut lost = false;
    until("the partition's return", || {
        match member.poll(LIMIT, &mut batch) {
            Ok(rebalance) => {
                lost |= !rebalance.lost.is_empty();
                (lost && rebalance.assigned == [0]).then_some(())
            }
            Err(LogError::Unavailable { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    });
    match member.commit(membership, &[(input, 2)]) {
        Err(CommitError::Aborted(_)) => {}
        other => panic!("{other:?}"),
    }
    member.begin().unwrap();
    member.send(value(Topic::Changelog, 0, b"after")).unwrap();
    member.commit(batch.membership(), &[(input, 2)]).unwrap();
    assert_eq!(
        values(&log, TopicPartition::new(Topic::Changelog, 0)),
        [&b"before"[..], b"after"]
    );
}

/// Goal: an outage is over when it is over: what a client reports of it, once for each attempt to connect, is one error to whoever reads.
/// Method: a reader that is not asked while the broker is dead; then it is asked for the record that came after.
#[test]
fn an_outage_is_told_once() {
    let broker = Broker::start();
    let log = KafkaLog::connect(settings(broker.bootstrap(), "told-once")).unwrap();
    create(&log, &[Topic::Behaviors], 1);
    let at = TopicPartition::new(Topic::Behaviors, 0);
    let send = |what: &[u8]| {
        let mut producer = log.producer().unwrap();
        producer.send(value(Topic::Behaviors, 0, what)).unwrap();
        producer.flush().unwrap();
    };
    send(b"before");
    let mut reader = log.reader().unwrap();
    reader.assign(at, Start::Beginning).unwrap();
    let mut batch = RecordBatch::default();
    until("the record before", || {
        reader.poll(LIMIT, &mut batch).unwrap();
        (!batch.is_empty()).then_some(())
    });
    broker.run("kill");
    broker.run("start");
    send(b"after");
    let mut told = 0;
    until("the record after", || {
        match reader.poll(LIMIT, &mut batch) {
            Ok(()) => {}
            Err(LogError::Unavailable { .. }) => told += 1,
            Err(error) => panic!("{error}"),
        }
        (!batch.is_empty()).then_some(())
    });
    assert!(told <= 1, "told {told} times");
}

/// How long the brokers are away: longer than sessions and transactions last. `HEADWATER_OUTAGE_S` says otherwise.
fn outage() -> Duration {
    let seconds = std::env::var("HEADWATER_OUTAGE_S");
    Duration::from_secs(seconds.map_or(12, |text| text.parse().unwrap()))
}

/// Goal: brokers that go away for longer than a session cost time, nothing else: readiness goes off with the reason and comes back by itself,
/// no behavior is lost or counted twice, no score comes twice. Method: a daemon at work, kill -9 of the broker, a wait, the broker again;
/// behaviors before and after.
#[test]
fn a_daemon_waits_for_brokers_that_are_away() {
    let broker = Broker::start();
    let state = tempfile::tempdir().unwrap();
    let more = "kafka.operation_timeout = \"5s\"\nkafka.session_timeout = \"6s\"\nkafka.transaction_timeout = \"3s\"\nstep.records_max = 50";
    let config = config(&broker.bootstrap(), "away", state.path(), more);
    let log = crate::daemon::log(&config);
    let handle = Daemon::start(config.clone()).unwrap();
    behave(&*log, &clicks(0, 1_000));
    // In the middle of its work.
    wait_counted(&handle, 200);
    broker.run("kill");
    let why = |handle: &Handle| {
        assert!(handle.is_running(), "it ended: {:?}", handle.wait());
        let status = handle.status();
        status
            .workers
            .iter()
            .find_map(|worker| worker.trouble.clone())
    };
    let trouble = until("readiness to go off", || {
        why(&handle).filter(|_| !handle.ready().ready)
    });
    assert!(
        trouble.contains("log unavailable") || trouble.contains("transaction"),
        "{trouble}"
    );
    std::thread::park_timeout(outage());
    assert!(!handle.ready().ready);
    broker.run("start");
    until("readiness to come back", || {
        why(&handle);
        handle.ready().ready.then_some(())
    });
    until("behaviors to be taken again", || {
        try_behave(&*log, &clicks(1_000, 1)).ok()
    });
    behave(&*log, &clicks(1_001, 499));
    let scores = || -> Vec<Vec<u8>> {
        let partitions = (0..PARTITIONS).map(|number| TopicPartition::new(Topic::Scores, number));
        partitions.flat_map(|of| values(&*log, of)).collect()
    };
    until("a score for each behavior", || {
        why(&handle);
        (scores().len() >= 1_500).then_some(())
    });
    let mut events: Vec<String> = scores()
        .iter()
        .map(|value| {
            let answer: serde_json::Value = serde_json::from_slice(value).unwrap();
            answer["request_id"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(events.len(), 1_500, "none twice");
    events.sort_unstable();
    events.dedup();
    assert_eq!(events.len(), 1_500, "none of another");
    handle.stop(true).unwrap();
}

/// Goal: PIPE-2's other side: records whose bytes a broker's disk has lost are told, and nothing behind them is taken for what comes next.
/// Method: three batches; a byte of the second is changed on the broker's disk while it is stopped.
#[test]
fn a_damaged_batch_is_told_and_never_passed_over() {
    let broker = Broker::start();
    let settings = settings(broker.bootstrap(), "damaged");
    let log = KafkaLog::connect(settings.clone()).unwrap();
    create(&log, &[Topic::Behaviors], 1);
    let at = TopicPartition::new(Topic::Behaviors, 0);
    for what in [
        &b"first-of-three"[..],
        b"second-of-three",
        b"third-of-three",
    ] {
        let mut producer = log.producer().unwrap();
        producer.send(value(Topic::Behaviors, 0, what)).unwrap();
        producer.flush().unwrap();
    }
    broker.run("stop");
    let spoilt = broker.spoil(b"second-of-three");
    assert_eq!(spoilt, 1, "segments that held it");
    broker.run("start");

    let log = KafkaLog::connect(settings).unwrap();
    let mut reader = log.reader().unwrap();
    reader.assign(at, Start::Beginning).unwrap();
    let mut batch = RecordBatch::default();
    let mut found = Vec::new();
    let mut told = 0;
    until("the damage to be told three times", || {
        match reader.poll(LIMIT, &mut batch) {
            Ok(()) => found.extend(batch.iter().map(|record| record.value.unwrap().to_vec())),
            Err(error @ LogError::Unavailable { .. }) => {
                told += usize::from(format!("{error:?}").contains("BadMessage"));
            }
            Err(error) => panic!("{error}"),
        }
        (told >= 3).then_some(())
    });
    assert_eq!(found, [b"first-of-three"]);
}
