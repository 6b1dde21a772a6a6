//! What was learned from a log, beside the champion.

use headwater_config::Config;
use headwater_consumers::log::Log;
use headwater_model::bahe::{BaheModel, Trainer};
use serde::Serialize;

use super::rows::Recorded;
use super::{TrainBahe, TrainError};

/// A challenger beside the champion, on rows that it has not seen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judged {
    /// The champion's name and version.
    pub champion: String,
    /// Labelled rows that they were compared on, and how many users these are of.
    pub rows: [usize; 2],
    /// Mean log loss of champion and challenger.
    pub losses: [f64; 2],
    /// By how many errors the challenger is better.
    pub z: f64,
    /// Whether it wins.
    pub wins: bool,
    /// Whether it was made champion.
    pub promoted: bool,
    /// Whether it was put on trial beside the champion.
    pub on_trial: bool,
}

/// What becomes of a model that is better than the champion on rows that it was not made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Winner {
    /// Nothing.
    Stays,
    /// It is made champion, if it wins.
    Promoted,
    /// It is put on trial, to prove itself on rows that are scored from now on, if it is better at all.
    OnTrial,
}

impl TrainBahe {
    /// Holds the model against the champion, on rows that are later than all that it was made from by the time that a label takes; and does what follows.
    pub(super) fn judge(
        &self,
        config: &Config,
        (log, champion): (&dyn Log, Option<&BaheModel>),
        trainer: &Trainer,
        recorded: &Recorded,
    ) -> Result<Judged, TrainError> {
        let [.., scored] = recorded.splits();
        let scores = trainer.score(&recorded.corpus, scored, &mut |_| {})?;
        let windows = config.tasks.values().map(|task| task.window.millis());
        let apart_ms = config.labels.shown_within.millis() + windows.max().unwrap_or_default();
        let judgement = headwater_model::judge(recorded.compared(&scores, apart_ms));
        let wins = judgement.wins();
        let promoted = self.winner == Winner::Promoted && wins;
        if promoted {
            crate::champion::promote(config, log, &self.out)?;
        }
        let on_trial = self.winner == Winner::OnTrial && judgement.is_better();
        if on_trial {
            let after = recorded.newest().saturating_add(apart_ms);
            crate::champion::put_on_trial(config, log, &self.out, Some(after))?;
        }
        Ok(Judged {
            champion: champion.map_or_else(
                || "baseline".to_owned(),
                |model| format!("{}-{}", BaheModel::NAME, model.version()),
            ),
            rows: [judgement.rows, judgement.users],
            losses: [judgement.champion, judgement.challenger],
            z: judgement.z(),
            wins,
            promoted,
            on_trial,
        })
    }
}
