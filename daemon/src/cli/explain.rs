//! `headwater explain`: the row that made a score, feature by feature.

use headwater::Exit;
use headwater::explain::{Evidence, Explanation, find};
use headwater_config::LogKind;
use serde_json::Value;

use super::http::{escape, get};
use super::table::{moment, table};
use super::{Failure, Format, Global, print};

/// Show the row that made a score, feature by feature.
///
/// Finds the request's answers in the scores topic and its rows in the feature log, by reading both from their end backwards. A score of
/// a behavior (`scoring.on_behavior`) has the behavior's event id as its request id.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  headwater --config hw.toml explain r-1207
  headwater explain r-1207 --address 127.0.0.1:9464        ask a running daemon (the embedded log belongs to it)
  headwater --config hw.toml explain r-1207 --format json | jq '.rows[0].record'")]
pub(crate) struct Arguments {
    /// The request's id.
    request_id: String,
    /// Where a daemon's HTTP listens: host:port. Without it the topics are read from here.
    #[arg(long)]
    address: Option<String>,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<(), Failure> {
    let id = &arguments.request_id;
    let found = match &arguments.address {
        Some(address) => ask(address, id)?,
        None => look(global, id)?,
    };
    if found.answers.is_empty() && found.rows.is_empty() {
        let words = format!(
            "no request `{id}` in the scores and the feature log: never answered, or older than what the topics keep"
        );
        return Err(Failure::new(Exit::Configuration, words));
    }
    match arguments.format {
        Format::Json => print(
            &serde_json::to_string_pretty(&found).expect("invariant: an explanation is plain JSON"),
        ),
        Format::Text => show(&found),
    }
    Ok(())
}

fn look(global: &Global, id: &str) -> Result<Explanation, Failure> {
    let config = global.load()?.config;
    headwater::telemetry::init(&config.telemetry);
    match headwater::daemon::open_log(&config) {
        Ok(log) => Ok(find(&config, &*log, id)?),
        // The embedded log belongs to the daemon that runs.
        Err(error @ headwater::StartError::LogFolder { .. }) => match config.admin.address {
            Some(address) if config.log.kind == LogKind::Embedded => ask(&address.to_string(), id),
            Some(_) | None => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

fn ask(address: &str, id: &str) -> Result<Explanation, Failure> {
    let answer = get(address, &format!("/explain/{}", escape(id)))?;
    if answer.status != 200 {
        let words = format!("{address}: {}: {}", answer.status, answer.body.trim());
        return Err(Failure::new(Exit::TryAgain, words));
    }
    serde_json::from_str(&answer.body).map_err(|error| {
        Failure::new(
            Exit::TryAgain,
            format!("{address}: not an answer of this version: {error}"),
        )
    })
}

fn show(found: &Explanation) {
    for answer in &found.answers {
        show_answer(answer);
    }
    if found.rows.is_empty() {
        print(
            "\nno rows: the feature log is off (scoring.feature_log), or older than what the topic keeps",
        );
    }
    for row in &found.rows {
        print(&format!(
            "\nrow at {}-{} of {}, made by {}",
            row.partition, row.offset, row.topic, row.id
        ));
        show_row(&row.record);
    }
}

fn show_answer(answer: &Evidence) {
    let text = |key: &str| answer.record.get(key).map_or_else(String::new, plain);
    let time = answer
        .record
        .get("time")
        .and_then(Value::as_i64)
        .map_or_else(String::new, moment);
    print(&format!(
        "request {} of user {} in scenario {}: {} at {time} UTC by model {}",
        text("request_id"),
        text("user_id"),
        text("scenario"),
        text("status"),
        text("model")
    ));
    print(&format!(
        "answer at {}-{} of {}, made by {}; state {}, item state {}{}",
        answer.partition,
        answer.offset,
        answer.topic,
        answer.id,
        text("state"),
        text("item_state"),
        answer
            .record
            .get("degraded")
            .map_or_else(String::new, |why| format!("; degraded {why}")),
    ));
    let rows: Vec<Vec<String>> = answer
        .record
        .get("items")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|item| {
            let part = |key: &str| item.get(key).map_or_else(String::new, plain);
            vec![part("item_id"), part("score"), part("tasks")]
        })
        .collect();
    if !rows.is_empty() {
        print(table(&["item", ">score", "tasks"], &rows).trim_end());
    }
}

/// A record's fields, one a line; lists of numbers with their places.
fn show_row(record: &Value) {
    let mut rows = Vec::new();
    flatten("", record, &mut rows);
    print(table(&["feature", ">value"], &rows).trim_end());
}

fn flatten(name: &str, value: &Value, rows: &mut Vec<Vec<String>>) {
    let inner = |key: &str| {
        if name.is_empty() {
            key.to_owned()
        } else {
            format!("{name}.{key}")
        }
    };
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                flatten(&inner(key), value, rows);
            }
        }
        Value::Array(values) => {
            for (place, value) in values.iter().enumerate() {
                flatten(&format!("{name}[{place}]"), value, rows);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            rows.push(vec![name.to_owned(), plain(value)]);
        }
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value.to_string()
        }
    }
}
