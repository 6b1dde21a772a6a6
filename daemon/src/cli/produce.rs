//! `headwater produce`: recorded records, into the input topics.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use headwater::Exit;
use headwater::produce::{Produce, ProduceError, Summary};
use headwater::recording::{RecordingError, topic_of};
use headwater_config::{LogKind, Topic};

use super::{Failure, Format, Global, print};

/// Send records from a file to the input topics.
///
/// Each record is read first as the daemon will read it, keyed by its user (items: by the item), and put into the partition where its owner
/// looks for it. The first line that cannot be used ends it, with the file and the line: what was before it is in the log, nothing after
/// it is.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Lines (plain or gzipped; blank ones are passed over):
  with --topic     a record each, as docs and README show them
  without          {\"topic\": \"behaviors\" | \"score-requests\" | \"items\", \"record\": {…}}: the form that backtest reads

A topic of behaviors that is not Headwater's own ([source.behaviors]) takes records of its own form, keyed by the user that the mapping
finds. All events of a record must be of one user, unless source.behaviors.repartition says that the topic is not keyed by user.

With log.kind = \"embedded\" the log is a folder that one process has open: produce before the daemon starts, or while it is stopped.
While a daemon runs there, this ends with 3.

Examples:
  headwater --config hw.toml produce --topic items items.jsonl.gz
  headwater --config hw.toml produce --topic behaviors clicks.jsonl --rate 500
  headwater --config hw.toml produce events.jsonl --format json
  tail -n +1201 clicks.jsonl | headwater --config hw.toml produce --topic behaviors -      after line 1200 was mended")]
pub(crate) struct Arguments {
    /// The file; - is standard input.
    #[arg(value_name = "FILE")]
    records: PathBuf,
    /// The topic of all records: behaviors, score-requests or items. Without it each line says which.
    #[arg(long, value_parser = topic_of)]
    topic: Option<Topic>,
    /// Records a second at most. Without it: as fast as the log takes them.
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// How the summary is written.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// A rate on the command line.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok();
    rate.filter(|rate| (1e-3..=1e9).contains(rate))
        .ok_or_else(|| format!("`{text}` is not a number of records a second, 0.001 to 1000000000"))
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<(), Failure> {
    let config = global.load()?.config;
    headwater::telemetry::init(&config.telemetry);
    let log = headwater::daemon::open_log(&config).map_err(|error| {
        let mut failure = Failure::from(error);
        if config.log.kind == LogKind::Embedded {
            failure
                .words
                .push_str("; the embedded log belongs to one process: stop the daemon there first");
        }
        failure
    })?;
    let stop = Arc::new(AtomicBool::new(false));
    super::run::on_signal(Arc::clone(&stop))
        .map_err(|error| Failure::of(Exit::TryAgain, &error))?;
    let produce = Produce {
        records: arguments.records.clone(),
        topic: arguments.topic,
        rate: arguments.rate,
        progress: std::io::stderr().is_terminal(),
    };
    let (summary, done) = produce.run(&config, &*log, &stop);
    match arguments.format {
        Format::Text => print(&tell(&summary)),
        Format::Json => print(&serde_json::json!(summary).to_string()),
    }
    match done {
        Ok(()) if summary.complete => Ok(()),
        Ok(()) => Err(Failure::new(
            Exit::TryAgain,
            "a signal ended it before the end of the file",
        )),
        Err(error) => {
            let mut failure = Failure::of(error.exit(), &error);
            failure.words.push_str(match &error {
                ProduceError::Recording(RecordingError::Line { .. }) => {
                    "; the lines before it were sent, nothing after them was"
                }
                ProduceError::Recording(RecordingError::Io { .. }) => {
                    "; the lines before the failure were sent"
                }
                ProduceError::Log(_) => {
                    "; what is counted above is in the log, of the records after them some may be"
                }
            });
            Err(failure)
        }
    }
}

fn tell(summary: &Summary) -> String {
    let mut words = format!(
        "sent {} behaviors, {} requests, {} items in {:.1} s ({:.0} records/s)",
        summary.behaviors,
        summary.requests,
        summary.items,
        summary.seconds,
        summary.records_per_second
    );
    if summary.events != summary.behaviors {
        words.push_str(&format!(
            "; {} events in the records of behaviors",
            summary.events
        ));
    }
    words
}
