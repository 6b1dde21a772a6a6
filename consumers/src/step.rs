//! A step: what follows from the records of one poll. It reads records and its partitions' state, changes that state in memory,
//! and gives what is to be sent; it does no I/O but reads of the store, and knows no time but what it is given.
//!
//! Before it stands `decode`; after it, `worker` commits what it gives or has all of it forgotten. Records of a partition are
//! merged by time over topics, each topic in its own order, requests before behaviors of the same time: so what a row sees does
//! not depend on how steps are cut (`STATE-3`).

use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_config::{Config, OnBehavior, Topic};
use headwater_model::Scores;
use headwater_state::{
    Behavior, Coordinates, Delta, Entity, Folded, ItemTable, KindId, Partition, ScenarioId,
    Standing, Statistics, Timestamp,
};

use crate::answer::{
    self, Answer, HEADER_ID, HEADER_MODEL, HEADER_SCHEMA, ScoredItem, StatePosition, Tasks,
};
use crate::assemble::{Assembler, Row};
use crate::decode::{DecodedBehavior, DecodedRequest, Decoder, Reject};
use crate::error::Error;
use crate::log::{Record, RecordBatch, TopicPartition};
use crate::metrics::Metrics;
use crate::partitioner::partition_of;

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
}

impl StepOutput {
    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.transactional.clear();
        self.immediate.clear();
        self.positions.clear();
        self.changed.clear();
        self.causes.clear();
    }

    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.transactional.is_empty() && self.immediate.is_empty() && self.positions.is_empty()
    }
}

/// Where the indexes of what a request has shown begin: its offset is one of another topic than the behaviors', and with an index of
/// theirs too, two behaviors of a user would have no order.
const SHOWN: u16 = 0x8000;

/// Candidates of one record of the feature log: some 200 bytes each.
const LOGGED_CANDIDATES_MAX: usize = 1000;

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
    deltas: BTreeMap<Box<[u8]>, Delta>,
    scenario_names: BTreeMap<ScenarioId, String>,
    /// Candidates scored in the step: metrics are told once a step.
    scored: BTreeMap<ScenarioId, u64>,
}

#[derive(Debug)]
struct Settings {
    config: Config,
    names: BTreeMap<Topic, String>,
    partitions: i32,
    dead_letter_partitions: i32,
    debounce_ms: i64,
    impressions: Vec<KindId>,
    /// Kinds that count for an item only as the answer to a request: positives, where requests are what is known of impressions. A
    /// positive that no request led to had no trial, and rates are positives of trials.
    answers_only: Vec<KindId>,
}

/// Who caused a row, for its headers.
#[derive(Clone, Copy)]
struct Cause<'a> {
    id: &'a str,
    partition: i32,
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
        let mut scenario_names: BTreeMap<_, _> = config
            .scenarios
            .names
            .iter()
            .map(|name| (ScenarioId::of(name), name.clone()))
            .collect();
        scenario_names.insert(ScenarioId::of("other"), "other".to_owned());
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
                config: config.clone(),
            },
            metrics,
            scores: Scores::default(),
            scratch: Vec::new(),
            key: Vec::new(),
            deltas: BTreeMap::new(),
            scenario_names,
            scored: BTreeMap::new(),
        })
    }

    /// The decoder.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The assembler, for those who make rows outside of a step.
    pub fn assembler(&mut self) -> &mut Assembler {
        &mut self.assembler
    }

    /// Computes the step of `batch` over the partitions in `owned`. Records of others are passed over: they are not ours.
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
        let mut by_partition: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
        for index in 0..batch.len() {
            by_partition
                .entry(batch.get(index).at.partition)
                .or_default()
                .push(index);
        }
        for (number, owned) in owned.iter_mut() {
            let indexes = by_partition.remove(number).unwrap_or_default();
            let mut inputs = Inputs::new(batch, &indexes, owned);
            self.partition_step(&mut inputs, owned, items, now, salt, output)
                .map_err(|failure| failure.at(*number))?;
            self.timers(owned, items, now, salt, output)
                .map_err(|failure| failure.at(*number))?;
            self.finish(owned, &inputs, output);
        }
        self.publish_deltas(output);
        for (scenario, count) in std::mem::take(&mut self.scored) {
            let labels = [self.scenario_name(scenario), "champion"];
            self.metrics.scores.with_label_values(&labels).inc_by(count);
        }
        Ok(())
    }

    fn partition_step(
        &mut self,
        inputs: &mut Inputs<'_>,
        owned: &mut Owned,
        items: &ItemTable,
        now: Timestamp,
        salt: &mut dyn FnMut() -> [u8; 16],
        output: &mut StepOutput,
    ) -> Result<(), Failure> {
        for record in inputs.deltas.drain(..) {
            let read = record
                .value
                .ok_or(headwater_state::Damage::Short)
                .and_then(Delta::read);
            let read = read
                .and_then(|delta| Entity::of_key(record.key.unwrap_or_default()).map(|_| delta));
            match read {
                Ok(delta) => owned
                    .statistics
                    .fold(record.key.unwrap_or_default(), &delta),
                Err(damage) => {
                    return Err(Failure::Internal(
                        record.at,
                        record.offset,
                        damage.to_string(),
                    ));
                }
            }
        }
        let mut requests = inputs
            .requests
            .drain(..)
            .collect::<std::collections::VecDeque<_>>();
        let mut request = self.next_request(&mut requests, now, output);
        for record in inputs.behaviors.drain(..) {
            let decoded = match self.decoder.behaviors(record.value, record.timestamp) {
                Ok(decoded) => decoded,
                Err(reject) => {
                    self.dead_letter(&record, &reject, now, output);
                    continue;
                }
            };
            if decoded.skipped() > 0 {
                let dropped = self.metrics.dropped.with_label_values(&["unmapped_kind"]);
                dropped.inc_by(decoded.skipped());
            }
            for behavior in decoded.behaviors() {
                while let Some((due, decoded)) =
                    request.take_if(|(_, decoded)| decoded.time <= behavior.time)
                {
                    self.request(&due, &decoded, owned, items, now, salt, output)?;
                    request = self.next_request(&mut requests, now, output);
                }
                // Only now: an answer names the behaviors that it could see.
                owned.users.advance(Topic::Behaviors, record.offset + 1);
                self.behavior(&record, behavior, owned, items, now, salt, output)?;
            }
        }
        while let Some((due, decoded)) = request.take() {
            self.request(&due, &decoded, owned, items, now, salt, output)?;
            request = self.next_request(&mut requests, now, output);
        }
        Ok(())
    }

    fn next_request<'a>(
        &mut self,
        requests: &mut std::collections::VecDeque<Record<'a>>,
        now: Timestamp,
        output: &mut StepOutput,
    ) -> Option<(Record<'a>, DecodedRequest<'a>)> {
        while let Some(record) = requests.pop_front() {
            match self.decoder.request(record.value) {
                Ok(request) => return Some((record, request)),
                Err(reject) => self.dead_letter(&record, &reject, now, output),
            }
        }
        None
    }

    fn behavior(
        &mut self,
        record: &Record<'_>,
        decoded: &DecodedBehavior<'_>,
        owned: &mut Owned,
        items: &ItemTable,
        now: Timestamp,
        salt: &mut dyn FnMut() -> [u8; 16],
        output: &mut StepOutput,
    ) -> Result<(), Failure> {
        self.check_place(record, &decoded.user);
        let attributes: Vec<_> = decoded
            .attributes
            .iter()
            .map(|(slot, text)| (*slot, &**text))
            .collect();
        let behavior = Behavior {
            at: Coordinates {
                offset: record.offset,
                index: decoded.index,
            },
            time: decoded.time,
            event: decoded.event,
            kind: decoded.kind,
            scenario: decoded.scenario,
            item: decoded.item.as_deref(),
            value: decoded.value,
            attributes: &attributes,
        };
        match owned.users.fold(&decoded.user, &behavior, salt)? {
            Folded::Duplicate => {
                self.metrics.dropped.with_label_values(&["duplicate"]).inc();
                return Ok(());
            }
            Folded::Late => {
                self.metrics.dropped.with_label_values(&["late"]).inc();
                return Ok(());
            }
            Folded::Counted { late, forgotten } => {
                self.metrics.late_kept.inc_by(u64::from(late));
                self.metrics.forgotten.inc_by(forgotten);
            }
        }
        output.causes.push((decoded.scenario, decoded.time));
        self.mark_standing(&decoded.user, owned, now)?;
        let Some(item) = decoded.item.as_deref() else {
            return Ok(());
        };
        if self.settings.config.scoring.item_statistics
            && (decoded.requested || !self.settings.answers_only.contains(&decoded.kind))
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
            let place;
            let mut cause = self.cause(record);
            if decoded.index > 0 {
                // A dot: a dash would be a part of the first event's answer.
                cause = format!("{cause}.{}", decoded.index);
            }
            let request_id = match decoded.event_id.as_deref() {
                Some(event) => event,
                None => {
                    place = cause.clone();
                    &place
                }
            };
            let scenario = self.scenario_name(decoded.scenario).to_owned();
            let request = RowRequest {
                request_id,
                user: &decoded.user,
                scenario_name: &scenario,
                scenario: decoded.scenario,
                time: decoded.time.plus(1),
                candidates: &[item],
            };
            let cause = Cause {
                id: &cause,
                partition: owned.number,
            };
            self.score(
                &request,
                cause,
                owned,
                items,
                now,
                &[],
                &[Topic::Scores],
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
            self.deltas
                .entry(entity.key())
                .or_default()
                .add(scenario, kind, time, value);
        };
        add(Entity::Total);
        add(Entity::Item(item));
        if let Some(known) = items.item(item) {
            for category in known.categories.iter().chain(known.attributes.iter()) {
                add(Entity::Category(items.category_name(*category)));
            }
        }
    }

    fn mark_standing(
        &mut self,
        user: &str,
        owned: &mut Owned,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let waiting: Vec<String> = match owned.users.resident(user) {
            Some(known) => known
                .standing()
                .iter()
                .filter(|standing| standing.due.is_none())
                .map(|standing| standing.request.clone())
                .collect(),
            None => Vec::new(),
        };
        for request in waiting {
            owned
                .users
                .set_due(user, &request, Some(now.plus(self.settings.debounce_ms)))?;
        }
        Ok(())
    }

    fn request(
        &mut self,
        record: &Record<'_>,
        decoded: &DecodedRequest<'_>,
        owned: &mut Owned,
        items: &ItemTable,
        now: Timestamp,
        salt: &mut dyn FnMut() -> [u8; 16],
        output: &mut StepOutput,
    ) -> Result<(), Failure> {
        self.check_place(record, &decoded.user);
        let config = &self.settings.config;
        let watermark = owned.users.position().watermark;
        let clock = if record.timestamp >= 0 {
            Timestamp(record.timestamp)
        } else {
            now
        };
        let refused = if decoded
            .deadline_ms
            .is_some_and(|ms| now > decoded.time.plus(ms))
        {
            Some("expired")
        } else if decoded.time > clock.plus(config.state.max_ahead.millis()) {
            Some("future")
        } else if watermark > decoded.time.plus(config.step.request_max_age.millis()) {
            Some("expired")
        } else if decoded.candidates.len() > config.step.candidates_max {
            Some("too_many_candidates")
        } else {
            None
        };
        let cause = self.cause(record);
        let cause = Cause {
            id: &cause,
            partition: owned.number,
        };
        let candidates: Vec<&str> = decoded
            .candidates
            .iter()
            .map(|candidate| &**candidate)
            .collect();
        let mut request = RowRequest {
            request_id: &decoded.request_id,
            user: &decoded.user,
            scenario_name: &decoded.scenario_name,
            scenario: decoded.scenario,
            time: decoded.time,
            candidates: &candidates,
        };
        if let Some(status) = refused {
            self.metrics.requests.with_label_values(&[status]).inc();
            request.candidates = &[];
            self.answer(
                &request,
                cause,
                owned,
                (status, &[]),
                &[Topic::Scores],
                None,
                output,
            );
            return Ok(());
        }
        let mut degraded = Vec::new();
        if !self.decoder.knows_scenario(&decoded.scenario_name) && decoded.scenario_name != "other"
        {
            degraded.push("unknown_scenario");
        }
        let standing = decoded
            .standing_ttl_ms
            .map(|ttl| ttl.min(config.scoring.standing_ttl_max.millis()));
        let mut to = vec![Topic::Scores];
        if let Some(ttl) = standing {
            let full = config.scoring.standing_max == 0
                || owned.users.whole_user(&decoded.user)?.is_some_and(|user| {
                    user.standing().len() >= config.scoring.standing_max
                        && !user
                            .standing()
                            .iter()
                            .any(|standing| standing.request == *decoded.request_id)
                });
            if full {
                degraded.push("too_many_standing");
            } else {
                let standing = Standing {
                    request: decoded.request_id.clone().into_owned(),
                    expires: now.plus(ttl),
                    due: None,
                    body: record.value.unwrap_or_default().to_vec(),
                };
                owned.users.set_standing(
                    &decoded.user,
                    &decoded.request_id,
                    Some(standing),
                    salt,
                )?;
                to.push(Topic::StandingScores);
            }
        }
        let shown = config
            .scoring
            .requests_are_impressions
            .then(|| self.settings.impressions.first().copied())
            .flatten();
        self.metrics.requests.with_label_values(&["ok"]).inc();
        self.score(&request, cause, owned, items, now, &degraded, &to, output)?;
        if let Some(kind) = shown {
            self.shown(&request, record.offset, kind, owned, items, salt)?;
        }
        Ok(())
    }

    /// Counts each candidate of a request as shown, where config says that requests are impressions.
    fn shown(
        &mut self,
        request: &RowRequest<'_>,
        offset: i64,
        kind: KindId,
        owned: &mut Owned,
        items: &ItemTable,
        salt: &mut dyn FnMut() -> [u8; 16],
    ) -> Result<(), Failure> {
        for (place, candidate) in request.candidates.iter().enumerate() {
            let impression = Behavior {
                at: Coordinates {
                    offset,
                    index: SHOWN.saturating_add(u16::try_from(place).unwrap_or(u16::MAX)),
                },
                time: request.time,
                event: 0,
                kind,
                scenario: request.scenario,
                item: Some(candidate),
                value: None,
                attributes: &[],
            };
            let folded = owned.users.fold(request.user, &impression, salt)?;
            let counted = matches!(folded, Folded::Counted { .. });
            if counted && self.settings.config.scoring.item_statistics {
                self.count(
                    candidate,
                    items,
                    request.scenario,
                    kind,
                    request.time,
                    headwater_state::FixedSum(0),
                );
            }
        }
        Ok(())
    }

    /// Scores standing requests that are due, and ends those that have expired.
    fn timers(
        &mut self,
        owned: &mut Owned,
        items: &ItemTable,
        now: Timestamp,
        salt: &mut dyn FnMut() -> [u8; 16],
        output: &mut StepOutput,
    ) -> Result<(), Failure> {
        let due: Vec<(String, String)> = owned
            .users
            .due(now)
            .take(self.settings.config.step.records_max)
            .map(|(_, user, request)| (user.to_owned(), request.to_owned()))
            .collect();
        for (user, request) in due {
            let Some(known) = owned.users.whole_user(&user)? else {
                continue;
            };
            let Some(standing) = known
                .standing()
                .iter()
                .find(|standing| standing.request == request)
                .cloned()
            else {
                continue;
            };
            let newest = known
                .recent()
                .iter()
                .last()
                .map_or(Timestamp::MIN, |behavior| behavior.time);
            standing_key(&user, &request, &mut self.key);
            let of = |topic| owned.users.position().input(topic).unwrap_or(0);
            let cause = format!(
                "{}-{}-{}-{}-{}",
                if standing.expires <= now {
                    "ended"
                } else {
                    "standing"
                },
                owned.number,
                of(Topic::Behaviors),
                of(Topic::ScoreRequests),
                String::from_utf8_lossy(&self.key),
            );
            if standing.expires <= now {
                owned.users.set_standing(&user, &request, None, salt)?;
                let headers = [(HEADER_ID, Some(cause.as_bytes()))];
                let at = TopicPartition::new(Topic::StandingScores, owned.number);
                output
                    .transactional
                    .push(at, (0, 0), Some(&self.key), None, headers);
                continue;
            }
            owned.users.set_due(&user, &request, None)?;
            let body = standing.body;
            let decoded = self
                .decoder
                .request(Some(&body))
                .map_err(|reject| Failure::Standing(request.clone(), reject))?;
            let candidates: Vec<&str> = decoded
                .candidates
                .iter()
                .map(|candidate| &**candidate)
                .collect();
            let request = RowRequest {
                request_id: &decoded.request_id,
                user: &user,
                scenario_name: &decoded.scenario_name,
                scenario: decoded.scenario,
                time: newest.plus(1).max(decoded.time),
                candidates: &candidates,
            };
            let cause = Cause {
                id: &cause,
                partition: owned.number,
            };
            self.score(
                &request,
                cause,
                owned,
                items,
                now,
                &[],
                &[Topic::StandingScores],
                output,
            )?;
        }
        Ok(())
    }

    /// Assembles the rows of a request, scores them, and publishes the answer.
    fn score(
        &mut self,
        request: &RowRequest<'_>,
        cause: Cause<'_>,
        owned: &mut Owned,
        items: &ItemTable,
        now: Timestamp,
        degraded: &[&'static str],
        to: &[Topic],
        output: &mut StepOutput,
    ) -> Result<(), Failure> {
        let mut degraded = degraded.to_vec();
        let user = owned.users.whole_user(request.user)?;
        if user.is_some_and(|user| user.history_newest() >= request.time) {
            degraded.push("late");
        }
        if user.is_some_and(|user| user.forgotten() > 0) {
            degraded.push("history_forgotten");
        }
        let freshness = user.and_then(|user| {
            user.recent()
                .iter()
                .last()
                .map(|behavior| now.since(behavior.time))
        });
        let row = Row {
            user,
            scenario: request.scenario,
            time: request.time,
            candidates: request.candidates,
        };
        self.assembler.score(&row, items, &mut self.scores);
        *self.scored.entry(request.scenario).or_insert(0) += request.candidates.len() as u64;
        self.answer(
            request,
            cause,
            owned,
            ("ok", &degraded),
            to,
            freshness,
            output,
        );
        if self.settings.config.scoring.feature_log {
            self.log_rows(request, cause, owned, output);
        }
        Ok(())
    }

    fn answer(
        &mut self,
        request: &RowRequest<'_>,
        cause: Cause<'_>,
        owned: &Owned,
        (status, degraded): (&'static str, &[&'static str]),
        to: &[Topic],
        freshness_ms: Option<i64>,
        output: &mut StepOutput,
    ) {
        let tasks = self.assembler.task_names();
        let model = self.assembler.model_name();
        let schema = self.assembler.schema_hash();
        let holds: Vec<bool> = (0..tasks.len())
            .map(|task| self.assembler.holds(task, request.scenario))
            .collect();
        let items: Vec<ScoredItem<'_>> = request
            .candidates
            .iter()
            .enumerate()
            .map(|(place, item_id)| {
                let values = self.scores.candidate(place);
                let tasks = Tasks {
                    names: tasks,
                    holds: &holds,
                    values,
                };
                ScoredItem {
                    item_id,
                    score: tasks.first(),
                    tasks,
                }
            })
            .collect();
        let mut answer = Answer {
            request_id: request.request_id,
            user_id: request.user,
            scenario: request.scenario_name,
            time: request.time.0,
            status,
            model,
            part: None,
            items: &items,
            state: StatePosition {
                topic: &self.settings.names[&Topic::Behaviors],
                partition: owned.number,
                offset: owned.users.position().input(Topic::Behaviors).unwrap_or(0),
            },
            item_state: self.assembler.item_state(),
            freshness_ms,
            degraded,
        };
        // An item is about 40 bytes and its id; the parts are cut by that estimate, well below the limit.
        let per_item = 64 + tasks.iter().map(|name| name.len() + 16).sum::<usize>();
        let bytes: usize = items.iter().map(|item| item.item_id.len() + per_item).sum();
        let parts = bytes
            .div_ceil(self.settings.config.step.answer_max.as_usize())
            .max(1);
        let size = items.len().div_ceil(parts).max(1);
        let parts = items.len().div_ceil(size).max(1);
        for &topic in to {
            let at = TopicPartition::new(topic, cause.partition);
            let at_once = topic == Topic::Scores
                && self.settings.config.kafka.delivery == headwater_config::Delivery::AtLeastOnce;
            let batch = if at_once {
                &mut output.immediate
            } else {
                &mut output.transactional
            };
            for part in 0..parts {
                let from = (part * size).min(items.len());
                let until = ((part + 1) * size).min(items.len());
                answer.items = &items[from..until];
                answer.part = (parts > 1).then_some([part + 1, parts]);
                let id = if parts > 1 {
                    format!("{}-{part}", cause.id)
                } else {
                    cause.id.to_owned()
                };
                let headers = [
                    (HEADER_ID, Some(id.as_bytes())),
                    (HEADER_MODEL, Some(model.as_bytes())),
                    (HEADER_SCHEMA, Some(schema.as_bytes())),
                ];
                let key = if topic == Topic::StandingScores {
                    standing_key(request.user, request.request_id, &mut self.key);
                    &self.key
                } else {
                    request.user.as_bytes()
                };
                answer::push_json(batch, at, key, &answer, headers, &mut self.scratch);
            }
        }
    }

    fn log_rows(
        &mut self,
        request: &RowRequest<'_>,
        cause: Cause<'_>,
        owned: &mut Owned,
        output: &mut StepOutput,
    ) {
        let salt = owned
            .users
            .resident(request.user)
            .map(headwater_state::User::salt)
            .unwrap_or_default();
        let pseudonym = crate::pseudonym::pseudonym(request.user, salt);
        let at = TopicPartition::new(Topic::FeatureLog, cause.partition);
        let at_once =
            self.settings.config.kafka.delivery == headwater_config::Delivery::AtLeastOnce;
        let batch = if at_once {
            &mut output.immediate
        } else {
            &mut output.transactional
        };
        let mut logged = self.assembler.log(request, &pseudonym, &self.scores);
        let schema = self.assembler.schema_hash().as_bytes();
        let candidates = std::mem::take(&mut logged.candidates);
        for (part, candidates) in candidates.chunks(LOGGED_CANDIDATES_MAX).enumerate() {
            logged.candidates = candidates.to_vec();
            let id = format!("{}-{part}", cause.id);
            let headers = [
                (HEADER_ID, Some(id.as_bytes())),
                (HEADER_SCHEMA, Some(schema)),
            ];
            answer::push_json(
                batch,
                at,
                pseudonym.as_bytes(),
                &logged,
                headers,
                &mut self.scratch,
            );
        }
    }

    /// The changelog, the item state and the positions of a partition.
    fn finish(&mut self, owned: &mut Owned, inputs: &Inputs<'_>, output: &mut StepOutput) {
        for (topic, next) in &inputs.next {
            owned.users.advance(*topic, *next);
        }
        if owned.users.position().partitions != self.settings.partitions && !inputs.next.is_empty()
        {
            owned.users.pin_partitions(self.settings.partitions);
        }
        let number = owned.number;
        let mut bytes = 0;
        let changelog = TopicPartition::new(Topic::Changelog, number);
        let users = owned.users.changes(&mut |key, value| {
            bytes += key.len() + value.map_or(0, <[u8]>::len);
            output
                .transactional
                .push(changelog, (0, 0), Some(key), value, []);
        });
        let item_state = TopicPartition::new(Topic::ItemState, number);
        // Without changes of users nothing is committed, and a step of statistics alone has a position: they go together.
        if users == 0 {
            return;
        }
        let entities = owned.statistics.changes(&mut |key, value| {
            output
                .transactional
                .push(item_state, (0, 0), Some(key), Some(value), []);
        });
        self.metrics.changelog_records.inc_by(users as u64);
        self.metrics.changelog_bytes.inc_by(bytes as u64);
        // All positions, also those that did not move: offsets in the transaction are what fences a worker whose partition moved.
        for (topic, next) in &owned.users.position().inputs {
            output
                .positions
                .push((TopicPartition::new(*topic, number), *next));
        }
        output.changed.push((number, entities > 0));
        let label = number.to_string();
        let position = owned.users.position();
        if position.watermark > Timestamp::MIN {
            self.metrics
                .watermark
                .with_label_values(&[&label])
                .set(position.watermark.0 / 1000);
        }
        for (topic, count) in &inputs.polled {
            self.metrics
                .polled
                .with_label_values(&[topic.key()])
                .inc_by(*count);
        }
    }

    fn publish_deltas(&mut self, output: &mut StepOutput) {
        for (key, delta) in std::mem::take(&mut self.deltas) {
            self.scratch.clear();
            delta.write(&mut self.scratch);
            let partition = partition_of(&key, self.settings.partitions);
            let at = TopicPartition::new(Topic::ItemDeltas, partition);
            output
                .transactional
                .push(at, (0, 0), Some(&key), Some(&self.scratch), []);
        }
    }

    fn dead_letter(
        &mut self,
        record: &Record<'_>,
        reject: &Reject,
        now: Timestamp,
        output: &mut StepOutput,
    ) {
        self.metrics
            .dead_lettered
            .with_label_values(&[record.at.topic.key(), reject.code])
            .inc();
        let partition = record.at.partition % self.settings.dead_letter_partitions;
        let source = &self.settings.names[&record.at.topic];
        answer::push_dead_letter(
            &mut output.transactional,
            partition,
            source,
            record,
            reject,
            now,
        );
    }

    fn check_place(&self, record: &Record<'_>, user: &str) {
        if partition_of(user.as_bytes(), self.settings.partitions) != record.at.partition {
            self.metrics
                .misplaced
                .with_label_values(&[record.at.topic.key()])
                .inc();
        }
    }

    fn cause(&self, record: &Record<'_>) -> String {
        format!(
            "{}-{}-{}",
            self.settings.names[&record.at.topic], record.at.partition, record.offset
        )
    }

    /// The name of a scenario as metrics and answers have it.
    pub fn scenario_name(&self, scenario: ScenarioId) -> &str {
        self.scenario_names
            .get(&scenario)
            .map_or("other", String::as_str)
    }
}

/// A request as rows are made of it.
#[derive(Clone, Copy, Debug)]
pub struct RowRequest<'a> {
    /// The request's id.
    pub request_id: &'a str,
    /// For whom.
    pub user: &'a str,
    /// Where, as it was named.
    pub scenario_name: &'a str,
    /// Where.
    pub scenario: ScenarioId,
    /// Row time.
    pub time: Timestamp,
    /// What to score.
    pub candidates: &'a [&'a str],
}

/// The records of one partition in a step, by topic, and where each topic then stands.
struct Inputs<'a> {
    behaviors: Vec<Record<'a>>,
    requests: Vec<Record<'a>>,
    deltas: Vec<Record<'a>>,
    next: Vec<(Topic, i64)>,
    polled: Vec<(Topic, u64)>,
}

impl<'a> Inputs<'a> {
    fn new(batch: &'a RecordBatch, indexes: &[usize], owned: &Owned) -> Self {
        let mut inputs = Self {
            behaviors: Vec::new(),
            requests: Vec::new(),
            deltas: Vec::new(),
            next: Vec::new(),
            polled: Vec::new(),
        };
        for &index in indexes {
            let record = batch.get(index);
            let topic = record.at.topic;
            // A record counts once by its coordinates, whatever the log delivers twice.
            let expected = inputs
                .next
                .iter()
                .find(|(other, _)| *other == topic)
                .map(|(_, next)| *next)
                .or_else(|| owned.users.position().input(topic));
            if expected.is_some_and(|expected| record.offset < expected) {
                continue;
            }
            match topic {
                Topic::Behaviors => inputs.behaviors.push(record),
                Topic::ScoreRequests => inputs.requests.push(record),
                Topic::ItemDeltas => inputs.deltas.push(record),
                Topic::Items
                | Topic::Scores
                | Topic::StandingScores
                | Topic::FeatureLog
                | Topic::Changelog
                | Topic::ItemState
                | Topic::Fleet
                | Topic::DeadLetters
                | Topic::Repartition => continue,
            }
            match inputs.next.iter_mut().find(|(other, _)| *other == topic) {
                Some((_, next)) => *next = record.offset + 1,
                None => inputs.next.push((topic, record.offset + 1)),
            }
            match inputs.polled.iter_mut().find(|(other, _)| *other == topic) {
                Some((_, count)) => *count += 1,
                None => inputs.polled.push((topic, 1)),
            }
        }
        inputs
    }
}

/// Why a partition's step cannot go on.
enum Failure {
    State(headwater_state::Error),
    Internal(TopicPartition, i64, String),
    Standing(String, Reject),
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
            Self::Standing(request, reject) => Error::Internal {
                at: TopicPartition::new(Topic::Changelog, partition),
                offset: -1,
                reason: format!("standing request `{request}`: {reject}"),
            },
        }
    }
}

/// The key of a standing request's scores: a JSON array, so that no two pairs share one.
fn standing_key(user: &str, request: &str, to: &mut Vec<u8>) {
    to.clear();
    serde_json::to_writer(to, &(user, request)).expect("invariant: two texts are JSON");
}

/// Shares a pipeline's metrics.
impl Pipeline {
    /// Its metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

/// An item table that is shared between the follower and the workers.
pub type SharedItems = Arc<parking_lot::RwLock<ItemTable>>;
