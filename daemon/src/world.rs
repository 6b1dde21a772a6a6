//! The world outside: the system's clock and randomness. Everything below this crate is given both.

use std::time::{SystemTime, UNIX_EPOCH};

use headwater_consumers::worker::World;
use headwater_state::Timestamp;

/// The system's clock and randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemWorld;

/// Unix milliseconds; 0 for a clock before 1970, which no machine in service has.
pub(crate) fn unix_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
}

/// Random bytes of the system.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .expect("invariant: a system that runs this program has a source of randomness");
    bytes
}

impl World for SystemWorld {
    fn now(&mut self) -> Timestamp {
        Timestamp(unix_ms())
    }

    fn salt(&mut self) -> [u8; 16] {
        random()
    }
}

/// A moment in Unix milliseconds as `2026-11-24 00:40:25.676`, UTC.
#[must_use]
pub fn moment(ms: i64) -> String {
    let days = ms.div_euclid(86_400_000);
    let of_day = ms.rem_euclid(86_400_000);
    let (year, month, day) = date(days);
    let (hours, minutes, seconds) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60);
    format!(
        "{year:04}-{month:02}-{day:02} {hours:02}:{minutes:02}:{seconds:02}.{:03}",
        of_day % 1000
    )
}

/// Year, month and day of a day counted from 1970 on (Howard Hinnant, "chrono-compatible low-level date algorithms": eras of 400 years
/// that begin in March, so that leap days come last).
fn date(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: moments are right. Method: numbers of `date -u -d @…`: a leap day, the ends of a century, before 1970.
    #[test]
    fn moments_are_of_the_calendar() {
        assert_eq!(moment(0), "1970-01-01 00:00:00.000");
        assert_eq!(moment(951_782_400_123), "2000-02-29 00:00:00.123");
        assert_eq!(moment(4_107_542_399_999), "2100-02-28 23:59:59.999");
        assert_eq!(moment(4_107_542_400_000), "2100-03-01 00:00:00.000");
        assert_eq!(moment(-1), "1969-12-31 23:59:59.999");
    }
}
