//! How often ids without a row were met: a count-min sketch.

use super::key::{RowKey, mix};
use super::settings::Admission;

/// Lines of counters. An id is overrated only where all of its counters are shared.
const LINES: usize = 4;

/// The counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Counting {
    /// Line after line.
    counters: Vec<u8>,
    /// Meetings since counts were halved.
    met: u64,
}

impl Counting {
    pub(super) fn new(admission: &Admission) -> Self {
        Self {
            counters: vec![0; LINES * admission.counters],
            met: 0,
        }
    }

    /// Whether it has this many counters a line.
    pub(super) fn fits(&self, admission: &Admission) -> bool {
        self.counters.len() == LINES * admission.counters
    }

    fn places(&self, key: RowKey, seed: u64) -> [usize; LINES] {
        let line = self.counters.len() / LINES;
        let first = key.address(!seed);
        let step = mix(first) | 1;
        std::array::from_fn(|number| {
            let hash = first.wrapping_add(step.wrapping_mul(number as u64));
            number * line + hash as usize % line
        })
    }

    /// Adds meetings; the answer is how often the id was met, or more. Sums stop at 255, so their order does not matter.
    pub(super) fn add(&mut self, key: RowKey, seed: u64, times: usize) -> u8 {
        self.met = self.met.saturating_add(times as u64);
        let times = times.min(255) as u8;
        let places = self.places(key, seed);
        let counts = places.map(|place| {
            self.counters[place] = self.counters[place].saturating_add(times);
            self.counters[place]
        });
        counts.into_iter().min().unwrap_or_default()
    }

    /// Whether so many meetings were counted that counts are to be halved.
    pub(super) fn is_over(&self, window: u64) -> bool {
        self.met >= window
    }

    /// Halves all counts.
    pub(super) fn halve(&mut self) {
        self.counters.iter_mut().for_each(|count| *count /= 2);
        self.met = 0;
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        [&self.met.to_le_bytes()[..], &self.counters].concat()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (met, counters) = bytes.split_first_chunk()?;
        let whole = counters.len() / LINES;
        let right = whole.is_power_of_two() && counters.len() == LINES * whole;
        right.then(|| Self {
            counters: counters.to_vec(),
            met: u64::from_le_bytes(*met),
        })
    }
}
