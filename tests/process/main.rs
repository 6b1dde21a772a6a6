//! The built binary, as a service manager and a person see it: exit codes, readiness, signals, kill -9, answers of the command line.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use headwater_tests::program;

mod beginning;
mod commands;
mod crash;
mod demo;
mod disk;
mod examples;
mod fleet;
mod lineage;
mod log;
mod models;
mod recordings;
mod refusals;
mod regime;
mod service;
mod skew;
mod takeover;
mod texts;
mod train;
mod trained;
mod untrainable;
