//! `headwater backtest`: what would Headwater have said?

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use headwater::backtest::{Backtest, Summary};
use headwater::train::{Source, TrainBahe, objective};
use headwater_config::Config;

use super::train::RegimeChoice;
use super::{Failure, Format, Global, say};

/// Score recorded events with the production step, without Kafka, and write down every prediction.
///
/// Events go through the very step that the daemon runs, one after the other: a request is answered from what happened strictly before
/// its time. The same files give the same bytes, however steps are cut.
///
/// Without --regime the configured scorer answers: scoring.model, or the baseline. With --regime the backtest learns, as an instance of this configuration would ([train],
/// `key_vectors.logged`): from the first seven tenths of the requests, validated on the next.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Files (each plain or gzipped):
  items        an item record a line: {\"item_id\": …, \"time\": …, …}
  events       {\"topic\": \"behaviors\" | \"score-requests\", \"record\": {…}} a line, in the order of time
  predictions  tab-separated, with the header request_id, item_id, task, probability: a line for each candidate of each request and
               each task that holds in the request's scenario

A line that cannot be read ends the backtest with its file and number. Events that are not in the order of time are taken as they
come, as if they had arrived late, and a warning says how many there are and where the first is. The predictions appear under their name
once they are whole.

Examples:
  headwater backtest --items items.jsonl --events events.jsonl --predictions predictions.tsv --config shop.toml
  headwater backtest --items items.jsonl --events events.jsonl --predictions learned.tsv --config shop.toml --regime prequential --out shop-model --report shop.html
  headwater backtest --items items.jsonl.gz --events events.jsonl.gz --predictions - | head")]
pub(crate) struct Arguments {
    /// Item records, known from the start.
    #[arg(long, value_name = "FILE")]
    items: PathBuf,
    /// Recorded behaviors and score requests.
    #[arg(long, value_name = "FILE")]
    events: PathBuf,
    /// Where predictions go: .gz is packed, - is standard output.
    #[arg(long, value_name = "FILE")]
    predictions: PathBuf,
    /// Learn: frozen (rows behind those that are learned from are scored by the model as it is then), prequential (a hundredth of all requests after the other is scored, then learned
    /// from).
    #[arg(long, value_enum, requires = "out", conflicts_with_all = ["folder", "step_records"])]
    regime: Option<RegimeChoice>,
    /// With --regime: the folder of the model that is made; a run that was cut off goes on from it.
    #[arg(long, value_name = "FOLDER", requires = "regime")]
    out: Option<PathBuf>,
    /// With --regime: where a page goes that shows how rows behind validation were predicted.
    #[arg(long, value_name = "FILE", requires = "regime")]
    report: Option<PathBuf>,
    /// With --regime: seed of first values and of the order of rows.
    #[arg(long, default_value_t = 1, requires = "regime")]
    seed: u64,
    /// Where users go that do not fit into state.memory. Working space: it is emptied first. Without it all users stay in memory.
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Records of a step at most: to show that it makes no difference.
    #[arg(long, value_name = "N", hide = true)]
    step_records: Option<usize>,
    /// How the summary is written, on standard error.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<(), Failure> {
    let config = global.load()?.config;
    if let (Some(regime), Some(out)) = (arguments.regime, &arguments.out) {
        return learn(arguments, &config, (regime, out));
    }
    let backtest = Backtest {
        items: arguments.items.clone(),
        events: arguments.events.clone(),
        predictions: arguments.predictions.clone(),
        step_records: arguments.step_records,
        folder: arguments.folder.clone(),
        progress: std::io::stderr().is_terminal(),
    };
    let summary = backtest
        .run(&config)
        .map_err(|error| Failure::of(error.exit(), &error))?;
    match arguments.format {
        Format::Text => tell(&summary, &arguments.events),
        Format::Json => say(&serde_json::json!(summary).to_string()),
    }
    Ok(())
}

/// The backtest of a model that learns.
fn learn(
    arguments: &Arguments,
    config: &Config,
    (regime, out): (RegimeChoice, &Path),
) -> Result<(), Failure> {
    headwater::telemetry::init(&config.telemetry);
    let source = Source::Recordings {
        items: arguments.items.clone(),
        events: arguments.events.clone(),
    };
    let training = TrainBahe {
        regime: regime.into(),
        predictions: Some(arguments.predictions.clone()),
        report: arguments.report.clone(),
        seed: arguments.seed,
        objective: objective(config.train.objective, arguments.seed),
        progress: std::io::stderr().is_terminal(),
        ..TrainBahe::as_configured(config, source, out.to_owned())
    };
    let summary = training
        .run(config)
        .map_err(|error| Failure::of(error.exit(), &error))?;
    match arguments.format {
        Format::Text => super::train::tell(&summary, say),
        Format::Json => say(&serde_json::json!(summary).to_string()),
    }
    Ok(())
}

fn tell(summary: &Summary, events: &Path) {
    say(&format!(
        "{} items, {} behaviors, {} requests: {} predictions in {:.1} s ({:.0} events/s)",
        summary.items,
        summary.behaviors,
        summary.requests,
        summary.predictions,
        summary.seconds,
        summary.events_per_second
    ));
    for (count, what) in [
        (summary.duplicates, "counted before (same event_id)"),
        (
            summary.late,
            "late, and left out (state.late, state.allowed_lateness)",
        ),
    ] {
        if count > 0 {
            say(&format!("  {count} behaviors not counted: {what}"));
        }
    }
    for (status, count) in &summary.refused {
        say(&format!("  {count} requests not scored: {status}"));
    }
    if let Some(line) = summary.first_out_of_order {
        say(&format!(
            "warning: {} events stand behind one with a later time, the first in {}, line {line}: requests were answered without the \
             behaviors that come after them in the file. Sort it by time",
            summary.out_of_order,
            events.display()
        ));
    }
}
