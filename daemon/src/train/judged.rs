//! What was learned from a log, beside the champion.

use headwater_config::Config;
use headwater_consumers::log::Log;
use headwater_model::bahe::{BaheModel, Trainer};
use serde::Serialize;

use super::predict::Said;
use super::rows::Recorded;
use super::{TrainBahe, TrainError};

/// A challenger beside the champion, on rows that it has not seen.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an answer of its own, by its name in the summary"
)]
pub struct Judged {
    /// The champion's name and version.
    pub champion: String,
    /// Labelled rows that they were compared on, and how many users these are of.
    pub rows: [usize; 2],
    /// Mean log loss of champion and challenger.
    pub losses: [f64; 2],
    /// By how many errors the challenger is better.
    pub z: f64,
    /// Whether that is enough to judge by.
    pub enough: bool,
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
    /// It is put on trial, in another's place if there is no other, to prove itself on rows that are scored from now on, if it is better at all.
    OnTrial,
    /// The same, if there is a place, or one on trial of whom enough is known makes room.
    OnTrialInTurn,
}

impl TrainBahe {
    /// Makes the model champion, if nobody was announced since training `began` and who is champion may be replaced; gives whether it did.
    fn promote_since(
        &self,
        config: &Config,
        log: &dyn Log,
        began: i64,
    ) -> Result<bool, TrainError> {
        let standing = crate::champion::standing(config, log)?;
        let announced = standing.announced.as_ref();
        if standing.is_pinned() || announced.is_some_and(|announced| announced.time >= began) {
            tracing::warn!(
                "not promoted: who it was judged beside is champion no more, or is pinned"
            );
            return Ok(false);
        }
        crate::champion::promote(config, log, &self.out)?;
        Ok(true)
    }

    /// Holds the model against the champion, on rows that are later than all that it was made from by the time that a label takes; and does what follows.
    pub(super) fn judge(
        &self,
        config: &Config,
        (log, champion, began): (&dyn Log, Option<&BaheModel>, i64),
        (trainer, said): (&Trainer, Option<&Said>),
        recorded: &Recorded,
    ) -> Result<Judged, TrainError> {
        let [.., scored] = recorded.splits();
        let scores = match said {
            // Before they were learned from.
            Some(said) => said.log_odds.clone(),
            None => trainer.score(&recorded.corpus, scored, &mut |_| {})?,
        };
        let apart_ms = super::trial::labels_ms(config);
        let judgement = headwater_model::judge(recorded.compared(&scores, apart_ms));
        let wins = judgement.wins();
        let promoted = match self.winner {
            Winner::Promoted if wins => self.promote_since(config, log, began)?,
            Winner::Promoted | Winner::Stays | Winner::OnTrial | Winner::OnTrialInTurn => false,
        };
        let on_trial = judgement.is_better()
            && match self.winner {
                Winner::Stays | Winner::Promoted => false,
                Winner::OnTrial => true,
                Winner::OnTrialInTurn => {
                    let standing = crate::champion::standing(config, log)?;
                    standing.has_room() && !standing.is_pinned()
                }
            };
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
            enough: judgement.is_enough(),
            wins,
            promoted,
            on_trial,
        })
    }
}
