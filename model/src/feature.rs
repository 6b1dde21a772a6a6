//! What a scorer reads: named numbers about a request's user and about each of its candidates.
//!
//! Before this stands the *assemble* stage of `consumers`, which fills a [`FeatureBatch`] from state; after it any
//! scorer of this crate, and the feature log, which keeps the rows as they were scored. This module promises that a
//! row's layout follows from its [`FeatureSchema`] alone, that a schema's hash changes whenever a number would mean
//! something else, and that a batch is refilled without allocation once it has held its largest request.
//!
//! # What the assembler must provide
//!
//! For every task (a kind of outcome, such as `click`) and every [`Level`] one [`Counts`]. A level that has nothing
//! to say is left out: a begun batch holds zero counts, and zero counts are neutral evidence, never an error.
//!
//! What is counted, for a task:
//!
//! * a **trial** is a behavior of one of the task's trial kinds, or, where requests count as impressions, being a
//!   candidate of an earlier request of the task's scenarios; a **positive** is a behavior of one of its positive
//!   kinds. A kind may be both (`like` and `dislike` are trials, `like` is the positive).
//! * Everything is **strictly before the row's time**. Levels without the user ([`Level::Global`],
//!   [`Level::Scenario`], [`Level::Category`], [`Level::Item`]) come from the item table's cells that ended at or
//!   before the start of the row's minute.
//! * `trials`, `positives` and `expected` are decayed with the *long* half-life, those named `recent_…` with the
//!   *short* one ([`HalfLives`]): an event of age `a` weighs `2^(-a / half-life)`. No long half-life means undecayed;
//!   no short one means that recent counts stay 0. A cell's events may all be given the age of the cell's middle.
//!
//! | level | part | sums over | quantities |
//! |---|---|---|---|
//! | `Global` | shared | all items, all scenarios | trials, positives |
//! | `Scenario` | shared | all items, the row's scenario | trials, positives |
//! | `User` | shared | the user's entries | trials, positives, expected, unmatched, recent ×3, idle |
//! | `Category` | candidate | items of the candidate's categories, the row's scenario | trials, positives |
//! | `Item` | candidate | the candidate, the row's scenario | trials, positives, recent ×2, idle |
//! | `UserCategory` | candidate | the user's entries of items of the candidate's categories | trials, positives, expected, unmatched, idle |
//! | `UserAttribute` | candidate | the user's entries of items that share the candidate's attribute | the same |
//! | `UserItem` | candidate | the user's entry of the candidate | trials, positives, unmatched, idle |
//!
//! * **Categories.** A candidate of m categories gets the *mean*: the sum of its categories' counts times `1/m`
//!   ([`Counts::scaled`]); an item of several categories counts whole in each of them.
//! * **Attribute** is one configured field of the item record (`author`, `brand`, …); no field or no value: leave out.
//! * **Entries.** A user's entry is what state knows of the user and one item: recent and history together. An entry
//!   is turned into counts by [`Counts::of_entry`], which parts positives into those that had a trial (`positives`,
//!   never more than trials) and those that had none (`unmatched`: bought elsewhere, clicked before impressions were
//!   recorded). An item's positives count from the first cell that has trials; older cells are left out.
//! * **Expected.** An entry's `expected` is its trials times the item's own smoothed rate, that is, how many
//!   positives a plain user would have given. The rate is [`crate::Base::item_rate`] of the entry's item, with the
//!   item table as of the request; [`Counts::of_entry`] takes it. It is what tells a generous user from one who was
//!   shown good items. The item table may cache the rate by item, scenario and task.
//!
//! In one pass over the user's entries, before any candidate, the assembler sums `User`, a map category → counts and
//! a map attribute → counts; a candidate then costs one look-up a category and one an attribute. A cap on the entries
//! of a very long user is sound as long as it keeps those with positives: on MovieLens the newest 128 give the same
//! AUC as all of them.

use std::fmt::Write as _;

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

/// The layout's version, part of every schema's hash: raise it when a quantity comes to mean something else.
const LAYOUT: u32 = 1;

/// The value of `idle` where nothing of the level ever happened.
const NEVER: f32 = -1.0;

/// Whom counts speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// Everybody, everywhere.
    Global,
    /// Everybody in the row's scenario.
    Scenario,
    /// The user, over all items.
    User,
    /// Everybody, on items of the candidate's categories, in the row's scenario.
    Category,
    /// Everybody, on the candidate, in the row's scenario.
    Item,
    /// The user, on items of the candidate's categories.
    UserCategory,
    /// The user, on items that share the candidate's attribute.
    UserAttribute,
    /// The user, on the candidate.
    UserItem,
}

/// One number of a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Quantity {
    /// Trials, long half-life.
    Trials,
    /// Positives that had a trial, long half-life.
    Positives,
    /// Positives that a plain user would have given in these trials.
    Expected,
    /// Positives without a trial, long half-life.
    Unmatched,
    /// Trials, short half-life.
    RecentTrials,
    /// Positives that had a trial, short half-life.
    RecentPositives,
    /// As `Expected`, short half-life.
    RecentExpected,
    /// Seconds from the level's newest trial or positive to the row's time; -1 where there was none.
    Idle,
}

use Quantity::{
    Expected, Idle, Positives, RecentExpected, RecentPositives, RecentTrials, Trials, Unmatched,
};

impl Level {
    /// Every level, in the order of the layout: those of the shared part first.
    pub const ALL: [Self; 8] = [
        Self::Global,
        Self::Scenario,
        Self::User,
        Self::Category,
        Self::Item,
        Self::UserCategory,
        Self::UserAttribute,
        Self::UserItem,
    ];

    /// What a row holds of the level, in the order of the layout. This table is the layout; all else follows from it.
    pub const fn quantities(self) -> &'static [Quantity] {
        match self {
            Self::Global | Self::Scenario | Self::Category => &[Trials, Positives],
            Self::User => &[
                Trials,
                Positives,
                Expected,
                Unmatched,
                RecentTrials,
                RecentPositives,
                RecentExpected,
                Idle,
            ],
            Self::Item => &[Trials, Positives, RecentTrials, RecentPositives, Idle],
            Self::UserCategory | Self::UserAttribute => {
                &[Trials, Positives, Expected, Unmatched, Idle]
            }
            Self::UserItem => &[Trials, Positives, Unmatched, Idle],
        }
    }

    /// Whether the level is the same for all candidates of a request.
    pub const fn is_shared(self) -> bool {
        matches!(self, Self::Global | Self::Scenario | Self::User)
    }

    /// The level's part of a feature's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Scenario => "scenario",
            Self::User => "user",
            Self::Category => "category",
            Self::Item => "item",
            Self::UserCategory => "user_category",
            Self::UserAttribute => "user_attribute",
            Self::UserItem => "user_item",
        }
    }

    /// Where the level's numbers begin within its task's part of the shared or the candidate's values.
    const fn offset(self) -> usize {
        let (mut place, mut at) = (0, 0);
        while at < Self::ALL.len() {
            let level = Self::ALL[at];
            if level as u8 == self as u8 {
                return place;
            }
            if level.is_shared() == self.is_shared() {
                place += level.quantities().len();
            }
            at += 1;
        }
        place
    }

    /// How many numbers a task has in the shared part, or in a candidate's.
    const fn width(shared: bool) -> usize {
        let (mut width, mut at) = (0, 0);
        while at < Self::ALL.len() {
            if Self::ALL[at].is_shared() == shared {
                width += Self::ALL[at].quantities().len();
            }
            at += 1;
        }
        width
    }
}

/// Numbers that a task has in the shared part.
const SHARED: usize = Level::width(true);
/// Numbers that a task has for each candidate.
const OWN: usize = Level::width(false);

impl Quantity {
    /// The quantity's part of a feature's name.
    pub const fn name(self) -> &'static str {
        match self {
            Trials => "trials",
            Positives => "positives",
            Expected => "expected",
            Unmatched => "unmatched",
            RecentTrials => "recent_trials",
            RecentPositives => "recent_positives",
            RecentExpected => "recent_expected",
            Idle => "idle",
        }
    }

    /// The unit of the number.
    pub const fn unit(self) -> &'static str {
        match self {
            Idle => "s",
            _ => "decayed count",
        }
    }

    /// The number where nothing was set.
    pub const fn default(self) -> f32 {
        match self {
            Idle => NEVER,
            _ => 0.0,
        }
    }

    /// What the number says.
    pub const fn doc(self) -> &'static str {
        match self {
            Trials => "chances to become positive, long half-life",
            Positives => "positives that had a trial, long half-life",
            Expected => "positives that a plain user would have given in these trials",
            Unmatched => "positives without a trial, long half-life",
            RecentTrials => "chances to become positive, short half-life",
            RecentPositives => "positives that had a trial, short half-life",
            RecentExpected => "as expected, short half-life",
            Idle => "time since the newest trial or positive; -1: never",
        }
    }
}

/// Decayed counts of one level, for one task. All are finite and ≥ 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counts {
    /// Trials, long half-life.
    pub trials: f32,
    /// Positives that had a trial, long half-life.
    pub positives: f32,
    /// Sum over the trials of their items' smoothed rates, long half-life.
    pub expected: f32,
    /// Positives without a trial, long half-life.
    pub unmatched: f32,
    /// Trials, short half-life.
    pub recent_trials: f32,
    /// Positives that had a trial, short half-life.
    pub recent_positives: f32,
    /// As `expected`, short half-life.
    pub recent_expected: f32,
    /// Unix milliseconds of the newest trial or positive; [`Counts::NEVER_MS`] where there was none.
    pub last_ms: i64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            trials: 0.0,
            positives: 0.0,
            expected: 0.0,
            unmatched: 0.0,
            recent_trials: 0.0,
            recent_positives: 0.0,
            recent_expected: 0.0,
            last_ms: Self::NEVER_MS,
        }
    }
}

impl Counts {
    /// `last_ms` of what never happened.
    pub const NEVER_MS: i64 = i64::MIN;

    /// Counts of a user's entry of one item, from decayed `[trials, positives]` with the long and the short half-life.
    /// Positives beyond the trials had none; `item_rate` is the item's smoothed rate ([`crate::Base::item_rate`]).
    pub fn of_entry(long: [f32; 2], short: [f32; 2], item_rate: f32, last_ms: i64) -> Self {
        Self {
            trials: long[0],
            positives: long[1].min(long[0]),
            expected: long[0] * item_rate,
            unmatched: (long[1] - long[0]).max(0.0),
            recent_trials: short[0],
            recent_positives: short[1].min(short[0]),
            recent_expected: short[0] * item_rate,
            last_ms,
        }
    }

    /// Adds another's counts; the newer time stays.
    pub fn add(&mut self, other: &Self) {
        self.trials += other.trials;
        self.positives += other.positives;
        self.expected += other.expected;
        self.unmatched += other.unmatched;
        self.recent_trials += other.recent_trials;
        self.recent_positives += other.recent_positives;
        self.recent_expected += other.recent_expected;
        self.last_ms = self.last_ms.max(other.last_ms);
    }

    /// The same counts times a factor: 1/m where sums over m categories become their mean.
    #[must_use]
    pub fn scaled(&self, factor: f32) -> Self {
        Self {
            trials: self.trials * factor,
            positives: self.positives * factor,
            expected: self.expected * factor,
            unmatched: self.unmatched * factor,
            recent_trials: self.recent_trials * factor,
            recent_positives: self.recent_positives * factor,
            recent_expected: self.recent_expected * factor,
            last_ms: self.last_ms,
        }
    }

    /// One number of these, as it stands in a row of the given time.
    fn value(&self, quantity: Quantity, time_ms: i64) -> f32 {
        match quantity {
            Trials => self.trials,
            Positives => self.positives,
            Expected => self.expected,
            Unmatched => self.unmatched,
            RecentTrials => self.recent_trials,
            RecentPositives => self.recent_positives,
            RecentExpected => self.recent_expected,
            Idle if self.last_ms == Self::NEVER_MS => NEVER,
            Idle => (time_ms.saturating_sub(self.last_ms) as f64 / 1000.0).max(0.0) as f32,
        }
    }
}

/// The half-lives of decayed counts, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HalfLives {
    /// Of `recent_…`; none: these counts stay 0.
    pub short_ms: Option<u64>,
    /// Of all others; none: undecayed.
    pub long_ms: Option<u64>,
}

/// One kind of outcome that is predicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskSpec {
    /// The task's name, such as `click`.
    pub name: String,
    /// Anything that fixes what is counted for the task (its positive and trial kinds, whether requests count as
    /// impressions), in a canonical text: it goes into the schema's hash and is not read otherwise.
    pub definition: String,
    /// Half-lives of the levels without the user.
    pub item: HalfLives,
    /// Half-lives of the levels with the user.
    pub user: HalfLives,
}

/// One number of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// `task.level.quantity`, unique within the schema and the same in every schema that has it.
    pub name: String,
    /// A hash of the name: the same feature has the same id in every schema.
    pub id: u64,
    /// The task, by its place in the schema.
    pub task: usize,
    /// Whom it speaks of.
    pub level: Level,
    /// What it counts.
    pub quantity: Quantity,
}

/// Which numbers a row holds, in which order, and what they mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureSchema {
    tasks: Vec<TaskSpec>,
    shared: Vec<Feature>,
    own: Vec<Feature>,
    hash: u64,
}

/// Why tasks make no schema.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FeatureSchemaError {
    /// No task is configured.
    #[error("a feature schema needs at least one task")]
    NoTask,
    /// A task's name is empty or holds something else than `a`–`z`, `0`–`9`, `_` and `-`.
    #[error("task name {name:?} must be of a-z, 0-9, _ and -")]
    TaskName {
        /// The name as configured.
        name: String,
    },
    /// Two tasks share a name.
    #[error("task {name:?} is configured twice")]
    TaskTwice {
        /// The name.
        name: String,
    },
}

impl FeatureSchema {
    /// The schema of these tasks, in this order.
    pub fn new(tasks: Vec<TaskSpec>) -> Result<Self, FeatureSchemaError> {
        if tasks.is_empty() {
            return Err(FeatureSchemaError::NoTask);
        }
        for (place, task) in tasks.iter().enumerate() {
            let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
            if task.name.is_empty() || !task.name.bytes().all(plain) {
                return Err(FeatureSchemaError::TaskName {
                    name: task.name.clone(),
                });
            }
            if tasks[..place].iter().any(|other| other.name == task.name) {
                return Err(FeatureSchemaError::TaskTwice {
                    name: task.name.clone(),
                });
            }
        }
        let features = |shared: bool| -> Vec<Feature> {
            let mut found = Vec::new();
            for (task, spec) in tasks.iter().enumerate() {
                for level in Level::ALL
                    .into_iter()
                    .filter(|level| level.is_shared() == shared)
                {
                    found.extend(level.quantities().iter().map(|&quantity| {
                        let name = format!("{}.{}.{}", spec.name, level.name(), quantity.name());
                        Feature {
                            id: xxh3_64(name.as_bytes()),
                            name,
                            task,
                            level,
                            quantity,
                        }
                    }));
                }
            }
            found
        };
        let (shared, own) = (features(true), features(false));
        let mut text = format!("layout {LAYOUT}\n");
        for task in &tasks {
            // Debug quotes the free text, so that no definition can pass for another line.
            writeln!(text, "task {} {:?}", task.name, task.definition)
                .expect("invariant: a String takes any text");
            for (of, lives) in [("item", task.item), ("user", task.user)] {
                writeln!(text, "{of} {:?} {:?}", lives.short_ms, lives.long_ms)
                    .expect("invariant: a String takes any text");
            }
        }
        for feature in shared.iter().chain(&own) {
            writeln!(text, "{} {}", feature.name, feature.quantity.unit())
                .expect("invariant: a String takes any text");
        }
        Ok(Self {
            hash: xxh3_64(text.as_bytes()),
            tasks,
            shared,
            own,
        })
    }

    /// The tasks, in order; elsewhere a task is named by its place here.
    pub fn tasks(&self) -> &[TaskSpec] {
        &self.tasks
    }

    /// The place of a task.
    pub fn task(&self, name: &str) -> Option<usize> {
        self.tasks.iter().position(|task| task.name == name)
    }

    /// The features of the shared part, in order.
    pub fn shared(&self) -> &[Feature] {
        &self.shared
    }

    /// The features of a candidate, in order.
    pub fn own(&self) -> &[Feature] {
        &self.own
    }

    /// Rows of equal hash have equal layout and meaning.
    pub fn hash(&self) -> u64 {
        self.hash
    }
}

/// The numbers of one candidate: its request's part and its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FeatureRow<'a> {
    /// What all candidates of the request share.
    pub shared: &'a [f32],
    /// What is the candidate's own.
    pub own: &'a [f32],
}

impl FeatureRow<'_> {
    /// One number; panics if the row lacks the task or the level the quantity, which no schema allows.
    pub fn get(&self, level: Level, task: usize, quantity: Quantity) -> f32 {
        let (part, width) = if level.is_shared() {
            (self.shared, SHARED)
        } else {
            (self.own, OWN)
        };
        let place = level
            .quantities()
            .iter()
            .position(|&other| other == quantity)
            .expect("invariant: only quantities of the level are asked for");
        part[task * width + level.offset() + place]
    }

    /// The numbers of a level, in the order of [`Level::quantities`].
    pub(crate) fn level(&self, level: Level, task: usize) -> &[f32] {
        let (part, width) = if level.is_shared() {
            (self.shared, SHARED)
        } else {
            (self.own, OWN)
        };
        let from = task * width + level.offset();
        &part[from..from + level.quantities().len()]
    }
}

/// The rows of one request, in buffers that are used again for the next.
#[derive(Clone, Debug)]
pub struct FeatureBatch {
    tasks: usize,
    time_ms: i64,
    rows: usize,
    shared: Vec<f32>,
    own: Vec<f32>,
    blank_shared: Vec<f32>,
    blank_own: Vec<f32>,
}

impl FeatureBatch {
    /// An empty batch of the schema's layout.
    pub fn new(schema: &FeatureSchema) -> Self {
        let blank = |features: &[Feature]| -> Vec<f32> {
            features
                .iter()
                .map(|feature| feature.quantity.default())
                .collect()
        };
        Self {
            tasks: schema.tasks.len(),
            time_ms: 0,
            rows: 0,
            shared: blank(&schema.shared),
            own: Vec::new(),
            blank_shared: blank(&schema.shared),
            blank_own: blank(&schema.own),
        }
    }

    /// Starts a request of the given time (Unix milliseconds) and number of candidates, all of whose counts are zero.
    pub fn begin(&mut self, time_ms: i64, candidates: usize) {
        self.time_ms = time_ms;
        self.rows = candidates;
        self.shared.copy_from_slice(&self.blank_shared);
        self.own.clear();
        for _ in 0..candidates {
            self.own.extend_from_slice(&self.blank_own);
        }
    }

    /// Sets a level that all candidates share; what the level has no quantity for is not read.
    ///
    /// Panics on a level that is not shared or a task out of range: the caller's bug.
    pub fn set_shared(&mut self, level: Level, task: usize, counts: &Counts) {
        assert!(
            level.is_shared(),
            "{level:?} is set candidate by candidate; this is a bug"
        );
        let from = task * SHARED + level.offset();
        fill(&mut self.shared[from..], level, counts, self.time_ms);
    }

    /// Sets a level of one candidate; what the level has no quantity for is not read.
    ///
    /// Panics on a shared level, or a candidate or task out of range: the caller's bug.
    pub fn set(&mut self, candidate: usize, level: Level, task: usize, counts: &Counts) {
        assert!(
            !level.is_shared(),
            "{level:?} is set for the whole request; this is a bug"
        );
        assert!(
            candidate < self.rows && task < self.tasks,
            "candidate {candidate}, task {task} is out of range; this is a bug"
        );
        let from = (candidate * self.tasks + task) * OWN + level.offset();
        fill(&mut self.own[from..], level, counts, self.time_ms);
    }

    /// The number of candidates.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether the request has no candidate.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The number of tasks.
    pub fn tasks(&self) -> usize {
        self.tasks
    }

    /// The request's time, Unix milliseconds.
    pub fn time_ms(&self) -> i64 {
        self.time_ms
    }

    /// The numbers that all candidates share.
    pub fn shared(&self) -> &[f32] {
        &self.shared
    }

    /// One candidate's row.
    pub fn row(&self, candidate: usize) -> FeatureRow<'_> {
        let width = self.tasks * OWN;
        FeatureRow {
            shared: &self.shared,
            own: &self.own[candidate * width..(candidate + 1) * width],
        }
    }

    /// All rows, in the candidates' order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = FeatureRow<'_>> {
        (0..self.rows).map(|candidate| self.row(candidate))
    }
}

/// Writes a level's numbers to the head of `part`. What is not finite or negative is written as the default: state
/// never makes such numbers, and a score must not become NaN if it did.
fn fill(part: &mut [f32], level: Level, counts: &Counts, time_ms: i64) {
    for (place, &quantity) in part.iter_mut().zip(level.quantities()) {
        let value = counts.value(quantity, time_ms);
        *place = if value.is_finite() && value >= 0.0 {
            value
        } else {
            quantity.default()
        };
    }
}
