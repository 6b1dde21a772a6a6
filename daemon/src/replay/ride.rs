//! A replay under way: records go, the group is looked at, and answers are read.
//!
//! Before it stand a recording and a sender, after it the summary. One thread does all of it: what it waits for is others' work.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use headwater_config::{Config, Topic};
use headwater_consumers::log::{Log, LogError};

use super::answers::Answers;
use super::course::Course;
use super::positions::Positions;
use super::{Replay, ReplayError, Summary};
use crate::daemon::Handle;
use crate::produce::{Pace, SendError, Sender};
use crate::progress::Progress;
use crate::recording::{Recording, envelope};

/// Records sent and not counted, at most: what is remembered of each is bounded by it.
const IN_FLIGHT_MAX: u64 = 500_000;
/// How often the group is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Records between two looks at the clock.
const LOOK_RECORDS: u64 = 64;
/// A pause of the sender.
const NAP: Duration = Duration::from_millis(2);

/// A replay under way.
pub(super) struct Ride<'a> {
    replay: &'a Replay,
    config: &'a Config,
    daemon: Option<&'a Handle>,
    fast: Arc<dyn Log>,
    positions: Positions,
    course: Course,
    answers: Answers,
    progress: Progress,
    /// Event time of the oldest record since the topics were last counted to their ends.
    unpassed: Option<i64>,
    /// When the last record was counted, if none is left.
    counted: Option<Instant>,
    looked: Instant,
    /// When anything was counted or answered last.
    moved: Instant,
}

impl<'a> Ride<'a> {
    pub(super) fn new(
        (replay, config): (&'a Replay, &'a Config),
        daemon: Option<&'a Handle>,
        positions: Positions,
        answers: Answers,
        progress: Progress,
        fast: Arc<dyn Log>,
    ) -> Self {
        Self {
            replay,
            config,
            daemon,
            fast,
            positions,
            course: Course::new(BTreeMap::new()),
            answers,
            progress,
            unpassed: None,
            counted: None,
            looked: Instant::now(),
            moved: Instant::now(),
        }
    }

    /// Begins where the topics end.
    pub(super) fn begin(&mut self) -> Result<(), ReplayError> {
        self.course = Course::new(self.positions.written()?);
        self.moved = Instant::now();
        Ok(())
    }

    /// Tells what came of it, and when the last record was counted.
    pub(super) fn end(mut self, config: &Config, summary: &mut Summary) -> Instant {
        self.progress.finish();
        summary.freshness_ms = self.answers.freshness();
        let requests = config.topic_name(Topic::ScoreRequests);
        let refused = self.answers.found.dead_letters.get(&requests);
        let refused: u64 = refused.map_or(0, |reasons| reasons.values().sum());
        summary.missing = self.answers.awaited().saturating_sub(refused);
        summary.found = self.answers.found;
        self.counted.unwrap_or_else(Instant::now)
    }

    /// Waits until the daemon in this process works: its start is not what is measured.
    pub(super) fn wait_ready(&mut self, stop: &AtomicBool) -> Result<(), ReplayError> {
        let mut before = None;
        while let Some(daemon) = self.daemon
            && !stop.load(Ordering::Relaxed)
        {
            let readiness = daemon.ready();
            if readiness.ready {
                break;
            }
            if !daemon.is_running() {
                daemon.wait()?;
            }
            // A restore says how much it lacks.
            if before.as_ref() != Some(&readiness) {
                self.moved = Instant::now();
                before = Some(readiness);
            }
            self.is_moving()?;
            std::thread::sleep(NAP);
        }
        Ok(())
    }

    /// Sends the events; gives whether all of them.
    pub(super) fn send(
        &mut self,
        events: &mut Recording,
        mut sender: Sender,
        stop: &AtomicBool,
        summary: &mut Summary,
    ) -> Result<bool, ReplayError> {
        let mut pace = Pace::new(self.replay.rate);
        let mut since_look = 0;
        let done = loop {
            while let Some(pause) = pace.ask(Instant::now()) {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                // The embedded log holds records back until then.
                sender.flush()?;
                self.look()?;
                std::thread::sleep(pause.min(LOOK_EVERY));
            }
            if stop.load(Ordering::Relaxed) {
                break Ok(false);
            }
            let line = match events.next_line() {
                Ok(Some(line)) => line,
                Ok(None) => break Ok(true),
                Err(error) => break Err(error.into()),
            };
            let read = envelope(line).map_err(SendError::Line);
            let read = read.and_then(|(topic, record)| Ok((sender.read(topic, record)?, record)));
            let (reading, record) = match read {
                Ok(read) => read,
                Err(SendError::Log(error)) => return Err(error.into()),
                Err(error) => break Err(events.bad(error.to_string()).into()),
            };
            if self.is_early(reading.time) {
                sender.flush()?;
                while self.is_early(reading.time) && !stop.load(Ordering::Relaxed) {
                    self.catch_up()?;
                }
            }
            if self.course.in_flight() == 0 {
                self.moved = Instant::now();
            }
            self.counted = None;
            if let Some(id) = reading.answer {
                self.answers.ask(reading.to.topic, id, Instant::now());
            }
            let sent = sender.put(&reading, record)?;
            self.unpassed = match (self.unpassed, reading.time) {
                (Some(oldest), Some(time)) => Some(oldest.min(time)),
                (oldest, time) => oldest.or(time),
            };
            self.course.sent(sent.to, reading.time, events.bytes_read());
            match sent.to.topic {
                Topic::Behaviors => summary.behaviors += 1,
                Topic::ScoreRequests => summary.requests += 1,
                _ => summary.items += 1,
            }
            since_look += 1;
            if since_look == LOOK_RECORDS {
                since_look = 0;
                if self.looked.elapsed() > LOOK_EVERY {
                    sender.flush()?;
                    self.look()?;
                    self.is_moving()?;
                }
            }
        };
        sender.flush()?;
        done
    }

    /// Waits until everything is counted, and every answer read.
    pub(super) fn finish(&mut self) -> Result<(), ReplayError> {
        while !self.is_at_the_end()? {
            self.look()?;
            self.is_moving()?;
            std::thread::sleep(LOOK_EVERY);
        }
        let ends = loop {
            if let Some(ends) = heals(self.answers.ends(&*self.fast))? {
                break ends;
            }
            self.is_moving()?;
            std::thread::sleep(LOOK_EVERY);
        };
        while !self.answers.are_read(&ends) {
            self.look()?;
            self.is_moving()?;
            std::thread::sleep(NAP);
        }
        Ok(())
    }

    fn is_at_the_end(&mut self) -> Result<bool, ReplayError> {
        let is = heals(self.positions.are_at_the_end())?.unwrap_or(false);
        if is {
            self.course.all_passed();
            self.unpassed = None;
            self.moved = Instant::now();
            self.counted.get_or_insert(self.moved);
        }
        Ok(is)
    }

    /// Waits a moment for what is ahead of the sender. What has passed the stage of a repartitioned source is not counted yet: there,
    /// nothing but the end of all topics tells.
    fn catch_up(&mut self) -> Result<(), ReplayError> {
        if self.is_repartitioned() {
            self.is_at_the_end()?;
        }
        self.look()?;
        self.is_moving()?;
        std::thread::sleep(NAP);
        Ok(())
    }

    fn is_repartitioned(&self) -> bool {
        self.config.source.behaviors.repartition
    }

    /// Whether a record of this time must wait.
    fn is_early(&self, time: Option<i64>) -> bool {
        let oldest = if self.is_repartitioned() {
            self.unpassed
        } else {
            self.course.oldest()
        };
        let ahead = self.config.step.request_max_age.millis() / 2;
        let early = oldest.zip(time);
        self.course.in_flight() >= IN_FLIGHT_MAX
            || early.is_some_and(|(oldest, time)| time > oldest.saturating_add(ahead))
    }

    /// Looks how far the group is and what it has answered.
    fn look(&mut self) -> Result<(), ReplayError> {
        self.looked = Instant::now();
        self.course.close();
        if let Some((counted, moved)) = heals(self.positions.counted())? {
            // What has passed the stage of a repartitioned source is not counted yet.
            if self.course.passed(&counted)
                && self.course.in_flight() == 0
                && !self.is_repartitioned()
            {
                self.counted = Some(Instant::now());
            }
            if moved {
                self.moved = Instant::now();
            }
        }
        if heals(self.answers.look())?.unwrap_or(0) > 0 {
            self.moved = Instant::now();
        }
        let (records, place) = self.course.counted();
        self.progress.at(place, records);
        match self.daemon {
            Some(daemon) if !daemon.is_running() => Ok(daemon.wait()?),
            _ => Ok(()),
        }
    }

    /// Whether anything has happened lately.
    fn is_moving(&self) -> Result<(), ReplayError> {
        if self.moved.elapsed() < self.replay.patience {
            return Ok(());
        }
        let hint = match self.daemon {
            None => format!(
                "does a daemon of the group `{}` run on these topics?",
                self.config.group()
            ),
            Some(daemon) => daemon.ready().to_string(),
        };
        Err(ReplayError::Stalled {
            waited: self.replay.patience,
            left: self.course.in_flight(),
            hint,
        })
    }
}

/// What may heal is looked at again the next time.
fn heals<T>(result: Result<T, LogError>) -> Result<Option<T>, LogError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(LogError::Unavailable { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
