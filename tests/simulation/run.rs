//! One seed, one run: a world is made, lived in with faults, brought to rest without them, and judged.

use std::sync::Arc;
use std::time::Duration;

use headwater_config::Topic;
use headwater_consumers::Metrics;
use headwater_consumers::log::local::{LocalLog, Options};
use headwater_consumers::log::{Log, Outgoing, TopicPartition, TopicSpec};
use headwater_consumers::partitioner::partition_of;

use headwater_consumers::encode::Encode;
use headwater_state::Timestamp;

use crate::auditor;
use crate::cluster::{Daemon, Ground};
use crate::fate::{BEGINNING, Fate, Hook, Mix};
use crate::random::Random;
use crate::skew::Skew;
use crate::stores::SimStores;
use crate::texts;
use crate::workload::{Input, Plan, Workload};

/// How a run ended.
pub(crate) struct Outcome {
    pub seed: u64,
    /// What is wrong, if something is.
    pub wrong: Option<String>,
    /// What happened, where it was to be told.
    pub story: Vec<String>,
    pub tally: Tally,
}

/// What a run was worth.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub befallen: u64,
    pub behaviors: u64,
    pub counted: u64,
    pub answers: u64,
    pub rows: u64,
    pub dead_letters: u64,
    pub vectors: u64,
    /// Rows with vectors, by the model that scored them, of [`crate::deep::models`].
    pub by_model: [u64; 3],
    /// Rows that name texts at which nobody looked.
    pub named: u64,
    /// Rows that were made again from the log.
    pub made_again: u64,
    /// Labels that were published, and those that were held against an exact count.
    pub labels: u64,
    pub exact_labels: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.befallen += other.befallen;
        self.behaviors += other.behaviors;
        self.counted += other.counted;
        self.answers += other.answers;
        self.rows += other.rows;
        self.dead_letters += other.dead_letters;
        self.vectors += other.vectors;
        for (ours, theirs) in self.by_model.iter_mut().zip(other.by_model) {
            *ours += theirs;
        }
        self.named += other.named;
        self.made_again += other.made_again;
        self.labels += other.labels;
        self.exact_labels += other.exact_labels;
    }
}

/// Runs a seed; with `told`, its story comes along.
pub(crate) fn run(seed: u64, told: bool, metrics: &Metrics) -> Outcome {
    let mut random = Random::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x6865_6164);
    let mut world = World::new(&mut random, told, metrics);
    let mut tally = Tally::default();
    let wrong = world
        .live()
        .and_then(|()| world.rest())
        .and_then(|()| world.judge(&mut tally))
        .err();
    tally.befallen = world.ground.fate.befallen();
    Outcome {
        seed,
        wrong,
        story: world.ground.fate.story(),
        tally,
    }
}

struct World {
    ground: Ground,
    local: Arc<LocalLog>,
    random: Random,
    workload: Workload,
    daemons: Vec<Daemon>,
    /// What was said of items that nobody touches.
    said: Vec<Input>,
    /// What the host does to daemons, one action in so many; 0: nothing.
    unrest: u64,
    actions: u64,
}

/// How long a member may be silent, and how long it may keep a partition, in the world's time.
const SESSION: Duration = Duration::from_secs(3);

/// A round of rest, milliseconds: rounds are passed until nothing has happened for the longest span that anybody waits.
const ROUND_MS: i64 = 50;
const ROUNDS_MAX: u64 = 2_000;

impl World {
    fn new(random: &mut Random, told: bool, metrics: &Metrics) -> Self {
        let plan = Plan::new(&mut random.fork());
        let mut fates = random.fork();
        let mix = mix(&mut fates);
        let rate = *fates.pick(&[0, 25, 60, 60, 150, 150, 400, 1_000]);
        let unrest = *fates.pick(&[0, 8, 20, 60]);
        let fate = Fate::new(fates.fork(), mix, rate, told);
        let clock = Arc::clone(&fate);
        let mut options = Options::new(move || clock.now());
        options.session = SESSION;
        options.rebalance = SESSION;
        options.segment_bytes = plan.segment_bytes;
        options.delete_retention = Duration::from_secs(100 * 365 * 24 * 3600);
        options.faults = Some(Arc::new(Hook(Arc::clone(&fate))));
        let local = Arc::new(LocalLog::in_memory(options));
        let log: Arc<dyn Log> = Arc::clone(&local) as Arc<dyn Log>;
        for topic in Topic::ALL {
            let partitions = match topic {
                Topic::DeadLetters => plan.dead_letter_partitions,
                Topic::Items | Topic::Fleet | Topic::Models => 1,
                _ => plan.partitions,
            };
            let spec = TopicSpec {
                topic,
                partitions,
                replication_factor: 1,
                min_insync_replicas: 1,
            };
            log.create(&spec).expect("invariant: nothing is armed yet");
        }
        let mut workload = Workload::new(random.fork(), &plan);
        let mut daemons = Vec::new();
        for name in ["a", "b", "c"].iter().take(random.within(1, 3) as usize) {
            let stores = SimStores::new(Arc::clone(&fate));
            daemons.push(Daemon::new(name, random.within(1, 2) as usize, stores));
        }
        let items = workload.items(BEGINNING);
        let world = Self {
            ground: Ground {
                log,
                fate,
                skew: Skew::new(&plan.config).filter(|_| plan.keeps_all()),
                plan,
                metrics: metrics.clone(),
            },
            local,
            random: random.fork(),
            workload,
            daemons,
            said: Vec::new(),
            unrest,
            actions: random.within(20, 160) as u64,
        };
        for item in &items {
            world.send(Topic::Items, 0, item);
        }
        if world.ground.plan.texts {
            world.announce();
        }
        world.ground.fate.tell(|| {
            format!(
                "one call in {rate} is befallen by {mix:?}\n{:?}",
                world.ground.plan
            )
        });
        world
    }

    /// Makes the encoder of the simulation the current one.
    fn announce(&self) {
        let (to, key, value) = Encode::announcement(texts::ENCODER);
        let mut producer = self.ground.log.producer().expect("invariant: not armed");
        let record = Outgoing {
            to,
            key: Some(&key),
            value: Some(&value),
            headers: &[],
        };
        producer
            .send(record)
            .and_then(|()| producer.flush())
            .expect("invariant: not armed");
    }

    fn send(&self, topic: Topic, partition: i32, input: &Input) {
        let mut producer = self.ground.log.producer().expect("invariant: not armed");
        let to = TopicPartition::new(topic, partition);
        let mut headers: Vec<(&str, &[u8])> = vec![("theirs", b"kept")];
        headers.extend(
            input
                .redriven
                .iter()
                .map(|letter| ("headwater-redrive", letter.as_bytes())),
        );
        producer
            .send(Outgoing {
                to,
                key: Some(input.key.as_bytes()),
                value: input.value.as_deref(),
                headers: &headers,
            })
            .and_then(|()| producer.flush())
            .expect("invariant: not armed");
        self.ground.fate.tell(|| {
            let text = input.value.as_deref().map(String::from_utf8_lossy);
            let text: String = text.unwrap_or("null".into()).chars().take(160).collect();
            format!("{topic:?}-{partition} <- {text}")
        });
    }

    fn input(&mut self) {
        let now = self.ground.fate.now();
        let (topic, input) = if self.random.once_in(5) {
            (Topic::ScoreRequests, self.workload.request(now))
        } else {
            (Topic::Behaviors, self.workload.behavior(now))
        };
        let plan = &self.ground.plan;
        let partition = if plan.misplaced > 0 && self.random.once_in(plan.misplaced) {
            self.random.below(plan.partitions as u64) as i32
        } else {
            partition_of(input.key.as_bytes(), plan.partitions)
        };
        self.send(topic, partition, &input);
    }

    /// Life: records come, daemons work, and things go wrong.
    fn live(&mut self) -> Result<(), String> {
        for daemon in &mut self.daemons {
            daemon.start(&self.ground)?;
        }
        for _ in 0..self.actions {
            let fate = &self.ground.fate;
            let passes = match self.random.below(40) {
                0 => self.random.within(0, 8_000),
                1..=10 => self.random.within(0, 200),
                _ => self.random.within(0, 10),
            };
            fate.pass(passes);
            if self.unrest > 0 && self.random.once_in(self.unrest) {
                self.disturb()?;
            }
            for _ in 0..self.random.below(7) {
                self.input();
            }
            // A log that is cleaned at once may lose what is to be put back before anybody can.
            if self.ground.plan.keeps_all() && self.random.once_in(6) {
                let said = self.workload.item_said(self.ground.fate.now());
                self.send(Topic::Items, 0, &said);
                self.said.push(said);
            }
            for _ in 0..self.random.below(5) {
                let place = self.random.below(self.daemons.len() as u64) as usize;
                let daemon = &mut self.daemons[place];
                if !daemon.is_whole() && !daemon.replaced && self.random.once_in(3) {
                    if !daemon.is_up() {
                        daemon.suffer(&mut self.random, &self.ground.fate);
                    }
                    daemon.start(&self.ground)?;
                }
                if self.random.once_in(2) {
                    daemon.follow(&self.ground)?;
                    daemon.turn_texts(&self.ground)?;
                }
                if self.random.once_in(12) {
                    daemon.change_champion(&self.ground)?;
                }
                let number = self.random.below(daemon.workers.len() as u64) as usize;
                daemon.turn(number, &self.ground)?;
            }
        }
        Ok(())
    }

    /// What hosts do: kill, stop, scale in and out, start a second one under the same name, clean the log.
    fn disturb(&mut self) -> Result<(), String> {
        let many = self.daemons.len();
        let place = self.random.below(many as u64) as usize;
        let daemon = &mut self.daemons[place];
        match self.random.below(8) {
            0 | 1 => {
                self.ground
                    .fate
                    .tell(|| format!("{} is killed", daemon.name));
                daemon.die();
            }
            2 => daemon.stop(false, &self.ground)?,
            3 => daemon.stop(true, &self.ground)?,
            4 => {
                self.ground
                    .fate
                    .tell(|| format!("{} is forgotten", daemon.name));
                self.ground
                    .log
                    .forget_instance(&daemon.name)
                    .map_err(|error| format!("{error:?}"))?;
            }
            5 if daemon.is_up() && !daemon.replaced && many < 6 => {
                self.ground
                    .fate
                    .tell(|| format!("another {} elsewhere", daemon.name));
                self.ground.fate.fence();
                daemon.replaced = true;
                let stores = SimStores::new(Arc::clone(&self.ground.fate));
                let mut rival = Daemon::new(&daemon.name, daemon.workers.len(), stores);
                rival.start(&self.ground)?;
                self.daemons.push(rival);
            }
            _ if self.ground.plan.compacts => {
                self.ground.fate.tell(|| "the log is cleaned".to_owned());
                self.local.clean().map_err(|error| format!("{error:?}"))?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Brings everything to rest: no more input, no more faults, some daemons that stay.
    fn rest(&mut self) -> Result<(), String> {
        let fate = Arc::clone(&self.ground.fate);
        fate.tell(|| "rest".to_owned());
        fate.rest();
        for daemon in self.daemons.iter_mut().filter(|daemon| daemon.replaced) {
            daemon.die();
        }
        self.daemons.retain(|daemon| {
            // What a rival has left behind is of no interest: it would have to come back under another name.
            !daemon.replaced
        });
        let keep = 1 + self.random.below(self.daemons.len() as u64) as usize;
        for daemon in &mut self.daemons[keep..] {
            daemon.die();
        }
        let config = &self.ground.plan.config;
        let waits = config.scoring.debounce.millis() + config.state.write_back.millis();
        let quiet_rounds = 4 + waits / ROUND_MS;
        let mut quiet = 0;
        let mut before = 0;
        for _ in 0..ROUNDS_MAX {
            fate.pass(ROUND_MS);
            for daemon in &mut self.daemons[..keep] {
                daemon.start(&self.ground)?;
                daemon.follow(&self.ground)?;
                daemon.turn_texts(&self.ground)?;
                for number in 0..daemon.workers.len() {
                    daemon.turn(number, &self.ground)?;
                }
            }
            let (written, stable) = self.written()?;
            let encoding: usize = self.daemons[..keep].iter().map(Daemon::encodes).sum();
            let calm = stable == written
                && (!self.ground.plan.texts || encoding == self.ground.plan.partitions as usize)
                && self.owners().len() == self.ground.plan.partitions as usize
                && self.daemons[..keep].iter().all(|daemon| {
                    daemon
                        .workers
                        .iter()
                        .flatten()
                        .all(|worker| worker.status().restoring.is_empty() && !worker.has_failed())
                });
            quiet = if calm && written == before {
                quiet + 1
            } else {
                0
            };
            before = written;
            if quiet > quiet_rounds {
                return Ok(());
            }
        }
        let states: Vec<String> = self
            .daemons
            .iter()
            .flat_map(|daemon| daemon.workers.iter().flatten())
            .map(|worker| format!("{:?}", worker.status()))
            .collect();
        Err(format!("it does not come to rest: {states:?}"))
    }

    /// Records in all topics, and those that readers see.
    fn written(&self) -> Result<(i64, i64), String> {
        let wrong = |error| format!("{error:?}");
        let (mut written, mut stable) = (0, 0);
        for topic in Topic::ALL {
            let facts = self.ground.log.describe(topic).map_err(wrong)?;
            for number in 0..facts.map_or(0, |facts| facts.partitions) {
                let of = TopicPartition::new(topic, number);
                written += self.ground.log.written(of).map_err(wrong)?.next;
                stable += self.ground.log.extent(of).map_err(wrong)?.next;
            }
        }
        Ok((written, stable))
    }

    /// Who works on which partition: (partition, daemon, worker).
    fn owners(&self) -> Vec<(i32, usize, usize)> {
        let mut owners = Vec::new();
        for (place, daemon) in self.daemons.iter().enumerate() {
            for (number, worker) in daemon.workers.iter().enumerate() {
                if let Some(worker) = worker {
                    owners.extend(worker.partitions().map(|of| (of, place, number)));
                }
            }
        }
        owners.sort_unstable();
        owners
    }

    fn judge(&mut self, tally: &mut Tally) -> Result<(), String> {
        let owners = self.owners();
        let tables = self.daemons.iter().filter_map(Daemon::items);
        auditor::judge_items(&*self.ground.log, &self.said, tables)?;
        if self.ground.plan.texts {
            let tables = self
                .daemons
                .iter()
                .filter_map(|daemon| daemon.texts.as_ref());
            let tables = tables.map(|texts| &*texts.table);
            auditor::judge_texts(&*self.ground.log, &self.ground.plan, tables)?;
        }
        for daemon in &mut self.daemons {
            daemon.stop(false, &self.ground)?;
        }
        let owners: Vec<_> = owners
            .into_iter()
            .map(|(partition, place, _)| (partition, place))
            .collect();
        let stores: Vec<_> = self
            .daemons
            .iter()
            .map(|daemon| Arc::clone(&daemon.stores))
            .collect();
        if let Some(skew) = &self.ground.skew {
            let (plan, now) = (&self.ground.plan, Timestamp(self.ground.fate.now()));
            let of = (&plan.config, plan.partitions);
            skew.judge(&*self.ground.log, of, now, tally)?;
        }
        auditor::judge(&self.ground, &owners, &stores, self.random.fork(), tally)
    }
}

/// What goes wrong in this run: everything, or one thing much.
fn mix(random: &mut Random) -> Mix {
    let all = Mix {
        crash: 4,
        unavailable: 6,
        fence: 1,
        lose: 2,
        aborted: 3,
        unknown_happened: 3,
        unknown_lost: 3,
        late: 3,
        store_broken: 2,
        store_io: 1,
        store_damage: 2,
    };
    match random.below(10) {
        0 => Mix {
            crash: 1,
            ..Mix::default()
        },
        1 => Mix {
            unavailable: 1,
            ..Mix::default()
        },
        2 => Mix {
            aborted: 1,
            unknown_happened: 1,
            unknown_lost: 1,
            ..Mix::default()
        },
        3 => Mix {
            lose: 3,
            unavailable: 1,
            fence: 1,
            late: 3,
            ..Mix::default()
        },
        4 => Mix {
            late: 4,
            lose: 1,
            crash: 1,
            ..Mix::default()
        },
        5 => Mix {
            store_broken: 1,
            store_damage: 1,
            crash: 1,
            ..Mix::default()
        },
        _ => all,
    }
}
