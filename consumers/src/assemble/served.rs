//! What rows were made of beside their user, so that they can be made again from the user's behaviors: before it stand rows that were just assembled, after it
//! [`crate::skew`].

use headwater_model::{FeatureBatch, FeatureSchema, KeyVectors};
use headwater_state::{ItemTable, Length, pinned_hash};

use super::key_vectors::Keyed;
use super::memo::{Memo, Plan};
use super::{Assembler, Row, floor};

/// Items of one request at most, of its user's past and its candidates, and bytes of what is known of them: more are not handed over, since the step copies it.
const ITEMS_MAX: usize = 20_000;
const BYTES_MAX: usize = 8 << 20;

/// What a request's rows were made of beside the user, and what came of it.
#[derive(Debug)]
pub(crate) struct Served {
    /// The candidates and what the user had to do with, as they were known then.
    pub(crate) items: ItemTable,
    /// Of each item of the user, the rates that its trials were expected to have: they hold for an hour, whatever is counted meanwhile.
    rates: Vec<(Box<str>, Vec<f32>)>,
    pub(crate) numbers: Numbers,
}

impl Served {
    /// Bytes that it takes, about.
    pub(crate) fn bytes(&self) -> usize {
        let rates = self
            .rates
            .iter()
            .map(|(id, rates)| id.len() + 4 * rates.len() + 40);
        let numbers = &self.numbers;
        let atoms = numbers.key_vectors.as_ref().map_or(0, |of| of.atoms.len());
        let counted = numbers.shared.len() + numbers.own.len() + atoms;
        self.items.bytes().all() + rates.sum::<usize>() + 4 * counted
    }
}

/// The numbers of a request's rows.
#[derive(Debug)]
pub(crate) struct Numbers {
    shared: Vec<f32>,
    /// Of each candidate, one behind the other.
    own: Vec<f32>,
    key_vectors: Option<KeyVectors<'static>>,
}

/// How rows that were made again are not what they were.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Difference {
    /// The number, as the schema names it, or `key_vectors`.
    pub(crate) feature: String,
    /// The candidate's place, where it is one candidate's number.
    pub(crate) candidate: Option<usize>,
    /// What it was, and what it is made again.
    pub(crate) values: [f32; 2],
    /// How many numbers differ.
    pub(crate) numbers: usize,
}

impl Numbers {
    fn of(batch: &FeatureBatch, key_vectors: Option<&KeyVectors<'static>>) -> Self {
        Self {
            shared: batch.shared().to_vec(),
            own: batch.rows().flat_map(|row| row.own).copied().collect(),
            key_vectors: key_vectors.cloned(),
        }
    }

    /// Where these are others than those, to the bit; likenesses aside, which follow from the vectors of texts that happened to be there.
    pub(crate) fn difference(&self, again: &Self, schema: &FeatureSchema) -> Option<Difference> {
        let counted = schema.own().len() - schema.likeness().width();
        let wide = schema.own().len().max(1);
        let shared = self.shared.iter().zip(&again.shared).enumerate();
        let shared = shared.map(|(at, pair)| (None, &schema.shared()[at], pair));
        let own = self.own.iter().zip(&again.own).enumerate();
        let own = own.filter(|(at, _)| at % wide < counted);
        let own = own.map(|(at, pair)| (Some(at / wide), &schema.own()[at % wide], pair));
        let mut others = shared
            .chain(own)
            .filter(|(.., (one, other))| one.to_bits() != other.to_bits());
        let first = others.next().map(|(candidate, feature, (one, other))| {
            (candidate, feature.name.clone(), [*one, *other])
        });
        let rest = others.count();
        let (candidate, feature, values) = match first {
            Some(first) => first,
            None if self.key_vectors != again.key_vectors => {
                let atoms = |of: &Self| of.key_vectors.as_ref().map_or(0, |of| of.atoms.len());
                let values = [atoms(self) as f32, atoms(again) as f32];
                (None, "key_vectors".to_owned(), values)
            }
            None => return None,
        };
        Some(Difference {
            feature,
            candidate,
            values,
            numbers: rest + 1,
        })
    }
}

impl Assembler {
    /// What the rows assembled last, which are of this, were made of beside the user; none where that is too much to be looked up again.
    pub(crate) fn served(&mut self, row: &Row<'_>, items: &ItemTable) -> Option<Served> {
        let entries = &self.entries;
        let keyed = self.keyed.as_ref().map(Keyed::key_vectors);
        let past = keyed.map_or(0, |keyed| keyed.items.len());
        if row.candidates.len() + entries.items.len() + past > ITEMS_MAX {
            return None;
        }
        let plan = Plan {
            tasks: &self.tasks,
            roles: &self.roles,
            baseline: &self.baseline,
            items,
            scenario: row.scenario,
        };
        let hour = floor(row.time, Length::Hour);
        let mut rates = Vec::with_capacity(entries.items.len());
        for (hash, key) in &entries.items {
            let id = entries.text(*key);
            let place = self.memo.rates(&plan, *hash, id, hour);
            let of_tasks = (0..self.tasks.len()).map(|task| self.memo.rate(place, task));
            rates.push((id.into(), of_tasks.collect()));
        }
        let past = keyed.into_iter().flat_map(|keyed| keyed.items.iter());
        let ids = row.candidates.iter().copied();
        let ids = ids.chain(past.map(|id| &**id));
        let ids = ids.chain(rates.iter().map(|(id, _): &(Box<str>, _)| &**id));
        Some(Served {
            items: items.part(ids, BYTES_MAX)?,
            numbers: Numbers::of(&self.batch, keyed),
            rates,
        })
    }

    /// The rows of a request again, of this user and of what they were made of beside.
    pub(crate) fn again(&mut self, row: &Row<'_>, served: &Served) -> Numbers {
        // What was looked up for another request's items does not hold for these.
        self.memo = Memo::default();
        let plan = Plan {
            tasks: &self.tasks,
            roles: &self.roles,
            baseline: &self.baseline,
            items: &served.items,
            scenario: row.scenario,
        };
        let hour = floor(row.time, Length::Hour);
        for (id, rates) in &served.rates {
            let hash = pinned_hash(id.as_bytes());
            self.memo.expect(&plan, hash, hour, rates);
        }
        self.assemble(row, &served.items);
        let keyed = self.keyed.as_ref().map(Keyed::key_vectors);
        Numbers::of(&self.batch, keyed)
    }
}
