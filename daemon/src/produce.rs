//! Producing: the records of a recording, to the input topics.
//!
//! Before it stands a [`crate::recording`], whose lines are records of one topic or say of which they are; after it the log, and a daemon
//! that reads there. Each record is read first as the daemon will read it, keyed by its user or item, and put into the partition where
//! the owner looks for it ([`Sender`]). The first line that cannot be used ends it: what was before that line is in the log, nothing
//! after it is, and the error names file and line, so that the rest can be sent once the line is mended.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use headwater_config::{Config, Topic};
use headwater_consumers::log::{Log, LogError};
use serde::Serialize;

use crate::exit::Exit;
use crate::progress::Progress;
use crate::recording::{Recording, RecordingError, envelope};
use crate::world::unix_ms;

mod pace;
mod sender;

pub(crate) use pace::Pace;
pub use sender::{INPUTS, Reading, SendError, Sender, Sent};

/// Records between two waits for their acknowledgement: what may be lost unnoticed until then, and what the embedded log holds in memory.
const UNACKNOWLEDGED_MAX: u64 = 10_000;
/// Nothing that was sent waits longer than this for its way to the log.
const UNACKNOWLEDGED_FOR: Duration = Duration::from_millis(20);
/// Longest pause after which a signal is looked for.
const NAP: Duration = Duration::from_millis(50);
/// Records between two looks at the clock.
const PROGRESS_RECORDS: u64 = 256;

/// What is to be sent.
#[derive(Clone, Debug)]
pub struct Produce {
    /// Records, one a line; plain or gzipped; `-` is standard input.
    pub records: PathBuf,
    /// Of which topic they are; none: each line says so (`{"topic", "record"}`).
    pub topic: Option<Topic>,
    /// Records a second at most.
    pub rate: Option<f64>,
    /// Whether to draw a bar.
    pub progress: bool,
}

/// What was sent: all of it is in the log.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Records of the topic of behaviors.
    pub behaviors: u64,
    /// Score requests.
    pub requests: u64,
    /// Item records.
    pub items: u64,
    /// Behaviors in those records: more or fewer than `behaviors` only where `[source.behaviors]` reads several from one.
    pub events: u64,
    /// How long it took.
    pub seconds: f64,
    /// Records a second.
    pub records_per_second: f64,
    /// Whether the recording was sent to its end.
    pub complete: bool,
}

impl Summary {
    /// Records of all topics.
    pub fn records(&self) -> u64 {
        self.behaviors + self.requests + self.items
    }

    pub(crate) fn add(&mut self, sent: Sent) {
        match sent.to.topic {
            Topic::Behaviors => {
                self.behaviors += 1;
                self.events += sent.events;
            }
            Topic::ScoreRequests => self.requests += 1,
            _ => self.items += 1,
        }
    }

    fn timed(mut self, began: Instant) -> Self {
        self.seconds = began.elapsed().as_secs_f64();
        self.records_per_second = self.records() as f64 / self.seconds.max(1e-9);
        self
    }
}

/// Why producing ended before the recording did.
#[derive(Debug, thiserror::Error)]
pub enum ProduceError {
    /// The recording cannot be read, or a line of it cannot be used.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// The log failed: of the records after those that the summary counts, some may be in the log.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl ProduceError {
    /// How the process ends for it.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Recording(_) => Exit::Configuration,
            Self::Log(error) => Exit::of_log(error),
        }
    }
}

impl Produce {
    /// Sends it to `log`, which is the one of `config` itself; `stop` ends it before its time, in good order.
    ///
    /// What was sent is told in any case. After a failure of the log it counts what is surely there.
    pub fn run(
        &self,
        config: &Config,
        log: &dyn Log,
        stop: &AtomicBool,
    ) -> (Summary, Result<(), ProduceError>) {
        let began = Instant::now();
        let mut sure = Summary::default();
        let done = self.send(config, log, stop, &mut sure);
        (sure.timed(began), done)
    }

    fn send(
        &self,
        config: &Config,
        log: &dyn Log,
        stop: &AtomicBool,
        sure: &mut Summary,
    ) -> Result<(), ProduceError> {
        let topics = match &self.topic {
            Some(topic) => std::slice::from_ref(topic),
            None => &INPUTS,
        };
        let mut records = Recording::open(&self.records)?;
        let mut sender = Sender::new(config, log, topics, unix_ms)?;
        let mut pace = Pace::new(self.rate);
        let progress = Progress::new(records.size(), self.progress);
        let mut sent = sure.clone();
        let mut flushed = Instant::now();
        let ended = loop {
            while let Some(pause) = pace.ask(Instant::now()) {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                if pause > UNACKNOWLEDGED_FOR || flushed.elapsed() > UNACKNOWLEDGED_FOR {
                    sender.flush()?;
                    (*sure, flushed) = (sent.clone(), Instant::now());
                }
                std::thread::sleep(pause.min(NAP));
            }
            if stop.load(Ordering::Relaxed) {
                break Ok(());
            }
            let line = match records.next_line() {
                Ok(Some(line)) => line,
                Ok(None) => {
                    sent.complete = true;
                    break Ok(());
                }
                Err(error) => break Err(error),
            };
            match self.one(&mut sender, line) {
                Ok(one) => sent.add(one),
                Err(SendError::Log(error)) => return Err(error.into()),
                Err(
                    error @ (SendError::Line(_) | SendError::Refused(_) | SendError::Users { .. }),
                ) => {
                    break Err(records.bad(error.to_string()));
                }
            }
            if sent.records() - sure.records() >= UNACKNOWLEDGED_MAX {
                sender.flush()?;
                (*sure, flushed) = (sent.clone(), Instant::now());
            }
            if sent.records().is_multiple_of(PROGRESS_RECORDS) {
                progress.at(records.bytes_read(), sent.records());
            }
        };
        sender.flush()?;
        *sure = sent;
        progress.finish();
        Ok(ended?)
    }

    fn one(&self, sender: &mut Sender, line: &[u8]) -> Result<Sent, SendError> {
        match self.topic {
            Some(topic) => sender.send(topic, line),
            None => {
                let (topic, record) = envelope(line).map_err(SendError::Line)?;
                sender.send(topic, record)
            }
        }
    }
}

#[cfg(test)]
mod tests;
