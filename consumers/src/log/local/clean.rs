//! Cleaning: closed segments are written again without what nobody needs.
//!
//! Before it, `partitions` closes segments; after it, fewer and shorter ones stand in their place. In compacted topics, the newest
//! record of each key stays, and a tombstone goes once it is older than the delete retention; in the others, what retention has
//! let go of goes. The active segment is never touched. Neighbours that together fit one segment become one.
//!
//! A crash between any two lines leaves a log that says the same: a segment is replaced by a rename, its header says which
//! others it took in, and older segments are cleaned before newer ones, so that no tombstone goes before what it hides.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::HashMap;
use headwater_config::Cleanup;

use super::format::{self, CHUNK_BYTES, Frame, Packed, Span};
use super::partitions::{ChunkRef, State};
use super::segment::Segment;
use super::{Broker, Options};
use crate::log::{LogError, TopicPartition};

/// A compacted partition is worth cleaning once this share of it was written since it was last: Kafka's
/// `min.cleanable.dirty.ratio`.
const DIRTY_PART: f64 = 0.5;
/// Records of one frame, at most about so many bytes, when they are written again.
const FRAME_BYTES: usize = 1024 * 1024;

/// What is to be done.
struct Plan {
    /// Segments that become one, with the chunks that are still pointed to, in order.
    groups: Vec<Vec<Old>>,
    /// Partitions to be compacted: all of their chunks.
    compacted: BTreeMap<TopicPartition, Vec<ChunkRef>>,
}

/// A segment that is to be replaced, with its chunks.
type Old = (Arc<Segment>, Vec<(TopicPartition, ChunkRef)>);

/// The newest offset of each key, by a hash of 128 bits.
type Newest = HashMap<u128, i64>;

impl Broker {
    /// Cleans what is worth it; with `all`, everything that is closed. Appends and polls go on meanwhile.
    pub(super) fn clean(&self, all: bool) -> Result<(), LogError> {
        let _alone = self.cleaning.lock();
        let plan = plan(&self.state.lock(), &self.options, all);
        let cleaned = self.carry_out(&plan);
        for (segment, _) in plan.groups.iter().flatten() {
            segment.set_cleaning(false);
        }
        cleaned
    }

    fn carry_out(&self, plan: &Plan) -> Result<(), LogError> {
        let mut newest = BTreeMap::new();
        let mut buffer = Vec::new();
        for (of, chunks) in &plan.compacted {
            newest.insert(*of, newest_of(chunks, &mut buffer)?);
        }
        let horizon = (self.options.clock)() - self.options.delete_retention_ms();
        for group in &plan.groups {
            let mut rewrite = Rewrite {
                bytes: self.state.lock().snapshot(),
                ..Rewrite::default()
            };
            for (of, chunk) in group.iter().flat_map(|(_, chunks)| chunks) {
                chunk.read(&mut buffer)?;
                rewrite.chunk(*of, chunk, &buffer, newest.get(of), horizon)?;
            }
            rewrite.flush();
            self.replace(group, rewrite)?;
        }
        let mut state = self.state.lock();
        for (of, chunks) in &plan.compacted {
            let through = chunks
                .iter()
                .filter(|chunk| chunk.segment.is_cleaning())
                .map(|chunk| chunk.last + 1)
                .max();
            if let Some(partitions) = state.topics.get_mut(&of.topic) {
                let partition = &mut partitions[of.partition as usize];
                partition.compacted = partition.compacted.max(through.unwrap_or_default());
            }
        }
        Ok(())
    }

    /// Puts the new segment into the place of the old ones.
    fn replace(&self, group: &[Old], rewrite: Rewrite) -> Result<(), LogError> {
        let (first, last) = (group[0].0.id, group[group.len() - 1].0.id);
        let old: BTreeSet<u64> = (first..=last).collect();
        let segment = if rewrite.chunks.is_empty() {
            None
        } else {
            Some(Segment::create(
                self.folder.as_deref(),
                (first, last),
                &rewrite.bytes,
            )?)
        };
        let mut state = self.state.lock();
        let mut touched: BTreeMap<TopicPartition, Vec<ChunkRef>> = BTreeMap::new();
        for (of, _) in group.iter().flat_map(|(_, chunks)| chunks) {
            touched.entry(*of).or_default();
        }
        if let Some(segment) = &segment {
            for (of, span, begins, records) in rewrite.chunks {
                let begins = (begins + format::HEADER_BYTES) as u64;
                let chunk = ChunkRef::new(segment, begins, span, records);
                touched.entry(of).or_default().push(chunk);
            }
        }
        for (of, chunks) in touched {
            let Some(partition) = state
                .topics
                .get_mut(&of.topic)
                .map(|all| &mut all[of.partition as usize])
            else {
                continue;
            };
            let mut merged: Vec<ChunkRef> = partition
                .chunks
                .drain(..)
                .filter(|chunk| !old.contains(&chunk.segment.id))
                .collect();
            for chunk in &merged {
                chunk.segment.sub_live(chunk.bytes());
            }
            // Retention may have gone on meanwhile.
            merged.extend(
                chunks
                    .into_iter()
                    .filter(|chunk| chunk.last >= partition.start),
            );
            merged.sort_by_key(|chunk| chunk.base);
            partition.bytes = 0;
            for chunk in merged {
                partition.push(chunk);
            }
        }
        let place = state.closed.partition_point(|other| other.id < first);
        state.closed.retain(|other| !old.contains(&other.id));
        let replaced = segment.is_some();
        if let Some(segment) = segment {
            state.closed.insert(place, segment);
        }
        drop(state);
        group
            .iter()
            .skip(usize::from(replaced))
            .try_for_each(|(segment, _)| segment.remove())
    }
}

/// What is worth cleaning.
fn plan(state: &State, options: &Options, all: bool) -> Plan {
    let closed: BTreeSet<u64> = state.closed.iter().map(|segment| segment.id).collect();
    let mut compacted = BTreeMap::new();
    let mut wanted = BTreeSet::new();
    for (topic, partitions) in state
        .topics
        .iter()
        .filter(|(topic, _)| topic.cleanup() == Cleanup::Compact)
    {
        for (number, partition) in (0..).zip(partitions) {
            let in_closed = || {
                partition
                    .chunks
                    .iter()
                    .filter(|chunk| closed.contains(&chunk.segment.id))
            };
            let total: u64 = in_closed().map(ChunkRef::bytes).sum();
            let dirty: u64 = in_closed()
                .filter(|chunk| chunk.base >= partition.compacted)
                .map(ChunkRef::bytes)
                .sum();
            if total > 0 && (all || dirty as f64 >= DIRTY_PART * total as f64) {
                wanted.extend(in_closed().map(|chunk| chunk.segment.id));
                compacted.insert(
                    TopicPartition::new(*topic, number),
                    partition.chunks.iter().cloned().collect(),
                );
            }
        }
    }
    let mut groups: Vec<Vec<Arc<Segment>>> = Vec::new();
    let mut open = false;
    let mut live = 0;
    for segment in &state.closed {
        let hollow = segment.live() * 2 < segment.length();
        let small = segment.length() * 2 < options.segment_bytes();
        if !(all || hollow || small || wanted.contains(&segment.id)) {
            open = false;
            continue;
        }
        if !open || live + segment.live() > options.segment_bytes() {
            groups.push(Vec::new());
            live = 0;
        }
        open = true;
        live += segment.live();
        groups
            .last_mut()
            .expect("invariant: one was pushed")
            .push(Arc::clone(segment));
    }
    // A small segment is worth it only for being joined with another one.
    groups.retain(|group| {
        let lone = |segment: &Arc<Segment>| {
            !all && segment.live() * 2 >= segment.length() && !wanted.contains(&segment.id)
        };
        group.len() > 1 || !lone(&group[0])
    });
    let mut chunks: BTreeMap<u64, Vec<(TopicPartition, ChunkRef)>> = BTreeMap::new();
    for segment in groups.iter().flatten() {
        segment.set_cleaning(true);
        chunks.insert(segment.id, Vec::new());
    }
    for (topic, partitions) in &state.topics {
        for (number, partition) in (0..).zip(partitions) {
            for chunk in &partition.chunks {
                if let Some(chunks) = chunks.get_mut(&chunk.segment.id) {
                    chunks.push((TopicPartition::new(*topic, number), chunk.clone()));
                }
            }
        }
    }
    let groups = groups.into_iter().map(|group| {
        let with_chunks = |segment: Arc<Segment>| {
            let mut chunks = chunks.remove(&segment.id).unwrap_or_default();
            chunks.sort_by_key(|(_, chunk)| chunk.at);
            (segment, chunks)
        };
        group.into_iter().map(with_chunks).collect()
    });
    Plan {
        groups: groups.collect(),
        compacted,
    }
}

/// The newest offset of each key. Memory: about 48 bytes a distinct key, for as long as the cleaning lasts.
fn newest_of(chunks: &[ChunkRef], buffer: &mut Vec<u8>) -> Result<Newest, LogError> {
    let mut newest = Newest::new();
    for chunk in chunks {
        chunk.read(buffer)?;
        let mut rest = &buffer[..];
        while !rest.is_empty() {
            let entry =
                format::entry(rest).ok_or_else(|| chunk.segment.damaged(u64::from(chunk.at)))?;
            rest = &rest[entry.bytes.len()..];
            newest.insert(hash(entry.key), chunk.base + i64::from(entry.delta));
        }
    }
    Ok(newest)
}

fn hash(key: Option<&[u8]>) -> u128 {
    xxhash_rust::xxh3::xxh3_128(key.unwrap_or_default())
}

/// A segment that is being written again.
#[derive(Default)]
struct Rewrite {
    bytes: Vec<u8>,
    /// Where each chunk's frame begins behind the segment's header, and the records in the frame.
    chunks: Vec<(TopicPartition, Span, usize, Packed)>,
    /// The frame that is being filled.
    open: BTreeMap<TopicPartition, (Span, Vec<u8>)>,
    filled: usize,
}

impl Rewrite {
    /// Takes over what is worth it of a chunk's records.
    fn chunk(
        &mut self,
        of: TopicPartition,
        chunk: &ChunkRef,
        records: &[u8],
        newest: Option<&Newest>,
        horizon: i64,
    ) -> Result<(), LogError> {
        let mut rest = records;
        while !rest.is_empty() {
            let entry =
                format::entry(rest).ok_or_else(|| chunk.segment.damaged(u64::from(chunk.at)))?;
            rest = &rest[entry.bytes.len()..];
            let offset = chunk.base + i64::from(entry.delta);
            let stays = newest.is_none_or(|newest| {
                newest.get(&hash(entry.key)) == Some(&offset)
                    && (entry.value.is_some() || entry.timestamp >= horizon)
            });
            if stays {
                self.record(of, offset, entry.bytes);
            }
        }
        Ok(())
    }

    fn record(&mut self, of: TopicPartition, offset: i64, bytes: &[u8]) {
        let begins = Span {
            base: offset,
            last: offset,
            next: offset + 1,
        };
        let full = self.open.get(&of).is_some_and(|(span, records)| {
            records.len() >= CHUNK_BYTES || u32::try_from(offset - span.base).is_err()
        });
        if full || self.filled >= FRAME_BYTES {
            self.flush();
        }
        let (span, records) = self.open.entry(of).or_insert_with(|| (begins, Vec::new()));
        (span.last, span.next) = (begins.last, begins.next);
        let delta = (offset - span.base) as u32;
        let at = records.len();
        records.extend_from_slice(bytes);
        records[at..at + 4].copy_from_slice(&delta.to_le_bytes());
        self.filled += bytes.len();
    }

    fn flush(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let mut frame = Frame::default();
        frame.records([].into_iter(), self.open.len());
        let begins = self.bytes.len();
        for (of, (span, records)) in std::mem::take(&mut self.open) {
            let records = frame.chunk(of, span, &records);
            self.chunks.push((of, span, begins, records));
        }
        self.bytes.extend_from_slice(frame.finish());
        self.filled = 0;
    }
}
