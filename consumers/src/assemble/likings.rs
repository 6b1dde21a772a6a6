//! How alike candidates are to what a user met, by their texts: the likenesses of a row.
//!
//! Of a user, behaviors count as everywhere in a row: strictly before its time (`STATE-3`). What stands for a behavior here is its item's text. A vector that
//! is not there yet is left out, and its text is given to whoever assembles, to be asked for; nothing waits.

use std::collections::BTreeSet;
use std::sync::Arc;

use headwater_config::{Config, Template};
use headwater_model::{Against, FeatureBatch, LikenessSpec};
use headwater_state::{
    CurrentEncoder, Entry, ItemTable, KindId, Length, Looked, SlotId, TextHash, Timestamp, User,
    VectorTable, of_series,
};

use super::Row;
use crate::embed::{Embed, EmbedError, embed_whole};
use crate::metrics::TextMetrics;
use crate::texts;

/// Entries of a user's history that are looked at, the newest: each may be a read of the store, and older tastes are in these, too.
const ENTRIES_MAX: usize = 256;
/// Newest behaviors of a sequence that a candidate is held against one by one.
const NEWEST: usize = 16;
/// Texts remembered as told of, at most. One that is told of again has a vector by then, and is passed over.
const TOLD_MAX: usize = 100_000;

/// What comes of a lookup, as the metric has it.
const OUTCOMES: [&str; 4] = ["hit", "miss", "no_text", "failed"];
const HIT: usize = 0;
const MISS: usize = 1;
const NO_TEXT: usize = 2;
const FAILED: usize = 3;

/// A text that has no vector yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingText {
    /// Its hash.
    pub hash: TextHash,
    /// The canonical text.
    pub text: String,
}

/// What a sequence is made of.
#[derive(Debug)]
enum Kinds {
    /// These.
    Of(Vec<KindId>),
    /// All but these.
    AllBut(Vec<KindId>),
}

impl Kinds {
    fn have(&self, kind: KindId) -> bool {
        match self {
            Self::Of(kinds) => kinds.contains(&kind),
            Self::AllBut(kinds) => !kinds.contains(&kind),
        }
    }
}

/// One item that the user met.
#[derive(Debug)]
struct Met {
    vector: Arc<[f32]>,
    /// What makes it a vector of length 1.
    scale: f32,
}

/// A user's likings at one moment.
#[derive(Debug)]
pub(super) struct Likings {
    table: Arc<VectorTable>,
    metrics: TextMetrics,
    template: Template,
    spec: LikenessSpec,
    sequences: Vec<Kinds>,
    encoder: Option<CurrentEncoder>,
    /// The same in hexadecimal.
    encoder_name: Option<String>,
    /// By sequence and stretch: a sum of vectors, of length 1 in the end.
    sums: Vec<Vec<f32>>,
    /// Of each sequence, newest first.
    newest: Vec<Vec<Met>>,
    missing: Vec<MissingText>,
    /// Texts that were told of as missing.
    told: BTreeSet<TextHash>,
    /// Lookups since metrics were told, by outcome.
    lookups: [u64; OUTCOMES.len()],
    /// What makes vectors at once, where nothing comes by topics.
    embed: Option<Box<dyn Embed>>,
    failure: Option<EmbedError>,
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
            "item {} kinds {:?} impressions {:?}",
            config.texts.item, config.sequences, config.kinds.impressions
        ),
    }
}

impl Likings {
    pub(super) fn new(config: &Config, table: Arc<VectorTable>, metrics: TextMetrics) -> Self {
        let ids = |names: &[String]| names.iter().map(|name| KindId::of(name)).collect();
        let sequences = config.sequences.values().map(|kinds| {
            if kinds.is_empty() {
                Kinds::AllBut(ids(&config.kinds.impressions))
            } else {
                Kinds::Of(ids(kinds))
            }
        });
        Self {
            table,
            metrics,
            template: config.texts.item.clone(),
            spec: spec(config),
            sequences: sequences.collect(),
            encoder: None,
            encoder_name: None,
            sums: Vec::new(),
            newest: Vec::new(),
            missing: Vec::new(),
            told: BTreeSet::new(),
            lookups: [0; OUTCOMES.len()],
            embed: None,
            failure: None,
        }
    }

    /// Has missing vectors made at once, for the engine and for backtests: what comes out then does not depend on how fast anybody is.
    pub(super) fn embed_at_once(&mut self, embed: Box<dyn Embed>) {
        self.embed = Some(embed);
    }

    /// Why vectors were not made, once.
    pub(super) fn failure(&mut self) -> Option<EmbedError> {
        self.failure.take()
    }

    /// Makes the vectors that are missing, where that is to be done at once. Gives whether it did: then the row is to be looked at again.
    pub(super) fn make_missing(&mut self) -> bool {
        let Some(embed) = &mut self.embed else {
            return false;
        };
        if self.missing.is_empty() || self.failure.is_some() {
            return false;
        }
        let texts: Vec<&str> = self.missing.iter().map(|one| one.text.as_str()).collect();
        let made = embed_whole(&mut **embed, &texts).and_then(|vectors| {
            let hashes = self.missing.iter().map(|one| one.hash);
            let made: Vec<_> = hashes.zip(vectors).collect();
            Ok(self.table.insert(embed.encoder(), &made)?)
        });
        self.failure = made.err();
        self.failure.is_none()
    }

    /// Whose vectors the last row saw, if there were any.
    pub(super) fn encoder(&self) -> Option<CurrentEncoder> {
        self.encoder
    }

    /// The same in hexadecimal.
    pub(super) fn encoder_name(&self) -> Option<&str> {
        self.encoder_name.as_deref()
    }

    /// Forgets which texts were told of.
    pub(super) fn forget_missing(&mut self) {
        self.told.clear();
    }

    /// Texts of the last rows that have no vector and were not told of before.
    pub(super) fn missing(&self) -> &[MissingText] {
        &self.missing
    }

    /// Sets the likenesses of all candidates.
    pub(super) fn fill_batch(
        &mut self,
        row: &Row<'_>,
        items: &ItemTable,
        batch: &mut FeatureBatch,
    ) {
        self.fill(row.user, row.time, items);
        for (place, candidate) in row.candidates.iter().enumerate() {
            self.candidate(place, candidate, items, batch);
        }
        for (outcome, count) in OUTCOMES.iter().zip(&mut self.lookups) {
            let counter = self.metrics.lookups.with_label_values(&[outcome]);
            counter.inc_by(std::mem::take(count));
        }
    }

    /// Begins a request: what the user met before `time`.
    fn fill(&mut self, user: Option<&User>, time: Timestamp, items: &ItemTable) {
        let encoder = self.table.current();
        if encoder != self.encoder {
            self.encoder_name = encoder.map(|encoder| encoder.id.to_string());
            self.encoder = encoder;
        }
        self.missing.clear();
        let width = self.encoder.map_or(0, |encoder| usize::from(encoder.width));
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
                if !self.sequences[sequence].have(behavior.kind) {
                    continue;
                }
                let looked = match &found {
                    Some(looked) => looked,
                    None => found.insert(self.look(item, items)),
                };
                let Some(vector) = looked.clone() else {
                    continue;
                };
                self.add(sequence, time.since(behavior.time), 1.0, &vector);
                if self.newest[sequence].len() < NEWEST {
                    let scale = scale(&vector);
                    self.newest[sequence].push(Met { vector, scale });
                }
            }
        }
        self.fill_history(user, time, items);
        for sum in &mut self.sums {
            let scale = scale(sum);
            sum.iter_mut().for_each(|value| *value *= scale);
        }
    }

    fn fill_history(&mut self, user: &User, time: Timestamp, items: &ItemTable) {
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
                    if !self.sequences[sequence].have(kind) {
                        continue;
                    }
                    let looked = match &found {
                        Some(looked) => looked,
                        None => found.insert(self.look(entry.key, items)),
                    };
                    if let Some(vector) = looked.clone() {
                        let count = f64::from(cell.count) as f32;
                        self.add(sequence, time.since(middle), count, &vector);
                    }
                }
            }
        }
    }

    /// Sets a candidate's likenesses.
    fn candidate(&mut self, place: usize, item: &str, items: &ItemTable, batch: &mut FeatureBatch) {
        let Some(vector) = self.look(item, items) else {
            return;
        };
        let own = scale(&vector);
        for sequence in 0..self.sequences.len() {
            for stretch in 0..self.spec.stretches() {
                let sum = &self.sums[sequence * self.spec.stretches() + stretch];
                let at = self.spec.place(sequence, Against::Stretch(stretch));
                batch.set_alike(place, at, own * dot(&vector, sum));
            }
            let nearest = self.newest[sequence]
                .iter()
                .map(|met| own * met.scale * dot(&vector, &met.vector))
                .max_by(f32::total_cmp);
            if let Some(nearest) = nearest {
                let at = self.spec.place(sequence, Against::Newest);
                batch.set_alike(place, at, nearest);
            }
        }
    }

    fn add(&mut self, sequence: usize, age_ms: i64, count: f32, vector: &[f32]) {
        let stretch = self.spec.stretch(age_ms);
        let weight = count * scale(vector);
        let sum = &mut self.sums[sequence * self.spec.stretches() + stretch];
        for (sum, value) in sum.iter_mut().zip(vector) {
            *sum += weight * value;
        }
    }

    /// An item's vector. One whose text is known and has none is missing.
    fn look(&mut self, id: &str, items: &ItemTable) -> Option<Arc<[f32]>> {
        let known = items.item(id);
        let Some((item, hash)) = known.and_then(|item| Some((item, item.text?))) else {
            self.lookups[NO_TEXT] += 1;
            return None;
        };
        let looked = match self.encoder {
            Some(encoder) => self.table.look(encoder, &hash),
            None => Ok(Looked::Miss),
        };
        match looked {
            Ok(Looked::Hit(vector)) => {
                self.lookups[HIT] += 1;
                return Some(vector);
            }
            Ok(Looked::Miss) => self.lookups[MISS] += 1,
            // Scores do not wait for texts, nor fail with them; whoever follows vectors into the store says what is wrong with it.
            Err(_) => self.lookups[FAILED] += 1,
        }
        if self.told.len() >= TOLD_MAX {
            self.told.clear();
        }
        if self.told.insert(hash) {
            let text = texts::of_item(&self.template, id, item, items);
            self.missing.push(MissingText { hash, text });
        }
        None
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
