//! `headwater replay-score`: published scores, computed again.

use std::path::PathBuf;

use headwater::Exit;
use headwater::explain::{Explanation, Replayed, replay};
use serde_json::json;

use super::table::table;
use super::{Failure, Format, Global, print};

/// Compute a request's published scores again, from its logged rows and the model that made them, and compare to the bit.
///
/// The model is the configured one, or a champion that there is a copy of (<state.path>/champions). Ends with 0 where all scores are the same, with 3 where one is not, or its model is not here.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  headwater --config hw.toml replay-score r-1207
  headwater --config hw.toml replay-score r-1207 --model shop-live --format json

The embedded log belongs to the daemon that runs: stop it first.")]
pub(crate) struct Arguments {
    /// The request's id.
    request_id: String,
    /// The folder of the model that made the scores, whatever it says of itself.
    #[arg(long, value_name = "FOLDER")]
    model: Option<PathBuf>,
    /// How it is written.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<(), Failure> {
    let config = global.load()?.config;
    headwater::telemetry::init(&config.telemetry);
    let log = headwater::daemon::open_log(&config)?;
    let id = &arguments.request_id;
    let found = replay(&config, &*log, id, arguments.model.as_deref())?;
    if found.is_empty() {
        return Err(Failure::new(Exit::Configuration, Explanation::missing(id)));
    }
    let scores: Vec<&Replayed> = found.iter().flat_map(|of| &of.scores).collect();
    let others = scores.iter().filter(|score| !score.is_same()).count();
    match arguments.format {
        Format::Json => print(&json!(found).to_string()),
        Format::Text => {
            for of in &found {
                let at = &of.at;
                print(&format!(
                    "rows at {}-{}, scored by {}",
                    at.partition, at.offset, of.model
                ));
                let number =
                    |of: Option<f32>| of.map_or_else(|| "-".to_owned(), |of| of.to_string());
                let rows = of.scores.iter();
                let rows = rows.map(|score| {
                    let same = if score.is_same() {
                        "same"
                    } else {
                        "NOT THE SAME"
                    };
                    vec![
                        score.item_id.clone(),
                        score.task.clone(),
                        number(score.published),
                        number(Some(score.logged)),
                        number(score.again),
                        same.to_owned(),
                    ]
                });
                let head = ["item", "task", "published", "logged", "again", ""];
                print(&table(&head, &rows.collect::<Vec<_>>()));
            }
        }
    }
    if others == 0 {
        return Ok(());
    }
    let missing = scores.iter().filter(|score| score.again.is_none()).count();
    let words = format!(
        "{others} of {} scores are not the same again; of {missing} of them the model is not here (--model names its folder)",
        scores.len()
    );
    Err(Failure::new(Exit::Format, words))
}
