//! Embedding tables of ids: one row of numbers an id, of which a step touches only those that it met.
//!
//! Before it, rows and key-vectors name ids (of items, users, categories); after it, a model has one vector an id, and gives back a gradient for it. A table is
//! changed by one trainer ([`Table`]) and read by anyone as a [`Snapshot`], which costs pointers alone: both hold the same pages until the trainer changes one.
//! A [`TableFolder`] keeps versions, of which a later one has only the pages that changed.
//!
//! * *Whose row it is.* A row bears its whole [`RowKey`], 128 bits: an id of up to 15 bytes itself, a longer one its SHA-256 cut to 127 bits. Where a row lies follows
//!   from 64 bits mixed from the key; ids that agree in these lie in one page, and are told apart by their keys. So short ids never share a row, and of
//!   long ones nobody knows how to find two that do (100 M of them by chance: 3e-23).
//! * *Where it lies.* Pages by linear hashing (Litwin 1980), [`ROWS_IN_PAGE`] rows each in the mean, sorted by key: layout and bytes follow from the set of rows alone. A lookup
//!   is one page and a binary search of at most [`ROWS_IN_PAGE_MAX`] keys. A page that is full (which takes ids made for it) refuses more, and that is counted.
//! * *Who has one.* An id that was met [`Admission::count`] times; all others read the *unknown row*, which learns from them, and from ids that are left out on
//!   purpose ([`Dropout`]). Rows not met for long expire; a full table drops those that were met least recently.
//! * *How it learns.* Row-wise Adagrad ([`Adagrad`]), on the sum of a row's gradients in the batch.

mod counting;
mod folder;
mod key;
mod learning;
mod page;
mod rows;
mod settings;
mod tensors;
mod training;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use folder::{Saved, TableFolder};
pub use key::RowKey;
pub use learning::{Dropout, Gathered, Stepped};
pub use page::{ROWS_IN_PAGE, ROWS_IN_PAGE_MAX};
pub use rows::Snapshot;
pub use settings::{Adagrad, Admission, TableSettings};
pub use tensors::is_of_table;
pub use training::{Met, Table};

/// What can be wrong with a table, what is fed to it, or its files.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A setting out of its range.
    #[error("table: `{key}` {problem}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// Numbers of another count than they should be.
    #[error("table: {what}: {found} numbers, {expected} expected")]
    Length {
        /// What was handed in.
        what: &'static str,
        /// Numbers in it.
        found: usize,
        /// Numbers that it should have.
        expected: usize,
    },
    /// A vector to start a row with that holds what is no number.
    #[error("table: the vector that starts the row of position {position} holds {value}")]
    Start {
        /// Position in the batch.
        position: usize,
        /// The first such value.
        value: f32,
    },
    /// The tensor library failed.
    #[error("table: making a tensor of rows")]
    Tensor(#[from] candle_core::Error),
    /// A file that cannot be read.
    #[error("{path}: cannot be read", path = path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that cannot be written.
    #[error("{path}: cannot be written", path = path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that is not what it should be.
    #[error("{path}: {problem}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A page that is not what was written.
    #[error("{path}: page {page} at byte {offset}: {problem}", path = path.display())]
    Page {
        /// The file.
        path: PathBuf,
        /// Number of the page in the table; the number of pages stands for the counts of ids without a row.
        page: usize,
        /// Where it begins in the file.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
}

/// The coarse time that rows bear: whole hours of event time since 1970, from milliseconds. What lies before is hour 0.
pub fn hour_of(milliseconds: i64) -> u32 {
    u32::try_from(milliseconds.max(0) / 3_600_000).unwrap_or(u32::MAX)
}
