//! How atoms are told apart: what both the layout of what is read and the network know of them.

use crate::gap::gap_of;

/// Sides of a stretch: what is of the candidate's kind, and the rest.
pub(super) const SIDES: usize = 2;

/// What is known of a key in one stretch of time before the row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The stretch.
    pub bucket: u8,
    /// Kind of the time from the newest event to the row ([`crate::gap::gap_of`]).
    pub recency: u8,
    /// Events by kind, each kind at most once, in their order.
    pub counts: Vec<(u8, u32)>,
}

impl Mark {
    /// Of a stretch, the age of its newest event, and events by kind.
    pub fn new(bucket: u8, age_ms: i64, counts: Vec<(u8, u32)>) -> Self {
        let recency = gap_of(Some(age_ms));
        Self {
            bucket,
            recency: u8::try_from(recency).expect("invariant: kinds of gaps are few"),
            counts,
        }
    }
}
