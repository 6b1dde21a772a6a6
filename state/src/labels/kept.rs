//! What is kept of a user for the sake of labels, one thing at a time, and its bytes.

use crate::behavior::{Coordinates, FixedSum, KindId, ScenarioId, Timestamp, pinned_hash};
use crate::error::Damage;
use crate::format::{Put, Take};

/// An item's id with its hash, by which it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ItemId {
    pub(super) hash: u64,
    pub(super) id: Box<str>,
}

impl ItemId {
    pub(super) fn of(id: &str) -> Self {
        Self {
            hash: pinned_hash(id.as_bytes()),
            id: id.into(),
        }
    }
}

/// A request that was scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRow {
    /// What its records in the feature log are called, without their parts.
    pub id: Box<str>,
    /// The request.
    pub request: Box<str>,
    /// Where, as it was named.
    pub scenario_name: Box<str>,
    /// Where; undeclared scenarios are `other`.
    pub scenario: ScenarioId,
    /// When.
    pub time: Timestamp,
    /// How many candidates there were.
    pub candidates: u32,
    /// Whether they were put in a random order.
    pub random: bool,
    /// Windows up to this one are released, milliseconds; -1: none.
    pub(super) released_ms: i64,
    /// All candidates, where each counts as shown with the row's time.
    pub(super) shown: Vec<ItemId>,
}

impl OpenRow {
    /// A row that waits for impressions; with `shown`, one that is shown whole.
    pub fn new<'a>(
        (id, request, scenario_name): (&str, &str, &str),
        (scenario, time): (ScenarioId, Timestamp),
        (candidates, random): (usize, bool),
        shown: impl Iterator<Item = &'a str>,
    ) -> Self {
        Self {
            id: id.into(),
            request: request.into(),
            scenario_name: scenario_name.into(),
            scenario,
            time,
            candidates: u32::try_from(candidates).unwrap_or(u32::MAX),
            random,
            released_ms: -1,
            shown: shown.map(ItemId::of).collect(),
        }
    }
}

/// An item of a row that was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Impression {
    /// The row's place.
    pub(super) row: u32,
    pub(super) item: ItemId,
    /// When.
    pub time: Timestamp,
    /// Where in the list, where the platform says it.
    pub position: Option<u32>,
}

/// A behavior of a kind that a task counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positive {
    /// When.
    pub time: Timestamp,
    /// What.
    pub kind: KindId,
    /// Hash of the item.
    pub item: u64,
    /// Hash of the request that it names; 0: it names none.
    pub request: u64,
    /// Its value.
    pub value: Option<FixedSum>,
    /// Where it stood in the input.
    pub at: Coordinates,
}

/// One thing that is kept of a user for the sake of labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Row(OpenRow),
    Impression(Impression),
    Positive(Positive),
}

const ROW: u8 = 1;
const IMPRESSION: u8 = 2;
const POSITIVE: u8 = 3;
const IS_RANDOM: u8 = 1;
const HAS_VALUE: u8 = 1;
const NO_POSITION: u32 = u32::MAX;

impl Kept {
    pub(super) fn write(&self, to: &mut Vec<u8>) {
        match self {
            Self::Row(row) => {
                to.put_u8(ROW);
                to.put_i64(row.time.0);
                to.put_i64(row.released_ms);
                to.put_u32(row.scenario.0);
                to.put_u32(row.candidates);
                to.put_u8(if row.random { IS_RANDOM } else { 0 });
                to.put_str(&row.id);
                to.put_str(&row.request);
                to.put_str(&row.scenario_name);
                to.put_u32(row.shown.len() as u32);
                for item in &row.shown {
                    to.put_str(&item.id);
                }
            }
            Self::Impression(impression) => {
                to.put_u8(IMPRESSION);
                to.put_u32(impression.row);
                to.put_i64(impression.time.0);
                to.put_u32(impression.position.unwrap_or(NO_POSITION));
                to.put_str(&impression.item.id);
            }
            Self::Positive(positive) => {
                to.put_u8(POSITIVE);
                to.put_i64(positive.time.0);
                to.put_u32(positive.kind.0);
                to.put_u64(positive.item);
                to.put_u64(positive.request);
                to.put_i64(positive.at.offset);
                to.put_u16(positive.at.index);
                to.put_u8(if positive.value.is_some() {
                    HAS_VALUE
                } else {
                    0
                });
                if let Some(value) = positive.value {
                    to.put_i64(value.0);
                }
            }
        }
    }

    pub(super) fn read(mut take: Take<'_>) -> Result<Self, Damage> {
        let read = match take.u8()? {
            ROW => {
                let time = Timestamp(take.i64()?);
                let released_ms = take.i64()?;
                let scenario = ScenarioId(take.u32()?);
                let candidates = take.u32()?;
                let random = take.u8()? & IS_RANDOM != 0;
                let [id, request, scenario_name] = [take.str()?, take.str()?, take.str()?];
                let mut shown = Vec::new();
                for _ in 0..take.u32()? {
                    shown.push(ItemId::of(take.str()?));
                }
                Self::Row(OpenRow {
                    id: id.into(),
                    request: request.into(),
                    scenario_name: scenario_name.into(),
                    scenario,
                    time,
                    candidates,
                    random,
                    released_ms,
                    shown,
                })
            }
            IMPRESSION => Self::Impression(Impression {
                row: take.u32()?,
                time: Timestamp(take.i64()?),
                position: Some(take.u32()?).filter(|position| *position != NO_POSITION),
                item: ItemId::of(take.str()?),
            }),
            POSITIVE => Self::Positive(Positive {
                time: Timestamp(take.i64()?),
                kind: KindId(take.u32()?),
                item: take.u64()?,
                request: take.u64()?,
                at: Coordinates {
                    offset: take.i64()?,
                    index: take.u16()?,
                },
                value: if take.u8()? & HAS_VALUE == 0 {
                    None
                } else {
                    Some(FixedSum(take.i64()?))
                },
            }),
            _ => return Err(Damage::Key),
        };
        take.end()?;
        Ok(read)
    }

    /// What it counts for against [`LabelRules::open_max`].
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Row(row) => 1 + row.shown.len(),
            Self::Impression(_) | Self::Positive(_) => 1,
        }
    }

    /// Bytes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        let texts = match self {
            Self::Row(row) => {
                let shown = row.shown.iter();
                let shown: usize = shown.map(|item| size_of::<ItemId>() + item.id.len()).sum();
                row.id.len() + row.request.len() + row.scenario_name.len() + shown
            }
            Self::Impression(impression) => impression.item.id.len(),
            Self::Positive(_) => 0,
        };
        size_of::<(u32, Self)>() + texts
    }
}
