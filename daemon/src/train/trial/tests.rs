//! Trials on a log in memory: models that know more or less than the baseline, and rows whose labels follow from what they know.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_consumers::assemble::Assembler;
use headwater_consumers::log::local::{LocalLog, Options};
use headwater_consumers::log::{Outgoing, Producer, TopicPartition, TopicSpec};
use headwater_model::bahe::{
    Described, Head, HeadConfig, Layers, MANIFEST, Manifest, Objective, VALUES,
};
use headwater_model::language::to_safetensors;
use headwater_model::{
    Device, FeatureBatch, LabelledRow, LogHead, LoggedExample, LoggedRequest, Scores, Tensor,
};

use super::*;

mod several;

/// What the log-odds of a positive are, over those of the baseline.
const TRUTH: f32 = 1.0;
const USERS: u64 = 80;

/// None, but where labels are soon final.
fn canary(more: &str) -> f64 {
    if more.contains("canary_for") {
        0.5
    } else {
        0.0
    }
}

pub(in crate::train) struct World {
    pub(in crate::train) folder: tempfile::TempDir,
    pub(in crate::train) config: Config,
    pub(in crate::train) log: Arc<LocalLog>,
    trials: Trials,
    random: u64,
    rows: u64,
    /// Who scores every second user, and what that adds to the truth.
    canary: Option<(Named, f32)>,
}

impl World {
    pub(in crate::train) fn new(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state").display().to_string();
        let text = format!(
            "state.path = '{state}'\ntrain.canary = {}\n{more}\n",
            canary(more)
        );
        let config = Config::from_toml(&text).unwrap();
        let log = LocalLog::in_memory(Options::new(unix_ms));
        for topic in [Topic::Models, Topic::Labels, Topic::FeatureLog] {
            let spec = TopicSpec {
                topic,
                partitions: if topic == Topic::Models { 1 } else { 2 },
                replication_factor: 1,
                min_insync_replicas: 1,
            };
            log.create(&spec).unwrap();
        }
        let trials = Trials::new(&config, folder.path());
        Self {
            folder,
            config,
            log: Arc::new(log),
            trials,
            random: 5,
            rows: 0,
            canary: None,
        }
    }

    /// A model that adds this to the baseline's log-odds.
    fn model(&self, adds: f32) -> PathBuf {
        let schema = Assembler::new(&self.config).unwrap().schema().clone();
        let features = schema.shared().len() + schema.own().len();
        let head = HeadConfig {
            width: 0,
            sequences: 1,
            features,
            tasks: 1,
            projected: 1,
            inner: [4, 4],
            interest: 0,
            matches: 0,
            scenarios: 0,
            experts: 0,
            cross: 0,
        };
        let mut values = Head::random(&head, 1).unwrap();
        let bias = Tensor::from_vec(vec![adds], 1, &Device::Cpu).unwrap();
        values.insert("head.out.bias".to_owned(), bias);
        let values = to_safetensors(&values).unwrap();
        let described = Described {
            layers: (Layers::None, None),
            encoder: (None, 1),
            limit: 64,
            sequences: vec!["all".to_owned()],
            scenarios: Vec::new(),
            texts: Vec::new(),
            head,
            features: vec![[0.0, 1.0]; features],
            key_vectors: None,
            reads: headwater_model::dinmp::Reads::default(),
            objective: Objective::Labels,
            rows: [1, 1, 0],
            reached: None,
        };
        let folder = self.folder.path().join(format!("adds-{adds}"));
        std::fs::create_dir_all(&folder).unwrap();
        let manifest = Manifest::of(described, &schema, &values).bytes();
        std::fs::write(folder.join(MANIFEST), manifest).unwrap();
        std::fs::write(folder.join(VALUES), values).unwrap();
        folder
    }

    fn chance(&mut self) -> f32 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        ((self.random >> 33) as f32 + 0.5) / (1_u64 << 31) as f32
    }

    /// So many rows of two items that were scored now, and what became of them. Every fifth is in random order, where the truth may be another.
    pub(in crate::train) fn live(&mut self, rows: usize, [truth, by_chance]: [f32; 2]) {
        let assembler = Assembler::new(&self.config).unwrap();
        let schema = assembler.schema().clone();
        let mut batch = FeatureBatch::new(&schema);
        let mut scores = Scores::default();
        let mut producer = self.log.producer().unwrap();
        for _ in 0..rows {
            let number = self.rows;
            self.rows += 1;
            let time = 1_000_000 + number as i64;
            batch.begin(time, 2);
            assembler.baseline().score(&batch, &mut scores);
            let user = format!("user-{}", number % USERS);
            let row = format!("requests-0-{number}");
            let canary = (self.canary.clone()).filter(|_| (number % USERS).is_multiple_of(2));
            let (model, version) = canary.as_ref().map_or(("baseline", "1"), |(named, _)| {
                named.name.split_once('-').unwrap()
            });
            let head = LogHead {
                model,
                version: version.parse().unwrap(),
                request_id: &row,
                user: &user,
                scenario: "home",
                item_state: 0,
                embeddings: None,
            };
            let mut logged = Vec::new();
            let of = LoggedRequest::of(head, &schema, ["ia", "ib"], &batch, &scores);
            of.write(&mut logged).unwrap();
            let policy = if (number + number / USERS).is_multiple_of(5) {
                Policy::Random
            } else {
                Policy::Scored
            };
            let truth = if policy == Policy::Random {
                by_chance
            } else {
                truth + canary.as_ref().map_or(0.0, |(_, adds)| *adds)
            };
            let items = ["ia", "ib"].into_iter().enumerate().map(|(place, item)| {
                let base = headwater_model::bahe::base_log_odds(scores.candidate(place)[0]);
                let probability = 1.0 / (1.0 + (-(base + truth)).exp());
                let label = f64::from(u8::from(self.chance() < probability));
                LoggedExample {
                    item_id: item.into(),
                    shown: time,
                    position: None,
                    propensity: None,
                    weight: 1.0,
                    labels: BTreeMap::from([(Cow::from("click"), label)]),
                }
            });
            let labelled = LabelledRow {
                row: Cow::from(&*row),
                request_id: Cow::from(&*row),
                user: Cow::from(&*user),
                scenario: "home".into(),
                time,
                window_ms: 1,
                policy,
                correction: false,
                items: items.collect(),
            };
            let mut label = Vec::new();
            labelled.write(&mut label);
            let id = format!("{row}-0");
            let partition = (number % 2) as i32;
            send(&mut *producer, Topic::FeatureLog, partition, &logged, &id);
            send(&mut *producer, Topic::Labels, partition, &label, &id);
        }
        producer.flush().unwrap();
    }

    fn turn(&mut self) -> (Standing, Vec<(Seat, Outcome)>) {
        let turn = self.trials.turn(&self.config, &*self.log).unwrap();
        assert!(turn.failed.is_empty());
        (turn.standing, turn.ended)
    }

    fn promote(&self, adds: f32) -> Named {
        let announced = champion::promote(&self.config, &*self.log, &self.model(adds)).unwrap();
        announced.champion.unwrap()
    }

    fn try_it(&self, adds: f32) -> Named {
        let folder = self.model(adds);
        let trial = champion::put_on_trial(&self.config, &*self.log, &folder, None).unwrap();
        trial.model.unwrap()
    }
}

/// The challenger that is a model.
fn tried(standing: Standing) -> Trial {
    let mut challengers = standing.challengers.into_iter();
    challengers.find(|trial| trial.model.is_some()).unwrap()
}

fn send(producer: &mut dyn Producer, topic: Topic, partition: i32, value: &[u8], id: &str) {
    producer
        .send(Outgoing {
            to: TopicPartition::new(topic, partition),
            key: None,
            value: Some(value),
            headers: &[("headwater-id", id.as_bytes())],
        })
        .unwrap();
}

/// Goal: who is better on live rows becomes champion, and only then; rows from before its trial are no evidence, and whoever judges can be another at each look. Method: thousands of rows in the
/// log, a challenger that knows the truth and has no rows of its own yet, then few, then enough, each time judged by somebody who knows nothing but the log.
#[test]
fn who_proves_itself_becomes_champion() {
    let mut world = World::new("");
    world.live(500, [TRUTH; 2]);
    let challenger = world.try_it(TRUTH);
    let (standing, outcomes) = world.turn();
    assert!(
        outcomes.is_empty()
            && standing
                .challengers
                .into_iter()
                .next()
                .unwrap()
                .looks
                .is_empty()
    );
    world.live(50, [TRUTH; 2]);
    assert!(world.turn().1.is_empty());
    let mut looks = 0;
    let mut rows = 50;
    loop {
        world.trials = Trials::new(&world.config, world.folder.path());
        let (standing, outcomes) = world.turn();
        if let [(seat, outcome)] = outcomes[..] {
            assert_eq!((seat, outcome), (Seat::Challenger, Outcome::Promoted));
            let announced = standing.announced.unwrap();
            assert_eq!(announced.champion, Some(challenger.clone()));
            assert_eq!(announced.cause, Some(champion::Cause::ProvedItself));
            assert!(standing.challengers.is_empty());
            // The baseline, which was there before, stays beside it.
            assert_eq!(standing.watch.unwrap().model, None);
            break;
        }
        let trial = tried(standing);
        assert!(trial.looks.len() <= looks + 1);
        if let Some(look) = trial.looks.get(looks) {
            looks += 1;
            assert!(
                look.all.rows >= 200 && look.all.rows <= 2 * rows,
                "{look:?}"
            );
            assert_eq!(look.all.users.min(80), look.all.users);
            assert!(look.random.rows > 0 && look.random.rows < look.all.rows / 4);
        }
        assert!(rows < 3_000, "{trial:?}");
        world.live(50, [TRUTH; 2]);
        rows += 50;
    }
}

/// Goal: who is no better is dropped and never promoted: a worse one, one that says the same, and one that is better only where the champion's scores had put rows in order. Method: each on trial, beside
/// rows of its own truth, until something becomes of it.
#[test]
fn who_is_no_better_is_dropped() {
    for (adds, truths) in [
        (-TRUTH, [TRUTH, TRUTH]),
        (0.0, [TRUTH, TRUTH]),
        (1.0, [1.2, -1.5]),
    ] {
        let mut world = World::new("");
        world.try_it(adds);
        let mut outcomes = Vec::new();
        let mut turns = 0;
        while outcomes.is_empty() && turns < if adds < 1.0 { 6 } else { 2 } {
            // Enough positives by chance, where these are rare, for the first look.
            let rows = if adds < 1.0 { 400 } else { 3_000 };
            world.live(rows << (turns / 2), truths);
            outcomes = world.turn().1;
            turns += 1;
        }
        let standing = world.turn().0;
        assert_eq!(standing.announced, None, "{adds}");
        if adds < 1.0 {
            assert_eq!(outcomes, [(Seat::Challenger, Outcome::Dropped)], "{adds}");
            assert!(standing.challengers.is_empty());
        } else {
            let trial = tried(standing);
            let last = trial.looks.last().unwrap();
            assert!(last.all.z > 4.0 && last.random.z < -2.0, "{last:?}");
        }
    }
    // Nobody waits for ever.
    let mut world = World::new(
        "train.trial = \"1ms\"\nlabels.shown_within = \"1ms\"\n\
         tasks.click = { positive = [\"click\"], trials = [\"impression\"], scenarios = [], window = \"1ms\" }",
    );
    world.try_it(TRUTH);
    std::thread::sleep(std::time::Duration::from_millis(3));
    assert_eq!(world.turn().1, [(Seat::Challenger, Outcome::Dropped)]);
}

/// Goal: a champion that was spoiled goes back by itself, to who was it before, and stays gone; one that is right stays; whoever is pinned stays whatever comes; a challenger begins anew beside
/// another champion. Method: a good champion, a spoilt one over it, rows; then the same pinned; then a challenger while the champion is changed by hand.
#[test]
fn a_spoilt_champion_goes_back() {
    let mut world = World::new("");
    let good = world.promote(TRUTH);
    let (standing, _) = world.turn();
    assert_eq!(standing.watch.as_ref().unwrap().model, None, "the baseline");
    for _ in 0..5 {
        world.live(200, [TRUTH; 2]);
        let (standing, outcomes) = world.turn();
        assert_eq!(standing.champion(), Some(&good), "who is right stays");
        // Each time it is seen to be.
        assert_eq!(outcomes, [(Seat::Former, Outcome::BegunAnew)]);
        assert!(standing.watch.unwrap().looks.is_empty());
    }
    let spoilt = world.promote(-3.0);
    world.turn();
    world.live(300, [TRUTH; 2]);
    let (standing, outcomes) = world.turn();
    assert_eq!(outcomes, [(Seat::Former, Outcome::WentBack)]);
    let announced = standing.announced.unwrap();
    assert_eq!(announced.champion, Some(good.clone()));
    assert_eq!(announced.former, Some(spoilt.clone()));
    assert_eq!(announced.cause, Some(champion::Cause::Disappointed));
    assert!(
        standing.watch.is_none(),
        "what disappointed is not tried again"
    );

    // Its bytes are there still: somebody may want it, and gets it, for as long as it is pinned.
    assert_eq!(world.promote(-3.0), spoilt);
    champion::pin(&world.config, &*world.log, true).unwrap();
    world.turn();
    world.live(300, [TRUTH; 2]);
    assert!(world.turn().1.is_empty());
    champion::pin(&world.config, &*world.log, false).unwrap();
    let (standing, outcomes) = world.turn();
    assert_eq!(outcomes, [(Seat::Former, Outcome::WentBack)]);
    assert_eq!(standing.champion(), Some(&good));

    // Beside another champion it begins anew.
    world.try_it(TRUTH + 0.3);
    world.live(100, [TRUTH; 2]);
    let looks = tried(world.turn().0).looks;
    assert_eq!(looks.len(), 1);
    champion::retire(&world.config, &*world.log).unwrap();
    let trial = tried(world.turn().0);
    assert_eq!((trial.champion, trial.looks.len()), (None, 0));
    let key = format!("trial/challenger/{}", trial.model.unwrap().id);
    // What nobody can read is nobody's.
    let mut producer = world.log.producer().unwrap();
    let bad = Outgoing {
        to: TopicPartition::new(Topic::Models, 0),
        key: Some(key.as_bytes()),
        value: Some(b"{\"format\":1}"),
        headers: &[],
    };
    producer.send(bad).unwrap();
    producer.flush().unwrap();
    assert!(world.turn().0.challengers.is_empty());
}

/// Goal: who dies between a look and what follows from it loses nothing; who comes too late changes nothing. Method: a trial with a look that says what follows, and nobody who did it; a trial that was looked
/// at while another took its place; the same look noted twice.
#[test]
fn whoever_dies_or_is_late_loses_nothing() {
    let mut world = World::new("");
    let challenger = world.try_it(TRUTH);
    world.live(400, [TRUTH; 2]);
    let held = champion::standing(&world.config, &*world.log).unwrap();
    let held = held.challengers[0].clone();
    let mut seen = held.clone();
    world.trials.settled(&world.config, &*world.log).unwrap();
    let asked = (&world.config, &*world.log as &dyn Log);
    let judged = world.trials.look(asked, Seat::Challenger, &held).unwrap();
    let outcome = world.trials.outcome(Seat::Challenger, &mut seen, judged);
    assert_eq!(outcome, Some(Outcome::Promoted));
    let note = |world: &World, held: &Trial, now: Option<&Trial>| {
        champion::note(&world.config, &*world.log, (Seat::Challenger, held), now).unwrap()
    };
    assert!(note(&world, &held, Some(&seen)));
    // Another that looked as well, or that would end what it knew.
    assert!(!note(&world, &held, Some(&seen)));
    assert!(!note(&world, &held, None));
    let (standing, outcomes) = world.turn();
    assert_eq!(outcomes, [(Seat::Challenger, Outcome::Promoted)]);
    assert_eq!(standing.champion(), Some(&challenger));

    // It is ended by another while it is looked at.
    world.try_it(-TRUTH);
    let late = champion::standing(&world.config, &*world.log)
        .unwrap()
        .challengers
        .remove(0);
    assert!(note(&world, &late, None));
    let other = world.try_it(TRUTH + 0.2);
    let taken = champion::take_over(&world.config, &*world.log, Seat::Challenger, &late).unwrap();
    assert_eq!(taken, None);
    let standing = world.turn().0;
    assert_eq!(standing.champion(), Some(&challenger));
    assert_eq!(tried(standing).model, Some(other));
}

/// Goal: what cannot be used or read stops nobody else. Method: a champion of other rows, beside which one proves itself over the baseline; a former of other rows, which is not tried again and again; a record
/// that nobody can read, which is told, and after which the challenger of its time goes; bytes that are gone.
#[test]
fn what_cannot_be_used_stops_nobody() {
    let mut world = World::new("");
    world.promote(-1.0);
    let former = world.promote(-2.0);
    // Other rows from now on.
    let state = world.folder.path().join("state").display().to_string();
    let tasks = "tasks.click = { positive = [\"click\", \"like\"], trials = [\"impression\"], scenarios = [] }";
    let text = format!("state.path = '{state}'\ntrain.canary = 0.0\n{tasks}\n");
    world.config = Config::from_toml(&text).unwrap();
    world.trials = Trials::new(&world.config, world.folder.path());
    world.live(300, [TRUTH; 2]);
    for _ in 0..3 {
        let watch = world.turn().0.watch.unwrap();
        assert!(watch.looks.is_empty());
    }
    let challenger = world.try_it(TRUTH);
    world.live(300, [TRUTH; 2]);
    let (standing, outcomes) = world.turn();
    assert_eq!(
        outcomes.last(),
        Some(&(Seat::Challenger, Outcome::Promoted))
    );
    let announced = standing.announced.unwrap();
    assert_eq!(
        (announced.champion, announced.former),
        (Some(challenger), Some(former))
    );
    world.live(300, [TRUTH; 2]);
    let (standing, outcomes) = world.turn();
    // The baseline is held against the champion all the while.
    let wanted = [
        (Seat::Former, Outcome::Dropped),
        (Seat::Challenger, Outcome::BegunAnew),
    ];
    assert_eq!(outcomes, wanted);
    assert!(standing.watch.unwrap().ended);
    assert!(world.turn().1.is_empty());

    let next = world.try_it(TRUTH + 0.1);
    world.live(200, [TRUTH; 2]);
    let mut producer = world.log.producer().unwrap();
    send(&mut *producer, Topic::Labels, 0, b"{}", "requests-0-1");
    producer.flush().unwrap();
    let turn = world.trials.turn(&world.config, &*world.log).unwrap();
    assert_eq!(turn.failed, [Seat::Challenger; 2], "the baseline's as well");
    // Not at once again.
    assert!(world.turn().1.is_empty());
    world.trials.failed.clear();
    for part in 0..2 {
        let key = format!("artifact/{}/{part}", next.id);
        let gone = Outgoing {
            to: TopicPartition::new(Topic::Models, 0),
            key: Some(key.as_bytes()),
            value: None,
            headers: &[],
        };
        producer.send(gone).unwrap();
    }
    producer.flush().unwrap();
    let turn = world.trials.turn(&world.config, &*world.log).unwrap();
    assert_eq!(turn.ended, [(Seat::Challenger, Outcome::Dropped)]);
}

/// Goal: who has proved itself scores some users first, on every instance, and is champion unless these do less; then nobody but the champion scores. Method: a challenger that knows the truth, whose users
/// do the same, or less; who holds what, before, while and after; and pinned meanwhile.
#[test]
fn who_proves_itself_scores_some_users_first() {
    for (adds, becomes) in [(0.0, Outcome::Promoted), (-2.0, Outcome::Dropped)] {
        let mut world = World::new(
            "train.canary_for = \"1ms\"\nlabels.shown_within = \"1ms\"\n\
             tasks.click = { positive = [\"click\"], trials = [\"impression\"], scenarios = [], window = \"1ms\" }",
        );
        let held = std::sync::Arc::<champion::Held>::default();
        let asked = std::sync::Arc::clone(&held);
        let mut follower = champion::Follower::new(&world.config, &*world.log, asked).unwrap();
        let mut scoring = || {
            while !follower.turn().unwrap() {}
            let scoring = held.other_than(u64::MAX).unwrap().1;
            [scoring.model.is_some(), scoring.canary.is_some()]
        };
        let challenger = world.try_it(TRUTH);
        assert_eq!(scoring(), [false; 2]);
        world.live(300, [TRUTH; 2]);
        assert_eq!(world.turn().1, [(Seat::Challenger, Outcome::Canary)]);
        assert_eq!(scoring(), [false, true]);
        champion::pin(&world.config, &*world.log, true).unwrap();
        assert_eq!(scoring(), [false; 2]);
        champion::pin(&world.config, &*world.log, false).unwrap();
        assert_eq!(scoring(), [false, true]);
        // Nobody came so far.
        std::thread::sleep(std::time::Duration::from_millis(5));
        assert!(world.turn().1.is_empty());
        world.canary = Some((challenger.clone(), adds));
        world.live(600, [TRUTH; 2]);
        let (standing, outcomes) = world.turn();
        assert_eq!(outcomes, [(Seat::Challenger, becomes)], "{standing:?}");
        assert!(standing.challengers.is_empty());
        let is_promoted = becomes == Outcome::Promoted;
        assert_eq!(
            standing.champion(),
            Some(&challenger).filter(|_| is_promoted)
        );
        assert_eq!(scoring(), [is_promoted, false]);
    }
}

/// Goal: a canary that was seen to harm is dropped by whoever comes next, where nobody did it then. Method: such a look noted, its judge dead, and its time over.
#[test]
fn a_harm_that_was_seen_is_not_forgotten() {
    let mut world = World::new(
        "train.canary_for = \"1ms\"\nlabels.shown_within = \"1ms\"\n\
         tasks.click = { positive = [\"click\"], trials = [\"impression\"], scenarios = [], window = \"1ms\" }",
    );
    world.try_it(TRUTH);
    world.live(300, [TRUTH; 2]);
    assert_eq!(world.turn().1, [(Seat::Challenger, Outcome::Canary)]);
    let held = tried(world.turn().0);
    let mut seen = held.clone();
    let look = CanaryLook {
        time: unix_ms(),
        rows: [600, 600],
        positives: [0.3, 0.1],
        z: -5.0,
    };
    seen.canary.as_mut().unwrap().looks.push(look);
    let seat = (Seat::Challenger, &held);
    assert!(champion::note(&world.config, &*world.log, seat, Some(&seen)).unwrap());
    std::thread::sleep(std::time::Duration::from_millis(5));
    let (standing, outcomes) = world.turn();
    assert_eq!(outcomes, [(Seat::Challenger, Outcome::Dropped)]);
    assert_eq!(standing.champion(), None);
}
