//! Headwater as a program and as a library: the whole daemon in a host program ([`Daemon::start`]), or the binary `headwater`.
//!
//! Before this crate stand the configuration (`config`) and everything that moves records (`consumers`); this crate opens the log, the
//! state folder and the stores, gives each thread its work, and tells the outside what is going on. It is the only one that reads clocks,
//! randomness and the environment, and the only one with an async runtime (one thread, for HTTP).
//!
//! ```no_run
//! use headwater::Daemon;
//! use headwater_config::Config;
//!
//! let config = Config::from_toml("[log]\nkind = \"embedded\"\n[state]\npath = \"/var/lib/headwater\"\n")?;
//! let handle = Daemon::start(config)?;
//! println!("{:?}", handle.ready().reasons);
//! handle.stop(false)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it promises
//!
//! - No global state: a process may run several daemons, each with its own folder and metrics registry. No signal is handled and no
//!   log subscriber is set here: the binary does both.
//! - A thread that panics stops the daemon; it never goes missing ([`supervisor`]).
//! - A folder of another prefix, group, instance or of a newer format is refused, and so is a topic that is not what it must be.

mod admin;
pub mod backtest;
pub mod champion;
pub mod daemon;
pub mod dead_letters;
pub mod demo;
pub mod engine;
mod exit;
pub mod explain;
pub mod fleet;
mod identity;
pub mod inspect;
mod metrics;
pub mod models;
mod predictions;
pub mod produce;
mod progress;
pub mod recording;
pub mod replay;
pub mod report;
mod scan;
mod schemas;
pub mod status;
mod stores;
pub mod supervisor;
pub mod telemetry;
pub mod topics;
pub mod train;
mod trained;
mod world;

pub use daemon::{Daemon, Handle, Host, StartError, StopError, Stopper};
pub use engine::Engine;
pub use exit::Exit;
pub use identity::{Identity, IdentityError};
pub use metrics::Metrics;
pub use status::{Readiness, Reason, Status};
pub use world::{SystemWorld, moment};

/// The version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Now, Unix milliseconds by the system's clock.
#[must_use]
pub fn now_ms() -> i64 {
    world::unix_ms()
}
