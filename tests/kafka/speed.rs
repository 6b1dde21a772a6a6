//! What the client costs, by hand: `cargo test -p headwater-tests --test kafka speed -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use headwater_config::Topic;
use headwater_consumers::log::kafka::KafkaLog;
use headwater_consumers::log::{Log, PollLimit, RecordBatch, Start, TopicPartition};

use crate::broker::{assigned, bootstrap, create, log, settings, value};
use crate::latency::transactions;

/// Goal: reading is not the bottleneck. Method: a million records of 200 bytes, preloaded; polls of 5,000.
#[test]
#[ignore = "a measurement"]
fn polling() {
    const COUNT: usize = 1_000_000;
    let log = log("polling", &[Topic::Behaviors], 4);
    let mut producer = log.producer().unwrap();
    let payload = [b'x'; 200];
    let begun = Instant::now();
    for number in 0..COUNT {
        producer
            .send(value(Topic::Behaviors, (number % 4) as i32, &payload))
            .unwrap();
    }
    producer.flush().unwrap();
    eprintln!(
        "produced: {:.0} records/s",
        COUNT as f64 / begun.elapsed().as_secs_f64()
    );
    let mut member = log.member("one", 0).unwrap();
    let partitions = assigned(&mut *member, 4);
    for run in 0..3 {
        let begun = Instant::now();
        let cpu = cpu();
        for partition in &partitions {
            member
                .start(&[(
                    TopicPartition::new(Topic::Behaviors, *partition),
                    Start::Beginning,
                )])
                .unwrap();
        }
        let limit = PollLimit {
            records: 5000,
            bytes: 1 << 24,
            wait: Duration::from_millis(50),
        };
        let mut batch = RecordBatch::default();
        let (mut read, mut polls) = (0, 0);
        while read < COUNT {
            member.poll(limit, &mut batch).unwrap();
            read += batch.len();
            polls += 1;
        }
        eprintln!(
            "polled, run {run}: {:.0} records/s, {:.2} µs CPU a record, {:.0} records a poll",
            COUNT as f64 / begun.elapsed().as_secs_f64(),
            (self::cpu() - cpu) * 1e6 / COUNT as f64,
            read as f64 / polls as f64
        );
    }
}

/// Goal: the lingering that suits both. Method: transactions of 50, 500 and 5,000 records with each.
#[test]
#[ignore = "a measurement"]
fn lingering() {
    for round in 0..2 {
        for linger in ["0", "0.5", "1", "2", "5"] {
            for (count, records) in [(200, 50), (200, 500), (60, 5000)] {
                let mut settings = settings(bootstrap(), "lingering");
                settings
                    .client
                    .insert("linger.ms".to_owned(), linger.to_owned());
                let log = KafkaLog::connect(settings).unwrap();
                create(&log, &[Topic::Behaviors, Topic::Changelog], 4);
                let cpu = cpu();
                let (times, rate) = transactions(&log, count, records);
                eprintln!(
                    "round {round} linger {linger} ms, {records} a transaction: p50 {:.1?} p95 {:.1?} p99 {:.1?}, {rate:.0} records/s, {:.2} µs CPU a record",
                    times[times.len() / 2],
                    times[times.len() * 95 / 100],
                    times[times.len() * 99 / 100],
                    (self::cpu() - cpu) * 1e6 / (count * records) as f64
                );
            }
        }
    }
}

/// CPU seconds of this process so far, user and system.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}
