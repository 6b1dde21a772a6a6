//! What ranking by Headwater is worth to a platform whose users' tastes change, on Apache Kafka (`ops/bench/live` runs it over seeds, and makes a table and a picture of it).
//!
//! ```text
//! live seed=N [arms=random,oracle,baseline,headwater] [users=N] [rate=N] [requests=N] [window=N] [rows_max=N] [log=1]     a JSON object a line for each arm
//! ```
//!
//! The platform is the demo's: users with hidden tastes ask for candidates, see the first five of an order, and click by taste and position. After half of the requests all users' tastes are drawn
//! anew; items stay. Arms differ in who makes the order: chance, who knows the tastes (neither needs a daemon), a daemon that never trains, or one that does, set up as the demo's.
//! With one seed all arms meet the same requests, candidates and moods. As in the demo one request in five is shown in a random order, in the daemons' arms and so in all of them;
//! click rates are those of the others. Daemons of one call run side by side, each with topics of its own on one broker.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and stops at the first surprise"
)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use headwater::demo::stage::{Answered, Stage};
use headwater::demo::visits::{Seen, Visit, Visits};
use headwater::demo::{ITEMS, settings};
use headwater::{Daemon, Handle};
use headwater_config::{Config, LogKind};
use headwater_tests::broker::Broker;
use prometheus::proto::LabelPair;
use serde_json::{Value, json};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long the daemon may take until it is ready, and the last answers until they are there.
const PATIENCE: Duration = Duration::from_secs(60);
/// Requests on their way at most: at the limit the platform waits.
const IN_FLIGHT_MAX: usize = 1000;
/// Between two looks at who scores.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What is run, but for the arm.
#[derive(Clone, Copy)]
struct Run {
    seed: u64,
    users: usize,
    rate: u64,
    requests: u64,
    window: u64,
    /// What is learned from at most (`train.rows_max`); none: the default.
    rows_max: Option<usize>,
}

impl Run {
    fn visits(&self) -> Visits {
        Visits::new(self.seed, self.users, ITEMS)
    }

    /// The request before which tastes change.
    fn drift(&self) -> u64 {
        self.requests / 2
    }

    fn result(&self, arm: &str, told: &Told, more: Value) -> Value {
        let mut result = json!({
            "seed": self.seed, "arm": arm, "users": self.users, "rate": self.rate, "requests": self.requests, "drift": self.drift(), "window": self.window,
            "shown": told.shown, "clicked": told.clicked, "by_model": told.by_model, "answered": told.answered,
        });
        if let Value::Object(more) = more {
            result.as_object_mut().unwrap().extend(more);
        }
        result
    }
}

/// What came of the requests, in windows of them by number.
struct Told {
    window: u64,
    /// Items shown and clicked where the arm made the order.
    shown: Vec<u64>,
    clicked: Vec<u64>,
    /// Answers that a trained model scored.
    by_model: Vec<u64>,
    answered: u64,
    latencies: Vec<f64>,
}

impl Told {
    fn new(run: &Run) -> Self {
        let windows = vec![0; run.requests.div_ceil(run.window) as usize];
        Self {
            window: run.window,
            shown: windows.clone(),
            clicked: windows.clone(),
            by_model: windows,
            answered: 0,
            latencies: Vec::new(),
        }
    }

    fn count(&mut self, visit: &Visit, seen: &[Seen]) {
        self.answered += 1;
        if visit.ranked {
            let window = (visit.number / self.window) as usize;
            self.shown[window] += seen.len() as u64;
            self.clicked[window] += seen.iter().filter(|seen| seen.clicked).count() as u64;
        }
    }

    fn answer(&mut self, answered: &Answered) {
        assert_eq!(answered.scores, answered.visit.candidates.len());
        self.count(&answered.visit, &answered.seen);
        let window = (answered.visit.number / self.window) as usize;
        self.by_model[window] += u64::from(!answered.model.starts_with("baseline"));
        self.latencies.push(answered.latency.as_secs_f64() * 1e3);
    }

    fn latency(&self) -> Value {
        let mut sorted = self.latencies.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted.get((sorted.len() as f64 * share) as usize).copied();
        json!({"p50": at(0.5), "p95": at(0.95), "p99": at(0.99)})
    }
}

/// An arm that needs nobody to score.
fn known(run: &Run, arm: &str) -> Value {
    let mut visits = run.visits();
    let mut told = Told::new(run);
    for number in 0..run.requests {
        if number == run.drift() {
            visits.drift();
        }
        let visit = visits.visit(number);
        let order = match (arm, visit.ranked) {
            ("oracle", true) => visits.best_order(&visit),
            _ => visits.random_order(&visit),
        };
        told.count(&visit, &visits.see(&visit, &order));
    }
    run.result(arm, &told, json!({}))
}

fn config(run: &Run, arm: &str, brokers: &str, folder: &std::path::Path) -> Config {
    let mut config = settings(run.users, arm == "headwater").unwrap();
    config.train.rows_max = run.rows_max.unwrap_or(config.train.rows_max);
    config.log.kind = LogKind::Kafka;
    config.kafka.brokers = brokers.to_owned();
    config.instance.prefix = format!("live-{}-{arm}.", run.seed);
    config.state.path = folder.to_owned();
    config
}

/// An arm whose order is the daemon's.
fn scored(run: &Run, arm: &str, brokers: &str) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let config = config(run, arm, brokers, folder.path());
    let log = headwater::daemon::open_log(&config).unwrap();
    headwater::topics::create(&config, &*log).unwrap();
    // What there is, is there before the daemon begins.
    let mut stage = Stage::open(&*log, run.visits(), false).unwrap();
    let daemon = Daemon::start(config).unwrap();
    let began = Instant::now();
    while !daemon.ready().ready {
        let ready = daemon.ready();
        assert!(daemon.is_running() && began.elapsed() < PATIENCE, "{ready}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut told = Told::new(run);
    let mut champions = Champions::default();
    let began = Instant::now();
    while stage.number() < run.requests {
        let due = began.elapsed().as_secs_f64() * run.rate as f64;
        let due = (due as u64).min(run.requests);
        // Tastes change between two visits: what was asked before is seen before.
        let drifts = stage.number() == run.drift();
        if drifts && stage.waiting() == 0 {
            stage.drift();
        }
        let waits = drifts && stage.waiting() > 0;
        let until = if stage.number() < run.drift() {
            due.min(run.drift())
        } else {
            due
        };
        while !waits && stage.number() < until && stage.waiting() < IN_FLIGHT_MAX {
            stage.ask().unwrap();
        }
        stage.flush().unwrap();
        stage
            .answers(&mut |answered| told.answer(answered))
            .unwrap();
        champions.look(&daemon, stage.number());
        assert!(daemon.is_running(), "{:?}", daemon.wait());
    }
    let asked = Instant::now();
    while stage.waiting() > 0 && asked.elapsed() < PATIENCE {
        stage.flush().unwrap();
        stage
            .answers(&mut |answered| told.answer(answered))
            .unwrap();
    }
    stage.flush().unwrap();
    let more = json!({
        "unanswered": stage.waiting(), "seconds": began.elapsed().as_secs_f64(), "latency_ms": told.latency(), "champions": champions.seen,
        "trainings": counted(&daemon, "headwater_daemon_trainings_total"), "trials": counted(&daemon, "headwater_daemon_trials_total"),
        "labels": counted(&daemon, "headwater_consumers_label_examples_total"), "dead_letters": counted(&daemon, "headwater_consumers_records_dead_lettered_total"),
    });
    daemon.stop(true).unwrap();
    run.result(arm, &told, more)
}

/// Who scored from which request on, and when trials began: as seen twice a second.
#[derive(Default)]
struct Champions {
    seen: Vec<(u64, String)>,
    looked: Option<Instant>,
}

impl Champions {
    fn look(&mut self, daemon: &Handle, number: u64) {
        if self.looked.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        let name = daemon.status().model.map(|model| model.name);
        let name = name.unwrap_or_else(|| "baseline".to_owned());
        if self.seen.last().is_none_or(|(_, last)| *last != name) {
            self.seen.push((number, name));
        }
    }
}

/// A counter by the values of its labels.
fn counted(daemon: &Handle, name: &str) -> BTreeMap<String, u64> {
    let families = daemon.registry().gather();
    let family = families.iter().find(|family| family.name() == name);
    let metrics = family.iter().flat_map(|family| family.get_metric());
    metrics
        .map(|metric| {
            let labels = metric.get_label().iter().map(LabelPair::value);
            let labels = labels.collect::<Vec<_>>().join(" ");
            (labels, metric.get_counter().get_value() as u64)
        })
        .collect()
}

fn main() {
    let given = std::env::args().skip(1).filter(|one| one != "--bench");
    let given: BTreeMap<String, String> = given
        .map(|one| {
            let (key, value) = one.split_once('=').expect("KEY=VALUE");
            (key.to_owned(), value.to_owned())
        })
        .collect();
    let number = |key: &str, default: u64| -> u64 {
        given
            .get(key)
            .map_or(default, |value| value.parse().expect(key))
    };
    let run = Run {
        seed: number("seed", 1),
        users: number("users", 150) as usize,
        rate: number("rate", 200),
        requests: number("requests", 48_000),
        window: number("window", 1_000),
        rows_max: (number("rows_max", 0) > 0).then(|| number("rows_max", 0) as usize),
    };
    if number("log", 0) > 0 {
        headwater::telemetry::init(&settings(run.users, true).unwrap().telemetry);
    }
    let arms = given.get("arms").map(String::as_str);
    let arms = arms.unwrap_or("random,oracle,baseline,headwater");
    let (scorers, known_arms): (Vec<_>, Vec<_>) = arms
        .split(',')
        .partition(|arm| ["baseline", "headwater"].contains(arm));
    for arm in known_arms {
        assert!(["random", "oracle"].contains(&arm), "no arm {arm}");
        println!("{}", known(&run, arm));
    }
    if scorers.is_empty() {
        return;
    }
    let broker = Broker::start_roomy();
    let brokers = broker.bootstrap();
    std::thread::scope(|scope| {
        for arm in scorers {
            let brokers = &brokers;
            scope.spawn(move || println!("{}", scored(&run, arm, brokers)));
        }
    });
}
