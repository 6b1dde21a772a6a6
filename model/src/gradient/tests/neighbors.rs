//! The other rules against what defines them.

use super::*;

proptest! {
    /// Goal: MGDA's is the shortest of the hull. Method: its parts are not negative and sum to T, and no gradient falls short of it:
    /// ⟨D, gᵢ⟩ ≥ ‖D‖² / T, which no other point of the hull fulfills.
    #[test]
    fn mgda_is_the_shortest(gradients in gradients()) {
        let tasks = gradients.len() as f64;
        let parts = alpha(&GradientRule::Mgda, &gram(&gradients));
        prop_assert!(parts.iter().all(|part| *part >= 0.0));
        prop_assert!((parts.iter().sum::<f64>() - tasks).abs() < 1e-9);
        let step = step(&gradients, &parts);
        let sizes = parts.iter().zip(&gradients).map(|(part, gradient)| part * length(gradient));
        let rounding = 1e-12 * sizes.sum::<f64>();
        for gradient in &gradients {
            let short = dot(&step, &step) / tasks - dot(&step, gradient);
            prop_assert!(short <= 1e-8 * length(gradient) * length(&step) + rounding * length(gradient), "{parts:?} {short}");
        }
    }

    /// Goal: `CAGrad`'s step is the best for the worst task within its reach. Method: the step is within c ‖g₀‖ of the mean, and what it is worth to the
    /// worst task is what its dual says, a bound that nothing within reach passes: the least over the hull's h of ⟨h, g₀⟩ + c ‖g₀‖ ‖h‖, at the h that the step itself
    /// shows.
    #[test]
    fn cagrad_has_no_gap(gradients in gradients(), radius in 0.05..0.9_f64) {
        let tasks = gradients.len() as f64;
        if gradients.iter().filter(|one| length(one) > 0.0).count() < 2 {
            return Ok(());
        }
        let mean: Vec<f64> = step(&gradients, &vec![1.0 / tasks; gradients.len()]);
        let reach = radius * length(&mean);
        let coefficients = alpha(&GradientRule::CaGrad { radius }, &gram(&gradients));
        // Back to the paper's own scale.
        let own: Vec<f64> = coefficients.iter().map(|one| one * (1.0 + radius * radius) / tasks).collect();
        let found = step(&gradients, &own);
        let apart: Vec<f64> = found.iter().zip(&mean).map(|(one, other)| one - other).collect();
        let size = size(&gradients);
        prop_assert!(length(&apart) <= reach * (1.0 + 1e-6) + 1e-9 * size, "{coefficients:?}");
        let parts: Vec<f64> = own.iter().map(|one| one - 1.0 / tasks).collect();
        let sum: f64 = parts.iter().sum();
        prop_assert!(parts.iter().all(|part| *part >= -1e-9 * sum.abs().max(1.0)));
        // Every vector of the hull gives a bound. Where the tasks are at odds, that is the shortest.
        let shortest = alpha(&GradientRule::Mgda, &gram(&gradients));
        let bounds = [parts, shortest].into_iter().filter(|parts| parts.iter().sum::<f64>() > 0.0).map(|parts| {
            let sum: f64 = parts.iter().sum();
            let hull = step(&gradients, &parts.iter().map(|part| part / sum).collect::<Vec<_>>());
            dot(&hull, &mean) + reach * length(&hull)
        });
        let bound = bounds.fold(f64::INFINITY, f64::min);
        let worth = gradients.iter().map(|one| dot(one, &found)).fold(f64::INFINITY, f64::min);
        prop_assert!((bound - worth).abs() <= 1e-6 * size * size, "{bound} {worth} {coefficients:?}");
    }

    /// Goal: Aligned-MTL makes all directions equally long. Method: the gradients B G, B the symmetric square that the rule's coefficients are rows' sums of, are found
    /// by the rule itself on signed copies of the tasks: their Gram matrix is σ² times a projection.
    #[test]
    fn aligned_directions_are_equally_long(
        rows in (2..5_usize, 5..8_usize).prop_flat_map(|(tasks, width)| {
            prop::collection::vec(prop::collection::vec(-1.0..1.0_f64, width), tasks)
        }),
    ) {
        // B's columns: with task j's gradient turned around, α changes by twice what Bᵢⱼ is, and its own sign.
        let tasks = rows.len();
        let all = alpha(&GradientRule::AlignedMtl, &gram(&rows));
        let mut aligned = Vec::new();
        for turned in 0..tasks {
            let mut other = rows.clone();
            other[turned].iter_mut().for_each(|value| *value = -*value);
            let mut parts = alpha(&GradientRule::AlignedMtl, &gram(&other));
            parts[turned] = -parts[turned];
            let column: Vec<f64> = all.iter().zip(&parts).map(|(all, part)| (all - part) / 2.0).collect();
            aligned.push(step(&rows, &column));
        }
        let most = dot(&aligned[0], &aligned[0]);
        for one in 0..tasks {
            for other in 0..tasks {
                let expected = if one == other { most } else { 0.0 };
                let found = dot(&aligned[one], &aligned[other]);
                prop_assert!((found - expected).abs() < 1e-6 * most, "{one} {other}: {found} {expected}");
            }
        }
        prop_assert!(most > 0.0 && rows.iter().all(|row| dot(row, row) >= most * (1.0 - 1e-9)));
    }

    /// Goal: `PCGrad` on coefficients is `PCGrad` on gradients. Method: the paper's algorithm on the vectors, in every order of two, and for three in the orders that
    /// the seed gives: the step is one of those that orders can give.
    #[test]
    fn pcgrad_is_the_algorithm(
        rows in (2..4_usize, 2..6_usize).prop_flat_map(|(tasks, width)| {
            prop::collection::vec(prop::collection::vec(-1.0..1.0_f64, width), tasks)
        }),
        seed: u64,
    ) {
        let tasks = rows.len();
        let projected = |task: usize, order: &[usize]| {
            let mut gradient = rows[task].clone();
            for other in order {
                let along = dot(&gradient, &rows[*other]);
                if along < 0.0 {
                    let part = along / dot(&rows[*other], &rows[*other]);
                    for (value, taken) in gradient.iter_mut().zip(&rows[*other]) {
                        *value -= part * taken;
                    }
                }
            }
            gradient
        };
        // Of each task both orders of the others (of one other, twice the same).
        let mut steps = vec![vec![0.0; rows[0].len()]];
        for task in 0..tasks {
            let forth: Vec<usize> = (0..tasks).filter(|other| *other != task).collect();
            let back: Vec<usize> = forth.iter().rev().copied().collect();
            steps = steps
                .iter()
                .flat_map(|sum| [&forth, &back].map(|order| {
                    let gradient = projected(task, order);
                    sum.iter().zip(gradient).map(|(sum, value)| sum + value).collect::<Vec<f64>>()
                }))
                .collect();
        }
        let rule = GradientRule::PcGrad { seed };
        let found = step(&rows, &alpha(&rule, &gram(&rows)));
        prop_assert!(steps.iter().any(|one| near(one, &found, size(&rows), 1e-9)), "{found:?} {steps:?}");
        prop_assert_eq!(alpha(&rule, &gram(&rows)), alpha(&rule, &gram(&rows)));
        if tasks == 2 {
            for row in &rows {
                prop_assert!(dot(row, &found) >= -1e-9);
            }
        }
    }
}

/// Goal: two tasks of one length are treated as the paper has it. Method: ρ < 0 gives (1 − ρ) each by `PCGrad`, where GDOD gives the plain sum.
#[test]
fn pcgrad_of_two() {
    let gram = Gram::new(2, &[1.0, -0.25, -0.25, 1.0]).unwrap();
    let rule = GradientRule::PcGrad { seed: 1 };
    assert_eq!(alpha(&rule, &gram), [1.25, 1.25]);
}

/// Goal: orders are drawn anew for each step, the same for the same seed. Method: three gradients for which the order matters, over many draws.
#[test]
fn pcgrad_draws_orders() {
    let gradients = [vec![1.0, 0.0], vec![-0.9, 0.5], vec![-0.2, -1.0]];
    let gram = gram(&gradients);
    let rule = GradientRule::PcGrad { seed: 5 };
    let draw = |draw| rule.weigh(&gram, draw).unwrap().coefficients;
    let first = draw(0);
    assert_eq!(first, draw(0));
    let different = (1..40).filter(|number| draw(*number) != first).count();
    assert!((10..40).contains(&different), "{different}");
}
