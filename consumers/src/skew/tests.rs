//! Rows made again from the records that they came of.

use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;

use headwater_config::{OnBehavior, Span, Topic};
use headwater_state::{Item, ItemTable, MemoryStores, Partition, Statistics, Stores as _};
use serde_json::{Value, json};

use super::*;
use crate::answer::HEADER_REDRIVE;
use crate::log::{RecordBatch, TopicPartition};
use crate::metrics::Metrics;
use crate::step::{Owned, Pipeline, StepOutput};
use crate::worker::settings_of;

const START: i64 = 1_700_000_000_000;
const MINUTE: i64 = 60_000;

/// A partition at work, and all that went through its topics.
struct World {
    config: Config,
    pipeline: Pipeline,
    owned: BTreeMap<i32, Owned>,
    items: ItemTable,
    samples: Receiver<Sample>,
    metrics: Metrics,
    now: i64,
    behaviors: RecordBatch,
    deltas: RecordBatch,
    statistics: Statistics,
    told: i64,
}

impl World {
    fn new(more: &str) -> Self {
        let text = format!(
            "[skew]\nshare = 1.0\n[key_vectors]\nlogged = true\n[state]\nrecent = 4\nallowed_lateness = \"30m\"\n{more}"
        );
        let mut config = Config::from_toml(&text).unwrap();
        config.step.request_max_age = Span::from_secs(1_000_000);
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let (sampler, samples) = Sampler::new(&config, metrics.skew.clone()).unwrap();
        let mut pipeline = Pipeline::new(&config, (1, 1), metrics.clone()).unwrap();
        pipeline.sample(sampler);
        let store = MemoryStores::default().open(0).unwrap();
        let owned = Owned {
            number: 0,
            users: Partition::open(store, settings_of(&config, 1)).unwrap(),
            statistics: Statistics::default(),
        };
        let mut items = ItemTable::default();
        for number in 0..5 {
            let groups = [format!("c{}", number % 2), format!("c{}", 2 + number % 3)];
            let item = Item {
                categories: groups.map(|name| items.number_of(&name)).into(),
                ..Item::default()
            };
            items.set_item(&format!("i{number}"), Some(item));
        }
        Self {
            config,
            pipeline,
            owned: BTreeMap::from([(0, owned)]),
            items,
            samples,
            metrics,
            now: START,
            behaviors: RecordBatch::default(),
            deltas: RecordBatch::default(),
            statistics: Statistics::default(),
            told: 0,
        }
    }

    /// A step of some records; what it counts of items comes back at once.
    fn step(&mut self, records: &RecordBatch) {
        let mut output = StepOutput::default();
        let (now, mut salt) = (Timestamp(self.now), || [1; 16]);
        let owned = &mut self.owned;
        let step = (self.pipeline).step(records, owned, &self.items, now, &mut salt, &mut output);
        step.unwrap();
        let all = output.transactional.iter();
        for record in all.filter(|record| record.at.topic == Topic::ItemDeltas) {
            let (at, offset) = (record.at, self.deltas.len() as i64);
            self.deltas
                .push(at, (offset, now.0), record.key, record.value, []);
            let delta = headwater_state::Delta::read(record.value.unwrap()).unwrap();
            self.statistics.fold(record.key.unwrap(), &delta);
        }
        let (items, told) = (&mut self.items, &mut self.told);
        self.statistics.changes(&mut |key, value| {
            items
                .apply_statistics((0, *told), key, Some(value))
                .unwrap();
            *told += 1;
        });
    }

    fn behavior(&mut self, record: &Value) {
        self.send(record, &[]);
    }

    fn send(&mut self, record: &Value, headers: &[(&str, &str)]) {
        let at = TopicPartition::new(Topic::Behaviors, 0);
        let place = (self.behaviors.len() as i64, self.now);
        let bytes = record.to_string();
        let mut records = RecordBatch::default();
        for batch in [&mut self.behaviors, &mut records] {
            let headers = headers.iter();
            let headers = headers.map(|(name, value)| (*name, Some(value.as_bytes())));
            batch.push(at, place, None, Some(bytes.as_bytes()), headers);
        }
        self.step(&records);
    }

    /// The user asks for all items; the number makes the request.
    fn ask(&mut self, user: &str, number: i64) {
        let all: Vec<String> = (0..6).map(|item| format!("i{item}")).collect();
        let request = json!({"request_id": format!("r{number}"), "user_id": user, "scenario": "home", "time": self.now, "candidates": all});
        let mut records = RecordBatch::default();
        let at = TopicPartition::new(Topic::ScoreRequests, 0);
        let bytes = request.to_string();
        records.push(at, (number, self.now), None, Some(bytes.as_bytes()), []);
        self.step(&records);
    }

    /// Days of three users who do this and that, some of it late, some twice, some too late to count; and ask.
    fn live(&mut self) {
        for number in 0..60_i64 {
            self.now = START + number * 47 * MINUTE;
            let late = [0, 3, 0, 45, 10][number as usize % 5] * MINUTE;
            let kind = ["impression", "click", "impression", "like"][number as usize % 4];
            let scenario = ["home", "shop"][number as usize % 2];
            self.behavior(&json!({
                "event_id": format!("e{}", number - i64::from(number % 7 == 6)),
                "user_id": format!("u{}", number % 3),
                "item_id": format!("i{}", number * number % 6),
                "kind": kind,
                "scenario": scenario,
                "time": self.now - late,
            }));
            if number % 3 == 2 {
                self.now += 1;
                self.ask(&format!("u{}", number / 3 % 4), number);
            }
        }
    }

    fn taken(&self) -> Vec<Sample> {
        self.samples.try_iter().collect()
    }

    /// Holds samples against the records but for those of some offsets, the log beginning at `first`.
    fn look(&self, samples: Vec<Sample>, first: i64, without: &[i64]) {
        let metrics = self.metrics.skew.clone();
        let mut again = Again::new(&self.config, 0, samples, first, metrics).unwrap();
        let until = again.until();
        let records = self.behaviors.iter().filter(|record| {
            (first..until).contains(&record.offset) && !without.contains(&record.offset)
        });
        for record in records {
            again.take(&record, Timestamp(self.now)).unwrap();
        }
        again.finish(until).unwrap();
    }

    fn told(&self, samples: &[Sample], first: i64, without: &[i64]) {
        let mut told = Told::new(
            &self.config,
            samples,
            (1, Timestamp::MIN),
            self.metrics.skew.clone(),
        );
        assert_eq!(told.partitions().collect::<Vec<_>>(), [0]);
        told.begin(0, first);
        for record in self.deltas.iter() {
            if record.offset >= first && !without.contains(&record.offset) {
                told.take(&record, Timestamp(self.now)).unwrap();
            }
        }
        told.finish();
    }

    /// Same, different and unsure so far.
    fn rows(&self) -> [u64; 3] {
        let of = |outcome| self.metrics.skew.rows.with_label_values(&[outcome]).get();
        ["same", "differs", "unsure"].map(of)
    }

    fn entities(&self) -> [u64; 3] {
        let entities = &self.metrics.skew.statistics;
        ["same", "differs", "unsure"].map(|outcome| entities.with_label_values(&[outcome]).get())
    }
}

/// Goal: rows that are right are found the same to the bit: by requests and by behaviors, of users known and not, of late, repeated and dropped behaviors, of recent and of
/// history; and statistics too. Method: days of three users in steps of a record, all rows made again from the records in one go.
#[test]
fn what_is_right_is_the_same() {
    let mut world = World::new("");
    world.live();
    let samples = world.taken();
    let requests = samples.len() as u64;
    assert_eq!(requests, 20);
    world.told(&samples, 0, &[]);
    world.look(samples, 0, &[]);
    assert_eq!(world.rows(), [requests, 0, 0]);
    let [same, differs, unsure] = world.entities();
    // Six items, five categories, and all together.
    assert_eq!((same, differs, unsure), (12, 0, 0));

    let mut world = World::new("");
    world.config.scoring.on_behavior = OnBehavior::Item;
    let (sampler, samples) = Sampler::new(&world.config, world.metrics.skew.clone()).unwrap();
    world.samples = samples;
    world.pipeline = Pipeline::new(&world.config, (1, 1), world.metrics.clone()).unwrap();
    world.pipeline.sample(sampler);
    world.live();
    let samples = world.taken();
    let requests = samples.len() as u64;
    assert!((30..60).contains(&requests), "{requests}");
    world.look(samples, 0, &[]);
    assert_eq!(world.rows(), [requests, 0, 0]);
}

/// Goal: rows between the behaviors of one record saw those before them alone. Method: records of a stranger, each with three events, each of which is answered with a score.
#[test]
fn rows_within_a_record_are_the_same() {
    let mut world = World::new(
        "[scoring]\non_behavior = \"item\"\n[source.behaviors]\nmapped = true\nevents = \"/list\"\nuser_id = \"^/u\"\ntime = \"/t\"\nitem_id = \"/i\"\n\
         constant = { kind = \"click\", scenario = \"s\" }\n",
    );
    for number in 0..9_i64 {
        world.now = START + number * MINUTE;
        let now = world.now;
        // The newest first, as some send them.
        let list: Vec<Value> = (0..3)
            .map(|of| json!({"t": now - of, "i": format!("i{}", (number + of) % 4)}))
            .collect();
        world.behavior(&json!({"u": "u", "list": list}));
    }
    let samples = world.taken();
    assert_eq!(samples.len(), 27);
    world.look(samples, 0, &[]);
    assert_eq!(world.rows(), [27, 0, 0]);
}

/// Goal: what was counted and is not in the log, or the other way round, is found, and of the user alone whom it is about; where the log has lost what they may follow from, nothing is
/// claimed. Method: a record left out; a behavior counted twice in state; the first half of the log gone.
#[test]
fn skew_is_found() {
    let live = || {
        let mut world = World::new("");
        world.live();
        world
    };
    let world = live();
    let samples = world.taken();
    // An impression of the second user, at 47 minutes past.
    let of_user = samples.iter().filter(|sample| sample.user == "u1");
    let of_user = of_user.count() as u64;
    let all = samples.len() as u64;
    assert!(of_user >= 4 && of_user < all);
    world.look(samples, 0, &[4]);
    let [same, differs, unsure] = world.rows();
    assert!(differs > 0 && differs <= of_user, "{differs} of {of_user}");
    assert_eq!((same + differs, unsure), (all, 0));

    let mut world = World::new("");
    world.live();
    world.taken();
    let twice = headwater_state::Behavior {
        at: Coordinates {
            offset: 3,
            index: 0,
        },
        time: Timestamp(world.now - 1),
        event: 0,
        kind: headwater_state::KindId::of("click"),
        scenario: ScenarioId::of("home"),
        item: Some("i1"),
        value: None,
        attributes: &[],
        text: None,
        sequences: &[],
    };
    let users = &mut world.owned.get_mut(&0).unwrap().users;
    users.fold("u2", &twice, &mut || [0; 16]).unwrap();
    world.now += 1;
    world.ask("u2", 100);
    world.ask("u1", 101);
    let samples = world.taken();
    world.look(samples, 0, &[]);
    assert_eq!(world.rows(), [1, 1, 0]);

    let mut world = live();
    world.taken();
    // A user who is new is still there whole.
    world.behavior(&json!({"user_id": "new", "item_id": "i1", "kind": "click", "scenario": "home", "time": world.now}));
    world.now += 1;
    world.ask("u1", 100);
    world.ask("new", 101);
    let samples = world.taken();
    world.look(samples, 30, &[]);
    assert_eq!(world.rows(), [1, 0, 1]);
    world.ask("new", 102);
    let samples = world.taken();
    world.look(samples, 30, &[60]);
    assert_eq!(world.rows(), [1, 1, 1]);
}

/// Goal: statistics that lost a delta, or saw one twice, are found; where the first deltas are gone, nothing is claimed of what may follow from them. Method: a delta of an item left out;
/// one folded that is not in the topic; the first ones gone.
#[test]
fn skew_of_statistics_is_found() {
    let mut world = World::new("");
    world.live();
    let samples = world.taken();
    let mut deltas = world.deltas.iter();
    let of_item = deltas.find(|record| record.key == Some(b"ii1"));
    let lost = of_item.unwrap().offset;
    drop(deltas);
    world.told(&samples, 0, &[lost]);
    assert_eq!(world.entities(), [11, 1, 0]);

    let last = world.deltas.len() as i64 - 1;
    world.told(&samples, last, &[]);
    assert_eq!(world.entities(), [14, 1, 9]);

    let mut delta = headwater_state::Delta::default();
    let (home, click) = (ScenarioId::of("home"), headwater_state::KindId::of("click"));
    let time = Timestamp(world.now);
    delta.add(home, click, time, headwater_state::FixedSum(0));
    world.items.fold(headwater_state::Entity::Total, &delta);
    world.now += 1;
    world.ask("u0", 100);
    let samples = world.taken();
    world.told(&samples, 0, &[]);
    let [_, differs, _] = world.entities();
    assert_eq!(differs, 2);

    // Statistics of long ago, or none at all: both are a first part of the deltas.
    let mut world = World::new("");
    world.live();
    world.taken();
    let now = ItemTable::default();
    let before = std::mem::replace(&mut world.items, now);
    world.now += 1;
    world.ask("u0", 100);
    world.items = before;
    let samples = world.taken();
    world.told(&samples, 0, &[]);
    let [_, differs, unsure] = world.entities();
    // What was asked for, and all together; nothing was known of categories.
    assert_eq!((differs, unsure), (5, 0));
}

/// Goal: what a daemon may have read otherwise than it is read now is no alarm: a record whose clock was ahead, a dead letter that was sent again, a log of which nothing is left that can be read. Method: each of them,
/// with a record left out.
#[test]
fn doubts_are_no_alarm() {
    let mut world = World::new("");
    world.live();
    world.taken();
    let clock = world.now;
    for ahead in [0, 3_600_000] {
        world.now = clock + ahead;
        let behavior = json!({"user_id": "u1", "item_id": "i1", "kind": "click", "scenario": "home", "time": clock});
        world.behavior(&behavior);
        world.now = clock + 1;
        world.ask("u1", 100 + ahead);
        let samples = world.taken();
        world.look(samples, 0, &[4]);
    }
    assert_eq!(world.rows(), [0, 1, 1]);

    let mut world = World::new("");
    world.live();
    world.taken();
    let behavior = json!({"user_id": "u1", "item_id": "i1", "kind": "click", "scenario": "home", "time": world.now});
    world.send(&behavior, &[(HEADER_REDRIVE, "0-7")]);
    world.now += 1;
    world.ask("u1", 100);
    let samples = world.taken();
    world.look(samples, 0, &[4]);
    assert_eq!(world.rows(), [0, 0, 1]);
    world.ask("u1", 101);
    let samples = world.taken();
    world.look(samples, 61, &[]);
    assert_eq!(world.rows(), [0, 0, 2]);
}

/// Goal: the share is what is configured, drawn anew each time that a request is scored, and what nobody takes is counted and dropped. Method: 20,000 draws; more requests than wait.
#[test]
fn a_share_is_handed_over() {
    let mut world = World::new("");
    world.config.skew.share = 0.05.try_into().unwrap();
    let (sampler, _samples) = Sampler::new(&world.config, world.metrics.skew.clone()).unwrap();
    let wanted = (0..20_000).filter(|time| {
        sampler.wants(&RowRequest {
            request_id: "r",
            user: "u",
            scenario_name: "home",
            scenario: ScenarioId::of("home"),
            time: Timestamp(*time),
            candidates: &[],
            order: None,
        })
    });
    // Four standard deviations are 123.
    assert!(wanted.count().abs_diff(1_000) < 123);
    world.config.skew.share = 0.0.try_into().unwrap();
    assert!(Sampler::new(&world.config, world.metrics.skew.clone()).is_none());
    for number in 0..SAMPLES_MAX as i64 + 5 {
        world.ask("u", number);
    }
    assert_eq!(world.taken().len(), SAMPLES_MAX);
    let left_out = world.metrics.skew.rows.with_label_values(&["left_out"]);
    assert_eq!(left_out.get(), 5);
}

/// Goal: what waits is bounded in bytes as well, and gives its room back when it is looked at (`LIMIT-1`); who watches sees it from the beginning. Method: rooms of a third of all there is; a table of one item with no bytes left; the
/// counters of a new registry.
#[test]
fn what_waits_is_bounded() {
    let all = Arc::default();
    let third = BYTES_MAX / 3;
    let mut rooms: Vec<Room> = (0..3).map(|_| Room::take(&all, third).unwrap()).collect();
    assert!(Room::take(&all, third).is_none());
    rooms.pop();
    assert!(Room::take(&all, third).is_some());
    rooms.clear();
    assert_eq!(all.load(Ordering::Relaxed), 0);

    // What goes from nothing to some is no increase to who watches: all outcomes are there from the beginning.
    let registry = prometheus::Registry::new();
    Metrics::register(&registry).unwrap();
    let families = registry.gather().into_iter();
    let of_skew = families.filter(|family| family.name().contains("_skew_"));
    let counters: usize = of_skew.map(|family| family.get_metric().len()).sum();
    assert_eq!(counters, 4 + 4 + 1 + 1);

    let world = World::new("");
    assert_eq!(world.items.part(["i1"], 1 << 20).unwrap().len(), 1);
    assert!(world.items.part(["i1", "i2"], 1).is_none());
}
