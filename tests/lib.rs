//! What several layers of tests run or judge by: the built program ([`program`]), Apache Kafka ([`broker`]), a small language model with recordings to train on
//! ([`tiny_model`]), and vectors and labels worked out naively ([`naive_vectors`], [`naive_labels`]).
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

pub mod broker;
pub mod naive_labels;
pub mod naive_vectors;
pub mod program;
pub mod tiny_model;
