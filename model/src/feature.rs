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
//! * Everything is **strictly before the row's time**. Levels without the user ([`Level::Global`], [`Level::Scenario`],
//!   [`Level::Category`], [`Level::ItemAnywhere`], [`Level::Item`]) come from the item table's cells that ended at or
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
//! | `ItemAnywhere` | candidate | the candidate, all scenarios | trials, positives |
//! | `Item` | candidate | the candidate, the row's scenario | trials, positives, recent ×2, idle |
//! | `UserCategory` | candidate | the user's entries of items of the candidate's categories | trials, positives, expected, unmatched, idle |
//! | `UserAttribute` | candidate | the user's entries of items that share the candidate's attribute | the same |
//! | `UserItem` | candidate | the user's entry of the candidate | trials, positives, unmatched, idle |
//!
//! * **Categories.** A candidate of m categories gets the *mean*: the sum of its categories' counts times `1/m`
//!   ([`Counts::scaled`]); an item of several categories counts whole in each of them.
//! * **The item anywhere** includes the item here: `ItemAnywhere` ≥ `Item`, of the same cells and half-life. A scorer reads
//!   the difference as what is known from other scenarios, and the other tasks' `ItemAnywhere` as what they know.
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
//! **Likenesses** ([`LikenessSpec`]) are there where texts have vectors. For each configured sequence (kinds of behaviors) and each stretch of time before
//! the row: the cosine of the candidate's vector and the sum of those of the items that the user met, each standardised, of length 1 and weighted by how often; and
//! the greatest cosine with one of the sequence's newest behaviors. Standardised: without the mean of all of the encoder's vectors, each number in their deviations; without that, cosines
//! of strangers are nearly those of kin (Ethayarajh, EMNLP 2019; Mu and Viswanath, ICLR 2018). What has no vector (yet) is left out.
//!
//! **Key-vectors** ([`KeyVectorSpec`]) are no numbers of a fixed place but a list: for each item that the user had to do with, what they did, by kind and stretch of
//! time ([`crate::dinmp::Seen`]). They are beside the batch, of all items and however long ago.
//!
//! In one pass over the user's entries, before any candidate, the assembler sums `User`, a map category → counts and
//! a map attribute → counts; a candidate then costs one look-up a category and one an attribute. A cap on the entries
//! of a very long user is sound as long as it keeps those with positives: on MovieLens the newest 128 give the same
//! AUC as all of them.

mod batch;
mod columns;
mod key_vectors;
mod likeness;
mod schema;
#[cfg(test)]
mod tests;

pub use batch::{FeatureBatch, FeatureRow};
pub use columns::{Column, Columns, Projection, Translation};
pub use key_vectors::{KeyVectorSpec, KeyVectors};
pub use likeness::{Against, LikenessSpec};
pub use schema::{Feature, FeatureSchema, FeatureSchemaError, HalfLives, Meaning, TaskSpec};

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
    /// Everybody, on the candidate, in all scenarios together.
    ItemAnywhere,
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
    pub const ALL: [Self; 9] = [
        Self::Global,
        Self::Scenario,
        Self::User,
        Self::Category,
        Self::ItemAnywhere,
        Self::Item,
        Self::UserCategory,
        Self::UserAttribute,
        Self::UserItem,
    ];

    /// What a row holds of the level, in the order of the layout. This table is the layout; all else follows from it.
    pub const fn quantities(self) -> &'static [Quantity] {
        match self {
            Self::Global | Self::Scenario | Self::Category | Self::ItemAnywhere => {
                &[Trials, Positives]
            }
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
            Self::ItemAnywhere => "item_anywhere",
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
