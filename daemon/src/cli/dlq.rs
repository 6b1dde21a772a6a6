//! `headwater dlq`: dead letters, looked at and sent again.

use clap::Subcommand;
use headwater::Exit;
use headwater::dead_letters::{DeadLetter, Place, Refusal, read, redrive, target};
use headwater::moment;
use headwater_config::Config;
use headwater_consumers::log::{Log, TopicPartition};
use serde_json::json;

use super::table::{age, readable, table};
use super::{Failure, Format, Global, print, say};

/// Look at records that could not be read, and send them again.
///
/// A record that cannot be read stops nobody: it goes to the dead-letters topic as it was, with the reason in its headers.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
struct Filter {
    /// Only those with this reason, such as `unknown_kind`.
    #[arg(long)]
    reason: Option<String>,
    /// Only those of this topic, by its name on the brokers.
    #[arg(long)]
    topic: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List dead letters: where each came from, why it could not be read, how old it is.
    #[command(after_long_help = "\
Examples:
  headwater --config hw.toml dlq list
  headwater --config hw.toml dlq list --reason unknown_kind --format json | jq -r .id")]
    List {
        #[command(flatten)]
        filter: Filter,
        /// The newest so many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// `json` is one object a line.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Show one dead letter whole.
    #[command(after_long_help = "\
Example:
  headwater --config hw.toml dlq show 3-1207       partition 3, offset 1207 of the dead-letters topic: the id that `list` shows")]
    Show {
        /// Its id: partition-offset.
        id: Place,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Send dead letters to their source topics again, as they were, once what was wrong has been mended.
    ///
    /// Each goes to the partition that it came from, with the header `headwater-redrive`; that it was sent is noted beside it. One that was
    /// sent before, or of which only the beginning was kept, is refused and named; the others go. Exit code 2 if any was refused; of those
    /// that a filter found, having been sent before counts only if there is nothing else to send.
    #[command(after_long_help = "\
Examples:
  headwater --config hw.toml dlq redrive --reason unknown_kind --dry-run
  headwater --config hw.toml dlq redrive --reason unknown_kind
  headwater --config hw.toml dlq redrive 3-1207 3-1208 --again")]
    Redrive {
        /// Ids of those to send.
        #[arg(required_unless_present_any = ["reason", "topic", "all"])]
        ids: Vec<Place>,
        #[command(flatten)]
        filter: Filter,
        /// All there are.
        #[arg(long)]
        all: bool,
        /// Also those that were sent before.
        #[arg(long)]
        again: bool,
        /// Say what would be sent, and send nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<(), Failure> {
    let config = global.load()?.config;
    headwater::telemetry::init(&config.telemetry);
    let log = headwater::daemon::open_log(&config)?;
    match &arguments.command {
        Command::List {
            filter,
            limit,
            format,
        } => list(&config, &*log, filter, *limit, *format),
        Command::Show { id, format } => show(&config, &*log, *id, *format),
        Command::Redrive {
            ids,
            filter,
            again,
            dry_run,
            all: _,
        } => send_again(&config, &*log, (ids, filter), *again, *dry_run),
    }
}

impl Filter {
    fn takes(&self, letter: &DeadLetter) -> bool {
        self.reason
            .as_ref()
            .is_none_or(|reason| *reason == letter.reason)
            && self
                .topic
                .as_ref()
                .is_none_or(|topic| *topic == letter.source)
    }
}

fn list(
    config: &Config,
    log: &dyn Log,
    filter: &Filter,
    limit: usize,
    format: Format,
) -> Result<(), Failure> {
    let mut letters = read(config, log, &mut |letter| filter.takes(letter))?;
    letters.sort_by_key(|letter| (letter.time, letter.place));
    let left_out = letters.len().saturating_sub(limit);
    let letters = &letters[left_out..];
    match format {
        Format::Json => letters
            .iter()
            .for_each(|letter| print(&as_json(letter, false).to_string())),
        Format::Text => {
            let now = headwater::now_ms();
            let rows: Vec<Vec<String>> = letters
                .iter()
                .map(|letter| {
                    let (partition, offset) = letter
                        .source_at
                        .map_or_else(Default::default, |(partition, offset)| {
                            (partition.to_string(), offset.to_string())
                        });
                    vec![
                        letter.place.to_string(),
                        letter.source.clone(),
                        partition,
                        offset,
                        letter.reason.clone(),
                        age(now - letter.time),
                        if letter.redriven {
                            "sent again".to_owned()
                        } else {
                            String::new()
                        },
                    ]
                })
                .collect();
            let headings = ["id", "topic", ">partition", ">offset", "reason", ">age", ""];
            print(table(&headings, &rows).trim_end());
        }
    }
    if left_out > 0 {
        say(&format!("{left_out} older ones are not shown (--limit)"));
    }
    Ok(())
}

fn show(config: &Config, log: &dyn Log, id: Place, format: Format) -> Result<(), Failure> {
    let letters = read(config, log, &mut |letter| letter.place == id)?;
    let Some(letter) = letters.first() else {
        return Err(Failure::new(
            Exit::Configuration,
            format!("there is no dead letter {id}"),
        ));
    };
    if format == Format::Json {
        print(&format!("{:#}", as_json(letter, true)));
        return Ok(());
    }
    let at = letter
        .source_at
        .map_or_else(String::new, |(partition, offset)| {
            format!(", partition {partition}, offset {offset}")
        });
    print(&format!(
        "dead letter {id}{}",
        if letter.redriven { ", sent again" } else { "" }
    ));
    print(&format!("from     {}{at}", letter.source));
    print(&format!("reason   {}: {}", letter.reason, letter.detail));
    print(&format!("time     {} UTC", moment(letter.time)));
    print(&format!(
        "key      {}",
        letter
            .key
            .as_deref()
            .map_or_else(|| "(null)".to_owned(), readable)
    ));
    for (name, value) in &letter.headers {
        print(&format!("header   {name}: {}", readable(value)));
    }
    if let Some(cut) = &letter.cut {
        print(&format!("cut      only the beginning was kept: {cut}"));
    }
    print("value");
    print(
        &letter
            .value
            .as_deref()
            .map_or_else(|| "(null)".to_owned(), readable),
    );
    Ok(())
}

fn as_json(letter: &DeadLetter, whole: bool) -> serde_json::Value {
    let mut object = json!({
        "id": letter.place,
        "topic": letter.source,
        "partition": letter.source_at.map(|(partition, _)| partition),
        "offset": letter.source_at.map(|(_, offset)| offset),
        "reason": letter.reason,
        "detail": letter.detail,
        "time": letter.time,
        "redriven": letter.redriven,
    });
    if whole {
        object["key"] = json!(letter.key.as_deref().map(readable));
        object["value"] = json!(letter.value.as_deref().map(readable));
        object["cut"] = json!(letter.cut);
        object["headers"] = letter
            .headers
            .iter()
            .map(|(name, value)| json!([name, readable(value)]))
            .collect();
    }
    object
}

fn send_again(
    config: &Config,
    log: &dyn Log,
    (ids, filter): (&[Place], &Filter),
    again: bool,
    dry_run: bool,
) -> Result<(), Failure> {
    let letters = read(config, log, &mut |letter| {
        (ids.is_empty() || ids.contains(&letter.place)) && filter.takes(letter)
    })?;
    if let Some(missing) = ids
        .iter()
        .find(|id| !letters.iter().any(|letter| letter.place == **id))
    {
        return Err(Failure::new(
            Exit::Configuration,
            format!("there is no such dead letter: {missing}"),
        ));
    }
    let mut to_send: Vec<(&DeadLetter, TopicPartition)> = Vec::new();
    let (mut refused, mut sent_before) = (0, 0);
    for letter in &letters {
        match target(config, letter, again) {
            Ok(to) => to_send.push((letter, to)),
            Err(refusal) => {
                refused += 1;
                sent_before += usize::from(refusal == Refusal::Redriven);
                say(&format!("{}: not sent: {refusal}", letter.place));
            }
        }
    }
    if dry_run {
        for (letter, to) in &to_send {
            print(&format!(
                "{} would go to {} partition {}",
                letter.place, letter.source, to.partition
            ));
        }
    } else {
        redrive(log, &to_send)?;
    }
    let would = if dry_run { "would be sent" } else { "sent" };
    print(&format!("{} {would}, {refused} refused", to_send.len()));
    // A filter that is used again finds those of the last time too.
    let only_passed_over = ids.is_empty() && !to_send.is_empty() && refused == sent_before;
    if refused > 0 && !only_passed_over {
        return Err(Failure::new(
            Exit::Configuration,
            format!("{refused} of {} were refused", letters.len()),
        ));
    }
    Ok(())
}
