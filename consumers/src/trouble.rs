//! Trouble: what a loop waits for, from the error to the proof that it is over.
//!
//! Before it stands a turn that failed; after it, the host pauses, and tells why it is not ready. A turn that goes well proves nothing
//! where the next commit fails as the last one did (a full disk, say): trouble is over with a commit, or after some time with nothing
//! to do.

use headwater_state::Timestamp;

/// How long there must be nothing to do: longer than records that are there take to come after a new start.
const QUIET_MS: i64 = 1_000;

/// The trouble of one loop, if it is in any.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    what: Option<String>,
    failed: bool,
    quiet_since: Option<Timestamp>,
}

impl Trouble {
    /// A turn has failed.
    pub(crate) fn failed(&mut self, what: String) {
        self.what = Some(what);
        self.failed = true;
        self.quiet_since = None;
    }

    /// A turn went well: it has committed something, or there was nothing to do.
    pub(crate) fn went_well(&mut self, committed: bool, quiet: bool, now: Timestamp) {
        self.failed = false;
        if self.what.is_none() {
            return;
        }
        let since = *self.quiet_since.get_or_insert(now);
        if !quiet {
            self.quiet_since = None;
        }
        if committed || (quiet && now.since(since) >= QUIET_MS) {
            self.what = None;
        }
    }

    /// What it is.
    pub(crate) fn what(&self) -> Option<&str> {
        self.what.as_deref()
    }

    /// Whether the last turn has failed.
    pub(crate) fn is_new(&self) -> bool {
        self.failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: trouble lasts until it is known to be over. Method: turns that go well without proof, busy and quiet; then each proof.
    #[test]
    fn trouble_lasts_until_it_is_over() {
        for commits in [false, true] {
            let mut trouble = Trouble::default();
            trouble.went_well(false, true, Timestamp(0));
            assert_eq!((trouble.what(), trouble.is_new()), (None, false));
            trouble.failed("disk full".to_owned());
            assert!(trouble.is_new());
            for (quiet, now) in [
                (false, 0),
                (true, 500),
                (false, 900),
                (true, 1_000),
                (true, 1_999),
            ] {
                trouble.went_well(false, quiet, Timestamp(now));
                assert_eq!(
                    (trouble.what(), trouble.is_new()),
                    (Some("disk full"), false),
                    "{now}"
                );
            }
            let (quiet, now) = if commits {
                (false, 1_999)
            } else {
                (true, 2_000)
            };
            trouble.went_well(commits, quiet, Timestamp(now));
            assert_eq!(trouble.what(), None);
        }
    }
}
