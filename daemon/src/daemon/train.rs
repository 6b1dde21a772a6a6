//! The thread that learns from what the fleet scored: it trains, judges and promotes, again and again. What fails is told and tried again; scores do not
//! wait for it.

use std::sync::Arc;
use std::time::Duration;

use headwater_config::DeviceChoice;
use headwater_model::bahe::Objective;

use super::Inner;
use crate::supervisor::{Stopping, TaskKind};
use crate::train::{Ids, Source, Texts, TrainBahe, TrainError, TrainSummary};

/// Between two looks whether there are enough rows by now.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Share of the rows to learn from, and to validate on; the rest judges.
const SHARES: [f64; 2] = [0.6, 0.1];

/// Starts the thread, where this instance is to train.
///
/// # Errors
/// If the system gives none.
pub(super) fn spawn(inner: &Arc<Inner>) -> std::io::Result<()> {
    if inner.config.train.every.is_zero() {
        return Ok(());
    }
    let training = Arc::clone(inner);
    (inner.supervisor).spawn(TaskKind::Train, "headwater-train", move |stopping| {
        run(&training, stopping);
        Ok(())
    })
}

fn run(inner: &Inner, stopping: &Stopping) {
    let settings = &inner.config.train;
    let every = settings.every.duration();
    let mut training = TrainBahe {
        source: Source::Log(Arc::clone(&inner.log)),
        model: std::path::PathBuf::new(),
        out: inner.config.state.path.join("trained"),
        predictions: None,
        texts: Texts::None,
        key_vectors: inner.config.key_vectors.logged,
        ids: Ids::default(),
        cut: inner.config.texts.cut,
        layers: 1,
        limit: inner.config.texts.sequence_max,
        passes: settings.passes,
        rate: settings.rate,
        deep_factor: 0.1,
        positions: 4_096,
        // The head alone: a GPU would gain nothing by it.
        device: DeviceChoice::Cpu,
        numbers: None,
        shares: SHARES,
        seed: 0,
        objective: Objective::Labels,
        log_rows: [settings.rows_min, settings.rows_max],
        later_than: i64::MIN,
        promote: true,
        steps: None,
        progress: false,
    };
    let mut pause = every;
    while !stopping.pause(pause) {
        let told = training.run_until(&inner.config, &|| stopping.is_set());
        let outcome = tell(&told);
        if let Ok(summary) = &told
            && summary.finished
        {
            training.later_than = summary.newest;
        }
        inner.metrics.trainings.with_label_values(&[outcome]).inc();
        // Rows come by themselves, and until then a look costs little.
        pause = match told {
            Err(TrainError::TooFew { .. } | TrainError::NoRows { .. }) => every.min(LOOK_EVERY),
            Ok(_) | Err(_) => every,
        };
        // Another beginning: who was no better may be unlucky.
        training.seed += u64::from(outcome != "too_few");
    }
}

/// Tells what became of a training, and gives it in a word.
fn tell(told: &Result<TrainSummary, TrainError>) -> &'static str {
    match told {
        Ok(summary) => {
            let Some(judged) = &summary.judged else {
                return "stopped";
            };
            let [champion, challenger] = judged.losses;
            tracing::info!(
                champion = judged.champion,
                rows = ?summary.rows,
                judged_on = judged.rows[0],
                loss = challenger,
                champions_loss = champion,
                z = judged.z,
                promoted = judged.promoted,
                "trained on what was scored"
            );
            if judged.promoted { "promoted" } else { "kept" }
        }
        Err(error @ (TrainError::TooFew { .. } | TrainError::NoRows { .. })) => {
            tracing::debug!(error = error as &dyn std::error::Error, "not trained");
            "too_few"
        }
        Err(error) => {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "training failed; the champion goes on"
            );
            "failed"
        }
    }
}
