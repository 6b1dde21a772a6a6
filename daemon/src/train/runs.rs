//! What logged rows hold of sequences and texts, put together again: who did what, in the form that layers learn from, and the vectors of these texts.
//!
//! A row names the run that it saw by hashes. Runs of a user's rows that continue each other are one history, so that one pass over it serves all of them; where a behavior came late, and
//! stands among those that an earlier row saw, another history begins. Vectors come from the topic that they were published to.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use headwater_config::{Config, Topic};
use headwater_consumers::log::{Log, Record};
use headwater_model::bahe::segment::start_of;
use headwater_model::bahe::{GAPS, History, gap_of};
use headwater_model::{LoggedCandidate, LoggedSequence, LoggedVectors};
use headwater_state::{EncoderId, TextHash, VectorKey, read_vector};

use super::TrainError;
use crate::progress::Progress;
use crate::scan;

/// Records between two looks at the clock.
const PROGRESS_RECORDS: u64 = 1_024;

/// Texts, each once. The first place is that of no text, whose vector is 0.
#[derive(Debug)]
struct Texts {
    places: BTreeMap<TextHash, u32>,
    /// How often one was asked for.
    asked: u64,
}

impl Texts {
    fn place(&mut self, hash: TextHash) -> u32 {
        self.asked += 1;
        let next = self.places.len() as u32 + 1;
        *self.places.entry(hash).or_insert(next)
    }
}

/// A run as a row saw it: the behaviors that its vector was made of, for what came behind them was not seen by whoever scored; where nobody looked at texts, all that there were.
struct Run {
    start: u64,
    texts: Vec<u32>,
    gaps: Vec<u32>,
}

/// What the row of a request sees of its user's sequences.
#[derive(Clone, Debug)]
pub(super) struct Saw {
    /// The first of its histories.
    pub(super) histories: u32,
    /// Of each sequence, behaviors before the row: as far as its vector went, or where nobody looked, all.
    pub(super) counts: Vec<u32>,
}

/// All runs and texts of some rows.
#[derive(Debug)]
pub(super) struct Runs {
    sequences: Vec<String>,
    /// Behaviors of a run at most.
    limit: u64,
    texts: Texts,
    histories: Vec<History>,
    /// Of each user the first of those histories that its newest row saw.
    newest: BTreeMap<String, u32>,
}

/// Vectors of texts, by place.
#[derive(Debug)]
pub(super) struct Vectors {
    /// One behind the other; of those that are not there, 0.
    pub(super) flat: Vec<f32>,
    /// Which are there.
    there: Vec<bool>,
}

impl Vectors {
    /// A text's.
    pub(super) fn of(&self, place: u32, width: usize) -> &[f32] {
        &self.flat[place as usize * width..][..width]
    }

    /// Whether it is there.
    pub(super) fn has(&self, place: u32) -> bool {
        self.there[place as usize]
    }
}

impl Runs {
    /// None so far, of these sequences.
    pub(super) fn new(sequences: &[String], limit: usize) -> Self {
        Self {
            sequences: sequences.to_vec(),
            limit: limit as u64,
            texts: Texts {
                places: BTreeMap::new(),
                asked: 0,
            },
            histories: Vec::new(),
            newest: BTreeMap::new(),
        }
    }

    /// Takes in what a request's row saw; none: it does not hold these sequences, or not as far back.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn take(
        &mut self,
        user: &str,
        vectors: &LoggedVectors<'_>,
    ) -> Result<Option<Saw>, String> {
        let mut runs = Vec::with_capacity(self.sequences.len());
        for name in &self.sequences {
            let mut logged = vectors.sequences.iter();
            let Some(of) = logged.find(|of| of.name == *name) else {
                return Ok(None);
            };
            runs.push(run(of, vectors.is_of_nobody(), &mut self.texts)?);
        }
        // Where no vector had come, it saw that of an empty sequence, whatever there was.
        let counts = runs.iter().map(|run| match run.texts.len() {
            0 => 0,
            used => run.start + used as u64,
        });
        let counts: Vec<u64> = counts.collect();
        let held = self.newest.get(user).copied();
        let held = held.filter(|first| {
            let held = &self.histories[*first as usize..][..runs.len()];
            held.iter()
                .zip(&runs)
                .all(|(held, run)| continues(held, run))
        });
        let histories = held.unwrap_or(self.histories.len() as u32);
        if held.is_none() {
            let starts = runs.iter().map(|run| History {
                start: run.start,
                ..History::default()
            });
            self.histories.extend(starts);
            self.newest.insert(user.to_owned(), histories);
        }
        let held = &mut self.histories[histories as usize..];
        let some = held.iter_mut().zip(runs);
        for (held, run) in some.filter(|(_, run)| !run.texts.is_empty()) {
            let known = held.texts.len() - (run.start - held.start) as usize;
            held.texts.extend(run.texts.iter().skip(known));
            held.gaps.extend(run.gaps.iter().skip(known));
        }
        // By another limit a run may begin before what rows hold.
        let held = self.histories[histories as usize..].iter();
        let mut begin = held.zip(&counts);
        let is_held =
            begin.all(|(held, count)| *count == 0 || start_of(*count, self.limit) >= held.start);
        Ok(is_held.then(|| Saw {
            histories,
            counts: counts.iter().map(|count| *count as u32).collect(),
        }))
    }

    /// The place of a candidate's text; none: its row does not say.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn item(&mut self, candidate: &LoggedCandidate<'_>) -> Result<Option<u32>, String> {
        let Some(text) = &candidate.text else {
            return Ok(None);
        };
        if text.is_empty() {
            return Ok(Some(0));
        }
        let bytes = BASE64_STANDARD.decode(&**text).unwrap_or_default();
        let hash = bytes.try_into().map_err(|_| {
            let item = &candidate.item_id;
            format!("the text of item {item} is no hash: `{text}`")
        })?;
        Ok(Some(self.texts.place(hash)))
    }

    /// Texts by place, as whoever reads a digest of them names them; and how often one was asked for.
    pub(super) fn texts(&self) -> (Vec<String>, u64) {
        let mut names = vec![String::new(); self.texts.places.len() + 1];
        for (hash, place) in &self.texts.places {
            names[*place as usize] = super::artifact::hex(hash);
        }
        (names, self.texts.asked)
    }

    /// Reads the vectors that an encoder made of these texts, to the end of their topic as of now.
    ///
    /// # Errors
    /// The log's.
    pub(super) fn vectors(
        &self,
        (config, log): (&Config, &dyn Log),
        (encoder, width): (EncoderId, usize),
        progress: bool,
    ) -> Result<Vectors, TrainError> {
        let texts = self.texts.places.len() + 1;
        let mut found = Vectors {
            flat: vec![0.0; texts * width],
            there: vec![false; texts],
        };
        found.there[0] = true;
        let stretches = scan::whole(
            log,
            Topic::Embeddings,
            &config.topic_name(Topic::Embeddings),
        )?;
        let whole: i64 = stretches.iter().map(|of| of.until - of.from).sum();
        let bar = Progress::new(u64::try_from(whole).ok(), progress);
        let mut count = 0;
        scan::read(log, &stretches, &mut |record: &Record<'_>| {
            count += 1;
            if count % PROGRESS_RECORDS == 0 {
                bar.at(count, count);
            }
            let key = VectorKey::read(record.key.unwrap_or_default());
            let Ok(VectorKey::Vector(of, hash)) = key else {
                return;
            };
            let Some(place) = self.texts.places.get(&hash).filter(|_| of == encoder) else {
                return;
            };
            let place = *place as usize;
            let Some(value) = record.value else {
                found.there[place] = false;
                return;
            };
            // One that cannot be read is passed over, as by the instances that follow the topic.
            if let Some(vector) = read_vector(value).ok().filter(|of| of.len() == width) {
                found.there[place] = true;
                found.flat[place * width..][..width].copy_from_slice(&vector);
            }
        })?;
        bar.finish();
        Ok(found)
    }

    /// Whether all vectors are there of what a row sees.
    pub(super) fn is_whole(&self, vectors: &Vectors, saw: &Saw, item: u32) -> bool {
        let mut runs = (saw.histories..).zip(&saw.counts).map(|(history, count)| {
            let start = start_of(u64::from(*count), self.limit);
            self.within(history, start, (u64::from(*count) - start) as usize)
                .0
        });
        vectors.has(item) && runs.all(|run| run.iter().all(|place| vectors.has(*place)))
    }

    /// Texts and kinds of gaps of a run: of a history, so many behaviors from one on.
    pub(super) fn run(&self, history: u32, start: u64, behaviors: usize) -> (&[u32], Vec<u32>) {
        let (texts, gaps) = self.within(history, start, behaviors);
        let mut gaps = gaps.to_vec();
        if let Some(first) = gaps.first_mut() {
            *first = gap_of(None);
        }
        (texts, gaps)
    }

    /// The same, with the gap before the first, where one is known.
    fn within(&self, history: u32, start: u64, behaviors: usize) -> (&[u32], &[u32]) {
        if behaviors == 0 {
            return (&[], &[]);
        }
        let held = &self.histories[history as usize];
        let from = (start - held.start) as usize;
        let these = from..from + behaviors;
        (&held.texts[these.clone()], &held.gaps[these])
    }

    /// What users did.
    pub(super) fn histories(self) -> Vec<History> {
        self.histories
    }
}

/// A run as a row has it: whole, or as far as a vector was made of it.
fn run(logged: &LoggedSequence<'_>, is_whole: bool, texts: &mut Texts) -> Result<Run, String> {
    let bytes = BASE64_STANDARD.decode(&*logged.texts).unwrap_or_default();
    let (hashes, rest) = bytes.as_chunks();
    let is_gap = |gap: &u8| usize::from(*gap) < GAPS;
    if !rest.is_empty()
        || [hashes.len(), logged.gaps.len()] != [logged.length; 2]
        || !logged.gaps.iter().all(is_gap)
        || logged.used > logged.length
    {
        let LoggedSequence {
            name, length, used, ..
        } = logged;
        return Err(format!(
            "the run of sequence `{name}` is not whole: {length} behaviors, {used} of them used, {} hashes, {} gaps",
            hashes.len(),
            logged.gaps.len()
        ));
    }
    // Counts are kept in 32 bits.
    let count = logged.start.saturating_add(logged.length as u64);
    if u32::try_from(count).is_err() {
        let name = &logged.name;
        return Err(format!(
            "the run of sequence `{name}` ends behind {count} behaviors: nobody has so many"
        ));
    }
    let seen = if is_whole { logged.length } else { logged.used };
    Ok(Run {
        start: logged.start,
        texts: hashes[..seen]
            .iter()
            .map(|hash| texts.place(*hash))
            .collect(),
        gaps: logged.gaps[..seen]
            .iter()
            .map(|gap| u32::from(*gap))
            .collect(),
    })
}

/// Whether a run is a part of a history, or goes on where it ends.
fn continues(held: &History, run: &Run) -> bool {
    if run.texts.is_empty() {
        return true;
    }
    let Some(from) = run.start.checked_sub(held.start) else {
        return false;
    };
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    let Some(known) = held.texts.get(from..) else {
        return false;
    };
    // What a run begins with has a gap that it does not say.
    if known.is_empty() && from > 0 {
        return false;
    }
    let known = known.iter().zip(&held.gaps[from..]);
    let mut both = known.zip(run.texts.iter().zip(&run.gaps)).enumerate();
    both.all(|(place, ((text, gap), (other, other_gap)))| {
        text == other && (gap == other_gap || place == 0)
    })
}

#[cfg(test)]
pub(super) mod tests;
