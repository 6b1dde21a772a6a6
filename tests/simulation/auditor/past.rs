//! `STATE-3`: a score comes from what was strictly before its row, and from nothing else. Whoever scores, by whatever formula.
//!
//! For some of the published answers the step is asked again, over a fresh state that is fed with the records that the naive count
//! says were counted when the answer was given:
//!
//! - as they were: where no item statistics are in play, the scores must be the published ones, to the bit;
//! - with everything at or after the row's time changed into something else, in the user's past and in the item statistics: the scores
//!   must be the same again. Only what those records are changes, not how many there are: how recent and history divide up stays;
//! - without them at all, where the user has no history yet: the same again.

use std::collections::BTreeMap;

use headwater_config::{Bytes, Config, Delivery, Examples, Late, OnBehavior, Span, Topic};
use headwater_consumers::items::ItemMaker;
use headwater_consumers::log::{RecordBatch, TopicPartition};
use headwater_consumers::step::{Owned, Pipeline, StepOutput};
use headwater_consumers::worker::settings_of;
use headwater_state::{
    Delta, Entity, FixedSum, ItemTable, KindId, MemoryStores, Partition, ScenarioId, Statistics,
    Stores, Timestamp,
};
use serde_json::{Value, json};

use super::naive::{Counted, World};
use super::outputs::Answer;
use super::{Seen, read_all};
use crate::cluster::Ground;
use crate::random::Random;
use crate::run::Tally;

/// Answers of a run that are asked again.
const ASKED: usize = 8;

pub(crate) fn judge(
    ground: &Ground,
    world: &World,
    answers: &[Answer],
    random: &mut Random,
    tally: &mut Tally,
) -> Result<(), String> {
    let config = &ground.plan.config;
    // What a request has shown is folded between records: the order cannot be had again from outside.
    if config.scoring.requests_are_impressions {
        return Ok(());
    }
    let scored: Vec<&Answer> = answers
        .iter()
        .filter(|answer| answer.status == "ok" && !answer.items.is_empty())
        .collect();
    if scored.is_empty() {
        return Ok(());
    }
    let items = read_all(&*ground.log, Topic::Items)?;
    let probe = Probe::new(ground);
    for _ in 0..ASKED {
        let answer = *random.pick(&scored);
        tally.rows += 1;
        probe
            .judge(world, &items, answer)
            .map_err(|error| format!("STATE-3: {error}: {answer:?}"))?;
    }
    Ok(())
}

struct Probe<'a> {
    ground: &'a Ground,
    config: Config,
    recent: usize,
    /// Whether published scores came from users alone.
    exact: bool,
}

/// What is computed of each candidate. Its order may be random, and is then another request's.
fn probabilities(items: &[Value]) -> Vec<[&Value; 2]> {
    let items = items.iter();
    items
        .map(|item| [&item["item_id"], &item["tasks"]])
        .collect()
}

impl<'a> Probe<'a> {
    fn new(ground: &'a Ground) -> Self {
        let mut config = ground.plan.config.clone();
        let exact = !config.scoring.item_statistics;
        config.kafka.delivery = Delivery::ExactlyOnce;
        config.state.late = Late::Keep;
        config.state.memory = Bytes::new(1 << 20);
        config.step.request_max_age = Span::from_secs(100 * 365 * 86_400);
        config.step.answer_max = Bytes::new(1 << 30);
        config.scoring.on_behavior = OnBehavior::Off;
        // Rows are held against each other, too: the numbers, and what their user did with each item.
        config.scoring.feature_log = true;
        config.key_vectors.logged = true;
        config.labels.examples = Examples::Off;
        config.scoring.item_statistics = false;
        Self {
            ground,
            recent: config.state.recent,
            config,
            exact,
        }
    }

    fn judge(&self, world: &World, items: &[Seen], answer: &Answer) -> Result<(), String> {
        let then: Vec<&Counted> = world
            .counted
            .iter()
            .filter(|counted| {
                (counted.partition, counted.user.as_str()) == (answer.partition, &answer.user)
                    && counted.offset < answer.offset
            })
            .collect();
        let time = answer.time;
        let as_they_were: Vec<(i64, Vec<u8>)> = then
            .iter()
            .map(|counted| (counted.offset, counted.raw.clone()))
            .collect();
        let late = answer.degraded.contains("late");
        let table = self.table(world, items, None);
        if self.exact && answer.baseline {
            let empty = self.table(&World::default(), items, None);
            let again = self.ask(&as_they_were, answer, &empty)?;
            if probabilities(&again.items) != probabilities(&answer.items) || again.late != late {
                return Err(format!("asked again, it is {again:?}; then: {then:#?}"));
            }
        }
        let straight = self.ask(&as_they_were, answer, &table)?;
        let other_table = self.table(world, items, Some(time));
        let otherwise: Vec<(i64, Vec<u8>)> = then
            .iter()
            .map(|counted| (counted.offset, other(counted, time, late)))
            .collect();
        let changed = self.ask(&otherwise, answer, &other_table)?;
        if changed != straight {
            return Err(format!(
                "it sees what is not before it: with that changed, {straight:?} becomes {changed:?}; then: {then:#?}"
            ));
        }
        if then.len() <= self.recent {
            let without: Vec<(i64, Vec<u8>)> = then
                .iter()
                .filter(|counted| counted.time < time)
                .map(|counted| (counted.offset, counted.raw.clone()))
                .collect();
            let changed = self.ask(&without, answer, &other_table)?;
            if changed != straight {
                return Err(format!(
                    "it sees what is not before it: without that, {straight:?} becomes {changed:?}; then: {then:#?}"
                ));
            }
        }
        Ok(())
    }

    /// The item table with all that was counted; from `changed` on, something else was.
    fn table(&self, world: &World, items: &[Seen], changed: Option<i64>) -> ItemTable {
        let mut table = ItemTable::default();
        let maker = ItemMaker::new(&self.config);
        for seen in items {
            let Some(value) = seen.value.as_deref() else {
                continue;
            };
            let item = maker
                .read(&seen.key, value, seen.taken)
                .expect("invariant: the workload's items are readable");
            maker.put(&mut table, &item, seen.offset);
        }
        for counted in &world.counted {
            let Some(item) = &counted.item else { continue };
            let is_changed = changed.is_some_and(|from| counted.time >= from);
            let mut delta = Delta::default();
            let (scenario, kind) = if is_changed {
                ("search", "purchase")
            } else {
                (counted.scenario.as_str(), counted.kind.as_str())
            };
            delta.add(
                ScenarioId::of(scenario),
                KindId::of(kind),
                Timestamp(counted.time),
                FixedSum(counted.value.unwrap_or_default()),
            );
            let mut names: Vec<String> = Vec::new();
            if let Some(known) = table.item(item) {
                for number in known.categories.iter().chain(&known.attributes) {
                    names.push(table.category_name(*number).to_owned());
                }
            }
            table.fold(Entity::Total, &delta);
            table.fold(Entity::Item(item), &delta);
            for name in names {
                table.fold(Entity::Category(&name), &delta);
            }
        }
        table
    }

    /// An answer's request over a state that was fed with these records.
    fn ask(
        &self,
        records: &[(i64, Vec<u8>)],
        answer: &Answer,
        items: &ItemTable,
    ) -> Result<Asked, String> {
        let wrong = |error: String| format!("asking again: {error}");
        let store = MemoryStores::default().open(0);
        let store = store.map_err(|error| wrong(format!("{error:?}")))?;
        let users = Partition::open(store, settings_of(&self.config, 1));
        let number = answer.partition;
        let mut owned = BTreeMap::from([(
            number,
            Owned {
                number,
                users: users.map_err(|error| wrong(format!("{error:?}")))?,
                statistics: Statistics::default(),
            },
        )]);
        let mut batch = RecordBatch::default();
        let at = TopicPartition::new(Topic::Behaviors, number);
        for (offset, record) in records {
            batch.push(at, (*offset, -1), None, Some(record), []);
        }
        let candidates: Vec<&Value> = answer.items.iter().map(|item| &item["item_id"]).collect();
        let request = json!({"request_id": answer.request_id, "user_id": answer.user,
            "scenario": answer.scenario, "time": answer.time, "candidates": candidates});
        let request = request.to_string();
        let mut asked = RecordBatch::default();
        let to = TopicPartition::new(Topic::ScoreRequests, number);
        asked.push(to, (0, -1), None, Some(request.as_bytes()), []);
        let mut output = StepOutput::default();
        // A pipeline of its own: what it remembers of item statistics goes by their position, which these tables do not have.
        let mut pipeline = Pipeline::new(
            &self.config,
            (self.ground.plan.partitions, 1),
            self.ground.metrics.clone(),
        )
        .map_err(|error| wrong(format!("{error:?}")))?;
        // In two steps: all that was counted comes first, whatever its time. After all of it, so that nothing is ahead of the clock.
        for batch in [&batch, &asked] {
            loop {
                pipeline
                    .step(
                        batch,
                        &mut owned,
                        items,
                        Timestamp::PLAUSIBLE_TO,
                        &mut || [7; 16],
                        &mut output,
                    )
                    .map_err(|error| wrong(format!("{error:?}")))?;
                if !output.rest {
                    break;
                }
            }
        }
        let scores = output
            .transactional
            .iter()
            .find(|record| record.at.topic == Topic::Scores);
        let scores = scores.ok_or_else(|| wrong("no answer".to_owned()))?;
        let json: Value = serde_json::from_slice(scores.value.unwrap_or_default())
            .map_err(|error| wrong(error.to_string()))?;
        if json["status"] != "ok" {
            return Err(wrong(json.to_string()));
        }
        let degraded = json["degraded"].as_array();
        let late = degraded.is_some_and(|all| all.iter().any(|reason| reason == "late"));
        let items = json["items"].as_array().cloned().unwrap_or_default();
        let logged = output.transactional.iter();
        let logged = logged.filter(|record| record.at.topic == Topic::FeatureLog);
        let rows = logged.map(|record| {
            let row: Value = serde_json::from_slice(record.value.unwrap_or_default())
                .map_err(|error| wrong(error.to_string()))?;
            Ok(["shared", "candidates", "key_vectors"].map(|key| row[key].clone()))
        });
        let rows = rows.collect::<Result<_, String>>()?;
        Ok(Asked { items, late, rows })
    }
}

/// What comes of asking again.
#[derive(Debug, PartialEq)]
struct Asked {
    items: Vec<Value>,
    late: bool,
    /// Numbers of rows and key-vectors.
    rows: Vec<[Value; 3]>,
}

/// What is not before the row, as something else. A late row's history is left as it is but for what was done there: which cells it lies
/// in goes by the item and by the time.
fn other(counted: &Counted, time: i64, late: bool) -> Vec<u8> {
    if counted.time < time {
        return counted.raw.clone();
    }
    let mut record: Value =
        serde_json::from_slice(&counted.raw).expect("invariant: it was counted");
    record["kind"] = json!("purchase");
    record["scenario"] = json!("search");
    record["value"] = json!(77);
    if !late {
        record["item_id"] = json!("another");
        record["time"] = json!(counted.time + 12_345);
        record["query"] = json!("another");
    }
    record.to_string().into_bytes()
}
