//! How long a transaction takes: librdkafka has several ways to lose 100 ms in each.

use std::time::{Duration, Instant};

use headwater_config::Topic;
use headwater_consumers::log::{Log, Start, TopicPartition};

use crate::broker::{assigned, log, value};

/// Goal: no way of waiting 100 ms a transaction has come in. Method: the median of 100 transactions of 500 records of 200 bytes
/// with their positions, the first 20 left out.
#[test]
fn a_transaction_of_500_records_takes_less_than_50_ms() {
    let log = log("latency", &[Topic::Behaviors, Topic::Changelog], 4);
    let (times, _) = transactions(&log, 120, 500);
    let p50 = times[times.len() / 2];
    eprintln!(
        "500 records a transaction: p50 {p50:?}, p99 {:?}",
        times[times.len() * 99 / 100]
    );
    assert!(p50 < Duration::from_millis(50), "p50 {p50:?}");
}

/// Runs transactions one after the other; their times, sorted, without the first 20, and records a second.
pub(crate) fn transactions(log: &dyn Log, count: usize, records: usize) -> (Vec<Duration>, f64) {
    let mut member = log.member("one", 0).unwrap();
    assert_eq!(assigned(&mut *member, 4), [0, 1, 2, 3]);
    let input = TopicPartition::new(Topic::Behaviors, 0);
    member.start(&[(input, Start::Beginning)]).unwrap();
    let mut batch = headwater_consumers::log::RecordBatch::default();
    let limit = headwater_consumers::log::PollLimit {
        wait: Duration::ZERO,
        ..crate::broker::LIMIT
    };
    let payload = [b'x'; 200];
    let mut times = Vec::new();
    let all = Instant::now();
    for number in 0..count {
        member.poll(limit, &mut batch).unwrap();
        let begun = Instant::now();
        member.begin().unwrap();
        for record in 0..records {
            member
                .send(value(Topic::Changelog, (record % 4) as i32, &payload))
                .unwrap();
        }
        member
            .commit(batch.membership(), &[(input, number as i64)])
            .unwrap();
        times.push(begun.elapsed());
    }
    let rate = (count * records) as f64 / all.elapsed().as_secs_f64();
    let mut times = times.split_off(20.min(count / 2));
    times.sort_unstable();
    (times, rate)
}
