//! Loading a version: every page is compared with its hash, and belongs where it lies.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_128;

use super::index::{Index, PagesFile, Place};
use super::{HEAD, MAGIC, PAGES, TableFolder, reading};
use crate::table::TableError;
use crate::table::counting::Counting;
use crate::table::key::RowKey;
use crate::table::page::Page;
use crate::table::rows::{Rows, Snapshot};

impl TableFolder {
    /// Loads a version. Pages that a snapshot of `beside` has already (the champion's, say) are shared with it, and not read again.
    ///
    /// # Errors
    /// When the index, or a page that is read, is missing, cut off or damaged, with file and page.
    pub fn load(&self, version: u64, beside: &[&Snapshot]) -> Result<Snapshot, TableError> {
        let index = self.index(version)?;
        let pages = Rows::pages_of(index.rows);
        let wrong = |problem: String| TableError::File {
            path: self.file(version, super::INDEX),
            problem,
        };
        let places = index.places.len();
        if places != pages.saturating_add(1) {
            let rows = index.rows;
            let problem = format!("names {places} places for {rows} rows, {pages} pages");
            return Err(wrong(problem));
        }
        let known = index.places.iter().map(|place| place.file as usize);
        if let Some(file) = known.max().filter(|file| *file >= index.files.len()) {
            return Err(wrong(format!("names file {file} without saying which")));
        }
        let beside = beside.iter().map(|snapshot| &snapshot.rows);
        let beside: Vec<&Arc<Rows>> = beside
            .filter(|rows| rows.width == index.width && rows.seed == index.seed)
            .collect();
        let mut loading = Loading {
            index: &index,
            pages: vec![None; pages],
            counting: None,
            beside,
        };
        for (number, file) in index.files.iter().enumerate() {
            loading.file(number, *file, self.file(file.version, PAGES))?;
        }
        let Loading {
            pages, counting, ..
        } = loading;
        let count = pages.iter().flatten().map(|page| page.len()).sum();
        if index.rows != count {
            let rows = index.rows;
            return Err(wrong(format!("says {rows} rows, its pages have {count}")));
        }
        let whole = pages.into_iter().collect::<Option<Vec<_>>>().zip(counting);
        let (pages, counting) = whole.ok_or_else(|| wrong("leaves out a page".to_owned()))?;
        Ok(Snapshot {
            rows: Arc::new(Rows {
                width: index.width,
                seed: index.seed,
                pages,
                count,
                unknown: index.unknown,
            }),
            counting: Arc::new(counting),
        })
    }
}

/// A version under way.
struct Loading<'a> {
    index: &'a Index,
    pages: Vec<Option<Arc<Page>>>,
    counting: Option<Counting>,
    beside: Vec<&'a Arc<Rows>>,
}

impl Loading<'_> {
    /// All that lies in one file, from its beginning to its end.
    fn file(&mut self, number: usize, wanted: PagesFile, path: PathBuf) -> Result<(), TableError> {
        let opened = File::open(&path).map_err(reading(&path))?;
        let bytes = opened.metadata().map_err(reading(&path))?.len();
        let mut file = BufReader::with_capacity(1 << 20, opened);
        let mut head = [0; HEAD];
        let read = file.read_exact(&mut head);
        read.map_err(reading(&path))?;
        let (magic, version) = head.split_at(MAGIC.len());
        let problem = if magic != MAGIC {
            Some("is no file of a table's pages of this format".to_owned())
        } else if version != wanted.version.to_le_bytes() {
            Some("is of another version than its name says".to_owned())
        } else if bytes != wanted.bytes {
            Some(format!("has {bytes} bytes, {} were written", wanted.bytes))
        } else {
            None
        };
        if let Some(problem) = problem {
            return Err(TableError::File { path, problem });
        }
        let mut places: Vec<(usize, Place)> =
            self.index.places.iter().copied().enumerate().collect();
        places.retain(|(_, place)| place.file as usize == number);
        places.sort_unstable_by_key(|(page, place)| (place.offset, *page));
        let mut at = HEAD as u64;
        let mut buffer = Vec::new();
        for (page, place) in places {
            if let Some(same) = self.same(page, place) {
                self.pages[page] = Some(same);
                continue;
            }
            let step = i64::try_from(i128::from(place.offset) - i128::from(at));
            let sought = step.map_err(|_| ErrorKind::InvalidInput.into());
            let sought = sought.and_then(|step| file.seek_relative(step));
            at = place.offset + u64::from(place.bytes);
            let read = sought.and_then(|()| {
                buffer.clear();
                let mut part = (&mut file).take(u64::from(place.bytes));
                part.read_to_end(&mut buffer)
            });
            read.map_err(reading(&path))?;
            self.take(page, place, &buffer, &path)?;
        }
        Ok(())
    }

    /// The same page in memory.
    fn same(&self, page: usize, place: Place) -> Option<Arc<Page>> {
        let mut others = self.beside.iter().filter_map(|rows| rows.pages.get(page));
        let same = others.find(|other| other.hash() == place.hash)?;
        (page < self.pages.len()).then(|| same.clone())
    }

    fn take(
        &mut self,
        page: usize,
        place: Place,
        bytes: &[u8],
        path: &Path,
    ) -> Result<(), TableError> {
        let wrong = |problem: &str| TableError::Page {
            path: path.to_owned(),
            page,
            offset: place.offset,
            problem: problem.to_owned(),
        };
        if bytes.len() != place.bytes as usize {
            return Err(wrong("is cut off"));
        }
        if xxh3_128(bytes) != place.hash {
            return Err(wrong("was damaged: its hash differs"));
        }
        let pages = self.pages.len();
        let Some(taken) = self.pages.get_mut(page) else {
            let counting = Counting::decode(bytes);
            self.counting = Some(counting.ok_or_else(|| wrong("holds no counts"))?);
            return Ok(());
        };
        let (width, seed) = (self.index.width, self.index.seed);
        let content = Page::decode(bytes, width, place.hash).map_err(wrong)?;
        let belongs = |key: &_| Rows::page_of(RowKey::address(*key, seed), pages) == page;
        if !content.keys().iter().all(belongs) {
            return Err(wrong("holds a row that belongs to another page"));
        }
        *taken = Some(Arc::new(content));
        Ok(())
    }
}
