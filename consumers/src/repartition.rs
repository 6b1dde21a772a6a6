//! A source that is not keyed by user, brought into order: its records are read in whatever partitions they lie, and each event is
//! written to the repartition topic, keyed by its user, where the fast loop reads it.
//!
//! Before it stands the platform's topic; after it, a [`crate::worker::Worker`] whose behaviors topic is the repartition topic. It is the work of a
//! [`Stage`] with a log of its own: a group `<group>-repartition` with transactional ids of its own, in which [`Topic::Behaviors`] is the source.
//! So each event is in the repartition topic exactly once (`PIPE-1`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use headwater_config::{Config, Topic};
use headwater_state::Timestamp;

use crate::answer::{self, HEADER_ID, HEADER_REDRIVE};
use crate::decode::mapped::{Event, Events};
use crate::decode::{Decoder, Reject};
use crate::error::Error;
use crate::log::{Log, LogError, Member, PollLimit, Record, RecordBatch, Start, TopicPartition};
use crate::metrics::Metrics;
use crate::partitioner::partition_of;
use crate::stage::{Parts, Stage, Work};
use crate::step::taken;
use crate::worker::World;

/// Header: name, partition and offset of the source's record.
pub const HEADER_SOURCE: &str = "headwater-source";

/// What the group of the stage is called, after the daemon's.
pub const GROUP_SUFFIX: &str = "-repartition";

/// The source in the stage's metrics, where the fast loop's own topic is `behaviors`.
pub const LABEL: &str = "source";

/// What the stage does with the source's records.
#[derive(Debug)]
pub struct Repartition {
    decoder: Decoder,
    metrics: Metrics,
    /// Name of the source, for headers.
    source: String,
    /// Partitions of the repartition topic.
    partitions: i32,
    scratch: Vec<u8>,
}

impl Repartition {
    /// The stage with a member of its own. `log` is the stage's: its [`Topic::Behaviors`] is the source, its [`Topic::Repartition`] where the
    /// fast loop reads. `config` names the source as `topics.behaviors` and has its mapping; `partitions` is the count of the
    /// repartition topic, and of the dead letters.
    pub fn stage(
        config: &Config,
        log: Arc<dyn Log>,
        member: Box<dyn Member>,
        (partitions, dead_letter_partitions): (i32, i32),
        metrics: Metrics,
        world: Box<dyn World>,
    ) -> Stage<Self> {
        let source = config.topic_name(Topic::Behaviors);
        Stage::new(Parts {
            log,
            member,
            work: Self {
                decoder: Decoder::new(config),
                metrics: metrics.clone(),
                source: source.clone(),
                partitions,
                scratch: Vec::new(),
            },
            input: Topic::Behaviors,
            name: source,
            label: LABEL,
            limit: PollLimit {
                records: config.step.records_max,
                bytes: config.step.bytes_max.as_usize(),
                wait: config.step.wait.duration(),
            },
            dead_letter_partitions,
            metrics,
            world,
        })
    }

    /// Whether any record was committed to the repartition topic. Its offsets alone do not tell: aborted records have some too.
    fn is_written(&self, log: &dyn Log) -> Result<bool, Error> {
        const LOOKS: usize = 25;
        let mut reader = log.reader()?;
        let mut open = BTreeMap::new();
        for number in 0..self.partitions {
            let of = TopicPartition::new(Topic::Repartition, number);
            let extent = log.extent(of)?;
            if extent.next > extent.first {
                reader.assign(of, Start::Beginning)?;
                open.insert(of, extent.next);
            }
        }
        let limit = PollLimit {
            records: 1,
            bytes: 1,
            wait: Duration::from_millis(200),
        };
        let mut batch = RecordBatch::default();
        for _ in 0..LOOKS {
            if open.is_empty() {
                return Ok(false);
            }
            reader.poll(limit, &mut batch)?;
            if !batch.is_empty() {
                return Ok(true);
            }
            for (of, position) in batch.ends() {
                if open.get(of).is_some_and(|next| position >= next) {
                    open.remove(of);
                }
            }
        }
        Err(Error::Log(LogError::Unavailable {
            doing: "looking whether the repartition topic holds records",
            source: "it did not come to its end in five seconds".into(),
        }))
    }
}

impl Work for Repartition {
    /// The events of a record.
    fn take(
        &mut self,
        record: &Record<'_>,
        now: Timestamp,
        output: &mut RecordBatch,
    ) -> Result<(), Reject> {
        let taken = taken(record, now).0;
        let Some(mapping) = self.decoder.mapping() else {
            // A record of our own form with another key: passed on as it is, with what we do not know.
            let behavior = self.decoder.behavior(record.value, taken)?;
            let value = record.value.unwrap_or_default();
            fits(value.len())?;
            push(
                output,
                &self.source,
                self.partitions,
                record,
                (&behavior.user, 0),
                value,
            );
            return Ok(());
        };
        let Events { events, skipped } = self.decoder.events(mapping, record.value, taken)?;
        if skipped > 0 {
            let dropped = self.metrics.dropped.with_label_values(&["unmapped_kind"]);
            dropped.inc_by(skipped);
        }
        for event in &events {
            // A text of one byte has at most six in JSON.
            if event.bytes() > answer::RECORD_BYTES_MAX / 8 {
                let written = serde_json::to_vec(event);
                fits(written.expect("invariant: an event is plain JSON").len())?;
            }
        }
        for event in &events {
            self.scratch.clear();
            serde_json::to_writer(&mut self.scratch, event)
                .expect("invariant: an event is plain JSON");
            let Event { user_id, index, .. } = event;
            push(
                output,
                &self.source,
                self.partitions,
                record,
                (user_id, *index),
                &self.scratch,
            );
        }
        Ok(())
    }

    fn finish(&mut self, _: &mut RecordBatch) -> Result<(), Error> {
        Ok(())
    }

    fn forget(&mut self) {}

    /// Where the group has no position at all and the repartition topic holds records, the positions are gone (they expire when nobody
    /// reads for `offsets.retention.minutes`): reading from the beginning would count everything twice, and nobody here can know from where to go on.
    fn anew(&self, log: &dyn Log, member: &mut dyn Member) -> Result<(), Error> {
        // Before all positions: a transaction of another member then cannot fall in between.
        let written = self.is_written(log)?;
        let facts = log.describe(Topic::Behaviors)?;
        let all: Vec<_> = (0..facts.map_or(0, |facts| facts.partitions))
            .map(|number| TopicPartition::new(Topic::Behaviors, number))
            .collect();
        if !written || member.committed(&all)?.iter().any(Option::is_some) {
            return Ok(());
        }
        Err(Error::Topic {
            name: self.source.clone(),
            reason: format!(
                "the group with the suffix `{GROUP_SUFFIX}` has no position in it, and topics.repartition holds records already: the \
                 positions have expired or were deleted, and reading from the beginning would count events twice. Set them by \
                 kafka-consumer-groups.sh --reset-offsets to where reading ended (the newest records of topics.repartition name it in \
                 their header {HEADER_SOURCE})"
            ),
        })
    }
}

/// Refuses what is longer, written again, than a record of ours may be.
fn fits(bytes: usize) -> Result<(), Reject> {
    let room = answer::RECORD_BYTES_MAX;
    if bytes > room {
        return Err(Reject::too_large_to_write(bytes, room));
    }
    Ok(())
}

fn push(
    to: &mut RecordBatch,
    source: &str,
    partitions: i32,
    record: &Record<'_>,
    (user, index): (&str, u16),
    value: &[u8],
) {
    let place = format!("{source}-{}-{}", record.at.partition, record.offset);
    let id = format!("{place}.{index}");
    let at = TopicPartition::new(
        Topic::Repartition,
        partition_of(user.as_bytes(), partitions),
    );
    let headers = [
        (HEADER_ID, Some(id.as_bytes())),
        (HEADER_SOURCE, Some(place.as_bytes())),
    ];
    // Of a record that was sent again, each event keeps which dead letter it was, and which event of it.
    let redriven = record.headers.get(HEADER_REDRIVE);
    let redriven = redriven.map(|letter| [letter, format!(".{index}").as_bytes()].concat());
    let redriven = redriven
        .as_deref()
        .map(|letter| (HEADER_REDRIVE, Some(letter)));
    to.push(
        at,
        (0, 0),
        Some(user.as_bytes()),
        Some(value),
        headers.into_iter().chain(redriven),
    );
}

#[cfg(test)]
mod tests;
