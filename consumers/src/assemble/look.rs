//! Vectors of texts, as rows look them up. A text that has no vector yet is noted, to be asked for; nothing waits.

use std::collections::BTreeSet;
use std::sync::Arc;

use headwater_state::{CurrentEncoder, EncoderId, Looked, Spread, TextHash, VectorTable};

use crate::embed::{Embed, EmbedError, embed_whole};
use crate::metrics::TextMetrics;

/// Texts remembered as told of, at most. One that is told of again has a vector by then, and is passed over.
const TOLD_MAX: usize = 100_000;
/// Missing texts that are made at once together, at most.
const AT_ONCE_MAX: usize = 256;

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

/// Lookups of texts' vectors: those of the encoder that the champion was trained on, where there are any, else of the one that was the current when the row began.
#[derive(Debug)]
pub(super) struct TextLook {
    table: Arc<VectorTable>,
    metrics: TextMetrics,
    /// Whose vectors the champion was trained on.
    wanted: Option<EncoderId>,
    encoder: Option<CurrentEncoder>,
    /// The same in hexadecimal.
    encoder_name: Option<String>,
    /// How its vectors lie.
    spread: Option<Arc<Spread>>,
    missing: Vec<MissingText>,
    /// Texts that were told of as missing.
    told: BTreeSet<TextHash>,
    /// Lookups since metrics were told, by outcome.
    lookups: [u64; OUTCOMES.len()],
    /// What makes vectors at once, where nothing comes by topics.
    embed: Option<Box<dyn Embed>>,
    failure: Option<EmbedError>,
}

impl TextLook {
    pub(super) fn new(table: Arc<VectorTable>, metrics: TextMetrics) -> Self {
        Self {
            table,
            metrics,
            wanted: None,
            encoder: None,
            encoder_name: None,
            spread: None,
            missing: Vec::new(),
            told: BTreeSet::new(),
            lookups: [0; OUTCOMES.len()],
            embed: None,
            failure: None,
        }
    }

    /// Has rows see the vectors of the encoder that a model was trained on; none: of the current one.
    pub(super) fn prefer(&mut self, encoder: Option<EncoderId>) {
        self.wanted = encoder;
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
        let missing = std::mem::take(&mut self.missing);
        let texts: Vec<&str> = missing.iter().map(|one| one.text.as_str()).collect();
        let made = embed_whole(&mut **embed, &texts).and_then(|vectors| {
            let hashes = missing.iter().map(|one| one.hash);
            let made: Vec<_> = hashes.zip(vectors).collect();
            Ok(self.table.insert(embed.encoder(), &made)?)
        });
        self.failure = made.err();
        self.begin();
        self.failure.is_none()
    }

    /// Begins a row: all that it looks up is one encoder's.
    pub(super) fn begin(&mut self) {
        // Whoever follows vectors into the store says what is wrong with it.
        let wanted = self.wanted.map(|wanted| self.table.encoder(wanted));
        let wanted = wanted.and_then(Result::ok).flatten();
        let encoder = wanted.or_else(|| self.table.current());
        if encoder != self.encoder {
            self.encoder_name = encoder.map(|encoder| encoder.id.to_string());
            self.encoder = encoder;
        }
        self.spread = encoder.and_then(|encoder| self.table.spread(encoder.id));
    }

    /// Ends a row: metrics are told.
    pub(super) fn end(&mut self) {
        for (outcome, count) in OUTCOMES.iter().zip(&mut self.lookups) {
            let counter = self.metrics.lookups.with_label_values(&[outcome]);
            counter.inc_by(std::mem::take(count));
        }
    }

    /// Whose vectors the last row saw, if there were any.
    pub(super) fn encoder(&self) -> Option<CurrentEncoder> {
        self.encoder
    }

    /// How these vectors lie, as far as there are any.
    pub(super) fn spread(&self) -> Option<&Arc<Spread>> {
        self.spread.as_ref()
    }

    /// The same in hexadecimal.
    pub(super) fn encoder_name(&self) -> Option<&str> {
        self.encoder_name.as_deref()
    }

    /// Forgets which texts were told of.
    pub(super) fn forget_missing(&mut self) {
        self.told.clear();
        self.missing.clear();
    }

    /// Takes the texts that have no vector and were not told of before; none where they are made at once.
    pub(super) fn take_missing(&mut self) -> std::vec::Drain<'_, MissingText> {
        let count = if self.embed.is_some() {
            0
        } else {
            self.missing.len()
        };
        self.missing.drain(..count)
    }

    /// Counts a lookup of what has no text.
    pub(super) fn no_text(&mut self) {
        self.lookups[NO_TEXT] += 1;
    }

    /// The vector of a text. One that has none is missing.
    pub(super) fn look(
        &mut self,
        hash: TextHash,
        text: impl FnOnce() -> String,
    ) -> Option<Arc<[f32]>> {
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
            let text = text();
            self.missing.push(MissingText { hash, text });
        }
        None
    }

    /// Notes a text whose vector will be wanted, if it has none yet.
    pub(super) fn want(&mut self, hash: TextHash, text: impl FnOnce() -> String) {
        // A few comparisons: most texts were met before.
        if self.told.contains(&hash) {
            return;
        }
        self.begin();
        drop(self.look(hash, text));
        if self.missing.len() >= AT_ONCE_MAX {
            self.make_missing();
        }
    }
}
