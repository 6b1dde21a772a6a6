//! `headwater replay`: recorded events, through the log and the whole loop.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use headwater::Exit;
use headwater::replay::{Replay, Summary};
use headwater_config::{Config, Level, Span};

use super::produce::rate;
use super::{Failure, Format, Global, print};

/// Send recorded events through the log and the whole loop, and wait until all are counted and answered.
///
/// It starts the daemon of this configuration in this process (stop the one that runs, or see --running), sends items and then events to the
/// configured topics, and says how fast they were counted, how fresh the answers were, and whether an output is missing. What is counted
/// stays counted: to try something, give it topics and a state folder of its own.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Files (each plain or gzipped), as backtest reads them:
  items   an item record a line
  events  {\"topic\": \"behaviors\" | \"score-requests\" | \"items\", \"record\": {…}} a line, in the order of time

Events lie in the past. Deadlines are taken out of requests unless --deadlines is given. No event is sent that is ahead of the oldest
uncounted one by more than half of step.request_max_age, since requests would be answered as expired. On topics that know newer events
already, they are.

Exit codes: 0 all counted and answered; 70 an output is missing, or is there twice in exactly-once mode; 75 a signal ended it, or nothing
was counted for --patience.

Examples:
  headwater replay --events events.jsonl.gz --items items.jsonl.gz --set log.kind=embedded --set state.path=/tmp/replay
  headwater --config hw.toml --set instance.prefix=try. --set state.path=/tmp/try topics create
  headwater --config hw.toml --set instance.prefix=try. --set state.path=/tmp/try replay --events events.jsonl --rate 2000
  headwater --config hw.toml replay --running --events events.jsonl --format json")]
pub(crate) struct Arguments {
    /// Recorded behaviors and score requests.
    #[arg(long, value_name = "FILE")]
    events: PathBuf,
    /// Item records, sent before the first event.
    #[arg(long, value_name = "FILE")]
    items: Option<PathBuf>,
    /// Events a second at most. Without it: as fast as they are counted.
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Start no daemon: daemons of this configuration run already (on Kafka).
    #[arg(long)]
    running: bool,
    /// Leave deadlines in requests.
    #[arg(long)]
    deadlines: bool,
    /// How long nothing may be counted before it is given up.
    #[arg(long, value_name = "SPAN", default_value = "60s", value_parser = span)]
    patience: Span,
    /// How the summary is written.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

fn span(text: &str) -> Result<Span, String> {
    text.parse::<Span>()
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<(), Failure> {
    let config = global.load()?.config;
    let progress = std::io::stderr().is_terminal();
    let mut telemetry = config.telemetry.clone();
    if progress && telemetry.level == Level::Info {
        // What a daemon says of its start and end would tear the bar.
        telemetry.level = Level::Warn;
    }
    headwater::telemetry::init(&telemetry);
    let stop = Arc::new(AtomicBool::new(false));
    super::run::on_signal(Arc::clone(&stop))
        .map_err(|error| Failure::of(Exit::TryAgain, &error))?;
    let replay = Replay {
        items: arguments.items.clone(),
        events: arguments.events.clone(),
        rate: arguments.rate,
        running: arguments.running,
        deadlines: arguments.deadlines,
        patience: arguments.patience.duration(),
        progress,
    };
    let (summary, done) = replay.run(&config, &stop);
    match arguments.format {
        Format::Text => print(tell(&summary, &config).trim_end()),
        Format::Json => print(&serde_json::json!(summary).to_string()),
    }
    done.map_err(|error| Failure::of(error.exit(), &error))?;
    if summary.is_wrong(&config) {
        return Err(Failure::new(
            Exit::Bug,
            format!(
                "{} requests have no answer, {} answers are there twice",
                summary.missing, summary.found.repeated
            ),
        ));
    }
    if !summary.complete {
        return Err(Failure::new(
            Exit::TryAgain,
            "a signal ended it before the end of the file",
        ));
    }
    Ok(())
}

fn tell(summary: &Summary, config: &Config) -> String {
    let mut text = format!(
        "{} behaviors, {} requests, {} items: counted in {:.1} s ({:.0} events/s)\n",
        summary.behaviors,
        summary.requests,
        summary.items,
        summary.seconds,
        summary.events_per_second
    );
    let mut line = |words: String| {
        text.push_str("  ");
        text.push_str(&words);
        text.push('\n');
    };
    if let Some(here) = summary.daemon {
        line(format!(
            "behaviors counted here: {}; not counted: {} duplicates, {} late",
            here.counted, here.duplicates, here.late
        ));
    }
    let answers: Vec<String> = summary
        .found
        .answers
        .iter()
        .map(|(status, count)| format!("{count} {status}"))
        .collect();
    if summary.requests > 0 {
        line(format!(
            "answers: {}; {} scores",
            if answers.is_empty() {
                "none".to_owned()
            } else {
                answers.join(", ")
            },
            summary.found.scores
        ));
    }
    if summary.found.behavior_scores > 0 {
        line(format!(
            "scores of behaviors: {}",
            summary.found.behavior_scores
        ));
    }
    for (topic, reasons) in &summary.found.dead_letters {
        for (reason, count) in reasons {
            line(format!("dead letters of {topic}: {count} {reason}"));
        }
    }
    if let Some(took) = summary.freshness_ms {
        line(format!(
            "from sending to reading the answer: p50 {:.1}, p95 {:.1}, p99 {:.1}, at most {:.1} ms",
            took.p50, took.p95, took.p99, took.max
        ));
    }
    if summary.is_wrong(config) {
        line(format!(
            "MISSING: {} requests have no answer, {} answers are there twice",
            summary.missing, summary.found.repeated
        ));
    } else if summary.complete && summary.requests > 0 {
        line("every request was answered".to_owned());
    }
    text
}
