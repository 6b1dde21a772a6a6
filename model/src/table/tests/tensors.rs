//! A table as tensors, and back.

use super::*;

/// Goal: a table that was written as tensors is the same table, and goes on as the same. Method: rows that were met and moved, written and read, and one more step of
/// both; tensors that do not fit together are refused.
#[test]
fn tensors_hold_a_whole_table() {
    let settings = settings();
    let mut table = Table::new(settings).unwrap();
    let keys: Vec<RowKey> = (0..300_u32)
        .map(|id| RowKey::of(format!("some longer id {id}").as_bytes()))
        .collect();
    table.meet(&keys[..200], 3, |_| None).unwrap();
    table.meet(&keys[150..], 9, |_| None).unwrap();
    let step = |table: &mut Table| {
        let gathered = table.gather(&keys, None);
        let gradients: Vec<f32> = (0..gathered.values().len())
            .map(|at| (at % 7) as f32 - 3.0)
            .collect();
        table.step(&gathered, &gradients).unwrap();
        table.snapshot().tensors().unwrap()
    };
    let written = step(&mut table);
    let mut read = Table::of_tensors(settings, &written).unwrap();
    assert_eq!(read.len(), 300);
    let bytes = |tensors| crate::language::to_safetensors(&tensors).unwrap();
    assert!(bytes(read.snapshot().tensors().unwrap()) == bytes(written.clone()));
    assert!(bytes(step(&mut read)) == bytes(step(&mut table)));
    for name in written.keys() {
        let mut short = written.clone();
        let tensor = short.remove(name).unwrap();
        assert!(
            Table::of_tensors(settings, &short).is_err(),
            "{name} is missing"
        );
        let rows = tensor.dim(0).unwrap() - 1;
        short.insert(name.clone(), tensor.narrow(0, 0, rows).unwrap());
        assert!(
            Table::of_tensors(settings, &short).is_err(),
            "{name} is short"
        );
    }
    let mut turned = written.clone();
    let rows = turned["table.keys"].dim(0).unwrap() as u32;
    let order: Vec<u32> = (0..rows).rev().collect();
    let order = candle_core::Tensor::from_vec(order, rows as usize, &candle_core::Device::Cpu);
    let keys = turned["table.keys"].index_select(&order.unwrap(), 0);
    turned.insert("table.keys".to_owned(), keys.unwrap());
    assert!(Table::of_tensors(settings, &turned).is_err());
}

/// Goal: a full table takes no more of a model's file than of memory, so whoever bounds the one bounds the other. Method: more ids than there is room for; bytes of the tensors.
#[test]
fn a_full_table_is_no_larger_as_tensors() {
    for width in [3, 16] {
        let settings = TableSettings {
            width,
            memory: 1 << 17,
            ..settings()
        };
        let mut table = Table::new(settings).unwrap();
        table.meet(&super::keys(0..20_000), 0, |_| None).unwrap();
        assert!(table.len() < 20_000);
        let tensors = table.snapshot().tensors().unwrap();
        let bytes: usize = tensors.values().map(|of| of.elem_count() * 4).sum();
        let most = usize::try_from(settings.memory).unwrap();
        assert!(bytes <= most && bytes > most / 2, "{bytes} of {most}");
    }
}
