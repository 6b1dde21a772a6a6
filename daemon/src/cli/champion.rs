//! `headwater champion`: which trained model a fleet scores with.

use std::path::PathBuf;

use clap::Subcommand;
use headwater::champion::{Announced, ChampionError, announced, promote, retire, roll_back};
use serde_json::json;

use super::table::moment;
use super::{Failure, Format, Global, print};

/// Say which trained model all instances score with, without a restart.
///
/// The model's bytes and the announcement go to the topic `models`; every instance with an empty scoring.model loads them, verifies them, and scores with them
/// from its next step on. What cannot be loaded is told in its status, and who scored before goes on there.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  headwater --config shop.toml train bahe --log --texts none --out shop-live
  headwater --config shop.toml champion promote shop-live
  headwater --config shop.toml champion show
  headwater --config shop.toml champion rollback

The embedded log belongs to the daemon that runs: stop it first.")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// How it is written.
    #[arg(long, value_enum, default_value_t, global = true)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show who is champion, and who was it before.
    Show,
    /// Make the model of a folder champion. It must be of this configuration's rows, and look at no texts.
    Promote {
        /// The folder that `headwater train` wrote.
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
    },
    /// Go back to the former champion, or to the baseline where there was none.
    Rollback,
    /// Let the baseline score alone.
    Retire,
}

impl From<ChampionError> for Failure {
    fn from(error: ChampionError) -> Self {
        Self::of(error.exit(), &error)
    }
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<(), Failure> {
    let config = global.load()?.config;
    headwater::telemetry::init(&config.telemetry);
    let log =
        headwater::daemon::open_log(&config).map_err(|error| Failure::of(error.exit(), &error))?;
    let found = match &arguments.command {
        Command::Show => announced(&config, &*log)?,
        Command::Promote { folder } => Some(promote(&config, &*log, folder)?),
        Command::Rollback => Some(roll_back(&config, &*log)?),
        Command::Retire => Some(retire(&config, &*log)?),
    };
    match arguments.format {
        Format::Text => tell(found.as_ref()),
        Format::Json => print(&json!(found).to_string()),
    }
    Ok(())
}

fn tell(found: Option<&Announced>) {
    let Some(found) = found else {
        print("no champion was ever announced: the baseline scores");
        return;
    };
    let name = |model: &Option<headwater::champion::Named>| {
        let named = |model: &headwater::champion::Named| format!("{} ({})", model.name, model.id);
        model
            .as_ref()
            .map_or_else(|| "the baseline".to_owned(), named)
    };
    print(&format!(
        "champion: {} since {}; before: {}",
        name(&found.champion),
        moment(found.time),
        name(&found.former)
    ));
}
