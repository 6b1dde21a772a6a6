//! Calls of librdkafka that may never come back.
//!
//! The library promises a timeout for its transactional calls and waits without one for its own main thread. Seen with 2.12.1
//! after brokers were killed and came back: the answer to `send_offsets_to_transaction` was lost in there, and the caller slept
//! for ever. Such a client is given up; another one with the same transactional id fences it, so that what it might still do
//! has no effect.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// A client whose calls are waited for only so long.
#[derive(Debug)]
pub(super) struct Patient<T> {
    client: Arc<T>,
    given_up: AtomicBool,
}

impl<T: Send + Sync + 'static> Patient<T> {
    pub(super) fn new(client: T) -> Self {
        Self {
            client: Arc::new(client),
            given_up: AtomicBool::new(false),
        }
    }

    /// The client, for calls that always come back.
    pub(super) fn client(&self) -> &T {
        &self.client
    }

    /// Makes the call on a thread of its own. `None`: it has not come back in time, or an earlier one had not; the client is
    /// closed when the call ends, if ever.
    pub(super) fn call<R: Send + 'static>(
        &self,
        patience: Duration,
        call: impl FnOnce(&T) -> R + Send + 'static,
    ) -> Option<R> {
        if self.given_up.load(Ordering::Relaxed) {
            return None;
        }
        let (tell, told) = mpsc::sync_channel(1);
        let client = Arc::clone(&self.client);
        let started = thread::Builder::new()
            .name("kafka-call".to_owned())
            .spawn(move || {
                let result = call(&client);
                // Before the answer: whoever gives the client up after it closes it, not this thread.
                drop(client);
                drop(tell.send(result));
            });
        let result = started.ok().and_then(|_| told.recv_timeout(patience).ok());
        if result.is_none() {
            self.given_up.store(true, Ordering::Relaxed);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Instant;

    use super::*;

    /// Goal: a call that never comes back keeps nobody, and the client is asked nothing more; when the call ends after all, the
    /// client is closed. Method: a call that waits for the test.
    #[test]
    fn a_call_that_never_comes_back_is_given_up() {
        struct Client(mpsc::Sender<()>);
        impl Drop for Client {
            fn drop(&mut self) {
                let _ = self.0.send(());
            }
        }
        let (closed, is_closed) = channel();
        let (release, released) = channel::<()>();
        let patient = Patient::new(Client(closed));
        let long = Duration::from_secs(60);
        assert_eq!(patient.call(long, |_| 7), Some(7));
        let stuck = patient.call(Duration::from_millis(20), move |_| {
            let _ = released.recv();
        });
        assert_eq!(stuck, None);
        let began = Instant::now();
        assert_eq!(patient.call(long, |_| 7), None);
        assert!(began.elapsed() < long);
        drop(patient);
        assert!(is_closed.try_recv().is_err(), "closed under the call");
        drop(release);
        is_closed
            .recv_timeout(long)
            .expect("closed when the call has ended");
    }
}
