//! Structured logs of the binary, to standard error. A host program sets its own subscriber: [`crate::Daemon::start`] does not come here.

use std::fmt;

use headwater_config::{Level, LogFormat, TelemetryConfig};
use headwater_consumers::words;
use serde::ser::{Error as _, SerializeMap, Serializer as _};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

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
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.event_format(Json).try_init(),
    };
    if let Err(error) = set {
        tracing::debug!(%error, "a log is set already");
    }
}

/// One object a line: time, level, the event's fields, target. The library's own form leaves out an error's sources, and what is behind
/// "log unavailable" is what an operator needs.
struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let line = line(event).map_err(|_| fmt::Error)?;
        writeln!(writer, "{line}")
    }
}

fn line(event: &Event<'_>) -> Result<String, serde_json::Error> {
    let mut time = String::new();
    SystemTime
        .format_time(&mut Writer::new(&mut time))
        .map_err(serde_json::Error::custom)?;
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::new(&mut bytes);
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("timestamp", &time)?;
    map.serialize_entry("level", event.metadata().level().as_str())?;
    let mut fields = Fields {
        map,
        outcome: Ok(()),
    };
    event.record(&mut fields);
    fields.outcome?;
    let mut map = fields.map;
    map.serialize_entry("target", event.metadata().target())?;
    map.end()?;
    String::from_utf8(bytes).map_err(serde_json::Error::custom)
}

/// Writes an event's fields as entries of its object.
struct Fields<M: SerializeMap> {
    map: M,
    outcome: Result<(), M::Error>,
}

impl<M: SerializeMap> Fields<M> {
    fn entry(&mut self, field: &Field, value: &(impl serde::Serialize + ?Sized)) {
        if self.outcome.is_ok() {
            self.outcome = self.map.serialize_entry(field.name(), value);
        }
    }
}

impl<M: SerializeMap> Visit for Fields<M> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.entry(field, &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.entry(field, &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.entry(field, &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.entry(field, &value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.entry(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.entry(field, &words(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.entry(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use headwater_consumers::log::LogError;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Goal: a line says what is behind an error, and keeps numbers as numbers. Method: an error with a source, logged as JSON.
    #[test]
    fn a_line_tells_an_errors_sources() {
        let lines = Lines::default();
        let kept = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .event_format(Json)
            .with_writer(move || kept.clone())
            .finish();
        let error = LogError::Unavailable {
            doing: "reading",
            source: "all brokers are down".into(),
        };
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(
                partition = 3,
                error = &error as &dyn std::error::Error,
                "going \"back\""
            );
        });
        let bytes = lines.0.lock().unwrap().clone();
        let line: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(
            line["error"],
            "log unavailable while reading: all brokers are down"
        );
        assert_eq!(
            (&line["partition"], &line["level"], &line["message"]),
            (&3.into(), &"WARN".into(), &"going \"back\"".into())
        );
        assert!(line["timestamp"].is_string() && line["target"].is_string());
    }
}
