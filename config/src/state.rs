//! `[state]`: the store, the cache before it, and what is kept of a user.
//!
//! Before it, `decode`; after it, the crate `state`.

use std::path::PathBuf;

use serde::Deserialize;

use crate::choice::choice;
use crate::quantity::{Bytes, Span};

choice! {
    /// What the local store is made of.
    Backend {
        /// sled 0.34.
        Sled = "sled",
        /// fjall 3.
        Fjall = "fjall",
    }
}

choice! {
    /// What becomes of a late behavior. It is counted in a metric in both cases.
    Late {
        /// It is folded like any other.
        Keep = "keep",
        /// It is left out.
        Drop = "drop",
    }
}

/// The store, the cache before it, and what is kept of a user.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct StateConfig {
    /// Folder of the store and of the instance's identity.
    pub path: PathBuf,
    /// What the store is made of.
    pub backend: Backend,
    /// Bytes of users' pages kept in memory. At least 1 MiB.
    pub memory: Bytes,
    /// Behaviors of a user kept with their exact times. 1 to 4096.
    pub recent: usize,
    /// Dirty pages go to the store at least this often. 1 ms to 10 min.
    pub write_back: Span,
    /// Whether a write-back is followed by fsync.
    pub fsync: bool,
    /// A behavior older than its partition's newest by more than this is late.
    pub allowed_lateness: Span,
    /// What becomes of a late behavior.
    pub late: Late,
    /// A behavior further ahead of the log's clock than this is a dead letter.
    pub max_ahead: Span,
    /// Attributes of a behavior with key-vectors of their own beside the item's. At most 8.
    pub attributes: Vec<String>,
    /// Distinct keys kept for each user and attribute; none: all.
    #[serde(deserialize_with = "zero_is_none")]
    pub keys_max: Option<usize>,
    /// A copy that was away for longer than this is thrown away and restored.
    pub copy_age_max: Span,
}

fn zero_is_none<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<usize>, D::Error> {
    usize::deserialize(deserializer).map(|number| (number > 0).then_some(number))
}
