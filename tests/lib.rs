//! What several layers of tests run: the built program ([`program`]), Apache Kafka ([`broker`]), and a small language model ([`tiny_model`]).
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

pub mod broker;
pub mod program;
pub mod tiny_model;
