//! `[instance]`: who this daemon is.
//!
//! Before it, `decode`; after it, names of groups, topics and transactional ids ([`crate::Config::group`] and its like).

use serde::Deserialize;

/// Who this daemon is.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct InstanceConfig {
    /// Its name in the fleet; none: made at the first start and kept in the state folder.
    #[serde(deserialize_with = "crate::text::optional")]
    pub id: Option<String>,
    /// Worker threads, each a group member with a transactional producer: at most 256. 0: it scores nothing, and encodes texts, or repartitions, for others.
    pub workers: usize,
    /// Put before every topic name, the group and the transactional ids.
    pub prefix: String,
}
