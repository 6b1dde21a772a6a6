//! Schemas beside each other: rows that were logged under one, read as those of another.
//!
//! A configuration that counts more today than yesterday has other rows, and what yesterday's rows lack nobody knows any more; what they have is as good as before. So a schema can be told as [`Columns`],
//! each number by its name and a hash of all that it means, and rows be read by name and meaning ([`Translation`]). A number that they lack has its default: no evidence. That holds for tasks and likenesses
//! that are new. A task that counts other things than it did under the same name has no rows from before: all that its baseline says would be wrong.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::schema::{Feature, FeatureSchema, LAYOUT, Meaning};
use crate::feature_log::{FeatureLogError, LoggedRequest};

/// A schema as others read it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Columns {
    /// Names of the tasks, in order.
    pub tasks: Vec<String>,
    /// Numbers of the shared part, in order.
    pub shared: Vec<Column>,
    /// Numbers of a candidate, in order.
    pub own: Vec<Column>,
}

impl Columns {
    /// Whether each task, and each number, has a name of its own.
    pub(crate) fn are_told_apart(&self) -> bool {
        let mut names = BTreeSet::new();
        let numbers = self.shared.iter().chain(&self.own);
        let mut tasks = BTreeSet::new();
        self.tasks.iter().all(|name| tasks.insert(name))
            && numbers
                .map(|column| &column.name)
                .all(|name| names.insert(name))
    }
}

/// A number of a row, as other schemas know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Hash of all that it means, as 16 hexadecimal digits.
    pub meaning: String,
}

impl FeatureSchema {
    /// The schema as others read it.
    #[must_use]
    pub fn columns(&self) -> Columns {
        let columns = |features: &[Feature]| features.iter().map(|of| self.column(of)).collect();
        Columns {
            tasks: self.tasks().iter().map(|task| task.name.clone()).collect(),
            shared: columns(self.shared()),
            own: columns(self.own()),
        }
    }

    fn column(&self, feature: &Feature) -> Column {
        let mut text = format!("layout {LAYOUT}\n{} {}\n", feature.name, feature.unit());
        match feature.meaning {
            // A user's expected positives are of items' rates: all half-lives of the task count.
            Meaning::Counted { task, .. } => self.tasks()[task].describe(&mut text),
            Meaning::Alike { .. } => self.likeness().describe(&mut text),
        }
        let mut meaning = String::new();
        write!(meaning, "{:016x}", xxh3_64(text.as_bytes()))
            .expect("invariant: a String takes any text");
        Column {
            name: feature.name.clone(),
            meaning,
        }
    }
}

/// Where the numbers and tasks of a schema are in rows of another that has them all: how what was made for rows of before reads those of today.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Projection {
    /// Of each number of the shared part, its place among the other's.
    pub shared: Vec<usize>,
    /// The same of a candidate's.
    pub own: Vec<usize>,
    /// The same of tasks.
    pub tasks: Vec<usize>,
}

impl Projection {
    /// Where those columns are in rows of that schema.
    ///
    /// # Errors
    /// Names the first task or number that such rows do not have, or that means something else there.
    pub fn new(columns: &Columns, rows: &FeatureSchema) -> Result<Self, String> {
        let part = |wanted: &[Column], there: &[Feature]| -> Result<Vec<usize>, String> {
            let there: BTreeMap<&str, (usize, &Feature)> = (there.iter().enumerate())
                .map(|(place, feature)| (&*feature.name, (place, feature)))
                .collect();
            let places = wanted.iter().map(|column| {
                let found = there.get(&*column.name);
                let same = found.filter(|(_, feature)| rows.column(feature) == *column);
                same.map_or(Err(column.name.clone()), |(place, _)| Ok(*place))
            });
            places.collect()
        };
        let tasks = columns.tasks.iter();
        let tasks = tasks.map(|name| rows.task(name).ok_or_else(|| name.clone()));
        Ok(Self {
            tasks: tasks.collect::<Result<_, _>>()?,
            shared: part(&columns.shared, rows.shared())?,
            own: part(&columns.own, rows.own())?,
        })
    }
}

/// Where a number is in the other schema, and its default where it is not.
type From = (Option<usize>, f32);

/// How rows of one schema are read as those of another.
#[derive(Clone, Debug, PartialEq)]
pub struct Translation {
    schema: u64,
    tasks: usize,
    /// Of each task of the other schema, its place in this one.
    places: Vec<Option<usize>>,
    /// Widths of both parts in the other schema.
    widths: [usize; 2],
    shared: Vec<From>,
    own: Vec<From>,
}

impl Translation {
    /// From that schema to this one.
    ///
    /// # Errors
    /// Names a number that means something else there, one of a task that both have; or the first number of all, where they have no task in common.
    pub fn new(from: &Columns, to: &FeatureSchema) -> Result<Self, String> {
        let mut tasks = to.tasks().iter();
        if !tasks.any(|task| from.tasks.contains(&task.name)) {
            return Err(to.shared()[0].name.clone());
        }
        let part = |theirs: &[Column], ours: &[Feature]| -> Result<Vec<From>, String> {
            let names = theirs.iter().map(|column| &*column.name).zip(0..);
            let places: BTreeMap<&str, usize> = names.collect();
            let ours = ours.iter().map(|feature| {
                let meaning = to.column(feature).meaning;
                let place = places.get(&*feature.name).copied();
                let place = place.filter(|place| theirs[*place].meaning == meaning);
                let is_old = match feature.meaning {
                    Meaning::Counted { task, .. } => from.tasks.contains(&to.tasks()[task].name),
                    Meaning::Alike { .. } => false,
                };
                if place.is_none() && is_old {
                    return Err(feature.name.clone());
                }
                Ok((place, feature.default()))
            });
            ours.collect()
        };
        let place = |name: &String| to.tasks().iter().position(|task| task.name == *name);
        Ok(Self {
            schema: to.hash(),
            tasks: to.tasks().len(),
            places: from.tasks.iter().map(place).collect(),
            widths: [from.shared.len(), from.own.len()],
            shared: part(&from.shared, to.shared())?,
            own: part(&from.own, to.own())?,
        })
    }

    /// Of each task that such rows were scored for, in their order, its place in this schema; none: it is gone.
    pub fn places(&self) -> &[Option<usize>] {
        &self.places
    }

    /// Turns a logged request into one of this schema. What it was scored by is not carried over: scores are 0.
    ///
    /// # Errors
    /// A request that is not whole.
    pub fn apply(&self, logged: &mut LoggedRequest<'_>) -> Result<(), FeatureLogError> {
        let read = |from: &[From], numbers: &[f32]| -> Vec<f32> {
            let numbers = from
                .iter()
                .map(|(place, default)| place.map_or(*default, |at| numbers[at]));
            numbers.collect()
        };
        let whole = |what: &dyn Fn() -> String, found: usize, expected: usize| {
            if found == expected {
                return Ok(());
            }
            Err(FeatureLogError::Width {
                request_id: logged.request_id.to_string(),
                what: what(),
                found,
                expected,
            })
        };
        let [shared, own] = self.widths;
        whole(
            &|| "the shared part".to_owned(),
            logged.shared.len(),
            shared,
        )?;
        for candidate in &logged.candidates {
            let what = || format!("values of item {}", candidate.item_id);
            whole(&what, candidate.values.len(), own)?;
        }
        logged.schema = self.schema;
        logged.shared = Cow::Owned(read(&self.shared, &logged.shared));
        for candidate in &mut logged.candidates {
            candidate.values = Cow::Owned(read(&self.own, &candidate.values));
            candidate.scores = Cow::Owned(vec![0.0; self.tasks]);
        }
        Ok(())
    }
}
