//! State as it must be, counted from the file: lists, maps and `<`; no code of `state` is used.

use std::collections::BTreeMap;

use headwater::inspect::{EntryView, RecentView, UserView};
use serde::Deserialize;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
const MONTH: i64 = 30 * DAY;

/// Cells before an entry's newest event: hours of a day, then days of 32, then months of 30 days for 24, then one for all before.
const CELLS: [(&str, i64, i64); 3] = [("hour", HOUR, 24), ("day", DAY, 32), ("month", MONTH, 24)];

#[derive(Deserialize)]
struct Behavior<'a> {
    user_id: &'a str,
    item_id: &'a str,
    kind: &'a str,
    scenario: &'a str,
    time: i64,
    value: Option<f64>,
    #[serde(default, borrow)]
    attributes: BTreeMap<&'a str, &'a str>,
}

/// A behavior; texts by their numbers.
#[derive(Clone, Debug)]
struct Counted {
    time: i64,
    item: u32,
    kind: u32,
    scenario: u32,
    value: Option<f64>,
    /// Of each configured attribute.
    attributes: Vec<Option<u32>>,
}

/// All that the file says.
pub(crate) struct Recount {
    recent: usize,
    attributes: &'static [&'static str],
    texts: Vec<String>,
    numbers: BTreeMap<String, u32>,
    users: BTreeMap<String, Vec<Counted>>,
    pub(crate) behaviors: usize,
    pub(crate) requests: usize,
}

/// Counts of a key: by kind, scenario, length of the cell and its beginning.
type Counts = BTreeMap<(String, String, String, Option<i64>), (u32, f64)>;

/// An entry: its first and its newest event, and its counts.
#[derive(Debug, PartialEq)]
struct Entry {
    first: i64,
    last: i64,
    counts: Counts,
}

impl Recount {
    pub(crate) fn new(recent: usize, attributes: &'static [&'static str]) -> Self {
        Self {
            recent,
            attributes,
            texts: Vec::new(),
            numbers: BTreeMap::new(),
            users: BTreeMap::new(),
            behaviors: 0,
            requests: 0,
        }
    }

    fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.texts.len() as u32;
        self.texts.push(text.to_owned());
        self.numbers.insert(text.to_owned(), number);
        number
    }

    fn text(&self, number: u32) -> &str {
        &self.texts[number as usize]
    }

    /// Takes in the record of a behavior.
    pub(crate) fn add(&mut self, record: &str) {
        let behavior: Behavior<'_> = serde_json::from_str(record).unwrap();
        let counted = Counted {
            time: behavior.time,
            item: self.number(behavior.item_id),
            kind: self.number(behavior.kind),
            scenario: self.number(behavior.scenario),
            value: behavior.value,
            attributes: self
                .attributes
                .iter()
                .map(|name| {
                    behavior
                        .attributes
                        .get(name)
                        .map(|value| self.number(value))
                })
                .collect(),
        };
        match self.users.get_mut(behavior.user_id) {
            Some(of) => of.push(counted),
            None => drop(
                self.users
                    .insert(behavior.user_id.to_owned(), vec![counted]),
            ),
        }
        self.behaviors += 1;
    }

    pub(crate) fn users(&self) -> Vec<String> {
        self.users.keys().cloned().collect()
    }

    /// Whether what the daemon knows of a user is what the file says.
    pub(crate) fn judge(&self, user: &str, view: Option<UserView>) -> Result<(), String> {
        let view = view.ok_or("nothing is known of them")?;
        let mut of = self.users[user].clone();
        // Records of equal time in the order of the file, which is that of their offsets.
        of.sort_by_key(|counted| counted.time);
        let (history, recent) = of.split_at(of.len().saturating_sub(self.recent));
        let due: Vec<_> = recent
            .iter()
            .rev()
            .map(|counted| self.shown(counted))
            .collect();
        let found: Vec<_> = view.recent.iter().map(shown).collect();
        if due != found {
            return Err(format!("recent must be {due:?}, is {found:?}"));
        }
        let due = self.history(history);
        let mut found: BTreeMap<(String, String), Entry> = BTreeMap::new();
        for slot in &view.history {
            if slot.keys as usize != slot.entries.len() {
                return Err(format!(
                    "slot {} says {} keys and shows {}",
                    slot.slot,
                    slot.keys,
                    slot.entries.len()
                ));
            }
            for entry in &slot.entries {
                found.insert((slot.slot.clone(), entry.key.clone()), read(entry));
            }
        }
        if due != found {
            return Err(format!("history must be {due:?}, is {found:?}"));
        }
        if view.forgotten > 0 || !view.standing.is_empty() {
            return Err(format!("it must have forgotten nothing: {view:?}"));
        }
        Ok(())
    }

    fn history(&self, behaviors: &[Counted]) -> BTreeMap<(String, String), Entry> {
        let mut by_key: BTreeMap<(&str, u32), Vec<&Counted>> = BTreeMap::new();
        for behavior in behaviors {
            by_key
                .entry(("item", behavior.item))
                .or_default()
                .push(behavior);
            for (name, value) in self.attributes.iter().zip(&behavior.attributes) {
                if let Some(value) = value {
                    by_key.entry((name, *value)).or_default().push(behavior);
                }
            }
        }
        by_key
            .into_iter()
            .map(|((slot, key), of)| {
                (
                    (slot.to_owned(), self.text(key).to_owned()),
                    self.entry(&of),
                )
            })
            .collect()
    }

    fn entry(&self, of: &[&Counted]) -> Entry {
        let times = || of.iter().map(|counted| counted.time);
        let last = times().max().unwrap();
        let mut counts = Counts::new();
        for counted in of {
            let (cell, start) = cell(counted.time, last);
            let key = (
                self.text(counted.kind).to_owned(),
                self.text(counted.scenario).to_owned(),
                cell.to_owned(),
                start,
            );
            let (count, sum) = counts.entry(key).or_default();
            *count += 1;
            *sum += counted.value.unwrap_or_default();
        }
        Entry {
            first: times().min().unwrap(),
            last,
            counts,
        }
    }

    fn shown(&self, counted: &Counted) -> Shown {
        let values = self.attributes.iter().zip(&counted.attributes);
        Shown {
            time: counted.time,
            kind: self.text(counted.kind).to_owned(),
            scenario: self.text(counted.scenario).to_owned(),
            item: self.text(counted.item).to_owned(),
            value: counted.value,
            attributes: values
                .filter_map(|(name, value)| {
                    Some(((*name).to_owned(), self.text((*value)?).to_owned()))
                })
                .collect(),
        }
    }
}

/// The cell of an event among those of an entry whose newest event is `newest`.
fn cell(time: i64, newest: i64) -> (&'static str, Option<i64>) {
    for (name, length, kept) in CELLS {
        if time.div_euclid(length) > newest.div_euclid(length) - kept {
            return (name, Some(time.div_euclid(length) * length));
        }
    }
    ("older", None)
}

/// What is shown of a recent behavior, but for its offset.
#[derive(Debug, PartialEq)]
struct Shown {
    time: i64,
    kind: String,
    scenario: String,
    item: String,
    value: Option<f64>,
    attributes: BTreeMap<String, String>,
}

fn shown(view: &RecentView) -> Shown {
    Shown {
        time: view.time,
        kind: view.kind.clone(),
        scenario: view.scenario.clone(),
        item: view.item_id.clone().unwrap_or_default(),
        value: view.value,
        attributes: view.attributes.iter().cloned().collect(),
    }
}

fn read(entry: &EntryView) -> Entry {
    let counts = entry.counts.iter().map(|count| {
        let key = (
            count.kind.clone(),
            count.scenario.clone(),
            count.cell.clone(),
            count.start,
        );
        (key, (count.count, count.sum.unwrap_or_default()))
    });
    Entry {
        first: entry.first,
        last: entry.last,
        counts: counts.collect(),
    }
}
