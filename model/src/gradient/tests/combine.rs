//! From tensors to one step.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use super::*;

/// A task's gradient at some parameters.
fn task(name: &str, parameters: &[(&str, &[f32])]) -> TaskGradient {
    let parameters = parameters.iter().map(|(name, values)| {
        let shape = (1, values.len());
        let tensor = Tensor::from_slice(values, shape, &Device::Cpu).unwrap();
        ((*name).to_owned(), tensor)
    });
    TaskGradient {
        task: name.to_owned(),
        parameters: Some(parameters.collect()),
    }
}

fn flat(combined: &Combined, name: &str) -> Vec<f32> {
    let tensor = &combined.parameters[name];
    assert_eq!(tensor.dims()[0], 1);
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

const HARD_REPAIRED: GradientRule = GradientRule::Gdod(Gdod {
    repair: true,
    ..HARD
});

/// Goal: a layer is what its parameters' names say. Method: names that models here have.
#[test]
fn layers_have_names() {
    for (parameter, layer) in [
        ("layers.0.self_attn.q_proj.weight", "layers.0"),
        ("layers.11.input_layernorm.weight", "layers.11"),
        ("head.hidden.1.bias", "head.hidden.1"),
        ("head.user.weight", "head.user"),
        ("norm", "norm"),
        ("", ""),
    ] {
        assert_eq!(layer_of(parameter), layer);
    }
}

/// Goal: layers draw by themselves. Method: three tasks that are opposed in two layers alike, where the order matters: in some of twenty steps the layers differ.
#[test]
fn layers_draw_for_themselves() {
    let [one, two, three] = [[1.0, 0.2], [-0.9, 0.6], [-0.2, -1.0]];
    let of = |name: &str, values: [f32; 2]| {
        task(name, &[("layers.0.w", &values), ("layers.1.w", &values)])
    };
    let tasks = [of("a", one), of("b", two), of("c", three)];
    let differ = (0..20).filter(|step| {
        let rule = GradientRule::PcGrad { seed: 1 };
        let combined = combine(&tasks, &rule, Scope::Layer, *step).unwrap();
        combined.weighings[0].1.coefficients != combined.weighings[1].1.coefficients
    });
    assert!(differ.count() > 0);
}

/// Goal: one decision over all parameters is not one a layer. Method: two tasks that agree in one layer and are opposed, of unequal length, in another: their
/// coefficients by hand in both scopes.
#[test]
fn scopes_differ() {
    let tasks = [
        task(
            "click",
            &[("layers.0.w", &[10.0]), ("layers.1.w", &[10.0, 0.0])],
        ),
        task(
            "buy",
            &[
                ("layers.0.w", &[1.0]),
                ("layers.1.w", &[-0.5, 0.75_f32.sqrt()]),
            ],
        ),
    ];
    let global = combine(&tasks, &GradientRule::Gdod(HARD), Scope::Global, 0).unwrap();
    let expected = [200.0, 5.0, 2.0];
    let gram = Gram::new(2, &[expected[0], expected[1], expected[1], expected[2]]).unwrap();
    let by_hand = alpha(&GradientRule::Gdod(HARD), &gram);
    assert_eq!(global.weighings.len(), 1);
    let (name, weighing) = &global.weighings[0];
    assert_eq!(name, "");
    for (found, expected) in weighing.coefficients.iter().zip(&by_hand) {
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }
    let found = flat(&global, "layers.0.w")[0];
    assert!((f64::from(found) - (10.0 * by_hand[0] + by_hand[1])).abs() < 1e-5);

    let layers = combine(&tasks, &GradientRule::Gdod(HARD), Scope::Layer, 0).unwrap();
    let names: Vec<&str> = layers
        .weighings
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(names, ["layers.0", "layers.1"]);
    assert!((flat(&layers, "layers.0.w")[0] - 11.0).abs() < 1e-5);
    let [first, second] = [0, 1].map(|task| layers.weighings[1].1.coefficients[task]);
    assert!(
        (first - 0.0528).abs() < 1e-4 && (second - 1.0477).abs() < 1e-4,
        "{first} {second}"
    );
    assert_eq!(layers.weighings[0].1.conflict_rate, 0.0);
    assert_eq!(layers.weighings[1].1.conflict_rate, 1.0);
}

/// Goal: a task without a label in the step is as if it were not there, which a gradient of zero is not. Method: the step with and without it, by every rule; MGDA waits
/// for the zero.
#[test]
fn a_task_without_labels_is_neutral() {
    let two = [
        task("click", &[("w", &[1.0, 0.5, 0.0])]),
        task("buy", &[("w", &[-0.5, 2.0, 0.1])]),
    ];
    let without = TaskGradient {
        task: "like".to_owned(),
        parameters: None,
    };
    let three = [two[0].clone(), without.clone(), two[1].clone()];
    for rule in rules() {
        let expected = combine(&two, &rule, Scope::Global, 0).unwrap();
        let found = combine(&three, &rule, Scope::Global, 0).unwrap();
        assert_eq!(flat(&found, "w"), flat(&expected, "w"), "{rule:?}");
        assert_eq!(found.tasks, ["click", "buy"]);
        assert_eq!(found.weighings, expected.weighings);
    }
    let zero = [
        two[0].clone(),
        task("like", &[("w", &[0.0; 3])]),
        two[1].clone(),
    ];
    let waits = combine(&zero, &GradientRule::Mgda, Scope::Global, 0).unwrap();
    assert_eq!(flat(&waits, "w"), [0.0; 3]);

    let none = combine(&[without], &HARD_REPAIRED, Scope::Global, 0).unwrap();
    assert!(none.parameters.is_empty() && none.weighings.is_empty() && none.tasks.is_empty());
}

/// Goal: a parameter that a task does not reach is a zero of its gradient. Method: leaving it out and giving zeros are the same.
#[test]
fn a_missing_parameter_is_zero() {
    let one = task("click", &[("a", &[1.0, 2.0]), ("b", &[3.0])]);
    let left_out = [one.clone(), task("buy", &[("a", &[-1.0, 1.0])])];
    let zeros = [one, task("buy", &[("a", &[-1.0, 1.0]), ("b", &[0.0])])];
    for rule in rules() {
        for scope in [Scope::Global, Scope::Layer] {
            let [found, expected] =
                [&left_out, &zeros].map(|tasks| combine(tasks, &rule, scope, 0).unwrap());
            assert_eq!(found.weighings, expected.weighings);
            for name in ["a", "b"] {
                assert_eq!(flat(&found, name), flat(&expected, name), "{rule:?}");
            }
        }
    }
}

/// Goal: what is no number stops the step, and says where it is. Method: NaN and both infinities in one task's gradient, by every rule.
#[test]
fn what_is_not_finite_is_named() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let tasks = [
            task(
                "click",
                &[("layers.0.w", &[1.0, 2.0]), ("layers.1.w", &[1.0])],
            ),
            task(
                "buy",
                &[("layers.0.w", &[0.0, 1.0]), ("layers.1.w", &[value])],
            ),
        ];
        for rule in rules() {
            for scope in [Scope::Global, Scope::Layer] {
                let error = combine(&tasks, &rule, scope, 0).unwrap_err();
                assert_eq!(
                    error.to_string(),
                    "the gradient of task `buy` is not finite at `layers.1.w`"
                );
            }
        }
    }
}

/// Goal: gradients of one parameter are of one shape. Method: two shapes; and too many tasks.
#[test]
fn odd_gradients_are_named() {
    let tasks = [
        task("click", &[("w", &[1.0, 2.0])]),
        task("buy", &[("w", &[1.0])]),
    ];
    let said = |tasks: &[TaskGradient]| {
        let combined = combine(tasks, &GradientRule::Sum, Scope::Global, 0);
        combined.unwrap_err().to_string()
    };
    assert_eq!(
        said(&tasks),
        "the gradient of task `buy` at `w` has shape [1, 1], another's [1, 2]"
    );
    let many: Vec<TaskGradient> = (0..17)
        .map(|at| task(&at.to_string(), &[("w", &[1.0])]))
        .collect();
    assert_eq!(
        said(&many),
        "gradients of 17 tasks, where 1 to 16 can be combined"
    );
}

proptest! {
    /// Goal: what comes out is Σ αᵢ gᵢ, and what harms no task in a layer harms none at all. Method: random tensors over three parameters of two layers, in both
    /// scopes, by every rule.
    #[test]
    fn the_step_is_the_weighted_sum(
        rows in (1..6_usize).prop_flat_map(|tasks| {
            prop::collection::vec(prop::collection::vec(-1.0..1.0_f32, 12), tasks)
        }),
        step in 0..1000_u64,
    ) {
        let cut = |row: &Vec<f32>| -> BTreeMap<String, Vec<f32>> {
            BTreeMap::from([
                ("layers.0.a".to_owned(), row[..3].to_vec()),
                ("layers.0.b".to_owned(), row[3..7].to_vec()),
                ("layers.1.a".to_owned(), row[7..].to_vec()),
            ])
        };
        let tasks: Vec<TaskGradient> = rows.iter().enumerate().map(|(at, row)| {
            let cut = cut(row);
            let parameters: Vec<(&str, &[f32])> = cut.iter().map(|(name, values)| (name.as_str(), values.as_slice())).collect();
            task(&at.to_string(), &parameters)
        }).collect();
        for rule in rules() {
            for scope in [Scope::Global, Scope::Layer] {
                let combined = combine(&tasks, &rule, scope, step).unwrap();
                let decided: BTreeMap<&str, &Weighing> = combined.weighings.iter().map(|(name, one)| (name.as_str(), one)).collect();
                let mut worth = vec![0.0; rows.len()];
                for (name, tensor) in &combined.parameters {
                    let layer = if scope == Scope::Global { "" } else { layer_of(name) };
                    let found = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                    for (at, found) in found.iter().enumerate() {
                        let sum: f64 = rows.iter().zip(&decided[layer].coefficients).map(|(row, part)| part * f64::from(cut(row)[name][at])).sum();
                        prop_assert!((f64::from(*found) - sum).abs() <= 1e-6 * sum.abs() + 1e-9);
                        for (worth, row) in worth.iter_mut().zip(&rows) {
                            *worth += f64::from(*found) * f64::from(cut(row)[name][at]);
                        }
                    }
                }
                if harms_nobody(&rule) {
                    prop_assert!(worth.iter().all(|worth| *worth > -1e-5), "{rule:?} {scope:?} {worth:?}");
                }
            }
        }
    }
}
