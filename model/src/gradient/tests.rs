//! What each rule promises, on gradients that are drawn: long and short, zero, equal, opposed, fewer dimensions than tasks.

use proptest::prelude::*;

use super::*;
use crate::numbers::Numbers;

mod combine;
mod gdod;
mod matrix;
mod neighbors;

const HARD: Gdod = Gdod {
    keep: Keep::Hard,
    tolerance: 0.0,
    repair: false,
};

fn soft(power: f64, repair: bool) -> GradientRule {
    GradientRule::Gdod(Gdod {
        keep: Keep::Soft { power },
        tolerance: 0.0,
        repair,
    })
}

/// Every rule, GDOD in all its ways.
fn rules() -> Vec<GradientRule> {
    let mut rules = vec![
        GradientRule::default(),
        GradientRule::Gdod(HARD),
        soft(2.0, false),
        soft(1.0, true),
    ];
    let keeps = [Keep::Hard, Keep::Blend { rest: 0.3 }];
    rules.extend(keeps.map(|keep| {
        GradientRule::Gdod(Gdod {
            keep,
            tolerance: 0.001,
            repair: true,
        })
    }));
    rules.extend([
        GradientRule::Sum,
        GradientRule::PcGrad { seed: 7 },
        GradientRule::Mgda,
        GradientRule::CaGrad { radius: 0.5 },
        GradientRule::AlignedMtl,
    ]);
    rules
}

fn harms_nobody(rule: &GradientRule) -> bool {
    match rule {
        GradientRule::Gdod(gdod) => gdod.repair || gdod.keep == Keep::Hard,
        GradientRule::Mgda => true,
        _ => false,
    }
}

/// Tasks' gradients in f64, one a row, of one width. Of ten rows about one is zero, one equals the one before, one is its opposite, one is of small integers;
/// lengths are three orders apart either way.
fn gradients() -> impl Strategy<Value = Vec<Vec<f64>>> {
    (1..9_usize, 1..12_usize)
        .prop_flat_map(|(tasks, width)| {
            let row = prop::collection::vec(-1.0..1.0_f64, width);
            prop::collection::vec((row, 0..10_u8, -3.0..3.0_f64), tasks)
        })
        .prop_map(|rows| {
            let mut gradients: Vec<Vec<f64>> = Vec::new();
            for (row, kind, size) in rows {
                let before = gradients.last();
                let row = match (kind, before) {
                    (0, _) => vec![0.0; row.len()],
                    (1, Some(before)) => before.clone(),
                    (2, Some(before)) => before.iter().map(|value| -value).collect(),
                    (3, _) => row.iter().map(|value| (value * 2.0).round()).collect(),
                    _ => row.iter().map(|value| value * 10_f64.powf(size)).collect(),
                };
                gradients.push(row);
            }
            gradients
        })
}

fn dot(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

fn gram(gradients: &[Vec<f64>]) -> Gram {
    let values = gradients
        .iter()
        .flat_map(|one| gradients.iter().map(|other| dot(one, other)));
    Gram::new(gradients.len(), &values.collect::<Vec<_>>()).unwrap()
}

/// Each entry times a factor: gradients in another unit.
fn times(gram: &Gram, factor: f64) -> Gram {
    let tasks = gram.tasks();
    let values = (0..tasks * tasks).map(|at| gram.at(at / tasks, at % tasks) * factor);
    Gram::new(tasks, &values.collect::<Vec<_>>()).unwrap()
}

fn alpha(rule: &GradientRule, gram: &Gram) -> Vec<f64> {
    rule.weigh(gram, 3).unwrap().coefficients
}

/// Σᵢ αᵢ gᵢ, as it is.
fn step(gradients: &[Vec<f64>], coefficients: &[f64]) -> Vec<f64> {
    let mut sum = vec![0.0; gradients[0].len()];
    for (gradient, coefficient) in gradients.iter().zip(coefficients) {
        for (sum, value) in sum.iter_mut().zip(gradient) {
            *sum += coefficient * value;
        }
    }
    sum
}

fn length(vector: &[f64]) -> f64 {
    dot(vector, vector).sqrt()
}

/// Whether two vectors are the same, by the size of what they are sums of.
fn near(one: &[f64], other: &[f64], size: f64, tolerance: f64) -> bool {
    let apart: Vec<f64> = one
        .iter()
        .zip(other)
        .map(|(one, other)| one - other)
        .collect();
    one.len() == other.len() && length(&apart) <= tolerance * size
}

/// All lengths together.
fn size(gradients: &[Vec<f64>]) -> f64 {
    gradients.iter().map(|one| length(one)).sum()
}

proptest! {
    /// Goal: no task is harmed, by the rules that say so. Method: the step itself, and its inner product with each gradient.
    #[test]
    fn nobody_is_harmed(gradients in gradients()) {
        let gram = gram(&gradients);
        for rule in rules().iter().filter(|rule| harms_nobody(rule)) {
            let weighing = rule.weigh(&gram, 0).unwrap();
            let step = step(&gradients, &weighing.coefficients);
            for gradient in &gradients {
                // Coordinates that have no sign.
                let hard = *rule == GradientRule::Gdod(HARD);
                let rounding = if hard { 1e-7 } else { 1e-9 } * length(gradient) * size(&gradients);
                prop_assert!(dot(&step, gradient) >= -rounding, "{rule:?}: {:?}", weighing);
            }
            prop_assert!(weighing.worst_cosine.is_none_or(|cosine| cosine > -1e-5));
        }
    }

    /// Goal: tasks are known by their gradients, not by their order. Method: the same gradients in another order give the same step; `PCGrad`, whose order is
    /// drawn, is the exception.
    #[test]
    fn order_does_not_matter(gradients in gradients(), seed: u64) {
        let mut order: Vec<usize> = (0..gradients.len()).collect();
        Numbers(seed).shuffle(&mut order);
        let turned: Vec<Vec<f64>> = order.iter().map(|at| gradients[*at].clone()).collect();
        for rule in rules() {
            if rule == (GradientRule::PcGrad { seed: 7 }) {
                continue;
            }
            let one = step(&gradients, &alpha(&rule, &gram(&gradients)));
            let other = step(&turned, &alpha(&rule, &gram(&turned)));
            prop_assert!(near(&one, &other, size(&gradients), 1e-6), "{rule:?}: {one:?} {other:?}");
        }
    }

    /// Goal: the unit of the gradients does not matter, from the smallest f32 to the largest. Method: the Gram matrix times a power of two gives the same
    /// coefficients to the bit, and times anything the same but for rounding.
    #[test]
    fn unit_does_not_matter(gradients in gradients(), power in -290..290_i32, factor in 0.1..10.0_f64) {
        let one = gram(&gradients);
        for rule in rules() {
            let expected = alpha(&rule, &one);
            let doubled = times(&one, 2_f64.powi(power));
            prop_assert_eq!(&alpha(&rule, &doubled), &expected);
            let other = times(&one, factor);
            let (one, other) = (step(&gradients, &expected), step(&gradients, &alpha(&rule, &other)));
            prop_assert!(near(&one, &other, size(&gradients), 1e-6), "{rule:?}: {one:?} {other:?}");
        }
    }

    /// Goal: coordinates do not matter. Method: gradients turned by reflections of their space give a step that is turned the same way.
    #[test]
    fn coordinates_do_not_matter(gradients in gradients(), seed: u64) {
        let width = gradients[0].len();
        let mirrors: Vec<Vec<f64>> = {
            let mut numbers = Numbers(seed);
            (0..3).map(|_| numbers.normal(width, 1.0).into_iter().map(f64::from).collect()).collect()
        };
        let turn = |vector: &[f64]| -> Vec<f64> {
            mirrors.iter().fold(vector.to_vec(), |vector, mirror| {
                let twice = 2.0 * dot(&vector, mirror) / dot(mirror, mirror);
                vector.iter().zip(mirror).map(|(value, mirror)| value - twice * mirror).collect()
            })
        };
        let turned: Vec<Vec<f64>> = gradients.iter().map(|one| turn(one)).collect();
        for rule in rules() {
            let one = turn(&step(&gradients, &alpha(&rule, &gram(&gradients))));
            let other = step(&turned, &alpha(&rule, &gram(&turned)));
            prop_assert!(near(&one, &other, size(&gradients), 1e-6), "{rule:?}: {one:?} {other:?}");
        }
    }

    /// Goal: one task is simply that task. Method: its coefficient is 1, alone and beside tasks whose gradient is zero (for which MGDA waits).
    #[test]
    fn one_task_is_itself(values in prop::collection::vec(-1e3..1e3_f64, 1..9), zeros in 0..4_usize) {
        prop_assume!(length(&values) > 0.0);
        let mut gradients = vec![values];
        for rule in rules() {
            prop_assert_eq!(alpha(&rule, &gram(&gradients)), vec![1.0], "{:?}", rule);
        }
        gradients.resize(zeros + 1, vec![0.0; gradients[0].len()]);
        for rule in rules() {
            let coefficients = alpha(&rule, &gram(&gradients));
            let expected = if rule == GradientRule::Mgda && zeros > 0 { 0.0 } else { 1.0 };
            prop_assert_eq!(coefficients[0], expected, "{:?}", rule);
        }
    }

    /// Goal: tasks that want the same get T times that, and whatever the rule the step stands for a sum. Method: duplicates; `CAGrad` goes further, by
    /// (1 + c) / (1 + c²).
    #[test]
    fn equals_add_up(values in prop::collection::vec(-1e3..1e3_f64, 1..9), tasks in 2..9_usize) {
        prop_assume!(length(&values) > 0.0);
        let gradients = vec![values.clone(); tasks];
        for rule in rules() {
            let further = match rule {
                GradientRule::CaGrad { radius } => (1.0 + radius) / (1.0 + radius * radius),
                _ => 1.0,
            };
            let expected: Vec<f64> = values.iter().map(|value| value * tasks as f64 * further).collect();
            let found = step(&gradients, &alpha(&rule, &gram(&gradients)));
            prop_assert!(near(&found, &expected, length(&expected), 1e-6), "{rule:?}: {found:?}");
        }
    }

    /// Goal: what cancels out leaves nothing, and nothing that is no number. Method: a gradient and its opposite, whatever the rule.
    #[test]
    fn opposites_leave_nothing(values in prop::collection::vec(-1e3..1e3_f64, 1..9)) {
        prop_assume!(length(&values) > 0.0);
        let opposite: Vec<f64> = values.iter().map(|value| -value).collect();
        let gradients = vec![values, opposite];
        for rule in rules() {
            let weighing = rule.weigh(&gram(&gradients), 0).unwrap();
            let found = length(&step(&gradients, &weighing.coefficients));
            prop_assert!(found <= 1e-6 * length(&gradients[0]), "{rule:?}: {weighing:?}");
            prop_assert_eq!(weighing.conflict_rate, 1.0);
            prop_assert_eq!(weighing.worst_cosine, None);
        }
    }

    /// Goal: tasks that have nothing to do with each other do not hinder each other. Method: orthogonal gradients of any lengths give the plain sum by GDOD
    /// and `PCGrad`; also where one is a million times shorter.
    #[test]
    fn orthogonal_ones_add_up(exponents in prop::collection::vec(-6.0..6.0_f64, 1..9)) {
        let width = exponents.len();
        let row = |(at, exponent): (usize, &f64)| {
            let mut row = vec![0.0; width];
            row[at] = 10_f64.powf(*exponent);
            row
        };
        let gradients: Vec<Vec<f64>> = exponents.iter().enumerate().map(row).collect();
        for rule in rules() {
            if matches!(rule, GradientRule::Gdod(_) | GradientRule::PcGrad { .. }) {
                for coefficient in alpha(&rule, &gram(&gradients)) {
                    prop_assert!((coefficient - 1.0).abs() < 1e-9, "{rule:?}: {coefficient}");
                }
            }
        }
    }

    /// Goal: whatever comes in, finite numbers come out, and telemetry is within its bounds. Method: all rules on all kinds of gradients.
    #[test]
    fn answers_are_numbers(gradients in gradients(), exponent in -30.0..30.0_f64) {
        let factor = 10_f64.powf(exponent);
        let gram = times(&gram(&gradients), factor * factor);
        for rule in rules() {
            let weighing = rule.weigh(&gram, 0).unwrap();
            prop_assert!(weighing.coefficients.iter().all(|one| one.is_finite()), "{rule:?}: {weighing:?}");
            prop_assert!((0.0..=1.0 + 1e-9).contains(&weighing.shared_energy), "{weighing:?}");
            prop_assert!((0.0..=1.0).contains(&weighing.conflict_rate), "{weighing:?}");
            prop_assert!(weighing.worst_cosine.is_none_or(|one| one.abs() <= 1.0 + 1e-6), "{weighing:?}");
            for (length_of, gradient) in weighing.lengths.iter().zip(&gradients) {
                let expected = length(gradient) * factor;
                prop_assert!((length_of - expected).abs() <= 1e-9 * expected);
            }
        }
    }
}

/// Goal: a setting that makes no sense is refused by its name. Method: each one out of its range, and no number.
#[test]
fn odd_settings_are_named() {
    let gram = gram(&[vec![1.0]]);
    let gdod = |tolerance, keep| {
        GradientRule::Gdod(Gdod {
            keep,
            tolerance,
            repair: true,
        })
    };
    for (rule, expected) in [
        (
            gdod(-0.1, Keep::Hard),
            "`tolerance` is -0.1, where 0 to 0.5 makes sense",
        ),
        (
            gdod(f64::NAN, Keep::Hard),
            "`tolerance` is NaN, where 0 to 0.5 makes sense",
        ),
        (
            gdod(0.0, Keep::Soft { power: -1.0 }),
            "`power` is -1, where 0 to 64 makes sense",
        ),
        (
            gdod(0.0, Keep::Blend { rest: 1.5 }),
            "`rest` is 1.5, where 0 to 1 makes sense",
        ),
        (
            GradientRule::CaGrad { radius: 1.0 },
            "`radius` is 1, where 0 to 0.999 makes sense",
        ),
    ] {
        assert_eq!(rule.weigh(&gram, 0).unwrap_err().to_string(), expected);
    }
}
