//! A user's open rows: what was scored for them, what of it they were shown, and what they did about it. Labels follow from these.
//!
//! Before it, `consumers::step` opens a row for each request that it scores, and notes impressions and positives among the behaviors that are
//! counted; after it, labels are published once nothing in time can change them. A row is open until then, and a while longer, in which what comes
//! late still corrects it.
//!
//! What a row's labels are is a function of the three sets, whatever order they came in (`labels::attribution`). So a restored user, and one
//! who was met by other steps, gives the same.

use crate::behavior::{KindId, ScenarioId, Timestamp};
use crate::error::Damage;
use crate::format::{Put, Take};

mod attribution;
mod kept;
#[cfg(test)]
mod tests;

pub(crate) use attribution::Released;
pub use attribution::{Example, Label, Labelled};
use kept::{Impression, ItemId, Kept};
pub use kept::{OpenRow, Positive};

/// What of the configuration labels follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelRules {
    /// How long after a row's time an impression shows it; 0 where all candidates are shown at once.
    pub shown_within_ms: i64,
    /// How long after its labels are final a row can still be corrected.
    pub late_ms: i64,
    /// Rows with their items, impressions and positives that are kept of a user.
    pub open_max: usize,
    /// The tasks, in the schema's order.
    pub tasks: Vec<LabelTask>,
}

/// What makes a task's label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelTask {
    /// Kinds that count.
    pub positive: Vec<KindId>,
    /// Scenarios of rows that it has labels in; empty: all.
    pub scenarios: Vec<ScenarioId>,
    /// How long after its being shown they count for a row.
    pub window_ms: i64,
}

impl LabelTask {
    fn holds_in(&self, scenario: ScenarioId) -> bool {
        self.scenarios.is_empty() || self.scenarios.contains(&scenario)
    }
}

impl LabelRules {
    /// The windows of the tasks that hold in a scenario, shortest first.
    fn windows(&self, scenario: ScenarioId) -> Vec<i64> {
        let tasks = self.tasks.iter().filter(|task| task.holds_in(scenario));
        let mut windows: Vec<i64> = tasks.map(|task| task.window_ms).collect();
        windows.sort_unstable();
        windows.dedup();
        windows
    }

    /// The last event time that may belong into a row's labels of this window.
    fn closes(&self, row: &OpenRow, window_ms: i64) -> Timestamp {
        row.time.plus(self.shown_within_ms).plus(window_ms)
    }
}

/// What a change of open rows has led to.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    /// Places that hold something else now, or nothing.
    pub(crate) places: Vec<u32>,
    /// Rows that were given up before their labels were final, because there were too many.
    pub(crate) forgotten: u64,
    /// Bytes of memory that came with it, about.
    pub(crate) grown: usize,
}

/// A user's open rows, in numbered places: the place is the key on the changelog. A newcomer's is the one behind the last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    kept: Vec<(u32, Kept)>,
    /// What is kept counts for so much against [`LabelRules::open_max`].
    count: usize,
}

impl Labels {
    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The open rows with their places.
    pub fn rows(&self) -> impl Iterator<Item = (u32, &OpenRow)> {
        self.kept.iter().filter_map(|(place, kept)| match kept {
            Kept::Row(row) => Some((*place, row)),
            Kept::Impression(_) | Kept::Positive(_) => None,
        })
    }

    /// The items that were shown of the row in a place.
    pub fn shown(&self, place: u32) -> Vec<&str> {
        let whole = self.row(place).into_iter().flat_map(|row| &row.shown);
        let one_by_one = self.impressions().filter(|of| of.row == place);
        let items = whole.chain(one_by_one.map(|impression| &impression.item));
        items.map(|item| &*item.id).collect()
    }

    /// What was shown of them.
    pub(crate) fn impressions(&self) -> impl Iterator<Item = &Impression> {
        self.kept.iter().filter_map(|(_, kept)| match kept {
            Kept::Impression(impression) => Some(impression),
            Kept::Row(_) | Kept::Positive(_) => None,
        })
    }

    /// What was done about it.
    pub(crate) fn positives(&self) -> impl Iterator<Item = &Positive> {
        self.kept.iter().filter_map(|(_, kept)| match kept {
            Kept::Positive(positive) => Some(positive),
            Kept::Row(_) | Kept::Impression(_) => None,
        })
    }

    fn find(&self, place: u32) -> Result<usize, usize> {
        self.kept.binary_search_by_key(&place, |(place, _)| *place)
    }

    fn row(&self, place: u32) -> Option<&OpenRow> {
        match &self.kept[self.find(place).ok()?].1 {
            Kept::Row(row) => Some(row),
            Kept::Impression(_) | Kept::Positive(_) => None,
        }
    }

    /// A place that is free, where the last is taken: of what this writes itself, never.
    fn hole(&self) -> u32 {
        let mut places = self.kept.iter().zip(0..);
        let hole = places.find(|((place, _), number)| place != number);
        hole.map_or(0, |(_, number)| number)
    }

    fn push(&mut self, kept: Kept, changed: &mut Changed) {
        let behind = self
            .kept
            .last()
            .map_or(Some(0), |(last, _)| last.checked_add(1));
        let place = behind.unwrap_or_else(|| self.hole());
        let at = self.find(place).unwrap_or_else(|at| at);
        self.count += kept.count();
        changed.grown += kept.bytes();
        self.kept.insert(at, (place, kept));
        changed.places.push(place);
    }

    /// Opens a row; gives when something is to be done about it, if nothing of it is shown until then.
    pub(crate) fn open(
        &mut self,
        row: OpenRow,
        rules: &LabelRules,
    ) -> (Option<Timestamp>, Changed) {
        let mut changed = Changed::default();
        if rules.windows(row.scenario).is_empty() {
            return (None, changed);
        }
        let due = Self::row_due(&row, !row.shown.is_empty(), rules);
        self.push(Kept::Row(row), &mut changed);
        self.make_room(rules, &mut changed);
        (Some(due), changed)
    }

    /// The items of a row that is to be opened, and shown whole, that there are positives of already.
    pub(crate) fn contested_by(&self, row: &OpenRow) -> Vec<String> {
        let mut items: Vec<String> = row
            .shown
            .iter()
            .filter(|item| {
                let mut positives = self.positives();
                positives.any(|of| of.item == item.hash && row.time <= of.time)
            })
            .map(|item| item.id.to_string())
            .collect();
        items.sort_unstable();
        items.dedup();
        items
    }

    /// Notes that an item of a request was shown; `None` if it shows no open row. Of one item in one row the earliest impression counts.
    pub(crate) fn show(
        &mut self,
        (request, item): (&str, &str),
        (time, position): (Timestamp, Option<u32>),
        rules: &LabelRules,
    ) -> Option<(u32, Changed)> {
        let shows = |row: &OpenRow| {
            *row.request == *request
                && row.time <= time
                && time <= row.time.plus(rules.shown_within_ms)
        };
        let rows = self.rows().filter(|(_, row)| shows(row));
        let (row, _) = rows.max_by_key(|(place, row)| (row.time, *place))?;
        let mut changed = Changed::default();
        let item = ItemId::of(item);
        let known = self.kept.iter_mut().find_map(|(place, kept)| match kept {
            Kept::Impression(known) if known.row == row && known.item == item => {
                Some((*place, known))
            }
            Kept::Row(_) | Kept::Impression(_) | Kept::Positive(_) => None,
        });
        match known {
            Some((_, known)) if (known.time, known.position) <= (time, position) => {}
            Some((place, known)) => {
                (known.time, known.position) = (time, position);
                changed.places.push(place);
            }
            None => {
                let impression = Impression {
                    row,
                    item,
                    time,
                    position,
                };
                self.push(Kept::Impression(impression), &mut changed);
                self.make_room(rules, &mut changed);
            }
        }
        Some((row, changed))
    }

    /// Notes a behavior that a task counts, if it can concern an open row.
    pub(crate) fn act(&mut self, positive: Positive, rules: &LabelRules) -> Changed {
        let mut changed = Changed::default();
        if self.rows().any(|(_, row)| row.time <= positive.time) {
            self.push(Kept::Positive(positive), &mut changed);
            self.make_room(rules, &mut changed);
        }
        changed
    }

    /// Gives rows up while too much is kept: of those that nothing was shown of the oldest, else the oldest.
    fn make_room(&mut self, rules: &LabelRules, changed: &mut Changed) {
        while self.count > rules.open_max {
            let shown = self.shown_rows();
            let oldest = self
                .rows()
                .min_by_key(|(place, row)| (shown.contains(place), row.time, *place));
            let Some((oldest, _)) = oldest else {
                break;
            };
            self.close(&[oldest], changed);
            changed.forgotten += 1;
        }
    }

    /// Gives all rows up, where there are to be no labels any more.
    pub(crate) fn give_up(&mut self) -> Changed {
        let mut changed = Changed::default();
        let rows: Vec<u32> = self.rows().map(|(place, _)| place).collect();
        changed.forgotten = rows.len() as u64;
        self.close(&rows, &mut changed);
        changed
    }

    /// Places of the rows that something was shown of, ascending.
    fn shown_rows(&self) -> std::collections::BTreeSet<u32> {
        let whole = self.rows().filter(|(_, row)| !row.shown.is_empty());
        let whole = whole.map(|(place, _)| place);
        whole
            .chain(self.impressions().map(|impression| impression.row))
            .collect()
    }

    /// Takes rows out, and what is then of no use to any other.
    fn close(&mut self, rows: &[u32], changed: &mut Changed) {
        let left: std::collections::BTreeMap<u32, Timestamp> = self
            .rows()
            .filter(|(place, _)| !rows.contains(place))
            .map(|(place, row)| (place, row.time))
            .collect();
        let oldest = left.values().copied().min();
        self.kept.retain(|(place, kept)| {
            let stays = match kept {
                Kept::Row(_) => left.contains_key(place),
                Kept::Impression(impression) => left.contains_key(&impression.row),
                Kept::Positive(positive) => oldest.is_some_and(|oldest| oldest <= positive.time),
            };
            if !stays {
                changed.places.push(*place);
            }
            stays
        });
        self.count = self.kept.iter().map(|(_, kept)| kept.count()).sum();
    }

    /// When something is to be done about a row next: labels released (once the watermark is past it), or the row closed.
    fn row_due(row: &OpenRow, is_shown: bool, rules: &LabelRules) -> Timestamp {
        let windows = rules.windows(row.scenario);
        let next = windows.iter().find(|window| **window > row.released_ms);
        match next {
            Some(window) if is_shown => rules.closes(row, *window),
            // Of all tasks, also those of other scenarios: while a positive may count for a row that showed its item before, this one must be there to take it.
            _ => {
                let windows = rules.tasks.iter().map(|task| task.window_ms);
                let last = windows.max().filter(|_| is_shown);
                rules
                    .closes(row, last.unwrap_or_default())
                    .plus(rules.late_ms)
            }
        }
    }

    /// When something is to be done next about the row in a place, as if something of it were shown.
    pub(crate) fn due_of(&self, place: u32, rules: &LabelRules) -> Option<Timestamp> {
        self.row(place).map(|row| Self::row_due(row, true, rules))
    }

    /// When something is to be done next, once the watermark is past it.
    pub(crate) fn due(&self, rules: &LabelRules) -> Option<Timestamp> {
        let shown = self.shown_rows();
        let rows = self.rows();
        rows.map(|(place, row)| Self::row_due(row, shown.contains(&place), rules))
            .min()
    }

    /// Releases the labels that are final at a watermark, oldest rows first, and closes the rows that nothing can concern any more.
    pub(crate) fn release(
        &mut self,
        watermark: Timestamp,
        rules: &LabelRules,
    ) -> (Vec<Labelled>, Changed) {
        let mut changed = Changed::default();
        let shown = self.shown_rows();
        let mut released = Vec::new();
        let mut over = Vec::new();
        let mut due: Vec<(Timestamp, u32)> =
            self.rows().map(|(place, row)| (row.time, place)).collect();
        due.sort_unstable();
        let mut final_rows = Vec::new();
        for (_, place) in due {
            let row = self.row(place).expect("invariant: listed just now");
            let is_shown = shown.contains(&place);
            let before = row.released_ms;
            let windows = rules.windows(row.scenario);
            let mut final_ones = windows.iter().filter(|window| {
                is_shown && **window > before && rules.closes(row, **window) < watermark
            });
            if let Some(&window) = final_ones.next_back() {
                final_rows.push((place, (before, window)));
                if let Ok(at) = self.find(place)
                    && let Kept::Row(row) = &mut self.kept[at].1
                {
                    row.released_ms = window;
                }
                changed.places.push(place);
            }
            let row = self.row(place).expect("invariant: listed just now");
            let rest = windows.iter().any(|window| *window > row.released_ms) && is_shown;
            if !rest && Self::row_due(row, is_shown, rules) < watermark {
                over.push(place);
            }
        }
        if !final_rows.is_empty() {
            let credits = self.credits(None);
            let labelled = final_rows.into_iter();
            let labelled = labelled
                .map(|(place, windows)| self.labelled(place, windows, rules, None, &credits));
            released.extend(labelled);
        }
        self.close(&over, &mut changed);
        changed.places.sort_unstable();
        changed.places.dedup();
        (released, changed)
    }

    // Bytes.

    /// The value of a place on the changelog.
    pub(crate) fn write_place(&self, place: u32, to: &mut Vec<u8>) -> bool {
        match self.find(place) {
            Ok(at) => {
                self.kept[at].1.write(to);
                true
            }
            Err(_) => false,
        }
    }

    /// Puts what the changelog says of a place. Gives the place of the row that it concerns, if it concerns one.
    pub(crate) fn apply(
        &mut self,
        place: u32,
        value: Option<Take<'_>>,
    ) -> Result<Option<u32>, Damage> {
        let kept = value.map(Kept::read).transpose()?;
        let row = match &kept {
            Some(Kept::Row(_)) => Some(place),
            Some(Kept::Impression(impression)) => Some(impression.row),
            Some(Kept::Positive(_)) | None => None,
        };
        let found = self.find(place);
        if let Ok(at) = found {
            self.count -= self.kept.remove(at).1.count();
        }
        if let Some(kept) = kept {
            let at = found.unwrap_or_else(|at| at);
            self.count += kept.count();
            self.kept.insert(at, (place, kept));
        }
        Ok(row)
    }

    /// As the store holds it.
    pub(crate) fn write(&self, to: &mut Vec<u8>) {
        let mut packed = Vec::new();
        for (place, kept) in &self.kept {
            packed.clear();
            kept.write(&mut packed);
            to.put_u32(*place);
            to.put_u32(packed.len() as u32);
            to.put(&packed);
        }
    }

    pub(crate) fn read(mut take: Take<'_>) -> Result<Self, Damage> {
        let (mut kept, mut count): (Vec<(u32, Kept)>, usize) = (Vec::new(), 0);
        while !take.is_empty() {
            let place = take.u32()?;
            if kept.last().is_some_and(|(before, _)| *before >= place) {
                return Err(Damage::Contradiction);
            }
            let length = take.u32()? as usize;
            let read = Kept::read(Take(take.bytes(length)?))?;
            count += read.count();
            kept.push((place, read));
        }
        Ok(Self { kept, count })
    }

    /// Bytes in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        self.kept.iter().map(|(_, kept)| kept.bytes()).sum()
    }
}
