//! A broker that goes away and comes back.

use headwater_config::Topic;
use headwater_consumers::log::kafka::KafkaLog;
use headwater_consumers::log::{CommitError, Log, LogError, RecordBatch, Start, TopicPartition};

use crate::broker::{Broker, LIMIT, assigned, create, settings, until, value, values};

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
