//! Bytes to records: behaviors, score requests, items. What cannot be read is a [`Reject`] with its reason, and becomes a dead
//! letter; it stops nobody (`PIPE-2`).
//!
//! Before it stands `log`, after it `step`. Strings stay borrowed from the record's bytes; unknown fields are ignored, so that a
//! platform may add its own.

use std::borrow::Cow;

use headwater_config::{BehaviorSource, Config};
use headwater_state::{FixedSum, KindId, ScenarioId, SlotId, Timestamp, pinned_hash};
use serde::Deserialize;
use serde_json::value::RawValue;

pub(crate) mod mapped;
mod reject;
#[cfg(test)]
mod tests;

pub use reject::Reject;

/// Bytes of an id at most.
pub const ID_BYTES_MAX: usize = 256;
/// A place in a list at most; one that is further down is as good as this.
const POSITION_MAX: u32 = u32::MAX - 1;
/// Categories of an item at most: a behavior on it counts for each.
pub const CATEGORIES_MAX: usize = 256;

/// A behavior, decoded; strings borrowed where JSON has no escapes.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedBehavior<'a> {
    /// Its place in its record, where a record holds several.
    pub index: u16,
    /// Who.
    pub user: Cow<'a, str>,
    /// To what.
    pub item: Option<Cow<'a, str>>,
    /// What.
    pub kind: KindId,
    /// Where; undeclared scenarios are `other`.
    pub scenario: ScenarioId,
    /// When.
    pub time: Timestamp,
    /// Its id, and the pinned hash of it; 0 without one.
    pub event_id: Option<Cow<'a, str>>,
    /// Pinned hash of the id, never 0 where there is one.
    pub event: u64,
    /// Its value.
    pub value: Option<FixedSum>,
    /// The request that led to it, where it names one.
    pub request: Option<Cow<'a, str>>,
    /// Where in the list it was, where that is said.
    pub position: Option<u32>,
    /// Configured attributes, by slot.
    pub attributes: Vec<(SlotId, Cow<'a, str>)>,
}

/// The behaviors of one record.
#[derive(Clone, Debug, PartialEq)]
pub enum Decoded<'a> {
    /// A record of Headwater's own form: always one, and nothing is allocated for it.
    One(DecodedBehavior<'a>),
    /// A stranger's record.
    Many {
        /// In their order.
        behaviors: Vec<DecodedBehavior<'static>>,
        /// How many more there were whose kind is none of ours.
        skipped: u64,
    },
}

impl<'a> Decoded<'a> {
    /// The behaviors in their order.
    pub fn behaviors(&self) -> &[DecodedBehavior<'a>] {
        match self {
            Self::One(behavior) => std::slice::from_ref(behavior),
            Self::Many { behaviors, .. } => behaviors,
        }
    }

    /// How many events were passed over.
    pub fn skipped(&self) -> u64 {
        match self {
            Self::One(_) => 0,
            Self::Many { skipped, .. } => *skipped,
        }
    }
}

/// A score request, decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedRequest<'a> {
    /// Its id.
    pub request_id: Cow<'a, str>,
    /// For whom.
    pub user: Cow<'a, str>,
    /// Where, as it was named.
    pub scenario_name: Cow<'a, str>,
    /// Where; undeclared scenarios are `other`.
    pub scenario: ScenarioId,
    /// Row time.
    pub time: Timestamp,
    /// What to score.
    pub candidates: Vec<Cow<'a, str>>,
    /// Milliseconds after `time` within which an answer is wanted.
    pub deadline_ms: Option<i64>,
    /// For how long it stands, milliseconds; `None` is answered once.
    pub standing_ttl_ms: Option<i64>,
}

/// An item record, decoded; categories still by name.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedItem<'a> {
    /// Its id.
    pub item_id: Cow<'a, str>,
    /// Event time of the record.
    pub time: Timestamp,
    /// Its sort.
    pub item_type: Option<Cow<'a, str>>,
    /// Its texts.
    pub fields: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// Its categories.
    pub categories: Vec<Cow<'a, str>>,
    /// Its numbers.
    pub numeric: Vec<(Cow<'a, str>, f64)>,
}

/// What of the configuration decoding follows.
#[derive(Clone, Debug)]
pub struct Decoder {
    kinds: Vec<KindId>,
    kind_names: Vec<String>,
    scenarios: Vec<ScenarioId>,
    attributes: Vec<(String, SlotId)>,
    /// Fields of items that group them, and are ids of groups.
    item_attributes: Vec<String>,
    max_ahead_ms: i64,
    record_max: usize,
    other: ScenarioId,
    /// How behaviors are read where they are a stranger's.
    mapping: Option<Box<BehaviorSource>>,
}

// An Option<&RawValue> with borrow keeps attributes unparsed: most configurations want none of them.
#[derive(Deserialize)]
struct BehaviorRecord<'a> {
    #[serde(borrow, default)]
    event_id: Option<Id<'a>>,
    #[serde(borrow)]
    user_id: Cow<'a, str>,
    #[serde(borrow, default)]
    item_id: Option<Id<'a>>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    scenario: Cow<'a, str>,
    time: i64,
    #[serde(borrow, default)]
    request_id: Option<Id<'a>>,
    #[serde(default)]
    position: Option<u64>,
    #[serde(borrow, default)]
    query: Option<Id<'a>>,
    #[serde(default)]
    value: Option<f64>,
    #[serde(borrow, default)]
    attributes: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RequestRecord<'a> {
    #[serde(borrow)]
    request_id: Cow<'a, str>,
    #[serde(borrow)]
    user_id: Cow<'a, str>,
    #[serde(borrow)]
    scenario: Cow<'a, str>,
    time: i64,
    #[serde(borrow)]
    candidates: Vec<Id<'a>>,
    #[serde(default)]
    deadline_ms: Option<i64>,
    #[serde(default)]
    standing: Option<StandingRecord>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object for `standing`")]
struct StandingRecord {
    ttl: Ttl,
}

/// Milliseconds, or a span such as "10m".
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "standing.ttl is neither a number of milliseconds nor a span such as \"10m\""
)]
enum Ttl {
    Milliseconds(i64),
    Span(headwater_config::Span),
}

#[derive(Deserialize)]
struct ItemRecord<'a> {
    #[serde(borrow)]
    item_id: Cow<'a, str>,
    time: i64,
    #[serde(borrow, default, rename = "type")]
    item_type: Option<Cow<'a, str>>,
    // Null is as good as nothing, here as in the optional keys of other records.
    #[serde(borrow, default)]
    fields: Option<std::collections::BTreeMap<Id<'a>, Option<Id<'a>>>>,
    #[serde(borrow, default)]
    categories: Option<Vec<Id<'a>>>,
    #[serde(borrow, default)]
    numeric: Option<std::collections::BTreeMap<Id<'a>, Option<f64>>>,
}

/// serde borrows a `Cow` only as a field of its own, not inside a collection or an `Option`.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(transparent)]
struct Id<'a>(#[serde(borrow)] Cow<'a, str>);

impl std::borrow::Borrow<str> for Id<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Decoder {
    /// A decoder for a configuration.
    pub fn new(config: &Config) -> Self {
        let mut scenarios: Vec<_> = config
            .scenarios
            .names
            .iter()
            .map(|name| ScenarioId::of(name))
            .collect();
        scenarios.sort_unstable();
        Self {
            kinds: config
                .kinds
                .names
                .iter()
                .map(|name| KindId::of(name))
                .collect(),
            kind_names: config.kinds.names.clone(),
            scenarios,
            attributes: config
                .state
                .attributes
                .iter()
                .map(|name| (name.clone(), SlotId::of(name)))
                .collect(),
            item_attributes: config.items.attributes.clone(),
            max_ahead_ms: config.state.max_ahead.millis(),
            record_max: config.step.record_max.as_usize(),
            other: ScenarioId::of("other"),
            mapping: (config.source.behaviors.mapped)
                .then(|| Box::new(config.source.behaviors.clone())),
        }
    }

    /// The name of a configured kind.
    pub fn kind_name(&self, kind: KindId) -> Option<&str> {
        let place = self.kinds.iter().position(|known| *known == kind)?;
        Some(&self.kind_names[place])
    }

    /// Decodes a record of the behaviors topic, by the mapping if there is one. `taken` is when the log took the record (Unix
    /// milliseconds; negative: not known).
    ///
    /// # Errors
    /// The first thing that is wrong with it; of a record of several events, all or nothing is read.
    pub fn behaviors<'a>(
        &self,
        value: Option<&'a [u8]>,
        taken: i64,
    ) -> Result<Decoded<'a>, Reject> {
        let Some(mapping) = self.mapping() else {
            return self.behavior(value, taken).map(Decoded::One);
        };
        let mapped::Events { events, skipped } = self.events(mapping, value, taken)?;
        let behaviors = events.into_iter().map(|event| self.behavior_of(event));
        Ok(Decoded::Many {
            behaviors: behaviors.collect(),
            skipped,
        })
    }

    /// Decodes a behavior of Headwater's own form. `taken` is when the log took the record (Unix milliseconds; negative: not known).
    pub fn behavior<'a>(
        &self,
        value: Option<&'a [u8]>,
        taken: i64,
    ) -> Result<DecodedBehavior<'a>, Reject> {
        let record: BehaviorRecord<'a> = self.object(value)?;
        id("user_id", &record.user_id)?;
        if let Some(item) = &record.item_id {
            id("item_id", &item.0)?;
        }
        if let Some(event) = &record.event_id {
            id("event_id", &event.0)?;
        }
        if let Some(request) = &record.request_id {
            id("request_id", &request.0)?;
        }
        id("scenario", &record.scenario)?;
        let kind = KindId::of(&record.kind);
        if !self.kinds.contains(&kind) {
            return Err(Reject::new(
                "unknown_kind",
                format!("kind `{}` is not in kinds.names", cut(&record.kind)),
            ));
        }
        let time = self.time(record.time, taken)?;
        let value = match record.value {
            None => None,
            Some(value) if value.is_finite() && value.abs() <= FixedSum::VALUE_MAX => {
                Some(FixedSum::of(value))
            }
            Some(value) => {
                return Err(Reject::new(
                    "bad_value",
                    format!("value {value} is beyond {}", FixedSum::VALUE_MAX),
                ));
            }
        };
        let attributes = if self.attributes.is_empty() {
            Vec::new()
        } else {
            self.attributes(&record)?
        };
        let event = record
            .event_id
            .as_ref()
            .map_or(0, |event| pinned_hash(event.0.as_bytes()).max(1));
        Ok(DecodedBehavior {
            index: 0,
            user: record.user_id,
            item: record.item_id.map(|id| id.0),
            kind,
            scenario: self.scenario(&record.scenario),
            time,
            event_id: record.event_id.map(|id| id.0),
            event,
            value,
            request: record.request_id.map(|id| id.0),
            position: record.position.map(position_of),
            attributes,
        })
    }

    /// Decodes a score request.
    pub fn request<'a>(&self, value: Option<&'a [u8]>) -> Result<DecodedRequest<'a>, Reject> {
        let record: RequestRecord<'a> = self.object(value)?;
        id("request_id", &record.request_id)?;
        id("user_id", &record.user_id)?;
        id("scenario", &record.scenario)?;
        for (place, candidate) in record.candidates.iter().enumerate() {
            id(format_args!("candidates[{place}]"), &candidate.0)?;
        }
        let time = plausible(record.time)?;
        if let Some(ms) = record.deadline_ms.filter(|ms| *ms < 0) {
            return Err(Reject::new(
                "bad_value",
                format!("deadline_ms {ms} is negative"),
            ));
        }
        let standing_ttl_ms = match record.standing.map(|standing| standing.ttl) {
            None => None,
            Some(Ttl::Milliseconds(ms)) if ms >= 0 => Some(ms),
            Some(Ttl::Milliseconds(ms)) => {
                return Err(Reject::new(
                    "bad_value",
                    format!("standing.ttl {ms} is negative"),
                ));
            }
            Some(Ttl::Span(span)) => Some(span.millis()),
        };
        Ok(DecodedRequest {
            scenario: self.scenario(&record.scenario),
            request_id: record.request_id,
            user: record.user_id,
            scenario_name: record.scenario,
            time,
            candidates: record
                .candidates
                .into_iter()
                .map(|candidate| candidate.0)
                .collect(),
            deadline_ms: record.deadline_ms,
            standing_ttl_ms,
        })
    }

    /// Decodes an item record; the key must be its id, since the key is what compaction goes by. `taken` is when the log took it (Unix
    /// milliseconds; negative: not known).
    pub fn item<'a>(
        &self,
        key: Option<&[u8]>,
        value: &'a [u8],
        taken: i64,
    ) -> Result<DecodedItem<'a>, Reject> {
        let record: ItemRecord<'a> = self.object(Some(value))?;
        let fields = record.fields.unwrap_or_default();
        let categories = record.categories.unwrap_or_default();
        let numeric = record.numeric.unwrap_or_default();
        id("item_id", &record.item_id)?;
        if key.is_some_and(|key| key != record.item_id.as_bytes()) {
            return Err(Reject::new(
                "key_differs",
                format!("item_id `{}` is not the record's key", record.item_id),
            ));
        }
        if categories.len() > CATEGORIES_MAX {
            return Err(Reject::new(
                "bad_value",
                format!(
                    "{} categories, at most {CATEGORIES_MAX} are allowed",
                    categories.len()
                ),
            ));
        }
        for (place, category) in categories.iter().enumerate() {
            id(format_args!("categories[{place}]"), &category.0)?;
        }
        if let Some((name, _)) = numeric
            .iter()
            .find(|(_, value)| value.is_some_and(|value| !value.is_finite()))
        {
            return Err(Reject::new(
                "bad_value",
                format!("numeric.{} is not finite", name.0),
            ));
        }
        Ok(DecodedItem {
            item_id: record.item_id,
            time: self.time(record.time, taken)?,
            item_type: record.item_type,
            fields: fields
                .into_iter()
                .filter_map(|(name, text)| Some((name.0, text?.0)))
                // What is no id groups nothing, as where it is missing: a work of forty authors is an item like others.
                .filter(|(name, text)| {
                    text.len() <= ID_BYTES_MAX
                        || !self.item_attributes.iter().any(|one| one == name)
                })
                .collect(),
            categories: categories.into_iter().map(|category| category.0).collect(),
            numeric: numeric
                .into_iter()
                .filter_map(|(name, value)| Some((name.0, value?)))
                .collect(),
        })
    }

    /// The scenario of a name, `other` where it is not declared.
    pub fn scenario(&self, name: &str) -> ScenarioId {
        let id = ScenarioId::of(name);
        if self.scenarios.binary_search(&id).is_ok() {
            id
        } else {
            self.other
        }
    }

    /// Whether a scenario is declared.
    pub fn knows_scenario(&self, name: &str) -> bool {
        self.scenarios.binary_search(&ScenarioId::of(name)).is_ok()
    }

    /// Checks an event time: plausible, and not ahead of the log's clock by more than is allowed.
    pub(crate) fn time(&self, time: i64, taken: i64) -> Result<Timestamp, Reject> {
        let checked = plausible(time)?;
        if taken >= 0 && time > taken.saturating_add(self.max_ahead_ms) {
            let ahead = time - taken;
            return Err(Reject::new(
                "ahead_of_time",
                format!("time {time} is {ahead} ms ahead of the log's clock"),
            ));
        }
        Ok(checked)
    }

    /// A record of our own form. serde would read an array by the order of the fields, which is nobody's form.
    fn object<'a, T: Deserialize<'a>>(&self, value: Option<&'a [u8]>) -> Result<T, Reject> {
        let read = self.json(value);
        match (read, value.map(<[u8]>::trim_ascii_start)) {
            (read, Some([b'{', ..])) => read,
            (Err(reject), _) if !["missing_field", "wrong_type"].contains(&reject.code) => {
                Err(reject)
            }
            _ => Err(Reject::new("wrong_type", "the record is not an object")),
        }
    }

    fn json<'a, T: Deserialize<'a>>(&self, value: Option<&'a [u8]>) -> Result<T, Reject> {
        let value = value.ok_or_else(Reject::null_value)?;
        if value.len() > self.record_max {
            return Err(Reject::too_large(value.len(), self.record_max));
        }
        serde_json::from_slice(value).map_err(|error| {
            let reject = Reject::of_json(&error);
            // A wrong type may stand before the place where the bytes cease to be JSON: then they are that first.
            if reject.code != "unreadable"
                && let Err(broken) = serde_json::from_slice::<serde::de::IgnoredAny>(value)
            {
                return Reject::of_json(&broken);
            }
            reject
        })
    }

    fn attributes<'a>(
        &self,
        record: &BehaviorRecord<'a>,
    ) -> Result<Vec<(SlotId, Cow<'a, str>)>, Reject> {
        let mut found: std::collections::BTreeMap<String, serde_json::Value> =
            match record.attributes {
                None => std::collections::BTreeMap::new(),
                Some(raw) => {
                    serde_json::from_str(raw.get()).map_err(|error| Reject::of_json(&error))?
                }
            };
        let mut attributes = Vec::new();
        for (name, slot) in &self.attributes {
            let text = match found.remove(name) {
                Some(serde_json::Value::String(text)) => Cow::Owned(text),
                Some(serde_json::Value::Number(number)) => Cow::Owned(number.to_string()),
                Some(serde_json::Value::Bool(flag)) => Cow::Owned(flag.to_string()),
                Some(serde_json::Value::Array(_) | serde_json::Value::Object(_)) => {
                    return Err(Reject::new(
                        "wrong_type",
                        format!("attributes.{name} is neither text nor number"),
                    ));
                }
                Some(serde_json::Value::Null) | None => match &record.query {
                    Some(query) if name == "query" => query.0.clone(),
                    _ => continue,
                },
            };
            // What is no id groups nothing, as where it is missing: the behavior counts all the same.
            if !text.is_empty() && text.len() <= ID_BYTES_MAX {
                attributes.push((*slot, text));
            }
        }
        attributes.sort_by_key(|(slot, _)| *slot);
        Ok(attributes)
    }
}

fn plausible(time: i64) -> Result<Timestamp, Reject> {
    let checked = Timestamp(time);
    if (Timestamp::PLAUSIBLE_FROM..Timestamp::PLAUSIBLE_TO).contains(&checked) {
        return Ok(checked);
    }
    let hint = if (Timestamp::PLAUSIBLE_FROM.0 / 1000..Timestamp::PLAUSIBLE_TO.0 / 1000)
        .contains(&time)
    {
        "; it looks like seconds"
    } else if (Timestamp::PLAUSIBLE_FROM.0 * 1000..Timestamp::PLAUSIBLE_TO.0 * 1000).contains(&time)
    {
        "; it looks like microseconds"
    } else {
        ""
    };
    Err(Reject::new(
        "bad_time",
        format!("time {time} is not in the years 1990 to 2099, in Unix milliseconds{hint}"),
    ))
}

fn id(field: impl std::fmt::Display, text: &str) -> Result<(), Reject> {
    if text.is_empty() {
        return Err(Reject::new("bad_id", format!("{field} is empty")));
    }
    if text.len() > ID_BYTES_MAX {
        let length = text.len();
        return Err(Reject::new(
            "bad_id",
            format!("{field} has {length} bytes, at most {ID_BYTES_MAX} are allowed"),
        ));
    }
    Ok(())
}

/// A place in a list as state keeps it: lists are shorter.
fn position_of(position: u64) -> u32 {
    u32::try_from(position).map_or(POSITION_MAX, |position| position.min(POSITION_MAX))
}

/// The beginning of a text that may be long.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(64)]
}
