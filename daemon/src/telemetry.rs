//! Structured logs of the binary, to standard error. A host program sets its own subscriber: [`crate::Daemon::start`] does not come here.

use headwater_config::{Level, LogFormat, TelemetryConfig};
use tracing_subscriber::filter::LevelFilter;

/// Sets the process's log. Does nothing where one is set already.
pub fn init(config: &TelemetryConfig) {
    let level = match config.level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr);
    let set = match config.format {
        LogFormat::Text => {
            use std::io::IsTerminal as _;
            builder
                .with_ansi(std::io::stderr().is_terminal())
                .try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if let Err(error) = set {
        tracing::debug!(%error, "a log is set already");
    }
}
