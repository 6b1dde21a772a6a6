//! Texts on Apache Kafka: each is embedded, whoever is killed while it encodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use headwater_config::Topic;
use headwater_tests::broker::Broker;
use headwater_tests::program::{Daemon, Place, until};
use headwater_tests::tiny_model::write_model;
use rdkafka::Message as _;
use rdkafka::producer::Producer as _;
use serde_json::json;

use crate::onlooker::{Onlooker, Sees};
use crate::platform::{Producer, producer, send};
use crate::{alone, number, progress};

/// Kills that left records of an aborted transaction among the vectors, unless `HEADWATER_KILLS` says another number.
const KILLS: u64 = 10;
const PARTITIONS: i32 = 4;
/// Between two items: vectors are being made at most times.
const PACE: Duration = Duration::from_millis(8);
/// Candidates of a request.
const CANDIDATES: usize = 6;
/// Longest wait for the last text.
const PATIENCE: Duration = Duration::from_secs(120);

/// New items all the time, and requests that have the newest of them as candidates.
struct Feed {
    stopping: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

fn ask(producer: &Producer, topic: &str, id: &str, candidates: &[String]) {
    let user = format!("u{}", id.len() % 3);
    let request = json!({"request_id": id, "user_id": user, "scenario": "feed", "time": headwater::now_ms(), "candidates": candidates});
    send(producer, topic, &user, &request);
}

impl Feed {
    fn start(bootstrap: &str, items: String, requests: String) -> Self {
        let (stopping, sent) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (told, count): (_, Arc<AtomicUsize>) = (Arc::clone(&stopping), Arc::clone(&sent));
        let producer = producer(bootstrap);
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                let number = count.load(Ordering::Relaxed);
                let id = format!("i{number}");
                let fields = json!({"title": format!("guide {number}")});
                let item = json!({"item_id": id, "time": headwater::now_ms(), "fields": fields});
                send(&producer, &items, &id, &item);
                count.store(number + 1, Ordering::Relaxed);
                let newest = number.saturating_sub(CANDIDATES)..=number;
                let candidates: Vec<String> = newest.map(|one| format!("i{one}")).collect();
                ask(&producer, &requests, &format!("r{number}"), &candidates);
                std::thread::park_timeout(PACE);
            }
            producer.flush(Duration::from_secs(30)).unwrap();
        });
        Self {
            stopping,
            sent,
            thread,
        }
    }

    /// Gives how many items there are.
    fn stop(self) -> usize {
        self.stopping.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.sent.load(Ordering::Relaxed)
    }
}

fn waiting(daemon: &Daemon) -> Option<i64> {
    let (_, status) = daemon.get("/status")?;
    let status: serde_json::Value = serde_json::from_str(&status).ok()?;
    let working = status["workers"][0]["working"].as_array()?.len();
    (working > 0).then_some(status["texts"]["waiting"].as_i64()?)
}

fn missed(daemon: &Daemon) -> u64 {
    let (_, metrics) = daemon.get("/metrics").unwrap();
    let line = metrics.lines().find(|line| {
        line.starts_with("headwater_consumers_text_vector_lookups_total{outcome=\"miss\"}")
    });
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

/// Goal: encoding can be an instance's only work, and scoring another's. Method: one that only scores and has no model at hand beside one without workers; new items and requests
/// for them, until rows miss nothing; the second one is ready, and has neither partitions nor items.
#[test]
fn one_scores_and_the_other_encodes() {
    let _alone = alone();
    let broker = Broker::start();
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), None);
    let model = folder.path().display().to_string();
    let place = |id: &str, more: &str| {
        let more = format!(
            "instance.id = \"{id}\"\ninstance.prefix = \"roles.\"\ntopics.partitions = {PARTITIONS}\nscenarios.names = [\"feed\"]\ntexts.cut = 1\n{more}"
        );
        Place::on_kafka(&broker.bootstrap(), &more)
    };
    let scoring = place(
        "scoring",
        "texts.encoder = \"nowhere\"\ntexts.encode = false",
    );
    let more = format!("texts.encoder = \"{model}\"\ninstance.workers = 0");
    let encoding = place("encoding", &more);
    let made = scoring.run(&["topics", "create"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let (scores, encodes) = (scoring.start(&[]), encoding.start(&[]));
    let config = scoring.config();
    let name = |topic| config.topic_name(topic);
    let items: Vec<String> = (0..30).map(|item| format!("i{item}")).collect();
    let producer = producer(&broker.bootstrap());
    for id in &items {
        let fields = json!({"title": format!("guide {id}")});
        let item = json!({"item_id": id, "time": headwater::now_ms(), "fields": fields});
        send(&producer, &name(Topic::Items), id, &item);
    }
    until("rows to miss nothing", || {
        let before = scores.get("/metrics").map(|_| missed(&scores))?;
        let id = format!("r{}", headwater::now_ms());
        ask(&producer, &name(Topic::ScoreRequests), &id, &items);
        producer.flush(Duration::from_secs(30)).unwrap();
        std::thread::park_timeout(Duration::from_millis(700));
        (waiting(&scores).is_some() && before > 0 && missed(&scores) == before).then_some(())
    });
    let (code, ready) = encodes.get("/readyz").unwrap();
    assert_eq!(code, 200, "{ready}");
    let (_, status) = encodes.get("/status").unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["workers"], json!([]), "{status}");
    let (_, metrics) = encodes.get("/metrics").unwrap();
    let tokens = |line: &&str| line.starts_with("headwater_consumers_text_tokens_total ");
    let tokens = metrics.lines().find(tokens).unwrap().to_owned();
    assert!(!tokens.ends_with(" 0"), "{tokens}");
    scores.stop();
    encodes.stop();
}

/// Goal: every text that a row needed has its vector, and none is published more often than it was asked for, whoever is killed inside which transaction; afterwards no
/// lookup misses. Method: two daemons of either store that encode, a steady stream of new items, kills -9 that count where aborted vectors are left behind; topics read
/// by librdkafka alone; then requests for all items.
#[test]
fn texts_are_embedded_whoever_is_killed() {
    let _alone = alone();
    let wanted = number("HEADWATER_KILLS", KILLS);
    let broker = Broker::start();
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), None);
    let places = [("a", "sled"), ("b", "fjall")].map(|(name, backend)| {
        let more = format!(
            "instance.id = \"{name}\"\ninstance.prefix = \"texts.\"\nkafka.session_timeout = \"3s\"\nkafka.transaction_timeout = \"2s\"\n\
             kafka.operation_timeout = \"10s\"\ntopics.partitions = {PARTITIONS}\nstate.backend = \"{backend}\"\nscenarios.names = [\"feed\"]\n\
             texts.encoder = \"{}\"\ntexts.cut = 1",
            folder.path().display()
        );
        Place::on_kafka(&broker.bootstrap(), &more)
    });
    let made = places[0].run(&["topics", "create"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let config = places[0].config();
    let name = |topic| config.topic_name(topic);
    let onlooker = Onlooker::new(&broker.bootstrap(), &config.group());
    let mut daemons: Vec<Daemon> = places.iter().map(|place| place.start(&[])).collect();
    let feed = Feed::start(
        &broker.bootstrap(),
        name(Topic::Items),
        name(Topic::ScoreRequests),
    );

    let vectors: Vec<_> = (0..PARTITIONS)
        .map(|partition| (name(Topic::Embeddings), partition))
        .collect();
    let (mut round, mut counted, mut aborted) = (0, 0, 0);
    let began = Instant::now();
    while counted < wanted {
        round += 1;
        assert!(
            round <= 8 * wanted + 20,
            "{round} kills, of which {counted} count"
        );
        until("a transaction with vectors", || {
            (!onlooker.open(&vectors).is_empty()).then_some(())
        });
        let victim = (round % 2) as usize;
        let killed = daemons.remove(victim);
        drop(killed.kill());
        let open = onlooker.open(&vectors);
        daemons.insert(victim, places[victim].start(&[]));
        let left: usize = open
            .iter()
            .map(|stretch| {
                let committed = onlooker.records(Sees::Committed, stretch);
                onlooker.records(Sees::Everything, stretch) - committed
            })
            .sum();
        counted += u64::from(left > 0);
        aborted += left;
        progress(&format!(
            "{:4} s: kill {round}, {counted} of {wanted} count: it left {left} vectors of an aborted transaction",
            began.elapsed().as_secs()
        ));
    }
    let items = feed.stop();
    let producer = producer(&broker.bootstrap());
    let all: Vec<String> = (0..items).map(|item| format!("i{item}")).collect();
    let ask_all = |round: &str| {
        for (number, candidates) in all.chunks(200).enumerate() {
            let id = format!("{round}{number}");
            ask(&producer, &name(Topic::ScoreRequests), &id, candidates);
        }
        producer.flush(Duration::from_secs(30)).unwrap();
    };
    ask_all("all");
    let deadline = Instant::now() + PATIENCE;
    let [asked, made] = loop {
        let [asked, made] = [Topic::Texts, Topic::Embeddings].map(|topic| {
            let mut found: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
            onlooker.each(Sees::Committed, &onlooker.whole(&name(topic)), |message| {
                // The text's hash is the whole key of a text, and ends that of a vector; which encoder is the current one has a shorter key.
                let key = message.key().unwrap();
                if key.len() >= 16 {
                    let of = found.entry(key[key.len() - 16..].to_vec()).or_default();
                    of.push(message.payload().unwrap().to_vec());
                }
            });
            found
        });
        let whole = asked.len() == items && asked.keys().all(|text| made.contains_key(text));
        if whole
            && daemons
                .iter()
                .filter_map(waiting)
                .all(|waiting| waiting == 0)
        {
            break [asked, made];
        }
        assert!(
            Instant::now() < deadline,
            "{items} items, {} texts asked for, {} embedded",
            asked.len(),
            made.len()
        );
        std::thread::park_timeout(Duration::from_millis(200));
    };
    assert_eq!(made.len(), items, "vectors of texts that nobody asked for");
    for (text, vectors) in &made {
        let times = asked[text].len();
        assert!(vectors.len() <= times, "{} of {times}", vectors.len());
        assert!(vectors.iter().all(|vector| *vector == vectors[0]));
    }
    let twice = made.values().filter(|vectors| vectors.len() > 1).count();
    // The followers may be a moment behind the topic.
    until("rows to miss nothing", || {
        let before: u64 = daemons.iter().map(missed).sum();
        ask_all(&format!("again{}-", headwater::now_ms()));
        std::thread::park_timeout(Duration::from_millis(500));
        (daemons.iter().map(missed).sum::<u64>() == before).then_some(())
    });
    progress(&format!(
        "{counted} kills of {round} left {aborted} aborted vectors; {items} texts embedded, {twice} of them twice"
    ));
    for daemon in daemons {
        daemon.stop();
    }
}
