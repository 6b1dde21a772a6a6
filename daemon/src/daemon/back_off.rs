//! Pauses between attempts: twice as long each time, within bounds.

use std::time::Duration;

/// The first pause.
const FIRST: Duration = Duration::from_millis(50);
/// The longest: members of a group must poll every few seconds.
const LONGEST: Duration = Duration::from_secs(5);

/// How long to pause next.
#[derive(Debug)]
pub(crate) struct BackOff(Duration);

impl BackOff {
    pub(crate) const fn new() -> Self {
        Self(FIRST)
    }

    /// The next pause.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (self.0 * 2).min(LONGEST);
        pause
    }

    /// It went well: the next pause is the first again.
    pub(crate) fn reset(&mut self) {
        self.0 = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: pauses grow to their bound and no further, and begin anew. Method: the sums of many.
    #[test]
    fn pauses_are_bounded() {
        let mut pauses = BackOff::new();
        let lengths: Vec<_> = (0..10).map(|_| pauses.next()).collect();
        assert_eq!(lengths[..3], [FIRST, FIRST * 2, FIRST * 4]);
        assert_eq!(lengths[9], LONGEST);
        pauses.reset();
        assert_eq!(pauses.next(), FIRST);
    }
}
