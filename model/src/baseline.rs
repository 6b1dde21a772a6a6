//! The baseline scorer: a closed-form score of smoothed, time-decayed rates. It needs no training, answers from the
//! first record, and stays as the fallback and the yardstick of every model.
//!
//! Before it stands a filled [`FeatureBatch`], after it the scores and the feature log. `docs/concepts/baseline.md`
//! derives the formula and shows what it measures. It promises: the same row gives the same bits, whatever other rows
//! are in the batch; a probability is never NaN and lies strictly between 0 and 1; more positives in the same trials of
//! an item, its categories or its scenario, or in the user's own trials of any of these, never lower a score. (More
//! positives of the user *elsewhere* may: who likes everything but comedies is expected to dislike a comedy.)
//!
//! # The formula
//!
//! A score is a sum of log-odds. Each term compares what was seen at one level with what the levels before it expect:
//!
//! ```text
//! weigh(n, p, r; m) = ln (p + k·r) / (n − p + k·(1 − r)) − ln r / (1 − r),    k = m / (r·(1 − r))
//! ```
//!
//! n trials with p positives, where a rate r was expected, under a Beta prior of mean r and strength k: the shift of
//! the posterior mean in log-odds. The strength comes from one constant a level, `m` = 1 / (variance of the level's true
//! log-odds around the expectation), so that one set of constants serves rates of 4 % and of 58 % alike. No trials:
//! no shift.
//!
//! | term | n, p | expected rate r |
//! |---|---|---|
//! | prior | global, with `prior_trials` at `prior_rate` | (its logit is the start of the sum) |
//! | scenario | scenario | global |
//! | user | user, long | the items' own rates in the user's trials: `expected` / `trials` |
//! | user, recent | user, short | the same over recent trials, shifted by *user* |
//! | category | mean of the item's categories | scenario |
//! | other tasks | the item in all scenarios, each other task | that task's global rate; the mean of the shifts times `other_tasks` |
//! | item elsewhere | the item in all scenarios less this one | scenario, shifted by *category* |
//! | item | item, long | the same, shifted by *item elsewhere* |
//! | item, recent | item, short | the same, shifted by *item* |
//! | user × category | the user's trials in the categories | the items' own rates in these trials, shifted by *user* |
//! | user × attribute | the same for the attribute; a positive without a trial counts as a trial too | the same |
//! | user × item | the user's trials of the item | the sum of all terms above |

use serde::{Deserialize, Serialize};

use thiserror::Error;

use crate::feature::{Counts, FeatureBatch, FeatureRow, Level};

#[cfg(test)]
mod tests;

/// Rates that serve as an expectation are held within this distance from 0 and 1.
const RATE_MIN: f64 = 1e-4;
/// Log-odds of a score are held within ± this, so that a probability in f32 is neither 0 nor 1.
const LOG_ODDS_MAX: f64 = 13.0;

/// How strongly each level is held to what was expected of it. Except for the prior, a number is 1 / (variance of the
/// level's true log-odds): higher trusts counts less.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Smoothing {
    /// The rate before anything was seen, within (0, 1).
    pub prior_rate: f64,
    /// How many trials that rate is worth.
    pub prior_trials: f64,
    /// A scenario around all scenarios.
    pub scenario: f64,
    /// A category around its scenario.
    pub category: f64,
    /// How much of an item's shift in other tasks is expected in this one: a correlation, within [-1, 1].
    pub other_tasks: f64,
    /// An item around what is expected of it; in its scenario around all others.
    pub item: f64,
    /// An item of late around the same item.
    pub item_recent: f64,
    /// A user around what his items expect.
    pub user: f64,
    /// A user of late around himself.
    pub user_recent: f64,
    /// A user's taste for a category around his own rate.
    pub user_category: f64,
    /// A user's taste for an attribute around his own rate.
    pub user_attribute: f64,
    /// A user's repeated trials of one item around all that is expected of them.
    pub user_item: f64,
}

/// Why constants make no scorer.
#[derive(Clone, Copy, Debug, Error, PartialEq)]
pub enum SmoothingError {
    /// A rate must lie strictly between 0 and 1.
    #[error("{name} = {value} must lie between 0 and 1")]
    Rate {
        /// The constant.
        name: &'static str,
        /// What it was set to.
        value: f64,
    },
    /// A strength must be positive and finite.
    #[error("{name} = {value} must be within [0.001, 1000000]")]
    Strength {
        /// The constant.
        name: &'static str,
        /// What it was set to.
        value: f64,
    },
    /// A correlation must lie within [-1, 1].
    #[error("{name} = {value} must be within [-1, 1]")]
    Correlation {
        /// The constant.
        name: &'static str,
        /// What it was set to.
        value: f64,
    },
}

impl Smoothing {
    /// Whether each constant is within its bounds.
    fn check(&self) -> Result<(), SmoothingError> {
        let (name, value) = ("prior_rate", self.prior_rate);
        if !(RATE_MIN..=1.0 - RATE_MIN).contains(&value) {
            return Err(SmoothingError::Rate { name, value });
        }
        let (name, value) = ("other_tasks", self.other_tasks);
        if !(-1.0..=1.0).contains(&value) {
            return Err(SmoothingError::Correlation { name, value });
        }
        for (name, value) in [
            ("prior_trials", self.prior_trials),
            ("scenario", self.scenario),
            ("category", self.category),
            ("item", self.item),
            ("item_recent", self.item_recent),
            ("user", self.user),
            ("user_recent", self.user_recent),
            ("user_category", self.user_category),
            ("user_attribute", self.user_attribute),
            ("user_item", self.user_item),
        ] {
            if !(1e-3..=1e6).contains(&value) {
                return Err(SmoothingError::Strength { name, value });
            }
        }
        Ok(())
    }
}

impl Default for Smoothing {
    fn default() -> Self {
        Self {
            prior_rate: 0.25,
            prior_trials: 4.0,
            scenario: 4.0,
            category: 4.0,
            other_tasks: 0.5,
            item: 3.0,
            item_recent: 4.0,
            user: 4.0,
            user_recent: 4.0,
            user_category: 2.0,
            user_attribute: 0.7,
            user_item: 4.0,
        }
    }
}

/// One summand of a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Term {
    /// All scenarios.
    Prior,
    /// The row's scenario.
    Scenario,
    /// The candidate's categories.
    Category,
    /// The candidate in other tasks.
    OtherTasks,
    /// The candidate in other scenarios.
    ItemElsewhere,
    /// The candidate.
    Item,
    /// The candidate of late.
    ItemRecent,
    /// The user.
    User,
    /// The user of late.
    UserRecent,
    /// The user's taste for the candidate's categories.
    UserCategory,
    /// The user's taste for the candidate's attribute.
    UserAttribute,
    /// The user's earlier trials of the candidate.
    UserItem,
}

impl Term {
    /// Every term, in the order in which they are summed.
    pub const ALL: [Self; 12] = [
        Self::Prior,
        Self::Scenario,
        Self::User,
        Self::UserRecent,
        Self::Category,
        Self::OtherTasks,
        Self::ItemElsewhere,
        Self::Item,
        Self::ItemRecent,
        Self::UserCategory,
        Self::UserAttribute,
        Self::UserItem,
    ];

    /// The term's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prior => "prior",
            Self::Scenario => "scenario",
            Self::Category => "category",
            Self::OtherTasks => "other_tasks",
            Self::ItemElsewhere => "item_elsewhere",
            Self::Item => "item",
            Self::ItemRecent => "item_recent",
            Self::User => "user",
            Self::UserRecent => "user_recent",
            Self::UserCategory => "user_category",
            Self::UserAttribute => "user_attribute",
            Self::UserItem => "user_item",
        }
    }
}

/// One term of one score, with what it was made from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Contribution {
    /// Which term.
    pub term: Term,
    /// Trials that it read.
    pub trials: f64,
    /// Positives that it read.
    pub positives: f64,
    /// The rate that was expected of them.
    pub expected_rate: f64,
    /// What it adds to the score's log-odds.
    pub log_odds: f64,
}

/// Why a score is what it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The terms, in the order in which they are summed.
    pub contributions: [Contribution; Term::ALL.len()],
    /// Their sum, within ±13.
    pub log_odds: f64,
    /// The score itself, the same bits as [`Baseline::score`] gives.
    pub probability: f32,
}

/// Probabilities of a batch, in a buffer that is used again for the next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    tasks: usize,
    probabilities: Vec<f32>,
}

impl Scores {
    /// The probabilities of one candidate, one a task in the schema's order.
    pub fn candidate(&self, candidate: usize) -> &[f32] {
        &self.probabilities[candidate * self.tasks..(candidate + 1) * self.tasks]
    }

    /// The same, to be changed by a scorer that knows more.
    pub(crate) fn candidate_mut(&mut self, candidate: usize) -> &mut [f32] {
        &mut self.probabilities[candidate * self.tasks..(candidate + 1) * self.tasks]
    }

    /// One probability.
    pub fn get(&self, candidate: usize, task: usize) -> f32 {
        self.candidate(candidate)[task]
    }

    /// Whether all of them are finite numbers.
    pub fn are_finite(&self) -> bool {
        self.probabilities.iter().all(|value| value.is_finite())
    }

    /// The number of candidates.
    pub fn len(&self) -> usize {
        self.probabilities
            .len()
            .checked_div(self.tasks)
            .unwrap_or(0)
    }

    /// Whether there is no candidate.
    pub fn is_empty(&self) -> bool {
        self.probabilities.is_empty()
    }
}

/// What a scenario expects of an item that nothing is known of; made by [`Baseline::base`].
#[derive(Clone, Copy, Debug)]
pub struct Base {
    smoothing: Smoothing,
    log_odds: f64,
}

impl Base {
    /// The item's own smoothed rate, as the terms *category* and *item* give it: what a plain user gives in a trial.
    /// `category` is the mean over the item's categories, `item` the item's counts, both in the scenario.
    pub fn item_rate(&self, category: &Counts, item: &Counts) -> f32 {
        let pair = |counts: &Counts| [counts.trials.into(), counts.positives.into()];
        let expected = self.log_odds + self.category(pair(category)).log_odds;
        let item = self.item(Term::Item, pair(item), expected);
        rate(expected + item.log_odds) as f32
    }

    fn category(&self, seen: [f64; 2]) -> Contribution {
        weigh(Term::Category, seen, self.log_odds, self.smoothing.category)
    }

    fn item(&self, term: Term, seen: [f64; 2], expected: f64) -> Contribution {
        weigh(term, seen, expected, self.smoothing.item)
    }

    /// The log-odds of `expected` positives in `trials`; the base's own where there were no trials.
    fn mean(&self, expected: f64, trials: f64) -> f64 {
        if trials > 0.0 {
            log_odds(expected / trials)
        } else {
            self.log_odds
        }
    }
}

/// The scorer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Baseline {
    smoothing: Smoothing,
}

/// The terms that all candidates share.
struct Shared {
    ground: [Contribution; 2],
    user: Contribution,
    user_recent: Contribution,
    base: Base,
}

impl Baseline {
    /// The name that scores carry.
    pub const NAME: &str = "baseline";
    /// The version that scores carry: raised whenever the same row may get another score.
    pub const VERSION: u32 = 1;

    /// A scorer of these constants.
    pub fn new(smoothing: Smoothing) -> Result<Self, SmoothingError> {
        smoothing.check()?;
        Ok(Self { smoothing })
    }

    /// What is expected before the item is known; the counts are those of [`Level::Global`] and [`Level::Scenario`].
    pub fn base(&self, global: &Counts, scenario: &Counts) -> Base {
        let pair = |counts: &Counts| [counts.trials.into(), counts.positives.into()];
        let ground = self.ground(pair(global), pair(scenario));
        self.base_of(&ground)
    }

    fn base_of(&self, ground: &[Contribution; 2]) -> Base {
        Base {
            smoothing: self.smoothing,
            log_odds: ground.iter().map(|term| term.log_odds).sum(),
        }
    }

    /// The terms before any item or user.
    fn ground(&self, global: [f64; 2], scenario: [f64; 2]) -> [Contribution; 2] {
        let prior = self.prior(global);
        let strength = self.smoothing.scenario;
        let scenario = weigh(Term::Scenario, scenario, prior.log_odds, strength);
        [prior, scenario]
    }

    fn prior(&self, [trials, positives]: [f64; 2]) -> Contribution {
        let positives = positives.min(trials);
        let (expected, strength) = (self.smoothing.prior_rate, self.smoothing.prior_trials);
        Contribution {
            term: Term::Prior,
            trials,
            positives,
            expected_rate: expected,
            log_odds: log_odds((positives + strength * expected) / (trials + strength)),
        }
    }

    fn shared(&self, row: FeatureRow<'_>, task: usize) -> Shared {
        let ground = self.ground(
            row.numbers(Level::Global, task),
            row.numbers(Level::Scenario, task),
        );
        let base = self.base_of(&ground);
        let [
            trials,
            positives,
            expected,
            _unmatched,
            recent_trials,
            recent_positives,
            recent_expected,
        ] = row.numbers(Level::User, task);
        let user = weigh(
            Term::User,
            [trials, positives],
            base.mean(expected, trials),
            self.smoothing.user,
        );
        let user_recent = weigh(
            Term::UserRecent,
            [recent_trials, recent_positives],
            base.mean(recent_expected, recent_trials) + user.log_odds,
            self.smoothing.user_recent,
        );
        Shared {
            ground,
            user,
            user_recent,
            base,
        }
    }

    fn terms(
        &self,
        shared: &Shared,
        row: FeatureRow<'_>,
        (task, among): (usize, &[usize]),
    ) -> [Contribution; Term::ALL.len()] {
        let (smoothing, base) = (&self.smoothing, &shared.base);
        let category = base.category(row.numbers(Level::Category, task));
        let other_tasks = self.other_tasks(row, task, among);
        let [trials, positives, recent_trials, recent_positives] = row.numbers(Level::Item, task);
        let [all_trials, all_positives] = row.numbers(Level::ItemAnywhere, task);
        let mut expected = base.log_odds + category.log_odds;
        let elsewhere =
            [all_trials - trials, all_positives - positives].map(|count| count.max(0.0));
        let item_elsewhere = base.item(Term::ItemElsewhere, elsewhere, expected);
        expected += item_elsewhere.log_odds;
        let item = base.item(Term::Item, [trials, positives], expected);
        expected += item.log_odds;
        let item_recent = weigh(
            Term::ItemRecent,
            [recent_trials, recent_positives],
            expected,
            smoothing.item_recent,
        );
        let [trials, positives, user_expected] = row.numbers(Level::UserCategory, task);
        let user_category = weigh(
            Term::UserCategory,
            [trials, positives],
            base.mean(user_expected, trials) + shared.user.log_odds,
            smoothing.user_category,
        );
        let [trials, positives, user_expected, unmatched] = row.numbers(Level::UserAttribute, task);
        let user_attribute = weigh(
            Term::UserAttribute,
            [trials + unmatched, positives + unmatched],
            base.mean(user_expected, trials) + shared.user.log_odds,
            smoothing.user_attribute,
        );
        let [prior, scenario] = shared.ground;
        let before = [
            prior,
            scenario,
            shared.user,
            shared.user_recent,
            category,
            other_tasks,
            item_elsewhere,
            item,
            item_recent,
            user_category,
            user_attribute,
        ];
        let user_item = weigh(
            Term::UserItem,
            row.numbers(Level::UserItem, task),
            before.iter().map(|term| term.log_odds).sum(),
            smoothing.user_item,
        );
        let mut all = [user_item; Term::ALL.len()];
        all[..before.len()].copy_from_slice(&before);
        all
    }

    /// What the item's reception in other tasks says of it: the mean shift over the tasks that have trials.
    fn other_tasks(&self, row: FeatureRow<'_>, task: usize, among: &[usize]) -> Contribution {
        let (mut sums, mut shift, mut tasks) = ([0.0; 2], 0.0, 0.0);
        for &other in among.iter().filter(|&&other| other != task) {
            let own: [f64; 2] = row.numbers(Level::ItemAnywhere, other);
            if own[0] > 0.0 {
                let prior = self.prior(row.numbers(Level::Global, other));
                let seen = weigh(Term::OtherTasks, own, prior.log_odds, self.smoothing.item);
                sums[0] += seen.trials;
                sums[1] += seen.positives;
                shift += seen.log_odds;
                tasks += 1.0;
            }
        }
        let mean = if tasks > 0.0 { shift / tasks } else { 0.0 };
        Contribution {
            term: Term::OtherTasks,
            trials: sums[0],
            positives: sums[1],
            expected_rate: 0.0,
            log_odds: self.smoothing.other_tasks * mean,
        }
    }

    /// Scores every candidate for every task.
    pub fn score(&self, batch: &FeatureBatch, scores: &mut Scores) {
        scores.tasks = batch.tasks();
        scores.probabilities.clear();
        scores
            .probabilities
            .resize(batch.len() * batch.tasks(), 0.0);
        if batch.is_empty() {
            return;
        }
        let all: Vec<usize> = (0..batch.tasks()).collect();
        for &task in &all {
            let shared = self.shared(batch.row(0), task);
            for (candidate, row) in batch.rows().enumerate() {
                let terms = self.terms(&shared, row, (task, &all));
                scores.probabilities[candidate * batch.tasks() + task] = probability(&terms).1;
            }
        }
    }

    /// One score, term by term; `row` may come from a batch or from the feature log.
    pub fn explain(&self, row: FeatureRow<'_>, task: usize) -> Explanation {
        let all: Vec<usize> = (0..row.tasks()).collect();
        self.explain_among(row, task, &all)
    }

    /// The same where these tasks, in this order, were all that there are.
    pub fn explain_among(&self, row: FeatureRow<'_>, task: usize, among: &[usize]) -> Explanation {
        let contributions = self.terms(&self.shared(row, task), row, (task, among));
        let (log_odds, probability) = probability(&contributions);
        Explanation {
            contributions,
            log_odds,
            probability,
        }
    }
}

/// The sum of terms, always in the same order, and its probability.
fn probability(terms: &[Contribution]) -> (f64, f32) {
    let sum: f64 = terms.iter().map(|term| term.log_odds).sum();
    let held = sum.clamp(-LOG_ODDS_MAX, LOG_ODDS_MAX);
    (held, rate(held) as f32)
}

/// The shift in log-odds that `positives` in `trials` bring where `expected` log-odds were expected; see the module's
/// text. Positives beyond the trials had none of their own and are left out.
fn weigh(term: Term, [trials, positives]: [f64; 2], expected: f64, strength: f64) -> Contribution {
    let expected_rate = rate(expected).clamp(RATE_MIN, 1.0 - RATE_MIN);
    let positives = positives.min(trials);
    let shift = if trials > 0.0 {
        // k·r = m / (1 − r) and k·(1 − r) = m / r
        let (yes, no) = (strength / (1.0 - expected_rate), strength / expected_rate);
        ((positives + yes) / (trials - positives + no)).ln()
            - (expected_rate / (1.0 - expected_rate)).ln()
    } else {
        0.0
    };
    Contribution {
        term,
        trials,
        positives,
        expected_rate,
        log_odds: shift,
    }
}

fn log_odds(rate: f64) -> f64 {
    let held = rate.clamp(RATE_MIN, 1.0 - RATE_MIN);
    (held / (1.0 - held)).ln()
}

fn rate(log_odds: f64) -> f64 {
    1.0 / (1.0 + (-log_odds).exp())
}
