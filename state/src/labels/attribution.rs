//! What a row's labels are: a function of the open rows, of what was shown of them and of what was done, whatever order these came in.
//!
//! A positive credits one row: of those that showed its item before it (and that its request led to, where it names one) the one that showed it last. It
//! counts for the tasks of its kind whose window, from the row's being shown on, it falls into.
//!
//! Users have hundreds of open rows, and platforms with few items show the same one in all of them: so who credits whom is worked out for all positives at once, by
//! sorting, and for one item where only that is asked for.

use super::{ItemId, LabelRules, LabelTask, Labels, OpenRow, Positive};
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

/// An item as a row showed it: in the order in which the later one is credited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shown {
    item: u64,
    at: Timestamp,
    row_time: Timestamp,
    place: u32,
}

/// Which row each positive credits: (place of the row, item, when it was shown, the positive), in this order.
pub(super) struct Credits<'a>(Vec<(u32, u64, Timestamp, &'a Positive)>);

impl<'a> Credits<'a> {
    /// What credits an item of a row.
    fn of(&self, place: u32, item: u64) -> &[(u32, u64, Timestamp, &'a Positive)] {
        let from = self.0.partition_point(|of| (of.0, of.1) < (place, item));
        let until = self.0.partition_point(|of| (of.0, of.1) <= (place, item));
        &self.0[from..until]
    }
}

/// What a task counts of those who credit an item of a row.
fn counted(task: &LabelTask, credits: &[(u32, u64, Timestamp, &Positive)]) -> Label {
    let counted = credits.iter().filter(|(.., shown, positive)| {
        task.positive.contains(&positive.kind) && positive.time <= shown.plus(task.window_ms)
    });
    counted.fold(Label::default(), |label, (.., positive)| Label {
        count: label.count.saturating_add(1),
        sum: label.sum.plus(positive.value.unwrap_or_default()),
    })
}

/// The last of what was shown of an item up to a time; `key` says what it is sorted by before that.
fn last<K: Ord>(sorted: &[(K, Shown)], key: &K, time: Timestamp) -> Option<Shown> {
    let until = sorted.partition_point(|(of, shown)| (of, shown.at) <= (key, time));
    let (of, shown) = sorted[..until].last()?;
    (of == key).then_some(*shown)
}

impl Labels {
    /// What was shown, of one item or of all, with the hash of the request.
    fn shown_as(&self, item: Option<u64>) -> impl Iterator<Item = (u64, Shown)> {
        let wanted = move |shown: &ItemId| item.is_none_or(|item| item == shown.hash);
        let shown = |row: &OpenRow, item: u64, at, place| {
            let shown = Shown {
                item,
                at,
                row_time: row.time,
                place,
            };
            (pinned_hash(row.request.as_bytes()), shown)
        };
        let whole = self.rows().flat_map(move |(place, row)| {
            let items = row.shown.iter().filter(move |item| wanted(item));
            items.map(move |item| shown(row, item.hash, row.time, place))
        });
        let one_by_one = self.impressions().filter(move |of| wanted(&of.item));
        let one_by_one = one_by_one.filter_map(move |of| {
            let row = self.row(of.row)?;
            Some(shown(row, of.item.hash, of.time, of.row))
        });
        whole.chain(one_by_one)
    }

    /// Who credits whom: of one item, or of all.
    pub(super) fn credits(&self, item: Option<u64>) -> Credits<'_> {
        let mut by_item = Vec::new();
        let mut by_request = Vec::new();
        for (request, shown) in self.shown_as(item) {
            by_item.push((shown.item, shown));
            by_request.push(((shown.item, request), shown));
        }
        by_item.sort_unstable();
        by_request.sort_unstable();
        let positives = self.positives();
        let positives = positives.filter(|of| item.is_none_or(|item| of.item == item));
        let mut credits: Vec<_> = positives
            .filter_map(|positive| {
                let shown = match positive.request {
                    0 => last(&by_item, &positive.item, positive.time),
                    request => last(&by_request, &(positive.item, request), positive.time),
                };
                let shown = shown?;
                Some((shown.place, shown.item, shown.at, positive))
            })
            .collect();
        credits.sort_by_key(|(place, item, ..)| (*place, *item));
        Credits(credits)
    }

    /// The examples of a row with the labels of windows after `from` and up to `to`; of one item, or of all.
    pub(super) fn labelled(
        &self,
        place: u32,
        (from, to): (i64, i64),
        rules: &LabelRules,
        item: Option<u64>,
        credits: &Credits<'_>,
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
            .filter(|(shown, ..)| item.is_none_or(|item| item == shown.hash))
            .collect();
        shown.sort_by(|(one, at, position), (other, other_at, other_position)| {
            (at, position, &one.id).cmp(&(other_at, other_position, &other.id))
        });
        shown.dedup_by_key(|(item, ..)| item.hash);
        let examples = shown.into_iter().map(|(item, time, position)| {
            let of_item = credits.of(place, item.hash);
            let labels = rules.tasks.iter().map(|task| {
                let holds = task.holds_in(row.scenario);
                (holds && from < task.window_ms && task.window_ms <= to)
                    .then(|| counted(task, of_item))
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
    pub(crate) fn released_of(&self, item: &str, rules: &LabelRules) -> Released {
        let item = pinned_hash(item.as_bytes());
        let mut places: Vec<u32> = self
            .shown_as(Some(item))
            .map(|(_, shown)| shown.place)
            .collect();
        places.sort_unstable();
        places.dedup();
        let was_released = |place: &u32| self.row(*place).is_some_and(|row| row.released_ms >= 0);
        places.retain(was_released);
        if places.is_empty() {
            return Released::default();
        }
        let credits = self.credits(Some(item));
        let mut released = Vec::with_capacity(places.len());
        for place in places {
            let Some(row) = self.row(place) else { continue };
            let tasks = rules.tasks.iter().map(|task| {
                let held = task.holds_in(row.scenario) && task.window_ms <= row.released_ms;
                held.then(|| counted(task, credits.of(place, item)))
            });
            released.push((place, tasks.collect()));
        }
        Released { item, released }
    }

    /// What is not as it was released: `before` is all that was released of an item, of one row or another.
    pub(crate) fn corrections(
        &self,
        before: &Released,
        item: &str,
        rules: &LabelRules,
    ) -> Vec<Labelled> {
        let now = self.released_of(item, rules);
        let differs = |(place, labels): &&(u32, Vec<Option<Label>>)| {
            let mut before = before.released.iter();
            before
                .find(|(other, _)| other == place)
                .is_none_or(|(_, other)| other != labels)
        };
        let differing: Vec<u32> = now
            .released
            .iter()
            .filter(differs)
            .map(|(place, _)| *place)
            .collect();
        if differing.is_empty() {
            return Vec::new();
        }
        let credits = self.credits(Some(now.item));
        let labelled = differing.into_iter().filter_map(|place| {
            let windows = (-1, self.row(place)?.released_ms);
            Some(self.labelled(place, windows, rules, Some(now.item), &credits))
        });
        labelled.collect()
    }
}

/// What was released of an item: labels by task, of each row.
#[derive(Debug, Default)]
pub(crate) struct Released {
    item: u64,
    released: Vec<(u32, Vec<Option<Label>>)>,
}
