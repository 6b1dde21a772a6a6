//! Reading: where one reader stands in each of its partitions, and how a poll is filled from them.
//!
//! Before it, `partitions` knows where the chunks lie; after it, a [`RecordBatch`] holds the records. A chunk is read at once,
//! outside of the lock; polls take from it until it is used up.

use std::sync::Arc;

use super::Broker;
use super::faults::Fault;
use super::format;
use super::segment::Segment;
use crate::log::{LogError, PollLimit, RecordBatch, Start, TopicPartition};

/// Where one reader stands in one partition.
#[derive(Debug)]
pub(super) struct Cursor {
    of: TopicPartition,
    /// The next offset to read.
    next: i64,
    /// The chunk that is being read, and how far it is.
    block: Vec<u8>,
    read: usize,
    base: i64,
    from: Option<(Arc<Segment>, u32)>,
    /// The end that was reported last.
    reported: Option<i64>,
}

impl Cursor {
    /// A cursor at a position that the log holds.
    pub(super) fn new(broker: &Broker, of: TopicPartition, start: Start) -> Result<Self, LogError> {
        let now = (broker.options.clock)();
        let state = broker.state.lock();
        let (extent, written) = (state.extent(of, now)?, state.written(of)?);
        let next = match start {
            Start::Beginning => extent.first,
            Start::End => extent.next,
            Start::At(offset) if (written.first..=written.next).contains(&offset) => offset,
            Start::At(offset) => return Err(out_of_range(of, offset)),
        };
        Ok(Self {
            of,
            next,
            block: Vec::new(),
            read: 0,
            base: 0,
            from: None,
            reported: None,
        })
    }

    /// What it reads.
    pub(super) fn of(&self) -> TopicPartition {
        self.of
    }

    /// Whether this end is news.
    pub(super) fn reports(&mut self, end: i64) -> bool {
        self.reported.replace(end) != Some(end)
    }

    /// Appends up to `records` records to `into`, or fewer once that is past `bytes`. The answer is the position of the end if
    /// it was reached.
    fn take(
        &mut self,
        broker: &Broker,
        records: usize,
        bytes: usize,
        into: &mut RecordBatch,
    ) -> Result<Option<i64>, LogError> {
        let now = (broker.options.clock)();
        let stable = broker.state.lock().partition(self.of)?.stable(now);
        let mut taken = 0;
        loop {
            while let Some(rest) = self.block.get(self.read..).filter(|rest| !rest.is_empty()) {
                if taken == records || into.bytes() >= bytes {
                    return Ok(None);
                }
                let entry = format::entry(rest).ok_or_else(|| self.damaged())?;
                let offset = self.base + i64::from(entry.delta);
                if offset >= stable {
                    return Ok(Some(self.next));
                }
                self.read += entry.bytes.len();
                if offset >= self.next {
                    into.push(
                        self.of,
                        (offset, entry.timestamp),
                        entry.key,
                        entry.value,
                        entry.headers(),
                    );
                    self.next = offset + 1;
                    taken += 1;
                }
            }
            let chunk = {
                let state = broker.state.lock();
                let partition = state.partition(self.of)?;
                if self.next < partition.start || self.next > partition.next {
                    return Err(out_of_range(self.of, self.next));
                }
                let chunk = partition.chunk_at(self.next);
                let Some(chunk) = chunk.filter(|chunk| chunk.base < stable) else {
                    // Past the marker of the last transaction, too: nothing is there.
                    self.next = self.next.max(stable);
                    return Ok(Some(self.next));
                };
                chunk.clone()
            };
            self.read = 0;
            self.base = chunk.base;
            if let Err(error) = chunk.read(&mut self.block) {
                // Nothing of it is passed on, now or by the next poll.
                self.block.clear();
                return Err(error);
            }
            self.from = Some((chunk.segment, chunk.at));
        }
    }

    fn damaged(&self) -> LogError {
        let (segment, at) = self
            .from
            .as_ref()
            .expect("invariant: what is read comes from a segment");
        segment.damaged(u64::from(*at) + self.read as u64)
    }
}

fn out_of_range(of: TopicPartition, offset: i64) -> LogError {
    LogError::OutOfRange {
        topic: of.topic,
        partition: of.partition,
        offset,
    }
}

/// The cursors of one reader.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    all: Vec<Cursor>,
    /// Who is first at the next poll: a busy partition shall not starve the others.
    first: usize,
}

impl Cursors {
    /// Reads this partition from there on.
    pub(super) fn insert(&mut self, cursor: Cursor) {
        match self.all.binary_search_by_key(&cursor.of, Cursor::of) {
            Ok(index) => self.all[index] = cursor,
            Err(index) => self.all.insert(index, cursor),
        }
    }

    /// Stops reading whatever is not wanted.
    pub(super) fn retain(&mut self, wanted: impl Fn(TopicPartition) -> bool) {
        self.all.retain(|cursor| wanted(cursor.of));
    }

    /// Appends what is there to `into`, within the limit, and the ends that were reached to `ends` (place in `self`, position).
    ///
    /// An error is reported only when no record came with it: the records of the other partitions are never lost, and the next
    /// poll meets it again.
    pub(super) fn fetch(
        &mut self,
        broker: &Broker,
        limit: PollLimit,
        fault: Fault,
        into: &mut RecordBatch,
        ends: &mut Vec<(usize, i64)>,
    ) -> Result<(), LogError> {
        ends.clear();
        let (records_max, mut order) = match fault {
            Fault::Shape { records, order } => (records.min(limit.records), Some(order)),
            _ => (limit.records, None),
        };
        if self.all.is_empty() {
            return Ok(());
        }
        self.first = (self.first + 1) % self.all.len();
        let mut open: Vec<usize> = (self.first..self.all.len()).chain(0..self.first).collect();
        let mut turn = 0;
        // Each in turn gets its share, until nobody has more or the poll is full.
        while !open.is_empty() && into.len() < records_max && into.bytes() < limit.bytes {
            let (place, share) = match &mut order {
                None => (turn % open.len(), (records_max / open.len()).max(1)),
                Some(seed) => {
                    let bits = next_bits(seed);
                    ((bits >> 8) as usize % open.len(), (bits & 3) as usize + 1)
                }
            };
            let share = share.min(records_max - into.len());
            let index = open[place];
            match self.all[index].take(broker, share, limit.bytes, into) {
                Ok(None) => turn += 1,
                Ok(Some(end)) => {
                    ends.push((index, end));
                    open.remove(place);
                }
                Err(_) if !into.is_empty() => {
                    open.remove(place);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The cursor at a place that `fetch` named.
    pub(super) fn at(&mut self, place: usize) -> &mut Cursor {
        &mut self.all[place]
    }
}

/// `SplitMix64`: the next bits of a seed.
fn next_bits(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut bits = *seed;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
