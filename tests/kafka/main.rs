//! What only Apache Kafka itself can show: the log on it, its transactions and its failures. One broker serves the whole run
//! ([`broker`]); each test has topics and a group of its own.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod admin;
mod broker;
mod conformance;
mod daemon;
mod foreign;
mod large;
mod latency;
mod member;
mod outage;
mod replay;
mod speed;
mod topics;
