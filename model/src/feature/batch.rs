//! The rows of one request: filled by assembly, read by scorers and by the feature log. A batch promises that what was
//! not set is neutral, that every number is finite, and that its buffers are used again.

use super::schema::{Feature, FeatureSchema};
use super::{Counts, Level, OWN, Quantity, SHARED};

/// The numbers of one candidate: its request's part and its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FeatureRow<'a> {
    /// What all candidates of the request share.
    pub shared: &'a [f32],
    /// What is the candidate's own.
    pub own: &'a [f32],
}

impl FeatureRow<'_> {
    /// One number; panics if the row lacks the task or the level the quantity, which no schema allows.
    pub fn get(&self, level: Level, task: usize, quantity: Quantity) -> f32 {
        let (part, width) = if level.is_shared() {
            (self.shared, SHARED)
        } else {
            (self.own, OWN)
        };
        let place = level
            .quantities()
            .iter()
            .position(|&other| other == quantity)
            .expect("invariant: only quantities of the level are asked for");
        part[task * width + level.offset() + place]
    }

    /// The first numbers of a level, in the order of [`Level::quantities`]; trials and positives come first in each.
    pub(crate) fn numbers<const N: usize>(&self, level: Level, task: usize) -> [f64; N] {
        debug_assert!(
            N <= level.quantities().len(),
            "{level:?} holds fewer than {N} numbers; this is a bug"
        );
        let (part, width) = if level.is_shared() {
            (self.shared, SHARED)
        } else {
            (self.own, OWN)
        };
        let from = task * width + level.offset();
        std::array::from_fn(|place| f64::from(part[from + place]))
    }

    /// How many tasks the row speaks of.
    pub(crate) fn tasks(&self) -> usize {
        self.shared.len() / SHARED
    }
}

/// The rows of one request, in buffers that are used again for the next.
#[derive(Clone, Debug)]
pub struct FeatureBatch {
    tasks: usize,
    /// Likenesses of a candidate.
    alike: usize,
    time_ms: i64,
    rows: usize,
    shared: Vec<f32>,
    own: Vec<f32>,
    blank_shared: Vec<f32>,
    blank_own: Vec<f32>,
}

impl FeatureBatch {
    /// An empty batch of the schema's layout.
    pub fn new(schema: &FeatureSchema) -> Self {
        let blank =
            |features: &[Feature]| -> Vec<f32> { features.iter().map(Feature::default).collect() };
        Self {
            tasks: schema.tasks().len(),
            alike: schema.likeness().width(),
            time_ms: 0,
            rows: 0,
            shared: blank(schema.shared()),
            own: Vec::new(),
            blank_shared: blank(schema.shared()),
            blank_own: blank(schema.own()),
        }
    }

    /// Starts a request of the given time (Unix milliseconds) and number of candidates, all of whose counts are zero.
    pub fn begin(&mut self, time_ms: i64, candidates: usize) {
        self.time_ms = time_ms;
        self.rows = candidates;
        self.shared.copy_from_slice(&self.blank_shared);
        self.own.clear();
        for _ in 0..candidates {
            self.own.extend_from_slice(&self.blank_own);
        }
    }

    /// Sets a level that all candidates share; what the level has no quantity for is not read.
    ///
    /// Panics on a level that is not shared or a task out of range: the caller's bug.
    pub fn set_shared(&mut self, level: Level, task: usize, counts: &Counts) {
        assert!(
            level.is_shared(),
            "{level:?} is set candidate by candidate; this is a bug"
        );
        let from = task * SHARED + level.offset();
        fill(&mut self.shared[from..], level, counts, self.time_ms);
    }

    /// Sets a level of one candidate; what the level has no quantity for is not read.
    ///
    /// Panics on a shared level, or a candidate or task out of range: the caller's bug.
    pub fn set(&mut self, candidate: usize, level: Level, task: usize, counts: &Counts) {
        assert!(
            !level.is_shared(),
            "{level:?} is set for the whole request; this is a bug"
        );
        assert!(
            candidate < self.rows && task < self.tasks,
            "candidate {candidate}, task {task} is out of range; this is a bug"
        );
        let from = candidate * self.own_width() + task * OWN + level.offset();
        fill(&mut self.own[from..], level, counts, self.time_ms);
    }

    /// Sets a likeness of one candidate, by its place ([`super::LikenessSpec::place`]). What is not finite counts as not set.
    ///
    /// Panics on a candidate or place out of range: the caller's bug.
    pub fn set_alike(&mut self, candidate: usize, place: usize, cosine: f32) {
        assert!(
            candidate < self.rows && place < self.alike,
            "candidate {candidate}, likeness {place} is out of range; this is a bug"
        );
        let at = candidate * self.own_width() + self.tasks * OWN + place;
        self.own[at] = if cosine.is_finite() { cosine } else { 0.0 };
    }

    /// Numbers of a candidate.
    fn own_width(&self) -> usize {
        self.tasks * OWN + self.alike
    }

    /// The number of candidates.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether the request has no candidate.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The number of tasks.
    pub fn tasks(&self) -> usize {
        self.tasks
    }

    /// The request's time, Unix milliseconds.
    pub fn time_ms(&self) -> i64 {
        self.time_ms
    }

    /// The numbers that all candidates share.
    pub fn shared(&self) -> &[f32] {
        &self.shared
    }

    /// One candidate's row.
    pub fn row(&self, candidate: usize) -> FeatureRow<'_> {
        let width = self.own_width();
        FeatureRow {
            shared: &self.shared,
            own: &self.own[candidate * width..(candidate + 1) * width],
        }
    }

    /// How many numbers the buffers hold without growing.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> (usize, usize) {
        (self.shared.capacity(), self.own.capacity())
    }

    /// All rows, in the candidates' order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = FeatureRow<'_>> {
        (0..self.rows).map(|candidate| self.row(candidate))
    }
}

/// Writes a level's numbers to the head of `part`. What is not finite or negative is written as the default: state
/// never makes such numbers, and a score must not become NaN if it did.
fn fill(part: &mut [f32], level: Level, counts: &Counts, time_ms: i64) {
    for (place, &quantity) in part.iter_mut().zip(level.quantities()) {
        let value = counts.value(quantity, time_ms);
        *place = if value.is_finite() && value >= 0.0 {
            value
        } else {
            quantity.default()
        };
    }
}
