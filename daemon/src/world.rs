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
