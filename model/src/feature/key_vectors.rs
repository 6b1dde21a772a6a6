//! Which key-vectors a row has beside its numbers: what its user did with each item, by kind and stretch of time.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::gap::gap_of;

/// What atoms of key-vectors are told apart by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyVectorSpec {
    /// Kinds of behavior, in the order of their numbers.
    pub kinds: Vec<String>,
    /// Where stretches of time end, milliseconds before the row, ascending; behind the last is one more.
    pub edges_ms: Vec<i64>,
}

impl KeyVectorSpec {
    /// The stretch that holds what happened so long before the row.
    pub fn stretch(&self, age_ms: i64) -> usize {
        self.edges_ms.partition_point(|edge| *edge <= age_ms)
    }

    /// How many stretches there are.
    pub fn stretches(&self) -> usize {
        self.edges_ms.len() + 1
    }

    /// A hash of all of it, as 16 hexadecimal digits: what is logged bears it.
    pub fn layout(&self) -> String {
        let text = format!("{:?} {:?}", self.edges_ms, self.kinds);
        format!("{:016x}", xxh3_64(text.as_bytes()))
    }
}

/// What a request's user did with each item, as it is logged beside the rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyVectors<'a> {
    /// Which kinds and stretches: [`KeyVectorSpec::layout`].
    #[serde(borrow)]
    pub layout: Cow<'a, str>,
    /// Names of categories and attributes, each once.
    #[serde(borrow)]
    pub groups: Vec<Cow<'a, str>>,
    /// Ids of the items that the user had to do with, each once.
    #[serde(borrow)]
    pub items: Vec<Cow<'a, str>>,
    /// Of each of them, its groups, by their places.
    pub of: Vec<Vec<u32>>,
    /// One atom behind the other: place of the item, stretch of time, kind of the time from its newest event to the row ([`crate::bahe::gap_of`]), how many kinds, and of
    /// each kind its number and how many events.
    pub atoms: Vec<u32>,
}

/// One item in one stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoggedAtom<'a> {
    /// Place of the item.
    pub item: u32,
    /// Stretch of time.
    pub stretch: u32,
    /// Kind of the time from its newest event to the row.
    pub recency: u32,
    /// Kind and events, one behind the other.
    pub counts: &'a [u32],
}

impl KeyVectors<'_> {
    /// The same, whose names are these: nothing of them is copied.
    #[must_use]
    pub fn borrowed(&self) -> KeyVectors<'_> {
        KeyVectors {
            layout: Cow::Borrowed(&self.layout),
            groups: self
                .groups
                .iter()
                .map(|name| Cow::Borrowed(&**name))
                .collect(),
            items: self
                .items
                .iter()
                .map(|name| Cow::Borrowed(&**name))
                .collect(),
            of: self.of.clone(),
            atoms: self.atoms.clone(),
        }
    }

    /// Adds an atom; `age_ms` is that of its newest event, `counts` are events by kind.
    pub fn push(&mut self, item: u32, stretch: u32, age_ms: i64, counts: &[(u32, u32)]) {
        let head = [item, stretch, gap_of(Some(age_ms)), counts.len() as u32];
        self.atoms.extend(head);
        self.atoms
            .extend(counts.iter().flat_map(|(kind, count)| [*kind, *count]));
    }

    /// The atoms, in order; none where the list does not come out even.
    pub fn atoms(&self) -> Option<Vec<LoggedAtom<'_>>> {
        let (mut found, mut rest) = (Vec::new(), self.atoms.as_slice());
        while let Some((head, behind)) = rest.split_first_chunk::<4>() {
            let [item, stretch, recency, kinds] = *head;
            let (counts, behind) = behind.split_at_checked(kinds as usize * 2)?;
            found.push(LoggedAtom {
                item,
                stretch,
                recency,
                counts,
            });
            rest = behind;
        }
        rest.is_empty().then_some(found)
    }
}
