//! Load and probes for measurements on Apache Kafka; driven by the scripts of `ops/bench`. `KAFKA_BOOTSTRAP` names the broker.
//!
//! ```text
//! load fill TOPIC EVENTS USERS [RATE]     behaviors, uniform over users, Zipf(1) over 100,000 items; with a rate, stamped when due
//! load latency TOPIC SECONDS WARM-UP      time from when a behavior was due to its score at a read_committed consumer
//! load parse TOPIC EVENTS                 the ceiling: a bare consumer that parses and does nothing
//! load count TOPIC                        records that a read_committed reader sees
//! load first TOPIC SINCE_MS               waits for the first score newer than a time of the clock, by its event id
//! ```
//!
//! The first 16 hexadecimal digits of an `event_id` are the microseconds at which the behavior was due; a score repeats the id.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement prints, and stops at the first surprise"
)]

use std::fmt::Write;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

const PATIENCE: Duration = Duration::from_secs(30);

fn client() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set(
        "bootstrap.servers",
        std::env::var("KAFKA_BOOTSTRAP").expect("KAFKA_BOOTSTRAP names the broker"),
    );
    config
}

fn now_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_micros() as u64
}

/// CPU seconds of this process, from /proc: user and system, in ticks of 10 ms.
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Zipf(1) over `n` ranks, by its cumulative sums.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(n: usize) -> Self {
        let mut sum = 0.0;
        let mut sums: Vec<f64> = (1..=n)
            .map(|rank| {
                sum += 1.0 / rank as f64;
                sum
            })
            .collect();
        sums.iter_mut().for_each(|value| *value /= sum);
        Self(sums)
    }

    fn draw(&self, random: &mut Random) -> usize {
        let wanted = random.unit();
        self.0.partition_point(|value| *value < wanted)
    }
}

fn drain(producer: &BaseProducer) {
    while producer.in_flight_count() > 0 {
        producer.poll(Duration::from_millis(1));
    }
}

fn fill(topic: &str, events: u64, users: u64, rate: f64) {
    let producer: BaseProducer = client()
        .set("enable.idempotence", "true")
        // At a rate, what a producer does that nobody has tuned. With 1 ms it makes four thousand requests a second, and the broker's core is
        // busy with them alone.
        .set("linger.ms", if rate > 0.0 { "5" } else { "20" })
        .set("partitioner", "murmur2_random")
        .set("queue.buffering.max.messages", "1000000")
        .set("queue.buffering.max.kbytes", "400000")
        .create()
        .unwrap();
    let (zipf, mut random) = (
        Zipf::new(100_000),
        Random(0x9e37_79b9_7f4a_7c15 ^ events ^ users),
    );
    let start = now_us();
    let began = Instant::now();
    let (mut text, mut key, mut bytes, mut late) = (String::new(), String::new(), 0, 0);
    for number in 0..events {
        let mut us = start - 3_600_000_000 + number;
        if rate > 0.0 {
            us = start + (number as f64 * 1e6 / rate) as u64;
            while now_us() < us {
                producer.poll(Duration::ZERO);
                std::thread::sleep(Duration::from_millis(1));
            }
            late += u64::from(now_us() - us > 5_000);
        }
        let user = random.next() % users;
        let item = zipf.draw(&mut random);
        let kind = match random.next() % 100 {
            0..70 => "view",
            70..92 => "click",
            92..98 => "like",
            _ => "purchase",
        };
        text.clear();
        key.clear();
        write!(key, "user-{user:08}").unwrap();
        write!(
            text,
            r#"{{"event_id":"{us:016x}{number:08x}","user_id":"{key}","item_id":"item-{item:06}","kind":"{kind}","scenario":"feed","time":{},"request_id":"r-{:08x}"}}"#,
            us / 1000,
            number as u32
        )
        .unwrap();
        bytes += text.len();
        while producer
            .send(BaseRecord::to(topic).key(&key).payload(&text))
            .is_err()
        {
            producer.poll(Duration::from_millis(1));
        }
        if number % 256 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    drain(&producer);
    let took = began.elapsed().as_secs_f64();
    println!(
        "filled {topic}: {events} events of {} B in {took:.1} s; {late} were sent over 5 ms late",
        bytes as u64 / events.max(1)
    );
}

/// A `read_committed` consumer of all partitions.
fn reader(topic: &str, from: Offset) -> (BaseConsumer, usize) {
    let consumer: BaseConsumer = client()
        .set("group.id", "unused")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", "500")
        .set("queued.min.messages", "500000")
        .create()
        .unwrap();
    let partitions = consumer
        .fetch_metadata(Some(topic), PATIENCE)
        .unwrap()
        .topics()[0]
        .partitions()
        .len();
    let mut all = TopicPartitionList::new();
    for partition in 0..partitions {
        all.add_partition_offset(topic, partition as i32, from)
            .unwrap();
    }
    consumer.assign(&all).unwrap();
    (consumer, partitions)
}

/// The microseconds in the event id that a score repeats.
fn due_us(score: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(score).ok()?;
    // Kafka Streams' app has the event's own name for it.
    let keys = [r#""request_id":""#, r#""event_id":""#];
    let at = keys
        .iter()
        .find_map(|key| Some(text.find(key)? + key.len()))?;
    u64::from_str_radix(text.get(at..at + 16)?, 16).ok()
}

fn latency(topic: &str, seconds: f64, warm_up: f64) {
    let (consumer, _) = reader(topic, Offset::End);
    let began = Instant::now();
    let mut took = Vec::new();
    let mut all = 0;
    while began.elapsed().as_secs_f64() < seconds {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(20)) {
            let now = now_us();
            all += 1;
            if began.elapsed().as_secs_f64() > warm_up
                && let Some(due) = message.payload().and_then(due_us)
            {
                took.push(now.saturating_sub(due) as f64 / 1000.0);
            }
        }
    }
    assert!(!took.is_empty(), "no score came");
    took.sort_by(f64::total_cmp);
    let at = |share: f64| took[((took.len() as f64 * share) as usize).min(took.len() - 1)];
    println!(
        "latency of {} scores ({all} in all): p50 {:.1} p95 {:.1} p99 {:.1} p99.9 {:.1} max {:.1} ms",
        took.len(),
        at(0.5),
        at(0.95),
        at(0.99),
        at(0.999),
        at(1.0)
    );
}

#[derive(serde::Deserialize)]
struct Parsed<'a> {
    user_id: &'a str,
    item_id: Option<&'a str>,
    kind: &'a str,
    time: u64,
}

fn parse(topic: &str, events: u64) {
    let (consumer, _) = reader(topic, Offset::Beginning);
    let (mut seen, mut sum, mut began, mut before) = (0, 0, Instant::now(), cpu());
    while seen < events {
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else {
            continue;
        };
        if seen == 0 {
            (began, before) = (Instant::now(), cpu());
        }
        let event: Parsed<'_> = serde_json::from_slice(message.payload().unwrap()).unwrap();
        sum += event.time
            + (event.user_id.len() + event.item_id.map_or(0, str::len) + event.kind.len()) as u64;
        seen += 1;
    }
    let (wall, spent) = (began.elapsed().as_secs_f64(), cpu() - before);
    println!(
        "consume and parse: {:.0} events/s, {:.0} events per CPU-second ({sum:x})",
        events as f64 / wall,
        events as f64 / spent
    );
}

fn count(topic: &str) {
    let (consumer, partitions) = reader(topic, Offset::Beginning);
    let (mut seen, mut ended) = (0u64, 0);
    while ended < partitions {
        match consumer.poll(PATIENCE) {
            Some(Ok(_)) => seen += 1,
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(error)) => panic!("{error}"),
            None => panic!("nothing came for {PATIENCE:?}"),
        }
    }
    println!("{seen}");
}

fn first(topic: &str, since_ms: u64) {
    let (consumer, partitions) = reader(topic, Offset::End);
    let mut seen = std::collections::BTreeMap::new();
    let began = Instant::now();
    while seen.len() < partitions && began.elapsed() < Duration::from_secs(180) {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(20)) {
            let now = now_us() / 1000;
            seen.entry(message.partition())
                .or_insert_with(|| now.saturating_sub(since_ms));
        }
    }
    let mut after: Vec<u64> = seen.into_values().collect();
    after.sort_unstable();
    println!(
        "first committed score after {} ms, of the last of {partitions} partitions after {} ms",
        after.first().unwrap(),
        after.last().unwrap()
    );
}

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let number = |place: usize| {
        arguments
            .get(place)
            .map_or(0.0, |text| text.parse::<f64>().unwrap())
    };
    let topic = arguments.get(1).map_or("", String::as_str);
    match arguments.first().map(String::as_str) {
        Some("fill") => fill(topic, number(2) as u64, number(3) as u64, number(4)),
        Some("latency") => latency(topic, number(2), number(3)),
        Some("parse") => parse(topic, number(2) as u64),
        Some("count") => count(topic),
        Some("first") => first(topic, number(2) as u64),
        // `cargo test --benches` and a call without arguments: nothing to do.
        _ => println!("load fill|latency|parse|count|first; see the head of tests/benches/load.rs"),
    }
}
