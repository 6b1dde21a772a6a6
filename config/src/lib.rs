//! Headwater's configuration.

mod topic;

pub use topic::{Cleanup, Partitioning, Topic};
