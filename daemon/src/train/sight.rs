//! What a model sees of rows that were scored by other layers than its own, or by other projections: made here, from the runs and texts that the rows name, and the vectors of their topic.
//!
//! A run goes through the layers once, and gives the vector of each row that sees a part of it: attention is causal. What is made anew agrees with what the stream would have made to rounding, and not to the bit.

use std::collections::{BTreeMap, BTreeSet};

use headwater_config::Config;
use headwater_consumers::log::Log;
use headwater_model::bahe::segment::start_of;
use headwater_model::bahe::{BaheModel, Deep, RowVectors};
use headwater_state::EncoderId;

use super::TrainError;
use super::labelled::{Matched, SeenTexts};
use super::runs::{Runs, Saw, Vectors};

/// Requests that are seen at a look, at most: each may have a run of its own.
const ROWS_MAX: usize = 5_000;
/// Items that go through the layers at once.
const ITEMS: usize = 256;

/// A request, or a part of one, as it was taken in.
#[derive(Debug)]
struct Row {
    saw: Saw,
    /// Places of the texts of its candidates that have labels; none: it does not say.
    items: Vec<Option<u32>>,
    /// The head's projections of what the user did, (sequences, projected), once they are made.
    users: Vec<f32>,
}

/// What one model sees.
#[derive(Debug)]
pub(super) struct Sight<'a> {
    model: &'a BaheModel,
    runs: Runs,
    rows: BTreeMap<String, Row>,
    /// By text: the head's projection of an item's vector.
    items: BTreeMap<u32, Vec<f32>>,
}

impl<'a> Sight<'a> {
    /// Of no row so far; none: the model looks at no texts.
    pub(super) fn of(model: &'a BaheModel) -> Option<Self> {
        model.deep()?;
        let manifest = model.manifest();
        Some(Self {
            model,
            runs: Runs::new(&manifest.sequences, manifest.limit),
            rows: BTreeMap::new(),
            items: BTreeMap::new(),
        })
    }

    /// Whether there is no row that it could see.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Takes in what a row names, if that is enough.
    pub(super) fn take(&mut self, matched: &Matched<'_>) {
        let logged = matched.logged;
        let encoder = self.model.encoder().map(|of| EncoderId(of).to_string());
        // Likenesses are of that encoder's vectors, too.
        let is_ours = encoder.is_some() && logged.embeddings.as_deref() == encoder.as_deref();
        let is_more = self.rows.len() < ROWS_MAX;
        let vectors = logged.vectors.as_ref();
        let Some(vectors) = vectors.filter(|_| is_ours && is_more) else {
            return;
        };
        // One that is damaged where the champion does not look is not seen, and keeps no other from being seen.
        let Ok(Some(saw)) = self.runs.take(&logged.user, vectors) else {
            return;
        };
        let candidates = logged.candidates.iter().zip(&matched.labels);
        let items = candidates.map(|(candidate, labels)| {
            labels.as_ref()?;
            self.runs.item(candidate).ok().flatten()
        });
        let items = items.collect();
        let users = Vec::new();
        self.rows.insert(key(matched), Row { saw, items, users });
    }

    /// Makes all that these rows need, until `stop` says so. Of rows whose texts have no vector it sees nothing.
    ///
    /// # Errors
    /// The log's, or the layers'.
    pub(super) fn make(
        &mut self,
        of: (&Config, &dyn Log),
        stop: &dyn Fn() -> bool,
    ) -> Result<(), TrainError> {
        let (Some(deep), Some(encoder)) = (self.model.deep(), self.model.encoder()) else {
            return Ok(());
        };
        let width = self.model.manifest().head.width;
        let vectors = self.runs.vectors(of, (EncoderId(encoder), width), false)?;
        let runs = &self.runs;
        // What is no text's is always there.
        self.rows
            .retain(|_, row| runs.is_whole(&vectors, &row.saw, 0));
        self.make_users(deep, (&vectors, width), stop)?;
        self.make_items(deep, (&vectors, width), stop)
    }

    fn make_users(
        &mut self,
        deep: &Deep,
        (vectors, width): (&Vectors, usize),
        stop: &dyn Fn() -> bool,
    ) -> Result<(), TrainError> {
        let limit = self.model.manifest().limit as u64;
        // By history and where a run begins: its sequence, and behaviors of it that rows see.
        let mut wanted: BTreeMap<(u32, u64), (usize, BTreeSet<u32>)> = BTreeMap::new();
        for row in self.rows.values() {
            for (sequence, count) in row.saw.counts.iter().enumerate() {
                let history = row.saw.histories + sequence as u32;
                let start = start_of(u64::from(*count), limit);
                let of_run = wanted.entry((history, start));
                of_run
                    .or_insert_with(|| (sequence, BTreeSet::new()))
                    .1
                    .insert(*count);
            }
        }
        // By history and behaviors before a row: the head's projection of that sequence's vector.
        let mut made_of: BTreeMap<(u32, u32), Vec<f32>> = BTreeMap::new();
        for ((history, start), (sequence, counts)) in wanted {
            if stop() {
                return Ok(());
            }
            let lengths: Vec<usize> = counts
                .iter()
                .map(|count| (u64::from(*count) - start) as usize)
                .collect();
            let longest = lengths.iter().copied().max().unwrap_or_default();
            let (texts, gaps) = self.runs.run(history, start, longest);
            let of: Vec<&[f32]> = texts.iter().map(|text| vectors.of(*text, width)).collect();
            let made = deep.run_vectors(sequence, (&of, &gaps), &lengths)?;
            for (count, vector) in counts.into_iter().zip(made) {
                let seen = self.projected(|row| {
                    let scorer = self.model.scorer();
                    scorer.set_user(sequence, &vector, row);
                    let each = row.users().len() / self.model.manifest().sequences.len();
                    row.users()[sequence * each..][..each].to_vec()
                });
                made_of.insert((history, count), seen);
            }
        }
        for row in self.rows.values_mut() {
            for (history, count) in (row.saw.histories..).zip(&row.saw.counts) {
                row.users.extend(&made_of[&(history, *count)]);
            }
        }
        Ok(())
    }

    fn make_items(
        &mut self,
        deep: &Deep,
        (vectors, width): (&Vectors, usize),
        stop: &dyn Fn() -> bool,
    ) -> Result<(), TrainError> {
        let rows = self.rows.values();
        let texts = rows.flat_map(|row| row.items.iter().flatten().copied());
        let texts: BTreeSet<u32> = texts.filter(|text| vectors.has(*text)).collect();
        let texts: Vec<u32> = texts.into_iter().collect();
        for some in texts.chunks(ITEMS) {
            if stop() {
                break;
            }
            let of: Vec<&[f32]> = some.iter().map(|text| vectors.of(*text, width)).collect();
            for (text, vector) in some.iter().zip(deep.item_vectors(&of)?) {
                let seen = self.projected(|row| {
                    self.model.scorer().set_item(0, &vector, row);
                    row.item(0).unwrap_or_default().to_vec()
                });
                self.items.insert(*text, seen);
            }
        }
        Ok(())
    }

    /// What the head makes of a vector, in a row of one candidate.
    fn projected(&self, set: impl FnOnce(&mut RowVectors) -> Vec<f32>) -> Vec<f32> {
        let mut row = RowVectors::default();
        self.model.scorer().begin(1, &mut row);
        set(&mut row)
    }

    /// Whether it sees all candidates of a row that have labels.
    pub(super) fn has(&self, matched: &Matched<'_>) -> bool {
        let Some(row) = self.rows.get(&key(matched)) else {
            return false;
        };
        let labelled = row.items.iter().zip(&matched.labels);
        let mut labelled = labelled.filter(|(_, labels)| labels.is_some());
        labelled.all(|(item, _)| item.is_some_and(|item| self.items.contains_key(&item)))
    }

    /// The head's projections of what the user did, and of a candidate.
    pub(super) fn saw(&self, matched: &Matched<'_>, place: usize) -> Option<SeenTexts<'_>> {
        let row = self.rows.get(&key(matched))?;
        let item = self.items.get(&(*row.items.get(place)?)?)?;
        Some((&row.users, item))
    }
}

/// By what a record of the feature log is found again: a request's parts have different candidates.
fn key(matched: &Matched<'_>) -> String {
    let first = matched.logged.candidates.first();
    let first = first.map_or("", |candidate| &*candidate.item_id);
    format!("{}\0{first}", matched.row)
}

#[cfg(test)]
mod tests;
