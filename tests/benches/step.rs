//! What a step costs: decode, fold, assemble, score and the records that follow, without any log.
//!
//! `cargo bench -p headwater-tests --bench step -- [EVENTS] [USERS]`. Prints CPU time an event, by stage, on this thread.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and stops at the first surprise"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use headwater_config::{Config, Topic};
use headwater_consumers::log::{RecordBatch, TopicPartition};
use headwater_consumers::step::{Owned, Pipeline, StepOutput};
use headwater_consumers::worker::settings_of;
use headwater_state::{ItemTable, MemoryStores, Partition, Statistics, Stores, Timestamp};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const START: i64 = 1_700_000_000_000;

/// CPU seconds of this thread.
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

fn event(number: u64, users: u64, to: &mut String) -> u64 {
    use std::fmt::Write;
    let mix = |salt: u64| {
        (number ^ salt)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
            .wrapping_mul(0xbf58_476d_1ce4_e5b9)
            >> 11
    };
    let user = mix(1) % users;
    // Zipf-like: the logarithm of a uniform number is spread over 100,000 items.
    let item = (100_000f64.powf((mix(2) % 1_000_000) as f64 / 1e6)) as u64;
    let kind = match mix(3) % 100 {
        0..70 => "impression",
        70..92 => "click",
        92..98 => "like",
        _ => "purchase",
    };
    to.clear();
    write!(
        to,
        r#"{{"event_id":"{number:016x}{user:08x}","user_id":"user-{user}","item_id":"item-{item}","kind":"{kind}","scenario":"feed","time":{}}}"#,
        START + number as i64
    )
    .unwrap();
    user
}

fn run(name: &str, toml: &str, events: u64, users: u64) {
    let config = Config::from_toml(toml).unwrap();
    let metrics = headwater_consumers::Metrics::register(&prometheus::Registry::new()).unwrap();
    let mut pipeline = Pipeline::new(&config, (1, 1), metrics).unwrap();
    let stores = MemoryStores::default();
    let users_state = Partition::open(stores.open(0).unwrap(), settings_of(&config, 1)).unwrap();
    let mut owned = BTreeMap::from([(
        0,
        Owned {
            number: 0,
            users: users_state,
            statistics: Statistics::default(),
        },
    )]);
    let items = ItemTable::default();
    let mut output = StepOutput::default();
    let mut batch = RecordBatch::default();
    let mut text = String::new();
    let (mut spent, mut half, mut records, mut bytes) = (0.0, 0.0, 0, 0);
    let wall = Instant::now();
    for step in 0..events / 5000 {
        batch.clear();
        for number in step * 5000..(step + 1) * 5000 {
            let user = event(number, users, &mut text);
            let key = format!("user-{user}");
            let at = TopicPartition::new(Topic::Behaviors, 0);
            batch.push(
                at,
                (number as i64, START + number as i64),
                Some(key.as_bytes()),
                Some(text.as_bytes()),
                [],
            );
        }
        let before = cpu();
        let now = Timestamp(START + step as i64 * 5000 + 5000);
        pipeline
            .step(
                &batch,
                &mut owned,
                &items,
                now,
                &mut || [7; 16],
                &mut output,
            )
            .unwrap();
        let partition = owned.get_mut(&0).unwrap();
        partition.users.committed(step as i64);
        let took = cpu() - before;
        spent += took;
        if step >= events / 10_000 {
            half += took;
        }
        records += output.transactional.len();
        bytes += output.transactional.bytes();
    }
    let each = spent * 1e6 / events as f64;
    println!(
        "{name:<34} {each:6.2} µs CPU/event ({:.2} in the second half), {:.2} records and {:.0} bytes out an event, {:.1} s wall",
        half * 2e6 / events as f64,
        records as f64 / events as f64,
        bytes as f64 / events as f64,
        wall.elapsed().as_secs_f64()
    );
    let _keep = Arc::new(owned);
}

fn main() {
    let numbers: Vec<u64> = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .collect();
    let events = numbers.first().copied().unwrap_or(1_000_000);
    let users = numbers.get(1).copied().unwrap_or(100_000);
    let quiet = "feature_log = false\nitem_statistics = false\n";
    let state = "[state]\nmemory = \"8GiB\"\n[kinds]\nimpressions = []\n[scenarios]\nnames = [\"feed\"]\n[scoring]\n";
    run("state", &format!("{state}{quiet}"), events, users);
    run(
        "state, a score an event",
        &format!("{state}{quiet}on_behavior = \"item\""),
        events,
        users,
    );
    run(
        "… and item statistics",
        &format!("{state}feature_log = false\non_behavior = \"item\""),
        events,
        users,
    );
    run(
        "… and the feature log",
        &format!("{state}on_behavior = \"item\""),
        events,
        users,
    );
}
