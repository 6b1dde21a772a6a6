//! The index of a version: where each page lies, and the hash of its bytes.
//!
//! ```text
//! "HWTABIX1" · version u64 · width u32 · seed u64 · rows u64 · unknown row (width + 1) f32
//! files u32 · each: version u64, bytes u64
//! places u64 · each: file u32, bytes u32, offset u64, hash u128         one a page, then the counts
//! hash u128 of all before
//! ```
//!
//! All little-endian; hashes are xxh3 of 128 bits.

use std::path::Path;

use xxhash_rust::xxh3::xxh3_128;

use crate::table::TableError;

const MAGIC: [u8; 8] = *b"HWTABIX1";
const HASH: usize = 16;

/// Where bytes lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Number of the file among those of the index.
    pub(super) file: u32,
    pub(super) bytes: u32,
    pub(super) offset: u64,
    pub(super) hash: u128,
}

/// A file of pages, by the version that wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PagesFile {
    pub(super) version: u64,
    pub(super) bytes: u64,
}

/// All that a version is made of.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Index {
    pub(super) version: u64,
    pub(super) width: usize,
    pub(super) seed: u64,
    pub(super) rows: usize,
    pub(super) unknown: Vec<f32>,
    pub(super) files: Vec<PagesFile>,
    pub(super) places: Vec<Place>,
}

impl Index {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((self.width as u32).to_le_bytes());
        bytes.extend(self.seed.to_le_bytes());
        bytes.extend((self.rows as u64).to_le_bytes());
        bytes.extend(self.unknown.iter().flat_map(|one| one.to_le_bytes()));
        bytes.extend((self.files.len() as u32).to_le_bytes());
        for file in &self.files {
            bytes.extend(file.version.to_le_bytes());
            bytes.extend(file.bytes.to_le_bytes());
        }
        bytes.extend((self.places.len() as u64).to_le_bytes());
        for place in &self.places {
            bytes.extend(place.file.to_le_bytes());
            bytes.extend(place.bytes.to_le_bytes());
            bytes.extend(place.offset.to_le_bytes());
            bytes.extend(place.hash.to_le_bytes());
        }
        bytes.extend(xxh3_128(&bytes).to_le_bytes());
        bytes
    }

    /// # Errors
    /// With the path, when the bytes are not what was written.
    pub(super) fn decode(bytes: &[u8], path: &Path) -> Result<Self, TableError> {
        let wrong = |problem: &str| TableError::File {
            path: path.to_owned(),
            problem: problem.to_owned(),
        };
        if !bytes.starts_with(&MAGIC) {
            return Err(wrong("is not the index of a table of this format"));
        }
        let (body, hash) = bytes
            .split_last_chunk::<HASH>()
            .ok_or_else(|| wrong("is cut off"))?;
        if xxh3_128(body) != u128::from_le_bytes(*hash) {
            return Err(wrong("was damaged or cut off: its hash differs"));
        }
        let mut rest = Rest(&body[MAGIC.len()..]);
        let index = rest.index().ok_or_else(|| wrong("is cut off"))?;
        if !rest.0.is_empty() {
            return Err(wrong("has bytes behind its end"));
        }
        if !index.unknown.iter().all(|one| one.is_finite()) {
            return Err(wrong("has an unknown row that holds what is no number"));
        }
        Ok(index)
    }
}

/// Bytes that were not read yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn index(&mut self) -> Option<Index> {
        let version = self.u64()?;
        let width = self.u32()? as usize;
        let seed = self.u64()?;
        let rows = usize::try_from(self.u64()?).ok()?;
        let numbers = (0..=width).map(|_| self.take().map(f32::from_le_bytes));
        let unknown = numbers.collect::<Option<_>>()?;
        let files = (0..self.u32()?).map(|_| self.file());
        let files = files.collect::<Option<_>>()?;
        let places = (0..self.u64()?).map(|_| self.place());
        let places = places.collect::<Option<_>>()?;
        Some(Index {
            version,
            width,
            seed,
            rows,
            unknown,
            files,
            places,
        })
    }

    fn file(&mut self) -> Option<PagesFile> {
        let [version, bytes] = [self.u64()?, self.u64()?];
        Some(PagesFile { version, bytes })
    }

    fn place(&mut self) -> Option<Place> {
        let [file, bytes] = [self.u32()?, self.u32()?];
        Some(Place {
            file,
            bytes,
            offset: self.u64()?,
            hash: self.take().map(u128::from_le_bytes)?,
        })
    }
}
