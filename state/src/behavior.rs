//! A behavior: one thing one user did, decoded. Before it stands `consumers::decode`; after it, [`crate::Partition::fold`].

use xxhash_rust::xxh3::xxh3_64;

/// Event time, Unix milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Earlier than everything.
    pub const MIN: Self = Self(i64::MIN);
    /// Before this no behavior of an online platform happened: 1990-01-01.
    pub const PLAUSIBLE_FROM: Self = Self(631_152_000_000);
    /// After this (2100-01-01) a time is a unit error.
    pub const PLAUSIBLE_TO: Self = Self(4_102_444_800_000);

    /// Milliseconds since `earlier`, never negative.
    pub fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0).max(0)
    }

    /// This time, `ms` later.
    #[must_use]
    pub fn plus(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// This time, `ms` earlier.
    #[must_use]
    pub fn minus(self, ms: i64) -> Self {
        Self(self.0.saturating_sub(ms))
    }
}

/// The pinned hash of every id that outlives the process: XXH3-64 without seed. Never to be changed: stored bytes depend on it.
pub fn pinned_hash(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

macro_rules! name_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);

        impl $name {
            /// The id of a name: the low half of its pinned hash. Config refuses names whose ids collide.
            pub fn of(name: &str) -> Self {
                Self(pinned_hash(name.as_bytes()) as u32)
            }
        }
    };
}

name_id!(
    /// A behavior kind, such as `click`.
    KindId
);
name_id!(
    /// A scenario: a place of the product with its own traffic.
    ScenarioId
);
name_id!(
    /// A slot of history: [`SlotId::ITEM`], or a configured attribute of behaviors.
    SlotId
);
name_id!(
    /// A sequence of behaviors, such as purchases.
    SequenceId
);

impl SlotId {
    /// The slot whose keys are item ids.
    pub const ITEM: Self = Self(0);
}

/// A sum of values in millionths: integers add up to the same in every order, floats do not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FixedSum(pub i64);

impl FixedSum {
    /// Values beyond this (in magnitude) are refused at decoding: thousands of them still add up.
    pub const VALUE_MAX: f64 = 1e9;

    /// A value, rounded to millionths. NaN and infinities are refused at decoding; here they count as 0.
    pub fn of(value: f64) -> Self {
        Self((value * 1e6).round() as i64)
    }

    /// As a number.
    pub fn get(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// The sum, held at the ends of the range.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// Where a behavior stood in its input: identity and the order among equal times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Coordinates {
    /// Offset of its record in the input partition.
    pub offset: i64,
    /// Which of the record's behaviors it is, where a record holds several.
    pub index: u16,
}

/// Hash of a text.
pub type TextHash = [u8; 16];

/// One thing one user did, with borrowed strings.
#[derive(Clone, Copy, Debug)]
pub struct Behavior<'a> {
    /// Where it stood.
    pub at: Coordinates,
    /// When it happened.
    pub time: Timestamp,
    /// Pinned hash of its `event_id`, or 0 if it has none.
    pub event: u64,
    /// What was done.
    pub kind: KindId,
    /// Where.
    pub scenario: ScenarioId,
    /// To what, if to an item.
    pub item: Option<&'a str>,
    /// How much, where the kind has a value (stars, seconds, money).
    pub value: Option<FixedSum>,
    /// Values of the configured attributes, ordered by slot, each slot at most once.
    pub attributes: &'a [(SlotId, &'a str)],
    /// Hash of the text that stands for it. Without one it is in no sequence.
    pub text: Option<TextHash>,
    /// The sequences that it is in, each at most once.
    pub sequences: &'a [SequenceId],
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: ids do not move between versions. Method: pinned values, computed once.
    #[test]
    fn ids_are_pinned() {
        assert_eq!(pinned_hash(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(KindId::of("click").0, pinned_hash(b"click") as u32);
        assert_ne!(KindId::of("click"), KindId::of("view"));
    }
}
