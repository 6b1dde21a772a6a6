//! `headwater inspect`: what is known of a user.

use clap::Subcommand;
use headwater::Exit;
use headwater::inspect::{CountView, UserView, from_folder};
use headwater::moment;
use headwater_config::Config;

use super::http::{escape, get};
use super::table::{table, tame};
use super::{Failure, Format, Global, print};

/// Look at what Headwater knows.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show a user: recent behaviors, key-vectors, sequences, standing requests, rows whose labels are open.
    ///
    /// Asks the daemon that runs on this state folder, and the owner that it names; or any daemon, by --address. If none runs on the folder,
    /// reads the folder itself, which is as old as its last write-back.
    #[command(after_long_help = "\
Examples:
  headwater --config hw.toml inspect user u-42
  headwater inspect user u-42 --address 10.0.0.7:9464 --format json | jq '.recent[0]'

recent holds the last behaviors with their exact times; what leaves it is counted in history: for each slot (item, and the configured
attributes) the distinct keys, with counts by kind and time cell.")]
    User {
        /// The user's id.
        id: String,
        /// Where a daemon's HTTP listens: host:port.
        #[arg(long)]
        address: Option<String>,
        /// Keys of each slot at most, those that were last active.
        #[arg(long, default_value_t = 20)]
        entries: usize,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<(), Failure> {
    let Command::User {
        id,
        address,
        entries,
        format,
    } = &arguments.command;
    let view = match address {
        Some(address) => ask(address, id, *entries)?,
        None => find(&global.load()?.config, id, *entries)?,
    };
    let view = view.ok_or_else(|| {
        Failure::new(
            Exit::Configuration,
            format!("nothing is known of user `{id}`"),
        )
    })?;
    match format {
        Format::Json => {
            print(&serde_json::to_string_pretty(&view).expect("invariant: a view is plain JSON"));
        }
        Format::Text => show(&view),
    }
    Ok(())
}

fn find(config: &Config, id: &str, entries: usize) -> Result<Option<UserView>, Failure> {
    match from_folder(config, id, entries) {
        Ok(view) => Ok(view),
        Err(error) if error.is_in_use() => match config.admin.address {
            Some(address) => ask(&address.to_string(), id, entries),
            None => Err(Failure::new(
                Exit::Configuration,
                "a daemon has the state folder, and `admin.address` is empty: it cannot be asked",
            )),
        },
        Err(error) => Err(Failure::of(error.exit(), &error)),
    }
}

fn ask(address: &str, id: &str, entries: usize) -> Result<Option<UserView>, Failure> {
    let answer = get(address, &format!("/users/{}?entries={entries}", escape(id)))?;
    match answer.status {
        200 => serde_json::from_str(&answer.body)
            .map(Some)
            .map_err(|error| {
                Failure::new(
                    Exit::TryAgain,
                    format!("{address}: not an answer of this version: {error}"),
                )
            }),
        404 => Ok(None),
        status => Err(Failure::new(
            Exit::TryAgain,
            format!("{address}: {status}: {}", answer.body.trim()),
        )),
    }
}

fn show(view: &UserView) {
    let counted = view.offset.map_or_else(String::new, |offset| {
        format!(", behaviors before offset {offset} counted")
    });
    print(&format!(
        "user {}: partition {}{counted}",
        tame(&view.user_id),
        view.partition
    ));
    print(&format!(
        "\nrecent: {} behaviors, newest first (UTC)",
        view.recent.len()
    ));
    let rows: Vec<Vec<String>> = view
        .recent
        .iter()
        .map(|behavior| {
            let attributes: Vec<_> = behavior
                .attributes
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            vec![
                moment(behavior.time),
                behavior.kind.clone(),
                behavior.scenario.clone(),
                behavior.item_id.clone().unwrap_or_default(),
                behavior
                    .value
                    .map_or_else(String::new, |value| value.to_string()),
                attributes.join(" "),
            ]
        })
        .collect();
    print(
        table(
            &["time", "kind", "scenario", "item", ">value", "attributes"],
            &rows,
        )
        .trim_end(),
    );
    for slot in &view.history {
        let shown = slot.entries.len();
        let of = if shown < slot.keys as usize {
            format!(", the {shown} last active")
        } else {
            String::new()
        };
        print(&format!(
            "\nhistory by {}: {} keys{of}",
            slot.slot, slot.keys
        ));
        let rows: Vec<Vec<String>> = slot
            .entries
            .iter()
            .map(|entry| {
                vec![
                    entry.key.clone(),
                    moment(entry.first),
                    moment(entry.last),
                    sums(&entry.counts),
                ]
            })
            .collect();
        print(table(&["key", "first", "last", "counts"], &rows).trim_end());
    }
    if view.forgotten > 0 {
        print(&format!(
            "\nforgotten by retention: {} keys",
            view.forgotten
        ));
    }
    if !view.sequences.is_empty() {
        print("\nsequences");
        let rows: Vec<Vec<String>> = view
            .sequences
            .iter()
            .map(|sequence| {
                vec![
                    sequence.sequence.clone(),
                    sequence.start.to_string(),
                    sequence.length.to_string(),
                    sequence.newest.map_or_else(String::new, moment),
                ]
            })
            .collect();
        print(table(&["sequence", ">left", ">held", "newest"], &rows).trim_end());
    }
    if !view.standing.is_empty() {
        print("\nstanding requests");
        let rows: Vec<Vec<String>> = view
            .standing
            .iter()
            .map(|standing| {
                let due = standing.due.map_or_else(String::new, moment);
                vec![standing.request_id.clone(), moment(standing.expires), due]
            })
            .collect();
        print(table(&["request", "expires", "due"], &rows).trim_end());
    }
    if !view.open_rows.is_empty() {
        print("\nrows whose labels are open");
        let rows: Vec<Vec<String>> = view
            .open_rows
            .iter()
            .map(|row| {
                let (candidates, shown) = (row.candidates.to_string(), row.shown.len().to_string());
                vec![row.request_id.clone(), moment(row.time), candidates, shown]
            })
            .collect();
        print(table(&["request", "scored", ">candidates", ">shown"], &rows).trim_end());
    }
}

/// Counts by kind over all cells, in the order in which the kinds come first: `click 3, impression 20`.
fn sums(counts: &[CountView]) -> String {
    let mut sums: Vec<(&str, u64)> = Vec::new();
    for count in counts {
        match sums.iter_mut().find(|(kind, _)| *kind == count.kind) {
            Some((_, sum)) => *sum += u64::from(count.count),
            None => sums.push((&count.kind, u64::from(count.count))),
        }
    }
    let words: Vec<_> = sums
        .iter()
        .map(|(kind, sum)| format!("{kind} {sum}"))
        .collect();
    words.join(", ")
}
