//! `[admin]`: HTTP.
//!
//! Before it, `decode`; after it, `daemon` listens there.

use std::net::SocketAddr;

use serde::{Deserialize, Deserializer};

/// HTTP.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    /// Where to listen; none: nowhere. Port 0 lets the system choose.
    #[serde(deserialize_with = "address")]
    pub address: Option<SocketAddr>,
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    crate::text::parse(
        deserializer,
        "an address in quotes, such as \"127.0.0.1:9464\"",
        |text| {
            if text.is_empty() {
                return Ok(None);
            }
            text.parse().map(Some).map_err(|_| {
                format!("\"{text}\" is not an address and port such as \"127.0.0.1:9464\" or \"[::1]:9464\"")
            })
        },
    )
}
