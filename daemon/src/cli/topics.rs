//! `headwater topics`: makes the topics as they must be, and says of those that are there whether they are right.

use clap::Subcommand;
use headwater::topics::{Faults, judge, misfit, specs};
use headwater_config::{Cleanup, Topic};
use headwater_consumers::log::{Created, Log, TopicSpec};
use serde_json::json;

use super::{Failure, Format, Global, print, say};
use headwater::Exit;

/// Make the topics.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make every topic that is missing, with the right partition count, replication and cleanup policy, and check the others.
    ///
    /// Topics that are there are never changed: topics.partitions is for those that are made, and what is there with another count is
    /// named. Exit code 2 if one of them is not as it must be, or if those that are missing would have another partition count than the
    /// behaviors topic: then nothing is made. Names, partitions and replication are in [topics]; partitions are for ever, since users
    /// would move to others' state.
    #[command(after_long_help = "\
Examples:
  headwater --config hw.toml topics create --dry-run
  headwater --config hw.toml topics create --set topics.partitions=32 --set topics.replication_factor=3")]
    Create {
        /// Say what would be made, and make nothing.
        #[arg(long)]
        dry_run: bool,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
}

struct Line {
    spec: TopicSpec,
    name: String,
    outcome: &'static str,
    partitions: i32,
    faults: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<(), Failure> {
    let Command::Create { dry_run, format } = &arguments.command;
    let config = global.load()?.config;
    headwater::telemetry::init(&config.telemetry);
    let log = headwater::daemon::open_log(&config)?;
    if let Some(fault) = misfit(&config, &*log)? {
        let words = Faults(vec![fault]).to_string();
        return Err(Failure::new(Exit::Configuration, words));
    }
    let mut lines = Vec::new();
    let mut aligned = None;
    for spec in specs(&config) {
        let line = one(
            &*log,
            spec,
            config.topic_name(spec.topic),
            *dry_run,
            aligned,
        )?;
        // The behaviors topic comes first: the others are held against its count.
        aligned.get_or_insert(line.partitions);
        lines.push(line);
    }
    match format {
        Format::Text => lines.iter().for_each(show),
        Format::Json => print(&format!(
            "{:#}",
            json!(lines.iter().map(as_json).collect::<Vec<_>>())
        )),
    }
    let others: Vec<String> = lines
        .iter()
        // How many partitions the fleet has is nobody's setting.
        .filter(|line| line.spec.topic != Topic::Fleet && line.partitions != line.spec.partitions)
        .map(|line| format!("{} has {}", line.name, line.partitions))
        .collect();
    if !others.is_empty() {
        say(&format!(
            "topics.partitions is {}, but topics that are there stay as they are: {}",
            config.topics.partitions,
            others.join(", ")
        ));
    }
    let wrong = lines.iter().filter(|line| !line.faults.is_empty()).count();
    if wrong > 0 {
        let words = format!("{wrong} of {} topics are not as they must be", lines.len());
        return Err(Failure::new(Exit::Configuration, words));
    }
    Ok(())
}

fn one(
    log: &dyn Log,
    spec: TopicSpec,
    name: String,
    dry_run: bool,
    aligned: Option<i32>,
) -> Result<Line, Failure> {
    let mut line = Line {
        spec,
        name,
        outcome: "is there",
        partitions: spec.partitions,
        faults: Vec::new(),
    };
    match log.describe(spec.topic)? {
        Some(found) => {
            line.partitions = found.partitions;
            line.faults = judge(
                spec.topic,
                &line.name,
                &found,
                aligned.unwrap_or(found.partitions),
            );
        }
        None if dry_run => line.outcome = "would be made",
        None => {
            line.outcome = match log.create(&spec)? {
                Created::Made => "made",
                Created::Existed => "is there",
            }
        }
    }
    Ok(line)
}

fn policy(spec: &TopicSpec) -> &'static str {
    match spec.topic.cleanup() {
        Cleanup::Delete => "delete",
        Cleanup::Compact => "compact",
    }
}

fn show(line: &Line) {
    print(&format!(
        "{:<40} {:>4} partitions  {:<8} {}",
        line.name,
        line.partitions,
        policy(&line.spec),
        line.outcome
    ));
    for fault in &line.faults {
        print(&format!("    WRONG: it {fault}"));
    }
}

fn as_json(line: &Line) -> serde_json::Value {
    json!({
        "topic": line.name,
        "key": line.spec.topic.key(),
        "partitions": line.partitions,
        "partitions_configured": line.spec.partitions,
        "cleanup_policy": policy(&line.spec),
        "outcome": line.outcome,
        "faults": line.faults,
    })
}
