//! What a step publishes, over one partition in memory.

use headwater_config::Bytes;
use headwater_state::{MemoryStores, Stores};
use serde_json::json;

use super::*;
use crate::pseudonym::pseudonym;
use crate::worker::settings_of;

mod key_vectors;
mod labels;
mod odd;
mod room;

const START: i64 = 1_700_000_000_000;

/// A pipeline over one partition.
struct Bench {
    config: Config,
    owned: BTreeMap<i32, Owned>,
    pipeline: Pipeline,
    now: i64,
    salts: u8,
    next: i64,
}

impl Bench {
    /// Over a partition that has seen nothing.
    fn new(config: &Config) -> Self {
        let stores = MemoryStores::default();
        let users = Partition::open(stores.open(0).unwrap(), settings_of(config, 1)).unwrap();
        let owned = Owned {
            number: 0,
            users,
            statistics: Statistics::default(),
        };
        Self {
            config: config.clone(),
            owned: BTreeMap::from([(0, owned)]),
            pipeline: pipeline(config),
            now: START,
            salts: 0,
            next: 0,
        }
    }

    /// Another configuration, as after a restart.
    fn configure(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
        self.pipeline = pipeline(&self.config);
    }

    fn step(&mut self, records: &RecordBatch) -> StepOutput {
        let mut output = StepOutput::default();
        let salts = &mut self.salts;
        let mut salt = || {
            *salts += 1;
            [*salts; 16]
        };
        self.pipeline
            .step(
                records,
                &mut self.owned,
                &ItemTable::default(),
                Timestamp(self.now),
                &mut salt,
                &mut output,
            )
            .unwrap();
        output
    }

    /// The step of one record, at the next offset.
    fn take(&mut self, topic: Topic, record: &serde_json::Value) -> StepOutput {
        self.take_with(topic, record, &[])
    }

    fn take_with(
        &mut self,
        topic: Topic,
        record: &serde_json::Value,
        headers: &[(&str, &str)],
    ) -> StepOutput {
        let mut records = RecordBatch::default();
        records.push(
            TopicPartition::new(topic, 0),
            (self.next, self.now),
            Some(b"u"),
            Some(record.to_string().as_bytes()),
            headers
                .iter()
                .map(|(name, value)| (*name, Some(value.as_bytes()))),
        );
        self.next += 1;
        self.step(&records)
    }

    fn user(&mut self) -> &headwater_state::User {
        let owned = self.owned.get_mut(&0).unwrap();
        owned.users.whole_user("u").unwrap().unwrap()
    }
}

fn pipeline(config: &Config) -> Pipeline {
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    Pipeline::new(config, (1, 1), metrics).unwrap()
}

/// The records of a topic.
fn of(output: &StepOutput, topic: Topic) -> Vec<Record<'_>> {
    let all = output.transactional.iter();
    all.filter(|record| record.at.topic == topic).collect()
}

fn asking(candidates: usize) -> serde_json::Value {
    let candidates: Vec<String> = (0..candidates).map(|item| format!("i{item}")).collect();
    json!({"request_id": "r", "user_id": "u", "scenario": "s", "time": START, "candidates": candidates})
}

fn clicking(event: &str) -> serde_json::Value {
    json!({"event_id": event, "user_id": "u", "item_id": "i0", "kind": "click", "scenario": "s", "time": START})
}

/// Goal: what config names of a request's headers goes on with its answer, and nothing else. Method: three headers, two named.
#[test]
fn named_headers_are_carried_on() {
    let request = format!(
        r#"{{"request_id":"r","user_id":"u","scenario":"s","time":{START},"candidates":["i"]}}"#
    );
    let mut records = RecordBatch::default();
    records.push(
        TopicPartition::new(Topic::ScoreRequests, 0),
        (0, START),
        Some(b"u"),
        Some(request.as_bytes()),
        [
            ("traceparent", Some(&b"t"[..])),
            ("cookie", Some(&b"c"[..])),
            ("reply_to", None),
        ],
    );
    let output = Bench::new(&Config::default_config()).step(&records);
    let scores = of(&output, Topic::Scores);
    assert_eq!(scores.len(), 1);
    let headers = scores[0].headers;
    assert_eq!(headers.get("traceparent"), Some(&b"t"[..]));
    assert!(headers.iter().any(|header| header == ("reply_to", None)));
    assert!(headers.get("cookie").is_none());
    assert!(headers.get("headwater-id").is_some());
}

/// Goal: each candidate has the scores of its own row, in every part of a split answer. Method: a request large enough for parts; the
/// same candidates asked for in one answer each.
#[test]
fn parts_have_the_scores_of_their_candidates() {
    let ask = |candidates: &[String], answer_max| {
        let mut config = Config::default_config();
        config.step.answer_max = Bytes::new(answer_max);
        let mut bench = Bench::new(&config);
        for (item, kind) in [("i3", "impression"), ("i3", "click"), ("i70", "impression")] {
            let mut behavior = clicking(&format!("{item}-{kind}"));
            behavior["item_id"] = item.into();
            behavior["kind"] = kind.into();
            bench.take(Topic::Behaviors, &behavior);
        }
        let mut request = asking(0);
        request["candidates"] = json!(candidates);
        request["time"] = json!(START + 1);
        let output = bench.take(Topic::ScoreRequests, &request);
        of(&output, Topic::Scores)
            .iter()
            .map(|record| serde_json::from_slice(record.value.unwrap()).unwrap())
            .collect::<Vec<serde_json::Value>>()
    };
    let candidates: Vec<String> = (0..100).map(|number| format!("i{number}")).collect();
    let parts = ask(&candidates, 4096);
    assert!(parts.len() > 1);
    let items: Vec<_> = parts
        .iter()
        .flat_map(|part| part["items"].as_array().unwrap().clone())
        .collect();
    assert_eq!(items.len(), candidates.len());
    for (candidate, item) in candidates.iter().zip(&items) {
        assert_eq!(item["item_id"], **candidate);
        assert_eq!(item["score"], item["tasks"]["click"]);
        let alone = ask(std::slice::from_ref(candidate), 1 << 19);
        assert_eq!(*item, alone[0]["items"][0], "{candidate}");
    }
    assert_ne!(items[3]["score"], items[4]["score"]);
}

/// Goal: STATE-1 for dead letters: however often one is sent again, it counts once. Method: letters of a behavior without an event id, and of
/// a stranger's record of two alike events, each sent twice; then another letter of the same bytes.
#[test]
fn a_dead_letter_counts_once_however_often_it_is_sent() {
    let mut behavior = clicking("");
    behavior.as_object_mut().unwrap().remove("event_id");
    let stranger = "[source.behaviors]\nmapped = true\nevents = \"/list\"\nuser_id = \"^/u\"\ntime = \"^/t\"\nitem_id = \"/i\"\n\
                    constant = { kind = \"click\", scenario = \"s\" }\n";
    let two = json!({"u": "u", "t": START, "list": [{"i": "a"}, {"i": "a"}]});
    for (toml, record, events) in [("", behavior, 1), (stranger, two, 2)] {
        let mut bench = Bench::new(&Config::from_toml(toml).unwrap());
        let mut send = |letter: &str| {
            bench.take_with(Topic::Behaviors, &record, &[("headwater-redrive", letter)]);
            bench.user().recent().len()
        };
        assert_eq!(send("0-7"), events);
        assert_eq!(send("0-7"), events, "the same letter");
        assert_eq!(send("0-8"), 2 * events, "another letter");
        let dropped = &bench.pipeline.metrics().dropped;
        assert_eq!(
            dropped.with_label_values(&["duplicate"]).get(),
            events as u64
        );
    }
}

/// Goal: a record that is a dead letter for the second time still names the first. Method: one that was sent again and cannot be read.
#[test]
fn a_dead_letter_keeps_its_first_name() {
    let mut bench = Bench::new(&Config::default_config());
    let output = bench.take_with(
        Topic::Behaviors,
        &json!({}),
        &[("headwater-redrive", "0-7"), ("headwater-id", "x")],
    );
    let letters = of(&output, Topic::DeadLetters);
    assert_eq!(letters.len(), 1);
    let headers = letters[0].headers;
    assert_eq!(headers.get("headwater-redrive"), Some(&b"0-7"[..]));
    assert_eq!(
        headers.get("headwater-id"),
        Some(&b"headwater.behaviors-0-0"[..])
    );
}

/// Goal: rows of one user bear one pseudonym from the first request on, and none that can be made without the state. Method: a request of
/// a user of whom nothing is known; a behavior; another request.
#[test]
fn the_first_row_of_a_user_has_the_pseudonym_of_all_others() {
    let mut bench = Bench::new(&Config::default_config());
    let logged = |output: &StepOutput| {
        let rows = of(output, Topic::FeatureLog);
        assert_eq!(rows.len(), 1);
        String::from_utf8(rows[0].key.unwrap().to_vec()).unwrap()
    };
    let first = bench.take(Topic::ScoreRequests, &asking(2));
    assert_eq!(
        logged(&first),
        pseudonym("u", bench.user().salt()),
        "of the salt in the user's state"
    );
    assert_ne!(bench.user().salt(), [0; 16]);
    // The salt outlives the process.
    assert!(of(&first, Topic::Changelog).len() > 1, "user and position");
    bench.take(Topic::Behaviors, &clicking("e1"));
    let second = bench.take(Topic::ScoreRequests, &asking(2));
    assert_eq!(logged(&first), logged(&second));

    let nothing = Bench::new(&Config::default_config()).take(Topic::ScoreRequests, &asking(0));
    assert_eq!(
        of(&nothing, Topic::Changelog).len(),
        1,
        "without rows nobody is made known"
    );
}

/// What compaction leaves of the standing scores: each key's newest value, and of which part and how many items.
#[derive(Default)]
struct Compacted(BTreeMap<Vec<u8>, Option<(serde_json::Value, usize)>>);

impl Compacted {
    fn take(&mut self, output: &StepOutput) {
        let mut ids = std::collections::BTreeSet::new();
        for record in of(output, Topic::StandingScores) {
            let id = record.headers.get("headwater-id").unwrap();
            assert!(ids.insert(id), "two records of one id");
            let value = record.value.map(|value| {
                let answer: serde_json::Value = serde_json::from_slice(value).unwrap();
                let items = answer["items"].as_array().unwrap().len();
                (answer["part"].clone(), items)
            });
            self.0.insert(record.key.unwrap().to_vec(), value);
        }
    }

    /// Parts and items that are there.
    fn held(&self) -> (usize, usize) {
        let held = self.0.values().flatten();
        (held.clone().count(), held.map(|(_, items)| items).sum())
    }
}

/// Goal: a compacted topic holds the whole of a standing answer that is split, and nothing of it once it is over. Method: what compaction
/// leaves while the request stands, is replaced by a shorter one, is split otherwise by configuration, and ends.
#[test]
fn every_part_of_a_standing_answer_is_kept_and_ended() {
    let mut config = Config::default_config();
    // About three items.
    config.step.answer_max = Bytes::new(300);
    let mut bench = Bench::new(&config);
    let mut topic = Compacted::default();
    let standing = |candidates| {
        let mut request = asking(candidates);
        request["standing"] = json!({"ttl": "1h"});
        request
    };
    topic.take(&bench.take(Topic::ScoreRequests, &standing(8)));
    assert_eq!(topic.held(), (3, 8));
    let parts: Vec<_> = topic.0.values().flatten().map(|(part, _)| part).collect();
    assert!(
        (1..=3).all(|part| parts.contains(&&json!([part, 3]))),
        "{parts:?}"
    );

    topic.take(&bench.take(Topic::ScoreRequests, &standing(4)));
    assert_eq!(topic.held(), (2, 4), "replaced by a shorter one");

    bench.configure(|config| config.step.answer_max = Bytes::new(1 << 20));
    bench.take(Topic::Behaviors, &clicking("e1"));
    bench.now += 1_000;
    topic.take(&bench.step(&RecordBatch::default()));
    assert_eq!(topic.held(), (1, 4), "split by another configuration");

    bench.configure(|config| config.step.answer_max = Bytes::new(300));
    bench.take(Topic::Behaviors, &clicking("e2"));
    bench.now += 1_000;
    topic.take(&bench.step(&RecordBatch::default()));
    assert_eq!(topic.held(), (2, 4), "and back");

    bench.now += 3_600_000;
    topic.take(&bench.step(&RecordBatch::default()));
    assert_eq!(topic.held(), (0, 0), "ended");
    assert!(bench.user().standing().is_empty());
}
