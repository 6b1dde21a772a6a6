//! Time, as the deep layers see it: the gap to the behavior before, never an age, which would change while nothing happens.

/// Kinds of gaps: none, and one for each doubling from a second to 34 years.
pub const GAPS: usize = 32;

/// The kind of the gap between a behavior and the one before it in its sequence, milliseconds; `None` for the first of a run. Times that run backwards
/// are no gap at all.
#[must_use]
pub fn gap_of(milliseconds: Option<i64>) -> u32 {
    let Some(milliseconds) = milliseconds else {
        return 0;
    };
    let seconds = u64::try_from(milliseconds).unwrap_or(0) / 1000;
    (1 + (seconds + 1).ilog2()).min(GAPS as u32 - 1)
}
