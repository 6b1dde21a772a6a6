//! The demo: the whole loop on the embedded log, with a simulated platform before and behind it.
//!
//! Users ask for candidates, see what Headwater ranks first (a share of them: a random order, for comparison), and what they were shown
//! and clicked comes back as behaviors. It runs the daemon itself; all it adds is the platform.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use headwater_config::{Config, LoadError, Ratio, Span};
use headwater_consumers::log::LogError;
use headwater_model::language::{Shape, Weights};
use prometheus::proto::{LabelPair, MetricFamily};
use serde::Serialize;

use crate::champion::Standing;
use crate::{Daemon, Handle, StartError, StopError};

pub mod platform;
pub mod stage;
pub mod visits;

use stage::{Answered, Stage};
use visits::Visits;

/// Items that are there at first.
pub const ITEMS: usize = 400;
const PARTITIONS: i32 = 2;
/// Layers of a language model that are run.
const CUT: usize = 8;
/// New items a second, where there are texts.
const NEW_ITEMS: usize = 5;
/// Requests on their way at most: at the limit the platform waits.
const IN_FLIGHT_MAX: usize = 1000;
/// Between two trainings. Labels take five seconds here, and what a platform brings in an hour comes in half a minute.
const TRAIN_EVERY: Span = Span::from_secs(15);
/// How long who has proved itself scores some users before it scores all.
const CANARY_FOR: Span = Span::from_secs(5);
/// Users that it scores at least, where there are twice as many.
const CANARY_USERS: f64 = 60.0;

/// What the demo is to do.
#[derive(Clone, Debug)]
pub struct Demo {
    /// How long; `None`: until it is stopped.
    pub duration: Option<Duration>,
    /// Users of the platform.
    pub users: usize,
    /// Requests a second.
    pub rate: f64,
    /// Seed of the platform.
    pub seed: u64,
    /// Where log and state lie; `None`: a temporary folder, removed at the end.
    pub folder: Option<PathBuf>,
    /// A language model: items have titles, rows compare them, and new items keep coming. `None`: no texts.
    pub encoder: Option<PathBuf>,
}

/// What can end the demo before its time.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// Its configuration: a bug.
    #[error(transparent)]
    Config(#[from] LoadError),
    /// The daemon did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The daemon stopped.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A topic is missing.
    #[error("the log lacks the topic of scores")]
    Topic,
}

/// One second of the demo.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Second {
    /// Seconds since its start.
    pub second: u64,
    /// Behaviors sent in this second.
    pub behaviors: u64,
    /// Answers in this second, and candidates scored in them.
    pub answers: u64,
    /// Candidates scored in this second.
    pub scores: u64,
    /// From a request to its answer, of this second's answers.
    pub latency_ms: Latency,
    /// From a behavior's time to the commit that counts it, milliseconds, mean of this second.
    pub freshness_ms: f64,
    /// Items shown and clicked so far where Headwater ranked.
    pub ranked: Clicks,
    /// Items shown and clicked so far in random order.
    pub random: Clicks,
    /// Click rate of the ranked over that of the random, minus 1.
    pub lift: Option<f64>,
    /// Half the width of the lift's 95 % interval.
    pub lift_error: Option<f64>,
    /// How often a model was made from what users did, and judged beside what scores.
    pub judged: u64,
    /// The trained model that scores, once one was promoted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub champion: Option<String>,
    /// What is on trial beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialSecond>,
    /// How far texts are, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub texts: Option<TextsSecond>,
}

/// How a model on trial stands.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct TrialSecond {
    /// Labelled rows of the last look; 0: there was none so far.
    pub rows: usize,
    /// By how many errors it was better on them.
    pub z: f64,
}

/// How far texts are.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct TextsSecond {
    /// Items so far: each has a text of its own.
    pub items: usize,
    /// Texts embedded so far.
    pub embedded: u64,
    /// Texts that wait.
    pub waiting: i64,
    /// How long the text that was taken last had waited, seconds.
    pub waited_seconds: f64,
    /// Share of this second's lookups of vectors that found one.
    pub hits: f64,
}

/// Percentiles, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// Half took less.
    pub p50: f64,
    /// 95 % took less.
    pub p95: f64,
    /// 99 % took less.
    pub p99: f64,
}

/// Shown and clicked items.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Clicks {
    /// Items shown.
    pub shown: u64,
    /// Items clicked.
    pub clicked: u64,
    /// Clicked by shown; 0 where nothing was shown.
    pub rate: f64,
}

impl Second {
    fn count(&mut self, answered: &Answered) {
        let shown = answered.seen.len() as u64;
        let clicked = answered.seen.iter().filter(|seen| seen.clicked).count() as u64;
        self.behaviors += shown + clicked;
        let group = if answered.visit.ranked {
            &mut self.ranked
        } else {
            &mut self.random
        };
        *group = Clicks::new(group.shown + shown, group.clicked + clicked);
    }
}

impl Clicks {
    /// Counts of a group, and their rate.
    #[must_use]
    pub fn new(shown: u64, clicked: u64) -> Self {
        let rate = clicked as f64 / shown.max(1) as f64;
        Self {
            shown,
            clicked,
            rate,
        }
    }
}

/// What a running daemon is told by the platform and by its metrics, second by second.
struct Show {
    stage: Stage,
    latencies: Vec<f64>,
    now: Second,
    /// Lookups of vectors so far, and those that found one.
    looked: [u64; 2],
}

/// How the daemon is set up for a platform of so many users, on the embedded log; whether it learns from what they do.
///
/// # Errors
/// That it breaks a rule of the configuration: a bug.
pub fn settings(users: usize, learns: bool) -> Result<Config, LoadError> {
    let mut config = Config::from_toml(
        "[log]\nkind = \"embedded\"\nretention = \"1GiB\"\n[admin]\naddress = \"\"\n[scenarios]\nnames = [\"home\"]\n\
         [tasks.click]\npositive = [\"click\"]\ntrials = [\"impression\"]\nscenarios = []\nwindow = \"3s\"\n\
         [labels]\nshown_within = \"2s\"\n[kinds]\nnames = [\"impression\", \"click\"]\n[key_vectors]\nlogged = true\n",
    )?;
    if learns {
        config.train.every = TRAIN_EVERY;
        config.train.canary_for = CANARY_FOR;
        // Of few users a tenth says nothing.
        let share = (CANARY_USERS / users.max(1) as f64).clamp(0.1, 0.5);
        config.train.canary = Ratio::try_from(share).unwrap_or(config.train.canary);
        config.train.passes = 6;
    }
    config.topics.partitions = PARTITIONS;
    Ok(config)
}

impl Demo {
    /// Runs it; `each` is given every second, and `stop` ends it.
    ///
    /// # Errors
    /// If the daemon does not start, or stops.
    pub fn run(&self, stop: &AtomicBool, each: &mut dyn FnMut(&Second)) -> Result<(), DemoError> {
        let temporary = std::env::temp_dir().join(format!("headwater-demo-{}", std::process::id()));
        let folder = self.folder.clone().unwrap_or_else(|| temporary.clone());
        let result = self.run_in(&folder, stop, each);
        if self.folder.is_none()
            && let Err(error) = std::fs::remove_dir_all(&temporary)
        {
            tracing::warn!(%error, folder = %temporary.display(), "temporary folder not removed");
        }
        result
    }

    fn run_in(
        &self,
        folder: &Path,
        stop: &AtomicBool,
        each: &mut dyn FnMut(&Second),
    ) -> Result<(), DemoError> {
        // Rows with texts are learned from elsewhere: their model would have to be opened for each training.
        let mut config = settings(self.users, self.encoder.is_none())?;
        config.state.path = folder.to_owned();
        if let Some(encoder) = &self.encoder {
            config.texts.encoder = Some(encoder.display().to_string());
            config.texts.cut = cut(encoder)?;
        }
        let daemon = Daemon::start(config)?;
        let done = self.show(&daemon, stop, each);
        let stopped = daemon.stop(false);
        done?;
        Ok(stopped?)
    }

    fn show(
        &self,
        daemon: &Handle,
        stop: &AtomicBool,
        each: &mut dyn FnMut(&Second),
    ) -> Result<(), DemoError> {
        let visits = Visits::new(self.seed, self.users, ITEMS);
        let with_texts = self.encoder.is_some();
        let mut show = Show {
            stage: Stage::open(&*daemon.log(), visits, with_texts)?,
            latencies: Vec::new(),
            now: Second::default(),
            looked: [0; 2],
        };
        let began = Instant::now();
        let first = show.stage.number();
        let mut told = 0;
        let mut fresh = (0.0, 0);
        while !stop.load(Ordering::Relaxed) {
            let elapsed = began.elapsed();
            if self.duration.is_some_and(|duration| elapsed >= duration) {
                // The last second, or what there was of it.
                show.now.freshness_ms = freshness(daemon, &mut fresh);
                show.look_at(daemon);
                each(&show.second(elapsed.as_secs().max(told + 1)));
                break;
            }
            let due = first + (elapsed.as_secs_f64() * self.rate) as u64;
            // What could not be asked in time is not asked later: a platform does not save up its users.
            show.stage.skip_to(due.saturating_sub(self.rate as u64));
            while show.stage.number() < due && show.stage.waiting() < IN_FLIGHT_MAX {
                show.stage.ask()?;
            }
            show.stage.flush()?;
            show.answers()?;
            if elapsed.as_secs() > told {
                told = elapsed.as_secs();
                show.now.freshness_ms = freshness(daemon, &mut fresh);
                show.look_at(daemon);
                each(&show.second(told));
                if with_texts {
                    show.stage.add_items(NEW_ITEMS)?;
                }
            }
            if !daemon.is_running() {
                return Ok(daemon.wait()?);
            }
        }
        Ok(())
    }
}

/// The layers that are run of a model: eight, or all of one that has fewer.
fn cut(encoder: &Path) -> Result<usize, StartError> {
    let weights = Weights::open(encoder).map_err(crate::models::ModelsError::Model)?;
    let layers = match weights.shape() {
        Shape::Decoder(config) => config.layers,
        Shape::Encoder(config) => config.layers,
    };
    Ok(layers.min(CUT))
}

/// Mean of the freshness metric since it was last asked, in milliseconds.
fn freshness(daemon: &Handle, last: &mut (f64, u64)) -> f64 {
    let families = daemon.registry().gather();
    let (mut sum, mut count) = (0.0, 0);
    for family in families
        .iter()
        .filter(|family| family.name() == "headwater_consumers_freshness_seconds")
    {
        for metric in family.get_metric() {
            sum += metric.get_histogram().get_sample_sum();
            count += metric.get_histogram().get_sample_count();
        }
    }
    let mean = if count > last.1 {
        (sum - last.0) * 1000.0 / (count - last.1) as f64
    } else {
        0.0
    };
    *last = (sum, count);
    mean
}

impl Show {
    fn look_at(&mut self, daemon: &Handle) {
        let status = daemon.status();
        self.now.champion = status.model.map(|model| model.name);
        let trial = status.trials.as_ref().and_then(Standing::furthest);
        self.now.trial = trial.map(|trial| {
            let look = trial.looks.last();
            TrialSecond {
                rows: look.map_or(0, |look| look.all.rows),
                z: look.map_or(0.0, |look| look.all.z),
            }
        });
        let families = daemon.registry().gather();
        let trainings = families
            .iter()
            .filter(|family| family.name() == "headwater_daemon_trainings_total")
            .flat_map(MetricFamily::get_metric);
        let judged = trainings.filter(|metric| {
            let outcome = metric.get_label().first().map(LabelPair::value);
            outcome.is_some_and(|outcome| ["promoted", "on_trial", "kept"].contains(&outcome))
        });
        let judged = judged.map(|metric| metric.get_counter().get_value() as u64);
        self.now.judged = judged.sum();
        let Some(status) = status.texts else {
            return;
        };
        let families = daemon.registry().gather();
        let value = |name: &str, outcome: Option<&str>| -> u64 {
            let family = families.iter().find(|family| family.name() == name);
            let metrics = family.iter().flat_map(|family| family.get_metric());
            metrics
                .filter(|metric| {
                    let labels = metric.get_label();
                    outcome.is_none_or(|outcome| labels.iter().any(|one| one.value() == outcome))
                })
                .map(|metric| metric.get_counter().get_value() as u64)
                .sum()
        };
        let lookups = |outcome| value("headwater_consumers_text_vector_lookups_total", outcome);
        let looked = [lookups(None), lookups(Some("hit"))];
        let [all, hits] = [0, 1].map(|place| looked[place] - self.looked[place]);
        self.looked = looked;
        self.now.texts = Some(TextsSecond {
            items: self.stage.visits().platform().items(),
            embedded: value("headwater_consumers_texts_encoded_total", None),
            waiting: status.waiting,
            waited_seconds: status.waited_seconds,
            hits: hits as f64 / all.max(1) as f64,
        });
    }

    /// Takes in answers, and counts what came of them.
    fn answers(&mut self) -> Result<(), LogError> {
        let Self {
            stage,
            latencies,
            now,
            ..
        } = self;
        stage.answers(&mut |answered| {
            latencies.push(answered.latency.as_secs_f64() * 1000.0);
            now.answers += 1;
            now.scores += answered.scores as u64;
            now.count(answered);
        })
    }

    /// The second that ends now; the counts of groups go on.
    fn second(&mut self, number: u64) -> Second {
        self.latencies.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = (self.latencies.len() as f64 * share) as usize;
            self.latencies
                .get(place.min(self.latencies.len().saturating_sub(1)))
                .copied()
                .unwrap_or(0.0)
        };
        let mut second = Second {
            second: number,
            latency_ms: Latency {
                p50: at(0.5),
                p95: at(0.95),
                p99: at(0.99),
            },
            ..self.now.clone()
        };
        let (ranked, random) = (second.ranked, second.random);
        if ranked.clicked > 0 && random.clicked > 0 {
            let lift = ranked.rate / random.rate - 1.0;
            // Delta method on the logarithm of the quotient of two rates.
            let part = |clicks: Clicks| (1.0 - clicks.rate) / clicks.clicked as f64;
            second.lift = Some(lift);
            second.lift_error = Some(1.96 * (1.0 + lift) * (part(ranked) + part(random)).sqrt());
        }
        self.latencies.clear();
        self.now = Second {
            ranked,
            random,
            ..Second::default()
        };
        second
    }
}
