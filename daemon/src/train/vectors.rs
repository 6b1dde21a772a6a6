//! Vectors of texts: those that are known from an earlier run, and those that the shallow layers make now.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use headwater_model::language::TextEncoder;

use crate::progress::Progress;

use super::TrainError;
use super::artifact::ArtifactError;
use super::rows::{Recorded, tensor};

/// Tokens of a batch, with padding.
const TOKENS_MAX: usize = 2_048;
/// Texts between two writes.
const CHUNK: usize = 1_024;
/// Bytes of a content hash.
const KEY_BYTES: usize = 32;

/// Makes the vectors of all texts, and keeps them in `file` as they come: a run that is cut off loses a chunk at most. The answer is how many were made now.
pub(super) fn fill(
    encoder: &TextEncoder,
    recorded: &mut Recorded,
    file: &Path,
    progress: bool,
) -> Result<usize, TrainError> {
    let width = encoder.width();
    let io = |source| ArtifactError::Io {
        path: file.to_owned(),
        source,
    };
    let mut known = read(file, width).map_err(io)?;
    let keys: Vec<[u8; KEY_BYTES]> = recorded
        .texts
        .iter()
        .map(|text| encoder.key(text))
        .collect();
    let mut missing = Vec::new();
    for (key, text) in keys.iter().zip(&recorded.texts) {
        if !known.contains_key(key) {
            // Two texts that differ in white space alone are one.
            known.insert(*key, Vec::new());
            missing.push((*key, text.as_str()));
        }
    }
    // Of one length side by side in a chunk, or padding would be most of the work.
    missing.sort_by_key(|(key, text)| (text.len(), *key));
    let mut out = OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)
        .map_err(io)?;
    let bar = Progress::new(Some(missing.len() as u64), progress);
    let mut done = 0;
    for chunk in missing.chunks(CHUNK) {
        let texts: Vec<&str> = chunk.iter().map(|(_, text)| *text).collect();
        let vectors = encoder.encode(&texts, TOKENS_MAX)?;
        let mut bytes = Vec::with_capacity(chunk.len() * record_bytes(width));
        for ((key, _), vector) in chunk.iter().zip(vectors) {
            let from = bytes.len();
            bytes.extend_from_slice(key);
            for value in &vector {
                bytes.extend_from_slice(&value.to_le_bytes());
            }
            let sum = crc32fast::hash(&bytes[from..]);
            bytes.extend_from_slice(&sum.to_le_bytes());
            known.insert(*key, vector);
        }
        out.write_all(&bytes).map_err(io)?;
        done += chunk.len();
        bar.at(done as u64, done as u64);
    }
    bar.finish();
    let mut flat = Vec::with_capacity(keys.len() * width);
    for key in &keys {
        flat.extend_from_slice(&known[key]);
    }
    recorded.corpus.vectors = tensor(flat, (keys.len(), width))?;
    Ok(missing.len())
}

/// A hash, its vector, and a checksum over both.
fn record_bytes(width: usize) -> usize {
    KEY_BYTES + 4 * width + 4
}

/// What an earlier run wrote; a torn tail is cut off, so that what is appended can be found again.
fn read(
    file: &Path,
    width: usize,
) -> std::io::Result<std::collections::BTreeMap<[u8; KEY_BYTES], Vec<f32>>> {
    let mut known = std::collections::BTreeMap::new();
    let mut bytes = Vec::new();
    match File::open(file) {
        Ok(mut file) => file.read_to_end(&mut bytes)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(known),
        Err(error) => return Err(error),
    };
    let mut whole = 0;
    for record in bytes.chunks_exact(record_bytes(width)) {
        let (content, sum) = record.split_at(record.len() - 4);
        if crc32fast::hash(content).to_le_bytes() != *sum {
            break;
        }
        let (key, values) = content.split_at(KEY_BYTES);
        let values = values.as_chunks::<4>().0;
        let key = key.try_into().expect("invariant: split so");
        known.insert(
            key,
            values
                .iter()
                .map(|value| f32::from_le_bytes(*value))
                .collect(),
        );
        whole += record.len();
    }
    if whole < bytes.len() {
        tracing::warn!(file = %file.display(), bytes = bytes.len() - whole, "torn vectors are made again");
        OpenOptions::new()
            .write(true)
            .open(file)?
            .set_len(whole as u64)?;
    }
    Ok(known)
}
