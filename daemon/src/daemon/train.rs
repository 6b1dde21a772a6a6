//! The threads that learn from what the fleet scored: one trains, again and again, and puts what it learned on trial; the other judges trials, and promotes. What fails is told and tried again; scores do not
//! wait for them.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use headwater_config::Config;
use parking_lot::Mutex;

use super::Inner;
use super::pool::{LETS_PASS, Pool};
use crate::champion::{Outcome, Seat};
use crate::metrics::Metrics;
use crate::supervisor::{Stopping, TaskKind};
use crate::train::{
    Going, Regime, Source, Texts, TrainBahe, TrainError, TrainSummary, Trials, Turn, Winner,
};

/// Between two looks whether there are enough rows by now.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Share of the rows to learn from, and to validate on; the rest judges.
const SHARES: [f64; 2] = [0.6, 0.1];

/// Starts the threads, where this instance is to train.
///
/// # Errors
/// If the system gives none.
pub(super) fn spawn(inner: &Arc<Inner>) -> std::io::Result<()> {
    if inner.config.train.every.is_zero() {
        return Ok(());
    }
    let ways = Arc::<Ways>::default();
    let (judging, of) = (Arc::clone(inner), Arc::clone(&ways));
    let pool = |name| Pool::new(name, LETS_PASS);
    let trials = pool("headwater-trials")?;
    (inner.supervisor).spawn(TaskKind::Train, "headwater-trials", move |stopping| {
        judge(&judging, (&of, &trials), stopping);
        Ok(())
    })?;
    let training = Arc::clone(inner);
    let pools = [pool("headwater-passes")?, pool("headwater-follow")?];
    (inner.supervisor).spawn(TaskKind::Train, "headwater-train", move |stopping| {
        train(&training, (&ways, &pools), stopping);
        Ok(())
    })
}

/// Who gives way to whom: passes over all rows to those over new ones, and both to looks at trials. Each takes all processors, so side by side they are done no sooner, and a champion of another time would stay while passes go on.
#[derive(Debug, Default)]
struct Ways {
    judging: Mutex<()>,
    following: Mutex<()>,
}

/// Waits until nobody has the way.
fn give(way: &Mutex<()>) {
    drop(way.lock());
}

/// What an instance of this configuration trains.
fn training(inner: &Inner) -> TrainBahe {
    let config = &inner.config;
    let source = Source::Log(Arc::clone(&inner.log));
    // The newest rows are the ones to learn from most of all. Where nothing is shown on later rows, they must judge instead.
    let (winner, regime) = if config.train.trial.is_zero() {
        (Winner::Promoted, Regime::Frozen)
    } else {
        (Winner::OnTrialInTurn, Regime::Prequential)
    };
    TrainBahe {
        shares: SHARES,
        winner,
        regime,
        ..TrainBahe::as_configured(config, source, config.state.path.join("trained"))
    }
}

/// Looks at trials.
fn judge(inner: &Inner, (ways, pool): (&Ways, &Pool), stopping: &Stopping) {
    let config = &inner.config;
    let every = config.train.every.duration();
    let mut trials = Trials::new(config, &training(inner).out);
    trials.stopping = Some(stopping.clone());
    while !stopping.pause(every.min(LOOK_EVERY)) {
        let way = ways.judging.lock();
        let turn = pool.run(|| trials.turn(config, &*inner.log));
        drop(way);
        match turn {
            Ok(turn) => {
                tell_trials(&inner.metrics, &turn);
                inner.board.tell_trials(turn.standing);
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "trials cannot be looked at; the champion goes on");
            }
        }
    }
}

/// What passes over all rows come to, and what goes on from there.
type Begun = Result<(TrainSummary, Option<Going>), TrainError>;

/// Trains: passes over all rows, in a thread of their own, and between them and meanwhile over what was labelled since, so that who comes next on trial knows the newest rows.
fn train(inner: &Inner, (ways, [passes, following]): (&Ways, &[Pool; 2]), stopping: &Stopping) {
    let config = &inner.config;
    let every = config.train.every.duration();
    let mut training = training(inner);
    let follows = TrainBahe {
        out: training.out.join("following"),
        ..training.clone()
    };
    // Asked behind each step.
    let stop_following = || {
        give(&ways.judging);
        stopping.is_set()
    };
    let stop_passes = &|| {
        give(&ways.following);
        stop_following()
    };
    let mut going: Option<Going> = None;
    let [mut begins, mut goes_on] = [Instant::now() + every; 2];
    std::thread::scope(|scope| {
        let mut anew: Option<ScopedJoinHandle<'_, Begun>> = None;
        while !stopping.pause(every.min(LOOK_EVERY)) {
            if let Some(done) = anew.take_if(|anew| anew.is_finished()) {
                let begun = done.join().unwrap_or_else(|panic| resume_unwind(panic));
                let (told, begun) = match begun {
                    Ok((summary, begun)) => (Ok(summary), begun),
                    Err(error) => (Err(error), None),
                };
                if let Ok(summary) = &told
                    && summary.finished
                    && begun.is_none()
                {
                    training.later_than = summary.newest;
                }
                begins = after(&inner.metrics, &told, every);
                // What goes on already does so, unless there is a newer one.
                going = begun.or(going);
                // Another beginning: who was no better may be unlucky.
                training.seed += u64::from(!is_too_few(&told));
            }
            // Before it is known who is on trial, nobody is put there.
            let standing = inner.board.trials();
            let waits = standing.is_none_or(|standing| {
                let is_taken =
                    !standing.challengers.is_empty() && training.winner == Winner::Promoted;
                standing.is_pinned() || is_taken
            });
            if waits {
                continue;
            }
            let is_wanted = going.as_ref().is_none_or(Going::is_outgrown);
            if is_wanted && anew.is_none() && Instant::now() >= begins {
                let training = training.clone();
                let begin = move || begin(&training, config, stop_passes);
                anew = Some(scope.spawn(move || passes.run(begin)));
            }
            if going.is_some() && Instant::now() >= goes_on {
                let way = ways.following.lock();
                let told = following.run(|| follows.go_on(config, &mut going, &stop_following));
                drop(way);
                goes_on = after(&inner.metrics, &told, every);
            }
        }
    });
}

/// Passes over all rows. Where layers are to learn, and the champion has none, the rest does.
fn begin(training: &TrainBahe, config: &Config, stop: &dyn Fn() -> bool) -> Begun {
    match training.begin(config, stop) {
        // Or rows do not tell enough: those that older builds scored.
        Err(
            error @ (TrainError::NoLayers
            | TrainError::Layers { .. }
            | TrainError::TooFewVectors { .. }),
        ) if training.texts != Texts::None => {
            if matches!(error, TrainError::Layers { .. }) {
                tracing::warn!(error = &error as &dyn std::error::Error, "no layers learn");
            }
            let texts = Texts::None;
            let training = training.clone();
            TrainBahe { texts, ..training }.begin(config, stop)
        }
        begun => begun,
    }
}

fn is_too_few(told: &Result<TrainSummary, TrainError>) -> bool {
    matches!(
        told,
        Err(TrainError::TooFew { .. } | TrainError::NoRows { .. })
    )
}

/// Tells what became of a training, and gives when the next may be.
fn after(metrics: &Metrics, told: &Result<TrainSummary, TrainError>, every: Duration) -> Instant {
    metrics.trainings.with_label_values(&[tell(told)]).inc();
    // Rows come by themselves, and until then a look costs little.
    let pause = if is_too_few(told) {
        Duration::ZERO
    } else {
        every
    };
    Instant::now() + pause
}

/// Tells what became of trials, and how those stand that go on.
fn tell_trials(metrics: &Metrics, turn: &Turn) {
    let name = |seat| match seat {
        Seat::Challenger => "challenger",
        Seat::Former => "former",
    };
    for (seat, outcome) in &turn.ended {
        let outcome = match outcome {
            Outcome::Promoted => "promoted",
            Outcome::Canary => "canary",
            Outcome::Dropped => "dropped",
            Outcome::WentBack => "went_back",
            Outcome::BegunAnew => "begun_anew",
        };
        tracing::info!(seat = name(*seat), outcome, "a trial has come so far");
        let labels = [name(*seat), outcome];
        metrics.trials.with_label_values(&labels).inc();
    }
    for seat in &turn.failed {
        let labels = [name(*seat), "failed"];
        metrics.trials.with_label_values(&labels).inc();
    }
    let trials = [
        (Seat::Challenger, turn.standing.furthest()),
        (Seat::Former, turn.standing.watch.as_ref()),
    ];
    for (seat, trial) in trials {
        let look = trial.and_then(|trial| trial.looks.last());
        let rows = look.map_or(0, |look| look.all.rows as i64);
        let z = look.map_or(0.0, |look| look.all.z);
        metrics
            .trial_rows
            .with_label_values(&[name(seat)])
            .set(rows);
        metrics.trial_z.with_label_values(&[name(seat)]).set(z);
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
                on_trial = judged.on_trial,
                "trained on what was scored"
            );
            match (judged.promoted, judged.on_trial) {
                (true, _) => "promoted",
                (false, true) => "on_trial",
                (false, false) => "kept",
            }
        }
        Err(
            error @ (TrainError::TooFew { .. }
            | TrainError::TooFewVectors { .. }
            | TrainError::NoRows { .. }),
        ) => {
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
