//! Opening: what the segments of a folder say.
//!
//! Before it stands whoever wrote them, perhaps killed in the middle; after it, the same [`State`] that was there after the last
//! transaction whose frame is whole. A frame without its end, at the end of the last segment, is cut off and counted; all
//! else that is not as it was written is an error that names the file and the byte.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use headwater_config::Cleanup;

use super::Options;
use super::format::{self, Body, Found, Frame, HEADER_BYTES};
use super::partitions::{ChunkRef, State};
use super::segment::{self, Segment};
use crate::log::{LogError, TopicPartition};

/// Makes the state anew. The answer's second part: bytes of a torn tail that were cut off.
pub(super) fn open(folder: Option<&Path>, options: &Options) -> Result<(State, u64), LogError> {
    let mut frame = Frame::default();
    let mut found = Vec::new();
    let mut torn = 0;
    let mut taken_in = 0;
    let files = folder.map(segment::list).transpose()?.unwrap_or_default();
    let count = files.len();
    let mut read = Vec::new();
    for (index, (id, path)) in files.into_iter().enumerate() {
        if id <= taken_in {
            // Cleaning merged it into an older one, and was interrupted before it could remove it.
            std::fs::remove_file(&path).map_err(segment::io(&path, "removing"))?;
            continue;
        }
        let bytes = std::fs::read(&path).map_err(segment::io(&path, "reading"))?;
        let (written, through) = format::parse_header(&bytes).ok_or_else(|| LogError::Damaged {
            path: path.clone(),
            at: 0,
        })?;
        if written != id || u32::try_from(bytes.len()).is_err() {
            return Err(LogError::Damaged { path, at: 8 });
        }
        taken_in = through;
        let mut bodies = Vec::new();
        let mut at = HEADER_BYTES;
        let mut cut = 0;
        loop {
            match format::frame_at(&bytes, at) {
                Found::Frame {
                    body,
                    body_at,
                    next,
                } => {
                    let body = format::parse_body(body).ok_or_else(|| LogError::Damaged {
                        path: path.clone(),
                        at: body_at as u64,
                    })?;
                    bodies.push((body_at, body));
                    at = next;
                }
                Found::End => break,
                Found::Torn if index + 1 == count => {
                    cut = (bytes.len() - at) as u64;
                    break;
                }
                Found::Torn | Found::Damaged => {
                    return Err(LogError::Damaged {
                        path,
                        at: at as u64,
                    });
                }
            }
        }
        torn += cut;
        let segment = Segment::reopen(path, id, at as u64)?;
        found.push(Arc::clone(&segment));
        read.push((segment, bodies));
    }
    let active = if let Some(active) = found.pop() {
        active
    } else {
        frame.snapshot(&[], [].into_iter());
        Segment::create(folder, (1, 1), frame.finish())?
    };
    let session_ms = options.session.as_millis() as i64;
    let mut state = State {
        topics: BTreeMap::new(),
        positions: BTreeMap::new(),
        epochs: BTreeMap::new(),
        groups: BTreeMap::new(),
        sessions: (session_ms, options.rebalance.as_millis() as i64),
        closed: found,
        active,
        appends: 0,
        folder: folder.map(Path::to_owned),
        frame,
    };
    for (segment, bodies) in read {
        for (at, body) in bodies {
            apply(&mut state, &segment, at, body)?;
        }
    }
    for (topic, partitions) in &mut state.topics {
        for partition in partitions {
            if topic.cleanup() == Cleanup::Delete {
                let oldest = partition
                    .chunks
                    .front()
                    .map_or(partition.next, |chunk| chunk.base);
                partition.retain_from(oldest.max(partition.start));
                partition.retain_bytes(options.retention_bytes);
            }
        }
    }
    state.drop_dead_segments();
    Ok((state, torn))
}

fn apply(state: &mut State, segment: &Arc<Segment>, at: usize, body: Body) -> Result<(), LogError> {
    match body {
        Body::Snapshot { topics, positions } => {
            for (topic, extents) in topics {
                state.add_topic(topic, extents.len());
                let partitions = state.topics.entry(topic).or_default();
                for (partition, (start, next)) in partitions.iter_mut().zip(extents) {
                    partition.start = partition.start.max(start);
                    partition.next = partition.next.max(next);
                }
            }
            state.positions = positions.into_iter().collect();
        }
        Body::Topic { topic, partitions } => state.add_topic(topic, partitions),
        Body::Records { positions, chunks } => {
            for chunk in chunks {
                let place = at + chunk.records.at;
                let known = known(state, chunk.of).ok_or_else(|| segment.damaged(place as u64))?;
                if known
                    .chunks
                    .back()
                    .is_some_and(|last| last.last >= chunk.span.base)
                {
                    return Err(segment.damaged(place as u64));
                }
                known.next = known.next.max(chunk.span.next);
                known.push(ChunkRef::new(segment, at as u64, chunk.span, chunk.records));
            }
            state.positions.extend(positions);
        }
    }
    Ok(())
}

fn known(state: &mut State, of: TopicPartition) -> Option<&mut super::partitions::Partition> {
    state
        .topics
        .get_mut(&of.topic)?
        .get_mut(usize::try_from(of.partition).ok()?)
}
