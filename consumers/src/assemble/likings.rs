//! How alike candidates are to what a user met, by their texts: the likenesses of a row.
//!
//! Texts are held against each other by what tells them apart: vectors without the mean of all, each number in its own deviations ([`headwater_state::Spread`]).
//! Of a user, behaviors count as everywhere in a row: strictly before its time (`STATE-3`). What stands for a behavior here is its item's text. A vector that
//! is not there yet is left out; nothing waits.

use std::sync::Arc;

use headwater_config::Config;
use headwater_model::{Against, FeatureBatch, LikenessSpec};
use headwater_state::{Entry, ItemTable, Length, SlotId, Timestamp, User, of_series};

use super::Row;
use super::look::TextLook;
use crate::sequences::Sequences;
use crate::texts;

/// Entries of a user's history that are looked at, the newest: each may be a read of the store, and older tastes are in these, too.
const ENTRIES_MAX: usize = 256;
/// Newest behaviors of a sequence that a candidate is held against one by one.
const NEWEST: usize = 16;

/// A user's likings at one moment.
#[derive(Debug)]
pub(super) struct Likings {
    spec: LikenessSpec,
    sequences: Arc<Sequences>,
    /// By sequence and stretch: a sum of vectors, of length 1 in the end.
    sums: Vec<Vec<f32>>,
    /// Of each sequence the newest items, newest first, of length 1.
    newest: Vec<Vec<Vec<f32>>>,
    /// The item that was looked up last, standardised and of length 1.
    laid: Vec<f32>,
}

/// The likenesses of a configuration; none where texts have no vectors.
pub(super) fn spec(config: &Config) -> LikenessSpec {
    if config.texts.encoder.is_none() {
        return LikenessSpec::default();
    }
    LikenessSpec {
        sequences: config.sequences.keys().cloned().collect(),
        edges_ms: config
            .texts
            .buckets
            .iter()
            .map(|edge| edge.millis())
            .collect(),
        definition: format!(
            "standardised, item {} kinds {:?} impressions {:?}",
            config.texts.item, config.sequences, config.kinds.impressions
        ),
    }
}

impl Likings {
    pub(super) fn new(config: &Config, sequences: Arc<Sequences>) -> Self {
        Self {
            spec: spec(config),
            sequences,
            sums: Vec::new(),
            newest: Vec::new(),
            laid: Vec::new(),
        }
    }

    /// Sets the likenesses of all candidates.
    pub(super) fn fill_batch(
        &mut self,
        row: &Row<'_>,
        items: &ItemTable,
        look: &mut TextLook,
        batch: &mut FeatureBatch,
    ) {
        self.fill(row.user, row.time, items, look);
        for (place, candidate) in row.candidates.iter().enumerate() {
            self.candidate(place, candidate, items, look, batch);
        }
    }

    /// Begins a request: what the user met before `time`.
    fn fill(
        &mut self,
        user: Option<&User>,
        time: Timestamp,
        items: &ItemTable,
        look: &mut TextLook,
    ) {
        let width = look
            .encoder()
            .map_or(0, |encoder| usize::from(encoder.width));
        self.sums
            .resize(self.sequences.len() * self.spec.stretches(), Vec::new());
        for sum in &mut self.sums {
            sum.clear();
            sum.resize(width, 0.0);
        }
        self.newest.resize_with(self.sequences.len(), Vec::new);
        self.newest.iter_mut().for_each(Vec::clear);
        let Some(user) = user else { return };
        let behaviors: Vec<_> = user
            .recent()
            .iter()
            .take_while(|behavior| behavior.time < time)
            .collect();
        for behavior in behaviors.iter().rev() {
            let Some(item) = behavior.item else { continue };
            let mut found = None;
            for sequence in 0..self.sequences.len() {
                if !self.sequences.has(sequence, behavior.kind) {
                    continue;
                }
                if !*found.get_or_insert_with(|| self.lay(item, items, look)) {
                    continue;
                }
                self.add(sequence, time.since(behavior.time), 1.0);
                if self.newest[sequence].len() < NEWEST {
                    self.newest[sequence].push(self.laid.clone());
                }
            }
        }
        self.fill_history(user, time, items, look);
        for sum in &mut self.sums {
            let scale = scale(sum);
            sum.iter_mut().for_each(|value| *value *= scale);
        }
    }

    fn fill_history(
        &mut self,
        user: &User,
        time: Timestamp,
        items: &ItemTable,
        look: &mut TextLook,
    ) {
        let mut entries: Vec<Entry<'_>> = user
            .history(SlotId::ITEM)
            .filter(|entry| !entry.key.is_empty())
            .collect();
        if entries.len() > ENTRIES_MAX {
            let order = |entry: &Entry<'_>| (std::cmp::Reverse(entry.last), entry.hash);
            entries.select_nth_unstable_by_key(ENTRIES_MAX, order);
            entries.truncate(ENTRIES_MAX);
        }
        // Sums of floats: always in one order.
        entries.sort_unstable_by(|one, other| (one.hash, one.key).cmp(&(other.hash, other.key)));
        let late = user.history_newest() >= time;
        for entry in entries {
            let mut found = None;
            for cell in entry.cells() {
                // As for the counts: of a late row, what may be newer is left out.
                if late
                    && (cell.end() > time || (cell.length == Length::Older && entry.last >= time))
                {
                    continue;
                }
                let (_, kind) = of_series(cell.series);
                let middle = if cell.length == Length::Older {
                    entry.first
                } else {
                    cell.middle().min(entry.last)
                };
                for sequence in 0..self.sequences.len() {
                    if !self.sequences.has(sequence, kind) {
                        continue;
                    }
                    if *found.get_or_insert_with(|| self.lay(entry.key, items, look)) {
                        let count = f64::from(cell.count) as f32;
                        self.add(sequence, time.since(middle), count);
                    }
                }
            }
        }
    }

    /// Sets a candidate's likenesses.
    fn candidate(
        &mut self,
        place: usize,
        item: &str,
        items: &ItemTable,
        look: &mut TextLook,
        batch: &mut FeatureBatch,
    ) {
        if !self.lay(item, items, look) {
            return;
        }
        let vector = &self.laid;
        for sequence in 0..self.sequences.len() {
            for stretch in 0..self.spec.stretches() {
                let sum = &self.sums[sequence * self.spec.stretches() + stretch];
                let at = self.spec.place(sequence, Against::Stretch(stretch));
                batch.set_alike(place, at, dot(vector, sum));
            }
            let nearest = self.newest[sequence]
                .iter()
                .map(|met| dot(vector, met))
                .max_by(f32::total_cmp);
            if let Some(nearest) = nearest {
                let at = self.spec.place(sequence, Against::Newest);
                batch.set_alike(place, at, nearest);
            }
        }
    }

    /// Adds the item that was looked up last.
    fn add(&mut self, sequence: usize, age_ms: i64, count: f32) {
        let stretch = self.spec.stretch(age_ms);
        let sum = &mut self.sums[sequence * self.spec.stretches() + stretch];
        for (sum, value) in sum.iter_mut().zip(&self.laid) {
            *sum += count * value;
        }
    }

    /// Lays an item's vector down, if its text is known and has one; of one that is all mean, 0. Gives whether it has.
    fn lay(&mut self, id: &str, items: &ItemTable, look: &mut TextLook) -> bool {
        let known = items.item(id);
        let Some((item, hash)) = known.and_then(|item| Some((item, item.text?))) else {
            look.no_text();
            return false;
        };
        let template = self.sequences.item_template();
        let vector = look.look(hash, || texts::of_item(template, id, item, items));
        let (Some(vector), Some(spread)) = (vector, look.spread()) else {
            return false;
        };
        spread.standardise(&vector, &mut self.laid);
        let scale = scale(&self.laid);
        self.laid.iter_mut().for_each(|value| *value *= scale);
        true
    }
}

/// What makes a vector one of length 1; 0 for the vector 0.
fn scale(vector: &[f32]) -> f32 {
    let square = dot(vector, vector);
    if square > 0.0 {
        square.sqrt().recip()
    } else {
        0.0
    }
}

/// The inner product, summed in eight lanes: always in this order, and the compiler can do all lanes at once.
fn dot(one: &[f32], other: &[f32]) -> f32 {
    let (ones, rest) = one.as_chunks::<8>();
    let (others, other_rest) = other.as_chunks::<8>();
    let mut lanes = [0.0_f32; 8];
    for (one, other) in ones.iter().zip(others) {
        for lane in 0..8 {
            lanes[lane] += one[lane] * other[lane];
        }
    }
    let rest: f32 = rest
        .iter()
        .zip(other_rest)
        .map(|(one, other)| one * other)
        .sum();
    lanes.iter().sum::<f32>() + rest
}
