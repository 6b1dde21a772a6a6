//! What rows have of all that their user did.

use std::collections::BTreeMap;

use headwater_model::{KeyVectors, LoggedRequest};

use super::*;

const HOUR: i64 = 3_600_000;

fn config() -> Config {
    let mut config = Config::default_config();
    config.key_vectors.logged = true;
    // Most behaviors have left for cells of an hour.
    config.state.recent = 8;
    config.step.request_max_age = headwater_config::Span::from_millis(30 * 24 * HOUR as u64);
    config
}

/// Atoms as (item, stretch) → events by kind.
fn told(of: &KeyVectors<'_>) -> BTreeMap<(String, u32), BTreeMap<u32, u32>> {
    let atoms = of.atoms().unwrap().into_iter();
    let told = atoms.map(|atom| {
        let counts = atom.counts.as_chunks::<2>().0.iter();
        let counts = counts.map(|[kind, count]| (*kind, *count)).collect();
        let item = of.items[atom.item as usize].to_string();
        ((item, atom.stretch), counts)
    });
    told.collect()
}

/// Goal: key-vectors hold each behavior before the row once, under its item, kind and stretch of time, whether it is recent or has left for cells, and none at or after
/// the row's time (`STATE-3`). Method: behaviors over ten days, counted here by themselves; rows of several times, a late one among them.
#[test]
fn each_behavior_before_the_row_is_there_once() {
    let config = config();
    let kinds = &config.kinds.names;
    let mut bench = Bench::new(&config);
    let mut done = Vec::new();
    for number in 0..60_i64 {
        let kind = ["click", "view", "like"][number as usize % 3];
        // On the half hour: so cells of an hour lie in one stretch as their events do.
        let time = START - 240 * HOUR + number * 4 * HOUR + HOUR / 2;
        let item = format!("i{}", number * 7 % 9);
        let mut behavior = clicking(&number.to_string());
        behavior["item_id"] = item.clone().into();
        behavior["kind"] = kind.into();
        behavior["time"] = time.into();
        bench.now = time;
        bench.take(Topic::Behaviors, &behavior);
        let kind = kinds.iter().position(|one| one == kind).unwrap() as u32;
        done.push((time, item, kind));
    }
    bench.now = START;
    let edges = [1, 24, 72, 168, 336].map(|hours| hours * HOUR);
    for (request, time) in [
        ("now", START),
        ("late", done[58].0),
        ("then", done[59].0 + 1),
    ] {
        let mut asking = asking(3);
        asking["request_id"] = request.into();
        asking["time"] = time.into();
        let output = bench.take(Topic::ScoreRequests, &asking);
        let logged = of(&output, Topic::FeatureLog);
        let logged = LoggedRequest::read(logged[0].value.unwrap()).unwrap();
        let found = told(logged.key_vectors.as_ref().unwrap());
        let before: Vec<_> = done.iter().filter(|(at, ..)| *at < time).collect();
        let all: u32 = found.values().flat_map(BTreeMap::values).sum();
        assert_eq!(all as usize, before.len(), "{request}");
        let recent = done.len() - 8;
        for (_, item, kind) in &before {
            for stretch in 0..=edges.len() {
                let within = |from: &dyn Fn(usize, i64) -> i64| {
                    let of = before
                        .iter()
                        .enumerate()
                        .filter(|(place, (at, other, sort))| {
                            let age = time - from(*place, *at);
                            let reached = edges.partition_point(|edge| *edge <= age);
                            (other, sort) == (item, kind) && reached <= stretch
                        });
                    of.count() as u32
                };
                // What lies in a cell counts from where its cell began, an hour or a day; the others exactly.
                let exactly = within(&|_, at| at);
                let at_least = within(&|place, at| {
                    let lies = if place < recent {
                        at.rem_euclid(24 * HOUR)
                    } else {
                        0
                    };
                    at - lies
                });
                let of = found.iter().filter(|((other, at), _)| {
                    (other, *at as usize) <= (item, stretch) && other == item
                });
                let of: u32 = of.filter_map(|(_, counts)| counts.get(kind)).sum();
                assert!(
                    (at_least..=exactly).contains(&of),
                    "{request}: {item}, kind {kind}: {of} up to stretch {stretch}, not {at_least} to {exactly}"
                );
            }
        }
    }
}

/// Goal: a user of more items than a record can hold does not stop anybody: what was not met for longest is left out, and counted. Method: items with long names.
#[test]
fn what_a_record_cannot_hold_is_left_out_and_counted() {
    let mut bench = Bench::new(&config());
    let item = |number: usize| format!("{number}-{}", "x".repeat(240));
    let all = 1_500;
    for number in 0..all {
        let mut behavior = clicking(&number.to_string());
        behavior["item_id"] = item(number).into();
        behavior["time"] = (START + number as i64).into();
        bench.take(Topic::Behaviors, &behavior);
    }
    let mut asking = asking(2);
    asking["time"] = (START + 2_000).into();
    let output = bench.take(Topic::ScoreRequests, &asking);
    let logged = of(&output, Topic::FeatureLog);
    let value = logged[0].value.unwrap();
    assert!(value.len() < 280 * 1024, "{} bytes", value.len());
    let logged = LoggedRequest::read(value).unwrap();
    let of = logged.key_vectors.unwrap();
    let left_out = bench.pipeline.metrics().deep.left_out.get() as usize;
    assert!((200..900).contains(&left_out), "{left_out}");
    assert_eq!(of.items.len() + left_out, all);
    let names: Vec<&str> = of.items.iter().map(|name| &**name).collect();
    assert!(names.contains(&&*item(all - 1)));
    // Recent ones have their own times; of the rest, all in one hour, any may go.
    assert!((all - 8..all).all(|number| names.contains(&&*item(number))));
}
