//! Which of a sequence's behaviors a vector is made of.
//!
//! Attention over everything that ever happened would cost more with each behavior, and a window that moves by one behavior at a time would change all
//! positions with each. So a sequence grows to its limit, and then begins anew with its newest half: a behavior is computed twice at most on average,
//! and where a run begins follows from the number of behaviors alone.

/// The number of the first behavior of the run that a vector after `count` behaviors is made of; the run is `start_of(count, limit)..count`.
///
/// # Panics
/// If the limit is no even number of at least 2.
#[must_use]
pub fn start_of(count: u64, limit: u64) -> u64 {
    assert!(limit >= 2 && limit.is_multiple_of(2), "a limit of {limit}");
    if count < limit {
        return 0;
    }
    let half = limit / 2;
    ((count - limit) / half + 1) * half
}
