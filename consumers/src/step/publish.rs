//! What a step gives out: answers, rows, dead letters, item deltas, and the changelog with the positions. After it `worker` sends and commits.

use std::borrow::Cow;

use super::{
    Answer, Cause, Coordinates, Failure, HEADER_ID, HEADER_MODEL, HEADER_SCHEMA, Inputs, ItemTable,
    Owned, Pipeline, Place, Record, RecordBatch, Reject, Row, RowRequest, Sample, ScoredItems,
    StatePosition, StepOutput, Timestamp, Topic, TopicPartition, answer, inputs, partition_of,
};
use crate::json::json_length;
use crate::pseudonym::pseudonym;

/// Bytes of the candidates in one record of the feature log, at most.
const LOGGED_BYTES_MAX: usize = 512 * 1024;
/// Bytes of a logged number at most, with its comma: `-1.2345678e-38,`.
const NUMBER_BYTES: usize = 15;
/// Counts of one record of the item deltas at most, of 24 bytes each. A step has more where it reads the events of years at once.
const DELTA_COUNTS_MAX: usize = 16 * 1024;
/// Bytes of a request's headers that its answers carry on, at most; a header that does not fit is left out.
const PASSED_BYTES_MAX: usize = 8 * 1024;

impl Pipeline {
    /// Assembles the rows of a request, scores them, and publishes the answer.
    pub(super) fn score(
        &mut self,
        (request, place): (&RowRequest<'_>, Option<Place>),
        cause: Cause<'_>,
        owned: &mut Owned,
        items: &ItemTable,
        now: Timestamp,
        (degraded, to): (&[&'static str], &[Topic]),
        salt: &mut dyn FnMut() -> [u8; 16],
        output: &mut StepOutput,
    ) -> Result<(), Failure> {
        let mut degraded = degraded.to_vec();
        let is_logged = self.settings.config.scoring.feature_log && !request.candidates.is_empty();
        let salt = match place {
            Some(place) => owned.users.user(place).salt(),
            // Known from here on, by what the log says.
            None if is_logged => owned.users.salt_of(request.user, salt)?,
            None => salt(),
        };
        let pseudonym = pseudonym(request.user, salt);
        let next = owned.users.position().input(Topic::Behaviors).unwrap_or(0);
        let user = match place {
            Some(place) => Some(owned.users.whole(place)?),
            None => None,
        };
        if user.is_some_and(|user| user.history_newest() >= request.time) {
            degraded.push("late");
        }
        if user.is_some_and(|user| user.forgotten() > 0) {
            degraded.push("history_forgotten");
        }
        let freshness = user.and_then(|user| {
            user.recent()
                .newest()
                .map(|behavior| now.since(behavior.time))
        });
        let row = Row {
            user_id: request.user,
            user,
            pseudonym: Some(&pseudonym),
            scenario_name: request.scenario_name,
            scenario: request.scenario,
            time: request.time,
            candidates: request.candidates,
        };
        self.assembler.score(&row, items, &mut self.scores);
        degraded.extend(self.assembler.lacks());
        self.hand_over(request, &row, items, (owned.number, next, now));
        self.ask_texts(output);
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
        if is_logged {
            self.log_rows(request, cause, items, &pseudonym, output);
        }
        Ok(())
    }

    /// Hands rows that were just scored to whoever holds them against the log, if they are of the share; `next` is what the partition's input is read up to.
    fn hand_over(
        &mut self,
        request: &RowRequest<'_>,
        row: &Row<'_>,
        items: &ItemTable,
        (number, next, now): (i32, i64, Timestamp),
    ) {
        let Some(sampler) = self.sampler.as_ref().filter(|of| of.wants(request)) else {
            return;
        };
        // Within a record of several behaviors, the last that was folded; else all that lies before.
        let within = self.folded.filter(|at| at.offset + 1 == next);
        let through = within.unwrap_or(Coordinates {
            offset: next - 1,
            index: u16::MAX,
        });
        let of = (row.user, now);
        let served = self.assembler.served(row, items);
        let sample = served.map(|served| Sample::new(number, request, through, of, served));
        sampler.give(sample);
    }

    /// Sends texts that have no vector yet to whoever makes vectors, each once.
    pub(super) fn ask_texts(&mut self, output: &mut StepOutput) {
        for missing in self.assembler.take_missing() {
            let number = partition_of(&missing.hash, self.settings.partitions);
            let at = TopicPartition::new(Topic::Texts, number);
            let (key, value) = (Some(&missing.hash[..]), Some(missing.text.as_bytes()));
            output.transactional.push(at, (0, 0), key, value, []);
            self.metrics.texts.asked.inc();
        }
    }

    pub(super) fn answer(
        &mut self,
        request: &RowRequest<'_>,
        cause: Cause<'_>,
        owned: &Owned,
        (status, degraded): (&'static str, &[&'static str]),
        to: &[Topic],
        freshness_ms: Option<i64>,
        output: &mut StepOutput,
    ) {
        let model = if status == "ok" {
            self.assembler.scored_by()
        } else {
            self.assembler.model_name()
        };
        let schema = self.assembler.schema_hash();
        let mut items = ScoredItems {
            candidates: request.candidates,
            first: 0,
            scores: &self.scores,
            assembler: &self.assembler,
            scenario: request.scenario,
            order: request.order.map(|order| (order, request.candidates.len())),
        };
        let mut answer = Answer {
            request_id: request.request_id,
            user_id: request.user,
            scenario: request.scenario_name,
            time: request.time.0,
            status,
            model,
            part: None,
            items,
            state: StatePosition {
                topic: &self.settings.names[&Topic::Behaviors],
                partition: owned.number,
                offset: owned.users.position().input(Topic::Behaviors).unwrap_or(0),
            },
            item_state: self.assembler.item_state(),
            embeddings: self.assembler.encoder(),
            freshness_ms,
            degraded,
        };
        let candidates = request.candidates;
        let parts = self.split(candidates);
        for &topic in to {
            let at = TopicPartition::new(topic, cause.partition);
            let at_once = topic == Topic::Scores
                && self.settings.config.kafka.delivery == headwater_config::Delivery::AtLeastOnce;
            let batch = if at_once {
                &mut output.immediate
            } else {
                &mut output.transactional
            };
            for (part, range) in parts.iter().enumerate() {
                items.candidates = &candidates[range.clone()];
                items.first = range.start;
                answer.items = items;
                answer.part = (parts.len() > 1).then_some([part + 1, parts.len()]);
                let id = id_of(cause, (part, parts.len()));
                let headers = [
                    (HEADER_ID, Some(id.as_bytes())),
                    (HEADER_MODEL, Some(model.as_bytes())),
                    (HEADER_SCHEMA, Some(schema.as_bytes())),
                ];
                let pass = &self.settings.config.step.pass_headers;
                let mut room = PASSED_BYTES_MAX;
                let passed = cause.headers.iter().filter(|(name, value)| {
                    let bytes = name.len() + value.map_or(0, <[u8]>::len);
                    let fits = bytes <= room && pass.iter().any(|wanted| wanted == name);
                    room -= if fits { bytes } else { 0 };
                    fits
                });
                let headers = headers.into_iter().chain(passed);
                let key = if topic == Topic::StandingScores {
                    standing_key(request.user, request.request_id, part, &mut self.key);
                    &self.key
                } else {
                    request.user.as_bytes()
                };
                self.scratch.clear();
                answer.write(&mut self.scratch);
                batch.push(at, (0, 0), Some(key), Some(&self.scratch), headers);
            }
        }
    }

    /// How the scores of candidates are cut into records of at most `step.answer_max`: one at least. It follows from the candidates and the
    /// configuration alone.
    pub(super) fn split(&self, candidates: &[&str]) -> Vec<std::ops::Range<usize>> {
        // `{"item_id":"","score":0.123456789,"tasks":{}},`, perhaps `"propensity":0.0001234567890123456,`, and a name and a number for each task.
        let names = self.assembler.task_names().iter();
        let own = if self.settings.config.scoring.explore.get() > 0.0 {
            104
        } else {
            64
        };
        let per_item = own + names.map(|name| name.len() + 16).sum::<usize>();
        let lengths = candidates.iter().map(|item| json_length(item) + per_item);
        answer::parts(lengths, self.settings.config.step.answer_max.as_usize())
    }

    /// Ends parts of a standing request's scores: compaction keeps the newest record of each key, and these keys have none to come.
    pub(super) fn end_parts(
        &mut self,
        (user, request): (&str, &str),
        parts: std::ops::Range<usize>,
        cause: Cause<'_>,
        output: &mut StepOutput,
    ) {
        let at = TopicPartition::new(Topic::StandingScores, cause.partition);
        let all = parts.end;
        for part in parts {
            standing_key(user, request, part, &mut self.key);
            let id = id_of(cause, (part, all));
            let headers = [(HEADER_ID, Some(id.as_bytes()))];
            output
                .transactional
                .push(at, (0, 0), Some(&self.key), None, headers);
        }
    }

    pub(super) fn log_rows(
        &mut self,
        request: &RowRequest<'_>,
        cause: Cause<'_>,
        items: &ItemTable,
        pseudonym: &str,
        output: &mut StepOutput,
    ) {
        let at = TopicPartition::new(Topic::FeatureLog, cause.partition);
        let at_once =
            self.settings.config.kafka.delivery == headwater_config::Delivery::AtLeastOnce;
        let batch = if at_once {
            &mut output.immediate
        } else {
            &mut output.transactional
        };
        let left_out = self.assembler.take_left_out();
        self.metrics.deep.left_out.inc_by(left_out);
        let mut logged = (self.assembler).log(request, items, pseudonym, &self.scores);
        let schema = self.assembler.schema_hash().as_bytes();
        let candidates = std::mem::take(&mut logged.candidates);
        let lengths = candidates.iter().map(|candidate| {
            let numbers = candidate.values.len() + candidate.vector.len() + candidate.scores.len();
            let groups = candidate.groups.iter().map(|name| 3 + json_length(name));
            let names = json_length(&candidate.item_id) + groups.sum::<usize>();
            64 + names + NUMBER_BYTES * numbers
        });
        let parts = answer::parts(lengths, LOGGED_BYTES_MAX).into_iter();
        for (part, range) in parts.enumerate() {
            logged.candidates = candidates[range].to_vec();
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
    pub(super) fn finish(
        &mut self,
        batch: &RecordBatch,
        owned: &mut Owned,
        inputs: &Inputs,
        output: &mut StepOutput,
    ) {
        let partitions = self.settings.partitions;
        for (topic, records) in inputs.topics() {
            let Some(next) = inputs::next(batch, records) else {
                continue;
            };
            owned.users.advance(topic, next);
            if owned.users.position().partitions != partitions {
                owned.users.pin_partitions(partitions);
            }
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
        for (topic, records) in inputs.topics() {
            self.metrics
                .polled
                .with_label_values(&[topic.key()])
                .inc_by(records.len() as u64);
        }
    }

    pub(super) fn publish_deltas(&mut self, output: &mut StepOutput) {
        self.delta_bytes = 0;
        for (key, delta) in std::mem::take(&mut self.deltas) {
            let partition = partition_of(&key, self.settings.partitions);
            let at = TopicPartition::new(Topic::ItemDeltas, partition);
            let mut rest = Some(delta);
            while let Some(mut delta) = rest {
                rest = delta.split(DELTA_COUNTS_MAX);
                self.scratch.clear();
                delta.write(&mut self.scratch);
                output
                    .transactional
                    .push(at, (0, 0), Some(&key), Some(&self.scratch), []);
            }
        }
    }

    pub(super) fn dead_letter(
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

    /// Counts a record that its key does not belong to, and notes it: the topic may have been widened.
    pub(super) fn check_place(&self, record: &Record<'_>, user: &str, output: &mut StepOutput) {
        if partition_of(user.as_bytes(), self.settings.partitions) != record.at.partition {
            output.misplaced.get_or_insert(record.at.partition);
            self.metrics
                .misplaced
                .with_label_values(&[record.at.topic.key()])
                .inc();
        }
    }

    pub(super) fn cause(&self, record: &Record<'_>) -> String {
        use std::fmt::Write as _;
        let topic = &self.settings.names[&record.at.topic];
        // The name, and two numbers with their dashes.
        let mut cause = String::with_capacity(topic.len() + 32);
        write!(cause, "{topic}-{}-{}", record.at.partition, record.offset)
            .expect("invariant: a string takes everything");
        cause
    }
}

/// The key of one part of a standing request's scores, from 0 on: a JSON array, so that no two share one, whatever user and request are
/// called. The first part has no number, since most scores are one record.
pub(super) fn standing_key(user: &str, request: &str, part: usize, to: &mut Vec<u8>) {
    to.clear();
    let written = match part {
        0 => serde_json::to_writer(to, &(user, request)),
        part => serde_json::to_writer(to, &(user, request, part + 1)),
    };
    written.expect("invariant: two texts and a number are JSON");
}

/// The `headwater-id` of one of several records of a cause.
fn id_of(cause: Cause<'_>, (part, parts): (usize, usize)) -> Cow<'_, str> {
    if parts > 1 {
        Cow::Owned(format!("{}-{part}", cause.id))
    } else {
        Cow::Borrowed(cause.id)
    }
}
