//! Recordings to rows: features by the production step, labels by what followed, sequences by what came before.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use headwater_config::{Config, TaskConfig, Topic};
use headwater_model::LoggedRequest;
use headwater_model::bahe::{History, base_log_odds, squashed};
use headwater_model::dinmp::{Asked, Reads, Seen};
use headwater_state::pinned_hash;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;

use crate::engine::{Engine, EngineError};
use crate::progress::Progress;
use crate::recording::{Recording, envelope};

use super::TrainError;
use super::rows::{Gathered, Met, Recorded, holds};
use super::runs::Saw;
use super::split::Split;
use super::vectors::{Shared, TextVectors};

/// Events between two looks at the clock.
const PROGRESS_EVENTS: u64 = 1024;

/// Texts, each once.
#[derive(Default)]
struct Texts {
    places: BTreeMap<String, u32>,
    all: Vec<String>,
    asked: u64,
}

impl Texts {
    fn place(&mut self, text: String) -> u32 {
        self.asked += 1;
        if let Some(place) = self.places.get(&text) {
            return *place;
        }
        let place = self.all.len() as u32;
        self.all.push(text.clone());
        self.places.insert(text, place);
        place
    }
}

/// The items that a behavior or a request is of.
#[derive(Deserialize)]
struct Items<'a> {
    #[serde(borrow, default)]
    item_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    candidates: Vec<Cow<'a, str>>,
}

/// What one user did in one sequence so far, in the order of time.
#[derive(Default)]
struct Past {
    texts: Vec<u32>,
    times: Vec<i64>,
}

struct Reader<'a> {
    config: &'a Config,
    texts: Texts,
    users: BTreeMap<String, u32>,
    /// One a user and sequence.
    pasts: Vec<Past>,
    seen: Seen,
    rows: Vec<Met>,
    /// Rows by request and item.
    by_name: BTreeMap<u64, usize>,
    requests: usize,
    /// Hashes of event ids: a behavior that comes again counts once.
    events: BTreeSet<u64>,
    /// Time of the newest row of each user. What comes later and is older would be among what that row saw, and was not.
    newest_rows: BTreeMap<u32, i64>,
}

impl Recorded {
    pub(super) fn read(
        config: &Config,
        (items, events): (&Path, &Path),
        vectors: Option<&Arc<Mutex<TextVectors>>>,
        (split, reads): (Split, Reads),
        progress: bool,
    ) -> Result<Self, TrainError> {
        let embed = vectors.map(|vectors| Shared(Arc::clone(vectors)));
        let mut engine = Engine::logging(config, embed.map(|embed| Box::new(embed) as _))?;
        let mut reader = Reader {
            config,
            texts: Texts::default(),
            users: BTreeMap::new(),
            pasts: Vec::new(),
            seen: Seen::reading(reads),
            rows: Vec::new(),
            by_name: BTreeMap::new(),
            requests: 0,
            events: BTreeSet::new(),
            newest_rows: BTreeMap::new(),
        };
        let mut records = Recording::open(items)?;
        while let Some(line) = records.next_line()? {
            let taken = match engine.item(line) {
                Ok(()) => Ok(()),
                Err(EngineError::Refused(reject)) => Err(reject.to_string()),
                Err(error) => return Err(error.into()),
            };
            taken.map_err(|reason| records.bad(reason))?;
        }
        if let Some(vectors) = vectors {
            // All at once: one request's few texts would be a small batch each. What an item that changes on the way makes new comes with its request.
            let (mut texts, mut items) = (BTreeSet::new(), BTreeSet::new());
            let mut records = Recording::open(events)?;
            while let Some(line) = records.next_line()? {
                // What is wrong with a line is told when it is taken in.
                let Ok((topic, record)) = envelope(line) else {
                    continue;
                };
                if let Ok(met) = serde_json::from_slice::<Items>(record) {
                    let met = met.item_id.into_iter().chain(met.candidates);
                    for item in met {
                        if !items.contains(&*item) {
                            items.insert(item.into_owned());
                        }
                    }
                }
                if topic == Topic::Behaviors
                    && let Ok((sequences, Some(text))) = engine.sequences_of(record)
                    && !sequences.is_empty()
                {
                    texts.insert(text);
                }
            }
            texts.extend(items.iter().map(|item| engine.item_text(item)));
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            vectors.lock().fill(&texts, true)?;
        }
        let mut records = Recording::open(events)?;
        let bar = Progress::new(records.size(), progress);
        let mut count = 0;
        while let Some(line) = records.next_line()? {
            let taken = match envelope(line) {
                Ok((topic, record)) => reader.event(topic, record, &mut engine)?,
                Err(reason) => Err(reason),
            };
            taken.map_err(|reason| records.bad(reason))?;
            count += 1;
            if count % PROGRESS_EVENTS == 0 {
                reader.take_rows(&mut engine)?;
                bar.at(records.bytes_read(), count);
            }
        }
        engine.step()?;
        reader.take_rows(&mut engine)?;
        bar.finish();
        if split.piece.is_some() && engine.out_of_order() > 0 {
            let events = engine.out_of_order();
            tracing::warn!(
                events,
                "events stand behind later ones: pieces are cut in the order of the file. Sort it by time"
            );
        }
        let schema = engine.schema().clone();
        let pasts = reader.pasts.into_iter();
        let gathered = Gathered {
            rows: reader.rows,
            histories: pasts
                .map(|past| History::of(past.texts, &past.times))
                .collect(),
            seen: reader.seen,
            texts: reader.texts.all,
            texts_asked: reader.texts.asked,
            requests: reader.requests,
        };
        Ok(Self::of(config, gathered, split, (schema, None)))
    }
}

fn name(request: &str, item: &str) -> u64 {
    pinned_hash(format!("{request}\0{item}").as_bytes())
}

impl Reader<'_> {
    /// One event; the inner error says what is wrong with its line.
    fn event(
        &mut self,
        topic: Topic,
        record: &[u8],
        engine: &mut Engine,
    ) -> Result<Result<(), String>, EngineError> {
        let taken = match topic {
            Topic::Behaviors => engine.ingest(record),
            Topic::ScoreRequests => engine.queue(record),
            _ => engine.item(record),
        };
        match taken {
            Ok(()) => {}
            Err(EngineError::Refused(reject)) => return Ok(Err(reject.to_string())),
            Err(error) => return Err(error),
        }
        match topic {
            Topic::Behaviors => {
                let (sequences, text) = engine.sequences_of(record)?;
                Ok(self.behavior(record, &sequences, text))
            }
            Topic::ScoreRequests => {
                self.requests += 1;
                Ok(self.request(record, engine))
            }
            _ => Ok(Ok(())),
        }
    }

    fn user(&mut self, id: &str) -> u32 {
        let sequences = self.config.sequences.len();
        if let Some(user) = self.users.get(id) {
            return *user;
        }
        let user = self.pasts.len() as u32;
        self.pasts.extend((0..sequences).map(|_| Past::default()));
        self.users.insert(id.to_owned(), user);
        user
    }

    /// A request's rows, as far as the engine does not say them: who, when, what.
    fn request(&mut self, record: &[u8], engine: &Engine) -> Result<(), String> {
        let record: Value = serde_json::from_slice(record).map_err(|error| error.to_string())?;
        let user = self.user(record["user_id"].as_str().unwrap_or_default());
        let request = record["request_id"].as_str().unwrap_or_default();
        let scenario = record["scenario"].as_str().unwrap_or_default();
        let time = record["time"].as_i64().unwrap_or_default();
        let tasks = self.config.tasks.len();
        let newest = self.newest_rows.entry(user).or_insert(i64::MIN);
        *newest = time.max(*newest);
        // What comes later and is older is no part of them.
        let pasts = &self.pasts[user as usize..][..self.config.sequences.len()];
        let before = |past: &Past| past.times.partition_point(|other| *other < time) as u32;
        let saw = Saw {
            histories: user,
            counts: pasts.iter().map(before).collect(),
        };
        let candidates = record["candidates"].as_array();
        for candidate in candidates.into_iter().flatten() {
            let item = candidate.as_str().unwrap_or_default();
            let text = engine.item_text(item);
            let item_text = self.texts.place(text);
            let mut weights = vec![0.0; tasks];
            if self.config.scoring.requests_are_impressions {
                for (weight, task) in weights.iter_mut().zip(self.config.tasks.values()) {
                    *weight = f32::from(u8::from(holds(&task.scenarios, scenario)));
                }
            }
            self.by_name.insert(name(request, item), self.rows.len());
            self.rows.push(Met {
                names: [request.into(), item.into(), scenario.into()],
                user,
                time,
                saw: saw.clone(),
                item: item_text,
                asked: Asked::default(),
                features: Vec::new(),
                base: Vec::new(),
                labels: vec![0.0; tasks],
                weights,
                request: self.requests - 1,
                champion: Vec::new(),
                projections: Vec::new(),
            });
        }
        Ok(())
    }

    /// A behavior: what it says of a row, and its place in the user's sequences.
    fn behavior(
        &mut self,
        record: &[u8],
        sequences: &[usize],
        text: Option<String>,
    ) -> Result<(), String> {
        let record: Value = serde_json::from_slice(record).map_err(|error| error.to_string())?;
        let of = |key: &str| record[key].as_str().unwrap_or_default();
        let (kind, scenario, item) = (of("kind"), of("scenario"), of("item_id"));
        if let Some(row) = self.by_name.get(&name(of("request_id"), item)) {
            let row = &mut self.rows[*row];
            for (place, task) in self.config.tasks.values().enumerate() {
                label(
                    task,
                    kind,
                    scenario,
                    &mut row.labels[place],
                    &mut row.weights[place],
                );
            }
        }
        let event = of("event_id");
        if !event.is_empty() && !self.events.insert(pinned_hash(event.as_bytes())) {
            return Ok(());
        }
        let Some(text) = text.filter(|_| !sequences.is_empty()) else {
            return Ok(());
        };
        let text = self.texts.place(text);
        let user = self.user(record["user_id"].as_str().unwrap_or_default());
        let time = record["time"].as_i64().unwrap_or_default();
        if self.newest_rows.get(&user).is_some_and(|row| time < *row) {
            return Ok(());
        }
        for sequence in sequences {
            let past = &mut self.pasts[user as usize + sequence];
            // Late ones take the place that their time gives them.
            let place = past.times.partition_point(|other| *other <= time);
            past.times.insert(place, time);
            past.texts.insert(place, text);
        }
        Ok(())
    }

    /// What the engine logged: numbers and scores of rows.
    fn take_rows(&mut self, engine: &mut Engine) -> Result<(), EngineError> {
        let mut wrong = None;
        let spec = engine.schema().key_vectors().cloned();
        engine.take_rows(|record| {
            let logged = LoggedRequest::read(record).expect("invariant: the engine wrote this row");
            let told = spec.as_ref().map(|spec| self.seen.logged(&logged, spec));
            let told = told.transpose().expect("invariant: the engine wrote these");
            let told = told.unwrap_or_default();
            for (place, candidate) in logged.candidates.iter().enumerate() {
                let row = self
                    .by_name
                    .get(&name(&logged.request_id, &candidate.item_id));
                let Some(row) = row.and_then(|row| self.rows.get_mut(*row)) else {
                    wrong = Some(candidate.item_id.to_string());
                    continue;
                };
                row.asked = told.get(place).copied().unwrap_or_default();
                let numbers = logged.shared.iter().chain(&*candidate.values);
                row.features = numbers.map(|value| squashed(*value)).collect();
                let scores = candidate.scores.iter();
                row.base = scores.map(|score| base_log_odds(*score)).collect();
            }
        });
        wrong.map_or(Ok(()), |item| {
            Err(EngineError::DeadLetter {
                reason: format!("a row of item `{item}` that nobody asked for"),
            })
        })
    }
}

/// What a behavior says of a row of its request: a trial, or a success, which is one.
fn label(task: &TaskConfig, kind: &str, scenario: &str, label: &mut f32, weight: &mut f32) {
    if !holds(&task.scenarios, scenario) {
        return;
    }
    let is = |kinds: &[String]| kinds.iter().any(|one| one == kind);
    if is(&task.positive) {
        (*label, *weight) = (1.0, 1.0);
    } else if is(&task.trials) {
        *weight = 1.0;
    }
}
