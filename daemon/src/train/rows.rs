//! Rows to learn from, and what they speak of: from wherever they come, in the order in which training goes over them.

use std::collections::BTreeMap;
use std::ops::Range;

use headwater_config::Config;
use headwater_model::bahe::{Corpus, History, Rows};
use headwater_model::dinmp::{Asked, Seen};
use headwater_model::table::hour_of;
use headwater_model::{Compared, Device, FeatureSchema};
use sha2::{Digest as _, Sha256};

use super::TrainError;
use super::moments::moments;
use super::runs::Saw;
use super::split::{Part, Split};
use super::vectors::{TextVectors, on_device, tensor};

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
    /// Users of the rows.
    users: Vec<u32>,
    /// Requests that they are of.
    pub(super) requests: usize,
    /// Time of the newest row that was learned from before; the least there is: none was.
    newest_before: i64,
    /// The champion's log-odds, a row's tasks behind each other; empty where there is none to be judged against.
    champion: Vec<f32>,
}

/// A row as it is met.
pub(super) struct Met {
    /// Request, item and scenario.
    pub(super) names: [Box<str>; 3],
    pub(super) user: u32,
    pub(super) time: i64,
    /// What it sees of the user's sequences.
    pub(super) saw: Saw,
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
    /// What the champion's head saw of texts; empty: nothing.
    pub(super) projections: Vec<f32>,
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

/// What a training that goes on has seen before.
#[derive(Clone, Debug)]
pub(super) struct Before {
    /// Mean and spread of each number, by which its head sees them.
    pub(super) moments: Vec<[f32; 2]>,
    /// Time of the newest row that was learned from, Unix milliseconds.
    pub(super) newest: i64,
}

impl Recorded {
    /// Rows of a user behind each other, in each part.
    pub(super) fn of(
        config: &Config,
        gathered: Gathered,
        split: Split,
        (schema, before): (FeatureSchema, Option<&Before>),
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
        let parts = split.parts(rows.iter().map(|row| (row.request, row.time)), requests);
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
        let learned = rows[..sizes[0]].iter().map(|row| &*row.features);
        let moments = before.map_or_else(|| moments(&learned, features), |of| of.moments.clone());
        let mut columns = Rows::default();
        let known = told_apart(config);
        let mut names = Vec::with_capacity(rows.len());
        let (mut times, mut users, mut champion) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            columns.user.push(row.saw.histories);
            columns.counts.extend(row.saw.counts);
            columns.item.push(row.item);
            if !known.is_empty() {
                let place = known.iter().position(|name| **name == *row.names[2]);
                columns
                    .scenario
                    .push(place.map_or(0, |place| place as u32 + 1));
            }
            columns.asked.push(row.asked);
            columns.hours.push(hour_of(row.time));
            let numbers = row.features.iter().zip(&moments);
            columns
                .features
                .extend(numbers.map(|(value, [mean, spread])| (value - mean) / spread));
            columns.projections.extend(row.projections);
            columns.base.extend(row.base);
            columns.labels.extend(row.labels);
            columns.weights.extend(row.weights);
            names.push(row.names);
            times.push(row.time);
            users.push(row.user);
            champion.extend(row.champion);
        }
        let scenarios = config.tasks.iter();
        Self {
            corpus: Corpus {
                vectors: tensor(vec![0.0], (1, 1)).expect("invariant: one value in one row"),
                histories,
                sequences: config.sequences.len(),
                scenarios: known.len(),
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
            users,
            requests,
            newest_before: before.map_or(i64::MIN, |before| before.newest),
            champion,
        }
    }

    /// Time of the newest row.
    pub(super) fn newest(&self) -> i64 {
        let times = self.times.iter().copied();
        times.fold(self.newest_before, i64::max)
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

    /// Time of the oldest and of the newest of some rows.
    pub(super) fn span(&self, rows: Range<usize>) -> [i64; 2] {
        let times = self.times[rows].iter().copied();
        times.fold([i64::MAX, i64::MIN], |[oldest, newest], time| {
            [oldest.min(time), newest.max(time)]
        })
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
        let seen = self.times[learned.start..validated.end].iter().copied();
        let from = match seen.fold(self.newest_before, i64::max) {
            i64::MIN => i64::MIN,
            seen => seen.saturating_add(apart_ms),
        };
        let rows = &self.corpus.rows;
        let mut compared = Vec::new();
        for (row, of_row) in scored.zip(challenger.chunks(tasks)) {
            if self.times[row] <= from {
                continue;
            }
            for (task, log_odds) in of_row.iter().enumerate() {
                let place = row * tasks + task;
                compared.push(Compared {
                    user: self.users[row],
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
        let counts = [&rows.user, &rows.counts, &rows.item, &rows.scenario];
        for counts in counts.into_iter().chain([&rows.hours]) {
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
        let numbers = [&rows.features, &rows.base, &rows.labels, &rows.weights];
        for numbers in numbers.into_iter().chain([&rows.projections]) {
            numbers
                .iter()
                .for_each(|number| hash.update(number.to_le_bytes()));
        }
        for history in &self.corpus.histories {
            hash.update(history.start.to_le_bytes());
            for (text, gap) in history.texts.iter().zip(&history.gaps) {
                hash.update(text.to_le_bytes());
                hash.update(gap.to_le_bytes());
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

    /// Has the vectors lie where they are learned from.
    pub(super) fn lay_vectors(&mut self, device: &Device) -> Result<(), TrainError> {
        self.corpus.vectors = on_device(&self.corpus.vectors, device)?;
        Ok(())
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

/// Scenarios that a model is to tell apart: where there is one, nothing is to be told apart.
pub(super) fn told_apart(config: &Config) -> &[String] {
    let names = &config.scenarios.names;
    if names.len() > 1 { names } else { &[] }
}

pub(super) fn holds(scenarios: &[String], scenario: &str) -> bool {
    scenarios.is_empty() || scenarios.iter().any(|one| one == scenario)
}
