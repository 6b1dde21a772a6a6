//! The partitions: where each one's records lie, and how more come to be.
//!
//! Before it, `pending` holds what was sent; after it, `cursor` looks chunks up and reads them. An append is one frame: all its
//! records and positions are there from one moment on, or none of them ever.
//!
//! Memory: 40 bytes a chunk (a partition's part of one transaction, at most 256 KiB) and nothing a record. Retention and
//! compaction bound how many chunks there are.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use headwater_config::{Cleanup, Topic};

use super::format::{CHUNK_HEAD_BYTES, Frame, HEADER_BYTES, Mark, Packed, Span, TopicExtents};
use super::group::Group;
use super::pending::Pending;
use super::segment::Segment;
use super::{Options, Seats, no_topic, refused};
use crate::log::{Extent, LogError, TopicPartition};

/// Where a chunk lies.
#[derive(Clone, Debug)]
pub(super) struct ChunkRef {
    pub segment: Arc<Segment>,
    pub at: u32,
    pub length: u32,
    pub crc: u32,
    pub base: i64,
    pub last: i64,
}

impl ChunkRef {
    /// A chunk of a segment; `records` lie in it from `begins` on.
    pub(super) fn new(segment: &Arc<Segment>, begins: u64, span: Span, records: Packed) -> Self {
        Self {
            segment: Arc::clone(segment),
            at: (begins + records.at as u64) as u32,
            length: records.length as u32,
            crc: records.crc,
            base: span.base,
            last: span.last,
        }
    }

    /// Reads its records into `into`, which is cleared first. Bytes that changed since they were written, or since the start, are an
    /// error and never passed on.
    pub(super) fn read(&self, into: &mut Vec<u8>) -> Result<(), LogError> {
        self.segment.read(self.at, self.length, into)?;
        if crc32fast::hash(into) == self.crc {
            Ok(())
        } else {
            Err(self.segment.damaged(u64::from(self.at)))
        }
    }

    /// What retention counts it for.
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.length) + CHUNK_HEAD_BYTES as u64
    }
}

/// One partition.
#[derive(Debug, Default)]
pub(super) struct Partition {
    /// In order of their offsets.
    pub chunks: VecDeque<ChunkRef>,
    /// Below it, retention has taken everything.
    pub start: i64,
    /// The next offset.
    pub next: i64,
    /// Bytes of all chunks.
    pub bytes: u64,
    /// Up to where it was compacted.
    pub compacted: i64,
    /// Committed, and not seen by readers yet: a fault alone makes such.
    pub late: Option<Late>,
}

/// What is not stable yet.
#[derive(Clone, Debug)]
pub(super) struct Late {
    /// Whose transaction it is: they begin no other before it is stable everywhere.
    pub identity: String,
    /// The first offset of it.
    pub from: i64,
    /// From when on it is stable, by the log's clock.
    pub until: i64,
}

impl Partition {
    /// Where what readers see ends.
    pub(super) fn stable(&self, now: i64) -> i64 {
        let late = self.late.as_ref().filter(|late| now < late.until);
        late.map_or(self.next, |late| late.from)
    }

    /// The chunk that holds the first record at `offset` or after it.
    pub(super) fn chunk_at(&self, offset: i64) -> Option<&ChunkRef> {
        self.chunks
            .get(self.chunks.partition_point(|chunk| chunk.last < offset))
    }

    /// Adds a chunk behind the others.
    pub(super) fn push(&mut self, chunk: ChunkRef) {
        self.bytes += chunk.bytes();
        chunk.segment.add_live(chunk.bytes());
        self.chunks.push_back(chunk);
    }

    /// Drops the oldest chunks for as long as those that stay hold at least `bytes`.
    pub(super) fn retain_bytes(&mut self, bytes: u64) -> bool {
        let before = self.start;
        while let Some(front) = self.chunks.front()
            && self.bytes - front.bytes() >= bytes
        {
            self.pop();
        }
        self.start > before
    }

    /// Drops the chunks that lie wholly below an offset.
    pub(super) fn retain_from(&mut self, offset: i64) {
        while self.chunks.front().is_some_and(|chunk| chunk.last < offset) {
            self.pop();
        }
        self.start = self.start.max(offset);
    }

    fn pop(&mut self) {
        if let Some(chunk) = self.chunks.pop_front() {
            self.bytes -= chunk.bytes();
            chunk.segment.sub_live(chunk.bytes());
            self.start = self.chunks.front().map_or(self.next, |chunk| chunk.base);
        }
    }
}

/// Everything that all handles share, under one lock.
#[derive(Debug)]
pub(super) struct State {
    pub topics: BTreeMap<Topic, Vec<Partition>>,
    pub positions: BTreeMap<Mark, i64>,
    /// The newest epoch of each transactional id.
    pub epochs: BTreeMap<String, u64>,
    /// The groups that have had members, and what each reads.
    pub groups: BTreeMap<u32, (Topic, Group)>,
    /// How long a seat is kept, and a partition waited for: what groups are made with.
    pub sessions: (i64, i64),
    /// All but the last, in order.
    pub closed: Vec<Arc<Segment>>,
    pub active: Arc<Segment>,
    /// Counts appends: who waits, waits for it to change.
    pub appends: u64,
    pub folder: Option<PathBuf>,
    pub frame: Frame,
}

/// What came of an append.
#[derive(Debug, Default)]
pub(super) struct Appended {
    /// The offset of the first record, for each partition.
    pub from: Vec<(TopicPartition, i64)>,
    /// The offset after the last record, for each partition.
    pub next: Vec<(TopicPartition, i64)>,
    /// Whether a segment was closed: it is time to think of cleaning.
    pub rolled: bool,
}

impl State {
    /// The partition, or why there is none.
    pub(super) fn partition(&self, of: TopicPartition) -> Result<&Partition, LogError> {
        let partitions = self
            .topics
            .get(&of.topic)
            .ok_or_else(|| no_topic(of.topic))?;
        usize::try_from(of.partition)
            .ok()
            .and_then(|index| partitions.get(index))
            .ok_or_else(|| {
                refused(
                    "looking up a partition",
                    format!(
                        "{:?} has {} partitions, there is no {}",
                        of.topic,
                        partitions.len(),
                        of.partition
                    ),
                )
            })
    }

    fn partition_mut(&mut self, of: TopicPartition) -> &mut Partition {
        self.topics
            .get_mut(&of.topic)
            .and_then(|partitions| partitions.get_mut(of.partition as usize))
            .expect("invariant: who sends has looked the partition up")
    }

    /// First and next stable offset.
    pub(super) fn extent(&self, of: TopicPartition, now: i64) -> Result<Extent, LogError> {
        let partition = self.partition(of)?;
        Ok(Extent {
            first: partition.start,
            next: partition.stable(now),
        })
    }

    /// What a group has committed.
    pub(super) fn committed(
        &self,
        group: u32,
        of: &[TopicPartition],
    ) -> Result<Vec<Option<i64>>, LogError> {
        let position = |of: &TopicPartition| self.positions.get(&Mark { group, of: *of });
        of.iter()
            .map(|of| self.partition(*of).map(|_| position(of).copied()))
            .collect()
    }

    /// First and next offset.
    pub(super) fn written(&self, of: TopicPartition) -> Result<Extent, LogError> {
        let partition = self.partition(of)?;
        Ok(Extent {
            first: partition.start,
            next: partition.next,
        })
    }

    /// Hides what a transaction has just written to some partitions from readers, until then: bit n of `which` is for the n-th.
    pub(super) fn delay(&mut self, identity: &str, appended: &Appended, which: u64, until: i64) {
        for (place, (of, from)) in appended.from.iter().enumerate() {
            if which >> (place % 64) & 1 == 1 {
                let partition = self.partition_mut(*of);
                // What is late of another stays so: it comes first.
                partition.late.get_or_insert_with(|| Late {
                    identity: identity.to_owned(),
                    from: *from,
                    until,
                });
            }
        }
    }

    /// Shows what is late of a transactional id, or is no more.
    pub(super) fn settle(&mut self, identity: &str, now: i64) {
        for partition in self.topics.values_mut().flatten() {
            let over = |late: &mut Late| late.identity == identity || late.until <= now;
            drop(partition.late.take_if(over));
        }
    }

    /// Makes a topic, whose name must be free.
    pub(super) fn create(
        &mut self,
        topic: Topic,
        partitions: usize,
        options: &Options,
    ) -> Result<(), LogError> {
        self.frame.topic(topic, partitions);
        self.active.append(self.frame.finish(), options.fsync)?;
        self.add_topic(topic, partitions);
        self.appends += 1;
        Ok(())
    }

    /// Knows a topic from now on.
    pub(super) fn add_topic(&mut self, topic: Topic, partitions: usize) {
        self.topics
            .entry(topic)
            .or_default()
            .resize_with(partitions, Partition::default);
        for (input, group) in self.groups.values_mut() {
            if *input == topic {
                group.set_partitions(partitions);
            }
        }
    }

    /// The group of these seats, made when its first member comes.
    pub(super) fn group(&mut self, seats: &Seats) -> &mut Group {
        let partitions = self.topics.get(&seats.input).map_or(0, Vec::len);
        let (_, group) = self.groups.entry(seats.number).or_insert_with(|| {
            let mut group = Group::new(self.sessions.0, self.sessions.1);
            group.set_partitions(partitions);
            (seats.input, group)
        });
        group
    }

    /// Counts changes that a poll of any group may have to report.
    pub(super) fn groups_version(&self) -> u64 {
        self.groups.values().map(|(_, group)| group.version()).sum()
    }

    /// Appends records and positions at once. With `marker`, the end of the transaction takes an offset in each partition, as
    /// Kafka's commit markers do: whoever takes offsets for counts shall find out here.
    ///
    /// The partitions of `records` exist.
    pub(super) fn append(
        &mut self,
        records: &Pending,
        (group, positions): (u32, &[(TopicPartition, i64)]),
        marker: bool,
        options: &Options,
    ) -> Result<Appended, LogError> {
        let rolled = self.active.length() >= options.segment_bytes();
        if rolled {
            self.roll()?;
        }
        let mark = |of: &TopicPartition| Mark { group, of: *of };
        let marks: Vec<(Mark, i64)> = positions
            .iter()
            .map(|(of, position)| (mark(of), *position))
            .collect();
        let mut frame = std::mem::take(&mut self.frame);
        frame.records(
            marks.iter().map(|(mark, position)| (mark, position)),
            records.len(),
        );
        let mut placed = Vec::with_capacity(records.len());
        let mut appended = Appended {
            rolled,
            ..Appended::default()
        };
        for (of, chunks) in records.iter() {
            let mut base = self.partition(of).map_or(0, |partition| partition.next);
            appended.from.push((of, base));
            for (index, chunk) in chunks.iter().enumerate() {
                let last = base + i64::from(chunk.count) - 1;
                let ends = index + 1 == chunks.len();
                let next = last + 1 + i64::from(marker && ends);
                let span = Span { base, last, next };
                placed.push((of, span, frame.chunk(of, span, &chunk.bytes)));
                if ends {
                    appended.next.push((of, last + 1));
                }
                base = next;
            }
        }
        let written = self.active.append(frame.finish(), options.fsync);
        self.frame = frame;
        let begins = written?;
        let segment = Arc::clone(&self.active);
        let mut popped = false;
        for (of, span, records) in placed {
            let partition = self.partition_mut(of);
            partition.push(ChunkRef::new(&segment, begins, span, records));
            partition.next = span.next;
            if of.topic.cleanup() == Cleanup::Delete {
                popped |= partition.retain_bytes(options.retention_bytes);
            }
        }
        for (mark, position) in marks {
            self.positions.insert(mark, position);
        }
        self.appends += 1;
        if popped {
            self.drop_dead_segments();
        }
        Ok(appended)
    }

    /// Closes the active segment and begins another one, which opens with all that is to be known beside records: what older
    /// segments say of that may be forgotten.
    fn roll(&mut self) -> Result<(), LogError> {
        self.active.sync()?;
        let id = self.active.id + 1;
        let snapshot = self.snapshot();
        let segment = Segment::create(self.folder.as_deref(), (id, id), &snapshot)?;
        self.closed
            .push(std::mem::replace(&mut self.active, segment));
        self.drop_dead_segments();
        Ok(())
    }

    /// The frame that opens a segment.
    pub(super) fn snapshot(&mut self) -> Vec<u8> {
        let topics: Vec<TopicExtents> = self
            .topics
            .iter()
            .map(|(topic, partitions)| {
                (
                    *topic,
                    partitions.iter().map(|one| (one.start, one.next)).collect(),
                )
            })
            .collect();
        self.frame.snapshot(&topics, self.positions.iter());
        self.frame.finish().to_vec()
    }

    /// Removes the closed segments that nobody points to. One that cannot be removed is tried again later: it does no harm.
    pub(super) fn drop_dead_segments(&mut self) {
        self.closed.retain(|segment| {
            if segment.live() > 0 || segment.is_cleaning() {
                return true;
            }
            match segment.remove() {
                Ok(()) => false,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "segment not removed"
                    );
                    true
                }
            }
        });
    }

    /// Bytes of all segments.
    pub(super) fn bytes(&self) -> u64 {
        self.closed
            .iter()
            .chain([&self.active])
            .map(|segment| segment.length())
            .sum()
    }
}

/// Bytes at which a segment in memory or on disk is closed, at least: the header and a snapshot must fit.
pub(super) const SEGMENT_BYTES_MIN: u64 = 4 * HEADER_BYTES as u64;
