//! Judging on live rows: who is on trial ([`crate::champion`]) is held against the champion on rows that were scored after it was made, once their labels are final.
//!
//! The model that is on trial scores nobody. It need not: a logged row holds all that a model looks at, so what it would have said is computed from there, to the
//! bit, when the labels are there. That costs those who score nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use headwater_config::{Config, Topic};
use headwater_consumers::log::Log;
use headwater_model::bahe::BaheModel;
use headwater_model::{Compared, Judgement, Policy, USERS_MIN, Verdict, Z_MIN, judge, next_look};

use super::TrainError;
use super::labelled::{Labelled, stretches};
use crate::champion::{self, Bench, ChampionError, Look, Named, Seat, Standing, Trial};
use crate::world::unix_ms;

/// A challenger that is no better at this look goes: it is unlikely to be much better, and another may be.
const PATIENCE: usize = 3;

/// What became of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The challenger is champion.
    Promoted,
    /// The challenger was no better, or its time was over.
    Dropped,
    /// The former champion is champion again.
    WentBack,
}

/// Whoever judges trials.
#[derive(Debug)]
pub(crate) struct Trials {
    bench: Bench,
    /// Where copies of models go.
    folder: PathBuf,
    /// Labelled rows that a look takes at most.
    rows_max: usize,
    /// How long a trial takes at most, and how long a former champion is held against who followed it; milliseconds.
    longest_ms: i64,
    /// Records of labels that there must be before it is worth looking at a trial again.
    not_before: BTreeMap<(Seat, i64), i64>,
}

impl Trials {
    pub(crate) fn new(config: &Config, folder: &Path) -> Self {
        Self {
            bench: Bench::default(),
            folder: folder.join("trial"),
            rows_max: config.train.rows_max,
            longest_ms: config.train.trial.millis(),
            not_before: BTreeMap::new(),
        }
    }

    /// Looks at each trial for which there are enough new rows, and does what follows. Gives how things stand then.
    ///
    /// # Errors
    /// The log's, or a record that cannot be read: nothing was decided by that look then.
    pub(crate) fn turn(
        &mut self,
        config: &Config,
        log: &dyn Log,
    ) -> Result<(Standing, Vec<(Seat, Outcome)>), TrainError> {
        let mut outcomes = Vec::new();
        let mut standing = self.bench.turn(config, log, self.longest_ms)?;
        if standing.is_pinned() {
            return Ok((standing, outcomes));
        }
        for seat in Seat::ALL {
            let trial = match seat {
                Seat::Challenger => &mut standing.challenger,
                Seat::Former => &mut standing.watch,
            };
            let Some(of_seat) = trial else { continue };
            let judged = self.look((config, log), seat, of_seat);
            let outcome = match judged {
                Ok(judged) => self.outcome(log, seat, of_seat, judged)?,
                // Rows have changed since: it can score nobody any more.
                Err(TrainError::Champion(ChampionError::Trained(error))) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, ?seat, "a model on trial cannot be used any more");
                    Some(Outcome::Dropped)
                }
                Err(error) => return Err(error),
            };
            let Some(outcome) = outcome else { continue };
            match outcome {
                Outcome::Promoted | Outcome::WentBack => {
                    if champion::take_over(config, log, seat, of_seat)?.is_none() {
                        continue;
                    }
                }
                Outcome::Dropped => champion::note(log, seat, None)?,
            }
            outcomes.push((seat, outcome));
            if outcome != Outcome::Dropped {
                // Another champion: other trials.
                standing = self.bench.turn(config, log, self.longest_ms)?;
                break;
            }
            *trial = None;
        }
        Ok((standing, outcomes))
    }

    /// What follows from a look, or from there being none; writes the look down.
    fn outcome(
        &self,
        log: &dyn Log,
        seat: Seat,
        trial: &mut Trial,
        judged: Option<[Judgement; 2]>,
    ) -> Result<Option<Outcome>, TrainError> {
        let is_challenger = seat == Seat::Challenger;
        let is_over = is_challenger && unix_ms() >= trial.began.saturating_add(self.longest_ms);
        let Some([all, random]) = judged else {
            return Ok(is_over.then_some(Outcome::Dropped));
        };
        trial.looks.push(Look {
            time: unix_ms(),
            all: (&all).into(),
            random: (&random).into(),
        });
        let number = trial.looks.len();
        let verdict = all.at_look(number);
        // What is better where the champion's scores chose the rows, and worse where chance did, has learned the champion's habits.
        let is_worse_by_chance = random.users >= USERS_MIN && random.z() <= -Z_MIN;
        tracing::info!(
            ?seat,
            look = number,
            rows = all.rows,
            users = all.users,
            loss = all.challenger,
            champions_loss = all.champion,
            z = all.z(),
            ?verdict,
            "looked at a trial"
        );
        let outcome = match verdict {
            Verdict::Better if is_worse_by_chance => None,
            Verdict::Better if is_challenger => Some(Outcome::Promoted),
            Verdict::Better => Some(Outcome::WentBack),
            Verdict::Worse | Verdict::Open if is_challenger => {
                let is_hopeless = number >= PATIENCE && all.z() <= 0.0;
                (verdict == Verdict::Worse || is_hopeless || is_over).then_some(Outcome::Dropped)
            }
            Verdict::Worse | Verdict::Open => None,
        };
        // Before anything follows from it: who comes after must not look at the same rows by the same bound.
        champion::note(log, seat, Some(trial))?;
        Ok(outcome)
    }

    /// Judges a trial on all rows of it, and on those that chance had put in order; none: there are not enough so far.
    fn look(
        &mut self,
        (config, log): (&Config, &dyn Log),
        seat: Seat,
        trial: &Trial,
    ) -> Result<Option<[Judgement; 2]>, TrainError> {
        let before = trial.looks.last().map_or(0, |look| look.all.rows);
        let Some(wanted) = next_look(trial.looks.len(), before) else {
            return Ok(None);
        };
        let of_trial = (seat, trial.began);
        let labels = stretches(config, log, Topic::Labels, Some(&trial.from[0]))?;
        let records: i64 = labels.iter().map(|of| of.until - of.from).sum();
        if self
            .not_before
            .get(&of_trial)
            .is_some_and(|not_before| records < *not_before)
        {
            return Ok(None);
        }
        self.not_before
            .retain(|(held, began), _| *held != seat || *began == trial.began);
        let [model, champion] = [(&trial.model, "model"), (&trial.champion, "champion")]
            .map(|(named, name)| self.open(config, named.as_ref(), name));
        let (model, champion) = (model?, champion?);
        let models = [champion.as_ref(), model.as_ref()];
        let rows = self.compared((config, log), trial, models, wanted)?;
        let found = rows.iter().filter(|(row, _)| row.weight > 0.0).count();
        if found < wanted {
            // So many more as are missing, if they come as those before; half of that, for they may not.
            let missing = (wanted - found) as f64 / f64::max(found as f64, 1.0);
            let more = (records as f64 * f64::min(missing, 1.0) / 2.0) as i64;
            self.not_before.insert(of_trial, records + more.max(1));
            return Ok(None);
        }
        let random = rows.iter().filter(|(_, policy)| *policy == Policy::Random);
        let random = judge(random.map(|(row, _)| *row));
        Ok(Some([judge(rows.iter().map(|(row, _)| *row)), random]))
    }

    fn open(
        &self,
        config: &Config,
        named: Option<&Named>,
        name: &str,
    ) -> Result<Option<BaheModel>, TrainError> {
        let mut config = config.clone();
        // So that a model that reads them can be opened.
        config.key_vectors.logged = true;
        let folder = self.folder.join(name);
        let opened = named.map(|named| self.bench.open(&config, named, &folder));
        Ok(opened.transpose()?)
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
        let mut labelled = Labelled::read((&config, log), Some(&trial.from[0]), false)?;
        labelled.keep_later(trial.after.unwrap_or(i64::MIN));
        labelled.keep_newest(self.rows_max);
        let mut rows = Vec::new();
        if labelled.len() * tasks < wanted {
            return Ok(rows);
        }
        let mut users: BTreeMap<String, u32> = BTreeMap::new();
        labelled.each(Some(&trial.from[1]), &mut |assembler, matched| {
            let next = users.len() as u32;
            let user = *users.entry(matched.logged.user.to_string()).or_insert(next);
            let said = [champion, model].map(|model| matched.log_odds(assembler, model));
            let [champion, model] = said;
            let labels = matched.labels.iter().flatten().flatten();
            for (label, (champion, model)) in labels.zip(champion?.into_iter().zip(model?)) {
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
                rows.push((compared, matched.policy));
            }
            Ok(())
        })?;
        Ok(rows)
    }
}

#[cfg(test)]
mod tests;
