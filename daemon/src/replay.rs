//! A replay: recorded events through the log and the whole loop, until all of them are counted and answered.
//!
//! Before it stand recordings, as for [`crate::backtest`]; after it the configured topics, and a summary of what came of them: how fast, how
//! fresh, and whether an output is missing. It starts the daemon itself, in this process, or drives those that run already.
//!
//! # What is different from life
//!
//! - Events lie in the past. What is judged by the clock is not theirs any more: deadlines are taken out of requests, unless they are to be
//!   kept; the freshness that is told is from sending a record to reading its answer, not from its event time.
//! - At full speed, behaviors could be folded long before requests of their time: these would be answered as `expired`
//!   (`step.request_max_age`). So no record is sent whose event time is ahead of the oldest that is not counted yet by more than half of that
//!   age.
//! - Records of one user's topics meet as they do in life, not as in a backtest: a request may be answered before a behavior that is a moment
//!   older has come.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use headwater_config::{Config, LogKind, Topic};
use headwater_consumers::log::{Log, LogError};
use serde::Serialize;

use crate::daemon::{
    Daemon, Handle, Host, StartError, StopError, of_fast_loop, open_log, open_stage,
};
use crate::exit::Exit;
use crate::produce::{INPUTS, Produce, ProduceError, Sender};
use crate::progress::Progress;
use crate::recording::{Recording, RecordingError};
use crate::world::unix_ms;

mod answers;
mod course;
mod positions;
mod ride;

pub use answers::{Found, Percentiles};

use answers::Answers;
use positions::Positions;
use ride::Ride;

/// What is to be replayed, and how.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Item records, one a line, sent first; plain or gzipped.
    pub items: Option<PathBuf>,
    /// `{"topic", "record"}` a line, in the order of time; plain or gzipped.
    pub events: PathBuf,
    /// Events a second at most.
    pub rate: Option<f64>,
    /// Whether daemons run already: then none is started.
    pub running: bool,
    /// Whether requests keep their deadlines.
    pub deadlines: bool,
    /// How long nothing may happen before it is given up.
    pub patience: Duration,
    /// Whether to draw a bar.
    pub progress: bool,
}

/// What came of a replay.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Behavior records sent.
    pub behaviors: u64,
    /// Score requests sent.
    pub requests: u64,
    /// Item records sent.
    pub items: u64,
    /// Whether the recording was sent to its end, and all of it is counted.
    pub complete: bool,
    /// From the first event's sending until all were counted.
    pub seconds: f64,
    /// Events (behavior records and requests) a second.
    pub events_per_second: f64,
    /// What was found in the topics.
    #[serde(flatten)]
    pub found: Found,
    /// Requests without an answer, less those that are dead letters.
    pub missing: u64,
    /// How long answers took, from the sending of what caused them until they could be read; none where nothing was answered.
    pub freshness_ms: Option<Percentiles>,
    /// What the daemon in this process says; none where it drove others.
    pub daemon: Option<Counted>,
}

/// Behaviors as the daemon in this process counted them. Where others share the partitions, it is not all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// Counted in state.
    pub counted: u64,
    /// Not counted: counted before.
    pub duplicates: u64,
    /// Not counted: late (`state.late = "drop"`).
    pub late: u64,
}

impl Summary {
    /// Whether outputs are missing, or are there twice where that must not be.
    pub fn is_wrong(&self, config: &Config) -> bool {
        let exactly = config.kafka.delivery == headwater_config::Delivery::ExactlyOnce;
        self.complete && (self.missing > 0 || exactly && self.found.repeated > 0)
    }
}

/// Why a replay ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A recording cannot be read, or a line of it cannot be used.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// The log failed while records were sent or looked for.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The daemon did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The daemon stopped.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// The embedded log cannot be shared with another process.
    #[error(
        "the embedded log belongs to the process that has it open: nobody else can drive a daemon there. Without `--running` a daemon is \
         started here"
    )]
    Embedded,
    /// Nothing has happened for too long.
    #[error("nothing was counted for {waited:?}, and {left} records are left; {hint}")]
    Stalled {
        /// How long.
        waited: Duration,
        /// Records that are not counted.
        left: u64,
        /// What may be the matter.
        hint: String,
    },
}

impl ReplayError {
    /// How the process ends for it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Recording(_) | Self::Embedded => Exit::Configuration,
            Self::Log(error) => Exit::of_log(error),
            Self::Start(error) => error.exit(),
            Self::Stop(error) => error.exit(),
            Self::Stalled { .. } => Exit::TryAgain,
        }
    }
}

impl From<ProduceError> for ReplayError {
    fn from(error: ProduceError) -> Self {
        match error {
            ProduceError::Recording(error) => Self::Recording(error),
            ProduceError::Log(error) => Self::Log(error),
        }
    }
}

impl Replay {
    /// Runs it; `stop` ends the sending before its time, and what was sent is still waited for.
    ///
    /// What came of it is told in any case.
    pub fn run(&self, config: &Config, stop: &AtomicBool) -> (Summary, Result<(), ReplayError>) {
        let mut summary = Summary::default();
        let done = self.run_into(config, stop, &mut summary);
        (summary, done)
    }

    fn run_into(
        &self,
        config: &Config,
        stop: &AtomicBool,
        summary: &mut Summary,
    ) -> Result<(), ReplayError> {
        if self.running && config.log.kind == LogKind::Embedded {
            return Err(ReplayError::Embedded);
        }
        let mut events = Recording::open(&self.events)?;
        // Its behaviors are what the recording holds: the source, where that is repartitioned.
        let log = open_log(config)?;
        if let Some(items) = &self.items {
            let produce = Produce {
                records: items.clone(),
                topic: Some(Topic::Items),
                rate: None,
                progress: self.progress,
            };
            let (sent, done) = produce.run(config, &*log, stop);
            summary.items = sent.items;
            done?;
        }
        // Items are read to their end before the first event is counted.
        let daemon = if self.running {
            None
        } else {
            let brought = config.log.kind == LogKind::Embedded;
            let host = Host {
                log: brought.then(|| Arc::clone(&log)),
                ..Host::default()
            };
            Some(Daemon::start_in(config.clone(), host)?)
        };
        let done = self.drive(config, (&log, &mut events), daemon.as_ref(), stop, summary);
        if let Some(daemon) = daemon {
            summary.daemon = Some(counted(&daemon));
            let stopped = daemon.stop(false);
            done?;
            return Ok(stopped?);
        }
        done
    }

    fn drive(
        &self,
        config: &Config,
        (log, events): (&Arc<dyn Log>, &mut Recording),
        daemon: Option<&Handle>,
        stop: &AtomicBool,
        summary: &mut Summary,
    ) -> Result<(), ReplayError> {
        let fast_config = of_fast_loop(config);
        let stage = open_stage(config, false)?;
        let fast = match &stage {
            None => Arc::clone(log),
            Some(_) => open_log(&fast_config)?,
        };
        let mut ride = Ride::new(
            (self, config),
            daemon,
            Positions::new(&fast, stage.as_ref())?,
            Answers::new(&fast_config, &*fast)?,
            Progress::new(events.size(), self.progress),
            fast,
        );
        if daemon.is_some() {
            ride.wait_ready(stop)?;
        }
        ride.begin()?;
        let sender = Sender::new(config, &**log, &INPUTS, unix_ms)?;
        let sender = if self.deadlines {
            sender
        } else {
            sender.without_deadlines()
        };
        let began = Instant::now();
        let done = ride.send(events, sender, stop, summary);
        // What was sent before a bad line is counted too, and told.
        let finished = match &done {
            Ok(_) | Err(ReplayError::Recording(_)) => ride.finish(),
            Err(_) => Ok(()),
        };
        let counted = ride.end(config, summary);
        summary.seconds = counted.saturating_duration_since(began).as_secs_f64();
        let events = summary.behaviors + summary.requests;
        summary.events_per_second = events as f64 / summary.seconds.max(1e-9);
        let all = done?;
        finished?;
        summary.complete = all;
        Ok(())
    }
}

/// What a daemon's metrics say of behaviors.
fn counted(daemon: &Handle) -> Counted {
    let mut counted = Counted::default();
    for family in daemon.registry().gather() {
        for metric in family.get_metric() {
            let value = metric.get_counter().get_value() as u64;
            let reason = metric.get_label().first().map_or("", |label| label.value());
            match (family.name(), reason) {
                ("headwater_state_behaviors_folded_total", _) => counted.counted += value,
                ("headwater_state_behaviors_dropped_total", "duplicate") => {
                    counted.duplicates += value;
                }
                ("headwater_state_behaviors_dropped_total", "late") => counted.late += value,
                _ => {}
            }
        }
    }
    counted
}

#[cfg(test)]
mod tests;
