//! `[scoring]`: what is scored, and how often.
//!
//! Before it, `decode`; after it, `consumers` makes requests and answers by it, `model` its baseline.

use serde::Deserialize;

use crate::choice::choice;
use crate::quantity::{Ratio, Span};
use crate::text;

choice! {
    /// What a behavior alone makes Headwater score.
    OnBehavior {
        /// Nothing: only requests are answered.
        Off = "off",
        /// Its user and its item.
        Item = "item",
    }
}

/// What is scored, and how often.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct ScoringConfig {
    /// What a behavior alone makes Headwater score.
    pub on_behavior: OnBehavior,
    /// A trained model: the folder that `headwater train` wrote; none: the baseline scores alone.
    #[serde(deserialize_with = "text::optional")]
    pub model: Option<String>,
    /// A standing request is scored again at most this often.
    pub debounce: Span,
    /// Standing requests of one user. At most 1,000.
    pub standing_max: usize,
    /// The longest that a request may stand.
    pub standing_ttl_max: Span,
    /// Whether rows are logged as they were scored.
    pub feature_log: bool,
    /// Whether statistics of items are published.
    pub item_statistics: bool,
    /// Whether a request counts as an impression of each of its candidates.
    pub requests_are_impressions: bool,
    /// Share of requests whose candidates are put in a random order.
    pub explore: Ratio,
    /// Half-life of the baseline's rate of what is popular now; zero: not used.
    pub half_life_short: Span,
    /// Half-life of the baseline's rate of what holds, longer than the short one; zero: not decayed.
    pub half_life_long: Span,
    /// As `half_life_short`, of a user's rates.
    pub user_half_life_short: Span,
    /// As `half_life_long`, of a user's rates.
    pub user_half_life_long: Span,
    /// How much of what other tasks say of an item the baseline expects in one.
    pub other_tasks: Ratio,
}
