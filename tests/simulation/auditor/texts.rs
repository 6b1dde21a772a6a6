//! Texts: what rows needed was asked for, has its vector, no more often than it was asked for, and every instance finds it.

use std::collections::{BTreeMap, BTreeSet};

use headwater_config::{Delivery, Topic};
use headwater_consumers::log::Log;
use headwater_model::language::text_hash;
use headwater_state::{Looked, VectorKey, VectorTable, read_vector};
use serde_json::Value;

use super::read_all;
use crate::texts::{ENCODER, vector_of};
use crate::workload::Plan;

/// Judges the topics, and the tables of those who are there at the end.
pub(crate) fn judge<'a>(
    log: &dyn Log,
    plan: &Plan,
    tables: impl Iterator<Item = &'a VectorTable>,
) -> Result<(), String> {
    // An item's text is its id here.
    let mut asked: BTreeMap<String, usize> = BTreeMap::new();
    for seen in read_all(log, Topic::Texts)? {
        let text = String::from_utf8(seen.value.unwrap_or_default()).unwrap_or_default();
        if seen.key != text_hash(&text) {
            return Err(format!("text {text:?} has the key {:?}", seen.key));
        }
        *asked.entry(text).or_default() += 1;
    }
    let mut described: BTreeSet<String> = BTreeSet::new();
    for seen in read_all(log, Topic::Items)? {
        described.insert(String::from_utf8_lossy(&seen.key).into_owned());
    }
    // At least once, rows of steps that failed are there too, and what they asked for is not.
    let exactly = plan.config.kafka.delivery == Delivery::ExactlyOnce;
    for seen in read_all(log, Topic::FeatureLog)?
        .into_iter()
        .filter(|_| exactly)
    {
        let row: Value = serde_json::from_slice(&seen.value.unwrap_or_default())
            .map_err(|error| format!("a row: {error}"))?;
        for candidate in row["candidates"].as_array().into_iter().flatten() {
            let item = candidate["item_id"].as_str().unwrap_or_default();
            if described.contains(item) && !asked.contains_key(item) {
                return Err(format!("nobody asked for the text of {item}"));
            }
        }
    }
    let mut made: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    let texts: BTreeMap<[u8; 16], &str> = asked
        .keys()
        .map(|text| (text_hash(text), text.as_str()))
        .collect();
    for seen in read_all(log, Topic::Embeddings)? {
        let key = VectorKey::read(&seen.key).map_err(|error| format!("{error}"))?;
        let VectorKey::Vector(encoder, hash) = key else {
            continue;
        };
        let text = texts
            .get(&hash)
            .ok_or_else(|| format!("a vector that nobody asked for: {key:?}"))?;
        let vector = read_vector(&seen.value.unwrap_or_default());
        let vector = vector.map_err(|error| format!("{error}"))?;
        if encoder != ENCODER.id || vector != vector_of(text) {
            return Err(format!("{text:?} has the vector {vector:?} of {encoder}"));
        }
        let times = made.entry(hash.to_vec()).or_default();
        *times += 1;
        if *times > asked[*text] {
            return Err(format!(
                "{text:?} was asked for {} times and has {times} vectors",
                asked[*text]
            ));
        }
    }
    if let Some((_, text)) = texts.iter().find(|(hash, _)| !made.contains_key(&hash[..])) {
        return Err(format!("{text:?} was asked for and has no vector"));
    }
    for table in tables {
        for (hash, text) in &texts {
            match table.look(ENCODER, hash) {
                Ok(Looked::Hit(vector)) if *vector == vector_of(text) => {}
                // Of a disk that turned a bit: told, not given.
                Err(headwater_state::Error::Damaged { .. }) => {}
                other => return Err(format!("{text:?} is {other:?} in the table {table:?}")),
            }
        }
    }
    Ok(())
}
