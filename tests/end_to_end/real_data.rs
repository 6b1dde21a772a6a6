//! Real data, all of it: every event of a set through Apache Kafka into a running daemon, then the state of every user against the file.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use headwater_config::{Config, Topic};
use headwater_tests::broker::bootstrap;
use headwater_tests::program::Place;
use rdkafka::Message as _;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use serde::Deserialize;
use serde_json::value::RawValue;

use self::recount::Recount;
use crate::onlooker::{Onlooker, Sees};
use crate::{alone, progress, users};

mod recount;

/// Longest time without a record being counted.
const PATIENCE: Duration = Duration::from_secs(60);

/// A set, and with which settings it is counted.
pub(crate) struct Set {
    name: &'static str,
    scenario: &'static str,
    recent: usize,
    attributes: &'static [&'static str],
}

/// Goal: state of each of 6,040 people whose history is long (up to 2,314 ratings, with values), and an answer to each of a million requests,
/// are what the file says. Method: `convert.py movielens_1m`.
#[test]
fn movielens_1m_is_counted_exactly() {
    count(&Set {
        name: "movielens_1m",
        scenario: "movies",
        recent: 128,
        attributes: &[],
    });
}

/// Goal: the same of three million clicks of 322,897 people, with key-vectors of attributes too. Method: `convert.py globo_clicks`, when
/// `HEADWATER_REAL_DATA=all` asks for it: it takes minutes.
#[test]
fn globo_clicks_is_counted_exactly() {
    if std::env::var("HEADWATER_REAL_DATA").as_deref() != Ok("all") {
        progress("SKIPPED: globo_clicks takes minutes, HEADWATER_REAL_DATA=all asks for it");
        return;
    }
    count(&Set {
        name: "globo_clicks",
        scenario: "portal",
        recent: 16,
        attributes: &["session", "region"],
    });
}

fn count(set: &Set) {
    let Some(data) = std::env::var_os("HEADWATER_DATA").map(PathBuf::from) else {
        progress(&format!(
            "SKIPPED: {} is not counted, HEADWATER_DATA names no folder with it and convert.py",
            set.name
        ));
        return;
    };
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    convert(&data, set, folder.path());
    let place = place(set);
    let config = place.config();
    let made = place.run(&["topics", "create"]);
    assert_eq!(made.code, Some(0), "{made:?}");

    let began = Instant::now();
    let daemon = place.start(&[]);
    let recount = produce(set, &config, folder.path());
    progress(&format!(
        "{}: {} behaviors of {} users and {} requests sent in {} s",
        set.name,
        recount.behaviors,
        recount.users().len(),
        recount.requests,
        began.elapsed().as_secs()
    ));
    let onlooker = Onlooker::new(&bootstrap(), &config.group());
    wait_until_counted(&onlooker, &config, set);
    let took = began.elapsed().as_secs_f64();
    progress(&format!("{}: all read after {took:.0} s", set.name));

    let wrong = Mutex::new(Vec::new());
    users::each(
        std::slice::from_ref(&daemon.address),
        &recount.users(),
        |user, view| {
            if let Err(difference) = recount.judge(user, view) {
                wrong.lock().unwrap().push(format!("{user}: {difference}"));
            }
        },
    );
    daemon.stop();
    let answered = answers(&onlooker, &config.topic_name(Topic::Scores));
    let wrong = wrong.into_inner().unwrap();
    progress(&format!(
        "{}: {} behaviors of {} users in {took:.0} s ({:.0} events/s, {} requests answered beside), {} users differ; looked at after {:.0} s",
        set.name,
        recount.behaviors,
        recount.users().len(),
        (recount.behaviors + recount.requests) as f64 / took,
        answered.0,
        wrong.len(),
        began.elapsed().as_secs_f64()
    ));
    assert!(
        wrong.is_empty(),
        "{} users differ, first {}",
        wrong.len(),
        wrong[..wrong.len().min(3)].join("\n")
    );
    assert_eq!(
        answered,
        (recount.requests, recount.requests),
        "answers, and how many requests they answer"
    );
}

/// Settings that leave nothing out: old requests are answered like new ones.
fn place(set: &Set) -> Place {
    Place::on_kafka(
        &bootstrap(),
        &format!(
            "instance.prefix = \"{}-{}.\"\n\
             topics.partitions = 4\n\
             state.recent = {}\n\
             state.attributes = {:?}\n\
             step.request_max_age = \"36500d\"\n\
             scenarios.names = [\"{}\"]",
            set.name.replace('_', "-"),
            std::process::id(),
            set.recent,
            set.attributes,
            set.scenario
        ),
    )
}

fn convert(data: &Path, set: &Set, folder: &Path) {
    progress(&format!("{}: converting", set.name));
    let converted = Command::new("python3")
        .arg(data.join("convert.py"))
        .arg(set.name)
        .arg(folder)
        .output()
        .unwrap();
    assert!(
        converted.status.success(),
        "convert.py: {}",
        String::from_utf8_lossy(&converted.stderr)
    );
}

/// A line of `events.jsonl`.
#[derive(Deserialize)]
struct Event<'a> {
    topic: &'a str,
    #[serde(borrow)]
    record: &'a RawValue,
}

/// Who it is of: the record's key.
#[derive(Deserialize)]
struct Keyed<'a> {
    user_id: &'a str,
}

#[derive(Deserialize)]
struct Item<'a> {
    item_id: &'a str,
}

/// Sends items and events in the file's order, and counts them.
fn produce(set: &Set, config: &Config, folder: &Path) -> Recount {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap())
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "20")
        .set("compression.type", "lz4")
        .create()
        .unwrap();
    let items = config.topic_name(Topic::Items);
    lines(&folder.join("items.jsonl"), |line| {
        let item: Item<'_> = serde_json::from_str(line).unwrap();
        send(&producer, &items, item.item_id, line);
    });
    producer.flush(PATIENCE).unwrap();
    let behaviors = config.topic_name(Topic::Behaviors);
    let requests = config.topic_name(Topic::ScoreRequests);
    let mut recount = Recount::new(set.recent, set.attributes);
    lines(&folder.join("events.jsonl"), |line| {
        let event: Event<'_> = serde_json::from_str(line).unwrap();
        let record = event.record.get();
        let keyed: Keyed<'_> = serde_json::from_str(record).unwrap();
        match event.topic {
            "behaviors" => {
                recount.add(record);
                send(&producer, &behaviors, keyed.user_id, record);
            }
            "score-requests" => {
                recount.requests += 1;
                send(&producer, &requests, keyed.user_id, record);
            }
            other => panic!("events.jsonl: topic {other}"),
        }
        let sent = recount.behaviors + recount.requests;
        if sent.is_multiple_of(500_000) {
            progress(&format!("{}: {sent} events sent", set.name));
        }
    });
    producer.flush(PATIENCE).unwrap();
    recount
}

fn lines(file: &Path, mut take: impl FnMut(&str)) {
    let file = std::fs::File::open(file).unwrap();
    for line in BufReader::new(file).lines() {
        take(&line.unwrap());
    }
}

/// Sends; waits while the queue is full.
fn send(producer: &ThreadedProducer<DefaultProducerContext>, topic: &str, key: &str, value: &str) {
    let mut record = BaseRecord::to(topic).key(key).payload(value);
    loop {
        match producer.send(record) {
            Ok(()) => return,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), unsent)) => {
                record = unsent;
                std::thread::park_timeout(Duration::from_millis(5));
            }
            Err((error, _)) => panic!("sending to {topic}: {error}"),
        }
    }
}

/// Waits until the group has committed the ends of what was sent.
fn wait_until_counted(onlooker: &Onlooker, config: &Config, set: &Set) {
    let inputs = [Topic::Behaviors, Topic::ScoreRequests].map(|topic| config.topic_name(topic));
    let mut last = 0;
    let mut deadline = Instant::now() + PATIENCE;
    loop {
        let (mut all, mut read) = (0, 0);
        for topic in &inputs {
            all += onlooker
                .whole(topic)
                .iter()
                .map(|whole| whole.until)
                .sum::<i64>();
            read += onlooker.committed(topic).values().sum::<i64>();
        }
        if read == all {
            return;
        }
        if read > last {
            progress(&format!("{}: {read} of {all} read", set.name));
            (last, deadline) = (read, Instant::now() + PATIENCE);
        }
        assert!(
            Instant::now() < deadline,
            "{read} of {all} records read, and no more for {PATIENCE:?}"
        );
        std::thread::park_timeout(Duration::from_secs(2));
    }
}

/// Answers, and how many different requests they answer.
fn answers(onlooker: &Onlooker, scores: &str) -> (usize, usize) {
    #[derive(Deserialize)]
    struct Answer<'a> {
        request_id: &'a str,
    }
    let mut of = Vec::new();
    onlooker.each(Sees::Committed, &onlooker.whole(scores), |message| {
        let answer: Answer<'_> = serde_json::from_slice(message.payload().unwrap()).unwrap();
        of.push(answer.request_id.to_owned());
    });
    let all = of.len();
    of.sort_unstable();
    of.dedup();
    (all, of.len())
}
