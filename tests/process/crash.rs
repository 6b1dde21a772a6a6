//! kill -9 and the start after it.

use std::collections::BTreeMap;

use headwater_config::Topic;
use headwater_consumers::log::{Log as _, Outgoing, TopicPartition};
use headwater_consumers::partitioner::partition_of;

use crate::log::{click, open, records};
use crate::program::{Place, until};

const USERS: usize = 50;
const BEHAVIORS: usize = 20_000;

/// Goal: STATE-1 and PIPE-1 over kill -9 of the real process. Method: behaviors lie in the log; the daemon is killed again and again while it
/// reads them, at counts that follow from the round; then it reads to the end. Each behavior has one score in the log, and
/// state has counted each once.
#[test]
fn a_killed_daemon_counts_and_answers_once() {
    for backend in ["sled", "fjall"] {
        let place = Place::new(&format!(
            "scoring.on_behavior = \"item\"\nscoring.feature_log = false\nstep.records_max = 200\nstate.backend = \"{backend}\"\nstate.recent = 16"
        ));
        let config = place.config();
        let mut expected: BTreeMap<String, u64> = BTreeMap::new();
        {
            let log = open(&config);
            let mut producer = log.producer().unwrap();
            for event in 0..BEHAVIORS {
                let user = format!("u{}", event % USERS);
                let item = format!("i{}", event % 7);
                *expected.entry(user.clone()).or_default() += 1;
                producer
                    .send(Outgoing {
                        to: TopicPartition::new(Topic::Behaviors, partition_of(user.as_bytes(), 4)),
                        key: Some(user.as_bytes()),
                        value: Some(&click(&user, &item, &format!("e{event}"))),
                        headers: &[],
                    })
                    .unwrap();
            }
            producer.flush().unwrap();
        }
        for round in 0..6_u64 {
            let daemon = place.start(&[]);
            // Somewhere in its work, each time further: the count is of this process alone.
            let so_far = round * 400 + 1;
            until("some work", || {
                (daemon.metric("headwater_state_behaviors_folded_total") >= so_far).then_some(())
            });
            drop(daemon.kill());
        }
        let daemon = place.start(&[]);
        daemon.wait_ready();
        let mut counted = BTreeMap::new();
        until("all behaviors to be counted", || {
            counted = expected
                .keys()
                .map(|user| {
                    (
                        user.clone(),
                        count(&daemon.json(&format!("/users/{user}?entries=1000"))),
                    )
                })
                .collect();
            (counted.values().sum::<u64>() >= BEHAVIORS as u64).then_some(())
        });
        assert_eq!(counted, expected, "{backend}");
        daemon.stop();

        let mut scores: BTreeMap<String, u32> = BTreeMap::new();
        for answer in records(&open(&config), Topic::Scores) {
            *scores
                .entry(answer["request_id"].as_str().unwrap().to_owned())
                .or_default() += 1;
        }
        let twice: Vec<_> = scores.iter().filter(|(_, count)| **count != 1).collect();
        assert!(twice.is_empty(), "{backend}: {twice:?}");
        assert_eq!(scores.len(), BEHAVIORS, "{backend}");
    }
}

/// Behaviors in a user's view: those of recent and those of history by item.
pub(crate) fn count(user: &serde_json::Value) -> u64 {
    let recent = user["recent"].as_array().unwrap().len() as u64;
    let history: u64 = user["history"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|slot| slot["slot"] == "item")
        .flat_map(|slot| slot["entries"].as_array().unwrap())
        .flat_map(|entry| entry["counts"].as_array().unwrap())
        .map(|count| count["count"].as_u64().unwrap())
        .sum();
    recent + history
}

/// Goal: a store that does not open costs a restore, nothing else. Method: its files are overwritten while the daemon does not run; it
/// starts, says where it put the old ones, and knows what it knew.
#[test]
fn a_damaged_store_is_put_aside() {
    let place = Place::new("");
    let config = place.config();
    crate::log::send(
        &open(&config),
        Topic::Behaviors,
        "u1",
        &click("u1", "i1", "e1"),
    );
    let daemon = place.start(&[]);
    until("the behavior to be counted", || {
        (daemon.metric("headwater_state_behaviors_folded_total") >= 1).then_some(())
    });
    daemon.stop();
    std::fs::write(place.state().join("sled/conf"), "not a store").unwrap();
    let daemon = place.start(&[]);
    daemon.wait_ready();
    assert_eq!(
        daemon.json("/users/u1")["recent"].as_array().unwrap().len(),
        1
    );
    assert_eq!(daemon.metric("headwater_daemon_stores_put_aside_total"), 1);
    let aside = daemon.json("/status")["put_aside"]["path"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        std::path::Path::new(&aside).join("conf").exists(),
        "{aside}"
    );
    daemon.stop();
}
