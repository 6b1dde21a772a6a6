//! So many records a second, no more.
//!
//! Before it stands a command's `--rate`; after it the records' sender, who asks before each.

use std::time::{Duration, Instant};

/// A pause of less is not worth the system call: at high rates records go in bursts of so long.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// What could not go in time is made up for, up to so much: a stall must not end in a flood.
const ARREARS_MAX: Duration = Duration::from_secs(1);

/// A rate, and when the next record is due by it.
#[derive(Debug)]
pub(crate) struct Pace {
    interval: Option<Duration>,
    due: Option<Instant>,
}

impl Pace {
    /// Lets `rate` records a second through; none: all of them.
    pub(crate) fn new(rate: Option<f64>) -> Self {
        let interval = rate.and_then(|rate| Duration::try_from_secs_f64(1.0 / rate).ok());
        Self {
            interval,
            due: None,
        }
    }

    /// How long to wait before the next record may go; none: it may go now, and is counted.
    pub(crate) fn ask(&mut self, now: Instant) -> Option<Duration> {
        let interval = self.interval?;
        let due = self.due.get_or_insert(now);
        if let Some(floor) = now.checked_sub(ARREARS_MAX) {
            *due = (*due).max(floor);
        }
        let ahead = due.saturating_duration_since(now);
        if ahead >= PAUSE_MIN {
            return Some(ahead);
        }
        *due += interval;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records that go within a span that passes in steps.
    fn gone(rate: f64, span: Duration, step: Duration) -> u64 {
        let mut pace = Pace::new(Some(rate));
        let began = Instant::now();
        let mut now = began;
        let mut gone = 0;
        while now < began + span {
            while pace.ask(now).is_none() {
                gone += 1;
            }
            now += step;
        }
        gone
    }

    /// Goal: the rate is kept, however long pauses really are. Method: rates below and far above the shortest pause, on a clock of our own.
    #[test]
    fn the_rate_is_kept() {
        for rate in [3.0, 250.0, 20_000.0] {
            let count = gone(rate, Duration::from_secs(10), Duration::from_millis(7)) as f64;
            let wanted = rate * 10.0;
            assert!(
                (count - wanted).abs() <= 1.0 + rate * 0.01,
                "{rate}: {count}"
            );
        }
    }

    /// Goal: a stall is made up for by a second's worth at most. Method: a minute in which nobody asks.
    #[test]
    fn a_stall_does_not_end_in_a_flood() {
        let mut pace = Pace::new(Some(100.0));
        let began = Instant::now();
        assert!(pace.ask(began).is_none());
        let later = began + Duration::from_mins(1);
        let flood = std::iter::from_fn(|| pace.ask(later).is_none().then_some(())).count();
        assert!((100..=102).contains(&flood), "{flood}");
    }
}
