//! Trials: models that score nobody, judged beside the champion on what it scores; and the canary that a challenger is afterwards, for some users.
//!
//! A trial lies on the topic of models, beside the announcement, so whoever judges can die and another goes on: where the topics of rows and labels stood when it
//! began, and every look so far. A model is frozen from then on: rows that judge it were scored after it was made.

use std::path::Path;

use headwater_config::{Config, Topic};
use headwater_consumers::assemble::Assembler;
use headwater_consumers::log::{Log, LogError, Producer};
use headwater_model::bahe::BaheModel;
use serde::{Deserialize, Serialize};

use super::{Announced, ChampionError, FORMAT, Named, Registry, announce, forget, read, send};
use super::{Cause, send_parts};
use crate::scan::{self, Stretch};
use crate::trained::TrainedError;
use crate::world::unix_ms;

/// Challengers at most, beside the baseline: each is held against the champion by itself.
const CHALLENGERS: usize = 3;
/// Who was not looked at so often does not make room for another: little is known of it.
const LOOKS_MIN: usize = 3;
/// What the keys of challengers' records begin with; their models' ids follow.
const CHALLENGER: &str = "trial/challenger/";
/// The key of a former champion's record.
const FORMER: &str = "trial/former";

/// What a model is judged for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Seat {
    /// To become champion.
    Challenger,
    /// To become it again: who was it before, in case that who followed disappoints.
    Former,
}

impl Seat {
    /// The key of a model's record.
    fn key(self, model: Option<&Named>) -> String {
        match (self, model) {
            (Self::Challenger, Some(model)) => format!("{CHALLENGER}{}", model.id),
            (Self::Challenger, None) => CHALLENGER.to_owned(),
            (Self::Former, _) => FORMER.to_owned(),
        }
    }

    pub(super) fn of_key(key: &str) -> Option<Self> {
        if key == FORMER {
            Some(Self::Former)
        } else {
            key.starts_with(CHALLENGER).then_some(Self::Challenger)
        }
    }
}

/// A model beside the champion.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Trial {
    format: u32,
    /// Who is judged; none: the baseline.
    pub model: Option<Named>,
    /// Beside whom; none: the baseline.
    pub champion: Option<Named>,
    /// Where labels, and the feature log, stood when it began: rows before that are no evidence. The first partition's at the front.
    pub(crate) from: [Vec<i64>; 2],
    /// Rows that are not later are none either: the model was made from them, or their labels were not final by then. Unix milliseconds; none: nothing is known of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<i64>,
    /// Since when, Unix milliseconds.
    pub began: i64,
    /// The looks so far.
    pub looks: Vec<Look>,
    /// Since it scores some users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// Whether nobody looks any more: a former champion that cannot be used.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
}

/// One look at a trial.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Look {
    /// When, Unix milliseconds.
    pub time: i64,
    /// On all rows.
    pub all: Seen,
    /// On those that chance had put in order.
    pub random: Seen,
    /// What follows from it; none: the trial goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// A challenger that scores a share of the users: what these do is held against what the others do.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Canary {
    /// Which share of the users.
    pub share: f64,
    /// Since when, Unix milliseconds.
    pub since: i64,
    /// Where labels, and the feature log, stood then.
    pub(crate) from: [Vec<i64>; 2],
    /// The looks so far.
    pub looks: Vec<CanaryLook>,
}

/// One look at a canary.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct CanaryLook {
    /// When, Unix milliseconds.
    pub time: i64,
    /// Labelled rows of the others, and of its own users.
    pub rows: [usize; 2],
    /// Which part of them were positives.
    pub positives: [f64; 2],
    /// By how many errors its users' part is larger.
    pub z: f64,
}

/// What becomes of a trial.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The challenger is champion.
    Promoted,
    /// The challenger scores a share of the users from then on.
    Canary,
    /// The challenger was no better, or its time was over, or its users did less.
    Dropped,
    /// The former champion is champion again.
    WentBack,
    /// The champion is better than who was there before it, or than the baseline: what is seen from now on counts, for tastes may change.
    BegunAnew,
}

/// What was seen of a part of the rows.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Seen {
    /// Labelled rows.
    pub rows: usize,
    /// Users that they are of.
    pub users: usize,
    /// Mean log loss of champion and model.
    pub losses: [f64; 2],
    /// By how many errors the model is better.
    pub z: f64,
}

impl From<&headwater_model::Judgement> for Seen {
    fn from(judged: &headwater_model::Judgement) -> Self {
        Self {
            rows: judged.rows,
            users: judged.users,
            losses: [judged.champion, judged.challenger],
            z: judged.z(),
        }
    }
}

impl Canary {
    /// One that begins now.
    pub(crate) fn begin(config: &Config, log: &dyn Log, share: f64) -> Result<Self, LogError> {
        Ok(Self {
            share,
            since: unix_ms(),
            from: ends(config, log)?,
            looks: Vec::new(),
        })
    }
}

impl Trial {
    /// One that begins now.
    pub(crate) fn begin(
        config: &Config,
        log: &dyn Log,
        [model, champion]: [Option<Named>; 2],
        after: Option<i64>,
    ) -> Result<Self, LogError> {
        Ok(Self {
            format: FORMAT,
            model,
            champion,
            from: ends(config, log)?,
            after,
            began: unix_ms(),
            looks: Vec::new(),
            canary: None,
            ended: false,
        })
    }
}

/// Where labels, and the feature log, end now.
fn ends(config: &Config, log: &dyn Log) -> Result<[Vec<i64>; 2], LogError> {
    let ends = |topic| -> Result<Vec<i64>, LogError> {
        let whole = scan::whole(log, topic, &config.topic_name(topic))?;
        Ok(whole.into_iter().map(|of| of.until).collect())
    };
    Ok([ends(Topic::Labels)?, ends(Topic::FeatureLog)?])
}

/// What the topic of models says.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Standing {
    /// Who is champion, as it was announced last.
    #[serde(flatten)]
    pub announced: Option<Announced>,
    /// Who are to become it, the oldest trial at the front.
    pub challengers: Vec<Trial>,
    /// Who was champion before, while it is held against who is.
    pub watch: Option<Trial>,
    /// Why the champion cannot be loaded under the configuration of whoever asks; told where it is asked for ([`shown`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Whether the champion has not come to score anywhere yet, and the former goes on until vectors of texts are there for it; told where it is asked for.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub waits: bool,
}

impl Standing {
    pub(super) fn of(registry: &Registry) -> Result<Self, ChampionError> {
        let mut standing = Self {
            announced: registry.announced()?,
            ..Self::default()
        };
        for (key, value) in &registry.trials {
            let trial: Trial = match read(value) {
                // One that nobody can read is nobody's: the champion goes on, and who settles trials takes it away.
                Err(ChampionError::Form(error)) => {
                    tracing::warn!(%error, key, "a trial on the topic of models cannot be read");
                    continue;
                }
                read => read?,
            };
            match Seat::of_key(key) {
                Some(Seat::Challenger) => standing.challengers.push(trial),
                Some(Seat::Former) => standing.watch = Some(trial),
                None => {}
            }
        }
        standing.challengers.sort_by_key(|trial| trial.began);
        Ok(standing)
    }

    /// The trial of a model.
    pub(crate) fn of_seat(&self, seat: Seat, model: Option<&Named>) -> Option<&Trial> {
        match seat {
            Seat::Challenger => {
                let mut challengers = self.challengers.iter();
                challengers.find(|trial| trial.model.as_ref() == model)
            }
            Seat::Former => self.watch.as_ref(),
        }
    }

    /// All trials, in the order in which they are looked at: going back comes first.
    pub(crate) fn trials(&self) -> impl Iterator<Item = (Seat, &Trial)> {
        let watch = self.watch.iter().map(|trial| (Seat::Former, trial));
        let challengers = self.challengers.iter();
        watch.chain(challengers.map(|trial| (Seat::Challenger, trial)))
    }

    /// The challenger of which most is known; the baseline is none that was learned.
    pub(crate) fn furthest(&self) -> Option<&Trial> {
        let rows = |trial: &&Trial| trial.looks.last().map_or(0, |look| look.all.rows);
        let learned = self
            .challengers
            .iter()
            .filter(|trial| trial.model.is_some());
        learned.max_by_key(rows)
    }

    /// Whether a challenger scores some users.
    pub(crate) fn has_canary(&self) -> bool {
        self.challengers.iter().any(|trial| trial.canary.is_some())
    }

    /// Whether another challenger has a place, be it that of one of whom enough is known.
    pub(crate) fn has_room(&self) -> bool {
        self.has_place() || self.weakest(LOOKS_MIN).is_some()
    }

    /// Whether there are fewer challengers than may be. The baseline takes nobody's place.
    fn has_place(&self) -> bool {
        let models = self
            .challengers
            .iter()
            .filter(|trial| trial.model.is_some());
        models.count() < CHALLENGERS
    }

    /// The challenger that is better by the fewest errors, of those that were looked at so often. One that has proved itself is none.
    fn weakest(&self, looks: usize) -> Option<&Trial> {
        let is_open = |trial: &&Trial| {
            let last = trial.looks.last();
            let has_proved = last.is_some_and(|look| look.outcome.is_some());
            let may_go = trial.model.is_some() && trial.canary.is_none() && !has_proved;
            trial.looks.len() >= looks && may_go
        };
        let errors = |trial: &&Trial| trial.looks.last().map_or(0.0, |look| look.all.z);
        let open = self.challengers.iter().filter(is_open);
        open.min_by(|one, other| errors(one).total_cmp(&errors(other)))
    }

    pub(crate) fn champion(&self) -> Option<&Named> {
        self.announced.as_ref()?.champion.as_ref()
    }

    /// Who scores some users instead of the champion, and which share of them. Not beside another champion than it was tried with, and nobody beside one that is to stay.
    pub(super) fn canary(&self) -> Option<(&Named, f64)> {
        let mut challengers = self.challengers.iter();
        let trial = challengers.find(|trial| trial.canary.is_some())?;
        let canary = trial.canary.as_ref()?;
        let is_beside = trial.champion.as_ref() == self.champion() && !self.is_pinned();
        let model = trial.model.as_ref().filter(|_| is_beside)?;
        Some((model, canary.share))
    }

    /// Whether nobody but a command may change who is champion.
    pub(crate) fn is_pinned(&self) -> bool {
        self.announced.as_ref().is_some_and(|of| of.pinned)
    }
}

/// Who scores, and who is on trial beside it.
///
/// # Errors
/// The log's, or that a record cannot be read.
pub fn standing(config: &Config, log: &dyn Log) -> Result<Standing, ChampionError> {
    Standing::of(&Registry::read(config, log)?)
}

/// The same, and whether the champion can be loaded under this configuration.
///
/// # Errors
/// As [`standing`].
pub fn shown(config: &Config, log: &dyn Log) -> Result<Standing, ChampionError> {
    let registry = Registry::read(config, log)?;
    let mut standing = Standing::of(&registry)?;
    let assembler = Assembler::new(config).map_err(TrainedError::Schema)?;
    if let Some(champion) = standing.champion().cloned() {
        let found = registry.bytes_of(&champion).and_then(|(manifest, _)| {
            let is_for = BaheModel::is_for(manifest, assembler.schema());
            is_for.map_err(|error| ChampionError::Trained(error.into()))
        });
        standing.trouble = found.err().map(|error| headwater_consumers::words(&error));
        standing.waits = !registry.has_scored(&champion);
    }
    Ok(standing)
}

/// Puts the model of a folder on trial beside the champion, and beside other challengers; where there are as many as may be, in the place of who is better by the fewest errors. Rows that are not later than `after` (Unix milliseconds) are no evidence. Whoever trains
/// (`train.every`) judges it.
///
/// # Errors
/// A model that this configuration's rows are not for, that is damaged, or that looks at texts of which the champion's rows do not tell; nothing is on trial then.
pub fn put_on_trial(
    config: &Config,
    log: &dyn Log,
    folder: &Path,
    after: Option<i64>,
) -> Result<Trial, ChampionError> {
    let model = crate::trained::open_folder(config, folder)?;
    let registry = Registry::read(config, log)?;
    let of = super::hex(model.id());
    let champion = Standing::of(&registry)?.champion().cloned();
    if model.deep().is_some() {
        let is_logged = config.texts.logged;
        let is_told = match &champion {
            None => is_logged,
            Some(champion) => {
                let (manifest, _) = registry.bytes_of(champion)?;
                let is_told = model.is_told_by(manifest, is_logged);
                is_told.map_err(|error| ChampionError::Trained(error.into()))?
            }
        };
        if !is_told {
            return Err(ChampionError::Texts);
        }
    }
    if champion.is_some_and(|champion| champion.id == of) {
        return Err(ChampionError::IsChampion);
    }
    let mut producer = log.producer()?;
    let model = send_parts(config, &mut *producer, folder)?;
    let standing = standing(config, log)?;
    let champion = standing.champion().cloned();
    let trial = Trial::begin(config, log, [Some(model), champion], after)?;
    let is_there = (standing.of_seat(Seat::Challenger, trial.model.as_ref())).is_some();
    if !is_there && !standing.has_place() {
        let weakest = standing.weakest(LOOKS_MIN);
        let weakest = weakest.or_else(|| standing.weakest(0));
        // Whoever says so by command has it so.
        let newest = || {
            let mut challengers = standing.challengers.iter().rev();
            challengers.find(|trial| trial.model.is_some() && trial.canary.is_none())
        };
        if let Some(weakest) = weakest.or_else(newest) {
            tracing::info!(model = ?weakest.model, "makes room for another challenger");
            end(&mut *producer, Seat::Challenger, weakest)?;
        }
    }
    put(&mut *producer, Seat::Challenger, &trial)?;
    forget((config, log), &mut *producer, &registry)?;
    Ok(trial)
}

/// Writes a trial down as it stands now, or ends it; not where the seat has another by now than this one. Gives whether it did.
///
/// # Errors
/// The log's, or that a record cannot be read.
pub(crate) fn note(
    config: &Config,
    log: &dyn Log,
    (seat, held): (Seat, &Trial),
    now: Option<&Trial>,
) -> Result<bool, ChampionError> {
    let standing = standing(config, log)?;
    let is_held = standing.of_seat(seat, held.model.as_ref()) == Some(held);
    match now {
        Some(now) if is_held => put(&mut *log.producer()?, seat, now)?,
        None if is_held => end(&mut *log.producer()?, seat, held)?,
        _ => {}
    }
    Ok(is_held)
}

/// Writes a trial down.
fn put(producer: &mut dyn Producer, seat: Seat, trial: &Trial) -> Result<(), LogError> {
    let value = serde_json::to_vec(trial).expect("invariant: a trial holds finite numbers");
    let key = seat.key(trial.model.as_ref());
    send(producer, key.as_bytes(), Some(&value))?;
    producer.flush()
}

/// Takes a trial away.
fn end(producer: &mut dyn Producer, seat: Seat, trial: &Trial) -> Result<(), LogError> {
    let key = seat.key(trial.model.as_ref());
    send(producer, key.as_bytes(), None)?;
    producer.flush()
}

/// Whoever looks at trials again and again: what the topic of models holds, read anew when something was written there.
#[derive(Debug, Default)]
pub(crate) struct Bench {
    registry: Registry,
    read: Option<Vec<Stretch>>,
}

impl Bench {
    /// How things stand now, with trials that are those of who is champion now ([`settle`]).
    ///
    /// # Errors
    /// The log's, or that a record cannot be read.
    pub(crate) fn turn(
        &mut self,
        config: &Config,
        log: &dyn Log,
        watch_ms: i64,
    ) -> Result<Standing, ChampionError> {
        let whole = scan::whole(log, Topic::Models, &config.topic_name(Topic::Models))?;
        if self.read.as_ref() != Some(&whole) {
            self.registry = Registry::of(log, &whole)?;
            self.read = Some(whole);
        }
        settle((config, log), &self.registry, watch_ms)
    }

    /// A model of the topic, copied into a folder and opened.
    ///
    /// # Errors
    /// What keeps it from being read or used.
    pub(crate) fn open(
        &self,
        config: &Config,
        model: &Named,
        folder: &Path,
    ) -> Result<BaheModel, ChampionError> {
        self.registry.copy(config, model, folder)
    }
}

/// Sees to it that trials are those of who is champion now: of who became it, or is beside another than it began with, nothing is carried over; after a promotion who was champion before is
/// watched, for so long; and the baseline always stands beside a trained model: a model of another time may be worse than none, and so may the one before it.
fn settle(
    (config, log): (&Config, &dyn Log),
    registry: &Registry,
    watch_ms: i64,
) -> Result<Standing, ChampionError> {
    let mut standing = Standing::of(registry)?;
    let champion = standing.champion().cloned();
    for (key, value) in &registry.trials {
        if matches!(read::<Trial>(value), Err(ChampionError::Form(_))) {
            let mut producer = log.producer()?;
            send(&mut *producer, key.as_bytes(), None)?;
            producer.flush()?;
        }
    }
    for trial in std::mem::take(&mut standing.challengers) {
        if trial.model == champion {
            end(&mut *log.producer()?, Seat::Challenger, &trial)?;
        } else if trial.champion == champion {
            standing.challengers.push(trial);
        } else {
            let again = [trial.model, champion.clone()];
            let again = Trial::begin(config, log, again, trial.after)?;
            put(&mut *log.producer()?, Seat::Challenger, &again)?;
            standing.challengers.push(again);
        }
    }
    let watched = standing.announced.as_ref().filter(|announced| {
        let is_new = matches!(announced.cause, Some(Cause::Promoted | Cause::ProvedItself));
        let since = registry.scores_since(announced);
        is_new && since.is_some_and(|since| unix_ms() < since.saturating_add(watch_ms))
    });
    let watched = watched.map(|announced| announced.former.clone());
    let held = standing.watch.take();
    standing.watch = match (watched, held) {
        (None, None) => None,
        (None, Some(held)) => {
            end(&mut *log.producer()?, Seat::Former, &held)?;
            None
        }
        (Some(former), Some(held)) if held.model == former && held.champion == champion => {
            Some(held)
        }
        (Some(former), _) => {
            let trial = Trial::begin(config, log, [former, champion.clone()], None)?;
            put(&mut *log.producer()?, Seat::Former, &trial)?;
            Some(trial)
        }
    };
    let watched = standing.watch.as_ref();
    let has_baseline = watched.is_some_and(|trial| trial.model.is_none())
        || standing.of_seat(Seat::Challenger, None).is_some();
    if champion.is_some() && watch_ms > 0 && !has_baseline {
        let trial = Trial::begin(config, log, [None, champion], None)?;
        put(&mut *log.producer()?, Seat::Challenger, &trial)?;
        standing.challengers.push(trial);
    }
    Ok(standing)
}

/// Makes who proved itself champion: the challenger, or the former again. Nothing happens where another champion was announced meanwhile, or the seat has another trial.
///
/// # Errors
/// The log's, or that a record cannot be read.
pub(crate) fn take_over(
    config: &Config,
    log: &dyn Log,
    seat: Seat,
    trial: &Trial,
) -> Result<Option<Announced>, ChampionError> {
    let registry = Registry::read(config, log)?;
    let standing = Standing::of(&registry)?;
    let is_other = standing.champion() != trial.champion.as_ref();
    let held = standing.of_seat(seat, trial.model.as_ref());
    if is_other || standing.is_pinned() || held != Some(trial) {
        return Ok(None);
    }
    if let Some(model) = &trial.model {
        registry.bytes_of(model)?;
    }
    let cause = match seat {
        Seat::Challenger => Cause::ProvedItself,
        Seat::Former => Cause::Disappointed,
    };
    let mut producer = log.producer()?;
    let announced = standing.announced.as_ref();
    let before = match seat {
        Seat::Challenger => announced.and_then(|announced| registry.former_of(announced)),
        Seat::Former => trial.champion.clone(),
    };
    let of = [trial.model.clone(), before];
    let announced = announce(&mut *producer, of, cause, false)?;
    end(&mut *producer, seat, trial)?;
    Ok(Some(announced))
}
