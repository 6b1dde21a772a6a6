//! What the daemon tells of itself: each thread writes its part, HTTP and the host read the whole.
//!
//! Before it, workers and the item follower write a few times a second; after it, `/readyz`, `/status`, the fleet's announcement and
//! [`crate::Handle::status`].

use std::fmt;

use parking_lot::Mutex;
use serde::Serialize;

use crate::champion::Standing;

/// What a daemon is doing.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The version of the build.
    pub version: &'static str,
    /// The instance's name.
    pub instance: String,
    /// Hash of what its configuration must have in common with the others'.
    pub config_hash: String,
    /// Partitions of the behaviors topic.
    pub partitions: i32,
    /// When it was started, Unix milliseconds.
    pub started: i64,
    /// Whether the item table holds all that was there at the start.
    pub items_caught_up: bool,
    /// Why the item follower waits, if it does.
    pub items_trouble: Option<String>,
    /// Where a store that did not open was put aside, and why.
    pub put_aside: Option<PutAside>,
    /// Texts and their vectors, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub texts: Option<TextsStatus>,
    /// The trained model, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelStatus>,
    /// Who is on trial beside the champion, as this instance saw it last, where it trains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trials: Option<Standing>,
    /// Each worker.
    pub workers: Vec<WorkerStatus>,
    /// Whether it is stopping, and why if that is for a failure.
    pub stopping: Option<Stopped>,
}

/// How far texts and their vectors are.
#[derive(Clone, Debug, Serialize)]
pub struct TextsStatus {
    /// Whose vectors rows see; none: nobody has made any yet.
    pub encoder: Option<String>,
    /// Texts that wait to be embedded, as this instance last saw.
    pub waiting: i64,
    /// How long the text that was taken last had waited, where this instance encodes; 0 once none waits.
    pub waited_seconds: f64,
}

/// How far a trained model's vectors are.
#[derive(Clone, Debug, Serialize)]
pub struct ModelStatus {
    /// Its name and version, as answers have it.
    pub name: String,
    /// Whether there are vectors of texts of the encoder that it was trained on; if not, the baseline scores.
    pub has_encoder: bool,
    /// Runs and items that wait for its deep layers.
    pub waiting: usize,
    /// The announced champion, or a canary of other layers, which scores once vectors of texts are there for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ahead: Option<AheadStatus>,
    /// Why the announced champion does not score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// How far an announced champion, or a canary, is that does not score yet.
#[derive(Clone, Debug, Serialize)]
pub struct AheadStatus {
    /// Its name and version.
    pub name: String,
    /// Items that are known and have a text; 0 until they were looked at.
    pub items: usize,
    /// Those of them whose vectors are made.
    pub made: usize,
    /// Runs and items that wait for its deep layers.
    pub waiting: usize,
}

/// A store that did not open.
#[derive(Clone, Debug, Serialize)]
pub struct PutAside {
    /// Where it lies.
    pub path: std::path::PathBuf,
    /// The backend's words.
    pub reason: String,
}

/// A stop.
#[derive(Clone, Debug, Serialize)]
pub struct Stopped {
    /// The failure, if it is for one.
    pub failure: Option<String>,
}

/// What a worker is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WorkerStatus {
    /// Its number.
    pub number: usize,
    /// Where it stands.
    pub stage: Stage,
    /// Partitions that work.
    pub working: Vec<i32>,
    /// Partitions that are being restored.
    pub restoring: Vec<Restoring>,
    /// What it waits for, if it does.
    pub trouble: Option<String>,
}

/// Where a worker stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It waits for the item table.
    #[default]
    WaitingForItems,
    /// It joins the group.
    Joining,
    /// It makes steps.
    Running,
    /// It has ended.
    Ended,
}

/// A partition that is being restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Restoring {
    /// The partition.
    pub partition: i32,
    /// Changelog records that it lacks at most; 0 while that is being asked.
    pub remaining: i64,
}

/// Whether the daemon does its work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether it does.
    pub ready: bool,
    /// Why it does not.
    pub reasons: Vec<Reason>,
}

/// Why a daemon is not ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// The item table is not read to its end yet.
    ItemsNotCaughtUp {
        /// What the follower waits for, if it does.
        trouble: Option<String>,
    },
    /// No partition has been assigned, and the rest of the fleet does not have them all.
    NothingAssigned,
    /// A partition is being restored.
    Restoring {
        /// The partition.
        partition: i32,
        /// Changelog records that it lacks at most.
        remaining: i64,
    },
    /// A worker waits for the world to heal.
    Trouble {
        /// Its number.
        worker: usize,
        /// What went wrong.
        what: String,
    },
    /// The daemon is stopping.
    Stopping {
        /// The failure, if it is for one.
        failure: Option<String>,
    },
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ready {
            return f.write_str("the daemon is ready");
        }
        f.write_str("the daemon is not ready")?;
        for (index, reason) in self.reasons.iter().enumerate() {
            write!(f, "{}{reason}", if index == 0 { ": " } else { "; " })?;
        }
        Ok(())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ItemsNotCaughtUp { trouble: None } => {
                f.write_str("the items are not read to their end")
            }
            Self::ItemsNotCaughtUp {
                trouble: Some(what),
            } => write!(f, "the items are not read to their end, for {what}"),
            Self::NothingAssigned => f.write_str("no partition is assigned"),
            Self::Restoring {
                partition,
                remaining,
            } => write!(
                f,
                "partition {partition} is being restored, {remaining} records are left"
            ),
            Self::Trouble { worker, what } => write!(f, "worker {worker} waits: {what}"),
            Self::Stopping { failure: None } => f.write_str("it is stopping"),
            Self::Stopping {
                failure: Some(failure),
            } => write!(f, "it is stopping for {failure}"),
        }
    }
}

/// What the threads tell, each for itself.
#[derive(Debug)]
pub(crate) struct Board {
    workers: Vec<Mutex<WorkerStatus>>,
    items: Mutex<Items>,
    trials: Mutex<Option<Standing>>,
}

#[derive(Clone, Debug, Default)]
struct Items {
    caught_up: bool,
    trouble: Option<String>,
}

impl Board {
    pub(crate) fn new(workers: usize) -> Self {
        let worker = |number| {
            Mutex::new(WorkerStatus {
                number,
                ..WorkerStatus::default()
            })
        };
        Self {
            workers: (0..workers).map(worker).collect(),
            items: Mutex::default(),
            trials: Mutex::default(),
        }
    }

    pub(crate) fn tell_trials(&self, standing: Standing) {
        *self.trials.lock() = Some(standing);
    }

    pub(crate) fn trials(&self) -> Option<Standing> {
        self.trials.lock().clone()
    }

    pub(crate) fn tell(&self, status: WorkerStatus) {
        if let Some(place) = self.workers.get(status.number) {
            *place.lock() = status;
        }
    }

    pub(crate) fn workers(&self) -> Vec<WorkerStatus> {
        self.workers
            .iter()
            .map(|worker| worker.lock().clone())
            .collect()
    }

    pub(crate) fn tell_items(&self, caught_up: bool, trouble: Option<String>) {
        *self.items.lock() = Items { caught_up, trouble };
    }

    pub(crate) fn items(&self) -> (bool, Option<String>) {
        let items = self.items.lock();
        (items.caught_up, items.trouble.clone())
    }
}

impl Status {
    /// Whether it does its work; `others_have_all` is whether the rest of the fleet works on every partition.
    #[must_use]
    pub fn readiness(&self, others_have_all: bool) -> Readiness {
        let mut reasons = Vec::new();
        if let Some(stopped) = &self.stopping {
            reasons.push(Reason::Stopping {
                failure: stopped.failure.clone(),
            });
        }
        if !self.items_caught_up || self.items_trouble.is_some() {
            reasons.push(Reason::ItemsNotCaughtUp {
                trouble: self.items_trouble.clone(),
            });
        }
        let idle = self
            .workers
            .iter()
            .all(|worker| worker.working.is_empty() && worker.restoring.is_empty());
        if idle && !others_have_all {
            reasons.push(Reason::NothingAssigned);
        }
        for worker in &self.workers {
            reasons.extend(worker.restoring.iter().map(|restoring| Reason::Restoring {
                partition: restoring.partition,
                remaining: restoring.remaining,
            }));
            if let Some(what) = &worker.trouble {
                reasons.push(Reason::Trouble {
                    worker: worker.number,
                    what: what.clone(),
                });
            }
        }
        Readiness {
            ready: reasons.is_empty(),
            reasons,
        }
    }

    /// Partitions that work here.
    pub fn working(&self) -> impl Iterator<Item = i32> {
        self.workers
            .iter()
            .flat_map(|worker| worker.working.iter().copied())
    }

    /// Partitions that are being restored here.
    pub fn restoring(&self) -> impl Iterator<Item = i32> {
        self.workers
            .iter()
            .flat_map(|worker| worker.restoring.iter().map(|restoring| restoring.partition))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: people read why a daemon is not ready. Method: two reasons, and none.
    #[test]
    fn readiness_is_said_in_words() {
        let words = |reasons: Vec<Reason>| {
            let ready = reasons.is_empty();
            Readiness { ready, reasons }.to_string()
        };
        let what = "log: no space left on device".to_owned();
        assert_eq!(
            words(vec![
                Reason::Trouble { worker: 0, what },
                Reason::NothingAssigned
            ]),
            "the daemon is not ready: worker 0 waits: log: no space left on device; no partition is assigned"
        );
        assert_eq!(words(Vec::new()), "the daemon is ready");
    }
}
