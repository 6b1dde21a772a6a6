//! The command line: what can be asked, and how answers and errors are written.
//!
//! Before it, a person or a script; after it, one module a command. Answers go to standard output, everything else to standard error,
//! so that answers can be piped. The environment is read here and nowhere else.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use headwater::{Exit, StartError, StopError};
use headwater_config::{Config, LoadError, Loaded, Sources};

mod backtest;
mod champion;
mod config;
mod demo;
mod dlq;
mod explain;
mod http;
mod inspect;
mod models;
mod produce;
mod replay;
mod replay_score;
mod run;
mod table;
mod topics;
mod train;

/// A streaming feature-and-scoring daemon: behaviors in Kafka become features and scores in Kafka, exactly once.
#[derive(Debug, Parser)]
#[command(name = "headwater", version, after_long_help = EXIT_CODES)]
struct CommandLine {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0   done; a daemon has committed everything and left in good order
  2   the configuration, or what it names, must be changed by a person
  3   what is on disk or in a topic is another's, newer than this build, damaged, or in use
  70  a bug of Headwater
  75  the world may heal: try again

First steps:
  headwater demo                                  the whole loop on the embedded log; no Kafka, no configuration
  headwater --config hw.toml config check         is it right?
  headwater --config hw.toml topics create        make the topics
  headwater --config hw.toml run                  start the daemon";

/// What every command goes by.
#[derive(Debug, clap::Args)]
pub(crate) struct Global {
    /// A TOML file to lay over the defaults. May be given several times: later files go over earlier ones.
    ///
    /// Variables of the environment go over files: `HEADWATER__STATE__MEMORY=1GiB` sets `state.memory`.
    #[arg(long, value_name = "FILE", global = true)]
    config: Vec<PathBuf>,
    /// Sets one key, over files and environment. May be given several times.
    ///
    /// Values are written without quotes, arrays with commas: --set state.memory=1GiB --set state.attributes=query,author
    #[arg(long, value_name = "KEY=VALUE", global = true, value_parser = assignment)]
    set: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Backtest(backtest::Arguments),
    Champion(champion::Arguments),
    Config(config::Arguments),
    Demo(demo::Arguments),
    Dlq(dlq::Arguments),
    Explain(explain::Arguments),
    Inspect(inspect::Arguments),
    Models(models::Arguments),
    Produce(produce::Arguments),
    Replay(replay::Arguments),
    ReplayScore(replay_score::Arguments),
    Run(run::Arguments),
    Topics(topics::Arguments),
    Train(train::Arguments),
}

/// Puts what every command goes by behind the command, in its order: of what stands before it and behind it, clap would keep the last alone.
fn gathered(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let (mut all, mut global) = (Vec::new(), Vec::new());
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next_if(|argument| argument != "--") {
        let text = argument.to_string_lossy();
        let is = |name: &str| text.strip_prefix(name).map(|rest| rest.starts_with('='));
        match is("--set").or_else(|| is("--config")) {
            // The value stands beside it, or is the next.
            Some(true) => global.push(argument),
            Some(false) if text == "--set" || text == "--config" => {
                global.push(argument);
                global.extend(arguments.next());
            }
            Some(false) | None => all.push(argument),
        }
    }
    all.extend(global);
    all.extend(arguments);
    all
}

/// Reads the command line and does what it says.
pub(crate) fn main() -> ExitCode {
    let line = match CommandLine::try_parse_from(gathered(std::env::args_os())) {
        Ok(line) => line,
        Err(error) => {
            // Help and version come this way too.
            drop(error.print());
            let code = if error.use_stderr() {
                Exit::Configuration.code()
            } else {
                0
            };
            return ExitCode::from(code);
        }
    };
    let global = &line.global;
    let done = match line.command {
        Command::Backtest(arguments) => backtest::run(&arguments, global),
        Command::Champion(arguments) => champion::run(&arguments, global),
        Command::Config(arguments) => config::run(&arguments, global),
        Command::Demo(arguments) => demo::run(&arguments, global),
        Command::Dlq(arguments) => dlq::run(&arguments, global),
        Command::Explain(arguments) => explain::run(&arguments, global),
        Command::Inspect(arguments) => inspect::run(&arguments, global),
        Command::Models(arguments) => models::run(&arguments, global),
        Command::Produce(arguments) => produce::run(&arguments, global),
        Command::Replay(arguments) => replay::run(&arguments, global),
        Command::ReplayScore(arguments) => replay_score::run(&arguments, global),
        Command::Run(arguments) => run::run(&arguments, global),
        Command::Topics(arguments) => topics::run(&arguments, global),
        Command::Train(arguments) => train::run(&arguments, global),
    };
    match done {
        Ok(()) => ExitCode::from(Exit::Drained.code()),
        Err(failure) => {
            say(&format!("headwater: {}", failure.words));
            ExitCode::from(failure.exit.code())
        }
    }
}

/// Why a command failed, and how the process ends for it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) words: String,
}

impl Failure {
    /// A failure in these words.
    pub(crate) fn new(exit: Exit, words: impl Into<String>) -> Self {
        Self {
            exit,
            words: words.into(),
        }
    }

    /// A failure in an error's words and those of all its sources.
    pub(crate) fn of(exit: Exit, error: &dyn std::error::Error) -> Self {
        Self::new(exit, headwater_consumers::words(error))
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Self::of(error.exit(), &error)
    }
}

impl From<StopError> for Failure {
    fn from(error: StopError) -> Self {
        Self::of(error.exit(), &error)
    }
}

impl From<headwater_consumers::log::LogError> for Failure {
    fn from(error: headwater_consumers::log::LogError) -> Self {
        Self::of(Exit::of_log(&error), &error)
    }
}

impl Global {
    /// Whether the command line names a file or a key.
    pub(crate) fn is_given(&self) -> bool {
        !self.config.is_empty() || !self.set.is_empty()
    }

    /// The configuration of the layers that were named.
    pub(crate) fn load(&self) -> Result<Loaded, Failure> {
        self.load_files(&self.config)
    }

    /// The same with these files.
    pub(crate) fn load_files(&self, files: &[PathBuf]) -> Result<Loaded, Failure> {
        let mut environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
        // Given last, a variable goes over one of the same name.
        environment.extend(
            self.set
                .iter()
                .map(|(key, value)| (variable(key).into(), value.into())),
        );
        let sources = Sources {
            files,
            environment: &environment,
        };
        Config::load(&sources).map_err(|error| self.explain(&error))
    }

    fn explain(&self, error: &LoadError) -> Failure {
        let mut words = "the configuration is wrong".to_owned();
        for problem in error.problems() {
            words.push_str("\n  ");
            words.push_str(&self.in_own_words(&problem.to_string()));
        }
        Failure::new(Exit::Configuration, words)
    }

    /// `--set state.memory` where the configuration says `HEADWATER__STATE__MEMORY`, if it came from there.
    pub(crate) fn in_own_words(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (key, _) in &self.set {
            text = text.replace(&variable(key), &format!("--set {key}"));
        }
        text
    }
}

/// The variable of the environment that sets a key.
fn variable(key: &str) -> String {
    format!(
        "HEADWATER__{}",
        match key.strip_prefix("kafka.client.") {
            Some(property) => format!(
                "KAFKA__CLIENT__{}",
                property.trim_matches('"').replace('.', "_").to_uppercase()
            ),
            None => key.replace('.', "__").to_uppercase(),
        }
    )
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("a key and a value with = between them, such as state.memory=1GiB")?;
    let key = key.trim();
    if key.is_empty() {
        return Err("no key before =".to_owned());
    }
    Ok((key.to_owned(), value.trim().to_owned()))
}

/// Writes a line of an answer. Whoever does not listen any more (`| head`) ends the command in silence.
#[expect(
    clippy::exit,
    reason = "a closed pipe leaves nobody to tell, as with any Unix filter"
)]
pub(crate) fn print(line: &str) {
    use std::io::Write as _;
    if writeln!(std::io::stdout().lock(), "{line}").is_err() {
        std::process::exit(0);
    }
}

/// Writes a line beside the answer.
#[expect(clippy::print_stderr, reason = "the command line is where people read")]
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

#[cfg(test)]
mod tests;
