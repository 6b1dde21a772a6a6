//! GDOD against its definition, its theorems and its numbers.

use super::super::gdod::Direction;
use super::*;

/// Weights by the rule's text, on coordinates with explicit directions.
fn weight(keep: Keep, coordinates: &[f64], lengths: &[f64], tolerance: f64) -> f64 {
    let signs = coordinates.iter().zip(lengths);
    let signs: Vec<f64> = signs
        .filter(|(one, length)| one.abs() > tolerance.max(1e-8) * **length)
        .map(|(one, _)| one.signum())
        .collect();
    if signs.windows(2).all(|pair| pair[0] == pair[1]) {
        return 1.0;
    }
    let sum: f64 = coordinates.iter().sum();
    let sizes: f64 = coordinates.iter().map(|one| one.abs()).sum();
    match keep {
        Keep::Hard => 0.0,
        Keep::Soft { power } => (sum.abs() / sizes).powf(power),
        Keep::Blend { rest } => rest,
    }
}

/// Directions of the span, by turning the gradients themselves until they are orthogonal (one-sided Jacobi): each with its length.
fn singular_vectors(gradients: &[Vec<f64>]) -> Vec<(f64, Vec<f64>)> {
    let mut rows = gradients.to_vec();
    for _ in 0..60 {
        for one in 0..rows.len() {
            for other in one + 1..rows.len() {
                let between = dot(&rows[one], &rows[other]);
                let (first, second) =
                    (dot(&rows[one], &rows[one]), dot(&rows[other], &rows[other]));
                if between.abs() <= 1e-15 * (first * second).sqrt() {
                    continue;
                }
                let angle = 0.5 * (2.0 * between).atan2(first - second);
                let (sine, cosine) = angle.sin_cos();
                for place in 0..rows[one].len() {
                    let (first, second) = (rows[one][place], rows[other][place]);
                    rows[one][place] = cosine * first + sine * second;
                    rows[other][place] = cosine * second - sine * first;
                }
            }
        }
    }
    let most = rows.iter().map(|row| length(row)).fold(0.0, f64::max);
    let rows = rows.into_iter().map(|row| (length(&row), row));
    rows.filter(|(long, _)| *long > 1e-5 * most)
        .map(|(long, row)| (long, row.iter().map(|value| value / long).collect()))
        .collect()
}

proptest! {
    /// Goal: the form that needs the Gram matrix alone is GDOD. Method: the step by the definition, with explicit directions in the space of parameters and each
    /// task's part on them, where singular values are apart and no coordinate is at the border of having a sign.
    #[test]
    fn gram_form_is_the_definition(
        rows in (2..6_usize, 5..9_usize).prop_flat_map(|(tasks, width)| {
            prop::collection::vec(prop::collection::vec(-1.0..1.0_f64, width), tasks)
        }),
        tolerance in prop::sample::select(vec![0.0, 0.02, 0.2]),
        keep in prop::sample::select(vec![
            Keep::Hard, Keep::Soft { power: 1.0 }, Keep::Soft { power: 3.0 }, Keep::Blend { rest: 0.25 },
        ]),
    ) {
        let directions = singular_vectors(&rows);
        let lengths: Vec<f64> = rows.iter().map(|row| length(row)).collect();
        prop_assume!(directions.iter().enumerate().all(|(at, (one, _))| {
            directions[at + 1..].iter().all(|(other, _)| (one - other).abs() > 1e-3 * one)
        }));
        let mut expected = vec![0.0; rows[0].len()];
        for (_, direction) in &directions {
            let coordinates: Vec<f64> = rows.iter().map(|row| dot(row, direction)).collect();
            for (coordinate, length) in coordinates.iter().zip(&lengths) {
                prop_assume!((coordinate.abs() - tolerance * length).abs() > 1e-6 * length);
            }
            let part = weight(keep, &coordinates, &lengths, tolerance);
            let sum: f64 = coordinates.iter().map(|coordinate| part * coordinate).sum();
            for (value, along) in expected.iter_mut().zip(direction) {
                *value += sum * along;
            }
        }
        let rule = GradientRule::Gdod(Gdod { keep, tolerance, repair: false });
        let found = step(&rows, &alpha(&rule, &gram(&rows)));
        prop_assert!(near(&found, &expected, size(&rows), 1e-8), "{found:?} {expected:?}");
    }

    /// Goal: each gradient is the sum of a shared and a conflicting part that have nothing in common, and shared parts are not opposed. Method: both parts
    /// of every gradient, as coefficients: the projection on shared directions and the rest of the span.
    #[test]
    fn parts_are_orthogonal(gradients in gradients()) {
        let gram = gram(&gradients);
        let tasks = gradients.len();
        let part = |shared: bool| -> Vec<Vec<f64>> {
            let directions = Direction::all(&gram, 0.0);
            let mut rows = vec![vec![0.0; tasks]; tasks];
            for direction in directions.iter().filter(|direction| direction.shared == shared) {
                for one in 0..tasks {
                    for other in 0..tasks {
                        rows[one][other] += direction.vector[one] * direction.vector[other];
                    }
                }
            }
            rows.iter().map(|row| step(&gradients, row)).collect()
        };
        let (shared, against) = (part(true), part(false));
        for one in 0..tasks {
            for other in 0..tasks {
                let rounding = 1e-8 * size(&gradients).powi(2);
                prop_assert!(dot(&shared[one], &against[other]).abs() <= rounding);
                prop_assert!(dot(&shared[one], &shared[other]) >= -rounding);
                prop_assert!(dot(&shared[one], &gradients[other]) >= -rounding);
            }
            let both: Vec<f64> = shared[one].iter().zip(&against[one]).map(|(one, other)| one + other).collect();
            prop_assert!(near(&both, &gradients[one], size(&gradients), 1e-5));
        }
    }

    /// Goal: the sum of losses falls whatever is kept of conflicts. Method: without repair the step is no longer than the plain sum, and goes at least its own
    /// length along it.
    #[test]
    fn step_is_along_the_sum(gradients in gradients(), rest in 0.0..1.0_f64, power in 0.0..4.0_f64) {
        let sum = step(&gradients, &vec![1.0; gradients.len()]);
        for keep in [Keep::Hard, Keep::Soft { power }, Keep::Blend { rest }] {
            let rule = GradientRule::Gdod(Gdod { keep, tolerance: 0.02, repair: false });
            let found = step(&gradients, &alpha(&rule, &gram(&gradients)));
            let size = size(&gradients);
            prop_assert!(length(&found) <= length(&sum) + 1e-5 * size, "{keep:?}");
            prop_assert!(dot(&found, &sum) >= dot(&found, &found) - 1e-5 * size * size, "{keep:?}");
        }
    }

    /// Goal: the hard rule's coefficients are bounded. Method: 0 to (1 + √T) / 2.
    #[test]
    fn hard_coefficients_are_bounded(gradients in gradients()) {
        let most = f64::midpoint(1.0, (gradients.len() as f64).sqrt());
        // One gradient that is alone has the coefficient 1 of those that are zero, too.
        for coefficient in alpha(&GradientRule::Gdod(HARD), &gram(&gradients)) {
            prop_assert!((-0.01..=most + 0.01).contains(&coefficient), "{coefficient}");
        }
    }

    /// Goal: two shared directions have no task in common. Method: all pairs, coordinate by coordinate.
    #[test]
    fn shared_directions_are_apart(gradients in gradients()) {
        let directions = Direction::all(&gram(&gradients), 0.0);
        let shared: Vec<&Direction> = directions.iter().filter(|direction| direction.shared).collect();
        let longest = gradients.iter().map(|one| length(one)).fold(0.0, f64::max);
        for (at, one) in shared.iter().enumerate() {
            for other in &shared[at + 1..] {
                let energies = (one.energy * other.energy).sqrt();
                for (one, other) in one.vector.iter().zip(&other.vector) {
                    prop_assert!((one * other).abs() * energies < 1e-7 * longest * longest, "{shared:?}");
                }
            }
        }
    }

    /// Goal: tasks that agree share one direction, the main one. Method: gradients whose values are all positive, of tasks and dimensions of any number.
    #[test]
    fn those_that_agree_share_the_main_direction(
        rows in (2..9_usize, 2..9_usize).prop_flat_map(|(tasks, width)| {
            prop::collection::vec(prop::collection::vec(0.1..1.0_f64, width), tasks)
        }),
    ) {
        let directions = Direction::all(&gram(&rows), 0.0);
        let shared: Vec<bool> = directions.iter().map(|direction| direction.shared).collect();
        prop_assert!(shared[0] && !shared[1..].contains(&true), "{shared:?}");
    }

    /// Goal: two tasks have a closed form. Method: φ = ½ atan2(2b, a − c), whose direction is shared, for any Gram matrix of two.
    #[test]
    fn two_tasks_are_as_computed_by_hand(a in 0.1..100.0_f64, c in 0.1..100.0_f64, cosine in -0.99..0.99_f64) {
        let b = cosine * (a * c).sqrt();
        prop_assume!(cosine.abs() > 1e-3);
        let angle = 0.5 * (2.0 * b).atan2(a - c);
        let u = if b > 0.0 { [angle.cos(), angle.sin()] } else { [-angle.sin(), angle.cos()] };
        let expected = u.map(|part| (u[0] + u[1]) * part);
        let gram = Gram::new(2, &[a, b, b, c]).unwrap();
        let found = alpha(&GradientRule::Gdod(HARD), &gram);
        prop_assert!(near(&found, &expected, 1.0, 1e-6), "{found:?} {expected:?}");
    }
}

fn close(found: &[f64], expected: &[f64], tolerance: f64) {
    let apart = found
        .iter()
        .zip(expected)
        .map(|(one, other)| (one - other).abs());
    assert!(
        found.len() == expected.len() && apart.fold(0.0, f64::max) < tolerance,
        "{found:?} is not {expected:?}"
    );
}

fn hard(tolerance: f64, values: [f64; 3]) -> Vec<f64> {
    let [a, b, c] = values;
    let rule = GradientRule::Gdod(Gdod { tolerance, ..HARD });
    alpha(&rule, &Gram::new(2, &[a, b, b, c]).unwrap())
}

/// Goal: what is known of two tasks stays. Method: numbers worked out by hand: equal lengths give the plain sum; a long and a short gradient that
/// are opposed or not; all but orthogonal ones, which only a tolerance keeps from being dropped by turns.
#[test]
fn numbers_of_two_tasks() {
    for cosine in [-0.9, -0.1, 0.1, 0.9] {
        close(&hard(0.0, [1.0, cosine, 1.0]), &[1.0, 1.0], 1e-9);
    }
    close(&hard(0.0, [100.0, -5.0, 1.0]), &[0.0528, 1.0477], 1e-4);
    let gram = Gram::new(2, &[100.0, -5.0, -5.0, 1.0]).unwrap();
    let worth = gram.times(&hard(0.0, [100.0, -5.0, 1.0]));
    close(&worth, &[0.0395, 0.7838], 1e-4);
    assert_eq!(gram.times(&[1.0, 1.0])[1], -4.0);
    close(&hard(0.0, [100.0, 5.0, 1.0]), &[1.0477, 0.0528], 1e-4);
    close(&hard(0.0, [4.0, 1e-6, 1.0]), &[1.0, 0.0], 1e-5);
    close(&hard(0.0, [4.0, 0.0, 1.0]), &[1.0, 1.0], 1e-9);
    close(&hard(0.0, [4.0, -1e-6, 1.0]), &[0.0, 1.0], 1e-5);
    for between in [1e-6, 0.0, -1e-6] {
        close(&hard(0.05, [4.0, between, 1.0]), &[1.0, 1.0], 1e-5);
    }
}

/// Goal: where no direction is shared, hard GDOD stalls as it must, and with repair goes on. Method: three gradients whose directions all have both signs, with the
/// numbers of the soft rule and of MGDA, which show that there is a way for all.
#[test]
fn a_stall_is_seen_and_left() {
    let gradients = [[1.0, -1.0, -1.0], [2.0, 1.0, 1.0], [0.0, 2.0, 0.0]];
    let gram = gram(&gradients.map(|one| one.to_vec()));
    let stalled = GradientRule::Gdod(HARD).weigh(&gram, 0).unwrap();
    assert_eq!(stalled.coefficients, [0.0; 3]);
    assert_eq!((stalled.shared, stalled.shared_energy), (0, 0.0));
    assert_eq!(stalled.worst_cosine, None);
    assert!(!stalled.fallback);

    let soft = alpha(&soft(1.0, false), &gram);
    close(&soft, &[0.554, 0.582, 0.752], 1e-3);
    let least = gram.times(&soft).into_iter().fold(f64::INFINITY, f64::min);
    assert!((least - 0.158).abs() < 1e-3, "{least}");

    let mgda = alpha(&GradientRule::Mgda, &gram);
    close(&mgda, &[18.0 / 11.0, 0.0, 15.0 / 11.0], 1e-9);
    close(
        &gram.times(&mgda),
        &[24.0 / 11.0, 30.0 / 11.0, 24.0 / 11.0],
        1e-9,
    );

    let left = GradientRule::Gdod(Gdod {
        repair: true,
        ..HARD
    });
    let left = left.weigh(&gram, 0).unwrap();
    assert!(left.fallback && !left.repaired);
    close(&left.coefficients, &soft, 1e-9);
    assert!((left.conflict_rate - 1.0 / 3.0).abs() < 1e-12);
}

/// Goal: the default is computed right, repair and all. Method: five gradients of six small integers; the numbers are from numpy (`eigh`, and a coordinate descent of
/// 20,000 sweeps for the repair).
#[test]
fn numbers_of_five_tasks() {
    let gradients = [
        [3, -1, 2, 0, 1, -2],
        [1, 2, -1, 4, 0, 1],
        [-2, -1, 1, 0, 3, 1],
        [0, 1, -3, -2, -1, 0],
        [5, 0, 1, -1, 2, -6],
    ];
    let gram = gram(&gradients.map(|row| row.map(f64::from).to_vec()));
    let unrepaired = GradientRule::Gdod(Gdod {
        repair: false,
        ..Gdod::default()
    });
    close(
        &alpha(&unrepaired, &gram),
        &[
            0.633_468_477,
            0.435_608_843,
            0.707_975_642,
            0.757_626_191,
            0.644_842_116,
        ],
        1e-7,
    );
    let weighing = GradientRule::default().weigh(&gram, 0).unwrap();
    close(
        &weighing.coefficients,
        &[
            0.633_468_477,
            0.574_551_194,
            1.055_561_81,
            1.074_324_028,
            0.644_842_116,
        ],
        1e-7,
    );
    assert!(weighing.repaired && !weighing.fallback && weighing.shared == 0);
    assert!((weighing.conflict_rate - 0.9).abs() < 1e-12);
    close(
        &alpha(&GradientRule::AlignedMtl, &gram),
        &[
            0.866_912_798,
            0.393_708_808,
            0.552_142_887,
            0.809_172_503,
            -0.129_693_934,
        ],
        1e-7,
    );
}
