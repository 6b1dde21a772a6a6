//! Judging on live rows: who is on trial ([`crate::champion`]) is held against the champion on rows that were scored after it was made, once their labels are final.
//!
//! The model that is on trial scores nobody until it has proved itself, and some users then. It need not: a logged row holds all that a model looks at, so what it would have said is computed from there, to the
//! bit, when the labels are there; of one that sees texts by other layers than the champion, to rounding ([`super::sight`]). That costs those who score nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use headwater_config::{Config, Topic};
use headwater_consumers::assemble::Assembler;
use headwater_consumers::log::Log;
use headwater_model::bahe::BaheModel;
use headwater_model::{
    Compared, Difference, Judgement, Policy, Shown, Verdict, Z_MIN, difference, is_harm, judge,
    next_look,
};

use super::TrainError;
use super::labelled::{Labelled, Matched, Wanted, stretches};
use super::sight::Sight;
use crate::champion::{
    self, Bench, Canary, CanaryLook, ChampionError, Look, Named, Outcome, Seat, Standing, Trial,
};
use crate::supervisor::Stopping;
use crate::world::unix_ms;

/// A challenger that is no better at this look goes: it is unlikely to be much better, and another may be.
const PATIENCE: usize = 3;

/// How long it takes at most until the labels of a row are final.
pub(super) fn labels_ms(config: &Config) -> i64 {
    let windows = config.tasks.values().map(|task| task.window.millis());
    config.labels.shown_within.millis() + windows.max().unwrap_or_default()
}

/// After a look that failed the same is not tried again for so long: it may have read much.
const AGAIN_AFTER: Duration = Duration::from_mins(1);

/// Whoever judges trials.
#[derive(Debug)]
pub(crate) struct Trials {
    bench: Bench,
    /// Where copies of models go.
    folder: PathBuf,
    /// Labelled rows that a look takes at most.
    rows_max: usize,
    /// How long a trial takes at most, and how long a former champion is held against who followed it, behind what labels take; milliseconds.
    longest_ms: i64,
    labels_ms: i64,
    /// Share of the users that a challenger scores before it is champion, and for how many milliseconds at least.
    canary: (f64, i64),
    /// Where labels must have come to before it is worth looking at a trial again.
    not_before: BTreeMap<(Tried, i64), i64>,
    failed: BTreeMap<Tried, Instant>,
    /// Whether whoever judges is to stop; none: nobody says so.
    pub(crate) stopping: Option<Stopping>,
}

/// Who is judged for what: the model's id, none for the baseline.
type Tried = (Seat, Option<String>);

fn tried(seat: Seat, trial: &Trial) -> Tried {
    (seat, trial.model.as_ref().map(|model| model.id.clone()))
}

/// What a look saw: how a trial stands on all of its rows, and on those that chance had put in order.
struct Looked {
    all: Judgement,
    random: Judgement,
}

/// What a turn comes to.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// How things stand now.
    pub(crate) standing: Standing,
    /// Trials of which something became.
    pub(crate) ended: Vec<(Seat, Outcome)>,
    /// Trials that could not be looked at.
    pub(crate) failed: Vec<Seat>,
}

impl Trials {
    pub(crate) fn new(config: &Config, folder: &Path) -> Self {
        Self {
            bench: Bench::default(),
            folder: folder.join("trial"),
            rows_max: config.train.rows_max,
            longest_ms: config.train.trial.millis(),
            labels_ms: labels_ms(config),
            canary: (config.train.canary.get(), config.train.canary_for.millis()),
            not_before: BTreeMap::new(),
            failed: BTreeMap::new(),
            stopping: None,
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.as_ref().is_some_and(Stopping::is_set)
    }

    /// Looks at each trial for which there are enough new rows, and does what follows.
    ///
    /// # Errors
    /// That the topic of models cannot be read. What keeps one trial from being looked at is told, and tried again.
    pub(crate) fn turn(&mut self, config: &Config, log: &dyn Log) -> Result<Turn, TrainError> {
        let mut turn = Turn {
            standing: self.settled(config, log)?,
            ..Turn::default()
        };
        let trials = turn.standing.trials();
        let trials: Vec<(Seat, Option<Named>)> = trials
            .map(|(seat, trial)| (seat, trial.model.clone()))
            .collect();
        self.forget(&turn.standing);
        for (seat, model) in trials {
            // What became of those before it may have ended it, or begun it anew.
            let trial = turn.standing.of_seat(seat, model.as_ref());
            let Some(trial) = trial.filter(|trial| !trial.ended).cloned() else {
                continue;
            };
            let of = tried(seat, &trial);
            let waits = (self.failed.get(&of)).is_some_and(|at| at.elapsed() < AGAIN_AFTER);
            if waits || turn.standing.is_pinned() {
                continue;
            }
            match self.seat((config, log), seat, trial) {
                Ok(None) => {}
                Ok(Some(outcome)) => turn.ended.push((seat, outcome)),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(
                        error,
                        ?seat,
                        "a trial cannot be looked at; the champion goes on"
                    );
                    self.failed.insert(of, Instant::now());
                    turn.failed.push(seat);
                }
            }
            // With its looks, and beside another champion where there is one.
            turn.standing = self.settled(config, log)?;
        }
        Ok(turn)
    }

    /// Forgets what was known of trials that are no more.
    fn forget(&mut self, standing: &Standing) {
        let (mut held, mut since) = (Vec::new(), Vec::new());
        for (seat, trial) in standing.trials() {
            let of = tried(seat, trial);
            let canary = trial.canary.iter().map(|canary| canary.since);
            let times = std::iter::once(trial.began).chain(canary);
            since.extend(times.map(|time| (of.clone(), time)));
            held.push(of);
        }
        self.not_before.retain(|of, _| since.contains(of));
        self.failed.retain(|of, _| held.contains(of));
    }

    fn settled(&mut self, config: &Config, log: &dyn Log) -> Result<Standing, ChampionError> {
        let watched_ms = match self.longest_ms {
            0 => 0,
            longest_ms => longest_ms.saturating_add(self.labels_ms),
        };
        self.bench.turn(config, log, watched_ms)
    }

    /// Looks at one trial, if there are enough new rows, and does what follows.
    fn seat(
        &mut self,
        (config, log): (&Config, &dyn Log),
        seat: Seat,
        mut trial: Trial,
    ) -> Result<Option<Outcome>, TrainError> {
        // What was seen, and not acted upon by whoever saw it.
        let seen = trial.looks.last().and_then(|look| look.outcome);
        let outcome = match seen {
            Some(Outcome::Canary) if trial.canary.is_some() => {
                return self.canary((config, log), trial);
            }
            Some(outcome) => Some(outcome),
            None if self.is_full(seat, &trial) => Some(Outcome::BegunAnew),
            None => match self.look((config, log), seat, &trial) {
                // What was seen until then says nothing.
                _ if self.is_stopping() => return Ok(None),
                Ok(judged) => {
                    let held = trial.clone();
                    let outcome = self.outcome(seat, &mut trial, judged);
                    // Before anything follows from it: who comes after must not look by the same bound again.
                    if trial != held && !champion::note(config, log, (seat, &held), Some(&trial))? {
                        return Ok(None);
                    }
                    outcome
                }
                // It can score nobody any more, or is not there.
                Err(TrainError::Champion(
                    error @ (ChampionError::Trained(_)
                    | ChampionError::Parts { .. }
                    | ChampionError::Other { .. }),
                )) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, ?seat, "a model on trial cannot be used");
                    Some(Outcome::Dropped)
                }
                Err(_) if self.is_over(seat, &trial) => Some(Outcome::Dropped),
                Err(error) => return Err(error),
            },
        };
        let Some(outcome) = outcome else {
            return Ok(None);
        };
        Ok(self
            .act((config, log), (seat, &trial), outcome)?
            .then_some(outcome))
    }

    /// Does what follows; gives whether it did: not where the seat has another trial by now, or nobody may be promoted.
    fn act(
        &self,
        (config, log): (&Config, &dyn Log),
        (seat, trial): (Seat, &Trial),
        outcome: Outcome,
    ) -> Result<bool, ChampionError> {
        Ok(match outcome {
            Outcome::Promoted | Outcome::WentBack => {
                champion::take_over(config, log, seat, trial)?.is_some()
            }
            // One at a time: what its users do is held against what all others do.
            Outcome::Canary if champion::standing(config, log)?.has_canary() => false,
            Outcome::Canary => {
                let mut begun = trial.clone();
                begun.canary = Some(Canary::begin(config, log, self.canary.0)?);
                champion::note(config, log, (seat, trial), Some(&begun))?
            }
            Outcome::BegunAnew => {
                let of = [trial.model.clone(), trial.champion.clone()];
                let anew = Trial::begin(config, log, of, trial.after)?;
                champion::note(config, log, (seat, trial), Some(&anew))?
            }
            // A former champion's place stays taken: it is not to be tried again.
            Outcome::Dropped => {
                let mut ended = trial.clone();
                ended.ended = true;
                let now = (seat == Seat::Former).then_some(&ended);
                champion::note(config, log, (seat, trial), now)?
            }
        })
    }

    /// Looks at what a canary's users do, and at the time. It proved itself before: it is champion unless they do less.
    fn canary(
        &mut self,
        (config, log): (&Config, &dyn Log),
        mut trial: Trial,
    ) -> Result<Option<Outcome>, TrainError> {
        let held = trial.clone();
        let Some(canary) = &mut trial.canary else {
            return Ok(None);
        };
        let before = canary.looks.last().map_or(0, |look| look.rows[1]);
        let time_ms = self.canary.1.saturating_add(self.labels_ms);
        let is_due = |since: i64| unix_ms() >= since.saturating_add(time_ms);
        let may_be_time = is_due(canary.since);
        let late_ms = time_ms.saturating_add(self.longest_ms);
        let is_late = unix_ms() >= canary.since.saturating_add(late_ms);
        let labels = stretches(config, log, Topic::Labels, Some(&canary.from[0]))?;
        let reached: i64 = labels.iter().map(|of| of.until).sum();
        let of_canary = (tried(Seat::Challenger, &held), canary.since);
        let not_before = self.not_before.get(&of_canary).copied().unwrap_or(i64::MIN);
        if reached < not_before && !may_be_time {
            return Ok(None);
        }
        let more = labels.iter().map(|of| of.until - of.from).sum::<i64>() / 4;
        self.not_before.insert(of_canary, reached + more.max(1));
        // What was seen, and not acted upon by whoever saw it.
        let seen = canary.looks.last().map(|look| (canary.looks.len(), look.z));
        if seen.is_some_and(|(number, z)| is_harm(number, z)) {
            let of_trial = (Seat::Challenger, &held);
            let is_done = self.act((config, log), of_trial, Outcome::Dropped)?;
            return Ok(is_done.then_some(Outcome::Dropped));
        }
        let mut outcome = None;
        let model = held.model.as_ref().map(|named| &*named.name);
        let shown = self.shown((config, log), &canary.from, model.unwrap_or_default());
        let (found, first) = match shown {
            Err(_) if is_late => (difference([]), None),
            shown => shown?,
        };
        // Its time begins with its first row: before that its vectors were made.
        let is_time = is_due(first.map_or(canary.since, |first| first.max(canary.since)));
        // At the end once more, whatever there is.
        let wanted = match next_look(canary.looks.len(), before) {
            Some(_) if is_time => before + 1,
            Some(wanted) => wanted,
            None => usize::MAX,
        };
        if found.is_enough && found.rows[1] >= wanted {
            canary.looks.push(CanaryLook {
                time: unix_ms(),
                rows: found.rows,
                positives: found.positives,
                z: found.z,
            });
            let number = canary.looks.len();
            tracing::info!(look = number, rows = ?found.rows, positives = ?found.positives, z = found.z, "looked at a canary");
            outcome = is_harm(number, found.z).then_some(Outcome::Dropped);
        }
        let is_seen = !canary.looks.is_empty();
        if outcome.is_none() && is_time && is_seen {
            outcome = Some(Outcome::Promoted);
        }
        if outcome.is_none() && is_late {
            // Nobody came.
            outcome = Some(Outcome::Dropped);
        }
        let asked = (config, log);
        if trial != held && !champion::note(config, log, (Seat::Challenger, &held), Some(&trial))? {
            return Ok(None);
        }
        let Some(outcome) = outcome else {
            return Ok(None);
        };
        let is_done = self.act(asked, (Seat::Challenger, &trial), outcome)?;
        Ok(is_done.then_some(outcome))
    }

    /// What the canary's users did, and the others: of rows that were scored since it came to score, by who scored them; and when that was.
    fn shown(
        &self,
        (config, log): (&Config, &dyn Log),
        from: &[Vec<i64>; 2],
        canary: &str,
    ) -> Result<(Difference, Option<i64>), TrainError> {
        let wanted = Wanted {
            later_than: i64::MIN,
            newest: self.rows_max,
        };
        let mut labelled = Labelled::read((config, log), Some(&from[0]), wanted, false)?;
        let mut rows = Vec::new();
        let mut users: BTreeMap<String, u32> = BTreeMap::new();
        labelled.each(Some(&from[1]), &mut |_, matched| {
            let next = users.len() as u32;
            let logged = matched.logged;
            let user = *users.entry(logged.user.to_string()).or_insert(next);
            let is_of_some = format!("{}-{}", logged.model, logged.version) == canary;
            // What was shown in random order says nothing of who scored.
            let labels = matched.labels.iter().flatten().flatten().flatten();
            let labels = labels.filter(|_| matched.policy == Policy::Scored);
            let time = logged.time;
            rows.extend(labels.map(|(label, weight)| {
                let shown = Shown {
                    user,
                    weight: (*weight).into(),
                    positive: *label > 0.0,
                    is_of_some,
                };
                (time, shown)
            }));
            Ok(())
        })?;
        // Until its vectors were made the champion scored all: of another time, which would be held against it.
        let of_canary = rows.iter().filter(|(_, shown)| shown.is_of_some);
        let first = of_canary.map(|(time, _)| *time).min();
        let rows = rows.into_iter().filter(|(time, _)| Some(*time) >= first);
        Ok((difference(rows.map(|(_, shown)| shown)), first))
    }

    /// Whether a challenger's time is over: that which it has for rows whose labels are final.
    fn is_over(&self, seat: Seat, trial: &Trial) -> bool {
        let since = trial.began.max(trial.after.unwrap_or(i64::MIN));
        let time = self.labels_ms.saturating_add(self.longest_ms);
        let is_late = unix_ms() >= since.saturating_add(time);
        let ends = seat == Seat::Challenger && trial.model.is_some();
        ends && (self.longest_ms == 0 || is_late)
    }

    /// Whether a trial without an end has come to as many rows as are looked at.
    fn is_full(&self, seat: Seat, trial: &Trial) -> bool {
        let before = trial.looks.last().map_or(0, |look| look.all.rows);
        let next = next_look(trial.looks.len(), before);
        let goes_on = seat == Seat::Former || trial.model.is_none();
        goes_on && next.is_none_or(|rows| rows > self.rows_max)
    }

    /// What follows from a look, or from there being none; the look is put down.
    fn outcome(&self, seat: Seat, trial: &mut Trial, looked: Option<Looked>) -> Option<Outcome> {
        let is_challenger = seat == Seat::Challenger;
        let is_baseline = trial.model.is_none();
        let is_over = self.is_over(seat, trial);
        let Some(looked) = looked else {
            return is_over.then_some(Outcome::Dropped);
        };
        let Looked { all, random } = looked;
        let may_be_canary = self.canary.0 > 0.0;
        let number = trial.looks.len() + 1;
        let verdict = all.at_look(number);
        // What is better where the champion's scores chose the rows, and worse where chance did, has learned the champion's habits.
        let is_worse_by_chance = random.is_enough() && random.z() <= -Z_MIN;
        let outcome = match verdict {
            Verdict::Worse if !is_challenger || is_baseline => Some(Outcome::BegunAnew),
            // What the baseline does is known, and no model is made by it.
            Verdict::Better if is_challenger && is_baseline => Some(Outcome::Promoted),
            Verdict::Better if !is_worse_by_chance && is_challenger && may_be_canary => {
                Some(Outcome::Canary)
            }
            Verdict::Better if !is_worse_by_chance && is_challenger => Some(Outcome::Promoted),
            Verdict::Better if !is_worse_by_chance => Some(Outcome::WentBack),
            Verdict::Better | Verdict::Worse | Verdict::Open if is_challenger && !is_baseline => {
                let is_hopeless = number >= PATIENCE && all.z() <= 0.0;
                (verdict == Verdict::Worse || is_hopeless || is_over).then_some(Outcome::Dropped)
            }
            Verdict::Better | Verdict::Worse | Verdict::Open => None,
        };
        trial.looks.push(Look {
            time: unix_ms(),
            all: (&all).into(),
            random: (&random).into(),
            outcome,
        });
        tracing::info!(
            ?seat,
            look = number,
            rows = all.rows,
            users = all.users,
            loss = all.challenger,
            champions_loss = all.champion,
            z = all.z(),
            ?verdict,
            ?outcome,
            "looked at a trial"
        );
        outcome
    }

    /// Judges a trial on all rows of it, and on those that chance had put in order; none: there are not enough so far. Whose time is over is looked at once more, whatever there is.
    fn look(
        &mut self,
        (config, log): (&Config, &dyn Log),
        seat: Seat,
        trial: &Trial,
    ) -> Result<Option<Looked>, TrainError> {
        let before = trial.looks.last().map_or(0, |look| look.all.rows);
        let Some(wanted) = next_look(trial.looks.len(), before) else {
            return Ok(None);
        };
        let is_last = self.is_over(seat, trial);
        let wanted = if is_last { before + 1 } else { wanted };
        let of_trial = (tried(seat, trial), trial.began);
        let labels = stretches(config, log, Topic::Labels, Some(&trial.from[0]))?;
        let reached: i64 = labels.iter().map(|of| of.until).sum();
        let not_before = self.not_before.get(&of_trial).copied().unwrap_or(i64::MIN);
        if reached < not_before && !is_last {
            return Ok(None);
        }
        let model = trial.model.as_ref();
        let model = model
            .map(|named| self.open(config, named, "model"))
            .transpose()?;
        let champion = trial.champion.as_ref();
        let champion = champion.map(|named| self.open(config, named, "champion"));
        let champion = match champion.transpose() {
            // One of other rows scores nobody: the baseline does.
            Err(ChampionError::Trained(_)) => None,
            opened => opened?,
        };
        let models = [champion.as_ref(), model.as_ref()];
        let rows = self.compared((config, log), trial, models, wanted)?;
        let all = judge(rows.iter().map(|(row, _)| *row));
        if all.rows < wanted || !all.is_enough() {
            // So many more as are missing, if they come as those before; half of that, for they may not.
            let records: i64 = labels.iter().map(|of| of.until - of.from).sum();
            let missing = (wanted.saturating_sub(all.rows)) as f64 / f64::max(all.rows as f64, 1.0);
            let more = records as f64 * missing.clamp(0.1, 1.0) / 2.0;
            self.not_before
                .insert(of_trial, reached + (more as i64).max(1));
            return Ok(None);
        }
        let random = rows.iter().filter(|(_, policy)| *policy == Policy::Random);
        let random = judge(random.map(|(row, _)| *row));
        Ok(Some(Looked { all, random }))
    }

    fn open(&self, config: &Config, named: &Named, name: &str) -> Result<BaheModel, ChampionError> {
        let mut config = config.clone();
        // So that a model that reads them can be opened.
        config.key_vectors.logged = true;
        self.bench.open(&config, named, &self.folder.join(name))
    }

    /// What champion and model say of the trial's rows; nothing, if there are fewer labelled items than are wanted.
    fn compared(
        &self,
        (config, log): (&Config, &dyn Log),
        trial: &Trial,
        [champion, model]: [Option<&BaheModel>; 2],
        wanted: usize,
    ) -> Result<Vec<(Compared, Policy)>, TrainError> {
        let mut config = config.clone();
        let reads = |model: Option<&BaheModel>| model.is_some_and(|of| of.interest().is_some());
        config.key_vectors.logged = reads(champion) || reads(model);
        let tasks = config.tasks.len();
        let rows = Wanted {
            later_than: trial.after.unwrap_or(i64::MIN),
            newest: self.rows_max,
        };
        let read = || Labelled::read((&config, log), Some(&trial.from[0]), rows, false);
        let mut labelled = read()?;
        let mut found = Found::default();
        if labelled.len() * tasks < wanted {
            return Ok(found.rows);
        }
        let models = [champion, model];
        // Beside who looks at no texts rows name them or do not: of those that do not, one who looks at them has nothing to say.
        let is_first = model.is_some_and(|of| of.towers().is_some())
            && champion.and_then(BaheModel::towers).is_none();
        let blind = |matched: &Matched<'_>| {
            let of = models.map(|of| of.is_some_and(|of| of.is_blind_to(matched.logged)));
            [
                of[0],
                of[1] || (is_first && matched.logged.vectors.is_none()),
            ]
        };
        let mut sight = model.and_then(Sight::of);
        let from = Some(&*trial.from[1]);
        labelled.each(from, &mut |assembler, matched| {
            match (blind(matched), &mut sight) {
                ([false, false], _) => found.take(assembler, matched, (models, None)),
                // A champion is judged by rows that hold what it saw, and by no others: one that waits scored none.
                ([false, true], Some(sight)) => {
                    sight.take(matched);
                    Ok(())
                }
                _ => Ok(()),
            }
        })?;
        let Some(mut sight) = sight.filter(|sight| !sight.is_empty()) else {
            return Ok(found.rows);
        };
        sight.make((&config, log), &|| self.is_stopping())?;
        read()?.each(from, &mut |assembler, matched| {
            if blind(matched) == [false, true] && sight.has(matched) {
                found.take(assembler, matched, (models, Some(&sight)))?;
            }
            Ok(())
        })?;
        Ok(found.rows)
    }
}

/// What champion and challenger say of rows.
#[derive(Default)]
struct Found {
    rows: Vec<(Compared, Policy)>,
    users: BTreeMap<String, u32>,
}

impl Found {
    fn take(
        &mut self,
        assembler: &Assembler,
        matched: &Matched<'_>,
        ([champion, model], sight): ([Option<&BaheModel>; 2], Option<&Sight<'_>>),
    ) -> Result<(), String> {
        let next = self.users.len() as u32;
        let user = self.users.entry(matched.logged.user.to_string());
        let user = *user.or_insert(next);
        let champion = matched.log_odds(assembler, champion, &|_| None)?;
        let made = |place| sight.and_then(|sight| sight.saw(matched, place));
        let model = matched.log_odds(assembler, model, &made)?;
        let labels = matched.labels.iter().flatten().flatten();
        for (label, (champion, model)) in labels.zip(champion.into_iter().zip(model)) {
            let Some((label, weight)) = label else {
                continue;
            };
            let compared = Compared {
                user,
                weight: (*weight).into(),
                positive: *label > 0.0,
                champion: champion.into(),
                challenger: model.into(),
            };
            self.rows.push((compared, matched.policy));
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests;
