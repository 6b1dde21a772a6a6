//! Who waits, and for what.

use super::*;

/// Longer than any test: who waits for it was not woken.
const LONG: PollLimit = PollLimit {
    wait: Duration::from_secs(60),
    ..NOW
};
const SOON: Duration = Duration::from_secs(20);

/// Goal: a restore does not wait at the end of a partition. Method: the first poll there returns at once although nothing came.
#[test]
fn an_end_is_told_without_waiting() {
    let log = LocalLog::in_memory(options());
    make_topics(&log, 1);
    let mut reader = log.reader().unwrap();
    reader
        .assign(at(Topic::Changelog, 0), Start::Beginning)
        .unwrap();
    let begun = Instant::now();
    let mut batch = RecordBatch::default();
    reader.poll(LONG, &mut batch).unwrap();
    assert!(begun.elapsed() < SOON);
    assert_eq!(batch.ends(), [(at(Topic::Changelog, 0), 0)]);
}

/// Goal: latency: who waits is woken by records and by partitions, not by the clock. Method: two threads wait for a third.
#[test]
fn who_waits_is_woken() {
    let log = LocalLog::in_memory(options());
    make_topics(&log, 2);
    let mut first = member(&log);
    first
        .start(&[(at(Topic::Behaviors, 0), Start::Beginning)])
        .unwrap();
    let mut second = log.member("two", 0).unwrap();
    let mut reader = log.reader().unwrap();
    reader.assign(at(Topic::Behaviors, 0), Start::End).unwrap();
    reader.poll(NOW, &mut RecordBatch::default()).unwrap();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let assigned = scope.spawn(move || {
            second
                .poll(LONG, &mut RecordBatch::default())
                .unwrap()
                .assigned
        });
        let read = scope.spawn(move || {
            let mut batch = RecordBatch::default();
            reader.poll(LONG, &mut batch).unwrap();
            batch.len()
        });
        let changes = first.poll(LONG, &mut RecordBatch::default()).unwrap();
        first.release(&changes.revoked).unwrap();
        assert_eq!(assigned.join().unwrap(), changes.revoked);
        first
            .send_now(record(at(Topic::Behaviors, 0), "k", None))
            .unwrap();
        assert_eq!(read.join().unwrap(), 1);
    });
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}
