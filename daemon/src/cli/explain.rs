//! `headwater explain`: the row that made a score, feature by feature.

use headwater::Exit;
use headwater::explain::{
    Answered, ExplainError, Explanation, FeatureView, RowsView, Selection, find,
};
use headwater::moment;
use headwater_config::LogKind;
use serde_json::Value;

use super::http::{escape, get};
use super::table::{table, tame};
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
  headwater --config hw.toml explain r-1207 --item i-7 --format json | jq '.logged[0].rows.rows[0].scores'

What the columns of a term say: of its trials and positives, what rate was expected of them by the terms before, and what the term adds to
the score's log-odds. Their sum is the score: 1 / (1 + exp(-log_odds)).")]
pub(crate) struct Arguments {
    /// The request's id.
    request_id: String,
    /// This candidate alone.
    #[arg(long)]
    item: Option<String>,
    /// The best so many candidates, by the first task's score.
    #[arg(long, default_value_t = 3)]
    best: usize,
    /// Where a daemon's HTTP listens: host:port. Without it the topics are read from here.
    #[arg(long)]
    address: Option<String>,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl From<ExplainError> for Failure {
    fn from(error: ExplainError) -> Self {
        let exit = match &error {
            ExplainError::Log(error) => Exit::of_log(error),
            ExplainError::Model(error) => error.exit(),
            ExplainError::Schema(_) => Exit::Configuration,
            ExplainError::Row { .. } => Exit::Format,
        };
        Self::of(exit, &error)
    }
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<(), Failure> {
    let id = &arguments.request_id;
    let found = match &arguments.address {
        Some(address) => ask(address, arguments)?,
        None => look(global, arguments)?,
    };
    let Some(found) = found.found() else {
        return Err(Failure::new(Exit::Configuration, Explanation::missing(id)));
    };
    match arguments.format {
        Format::Json => print(
            &serde_json::to_string_pretty(&found).expect("invariant: an explanation is plain JSON"),
        ),
        Format::Text => show(&found, arguments),
    }
    Ok(())
}

fn look(global: &Global, arguments: &Arguments) -> Result<Explanation, Failure> {
    let config = global.load()?.config;
    headwater::telemetry::init(&config.telemetry);
    match headwater::daemon::open_log(&config) {
        Ok(log) => {
            let selection = Selection {
                items: arguments.item.iter().cloned().collect(),
                best: arguments.best,
            };
            find(&config, &*log, &arguments.request_id, &selection).map_err(Failure::from)
        }
        // The embedded log belongs to the daemon that runs.
        Err(error @ headwater::StartError::LogFolder { .. }) => match config.admin.address {
            Some(address) if config.log.kind == LogKind::Embedded => {
                ask(&address.to_string(), arguments)
            }
            Some(_) | None => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

fn ask(address: &str, arguments: &Arguments) -> Result<Explanation, Failure> {
    let item = arguments.item.as_ref();
    let item = item.map_or_else(String::new, |item| format!("&item={}", escape(item)));
    let path = format!(
        "/explain/{}?best={}{item}",
        escape(&arguments.request_id),
        arguments.best
    );
    let answer = get(address, &path)?;
    if answer.status == 404 {
        return Ok(Explanation::default());
    }
    if answer.status != 200 {
        let words = format!("{address}: {}: {}", answer.status, answer.body.trim());
        return Err(Failure::new(Exit::TryAgain, words));
    }
    serde_json::from_str(&answer.body).map_err(|error| {
        let words = format!("{address}: not an answer of this version: {error}");
        Failure::new(Exit::TryAgain, words)
    })
}

fn show(found: &Explanation, arguments: &Arguments) {
    for answer in &found.answers {
        show_answer(answer, arguments);
    }
    if found.logged.is_empty() {
        print(&format!("\nno rows: {}", why_no_rows(&found.answers)));
    }
    for logged in &found.logged {
        let at = &logged.at;
        print(&format!(
            "\nrows at {}-{} of {}, made by {}",
            at.partition,
            at.offset,
            at.topic,
            tame(&at.id)
        ));
        if let Some(rows) = &logged.rows {
            show_rows(rows);
        }
        if let Some((why, record)) = &logged.unreadable {
            print(&format!("{why}\n{record:#}"));
        }
    }
}

/// Only what was scored has rows.
fn why_no_rows(answers: &[Answered]) -> String {
    let status = |answer: &Answered| answer.record.get("status").map_or_else(String::new, plain);
    let has_items = |answer: &Answered| {
        let items = answer.record.get("items").and_then(Value::as_array);
        items.is_none_or(|items| !items.is_empty())
    };
    match answers.first().map(status) {
        Some(_)
            if !answers.iter().any(has_items)
                && answers.iter().all(|answer| status(answer) == "ok") =>
        {
            "the request has no candidates".to_owned()
        }
        Some(first) if answers.iter().all(|answer| status(answer) != "ok") => {
            format!("an answer with the status {first} has none")
        }
        Some(_) | None => {
            "the feature log is off (scoring.feature_log), or older than what the topic keeps"
                .to_owned()
        }
    }
}

/// The candidates of an answer that were asked for, and how many others it has.
fn chosen<'a>(items: &'a [Value], item: Option<&str>, best: usize) -> (Vec<&'a Value>, usize) {
    let mut chosen: Vec<&Value> = items.iter().collect();
    match item {
        Some(wanted) => {
            chosen.retain(|item| item.get("item_id").and_then(Value::as_str) == Some(wanted));
        }
        None => {
            let score = |item: &Value| item.get("score").and_then(Value::as_f64).unwrap_or(0.0);
            chosen.sort_by(|one, other| score(other).total_cmp(&score(one)));
            chosen.truncate(best);
        }
    }
    let others = items.len() - chosen.len();
    (chosen, others)
}

fn show_answer(answer: &Answered, arguments: &Arguments) {
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
        answer.at.partition,
        answer.at.offset,
        answer.at.topic,
        tame(&answer.at.id),
        text("state"),
        text("item_state"),
        answer
            .record
            .get("degraded")
            .map_or_else(String::new, |why| format!("; degraded {why}")),
    ));
    let items = answer.record.get("items").and_then(Value::as_array);
    let items = items.map_or(&[][..], Vec::as_slice);
    let (chosen, others) = chosen(items, arguments.item.as_deref(), arguments.best);
    let rows: Vec<Vec<String>> = chosen
        .into_iter()
        .map(|item| {
            let part = |key: &str| item.get(key).map_or_else(String::new, plain);
            vec![part("item_id"), part("score"), part("tasks")]
        })
        .collect();
    if !rows.is_empty() {
        print(table(&["item", ">score", "tasks"], &rows).trim_end());
    }
    if others > 0 {
        print(&format!("  (and {others} more)"));
    }
}

fn show_rows(view: &RowsView) {
    print(&format!(
        "{} candidates at {} UTC in scenario {}, model {}, schema {}, user {}, item state {}{}",
        view.candidates,
        moment(view.time),
        tame(&view.scenario),
        view.model,
        view.schema,
        view.user,
        view.item_state,
        view.embeddings
            .as_ref()
            .map_or_else(String::new, |encoder| format!(
                ", vectors of texts {encoder}"
            ))
    ));
    for of in &view.sequences {
        print(&format!(
            "sequence {}: {} behaviors, {} before them; the vector is made of the first {}",
            of.name, of.length, of.start, of.used
        ));
    }
    print("\nfeatures of all candidates");
    show_features(&view.shared);
    for row in &view.rows {
        print(&format!("\nitem {}", tame(&row.item_id)));
        show_features(&row.features);
        for score in &row.scores {
            let same = match score.same {
                Some(true) => "computed again from the row: the same to the bit",
                Some(false) => {
                    "computed again from the row: ANOTHER VALUE; the scorer is not the one that made it"
                }
                None => {
                    "not computed again: the model that made it is not the one of scoring.model"
                }
            };
            print(&format!("\n  {} {:.6}  ({same})", score.task, score.score));
            let mut rows: Vec<Vec<String>> = score
                .terms
                .iter()
                .map(|term| {
                    vec![
                        term.term.clone(),
                        number(term.trials),
                        number(term.positives),
                        number(term.expected_rate),
                        format!("{:+.4}", term.log_odds),
                    ]
                })
                .collect();
            rows.push(vec![
                "sum".to_owned(),
                String::new(),
                String::new(),
                String::new(),
                format!("{:+.4}", score.log_odds),
            ]);
            if let Some(adds) = score.model_adds {
                let blank = String::new;
                let adds = format!("{adds:+.4}");
                rows.push(vec![view.model.clone(), blank(), blank(), blank(), adds]);
            }
            let headings = [
                "term",
                ">trials",
                ">positives",
                ">expected rate",
                ">log-odds",
            ];
            print(table(&headings, &rows).trim_end());
        }
    }
}

/// Features that say something: 0 is what nothing happened looks like.
fn show_features(features: &[FeatureView]) {
    let (said, silent): (Vec<_>, Vec<_>) =
        features.iter().partition(|feature| feature.value != 0.0);
    let rows: Vec<Vec<String>> = said
        .iter()
        .map(|feature| vec![feature.name.clone(), number(f64::from(feature.value))])
        .collect();
    print(table(&["feature", ">value"], &rows).trim_end());
    if !silent.is_empty() {
        print(&format!("  ({} more are 0)", silent.len()));
    }
}

fn number(value: f64) -> String {
    if value.fract().abs() < 1e-9 {
        format!("{value}")
    } else {
        format!("{value:.4}")
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => tame(text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value.to_string()
        }
    }
}
