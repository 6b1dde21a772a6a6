//! By which texts a row could be seen: of a user's sequences, the behaviors of each run before the row, and the texts of the candidates.
//!
//! Before it stands state; after it the feature log, from which layers learn. A model that looks at texts says of each run how much of it its vector was made of; where nobody looks
//! ([`Told`]), the runs are told alone.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use headwater_config::Config;
use headwater_model::bahe::gap_of;
use headwater_model::bahe::segment::start_of;
use headwater_model::{LoggedRequest, LoggedSequence, LoggedVectors};
use headwater_state::{ItemTable, Sequence, SequenceId, TextHash, Timestamp};

use super::Row;
use crate::sequences::Sequences;

/// What a row has of one sequence.
#[derive(Clone, Debug, Default)]
pub(super) struct Run {
    /// Behaviors before it.
    start: u64,
    /// Behaviors of the run before the row's time: their texts, and gaps.
    texts: Vec<TextHash>,
    gaps: Vec<u8>,
    /// Those that a vector is made of.
    pub(super) used: usize,
}

impl Run {
    /// Of no behavior.
    pub(super) fn clear(&mut self) {
        self.texts.clear();
        self.gaps.clear();
        (self.start, self.used) = (0, 0);
    }

    /// Notes the behaviors of a run before a row, or gives false: the row is from before the run began anew, and what it would have seen has left.
    pub(super) fn take(&mut self, sequence: &Sequence, before: usize, limit: u64) -> bool {
        self.start = sequence.start();
        let is_late = before < sequence.entries().len();
        if is_late && start_of(sequence.start() + before as u64, limit) != sequence.start() {
            return false;
        }
        let mut last: Option<Timestamp> = None;
        for entry in &sequence.entries()[..before] {
            self.texts.push(entry.text);
            let gap = gap_of(last.map(|last| entry.time.since(last)));
            self.gaps
                .push(u8::try_from(gap).expect("invariant: kinds of gaps are few"));
            last = Some(entry.time);
        }
        true
    }

    /// As a row names it.
    pub(super) fn logged<'a>(&'a self, name: &'a str) -> LoggedSequence<'a> {
        LoggedSequence {
            name: name.into(),
            start: self.start,
            length: self.texts.len(),
            used: self.used,
            texts: BASE64_STANDARD.encode(self.texts.as_flattened()).into(),
            gaps: self.gaps.as_slice().into(),
        }
    }
}

/// A candidate's text as a row names it; empty: it has none.
pub(super) fn logged_text(text: Option<TextHash>) -> String {
    text.map_or_else(String::new, |text| BASE64_STANDARD.encode(text))
}

/// What rows tell of texts that nobody looked at.
#[derive(Debug)]
pub(super) struct Told {
    sequences: Vec<(String, SequenceId)>,
    limit: u64,
    runs: Vec<Run>,
    /// The candidates' texts.
    texts: Vec<Option<TextHash>>,
    /// Whether the row is not from before a run began anew: of those that are, nobody could say what they would have seen.
    is_whole: bool,
}

impl Told {
    /// None where rows are not to tell of them.
    pub(super) fn of(config: &Config, sequences: &Sequences) -> Option<Self> {
        let places = 0..sequences.len();
        config.texts.logged.then(|| Self {
            runs: vec![Run::default(); sequences.len()],
            sequences: places
                .map(|place| (sequences.name(place).to_owned(), sequences.id(place)))
                .collect(),
            limit: config.texts.sequence_max as u64,
            texts: Vec::new(),
            is_whole: false,
        })
    }

    /// Notes what a row could be seen by.
    pub(super) fn fill(&mut self, row: &Row<'_>, items: &ItemTable) {
        self.is_whole = true;
        for ((_, id), run) in self.sequences.iter().zip(&mut self.runs) {
            run.clear();
            let sequence = row.user.and_then(|user| user.sequence(*id));
            if let Some(sequence) = sequence {
                self.is_whole &= run.take(sequence, sequence.before(row.time), self.limit);
            }
        }
        self.texts.clear();
        let texts = row.candidates.iter().map(|of| items.item(of)?.text);
        self.texts.extend(texts);
    }

    /// Says it in the request's rows.
    pub(super) fn log<'a>(&'a self, logged: &mut LoggedRequest<'a>) {
        if !self.is_whole {
            return;
        }
        let sequences = self.sequences.iter().zip(&self.runs);
        logged.vectors = Some(LoggedVectors {
            layers: "".into(),
            towers: "".into(),
            sequences: sequences.map(|((name, _), run)| run.logged(name)).collect(),
            users: Vec::new().into(),
        });
        for (candidate, text) in logged.candidates.iter_mut().zip(&self.texts) {
            candidate.text = Some(logged_text(*text).into());
        }
    }
}
