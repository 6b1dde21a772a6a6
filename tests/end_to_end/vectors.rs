//! Vectors of users on Apache Kafka: whoever is killed, and whichever model comes next, a row saw nothing but what had happened before it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use headwater_config::Topic;
use headwater_consumers::assemble::Assembler;
use headwater_model::LoggedRequest;
use headwater_model::bahe::BaheModel;
use headwater_model::language::text_hash;
use headwater_state::read_vector;
use headwater_tests::broker::Broker;
use headwater_tests::naive_vectors::{Done, Run, judge_row};
use headwater_tests::program::{Daemon, Place, until};
use headwater_tests::tiny_model::{write_model, write_recordings};
use rdkafka::Message as _;
use rdkafka::producer::Producer as _;
use serde_json::{Value, json};

use crate::onlooker::{Onlooker, Sees};
use crate::platform::{Producer, producer, send};
use crate::{alone, number, progress};

/// Kills inside transactions with rows, unless `HEADWATER_KILLS` says another number.
const KILLS: u64 = 10;
const PARTITIONS: i32 = 2;
const USERS: u64 = 6;
const ITEMS: u64 = 12;
/// Between two behaviors.
const PACE: Duration = Duration::from_millis(5);
/// Behaviors at which a run begins anew.
const LIMIT: usize = 8;

/// Of the tiny model's words, so that most texts have another vector.
fn title(item: u64) -> String {
    let words = ["a", "b", "c"];
    let of = |place: u64| words[(item / 3_u64.pow(place as u32) % 3) as usize];
    format!("{} {} {}", of(0), of(1), of(2))
}

fn text_of(item: &str) -> String {
    title(item[1..].parse().unwrap())
}

fn ask(producer: &Producer, topic: &str, id: &str, user: u64) {
    let candidates: Vec<String> = (0..4)
        .map(|place| format!("i{}", (user * 5 + place) % ITEMS))
        .collect();
    let user = format!("u{user}");
    let request = json!({"request_id": id, "user_id": user, "scenario": "home", "time": headwater::now_ms(), "candidates": candidates});
    send(producer, topic, &user, &request);
}

/// What both daemons, training and the judge go by.
fn config(encoder: &Path) -> String {
    format!(
        "scenarios.names = [\"home\"]\ntexts.encoder = \"{}\"\ntexts.cut = 1\ntexts.item = \"{{item.title}}\"\ntexts.sequence_max = {LIMIT}\n\
         texts.behaviors.\"*\" = \"{{kind}} {{item.title}}\"",
        encoder.display()
    )
}

/// Two models of the same rows.
fn train(folder: &Path, more: &str) -> [String; 2] {
    let place = Place::new(more);
    let [items, events] = write_recordings(folder);
    ["1", "2"].map(|seed| {
        let out = folder.join(format!("model-{seed}")).display().to_string();
        let ran = place.run(&[
            "train", "bahe", "--items", &items, "--events", &events, "--out", &out, "--layers",
            "1", "--passes", "2", "--rate", "0.006", "--seed", seed,
        ]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        out
    })
}

/// Users behave, some of it late, and are asked about.
fn feed(bootstrap: &str, behaviors: &str, requests: &str, stopping: &AtomicBool) {
    let producer = producer(bootstrap);
    let mut number: u64 = 0;
    while !stopping.load(Ordering::Relaxed) {
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        let (user, item) = (mixed % USERS, mixed / 7 % ITEMS);
        let late = if mixed.is_multiple_of(11) { 700 } else { 0 };
        let kind = if mixed.is_multiple_of(5) {
            "like"
        } else {
            "click"
        };
        let name = format!("u{user}");
        let behavior = json!({"event_id": format!("e{number}"), "user_id": name, "item_id": format!("i{item}"), "kind": kind, "scenario": "home",
            "time": headwater::now_ms() - late});
        send(&producer, behaviors, &name, &behavior);
        if number.is_multiple_of(4) {
            ask(&producer, requests, &format!("r{number}"), user);
        }
        number += 1;
        std::thread::park_timeout(PACE);
    }
    producer.flush(Duration::from_secs(30)).unwrap();
}

/// All committed records of a topic: partition, offset, key, value.
fn records(onlooker: &Onlooker, topic: &str) -> Vec<(i32, i64, Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    onlooker.each(Sees::Committed, &onlooker.whole(topic), |message| {
        let bytes = |bytes: Option<&[u8]>| bytes.unwrap_or_default().to_vec();
        let (key, value) = (bytes(message.key()), bytes(message.payload()));
        found.push((message.partition(), message.offset(), key, value));
    });
    found.sort();
    found
}

/// Goal: what a row says that a model saw is what its user had done before it, in order, and nothing else; the vectors are those of that, computed whole; after a kill they are
/// made again. Method: two daemons of either store, a steady stream with late behaviors, kills -9 inside transactions with rows, each start with one of two models;
/// every committed row is held against the behaviors' topic; then requests until all users have vectors again.
#[test]
fn rows_see_what_was_done_whoever_is_killed() {
    let _alone = alone();
    let wanted = number("HEADWATER_KILLS", KILLS);
    let broker = Broker::start();
    let folder = tempfile::tempdir().unwrap();
    let language = folder.path().join("language");
    write_model(&language, None);
    let more = config(&language);
    let models = train(folder.path(), &more);
    let places = [("a", "sled"), ("b", "fjall")].map(|(name, backend)| {
        let more = format!(
            "instance.id = \"{name}\"\ninstance.prefix = \"vectors.\"\nkafka.session_timeout = \"3s\"\nkafka.transaction_timeout = \"2s\"\n\
             kafka.operation_timeout = \"10s\"\ntopics.partitions = {PARTITIONS}\nstate.backend = \"{backend}\"\nstate.write_back = \"200ms\"\n{more}"
        );
        Place::on_kafka(&broker.bootstrap(), &more)
    });
    let made = places[0].run(&["topics", "create"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let config = places[0].config();
    let name = |topic| config.topic_name(topic);
    let onlooker = Onlooker::new(&broker.bootstrap(), &config.group());
    let producer = producer(&broker.bootstrap());
    for item in 0..ITEMS {
        let id = format!("i{item}");
        let fields = json!({"title": title(item)});
        let record = json!({"item_id": id, "time": headwater::now_ms(), "fields": fields});
        send(&producer, &name(Topic::Items), &id, &record);
    }
    producer.flush(Duration::from_secs(30)).unwrap();
    let start = |place: &Place, model: usize| {
        place.start(&["--set", &format!("scoring.model={}", models[model])])
    };
    let mut daemons: Vec<Daemon> = places.iter().map(|place| start(place, 0)).collect();
    let stopping = Arc::new(AtomicBool::new(false));
    let feeding = {
        let (stopping, bootstrap) = (Arc::clone(&stopping), broker.bootstrap());
        let (behaviors, requests) = (name(Topic::Behaviors), name(Topic::ScoreRequests));
        std::thread::spawn(move || feed(&bootstrap, &behaviors, &requests, &stopping))
    };
    let rows: Vec<_> = (0..PARTITIONS)
        .map(|partition| (name(Topic::FeatureLog), partition))
        .collect();
    let began = Instant::now();
    for round in 1..=wanted {
        // Both models are at work in turns, on vectors that the other has left.
        std::thread::park_timeout(Duration::from_millis(300));
        until("a transaction with rows", || {
            (!onlooker.open(&rows).is_empty()).then_some(())
        });
        let victim = (round % 2) as usize;
        drop(daemons.remove(victim).kill());
        daemons.insert(victim, start(&places[victim], (round / 2 % 2) as usize));
        progress(&format!(
            "{:4} s: kill {round} of {wanted}",
            began.elapsed().as_secs()
        ));
    }
    std::thread::park_timeout(Duration::from_secs(2));
    stopping.store(true, Ordering::Relaxed);
    feeding.join().unwrap();
    let mut asked = 0;
    until("all users to have vectors again", || {
        asked += 1;
        for user in 0..USERS {
            ask(
                &producer,
                &name(Topic::ScoreRequests),
                &format!("last-{asked}-{user}"),
                user,
            );
        }
        producer.flush(Duration::from_secs(30)).unwrap();
        std::thread::park_timeout(Duration::from_secs(1));
        let last = format!("last-{asked}-");
        let answers = records(&onlooker, &name(Topic::Scores)).into_iter();
        let whole = answers.filter(|(.., value)| {
            let answer: Value = serde_json::from_slice(value).unwrap();
            let is_last = answer["request_id"].as_str().unwrap().starts_with(&last);
            is_last
                && answer["model"].as_str().unwrap().starts_with("bahe-")
                && answer["degraded"].is_null()
        });
        (whole.count() as u64 == USERS).then_some(())
    });
    let judged = judge(&onlooker, &config, &models);
    progress(&format!("{wanted} kills: {judged:?}"));
    assert!(judged.rows.iter().all(|rows| *rows > 0), "{judged:?}");
    assert!(judged.anew > 0, "{judged:?}");
    for daemon in daemons {
        daemon.stop();
    }
}

/// What was judged.
#[derive(Debug, Default)]
struct Judged {
    /// Rows with a vector of something, by model.
    rows: [usize; 2],
    /// Rows whose vector was behind.
    behind: usize,
    /// Rows without any vector of a sequence that was not empty.
    without: usize,
    /// Rows of runs that had begun anew.
    anew: usize,
}

fn judge(onlooker: &Onlooker, config: &headwater_config::Config, models: &[String; 2]) -> Judged {
    let assembler = Assembler::new(config).unwrap();
    let open = |folder: &String| BaheModel::open(Path::new(folder), assembler.schema()).unwrap();
    let models = models.each_ref().map(open);
    let name = |topic| config.topic_name(topic);
    let mut vectors: BTreeMap<Vec<u8>, Vec<f32>> = BTreeMap::new();
    for (_, _, key, value) in records(onlooker, &name(Topic::Embeddings)) {
        if key.len() > 16 {
            vectors.insert(key[key.len() - 16..].to_vec(), read_vector(&value).unwrap());
        }
    }
    let vector_of = |text: &str| vectors[&text_hash(text)[..]].clone();
    let mut done: BTreeMap<(i32, String), Vec<Done>> = BTreeMap::new();
    for (partition, offset, key, value) in records(onlooker, &name(Topic::Behaviors)) {
        let record: Value = serde_json::from_slice(&value).unwrap();
        let [kind, item] = ["kind", "item_id"].map(|name| record[name].as_str().unwrap());
        let user = (partition, String::from_utf8(key).unwrap());
        done.entry(user).or_default().push(Done {
            text: format!("{kind} {}", text_of(item)),
            time: record["time"].as_i64().unwrap(),
            offset,
        });
    }
    let mut answers: BTreeMap<String, Value> = BTreeMap::new();
    for (.., value) in records(onlooker, &name(Topic::Scores)) {
        let answer: Value = serde_json::from_slice(&value).unwrap();
        answers.insert(answer["request_id"].as_str().unwrap().to_owned(), answer);
    }
    let mut judged = Judged::default();
    for (partition, _, _, value) in records(onlooker, &name(Topic::FeatureLog)) {
        let logged = LoggedRequest::read(&value).unwrap();
        let Some(seen) = &logged.vectors else {
            continue;
        };
        let model = models
            .iter()
            .position(|model| model.version() == logged.version);
        let model = model.unwrap_or_else(|| panic!("no model {}", logged.version));
        let answer = &answers[&*logged.request_id];
        let offset = answer["state"]["offset"].as_i64().unwrap();
        let user = (partition, answer["user_id"].as_str().unwrap().to_owned());
        let then = done.get(&user).into_iter().flatten();
        let run = Run::of(LIMIT, then.filter(|done| done.offset < offset).cloned());
        judge_row(&models[model], &logged, seen, &run, &vector_of, &text_of)
            .unwrap_or_else(|error| panic!("{error}: {answer}: {run:?}: {seen:?}"));
        let sequence = &seen.sequences[0];
        judged.rows[model] += usize::from(sequence.used > 0);
        judged.behind += usize::from((1..sequence.length).contains(&sequence.used));
        judged.without += usize::from(sequence.used == 0 && sequence.length > 0);
        judged.anew += usize::from(sequence.start > 0 && sequence.used > 0);
    }
    judged
}
