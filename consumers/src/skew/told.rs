//! Statistics of samples' items, held against the item deltas. Before it stand samples and the records of the topic in their order; after it the metrics.
//!
//! An entity's owner folds its deltas one after the other, and all instances read what comes of it series by series, each when its turn is. So a series is right if it is what some
//! first part of the entity's deltas comes to, and wrong if there is none.

use std::collections::BTreeMap;

use headwater_state::{Cell, Cells, Damage, Delta, Timestamp};

use super::{Outcome, Sample, is_there};
use crate::error::Error;
use crate::log::Record;
use crate::metrics::SkewMetrics;
use crate::partitioner::partition_of;

/// Entities of one look at most.
const ENTITIES_MAX: usize = 1_024;

/// What samples saw of an entity's statistics: a series as some of them saw it, and whether it was met.
#[derive(Debug)]
struct Seen {
    series: u64,
    cells: Vec<Cell>,
    /// The oldest event of the entity.
    oldest: Timestamp,
    is_met: bool,
}

#[derive(Debug, Default)]
struct Held {
    cells: Cells,
    seen: Vec<Seen>,
}

/// Makes the statistics of some entities again.
#[derive(Debug)]
pub struct Told {
    entities: BTreeMap<Box<[u8]>, Held>,
    /// Of each partition that has lost its first records, when the first happened that it has.
    firsts: BTreeMap<i32, Option<Timestamp>>,
    partitions: i32,
    metrics: SkewMetrics,
}

impl Told {
    /// For what samples saw; `partitions` is the count of the topic.
    #[must_use]
    pub fn new(samples: &[Sample], partitions: i32, metrics: SkewMetrics) -> Self {
        let mut entities: BTreeMap<Box<[u8]>, Held> = BTreeMap::new();
        for sample in samples {
            for (key, cells) in sample.served.items.all_statistics() {
                if entities.len() >= ENTITIES_MAX && !entities.contains_key(key) {
                    continue;
                }
                let held = entities.entry(key.into()).or_default();
                for (series, of_series) in cells.by_series() {
                    let mut seen = held.seen.iter();
                    if !seen.any(|seen| seen.series == series && seen.cells == of_series) {
                        held.seen.push(Seen {
                            series,
                            cells: of_series.to_vec(),
                            oldest: cells.first,
                            is_met: false,
                        });
                    }
                }
            }
        }
        Self {
            entities,
            firsts: BTreeMap::new(),
            partitions,
            metrics,
        }
    }

    /// The partitions of the entities.
    pub fn partitions(&self) -> impl Iterator<Item = i32> + use<> {
        let all = self.entities.keys();
        let mut all: Vec<i32> = all.map(|key| partition_of(key, self.partitions)).collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter()
    }

    /// Notes that a partition has lost its first records.
    pub fn is_cut(&mut self, partition: i32) {
        self.firsts.insert(partition, None);
    }

    /// Takes in the next record of a partition.
    ///
    /// # Errors
    /// A record that is no delta.
    pub fn take(&mut self, record: &Record<'_>) -> Result<(), Error> {
        self.metrics.records.inc();
        let key = record.key.unwrap_or_default();
        let first = self.firsts.get_mut(&record.at.partition);
        let is_wanted = self.entities.contains_key(key);
        if !is_wanted && first.as_ref().is_none_or(|first| first.is_some()) {
            return Ok(());
        }
        let delta = record.value.ok_or(Damage::Short).and_then(Delta::read);
        let delta = delta.map_err(|damage| Error::Internal {
            at: record.at,
            offset: record.offset,
            reason: damage.to_string(),
        })?;
        if let Some(first) = first
            && first.is_none()
        {
            let mut cells = Cells::default();
            delta.apply(&mut cells);
            *first = Some(cells.last);
        }
        if let Some(held) = self.entities.get_mut(key) {
            delta.apply(&mut held.cells);
            for seen in held.seen.iter_mut().filter(|seen| !seen.is_met) {
                seen.is_met = held.cells.series(seen.series) == seen.cells;
            }
        }
        Ok(())
    }

    /// Tells what became of each entity.
    pub fn finish(self) {
        for (key, held) in &self.entities {
            let partition = partition_of(key, self.partitions);
            let first = self.firsts.get(&partition);
            let mut others = held.seen.iter().filter(|seen| !seen.is_met).peekable();
            let outcome = match others.peek() {
                None => Outcome::Same,
                // Nothing is left of a partition that had something.
                Some(_) if first.is_some_and(Option::is_none) => Outcome::Unsure,
                Some(seen) if !is_there(Some(seen.oldest), first.copied().flatten()) => {
                    Outcome::Unsure
                }
                Some(_) => Outcome::Differs,
            };
            let entities = self
                .metrics
                .statistics
                .with_label_values(&[outcome.label()]);
            entities.inc();
            if outcome == Outcome::Differs {
                tracing::warn!(
                    entity = %key.escape_ascii(),
                    partition,
                    series = others.count(),
                    "statistics are not what the item deltas say"
                );
            }
        }
    }
}
