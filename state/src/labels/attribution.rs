//! What a row's labels are: a function of the open rows, of what was shown of them and of what was done, whatever order these came in.
//!
//! A positive credits one row: of those that showed its item before it (and that its request led to, where it names one) the one that showed it last. It
//! counts for the tasks of its kind whose window, from the row's being shown on, it falls into.

use super::{LabelRules, Labels, OpenRow, Positive};
use crate::behavior::{FixedSum, Timestamp, pinned_hash};

/// What a task counted for an example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Label {
    /// Positives.
    pub count: u32,
    /// The sum of their values.
    pub sum: FixedSum,
}

/// A shown item of a row, with its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The item.
    pub item: Box<str>,
    /// When it was shown.
    pub shown: Timestamp,
    /// Where in the list, where the platform says it.
    pub position: Option<u32>,
    /// One a task in the schema's order; `None`: it has none (yet).
    pub labels: Vec<Option<Label>>,
}

/// A row whose labels are final, or were and are corrected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// The row.
    pub row: OpenRow,
    /// The longest window that is in it: of one row, records differ in it.
    pub window_ms: i64,
    /// What was shown of it, in the order of time.
    pub examples: Vec<Example>,
}

impl Labels {
    /// All that was shown of an item: (when, time of the row, place of the row).
    fn shown_as(&self, item: u64) -> impl Iterator<Item = (Timestamp, Timestamp, u32)> {
        let whole = self.rows().filter_map(move |(place, row)| {
            let mut shown = row.shown.iter();
            shown.find(|shown| shown.hash == item)?;
            Some((row.time, row.time, place))
        });
        let one_by_one = self.impressions().filter_map(move |impression| {
            let row = self.row(impression.row)?;
            (impression.item.hash == item).then_some((impression.time, row.time, impression.row))
        });
        whole.chain(one_by_one)
    }

    /// The row that a positive credits, and when that showed its item.
    fn credited(&self, positive: &Positive) -> Option<(u32, Timestamp)> {
        let led_to = |place: u32| {
            positive.request == 0
                || self
                    .row(place)
                    .is_some_and(|row| pinned_hash(row.request.as_bytes()) == positive.request)
        };
        let shown = self.shown_as(positive.item);
        let before = shown.filter(|(shown, _, place)| *shown <= positive.time && led_to(*place));
        let (shown, _, place) = before.max()?;
        Some((place, shown))
    }

    /// The examples of a row with the labels of windows after `from` and up to `to`; of the items that `wanted` names by their hash.
    pub(super) fn labelled(
        &self,
        place: u32,
        (from, to): (i64, i64),
        rules: &LabelRules,
        wanted: impl Fn(u64) -> bool,
    ) -> Labelled {
        let row = self
            .row(place)
            .expect("invariant: the caller has its place");
        let whole = row.shown.iter().map(|item| (item, row.time, None));
        let one_by_one = self
            .impressions()
            .filter(|impression| impression.row == place)
            .map(|impression| (&impression.item, impression.time, impression.position));
        let mut shown: Vec<_> = whole
            .chain(one_by_one)
            .filter(|(item, ..)| wanted(item.hash))
            .collect();
        shown.sort_by_key(|(item, time, position)| (*time, *position, item.id.clone()));
        shown.dedup_by_key(|(item, ..)| item.hash);
        let credits: Vec<(&Positive, Timestamp)> = self
            .positives()
            .filter(|positive| wanted(positive.item))
            .filter_map(|positive| {
                let (credited, shown) = self.credited(positive)?;
                (credited == place).then_some((positive, shown))
            })
            .collect();
        let examples = shown.into_iter().map(|(item, time, position)| {
            let of_item = credits.iter().filter(|(of, _)| of.item == item.hash);
            let of_item: Vec<_> = of_item.collect();
            let labels = rules.tasks.iter().map(|task| {
                let holds = task.holds_in(row.scenario);
                (holds && from < task.window_ms && task.window_ms <= to).then(|| {
                    let counted = of_item.iter().filter(|(positive, shown)| {
                        task.positive.contains(&positive.kind)
                            && positive.time <= shown.plus(task.window_ms)
                    });
                    counted.fold(Label::default(), |label, (positive, _)| Label {
                        count: label.count.saturating_add(1),
                        sum: label.sum.plus(positive.value.unwrap_or_default()),
                    })
                })
            });
            Example {
                item: item.id.clone(),
                shown: time,
                position,
                labels: labels.collect(),
            }
        });
        Labelled {
            row: row.clone(),
            window_ms: to,
            examples: examples.collect(),
        }
    }

    /// What was released of an item so far, by row.
    pub(crate) fn released_of(&self, item: &str, rules: &LabelRules) -> Vec<(u32, Labelled)> {
        let hash = pinned_hash(item.as_bytes());
        let released = self.rows().filter(|(_, row)| row.released_ms >= 0);
        let labelled = released.map(|(place, row)| {
            let windows = (-1, row.released_ms);
            (place, self.labelled(place, windows, rules, |of| of == hash))
        });
        labelled.filter(|(_, of)| !of.examples.is_empty()).collect()
    }
}

/// What is not as it was released, `before` being all that was released of an item and `now` what would be.
pub(crate) fn corrections(before: &[(u32, Labelled)], now: Vec<(u32, Labelled)>) -> Vec<Labelled> {
    let differs = |(place, of): &(u32, Labelled)| {
        let same = before.iter().find(|(other, _)| other == place);
        same.is_none_or(|(_, other)| other.examples != of.examples)
    };
    let differing = now.into_iter().filter(differs);
    differing.map(|(_, labelled)| labelled).collect()
}
