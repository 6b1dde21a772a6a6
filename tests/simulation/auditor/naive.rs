//! What had to come of the input: who did what, counted once, worked out from the raw records. No code of `state` is used here:
//! sorted lists, JSON and `<`.

use std::collections::BTreeMap;

use headwater_config::{Config, Late};
use serde_json::Value;

use super::Seen;
use super::outputs::Answer;

/// A behavior that counts.
#[derive(Clone, PartialEq)]
pub(crate) struct Counted {
    pub partition: i32,
    pub user: String,
    pub time: i64,
    /// The offset of its record, or of the request that showed the item.
    pub offset: i64,
    /// Which of those of its offset it is.
    pub index: usize,
    pub kind: String,
    /// As it is counted: an undeclared one is `other`.
    pub scenario: String,
    pub item: Option<String>,
    /// Millionths.
    pub value: Option<i64>,
    pub attributes: Vec<(String, String)>,
    /// The record; empty for what a request has shown.
    pub raw: Vec<u8>,
}

impl std::fmt::Debug for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let raw = String::from_utf8_lossy(&self.raw);
        write!(f, "{}-{}.{} {raw}", self.partition, self.offset, self.index)
    }
}

impl Counted {
    fn order(&self) -> (i64, i64, usize) {
        (self.time, self.offset, self.index)
    }
}

/// A request that can be read.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub partition: i32,
    pub offset: i64,
    pub taken: i64,
    pub id: String,
    pub user: String,
    pub scenario: String,
    pub time: i64,
    pub candidates: Vec<String>,
    pub deadline_ms: Option<i64>,
    /// Milliseconds.
    pub standing: Option<i64>,
}

/// What came in, and what had to come of it.
#[derive(Debug, Default)]
pub(crate) struct World {
    /// In the order of partition and offset.
    pub counted: Vec<Counted>,
    pub requests: Vec<Request>,
    /// Why a record cannot be read, by topic (its role), partition and offset.
    pub unreadable: BTreeMap<(&'static str, i32, i64), &'static str>,
    pub raw: BTreeMap<(&'static str, i32, i64), Option<Vec<u8>>>,
    /// The newest event time of each partition.
    pub watermarks: BTreeMap<i32, i64>,
}

const ID_MAX: usize = 256;

/// How many event ids of behaviors that were too old for recent are remembered.
const LATE_EVENTS: usize = 32;

/// Where the indexes of what a request has shown begin.
const SHOWN: usize = 0x8000;

impl World {
    pub(crate) fn new(config: &Config, behaviors: &[Seen], requests: &[Seen]) -> Self {
        let mut world = Self::default();
        // Of each user: event ids of the newest by time, and of those that were too old when they came.
        let mut known: BTreeMap<(i32, String), (Vec<(i64, i64, Option<String>)>, Vec<String>)> =
            BTreeMap::new();
        for seen in behaviors {
            let place = ("behaviors", seen.partition, seen.offset);
            world.raw.insert(place, seen.value.clone());
            let (counted, event) = match behavior(config, seen) {
                Ok(read) => read,
                Err(reason) => {
                    world.unreadable.insert(place, reason);
                    continue;
                }
            };
            let newest = world.watermarks.get(&seen.partition).copied();
            let late = newest.is_some_and(|newest| {
                counted.time < newest - config.state.allowed_lateness.millis()
            });
            if late && config.state.late == Late::Drop {
                continue;
            }
            let newest = newest.map_or(counted.time, |newest| newest.max(counted.time));
            world.watermarks.insert(seen.partition, newest);
            let (recent, too_old) = known
                .entry((seen.partition, counted.user.clone()))
                .or_default();
            let repeated = event.as_ref().is_some_and(|event| {
                too_old.contains(event)
                    || recent
                        .iter()
                        .any(|(.., other)| other.as_ref() == Some(event))
            });
            if repeated {
                continue;
            }
            let newcomer = (counted.time, counted.offset, event.clone());
            if recent.len() == config.state.recent && newcomer < recent[0] {
                too_old.extend(event);
                if too_old.len() > LATE_EVENTS {
                    too_old.remove(0);
                }
            } else {
                recent.push(newcomer);
                recent.sort();
                if recent.len() > config.state.recent {
                    recent.remove(0);
                }
            }
            world.counted.push(counted);
        }
        for seen in requests {
            let place = ("score_requests", seen.partition, seen.offset);
            world.raw.insert(place, seen.value.clone());
            match request(config, seen) {
                Ok(request) => world.requests.push(request),
                Err(reason) => drop(world.unreadable.insert(place, reason)),
            }
        }
        world
    }

    /// Counts what requests have shown, where the settings say that they show.
    pub(crate) fn show(&mut self, answers: &[Answer]) {
        for answer in answers.iter().filter(|answer| answer.status == "ok") {
            let Some(request) = self.requests.iter().find(|request| {
                ("score_requests", request.partition, request.offset) == answer.cause
            }) else {
                continue;
            };
            if !request.candidates.is_empty() {
                let newest = self.watermarks.entry(request.partition).or_insert(i64::MIN);
                *newest = request.time.max(*newest);
            }
            for (index, item) in request.candidates.iter().enumerate() {
                self.counted.push(Counted {
                    partition: request.partition,
                    user: request.user.clone(),
                    time: request.time,
                    offset: request.offset,
                    // Behind all behaviors, which have offsets of another topic.
                    index: SHOWN + index,
                    kind: "impression".to_owned(),
                    scenario: request.scenario.clone(),
                    item: Some(item.clone()),
                    value: None,
                    attributes: Vec::new(),
                    raw: Vec::new(),
                });
            }
        }
    }

    /// The behaviors of a user that count, oldest first.
    pub(crate) fn of(&self, partition: i32, user: &str) -> Vec<&Counted> {
        let mut of: Vec<&Counted> = self
            .counted
            .iter()
            .filter(|counted| counted.partition == partition && counted.user == user)
            .collect();
        of.sort_by_key(|counted| counted.order());
        of
    }
}

/// A record's JSON, or why there is none.
fn object(
    config: &Config,
    value: Option<&[u8]>,
) -> Result<serde_json::Map<String, Value>, &'static str> {
    let value = value.ok_or("null_value")?;
    if value.len() as u64 > config.step.record_max.get() {
        return Err("too_large");
    }
    match serde_json::from_slice(value) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("wrong_type"),
        Err(_) => Err("unreadable"),
    }
}

fn text<'a>(
    object: &'a serde_json::Map<String, Value>,
    name: &str,
) -> Result<&'a str, &'static str> {
    match object.get(name) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err("wrong_type"),
        None => Err("missing_field"),
    }
}

fn id(id: &str) -> Result<(), &'static str> {
    if id.is_empty() || id.len() > ID_MAX {
        return Err("bad_id");
    }
    Ok(())
}

fn plausible(time: i64) -> Result<(), &'static str> {
    // The years 1990 to 2099.
    if !(631_152_000_000..4_102_444_800_000).contains(&time) {
        return Err("bad_time");
    }
    Ok(())
}

fn known_scenario(config: &Config, name: &str) -> String {
    if config.scenarios.names.iter().any(|known| known == name) {
        name.to_owned()
    } else {
        "other".to_owned()
    }
}

fn behavior(config: &Config, seen: &Seen) -> Result<(Counted, Option<String>), &'static str> {
    let object = object(config, seen.value.as_deref())?;
    let user = text(&object, "user_id")?;
    let kind = text(&object, "kind")?;
    let scenario = text(&object, "scenario")?;
    let time = match object.get("time") {
        Some(time) => time.as_i64().ok_or("wrong_type")?,
        None => return Err("missing_field"),
    };
    let optional = |name| object.get(name).map(|_| text(&object, name)).transpose();
    let item = optional("item_id")?;
    let event = optional("event_id")?;
    let query = optional("query")?;
    for of in [Some(user), item, event, Some(scenario)]
        .into_iter()
        .flatten()
    {
        id(of)?;
    }
    if !config.kinds.names.iter().any(|known| known == kind) {
        return Err("unknown_kind");
    }
    plausible(time)?;
    if time > seen.taken + config.state.max_ahead.millis() {
        return Err("ahead_of_time");
    }
    let value = match object.get("value") {
        None => None,
        Some(value) => {
            let value = value.as_f64().ok_or("wrong_type")?;
            if value.abs() > 1e9 {
                return Err("bad_value");
            }
            Some((value * 1e6).round() as i64)
        }
    };
    let mut attributes = Vec::new();
    for name in &config.state.attributes {
        let given = object.get("attributes").and_then(|given| given.get(name));
        let words = match given {
            Some(Value::String(words)) => words.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::Bool(flag)) => flag.to_string(),
            Some(_) => return Err("wrong_type"),
            None => match query {
                Some(query) if name == "query" => query.to_owned(),
                _ => continue,
            },
        };
        attributes.push((name.clone(), words));
    }
    let counted = Counted {
        partition: seen.partition,
        user: user.to_owned(),
        time,
        offset: seen.offset,
        index: 0,
        kind: kind.to_owned(),
        scenario: known_scenario(config, scenario),
        item: item.map(str::to_owned),
        value,
        attributes,
        raw: seen.value.clone().unwrap_or_default(),
    };
    // Without an id, one that was a dead letter is known by that letter. No id of an event has a NUL in it here.
    let letter = seen
        .headers
        .iter()
        .find(|(name, _)| name == "headwater-redrive");
    let letter = letter.map(|(_, letter)| format!("\0{}", String::from_utf8_lossy(letter)));
    Ok((counted, event.map(str::to_owned).or(letter)))
}

fn request(config: &Config, seen: &Seen) -> Result<Request, &'static str> {
    let object = object(config, seen.value.as_deref())?;
    let request_id = text(&object, "request_id")?;
    let user = text(&object, "user_id")?;
    let scenario = text(&object, "scenario")?;
    let time = match object.get("time") {
        Some(time) => time.as_i64().ok_or("wrong_type")?,
        None => return Err("missing_field"),
    };
    let Some(Value::Array(list)) = object.get("candidates") else {
        return Err("missing_field");
    };
    let mut candidates = Vec::new();
    for candidate in list {
        candidates.push(candidate.as_str().ok_or("wrong_type")?.to_owned());
    }
    for of in [request_id, user, scenario]
        .into_iter()
        .chain(candidates.iter().map(String::as_str))
    {
        id(of)?;
    }
    plausible(time)?;
    let standing = match object
        .get("standing")
        .and_then(|standing| standing.get("ttl"))
    {
        None => None,
        Some(Value::Number(ms)) => ms.as_i64(),
        Some(_) => Some(i64::MAX),
    };
    Ok(Request {
        partition: seen.partition,
        offset: seen.offset,
        taken: seen.taken,
        id: request_id.to_owned(),
        user: user.to_owned(),
        scenario: known_scenario(config, scenario),
        time,
        candidates,
        deadline_ms: object.get("deadline_ms").and_then(Value::as_i64),
        standing,
    })
}
