//! What had to come of the input, counted from the input topics one record after the other, and whether it did: each output once, state and
//! statistics exact.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use headwater::inspect::UserView;
use headwater_config::{Config, Topic};
use headwater_state::{Cells, Delta, Entity, KindId, ScenarioId, of_series};
use rdkafka::Message as _;
use serde_json::Value;

use super::labels::Labels;
use super::workload::{Sent, USERS, category};
use crate::onlooker::{Onlooker, Sees, id};
use crate::users;

/// How often each user did what to which item, and where.
type Counts = BTreeMap<[String; 4], u64>;
/// How often what was done to each entity: by its key, then by scenario and kind.
type Statistics = BTreeMap<Vec<u8>, BTreeMap<(u32, u32), u64>>;

/// An answer that must be there.
#[derive(Debug)]
struct Due {
    request_id: String,
    user: String,
    items: Vec<String>,
}

#[derive(Default)]
pub(crate) struct Verdict {
    counts: Counts,
    statistics: Statistics,
    /// By the coordinates of what they answer.
    answers: BTreeMap<String, Due>,
    dead_letters: BTreeSet<String>,
    labels: Labels,
    pub(crate) repeats: usize,
}

pub(crate) fn text(record: &Value, name: &str) -> String {
    record[name].as_str().unwrap().to_owned()
}

impl Verdict {
    /// Counts what lies in the input topics, which must be what was sent.
    pub(crate) fn of(onlooker: &Onlooker, config: &Config, sent: Sent) -> Self {
        let mut verdict = Self::default();
        let mut known: BTreeSet<String> = BTreeSet::new();
        let behaviors = config.topic_name(Topic::Behaviors);
        let mut records = 0;
        onlooker.each(Sees::Committed, &onlooker.whole(&behaviors), |message| {
            records += 1;
            let at = format!("{behaviors}-{}-{}", message.partition(), message.offset());
            let Ok(record) = serde_json::from_slice::<Value>(message.payload().unwrap_or_default())
            else {
                verdict.dead_letters.insert(at);
                return;
            };
            if known.insert(text(&record, "event_id")) {
                let place = (message.partition(), message.offset());
                verdict.labels.count(place, &record);
                verdict.count(at, &record);
            } else {
                verdict.repeats += 1;
            }
        });
        assert_eq!(records, sent.behaviors, "behaviors in the topic, and sent");
        let requests = config.topic_name(Topic::ScoreRequests);
        records = 0;
        onlooker.each(Sees::Committed, &onlooker.whole(&requests), |message| {
            records += 1;
            let at = format!("{requests}-{}-{}", message.partition(), message.offset());
            let record: Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
            let candidates = record["candidates"].as_array().unwrap().iter();
            let due = Due {
                request_id: text(&record, "request_id"),
                user: text(&record, "user_id"),
                items: candidates
                    .map(|item| item.as_str().unwrap().to_owned())
                    .collect(),
            };
            verdict.answers.insert(at, due);
        });
        assert_eq!(records, sent.requests, "requests in the topic, and sent");
        verdict
    }

    fn count(&mut self, at: String, record: &Value) {
        let [user, item, kind, scenario] =
            ["user_id", "item_id", "kind", "scenario"].map(|name| text(record, name));
        let series = (ScenarioId::of(&scenario).0, KindId::of(&kind).0);
        let category = category(&item);
        for entity in [
            Entity::Total,
            Entity::Item(&item),
            Entity::Category(&category),
        ] {
            let of = self.statistics.entry(entity.key().into_vec()).or_default();
            *of.entry(series).or_default() += 1;
        }
        if kind != "impression" {
            let due = Due {
                request_id: text(record, "event_id"),
                user: user.clone(),
                items: vec![item.clone()],
            };
            self.answers.insert(at, due);
        }
        *self.counts.entry([user, item, kind, scenario]).or_default() += 1;
    }

    /// Behaviors that count, and answers that are due.
    pub(crate) fn totals(&self) -> (u64, usize) {
        (self.counts.values().sum(), self.answers.len())
    }

    // ------------------------------------------------------------------------------------------------- state

    /// What daemons that run know of every user, against the input; gives it for comparisons.
    pub(crate) fn judge_users(&self, daemons: &[String]) -> BTreeMap<String, UserView> {
        let all: Vec<String> = (0..USERS).map(|number| format!("u{number}")).collect();
        let views = Mutex::new(BTreeMap::new());
        users::each(daemons, &all, |user, view| {
            let view = view.unwrap_or_else(|| panic!("nothing is known of {user}"));
            views.lock().unwrap().insert(user.to_owned(), view);
        });
        let views = views.into_inner().unwrap();
        let mut found = Counts::new();
        for (user, view) in &views {
            let mut add = |item: &str, kind: &str, scenario: &str, count: u64| {
                let key = [user, item, kind, scenario].map(str::to_owned);
                *found.entry(key).or_default() += count;
            };
            for behavior in &view.recent {
                let item = behavior.item_id.as_deref().unwrap_or_default();
                add(item, &behavior.kind, &behavior.scenario, 1);
            }
            for entry in view.history.iter().flat_map(|slot| &slot.entries) {
                for count in &entry.counts {
                    add(&entry.key, &count.kind, &count.scenario, count.count.into());
                }
            }
        }
        same("state of users", &self.counts, &found);
        views
    }

    // ----------------------------------------------------------------------------------------------- outputs

    /// What readers of committed transactions see, against the input; gives how many labels there are, and how many positives of them.
    pub(crate) fn judge_outputs(&self, onlooker: &Onlooker, config: &Config) -> (usize, usize) {
        self.judge_answers(onlooker, &config.topic_name(Topic::Scores));
        let rows = ids(onlooker, &config.topic_name(Topic::FeatureLog));
        let due = self.answers.keys().map(|id| (format!("{id}-0"), 1));
        same("rows of the feature log", &due.collect(), &rows);
        let letters = ids(onlooker, &config.topic_name(Topic::DeadLetters));
        let due = self.dead_letters.iter().map(|id| (id.clone(), 1));
        same("dead letters", &due.collect(), &letters);
        let deltas = deltas(onlooker, &config.topic_name(Topic::ItemDeltas));
        same("item deltas", &self.statistics, &deltas);
        let state = item_state(onlooker, &config.topic_name(Topic::ItemState));
        same("item statistics", &self.statistics, &state);
        self.labels.judge(onlooker, config)
    }

    fn judge_answers(&self, onlooker: &Onlooker, scores: &str) {
        let mut seen: BTreeMap<String, u64> = BTreeMap::new();
        onlooker.each(Sees::Committed, &onlooker.whole(scores), |message| {
            let id = id(message);
            let answer: Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
            let due = self.answers.get(&id);
            let due = due.unwrap_or_else(|| panic!("{id} must have no answer: {answer}"));
            let items = answer["items"].as_array().unwrap().iter();
            let items = items.map(|item| item["item_id"].as_str().unwrap());
            assert!(
                answer["request_id"] == due.request_id.as_str()
                    && answer["user_id"] == due.user.as_str()
                    && answer["status"] == "ok"
                    && items.eq(due.items.iter().map(String::as_str)),
                "{id}: due is {due:?}, the answer is {answer}"
            );
            *seen.entry(id).or_default() += 1;
        });
        let due = self.answers.keys().map(|id| (id.clone(), 1));
        same("answers", &due.collect(), &seen);
    }
}

/// How often each id was seen in a topic.
fn ids(onlooker: &Onlooker, topic: &str) -> BTreeMap<String, u64> {
    let mut seen = BTreeMap::new();
    onlooker.each(Sees::Committed, &onlooker.whole(topic), |message| {
        *seen.entry(id(message)).or_default() += 1;
    });
    seen
}

fn add_cells(to: &mut BTreeMap<(u32, u32), u64>, cells: &Cells) {
    for cell in cells.iter() {
        let (scenario, kind) = of_series(cell.series);
        *to.entry((scenario.0, kind.0)).or_default() += u64::from(cell.count);
    }
}

fn deltas(onlooker: &Onlooker, topic: &str) -> Statistics {
    let mut found = Statistics::new();
    onlooker.each(Sees::Committed, &onlooker.whole(topic), |message| {
        let mut cells = Cells::default();
        Delta::read(message.payload().unwrap())
            .unwrap()
            .apply(&mut cells);
        let key = message.key().unwrap().to_vec();
        add_cells(found.entry(key).or_default(), &cells);
    });
    found
}

fn item_state(onlooker: &Onlooker, topic: &str) -> Statistics {
    let mut records = BTreeMap::new();
    onlooker.each(Sees::Committed, &onlooker.whole(topic), |message| {
        let record = (
            message.key().unwrap().to_vec(),
            message.payload().unwrap().to_vec(),
        );
        records.insert((message.partition(), message.offset()), record);
    });
    let mut state = headwater_state::Statistics::default();
    for (key, value) in records.into_values() {
        state.apply(&key, Some(&value)).unwrap();
    }
    let mut found = Statistics::new();
    for (key, cells) in state.iter() {
        add_cells(found.entry(key.to_vec()).or_default(), cells);
    }
    found
}

/// Whether what must be there is there and nothing else; a failure shows the first differences and how many there are.
pub(crate) fn same<K: std::fmt::Debug + Ord, V: std::fmt::Debug + PartialEq>(
    what: &str,
    due: &BTreeMap<K, V>,
    found: &BTreeMap<K, V>,
) {
    let keys: BTreeSet<&K> = due.keys().chain(found.keys()).collect();
    let differ: Vec<String> = keys
        .into_iter()
        .filter(|key| due.get(key) != found.get(key))
        .map(|key| {
            format!(
                "{key:?}: must be {:?}, is {:?}",
                due.get(key),
                found.get(key)
            )
        })
        .collect();
    assert!(
        differ.is_empty(),
        "{what}: {} of {} differ, first\n{}",
        differ.len(),
        due.len(),
        differ[..differ.len().min(20)].join("\n")
    );
}
