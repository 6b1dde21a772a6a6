//! The built daemon on Apache Kafka, from records in to records out: what is promised, with nothing simulated. What it does is judged from
//! outside: topics by librdkafka alone ([`onlooker`]), state by HTTP ([`users`]), and what had to come of the input by counting it again.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

mod champion;
mod kills;
mod onlooker;
mod platform;
mod real_data;
mod texts;
mod users;
mod vectors;

/// One test at a time: each has a broker and daemons that want the whole machine, and sessions that must not time out for the other's sake.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number that a person sets.
fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is not a number: `{text}`"))
    })
}

/// Says how far a test of minutes has come, also where the test runner keeps what a test prints.
fn progress(words: &str) {
    let mut beside = std::io::stderr().lock();
    writeln!(beside, "{words}").unwrap();
}
