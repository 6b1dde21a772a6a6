//! Topics that a broker does not know: gone, or not known to it yet.
//!
//! A broker that lags behind the others, or that answers for a while in another's place, denies topics that are there. So one that was
//! there is missing only when it has been missed for a while; one that was never met is missing at once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use headwater_config::Topic;

/// Topics that were there: since when each is missed, and when it was missed last.
#[derive(Debug, Default)]
pub(super) struct Absences(BTreeMap<Topic, Option<(Instant, Instant)>>);

impl Absences {
    /// It is there.
    pub(super) fn met(&mut self, topic: Topic) {
        self.0.insert(topic, None);
    }

    /// A broker does not know it: whether that is to be believed. Questions further apart than `patience` say nothing of the time between them.
    pub(super) fn is_missing(&mut self, topic: Topic, patience: Duration, now: Instant) -> bool {
        let Some(missed) = self.0.get_mut(&topic) else {
            return true;
        };
        let since = match *missed {
            Some((since, last)) if now - last < patience => since,
            _ => now,
        };
        *missed = Some((since, now));
        now - since >= patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// Goal: a topic that was never there is missing at once; one that was, only after it was missed all the while. Method: questions at told times.
    #[test]
    fn a_topic_that_was_there_is_missing_after_a_while() {
        let mut absences = Absences::default();
        let began = Instant::now();
        let mut missing = |topic, second| {
            let now = began + Duration::from_secs(second);
            absences.is_missing(topic, PATIENCE, now)
        };
        assert!(missing(Topic::Changelog, 0));
        assert!(missing(Topic::Changelog, 1));

        let mut absences = Absences::default();
        absences.met(Topic::Changelog);
        let mut missing = |second| {
            let now = began + Duration::from_secs(second);
            absences.is_missing(Topic::Changelog, PATIENCE, now)
        };
        assert!(!missing(10));
        assert!(!missing(25));
        assert!(!missing(39));
        assert!(missing(40));
        // Nobody asked for so long: it may have been there.
        assert!(!missing(75));
        assert!(!missing(104));
        assert!(missing(105));
    }

    /// Goal: a topic that is met again was not missing. Method: missed, met, missed.
    #[test]
    fn a_topic_that_is_met_again_starts_anew() {
        let mut absences = Absences::default();
        let began = Instant::now();
        let at = |second| began + Duration::from_secs(second);
        absences.met(Topic::Scores);
        assert!(!absences.is_missing(Topic::Scores, PATIENCE, at(0)));
        assert!(!absences.is_missing(Topic::Scores, PATIENCE, at(20)));
        absences.met(Topic::Scores);
        assert!(!absences.is_missing(Topic::Scores, PATIENCE, at(35)));
        assert!(!absences.is_missing(Topic::Scores, PATIENCE, at(64)));
        assert!(absences.is_missing(Topic::Scores, PATIENCE, at(65)));
    }
}
