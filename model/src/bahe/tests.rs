//! Runs taken in one behavior at a time against runs computed whole, gradients against slopes, and what a vector does and does not follow from.

use std::path::Path;

use candle_core::{Device, Tensor, Var};

use super::segment::start_of;
use super::*;
use crate::language::{DecoderConfig, Family, Kernels};

mod interest;
mod learning;
mod places;
mod real;
mod scenarios;
mod serving;
mod tasks;

const WIDTH: usize = 24;
const LIMIT: usize = 12;

fn config() -> DeepConfig {
    config_of(Family::Llama)
}

fn config_of(family: Family) -> DeepConfig {
    DeepConfig {
        blocks: DecoderConfig {
            family,
            layers: 2,
            width: WIDTH,
            inner: 40,
            heads: 6,
            kv_heads: 2,
            head_width: 4,
            vocabulary: 1,
            positions_max: LIMIT + 1,
            rope_base: 10_000.0,
            norm_epsilon: 1e-5,
            first_token: 0,
            tied: true,
        },
        sequences: 2,
        limit: LIMIT,
    }
}

/// Layers whose every value says something: gaps, norm and emptiness begin as constants otherwise.
fn deep() -> (Deep, Vec<(String, Var)>) {
    deep_of(Family::Llama)
}

fn deep_of(family: Family) -> (Deep, Vec<(String, Var)>) {
    let config = config_of(family);
    let mut values = Deep::random(&config, 7).unwrap();
    if family == Family::Qwen2 {
        for layer in 0..2 {
            for (seed, part, width) in [(4, 'q', 24), (5, 'k', 8), (6, 'v', 8)] {
                let name = format!("layers.{layer}.self_attn.{part}_proj.bias");
                values.insert(name, tensor(seed, &[width]));
            }
        }
    }
    for (seed, name) in [(1, "gaps"), (2, "norm"), (3, "empty")] {
        let shape = values[name].dims().to_vec();
        let around = if name == "norm" { 1.0 } else { 0.0 };
        values.insert(name.to_owned(), (tensor(seed, &shape) + around).unwrap());
    }
    let mut variables = Vec::new();
    let made = Deep::of(
        &config,
        &values,
        Path::new("here"),
        &Device::Cpu,
        Some(&mut variables),
    );
    (made.unwrap(), variables)
}

/// Values that look like nothing, around 0.
fn tensor(seed: u64, shape: &[usize]) -> Tensor {
    let mut state = seed;
    let values: Vec<f32> = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    })
    .take(shape.iter().product())
    .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn gaps(runs: usize, behaviors: usize) -> Tensor {
    let kinds: Vec<u32> = (0..runs * behaviors)
        .map(|place| {
            if place % behaviors == 0 {
                0
            } else {
                (place * 7 % GAPS) as u32
            }
        })
        .collect();
    Tensor::from_vec(kinds, (runs, behaviors), &Device::Cpu).unwrap()
}

fn largest_difference(one: &Tensor, other: &Tensor) -> f32 {
    let difference = (one - other).unwrap().abs().unwrap();
    difference.max_all().unwrap().to_scalar().unwrap()
}

/// Goal: where a run begins follows from the count alone; runs never pass the limit, never fall under its half once they reached it, and move rarely.
/// Method: counts up to many limits.
#[test]
fn a_run_begins_anew_with_its_newest_half() {
    for limit in [2, 8, 512] {
        let mut last = 0;
        for count in 0..limit * 5 + 3 {
            let start = start_of(count, limit);
            let length = count - start;
            assert!(length < limit, "{count} of {limit}: {length}");
            assert!(count < limit || length >= limit / 2, "{count} of {limit}");
            assert!(start == last || (start == last + limit / 2 && length == limit / 2));
            last = start;
        }
    }
}

/// Goal: longer gaps are other kinds, and none is out of range. Method: known ones and the extremes.
#[test]
fn gaps_are_doublings() {
    let second = 1_000;
    assert_eq!(gap_of(None), 0);
    assert_eq!(gap_of(Some(0)), 1);
    assert_eq!(gap_of(Some(-5 * second)), 1, "backwards");
    assert_eq!(gap_of(Some(second)), 2);
    assert_eq!(gap_of(Some(7 * second)), 4);
    assert_eq!(gap_of(Some(86_400 * second)), 17);
    assert_eq!(gap_of(Some(i64::MAX)), GAPS as u32 - 1);
    assert_eq!(gap_of(Some(i64::MIN)), 1);
}

/// Goal: a behavior at a time gives what the whole run gives, in company or alone. Method: three runs, of which one lags behind the others; every vector
/// on the way against the mean of the outputs computed whole with both kinds of kernels.
#[test]
fn advancing_equals_recomputing() {
    let (deep, _) = deep();
    let (vectors, gaps) = (tensor(5, &[3, LIMIT, WIDTH]), gaps(3, LIMIT));
    let whole = deep.outputs(&vectors, &gaps, Kernels::Fused).unwrap();
    let slow = deep
        .outputs(&vectors, &gaps, Kernels::Differentiable)
        .unwrap();
    assert!(largest_difference(&whole, &slow) < 1e-5);
    let rows: Vec<Vec<Vec<f32>>> = vectors.to_vec3().unwrap();
    let kinds: Vec<Vec<u32>> = gaps.to_vec2().unwrap();
    let mut runs = vec![deep.begin().unwrap(); 3];
    for step in 0..LIMIT + 2 {
        // The third run takes its behaviors two steps later.
        let at = |run: usize| {
            if run == 2 {
                step.checked_sub(2)
            } else {
                Some(step)
            }
        };
        let due: Vec<usize> = (0..3)
            .filter(|run| at(*run).is_some_and(|at| at < LIMIT))
            .collect();
        let taken = due.iter().enumerate().map(|(place, run)| Taken {
            run: place,
            vector: &rows[*run][at(*run).unwrap()],
            gap: kinds[*run][at(*run).unwrap()],
        });
        let taken: Vec<Taken<'_>> = taken.collect();
        let mut together: Vec<&mut Run> = runs
            .iter_mut()
            .enumerate()
            .filter(|(run, _)| due.contains(run))
            .map(|(_, run)| run)
            .collect();
        deep.advance(&mut together, &taken).unwrap();
        for run in due {
            let count = at(run).unwrap() + 1;
            let expected = deep.pooled(&whole, &[(run, count)], &[0]).unwrap();
            let found = runs[run].vector().unwrap();
            let found = Tensor::from_vec(found, (1, WIDTH), &Device::Cpu).unwrap();
            assert_eq!(runs[run].behaviors(), count);
            let difference = largest_difference(&expected, &found);
            // Keys and values are held in 16 bits.
            assert!(difference < 2e-3, "{run} at {count}: {difference}");
        }
    }
    let bytes = deep.run_bytes();
    assert_eq!(bytes.position, 2 * 2 * 2 * 4 * 2);
    // Vectors grow by doubling: at most twice what is held.
    assert!(
        (bytes.full..=2 * bytes.full).contains(&runs[0].bytes()),
        "{}",
        runs[0].bytes()
    );
    let again = Taken {
        run: 0,
        vector: &rows[0][0],
        gap: 0,
    };
    let full = deep.advance(&mut [&mut runs[0]], &[again]).unwrap_err();
    assert!(full.to_string().contains("which is the limit"), "{full}");
    // Many positions of two runs at once, in parts of any length.
    let mut anew = vec![deep.begin().unwrap(); 2];
    for parts in [[0..5, 0..3], [5..LIMIT, 3..3], [0..0, 3..LIMIT]] {
        let mut taken = Vec::new();
        for place in 0..LIMIT {
            for run in (0..2).filter(|run| parts[*run].contains(&place)) {
                taken.push(Taken {
                    run,
                    vector: &rows[run][place],
                    gap: kinds[run][place],
                });
            }
        }
        deep.advance(&mut anew.iter_mut().collect::<Vec<_>>(), &taken)
            .unwrap();
    }
    for (one, other) in anew.iter().zip(&runs) {
        assert_eq!(one.behaviors(), LIMIT);
        let (one, other) = (one.vector().unwrap(), other.vector().unwrap());
        for (one, other) in one.iter().zip(other) {
            assert!((one - other).abs() < 1e-4, "{one} {other}");
        }
    }
}

/// Goal: no vector depends on what is behind it or beside it; every vector depends on order, gaps and texts. Method: one thing changed at a time.
#[test]
fn a_vector_follows_from_its_run_alone() {
    let (deep, _) = deep();
    let (vectors, kinds) = (tensor(5, &[2, 6, WIDTH]), gaps(2, 6));
    let places: Vec<(usize, usize)> = (1..=6).map(|count| (0, count)).collect();
    let of = |vectors: &Tensor, kinds: &Tensor| {
        let outputs = deep.outputs(vectors, kinds, Kernels::Fused).unwrap();
        deep.pooled(&outputs, &places, &[0; 6]).unwrap()
    };
    let before = of(&vectors, &kinds);
    let first = vectors.narrow(0, 0, 1).unwrap();
    let shorter = first.narrow(1, 0, 4).unwrap();
    let outputs = deep
        .outputs(
            &shorter,
            &kinds.narrow(0, 0, 1).unwrap().narrow(1, 0, 4).unwrap(),
            Kernels::Fused,
        )
        .unwrap();
    let alone = deep.pooled(&outputs, &places[..4], &[0; 4]).unwrap();
    assert!(largest_difference(&alone, &before.narrow(0, 0, 4).unwrap()) < 1e-5);

    let changed = |order: [u32; 6], kinds: &Tensor| {
        let order = Tensor::new(&order, &Device::Cpu).unwrap();
        let after = of(&vectors.index_select(&order, 1).unwrap(), kinds);
        let rows = (&before - after).unwrap().abs().unwrap();
        rows.max(1).unwrap().to_vec1::<f32>().unwrap()
    };
    // Two behaviors change places: what is before them stays, all from there on changes, though the mean is of the same texts.
    let swapped = changed([0, 1, 3, 2, 4, 5], &kinds);
    assert!(
        swapped[..2].iter().all(|change| *change < 1e-6),
        "{swapped:?}"
    );
    assert!(
        swapped[2..].iter().all(|change| *change > 1e-3),
        "{swapped:?}"
    );
    let mut other = kinds.to_vec2::<u32>().unwrap();
    other[0][3] += 1;
    let later = changed(
        [0, 1, 2, 3, 4, 5],
        &Tensor::new(other, &Device::Cpu).unwrap(),
    );
    assert!(later[..3].iter().all(|change| *change < 1e-6), "{later:?}");
    assert!(later[3..].iter().all(|change| *change > 1e-4), "{later:?}");
}

/// A number that everything goes into.
fn loss(deep: &Deep, kernels: Kernels) -> Tensor {
    let (vectors, kinds) = (tensor(5, &[2, 5, WIDTH]), gaps(2, 5));
    let outputs = deep.outputs(&vectors, &kinds, kernels).unwrap();
    let places = [(0, 5), (1, 3), (1, 0), (0, 0), (1, 5)];
    let users = deep.pooled(&outputs, &places, &[0, 1, 0, 1, 1]).unwrap();
    let items = deep.items(&tensor(6, &[5, WIDTH]), kernels).unwrap();
    let weights = tensor(9, &[5, WIDTH]);
    ((users * items).unwrap() * weights)
        .unwrap()
        .sum_all()
        .unwrap()
}

/// Goal: every trainable tensor learns, in the right direction. Method: each has a gradient that is not all zero, and some of its values are slopes by central
/// differences; what the fused kernels give has none below the pooling, which is the trap.
#[test]
fn every_tensor_has_its_slope_for_a_gradient() {
    let (deep, variables) = deep();
    let gradients = loss(&deep, Kernels::Differentiable).backward().unwrap();
    assert_eq!(variables.len(), 2 * 9 + 4);
    for (name, variable) in &variables {
        let gradient = gradients.get(variable.as_tensor());
        let gradient = gradient.unwrap_or_else(|| panic!("{name} has no gradient"));
        let gradient = gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let largest = (0..gradient.len())
            .max_by(|one, other| gradient[*one].abs().total_cmp(&gradient[*other].abs()))
            .unwrap();
        assert!(gradient[largest].abs() > 1e-4, "{name} learns nothing");
        let shape = variable.as_tensor().dims().to_vec();
        let before = variable
            .as_tensor()
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        let at = |change: f32| {
            let mut values = before.clone();
            values[largest] += change;
            variable
                .set(&Tensor::from_vec(values, &*shape, &Device::Cpu).unwrap())
                .unwrap();
            loss(&deep, Kernels::Differentiable)
                .to_scalar::<f32>()
                .unwrap()
        };
        let step = 1e-2;
        let slope = (at(step) - at(-step)) / (2.0 * step);
        at(0.0);
        let off = (slope - gradient[largest]).abs();
        assert!(
            off < 0.02 * gradient[largest].abs() + 1e-3,
            "{name}: {slope} {}",
            gradient[largest]
        );
    }
    let cut = loss(&deep, Kernels::Fused).backward().unwrap();
    let lost = variables
        .iter()
        .filter(|(_, variable)| cut.get(variable.as_tensor()).is_none());
    assert!(
        lost.count() > 10,
        "the library's fused kernels have gradients now"
    );
}

/// Goal: the way back that is written out gives the gradients that the graph gives, as often as it is asked. Method: every tensor of layers with and without
/// biases, under a loss that weighs every output differently, and a second loss over the same pass.
#[test]
fn the_way_back_gives_what_the_graph_gives() {
    for family in [Family::Llama, Family::Qwen2] {
        let (deep, variables) = deep_of(family);
        let (vectors, kinds) = (tensor(5, &[3, 7, WIDTH]), gaps(3, 7));
        let pass = deep.forward_kept(&vectors, &kinds).unwrap();
        let graph = deep
            .outputs(&vectors, &kinds, Kernels::Differentiable)
            .unwrap();
        assert!(largest_difference(pass.outputs(), &graph) < 1e-5);
        for seed in [9, 10] {
            let weights = tensor(seed, &[3, 7, WIDTH]);
            let loss = |outputs: &Tensor| {
                let weighed = (outputs.sqr().unwrap() * &weights).unwrap();
                weighed.sum_all().unwrap().backward().unwrap()
            };
            let right = loss(&graph);
            let mut found = std::collections::BTreeMap::new();
            let from = loss(pass.outputs());
            let from = from.get(pass.outputs()).unwrap();
            deep.backward(&pass, from, &mut found).unwrap();
            for (name, variable) in variables.iter().filter(|(name, _)| name != "empty") {
                let right = right.get(variable.as_tensor()).unwrap();
                let found = &found[name];
                assert_eq!(found.dims(), right.dims(), "{name}");
                let size = right.abs().unwrap().max_all().unwrap();
                let size = size.to_scalar::<f32>().unwrap();
                let off = largest_difference(found, right);
                assert!(off < 1e-4 * size, "{name}: {off} of {size}");
            }
            assert_eq!(found.len() + 1, variables.len());
        }
    }
}

/// Goal: items that share their first position are what they are as runs of one behavior, and so are their gradients. Method: every tensor, both families, one item
/// and several pieces of them.
#[test]
fn items_in_company_are_what_they_are_alone() {
    for (family, count) in [
        (Family::Llama, 1),
        (Family::Llama, 1_500),
        (Family::Qwen2, 5),
    ] {
        let (deep, variables) = deep_of(family);
        let vectors = tensor(6, &[count, WIDTH]);
        let graph = deep.items(&vectors, Kernels::Differentiable).unwrap();
        let pass = deep.items_kept(&vectors).unwrap();
        let fused = deep.items(&vectors, Kernels::Fused).unwrap();
        assert!(largest_difference(pass.outputs(), &graph) < 1e-5);
        assert_eq!(largest_difference(pass.outputs(), &fused), 0.0);
        let weights = tensor(9, &[count, WIDTH]);
        let loss = |outputs: &Tensor| {
            let weighed = (outputs.sqr().unwrap() * &weights).unwrap();
            weighed.sum_all().unwrap().backward().unwrap()
        };
        let right = loss(&graph);
        let from = loss(pass.outputs());
        let mut found = std::collections::BTreeMap::new();
        let from = from.get(pass.outputs()).unwrap();
        deep.backward(&pass, from, &mut found).unwrap();
        for (name, variable) in variables.iter().filter(|(name, _)| name != "empty") {
            let right = right.get(variable.as_tensor()).unwrap();
            let size = right.abs().unwrap().max_all().unwrap();
            let size = size.to_scalar::<f32>().unwrap();
            let off = largest_difference(&found[name], right);
            assert!(
                off <= 2e-4 * size + 1e-5,
                "{name} of {count}: {off} of {size}"
            );
        }
    }
}

/// Goal: a checkpoint of other layers is refused, by the tensor's name. Method: one that is missing, one of another shape.
#[test]
fn odd_tensors_are_named() {
    let config = config();
    let values = Deep::random(&config, 1).unwrap();
    let refused = |values: &std::collections::BTreeMap<String, Tensor>| {
        let path = Path::new("deep.safetensors");
        let error = Deep::of(&config, values, path, &Device::Cpu, None).unwrap_err();
        error.to_string()
    };
    let mut missing = values.clone();
    missing.remove("gaps");
    assert_eq!(
        refused(&missing),
        "deep.safetensors: tensor `gaps` is missing"
    );
    let mut other = values;
    other.insert("layers.1.mlp.up_proj.weight".to_owned(), tensor(1, &[3, 4]));
    assert_eq!(
        refused(&other),
        "deep.safetensors: tensor `layers.1.mlp.up_proj.weight` has shape [3, 4], where [40, 24] is needed"
    );
}
