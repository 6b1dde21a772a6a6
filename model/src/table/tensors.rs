//! Rows as tensors: how a model's file holds them, where they are few enough to be written whole.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use super::TableError;
use super::key::RowKey;
use super::page::Inserted;
use super::rows::Snapshot;
use super::settings::TableSettings;
use super::training::Table;

/// Whole keys, four numbers each: (rows, 4), u32.
const KEYS: &str = "table.keys";
/// Values, then the sum of squared gradients: (rows + 1, width + 1); the first is the unknown row's.
const ROWS: &str = "table.rows";
/// The hour in which each row was met last, (rows), u32.
const MET: &str = "table.met";

/// Whether tensors of this name are a table's.
pub fn is_of_table(name: &str) -> bool {
    name.starts_with("table.")
}

impl Snapshot {
    /// All rows, in the order of their keys. Counts of ids that have no row yet are not among them.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>, TableError> {
        let width = self.width();
        let mut rows = Vec::with_capacity(self.len());
        for page in &self.rows.pages {
            for (at, (key, met)) in page.keys().iter().zip(page.touched()).enumerate() {
                rows.push((*key, *met, page.row(at, width)));
            }
        }
        rows.sort_unstable_by_key(|(key, ..)| *key);
        let (mut keys, mut values, mut hours) = (Vec::new(), self.rows.unknown.clone(), Vec::new());
        for (key, met, (row, sum)) in rows {
            let parts = key.to_bytes();
            let parts = parts.as_chunks::<4>().0.iter();
            keys.extend(parts.map(|part| u32::from_le_bytes(*part)));
            hours.push(met);
            values.extend_from_slice(row);
            values.push(sum);
        }
        let (count, device) = (hours.len(), Device::Cpu);
        Ok(BTreeMap::from([
            (
                KEYS.to_owned(),
                Tensor::from_vec(keys, (count, 4), &device)?,
            ),
            (
                ROWS.to_owned(),
                Tensor::from_vec(values, (count + 1, width + 1), &device)?,
            ),
            (MET.to_owned(), Tensor::from_vec(hours, count, &device)?),
        ]))
    }
}

impl Table {
    /// The table of such tensors.
    ///
    /// # Errors
    /// Settings out of their range, tensors that are missing, of another shape or do not fit together, rows that the memory cannot hold.
    pub fn of_tensors(
        settings: TableSettings,
        tensors: &BTreeMap<String, Tensor>,
    ) -> Result<Self, TableError> {
        let wrong = |what: &'static str, found: usize, expected: usize| TableError::Length {
            what,
            found,
            expected,
        };
        let of = |name: &str| tensors.get(name).ok_or(wrong("tensors of a table", 0, 3));
        let keys = of(KEYS)?.to_vec2::<u32>()?;
        let rows = of(ROWS)?.to_vec2::<f32>()?;
        let hours = of(MET)?.to_vec1::<u32>()?;
        let width = settings.width + 1;
        if rows.len() != keys.len() + 1 || hours.len() != keys.len() {
            return Err(wrong("rows of a table", rows.len(), keys.len() + 1));
        }
        if let Some(row) = rows.iter().find(|row| row.len() != width) {
            return Err(wrong("numbers of a row", row.len(), width));
        }
        let mut table = Self::new(settings)?;
        if !keys.is_sorted_by(|one, next| key_of(one) < key_of(next)) {
            return Err(wrong("keys of a table in their order", 0, keys.len()));
        }
        let mut rows = rows.into_iter();
        table.set_unknown(rows.next().unwrap_or_default());
        for ((key, row), hour) in keys.iter().zip(rows).zip(hours) {
            let put = key_of(key).map(|key| table.put(key, &row, hour));
            if put != Some(Inserted::New) {
                return Err(wrong("keys of a table that can be put", 0, keys.len()));
            }
        }
        Ok(table)
    }
}

fn key_of(parts: &[u32]) -> Option<RowKey> {
    let parts: [u32; 4] = parts.try_into().ok()?;
    let mut bytes = [0; 16];
    for (to, part) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(parts) {
        *to = part.to_le_bytes();
    }
    Some(RowKey::from_bytes(bytes))
}
