//! Statistics of samples' items, held against the item deltas. Before it stand samples and the records of the topic in their order; after it the metrics.
//!
//! An entity's owner folds its deltas one after the other, and all instances read what comes of it series by series, each when its turn is. So a series is right if it is what some
//! first part of the entity's deltas comes to; and not if that ends long before the row was scored ([`SETTLED_MS`]), or there is none.

use std::collections::BTreeMap;

use headwater_config::Config;
use headwater_state::{Cell, Cells, Damage, Delta, Entity, Timestamp};

use super::{Beginning, Outcome, Sample};
use crate::error::Error;
use crate::log::Record;
use crate::metrics::SkewMetrics;
use crate::partitioner::partition_of;
use crate::step::taken;

/// Entities of one look at most.
const ENTITIES_MAX: usize = 1_024;
/// How long a delta may take to be folded, and what comes of it to be read everywhere: an instance that falls out, and another that restores its partitions.
const SETTLED_MS: i64 = 3_600_000;

/// A series as samples saw it.
#[derive(Debug)]
struct Seen {
    cells: Vec<Cell>,
    /// Deltas from before that must be in it.
    settled: Timestamp,
    is_met: bool,
}

#[derive(Debug)]
struct Held {
    cells: Cells,
    /// The oldest event that was ever seen of it.
    oldest: Timestamp,
    /// By series, each as it was seen; of a series that a sample did not see there are no cells.
    seen: BTreeMap<u64, Vec<Seen>>,
    /// Deltas from before that must be in whatever is seen: of samples that saw nothing of the entity.
    settled: Timestamp,
}

impl Held {
    /// Takes note of what a sample saw.
    fn see(&mut self, cells: &Cells, settled: Timestamp) {
        self.oldest = self.oldest.min(cells.first);
        self.settled = self.settled.max(settled);
        for (series, of_series) in cells.by_series() {
            let all = self.seen.entry(series).or_default();
            match all.iter_mut().find(|seen| seen.cells == of_series) {
                Some(seen) => seen.settled = seen.settled.max(settled),
                None => all.push(Seen {
                    cells: of_series.to_vec(),
                    settled,
                    is_met: false,
                }),
            }
        }
    }

    /// Folds a delta of this time.
    fn fold(&mut self, delta: &Delta, told: Timestamp) {
        delta.apply(&mut self.cells);
        // Who saw nothing of a series should have seen this.
        for (series, cells) in self.cells.by_series() {
            if told < self.settled && !self.seen.contains_key(&series) {
                let lost = Seen {
                    cells: Vec::new(),
                    settled: self.settled,
                    is_met: false,
                };
                self.seen.insert(series, vec![lost]);
            }
            for seen in self.seen.get_mut(&series).into_iter().flatten() {
                let is_this = seen.cells == cells;
                seen.is_met = is_this || seen.is_met && told >= seen.settled;
            }
        }
    }
}

/// Makes the statistics of some entities again.
#[derive(Debug)]
pub struct Told {
    entities: BTreeMap<Box<[u8]>, Held>,
    left_out: u64,
    beginnings: BTreeMap<i32, Beginning>,
    max_ahead_ms: i64,
    partitions: i32,
    metrics: SkewMetrics,
}

impl Told {
    /// For what samples saw; `partitions` is the count of the topic, `started` when this instance was: where all were away for long, deltas of before wait for it.
    #[must_use]
    pub fn new(
        config: &Config,
        samples: &[Sample],
        (partitions, started): (i32, Timestamp),
        metrics: SkewMetrics,
    ) -> Self {
        let mut told = Self {
            entities: BTreeMap::new(),
            left_out: 0,
            beginnings: BTreeMap::new(),
            max_ahead_ms: config.state.max_ahead.millis(),
            partitions,
            metrics,
        };
        let none = Cells::default();
        for sample in samples {
            let items = &sample.served.items;
            let settled = sample.scored.minus(SETTLED_MS);
            let settled = if settled > started {
                settled
            } else {
                Timestamp::MIN
            };
            let candidates = sample.candidates.iter();
            let candidates = candidates.map(|id| Entity::Item(id).key());
            for key in candidates.chain(items.entities()) {
                if told.entities.len() >= ENTITIES_MAX && !told.entities.contains_key(&key) {
                    told.left_out += 1;
                    continue;
                }
                let cells = items.statistics_by_key(&key).unwrap_or(&none);
                let held = told.entities.entry(key).or_insert_with(|| Held {
                    cells: Cells::default(),
                    oldest: none.first,
                    seen: BTreeMap::new(),
                    settled: Timestamp::MIN,
                });
                held.see(cells, settled);
            }
        }
        told
    }

    /// The partitions of the entities.
    pub fn partitions(&self) -> impl Iterator<Item = i32> + use<> {
        let all = self.entities.keys();
        let mut all: Vec<i32> = all.map(|key| partition_of(key, self.partitions)).collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter()
    }

    /// A partition is to be read, whose oldest record has the offset `first`.
    pub fn begin(&mut self, partition: i32, first: i64) {
        self.beginnings.insert(partition, Beginning::of(first));
    }

    /// Takes in the next record of a partition.
    ///
    /// # Errors
    /// A record that is no delta.
    pub fn take(&mut self, record: &Record<'_>, now: Timestamp) -> Result<(), Error> {
        self.metrics.records.inc();
        let clock = taken(record, now);
        if let Some(beginning) = self.beginnings.get_mut(&record.at.partition) {
            beginning.note(clock, self.max_ahead_ms);
        }
        let Some(held) = self.entities.get_mut(record.key.unwrap_or_default()) else {
            return Ok(());
        };
        let delta = record.value.ok_or(Damage::Short).and_then(Delta::read);
        let delta = delta.map_err(|damage| Error::Internal {
            at: record.at,
            offset: record.offset,
            reason: damage.to_string(),
        })?;
        held.fold(&delta, clock);
        Ok(())
    }

    /// Tells what became of each entity.
    pub fn finish(self) {
        let tell = |outcome: &str, entities: u64| {
            let counter = self.metrics.statistics.with_label_values(&[outcome]);
            counter.inc_by(entities);
        };
        tell("left_out", self.left_out);
        for (key, held) in &self.entities {
            let partition = partition_of(key, self.partitions);
            let all = held.seen.values().flatten();
            let others = all.filter(|seen| !seen.is_met).count();
            let oldest = held.oldest.min(held.cells.first);
            let beginning = self.beginnings.get(&partition);
            let outcome = if others == 0 {
                Outcome::Same
            } else if beginning.is_some_and(|of| of.has(Some(oldest))) {
                Outcome::Differs
            } else {
                Outcome::Unsure
            };
            tell(outcome.label(), 1);
            if outcome == Outcome::Differs {
                tracing::warn!(
                    entity = %key.escape_ascii(),
                    partition,
                    series = others,
                    "statistics are not what the item deltas say"
                );
            }
        }
    }
}
