//! The Gram matrix, its decomposition, and the nearest points.

use super::super::cone;
use super::super::eigen::Eigen;
use super::*;

/// As many tasks as there may be.
fn large() -> impl Strategy<Value = Vec<Vec<f64>>> {
    (1..=TASKS_MAX, 1..24_usize).prop_flat_map(|(tasks, width)| {
        prop::collection::vec(prop::collection::vec(-1.0..1.0_f64, width), tasks)
    })
}

proptest! {
    /// Goal: the decomposition is one. Method: vectors are orthogonal and of length 1, values fall, and together they are the matrix again, of up to 16 tasks.
    #[test]
    fn decomposition_is_the_matrix(gradients in prop_oneof![gradients(), large()]) {
        let gram = gram(&gradients);
        let eigen = Eigen::of(&gram);
        let tasks = gram.tasks();
        prop_assert_eq!(eigen.values.len(), tasks);
        prop_assert!(eigen.values.windows(2).all(|pair| pair[0] >= pair[1]));
        for one in 0..tasks {
            for other in 0..tasks {
                let expected = f64::from(u8::from(one == other));
                prop_assert!((dot(&eigen.vectors[one], &eigen.vectors[other]) - expected).abs() < 1e-12);
                let sum: f64 = (0..tasks).map(|at| {
                    eigen.values[at] * eigen.vectors[at][one] * eigen.vectors[at][other]
                }).sum();
                let rounding = 1e-12 * eigen.values[0];
                prop_assert!((sum - gram.at(one, other)).abs() <= rounding, "{sum} {}", gram.at(one, other));
            }
        }
    }

    /// Goal: the span has as many directions as the gradients have. Method: fewer dimensions than tasks, where all numbers are drawn.
    #[test]
    fn directions_are_counted(gradients in large()) {
        let living = Eigen::living(&gram(&gradients));
        prop_assert!(living.values.len() <= gradients[0].len().min(gradients.len()));
        prop_assert!(!living.values.is_empty());
    }

    /// Goal: the repaired step is the nearest that harms no task. Method: it harms none, what was added is not negative and only along tasks that are just not harmed:
    /// the conditions that mark the nearest point.
    #[test]
    fn repair_is_the_nearest(gradients in gradients(), seed: u64) {
        let gram = gram(&gradients);
        let numbers = Numbers(seed).normal(gradients.len(), 1.0);
        let coefficients: Vec<f64> = numbers.into_iter().map(f64::from).collect();
        let vectors = Eigen::living(&gram).coordinates(gram.tasks());
        let more = cone::repair(&vectors, &coefficients);
        let both: Vec<f64> = coefficients.iter().zip(&more).map(|(one, more)| one + more).collect();
        let repaired = step(&gradients, &both);
        for (gradient, more) in gradients.iter().zip(&more) {
            let worth = dot(&repaired, gradient);
            let rounding = 1e-9 * length(gradient) * size(&gradients) * 3.0;
            prop_assert!(*more >= 0.0 && worth >= -rounding, "{more} {worth}");
            prop_assert!(*more == 0.0 || worth <= rounding, "{more} {worth}");
        }
    }

    /// Goal: parts of the parameters add up to the whole. Method: slices cut anywhere, one value and many at a time, against plain sums in f64.
    #[test]
    fn parts_add_up(rows in prop::collection::vec(prop::collection::vec(-10.0..10.0_f32, 9_000), 1..4), cut in 0..9_000_usize) {
        let mut summed = Gram::zeros(rows.len()).unwrap();
        summed.add(&rows.iter().map(|row| &row[..cut]).collect::<Vec<_>>()).unwrap();
        summed.add(&rows.iter().map(|row| &row[cut..]).collect::<Vec<_>>()).unwrap();
        let wide: Vec<Vec<f64>> = rows.iter().map(|row| row.iter().map(|value| f64::from(*value)).collect()).collect();
        let expected = gram(&wide);
        for one in 0..rows.len() {
            for other in 0..rows.len() {
                prop_assert!((summed.at(one, other) - expected.at(one, other)).abs() < 1e-8 * expected.at(one, one));
            }
        }
    }
}

/// Goal: products of f32 are summed in f64, at both ends of its range. Method: values that f32 would lose, overflow and flush to zero.
#[test]
fn sums_are_wide() {
    let mut gram = Gram::zeros(2).unwrap();
    gram.add(&[&[1e4, 1e-4], &[1e4, 1.0]]).unwrap();
    assert_eq!(gram.at(0, 1), 1e8 + f64::from(1e-4_f32));
    // Enough of them that lanes are taken: each square has one bit more than f32 holds.
    let near = 1.0 + 2.0_f32.powi(-12);
    let mut gram = Gram::zeros(1).unwrap();
    gram.add(&[&[near; 64]]).unwrap();
    assert_eq!(gram.at(0, 0), 64.0 * f64::from(near).powi(2));
    for value in [f32::MAX, f32::from_bits(1)] {
        let mut gram = Gram::zeros(2).unwrap();
        gram.add(&[&[value, 0.0], &[0.0, value]]).unwrap();
        assert_eq!(gram.length(0), f64::from(value));
        for rule in rules() {
            let weighing = rule.weigh(&gram, 0).unwrap();
            assert!(
                weighing.coefficients.iter().all(|one| *one > 0.5),
                "{rule:?} {weighing:?}"
            );
        }
    }
}

/// Goal: a gradient of next to nothing keeps its say. Method: one that is 10⁹ times shorter than the other and slightly against it: its direction is there, and the
/// repaired step does not harm it.
#[test]
fn short_gradients_are_seen() {
    let gradients = [vec![1.0, 0.0], vec![-0.3e-9, 1e-9]];
    let gram = gram(&gradients);
    assert_eq!(Eigen::living(&gram).values.len(), 2);
    let weighing = GradientRule::default().weigh(&gram, 0).unwrap();
    assert!(weighing.worst_cosine.unwrap() > -1e-12, "{weighing:?}");
    let sum = GradientRule::Sum.weigh(&gram, 0).unwrap();
    assert!(sum.worst_cosine.unwrap() < -0.28, "{sum:?}");
}

/// Goal: gradients that are equal but for rounding are one direction. Method: a copy with the rounding of f32: Aligned-MTL, which makes all directions as
/// long as the shortest, does not shrink the step to that rounding.
#[test]
fn rounding_is_no_direction() {
    let row: Vec<f64> = (0..40).map(|at| f64::from(at * 7 % 11) - 5.0).collect();
    let other: Vec<f64> = row
        .iter()
        .map(|value| f64::from((value / 3.0) as f32) * 3.0)
        .collect();
    assert_ne!(row, other);
    let gram = gram(&[row, other]);
    assert_eq!(Eigen::living(&gram).values.len(), 1);
    for coefficient in alpha(&GradientRule::AlignedMtl, &gram) {
        assert!((coefficient - 1.0).abs() < 1e-6, "{coefficient}");
    }
}

/// Goal: what is no Gram matrix is refused. Method: sizes, values that are not finite, entries larger than lengths allow.
#[test]
fn odd_matrices_are_refused() {
    let said = |tasks, values: &[f64]| Gram::new(tasks, values).unwrap_err().to_string();
    assert_eq!(
        said(0, &[]),
        "gradients of 0 tasks, where 1 to 16 can be combined"
    );
    assert_eq!(
        said(17, &[]),
        "gradients of 17 tasks, where 1 to 16 can be combined"
    );
    assert_eq!(
        said(2, &[1.0]),
        "a matrix of 1 values, where 2 tasks have 4"
    );
    assert_eq!(
        said(2, &[1.0, 0.0, 0.0, f64::NAN]),
        "the gradient of task `1` is not finite"
    );
    assert_eq!(
        said(2, &[1.0, 2.0, 2.0, 1.0]),
        "2 is no inner product of tasks 0 and 1"
    );
    assert_eq!(said(1, &[-1.0]), "-1 is no inner product of tasks 0 and 0");
    let mut gram = Gram::zeros(2).unwrap();
    assert_eq!(
        gram.add(&[&[1.0], &[1.0, 2.0]]).unwrap_err().to_string(),
        "gradients of [1, 2] values, where 2 tasks have as many each, or none"
    );
    assert!(gram.add(&[&[1.0]]).is_err());
}
