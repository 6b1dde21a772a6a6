//! Sums against what lies in the store, and what standardised vectors tell apart.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::store::{Stores, VECTORS};
use crate::vectors::{CurrentEncoder, VectorRecord, VectorTable, vector_bytes};
use crate::{MemoryStores, Timestamp};

fn encoder(number: u8) -> EncoderId {
    EncoderId([number; 16])
}

/// Takes records in at once: which encoder's, which text's, and its vector.
fn apply(table: &VectorTable, offset: i64, records: &[(u8, u8, Option<Vec<f32>>)]) {
    let records: Vec<_> = records
        .iter()
        .map(|(of, text, vector)| {
            let key = VectorKey::Vector(encoder(*of), [*text; 16]).bytes();
            (key, vector.as_deref().map(vector_bytes))
        })
        .collect();
    let records = records.iter().map(|(key, value)| VectorRecord {
        next: (0, offset + 1),
        taken: Timestamp(offset),
        key,
        value: value.as_deref(),
    });
    table.apply(records).unwrap();
}

/// What lies in a store, summed anew.
fn naive(store: &dyn Store, of: u8) -> Option<Spread> {
    let mut sums = Sums::default();
    let prefix = [&[VECTOR][..], &[of; 16]].concat();
    let mut add = |_: &[u8], value: &[u8]| {
        sums.add(&read_vector(value).unwrap());
        true
    };
    store.scan(&prefix, &mut add).unwrap();
    (sums.count > 0).then(|| sums.spread())
}

fn is_same(one: &Spread, other: &Spread) -> bool {
    let near = |one: &[f32], other: &[f32]| {
        let mut pairs = one.iter().zip(other);
        one.len() == other.len()
            && pairs.all(|(one, other)| (one - other).abs() <= 1e-4 * (1.0 + other.abs()))
    };
    near(&one.mean, &other.mean) && near(&one.scale, &other.scale)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Goal: sums are those of the vectors that lie in the store, whatever came twice, was replaced, deleted, or came with the others of a batch; also behind a start, and where a store was written before there were sums. Method: random records of two encoders and
    /// nine texts in random batches, against a sum over the store; the table opened anew; the sums deleted before it is opened again.
    #[test]
    fn sums_are_of_what_lies_there(batches in prop::collection::vec(prop::collection::vec(
        (0_u8..2, 0_u8..9, prop::option::weighted(0.7, prop::collection::vec(-50.0_f32..50.0, 3..=3))), 1..6), 1..12))
    {
        let stores = MemoryStores::default();
        let store = stores.open(VECTORS).unwrap();
        let open = || VectorTable::open(Arc::clone(&store), 1 << 20).unwrap();
        let check = |table: &VectorTable| {
            for of in 0..2 {
                let (found, wanted) = (table.spread(encoder(of)), naive(&*store, of));
                let same = match (&found, &wanted) {
                    (None, None) => true,
                    (Some(found), Some(wanted)) => is_same(found, wanted),
                    _ => false,
                };
                assert!(same, "{found:?}, not {wanted:?}");
            }
        };
        let table = open();
        for (offset, batch) in batches.iter().enumerate() {
            apply(&table, offset as i64, batch);
            check(&table);
        }
        check(&open());
        // A store without sums; one that a build without them has written to.
        let mut gone = Batch::new();
        store.scan(&[MOMENTS], &mut |key, _| {
            gone.push((key.to_vec(), None));
            true
        }).unwrap();
        store.apply(&gone).unwrap();
        check(&open());
        check(&open());
        let bare = VectorTable::bare(Arc::clone(&store), 0).unwrap();
        apply(&bare, 1_000, &batches[0]);
        check(&open());
        check(&open());
    }
}

fn cosine(one: &[f32], other: &[f32]) -> f32 {
    let dot =
        |one: &[f32], other: &[f32]| -> f32 { one.iter().zip(other).map(|(a, b)| a * b).sum() };
    dot(one, other) / (dot(one, one) * dot(other, other)).sqrt()
}

/// Goal: what texts have in common is taken out, and no number drowns the others. Method: vectors of two kinds with a large common part and one number of large deviations that say nothing, put in by the host: cosines of kin and of strangers, bare and standardised; one text alone is all that there is in common; a number
/// that never differs, and vectors that are all the same, give finite numbers.
#[test]
fn kin_and_strangers_are_told_apart() {
    let stores = MemoryStores::default();
    let table = VectorTable::open(stores.open(VECTORS).unwrap(), 1 << 20).unwrap();
    let of = CurrentEncoder {
        id: encoder(1),
        width: 6,
    };
    let vector = |at: u8| {
        let kind = if at.is_multiple_of(2) { 1.0 } else { -1.0 };
        let (noise, loud) = (
            f32::from(u16::from(at) * 37 % 11) / 11.0,
            f32::from(u16::from(at) * 53 % 17) - 8.0,
        );
        vec![
            100.0 + kind,
            50.0 - kind,
            30.0 + noise,
            4.0 * loud,
            -20.0 + kind,
            7.0,
        ]
    };
    let laid = |vector: &[f32]| {
        let mut to = vec![9.0];
        table.spread(of.id).unwrap().standardise(vector, &mut to);
        assert!(to.iter().all(|value| value.is_finite()), "{to:?}");
        to
    };
    assert!(table.spread(of.id).is_none());
    table.insert(of, &[([0; 16], vector(0))]).unwrap();
    assert_eq!(laid(&vector(0)), [0.0; 6]);
    let all: Vec<_> = (0..200).map(|at| ([at; 16], vector(at))).collect();
    for part in all.chunks(70) {
        table.insert(of, part).unwrap();
    }
    let kin = |of: &dyn Fn(u8) -> Vec<f32>| {
        let sum: f32 = (0..100).map(|one| cosine(&of(one), &of(one + 100))).sum();
        sum / 100.0
    };
    let strangers = |of: &dyn Fn(u8) -> Vec<f32>| {
        let sum: f32 = (0..99).map(|one| cosine(&of(one), &of(one + 101))).sum();
        sum / 99.0
    };
    assert!(kin(&vector) - strangers(&vector) < 0.01);
    let standardised = |at: u8| laid(&vector(at));
    let (kin, strangers) = (kin(&standardised), strangers(&standardised));
    assert!(kin > 0.4 && strangers < -0.4, "{kin} {strangers}");
    let mut to = Vec::new();
    table.spread(of.id).unwrap().standardise(&[1.0], &mut to);
    assert!(to.is_empty(), "another width");
    let same = VectorTable::open(MemoryStores::default().open(VECTORS).unwrap(), 1 << 20).unwrap();
    same.insert(of, &[([1; 16], vec![0.0; 6]), ([2; 16], vec![0.0; 6])])
        .unwrap();
    same.spread(of.id).unwrap().standardise(&[1.0; 6], &mut to);
    assert_eq!(to, [0.0; 6]);
}

/// Goal: sums of what cannot be read are counted anew. Method: a stored vector is spoilt and put again; the table is opened anew. A vector of another width counts for nothing.
#[test]
fn damage_is_counted_anew() {
    let stores = MemoryStores::default();
    let store = stores.open(VECTORS).unwrap();
    let open = || VectorTable::open(Arc::clone(&store), 1 << 20).unwrap();
    let table = open();
    let vector = |number: f32| Some(vec![number, 1.0, -number]);
    apply(&table, 0, &[(0, 1, vector(3.0)), (0, 2, vector(5.0))]);
    let key = VectorKey::Vector(encoder(0), [1; 16]).bytes();
    store.apply(&vec![(key, Some(vec![9]))]).unwrap();
    apply(&table, 1, &[(0, 1, vector(4.0))]);
    apply(&table, 2, &[(0, 3, vector(-2.0))]);
    let found = open().spread(encoder(0)).unwrap();
    assert!(is_same(&found, &naive(&*store, 0).unwrap()), "{found:?}");
    apply(&table, 3, &[(0, 4, Some(vec![7.0]))]);
    let found = table.spread(encoder(0)).unwrap();
    assert_eq!(found.mean.len(), 3);
}
