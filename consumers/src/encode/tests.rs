//! The stage over the log inside this process: each text is embedded once, whoever fails when, and what is no text harms nobody.

use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_state::{EncoderId, Looked, MemoryStores, Stores, VECTORS, read_vector};
use parking_lot::Mutex;

use super::*;
use crate::embed::EmbedError;
use crate::embeddings::VectorFollower;
use crate::log::Outgoing;
use crate::log::local::LocalLog;
use crate::log::local::faults::{Fault, Op};
use crate::partitioner::partition_of;
use crate::stage::bench::{self, Lying, Script, StandingStill, contents};

const PARTITIONS: i32 = 3;
const ENCODER: CurrentEncoder = CurrentEncoder {
    id: EncoderId([5; 16]),
    width: 2,
};

/// Vectors that follow from the text, and a note of each text that was embedded.
#[derive(Clone, Debug, Default)]
struct Lengths(Arc<Mutex<Vec<String>>>);

fn vector_of(text: &str) -> Vec<f32> {
    vec![text.len() as f32, f32::from(text.as_bytes()[0])]
}

impl Embed for Lengths {
    fn encoder(&self) -> CurrentEncoder {
        ENCODER
    }

    fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        self.0
            .lock()
            .extend(texts.iter().map(|text| (*text).to_owned()));
        Ok(texts.iter().map(|text| vector_of(text)).collect())
    }

    fn tokens(&self) -> u64 {
        self.0.lock().len() as u64
    }
}

/// An encoder that fails.
#[derive(Debug)]
struct Nan;

impl Embed for Nan {
    fn encoder(&self) -> CurrentEncoder {
        ENCODER
    }
    fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        Ok(vec![vec![f32::NAN, 1.0]; texts.len()])
    }
    fn tokens(&self) -> u64 {
        0
    }
}

fn bench() -> (Arc<LocalLog>, Script) {
    let topics = [
        Topic::Behaviors,
        Topic::Texts,
        Topic::Embeddings,
        Topic::DeadLetters,
    ];
    let (log, script, _) = bench::log(&topics.map(|topic| (topic, PARTITIONS)));
    (log, script)
}

fn table() -> Arc<VectorTable> {
    let store = MemoryStores::default().open(VECTORS).unwrap();
    Arc::new(VectorTable::open(store, 1 << 20).unwrap())
}

fn metrics() -> Metrics {
    Metrics::register(&prometheus::Registry::new()).unwrap()
}

fn stage(
    log: &LocalLog,
    instance: &str,
    embed: &Lengths,
    table: &Arc<VectorTable>,
) -> Stage<Encode> {
    let log = log.beside(&group_suffix(ENCODER.id), Topic::Texts).unwrap();
    let member = log.member(instance, 0).unwrap();
    Encode::stage(
        &Config::default_config(),
        log,
        member,
        (Box::new(embed.clone()), Arc::clone(table)),
        PARTITIONS,
        metrics(),
        Box::new(StandingStill),
    )
}

fn ask(log: &LocalLog, text: &str) {
    let hash = text_hash(text);
    put(log, &hash, Some(text.as_bytes()));
}

fn put(log: &LocalLog, key: &[u8], value: Option<&[u8]>) {
    let record = Outgoing {
        to: TopicPartition::new(Topic::Texts, partition_of(key, PARTITIONS)),
        key: Some(key),
        value,
        headers: &[],
    };
    bench::put(log, record);
}

/// How often each text's vector was published, and what it is.
fn published(log: &LocalLog) -> BTreeMap<TextHash, Vec<Vec<f32>>> {
    let mut found: BTreeMap<TextHash, Vec<Vec<f32>>> = BTreeMap::new();
    for Lying { key, value, .. } in contents(log, Topic::Embeddings) {
        if let VectorKey::Vector(encoder, text) = VectorKey::read(&key).unwrap() {
            assert_eq!(encoder, ENCODER.id);
            found
                .entry(text)
                .or_default()
                .push(read_vector(&value).unwrap());
        }
    }
    found
}

fn turn_until(log: &LocalLog, stages: &mut [Stage<Encode>], texts: usize) {
    for _ in 0..1_000 {
        for stage in &mut *stages {
            stage.turn().unwrap();
        }
        if published(log).len() >= texts {
            return;
        }
    }
    panic!("{} of {texts} texts", published(log).len());
}

/// Goal: each text has one vector in the topic, whatever fails when, in the partition of its text. Method: texts, some of them asked for twice, under
/// faults at every call of a turn; commits of unknown outcome, both ways.
#[test]
fn each_text_is_published_once() {
    let faults = [
        (Op::Poll, Fault::Unavailable),
        (Op::Begin, Fault::Unavailable),
        (Op::Send, Fault::Unavailable),
        (Op::Commit, Fault::CommitAborted),
        (Op::Commit, Fault::CommitUnknown { happened: true }),
        (Op::Commit, Fault::CommitUnknown { happened: false }),
        (Op::Committed, Fault::Unavailable),
        (Op::Recover, Fault::Unavailable),
    ];
    for fault in faults {
        let (log, script) = bench();
        let (embed, table) = (Lengths::default(), table());
        let mut stages = [stage(&log, "one", &embed, &table)];
        for number in 0..20 {
            ask(&log, &format!("text {number}"));
            ask(&log, &format!("text {}", number / 2));
        }
        script.lock().push_back(fault);
        if fault.0 == Op::Committed || fault.0 == Op::Recover {
            script.lock().push_front((Op::Commit, Fault::CommitAborted));
        }
        turn_until(&log, &mut stages, 20);
        for _ in 0..5 {
            stages[0].turn().unwrap();
        }
        let published = published(&log);
        assert_eq!(published.len(), 20, "{fault:?}");
        for number in 0..20 {
            let text = format!("text {number}");
            let vectors = &published[&text_hash(&text)];
            assert!(vectors.iter().all(|one| *one == vector_of(&text)));
            // A repeat in another poll finds nothing in the table here, which nobody fills.
            let asked = if number < 10 { 3 } else { 1 };
            let times = vectors.len();
            assert!(times <= asked, "{fault:?}: {text} {times} of {asked}");
        }
    }
}

/// Goal: two instances share the texts, and a text that has a vector is not embedded again by anybody. Method: two stages, whose tables follow the
/// topic; the same texts twice; then another stage of the same group after both are gone.
#[test]
fn instances_share_the_work() {
    let (log, _) = bench();
    let config = Config::default_config();
    let (embed, one, other) = (Lengths::default(), table(), table());
    let mut stages = [
        stage(&log, "one", &embed, &one),
        stage(&log, "two", &embed, &other),
    ];
    let mut followers = [&one, &other].map(|table| {
        let log: &dyn Log = &*log;
        VectorFollower::new(&config, log, Arc::clone(table), metrics()).unwrap()
    });
    let limit = PollLimit {
        records: 1_000,
        bytes: 1 << 20,
        wait: Duration::ZERO,
    };
    // Both have partitions before there is anything to do.
    for _ in 0..10 {
        for stage in &mut stages {
            stage.turn().unwrap();
        }
    }
    for round in 0..2 {
        for number in 0..40 {
            ask(&log, &format!("text {number}"));
        }
        turn_until(&log, &mut stages, 40);
        for _ in 0..20 {
            for follower in &mut followers {
                follower.advance(limit).unwrap();
            }
            for stage in &mut stages {
                stage.turn().unwrap();
            }
        }
        let mut embedded = embed.0.lock().clone();
        assert_eq!(embedded.len(), 40, "round {round}");
        embedded.sort();
        embedded.dedup();
        assert_eq!(embedded.len(), 40);
    }
    let mut backlog = Backlog::default();
    let mut waiting = |quiet| {
        let log = log.beside(&group_suffix(ENCODER.id), Topic::Texts).unwrap();
        backlog.look(&*log, PARTITIONS, quiet).unwrap()
    };
    assert_eq!(waiting(false), 0);
    // As the step sends them, in a transaction: its marker takes an offset, too.
    let mut member = log.member("worker", 0).unwrap();
    let hash = text_hash("another");
    member.begin().unwrap();
    let record = Outgoing {
        to: TopicPartition::new(Topic::Texts, 0),
        key: Some(&hash),
        value: Some(b"another"),
        headers: &[],
    };
    member.send(record).unwrap();
    member
        .commit(crate::log::Membership::default(), &[])
        .unwrap();
    assert_eq!((waiting(false), waiting(true)), (2, 2));
    for _ in 0..5 {
        for stage in &mut stages {
            stage.turn().unwrap();
        }
    }
    // The marker counts until it is looked behind the position, and is known from then on.
    assert_eq!((waiting(false), waiting(true), waiting(false)), (1, 0, 0));
    let (to, key, value) = Encode::announcement(ENCODER);
    let record = Outgoing {
        to,
        key: Some(&key),
        value: Some(&value),
        headers: &[],
    };
    bench::put(&log, record);
    for follower in &mut followers {
        follower.advance(limit).unwrap();
        follower.advance(limit).unwrap();
    }
    // Who comes now does not know of it before all of the topic is read.
    let late = table();
    let of = Arc::clone(&late);
    let mut follower = VectorFollower::new(&config, &*log, of, metrics()).unwrap();
    assert!(!follower.is_caught_up());
    let mut met = 0;
    while !follower.is_caught_up() {
        met += follower.advance(limit).unwrap();
    }
    assert_eq!((met > 0, late.current()), (true, Some(ENCODER)));
    let looked = one.look(ENCODER, &text_hash("text 7")).unwrap();
    assert_eq!(looked, Looked::Hit(vector_of("text 7").into()));
}

/// Goal: what is no text is a dead letter, and a vector that cannot be is an error that shows the text. Method: wrong keys and bytes between good ones; an
/// encoder that gives another width.
#[test]
fn what_is_no_text_harms_nobody() {
    let (log, _) = bench();
    let (embed, table) = (Lengths::default(), table());
    let mut stages = [stage(&log, "one", &embed, &table)];
    put(&log, b"short", Some(b"a text"));
    put(&log, &text_hash("not this"), Some(b"a text"));
    put(&log, &[3; 16], Some(&[0xff, 0xfe]));
    put(&log, &text_hash("gone"), None);
    // Not canonical: two spaces.
    put(&log, &text_hash("a  b"), Some(b"a  b"));
    ask(&log, "a text");
    turn_until(&log, &mut stages, 1);
    for _ in 0..5 {
        stages[0].turn().unwrap();
    }
    assert_eq!(contents(&log, Topic::DeadLetters).len(), 4);
    assert_eq!(*embed.0.lock(), ["a text"]);

    let beside = log.beside("-nan", Topic::Texts).unwrap();
    let member = beside.member("one", 0).unwrap();
    let mut broken = Encode::stage(
        &Config::default_config(),
        beside,
        member,
        (Box::new(Nan), table),
        PARTITIONS,
        metrics(),
        Box::new(StandingStill),
    );
    let failed = (0..100).find_map(|_| broken.turn().err()).unwrap();
    assert!(
        crate::error::words(&failed).contains("\"a text\" holds numbers that are not finite"),
        "{failed:?}"
    );
}
