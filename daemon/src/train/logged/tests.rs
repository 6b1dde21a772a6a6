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
    fn new(more: &str) -> Self {
        let log = LocalLog::in_memory(Options::new(unix_ms));
        for (topic, partitions) in [
            (Topic::Labels, 2),
            (Topic::FeatureLog, 2),
            (Topic::Models, 1),
        ] {
            let spec = TopicSpec {
                topic,
                partitions,
                replication_factor: 1,
                min_insync_replicas: 1,
            };
            log.create(&spec).unwrap();
        }
        Self {
            config: Config::from_toml(more).unwrap(),
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
        let items = items
            .map(|(_, item)| (item, self.below(2) as f64))
            .collect();
        self.say(number, "click", items);
    }

    /// Says what became of items of a row, for a task.
    fn say(&self, number: usize, task: &'static str, items: Vec<(&str, f64)>) {
        let items = items.into_iter().map(|(item, label)| LoggedExample {
            item_id: item.into(),
            shown: self.times[number],
            position: None,
            propensity: None,
            weight: 1.0,
            labels: [(Cow::from(task), label)].into(),
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
        let read = read(
            (&self.config, &self.log),
            Asked::default(),
            wanted,
            (folder, false),
        );
        let (recorded, left_out, _) = read.unwrap();
        (lines(&recorded), left_out.without_row)
    }
}

/// Names, times and labels of all rows.
fn lines(recorded: &Recorded) -> Vec<String> {
    let rows = &recorded.corpus.rows;
    let tasks = recorded.corpus.tasks.len();
    let all = (0..recorded.corpus.len()).map(|row| {
        let of = row * tasks..(row + 1) * tasks;
        let (labels, weights) = (&rows.labels[of.clone()], &rows.weights[of]);
        let time = recorded.time(row);
        format!("{:?} {time} {labels:?} {weights:?}", recorded.named(row))
    });
    all.collect()
}

/// Goal: a training that begins where the one before says reads the same rows and labels as one that reads everything, and less. Method: rounds of rows whose times do not come in order, of labels that come late,
/// in parts and again, over two partitions; after each round both are read, with few rows wanted; then more rows than before, other topics, and a file that is not whole.
#[test]
fn what_is_passed_over_would_be_left_out() {
    let mut world = World::new("");
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
    let anew = World::new("");
    let none = Reading::found(kept, (&anew.config, &anew.log), 40).unwrap();
    assert!(none.is_none(), "of topics that are gone");
}

/// Goal: what goes on from reading to reading reads each row once, with all labels of it, however late a task's come. Method: rows whose times do not come in order, over two partitions; labels of two tasks, one with a window ten times
/// as long, released in the order of rows' times as time goes on, by uneven steps; what all readings read beside what one reads in the end, and corrections that change nothing.
#[test]
fn each_row_is_read_on_once() {
    let mut world = World::new(
        "kinds.names = ['impression', 'click', 'buy']\n[tasks.buy]\npositive = ['buy']\ntrials = ['impression']\nscenarios = []\nwindow = '1h'\n[tasks.click]\npositive = ['click']\ntrials = ['impression']\nscenarios = []\nwindow = '10h'\n",
    );
    let windows = [("buy", 60_i64), ("click", 600)];
    let mut released = [[0; 2]; 2];
    let mut read_on = Vec::new();
    let before = Before {
        moments: Vec::new(),
        newest: i64::MIN,
    };
    let mut reached = Reached::default();
    reached.from = [vec![0; 2], vec![0; 2]];
    let hour = 60_000;
    let mut readings = 0;
    let mut minute = 0;
    while minute < 6_000 {
        minute += 20 + world.below(60) as i64;
        for _ in 0..world.below(8) {
            let jitter = world.below(50) as i64;
            world.score((minute - jitter) * hour);
        }
        for (place, (task, window)) in windows.into_iter().enumerate() {
            for partition in 0..2 {
                let mut rows: Vec<usize> = (partition..world.times.len()).step_by(2).collect();
                rows.sort_by_key(|number| (world.times[*number], *number));
                // What is scored later is not older than this.
                let due = rows
                    .into_iter()
                    .filter(|number| world.times[*number] / hour + window + 60 < minute);
                for number in due.skip(released[place][partition]).collect::<Vec<_>>() {
                    let label = |item: usize| ((number * 7 + item * 3 + place) % 5 % 2) as f64;
                    let items = (0..2).map(|item| (ITEMS[item], label(item))).collect();
                    world.say(number, task, items);
                    released[place][partition] += 1;
                }
            }
        }
        if released[1][0] > 0 && world.below(3) == 0 {
            // One that was read before is labelled anew.
            world.say(0, "click", vec![("ia", 1.0)]);
        }
        let asked = (&reached, &before);
        let of = (&world.config, &world.log as &dyn Log);
        match read_on_all(of, asked) {
            Err(TrainError::TooFew { found, .. }) => assert_eq!(found, 0),
            read => {
                let (recorded, left_out, now) = read.unwrap();
                assert_eq!((left_out.without_row, left_out.other_schema), (0, 0));
                read_on.extend(lines(&recorded));
                reached = now;
                readings += 1;
            }
        }
    }
    assert!(readings > 20, "{readings}");
    let fresh = tempfile::tempdir().unwrap();
    let (mut whole, _) = world.read(fresh.path(), usize::MAX);
    assert!(
        read_on.len() > 500 && read_on.len() == whole.len(),
        "{}",
        read_on.len()
    );
    // The row that was labelled anew, as it was when it was read.
    let is_anew = |line: &String| line.starts_with("(\"r0\", \"ia\")");
    whole.retain(|line| !is_anew(line));
    read_on.retain(|line| !is_anew(line));
    whole.sort();
    read_on.sort();
    let differs = read_on.iter().zip(&whole).find(|(one, other)| one != other);
    assert_eq!(differs, None);
}

fn read_on_all(of: (&Config, &dyn Log), asked: (&Reached, &Before)) -> Result<Read, TrainError> {
    read_on(of, Asked::default(), asked, (10, [1, usize::MAX]))
}

/// Goal: rows from before a task was added are learned from under the schema of today, without a label of the new task; rows of a schema that nobody told of, and those whose numbers mean something else now, are left out and counted.
/// Method: rows under one task, then under two, read under two with and without a word of the first schema, and under another half-life.
#[test]
fn rows_of_an_older_schema_are_learned_from() {
    const CLICK: &str = "kinds.names = ['impression', 'click', 'buy']\n[tasks.click]\npositive = ['click']\ntrials = ['impression']\nscenarios = []\n";
    const BUY: &str = "[tasks.buy]\npositive = ['buy']\ntrials = ['impression']\nscenarios = []\n";
    let mut world = World::new(CLICK);
    let all = |world: &World| {
        let mut reached = Reached::default();
        reached.from = [vec![0; 2], vec![0; 2]];
        let before = Before {
            moments: Vec::new(),
            newest: i64::MIN,
        };
        let of = (&world.config, &world.log as &dyn Log);
        let (recorded, left_out, _) = read_on_all(of, (&reached, &before)).unwrap();
        (recorded, [left_out.without_row, left_out.other_schema])
    };
    let both = || ITEMS.iter().map(|item| (*item, 1.0)).collect();
    for number in 0..30 {
        world.score(1_000 * (number as i64 + 1));
        world.say(number, "click", both());
    }
    let (under_one, _) = all(&world);
    let mut older = world.config.clone();

    world.config = Config::from_toml(&format!("{CLICK}{BUY}")).unwrap();
    for number in 30..50 {
        world.score(1_000 * (number as i64 + 1));
        for task in ["buy", "click"] {
            world.say(number, task, both());
        }
    }
    let (recorded, left_out) = all(&world);
    assert_eq!(
        (recorded.corpus.len(), left_out),
        (40, [0, 30]),
        "nobody told"
    );
    older.scoring.feature_log = false;
    crate::schemas::tell(&older, &world.log);
    assert_eq!(
        all(&world).1,
        [0, 30],
        "of what is not logged nothing is told"
    );
    older.scoring.feature_log = true;
    crate::schemas::tell(&older, &world.log);
    let (recorded, left_out) = all(&world);
    assert_eq!((recorded.corpus.len(), left_out), (100, [0, 0]));
    let corpus = &recorded.corpus;
    assert_eq!(corpus.tasks, ["buy", "click"]);
    let (old, new) = corpus.rows.weights.split_at(60 * 2);
    assert!(old.chunks(2).all(|weights| weights == [0.0, 1.0]));
    assert!(new.iter().all(|weight| *weight == 1.0));
    // What the baseline says of the old task is what it said.
    let said = corpus.rows.base[..120].iter().skip(1).step_by(2);
    for (one, other) in said.zip(&under_one.corpus.rows.base) {
        assert!((one - other).abs() < 1e-6, "{one} {other}");
    }

    let lives = "[scoring]\nhalf_life_short = '1h'\n";
    world.config = Config::from_toml(&format!("{CLICK}{BUY}{lives}")).unwrap();
    assert_eq!(all(&world).1, [0, 50]);
}
