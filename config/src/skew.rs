//! `[skew]`: whether rows that were scored are held against what the log says.
//!
//! Before it, `decode`; after it, `consumers` hands rows over by it, and `daemon` computes them again.

use serde::Deserialize;

use crate::quantity::{Ratio, Span};

/// Whether rows that were scored are computed again, and how often.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct SkewConfig {
    /// Share of the requests whose rows are; zero: none.
    pub share: Ratio,
    /// Between the end of one look and the beginning of the next. More than zero.
    pub every: Span,
}
