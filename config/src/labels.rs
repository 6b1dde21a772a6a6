//! `[labels]`: which rows become examples, and when their labels are final.
//!
//! Before it, `decode`; after it, `state` keeps rows open by it, and `consumers` publishes their labels.

use serde::Deserialize;

use crate::choice::choice;
use crate::quantity::{Ratio, Span};

choice! {
    /// Which rows become examples.
    Examples {
        /// None.
        Off = "off",
        /// Those that an impression shows.
        Shown = "shown",
        /// Every candidate of every request.
        AllScored = "all-scored",
    }
}

/// Which rows become examples, and when their labels are final.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct LabelsConfig {
    /// Which rows become examples.
    pub examples: Examples,
    /// How long after a row's time an impression shows it.
    pub shown_within: Span,
    /// How long after its labels are final a row can still be corrected.
    pub late: Span,
    /// Share of the examples without any positive that are kept; more than 0.
    pub negatives: Ratio,
    /// Rows, impressions and positives that are kept of a user. 1 to 100,000.
    pub open_max: usize,
}
