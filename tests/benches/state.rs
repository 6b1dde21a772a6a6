//! What state costs as it grows: a user's history, and the memory of many users.
//!
//! ```text
//! cargo bench -p headwater-tests --bench state -- history                            an update and a score, at 100 to 1,000,000 events of one user
//! cargo bench -p headwater-tests --bench state -- memory BACKEND [USERS] [EVENTS] [MEMORY]     many users over a store on disk
//! cargo bench -p headwater-tests --bench state -- beside [COUNT]                      what lies in memory beside users
//! ```
//!
//! `memory` fills the store directly, not through a log: user by user, in two rounds, with the program's settings otherwise. Its folder is
//! below the system's temporary folder (`TMPDIR`) and takes some 10 to 30 GB for a million users of a hundred events.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and stops at the first surprise"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use headwater_config::{Bytes, Config, Topic};
use headwater_consumers::log::{RecordBatch, TopicPartition};
use headwater_consumers::step::{Owned, Pipeline, StepOutput};
use headwater_consumers::worker::settings_of;
use headwater_state::{
    Backend, Behavior, Coordinates, ItemTable, KindId, MemoryStores, Partition, ScenarioId,
    Statistics, Stores, Timestamp,
};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const START: i64 = 1_700_000_000_000;
/// Events of one user at most, one a millisecond.
const EVENTS_MAX: i64 = 1_000_000;

/// A quantity of this process's memory, in MiB, from /proc.
fn memory(of: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(of)).unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024.0
}

/// The pipeline of one partition in memory.
struct One {
    pipeline: Pipeline,
    owned: BTreeMap<i32, Owned>,
    output: StepOutput,
    batch: RecordBatch,
    items: ItemTable,
    steps: i64,
}

impl One {
    fn new() -> Self {
        let toml = "scoring.feature_log = false\nscoring.item_statistics = false\nkinds.impressions = []\nscenarios.names = [\"feed\"]\n\
                    [tasks.click]\npositive = [\"click\"]\ntrials = [\"view\"]\nscenarios = []\n[state]\nmemory = \"8GiB\"\n";
        let config = Config::from_toml(toml).unwrap();
        let metrics = headwater_consumers::Metrics::register(&prometheus::Registry::new()).unwrap();
        let stores = MemoryStores::default();
        let users = Partition::open(stores.open(0).unwrap(), settings_of(&config, 1)).unwrap();
        let owned = Owned {
            number: 0,
            users,
            statistics: Statistics::default(),
        };
        Self {
            pipeline: Pipeline::new(&config, (1, 1), metrics).unwrap(),
            owned: BTreeMap::from([(0, owned)]),
            output: StepOutput::default(),
            batch: RecordBatch::default(),
            items: ItemTable::default(),
            steps: 0,
        }
    }

    /// Time of a step of these records. Of the clock: the kernel tells CPU time in ticks that are longer than a step.
    fn step(
        &mut self,
        topic: Topic,
        first: i64,
        records: impl Iterator<Item = String>,
    ) -> Duration {
        self.batch.clear();
        for (place, record) in records.enumerate() {
            // The log's clock is that of the last event.
            let at = (first + place as i64, START + EVENTS_MAX);
            let to = TopicPartition::new(topic, 0);
            self.batch
                .push(to, at, Some(b"u"), Some(record.as_bytes()), []);
        }
        let before = Instant::now();
        let now = Timestamp(START + EVENTS_MAX);
        self.pipeline
            .step(
                &self.batch,
                &mut self.owned,
                &self.items,
                now,
                &mut || [7; 16],
                &mut self.output,
            )
            .unwrap();
        let spent = before.elapsed();
        if !self.output.is_empty() {
            self.steps += 1;
            let users = &mut self.owned.get_mut(&0).unwrap().users;
            users.committed(self.steps);
        }
        spent
    }
}

/// An update and a score of one user whose events go to so many distinct items, as the events become more.
fn history(keys: u64) {
    const BATCH: usize = 1000;
    let mut one = One::new();
    let behavior = |number: i64| {
        let item = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) % keys;
        let kind = if number % 10 == 0 { "click" } else { "view" };
        format!(
            r#"{{"event_id":"e{number}","user_id":"u","item_id":"item-{item}","kind":"{kind}","scenario":"feed","time":{}}}"#,
            START + number
        )
    };
    let mut next = 0;
    let mut requests = 0;
    for events in [100, 1_000, 10_000, 100_000, EVENTS_MAX] {
        while next + (BATCH as i64) < events {
            one.step(Topic::Behaviors, next, (next..next + 1000).map(behavior));
            next += BATCH as i64;
        }
        let rest = next.max(events - BATCH as i64 / 10)..events;
        let mut updates = Vec::new();
        let mut scores = Vec::new();
        one.step(Topic::Behaviors, next, (next..rest.start).map(behavior));
        for number in rest {
            updates.push(one.step(Topic::Behaviors, number, std::iter::once(behavior(number))));
            let request = format!(
                r#"{{"request_id":"r","user_id":"u","scenario":"feed","time":{},"candidates":["item-3"]}}"#,
                START + number + 1
            );
            scores.push(one.step(Topic::ScoreRequests, requests, std::iter::once(request)));
            let answer = one.output.transactional.get(0).value.unwrap();
            assert!(String::from_utf8_lossy(answer).contains(r#""status":"ok""#));
            requests += 1;
        }
        next = events;
        println!(
            "{keys:>5} keys, {events:>8} events of one user: update {:7.1} µs, score of one candidate {:7.1} µs (medians of {}, JSON and step included)",
            median(&mut updates),
            median(&mut scores),
            updates.len()
        );
    }
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

/// Many users over a store on disk.
fn many(backend: Backend, users: u64, events: u64, memory_setting: Bytes) {
    const ROUNDS: u64 = 2;
    let folder = tempfile::Builder::new()
        .prefix("headwater-state-")
        .tempdir()
        .unwrap();
    let config = Config::default_config();
    let mut settings = settings_of(&config, 1);
    settings.memory = memory_setting.as_usize();
    let opened = headwater_state::open(folder.path(), backend, memory_setting.as_usize() as u64);
    let stores = opened.unwrap().stores;
    let mut partition = Partition::open(stores.open(0).unwrap(), settings).unwrap();
    let item = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 100_000;
    let began = Instant::now();
    let (mut offset, mut name, mut text) = (0, String::new(), String::new());
    for round in 0..ROUNDS {
        for user in 0..users {
            user_name(user, &mut name);
            for event in round * events / ROUNDS..(round + 1) * events / ROUNDS {
                use std::fmt::Write as _;
                text.clear();
                write!(text, "item-{:06}", item(user * events + event)).unwrap();
                let behavior = Behavior {
                    at: Coordinates { offset, index: 0 },
                    time: Timestamp(START + (event * users + user) as i64 / 1000),
                    event: offset as u64 + 1,
                    kind: KindId::of("view"),
                    scenario: ScenarioId::of("feed"),
                    item: Some(&text),
                    value: None,
                    attributes: &[],
                    text: None,
                    sequences: &[],
                };
                partition.fold(&name, &behavior, &mut || [7; 16]).unwrap();
                offset += 1;
            }
            if user % 200 == 199 || user + 1 == users {
                partition.changes(&mut |_, _| {});
                partition.committed(offset);
                if partition.wants_write_back(500_000) || user + 1 == users {
                    // In parts, as a worker does that keeps up.
                    while partition.is_dirty() {
                        let written = partition.write_back_part(Timestamp(START), 512).run();
                        partition.written(written).unwrap();
                    }
                }
                partition.evict();
            }
            if user % 100_000 == 99_999 {
                println!(
                    "  round {}: {} users, {:.0} s, RSS {:.0} MiB",
                    round + 1,
                    user + 1,
                    began.elapsed().as_secs_f64(),
                    memory("VmRSS")
                );
            }
        }
    }
    let filled = began.elapsed();
    partition.take_counts();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut times = Vec::new();
    for _ in 0..20_000.min(users) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        user_name(random % users, &mut name);
        let before = Instant::now();
        let user = partition.whole_user(&name).unwrap().unwrap();
        assert_eq!(user.recent().len() as u64, events.min(128));
        times.push(before.elapsed());
        partition.evict();
    }
    // What the store's own threads still have to do is done.
    std::thread::sleep(std::time::Duration::from_secs(5));
    let counts = partition.take_counts();
    times.sort_unstable();
    let at = |share: f64| times[(times.len() as f64 * share) as usize].as_secs_f64() * 1e6;
    println!(
        "{backend:?}: {users} users x {events} events, memory setting {memory_setting}: RSS {:.0} MiB (peak {:.0}), disk {:.1} GiB, filled at {:.0} events/s\n\
         of {} random users {} were in memory and {} read from the store: p50 {:.0} µs, p99 {:.0} µs",
        memory("VmRSS"),
        memory("VmHWM"),
        disk(folder.path()) as f64 / f64::from(1 << 30),
        offset as f64 / filled.as_secs_f64(),
        times.len(),
        counts.hits,
        counts.misses,
        at(0.5),
        at(0.99)
    );
}

/// What lies in memory beside users: so many items, names, statistics and standing requests, and what is said of each.
fn beside(count: u64) {
    let mut before = memory("VmRSS");
    let mut tell = |what: &str, said: usize| {
        let now = memory("VmRSS");
        let each = |bytes: f64| bytes / count as f64;
        let measured = each((now - before) * f64::from(1 << 20));
        println!(
            "{what}: {measured:.0} bytes each, said {:.0}",
            each(said as f64)
        );
        before = now;
    };
    let mut table = ItemTable::default();
    for number in 0..count {
        let fields = [("title", "some words of a title"), ("author", "author-123")];
        let item = headwater_state::Item {
            fields: fields.map(|(name, text)| (name.into(), text.into())).into(),
            categories: [1, 2].into(),
            attributes: [3].into(),
            numeric: [("price".into(), 1.5)].into(),
            ..headwater_state::Item::default()
        };
        table.set_item(&format!("item-{number:08}"), Some(item));
    }
    tell("items of three fields", table.bytes().items);
    for number in 0..count {
        table.number_of(&format!("category-{number:08}"));
    }
    tell("names", table.bytes().names);
    let mut held = Vec::new();
    for cells in [1, 30] {
        let mut table = ItemTable::default();
        let (kind, scenario) = (KindId::of("view"), ScenarioId::of("feed"));
        let mut delta = headwater_state::Delta::default();
        for hour in 0..cells {
            let time = Timestamp(START + hour * 3_600_000);
            delta.add(scenario, kind, time, headwater_state::FixedSum(0));
        }
        for number in 0..count {
            let item = format!("item-{number:08}");
            table.fold(headwater_state::Entity::Item(&item), &delta);
        }
        tell(
            &format!("statistics of {cells} cells"),
            table.bytes().statistics,
        );
        // What is given back would be taken again.
        held.push(table);
    }
    let mut settings = settings_of(&Config::default_config(), 1);
    settings.memory = 1;
    let stores = MemoryStores::default();
    let stores: &dyn Stores = &stores;
    let mut partition = Partition::open(stores.open(0).unwrap(), settings.clone()).unwrap();
    let mut name = String::new();
    for user in 0..count {
        user_name(user, &mut name);
        let standing = headwater_state::Standing {
            request: "request-1".to_owned(),
            expires: Timestamp(START),
            due: None,
            body: Vec::new(),
        };
        partition
            .set_standing(&name, "request-1", Some(standing), &mut || [7; 16])
            .unwrap();
    }
    partition.changes(&mut |_, _| {});
    partition.committed(1);
    let written = partition.write_back(Timestamp(START)).run();
    partition.written(written).unwrap();
    // The first takes what the write-back has given back.
    let first = Partition::open(stores.open(0).unwrap(), settings.clone()).unwrap();
    tell("(timers)", first.timers_memory());
    let second = Partition::open(stores.open(0).unwrap(), settings.clone()).unwrap();
    tell("timers", second.timers_memory());
}

fn user_name(user: u64, to: &mut String) {
    use std::fmt::Write as _;
    to.clear();
    write!(to, "user-{user:08}").unwrap();
}

fn disk(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            let facts = entry.metadata().unwrap();
            if facts.is_dir() {
                disk(&entry.path())
            } else {
                std::os::unix::fs::MetadataExt::blocks(&facts) * 512
            }
        })
        .sum()
}

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let number = |place: usize, default| {
        let given = arguments.get(place).map(|text| text.parse().unwrap());
        given.unwrap_or(default)
    };
    match arguments.first().map(String::as_str) {
        Some("history") => {
            history(50);
            history(2_000);
        }
        Some("memory") => {
            let backend = match arguments.get(1).map(String::as_str) {
                Some("fjall") => Backend::Fjall,
                _ => Backend::Sled,
            };
            let memory = arguments.get(4).map_or("160MiB", String::as_str);
            let memory: Bytes = memory.parse().unwrap();
            many(backend, number(2, 1_000_000), number(3, 100), memory);
        }
        Some("beside") => beside(number(1, 200_000)),
        // `cargo test --benches` and a call without arguments: nothing to do.
        _ => println!("state history|memory|beside; see the head of tests/benches/state.rs"),
    }
}
