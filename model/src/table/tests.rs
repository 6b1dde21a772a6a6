//! Tables against a plain map, and what is promised of keys, pages, counts and steps.

use proptest::prelude::*;

use super::*;

mod disk;
mod keys;
mod learning;
mod measured;
mod naive;
mod tensors;

/// A small table that admits at once, has room, and forgets nobody.
fn settings() -> TableSettings {
    TableSettings {
        width: 3,
        seed: 11,
        memory: 1 << 20,
        admission: Admission {
            count: 1,
            counters: 1 << 12,
            window: 1 << 40,
        },
        expiry: None,
        learning: Adagrad {
            rate: 0.1,
            epsilon: 1e-8,
            start: 0.0,
            memory: 0.9,
        },
        spread: 0.05,
    }
}

/// Settings with room for so many rows.
fn room(rows: u64) -> TableSettings {
    let settings = settings();
    TableSettings {
        memory: rows * settings.bytes_of_row(),
        ..settings
    }
}

fn key(id: u32) -> RowKey {
    RowKey::of(format!("i{id}").as_bytes())
}

fn keys(ids: impl IntoIterator<Item = u32>) -> Vec<RowKey> {
    ids.into_iter().map(key).collect()
}

/// A table that has met these ids, each in a batch of its own.
fn met(settings: TableSettings, ids: impl IntoIterator<Item = u32>) -> Table {
    let mut table = Table::new(settings).unwrap();
    for id in ids {
        table.meet(&[key(id)], id % 5, |_| None).unwrap();
    }
    table
}

/// All of a snapshot as bits: by pages, rows with sum and hour; the unknown row.
fn bits(snapshot: &Snapshot) -> (Vec<Vec<u8>>, Vec<u32>, Vec<u8>) {
    let pages = snapshot.rows.pages.iter().map(|page| {
        let mut bytes = Vec::new();
        page.encode(&mut bytes);
        bytes
    });
    let unknown = snapshot.rows.unknown.iter().map(|one| one.to_bits());
    let counts = snapshot.counting.encode();
    (pages.collect(), unknown.collect(), counts)
}

/// Gathers, and steps against gradients that follow from ids: one for each position.
fn learn(table: &mut Table, keys: &[RowKey], dropout: Option<Dropout>, scale: f32) -> Stepped {
    let gathered = table.gather(keys, dropout);
    let width = table.settings().width;
    let numbers = (0..keys.len() * width).map(|at| scale * ((at % 7) as f32 - 2.5));
    let gradients = gathered.summed(&numbers.collect::<Vec<_>>()).unwrap();
    table.step(&gathered, &gradients).unwrap()
}
