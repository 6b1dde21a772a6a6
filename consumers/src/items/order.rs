//! The order of an item's records: by their own `time`, while a compacted topic keeps the one that was written last.
//!
//! Where an older record is written after a newer one (a nightly export that is slower than the updates of the day), every instance that
//! has read both goes by the newer. But compaction would keep the older alone, and whoever starts after it would know no other. So the newer
//! one is *put back*: the instance that owns the item's partition number writes it again, as it was, behind the older. Then the last
//! record of the item is the one that holds, for every reader of the topic, compacted or not.
//!
//! A record that was put back says by [`HEADER_PUT_BACK`] what it was put behind. If somebody else has written in between (a null, say),
//! it has nothing to say: what holds stays, and is put back behind it in turn. That ends as soon as nobody writes in between.
//!
//! Before it stands the follower's poll; after it the item table and, again, the items topic.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use headwater_state::{Item, ItemTable};

use super::ItemFollower;
use crate::error::Error;
use crate::log::{
    Log, LogError, Outgoing, PollLimit, Reader, Record, RecordBatch, Start, TopicPartition,
};

/// Header of an item record that was put back: the offset of the record, in the same partition, that it was put behind.
pub const HEADER_PUT_BACK: &str = "headwater-put-back";

/// Records that one call puts back at most: each is read again, and following waits meanwhile.
const PUT_BACK_MAX: usize = 200;
/// Deleted items that are remembered, so that a record does not revive them which was put back by somebody who did not know yet: within a
/// moment, of which this is many times the deletions.
const ENDED_MAX: usize = 10_000;

/// An item whose last record is not the one that holds.
#[derive(Clone, Copy, Debug)]
struct Behind {
    /// Where the last record lies.
    at: TopicPartition,
    offset: i64,
    /// Whether we have put back what holds, and only have to read it.
    put: bool,
}

/// Which items are out of order: no more than there are items.
#[derive(Debug, Default)]
pub(super) struct Order {
    behind: BTreeMap<Box<str>, Behind>,
    ended: VecDeque<(Box<str>, i64)>,
}

impl Order {
    /// An item was deleted by the record at this offset.
    pub(super) fn ended(&mut self, id: &str, offset: i64) {
        self.behind.remove(id);
        if self.ended.len() == ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back((id.into(), offset));
    }

    /// Whether a record was put back without knowledge of a later one.
    pub(super) fn is_void(&self, id: &str, held: Option<&Item>, record: &Record<'_>) -> bool {
        let Some(behind) = put_behind(record) else {
            return false;
        };
        let ended = self.ended.iter().rev().find(|(other, _)| **other == *id);
        held.is_some_and(|held| held.offset > behind)
            || ended.is_some_and(|(_, offset)| *offset > behind)
    }

    /// Whether a void record says what holds anyway: another instance has put it back too.
    pub(super) fn is_the_same(table: &mut ItemTable, id: &str, again: Item) -> bool {
        let same = table.item(id).is_some_and(|held| {
            let offset = again.offset;
            again
                == Item {
                    offset,
                    ..held.clone()
                }
        });
        if same {
            table.set_item(id, Some(again));
        }
        same
    }

    /// The last record of the item is the one that holds.
    pub(super) fn is_in_order(&mut self, id: &str) {
        self.behind.remove(id);
    }

    /// It is not.
    pub(super) fn is_out_of_order(&mut self, id: &str, record: &Record<'_>) {
        let behind = Behind {
            at: record.at,
            offset: record.offset,
            put: false,
        };
        tracing::debug!(
            partition = record.at.partition,
            offset = record.offset,
            item = id,
            "item record older than the one before it"
        );
        self.behind.insert(id.into(), behind);
    }
}

fn put_behind(record: &Record<'_>) -> Option<i64> {
    let behind = record.headers.get(HEADER_PUT_BACK)?;
    std::str::from_utf8(behind).ok()?.parse().ok()
}

impl ItemFollower {
    /// Puts back the records of items whose last record is older than the one that holds, where `mine` says that the item is ours to
    /// do that for. Gives how many were put back; those of others, and what is more than one call does, wait.
    ///
    /// # Errors
    /// The log's. What holds here is not touched by it.
    pub fn put_back(&mut self, log: &dyn Log, mine: &dyn Fn(&str) -> bool) -> Result<usize, Error> {
        if !self.is_caught_up() {
            return Ok(0);
        }
        let due: Vec<(Box<str>, Behind)> = self
            .order
            .behind
            .iter()
            .filter(|(id, behind)| !behind.put && mine(id))
            .take(PUT_BACK_MAX)
            .map(|(id, behind)| (id.clone(), *behind))
            .collect();
        if due.is_empty() {
            return Ok(0);
        }
        let mut reader = log.reader()?;
        let mut producer = match self.producer.take() {
            Some(producer) => producer,
            None => log.producer()?,
        };
        let mut batch = RecordBatch::default();
        let mut count = 0;
        for (id, behind) in &due {
            let held = self.items.read().item(id).map(|item| item.offset);
            let record = match held {
                Some(offset) => {
                    let found = find(&mut *reader, behind.at, offset, &mut batch)?;
                    if found.is_none() {
                        tracing::warn!(
                            item = &**id,
                            partition = behind.at.partition,
                            offset,
                            "item record gone from the topic before it was put back: who reads the topic from now on knows an older one"
                        );
                        self.order.is_in_order(id);
                        continue;
                    }
                    found
                }
                None => None,
            };
            let offset = behind.offset.to_string();
            let theirs = record.map(|record| record.headers).unwrap_or_default();
            let mut headers: Vec<(&str, &[u8])> = theirs
                .iter()
                .filter(|(name, _)| *name != HEADER_PUT_BACK)
                .map(|(name, value)| (name, value.unwrap_or_default()))
                .collect();
            headers.push((HEADER_PUT_BACK, offset.as_bytes()));
            producer.send(Outgoing {
                to: behind.at,
                key: Some(id.as_bytes()),
                value: record.and_then(|record| record.value),
                headers: &headers,
            })?;
            count += 1;
        }
        producer.flush()?;
        self.producer = Some(producer);
        for (id, _) in due {
            if let Some(behind) = self.order.behind.get_mut(&id) {
                behind.put = true;
            }
        }
        self.metrics.items_put_back.inc_by(count as u64);
        Ok(count)
    }
}

/// The record at an offset, if it is still there.
fn find<'a>(
    reader: &mut dyn Reader,
    at: TopicPartition,
    offset: i64,
    batch: &'a mut RecordBatch,
) -> Result<Option<Record<'a>>, LogError> {
    const LOOKS: usize = 25;
    let limit = PollLimit {
        records: 1,
        bytes: 1,
        wait: Duration::from_millis(200),
    };
    reader.assign(at, Start::At(offset))?;
    for _ in 0..LOOKS {
        reader.poll(limit, batch)?;
        // Something comes in any case: the record that this one is put behind.
        if !batch.is_empty() {
            reader.unassign(at)?;
            return Ok(batch.iter().find(|record| record.offset == offset));
        }
    }
    Err(LogError::Unavailable {
        doing: "reading an item again",
        source: "nothing came in five seconds".into(),
    })
}
