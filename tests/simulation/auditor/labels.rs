//! Labels: what was published of every scored row, against what had to be: worked out from the raw records, in no order but that of which behaviors
//! came before the row.

use std::collections::{BTreeMap, BTreeSet};

use headwater_config::{Delivery, Examples, Topic};
use headwater_consumers::log::Log;
use headwater_tests::naive_labels::{self, Done, Of, Row};
use serde_json::Value;

use super::naive::World;
use super::outputs::Answer;
use super::{Seen, read_all};
use crate::run::Tally;
use crate::workload::Plan;

pub(crate) fn judge(
    log: &dyn Log,
    plan: &Plan,
    world: &World,
    answers: &[Answer],
    tally: &mut Tally,
) -> Result<(), String> {
    let config = &plan.config;
    let seen = read_all(log, Topic::Labels)?;
    if config.labels.examples == Examples::Off || !config.scoring.feature_log {
        return match seen.first() {
            Some(seen) => Err(format!("a label, and none is wanted: {seen:?}")),
            None => Ok(()),
        };
    }
    let published = published(&seen)?;
    tally.labels += published.len() as u64;
    // Only where nothing is cleaned is every time known that a standing request was scored.
    if config.kafka.delivery == Delivery::AtLeastOnce || !plan.keeps_all() {
        return Ok(());
    }
    let rows = rows(log, answers)?;
    let known: BTreeSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    if let Some(((row, ..), _)) = published
        .iter()
        .find(|((row, ..), _)| !known.contains(row.as_str()))
    {
        return Err(format!("labels of {row}, which was never scored"));
    }
    // Where rows are given up or closed early, what comes of them depends on how steps were cut.
    if !plan.keeps_rows() {
        return Ok(());
    }
    let skipped = ambiguous(&rows);
    let of_skipped: BTreeSet<&str> = rows
        .iter()
        .filter(|row| skipped.contains(&(row.partition, row.user.clone())))
        .map(|row| row.id.as_str())
        .collect();
    let done = done(world);
    let mut expected = naive_labels::expected(config, &rows, &done, &world.watermarks);
    let mut published = published;
    expected.retain(|(row, ..), _| !of_skipped.contains(row.as_str()));
    published.retain(|(row, ..), _| !of_skipped.contains(row.as_str()));
    tally.exact_labels += expected.len() as u64;
    let keys: BTreeSet<&Of> = expected.keys().chain(published.keys()).collect();
    for key in keys {
        let (must, is) = (expected.get(key), published.get(key));
        if must != is {
            let of = rows.iter().find(|row| row.id == key.0);
            let theirs = rows
                .iter()
                .filter(|row| of.is_some_and(|of| of.user == row.user));
            let theirs: Vec<&Row> = theirs
                .filter(|row| row.candidates.contains(&key.1))
                .collect();
            let did: Vec<&Done> = done
                .iter()
                .filter(|done| of.is_some_and(|of| of.user == done.user) && done.item == key.1)
                .collect();
            return Err(format!(
                "PIPE-1: label of {key:?}: must be {must:?}, is {is:?}; {:?}; rows {theirs:#?}, behaviors {did:#?}",
                (&config.labels, &config.tasks)
            ));
        }
    }
    Ok(())
}

/// What holds of everything that was published: the newest record of each.
fn published(seen: &[Seen]) -> Result<BTreeMap<Of, f64>, String> {
    let mut held = BTreeMap::new();
    let mut known = BTreeSet::new();
    for seen in seen {
        let id = seen.header("headwater-id")?;
        let value = seen.value.as_deref().unwrap_or_default();
        naive_labels::publish(&mut held, &mut known, (&id, &seen.key, value))?;
    }
    Ok(held)
}

/// The behaviors on items that count, with what of their records labels read.
fn done(world: &World) -> Vec<Done> {
    let counted = world.counted.iter().filter_map(|counted| {
        let json: Value = serde_json::from_slice(&counted.raw).ok()?;
        Some(Done {
            partition: counted.partition,
            user: counted.user.clone(),
            offset: counted.offset,
            time: counted.time,
            item: counted.item.clone()?,
            kind: counted.kind.clone(),
            request: json["request_id"].as_str().map(str::to_owned),
        })
    });
    counted.collect()
}

/// Every time that a request was scored, in the order in which that happened.
fn rows(log: &dyn Log, answers: &[Answer]) -> Result<Vec<Row>, String> {
    let mut rows: Vec<Row> = Vec::new();
    let asked = answers
        .iter()
        .filter(|answer| answer.cause.0 == "score_requests");
    for answer in asked.filter(|answer| !answer.items.is_empty()) {
        let items = answer
            .items
            .iter()
            .filter_map(|item| item["item_id"].as_str());
        rows.push(Row {
            id: answer.id.clone(),
            partition: answer.partition,
            user: answer.user.clone(),
            request: answer.request_id.clone(),
            scenario: answer.scenario.clone(),
            time: answer.time,
            offset: answer.offset,
            candidates: items.map(str::to_owned).collect(),
        });
    }
    for seen in read_all(log, Topic::StandingScores)? {
        let Some(value) = &seen.value else { continue };
        let json: Value = serde_json::from_slice(value).map_err(|error| error.to_string())?;
        let id = seen.header("headwater-id")?;
        let part = json["part"][0].as_u64();
        let id = part.map_or(Some(&*id), |part| {
            id.strip_suffix(&format!("-{}", part - 1))
        });
        let id = id.ok_or_else(|| format!("{seen:?}"))?;
        let items = json["items"].as_array().into_iter().flatten();
        let items = items.filter_map(|item| item["item_id"].as_str().map(str::to_owned));
        let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
        match rows.iter_mut().find(|row| row.id == id) {
            // Its answer, or another part of it.
            Some(row) if id.starts_with("standing-") => row.candidates.extend(items),
            Some(_) => {}
            None => rows.push(Row {
                id: id.to_owned(),
                partition: seen.partition,
                user: text("user_id"),
                request: text("request_id"),
                scenario: text("scenario"),
                time: json["time"].as_i64().unwrap_or_default(),
                offset: json["state"]["offset"].as_i64().unwrap_or_default(),
                candidates: items.collect(),
            }),
        }
    }
    rows.retain(|row| !row.candidates.is_empty());
    // What stands is scored again after its answer.
    rows.sort_by_key(|row| (row.offset, row.id.starts_with("standing-")));
    Ok(rows)
}

/// The users of whom nobody can say from outside which of two rows an impression shows: of one request that was asked again, and one time, with no behavior
/// in between.
fn ambiguous(rows: &[Row]) -> BTreeSet<(i32, String)> {
    let of = |row: &Row| (row.partition, row.user.clone(), row.request.clone());
    let mut asked: BTreeMap<_, usize> = BTreeMap::new();
    for row in rows.iter().filter(|row| !row.id.starts_with("standing-")) {
        *asked.entry(of(row)).or_default() += 1;
    }
    let mut seen = BTreeSet::new();
    let again = rows.iter().filter(|row| {
        let repeated = !seen.insert((of(row), row.time, row.offset));
        repeated && asked.get(&of(row)).is_some_and(|asked| *asked > 1)
    });
    again.map(|row| (row.partition, row.user.clone())).collect()
}
