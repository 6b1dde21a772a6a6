//! The thread that follows the champion. Before the first row is scored, the topic was read to its end once.

use std::sync::Arc;

use headwater_config::Config;
use headwater_consumers::log::{Log, LogError};
use headwater_model::bahe::BaheModel;

use super::Inner;
use super::back_off::BackOff;
use super::error::{StartError, StopError};
use super::trained::Layers;
use crate::champion::{Follower, Held};
use crate::status::ModelStatus;
use crate::supervisor::{Stopping, TaskKind};

/// Reads the topic to its end, where this instance scores with the champion.
///
/// # Errors
/// The log's.
pub(super) fn begin(
    config: &Config,
    log: &dyn Log,
    held: &Arc<Held>,
) -> Result<Option<Follower>, StartError> {
    if config.instance.workers == 0 {
        return Ok(None);
    }
    // Before the first row is logged: whoever learns from it under another schema, however much later, finds there what it holds.
    crate::schemas::tell(config, log);
    if config.scoring.model.is_some() {
        return Ok(None);
    }
    let mut follower = Follower::new(config, log, Arc::clone(held))?;
    while !follower.turn()? {}
    Ok(Some(follower))
}

/// Who scores, if it is not the baseline by itself.
pub(super) fn status(inner: &Inner) -> Option<ModelStatus> {
    let (model, trouble) = inner.champion.status();
    match model {
        Some(model) => Some(ModelStatus {
            trouble,
            ..inner.status_of(&model)
        }),
        None => {
            let ahead = inner.layers.as_ref().and_then(Layers::ahead);
            (trouble.is_some() || ahead.is_some()).then(|| ModelStatus {
                name: "baseline".to_owned(),
                has_encoder: true,
                waiting: 0,
                ahead,
                trouble,
            })
        }
    }
}

/// Starts the thread that follows.
///
/// # Errors
/// If the system gives none.
pub(super) fn spawn(inner: &Arc<Inner>, follower: Option<Follower>) -> std::io::Result<()> {
    let Some(follower) = follower else {
        return Ok(());
    };
    let mut follower = Some(follower);
    let following = Arc::clone(inner);
    let supervisor = &inner.supervisor;
    supervisor.spawn(TaskKind::Champion, "headwater-champion", move |stopping| {
        run(&following, &mut follower, stopping)
    })
}

/// Tells that a model scores here.
pub(super) fn tell_scored(inner: &Inner, model: &BaheModel) {
    if let Err(error) = crate::champion::tell_scored(&*inner.log, model) {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(
            error,
            "it is not told that a model has scored: whoever comes after it may not go back to it"
        );
    }
}

/// Follows until it is told to end. Brokers that are away are waited for: the champion goes on.
fn run(
    inner: &Inner,
    follower: &mut Option<Follower>,
    stopping: &Stopping,
) -> Result<(), StopError> {
    let mut pauses = BackOff::new();
    let mut told: Option<[u8; 16]> = None;
    while !stopping.is_set() {
        let untold = follower.as_ref().and_then(Follower::untold);
        if let Some(model) = untold.filter(|model| told != Some(model.id())) {
            told = Some(model.id());
            tell_scored(inner, &model);
        }
        let turn = match follower {
            Some(follower) => follower.turn().map(drop),
            None => {
                let held = Arc::clone(&inner.champion);
                let made = Follower::new(&inner.config, &*inner.log, held);
                made.map(|made| *follower = Some(made))
            }
        };
        match turn {
            Ok(()) => pauses.reset(),
            Err(error @ (LogError::Unavailable { .. } | LogError::OutOfRange { .. })) => {
                // A reader is made anew: what it held may be of a topic that is no more.
                *follower = None;
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "topic of models not reached"
                );
                stopping.pause(pauses.next());
            }
            Err(
                error @ (LogError::Fenced { .. }
                | LogError::NoTopic { .. }
                | LogError::Refused { .. }
                | LogError::Io { .. }
                | LogError::Damaged { .. }),
            ) => return Err(StopError::Champion(error)),
        }
    }
    Ok(())
}
