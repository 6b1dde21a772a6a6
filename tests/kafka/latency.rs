//! How long a transaction takes, by hand: `cargo test -p headwater-tests --test kafka latency -- --ignored --nocapture`. librdkafka has several
//! ways to lose 100 ms in each.

use std::time::{Duration, Instant};

use headwater_config::Topic;
use headwater_consumers::log::{Log, Start, TopicPartition};

use crate::broker::{assigned, log, value};

/// Goal: to see whether a way of waiting 100 ms has come in. Method: 200 transactions of 500 records of 200 bytes with their positions, three
/// rounds. The median and the 97th percentile, since the waits meet some
/// transactions and not others: with both drains in place they are 4 and 10–25 ms on two cores, without the one before the
/// positions 8 and 103 ms, with librdkafka's `flush` alone 100 ms and more in each.
#[test]
#[ignore = "a measurement"]
fn transactions_of_500_records() {
    let log = log("latency", &[Topic::Behaviors, Topic::Changelog], 4);
    for round in 0..3 {
        let (times, _) = transactions(&log, 220, 500);
        let at = |percent: usize| times[times.len() * percent / 100];
        println!(
            "round {round}: median {:?}, 97th percentile {:?}",
            at(50),
            at(97)
        );
    }
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
