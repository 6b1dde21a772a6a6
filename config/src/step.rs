//! `[step]`: limits of one step.
//!
//! Before it, `decode`; after it, `consumers` cuts steps by it.

use serde::Deserialize;

use crate::quantity::{Bytes, Span};

/// Limits of one step.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct StepConfig {
    /// Records of one step. 1 to 100,000.
    pub records_max: usize,
    /// Bytes of one step's records, and of what it gives out; at least `record_max`. At most 64 MiB with the embedded log.
    pub bytes_max: Bytes,
    /// How long a step waits for its first record. At most 1 s.
    pub wait: Span,
    /// Candidates scored at most in one request. 1 to 100,000.
    pub candidates_max: usize,
    /// Requests further from the watermark than this are not scored.
    pub request_max_age: Span,
    /// An input record above this is a dead letter. 1 KiB to 1 GiB.
    pub record_max: Bytes,
    /// An answer above this is split. 1 KiB to 1 GiB.
    pub answer_max: Bytes,
    /// Headers of a request that its answers carry on. At most 16.
    pub pass_headers: Vec<String>,
}
