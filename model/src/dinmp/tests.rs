//! The network against its definition, its gradients, and what must not change it.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor, Var};
use headwater_config::DeviceChoice;
use proptest::prelude::*;

use super::mark::SIDES;
use super::network::{Ahead, INNER, Pooled, Vector};
use super::pool::Pools;
use super::start::Start;
use super::{
    Asked, ItemKeys, Learning, Looked, Mark, Network, Reads, RowSettings, Rows, Seen, TEXT,
    TEXT_SCALE, WIDTH,
};
use crate::device::choose;
use crate::feature::KeyVectorSpec;
use crate::numbers::Numbers;
use crate::table::{Adagrad, Admission, Dropout, Table, TableSettings};

mod reads;
mod start;

const KINDS: usize = 3;
const BUCKETS: usize = 3;
const HOUR: i64 = 3_600_000;

fn table() -> Table {
    let mut table = Table::new(TableSettings {
        width: WIDTH,
        seed: 5,
        memory: 1 << 20,
        admission: Admission {
            count: 1,
            counters: 16,
            window: 16,
        },
        expiry: None,
        learning: Adagrad {
            rate: 0.1,
            epsilon: 1e-8,
            start: 0.0,
            memory: 1.0,
        },
        spread: 0.5,
    })
    .unwrap();
    table.meet(seen(&requests()).0.keys(), 0, |_| None).unwrap();
    table
}

/// Atoms as (item, stretch, age, events by kind), and candidates.
type Request = (Vec<(usize, u8, i64, Vec<(u8, u32)>)>, Vec<usize>);

fn item(number: usize) -> ItemKeys {
    let groups = ["g0", "g1", "g2"].into_iter().enumerate();
    let groups = groups.filter(|(place, _)| (number >> place) & 1 == 1);
    ItemKeys::of(&format!("item{number}"), groups.map(|(_, name)| name))
}

fn seen(requests: &[Request]) -> (Seen, Vec<Asked>) {
    seen_by(Reads::default(), requests)
}

fn seen_by(reads: Reads, requests: &[Request]) -> (Seen, Vec<Asked>) {
    let (mut seen, mut rows) = (Seen::reading(reads), Vec::new());
    for (number, (atoms, candidates)) in requests.iter().enumerate() {
        // The last one's user is the first one's too.
        let user = format!("user {}", number % 3);
        for (number, bucket, age, counts) in atoms {
            let place = seen.item(item(*number));
            seen.atom(place, Mark::new(*bucket, *age, counts.clone()));
        }
        let request = seen.end_request(&user);
        for candidate in candidates {
            let item = seen.item(item(*candidate));
            rows.push(Asked { request, item });
        }
    }
    (seen, rows)
}

fn requests() -> Vec<Request> {
    vec![
        (
            vec![
                (1, 0, HOUR / 2, vec![(0, 1), (2, 3)]),
                (2, 1, 5 * HOUR, vec![(1, 1)]),
                (1, 2, 90 * HOUR, vec![(0, 7)]),
                (3, 2, 900 * HOUR, vec![(2, 1)]),
            ],
            vec![4, 1, 7],
        ),
        (vec![], vec![2, 0]),
        (vec![(0, 1, HOUR, vec![(1, 2)])], vec![3]),
        // More than are computed side by side, and not an even number of them.
        (
            (0..11)
                .map(|at| {
                    (
                        at % 5,
                        (at % 3) as u8,
                        at as i64 * HOUR,
                        vec![(at as u8 % 3, 2)],
                    )
                })
                .collect(),
            vec![1, 6],
        ),
    ]
}

fn values() -> BTreeMap<String, Tensor> {
    values_of(Reads::default())
}

fn values_of(reads: Reads) -> BTreeMap<String, Tensor> {
    let mut values = Network::random((KINDS, BUCKETS), reads, 7).unwrap();
    // Biases and empty buckets begin at 0: here they are something.
    let mut numbers = Numbers(3);
    for value in values.values_mut() {
        let noise = numbers.normal(value.elem_count(), 0.05);
        let noise = Tensor::from_vec(noise, value.shape(), &Device::Cpu).unwrap();
        *value = (&*value + noise).unwrap();
    }
    values
}

fn network(values: &BTreeMap<String, Tensor>) -> Network {
    network_of(Reads::default(), values)
}

fn network_of(reads: Reads, values: &BTreeMap<String, Tensor>) -> Network {
    Network::of((KINDS, BUCKETS), reads, values, Path::new("here")).unwrap()
}

fn learning(dropout: f64, reads: Reads) -> Learning {
    let settings = RowSettings {
        rate: 0.1,
        dropout,
        spread: 0.5,
        memory: 1 << 20,
        seed: 3,
    };
    let spec = KeyVectorSpec {
        kinds: (0..KINDS).map(|kind| kind.to_string()).collect(),
        edges_ms: (1..BUCKETS as i64).map(|edge| edge * HOUR).collect(),
    };
    Learning::new(spec, settings).unwrap().reading(reads)
}

/// Vectors of candidates whose texts say nothing.
fn candidates(looked: &Looked, rows: &[Asked]) -> Vec<Vector> {
    Start::default().candidates(looked, rows, &[])
}

fn ahead(network: &Network, seen: &Seen, looked: &Looked, rows: &[Asked]) -> Ahead {
    network.ahead(seen, looked, (rows, &candidates(looked, rows)))
}

fn out(network: &Network, seen: &Seen, looked: &Looked, rows: &[Asked]) -> Vec<f32> {
    let candidates = candidates(looked, rows);
    network.forward(seen, looked, (rows, &candidates)).0
}

/// Some function of all that comes out.
fn loss(network: &Network, seen: &Seen, looked: &Looked, rows: &[Asked]) -> f64 {
    let out = out(network, seen, looked, rows);
    let weights = Numbers(11).normal(out.len(), 1.0);
    let all = out.iter().zip(&weights);
    all.map(|(one, weight)| f64::from(*one) * f64::from(*weight))
        .sum()
}

/// Goal: a candidate's numbers are the same bits on every processor, and a request's atoms do not come out even. Method: requests of 0 to 21 atoms, by vectors of all widths that there are here;
/// the widest again, a row at a time.
#[test]
fn all_widths_give_the_same_bits() {
    let events = |atoms: usize| {
        let event = |at: usize| {
            let counts = vec![((at % KINDS) as u8, 1 + at as u32)];
            (at % 7, (at % BUCKETS) as u8, at as i64 * HOUR, counts)
        };
        (0..atoms).map(event).collect()
    };
    let requests: Vec<Request> = [0, 1, 7, 8, 9, 16, 21]
        .map(|atoms| (events(atoms), vec![1, 4, 0]))
        .into();
    let (seen, rows) = seen(&requests);
    let of_rows = Rows::gather(&seen, &table(), None);
    let looked = of_rows.looked();
    let network = network(&values());
    let ahead = ahead(&network, &seen, &looked, &rows);
    let of = Pools {
        network: &network,
        seen: &seen,
        looked: &looked,
        ahead: &ahead,
    };
    let bits = |pooled: &Pooled| {
        let all = pooled.sums.as_flattened().iter().chain(&pooled.volumes);
        all.map(|number| number.to_bits()).collect::<Vec<u32>>()
    };
    let mut wanted = Vec::new();
    of.each_by(pulp::Scalar::new(), &ahead.rows, |_, pooled| {
        wanted.push(bits(pooled));
    });
    let same = |what: &str, found: Vec<Vec<u32>>| assert!(found == wanted, "{what}");
    let alone = (0..rows.len()).map(|row| bits(&network.pool(&seen, &looked, &ahead, row)));
    same("alone", alone.collect());
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! by {
            ($($width:ident),*) => {
                $(if let Some(simd) = pulp::x86::$width::try_new() {
                    let mut found = Vec::new();
                    of.each_by(simd, &ahead.rows, |_, pooled| found.push(bits(pooled)));
                    same(stringify!($width), found);
                })*
            };
        }
        by!(V2, V3, V4);
    }
}

/// Goal: the way back is right, of every tensor and of rows of ids, whatever is left out. Method: differences of some function of all that comes out, over rows with full, empty and repeated buckets.
#[test]
fn gradients_are_those_of_differences() {
    for (what, reads) in reads::choices() {
        let silent: &[&str] = if reads.counts { &[] } else { &["dinmp.kinds"] };
        differences(what, reads, silent);
    }
}

fn differences(what: &str, reads: Reads, silent: &[&str]) {
    let (seen, rows) = seen_by(reads, &requests());
    let table = table();
    let values = values_of(reads);
    let of_rows = Rows::gather(&seen, &table, None);
    let looked = of_rows.looked();
    let network = |values: &_| network_of(reads, values);
    let bare = network(&values);
    let count = rows.len() * Network::outputs(BUCKETS);
    let all = (&*rows, &*candidates(&looked, &rows));
    let (out, ahead) = bare.forward(&seen, &looked, all);
    let of = (&seen, &looked, &ahead);
    let mut gradients = bare.backward(of, &out, &Numbers(11).normal(count, 1.0));
    let to = &mut gradients.vectors;
    let behind = Start::default().back(
        (&rows, &[]),
        &gradients.candidates,
        to,
        &mut BTreeMap::new(),
    );
    behind.unwrap();
    let mut found = BTreeMap::new();
    bare.gather(&gradients, &mut found).unwrap();
    assert_eq!(found.len(), values.len());
    let step = 2e-3_f32;
    for (name, value) in &values {
        let flat = value.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let of = found[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for place in (0..flat.len()).step_by(flat.len().div_ceil(23)) {
            let with = |by: f32| {
                let mut flat = flat.clone();
                flat[place] += by;
                let mut values = values.clone();
                let value = Tensor::from_vec(flat, value.shape(), &Device::Cpu).unwrap();
                values.insert(name.clone(), value);
                loss(&network(&values), &seen, &looked, &rows)
            };
            let slope = (with(step) - with(-step)) / f64::from(2.0 * step);
            let error = (slope - f64::from(of[place])).abs();
            assert!(
                error < 0.02 * slope.abs().max(0.5),
                "{what}: {name}[{place}]: {} where differences give {slope}",
                of[place]
            );
        }
        let learns = of.iter().any(|of| *of != 0.0);
        assert_eq!(learns, !silent.contains(&&**name), "{what}: {name}");
    }
    let found = of_rows.gradient(&gradients.vectors).unwrap();
    let found = found.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let held = of_rows.gathered().values().to_vec();
    // Row 0 is the unknown one, which nobody reads here.
    for place in (WIDTH..held.len()).step_by(5) {
        let with = |by: f32| {
            let mut held = held.clone();
            held[place] += by;
            loss(&bare, &seen, &of_rows.looked_with(&held), &rows)
        };
        let slope = (with(step) - with(-step)) / f64::from(2.0 * step);
        let error = (slope - f64::from(found[place])).abs();
        assert!(
            error < 0.02 * slope.abs().max(0.5),
            "{what}: row number {place}: {} where differences give {slope}",
            found[place]
        );
    }
}

/// Goal: where a GPU learns, what comes out and every gradient are those of a CPU. Method: the two graphs around plain loops on a CPU, and around the kernels where there is a GPU, beside our own
/// way, for some function of all that comes out; rows of full, empty and repeated buckets, of more atoms than a block has warps, and of users with a row, without one, and with two requests; with each part left out.
#[test]
fn a_device_goes_the_same_way() {
    for (what, reads) in reads::choices() {
        goes_the_same_way(what, reads);
    }
}

fn goes_the_same_way(left_out: &str, reads: Reads) {
    let (seen, rows) = seen_by(reads, &requests());
    // Half of the ids are left out, and read zeros, in this step some users and some items: one past has nothing else.
    let mut learning = learning(0.5, reads).with_texts(3);
    let texts = if reads.text { rows.len() * 3 } else { 0 };
    let texts = Numbers(13).normal(texts, 1.0);
    let met = seen.met(&rows, &vec![0; rows.len()]);
    learning.meet(&seen, &met).unwrap();
    let wide = learning.outputs();
    let mut go = |apart: bool, device: &Device| {
        learning.apart = apart;
        let mut values = values_of(reads);
        if reads.text {
            let start = Tensor::from_vec(Numbers(12).normal(3 * WIDTH, 0.3), (3, WIDTH), device);
            values.insert(TEXT.to_owned(), start.unwrap());
            let scale = vec![0.3, -0.2, 0.1, 2.0, 0.5, 1.0];
            let scale = Tensor::from_vec(scale, (2, 3), device);
            values.insert(TEXT_SCALE.to_owned(), scale.unwrap());
        }
        let values: BTreeMap<String, Var> = values
            .into_iter()
            .map(|(name, value)| {
                let value = value.to_device(device).unwrap();
                (name, Var::from_tensor(&value).unwrap())
            })
            .collect();
        let tensors = values.iter();
        let tensors = tensors.map(|(name, value)| (name.clone(), value.as_tensor().clone()));
        let (seen, rows) = seen.part(&rows);
        let laid = (seen, rows, texts.clone());
        let way = learning.forward(&tensors.collect(), laid, Some(34), device);
        let way = way.unwrap();
        let count = way.outputs.elem_count();
        let weights = Numbers(11).normal(count, 1.0);
        let weights = Tensor::from_vec(weights, way.outputs.shape(), device).unwrap();
        let loss = (&way.outputs * weights).unwrap().sum_all().unwrap();
        let gradients = loss.backward().unwrap();
        let mut found = BTreeMap::from([("out".to_owned(), way.outputs.detach())]);
        // As the trainer does: what the head's graph knows of, and what comes from behind it.
        for (name, value) in &values {
            if let Some(gradient) = gradients.get(value.as_tensor()) {
                found.insert(name.clone(), gradient.clone());
            }
        }
        way.backward(&gradients, &mut found).unwrap();
        let found = found.into_iter().map(|(name, of)| {
            let of = of.to_device(&Device::Cpu).unwrap().flatten_all().unwrap();
            (name, of.to_vec1::<f32>().unwrap())
        });
        found.collect::<BTreeMap<_, _>>()
    };
    let right = go(false, &Device::Cpu);
    assert!(!reads.is_whole() || right.len() == values().len() + 2);
    // A row's product of user and candidate in front, the user's row behind.
    let numbers = right["out"].chunks(wide);
    let of_users = numbers.map(|row| [&row[..1], &row[row.len() - WIDTH..]].concat());
    let (some, none): (Vec<_>, Vec<_>) =
        of_users.partition(|of| of[1..].iter().any(|one| *one != 0.0));
    assert!(some.iter().any(|of| of[0] != 0.0) && !none.is_empty());
    let mut held = vec![("plain loops", go(true, &Device::Cpu))];
    let chosen = choose(DeviceChoice::Auto).unwrap();
    match chosen.no_gpu {
        Some(why) => println!("SKIPPED: kernels were not held against the CPU: {why}"),
        None => held.push(("a GPU", go(false, &chosen.device))),
    }
    for (what, found) in held {
        assert_eq!(found.len(), right.len());
        for (name, right) in &right {
            let of = &found[name];
            assert_eq!(of.len(), right.len(), "{what} {name}");
            let length = |all: &mut dyn Iterator<Item = f32>| {
                all.map(|one| f64::from(one * one)).sum::<f64>().sqrt()
            };
            let apart = length(&mut of.iter().zip(right).map(|(one, other)| one - other));
            let whole = length(&mut right.iter().copied());
            assert!(
                apart <= 1e-5 * whole && (whole > 0.0 || !reads.is_whole()),
                "{what} {name}, {left_out}: off by {apart} of {whole}"
            );
        }
    }
}

/// Goal: the unknown row learns from ids that are left out on purpose, also where every id has a row of its own. Method: a step with half of the ids left out, and one with none.
#[test]
fn who_is_left_out_teaches_the_unknown_row() {
    let (seen, _) = seen(&requests());
    let moved = |rate: f64| {
        let mut table = table();
        let left_out = Dropout {
            rate,
            seed: 3,
            step: 7,
        };
        let rows = Rows::gather(&seen, &table, Some(left_out));
        let gradient = vec![1.0; rows.gathered().values().len()];
        table.step(rows.gathered(), &gradient).unwrap();
        table.snapshot().unknown().iter().any(|one| *one != 0.0)
    };
    assert!(moved(0.5) && !moved(0.0));
}

/// Goal: with counts as weights and no other input this is DIN (Zhou et al. 2018, with this network's activation unit) over every event, none cut off. Method: events one after the
/// other, against keys with DIN's own sum times their counts.
#[test]
fn counts_as_weights_are_din_over_every_event() {
    let mut values = values();
    // An event knows nothing of its kind, stretch or age; a mark gives a factor alone, which is the count by the logarithm's inverse.
    for name in ["kinds", "buckets", "recency", "empty"] {
        let name = format!("dinmp.{name}");
        let zeros = values[&name].zeros_like().unwrap();
        values.insert(name, zeros);
    }
    let bare = network(&values);
    let table = table();
    let events = [(1, 3_u32), (2, 1), (3, 5)];
    let whole: Vec<_> = events.iter().map(|(item, _)| *item).collect();
    let repeated = events
        .iter()
        .flat_map(|(item, count)| std::iter::repeat_n(*item, *count as usize));
    let request = |items: Vec<usize>| {
        let atoms = items.into_iter().map(|item| (item, 0, 0, vec![(0, 1)]));
        vec![(atoms.collect(), vec![6])]
    };
    let (one, rows) = seen(&request(repeated.collect()));
    let looked = Looked::of(&one, &table.snapshot());
    let of = ahead(&bare, &one, &looked, &rows);
    let by_event = bare.pool(&one, &looked, &of, 0);
    let (keyed, rows) = seen(&request(whole));
    let looked = Looked::of(&keyed, &table.snapshot());
    let ahead = ahead(&bare, &keyed, &looked, &rows);
    // By key: the weight of DIN times the count.
    let mut sums = vec![[0.0_f32; WIDTH]; BUCKETS * SIDES];
    for (atom, (_, count)) in keyed.atoms_of(0).iter().zip(events) {
        let (key, candidate) = (
            &looked.vectors[atom.item as usize],
            &looked.vectors[rows[0].item as usize],
        );
        let crossing = bare.crossing(candidate);
        let before = [
            &ahead.keys[atom.item as usize],
            &ahead.rows[0].inner,
            &[0.0; INNER],
        ];
        let inner = (0..INNER).map(|at| {
            let crossed = key.iter().zip(&crossing);
            let crossed: f32 = crossed.map(|(value, line)| value * line[at]).sum();
            before.iter().map(|of| of[at]).sum::<f32>() + crossed
        });
        let weight: f32 = inner
            .zip(&bare.weights.attention)
            .map(|(one, weight)| one / (1.0 + (-one).exp()) * weight)
            .sum::<f32>()
            + bare.weights.attention_bias[0];
        let share = keyed.share(atom.item as usize, rows[0].item as usize);
        for (side, share) in [share, 1.0 - share].into_iter().enumerate() {
            for at in 0..WIDTH {
                sums[side][at] += share * count as f32 * weight * key[at];
            }
        }
    }
    for (found, expected) in by_event.sums.iter().zip(&sums) {
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (found - expected).abs() < 1e-5,
                "{found} where DIN gives {expected}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    /// Goal: who else is in a batch changes nothing, and the order of atoms nothing but rounding. Method: rows alone and together, to the bit; atoms in all orders.
    #[test]
    fn a_row_is_the_same_in_any_company_and_order(order in Just([0_usize, 1, 2, 3]).prop_shuffle(), turn in 0_usize..6) {
        let bare = network(&values());
        let table = table().snapshot();
        let (all, rows) = seen(&requests());
        let outputs = Network::outputs(BUCKETS);
        let found = out(&bare, &all, &Looked::of(&all, &table), &rows);
        let row = rows[turn];
        let (alone, asked) = all.part(&[row]);
        let single = out(&bare, &alone, &Looked::of(&alone, &table), &asked);
        // To the bit.
        prop_assert_eq!(&single, &found[turn * outputs..][..outputs]);
        let mut shuffled = requests();
        shuffled[0].0 = order.map(|place| requests()[0].0[place].clone()).to_vec();
        let (other, rows) = seen(&shuffled);
        let other = out(&bare, &other, &Looked::of(&other, &table), &rows);
        for (one, other) in found.iter().zip(&other) {
            prop_assert!((one - other).abs() < 1e-5, "{} and {} in another order", one, other);
        }
    }
}

/// Goal: of a key's k categories and attributes each that the candidate shares counts 1/k on its side, and the rest on the other; a key without any is not of its kind. Method: how
/// much lies in the two sides of a stretch, for a key of two groups and candidates that share both, one and none of them.
#[test]
fn each_of_k_groups_counts_a_kth() {
    let bare = network(&values());
    let table = table().snapshot();
    let volumes = |key: usize, candidate: usize| {
        let (seen, rows) = seen(&[(vec![(key, 0, 0, vec![(0, 1)])], vec![candidate])]);
        let looked = Looked::of(&seen, &table);
        let ahead = ahead(&bare, &seen, &looked, &rows);
        bare.pool(&seen, &looked, &ahead, 0).volumes[..SIDES].to_vec()
    };
    // 3 is of g0 and g1, 7 of all three, 1 of g0, 4 of g2, 0 of none.
    assert_eq!(volumes(3, 7), [1.0, 0.0]);
    assert_eq!(volumes(3, 1), [0.5, 0.5]);
    assert_eq!(volumes(3, 4), [0.0, 1.0]);
    assert_eq!(volumes(0, 7), [0.0, 1.0]);
}

/// Goal: time, recency, counts, kinds and items are all seen. Method: one of them changed in one atom.
#[test]
fn times_and_counts_and_kinds_matter() {
    let bare = network(&values());
    let table = table().snapshot();
    let out = |change: &dyn Fn(&mut Request)| {
        let mut all = requests();
        change(&mut all[0]);
        let (seen, rows) = seen(&all);
        let out = out(&bare, &seen, &Looked::of(&seen, &table), &rows);
        out[..Network::outputs(BUCKETS)].to_vec()
    };
    let as_it_was = out(&|_| {});
    let changes: [&dyn Fn(&mut Request); 5] = [
        &|request| request.0[1].1 = 2,
        &|request| request.0[1].2 = 50 * HOUR,
        &|request| request.0[1].3 = vec![(1, 2)],
        &|request| request.0[1].3 = vec![(0, 1)],
        &|request| request.0[1].0 = 5,
    ];
    for (place, change) in changes.into_iter().enumerate() {
        assert_ne!(out(change), as_it_was, "change {place} is not seen");
    }
}

/// Goal: an id that nobody knows reads the unknown row, which learns, and is of its categories still. Method: a step that moves all rows, and an item that was never met.
#[test]
fn the_unknown_row_speaks_for_ids_without_one() {
    let mut table = table();
    let (mut seen, _) = seen(&requests());
    let stranger = seen.item(ItemKeys::of("never met", ["g1"]));
    let rows = Rows::gather(&seen, &table, None);
    let gradient = vec![1.0; rows.gathered().values().len()];
    table.step(rows.gathered(), &gradient).unwrap();
    let snapshot = table.snapshot();
    let vector = Looked::of(&seen, &snapshot).vectors[stranger as usize];
    let group = snapshot.row(item(2).groups[0]).unwrap();
    for at in 0..WIDTH {
        assert!((vector[at] - snapshot.unknown()[at] - group[at]).abs() < 1e-6);
        assert!(snapshot.unknown()[at] < 0.0, "it has learned");
    }
}
