//! Where a training began to read what daemons logged, so that the next one need not read what it would leave out.
//!
//! A training takes the newest rows, and leaves those out that are not later than some time. The next one, which takes as many, leaves them out as well: so it begins where the first
//! record lies that is of a later row.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use headwater_config::{Config, Topic};
use headwater_consumers::log::{Log, TopicPartition};
use serde::{Deserialize, Serialize};

use super::TrainError;
use super::artifact::Artifact;
use super::labelled::stretches;
use crate::scan::Stretch;

const FILE: &str = "reading.json";
const TOPICS: [Topic; 2] = [Topic::Labels, Topic::FeatureLog];

/// What was read, and from where the next training reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reading {
    /// Rows that are not later than this were left out.
    pub(super) later_than: i64,
    /// Offsets by partition, of labels and of rows.
    pub(super) from: [Vec<i64>; 2],
    /// Ends of the topics then: ones that lie before them are of topics that were made anew.
    until: [Vec<i64>; 2],
    /// So many rows were taken: whoever takes more needs what was left out.
    newest: usize,
    /// Names of the topics, and of the tasks, whose labels are kept.
    names: [Vec<String>; 2],
}

impl Reading {
    /// Of a reading that is done: where the first records of rows lie that were not left out.
    pub(super) fn of(
        (config, log): (&Config, &dyn Log),
        later_than: i64,
        first: [&BTreeMap<TopicPartition, i64>; 2],
        newest: usize,
    ) -> Result<Self, TrainError> {
        let mut reading = Self {
            later_than,
            from: [Vec::new(), Vec::new()],
            until: [Vec::new(), Vec::new()],
            newest,
            names: names(config),
        };
        for (place, topic) in TOPICS.into_iter().enumerate() {
            for Stretch { of, from, until } in stretches(config, log, topic, None)? {
                // Where nothing was left out, nothing may be passed over; and where no later row lies, one may have come since.
                let first = first[place].get(&of).copied();
                let whole = later_than == i64::MIN;
                let begin = first.filter(|_| !whole).unwrap_or(from);
                reading.from[place].push(begin);
                reading.until[place].push(until);
            }
        }
        Ok(reading)
    }

    /// The one that was kept in this folder, if it is of what is read now, and of no more rows.
    pub(super) fn found(
        folder: &Path,
        (config, log): (&Config, &dyn Log),
        newest: usize,
    ) -> Result<Option<Self>, TrainError> {
        // One that is not whole, or of another version, is none: everything is read.
        let read = fs::read(folder.join(FILE)).unwrap_or_default();
        let Ok(reading) = serde_json::from_slice::<Self>(&read) else {
            return Ok(None);
        };
        if reading.newest < newest || reading.names != names(config) {
            return Ok(None);
        }
        for (place, topic) in TOPICS.into_iter().enumerate() {
            let now = stretches(config, log, topic, None)?;
            let until = &reading.until[place];
            let goes_on = now.len() == until.len()
                && reading.from[place].len() == until.len()
                && now.iter().zip(until).all(|(now, then)| now.until >= *then);
            if !goes_on {
                return Ok(None);
            }
        }
        Ok(Some(reading))
    }

    /// Keeps it. Where that fails, the next training reads everything.
    pub(super) fn keep(&self, artifact: &Artifact) {
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        if let Err(error) = artifact.write(FILE, &bytes) {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(
                error,
                "where the next training could begin to read is not kept"
            );
        }
    }
}

fn names(config: &Config) -> [Vec<String>; 2] {
    let topics = TOPICS.map(|topic| config.topic_name(topic));
    [topics.into(), config.tasks.keys().cloned().collect()]
}
