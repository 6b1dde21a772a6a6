//! All rows of a table, in pages that are shared until they change; and a snapshot of them.

use std::sync::Arc;

use super::counting::Counting;
use super::key::{RowKey, mix};
use super::learning::{Dropout, Gathered};
use super::page::{Inserted, Page, ROWS_IN_PAGE};

/// Pages by linear hashing: n pages are as many as the rows ask for; an address means its lowest bits, one more of them where that page has been split.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    pub(super) width: usize,
    pub(super) seed: u64,
    pub(super) pages: Vec<Arc<Page>>,
    pub(super) count: usize,
    /// Values of the row of all that have none of their own, and the sum of its squared gradients.
    pub(super) unknown: Vec<f32>,
}

impl Rows {
    /// No rows; the unknown row begins at zeros.
    pub(super) fn new(width: usize, seed: u64, sum: f32) -> Self {
        let mut unknown = vec![0.0; width + 1];
        unknown[width] = sum;
        Self {
            width,
            seed,
            pages: vec![Arc::default()],
            count: 0,
            unknown,
        }
    }

    /// Pages that so many rows lie in.
    pub(super) fn pages_of(rows: usize) -> usize {
        rows.div_ceil(ROWS_IN_PAGE).max(1)
    }

    /// The page of an address among so many pages.
    pub(super) fn page_of(address: u64, pages: usize) -> usize {
        let whole = 1 << pages.ilog2();
        let page = address as usize & (2 * whole - 1);
        if page < pages { page } else { page - whole }
    }

    /// The page of a key, and its row there where it has one.
    pub(super) fn find(&self, key: RowKey) -> (usize, Option<usize>) {
        let page = Self::page_of(key.address(self.seed), self.pages.len());
        (page, self.pages[page].find(key))
    }

    /// A page to change: a copy where somebody else holds it too.
    pub(super) fn page_mut(&mut self, page: usize) -> &mut Page {
        Arc::make_mut(&mut self.pages[page]).changing()
    }

    /// Takes a row (values, then the sum) whose key has none.
    pub(super) fn insert(&mut self, key: RowKey, row: &[f32], hour: u32) -> Inserted {
        let (page, _) = self.find(key);
        let inserted = self.page_mut(page).insert(key, row, hour);
        if inserted == Inserted::New {
            self.count += 1;
            while self.pages.len() < Self::pages_of(self.count) {
                self.split();
            }
        }
        inserted
    }

    /// One page more: rows of an older one whose address has the next bit.
    fn split(&mut self) {
        let pages = self.pages.len();
        let whole = 1_usize << pages.ilog2();
        let (seed, width) = (self.seed, self.width);
        let goes = |key: RowKey| key.address(seed) as usize & whole != 0;
        let [stays, goes] = self.pages[pages - whole].split(width, goes);
        self.pages[pages - whole] = Arc::new(stays);
        self.pages.push(Arc::new(goes));
    }

    /// Drops rows that are not kept; pages of which all are kept stay shared.
    pub(super) fn retain(&mut self, keep: impl Fn(RowKey, u32) -> bool) {
        for page in &mut self.pages {
            if let Some(kept) = page.retained(self.width, &keep) {
                self.count -= page.len() - kept.len();
                *page = Arc::new(kept);
            }
        }
        while self.pages.len() > Self::pages_of(self.count) {
            if let Some(last) = self.pages.pop() {
                let pages = self.pages.len();
                let into = &mut self.pages[pages - (1 << pages.ilog2())];
                *into = Arc::new(into.merged(&last, self.width));
            }
        }
    }

    /// Values that a row without a vector begins with, then the sum.
    pub(super) fn first(&self, key: RowKey, spread: f32, sum: f32) -> Vec<f32> {
        let address = key.address(self.seed);
        let number = |at: usize| {
            let bits = mix(address ^ mix(self.seed ^ at as u64)) >> 40;
            // 24 bits: every one of them is an f32.
            (bits as f32 / (1 << 23) as f32 - 1.0) * spread
        };
        let mut row: Vec<f32> = (0..self.width).map(number).collect();
        row.push(sum);
        row
    }

    /// The rows of a batch, each once.
    pub(super) fn gather(&self, keys: &[RowKey], dropout: Option<Dropout>) -> Gathered {
        let left_out = |position| dropout.is_some_and(|dropout| dropout.drops(position));
        let mut order: Vec<(RowKey, u32)> = keys.iter().copied().zip(0..).collect();
        order.retain(|(_, position)| !left_out(*position));
        order.sort_unstable();
        let mut gathered = Gathered::new(&self.unknown[..self.width], keys.len());
        for one in order.chunk_by(|first, second| first.0 == second.0) {
            let key = one[0].0;
            let (page, Some(at)) = self.find(key) else {
                continue;
            };
            let (values, _) = self.pages[page].row(at, self.width);
            gathered.push(key, values, one.iter().map(|(_, position)| *position));
        }
        gathered
    }
}

/// A table as it was at one moment. Clones are cheap, and share pages with the table and with other snapshots as long as these are the same.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(super) rows: Arc<Rows>,
    pub(super) counting: Arc<Counting>,
}

impl Snapshot {
    /// Numbers of a row.
    pub fn width(&self) -> usize {
        self.rows.width
    }

    /// Rows, the unknown one not among them.
    pub fn len(&self) -> usize {
        self.rows.count
    }

    /// Whether no id has a row.
    pub fn is_empty(&self) -> bool {
        self.rows.count == 0
    }

    /// The row of an id: `width` values, or none where it reads the unknown row.
    pub fn row(&self, key: RowKey) -> Option<&[f32]> {
        let (page, at) = self.rows.find(key);
        let (values, _) = self.rows.pages[page].row(at?, self.rows.width);
        Some(values)
    }

    /// The row of ids without one: `width` values.
    pub fn unknown(&self) -> &[f32] {
        &self.rows.unknown[..self.rows.width]
    }

    /// The rows of a batch, each once.
    pub fn gather(&self, keys: &[RowKey]) -> Gathered {
        self.rows.gather(keys, None)
    }

    /// Pages, and how many of them are the same memory in another snapshot.
    pub fn pages(&self, other: &Self) -> [usize; 2] {
        let pages = self.rows.pages.iter().zip(&other.rows.pages);
        let same = pages.filter(|(mine, theirs)| Arc::ptr_eq(mine, theirs));
        [self.rows.pages.len(), same.count()]
    }
}
