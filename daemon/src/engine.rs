//! The engine: the production step over records that a program hands in, without any log.
//!
//! Before it stand a host program, or [`crate::backtest`]; after it nothing: answers go back to the caller. It runs
//! [`Pipeline::step`], the same as a worker does, over partition 0 of 1; what differs is where records come from, and that item
//! statistics do not travel through topics but are counted in the engine itself.
//!
//! # What it promises
//!
//! - **Time is event time.** No clock is read. The engine's time is the newest record's; a score request is answered as of its own
//!   time.
//! - **The order of calls is the order of things**, and the only one: a row sees what was ingested before it (and happened strictly
//!   before its time, `STATE-3`), however many records the engine steps at once. So the same calls give the same answers, to the bit.
//! - **Item statistics** count from the first record of the next minute on: a row may see only cells that ended before its time, so
//!   nothing is lost by it, and it does not matter which records share a step.
//! - **Memory of users** is bounded by `state.memory`; what does not fit lies in the store, in memory ([`Engine::new`]) or in a folder
//!   ([`Engine::in_folder`]). Items and their statistics are in memory, all of them, as in the daemon.
//!
//! Where `texts.encoder` is set, vectors of texts are made when a row first needs them, and where `scoring.model` is, those of users and items: rows are what
//! they would be if nothing ever waited.
//!
//! What needs a log or a clock is not here: a standing request is answered once (`degraded: too_many_standing`), behaviors alone are not
//! scored, and no feature log is written. State does not outlive the engine: there is no log to restore it from.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use headwater_config::{Backend, Config, OnBehavior, Span, Topic};
use headwater_consumers::Metrics;
use headwater_consumers::embed::Embed;
use headwater_consumers::items::ItemMaker;
use headwater_consumers::log::{RecordBatch, TopicPartition};
use headwater_consumers::step::{Owned, Pipeline, StepOutput};
use headwater_consumers::texts;
use headwater_consumers::worker::settings_of;
use headwater_model::FeatureSchema;
use headwater_state::{
    Delta, Entity, ItemTable, MemoryStores, Partition, Statistics, Stores, Timestamp,
};

mod answer;
mod error;
mod record;
mod vectors;

pub use answer::{Answer, ScoredItem};
pub use error::EngineError;
pub use record::{Behavior, Item, ScoreRequest};

/// The one partition.
const PARTITION: i32 = 0;

/// One minute: the length of the finest cells of item statistics.
const MINUTE_MS: i64 = 60_000;

/// The step, in a program's own hands. See the module's docs for what it promises.
pub struct Engine {
    pipeline: Pipeline,
    owned: BTreeMap<i32, Owned>,
    items: ItemTable,
    maker: ItemMaker,
    /// Keeps the stores (and a folder's lock) for as long as the engine lives.
    _stores: Arc<dyn Stores>,
    waiting: RecordBatch,
    /// Place in the order of a step of the last waiting record: its time, and requests before behaviors.
    last: (Timestamp, bool),
    output: StepOutput,
    answers: RecordBatch,
    /// Rows as they were scored, where they are kept.
    rows: RecordBatch,
    /// Item statistics of the current minute, not yet to be seen.
    held: BTreeMap<Box<[u8]>, Delta>,
    next: [i64; 2],
    /// Newest event time of all records.
    clock: Timestamp,
    /// Behaviors and requests that came after a newer one.
    out_of_order: u64,
    changelog: i64,
    records_max: usize,
    bytes_max: usize,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("clock", &self.clock)
            .field("waiting", &self.waiting.len())
            .field("owned", &self.owned)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine that keeps everything in memory.
    ///
    /// # Errors
    /// A configuration that breaks a rule.
    pub fn new(config: &Config) -> Result<Self, EngineError> {
        Self::over(config, Arc::new(MemoryStores::default()), false, None)
    }

    /// As [`Engine::new`], and it keeps the rows that the daemon would log ([`Engine::take_rows`]). With `embed`, vectors of texts are that one's, which must be
    /// of the configuration's encoder.
    pub(crate) fn logging(
        config: &Config,
        embed: Option<Box<dyn Embed>>,
    ) -> Result<Self, EngineError> {
        Self::over(config, Arc::new(MemoryStores::default()), true, embed)
    }

    /// An engine whose users lie in `folder` where they do not fit into `state.memory`. The folder is working space: whatever an
    /// engine left there before is deleted.
    ///
    /// # Errors
    /// A configuration that breaks a rule, or a folder that cannot be used.
    pub fn in_folder(config: &Config, folder: &Path) -> Result<Self, EngineError> {
        let backend = match config.state.backend {
            Backend::Sled => headwater_state::Backend::Sled,
            Backend::Fjall => headwater_state::Backend::Fjall,
        };
        let opened = headwater_state::open(folder, backend, config.state.memory.get() / 4)
            .map_err(EngineError::Store)?;
        opened
            .stores
            .remove(PARTITION)
            .map_err(EngineError::Store)?;
        Self::over(config, opened.stores, false, None)
    }

    fn over(
        config: &Config,
        stores: Arc<dyn Stores>,
        rows: bool,
        embed: Option<Box<dyn Embed>>,
    ) -> Result<Self, EngineError> {
        config.check().map_err(EngineError::Config)?;
        let mut config = config.clone();
        config.scoring.on_behavior = OnBehavior::Off;
        config.scoring.feature_log = rows;
        config.labels.examples = headwater_config::Examples::Off;
        config.scoring.standing_max = 0;
        // Event time is the only clock here: nothing is ahead of it.
        config.state.max_ahead = Span::from_secs(1_000 * 365 * 86_400);
        let metrics = Metrics::register(&prometheus::Registry::new())
            .expect("invariant: a new registry has no names yet");
        let store = stores.open(PARTITION).map_err(EngineError::Store)?;
        let users = Partition::open(store, settings_of(&config, 1)).map_err(|source| {
            EngineError::Step {
                source: headwater_consumers::Error::State {
                    partition: PARTITION,
                    source,
                },
            }
        })?;
        let owned = Owned {
            number: PARTITION,
            users,
            statistics: Statistics::default(),
        };
        let mut pipeline = Pipeline::new(&config, (1, 1), metrics.clone())?;
        vectors::at_once(&config, pipeline.assembler(), &metrics, embed)?;
        Ok(Self {
            pipeline,
            owned: BTreeMap::from([(PARTITION, owned)]),
            items: ItemTable::default(),
            maker: ItemMaker::new(&config),
            _stores: stores,
            waiting: RecordBatch::default(),
            last: (Timestamp::MIN, false),
            output: StepOutput::default(),
            answers: RecordBatch::default(),
            rows: RecordBatch::default(),
            held: BTreeMap::new(),
            next: [0; 2],
            clock: Timestamp::MIN,
            out_of_order: 0,
            changelog: 0,
            records_max: config.step.records_max,
            bytes_max: config.step.bytes_max.as_usize(),
        })
    }

    /// Steps at most so many records at once: a matter of speed, never of what comes out.
    #[must_use]
    pub fn with_step_records(mut self, records_max: usize) -> Self {
        self.records_max = records_max.max(1);
        self
    }

    /// Takes in an item record ([`Item::to_json`], or the bytes of the `items` topic): what later rows know of it. One that is older, by its
    /// `time`, than what is known of the item changes nothing.
    ///
    /// # Errors
    /// A record that cannot be read; nothing changed then.
    pub fn item(&mut self, record: impl AsRef<[u8]>) -> Result<(), EngineError> {
        let record = record.as_ref();
        self.pipeline.decoder().item(None, record, -1)?;
        // What waits was before it.
        self.step()?;
        let decoded = self.pipeline.decoder().item(None, record, -1)?;
        self.maker.put(&mut self.items, &decoded, -1);
        Ok(())
    }

    /// Takes in a behavior record ([`Behavior::to_json`], or the bytes of the `behaviors` topic). Whether it counts is decided as in the
    /// daemon: one whose `event_id` was counted before does not, nor one that is late where the configuration says so; see
    /// [`Engine::dropped`].
    ///
    /// # Errors
    /// A record that cannot be read (nothing changed then), or a store that fails.
    pub fn ingest(&mut self, record: impl AsRef<[u8]>) -> Result<(), EngineError> {
        let record = record.as_ref();
        let time = self.pipeline.decoder().behavior(Some(record), -1)?.time;
        self.wait(Topic::Behaviors, time, record)
    }

    /// Answers a score request ([`ScoreRequest::to_json`], or the bytes of the `score-requests` topic) from all that was ingested.
    ///
    /// # Errors
    /// A record that cannot be read (nothing changed then), or a store that fails.
    pub fn score(&mut self, request: impl AsRef<[u8]>) -> Result<Answer, EngineError> {
        self.step()?;
        self.queue(request)?;
        self.step()?;
        let mut parts = Vec::new();
        self.take_answers(|json| {
            parts.push(Answer::of_json(json));
        });
        Ok(Answer::join(parts))
    }

    /// Behaviors that were not counted: by reason, `duplicate` or `late`.
    ///
    /// # Errors
    /// A store that fails.
    pub fn dropped(&mut self, reason: &str) -> Result<u64, EngineError> {
        self.step()?;
        let metrics = self.pipeline.metrics();
        Ok(metrics.dropped.with_label_values(&[reason]).get())
    }

    /// The places of the sequences that a behavior record is in, and its text, by what is known of items now.
    pub(crate) fn sequences_of(
        &mut self,
        record: &[u8],
    ) -> Result<(Vec<usize>, Option<String>), EngineError> {
        let decoded = self.pipeline.decoder().behavior(Some(record), -1)?;
        let scenario = self.pipeline.scenario_name(decoded.scenario);
        let sequences = self.pipeline.sequences();
        let text = sequences.text(&decoded, scenario, &self.items);
        Ok((sequences.of(decoded.kind).collect(), text))
    }

    /// The text of an item, by what is known of it now; empty where that is nothing.
    pub(crate) fn item_text(&self, id: &str) -> String {
        let template = self.pipeline.sequences().item_template();
        let item = self.items.item(id);
        item.map_or_else(String::new, |item| {
            texts::of_item(template, id, item, &self.items)
        })
    }

    /// What its rows are made of.
    pub(crate) fn schema(&mut self) -> &FeatureSchema {
        self.pipeline.assembler().schema()
    }

    /// Bytes of users in memory, about.
    pub fn memory(&self) -> usize {
        self.owned.values().map(|owned| owned.users.memory()).sum()
    }

    /// Behaviors and requests so far that came after one with a later time.
    pub(crate) fn out_of_order(&self) -> u64 {
        self.out_of_order
    }

    /// Queues a score request; its answer is there once a step took it ([`Engine::take_answers`]).
    pub(crate) fn queue(&mut self, request: impl AsRef<[u8]>) -> Result<(), EngineError> {
        let request = request.as_ref();
        let time = self.pipeline.decoder().request(Some(request))?.time;
        self.wait(Topic::ScoreRequests, time, request)
    }

    /// Hands over the answers that are there, in the order of requests, as the JSON that the daemon would publish.
    pub(crate) fn take_answers(&mut self, mut each: impl FnMut(&[u8])) {
        for answer in self.answers.iter() {
            each(answer.value.unwrap_or_default());
        }
        self.answers.clear();
    }

    /// Hands over the rows that are there, in the order of requests, as the daemon would log them.
    pub(crate) fn take_rows(&mut self, mut each: impl FnMut(&[u8])) {
        for row in self.rows.iter() {
            each(row.value.unwrap_or_default());
        }
        self.rows.clear();
    }

    /// Puts a record to those that wait for a step, after stepping them where it does not belong to them.
    fn wait(&mut self, topic: Topic, time: Timestamp, record: &[u8]) -> Result<(), EngineError> {
        let is_behavior = topic == Topic::Behaviors;
        let full = self.waiting.len() >= self.records_max || self.waiting.bytes() >= self.bytes_max;
        // A step merges its records by time, requests first. What would be moved by that begins a step of its own.
        let moved = (time, is_behavior) < self.last;
        let minute = |time: Timestamp| time.0.div_euclid(MINUTE_MS);
        let new_minute = minute(time) > minute(self.clock);
        if full || moved || new_minute {
            self.step()?;
        }
        if new_minute {
            self.fold_held();
        }
        self.out_of_order += u64::from(time < self.clock);
        self.clock = self.clock.max(time);
        self.last = (time, is_behavior);
        let at = TopicPartition::new(topic, PARTITION);
        let next = &mut self.next[usize::from(is_behavior)];
        // The log's clock is event time too.
        self.waiting
            .push(at, (*next, time.0), None, Some(record), []);
        *next += 1;
        Ok(())
    }

    /// Steps what waits.
    pub(crate) fn step(&mut self) -> Result<(), EngineError> {
        self.last = (Timestamp::MIN, false);
        // One step leaves what would be too much for it.
        while !self.waiting.is_empty() {
            self.step_once()?;
        }
        Ok(())
    }

    fn step_once(&mut self) -> Result<(), EngineError> {
        // The first record's time is the earliest of the step: no request of it is past its deadline.
        let now = Timestamp(self.waiting.get(0).timestamp);
        // Salts make pseudonyms, by which trained models know users: they need only be the same in every run, whoever comes first.
        let mut salt = || [1; 16];
        let stepped = self.pipeline.step(
            &self.waiting,
            &mut self.owned,
            &self.items,
            now,
            &mut salt,
            &mut self.output,
        );
        stepped.map_err(|source| EngineError::Step { source })?;
        if let Some(source) = self.pipeline.assembler().failure() {
            return Err(EngineError::Step { source });
        }
        let taken_in = self.take_in_output();
        if taken_in.is_err() || !self.output.rest {
            self.waiting.clear();
        }
        taken_in?;
        self.write_back(now)
    }

    /// What a log would carry: answers out, item deltas back in.
    fn take_in_output(&mut self) -> Result<(), EngineError> {
        for record in self
            .output
            .immediate
            .iter()
            .chain(self.output.transactional.iter())
        {
            match record.at.topic {
                Topic::Scores => {
                    self.answers
                        .push(record.at, (0, 0), record.key, record.value, []);
                }
                Topic::FeatureLog => {
                    self.rows
                        .push(record.at, (0, 0), record.key, record.value, []);
                }
                Topic::ItemDeltas => {
                    let key = record.key.unwrap_or_default();
                    let delta = Delta::read(record.value.unwrap_or_default())
                        .expect("invariant: the step wrote this delta");
                    match self.held.get_mut(key) {
                        Some(held) => held.merge(&delta),
                        None => drop(self.held.insert(key.into(), delta)),
                    }
                }
                Topic::Changelog => self.changelog += 1,
                Topic::DeadLetters => {
                    let reason = record.headers.get("headwater-detail").unwrap_or_default();
                    let reason = String::from_utf8_lossy(reason).into_owned();
                    return Err(EngineError::DeadLetter { reason });
                }
                Topic::Behaviors
                | Topic::Items
                | Topic::Labels
                | Topic::ScoreRequests
                | Topic::StandingScores
                | Topic::ItemState
                | Topic::Fleet
                | Topic::Repartition
                | Topic::Texts
                | Topic::Embeddings
                | Topic::Models => {}
            }
        }
        for (number, _) in &self.output.changed {
            if let Some(owned) = self.owned.get_mut(number) {
                owned.users.committed(self.changelog);
                owned.statistics.committed(None);
            }
        }
        Ok(())
    }

    /// Counts the item statistics of the minutes before.
    fn fold_held(&mut self) {
        for (key, delta) in std::mem::take(&mut self.held) {
            let entity = Entity::of_key(&key).expect("invariant: the step made this key");
            self.items.fold(entity, &delta);
        }
    }

    /// Users that do not fit into memory go to the store.
    fn write_back(&mut self, now: Timestamp) -> Result<(), EngineError> {
        for owned in self.owned.values_mut() {
            if owned.users.wants_write_back(u64::MAX) {
                let written = owned.users.write_back(now).run();
                owned
                    .users
                    .written(written)
                    .map_err(|source| EngineError::Step {
                        source: headwater_consumers::Error::State {
                            partition: PARTITION,
                            source,
                        },
                    })?;
            }
            owned.users.evict();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
