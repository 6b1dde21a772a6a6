//! Recordings to rows: features by the production step, labels by what followed, sequences by what came before.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use headwater_config::{Config, TaskConfig, Topic};
use headwater_model::bahe::{Corpus, History, Rows, base_log_odds, squashed};
use headwater_model::dinmp::{Asked, Seen};
use headwater_model::{Compared, Device, FeatureSchema, LoggedRequest};
use headwater_state::pinned_hash;
use parking_lot::Mutex;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::engine::{Engine, EngineError};
use crate::progress::Progress;
use crate::recording::{Recording, envelope};

use super::TrainError;
use super::moments::moments;
use super::split::{Part, Split};
use super::vectors::{Shared, TextVectors, tensor};

/// Events between two looks at the clock.
const PROGRESS_EVENTS: u64 = 1024;

/// All that the recordings say, in the form of rows.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) corpus: Corpus,
    /// Distinct texts, in the order in which they were met.
    pub(super) texts: Vec<String>,
    /// How often one was asked for.
    pub(super) texts_asked: u64,
    /// Request, item and scenario of each row.
    names: Vec<[Box<str>; 3]>,
    /// Scenarios of each task; empty: all.
    scenarios: BTreeMap<String, Vec<String>>,
    /// Rows learned from, validated on, scored alone.
    sizes: [usize; 3],
    /// Those behind the ones that are learned from, in pieces by time.
    pub(super) pieces: Vec<Range<usize>>,
    /// Mean and spread of each number of the rows that are learned from.
    pub(super) moments: Vec<[f32; 2]>,
    /// What the rows are made of.
    pub(super) schema: FeatureSchema,
    /// Times of the rows.
    times: Vec<i64>,
    /// The champion's log-odds, a row's tasks behind each other; empty where there is none to be judged against.
    champion: Vec<f32>,
}

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

/// A row as it is met.
pub(super) struct Met {
    /// Request, item and scenario.
    pub(super) names: [Box<str>; 3],
    /// The first of the user's histories.
    pub(super) user: u32,
    pub(super) time: i64,
    /// The item's text.
    pub(super) item: u32,
    /// What it sees of its user's past, where rows see that.
    pub(super) asked: Asked,
    pub(super) features: Vec<f32>,
    pub(super) base: Vec<f32>,
    pub(super) labels: Vec<f32>,
    pub(super) weights: Vec<f32>,
    /// Which request it is of, counted in their order.
    pub(super) request: usize,
    /// The champion's log-odds by task, where there is one to be judged against.
    pub(super) champion: Vec<f32>,
}

/// All rows, with what they speak of.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) rows: Vec<Met>,
    pub(super) histories: Vec<History>,
    pub(super) seen: Seen,
    pub(super) texts: Vec<String>,
    pub(super) texts_asked: u64,
    pub(super) requests: usize,
}

struct Reader<'a> {
    config: &'a Config,
    texts: Texts,
    users: BTreeMap<String, u32>,
    histories: Vec<History>,
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
        split: Split,
        progress: bool,
    ) -> Result<Self, TrainError> {
        let embed = vectors.map(|vectors| Shared(Arc::clone(vectors)));
        let mut engine = Engine::logging(config, embed.map(|embed| Box::new(embed) as _))?;
        let mut reader = Reader {
            config,
            texts: Texts::default(),
            users: BTreeMap::new(),
            histories: Vec::new(),
            seen: Seen::default(),
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
            let mut texts: BTreeSet<String> = engine.item_texts().collect();
            let mut records = Recording::open(events)?;
            while let Some(line) = records.next_line()? {
                // What is wrong with a line is told when it is taken in.
                if let Ok((Topic::Behaviors, record)) = envelope(line)
                    && let Ok((sequences, Some(text))) = engine.sequences_of(record)
                    && !sequences.is_empty()
                {
                    texts.insert(text);
                }
            }
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
        let schema = engine.schema().clone();
        let gathered = Gathered {
            rows: reader.rows,
            histories: reader.histories,
            seen: reader.seen,
            texts: reader.texts.all,
            texts_asked: reader.texts.asked,
            requests: reader.requests,
        };
        Ok(Self::of(config, gathered, split, schema))
    }

    /// Rows of a user behind each other, in each part.
    pub(super) fn of(
        config: &Config,
        gathered: Gathered,
        split: Split,
        schema: FeatureSchema,
    ) -> Self {
        let Gathered {
            mut rows,
            histories,
            seen,
            texts,
            texts_asked,
            requests,
        } = gathered;
        // Requests that were not scored (expired, too large) have no rows.
        rows.retain(|row| !row.base.is_empty());
        let parts = split.parts(&rows, requests);
        let mut rows: Vec<(Part, Met)> = parts.into_iter().zip(rows).collect();
        rows.sort_by_key(|(part, row)| (*part, row.user, row.time, row.request));
        let mut sizes = [0; 3];
        let mut pieces: Vec<Range<usize>> = Vec::new();
        for (at, (part, _)) in rows.iter().enumerate() {
            sizes[part.split] += 1;
            match pieces.last_mut() {
                _ if part.split == 0 => {}
                Some(piece) if rows[piece.start].0.piece == part.piece => piece.end = at + 1,
                _ => pieces.push(at..at + 1),
            }
        }
        let rows: Vec<Met> = rows.into_iter().map(|(_, row)| row).collect();
        let features = rows.first().map_or(0, |row| row.features.len());
        let moments = moments(&rows[..sizes[0]].iter().map(|row| &*row.features), features);
        let sequences = config.sequences.len();
        let mut columns = Rows::default();
        let mut names = Vec::with_capacity(rows.len());
        let (mut times, mut champion) = (Vec::new(), Vec::new());
        for row in rows {
            columns.user.push(row.user);
            for sequence in 0..sequences {
                let times = &histories[row.user as usize + sequence].times;
                columns
                    .counts
                    .push(times.partition_point(|time| *time < row.time) as u32);
            }
            columns.item.push(row.item);
            columns.asked.push(row.asked);
            let numbers = row.features.iter().zip(&moments);
            columns
                .features
                .extend(numbers.map(|(value, [mean, spread])| (value - mean) / spread));
            columns.base.extend(row.base);
            columns.labels.extend(row.labels);
            columns.weights.extend(row.weights);
            names.push(row.names);
            times.push(row.time);
            champion.extend(row.champion);
        }
        let scenarios = config.tasks.iter();
        Self {
            corpus: Corpus {
                vectors: tensor(vec![0.0], (1, 1)).expect("invariant: one value in one row"),
                histories,
                sequences,
                features,
                tasks: config.tasks.keys().cloned().collect(),
                seen,
                rows: columns,
            },
            texts,
            texts_asked,
            names,
            scenarios: scenarios
                .map(|(name, task)| (name.clone(), task.scenarios.clone()))
                .collect(),
            sizes,
            pieces,
            moments,
            schema,
            times,
            champion,
        }
    }

    /// Time of the newest row.
    pub(super) fn newest(&self) -> i64 {
        self.times.iter().copied().max().unwrap_or(i64::MIN)
    }

    pub(super) fn split_sizes(&self) -> [usize; 3] {
        self.sizes
    }

    pub(super) fn splits(&self) -> [Range<usize>; 3] {
        let [learned, validated, scored] = self.sizes;
        [
            0..learned,
            learned..learned + validated,
            learned + validated..learned + validated + scored,
        ]
    }

    pub(super) fn has_labels(&self) -> bool {
        let learned = self.sizes[0] * self.corpus.tasks.len();
        self.corpus.rows.weights[..learned]
            .iter()
            .any(|weight| *weight > 0.0)
    }

    pub(super) fn time(&self, row: usize) -> i64 {
        self.times[row]
    }

    /// Request and item of a row.
    pub(super) fn named(&self, row: usize) -> (&str, &str) {
        let [request, item, _] = &self.names[row];
        (request, item)
    }

    /// Whether a task is predicted for a row.
    pub(super) fn holds(&self, row: usize, task: &str) -> bool {
        holds(&self.scenarios[task], &self.names[row][2])
    }

    /// The rows that are scored alone, from the first on that is later than all others by more than `apart_ms`, with the champion beside these log-odds of a challenger.
    pub(super) fn compared(&self, challenger: &[f32], apart_ms: i64) -> Vec<Compared> {
        let [learned, validated, scored] = self.splits();
        let tasks = self.corpus.tasks.len();
        let seen = self.times[learned.start..validated.end].iter().max();
        let from = seen.map_or(i64::MIN, |seen| seen.saturating_add(apart_ms));
        let rows = &self.corpus.rows;
        let mut compared = Vec::new();
        for (row, of_row) in scored.zip(challenger.chunks(tasks)) {
            if self.times[row] <= from {
                continue;
            }
            for (task, log_odds) in of_row.iter().enumerate() {
                let place = row * tasks + task;
                compared.push(Compared {
                    user: rows.user[row],
                    weight: rows.weights[place].into(),
                    positive: rows.labels[place] > 0.0,
                    champion: self.champion[place].into(),
                    challenger: (*log_odds).into(),
                });
            }
        }
        compared
    }

    /// Mean loss of rows whose log-odds are known, over all labels.
    pub(super) fn loss(&self, rows: Range<usize>, log_odds: &[f32]) -> f64 {
        let tasks = self.corpus.tasks.len();
        let places = rows.start * tasks..rows.end * tasks;
        let (labels, weights) = (&self.corpus.rows.labels, &self.corpus.rows.weights);
        let labels = labels[places.clone()].iter().zip(&weights[places]);
        let (mut sum, mut count) = (0.0, 0.0);
        for ((label, weight), log_odds) in labels.zip(log_odds) {
            let toward = if *label > 0.0 { -*log_odds } else { *log_odds };
            let toward = f64::from(toward);
            sum += f64::from(*weight) * (toward.max(0.0) + (-toward.abs()).exp().ln_1p());
            count += f64::from(*weight);
        }
        sum / f64::max(count, 1.0)
    }

    /// All that training reads of it.
    pub(super) fn digest(&self, hash: &mut Sha256) {
        let rows = &self.corpus.rows;
        for counts in [&rows.user, &rows.counts, &rows.item] {
            counts
                .iter()
                .for_each(|count| hash.update(count.to_le_bytes()));
        }
        if self.schema.key_vectors().is_some() {
            let seen = &self.corpus.seen;
            for asked in &rows.asked {
                hash.update(asked.request.to_le_bytes());
                hash.update(asked.item.to_le_bytes());
            }
            for atom in seen.atoms() {
                hash.update(atom.item.to_le_bytes());
                hash.update(atom.mark.to_le_bytes());
            }
            for item in 0..seen.items() {
                hash.update(format!("{:?}", seen.keys_of(item)));
            }
            hash.update(format!("{:?} {:?}", seen.keys(), seen.marks()));
        }
        for numbers in [&rows.features, &rows.base, &rows.labels, &rows.weights] {
            numbers
                .iter()
                .for_each(|number| hash.update(number.to_le_bytes()));
        }
        for history in &self.corpus.histories {
            for (text, time) in history.texts.iter().zip(&history.times) {
                hash.update(text.to_le_bytes());
                hash.update(time.to_le_bytes());
            }
        }
        for text in &self.texts {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        for size in self.sizes {
            hash.update((size as u64).to_le_bytes());
        }
    }

    /// Looks at texts, by these vectors.
    pub(super) fn with_vectors(
        &mut self,
        vectors: &mut TextVectors,
        device: &Device,
    ) -> Result<(), TrainError> {
        let texts: Vec<&str> = self.texts.iter().map(String::as_str).collect();
        vectors.fill(&texts, true)?;
        self.corpus.vectors = vectors.table(&self.texts, device)?;
        Ok(())
    }
}

fn holds(scenarios: &[String], scenario: &str) -> bool {
    scenarios.is_empty() || scenarios.iter().any(|one| one == scenario)
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
        let user = self.histories.len() as u32;
        self.histories
            .extend((0..sequences).map(|_| History::default()));
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
                item: item_text,
                asked: Asked::default(),
                features: Vec::new(),
                base: Vec::new(),
                labels: vec![0.0; tasks],
                weights,
                request: self.requests - 1,
                champion: Vec::new(),
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
            let history = &mut self.histories[user as usize + sequence];
            // Late ones take the place that their time gives them.
            let place = history.times.partition_point(|other| *other <= time);
            history.times.insert(place, time);
            history.texts.insert(place, text);
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
