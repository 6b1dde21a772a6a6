//! The table of vectors: what is stored, what is remembered, and what another encoder changes.

use crate::MemoryStores;
use crate::store::{Stores, VECTORS};

use super::*;

const ENCODER: CurrentEncoder = CurrentEncoder {
    id: EncoderId([7; 16]),
    width: 4,
};

/// Between two offsets of these tests.
const HOUR_MS: i64 = 3_600_000;

fn text(number: u8) -> TextHash {
    [number; 16]
}

fn announce(table: &VectorTable, offset: i64, current: CurrentEncoder) {
    let (key, value) = (VectorKey::Current.bytes(), current.bytes());
    let record = VectorRecord {
        next: (0, offset + 1),
        taken: Timestamp(offset * HOUR_MS),
        key: &key,
        value: Some(&value),
    };
    table.apply([record]).unwrap();
}

fn put(table: &VectorTable, next: (i32, i64), of: TextHash, vector: Option<&[f32]>) {
    let key = VectorKey::Vector(ENCODER.id, of).bytes();
    let value = vector.map(vector_bytes);
    let record = VectorRecord {
        next,
        taken: Timestamp(next.1 * HOUR_MS),
        key: &key,
        value: value.as_deref(),
    };
    table.apply([record]).unwrap();
}

fn vector(number: u8) -> [f32; 4] {
    [f32::from(number), -0.5, 1.5, 0.0]
}

/// Goal: a vector comes back as it was written, to the precision of 16 bits, and damage is found. Method: round trips; every bit of a
/// value turned; keys of all kinds.
#[test]
fn values_are_read_back_and_damage_is_found() {
    let bytes = vector_bytes(&[1.0, -2.5, 70_000.0, 1e-3]);
    let back = read_vector(&bytes).unwrap();
    assert_eq!(&back[..3], [1.0, -2.5, half::f16::MAX.to_f32()]);
    assert!((back[3] - 1e-3).abs() < 1e-6);
    for bit in 0..8 * bytes.len() {
        let mut spoilt = bytes.clone();
        spoilt[bit / 8] ^= 1 << (bit % 8);
        assert!(read_vector(&spoilt).is_err(), "bit {bit}");
    }
    assert!(read_vector(&vector_bytes(&[f32::NAN])).is_err());
    for key in [
        VectorKey::Current,
        VectorKey::Used(ENCODER.id),
        VectorKey::Vector(ENCODER.id, text(3)),
    ] {
        assert_eq!(VectorKey::read(&key.bytes()), Ok(key));
    }
    assert!(read_use(&use_bytes()).is_ok() && read_use(b"").is_err());
    for key in [&b""[..], b"x", b"e1", b"u", b"u12", b"v123"] {
        assert_eq!(VectorKey::read(key), Err(Damage::Key));
    }
    assert_eq!(CurrentEncoder::read(&ENCODER.bytes()), Ok(ENCODER));
    assert!(CurrentEncoder::read(&[2, 0]).is_err());
}

/// Goal: what was taken in is there after a restart, with the positions; what is not there is a miss until it comes. Method: two tables
/// over one store.
#[test]
fn a_table_goes_on_where_it_was() {
    let stores = MemoryStores::default();
    let open = || VectorTable::open(stores.open(VECTORS).unwrap(), 1 << 20).unwrap();
    let table = open();
    put(&table, (1, 5), text(1), Some(&vector(1)));
    assert_eq!(table.current(), None);
    announce(&table, 8, ENCODER);
    assert_eq!(
        table.look(ENCODER, &text(1)).unwrap(),
        Looked::Hit(vector(1).to_vec().into())
    );
    assert_eq!(table.look(ENCODER, &text(2)).unwrap(), Looked::Miss);
    put(&table, (0, 10), text(2), Some(&vector(2)));
    assert_eq!(
        table.look(ENCODER, &text(2)).unwrap(),
        Looked::Hit(vector(2).to_vec().into())
    );
    drop(table);
    let table = open();
    assert_eq!(table.current(), Some(ENCODER));
    assert_eq!(table.positions(), BTreeMap::from([(0, 10), (1, 5)]));
    assert!(matches!(
        table.look(ENCODER, &text(2)).unwrap(),
        Looked::Hit(_)
    ));
    assert!(table.has(ENCODER.id, &text(2)).unwrap());
    put(&table, (0, 11), text(2), None);
    assert_eq!(table.look(ENCODER, &text(2)).unwrap(), Looked::Miss);
    assert!(!table.has(ENCODER.id, &text(2)).unwrap());
}

/// Goal: a text's vector is that of the encoder that is asked for, whichever was announced, and none where that has none; how wide an encoder's vectors are is known of any that has some.
/// Method: two encoders with vectors of one text, of different widths, announced in turn; a third that has none, and then one.
#[test]
fn encoders_do_not_mix() {
    let stores = MemoryStores::default();
    let open = || VectorTable::open(stores.open(VECTORS).unwrap(), 1 << 20).unwrap();
    let table = open();
    let of = |byte: u8, width: u16| CurrentEncoder {
        id: EncoderId([byte; 16]),
        width,
    };
    let (other, third) = (of(8, 3), of(9, 2));
    let mut next = 2;
    let mut take = |encoder: CurrentEncoder, number: u8, vector: Option<&[f32]>| {
        let key = VectorKey::Vector(encoder.id, text(number)).bytes();
        let value = vector.map(vector_bytes);
        next += 1;
        let record = VectorRecord {
            next: (0, next),
            taken: Timestamp(0),
            key: &key,
            value: value.as_deref(),
        };
        table.apply([record]).unwrap();
    };
    let hit = |numbers: &[f32]| Looked::Hit(numbers.into());
    take(ENCODER, 1, Some(&vector(1)));
    take(other, 1, Some(&[7.0; 3]));
    assert_eq!(table.encoder(third.id).unwrap(), None);
    for announced in [ENCODER, other, ENCODER] {
        announce(&table, 0, announced);
        assert_eq!(table.current(), Some(announced));
        assert_eq!(table.look(ENCODER, &text(1)).unwrap(), hit(&vector(1)));
        assert_eq!(table.look(other, &text(1)).unwrap(), hit(&[7.0; 3]));
        assert_eq!(table.look(third, &text(1)).unwrap(), Looked::Miss);
        for encoder in [ENCODER, other] {
            assert_eq!(table.encoder(encoder.id).unwrap(), Some(encoder));
        }
    }
    // As somebody says who knows another.
    assert_eq!(table.look(of(8, 4), &text(1)).unwrap(), Looked::Miss);
    assert_eq!(open().look(of(8, 4), &text(1)).unwrap(), Looked::Miss);
    take(third, 1, Some(&[1.0, 2.0]));
    assert_eq!(table.encoder(third.id).unwrap(), Some(third));
    assert_eq!(open().encoder(third.id).unwrap(), Some(third));
    assert_eq!(table.look(third, &text(1)).unwrap(), hit(&[1.0, 2.0]));
    take(other, 1, None);
    assert_eq!(table.look(other, &text(1)).unwrap(), Looked::Miss);
    assert_eq!(table.look(ENCODER, &text(1)).unwrap(), hit(&vector(1)));
}

/// Goal: memory is bounded, and nothing is lost by it. Method: more vectors than fit, looked up in a circle.
#[test]
fn memory_is_bounded() {
    let stores = MemoryStores::default();
    let memory = 40 * (16 + VECTOR_BYTES);
    let table = VectorTable::open(stores.open(VECTORS).unwrap(), memory as u64).unwrap();
    announce(&table, 0, ENCODER);
    for number in 0..200 {
        put(
            &table,
            (0, 2 + i64::from(number)),
            text(number),
            Some(&vector(number)),
        );
        assert!(table.memory() <= memory, "{}", table.memory());
    }
    for number in 0..200 {
        let Looked::Hit(found) = table.look(ENCODER, &text(number)).unwrap() else {
            panic!("{number} is lost");
        };
        assert_eq!(*found, vector(number));
        assert!(table.memory() <= memory, "{}", table.memory());
    }
}

/// Goal: a damaged vector is never given, is told of once, and is whole again when it comes again. Method: turn a byte in the store.
#[test]
fn damage_is_told_and_mended() {
    let stores = MemoryStores::default();
    let store = stores.open(VECTORS).unwrap();
    let open = || VectorTable::open(stores.open(VECTORS).unwrap(), 0).unwrap();
    let table = open();
    announce(&table, 0, ENCODER);
    put(&table, (0, 2), text(1), Some(&vector(1)));
    let key = VectorKey::Vector(ENCODER.id, text(1)).bytes();
    let mut value = store.get(&key).unwrap().unwrap();
    value[3] ^= 1;
    store.apply(&vec![(key, Some(value))]).unwrap();
    let table = open();
    assert!(table.look(ENCODER, &text(1)).is_err());
    assert!(table.was_damaged());
    assert!(!table.was_damaged());
    put(&table, (0, 2), text(1), Some(&vector(1)));
    assert!(matches!(
        table.look(ENCODER, &text(1)).unwrap(),
        Looked::Hit(_)
    ));
}

/// Goal: an encoder is unused when another has been the current one for long, and it had no new vector for long; not while it is made ready; and it is forgotten with its
/// last vector; all of it after a restart too. Method: two encoders in turn, an hour between records.
#[test]
fn unused_encoders_are_told() {
    let stores = MemoryStores::default();
    let open = || VectorTable::open(stores.open(VECTORS).unwrap(), 1 << 20).unwrap();
    let other = CurrentEncoder {
        id: EncoderId([9; 16]),
        width: 4,
    };
    let table = open();
    let at = |hour: i64| Timestamp(hour * HOUR_MS);
    announce(&table, 0, ENCODER);
    put(&table, (0, 2), text(1), Some(&vector(1)));
    put(&table, (0, 3), text(2), Some(&vector(2)));
    let key = VectorKey::Vector(other.id, text(1)).bytes();
    let value = vector_bytes(&vector(1));
    let record = VectorRecord {
        next: (0, 10),
        taken: at(10),
        key: &key,
        value: Some(&value),
    };
    table.apply([record]).unwrap();
    // The other is made ready: it is not the current one, and new.
    assert!(table.unused_since(at(9)).is_empty());
    announce(&table, 20, other);
    for table in [table, open()] {
        // In use until the twentieth hour, though its newest vector is of the third.
        assert!(table.unused_since(at(15)).is_empty());
        assert_eq!(table.unused_since(at(21)), [ENCODER.id]);
    }
    // A model that was trained on its vectors scores on.
    let table = open();
    let key = VectorKey::Used(ENCODER.id).bytes();
    let used = VectorRecord {
        next: (0, 25),
        taken: at(25),
        key: &key,
        value: Some(&use_bytes()),
    };
    used.check().unwrap();
    table.apply([used]).unwrap();
    for table in [table, open()] {
        assert!(table.unused_since(at(24)).is_empty());
        assert_eq!(table.unused_since(at(26)), [ENCODER.id]);
    }
    let table = open();
    let all = |_: &TextHash| true;
    let first = |text: &TextHash| text[0] == 1;
    assert_eq!(table.keys_of(ENCODER.id, 9, &all).unwrap().len(), 2);
    assert_eq!(table.keys_of(ENCODER.id, 1, &all).unwrap().len(), 1);
    let keys = table.keys_of(ENCODER.id, 9, &first).unwrap();
    assert_eq!(keys, [VectorKey::Vector(ENCODER.id, text(1)).bytes()]);
    put(&table, (0, 30), text(1), None);
    put(&table, (0, 31), text(2), None);
    assert_eq!(table.unused_since(at(40)), [ENCODER.id]);
    assert!(table.keys_of(ENCODER.id, 9, &all).unwrap().is_empty());
    assert!(table.unused_since(at(40)).is_empty());
    assert!(open().unused_since(at(40)).is_empty());
    assert!(matches!(
        table.look(other, &text(1)).unwrap(),
        Looked::Hit(_)
    ));
}
