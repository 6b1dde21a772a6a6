//! The table that is trained: whom it admits, what it drops, how its rows move.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::TableError;
use super::counting::Counting;
use super::key::RowKey;
use super::learning::{Dropout, Gathered, Stepped};
use super::page::Inserted;
use super::rows::{Rows, Snapshot};
use super::settings::TableSettings;

/// A full table drops this part of its rows at once, so that the search for the oldest is rare.
const LOT: usize = 64;

/// What a batch of meetings changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Met {
    /// Ids that have a row from now on.
    pub admitted: usize,
    /// Rows that were dropped to make room.
    pub dropped: usize,
    /// Ids that had been met often enough and found no room: more of them in one batch than the table has rows, or a full page.
    pub refused: usize,
}

/// A table and its one trainer.
#[derive(Debug)]
pub struct Table {
    settings: TableSettings,
    rows: Rows,
    counting: Arc<Counting>,
    /// Rows by the hour of their last meeting.
    ages: BTreeMap<u32, usize>,
}

impl Table {
    /// An empty table.
    ///
    /// # Errors
    /// When a setting is out of its range.
    pub fn new(settings: TableSettings) -> Result<Self, TableError> {
        settings.check()?;
        Ok(Self {
            settings,
            rows: Rows::new(settings.width, settings.seed, settings.learning.start),
            counting: Arc::new(Counting::new(&settings.admission)),
            ages: BTreeMap::new(),
        })
    }

    /// Goes on from a snapshot. Where it has more rows than `memory` holds, the oldest are dropped.
    ///
    /// # Errors
    /// When a setting is out of its range, or is not that of the snapshot: width, seed, counters of the admission.
    pub fn resume(settings: TableSettings, snapshot: &Snapshot) -> Result<Self, TableError> {
        settings.check()?;
        let Rows { width, seed, .. } = *snapshot.rows;
        let differs = |key, theirs: String| {
            let problem = format!("differs from that of the rows: {theirs}");
            Err(TableError::Setting { key, problem })
        };
        if settings.width != width {
            return differs("width", width.to_string());
        }
        if settings.seed != seed {
            return differs("seed", seed.to_string());
        }
        if !snapshot.counting.fits(&settings.admission) {
            let problem = "differs from that of the counts".to_owned();
            let key = "admission.counters";
            return Err(TableError::Setting { key, problem });
        }
        let mut table = Self {
            settings,
            rows: Rows::clone(&snapshot.rows),
            counting: snapshot.counting.clone(),
            ages: BTreeMap::new(),
        };
        for page in &table.rows.pages {
            for hour in page.touched() {
                *table.ages.entry(*hour).or_default() += 1;
            }
        }
        let over = table.len().saturating_sub(settings.rows_max());
        table.drop_oldest(over);
        Ok(table)
    }

    #[cfg(test)]
    pub(super) fn rows(&self) -> &Rows {
        &self.rows
    }

    /// Its settings.
    pub fn settings(&self) -> &TableSettings {
        &self.settings
    }

    /// Rows, the unknown one not among them.
    pub fn len(&self) -> usize {
        self.rows.count
    }

    /// Whether no id has a row.
    pub fn is_empty(&self) -> bool {
        self.rows.count == 0
    }

    /// The hour in which the row was met that was not met for longest.
    pub fn oldest(&self) -> Option<u32> {
        self.ages.first_key_value().map(|(hour, _)| *hour)
    }

    /// Whether an id has a row.
    pub fn has(&self, key: RowKey) -> bool {
        self.rows.find(key).1.is_some()
    }

    /// The table as it is now. What the trainer does afterwards does not change it.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            rows: Arc::new(self.rows.clone()),
            counting: self.counting.clone(),
        }
    }

    /// From now on learns at this rate, > 0.
    pub fn set_rate(&mut self, rate: f32) {
        self.settings.learning.rate = rate;
    }

    /// Values and sum of the unknown row.
    pub(super) fn set_unknown(&mut self, row: Vec<f32>) {
        self.rows.unknown = row;
    }

    /// Puts a row that is known from elsewhere; its key must have none.
    pub(super) fn put(&mut self, key: RowKey, row: &[f32], hour: u32) -> Inserted {
        let inserted = self.rows.insert(key, row, hour);
        if inserted == Inserted::New {
            *self.ages.entry(hour).or_default() += 1;
        }
        inserted
    }

    /// Notes the ids of a batch, met in `hour` (see [`super::hour_of`]): those with a row grow younger, others are counted and perhaps admitted. An id counts as often as it stands in
    /// the batch; the order within it does not matter.
    ///
    /// A new row begins with what `start` gives for the first position of its id (`width` numbers made of its text or category, say), or without it with small
    /// numbers that follow from the id.
    ///
    /// # Errors
    /// When `start` gives another count of numbers, or what is no number: then all are counted, and nobody is admitted.
    pub fn meet(
        &mut self,
        keys: &[RowKey],
        hour: u32,
        mut start: impl FnMut(usize) -> Option<Vec<f32>>,
    ) -> Result<Met, TableError> {
        let mut order: Vec<(RowKey, usize)> = keys.iter().copied().zip(0..).collect();
        order.sort_unstable();
        let mut often = Vec::new();
        for one in order.chunk_by(|first, second| first.0 == second.0) {
            let (key, position) = one[0];
            match self.rows.find(key) {
                (page, Some(at)) => self.touch(page, at, hour),
                _ if self.count(key, one.len()) => often.push((key, position)),
                _ => {}
            }
        }
        self.age_counts();
        let mut rows = Vec::with_capacity(often.len());
        for (key, position) in &often {
            let row = start(*position).map(|values| self.started(*position, values));
            rows.push((*key, row.transpose()?));
        }
        // In the order of addresses: who finds room follows from no order that ids have by themselves.
        rows.sort_unstable_by_key(|(key, _)| (key.address(self.rows.seed), *key));
        let room = self.settings.rows_max();
        let mut met = Met {
            refused: rows.len().saturating_sub(room),
            ..Met::default()
        };
        rows.truncate(room);
        let over = (self.len() + rows.len()).saturating_sub(room);
        if over > 0 {
            met.dropped = self.drop_oldest(over.max(room / LOT));
        }
        for (key, row) in rows {
            let TableSettings {
                spread, learning, ..
            } = self.settings;
            let row = row.unwrap_or_else(|| self.rows.first(key, spread, learning.start));
            match self.rows.insert(key, &row, hour) {
                Inserted::New => {
                    met.admitted += 1;
                    *self.ages.entry(hour).or_default() += 1;
                }
                Inserted::Full => met.refused += 1,
            }
        }
        Ok(met)
    }

    /// Counts meetings of an id without a row; whether they are enough for one.
    fn count(&mut self, key: RowKey, times: usize) -> bool {
        let enough = self.settings.admission.count;
        // Who is admitted at once needs no counts.
        enough <= 1 || {
            let counting = Arc::make_mut(&mut self.counting);
            counting.add(key, self.rows.seed, times) >= enough
        }
    }

    fn age_counts(&mut self) {
        let window = self.settings.admission.window;
        if self.settings.admission.count > 1 && self.counting.is_over(window) {
            Arc::make_mut(&mut self.counting).halve();
        }
    }

    /// Values that somebody hands in, then the sum.
    fn started(&self, position: usize, mut values: Vec<f32>) -> Result<Vec<f32>, TableError> {
        let (found, expected) = (values.len(), self.settings.width);
        if found != expected {
            return Err(TableError::Length {
                what: "the vector that starts a row",
                found,
                expected,
            });
        }
        if let Some(value) = values.iter().copied().find(|value| !value.is_finite()) {
            return Err(TableError::Start { position, value });
        }
        values.push(self.settings.learning.start);
        Ok(values)
    }

    /// A row grows younger, never older: late events do not turn its age back.
    fn touch(&mut self, page: usize, at: usize, hour: u32) {
        let before = self.rows.pages[page].touched()[at];
        if before < hour {
            self.rows.page_mut(page).touch(at, hour);
            forget(&mut self.ages, before, 1);
            *self.ages.entry(hour).or_default() += 1;
        }
    }

    /// Drops rows that were not met in the last hours, as many as `expiry` says; the answer is how many. An hour in which nothing expires costs nothing.
    pub fn expire(&mut self, now: u32) -> usize {
        let Some(expiry) = self.settings.expiry else {
            return 0;
        };
        let oldest = now.saturating_sub(expiry);
        let expired: usize = self.ages.range(..oldest).map(|(_, rows)| rows).sum();
        if expired > 0 {
            self.rows.retain(|_, touched| touched >= oldest);
            self.ages = self.ages.split_off(&oldest);
        }
        expired
    }

    /// Drops the least recently met rows; among those of one hour, the ones with the lowest addresses.
    fn drop_oldest(&mut self, wanted: usize) -> usize {
        let wanted = wanted.min(self.len());
        if wanted == 0 {
            return 0;
        }
        // All of the hours before `cut`, and `some` of that hour.
        let mut some = wanted;
        let mut cut = 0;
        for (hour, rows) in &self.ages {
            cut = *hour;
            if some <= *rows {
                break;
            }
            some -= rows;
        }
        let seed = self.rows.seed;
        let place = |key: RowKey| (key.address(seed), key);
        let pages = self.rows.pages.iter();
        let rows = pages.flat_map(|page| page.keys().iter().zip(page.touched()));
        let at_cut = rows.filter(|(_, touched)| **touched == cut);
        let mut at_cut: Vec<_> = at_cut.map(|(key, _)| place(*key)).collect();
        let (_, last, _) = at_cut.select_nth_unstable(some - 1);
        let last = *last;
        self.rows
            .retain(|key, touched| touched > cut || (touched == cut && place(key) > last));
        self.ages = self.ages.split_off(&cut);
        forget(&mut self.ages, cut, some);
        wanted
    }

    /// The rows of a batch, each once, with ids left out where it is so wanted.
    pub fn gather(&self, keys: &[RowKey], dropout: Option<Dropout>) -> Gathered {
        self.rows.gather(keys, dropout)
    }

    /// One step of row-wise Adagrad against gradients of the gathered rows, (rows, width), each summed over its positions. No other row is touched, and the unknown
    /// row only where a position read it.
    ///
    /// # Errors
    /// When there are not as many numbers.
    pub fn step(&mut self, gathered: &Gathered, gradients: &[f32]) -> Result<Stepped, TableError> {
        let width = self.settings.width;
        let (found, expected) = (gradients.len(), gathered.len() * width);
        if found != expected {
            return Err(TableError::Length {
                what: "gradients of rows",
                found,
                expected,
            });
        }
        let learning = self.settings.learning;
        let mut stepped = Stepped::default();
        let mut note = |moved: bool| {
            stepped.rows += usize::from(moved);
            stepped.refused += usize::from(!moved);
        };
        let (unknown, gradients) = gradients.split_at(width);
        if gathered.rows().contains(&0) {
            let (values, sum) = self.rows.unknown.split_at_mut(width);
            note(learning.step(values, &mut sum[0], unknown));
        }
        let mut gone = 0;
        for (key, gradient) in gathered.keys().iter().zip(gradients.chunks_exact(width)) {
            let (page, Some(at)) = self.rows.find(*key) else {
                gone += 1;
                continue;
            };
            let (values, sum) = self.rows.page_mut(page).row_mut(at, width);
            note(learning.step(values, sum, gradient));
        }
        Ok(Stepped { gone, ..stepped })
    }
}

/// Takes rows out of an hour.
fn forget(ages: &mut BTreeMap<u32, usize>, hour: u32, rows: usize) {
    if let Some(left) = ages.get_mut(&hour) {
        *left -= rows;
        if *left == 0 {
            ages.remove(&hour);
        }
    }
}
