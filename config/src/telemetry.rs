//! `[telemetry]`: logs.
//!
//! Before it, `decode`; after it, `daemon` sets up its log.

use serde::Deserialize;

use crate::choice::choice;

choice! {
    /// The least that is logged.
    Level {
        /// A person must act.
        Error = "error",
        /// Unexpected, nothing lost.
        Warn = "warn",
        /// The process changed state.
        Info = "info",
        /// Once a step.
        Debug = "debug",
        /// Once a record.
        Trace = "trace",
    }
}

choice! {
    /// How a line of the log is written.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

/// Logs.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct TelemetryConfig {
    /// The least that is logged.
    pub level: Level,
    /// How a line is written.
    pub format: LogFormat,
}
