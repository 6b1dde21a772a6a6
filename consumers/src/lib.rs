//! Headwater's fast loop.

pub mod log;
pub mod partitioner;
