//! What several layers of tests run: the built program ([`program`]) and Apache Kafka ([`broker`]).
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

pub mod broker;
pub mod program;
