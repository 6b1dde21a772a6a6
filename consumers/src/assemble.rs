//! Rows from state: the only place where features are computed. What a row holds is the model crate's
//! [`FeatureSchema`]; this module fills it from a user's state and the item table.
//!
//! Before it stands `state`, after it the model. It promises `STATE-3`: nothing of a row comes from anything that happened at or
//! after the row's time. Of a user, behaviors count that are strictly before it; of items, cells that ended before the row's minute began.
//!
//! A row costs one pass over the user's recent behaviors and entries, whatever the number of events behind them, and a few look-ups a
//! candidate. Decayed counts of an entity are kept for the minute, and the rate that an item's trials were expected to have for the hour.

use std::sync::Arc;

use headwater_config::{Config, Span};
use headwater_model::language::text_hash;
use headwater_model::{
    Baseline, Counts, FeatureBatch, FeatureSchema, FeatureSchemaError, HalfLives, Level, Scores,
    Smoothing, TaskSpec,
};
use headwater_state::{
    EncoderId, Entity, ItemTable, KindId, Length, ScenarioId, SequenceId, TextHash, Timestamp,
    User, VectorTable, pinned_hash,
};

use crate::decode::DecodedBehavior;
use crate::embed::Embed;
use crate::error::Error;
use crate::explore::RandomOrder;
use crate::metrics::Metrics;
use crate::sequences::Sequences;

mod deep;
mod entries;
mod key_vectors;
mod likings;
mod log;
mod look;
mod memo;
mod model;
mod runs;
mod served;

use entries::{Entries, Groups};
use key_vectors::Keyed;
use likings::Likings;
use look::TextLook;
use memo::{Memo, Plan};
use model::Scorers;
use runs::Told;

pub use deep::Source;
pub use look::MissingText;
pub use model::WithVectors;
pub(crate) use served::Served;

/// What a row is made of.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The user's id.
    pub user_id: &'a str,
    /// The user, if anything is known of them.
    pub user: Option<&'a User>,
    /// What trained models know the user by; none: they are unknown.
    pub pseudonym: Option<&'a str>,
    /// Where, as it was named: as trained models know it.
    pub scenario_name: &'a str,
    /// Where.
    pub scenario: ScenarioId,
    /// Row time.
    pub time: Timestamp,
    /// What to score.
    pub candidates: &'a [&'a str],
}

/// A request as rows are made of it.
#[derive(Clone, Copy, Debug)]
pub struct RowRequest<'a> {
    /// The request's id.
    pub request_id: &'a str,
    /// For whom.
    pub user: &'a str,
    /// Where, as it was named.
    pub scenario_name: &'a str,
    /// Where.
    pub scenario: ScenarioId,
    /// Row time.
    pub time: Timestamp,
    /// What to score.
    pub candidates: &'a [&'a str],
    /// The random order that the candidates are put in, where they are.
    pub order: Option<RandomOrder>,
}

/// Makes rows and has them scored.
#[derive(Debug)]
pub struct Assembler {
    tasks: Vec<Task>,
    /// Kinds that are a trial or a positive of some task: for each task, whether they are.
    roles: Vec<(KindId, Vec<Role>)>,
    names: Vec<String>,
    schema: FeatureSchema,
    schema_hash: String,
    baseline: Baseline,
    /// The baseline, with its version.
    model: String,
    batch: FeatureBatch,
    memo: Memo,
    entries: Entries,
    groups: Groups,
    item_state: i64,
    sequences: Arc<Sequences>,
    /// What is told of texts; none: nothing, likenesses stay 0.
    texts: Option<(TextLook, Likings)>,
    /// What rows tell of texts where nobody looks at them; none: nothing.
    told: Option<Told>,
    /// What users did with each item; none: rows have nothing of it.
    keyed: Option<Keyed>,
    /// Models over the baseline.
    scorers: Scorers,
}

#[derive(Clone, Copy, Debug, Default)]
struct Role {
    trial: bool,
    positive: bool,
}

#[derive(Debug)]
struct Task {
    scenarios: Vec<ScenarioId>,
    item: HalfLives,
    user: HalfLives,
}

impl Task {
    fn holds_in(&self, scenario: ScenarioId) -> bool {
        self.scenarios.is_empty() || self.scenarios.contains(&scenario)
    }
}

/// Decayed trials and positives of one thing, for one task.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    long: [f64; 2],
    short: [f64; 2],
    last: Option<i64>,
}

impl Sums {
    fn add(&mut self, count: f64, role: Role, age_ms: i64, lives: HalfLives, at: i64) {
        let long = lives
            .long_ms
            .map_or(count, |half| count * decay(age_ms, half));
        let short = lives
            .short_ms
            .map_or(0.0, |half| count * decay(age_ms, half));
        let weight = [
            f64::from(u8::from(role.trial)),
            f64::from(u8::from(role.positive)),
        ];
        for part in 0..2 {
            self.long[part] += long * weight[part];
            self.short[part] += short * weight[part];
        }
        self.last = self.last.max(Some(at));
    }

    /// As counts of an entity that is no user's.
    fn counts(&self) -> Counts {
        Counts {
            trials: self.long[0] as f32,
            positives: self.long[1] as f32,
            recent_trials: self.short[0] as f32,
            recent_positives: self.short[1] as f32,
            last_ms: self.last.unwrap_or(Counts::NEVER_MS),
            ..Counts::default()
        }
    }

    /// As counts of a user's entry.
    fn entry(&self, item_rate: f32) -> Counts {
        let pair = |sums: [f64; 2]| sums.map(|sum| sum as f32);
        Counts::of_entry(
            pair(self.long),
            pair(self.short),
            item_rate,
            self.last.unwrap_or(Counts::NEVER_MS),
        )
    }
}

fn decay(age_ms: i64, half_life_ms: u64) -> f64 {
    (-(age_ms.max(0) as f64) / half_life_ms as f64).exp2()
}

impl Assembler {
    /// For a configuration.
    ///
    /// # Errors
    /// If its tasks make no schema.
    pub fn new(config: &Config) -> Result<Self, FeatureSchemaError> {
        let lives = |short: Span, long: Span| HalfLives {
            short_ms: half_life(short),
            long_ms: half_life(long),
        };
        let scoring = &config.scoring;
        let item = lives(scoring.half_life_short, scoring.half_life_long);
        let user = lives(scoring.user_half_life_short, scoring.user_half_life_long);
        let smoothing = Smoothing {
            other_tasks: scoring.other_tasks.get(),
            ..Smoothing::default()
        };
        // The baseline's scores are what a trained model begins with: it is of rows with these.
        let others = if smoothing == Smoothing::default() {
            String::new()
        } else {
            format!(" other_tasks {}", smoothing.other_tasks)
        };
        let specs = config
            .tasks
            .iter()
            .map(|(name, task)| TaskSpec {
                name: name.clone(),
                definition: format!(
                    "positive {:?} trials {:?} scenarios {:?} requests {} attributes {:?}{others}",
                    task.positive,
                    task.trials,
                    task.scenarios,
                    scoring.requests_are_impressions,
                    config.items.attributes
                ),
                item,
                user,
            })
            .collect();
        let keyed = key_vectors::spec(config);
        let schema = FeatureSchema::with(specs, likings::spec(config), keyed.clone())?;
        let mut roles: Vec<(KindId, Vec<Role>)> = Vec::new();
        for kind in &config.kinds.names {
            let of_tasks: Vec<Role> = config
                .tasks
                .values()
                .map(|task| Role {
                    trial: task.trials.contains(kind),
                    positive: task.positive.contains(kind),
                })
                .collect();
            if of_tasks.iter().any(|role| role.trial || role.positive) {
                roles.push((KindId::of(kind), of_tasks));
            }
        }
        let tasks = config
            .tasks
            .values()
            .map(|task| Task {
                scenarios: task
                    .scenarios
                    .iter()
                    .map(|name| ScenarioId::of(name))
                    .collect(),
                item,
                user,
            })
            .collect();
        let sequences = Arc::new(Sequences::new(config));
        Ok(Self {
            tasks,
            roles,
            names: config.tasks.keys().cloned().collect(),
            schema_hash: format!("{:016x}", schema.hash()),
            baseline: Baseline::new(smoothing).expect("invariant: a share is a correlation"),
            model: format!("{}-{}", Baseline::NAME, Baseline::VERSION),
            scorers: Scorers::default(),
            batch: FeatureBatch::new(&schema),
            memo: Memo::default(),
            entries: Entries::default(),
            groups: Groups::default(),
            item_state: 0,
            told: Told::of(config, &sequences),
            sequences,
            texts: None,
            keyed: keyed.map(Keyed::new),
            schema,
        })
    }

    /// Reads vectors of texts from a table, where the configuration has an encoder.
    pub fn read_vectors(&mut self, config: &Config, table: Arc<VectorTable>, metrics: &Metrics) {
        if config.texts.encoder.is_some() {
            let mut look = TextLook::new(table, metrics.texts.clone());
            look.prefer(self.scorers.encoder());
            let likings = Likings::new(config, Arc::clone(&self.sequences));
            self.texts = Some((look, likings));
        }
    }

    /// Has vectors of texts made at once, in event time: for the engine and for backtests.
    pub fn embed_at_once(&mut self, embed: Box<dyn Embed>) {
        if let Some((look, _)) = &mut self.texts {
            look.embed_at_once(embed);
        }
    }

    /// Why vectors were not made or read, once.
    pub fn failure(&mut self) -> Option<Error> {
        let texts = self.texts.as_mut();
        let failure = texts.and_then(|(look, _)| look.failure().map(Error::Encode));
        failure.or_else(|| self.scorers.champion.as_mut()?.failure())
    }

    /// Takes the texts that have no vector yet and were not told of before.
    pub fn take_missing(&mut self) -> impl Iterator<Item = MissingText> {
        let texts = self.texts.as_mut();
        texts.into_iter().flat_map(|(look, _)| look.take_missing())
    }

    /// Tells of missing texts again: those that were told of may have come to nothing.
    pub fn forget_missing(&mut self) {
        if let Some((look, _)) = &mut self.texts {
            look.forget_missing();
        }
    }

    /// How many items were left out of key-vectors since this was asked last: a record of the log holds no more.
    pub fn take_left_out(&mut self) -> u64 {
        self.keyed.as_mut().map_or(0, Keyed::take_left_out)
    }

    /// Whose vectors the last rows saw.
    pub fn encoder(&self) -> Option<EncoderId> {
        let (look, _) = self.texts.as_ref()?;
        Some(look.encoder()?.id)
    }

    /// The sequences of users.
    pub fn sequences(&self) -> &Sequences {
        &self.sequences
    }

    /// The sequences of a behavior and its text's hash: none where no text has a vector, where it is in no sequence, or where there is no text. A text that
    /// has no vector yet is noted as missing.
    pub fn sequences_of(
        &mut self,
        behavior: &DecodedBehavior<'_>,
        scenario: &str,
        items: &ItemTable,
        to: &mut Vec<SequenceId>,
    ) -> Option<TextHash> {
        to.clear();
        let (look, _) = self.texts.as_mut()?;
        let sequences = &self.sequences;
        to.extend(sequences.of(behavior.kind).map(|place| sequences.id(place)));
        if to.is_empty() {
            return None;
        }
        let text = sequences.text(behavior, scenario, items)?;
        let hash = text_hash(&text);
        look.want(hash, || text);
        Some(hash)
    }

    /// Assembles the rows of a request and has them scored.
    pub fn score(&mut self, row: &Row<'_>, items: &ItemTable, scores: &mut Scores) {
        self.assemble(row, items);
        self.baseline.score(&self.batch, scores);
        if let Some(trained) = self.scorers.of(row) {
            let encoder = self.texts.as_ref().and_then(|(look, _)| look.encoder());
            trained.fill(row, items, encoder);
            let of = (&self.batch, self.keyed.as_ref());
            trained.score((row, items), of, (&self.baseline, scores));
        }
        let is_looked_at = self.is_looked_at();
        if let Some(told) = self.told.as_mut().filter(|_| !is_looked_at) {
            told.fill(row, items);
        }
        self.scorers.want(row, items);
    }

    /// Assembles the rows of a request.
    pub fn assemble(&mut self, row: &Row<'_>, items: &ItemTable) -> &FeatureBatch {
        self.item_state = items.positions().values().sum();
        let minute = floor(row.time, Length::Minute);
        self.memo.begin(minute, self.item_state);
        self.batch.begin(row.time.0, row.candidates.len());
        let plan = Plan {
            tasks: &self.tasks,
            roles: &self.roles,
            baseline: &self.baseline,
            items,
            scenario: row.scenario,
        };
        let global = self.memo.counts(&plan, Entity::Total, None);
        let scenario = self.memo.counts(&plan, Entity::Total, Some(row.scenario));
        for task in 0..self.tasks.len() {
            self.batch
                .set_shared(Level::Global, task, &self.memo.at(global, task));
            self.batch
                .set_shared(Level::Scenario, task, &self.memo.at(scenario, task));
        }
        self.groups.begin(items.categories(), self.tasks.len());
        self.entries.begin(self.tasks.len());
        if let Some(user) = row.user {
            self.entries.fill(&plan, user, row.time);
            self.sum_entries(row, items);
        }
        for (place, candidate) in row.candidates.iter().enumerate() {
            self.candidate(place, candidate, row, items);
        }
        if let Some(keyed) = &mut self.keyed {
            keyed.fill(row, items);
        }
        if let Some((look, likings)) = &mut self.texts {
            // Of behaviors since the last row.
            look.make_missing();
            look.begin();
            likings.fill_batch(row, items, look, &mut self.batch);
            if look.make_missing() {
                likings.fill_batch(row, items, look, &mut self.batch);
            }
            look.end();
        }
        &self.batch
    }

    /// Turns the user's entries into counts of the user, of each category and of each attribute.
    fn sum_entries(&mut self, row: &Row<'_>, items: &ItemTable) {
        let plan = Plan {
            tasks: &self.tasks,
            roles: &self.roles,
            baseline: &self.baseline,
            items,
            scenario: row.scenario,
        };
        let hour = floor(row.time, Length::Hour);
        let mut user = vec![Counts::default(); self.tasks.len()];
        for entry in 0..self.entries.items.len() {
            let (hash, key) = self.entries.items[entry];
            let id = self.entries.text(key);
            let rates = self.memo.rates(&plan, hash, id, hour);
            let known = if items.is_empty() {
                None
            } else {
                items.item(id)
            };
            for task in 0..self.tasks.len() {
                let sums = self.entries.sums[entry * self.tasks.len() + task];
                if sums.last.is_none() {
                    continue;
                }
                let counts = sums.entry(self.memo.rate(rates, task));
                user[task].add(&counts);
                if let Some(known) = known {
                    for number in known.categories.iter().chain(known.attributes.iter()) {
                        self.groups.add(*number, task, &counts);
                    }
                }
            }
        }
        for (task, counts) in user.iter().enumerate() {
            self.batch.set_shared(Level::User, task, counts);
        }
    }

    fn candidate(&mut self, place: usize, candidate: &str, row: &Row<'_>, items: &ItemTable) {
        let plan = Plan {
            tasks: &self.tasks,
            roles: &self.roles,
            baseline: &self.baseline,
            items,
            scenario: row.scenario,
        };
        let item = self
            .memo
            .counts(&plan, Entity::Item(candidate), Some(row.scenario));
        let anywhere = self.memo.counts(&plan, Entity::Item(candidate), None);
        let hash = pinned_hash(candidate.as_bytes());
        let entry = self.entries.find(hash);
        let known = items.item(candidate);
        for task in 0..self.tasks.len() {
            self.batch
                .set(place, Level::Item, task, &self.memo.at(item, task));
            self.batch.set(
                place,
                Level::ItemAnywhere,
                task,
                &self.memo.at(anywhere, task),
            );
            if let Some(entry) = entry {
                let sums = self.entries.sums[entry * self.tasks.len() + task];
                if sums.last.is_some() {
                    self.batch
                        .set(place, Level::UserItem, task, &sums.entry(0.0));
                }
            }
        }
        let Some(known) = known else { return };
        if !known.categories.is_empty() {
            let share = 1.0 / known.categories.len() as f32;
            for task in 0..self.tasks.len() {
                let (mut all, mut own) = (Counts::default(), Counts::default());
                for number in &known.categories {
                    let counts = self.memo.counts(
                        &plan,
                        Entity::Category(items.category_name(*number)),
                        Some(row.scenario),
                    );
                    all.add(&self.memo.at(counts, task));
                    if let Some(counts) = self.groups.get(*number, task) {
                        own.add(counts);
                    }
                }
                self.batch
                    .set(place, Level::Category, task, &all.scaled(share));
                self.batch
                    .set(place, Level::UserCategory, task, &own.scaled(share));
            }
        }
        for task in 0..self.tasks.len() {
            let mut own = Counts::default();
            for number in &known.attributes {
                if let Some(counts) = self.groups.get(*number, task) {
                    own.add(counts);
                }
            }
            if !known.attributes.is_empty() {
                self.batch.set(place, Level::UserAttribute, task, &own);
            }
        }
    }

    /// Whether a task holds in a scenario: elsewhere it has no score.
    pub fn holds(&self, task: usize, scenario: ScenarioId) -> bool {
        self.tasks[task].holds_in(scenario)
    }

    /// Names of the tasks.
    pub fn task_names(&self) -> &[String] {
        &self.names
    }

    /// Hash of the schema, as headers have it.
    pub fn schema_hash(&self) -> &str {
        &self.schema_hash
    }

    /// The schema of the rows.
    pub fn schema(&self) -> &FeatureSchema {
        &self.schema
    }

    /// The scorer.
    pub fn baseline(&self) -> &Baseline {
        &self.baseline
    }

    /// What item statistics the last rows saw: the sum of the next offsets of `item-state`.
    pub fn item_state(&self) -> i64 {
        self.item_state
    }
}

fn half_life(span: Span) -> Option<u64> {
    (!span.is_zero()).then_some(span.micros() / 1000)
}

/// The beginning of the cell that holds a time.
fn floor(time: Timestamp, length: Length) -> i64 {
    time.0.div_euclid(length.ms()) * length.ms()
}
