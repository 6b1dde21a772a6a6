//! A champion that was announced and looks at texts, or a canary of other layers than the champion's: who scored before goes on until vectors are there for it.
//!
//! Vectors of all items that are known are made, and for as long as `texts.made_ahead` says, those of the users who come; beside those of the model that scores, and for a share of the time
//! (`texts.background`). Where it was trained on another encoder's vectors than rows see now, it waits for that encoder to have been through the texts. Going back waits for nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_consumers::Error;
use headwater_model::bahe::BaheModel;
use headwater_state::{EncoderId, StoreError, TextHash};

use super::super::Inner;
use super::super::pool::Pool;
use super::layers::Layers;
use super::turn::{TAKEN_MAX, Turn};
use crate::status::AheadStatus;

/// Runs that are made at once: whoever asks for vectors of the model that scores does not wait long.
pub(super) const RUNS_MAX: usize = 8;
/// Items that are looked at, or made, at once.
const ITEMS_MAX: usize = 64;
/// Between two looks at items that lack vectors of their texts.
const AGAIN_EVERY: Duration = Duration::from_secs(2);
/// Of so many items, one may lack its vector.
const MISSING_ONE_IN: usize = 100;
/// Between two words on how far it is.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// A walk over all items that are known.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Hashes of their texts, those that are left from the last one on.
    left: Vec<TextHash>,
    /// Those whose texts have no vector of the model's encoder yet, and how many of these have one of the encoder that rows see.
    lacking: Vec<TextHash>,
    missing: usize,
    items: usize,
}

impl Walk {
    /// Over the items as they are now, once they are read to their end.
    pub(super) fn begin(inner: &Inner) -> Option<Self> {
        if !inner.board.items().0 {
            return None;
        }
        let items = inner.items.read();
        let texts = items.ids().filter_map(|id| items.item(id)?.text);
        let mut left: Vec<TextHash> = texts.collect();
        drop(items);
        left.sort_unstable();
        left.dedup();
        Some(Self {
            items: left.len(),
            left,
            lacking: Vec::new(),
            missing: 0,
        })
    }

    /// Notes some without a vector.
    fn lack(
        &mut self,
        texts: Vec<TextHash>,
        is_missed: &dyn Fn(&TextHash) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        for text in &texts {
            self.missing += usize::from(is_missed(text)?);
        }
        self.lacking.extend(texts);
        Ok(())
    }

    /// Goes over those again that had none.
    fn again(&mut self) {
        self.left = std::mem::take(&mut self.lacking);
        self.missing = 0;
    }

    /// Makes the next vectors that are not there; gives whether there was any item left.
    pub(super) fn step(
        &mut self,
        (turn, pool): (&mut Turn, &Pool),
        is_missed: &dyn Fn(&TextHash) -> Result<bool, Error>,
    ) -> Result<bool, Error> {
        let texts = self.next();
        let vectors = turn.vectors();
        let mut missing = Vec::new();
        for text in &texts {
            let has = vectors.items.has(vectors.layers().id, text);
            if !has.map_err(failed)? {
                missing.push(*text);
            }
        }
        if !missing.is_empty() {
            let lacking = pool.run(|| turn.make_items(&missing))?;
            self.lack(lacking, is_missed)?;
        }
        Ok(!texts.is_empty())
    }

    fn next(&mut self) -> Vec<TextHash> {
        let from = self.left.len().saturating_sub(ITEMS_MAX);
        self.left.split_off(from)
    }

    fn made(&self) -> usize {
        self.items - self.left.len() - self.lacking.len()
    }
}

/// The encoder whose vectors rows see now.
fn serves(inner: &Inner) -> Option<EncoderId> {
    let model = inner.champion.status().0;
    let encoder = model.and_then(|model| model.encoder()).map(EncoderId);
    encoder.or_else(|| Some(inner.texts.as_ref()?.table.current()?.id))
}

fn failed(source: StoreError) -> Error {
    Error::Vectors {
        source: source.into(),
    }
}

/// What the thread has of a champion that does not score yet.
pub(super) struct Ahead {
    model: Arc<BaheModel>,
    /// None where it has no layers of its own, or its vectors are not open yet.
    pub(super) turn: Option<Turn>,
    walk: Option<Walk>,
    began: Instant,
    /// Since when rows were scored while it waits.
    since: Option<Instant>,
    /// Time that went into it.
    spent: Duration,
    /// Since when it goes over items, and when it does so again.
    walks: Instant,
    again: Option<Instant>,
    told: Instant,
}

impl Ahead {
    pub(super) fn new(model: Arc<BaheModel>) -> Self {
        let now = Instant::now();
        Self {
            model,
            turn: None,
            walk: None,
            began: now,
            since: None,
            spent: Duration::ZERO,
            walks: now,
            again: None,
            told: now,
        }
    }

    pub(super) fn model(&self) -> &BaheModel {
        &self.model
    }

    pub(super) fn is_of(&self, model: &BaheModel) -> bool {
        self.model.id() == model.id()
    }

    /// How long it is to rest, so that it has its share of the time and no more.
    pub(super) fn rests(&self, share: f64) -> Duration {
        let due = self.spent.div_f64(share);
        due.saturating_sub(self.began.elapsed())
    }

    /// Makes some vectors, of so many runs at most. Gives whether there was anything to do.
    pub(super) fn work(
        &mut self,
        inner: &Inner,
        pool: &Pool,
        runs_max: usize,
    ) -> Result<bool, Error> {
        let began = Instant::now();
        let is_busy = self.step((inner, pool), runs_max)?;
        self.spent += began.elapsed();
        Ok(is_busy)
    }

    fn step(&mut self, (inner, pool): (&Inner, &Pool), runs_max: usize) -> Result<bool, Error> {
        if self.walk.is_none() {
            self.walk = Walk::begin(inner);
        }
        let Some(walk) = &mut self.walk else {
            return Ok(false);
        };
        let has_partitions = || {
            inner
                .board
                .workers()
                .iter()
                .any(|of| !of.working.is_empty())
        };
        if self.since.is_none() && has_partitions() {
            self.since = Some(Instant::now());
        }
        if walk.left.is_empty() && !walk.lacking.is_empty() {
            let now = Instant::now();
            // Many of them are not gone over all the time.
            let rests = AGAIN_EVERY.max(4 * self.walks.elapsed());
            if *self.again.get_or_insert(now + rests) <= now {
                (self.walks, self.again) = (now, None);
                walk.again();
            }
        }
        let other = serves(inner).filter(|serves| Some(serves.0) != self.model.encoder());
        // Texts of items that nobody ever asked for have no vectors of anybody.
        let is_missed = |text: &TextHash| match (other, &inner.texts) {
            (Some(other), Some(texts)) => texts.table.has(other, text).map_err(failed),
            _ => Ok(false),
        };
        if let Some(turn) = &mut self.turn {
            let asked = turn.work(pool, runs_max, Duration::ZERO)?;
            return Ok(walk.step((turn, pool), &is_missed)? || asked);
        }
        if self.model.deep().is_some() {
            return Ok(false);
        }
        let (Some(texts), Some(encoder)) = (&inner.texts, self.model.encoder()) else {
            return Ok(false);
        };
        let next = walk.next();
        let mut lacking = Vec::new();
        for text in &next {
            if !(texts.table.has(EncoderId(encoder), text)).map_err(failed)? {
                lacking.push(*text);
            }
        }
        walk.lack(lacking, &is_missed)?;
        Ok(!next.is_empty())
    }

    /// Whether it can score: few items lack what rows have now, and what rows asked for is made. One that looks at nothing but what who scores now looks at waits for nothing.
    pub(super) fn is_ready(&self, inner: &Inner) -> bool {
        let Some(texts) = &inner.texts else {
            return true;
        };
        let is_same = serves(inner).map(|encoder| encoder.0) == self.model.encoder();
        let chosen = inner.layers.as_ref().map(Layers::chosen);
        let at_work = chosen.and_then(|chosen| chosen.at_work);
        let has_layers = self.model.deep().is_none()
            || at_work.is_some_and(|of| of.model.deep_id() == self.model.deep_id());
        if has_layers && is_same {
            return true;
        }
        let Some(walk) = self.walk.as_ref().filter(|walk| walk.left.is_empty()) else {
            return false;
        };
        let encoder = self.model.encoder().map(EncoderId);
        if !encoder.is_none_or(|of| texts.has_any_of(of))
            || walk.missing * MISSING_ONE_IN > walk.items
        {
            return false;
        }
        if self.model.deep().is_none() {
            return true;
        }
        let made_ahead = inner.config.texts.made_ahead.duration();
        let has_waited = (self.since).is_some_and(|since| since.elapsed() >= made_ahead);
        has_waited && (self.turn.as_ref()).is_some_and(|turn| turn.waiting() <= TAKEN_MAX)
    }

    /// How far it is.
    pub(super) fn status(&self) -> AheadStatus {
        let (items, made) = (self.walk.as_ref()).map_or((0, 0), |walk| (walk.items, walk.made()));
        AheadStatus {
            name: format!("{}-{}", BaheModel::NAME, self.model.version()),
            items,
            made,
            waiting: self.turn.as_ref().map_or(0, Turn::waiting),
        }
    }

    /// Tells how far it is, now and then.
    pub(super) fn tell(&mut self, inner: &Inner) {
        let status = self.status();
        let gauge = &inner.fast.deep.ahead;
        let set = |state: &str, count: usize| {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            gauge.with_label_values(&[state]).set(count);
        };
        set("made", status.made);
        set("missing", status.items - status.made);
        if self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            let encoder = self.model.encoder().map(EncoderId);
            let texts = inner.texts.as_ref();
            let of_texts = encoder.zip(texts);
            if of_texts.is_some_and(|(encoder, texts)| !texts.has_any_of(encoder)) {
                tracing::warn!(
                    model = status.name,
                    "the announced model waits: there are no vectors of texts of the encoder that it was trained on; does any instance make them?"
                );
                return;
            }
            let AheadStatus {
                name,
                items,
                made,
                waiting,
            } = status;
            tracing::info!(
                model = name,
                items,
                made,
                waiting,
                "vectors of the announced model are being made"
            );
        }
    }
}
