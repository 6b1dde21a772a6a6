//! Reading what daemons logged from where the reading before says, beside reading all of it.

use std::borrow::Cow;

use headwater_config::Topic;
use headwater_consumers::log::local::{LocalLog, Options};
use headwater_consumers::log::{Outgoing, TopicPartition, TopicSpec};
use headwater_model::LoggedRequest;
use headwater_model::{FeatureBatch, LabelledRow, LogHead, LoggedExample, Policy, Scores};

use super::*;
use crate::world::unix_ms;

const ITEMS: [&str; 2] = ["ia", "ib"];

struct World {
    config: Config,
    log: LocalLog,
    random: u64,
    /// Times of rows that were scored.
    times: Vec<i64>,
}

impl World {
    fn new() -> Self {
        let log = LocalLog::in_memory(Options::new(unix_ms));
        for topic in [Topic::Labels, Topic::FeatureLog] {
            let spec = TopicSpec {
                topic,
                partitions: 2,
                replication_factor: 1,
                min_insync_replicas: 1,
            };
            log.create(&spec).unwrap();
        }
        Self {
            config: Config::from_toml("").unwrap(),
            log,
            random: 7,
            times: Vec::new(),
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.random >> 33) % bound
    }

    fn send(&self, topic: Topic, number: usize, value: &[u8]) {
        let mut producer = self.log.producer().unwrap();
        let id = format!("requests-0-{number}-0");
        producer
            .send(Outgoing {
                to: TopicPartition::new(topic, (number % 2) as i32),
                key: None,
                value: Some(value),
                headers: &[("headwater-id", id.as_bytes())],
            })
            .unwrap();
        producer.flush().unwrap();
    }

    fn score(&mut self, time: i64) {
        let number = self.times.len();
        self.times.push(time);
        let assembler = Assembler::new(&self.config).unwrap();
        let mut batch = FeatureBatch::new(assembler.schema());
        batch.begin(time, ITEMS.len());
        let mut scores = Scores::default();
        assembler.baseline().score(&batch, &mut scores);
        let request = format!("r{number}");
        let head = LogHead {
            model: "baseline",
            version: 1,
            request_id: &request,
            user: &format!("u{}", number % 7),
            scenario: "home",
            item_state: 0,
            embeddings: None,
        };
        let mut logged = Vec::new();
        let of = LoggedRequest::of(head, assembler.schema(), ITEMS, &batch, &scores);
        of.write(&mut logged).unwrap();
        self.send(Topic::FeatureLog, number, &logged);
    }

    /// Says what became of a row, of one item or both.
    fn label(&mut self, number: usize) {
        let only = self.below(3) as usize;
        let items = ITEMS.into_iter().enumerate();
        let items = items.filter(|(place, _)| *place != only);
        let items: Vec<&str> = items.map(|(_, item)| item).collect();
        let items = items.into_iter().map(|item| LoggedExample {
            item_id: item.into(),
            shown: self.times[number],
            position: None,
            propensity: None,
            weight: 1.0,
            labels: [(Cow::from("click"), self.below(2) as f64)].into(),
        });
        let items = items.collect();
        let labelled = LabelledRow {
            row: Cow::from(format!("requests-0-{number}")),
            request_id: Cow::from(format!("r{number}")),
            user: Cow::from(format!("u{}", number % 7)),
            scenario: "home".into(),
            time: self.times[number],
            window_ms: 1,
            policy: Policy::Scored,
            correction: false,
            items,
        };
        let mut label = Vec::new();
        labelled.write(&mut label);
        self.send(Topic::Labels, number, &label);
    }

    /// Names and labels of all that is read, and how many labelled items had no row.
    fn read(&self, folder: &Path, newest: usize) -> (Vec<String>, u64) {
        self.read_at_least(folder, [0, newest])
    }

    fn read_at_least(&self, folder: &Path, rows: [usize; 2]) -> (Vec<String>, u64) {
        let split = Split {
            learned: 0.6,
            validated: 0.2,
            piece: None,
        };
        let wanted = (split, rows, i64::MIN);
        let read = read((&self.config, &self.log), None, wanted, (folder, false));
        let (recorded, left_out) = read.unwrap();
        let rows = &recorded.corpus.rows;
        let all = (0..recorded.corpus.len()).map(|row| {
            let (label, weight) = (rows.labels[row], rows.weights[row]);
            format!(
                "{:?} {} {label} {weight}",
                recorded.named(row),
                recorded.time(row)
            )
        });
        (all.collect(), left_out.without_row)
    }
}

/// Goal: a training that begins where the one before says reads the same rows and labels as one that reads everything, and less. Method: rounds of rows whose times do not come in order, of labels that come late,
/// in parts and again, over two partitions; after each round both are read, with few rows wanted; then more rows than before, other topics, and a file that is not whole.
#[test]
fn what_is_passed_over_would_be_left_out() {
    let mut world = World::new();
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let [kept, fresh, half] = folders.each_ref().map(tempfile::TempDir::path);
    let whole = |world: &World, newest| {
        drop(std::fs::remove_file(fresh.join("reading.json")));
        world.read(fresh, newest)
    };
    for round in 0..25_i64 {
        for _ in 0..20 {
            let jitter = world.below(400) as i64;
            world.score(100 * round + jitter);
        }
        for _ in 0..30 {
            let scored = world.times.len();
            // Most of what was scored lately, some of long ago.
            let back = if world.below(8) == 0 {
                scored
            } else {
                45.min(scored)
            };
            let number = scored - 1 - world.below(back as u64) as usize;
            world.label(number);
        }
        assert_eq!(world.read(kept, 40), whole(&world, 40), "round {round}");
    }
    let reading = |folder: &Path| {
        let log = (&world.config, &world.log as &dyn Log);
        Reading::found(folder, log, 40).unwrap()
    };
    let first = reading(kept).unwrap();
    let all = world.times.len() as i64;
    let passed_over = first.from[1].iter().sum::<i64>();
    assert!(passed_over > all * 3 / 4, "{first:?} of {all}");
    assert!(first.from[0].iter().sum::<i64>() > 0, "{first:?}");
    // So many are wanted as are taken, which whole rows never come to.
    assert_eq!(world.read_at_least(kept, [40, 40]), whole(&world, 40));
    // All that was newer is gone: what is older is wanted again.
    let mut gone = first.clone();
    gone.later_than = i64::MAX;
    gone.keep(&Artifact::open(half).unwrap());
    assert_eq!(world.read_at_least(half, [10, 40]), whole(&world, 40));
    // Whoever wants more rows reads all of them.
    assert_eq!(world.read(kept, 60), whole(&world, 60));
    assert_eq!(world.read(kept, usize::MAX), whole(&world, usize::MAX));
    std::fs::write(half.join("reading.json"), b"{\"later_than\":").unwrap();
    assert!(reading(half).is_none());
    let mut other = world.config.clone();
    other.instance.prefix = "other".to_owned();
    let none = Reading::found(kept, (&other, &world.log), 40).unwrap();
    assert!(none.is_none(), "of other topics");
    // Topics that were made anew.
    let anew = World::new();
    let none = Reading::found(kept, (&anew.config, &anew.log), 40).unwrap();
    assert!(none.is_none(), "of topics that are gone");
}
