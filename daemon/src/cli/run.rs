//! `headwater run`: the daemon, until a signal or a failure ends it.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use headwater::{Daemon, Exit, Stopper};
use parking_lot::Mutex;

use super::{Failure, Global};

/// Run the daemon.
///
/// It reads behaviors and score requests, keeps what is known of users and items, and answers with scores, until SIGTERM or SIGINT:
/// then it commits what is under way, writes its state back and leaves. A second signal ends it at once; nothing is lost, the next
/// start takes a little longer.
///
/// Before the first step it checks the topics, the state folder and the store, and refuses to start where one of them is not
/// what it must be.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  headwater --config /etc/headwater.toml run
  headwater run --set log.kind=embedded --set state.path=/tmp/hw       no Kafka: the log is in this process
  HEADWATER__KAFKA__BROKERS=kafka-1:9092 headwater run

While it runs (admin.address, 127.0.0.1:9464 unless set):
  curl -s localhost:9464/readyz             is it ready, and why not?
  curl -s localhost:9464/metrics            Prometheus
  curl -s localhost:9464/users/u1           what is known of a user")]
pub(crate) struct Arguments {
    /// Leave for good when it ends: its partitions move to the others at once instead of waiting for its return.
    #[arg(long)]
    scale_in: bool,
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<(), Failure> {
    let loaded = global.load()?;
    headwater::telemetry::init(&loaded.config.telemetry);
    // Before the start: a signal that comes meanwhile stops what has started, instead of killing it.
    let asked = Arc::new(Asked {
        state: Mutex::new(State::Starting),
        forever: arguments.scale_in,
    });
    let (ready, is_ready) = std::sync::mpsc::channel();
    let listening = Arc::clone(&asked);
    std::thread::Builder::new()
        .name("headwater-signals".to_owned())
        .spawn(move || wait_for_signals(&listening, &ready))
        .map_err(|error| Failure::of(Exit::TryAgain, &error))?;
    // An error ends that thread, and with it the channel; it was logged there.
    let _ = is_ready.recv();
    let handle = Daemon::start(loaded.config)?;
    asked.started(handle.stopper());
    handle.wait()?;
    tracing::info!("stopped");
    Ok(())
}

/// What the signals ask for.
struct Asked {
    state: Mutex<State>,
    forever: bool,
}

enum State {
    Starting,
    StoppedWhileStarting,
    Running(Stopper),
}

impl Asked {
    fn started(&self, stopper: Stopper) {
        let mut state = self.state.lock();
        if matches!(*state, State::StoppedWhileStarting) {
            stopper.stop(self.forever);
        }
        *state = State::Running(stopper);
    }

    fn stop(&self) {
        let mut state = self.state.lock();
        if let State::Running(stopper) = &*state {
            stopper.stop(self.forever);
        } else {
            *state = State::StoppedWhileStarting;
        }
    }
}

/// Ends with the process: the second signal ends it from here.
#[expect(clippy::exit, reason = "a second signal means at once")]
fn wait_for_signals(asked: &Asked, ready: &Sender<()>) {
    match signals(&|| asked.stop(), ready) {
        Ok(signal) => {
            tracing::warn!(signal, "second signal; ending at once");
            std::process::exit(128 + signal);
        }
        Err(error) => tracing::error!(%error, "signals cannot be waited for: they kill"),
    }
}

/// Calls `stop` at the first signal, and returns the second.
fn signals(stop: &dyn Fn(), ready: &Sender<()>) -> std::io::Result<i32> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        // Nobody waits only where the process ends anyway.
        let _ = ready.send(());
        let mut next = async || {
            std::future::poll_fn(|context| {
                if terminate.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(SignalKind::terminate().as_raw_value());
                }
                interrupt
                    .poll_recv(context)
                    .map(|_| SignalKind::interrupt().as_raw_value())
            })
            .await
        };
        let first = next().await;
        tracing::info!(signal = first, "stopping; a second signal ends at once");
        stop();
        Ok(next().await)
    })
}

/// Sets a flag at the first SIGTERM or SIGINT; the second one ends the process.
#[expect(clippy::exit, reason = "a second signal means at once")]
pub(super) fn on_signal(
    flag: std::sync::Arc<std::sync::atomic::AtomicBool>,
) -> std::io::Result<()> {
    let (ready, _) = std::sync::mpsc::channel();
    let wait = move || {
        let set = || flag.store(true, std::sync::atomic::Ordering::Relaxed);
        match signals(&set, &ready) {
            Ok(signal) => std::process::exit(128 + signal),
            Err(_) => set(),
        }
    };
    std::thread::Builder::new()
        .name("headwater-signals".to_owned())
        .spawn(wait)
        .map(drop)
}
