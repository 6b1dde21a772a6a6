//! Whether a challenger is better than a champion, by what both say of the same labelled rows.
//!
//! Compared is the log loss of each labelled row, champion's less challenger's. Rows of one user are not independent: a user who dislikes everything speaks once, not
//! a hundred times. So the error of the mean difference is that over users, by leaving each of them out (the jackknife; CR3 of `MacKinnon` and White 1985 for groups): a user with half of all
//! rows pulls the mean to himself, and would hide his own deviation otherwise. Its distribution is Student's of one degree less than there are users in effect (Kish 1965: (Σ w)² / Σ w²).
//! The challenger wins if the difference is above 0 by [`Z_MIN`] errors: of challengers that are no better, one in twenty does.
//!
//! Of few positives nothing can be said: where there is none, whoever says less of everything is better by any number of errors. So there must be [`LABELS_MIN`] of both.
//!
//! That holds for one look at rows that the challenger has not learned from. Who looks again and again at growing rows goes by [`Judgement::at_look`], which takes no more than one
//! in twenty over all looks.

use std::collections::BTreeMap;

mod looks;

pub use looks::{Verdict, is_harm, next_look};

/// Of the standard normal distribution, above which one in twenty lies.
pub const Z_MIN: f64 = 1.645;
/// With fewer users in effect the error is not to be trusted.
pub const USERS_MIN: usize = 30;
/// With fewer positives, or negatives, the difference is not.
pub const LABELS_MIN: usize = 30;

/// What a comparison says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judgement {
    /// Labelled rows.
    pub rows: usize,
    /// Users that they are of.
    pub users: usize,
    /// How many users of equal weight would say as much.
    pub effective: f64,
    /// Of the rows those that were positives.
    pub positives: usize,
    /// Mean log loss of the champion.
    pub champion: f64,
    /// Mean log loss of the challenger.
    pub challenger: f64,
    /// The error of their difference, over users.
    pub error: f64,
}

impl Judgement {
    /// By how many errors the challenger is better, of a normal distribution: Student's is brought to it. 0 where nothing can be said.
    pub fn z(&self) -> f64 {
        if self.error <= 0.0 || self.effective <= 1.0 {
            return 0.0;
        }
        normal(
            (self.champion - self.challenger) / self.error,
            self.effective - 1.0,
        )
    }

    /// Whether there are rows enough to say anything.
    pub fn is_enough(&self) -> bool {
        let negatives = self.rows - self.positives;
        self.effective >= USERS_MIN as f64 && self.positives.min(negatives) >= LABELS_MIN
    }

    /// Whether the challenger is better at all.
    pub fn is_better(&self) -> bool {
        self.is_enough() && self.challenger < self.champion
    }

    /// Whether the challenger is to take over, by this look alone.
    pub fn wins(&self) -> bool {
        self.is_enough() && self.z() >= Z_MIN
    }
}

/// What two models say of a labelled row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compared {
    /// The row's user.
    pub user: u32,
    /// For how many rows it stands.
    pub weight: f64,
    /// Whether it was a positive.
    pub positive: bool,
    /// The champion's log-odds.
    pub champion: f64,
    /// The challenger's.
    pub challenger: f64,
}

/// Log loss of log-odds: finite, however sure they are.
fn loss(log_odds: f64, positive: bool) -> f64 {
    let toward = if positive { -log_odds } else { log_odds };
    toward.max(0.0) + (-toward.abs()).exp().ln_1p()
}

/// Compares two models on rows that neither has learned from.
pub fn judge(rows: impl IntoIterator<Item = Compared>) -> Judgement {
    let (mut count, mut positives, mut weights, mut sums) = (0, 0, 0.0, [0.0; 2]);
    // Of each user: the sum of differences, and of weights.
    let mut users: BTreeMap<u32, [f64; 2]> = BTreeMap::new();
    for row in rows.into_iter().filter(|row| row.weight > 0.0) {
        let losses = [row.champion, row.challenger].map(|log_odds| loss(log_odds, row.positive));
        count += 1;
        positives += usize::from(row.positive);
        weights += row.weight;
        sums[0] += row.weight * losses[0];
        sums[1] += row.weight * losses[1];
        let user = users.entry(row.user).or_default();
        user[0] += row.weight * (losses[0] - losses[1]);
        user[1] += row.weight;
    }
    let [champion, challenger] = sums.map(|sum| sum / f64::max(weights, f64::MIN_POSITIVE));
    let over = Over::users(&users);
    Judgement {
        rows: count,
        users: users.len(),
        effective: over.effective,
        positives,
        champion,
        challenger,
        error: over.error,
    }
}

/// A mean over rows of users.
struct Over {
    mean: f64,
    /// Its error, over users.
    error: f64,
    effective: f64,
}

impl Over {
    /// Of each user the sum of what is averaged, and of weights.
    fn users(users: &BTreeMap<u32, [f64; 2]>) -> Self {
        let [sum, weights] = users
            .values()
            .fold([0.0; 2], |[sum, weights], [one, weight]| {
                [sum + one, weights + weight]
            });
        let weights = f64::max(weights, f64::MIN_POSITIVE);
        let mean = sum / weights;
        let groups = users.len() as f64;
        let squares = users.values().map(|[of_user, weight]| {
            // What the mean without this user leaves of it; of a single user that is nothing.
            let others = 1.0 - weight / weights;
            ((of_user - mean * weight) / f64::max(others, f64::EPSILON)).powi(2)
        });
        let variance = squares.sum::<f64>() * (groups - 1.0) / f64::max(groups, 1.0);
        let shares = users.values().map(|[_, weight]| (weight / weights).powi(2));
        Self {
            mean,
            error: variance.max(0.0).sqrt() / weights,
            effective: 1.0 / f64::max(shares.sum(), f64::MIN_POSITIVE),
        }
    }
}

/// Student's, of so much freedom, as errors of a normal distribution (Wallace 1959, the first of his bounds).
fn normal(errors: f64, freedom: f64) -> f64 {
    let normal = (freedom * (errors * errors / freedom).ln_1p()).sqrt();
    let factor = (8.0 * freedom + 1.0) / (8.0 * freedom + 3.0);
    (factor * normal).copysign(errors)
}

/// A labelled row of a user who is one of some, or of the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shown {
    /// The row's user.
    pub user: u32,
    /// For how many rows it stands.
    pub weight: f64,
    /// Whether it was a positive.
    pub positive: bool,
    /// Whether the user is one of some.
    pub is_of_some: bool,
}

/// How what some users did differs from what the others did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Labelled rows of the others, and of some.
    pub rows: [usize; 2],
    /// Which part of them were positives.
    pub positives: [f64; 2],
    /// By how many errors that of some is larger; 0 where nothing can be said.
    pub z: f64,
    /// Whether there are rows enough to say anything.
    pub is_enough: bool,
}

/// Holds what some users did against what the others did, who are others by chance: the difference of two means, each with its error over users.
pub fn difference(rows: impl IntoIterator<Item = Shown>) -> Difference {
    let mut users: [BTreeMap<u32, [f64; 2]>; 2] = Default::default();
    let (mut counts, mut labels) = ([0; 2], [0; 2]);
    for row in rows.into_iter().filter(|row| row.weight > 0.0) {
        let group = usize::from(row.is_of_some);
        counts[group] += 1;
        labels[usize::from(row.positive)] += 1;
        let user = users[group].entry(row.user).or_default();
        user[0] += row.weight * f64::from(u8::from(row.positive));
        user[1] += row.weight;
    }
    let [others, some] = users.map(|users| Over::users(&users));
    let (error, effective) = (
        others.error.hypot(some.error),
        others.effective.min(some.effective),
    );
    let is_known = error > 0.0 && effective > 1.0;
    Difference {
        rows: counts,
        positives: [others.mean, some.mean],
        z: if is_known {
            normal((some.mean - others.mean) / error, effective - 1.0)
        } else {
            0.0
        },
        is_enough: effective >= USERS_MIN as f64 && labels[0].min(labels[1]) >= LABELS_MIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers from 0 to 1 that look random: splitmix64 (Steele, Lea and Flood 2014).
    pub(super) struct Random(pub(super) u64);

    impl Random {
        pub(super) fn next(&mut self) -> f64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
        }

        /// About normal: the sum of twelve, less six.
        pub(super) fn normal(&mut self) -> f64 {
            (0..12).map(|_| self.next()).sum::<f64>() - 6.0
        }
    }

    /// Rows of users whose rows are alike: who a user is (taste, what each model gets wrong of it) stays the same whenever they come. Some bring many rows.
    pub(super) fn rows_of(
        random: &mut Random,
        world: u64,
        users: impl IntoIterator<Item = u32>,
        errors: [f64; 2],
    ) -> Vec<Compared> {
        let mut rows = Vec::new();
        for user in users {
            let mut of_user = Random(world ^ (u64::from(user) << 40));
            let truth = of_user.normal() - 1.0;
            let wrong = errors.map(|error| error * of_user.normal());
            let many = if of_user.next() < 0.1 { 40 } else { 4 };
            for _ in 0..many {
                let [champion, challenger] = wrong.map(|of| truth + of + 0.05 * random.normal());
                rows.push(Compared {
                    user,
                    weight: 1.0,
                    positive: random.next() < 1.0 / (1.0 + (-truth).exp()),
                    champion,
                    challenger,
                });
            }
        }
        rows
    }

    fn won(trials: usize, errors: [f64; 2], users: impl Fn(&Compared) -> u32) -> usize {
        let mut random = Random(7);
        let wins = (0..trials).filter(|_| {
            let world = random.0;
            let mut rows = rows_of(&mut random, world, 0..400, errors);
            let of: Vec<u32> = rows.iter().map(&users).collect();
            for (number, (row, of)) in rows.iter_mut().zip(of).enumerate() {
                row.user = if of == u32::MAX { number as u32 } else { of };
            }
            judge(rows).wins()
        });
        wins.count()
    }

    /// Goal: promotion is honest: challengers that are no better win once in twenty, better ones almost always, worse ones never; and it is the users that make it so.
    /// Method: 1,000 pairs of models that err alike, 400 of which one errs less, or more; then the first again with each row taken for a user of its own.
    #[test]
    fn who_is_no_better_wins_once_in_twenty() {
        let by_user = |row: &Compared| row.user;
        let alike = won(1_000, [0.7, 0.7], by_user);
        // 50 are expected: three standard deviations are 21.
        assert!(alike <= 71, "{alike} of 1000");
        assert!(
            alike >= 20,
            "{alike} of 1000: it would take the test for cautious"
        );
        let better = won(400, [0.7, 0.4], by_user);
        assert!(better >= 360, "{better} of 400");
        assert_eq!(won(400, [0.4, 0.7], by_user), 0);
        let by_row = won(1_000, [0.7, 0.7], |_| u32::MAX);
        assert!(by_row > 100, "{by_row} of 1000: rows are not independent");
    }

    /// Goal: a canary that harms is found, and one that does not is let be. Method: 500 times 400 users, a tenth of which are some; all alike, and some of whom do less.
    #[test]
    fn who_does_less_is_seen() {
        let mut random = Random(17);
        let mut harmed = |less: f64| {
            let times = (0..500).filter(|_| {
                let mut rows = Vec::new();
                for user in 0..400 {
                    let is_of_some = user % 10 == 0;
                    let taste = 0.3 + 0.1 * random.normal() - if is_of_some { less } else { 0.0 };
                    rows.extend((0..20).map(|_| Shown {
                        user,
                        weight: 1.0,
                        positive: random.next() < taste,
                        is_of_some,
                    }));
                }
                let found = difference(rows);
                assert_eq!(found.rows, [7_200, 800]);
                found.is_enough && is_harm(1, found.z)
            });
            times.count()
        };
        let alike = harmed(0.0);
        assert!(alike <= 25, "{alike} of 500");
        let less = harmed(0.1);
        assert!(less >= 450, "{less} of 500");
        assert_eq!(harmed(-0.1), 0);
        let few = (0..40).map(|user| Shown {
            user,
            weight: 1.0,
            positive: false,
            is_of_some: user < 20,
        });
        let found = difference(few);
        assert!(!found.is_enough && found.z == 0.0, "{found:?}");
    }

    /// Goal: the numbers are what they are called. Method: three rows of two users by hand, one of which stands for two; a model against itself; nothing.
    #[test]
    fn the_numbers_are_right() {
        let row = |user, weight, positive, champion, challenger| Compared {
            user,
            weight,
            positive,
            champion,
            challenger,
        };
        let rows = [
            row(1, 1.0, true, 0.0, 1.0),
            row(1, 2.0, false, 0.0, 1.0),
            row(2, 1.0, true, 0.0, 800.0),
        ];
        let judged = judge(rows);
        let ln2 = std::f64::consts::LN_2;
        let losses = [(-1.0_f64).exp().ln_1p(), 1.0_f64.exp().ln_1p(), 0.0];
        let challenger = (losses[0] + 2.0 * losses[1] + losses[2]) / 4.0;
        assert!((judged.champion - ln2).abs() < 1e-12);
        assert!((judged.challenger - challenger).abs() < 1e-12);
        let mean = ln2 - challenger;
        let first = (ln2 - losses[0]) + 2.0 * (ln2 - losses[1]) - 3.0 * mean;
        let second = ln2 - mean;
        // Each by what the others weigh, of four.
        let (first, second) = (4.0 * first, second / 0.75);
        let error = (0.5 * (first * first + second * second)).sqrt() / 4.0;
        assert!((judged.error - error).abs() < 1e-12, "{judged:?} {error}");
        assert_eq!((judged.rows, judged.users, judged.wins()), (3, 2, false));
        assert_eq!(judged.positives, 2);
        assert!((judged.effective - 16.0 / 10.0).abs() < 1e-12, "{judged:?}");
        let same = judge((0..100).map(|user| row(user, 1.0, user % 3 == 0, 0.5, 0.5)));
        assert_eq!((same.z(), same.wins()), (0.0, false));
        let nothing = judge([]);
        assert_eq!((nothing.rows, nothing.z(), nothing.wins()), (0, 0.0, false));
        let one = judge([row(1, 1.0, true, 0.0, 1.0), row(1, 1.0, false, 0.0, 1.0)]);
        assert_eq!((one.z(), one.wins()), (0.0, false));
    }
}
