//! Labels by their definition: worked out from what was scored, shown and done, in no order but that of what came before a row was scored. No code
//! of `state` is used here.

use std::collections::{BTreeMap, BTreeSet};

use headwater_config::{Config, Examples};
use serde_json::Value;

/// A request as it was scored once.
#[derive(Clone, Debug)]
pub struct Row {
    /// What its records in the feature log are called.
    pub id: String,
    /// The partition of its user.
    pub partition: i32,
    /// Its user.
    pub user: String,
    /// The request.
    pub request: String,
    /// Where.
    pub scenario: String,
    /// When.
    pub time: i64,
    /// Behaviors before it had been counted by then.
    pub offset: i64,
    /// Its candidates.
    pub candidates: Vec<String>,
}

/// A behavior on an item, that counts.
#[derive(Clone, Debug)]
pub struct Done {
    /// Its partition.
    pub partition: i32,
    /// Its user.
    pub user: String,
    /// The offset of its record.
    pub offset: i64,
    /// When.
    pub time: i64,
    /// To what.
    pub item: String,
    /// What.
    pub kind: String,
    /// The request that it names.
    pub request: Option<String>,
}

/// Row, item, task.
pub type Of = (String, String, String);

/// Takes a record of the labels' topic into what was published before it, `known` being the `headwater-id`s so far.
///
/// # Errors
/// If it was published before, or says again what was said without being a correction.
pub fn publish(
    held: &mut BTreeMap<Of, f64>,
    known: &mut BTreeSet<String>,
    (id, key, value): (&str, &[u8], &[u8]),
) -> Result<(), String> {
    if !known.insert(id.to_owned()) {
        return Err(format!("PIPE-1: labels {id} were seen twice"));
    }
    let json: Value = serde_json::from_slice(value).map_err(|error| format!("{id}: {error}"))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if text(&json["user"]).as_bytes() != key {
        return Err(format!("the key of {id} is not its user"));
    }
    let mut items = BTreeSet::new();
    for item in json["items"].as_array().into_iter().flatten() {
        if !items.insert(text(&item["item_id"])) {
            return Err(format!("{id} has an item twice: {json}"));
        }
        for (task, label) in item["labels"].as_object().into_iter().flatten() {
            let of = (text(&json["row"]), text(&item["item_id"]), task.clone());
            let label = label.as_f64().ok_or_else(|| format!("no label: {json}"))?;
            if held.insert(of, label).is_some() && json["correction"] != true {
                return Err(format!("{id} says again what was said: {json}"));
            }
        }
    }
    Ok(())
}

/// The labels of all rows whose windows have closed; `rows` in the order in which they were scored, `watermarks` the newest event time of each partition.
pub fn expected(
    config: &Config,
    rows: &[Row],
    done: &[Done],
    watermarks: &BTreeMap<i32, i64>,
) -> BTreeMap<Of, f64> {
    let shows_all =
        config.labels.examples == Examples::AllScored || config.scoring.requests_are_impressions;
    let within = if shows_all {
        0
    } else {
        config.labels.shown_within.millis()
    };
    // When each item of each row was shown first.
    let mut shown: BTreeMap<(usize, &str), i64> = BTreeMap::new();
    for (number, row) in rows.iter().enumerate().filter(|_| shows_all) {
        shown.extend(
            row.candidates
                .iter()
                .map(|item| ((number, item.as_str()), row.time)),
        );
    }
    let impressions = done
        .iter()
        .filter(|did| config.kinds.impressions.contains(&did.kind));
    for did in impressions.filter(|_| !shows_all) {
        let shows = rows.iter().enumerate().filter(|(_, row)| {
            let theirs = row.partition == did.partition && row.user == did.user;
            let late = did.time - row.time;
            theirs
                && Some(&row.request) == did.request.as_ref()
                && row.offset <= did.offset
                && (0..=within).contains(&late)
        });
        if let Some((row, _)) = shows.max_by_key(|(_, row)| row.time) {
            let first = shown.entry((row, did.item.as_str())).or_insert(did.time);
            *first = (*first).min(did.time);
        }
    }
    let closed = |row: &Row, window: i64| {
        let newest = watermarks.get(&row.partition).copied();
        newest.is_some_and(|newest| row.time + within + window < newest)
    };
    let mut labels = BTreeMap::new();
    for (row, item) in shown.keys() {
        let row = &rows[*row];
        for (task, of) in &config.tasks {
            let holds =
                of.scenarios.is_empty() || of.scenarios.contains(&known(config, &row.scenario));
            if holds && closed(row, of.window.millis()) {
                labels.insert((row.id.clone(), (*item).to_owned(), task.clone()), 0.0);
            }
        }
    }
    for did in done {
        let credited = shown.iter().filter(|((row, item), at)| {
            let row = &rows[*row];
            *item == did.item.as_str()
                && row.partition == did.partition
                && row.user == did.user
                && **at <= did.time
                && did.request.as_ref().is_none_or(|request| *request == row.request)
                // A row that came after it could not be what was seen.
                && (row.offset <= did.offset || keeps(rows, did))
        });
        let last = credited.max_by_key(|((row, _), at)| (**at, rows[*row].time, *row));
        let Some(((row, item), at)) = last else {
            continue;
        };
        let row = &rows[*row];
        for (task, of) in &config.tasks {
            if of.positive.contains(&did.kind) && did.time <= at + of.window.millis() {
                let key = (row.id.clone(), (*item).to_owned(), task.clone());
                labels.entry(key).and_modify(|label| *label = 1.0);
            }
        }
    }
    labels
}

/// Whether a behavior was kept when it came: some row of its user was there that it may concern.
fn keeps(rows: &[Row], did: &Done) -> bool {
    rows.iter().any(|row| {
        row.partition == did.partition
            && row.user == did.user
            && row.offset <= did.offset
            && row.time <= did.time
    })
}

fn known(config: &Config, scenario: &str) -> String {
    let named = config.scenarios.names.iter().any(|name| name == scenario);
    if named { scenario } else { "other" }.to_owned()
}
