//! Versions of a table in a folder: a base, and the pages that changed since.
//!
//! A version is two files. `NNNNNNNN.pages` holds the pages that it wrote; `NNNNNNNN.index` says of every page in which file it lies (its own, or that of an earlier
//! version), where, and what its bytes hash to. Files are never changed: the index comes last and whole, so a version is there or not. What is loaded is compared with its
//! hash, page by page; one bad page refuses the version.

mod index;
mod reading;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_128;

use super::TableError;
use super::rows::Snapshot;
use index::{Index, PagesFile, Place};

const MAGIC: [u8; 8] = *b"HWTABPG1";
/// Of a file of pages: the magic and its version.
const HEAD: usize = 16;
const PAGES: &str = "pages";
const INDEX: &str = "index";
/// An index that is not whole yet.
const PARTIAL: &str = "partial";

/// What a save wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Number of the version.
    pub version: u64,
    /// Pages of the table.
    pub pages: usize,
    /// Those that were written; the others lie in files of earlier versions.
    pub written: usize,
    /// Bytes that were written, of pages and index.
    pub bytes: u64,
}

/// The folder of a table's versions. One process writes it at a time; any may read.
#[derive(Clone, Debug)]
pub struct TableFolder {
    path: PathBuf,
}

impl TableFolder {
    /// The versions in a folder, which need not be there yet.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    fn file(&self, version: u64, kind: &str) -> PathBuf {
        self.path.join(format!("{version:08}.{kind}"))
    }

    /// Numbers of files of a kind.
    fn numbers(&self, wanted: &str) -> Result<BTreeSet<u64>, TableError> {
        let read = |source| TableError::Read {
            path: self.path.clone(),
            source,
        };
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            entries => entries.map_err(read)?,
        };
        let mut numbers = BTreeSet::new();
        for entry in entries {
            let name = entry.map_err(read)?.file_name();
            let name = name.to_str().and_then(|name| name.split_once('.'));
            let number = name.filter(|(_, kind)| *kind == wanted);
            numbers.extend(number.and_then(|(number, _)| number.parse::<u64>().ok()));
        }
        Ok(numbers)
    }

    /// Versions that are there, from the oldest on.
    ///
    /// # Errors
    /// When the folder is there and cannot be read.
    pub fn versions(&self) -> Result<Vec<u64>, TableError> {
        Ok(self.numbers(INDEX)?.into_iter().collect())
    }

    /// Writes a version more: all pages, or (`since`) those that differ from an earlier version's. It is durable when this returns.
    ///
    /// # Errors
    /// When the earlier version's index is damaged, or a file cannot be written; then there is no new version.
    pub fn save(&self, snapshot: &Snapshot, since: Option<u64>) -> Result<Saved, TableError> {
        let rows = &snapshot.rows;
        let since = since.map(|version| self.index(version)).transpose()?;
        let since = since.filter(|index| index.width == rows.width && index.seed == rows.seed);
        let written = [self.numbers(PAGES)?, self.numbers(INDEX)?];
        let newest = written.iter().filter_map(BTreeSet::last).max();
        let version = newest.map_or(1, |newest| newest + 1);
        fs::create_dir_all(&self.path).map_err(writing(&self.path))?;

        let path = self.file(version, PAGES);
        let mut saving = Saving::begin(&path, version, since).map_err(writing(&path))?;
        for (page, content) in rows.pages.iter().enumerate() {
            let hash = content.hash();
            let encode = |into: &mut Vec<u8>| content.encode(into);
            saving.put(page, hash, encode).map_err(writing(&path))?;
        }
        let counts = snapshot.counting.encode();
        let encode = |into: &mut Vec<u8>| into.clone_from(&counts);
        let last = saving.put_last(xxh3_128(&counts), encode);
        last.and_then(|()| saving.finish())
            .map_err(writing(&path))?;

        let pages = rows.pages.len();
        let written = saving.written;
        let bytes = saving.at;
        let index = Index {
            version,
            width: rows.width,
            seed: rows.seed,
            rows: rows.count,
            unknown: rows.unknown.clone(),
            files: saving.files,
            places: saving.places,
        };
        let encoded = index.encode();
        let path = self.file(version, INDEX);
        self.put_whole(&path, &encoded).map_err(writing(&path))?;
        Ok(Saved {
            version,
            pages,
            written,
            bytes: bytes + encoded.len() as u64,
        })
    }

    /// Writes a file that is there as a whole or not at all, and makes all of the folder durable.
    fn put_whole(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let partial = path.with_extension(PARTIAL);
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        File::open(&self.path)?.sync_all()
    }

    fn index(&self, version: u64) -> Result<Index, TableError> {
        let path = self.file(version, INDEX);
        let bytes = fs::read(&path).map_err(reading(&path))?;
        let index = Index::decode(&bytes, &path)?;
        if index.version != version {
            let problem = format!("is the index of version {}", index.version);
            return Err(TableError::File { path, problem });
        }
        Ok(index)
    }

    /// Removes all versions but these and the newest, and the pages that none of them needs.
    ///
    /// # Errors
    /// When an index that stays is damaged or missing (then nothing is removed), or a file cannot be removed.
    pub fn prune(&self, keep: &[u64]) -> Result<(), TableError> {
        let versions = self.numbers(INDEX)?;
        let mut kept: BTreeSet<u64> = keep.iter().copied().collect();
        kept.extend(versions.last());
        let mut needed = BTreeSet::new();
        for version in &kept {
            let files = self.index(*version)?.files;
            needed.extend(files.iter().map(|file| file.version));
        }
        // Indexes first: none ever names a file that is gone.
        let indexes = versions.difference(&kept);
        let indexes = indexes.map(|version| self.file(*version, INDEX));
        let pages = self.numbers(PAGES)?;
        let pages = pages.difference(&needed);
        let pages = pages.map(|version| self.file(*version, PAGES));
        // What an index that broke off has left behind.
        let partial = self.numbers(PARTIAL)?;
        let partial = partial.iter().map(|version| self.file(*version, PARTIAL));
        for path in indexes.chain(pages).chain(partial) {
            fs::remove_file(&path).map_err(writing(&path))?;
        }
        Ok(())
    }
}

/// A file of pages under way.
struct Saving {
    since: Option<Index>,
    file: BufWriter<File>,
    version: u64,
    at: u64,
    files: Vec<PagesFile>,
    places: Vec<Place>,
    written: usize,
    buffer: Vec<u8>,
}

impl Saving {
    fn begin(path: &Path, version: u64, since: Option<Index>) -> io::Result<Self> {
        let mut file = BufWriter::with_capacity(1 << 20, File::create_new(path)?);
        file.write_all(&MAGIC)?;
        file.write_all(&version.to_le_bytes())?;
        Ok(Self {
            since,
            file,
            version,
            at: HEAD as u64,
            files: Vec::new(),
            places: Vec::new(),
            written: 0,
            buffer: Vec::new(),
        })
    }

    /// The number of a file among those that this version names.
    fn number(&mut self, file: PagesFile) -> u32 {
        let same = |other: &PagesFile| other.version == file.version;
        let number = self.files.iter().rposition(same).unwrap_or_else(|| {
            self.files.push(file);
            self.files.len() - 1
        });
        number as u32
    }

    /// A page: where the earlier version has the same bytes in the same place, it lies there.
    fn put(
        &mut self,
        page: usize,
        hash: u128,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> io::Result<()> {
        let there = self.since.as_ref().and_then(|index| {
            let pages = index.places.len() - 1;
            let place = index.places[..pages].get(page)?;
            let same = place.hash == hash;
            same.then(|| (*place, index.files[place.file as usize]))
        });
        if let Some((place, file)) = there {
            let file = self.number(file);
            self.places.push(Place { file, ..place });
            return Ok(());
        }
        self.written += 1;
        self.put_last(hash, encode)
    }

    /// Bytes that this version writes itself.
    fn put_last(&mut self, hash: u128, encode: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        encode(&mut self.buffer);
        self.file.write_all(&self.buffer)?;
        let bytes = self.buffer.len();
        // Its length is known, and set, at the end.
        let file = self.number(PagesFile {
            version: self.version,
            bytes: 0,
        });
        self.places.push(Place {
            file,
            bytes: u32::try_from(bytes).map_err(io::Error::other)?,
            offset: self.at,
            hash,
        });
        self.at += bytes as u64;
        Ok(())
    }

    /// Makes the file durable.
    fn finish(&mut self) -> io::Result<()> {
        let own = |file: &&mut PagesFile| file.version == self.version;
        if let Some(file) = self.files.iter_mut().find(own) {
            file.bytes = self.at;
        }
        self.file.flush()?;
        self.file.get_ref().sync_all()
    }
}

fn reading(path: &Path) -> impl FnOnce(io::Error) -> TableError {
    let path = path.to_owned();
    move |source| TableError::Read { path, source }
}

fn writing(path: &Path) -> impl FnOnce(io::Error) -> TableError {
    let path = path.to_owned();
    move |source| TableError::Write { path, source }
}
