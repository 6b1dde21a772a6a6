//! `PIPE-1` and `PIPE-2`: what readers of committed records see, against what had to come of the input.

use std::collections::{BTreeMap, BTreeSet};

use headwater_config::{Config, Delivery, OnBehavior, Topic};
use headwater_consumers::log::{Log, TopicPartition};
use headwater_state::{Entity, KindId, ScenarioId, Statistics, of_series};
use serde_json::Value;

use super::naive::{Request, World};
use super::{Seen, read_all};
use crate::run::Tally;
use crate::workload::Plan;

/// What caused an output: topic (its role), partition, offset.
type Cause = (&'static str, i32, i64);

/// An answer, its parts put together.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub cause: Cause,
    /// `headwater-id` without the part.
    pub id: String,
    pub request_id: String,
    pub user: String,
    pub scenario: String,
    pub time: i64,
    pub status: String,
    pub items: Vec<Value>,
    pub degraded: BTreeSet<String>,
    /// Whether the baseline scored.
    pub baseline: bool,
    pub partition: i32,
    /// All behaviors before it were counted.
    pub offset: i64,
}

/// The name of a topic in headers: no prefix is configured.
fn name_of(role: &str) -> String {
    format!("headwater.{}", role.replace('_', "-"))
}

/// The answers, each once. In exactly-once mode a repeat is wrong; in at-least-once mode, one that says something of another cause is.
pub(crate) fn answers(log: &dyn Log, plan: &Plan, world: &World) -> Result<Vec<Answer>, String> {
    let mut causes: BTreeMap<String, Cause> = BTreeMap::new();
    for (role, partition, offset) in world.raw.keys() {
        let id = format!("{}-{partition}-{offset}", name_of(role));
        causes.insert(id, (role, *partition, *offset));
    }
    let exactly = plan.config.kafka.delivery == Delivery::ExactlyOnce;
    // By cause, the parts; of repeats the last.
    let mut parts: BTreeMap<String, BTreeMap<u64, Value>> = BTreeMap::new();
    for seen in read_all(log, Topic::Scores)? {
        let id = seen.header("headwater-id")?;
        let json = json_of(&seen)?;
        let part = json["part"][0].as_u64().unwrap_or(0);
        let base = match part {
            0 => id.clone(),
            part => id
                .strip_suffix(&format!("-{}", part - 1))
                .ok_or_else(|| format!("part {part} has id {id}"))?
                .to_owned(),
        };
        if seen.key != json["user_id"].as_str().unwrap_or_default().as_bytes() {
            return Err(format!("the key of {id} is not its user"));
        }
        let of = parts.entry(base.clone()).or_default();
        if let Some((_, other)) = of.first_key_value()
            && other["part"][1] != json["part"][1]
        {
            if exactly {
                return Err(format!(
                    "PIPE-1: {base} in {} and in {} parts",
                    other["part"][1], json["part"][1]
                ));
            }
            // What becomes of a request may differ the second time: it has expired by then, say. The last word counts.
            of.clear();
        }
        if of.insert(part, json).is_some() && exactly {
            return Err(format!("PIPE-1: {id} was seen twice"));
        }
    }
    let mut answers = Vec::new();
    for (id, parts) in parts {
        let cause = causes.get(&id);
        let cause = *cause.ok_or_else(|| format!("PIPE-1: {id} comes of nothing"))?;
        let (_, first) = parts.first_key_value().expect("invariant: one at least");
        if first["part"][1].as_u64().unwrap_or(1) != parts.len() as u64 {
            return Err(format!("PIPE-1: {id} lacks parts: {parts:?}"));
        }
        let of = |name: &str| first[name].as_str().unwrap_or_default().to_owned();
        answers.push(Answer {
            cause,
            request_id: of("request_id"),
            user: of("user_id"),
            scenario: of("scenario"),
            time: first["time"].as_i64().unwrap_or_default(),
            status: of("status"),
            items: parts
                .values()
                .flat_map(|part| part["items"].as_array().cloned().unwrap_or_default())
                .collect(),
            degraded: texts(&first["degraded"]),
            baseline: of("model").starts_with("baseline"),
            partition: first["state"]["partition"].as_i64().unwrap_or(-1) as i32,
            offset: first["state"]["offset"].as_i64().unwrap_or(-1),
            id,
        });
    }
    Ok(answers)
}

fn texts(value: &Value) -> BTreeSet<String> {
    let list = value.as_array().into_iter().flatten();
    list.filter_map(|text| text.as_str().map(str::to_owned))
        .collect()
}

fn json_of(seen: &Seen) -> Result<Value, String> {
    let value = seen.value.as_deref().unwrap_or_default();
    serde_json::from_slice(value).map_err(|error| format!("no JSON: {error}: {seen:?}"))
}

pub(crate) fn judge(
    log: &dyn Log,
    plan: &Plan,
    world: &World,
    answers: &[Answer],
    tally: &mut Tally,
) -> Result<(), String> {
    expected_answers(&plan.config, world, answers)?;
    for answer in answers {
        judge_answer(&plan.config, world, answer)
            .map_err(|error| format!("{error}: {answer:?}"))?;
    }
    let standing = standing(log, plan, world, answers)?;
    feature_log(log, plan, answers, &standing)?;
    dead_letters(log, plan, world, tally)?;
    positions(log, plan)?;
    statistics(log, &plan.config, world)
}

/// Every counted behavior on an item that was done, and every readable request, has an answer; nothing else has.
fn expected_answers(config: &Config, world: &World, answers: &[Answer]) -> Result<(), String> {
    let mut expected: BTreeSet<Cause> = world
        .requests
        .iter()
        .map(|request| ("score_requests", request.partition, request.offset))
        .collect();
    if config.scoring.on_behavior == OnBehavior::Item {
        let done = world.counted.iter().filter(|counted| {
            counted.item.is_some()
                && !counted.raw.is_empty()
                && !config.kinds.impressions.contains(&counted.kind)
        });
        expected.extend(done.map(|counted| ("behaviors", counted.partition, counted.offset)));
    }
    let found: BTreeSet<Cause> = answers.iter().map(|answer| answer.cause).collect();
    if let Some(cause) = expected.difference(&found).next() {
        return Err(format!("PIPE-1: {cause:?} has no answer"));
    }
    if let Some(cause) = found.difference(&expected).next() {
        return Err(format!("PIPE-1: {cause:?} must have no answer"));
    }
    Ok(())
}

fn judge_answer(config: &Config, world: &World, answer: &Answer) -> Result<(), String> {
    let (role, partition, offset) = answer.cause;
    if answer.partition != partition {
        return Err("it names another partition".to_owned());
    }
    let named = || answer.items.iter().map(|item| item["item_id"].as_str());
    if role == "behaviors" {
        let counted = world
            .counted
            .iter()
            .find(|counted| (counted.partition, counted.offset) == (partition, offset));
        let counted = counted.ok_or("it comes of a behavior that does not count")?;
        let right = answer.user == counted.user
            && answer.time == counted.time + 1
            && answer.status == "ok"
            && answer.scenario == counted.scenario
            && answer.offset == offset + 1
            && named().eq([counted.item.as_deref()]);
        return right
            .then_some(())
            .ok_or(format!("it does not fit {counted:?}"));
    }
    let request = world
        .requests
        .iter()
        .find(|request| (request.partition, request.offset) == (partition, offset));
    let request = request.ok_or("it comes of no request")?;
    let right = answer.user == request.user
        && answer.request_id == request.id
        && answer.time == request.time;
    if !right {
        return Err(format!("it does not fit {request:?}"));
    }
    let may = statuses(config, world, request);
    if !may.contains(answer.status.as_str()) {
        return Err(format!("its status must be one of {may:?}: {request:?}"));
    }
    let candidates = request
        .candidates
        .iter()
        .filter(|_| answer.status == "ok")
        .map(|item| Some(item.as_str()));
    if !named().eq(candidates) {
        return Err(format!("its items do not fit {request:?}"));
    }
    Ok(())
}

/// What may have become of a request. Whether one is too old depends on when it was met.
fn statuses(config: &Config, world: &World, request: &Request) -> BTreeSet<&'static str> {
    let mut may = BTreeSet::new();
    if let Some(ms) = request.deadline_ms
        && request.taken <= request.time + ms
    {
        may.insert("expired");
    } else if request.deadline_ms.is_some() {
        return BTreeSet::from(["expired"]);
    }
    if request.time > request.taken + config.state.max_ahead.millis() {
        may.insert("future");
        return may;
    }
    let newest = world.watermarks.get(&request.partition);
    if newest.is_some_and(|newest| *newest > request.time + config.step.request_max_age.millis()) {
        may.insert("expired");
    }
    may.insert(if request.candidates.len() > config.step.candidates_max {
        "too_many_candidates"
    } else {
        "ok"
    });
    may
}

/// Standing scores are as new as what their users did; those that are over are gone. Gives all of their ids.
fn standing(
    log: &dyn Log,
    plan: &Plan,
    world: &World,
    answers: &[Answer],
) -> Result<Vec<(String, usize)>, String> {
    let mut newest: BTreeMap<(i32, Vec<u8>), Seen> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    let mut scored = Vec::new();
    for seen in read_all(log, Topic::StandingScores)? {
        let id = seen.header("headwater-id")?;
        if !ids.insert(id.clone()) {
            return Err(format!("PIPE-1: standing score {id} was seen twice"));
        }
        if seen.value.is_some() {
            let json = json_of(&seen)?;
            if json["part"][0].as_u64().unwrap_or(1) == 1 {
                let base = match json["part"][0].as_u64() {
                    Some(_) => id.strip_suffix("-0").unwrap_or(&id).to_owned(),
                    None => id,
                };
                scored.push((base, json["items"].as_array().map_or(0, Vec::len)));
            }
        }
        newest.insert((seen.partition, seen.key.clone()), seen);
    }
    let mut live: BTreeMap<(i32, Vec<u8>), (&Request, &Answer)> = BTreeMap::new();
    for request in world
        .requests
        .iter()
        .filter(|request| request.standing.is_some())
    {
        let cause = ("score_requests", request.partition, request.offset);
        let answer = answers.iter().find(|answer| answer.cause == cause);
        let answer = answer.ok_or("a request has no answer")?;
        if answer.status == "ok" && !answer.degraded.contains("too_many_standing") {
            let key = format!("[\"{}\",\"{}\"]", request.user, request.id);
            live.insert((request.partition, key.into_bytes()), (request, answer));
        }
    }
    for ((partition, key), (request, answer)) in &live {
        // The first part has the request's key, the others have their number in it.
        let first = newest.remove(&(*partition, key.clone()));
        let first = first.ok_or_else(|| format!("{request:?} has no standing scores"))?;
        let others = (2..=request.candidates.len().max(9)).filter_map(|part| {
            let key = format!("[\"{}\",\"{}\",{part}]", request.user, request.id);
            newest.remove(&(*partition, key.into_bytes()))
        });
        let parts: Vec<Seen> = std::iter::once(first).chain(others).collect();
        let there: Vec<&Seen> = parts.iter().filter(|part| part.value.is_some()).collect();
        let over = request.standing.is_some_and(|ttl| ttl < i64::MAX);
        if over != there.is_empty() {
            return Err(format!(
                "{request:?} is over: {over}, its newest scores are {parts:?}"
            ));
        }
        if over {
            continue;
        }
        let there: Vec<Value> = there.into_iter().map(json_of).collect::<Result<_, _>>()?;
        let numbered = there.iter().enumerate().all(|(place, part)| {
            let whole = there.len() == 1 && part["part"].is_null();
            whole || part["part"] == serde_json::json!([place + 1, there.len()])
        });
        let items = there.iter().filter_map(|part| part["items"].as_array());
        let named = items.flatten().map(|item| item["item_id"].as_str());
        if !numbered || !named.eq(request.candidates.iter().map(|item| Some(item.as_str()))) {
            return Err(format!(
                "the standing scores of {request:?} are not whole: {there:?}"
            ));
        }
        if plan.config.scoring.requests_are_impressions {
            continue;
        }
        let of = world.of(request.partition, &request.user);
        let newer = of.iter().any(|counted| counted.offset >= answer.offset);
        let of_newest = of.last().map(|newest| request.time.max(newest.time + 1));
        let time = of_newest.filter(|_| newer).unwrap_or(request.time);
        // What had no vectors yet is scored again until they are there, as of what was known then: a behavior before the request may have a later time.
        let again = |part: &Value| {
            let is_deep = part["model"]
                .as_str()
                .is_some_and(|model| model.starts_with("bahe-"));
            let lacks = part["degraded"].as_array().is_some_and(|reasons| {
                reasons
                    .iter()
                    .any(|reason| reason == "user_vectors" || reason == "item_vectors")
            });
            // One without candidates is scored by nobody, whoever would have.
            let lacked = ["user_vectors", "item_vectors"]
                .iter()
                .any(|reason| answer.degraded.contains(*reason));
            (is_deep || lacks || lacked) && of_newest.is_some_and(|time| part["time"] == time)
        };
        let current = |part: &Value| part["time"] == time || again(part);
        if !there.iter().all(current) || there.iter().any(|part| part["time"] != there[0]["time"]) {
            return Err(format!(
                "standing scores are not current: {request:?} was answered at {answer:?}, must be scored as of {time}, are {there:?}; {of:#?}"
            ));
        }
    }
    if let Some((key, _)) = newest.first_key_value() {
        return Err(format!("standing scores {key:?} come of nothing"));
    }
    Ok(scored)
}

/// Every scored request has its rows in the feature log.
fn feature_log(
    log: &dyn Log,
    plan: &Plan,
    answers: &[Answer],
    standing: &[(String, usize)],
) -> Result<(), String> {
    let exactly = plan.config.kafka.delivery == Delivery::ExactlyOnce;
    let mut found = BTreeSet::new();
    for seen in read_all(log, Topic::FeatureLog)? {
        let id = seen.header("headwater-id")?;
        let base = id.strip_suffix("-0").ok_or_else(|| format!("row {id}"))?;
        if !found.insert(base.to_owned()) && exactly {
            return Err(format!("PIPE-1: row {id} was seen twice"));
        }
    }
    if !plan.config.scoring.feature_log {
        return match found.first() {
            Some(id) => Err(format!("row {id} was logged, and none is wanted")),
            None => Ok(()),
        };
    }
    let of_answers = answers
        .iter()
        .map(|answer| (answer.id.clone(), answer.items.len()));
    let expected: BTreeSet<String> = of_answers
        .chain(standing.iter().cloned())
        .filter(|(_, items)| *items > 0)
        .map(|(id, _)| id)
        .collect();
    if let Some(id) = expected.difference(&found).next() {
        return Err(format!(
            "PIPE-1: {id} was scored, and its row is not logged"
        ));
    }
    // At least once: rows of steps that failed stay, and what became of a request may differ the second time. Of standing scores a
    // cleaned topic has the newest alone.
    let cleaned = plan.compacts || plan.segment_bytes < 64 << 20;
    let may_be = |id: &str| !exactly || cleaned && id.starts_with("standing-");
    if let Some(id) = found.difference(&expected).find(|id| !may_be(id)) {
        return Err(format!("PIPE-1: row {id} comes of nothing"));
    }
    Ok(())
}

/// Each unreadable record is a dead letter once, as it was, with its reason.
fn dead_letters(
    log: &dyn Log,
    plan: &Plan,
    world: &World,
    tally: &mut Tally,
) -> Result<(), String> {
    let mut missing = world.unreadable.clone();
    for seen in read_all(log, Topic::DeadLetters)? {
        let id = seen.header("headwater-id")?;
        let place = world.raw.keys().find(|(role, partition, offset)| {
            format!("{}-{partition}-{offset}", name_of(role)) == id
        });
        let place = place.ok_or_else(|| format!("PIPE-2: dead letter {id} comes of nothing"))?;
        let reason = missing
            .remove(place)
            .ok_or_else(|| format!("PIPE-2: dead letter {id} is one too many"))?;
        if seen.header("headwater-reason")? != reason
            || seen.header("headwater-source")? != name_of(place.0)
            || seen.header("theirs")? != "kept"
            || seen.value != world.raw[place]
            || seen.partition != place.1 % plan.dead_letter_partitions
        {
            return Err(format!(
                "PIPE-2: must be a dead letter for {reason}: {seen:?}"
            ));
        }
        tally.dead_letters += 1;
    }
    match missing.first_key_value() {
        Some((place, reason)) => Err(format!("PIPE-2: {place:?} is no dead letter ({reason})")),
        None => Ok(()),
    }
}

/// The group has committed the end of every input.
fn positions(log: &dyn Log, plan: &Plan) -> Result<(), String> {
    let wrong = |error| format!("{error:?}");
    let mut member = log.member("auditor", 0).map_err(wrong)?;
    for topic in [Topic::Behaviors, Topic::ScoreRequests, Topic::ItemDeltas] {
        let records = read_all(log, topic)?;
        for partition in 0..plan.partitions {
            let last = records.iter().rfind(|seen| seen.partition == partition);
            let at = TopicPartition::new(topic, partition);
            let found = member.committed(&[at]).map_err(wrong)?[0];
            if found != last.map(|seen| seen.offset + 1) {
                return Err(format!(
                    "PIPE-2: {topic:?}-{partition}: committed {found:?}, the last record is {last:?}"
                ));
            }
        }
    }
    Ok(())
}

type Counts = BTreeMap<(u32, u32), (u64, i64)>;

/// Item statistics equal the naive counts, of items, their groups, and all.
fn statistics(log: &dyn Log, config: &Config, world: &World) -> Result<(), String> {
    let mut groups: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for seen in read_all(log, Topic::Items)? {
        if seen.value.is_none() {
            continue;
        }
        let json = json_of(&seen)?;
        let mut of = texts(&json["categories"]);
        for name in &config.items.attributes {
            if let Some(words) = json["fields"][name].as_str() {
                of.insert(format!("{name}={words}"));
            }
        }
        let id = json["item_id"].as_str().unwrap_or_default();
        groups.insert(id.to_owned(), of);
    }
    let mut expected: BTreeMap<Vec<u8>, Counts> = BTreeMap::new();
    for counted in &world.counted {
        let Some(item) = &counted.item else { continue };
        if !config.scoring.item_statistics {
            break;
        }
        // Where requests are what is known of impressions, a positive counts for its item only with the request that led to it.
        let positive = config
            .tasks
            .values()
            .any(|task| task.positive.contains(&counted.kind));
        let requested = serde_json::from_slice::<serde_json::Value>(&counted.raw)
            .is_ok_and(|record| record["request_id"].is_string());
        if config.scoring.requests_are_impressions && positive && !requested {
            continue;
        }
        let none = BTreeSet::new();
        let of = groups.get(item).unwrap_or(&none).iter();
        let of = of.map(|name| Entity::Category(name));
        for entity in of.chain([Entity::Total, Entity::Item(item)]) {
            let series = (
                ScenarioId::of(&counted.scenario).0,
                KindId::of(&counted.kind).0,
            );
            let counts = expected.entry(entity.key().into_vec()).or_default();
            let (count, sum) = counts.entry(series).or_default();
            *count += 1;
            *sum += counted.value.unwrap_or_default();
        }
    }
    let mut state = Statistics::default();
    for seen in read_all(log, Topic::ItemState)? {
        let applied = state.apply(&seen.key, seen.value.as_deref());
        applied.map_err(|damage| format!("item state {seen:?}: {damage}"))?;
    }
    let mut found: BTreeMap<Vec<u8>, Counts> = BTreeMap::new();
    for (key, cells) in state.iter() {
        let mut counts = Counts::new();
        for cell in cells.iter() {
            let (scenario, kind) = of_series(cell.series);
            let (count, sum) = counts.entry((scenario.0, kind.0)).or_default();
            *count += u64::from(cell.count);
            *sum += cell.sum.0;
        }
        found.insert(key.to_vec(), counts);
    }
    let keys: BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    for key in keys {
        if expected.get(key) != found.get(key) {
            return Err(format!(
                "PIPE-1: statistics of {}: must be {:?}, are {:?}",
                key.escape_ascii(),
                expected.get(key),
                found.get(key)
            ));
        }
    }
    Ok(())
}
