//! How a table is laid out, whom it admits, and how it learns.

use super::TableError;
use super::page::{Page, ROWS_IN_PAGE};

/// Numbers of a row at most.
const WIDTH_MAX: usize = 4096;

/// Row-wise Adagrad: of a row's gradient g, the sum s is `memory` of what it was and the mean of g², and the row moves by −rate · g / (√s + epsilon).
///
/// Adagrad is Duchi, Hazan & Singer 2011; one sum for the whole row instead of one a number is what DLRM (Naumov et al. 2019) and FBGEMM train embedding tables with
/// (`EXACT_ROWWISE_ADAGRAD`). A row met seldom keeps its long steps, and a sum costs 4 bytes a row. With a memory
/// below 1 the sum forgets, as that of `RMSProp` (Tieleman & Hinton 2012) does: a row that is met again and again is not held still by the gradients of its first steps, and follows what changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adagrad {
    /// Learning rate, > 0.
    pub rate: f32,
    /// Added to the root, > 0.
    pub epsilon: f32,
    /// The sum that a row begins with, ≥ 0.
    pub start: f32,
    /// What is left of the sum from one step of the row to its next, > 0, at most 1: 1 forgets nothing.
    pub memory: f32,
}

/// How often an id must be met before it has a row.
///
/// Meetings of ids without a row are counted in a count-min sketch (Cormode & Muthukrishnan 2005) of four lines, whose counts are never too low: nobody waits too long, and
/// an id may be admitted early where its four counters are shared. Every `window` meetings all counts are halved, as in `TinyLFU` (Einziger, Friedman & Manes 2017), so that they
/// speak of the recent past and the sketch does not fill.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Admission {
    /// Meetings, 1 to 255; 1 admits at once.
    pub count: u8,
    /// Counters of one line, a power of two; four bytes of memory each. As many as `window` is a good choice.
    pub counters: usize,
    /// Meetings after which counts are halved, > 0.
    pub window: u64,
}

/// What a table is made by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TableSettings {
    /// Numbers of a row, 1 to 4096.
    pub width: usize,
    /// From which addresses and first values follow.
    pub seed: u64,
    /// Bytes that rows may take in memory; what snapshots hold besides, because it was changed since, is not in it.
    pub memory: u64,
    /// Whom it admits.
    pub admission: Admission,
    /// Hours of event time after which a row that was not met expires.
    pub expiry: Option<u32>,
    /// How it learns.
    pub learning: Adagrad,
    /// Rows that are handed no vector begin with numbers between −spread and spread, ≥ 0.
    pub spread: f32,
}

impl TableSettings {
    /// Checks every setting's range.
    ///
    /// # Errors
    /// The first that is out of it.
    pub fn check(&self) -> Result<(), TableError> {
        let Self {
            admission,
            learning,
            ..
        } = self;
        let numbers = |range| format!("must be a number {range}");
        let wrong = |key, problem| Err(TableError::Setting { key, problem });
        let above = |value: f32| value.is_finite() && value > 0.0;
        let not_below = |value: f32| value.is_finite() && value >= 0.0;
        if !(1..=WIDTH_MAX).contains(&self.width) {
            return wrong("width", format!("must be 1 to {WIDTH_MAX}"));
        }
        if self.rows_max() == 0 {
            let row = self.bytes_of_row();
            return wrong("memory", format!("must hold one row at least: {row} bytes"));
        }
        if admission.count == 0 {
            return wrong("admission.count", "must be 1 to 255".to_owned());
        }
        if !admission.counters.is_power_of_two() || admission.counters > 1 << 28 {
            let problem = "must be a power of two up to 2^28".to_owned();
            return wrong("admission.counters", problem);
        }
        if admission.window == 0 {
            return wrong("admission.window", "must be above 0".to_owned());
        }
        if !above(learning.rate) {
            return wrong("learning.rate", numbers("above 0"));
        }
        if !above(learning.epsilon) {
            return wrong("learning.epsilon", numbers("above 0"));
        }
        if !(learning.memory > 0.0 && learning.memory <= 1.0) {
            return wrong("learning.memory", numbers("above 0 and at most 1"));
        }
        if !not_below(learning.start) {
            return wrong("learning.start", numbers("not below 0"));
        }
        if !not_below(self.spread) {
            return wrong("spread", numbers("not below 0"));
        }
        Ok(())
    }

    /// Bytes of memory that a row takes: its numbers, sum, key and hour, its part of a page's own bytes and of the room that pages keep for newcomers, and an eighth
    /// more, which the allocator loses between pages (measured at 10 M rows of 16 numbers: 107 bytes, 108 by this).
    pub fn bytes_of_row(&self) -> u64 {
        let row = Page::bytes_of_row(self.width);
        let page = size_of::<Page>() + 16 + size_of::<usize>();
        let bytes = (row * (ROWS_IN_PAGE + Page::ROOM / 2) + page).div_ceil(ROWS_IN_PAGE);
        (bytes + bytes / 8) as u64
    }

    /// Rows that the memory holds.
    pub fn rows_max(&self) -> usize {
        usize::try_from(self.memory / self.bytes_of_row()).unwrap_or(usize::MAX)
    }
}
