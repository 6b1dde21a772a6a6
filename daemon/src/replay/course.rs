//! How far a replay is: what was sent, in stretches, and which of them the group has counted.
//!
//! Before it stands the sender, who tells each record; after it the bar, and the sender again, who must not run too far ahead. Offsets are
//! those that records have where nobody else writes: where somebody does, stretches pass a little early, and only the end is waited
//! for by what the topics hold.

use std::collections::{BTreeMap, VecDeque};

use headwater_consumers::log::TopicPartition;

/// Records of a stretch.
const STRETCH_RECORDS: u64 = 500;

/// Records one after the other, and where each partition stands after them.
#[derive(Clone, Debug, Default)]
struct Stretch {
    records: u64,
    /// Event time of the oldest.
    oldest: Option<i64>,
    /// Place in the file after them.
    place: u64,
    upto: BTreeMap<TopicPartition, i64>,
}

/// What was sent and what is counted of it.
#[derive(Clone, Debug)]
pub(super) struct Course {
    next: BTreeMap<TopicPartition, i64>,
    open: Stretch,
    closed: VecDeque<Stretch>,
    /// Records of the stretches that have passed, and the place in the file after them.
    counted: (u64, u64),
    in_flight: u64,
}

impl Course {
    /// A course from these next offsets on.
    pub(super) fn new(next: BTreeMap<TopicPartition, i64>) -> Self {
        Self {
            next,
            open: Stretch::default(),
            closed: VecDeque::new(),
            counted: (0, 0),
            in_flight: 0,
        }
    }

    /// A record was sent, of this time; the file is read up to `place`.
    pub(super) fn sent(&mut self, to: TopicPartition, time: Option<i64>, place: u64) {
        self.in_flight += 1;
        self.open.records += 1;
        self.open.place = place;
        self.open.oldest = match (self.open.oldest, time) {
            (Some(oldest), Some(time)) => Some(oldest.min(time)),
            (oldest, time) => oldest.or(time),
        };
        // Who writes to a topic that the group does not read has nothing to wait for.
        if let Some(next) = self.next.get_mut(&to) {
            *next += 1;
            self.open.upto.insert(to, *next);
        }
        if self.open.records == STRETCH_RECORDS {
            self.close();
        }
    }

    /// What was sent so far is to be counted by itself.
    pub(super) fn close(&mut self) {
        if self.open.records > 0 {
            self.closed.push_back(std::mem::take(&mut self.open));
        }
    }

    /// The group has counted up to these offsets. Gives whether that is further than before.
    pub(super) fn passed(&mut self, counted: &BTreeMap<TopicPartition, i64>) -> bool {
        let before = self.counted;
        while self.closed.front().is_some_and(|stretch| {
            let mut upto = stretch.upto.iter();
            upto.all(|(of, next)| counted.get(of).is_some_and(|counted| counted >= next))
        }) {
            if let Some(stretch) = self.closed.pop_front() {
                self.pass(&stretch);
            }
        }
        self.counted != before
    }

    /// The group has counted everything.
    pub(super) fn all_passed(&mut self) {
        self.close();
        while let Some(stretch) = self.closed.pop_front() {
            self.pass(&stretch);
        }
    }

    fn pass(&mut self, stretch: &Stretch) {
        self.in_flight -= stretch.records;
        self.counted = (self.counted.0 + stretch.records, stretch.place);
    }

    /// Records counted, and the place in the file after them.
    pub(super) fn counted(&self) -> (u64, u64) {
        self.counted
    }

    /// Records that were sent and are not counted.
    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Event time of the oldest of them.
    pub(super) fn oldest(&self) -> Option<i64> {
        let all = self.closed.iter().chain([&self.open]);
        all.filter_map(|stretch| stretch.oldest).min()
    }
}

#[cfg(test)]
mod tests {
    use headwater_config::Topic;

    use super::*;

    /// Goal: a stretch passes when every partition has come through it, in their order. Method: three stretches over two partitions, counted
    /// unevenly.
    #[test]
    fn stretches_pass_in_order() {
        let of = |partition| TopicPartition::new(Topic::Behaviors, partition);
        let items = TopicPartition::new(Topic::Items, 0);
        let mut course = Course::new(BTreeMap::from([(of(0), 10), (of(1), 20)]));
        for (partition, time) in [(0, 5), (1, 3), (1, 7)] {
            course.sent(of(partition), Some(time), 100 * time as u64);
            course.sent(items, None, 100 * time as u64);
            course.close();
        }
        assert_eq!((course.in_flight(), course.oldest()), (6, Some(3)));
        // The second is counted, the first is not.
        assert!(!course.passed(&BTreeMap::from([(of(0), 10), (of(1), 21)])));
        assert_eq!(course.counted(), (0, 0));
        assert!(course.passed(&BTreeMap::from([(of(0), 11), (of(1), 21)])));
        assert_eq!(course.counted(), (4, 300));
        assert_eq!((course.in_flight(), course.oldest()), (2, Some(7)));
        course.all_passed();
        assert_eq!(
            (course.counted(), course.in_flight(), course.oldest()),
            ((6, 700), 0, None)
        );
    }
}
