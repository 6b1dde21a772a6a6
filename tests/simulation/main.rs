//! The fast loop in simulation: seeded histories with faults between any two calls of the log and of the stores, judged by a naive
//! auditor. One seed is one run, on one thread, the same every time.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says how far it is, and stops at the first surprise"
)]

mod auditor;
mod cluster;
mod deep;
mod fate;
mod random;
mod run;
mod skew;
mod stores;
mod texts;
mod workload;

use std::sync::atomic::{AtomicU64, Ordering};

use headwater_consumers::Metrics;

use run::{Outcome, Tally};

/// How many seeds run where nobody says which: about half a minute on two cores.
const SEEDS: u64 = 1_000;

/// Lines of a failed run's story that are printed.
const STORY: usize = 60;

/// Goal: STATE-1, STATE-2, STATE-3, PIPE-1, PIPE-2, MODEL-1, under crashes, fencing, unknown outcomes, duplicates, reorderings, torn writes and
/// rebalances. Method: one run a seed, see `run`; `HEADWATER_SEEDS=7` or `=0..10000` says which.
#[test]
fn what_goes_in_comes_out_exactly_once() {
    let chosen = std::env::var("HEADWATER_SEEDS").ok();
    let (from, to) = match &chosen {
        None => (0, SEEDS),
        Some(text) => match text.split_once("..") {
            Some((from, to)) => (from.parse().unwrap(), to.parse().unwrap()),
            None => {
                let seed: u64 = text.parse().unwrap();
                (seed, seed + 1)
            }
        },
    };
    let next = AtomicU64::new(from);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (failures, tally) = std::thread::scope(|scope| {
        let work = || {
            let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
            let mut failures = Vec::new();
            let mut tally = Tally::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= to {
                    return (failures, tally);
                }
                let outcome = run::run(seed, false, &metrics);
                tally.add(&outcome.tally);
                if outcome.wrong.is_some() {
                    failures.push(outcome);
                }
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut all = (Vec::new(), Tally::default());
        for thread in threads {
            let (failures, tally) = thread.join().unwrap();
            all.0.extend(failures);
            all.1.add(&tally);
        }
        all
    });
    println!("{} seeds: {tally:?}", to - from);
    report(failures, to - from);
    let many = to - from >= SEEDS;
    assert!(!many || tally.befallen > 0, "nothing went wrong");
    assert!(!many || tally.vectors > 0, "no row saw vectors of users");
    assert!(!many || tally.named > 0, "no row named texts alone");
    assert!(
        !many || tally.by_model.iter().all(|rows| *rows > 0),
        "not every model scored"
    );
    assert!(!many || tally.made_again > 0, "no row was made again");
    assert!(
        !many || tally.exact_labels > 0,
        "no label was counted again"
    );
}

fn report(mut failures: Vec<Outcome>, of: u64) {
    failures.sort_by_key(|outcome| outcome.seed);
    let Some(first) = failures.first() else {
        return;
    };
    // The same again, told.
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    let told = run::run(first.seed, true, &metrics);
    let skipped = told.story.len().saturating_sub(STORY);
    println!(
        "the story of seed {} ({skipped} lines before are left out):",
        first.seed
    );
    let whole = std::env::var("HEADWATER_STORY").is_ok();
    for line in &told.story[if whole { 0 } else { skipped }..] {
        println!("{line}");
    }
    if told.wrong != first.wrong {
        println!("told again, it came out otherwise: {:?}", told.wrong);
    }
    for outcome in failures.iter().take(40) {
        let words: String = outcome
            .wrong
            .iter()
            .flat_map(|words| words.chars())
            .take(300)
            .collect();
        println!("seed {}: {words}", outcome.seed);
    }
    panic!(
        "{} of {of} seeds failed, the first with: {}\nagain: HEADWATER_SEEDS={} cargo test -p headwater-tests --test simulation",
        failures.len(),
        first.wrong.clone().unwrap_or_default(),
        first.seed,
    );
}
