//! What daemons logged, to rows: the rows of the feature log that the topic of labels speaks of.
//!
//! Before it stands [`Labelled`]; after it the same [`Recorded`] that recordings give. Rows saw what they saw when they were
//! scored, so nothing of it is computed again but the baseline's scores, over which a model learns.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use headwater_config::Config;
use headwater_consumers::assemble::Assembler;
use headwater_consumers::embed::Embed as _;
use headwater_consumers::log::Log;
use headwater_model::bahe::{BaheModel, History, squashed};
use headwater_model::dinmp::{Reads, Seen};
use headwater_model::language::TextEncoder;
use headwater_model::{FeatureSchema, Tensor};
use headwater_state::{CurrentEncoder, EncoderId};

use super::TrainError;
use super::artifact::Artifact;
use super::labelled::{Labelled, Matched, Reached, Wanted};
use super::reading::Reading;
use super::rows::{Before, Gathered, Met, Recorded};
use super::runs::{Runs, Saw};
use super::split::{Piece, Split};
use super::vectors::tensor;

/// What could not be learned from.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LeftOut {
    /// Labelled items without a row in the feature log.
    pub(super) without_row: u64,
    /// Logged requests of another schema.
    pub(super) other_schema: u64,
    /// Labelled items of which other tasks' labels may still come.
    pub(super) waiting: u64,
    /// Labelled rows that do not hold what the champion sees of texts.
    pub(super) without_vectors: u64,
}

/// Rows, what could not be learned from, and how far what was logged is used up by them.
pub(super) type Read = (Recorded, LeftOut, Reached);

struct Reader<'a> {
    config: &'a Config,
    /// Who is to be judged against; none: the baseline.
    champion: Option<&'a BaheModel>,
    users: BTreeMap<String, u32>,
    /// What users did, where layers learn of it.
    runs: Option<Runs>,
    looks: Option<&'a Looks>,
    rows: Vec<(String, Met)>,
    seen: Seen,
    without_vectors: u64,
}

/// What layers that learn look at: which sequences, runs of how many behaviors at most, and whose vectors of their texts.
#[derive(Clone, Debug)]
pub(super) struct Looks {
    pub(super) sequences: Vec<String>,
    pub(super) limit: usize,
    pub(super) encoder: EncoderId,
    pub(super) width: usize,
}

impl Looks {
    /// Those of a champion's layers; where it looks at no texts, of layers over an encoder, as a configuration has sequences, if rows name texts then.
    ///
    /// # Errors
    /// If there are no such layers: it looks at means of texts, or there is no encoder, or no row could be held against what they learned.
    pub(super) fn of(
        (config, encoder): (&Config, Option<&Arc<TextEncoder>>),
        champion: Option<&BaheModel>,
    ) -> Result<Self, TrainError> {
        if let Some(champion) = champion.filter(|champion| champion.towers().is_some()) {
            let encoder = champion.encoder().filter(|_| champion.deep().is_some());
            let manifest = champion.manifest();
            return Ok(Self {
                sequences: manifest.sequences.clone(),
                limit: manifest.limit,
                encoder: EncoderId(encoder.ok_or(TrainError::NoLayers)?),
                width: manifest.head.width,
            });
        }
        let encoder = encoder.filter(|_| config.texts.logged);
        let CurrentEncoder { id, width } = encoder.ok_or(TrainError::NoLayers)?.encoder();
        Ok(Self {
            sequences: config.sequences.keys().cloned().collect(),
            limit: config.texts.sequence_max,
            encoder: id,
            width: width.into(),
        })
    }
}

/// Who is to be judged against, and what of rows is read.
#[derive(Clone, Copy, Default)]
pub(super) struct Asked<'a> {
    /// None: the baseline.
    pub(super) champion: Option<&'a BaheModel>,
    /// Of key-vectors.
    pub(super) reads: Reads,
    /// What layers look at that are to learn: rows name the runs, and the vectors are read from their topic. None: no layers learn.
    pub(super) looks: Option<&'a Looks>,
}

/// Reads both topics to their ends as of now: whole, or from where a reading before says that nothing is missed.
pub(super) fn read(
    (config, log): (&Config, &dyn Log),
    asked: Asked<'_>,
    (split, [rows_min, rows_max], later_than): (Split, [usize; 2], i64),
    (folder, progress): (&Path, bool),
) -> Result<Read, TrainError> {
    let begin = |before: Option<&Reading>| {
        let wanted = Wanted {
            later_than: before.map_or(i64::MIN, |before| before.later_than),
            newest: rows_max,
        };
        let labels = before.map(|before| &*before.from[0]);
        Labelled::read((config, log), labels, wanted, progress)
    };
    let mut before = Reading::found(folder, (config, log), rows_max)?;
    let mut labelled = begin(before.as_ref())?;
    if before.is_some() && labelled.len() < rows_min {
        // What was newer then may be gone: then what is older is wanted again.
        before = None;
        labelled = begin(None)?;
    }
    let from = before.as_ref().map(|before| &before.from);
    let (found, newest) = (labelled.len(), labelled.newest());
    // Where older rows were left out, there were enough.
    let all = labelled.later_than() == i64::MIN;
    if (all && found < rows_min) || newest.is_some_and(|newest| newest <= later_than) {
        return Err(TrainError::TooFew {
            found,
            wanted: rows_min,
        });
    }
    let first_labels = labelled.first_labels();
    labelled.translates = true;
    labelled.settle(None);
    let from = from.map(|from| &*from[1]);
    let of = (config, log, asked);
    let read = Reader::read(of, (&mut labelled, from), (split, None), progress)?;
    are_enough(&read, rows_min)?;
    let first = [&first_labels, labelled.first_rows()];
    let artifact = Artifact::open(folder)?;
    Reading::of((config, log), labelled.later_than(), first, rows_max)?.keep(&artifact);
    Ok(read)
}

/// Reads what was labelled since another reading: the newest of these rows, all of them behind those that were learned from.
pub(super) fn read_on(
    (config, log): (&Config, &dyn Log),
    asked: Asked<'_>,
    (reached, before): (&Reached, &Before),
    (piece, [rows_min, rows_max]): (usize, [usize; 2]),
) -> Result<Read, TrainError> {
    let wanted = Wanted {
        later_than: i64::MIN,
        newest: rows_max,
    };
    let mut labelled = Labelled::read((config, log), Some(&reached.from[0]), wanted, false)?;
    labelled.translates = true;
    labelled.settle(Some(reached));
    if labelled.len() < rows_min {
        return Err(TrainError::TooFew {
            found: labelled.len(),
            wanted: rows_min,
        });
    }
    let split = Split {
        learned: 0.0,
        validated: 0.0,
        piece: Some(Piece::Requests(piece)),
    };
    let of = (&mut labelled, Some(&*reached.from[1]));
    let read = Reader::read((config, log, asked), of, (split, Some(before)), false)?;
    are_enough(&read, rows_min)?;
    Ok(read)
}

/// Whether there are enough rows where those are left out that do not hold what the champion sees of texts.
fn are_enough((recorded, left_out, _): &Read, wanted: usize) -> Result<(), TrainError> {
    let found = recorded.corpus.len();
    if left_out.without_vectors > 0 && found < wanted {
        return Err(TrainError::TooFewVectors { found, wanted });
    }
    Ok(())
}

impl<'a> Reader<'a> {
    /// The rows that labels speak of.
    fn read(
        (config, log, asked): (&'a Config, &dyn Log, Asked<'a>),
        (labelled, from): (&mut Labelled<'_>, Option<&[i64]>),
        (split, before): (Split, Option<&Before>),
        progress: bool,
    ) -> Result<Read, TrainError> {
        let mut reader = Self {
            config,
            champion: asked.champion,
            users: BTreeMap::new(),
            runs: (asked.looks).map(|of| Runs::new(&of.sequences, of.limit)),
            looks: asked.looks,
            rows: Vec::new(),
            seen: Seen::reading(asked.reads),
            without_vectors: 0,
        };
        labelled.each(from, &mut |assembler, matched| {
            reader.take(assembler, matched)
        })?;
        let vectors = reader.vectors((config, log), progress)?;
        let left_out = LeftOut {
            without_row: labelled.len() as u64,
            other_schema: labelled.other_schema,
            waiting: labelled.waiting,
            without_vectors: reader.without_vectors,
        };
        let schema = labelled.assembler().schema().clone();
        let mut recorded = reader.finish(split, (schema, before));
        if let Some(vectors) = vectors {
            recorded.corpus.vectors = vectors;
        }
        Ok((recorded, left_out, labelled.reached()))
    }

    /// Vectors of all texts that rows saw, where layers learn; rows go of which one is not there.
    fn vectors(
        &mut self,
        of: (&Config, &dyn Log),
        progress: bool,
    ) -> Result<Option<Tensor>, TrainError> {
        let (Some(runs), Some(looks)) = (&self.runs, self.looks) else {
            return Ok(None);
        };
        let width = looks.width;
        let vectors = runs.vectors(of, (looks.encoder, width), progress)?;
        let before = self.rows.len();
        self.rows
            .retain(|(_, met)| runs.is_whole(&vectors, &met.saw, met.item));
        self.without_vectors += (before - self.rows.len()) as u64;
        let shape = (vectors.flat.len() / width, width);
        Ok(Some(tensor(vectors.flat, shape)?))
    }

    /// Takes the labelled candidates of a logged request.
    fn take(&mut self, assembler: &Assembler, matched: &Matched<'_>) -> Result<(), String> {
        let logged = matched.logged;
        let tasks = self.config.tasks.len();
        let next = self.users.len() as u32;
        let user = *self.users.entry(logged.user.to_string()).or_insert(next);
        let nothing = Saw {
            histories: user * self.config.sequences.len() as u32,
            counts: vec![0; self.config.sequences.len()],
        };
        let towers = self.champion.filter(|of| of.towers().is_some());
        let mut places = 0..logged.candidates.len();
        let is_seen = match (towers, self.looks) {
            // What others scored is left out below: its texts need no vectors.
            (Some(champion), _) => places.any(|place| champion.saw(logged, place).is_some()),
            // Likenesses are of that encoder's vectors, too.
            (None, Some(looks)) => {
                logged.embeddings.as_deref() == Some(&*looks.encoder.to_string())
            }
            (None, None) => true,
        };
        let saw = match (&mut self.runs, &logged.vectors) {
            (None, _) => Some(nothing),
            (Some(runs), Some(vectors)) if is_seen => runs.take(&logged.user, vectors)?,
            (Some(_), _) => None,
        };
        let spec = assembler.schema().key_vectors();
        let told = spec.map(|spec| self.seen.logged(logged, spec));
        let told = told.transpose()?.unwrap_or_default();
        let base = matched.log_odds(assembler, None, &|_| None)?;
        let champion = match self.champion {
            None => base.clone(),
            champion => matched.log_odds(assembler, champion, &|_| None)?,
        };
        let candidates = logged.candidates.iter().zip(&matched.labels).enumerate();
        let with_labels =
            candidates.filter_map(|(place, (of, labels))| Some((place, of, labels.as_ref()?)));
        let scores = base.chunks(tasks).zip(champion.chunks(tasks));
        for ((place, candidate, labels), (base, champion)) in with_labels.zip(scores) {
            let mut projections = Vec::new();
            if let Some(champion) = towers {
                let Some((users, item)) = champion.saw(logged, place) else {
                    self.without_vectors += 1;
                    continue;
                };
                // Where layers learn, they are made anew.
                if self.runs.is_none() {
                    projections = [users, item].concat();
                }
            }
            let item = match &mut self.runs {
                None => Some(0),
                Some(runs) if saw.is_some() => runs.item(candidate)?,
                Some(_) => None,
            };
            let (Some(saw), Some(item)) = (&saw, item) else {
                self.without_vectors += 1;
                continue;
            };
            let numbers = logged.shared.iter().chain(&*candidate.values);
            let label = |label: &Option<(f32, f32)>| label.unwrap_or_default();
            let met = Met {
                names: [
                    (&*logged.request_id).into(),
                    (&*candidate.item_id).into(),
                    (&*logged.scenario).into(),
                ],
                user,
                time: logged.time,
                saw: saw.clone(),
                item,
                asked: told.get(place).copied().unwrap_or_default(),
                features: numbers.map(|value| squashed(*value)).collect(),
                base: base.into(),
                labels: labels.iter().map(|of| label(of).0).collect(),
                weights: labels.iter().map(|of| label(of).1).collect(),
                request: 0,
                champion: champion.into(),
                projections,
            };
            self.rows.push((matched.row.to_owned(), met));
        }
        Ok(())
    }

    /// The rows in the order of time, over all partitions.
    fn finish(mut self, split: Split, of: (FeatureSchema, Option<&Before>)) -> Recorded {
        self.rows.sort_by(|(one, met), (other, other_met)| {
            (met.time, one, &met.names[1]).cmp(&(other_met.time, other, &other_met.names[1]))
        });
        let mut requests = 0;
        let mut before: Option<String> = None;
        let rows = self.rows.into_iter().map(|(id, mut met)| {
            if before.as_ref() != Some(&id) {
                requests += 1;
            }
            met.request = requests - 1;
            before = Some(id);
            met
        });
        let rows = rows.collect();
        let (texts, texts_asked) = self.runs.as_ref().map(Runs::texts).unwrap_or_default();
        let bare = || vec![History::default(); self.users.len() * self.config.sequences.len()];
        let gathered = Gathered {
            rows,
            seen: self.seen,
            histories: self.runs.map_or_else(bare, Runs::histories),
            texts,
            texts_asked,
            requests,
        };
        Recorded::of(self.config, gathered, split, of)
    }
}

#[cfg(test)]
mod tests;
