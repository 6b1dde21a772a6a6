//! Labels against their definition: rows as they were answered, behaviors as they lie in the input.

use std::collections::{BTreeMap, BTreeSet};

use headwater_config::{Config, Topic};
use headwater_tests::naive_labels::{self, Done, Row};
use rdkafka::Message as _;
use serde_json::Value;

use super::verdict::{same, text};
use crate::onlooker::{Onlooker, Sees, id};

/// Behaviors that count, and the newest time of each partition.
#[derive(Default)]
pub(crate) struct Labels {
    done: Vec<Done>,
    watermarks: BTreeMap<i32, i64>,
}

impl Labels {
    pub(crate) fn count(&mut self, (partition, offset): (i32, i64), record: &Value) {
        let time = record["time"].as_i64().unwrap();
        let newest = self.watermarks.entry(partition).or_insert(time);
        *newest = time.max(*newest);
        self.done.push(Done {
            partition,
            user: text(record, "user_id"),
            offset,
            time,
            item: text(record, "item_id"),
            kind: text(record, "kind"),
            request: record["request_id"].as_str().map(str::to_owned),
        });
    }

    /// What readers of committed transactions see; gives how many labels there are, and how many of them are positives.
    pub(crate) fn judge(&self, onlooker: &Onlooker, config: &Config) -> (usize, usize) {
        let requests = config.topic_name(Topic::ScoreRequests);
        let mut rows = Vec::new();
        let scores = onlooker.whole(&config.topic_name(Topic::Scores));
        onlooker.each(Sees::Committed, &scores, |message| {
            let id = id(message);
            if !id.starts_with(&requests) {
                return;
            }
            let answer: Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
            let items = answer["items"].as_array().unwrap().iter();
            rows.push(Row {
                id,
                partition: message.partition(),
                user: text(&answer, "user_id"),
                request: text(&answer, "request_id"),
                scenario: text(&answer, "scenario"),
                time: answer["time"].as_i64().unwrap(),
                offset: answer["state"]["offset"].as_i64().unwrap(),
                candidates: items.map(|item| text(item, "item_id")).collect(),
            });
        });
        // Of one user's rows the order is that of the behaviors that they knew.
        rows.sort_by_key(|row| row.offset);
        let (mut held, mut known) = (BTreeMap::new(), BTreeSet::new());
        let labels = onlooker.whole(&config.topic_name(Topic::Labels));
        onlooker.each(Sees::Committed, &labels, |message| {
            let value = (
                &*id(message),
                message.key().unwrap(),
                message.payload().unwrap(),
            );
            naive_labels::publish(&mut held, &mut known, value).unwrap();
        });
        let due = naive_labels::expected(config, &rows, &self.done, &self.watermarks);
        same("labels", &due, &held);
        let positives = held.values().filter(|label| **label > 0.0).count();
        (held.len(), positives)
    }
}
