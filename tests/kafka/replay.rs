//! Recorded events through Apache Kafka and the whole loop.

use std::io::Write as _;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use headwater::daemon::open_log;
use headwater::replay::{Replay, ReplayError, Summary};
use headwater::{Daemon, topics};
use headwater_config::{Config, Topic};
use headwater_consumers::log::TopicSpec;
use serde_json::{Value, json};

use crate::broker::bootstrap;

const START: i64 = 1_700_000_000_000;
const MINUTE: i64 = 60_000;
const EVENTS: i64 = 400;

fn config(state: &std::path::Path, name: &str, more: &str) -> Config {
    let toml = format!(
        "instance.id = \"one\"\ninstance.prefix = \"replay-{}-{name}.\"\nkafka.brokers = \"{}\"\nstate.path = \"{}\"\n\
         topics.partitions = 3\nadmin.address = \"\"\n{more}",
        std::process::id(),
        bootstrap(),
        state.display()
    );
    Config::from_toml(&toml).unwrap()
}

/// Ten hours: a behavior, made by `behavior`, and a request every 90 seconds, which is beyond `step.request_max_age` in all.
fn recording(behavior: impl Fn(i64, i64) -> Value) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for number in 0..EVENTS {
        let time = START + number * 3 * MINUTE / 2;
        let record = behavior(number, time);
        writeln!(file, "{}", json!({"topic": "behaviors", "record": record})).unwrap();
        let record = json!({"request_id": format!("r{number}"), "user_id": format!("u{}", number % 7), "scenario": "feed",
            "time": time + 1, "candidates": ["i1", "i2"]});
        writeln!(
            file,
            "{}",
            json!({"topic": "score-requests", "record": record})
        )
        .unwrap();
    }
    file
}

fn own(number: i64, time: i64) -> Value {
    json!({"event_id": format!("e{number}"), "user_id": format!("u{}", number % 7), "item_id": "i1", "kind": "click",
        "scenario": "feed", "time": time})
}

fn replay(events: &tempfile::NamedTempFile, running: bool) -> Replay {
    Replay {
        items: None,
        events: events.path().to_owned(),
        rate: None,
        running,
        deadlines: false,
        patience: Duration::from_secs(60),
        progress: false,
    }
}

fn is_whole(summary: &Summary, config: &Config) {
    assert!(
        summary.complete && !summary.is_wrong(config),
        "{summary:#?}"
    );
    let events = EVENTS as u64;
    assert_eq!((summary.behaviors, summary.requests), (events, events));
    assert_eq!(summary.found.answers, [("ok".to_owned(), events)].into());
    assert_eq!(summary.found.scores, 2 * events);
    assert!(summary.freshness_ms.is_some());
}

/// Goal: a replay starts the daemon, and knows when all is counted and answered, though the ends of transactions have offsets of their own; and
/// drives one that runs. Method: one after the other, on topics of their own; at last a running one that is none.
#[test]
fn a_recording_goes_through_kafka() {
    let events = recording(own);
    let state = tempfile::tempdir().unwrap();
    let ours = config(state.path(), "here", "");
    topics::create(&ours, &*open_log(&ours).unwrap()).unwrap();
    let (summary, done) = replay(&events, false).run(&ours, &AtomicBool::new(false));
    done.unwrap();
    is_whole(&summary, &ours);
    assert_eq!(summary.daemon.unwrap().counted, EVENTS as u64);

    let state = tempfile::tempdir().unwrap();
    let theirs = config(state.path(), "there", "");
    topics::create(&theirs, &*open_log(&theirs).unwrap()).unwrap();
    let daemon = Daemon::start(theirs.clone()).unwrap();
    let (summary, done) = replay(&events, true).run(&theirs, &AtomicBool::new(false));
    done.unwrap();
    is_whole(&summary, &theirs);
    assert!(summary.daemon.is_none());
    daemon.stop(true).unwrap();

    let mut impatient = replay(&events, true);
    impatient.patience = Duration::from_secs(2);
    let (summary, done) = impatient.run(&theirs, &AtomicBool::new(false));
    assert!(matches!(done, Err(ReplayError::Stalled { .. })), "{done:?}");
    assert!(!summary.complete && summary.missing > 0, "{summary:#?}");
}

/// Goal: the same through a source that is not keyed by user. Method: a stranger's records, which a stage of the daemon brings into order.
#[test]
fn a_strangers_recording_goes_through_kafka() {
    let mapping = "[source.behaviors]\nmapped = true\nrepartition = true\nuser_id = \"/who\"\nitem_id = \"/what\"\ntime = \"/at\"\n\
                   [source.behaviors.constant]\nkind = \"click\"\nscenario = \"feed\"\n";
    let state = tempfile::tempdir().unwrap();
    let config = config(state.path(), "stranger", mapping);
    let log = open_log(&config).unwrap();
    let source = TopicSpec {
        topic: Topic::Behaviors,
        partitions: 2,
        replication_factor: 1,
        min_insync_replicas: 1,
    };
    log.create(&source).unwrap();
    topics::create(&config, &*log).unwrap();
    let events = recording(|number, time| json!({"who": number % 7, "what": "i1", "at": time}));
    let (summary, done) = replay(&events, false).run(&config, &AtomicBool::new(false));
    done.unwrap();
    is_whole(&summary, &config);
    assert_eq!(summary.daemon.unwrap().counted, EVENTS as u64);
}
