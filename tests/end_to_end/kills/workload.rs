//! The input, steady and made by number: behaviors, repeats of them, records that nobody can read, requests. What had to come of it is
//! counted by [`super::verdict`] from what the topics hold.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use serde_json::{Value, json};

/// Behaviors kept with their exact times: a repeat must find its event's id among them.
pub(crate) const RECENT: usize = 16;
/// Users, an odd number: every one has records of every sort.
pub(crate) const USERS: u64 = 121;
const ITEMS: u64 = 30;
const KINDS: [&str; 4] = ["impression", "click", "like", "purchase"];
/// Events a second: enough that a transaction is open at most times, and a machine of two cores keeps up.
const RATE: u64 = 400;

/// How many records were sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sent {
    pub(crate) behaviors: usize,
    pub(crate) requests: usize,
}

pub(crate) struct Input {
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<Sent>,
}

type Producer = ThreadedProducer<rdkafka::producer::DefaultProducerContext>;

/// A producer that writes each record once, whatever happens to the brokers, and keys to partitions as the Java client does.
fn producer(bootstrap: &str) -> Producer {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "2")
        .set("reconnect.backoff.max.ms", "500")
        .set("log_level", "1")
        .create()
        .unwrap()
}

fn send(producer: &Producer, topic: &str, key: &str, value: &str) {
    producer
        .send(BaseRecord::to(topic).key(key).payload(value))
        .unwrap_or_else(|(error, _)| panic!("sending to {topic}: {error}"));
}

/// Sends what the items are: each has a category, all are there before the first behavior.
pub(crate) fn items(bootstrap: &str, topic: &str) {
    let producer = producer(bootstrap);
    for number in 0..ITEMS {
        let id = format!("i{number}");
        let item =
            json!({"item_id": id, "time": headwater::now_ms(), "categories": [category(&id)]});
        send(&producer, topic, &id, &item.to_string());
    }
    producer.flush(Duration::from_secs(30)).unwrap();
}

/// The category of an item.
pub(crate) fn category(item: &str) -> String {
    let number: u64 = item[1..].parse().unwrap();
    format!("c{}", number % 4)
}

/// Steele, Lea and Flood's splitmix64: what event number `n` is.
fn mixed(number: u64) -> u64 {
    let z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A behavior; every second one is of its user's newest request, if there is one: an item of it was shown, or something was done with that.
fn behavior(number: u64, user: &str, asked: Option<&Value>) -> Value {
    let dice = mixed(number);
    let mut record = json!({
        "event_id": format!("e{number}"),
        "user_id": user,
        "item_id": format!("i{}", dice % ITEMS),
        "kind": KINDS[(dice >> 16) as usize % KINDS.len()],
        "scenario": if dice >> 32 & 1 == 0 { "feed" } else { "search" },
        "time": headwater::now_ms(),
    });
    if let Some(asked) = asked.filter(|_| dice >> 40 & 1 == 0) {
        record["item_id"] = asked["candidates"][(dice >> 41) as usize % 3].clone();
        // Not all that is done names the request that led to it.
        if record["kind"] == "impression" || dice >> 48 & 1 == 0 {
            record["request_id"] = asked["request_id"].clone();
        }
    }
    record
}

fn request(number: u64, user: &str) -> Value {
    let candidates: Vec<String> = (0..3)
        .map(|place| format!("i{}", mixed(number ^ place << 40) % ITEMS))
        .collect();
    json!({
        "request_id": format!("r{number}"),
        "user_id": user,
        "scenario": "feed",
        "time": headwater::now_ms(),
        "candidates": candidates,
    })
}

impl Input {
    /// Begins to send, and goes on until [`Input::stop`].
    pub(crate) fn start(bootstrap: &str, behaviors: &str, requests: &str) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stopping);
        let producer = producer(bootstrap);
        let (behaviors, requests) = (behaviors.to_owned(), requests.to_owned());
        let thread = std::thread::spawn(move || {
            let mut sent = Sent::default();
            // The last behaviors of each user, for repeats: fewer than are remembered.
            let mut last: Vec<VecDeque<String>> = vec![VecDeque::new(); USERS as usize];
            // The newest request of each user: what of it is shown, and what is done about that.
            let mut asked: Vec<Option<Value>> = vec![None; USERS as usize];
            let began = Instant::now();
            let mut number = 0;
            while !told.load(Ordering::Relaxed) {
                let due = began.elapsed().as_millis() as u64 * RATE / 1000;
                while number < due {
                    let of = number * 7 % USERS;
                    let user = format!("u{of}");
                    let last = &mut last[of as usize];
                    if number % 5 == 4 {
                        let request = request(number, &user);
                        send(&producer, &requests, &user, &request.to_string());
                        asked[of as usize] = Some(request);
                        sent.requests += 1;
                    }
                    let value = if number % 50 == 49 {
                        format!("{{\"user_id\": \"{user}\", ")
                    } else if number % 9 == 8 && last.len() == RECENT / 2 {
                        last[mixed(number) as usize % last.len()].clone()
                    } else {
                        let asked = asked[of as usize].as_ref();
                        let value = behavior(number, &user, asked).to_string();
                        last.push_back(value.clone());
                        if last.len() > RECENT / 2 {
                            last.pop_front();
                        }
                        value
                    };
                    send(&producer, &behaviors, &user, &value);
                    sent.behaviors += 1;
                    number += 1;
                }
                std::thread::park_timeout(Duration::from_millis(5));
            }
            producer.flush(Duration::from_secs(60)).unwrap();
            sent
        });
        Self { stopping, thread }
    }

    /// Stops; gives what was sent, all of it acknowledged.
    pub(crate) fn stop(self) -> Sent {
        self.stopping.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
