//! Looking again and again at rows that grow.
//!
//! Each look is a test of its own with a part of the error: look k takes α / (k (k + 1)), whose sum over all looks is α = 1/20 (Bonferroni's inequality, so whatever looks have to do with each
//! other, the probability of any false win is at most α, as parts are spent by Lan and `DeMets` 1983). A look comes when there are twice the rows of the one before: so looks have little in
//! common, which is where that inequality loses little, and a difference that needs n rows is found with less than 2 n and a few.

use super::Judgement;

/// Of the standard normal distribution, above which lies 1/20 of 1 / (k (k + 1)): bounds of the looks, the first at the front.
const BOUNDS: [f64; 16] = [
    1.96, 2.394, 2.6383, 2.807, 2.9352, 3.0381, 3.1237, 3.197, 3.2608, 3.3172, 3.3678, 3.4136,
    3.4554, 3.4938, 3.5293, 3.5623,
];
/// Of the first look.
const ROWS_MIN: usize = 200;

/// What a look says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The challenger is better.
    Better,
    /// The challenger is worse.
    Worse,
    /// Neither, so far.
    Open,
}

/// How many labelled rows the next look needs, after one at so many; none: the last look was taken.
pub fn next_look(looks: usize, rows: usize) -> Option<usize> {
    match looks {
        0 => Some(ROWS_MIN),
        _ if looks < BOUNDS.len() => Some(2 * rows),
        _ => None,
    }
}

/// Whether the look of this number, the first being 1, says that some do less than others by so many errors: wrong once in twenty at most, over all looks together.
///
/// # Panics
/// If there is no such look ([`next_look`]).
pub fn is_harm(number: usize, z: f64) -> bool {
    z <= -BOUNDS[number - 1]
}

impl Judgement {
    /// What the look of this number says, the first being 1: either verdict is wrong once in twenty at most, over all looks together.
    ///
    /// # Panics
    /// If there is no such look ([`next_look`]).
    pub fn at_look(&self, number: usize) -> Verdict {
        let bound = BOUNDS[number - 1];
        match self.z() {
            _ if !self.is_enough() => Verdict::Open,
            z if z >= bound => Verdict::Better,
            z if z <= -bound => Verdict::Worse,
            _ => Verdict::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Random, rows_of};
    use super::super::{Compared, judge};
    use super::*;

    /// Upper tail of the standard normal distribution, by Simpson's rule.
    fn tail(from: f64) -> f64 {
        let (until, steps) = (from + 10.0, 20_000);
        let width = (until - from) / f64::from(steps);
        let density = |at: f64| (-0.5 * at * at).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let weight = |step: i32| match step {
            0 => 1.0,
            step if step == steps => 1.0,
            step if step % 2 == 1 => 4.0,
            _ => 2.0,
        };
        let sum: f64 = (0..=steps)
            .map(|step| weight(step) * density(from + width * f64::from(step)))
            .sum();
        sum * width / 3.0
    }

    /// Goal: all looks together spend one twentieth. Method: the tails behind the bounds, integrated, against 1/20 of 1 / (k (k + 1)).
    #[test]
    fn looks_spend_one_twentieth() {
        for (place, bound) in BOUNDS.into_iter().enumerate() {
            let look = (place + 1) as f64;
            let share = 0.05 / (look * (look + 1.0));
            let found = tail(bound);
            assert!(
                (found / share - 1.0).abs() < 2e-4,
                "{look}: {found} {share}"
            );
        }
    }

    /// What becomes of a challenger in the end. Two users in three were there before, so looks share users and all that these have of their own.
    fn trial(random: &mut Random, errors: [f64; 2], rows_max: usize) -> Verdict {
        let (world, mut rows, mut known) = (random.0, Vec::<Compared>::new(), 0_u32);
        let (mut looks, mut wanted) = (0, next_look(0, 0));
        while let Some(at) = wanted.filter(|at| *at <= rows_max) {
            while rows.len() < at {
                let before: Vec<u32> = (0..if known > 0 { 40 } else { 0 })
                    .map(|_| (random.next() * f64::from(known)) as u32)
                    .collect();
                let users = before.into_iter().chain(known..known + 20);
                rows.append(&mut rows_of(random, world, users, errors));
                known += 20;
            }
            looks += 1;
            let verdict = judge(rows.iter().copied()).at_look(looks);
            if verdict != Verdict::Open {
                return verdict;
            }
            wanted = next_look(looks, rows.len());
        }
        Verdict::Open
    }

    /// Goal: who is looked at again and again is promoted no oftener than once in twenty where he is no better, and nine times in ten where he is. Method: 1,000 pairs that err alike, with eight
    /// looks; 200 of which one errs less, or more; and a single look's bound at each of the seven, which is what must not be done.
    #[test]
    fn looking_again_costs_nothing() {
        let mut random = Random(11);
        let mut count = |trials: usize, errors: [f64; 2], of: Verdict| {
            let trials = (0..trials).map(|_| trial(&mut random, errors, 28_000));
            trials.filter(|verdict| *verdict == of).count()
        };
        let alike = count(1_000, [0.7, 0.7], Verdict::Better);
        assert!(alike <= 50, "{alike} of 1000");
        let better = count(200, [0.7, 0.4], Verdict::Better);
        assert!(better >= 180, "{better} of 200");
        // By an early look, of few rows.
        let worse = count(200, [0.4, 0.7], Verdict::Better);
        assert!(worse <= 2, "{worse} of 200");
        let often = (0..1_000).filter(|_| {
            let (world, mut rows) = (random.0, Vec::new());
            (0..7).any(|look| {
                while rows.len() < 200 << look {
                    let users = 30 * rows.len() as u32..30 * rows.len() as u32 + 30;
                    rows.append(&mut rows_of(&mut random, world, users, [0.7, 0.7]));
                }
                judge(rows.iter().copied()).wins()
            })
        });
        let often = often.count();
        assert!(often > 80, "{often} of 1000");
    }

    /// Goal: what is rare, and what is of few, deceives nobody: where one row in 200 is a positive, who says less of everything is not promoted, and a user with half of all rows does not decide.
    /// Method: 400 challengers that shift what a right champion says; 1,000 pairs that err alike, where one user has as many rows as all others.
    #[test]
    fn the_rare_and_the_heavy_deceive_nobody() {
        let mut random = Random(13);
        let wins = (0..400).filter(|_| {
            let (mut rows, mut looks, mut wanted) = (Vec::new(), 0, next_look(0, 0));
            while let Some(at) = wanted.filter(|at| *at <= 14_000) {
                while rows.len() < at
                    || (rows.len() < 14_000 && !judge(rows.iter().copied()).is_enough())
                {
                    for _ in 0..200 {
                        let user = (random.next() * 400.0) as u32;
                        let truth = random.normal() * 0.5 - 5.3;
                        rows.push(Compared {
                            user,
                            weight: 1.0,
                            positive: random.next() < 1.0 / (1.0 + (-truth).exp()),
                            champion: truth,
                            challenger: truth - 0.5,
                        });
                    }
                }
                looks += 1;
                if judge(rows.iter().copied()).at_look(looks) == Verdict::Better {
                    return true;
                }
                wanted = next_look(looks, rows.len());
            }
            false
        });
        let wins = wins.count();
        assert!(wins <= 12, "{wins} of 400");
        let heavy = (0..1_000).filter(|_| {
            let world = random.0;
            let mut rows = rows_of(&mut random, world, 0..400, [0.7, 0.7]);
            let all = rows.len();
            while rows.len() < 2 * all {
                rows.append(&mut rows_of(&mut random, world, [1_000], [0.7, 0.7]));
            }
            let judged = judge(rows);
            judged.z() >= BOUNDS[0] || judged.wins()
        });
        let heavy = heavy.count();
        assert!(heavy <= 50, "{heavy} of 1000");
    }

    /// Goal: looks come when rows have doubled, and end. Method: the first, the next, the last; a judgement of few users.
    #[test]
    fn looks_double_and_end() {
        assert_eq!(next_look(0, 0), Some(200));
        assert_eq!(next_look(1, 230), Some(460));
        assert_eq!(next_look(15, 1 << 20), Some(1 << 21));
        assert_eq!(next_look(16, 1 << 21), None);
        let sure = Judgement {
            rows: 1_000,
            users: 30,
            effective: 30.0,
            positives: 30,
            champion: 0.5,
            challenger: 0.4,
            error: 0.01,
        };
        assert_eq!(sure.at_look(1), Verdict::Better);
        assert_eq!(sure.at_look(16), Verdict::Better);
        let few = |effective: f64, positives: usize| Judgement {
            effective,
            positives,
            ..sure
        };
        for (effective, positives) in [(29.9, 500), (500.0, 29), (500.0, 971)] {
            assert_eq!(few(effective, positives).at_look(1), Verdict::Open);
        }
        let worse = Judgement {
            challenger: 0.6,
            ..sure
        };
        assert_eq!(worse.at_look(16), Verdict::Worse);
    }
}
