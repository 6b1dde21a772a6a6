//! Threads for work beside the stream: whoever trains, judges or encodes computes in a pool of its own.
//!
//! Products and attention run over all processors by a pool of threads, and scores of many candidates do as well. In one pool a score would wait behind each step of a training; beside it, it has
//! its share of the processors, and more where the work lets it pass.

use rayon::{ThreadPool, ThreadPoolBuilder};

/// By how much work lets others pass that nobody waits for, as `nice` has it.
pub(super) const LETS_PASS: i32 = 10;

/// A pool.
#[derive(Debug)]
pub(super) struct Pool(ThreadPool);

impl Pool {
    /// One of as many threads as there are processors, that let others pass by so much.
    ///
    /// # Errors
    /// If the system gives no threads.
    pub(super) fn new(name: &'static str, nice: i32) -> std::io::Result<Self> {
        let pool = ThreadPoolBuilder::new()
            .thread_name(move |number| format!("{name}-{number}"))
            .start_handler(move |_| lets_pass(nice))
            .build();
        pool.map(Self).map_err(std::io::Error::other)
    }

    /// Runs something in it, and waits for it.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.0.install(work)
    }
}

/// Has this thread let others pass. Elsewhere than on Linux it would be the whole process, and is left alone.
pub(super) fn lets_pass(nice: i32) {
    #[cfg(target_os = "linux")]
    if nice > 0
        && let Err(error) = rustix::process::setpriority_process(None, nice)
    {
        tracing::debug!(%error, "a thread keeps its priority");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = nice;
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use rayon::prelude::*;

    use super::*;

    /// Goal: what is computed for a score waits for nothing that a training computes, whose threads let it pass. Method: work that occupies each thread of a training's pool until a score is done, which goes over all
    /// processors; the pool's priorities.
    #[test]
    fn a_score_does_not_wait_for_a_training() {
        let pool = Pool::new("training", LETS_PASS).unwrap();
        let (scored, waits) = mpsc::channel::<()>();
        let waits = parking_lot::Mutex::new(waits);
        std::thread::scope(|scope| {
            let training = scope.spawn(|| {
                pool.run(|| {
                    let of = rayon::current_num_threads();
                    (0..of).into_par_iter().with_max_len(1).all(|_| {
                        let nice = rustix::process::getpriority_process(None);
                        let is_done = waits.lock().recv_timeout(Duration::from_mins(1));
                        is_done.is_ok() && nice.is_ok_and(|nice| nice >= LETS_PASS)
                    })
                })
            });
            let sum: usize = (0..1_000_usize).into_par_iter().with_max_len(1).sum();
            assert_eq!(sum, 499_500);
            (0..rayon::current_num_threads()).for_each(|_| scored.send(()).unwrap());
            assert!(training.join().unwrap());
        });
    }
}
