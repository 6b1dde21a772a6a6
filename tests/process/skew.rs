//! A daemon that holds what it scored against its log.

use headwater_config::Topic;
use headwater_consumers::log::{Log as _, Outgoing, TopicPartition};
use headwater_consumers::partitioner::partition_of;
use headwater_state::ChangelogKey;
use serde_json::Value;

use crate::log::{click, open, request, send};
use crate::program::{Daemon, Place, until};

/// Outcomes of one of the metrics of skew.
fn told(daemon: &Daemon, of: &str, outcome: &str) -> u64 {
    daemon.metric(&format!(
        "headwater_consumers_skew_{of}_total{{outcome=\"{outcome}\"}}"
    ))
}

/// Goal: live, rows that were scored are made again from the log, and none differs, after a kill -9 neither; state that lost a behavior on its way through the changelog is found at the next row of its user,
/// and the log names the row. Method: behaviors and requests of several users in the embedded log, all requests handed over; a kill; then a stranger's record in the changelog that
/// deletes one of a user's recent behaviors.
#[test]
fn a_planted_skew_is_told() {
    let place = Place::new("[skew]\nshare = 1.0\nevery = \"200ms\"\n");
    let config = place.config();
    let users = ["u1", "u2", "u3", "u4"];
    let feed = |round: usize| {
        let log = open(&config);
        for user in users {
            for number in 0..5 {
                let item = format!("i{}", number % 3);
                let event = format!("{user}-{round}-{number}");
                send(&log, Topic::Behaviors, user, &click(user, &item, &event));
            }
            let asked = request(&format!("{user}-{round}"), user, &["i0", "i1", "i9"]);
            send(&log, Topic::ScoreRequests, user, &asked);
        }
    };
    feed(0);
    let daemon = place.start(&[]);
    let rows = |daemon: &Daemon, outcome: &str| told(daemon, "rows", outcome);
    until("the rows to be made again", || {
        (rows(&daemon, "same") >= 4).then_some(())
    });
    let others = ["differs", "unsure", "left_out"].map(|outcome| rows(&daemon, outcome));
    assert_eq!(others, [0; 3], "{}", daemon.said());
    daemon.kill();

    feed(1);
    let daemon = place.start(&[]);
    until("the rows to be made again", || {
        (rows(&daemon, "same") >= 4 && told(&daemon, "statistics", "same") >= 3).then_some(())
    });
    assert_eq!(rows(&daemon, "differs"), 0, "{}", daemon.said());
    assert_eq!(told(&daemon, "statistics", "differs"), 0);
    daemon.stop();

    {
        let log = open(&config);
        let mut key = Vec::new();
        let (user, place) = ("u2", 0);
        ChangelogKey::Recent { user, place }.write(&mut key);
        let partition = partition_of(user.as_bytes(), 4);
        let mut producer = log.producer().unwrap();
        let record = Outgoing {
            to: TopicPartition::new(Topic::Changelog, partition),
            key: Some(&key),
            value: None,
            headers: &[],
        };
        producer.send(record).unwrap();
        producer.flush().unwrap();
    }
    feed(2);
    let daemon = place.start(&[]);
    until("the row to differ", || {
        (rows(&daemon, "same") + rows(&daemon, "differs") >= 4).then_some(())
    });
    let found = ["same", "differs"].map(|outcome| rows(&daemon, outcome));
    assert_eq!(found, [3, 1], "{}", daemon.said());
    let said = daemon.said();
    let events = said.lines().map(|line| serde_json::from_str(line).unwrap());
    let named: Vec<Value> = events
        .filter(|event: &Value| !event["feature"].is_null())
        .collect();
    assert_eq!(named.len(), 1, "{said}");
    assert_eq!(named[0]["request"], "u2-2", "{said}");
    daemon.stop();
}
