//! `headwater config`: is a configuration right, and what is in force?

use std::path::PathBuf;

use clap::Subcommand;

use super::{Failure, Format, Global, print};

/// Check a configuration, or show what is in force and where each value came from.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a configuration: every key, type and rule. Exit code 2 if anything is wrong, with all of it.
    ///
    /// Reads the defaults, the files and the environment exactly as `run` does, and asks librdkafka whether it takes the properties of
    /// [kafka.client]; connects to nothing.
    #[command(after_long_help = "\
Examples:
  headwater config check hw.toml
  headwater config check base.toml production.toml       later files go over earlier ones
  headwater --config hw.toml config check --set state.memory=4GiB")]
    Check {
        /// Files to check, after those of --config.
        files: Vec<PathBuf>,
    },
    /// Show every key in force, each with where it was written. Secrets are hidden.
    #[command(after_long_help = "\
Examples:
  headwater --config hw.toml config show
  headwater config show --format json | jq '.\"state.memory\"'")]
    Show {
        /// `text` is TOML with the origin of each value as a comment.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<(), Failure> {
    match &arguments.command {
        Command::Check { files } => {
            let mut all = global.config.clone();
            all.extend(files.iter().cloned());
            let loaded = global.load_files(&all)?;
            let config = &loaded.config;
            headwater::daemon::check_log(config)?;
            headwater::daemon::check_model(config)?;
            print(&format!(
                "right: log {}, group `{}`, {} worker{}, state in {}",
                config.log.kind,
                config.group(),
                config.instance.workers,
                if config.instance.workers == 1 {
                    ""
                } else {
                    "s"
                },
                config.state.path.display()
            ));
        }
        Command::Show { format } => {
            let loaded = global.load()?;
            let text = match format {
                Format::Text => loaded.show_toml(),
                Format::Json => format!("{:#}", loaded.show_json()),
            };
            print(global.in_own_words(&text).trim_end());
        }
    }
    Ok(())
}
