//! A step: what follows from the records of one poll. It reads records and its partitions' state, changes that state in memory,
//! and gives what is to be sent; it does no I/O but reads of the store, and knows no time but what it is given.
//!
//! Before it stands `decode`; after it, `worker` commits what it gives or has all of it forgotten. Records of a partition are
//! merged by time over topics, each topic in its own order, requests before behaviors of the same time: so what a row sees does
//! not depend on how steps are cut (`STATE-3`).
//!
//! What a step gives out is bounded, however much its records ask for (`LIMIT-1`): past `step.bytes_max` it takes no further record and leaves
//! the rest of the poll to the next step. Standing requests that are due have as much again, and so have labels that are final, so that none waits for
//! another for ever.

use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_config::{Config, OnBehavior, Topic};
use headwater_model::Scores;
use headwater_state::{
    Behavior, Coordinates, Delta, Entity, Folded, ItemTable, KindId, Partition, Place, ScenarioId,
    SequenceId, SlotId, Standing, Statistics, Timestamp, pinned_hash,
};

use crate::answer::{
    self, Answer, HEADER_ID, HEADER_MODEL, HEADER_REDRIVE, HEADER_SCHEMA, ScoredItems,
    StatePosition,
};
use crate::assemble::{Assembler, Row, RowRequest};
use crate::decode::{Decoded, DecodedBehavior, DecodedRequest, Decoder, Reject};
use crate::error::Error;
use crate::explore::RandomOrder;
use crate::log::{Headers, Record, RecordBatch, TopicPartition};
use crate::metrics::Metrics;
use crate::partitioner::partition_of;
use crate::sequences::Sequences;
use crate::skew::{Sample, Sampler};

mod inputs;
mod labels;
mod merge;
mod publish;
mod requests;

use inputs::Inputs;
use labels::Labelling;
pub use labels::{label_rules, makes_labels};

/// One partition as its owner holds it.
#[derive(Debug)]
pub struct Owned {
    /// Its number.
    pub number: i32,
    /// Its users.
    pub users: Partition,
    /// The item statistics of the same number.
    pub statistics: Statistics,
}

/// What a step gives.
#[derive(Debug, Default)]
pub struct StepOutput {
    /// To be sent in the transaction.
    pub transactional: RecordBatch,
    /// To be sent at once, in at-least-once mode.
    pub immediate: RecordBatch,
    /// Next offsets of the input, to be committed with it.
    pub positions: Vec<(TopicPartition, i64)>,
    /// Partitions whose changelog, and whose item state, it writes.
    pub changed: Vec<(i32, bool)>,
    /// Newest event time among the causes of its scores, and of which scenario: for the freshness metric.
    pub causes: Vec<(ScenarioId, Timestamp)>,
    /// A partition with a record that does not belong there, if there was any.
    pub misplaced: Option<i32>,
    /// Whether records were left: the next step is to be given the same batch again, and takes them.
    pub rest: bool,
}

impl StepOutput {
    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.transactional.clear();
        self.immediate.clear();
        self.positions.clear();
        self.changed.clear();
        self.causes.clear();
        self.misplaced = None;
        self.rest = false;
    }

    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.transactional.is_empty() && self.immediate.is_empty() && self.positions.is_empty()
    }
}

/// Where the indexes of what a request has shown begin: its offset is one of another topic than the behaviors', and with an index of
/// theirs too, two behaviors of a user would have no order.
const SHOWN: u16 = 0x8000;

/// Behaviors that are decoded, and whose users are looked up, before the first of them is folded. A user is a few cache misses away: so
/// many are waited for at once, and what they bring (some 2 KiB a user) still lies in the second-level cache when its turn comes.
const AHEAD: usize = 64;

/// What the steps of a worker share.
#[derive(Debug)]
pub struct Pipeline {
    settings: Settings,
    decoder: Decoder,
    assembler: Assembler,
    metrics: Metrics,
    scores: Scores,
    scratch: Vec<u8>,
    key: Vec<u8>,
    /// Those of the behavior that is being folded.
    sequences: Vec<SequenceId>,
    deltas: BTreeMap<Box<[u8]>, Delta>,
    /// Bytes of the deltas' records.
    delta_bytes: usize,
    scenario_names: BTreeMap<ScenarioId, Arc<str>>,
    /// The name of all other scenarios.
    other: Arc<str>,
    /// The records of the step, by partition.
    inputs: BTreeMap<i32, Inputs>,
    /// Candidates scored in the step: metrics are told once a step.
    scored: BTreeMap<ScenarioId, u64>,
    /// Who wants some rows to hold them against the log, and the last behavior of the partition so far.
    sampler: Option<Sampler>,
    folded: Option<Coordinates>,
}

#[derive(Debug)]
struct Settings {
    config: Config,
    names: BTreeMap<Topic, String>,
    partitions: i32,
    dead_letter_partitions: i32,
    debounce_ms: i64,
    impressions: Vec<KindId>,
    labels: Option<Labelling>,
    /// Kinds that count for an item only as the answer to a request: positives, where requests are what is known of impressions. A
    /// positive that no request led to had no trial, and rates are positives of trials.
    answers_only: Vec<KindId>,
}

/// Who caused a row, for its headers.
#[derive(Clone, Copy)]
struct Cause<'a> {
    id: &'a str,
    partition: i32,
    /// Headers of the record that caused it; what config names of them goes on.
    headers: Headers<'a>,
}

impl Pipeline {
    /// A pipeline for a configuration; `partitions` is the count of the behaviors topic.
    ///
    /// # Errors
    /// If the configured tasks make no feature schema.
    pub fn new(
        config: &Config,
        (partitions, dead_letter_partitions): (i32, i32),
        metrics: Metrics,
    ) -> Result<Self, headwater_model::FeatureSchemaError> {
        let names = Topic::ALL
            .into_iter()
            .map(|topic| (topic, config.topic_name(topic)))
            .collect();
        let scenario_names = config
            .scenarios
            .names
            .iter()
            .map(|name| (ScenarioId::of(name), Arc::from(name.as_str())))
            .collect();
        Ok(Self {
            decoder: Decoder::new(config),
            assembler: Assembler::new(config)?,
            settings: Settings {
                names,
                partitions,
                dead_letter_partitions,
                debounce_ms: config.scoring.debounce.millis(),
                impressions: config
                    .kinds
                    .impressions
                    .iter()
                    .map(|name| KindId::of(name))
                    .collect(),
                answers_only: config
                    .tasks
                    .values()
                    .filter(|_| config.scoring.requests_are_impressions)
                    .flat_map(|task| &task.positive)
                    .map(|name| KindId::of(name))
                    .collect(),
                labels: Labelling::of(config),
                config: config.clone(),
            },
            metrics,
            scores: Scores::default(),
            scratch: Vec::new(),
            key: Vec::new(),
            sequences: Vec::new(),
            deltas: BTreeMap::new(),
            delta_bytes: 0,
            scenario_names,
            other: Arc::from("other"),
            inputs: BTreeMap::new(),
            scored: BTreeMap::new(),
            sampler: None,
            folded: None,
        })
    }

    /// What was sent may not have been committed: texts are asked for again.
    pub(crate) fn forget_asked(&mut self) {
        self.assembler.forget_missing();
    }

    /// How many partitions the topics have that are partitioned by user.
    pub(crate) fn partitions(&self) -> i32 {
        self.settings.partitions
    }

    /// The decoder.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Its metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The sequences of users.
    pub fn sequences(&self) -> &Sequences {
        self.assembler.sequences()
    }

    /// The assembler, for those who make rows outside of a step.
    pub fn assembler(&mut self) -> &mut Assembler {
        &mut self.assembler
    }

    /// Hands some of the requests over, to be held against the log.
    pub fn sample(&mut self, sampler: Sampler) {
        self.sampler = Some(sampler);
    }

    /// Computes the step of `batch` over the partitions in `owned`. Records of others are passed over: they are not ours. Of records that
    /// are not taken it says so: [`StepOutput::rest`].
    pub fn step(
        &mut self,
        batch: &RecordBatch,
        owned: &mut BTreeMap<i32, Owned>,
        items: &ItemTable,
        now: Timestamp,
        salt: &mut dyn FnMut() -> [u8; 16],
        output: &mut StepOutput,
    ) -> Result<(), Error> {
        output.clear();
        // Of a step that failed halfway.
        self.deltas.clear();
        self.delta_bytes = 0;
        let mut sorted = std::mem::take(&mut self.inputs);
        inputs::sort(batch, owned, &mut sorted);
        // Whoever has waited longest for a standing request is first: none waits for ever, however much is due.
        let mut order: Vec<(Option<Timestamp>, i32)> = owned
            .iter()
            .map(|(number, owned)| (owned.users.due(now).next().map(|(due, ..)| due), *number))
            .collect();
        order.sort_by_key(|(due, number)| (due.is_none(), *due, *number));
        let bytes_max = self.settings.config.step.bytes_max.as_usize();
        let (mut for_records, mut for_timers, mut for_labels) = (bytes_max, bytes_max, bytes_max);
        for (_, number) in order {
            let (Some(owned), Some(inputs)) = (owned.get_mut(&number), sorted.get_mut(&number))
            else {
                continue;
            };
            let before = self.given(owned, output);
            let full = before + for_records;
            let left = self
                .partition_step(batch, inputs, owned, items, now, salt, full, output)
                .map_err(|failure| failure.at(number))?;
            for (topic, offset) in left {
                inputs.leave(batch, topic, offset);
            }
            let between = self.given(owned, output);
            for_records = for_records.saturating_sub(between - before);
            let full = between + for_timers;
            self.timers(owned, items, now, salt, full, output)
                .map_err(|failure| failure.at(number))?;
            let after = self.given(owned, output);
            for_timers = for_timers.saturating_sub(after - between);
            self.release_labels(owned, after + for_labels, output)
                .map_err(|failure| failure.at(number))?;
            for_labels = for_labels.saturating_sub(self.given(owned, output) - after);
            self.finish(batch, owned, inputs, output);
            output.rest |= inputs.rest;
        }
        self.inputs = sorted;
        self.publish_deltas(output);
        for (scenario, count) in std::mem::take(&mut self.scored) {
            let labels = [self.scenario_name(scenario), "champion"];
            self.metrics.scores.with_label_values(&labels).inc_by(count);
        }
        Ok(())
    }

    fn behavior(
        &mut self,
        (record, decoded, place): (&Record<'_>, &DecodedBehavior<'_>, Option<Place>),
        owned: &mut Owned,
        items: &ItemTable,
        now: Timestamp,
        salt: &mut dyn FnMut() -> [u8; 16],
        output: &mut StepOutput,
    ) -> Result<(), Failure> {
        self.check_place(record, &decoded.user, output);
        let at = Coordinates {
            offset: record.offset,
            index: decoded.index,
        };
        self.folded = Some(at);
        let attributes: Vec<_> = decoded
            .attributes
            .iter()
            .map(|(slot, text)| (*slot, &**text))
            .collect();
        let mut sequences = std::mem::take(&mut self.sequences);
        let scenario = Arc::clone(self.shared_name(decoded.scenario));
        let text = (self.assembler).sequences_of(decoded, &scenario, items, &mut sequences);
        let behavior = Behavior {
            text,
            sequences: &sequences,
            ..behavior_of((record, decoded), at, &attributes)
        };
        let user = (&*decoded.user, place);
        let folded = owned.users.fold_at(user, &behavior, salt)?;
        let place = match folded {
            Folded::Duplicate => {
                self.metrics.dropped.with_label_values(&["duplicate"]).inc();
                return Ok(());
            }
            Folded::Late => {
                self.metrics.dropped.with_label_values(&["late"]).inc();
                return Ok(());
            }
            Folded::Counted {
                place,
                late,
                forgotten,
            } => {
                if late || forgotten > 0 {
                    self.metrics.late_kept.inc_by(u64::from(late));
                    self.metrics.forgotten.inc_by(forgotten);
                }
                place
            }
        };
        if text.is_some() {
            let user = owned.users.user(place);
            self.assembler.grown(&decoded.user, user, &sequences);
        }
        self.sequences = sequences;
        self.ask_texts(output);
        output.causes.push((decoded.scenario, decoded.time));
        self.mark_standing(&decoded.user, place, owned, now)?;
        let Some(item) = decoded.item.as_deref() else {
            return Ok(());
        };
        self.note_for_labels(record, (decoded, item), place, owned, output);
        if self.settings.config.scoring.item_statistics
            && (decoded.request.is_some() || !self.settings.answers_only.contains(&decoded.kind))
        {
            self.count(
                item,
                items,
                decoded.scenario,
                decoded.kind,
                decoded.time,
                decoded.value.unwrap_or_default(),
            );
        }
        if self.settings.config.scoring.on_behavior == OnBehavior::Item
            && !self.settings.impressions.contains(&decoded.kind)
        {
            let mut cause = self.cause(record);
            if decoded.index > 0 {
                // A dot: a dash would be a part of the first event's answer.
                cause = format!("{cause}.{}", decoded.index);
            }
            let request = RowRequest {
                request_id: decoded.event_id.as_deref().unwrap_or(&cause),
                user: &decoded.user,
                scenario_name: &scenario,
                scenario: decoded.scenario,
                time: decoded.time.plus(1),
                candidates: &[item],
                order: None,
            };
            let cause = Cause {
                id: &cause,
                partition: owned.number,
                headers: record.headers,
            };
            let degraded: &[&str] = match self.scenario_names.get(&decoded.scenario) {
                Some(_) => &[],
                None => &["unknown_scenario"],
            };
            self.score(
                (&request, Some(place)),
                cause,
                owned,
                items,
                now,
                (degraded, &[Topic::Scores]),
                salt,
                output,
            )?;
        }
        Ok(())
    }

    /// Adds a behavior to the step's deltas: of the item, its categories, and all items.
    fn count(
        &mut self,
        item: &str,
        items: &ItemTable,
        scenario: ScenarioId,
        kind: KindId,
        time: Timestamp,
        value: headwater_state::FixedSum,
    ) {
        let mut add = |entity: Entity<'_>| {
            let key = entity.key();
            let key_bytes = key.len();
            let delta = self.deltas.entry(key).or_default();
            self.delta_bytes += if delta.is_empty() { key_bytes } else { 0 };
            if delta.add(scenario, kind, time, value) {
                self.delta_bytes += Delta::COUNT_BYTES;
            }
        };
        add(Entity::Total);
        add(Entity::Item(item));
        if let Some(known) = items.item(item) {
            for category in known.categories.iter().chain(known.attributes.iter()) {
                add(Entity::Category(items.category_name(*category)));
            }
        }
    }

    /// The name of a scenario as metrics and answers have it.
    pub fn scenario_name(&self, scenario: ScenarioId) -> &str {
        self.shared_name(scenario)
    }

    fn shared_name(&self, scenario: ScenarioId) -> &Arc<str> {
        self.scenario_names.get(&scenario).unwrap_or(&self.other)
    }
}

/// Records of a batch by their indexes.
fn records<'a>(batch: &'a RecordBatch, indexes: &'a [u32]) -> impl Iterator<Item = Record<'a>> {
    indexes.iter().map(|index| batch.get(*index as usize))
}

/// A behavior as state takes it in, of no sequence.
pub(crate) fn behavior_of<'a>(
    (record, decoded): (&Record<'_>, &'a DecodedBehavior<'_>),
    at: Coordinates,
    attributes: &'a [(SlotId, &'a str)],
) -> Behavior<'a> {
    Behavior {
        at,
        time: decoded.time,
        event: event_of(record, decoded),
        kind: decoded.kind,
        scenario: decoded.scenario,
        item: decoded.item.as_deref(),
        value: decoded.value,
        attributes,
        text: None,
        sequences: &[],
    }
}

/// The identity of a behavior, as it is remembered: its event id. One without an id that was a dead letter is known by that letter, so that
/// it counts once however often the letter is sent again. 0: none.
fn event_of(record: &Record<'_>, decoded: &DecodedBehavior<'_>) -> u64 {
    if decoded.event != 0 {
        return decoded.event;
    }
    let Some(letter) = record.headers.get(HEADER_REDRIVE) else {
        return 0;
    };
    // No event id, which is text, begins with this byte.
    let mut name = vec![0xff];
    name.extend_from_slice(&decoded.index.to_le_bytes());
    name.extend_from_slice(letter);
    pinned_hash(&name).max(1)
}

/// When the log took a record, as far as that can be believed: producers stamp their records themselves, and one with a wrong clock must
/// not make others late, nor lose its own.
pub(crate) fn taken(record: &Record<'_>, now: Timestamp) -> Timestamp {
    let stamped = Timestamp(record.timestamp);
    if stamped < Timestamp::PLAUSIBLE_FROM {
        return now;
    }
    stamped.min(now)
}

/// Why a partition's step cannot go on.
enum Failure {
    State(headwater_state::Error),
    Internal(TopicPartition, i64, String),
}

impl From<headwater_state::Error> for Failure {
    fn from(error: headwater_state::Error) -> Self {
        Self::State(error)
    }
}

impl Failure {
    fn at(self, partition: i32) -> Error {
        match self {
            Self::State(source) => Error::State { partition, source },
            Self::Internal(at, offset, reason) => Error::Internal { at, offset, reason },
        }
    }
}

/// An item table that is shared between the follower and the workers.
pub type SharedItems = Arc<parking_lot::RwLock<ItemTable>>;

#[cfg(test)]
mod tests;
