//! Vectors of texts: those that are known from an earlier run, and those that the shallow layers make now.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_consumers::embed::{Embed, EmbedError};
use headwater_model::language::{LanguageError, TextEncoder};
use headwater_model::{Device, Tensor};
use headwater_state::CurrentEncoder;
use parking_lot::Mutex;

use crate::progress::Progress;

use super::TrainError;
use super::artifact::ArtifactError;

/// Texts between two writes.
const CHUNK: usize = 1_024;
/// Bytes of all texts' vectors on a GPU, at most: of more the rows of a batch are moved there, each time.
const TABLE_BYTES_MAX: usize = 4 << 30;
/// Bytes of a content hash.
const KEY_BYTES: usize = 32;

/// Vectors of texts, kept in a file as they come: a run that is cut off loses a chunk at most, and another run begins with them.
#[derive(Debug)]
pub(super) struct TextVectors {
    encoder: Arc<TextEncoder>,
    file: PathBuf,
    known: BTreeMap<[u8; KEY_BYTES], Vec<f32>>,
    /// How many were made, and how long that took.
    pub(super) made: (usize, Duration),
    progress: bool,
}

impl TextVectors {
    /// Those that a file has already.
    pub(super) fn open(
        encoder: Arc<TextEncoder>,
        file: PathBuf,
        progress: bool,
    ) -> Result<Self, TrainError> {
        let known = read(&file, encoder.width()).map_err(|source| ArtifactError::Io {
            path: file.clone(),
            source,
        })?;
        Ok(Self {
            encoder,
            file,
            known,
            made: (0, Duration::ZERO),
            progress,
        })
    }

    pub(super) fn encoder(&self) -> &TextEncoder {
        &self.encoder
    }

    /// Makes those that are missing; `progress`: whether to draw a bar.
    pub(super) fn fill(&mut self, texts: &[&str], progress: bool) -> Result<(), TrainError> {
        let began = Instant::now();
        // Two texts that differ in white space alone are one.
        let missing: BTreeMap<[u8; KEY_BYTES], &str> = texts
            .iter()
            .map(|text| (self.encoder.key(text), *text))
            .filter(|(key, _)| !self.known.contains_key(key))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let io = |source| ArtifactError::Io {
            path: self.file.clone(),
            source,
        };
        let mut missing: Vec<([u8; KEY_BYTES], &str)> = missing.into_iter().collect();
        // Of one length side by side in a chunk, or padding would be most of the work.
        missing.sort_by_key(|(key, text)| (text.len(), *key));
        let mut out = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.file)
            .map_err(io)?;
        let width = self.encoder.width();
        let bar = Progress::new(Some(missing.len() as u64), progress && self.progress);
        let mut done = 0;
        for chunk in missing.chunks(CHUNK) {
            let texts: Vec<&str> = chunk.iter().map(|(_, text)| *text).collect();
            let vectors = self.encoder.encode(&texts, self.encoder.batch_tokens())?;
            let mut bytes = Vec::with_capacity(chunk.len() * record_bytes(width));
            for ((key, _), vector) in chunk.iter().zip(vectors) {
                let from = bytes.len();
                bytes.extend_from_slice(key);
                for value in &vector {
                    bytes.extend_from_slice(&value.to_le_bytes());
                }
                let sum = crc32fast::hash(&bytes[from..]);
                bytes.extend_from_slice(&sum.to_le_bytes());
                self.known.insert(*key, vector);
            }
            out.write_all(&bytes).map_err(io)?;
            done += chunk.len();
            bar.at(done as u64, done as u64);
        }
        bar.finish();
        self.made.0 += missing.len();
        self.made.1 += began.elapsed();
        Ok(())
    }

    /// One row a text, each of which was filled; on the device if it is small enough to lie there.
    pub(super) fn table(&self, texts: &[String], device: &Device) -> Result<Tensor, LanguageError> {
        let width = self.encoder.width();
        let mut flat = Vec::with_capacity(texts.len() * width);
        for text in texts {
            flat.extend_from_slice(&self.known[&self.encoder.key(text)]);
        }
        on_device(&tensor(flat, (texts.len(), width))?, device)
    }
}

/// A table of vectors, on the device if it is small enough to lie there.
pub(super) fn on_device(table: &Tensor, device: &Device) -> Result<Tensor, LanguageError> {
    let is_small = table.elem_count() * size_of::<f32>() <= TABLE_BYTES_MAX;
    let device = if is_small { device } else { &Device::Cpu };
    table
        .to_device(device)
        .map_err(|source| LanguageError::Compute {
            doing: "laying vectors out",
            source,
        })
}

/// The same as the engine asks for them: rows are of the vectors that are learned from, and no text is run twice.
#[derive(Debug)]
pub(super) struct Shared(pub(super) Arc<Mutex<TextVectors>>);

impl Embed for Shared {
    fn encoder(&self) -> CurrentEncoder {
        self.0.lock().encoder.encoder()
    }

    fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let mut vectors = self.0.lock();
        vectors.fill(texts, false)?;
        let known = texts
            .iter()
            .map(|text| vectors.known[&vectors.encoder.key(text)].clone());
        Ok(known.collect())
    }

    fn tokens(&self) -> u64 {
        TextEncoder::tokens(&self.0.lock().encoder)
    }
}

/// A tensor of rows.
pub(super) fn tensor(values: Vec<f32>, shape: (usize, usize)) -> Result<Tensor, LanguageError> {
    Tensor::from_vec(values, shape, &Device::Cpu).map_err(|source| LanguageError::Compute {
        doing: "laying vectors out",
        source,
    })
}

/// A hash, its vector, and a checksum over both.
fn record_bytes(width: usize) -> usize {
    KEY_BYTES + 4 * width + 4
}

/// What an earlier run wrote; a torn tail is cut off, so that what is appended can be found again.
fn read(file: &Path, width: usize) -> std::io::Result<BTreeMap<[u8; KEY_BYTES], Vec<f32>>> {
    let mut known = BTreeMap::new();
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
