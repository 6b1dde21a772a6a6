//! What is left out of what is read: it is not seen, and what there is instead of it.

use super::*;

/// Everything, without each part, without several, and without all of them.
pub(super) fn choices() -> Vec<(&'static str, Reads)> {
    let whole = Reads::default();
    let bare = Reads {
        newest: None,
        counts: false,
        attention: false,
        time: false,
        category: false,
        text: false,
        products: false,
        self_attention: false,
    };
    let without = |leave: fn(&mut Reads)| {
        let mut reads = whole;
        leave(&mut reads);
        reads
    };
    vec![
        ("whole", whole),
        ("newest", without(|of| of.newest = Some(2))),
        ("counts", without(|of| of.counts = false)),
        ("attention", without(|of| of.attention = false)),
        ("time", without(|of| of.time = false)),
        ("category", without(|of| of.category = false)),
        ("interactions", without(|of| of.products = false)),
        ("self-attention", without(|of| of.self_attention = true)),
        ("text", without(|of| of.text = true)),
        (
            "self-attention alone",
            without(|of| (of.products, of.self_attention) = (false, true)),
        ),
        ("all", bare),
    ]
}

pub(super) fn choice(wanted: &str) -> Reads {
    let mut choices = choices().into_iter();
    choices.find(|(name, _)| *name == wanted).unwrap().1
}

/// Goal: what is left out changes nothing that comes out, and all else does. Method: stretch, age, count, kind and item of one atom changed, and what lies behind the newest two items, without each part.
#[test]
fn what_is_left_out_is_not_seen() {
    let table = table().snapshot();
    let changes: [fn(&mut Request); 6] = [
        |request| request.0[1].1 = 2,
        |request| request.0[1].2 = 20 * HOUR,
        |request| request.0[1].3 = vec![(1, 2)],
        |request| request.0[1].3 = vec![(0, 1)],
        |request| request.0[1].0 = 5,
        |request| request.0[3].0 = 6,
    ];
    let seen_of = [
        ("whole", [true; 6]),
        ("newest", [true, true, true, true, true, false]),
        ("counts", [true, true, false, false, true, true]),
        ("attention", [true; 6]),
        ("time", [false, false, true, true, true, true]),
        ("category", [true; 6]),
        ("interactions", [true; 6]),
        ("self-attention", [true; 6]),
        ("self-attention alone", [true; 6]),
        ("all", [false, false, false, false, true, true]),
    ];
    for (what, seen) in seen_of {
        let reads = choice(what);
        let bare = network_of(reads, &values_of(reads));
        let changed = |change: &dyn Fn(&mut Request)| {
            let mut all = requests();
            change(&mut all[0]);
            let (seen, rows) = seen_by(reads, &all);
            let out = out(&bare, &seen, &Looked::of(&seen, &table), &rows);
            out[..Network::outputs(BUCKETS)].to_vec()
        };
        let as_it_was = changed(&|_| {});
        for (place, change) in changes.into_iter().enumerate() {
            assert_eq!(
                changed(&change) != as_it_was,
                seen[place],
                "{what}, {place}"
            );
        }
    }
}

/// Goal: an item of several stretches is one where there is no time, with all of its events; the newest items are those of the newest events, with all that they have. Method: atoms of two requests.
#[test]
fn atoms_are_laid_out_as_they_are_read() {
    let told = |reads: Reads| {
        let (seen, _) = seen_by(reads, &requests()[..1]);
        let atoms = seen.atoms_of(0).iter();
        let atoms = atoms.map(|atom| (atom.item, seen.marks()[atom.mark as usize].clone()));
        atoms.collect::<Vec<_>>()
    };
    let timeless = |item, counts: &[(u8, u32)]| {
        let mark = Mark {
            bucket: 0,
            recency: 0,
            counts: counts.to_vec(),
        };
        (item, mark)
    };
    let expected = [
        timeless(0, &[(0, 8), (2, 3)]),
        timeless(1, &[(1, 1)]),
        timeless(2, &[(2, 1)]),
    ];
    assert_eq!(told(choice("time")), expected);
    let whole = told(Reads::default());
    assert_eq!(told(choice("newest")), whole[..3]);
    let all = told(choice("all"));
    assert_eq!(all, [0, 1, 2].map(|item| timeless(item, &[])));
    // Of equals those that were told last.
    let newest = Reads {
        newest: Some(2),
        ..Reads::default()
    };
    let of = |item| (item, 0, HOUR, vec![(0, 1)]);
    let (seen, _) = seen_by(newest, &[((1..5).map(of).collect(), vec![])]);
    let items: Vec<u32> = seen.atoms_of(0).iter().map(|atom| atom.item).collect();
    assert_eq!(items, [2, 3]);
}

/// Goal: where nothing tells atoms apart, each weighs 1; what is left out of the network does not learn, and all else does. Method: the sums of a request beside those of its items' vectors, from first values; which
/// gradients there are, and of which empty buckets.
#[test]
fn what_is_left_out_does_not_learn() {
    let table = table().snapshot();
    for (what, reads) in choices() {
        let mut learning = learning(0.0, reads);
        let values = learning.random(7).unwrap();
        let (seen, rows) = seen_by(reads, &requests());
        if what == "all" {
            let bare = network_of(reads, &values);
            let looked = Looked::of(&seen, &table);
            let ahead = ahead(&bare, &seen, &looked, &rows);
            let pooled = bare.pool(&seen, &looked, &ahead, 0);
            for at in 0..WIDTH {
                let sum: f32 = (0..3).map(|item| looked.vectors[item][at]).sum();
                assert!((pooled.sums[1][at] - sum).abs() < 1e-6);
            }
            assert_eq!(pooled.volumes, [0.0, 3.0, 0.0, 0.0, 0.0, 0.0]);
        }
        let met = seen.met(&rows, &vec![0; rows.len()]);
        learning.meet(&seen, &met).unwrap();
        let (seen, rows) = seen.part(&rows);
        let laid = (seen, rows, Vec::new());
        let way = learning.forward(&values, laid, Some(1), &Device::Cpu);
        let way = way.unwrap();
        let weights = Numbers(11).normal(way.outputs.elem_count(), 1.0);
        let weights = Tensor::from_vec(weights, way.outputs.shape(), &Device::Cpu).unwrap();
        let loss = (&way.outputs * weights).unwrap().sum_all().unwrap();
        let mut found = BTreeMap::new();
        way.backward(&loss.backward().unwrap(), &mut found).unwrap();
        let held: &[&str] = match what {
            "attention" => &["key", "candidate", "product"],
            "all" => &["key", "candidate", "product", "attention", "attention_bias"],
            _ => &[],
        };
        for name in values.keys() {
            let is_held = held.iter().any(|held| *name == format!("dinmp.{held}"));
            assert_eq!(found.contains_key(name), !is_held, "{what}: {name}");
        }
        let empty = found["dinmp.empty"].to_vec2::<f32>().unwrap();
        let learns = empty.iter().map(|of| of.iter().any(|of| *of != 0.0));
        let expected = match what {
            "time" => [true, true, false, false, false, false],
            "category" => [false, true, false, true, false, true],
            "all" => [false, true, false, false, false, false],
            _ => [true; 6],
        };
        assert_eq!(learns.collect::<Vec<_>>(), expected, "{what}");
    }
}

/// Goal: self-attention takes nothing in before it has learned to, and all else begins as without it. Method: first values with and without it, and what comes out by them.
#[test]
fn self_attention_begins_with_nothing() {
    let [with, without] = ["self-attention", "whole"].map(choice);
    let [values, before] =
        [with, without].map(|reads| Network::random((KINDS, BUCKETS), reads, 7).unwrap());
    let (seen, rows) = seen(&requests());
    let looked = Looked::of(&seen, &table().snapshot());
    let out = |reads, values| out(&network_of(reads, values), &seen, &looked, &rows);
    assert_eq!(out(with, &values), out(without, &before));
    let more = values.keys().filter(|name| !before.contains_key(*name));
    let more: Vec<&str> = more.map(String::as_str).collect();
    let expected = ["dinmp.among", "dinmp.among_places", "dinmp.among_values"];
    assert_eq!(more, expected);
}
