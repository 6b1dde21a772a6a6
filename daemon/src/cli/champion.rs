//! `headwater champion`: which trained model a fleet scores with.

use std::path::PathBuf;

use clap::Subcommand;
use headwater::champion::{
    ChampionError, Named, Standing, Trial, pin, promote, put_on_trial, retire, roll_back, shown,
};
use headwater::moment;
use serde_json::json;

use super::{Failure, Format, Global, print, say};

/// Say which trained model all instances score with, without a restart.
///
/// The model's bytes and the announcement go to the topic `models`; every instance with an empty scoring.model loads them, verifies them, and scores with them
/// from its next step on. What cannot be loaded is told in its status, and who scored before goes on there.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  headwater --config shop.toml train bahe --log --texts none --out shop-live
  headwater --config shop.toml champion try shop-live
  headwater --config shop.toml champion show
  headwater --config shop.toml champion promote shop-live
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
    /// Show who is champion, who was it before, and who is on trial beside it.
    Show,
    /// Make the model of a folder champion. It must be of this configuration's rows. One that looks at texts scores once vectors are there for it (`texts.made_ahead`).
    Promote {
        /// The folder that `headwater train` wrote.
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
    },
    /// Go back to the former champion, or to the baseline where there was none.
    Rollback,
    /// Let the baseline score alone.
    Retire,
    /// Put the model of a folder on trial, beside others or in the place of the weakest: it scores nobody, and whoever trains (train.every) judges it on rows that are scored from now on, and
    /// makes it champion once it has proved itself.
    Try {
        /// The folder that `headwater train` wrote.
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
    },
    /// Let nobody but a command change who is champion.
    Pin,
    /// Let those who prove themselves become champion again.
    Unpin,
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
    if config.scoring.model.is_some() && !matches!(arguments.command, Command::Show) {
        say(
            "warning: scoring.model names a model: instances with this configuration score with that one, whoever is champion",
        );
    }
    match &arguments.command {
        Command::Show => {}
        Command::Promote { folder } => drop(promote(&config, &*log, folder)?),
        Command::Rollback => drop(roll_back(&config, &*log)?),
        Command::Retire => drop(retire(&config, &*log)?),
        Command::Try { folder } => drop(put_on_trial(&config, &*log, folder, None)?),
        Command::Pin => drop(pin(&config, &*log, true)?),
        Command::Unpin => drop(pin(&config, &*log, false)?),
    }
    let found = shown(&config, &*log)?;
    match arguments.format {
        Format::Text => tell(&found),
        Format::Json => print(&json!(found).to_string()),
    }
    Ok(())
}

fn name(model: Option<&Named>) -> String {
    model.map_or_else(
        || "the baseline".to_owned(),
        |model| format!("{} ({})", model.name, model.id),
    )
}

fn tell(found: &Standing) {
    match &found.announced {
        None => print("no champion was ever announced: the baseline scores"),
        Some(announced) => print(&format!(
            "champion: {} since {}{}; before: {}",
            name(announced.champion.as_ref()),
            moment(announced.time),
            if announced.pinned { ", pinned" } else { "" },
            name(announced.former.as_ref()),
        )),
    }
    if let Some(trouble) = &found.trouble {
        print(&format!(
            "under this configuration it is not loaded, and whoever scored before goes on, or the baseline: {trouble}"
        ));
    }
    if found.waits {
        print(
            "it scores nowhere yet: instances go on with who scored before until vectors of texts are there for it (`model.ahead` of /status)",
        );
    }
    for trial in &found.challengers {
        tell_trial("on trial", trial);
    }
    if let Some(trial) = &found.watch {
        tell_trial("held against it", trial);
    }
}

fn tell_trial(what: &str, trial: &Trial) {
    print(&format!(
        "{what}: {} since {}, {} looks",
        name(trial.model.as_ref()),
        moment(trial.began),
        trial.looks.len()
    ));
    for look in &trial.looks {
        let [champion, model] = look.all.losses;
        print(&format!(
            "  {}: {} rows of {} users: loss {model:.5} against {champion:.5}, {:+.1} errors better; of them put in order by chance: {} rows, {:+.1}",
            moment(look.time),
            look.all.rows,
            look.all.users,
            look.all.z,
            look.random.rows,
            look.random.z,
        ));
    }
    let Some(canary) = &trial.canary else {
        return;
    };
    print(&format!(
        "  it scores {:.1} % of the users since {}",
        100.0 * canary.share,
        moment(canary.since)
    ));
    for look in &canary.looks {
        let [others, ours] = look.positives.map(|part| 100.0 * part);
        print(&format!(
            "  {}: {ours:.2} % positives of {} rows, {others:.2} % of the others' {}: {:+.1} errors",
            moment(look.time),
            look.rows[1],
            look.rows[0],
            look.z
        ));
    }
}
