//! A stranger's record to behaviors, by the pointers of `[source.behaviors]`: one event a record, or an array of them.
//!
//! Before it, `decode` has held the bytes against their limit; after it, `step` folds each event, or `repartition` writes each as a
//! record of Headwater's own. It is all or nothing: one event that cannot be read rejects its record, and the detail names the
//! event's place and the pointer. What is promised to users stands in `docs/operating/foreign-topics.md`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use headwater_config::{Base, BehaviorSource, OnUnmappedKind, Pointer, TimeFormat};
use headwater_state::{FixedSum, KindId, SlotId, pinned_hash};
use serde::Serialize;
use serde_json::Value;

use super::{DecodedBehavior, Decoder, ID_BYTES_MAX, Reject, cut, id};

mod time;

/// Events of one record at most: an event's place in it is 16 bits of its identity.
const EVENTS_MAX: usize = 1 << 16;
/// Bytes of text that the events of one record hold at most, in sizes of the largest record. What every event takes from the record
/// around it is there once and kept once an event: a small record could grow without bounds.
const GROWTH_MAX: usize = 8;

/// One event as a record of Headwater's own form: what `repartition` writes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Event {
    /// Its place in the record's array; 0 where the record is the event.
    #[serde(skip)]
    pub(crate) index: u16,
    /// Which event it is, if it is repeated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) event_id: Option<String>,
    /// Who.
    pub(crate) user_id: String,
    /// On what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) item_id: Option<String>,
    /// Did what, by the name of the kind.
    pub(crate) kind: String,
    /// Where.
    pub(crate) scenario: String,
    /// When, Unix milliseconds.
    pub(crate) time: i64,
    /// Which request it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request_id: Option<String>,
    /// At which place it was shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) position: Option<u64>,
    /// For which query it was shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) query: Option<String>,
    /// How much.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<f64>,
    /// Attributes by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) attributes: BTreeMap<String, String>,
}

/// The events of one record.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Events {
    /// In the order of the array.
    pub(crate) events: Vec<Event>,
    /// How many more there were whose kind is none of ours (`on_unmapped_kind = "skip"`).
    pub(crate) skipped: u64,
}

/// Where an event stands while it is read.
#[derive(Clone, Copy)]
struct Place<'a> {
    record: &'a Value,
    event: &'a Value,
    /// Its place in the array, where there is one.
    index: Option<usize>,
}

/// What a pointer found, and the pointer.
type Found<'a> = Option<(&'a Value, &'a Pointer)>;

impl Decoder {
    /// The mapping, where the topic is a stranger's.
    pub(crate) fn mapping(&self) -> Option<&BehaviorSource> {
        self.mapping.as_deref()
    }

    /// Reads a stranger's record. `taken` is when the log took it (Unix milliseconds; negative: not known).
    ///
    /// # Errors
    /// The first thing that is wrong with any of its events.
    pub(crate) fn events(
        &self,
        source: &BehaviorSource,
        value: Option<&[u8]>,
        taken: i64,
    ) -> Result<Events, Reject> {
        let record: Value = self.json(value)?;
        let mut found = Events::default();
        let Some(pointer) = &source.events else {
            let place = Place {
                record: &record,
                event: &record,
                index: None,
            };
            self.event(source, place, taken, &mut found)?;
            return Ok(found);
        };
        let array = match walk(&record, pointer) {
            Some(Value::Array(array)) => array,
            None => {
                return Err(Reject::new(
                    "missing_field",
                    format!("{pointer}: events is missing"),
                ));
            }
            Some(other) => {
                return Err(Reject::new(
                    "wrong_type",
                    format!("{pointer}: events is {}, not an array", sort(other)),
                ));
            }
        };
        if array.len() > EVENTS_MAX {
            let count = array.len();
            return Err(Reject::new(
                "too_large",
                format!("{pointer}: {count} events, at most {EVENTS_MAX} are allowed in a record"),
            ));
        }
        let mut bytes = 0;
        for (index, event) in array.iter().enumerate() {
            let place = Place {
                record: &record,
                event,
                index: Some(index),
            };
            if self.event(source, place, taken, &mut found)? {
                bytes += found.events.last().map_or(0, Event::bytes);
            }
            if bytes > GROWTH_MAX * self.record_max {
                return Err(place.reject(
                    "too_large",
                    pointer,
                    format_args!(
                        "the events up to this one hold {bytes} bytes, at most {GROWTH_MAX} times step.record_max are allowed"
                    ),
                ));
            }
        }
        Ok(found)
    }

    /// Reads an event to `to`; gives whether it was one of ours.
    fn event(
        &self,
        source: &BehaviorSource,
        place: Place<'_>,
        taken: i64,
        to: &mut Events,
    ) -> Result<bool, Reject> {
        if !place.event.is_object() {
            let what = sort(place.event);
            let detail = match place.index {
                Some(index) => format!("event {index}: it is {what}, not an object"),
                None => format!("the record is {what}, not an object"),
            };
            return Err(Reject::new("wrong_type", detail));
        }
        // The kind first: an event that is none of ours may lack everything else.
        let Some(kind) = self.mapped_kind(source, place)? else {
            to.skipped += 1;
            return Ok(false);
        };
        let user_id = place
            .id("user_id", source.user_id.as_ref())?
            .ok_or_else(|| place.missing("user_id", source.user_id.as_ref()))?;
        let scenario = match place.id("scenario", source.scenario.as_ref())? {
            Some(scenario) => scenario,
            None => source
                .constant
                .scenario
                .clone()
                .ok_or_else(|| place.missing("scenario", source.scenario.as_ref()))?,
        };
        let mut event = Event {
            index: place.index.unwrap_or(0) as u16,
            event_id: place.id("event_id", source.event_id.as_ref())?,
            user_id,
            item_id: place.id("item_id", source.item_id.as_ref())?,
            kind,
            scenario,
            time: self.mapped_time(source, place, taken)?,
            request_id: place.id("request_id", source.request_id.as_ref())?,
            position: place.position(source.position.as_ref())?,
            query: place.text("query", source.query.as_ref())?,
            value: place.value(source.value.as_ref())?,
            attributes: BTreeMap::new(),
        };
        for (name, pointer) in &source.attributes {
            let field = format!("attributes.{name}");
            if let Some(text) = place
                .text(&field, Some(pointer))?
                // What is no id groups nothing.
                .filter(|text| (1..=ID_BYTES_MAX).contains(&text.len()))
            {
                event.attributes.insert(name.clone(), text);
            }
        }
        to.events.push(event);
        Ok(true)
    }

    /// The name of an event's kind; none: it is to be skipped.
    fn mapped_kind(
        &self,
        source: &BehaviorSource,
        place: Place<'_>,
    ) -> Result<Option<String>, Reject> {
        let Some((value, pointer)) = place.find(source.kind.as_ref()) else {
            return match &source.constant.kind {
                Some(kind) => Ok(Some(kind.clone())),
                None => Err(place.missing("kind", source.kind.as_ref())),
            };
        };
        let text = match value {
            Value::Bool(truth) => Cow::Owned(truth.to_string()),
            other => plain(other).ok_or_else(|| {
                let what = sort(other);
                place.reject(
                    "wrong_type",
                    pointer,
                    format_args!("kind is {what}, not text, a whole number or a truth"),
                )
            })?,
        };
        let (kind, list) = if source.kinds.is_empty() {
            let known = self.kinds.contains(&KindId::of(&text));
            (known.then(|| text.clone().into_owned()), "kinds.names")
        } else {
            (source.kinds.get(&*text).cloned(), "source.behaviors.kinds")
        };
        match (kind, source.on_unmapped_kind) {
            (Some(kind), _) => Ok(Some(kind)),
            (None, OnUnmappedKind::Skip) => Ok(None),
            (None, OnUnmappedKind::DeadLetter) => Err(place.reject(
                "unknown_kind",
                pointer,
                format_args!("kind `{}` is not in {list}", cut(&text)),
            )),
        }
    }

    fn mapped_time(
        &self,
        source: &BehaviorSource,
        place: Place<'_>,
        taken: i64,
    ) -> Result<i64, Reject> {
        let (value, pointer) = place
            .find(source.time.as_ref())
            .ok_or_else(|| place.missing("time", source.time.as_ref()))?;
        let text = match value {
            Value::String(text) => Cow::Borrowed(text.as_str()),
            Value::Number(number) if source.time_format != TimeFormat::Iso8601 => {
                Cow::Owned(number.to_string())
            }
            other => {
                let what = sort(other);
                let wanted = time::wanted(source.time_format);
                return Err(place.reject(
                    "wrong_type",
                    pointer,
                    format_args!("time is {what}, not {wanted}"),
                ));
            }
        };
        let time = time::read(&text, source.time_format)
            .map_err(|why| place.reject("bad_time", pointer, format_args!("{why}")))?;
        match self.time(time, taken) {
            Ok(_) => Ok(time),
            Err(reject) if reject.code == "bad_time" => {
                let format = source.time_format;
                let hint = time::hint(&text, format);
                Err(place.reject(
                    "bad_time",
                    pointer,
                    format_args!(
                        "time `{}`, read as {format}, is not in the years 1990 to 2099{hint}",
                        cut(&text)
                    ),
                ))
            }
            Err(reject) => {
                Err(place.reject(reject.code, pointer, format_args!("{}", reject.detail)))
            }
        }
    }

    /// An event as `step` folds it.
    pub(crate) fn behavior_of(&self, event: Event) -> DecodedBehavior<'static> {
        let mut attributes: Vec<(SlotId, Cow<'static, str>)> = Vec::new();
        for (name, slot) in &self.attributes {
            let text = match event.attributes.get(name) {
                Some(text) => Some(text),
                None if name == "query" => event.query.as_ref(),
                None => None,
            };
            if let Some(text) = text.filter(|text| (1..=ID_BYTES_MAX).contains(&text.len())) {
                attributes.push((*slot, Cow::Owned(text.clone())));
            }
        }
        attributes.sort_by_key(|(slot, _)| *slot);
        DecodedBehavior {
            index: event.index,
            user: Cow::Owned(event.user_id),
            item: event.item_id.map(Cow::Owned),
            kind: KindId::of(&event.kind),
            scenario: self.scenario(&event.scenario),
            time: headwater_state::Timestamp(event.time),
            event: event
                .event_id
                .as_ref()
                .map_or(0, |event| pinned_hash(event.as_bytes()).max(1)),
            event_id: event.event_id.map(Cow::Owned),
            value: event.value.map(FixedSum::of),
            request: event.request_id.map(Cow::Owned),
            position: event.position.map(super::position_of),
            attributes,
        }
    }
}

impl Event {
    /// Bytes of its texts.
    pub(crate) fn bytes(&self) -> usize {
        let texts = [&self.event_id, &self.item_id, &self.request_id, &self.query];
        let texts = texts.into_iter().flatten().map(String::len).sum::<usize>();
        let attributes = self.attributes.iter();
        let attributes = attributes
            .map(|(name, text)| name.len() + text.len())
            .sum::<usize>();
        texts + attributes + self.user_id.len() + self.kind.len() + self.scenario.len()
    }
}

impl<'a> Place<'a> {
    /// What a pointer finds; null is nothing.
    fn find(self, pointer: Option<&'a Pointer>) -> Found<'a> {
        let pointer = pointer?;
        let base = match pointer.base() {
            Base::Event => self.event,
            Base::Record => self.record,
        };
        let value = walk(base, pointer)?;
        (!value.is_null()).then_some((value, pointer))
    }

    /// Text, or a whole number as its digits.
    fn text(self, field: &str, pointer: Option<&'a Pointer>) -> Result<Option<String>, Reject> {
        let Some((value, pointer)) = self.find(pointer) else {
            return Ok(None);
        };
        match plain(value) {
            Some(text) => Ok(Some(text.into_owned())),
            None => Err(self.reject(
                "wrong_type",
                pointer,
                format_args!("{field} is {}, not text or a whole number", sort(value)),
            )),
        }
    }

    /// The same, held to the limits of ids.
    fn id(self, field: &str, pointer: Option<&'a Pointer>) -> Result<Option<String>, Reject> {
        let text = self.text(field, pointer)?;
        if let Some((text, pointer)) = text.as_ref().zip(pointer) {
            self.check_id(field, text, pointer)?;
        }
        Ok(text)
    }

    fn check_id(self, field: &str, text: &str, pointer: &Pointer) -> Result<(), Reject> {
        id(field, text)
            .map_err(|reject| self.reject(reject.code, pointer, format_args!("{}", reject.detail)))
    }

    fn position(self, pointer: Option<&'a Pointer>) -> Result<Option<u64>, Reject> {
        let Some((value, pointer)) = self.find(pointer) else {
            return Ok(None);
        };
        let number = match value {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => digits(text).then(|| text.parse().ok()).flatten(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        };
        match number {
            Some(number) => Ok(Some(number)),
            None => Err(self.reject(
                "wrong_type",
                pointer,
                format_args!("position is {}, not a whole number from 0 on", sort(value)),
            )),
        }
    }

    fn value(self, pointer: Option<&'a Pointer>) -> Result<Option<f64>, Reject> {
        let Some((value, pointer)) = self.find(pointer) else {
            return Ok(None);
        };
        let number = match value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.parse().ok(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        };
        let Some(number) = number else {
            return Err(self.reject(
                "wrong_type",
                pointer,
                format_args!("value is {}, not a number", sort(value)),
            ));
        };
        if number.is_finite() && number.abs() <= FixedSum::VALUE_MAX {
            return Ok(Some(number));
        }
        let most = FixedSum::VALUE_MAX;
        Err(self.reject(
            "bad_value",
            pointer,
            format_args!("value {number} is beyond {most}"),
        ))
    }

    fn missing(self, field: &str, pointer: Option<&Pointer>) -> Reject {
        match pointer {
            Some(pointer) => self.reject(
                "missing_field",
                pointer,
                format_args!("{field} is missing or null"),
            ),
            None => Reject::new("missing_field", format!("{field} has no pointer")),
        }
    }

    fn reject(
        self,
        code: &'static str,
        pointer: &Pointer,
        what: std::fmt::Arguments<'_>,
    ) -> Reject {
        let detail = match self.index {
            Some(index) => format!("event {index}, {pointer}: {what}"),
            None => format!("{pointer}: {what}"),
        };
        Reject::new(code, detail)
    }
}

/// Follows a pointer from its base.
fn walk<'v>(base: &'v Value, pointer: &Pointer) -> Option<&'v Value> {
    let mut at = base;
    for token in pointer.tokens() {
        at = match at {
            Value::Object(object) => object.get(token)?,
            Value::Array(array) if token == "0" || (digits(token) && !token.starts_with('0')) => {
                array.get(token.parse::<usize>().ok()?)?
            }
            Value::Array(_)
            | Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_) => return None,
        };
    }
    Some(at)
}

/// Text, or a whole number as its digits. A number with a fraction or an exponent is no id: its digits are not the sender's.
fn plain(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) if !number.is_f64() => Some(Cow::Owned(number.to_string())),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            None
        }
    }
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// What sort of value it is, for people; numbers and short texts are said as they are.
fn sort(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(truth) => truth.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the text `{}`", cut(text)),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
