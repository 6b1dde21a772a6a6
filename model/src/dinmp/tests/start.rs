//! What a candidate's text says of its vector: it learns, and tells apart whom nobody knows.

use super::reads::choice;
use super::*;
use crate::dinmp::Way;

/// Goal: what a candidate's text says learns by what comes of it, and of two items that nobody knows the texts tell which is which. Method: differences of some function of all that comes out, of each weight; two unknown items with and
/// without texts.
#[test]
fn an_item_starts_from_its_text() {
    const NUMBERS: usize = 3;
    let reads = choice("text");
    let (mut seen, mut rows) = seen_by(reads, &requests());
    for name in ["one stranger", "another"] {
        let item = seen.item(ItemKeys::of(name, ["g1"]));
        rows.push(Asked { request: 0, item });
    }
    let learning = learning(0.0, reads).with_texts(NUMBERS);
    let texts = Numbers(13).normal(rows.len() * NUMBERS, 1.0);
    let mut values = values();
    let first = learning.random(7).unwrap();
    let first = first
        .into_iter()
        .filter(|(name, _)| [TEXT, TEXT_SCALE].contains(&&**name));
    let go = |values: &BTreeMap<String, Tensor>| {
        let laid = (seen.clone(), rows.clone(), texts.clone());
        let way = learning.forward(values, laid, Some(1), &Device::Cpu);
        way.unwrap()
    };
    let strangers = |way: &Way| {
        let out = way.outputs.to_vec2::<f32>().unwrap();
        [out[rows.len() - 2].clone(), out[rows.len() - 1].clone()]
    };
    values.extend(first);
    let scale = Learning::scale_of(
        &Tensor::from_vec(texts.clone(), (rows.len(), NUMBERS), &Device::Cpu).unwrap(),
    );
    values.insert(TEXT_SCALE.to_owned(), scale.unwrap());
    let [one, other] = strangers(&go(&values));
    assert_eq!(one, other, "nothing is said before it is learned");

    let weights = Numbers(12).normal(NUMBERS * WIDTH, 0.3);
    let with = |weights: Vec<f32>| {
        let mut values = values.clone();
        let start = Tensor::from_vec(weights, (NUMBERS, WIDTH), &Device::Cpu);
        values.insert(TEXT.to_owned(), start.unwrap());
        go(&values)
    };
    let way = with(weights.clone());
    let [one, other] = strangers(&way);
    assert_ne!(one, other);
    let along = Numbers(11).normal(way.outputs.elem_count(), 1.0);
    let along = Tensor::from_vec(along, way.outputs.shape(), &Device::Cpu).unwrap();
    let loss = |way: &Way| (&way.outputs * &along).unwrap().sum_all().unwrap();
    let mut found = BTreeMap::new();
    way.backward(&loss(&way).backward().unwrap(), &mut found)
        .unwrap();
    let found = found[TEXT].flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (at, found) in found.into_iter().enumerate() {
        let moved = |by: f32| {
            let mut weights = weights.clone();
            weights[at] += by;
            loss(&with(weights)).to_scalar::<f32>().unwrap()
        };
        let difference = (moved(0.01) - moved(-0.01)) / 0.02;
        assert!(
            (found - difference).abs() < 0.02 * difference.abs().max(1.0),
            "{at}: {found}, {difference}"
        );
    }
}

/// Goal: texts are read by what tells them apart: much that all have in common, and how far numbers spread, changes nothing. Method: means and spreads of texts, the same ones shifted and stretched, and what comes out by each.
#[test]
fn what_texts_have_in_common_says_nothing() {
    let (seen, rows) = seen(&requests());
    let looked = Looked::of(&seen, &table().snapshot());
    let texts = Numbers(13).normal(rows.len() * 2, 1.0);
    let moved = texts.iter().enumerate();
    let moved = moved.map(|(at, value)| {
        if at % 2 == 0 {
            10.0 + value
        } else {
            7.0 * value
        }
    });
    let moved: Vec<f32> = moved.collect();
    let candidates = |texts: &[f32]| {
        let of = Tensor::from_slice(texts, (rows.len(), 2), &Device::Cpu).unwrap();
        let weights =
            Tensor::from_vec(Numbers(12).normal(2 * WIDTH, 0.3), (2, WIDTH), &Device::Cpu);
        let values = [
            (TEXT.to_owned(), weights.unwrap()),
            (TEXT_SCALE.to_owned(), Learning::scale_of(&of).unwrap()),
        ];
        let start = Start::of(&values.into(), 2, Path::new("here")).unwrap();
        start.candidates(&looked, &rows, texts)
    };
    let (before, after) = (candidates(&texts), candidates(&moved));
    assert_ne!(before, super::candidates(&looked, &rows));
    for (one, other) in before.as_flattened().iter().zip(after.as_flattened()) {
        assert!((one - other).abs() < 1e-3, "{one}, {other}");
    }
}
