//! What a trained model sees of a row beside its numbers: vectors of the user's sequences, and of the candidates' texts.
//!
//! A row takes what is there and says what it took: of each sequence, of how many behaviors its vector is made. None of these happened at or after the row's
//! time (`STATE-3`): a vector counts only if its digest is that of the sequence's first behaviors, and all of them are before the row.

use std::sync::Arc;

use headwater_model::bahe::{BaheModel, RowVectors};
use headwater_model::dinmp::{Asked, Interest, ItemKeys, Seen};
use headwater_model::{Baseline, FeatureBatch, LoggedRequest, LoggedVectors, Scores};
use headwater_state::{CurrentEncoder, EncoderId, ItemTable, Looked, SequenceId, TextHash, User};

use super::Row;
use super::key_vectors::Keyed;
use super::runs::{Run, logged_text};
use crate::deepen::{Asked as AskedVectors, DeepVectors, Deepen, WantedRun};
use crate::error::Error;
use crate::metrics::DeepMetrics;

/// Where vectors come from that are not there.
#[derive(Debug)]
pub enum Source {
    /// They are asked for, and a later row has them.
    Asked(Arc<AskedVectors>),
    /// They are made at once, in event time: for the engine and for backtests.
    AtOnce(Box<Deepen>),
}

/// A trained model beside the rows.
#[derive(Debug)]
pub(super) struct Trained {
    model: Arc<BaheModel>,
    name: String,
    /// What its head sees texts by, in hexadecimal.
    towers: String,
    sequences: Vec<SequenceId>,
    /// What stands for a sequence without behaviors.
    empty: Vec<Vec<f32>>,
    /// The vector of an item without a text.
    no_text: Vec<f32>,
    /// None where the model looks at no texts.
    deep: Option<(Arc<DeepVectors>, Source)>,
    metrics: DeepMetrics,
    row: RowVectors,
    /// The candidates' texts.
    texts: Vec<Option<TextHash>>,
    /// What a row sees of its user's past, where the model weighs it.
    seen: Seen,
    asked: Vec<Asked>,
    /// What a row took of each sequence.
    took: Vec<Run>,
    lacks: Vec<&'static str>,
    /// Whether the vectors of texts are of the encoder that the model was trained on.
    is_usable: bool,
    scored: bool,
    failure: Option<Error>,
}

impl Trained {
    pub(super) fn new(
        model: Arc<BaheModel>,
        deep: Option<(Arc<DeepVectors>, Source)>,
        metrics: DeepMetrics,
    ) -> Result<Self, Error> {
        let names = &model.manifest().sequences;
        let failed = |error| Error::Deep(Box::new(error));
        let (empty, no_text) = match model.deep() {
            Some(layers) => {
                let empty = (0..names.len()).map(|sequence| layers.emptiness(sequence));
                let empty = empty.collect::<Result<_, _>>().map_err(failed)?;
                // As in training: the vector of a text without tokens is 0.
                let zero = vec![0.0; model.manifest().head.width];
                let mut no_text = layers.item_vectors(&[&zero]).map_err(failed)?;
                (empty, no_text.swap_remove(0))
            }
            None => (Vec::new(), Vec::new()),
        };
        Ok(Self {
            name: format!("{}-{}", BaheModel::NAME, model.version()),
            towers: model
                .towers()
                .map_or_else(String::new, |towers| EncoderId(towers).to_string()),
            sequences: names.iter().map(|name| SequenceId::of(name)).collect(),
            took: vec![Run::default(); if deep.is_some() { names.len() } else { 0 }],
            seen: model.interest().map_or_else(Seen::default, Interest::seen),
            model,
            empty,
            no_text,
            deep,
            metrics,
            row: RowVectors::default(),
            texts: Vec::new(),
            asked: Vec::new(),
            lacks: Vec::new(),
            is_usable: false,
            scored: false,
            failure: None,
        })
    }

    /// The model's name and version.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The model.
    pub(super) fn model(&self) -> &BaheModel {
        &self.model
    }

    /// The version alone.
    pub(super) fn version(&self) -> u32 {
        self.model.version()
    }

    /// Whether the last row has scores of the model, and not the baseline's alone.
    pub(super) fn has_scored(&self) -> bool {
        self.scored
    }

    /// Whether it looks at texts.
    pub(super) fn looks_at_texts(&self) -> bool {
        self.deep.is_some()
    }

    /// What the last row went without.
    pub(super) fn lacks(&self) -> &[&'static str] {
        &self.lacks
    }

    /// Why vectors were not made at once, once.
    pub(super) fn failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    /// A user's sequences have grown: their vectors will be wanted.
    pub(super) fn grown(&self, id: &str, user: &User, grown: &[SequenceId]) {
        let Some((_, Source::Asked(asked))) = &self.deep else {
            return;
        };
        for (place, sequence) in self.sequences.iter().enumerate() {
            if grown.contains(sequence)
                && let Some(sequence) = user.sequence(*sequence)
            {
                asked.run(id, place, sequence);
            }
        }
    }

    /// Asks for the vectors that a row would take of it which are not there: of a model that does not score yet.
    pub(super) fn want(&self, row: &Row<'_>, items: &ItemTable) {
        let Some((vectors, Source::Asked(asked))) = &self.deep else {
            return;
        };
        let layers = vectors.layers();
        for (place, id) in self.sequences.iter().enumerate() {
            let sequence = row.user.and_then(|user| user.sequence(*id));
            let Some(sequence) = sequence.filter(|sequence| !sequence.entries().is_empty()) else {
                continue;
            };
            let whole = sequence.entries().len();
            // One that cannot be read is made again.
            let kept = vectors.users.get(layers.id, row.user_id, *id);
            let is_made = kept.unwrap_or_default().iter().any(|kept| {
                kept.start == sequence.start() && kept.digest == sequence.digest(whole)
            });
            if !is_made {
                asked.run(row.user_id, place, sequence);
            }
        }
        let items = row.candidates.iter().filter_map(|id| items.item(id)?.text);
        for text in items {
            if !matches!(vectors.items.look(layers, &text), Ok(Looked::Hit(_))) {
                asked.item(text);
            }
        }
    }

    /// Looks the vectors of a row up; `encoder` is whose vectors of texts there are.
    pub(super) fn fill(
        &mut self,
        row: &Row<'_>,
        items: &ItemTable,
        encoder: Option<CurrentEncoder>,
    ) {
        self.lacks.clear();
        self.texts.clear();
        self.model
            .scorer()
            .begin(row.candidates.len(), &mut self.row);
        self.took.iter_mut().for_each(Run::clear);
        // Vectors of another encoder are not what the layers, and the row's likenesses, were trained on.
        let trained_on = self.model.encoder();
        self.is_usable = trained_on.is_none() || encoder.map(|encoder| encoder.id.0) == trained_on;
        if !self.is_usable {
            self.lacks.push("encoder");
        }
        if self.deep.is_none() || !self.is_usable {
            return;
        }
        for place in 0..self.sequences.len() {
            let found = self.user(place, row);
            let vector = match &found {
                Ok(vector) => vector.as_deref(),
                Err(_) => None,
            };
            let vector = vector.unwrap_or(&self.empty[place]);
            let scorer = self.model.scorer();
            scorer.set_user(place, vector, &mut self.row);
            self.failure = self.failure.take().or(found.err());
        }
        if let Err(error) = self.candidates(row, items) {
            self.failure.get_or_insert(error);
        }
    }

    /// The vector of one of the user's sequences, if it has behaviors before the row and a vector of some of them.
    fn user(&mut self, place: usize, row: &Row<'_>) -> Result<Option<Arc<[f32]>>, Error> {
        let count = |outcome: &str| self.metrics.users.with_label_values(&[outcome]).inc();
        let id = self.sequences[place];
        let sequence = row.user.and_then(|user| user.sequence(id));
        let Some(sequence) = sequence else {
            count("empty");
            return Ok(None);
        };
        let before = sequence.before(row.time);
        let limit = self.model.manifest().limit as u64;
        let is_late = before < sequence.entries().len();
        if !self.took[place].take(sequence, before, limit) {
            count("late");
            self.lack("user_vectors");
            return Ok(None);
        }
        if before == 0 {
            count("empty");
            return Ok(None);
        }
        let Some((vectors, source)) = &mut self.deep else {
            return Ok(None);
        };
        if let Source::AtOnce(deepen) = source {
            let wanted = WantedRun {
                user: row.user_id.into(),
                place,
                sequence: sequence.clone(),
            };
            deepen.runs(&[wanted], &[before])?;
        }
        let layers = vectors.layers().id;
        let kept = match vectors.users.get(layers, row.user_id, id) {
            Ok(kept) => kept,
            Err(headwater_state::Error::Damaged { .. }) => Vec::new(),
            Err(source) => {
                count("failed");
                self.lack("user_vectors");
                return Err(Error::Vectors { source });
            }
        };
        let found = kept.into_iter().find(|kept| {
            let used = kept.count as usize;
            kept.start == sequence.start() && used <= before && kept.digest == sequence.digest(used)
        });
        let used = found.as_ref().map_or(0, |found| found.count as usize);
        self.took[place].used = used;
        count(match used {
            0 if is_late => "late",
            0 => "miss",
            used if used < before => "behind",
            _ => "current",
        });
        if used < sequence.entries().len()
            && let Source::Asked(asked) = source
        {
            asked.run(row.user_id, place, sequence);
        }
        if used == 0 {
            self.lack("user_vectors");
        }
        Ok(found.map(|found| found.vector))
    }

    fn lack(&mut self, what: &'static str) {
        if !self.lacks.contains(&what) {
            self.lacks.push(what);
        }
    }

    fn candidates(&mut self, row: &Row<'_>, items: &ItemTable) -> Result<(), Error> {
        let Some((vectors, source)) = &mut self.deep else {
            return Ok(());
        };
        let layers = vectors.layers();
        let text = |candidate: &str| items.item(candidate).and_then(|item| item.text);
        if let Source::AtOnce(deepen) = source {
            let mut missing: Vec<TextHash> = Vec::new();
            for hash in row
                .candidates
                .iter()
                .filter_map(|candidate| text(candidate))
            {
                let is_there = matches!(vectors.items.look(layers, &hash), Ok(Looked::Hit(_)));
                if !is_there && !missing.contains(&hash) {
                    missing.push(hash);
                }
            }
            deepen.items(&missing)?;
        }
        let mut outcomes = [0_u64; 4];
        self.texts.extend(row.candidates.iter().map(|of| text(of)));
        for (place, of) in self.texts.iter().enumerate() {
            let Some(hash) = of else {
                outcomes[2] += 1;
                let scorer = self.model.scorer();
                scorer.set_item(place, &self.no_text, &mut self.row);
                continue;
            };
            match vectors.items.look(layers, hash) {
                Ok(Looked::Hit(vector)) => {
                    outcomes[0] += 1;
                    let scorer = self.model.scorer();
                    scorer.set_item(place, &vector, &mut self.row);
                    continue;
                }
                Ok(Looked::Miss) => outcomes[1] += 1,
                // As one that is missing: it is made again.
                Err(_) => outcomes[3] += 1,
            }
            if let Source::Asked(asked) = source {
                asked.item(*hash);
            }
        }
        for (outcome, count) in ["hit", "miss", "no_text", "failed"].iter().zip(outcomes) {
            let counter = self.metrics.items.with_label_values(&[outcome]);
            counter.inc_by(count);
        }
        if self.row.known() < row.candidates.len() {
            self.lacks.push("item_vectors");
        }
        Ok(())
    }

    /// Puts the model's scores in the place of the baseline's, of all candidates whose vectors are there.
    pub(super) fn score(
        &mut self,
        (row, items): (&Row<'_>, &ItemTable),
        (batch, keyed): (&FeatureBatch, Option<&Keyed>),
        (baseline, scores): (&Baseline, &mut Scores),
    ) {
        self.scored = self.is_usable && self.row.known() > 0;
        if !self.scored {
            return;
        }
        let mut of = Vec::new();
        if let (Some(interest), Some(keyed)) = (self.model.interest(), keyed) {
            self.seen.clear();
            self.asked.clear();
            let user = row.pseudonym.unwrap_or_default();
            let told = (self.seen).request(user, keyed.key_vectors(), interest.spec());
            let request = told.expect("invariant: key-vectors are of the model's schema");
            for candidate in row.candidates {
                let groups = Keyed::groups_of(candidate, items);
                let item = self.seen.item(ItemKeys::of(candidate, groups));
                self.asked.push(Asked { request, item });
            }
            let texts = if interest.texts() > 0 {
                self.row.items()
            } else {
                &[]
            };
            of = interest.forward(&self.seen, &self.asked, texts);
        }
        let seen = (&self.row, &*of);
        let of = (batch, self.model.scenario(row.scenario_name));
        self.model.scorer().score(of, seen, (baseline, scores));
        if !scores.are_finite() || !self.row.is_finite() {
            // Numbers beyond all that was learned: nobody could read them back.
            baseline.score(batch, scores);
            self.scored = false;
            self.lack("numbers");
            self.metrics.refused.inc();
        }
    }

    /// Says in a request's rows what the model saw of texts; nothing where they have scores of the baseline alone, or it looks at no texts.
    pub(super) fn log<'a>(&'a self, logged: &mut LoggedRequest<'a>) {
        let Some((vectors, _)) = self.deep.as_ref().filter(|_| self.scored) else {
            return;
        };
        let sequences = self.took.iter().zip(&self.model.manifest().sequences);
        let sequences = sequences.map(|(took, name)| took.logged(name));
        logged.vectors = Some(LoggedVectors {
            layers: vectors.layers().id.to_string().into(),
            towers: self.towers.as_str().into(),
            sequences: sequences.collect(),
            users: self.row.users().into(),
        });
        let candidates = logged.candidates.iter_mut().zip(&self.texts);
        for (place, (candidate, text)) in candidates.enumerate() {
            if let Some(vector) = self.row.item(place) {
                candidate.vector = vector.into();
                candidate.text = Some(logged_text(*text).into());
            }
        }
    }
}
