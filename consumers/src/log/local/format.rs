//! The bytes of the local log: segments, frames, chunks and records.
//!
//! Before it, `pending` holds what a producer has sent; after it, `segment` keeps the bytes. Everything that is read back is
//! checked: a frame by its checksums, what is in it by its lengths, so that no byte of a damaged file can panic.
//!
//! ```text
//! segment  header · frame…
//! header   "HWLOCAL1" · id u64 · through u64 · crc32 of these u32 · 0 u32        (through: the last segment merged into this one)
//! frame    body length u32 · crc32 of the body u32 · crc32 of these 8 bytes u32 · body · 0xA5
//! body     1 snapshot   topics u32 × (topic u8 · partitions u32 × (start i64 · next i64)) · positions
//!          2 topic      topic u8 · partitions u32
//!          3 records    positions · chunks u32 × chunk
//! positions  u32 × (topic u8 · partition i32 · position i64); of another group than the log's own, 128 + topic u8 · partition i32 · group u32 · position i64
//! chunk    topic u8 · partition i32 · base i64 · last i64 · next i64 · length u32 · record…
//! record   offset - base u32 · timestamp i64 · key u32 · value u32 · headers u32 · bytes of the three   (u32::MAX: null)
//! headers  (name u32 · value u32 · bytes of the two)…
//! ```
//!
//! Numbers are little-endian. One frame is one transaction: it is there whole or not at all. A frame's own length is under a
//! checksum, so that a torn tail (the file ends inside of the last frame) and a damaged length cannot be taken for each other; the
//! byte that ends a frame is not zero, so that a tail that the disk never got (zeros, after a loss of power) is known as torn.

use headwater_config::Topic;

use crate::log::{Header, TopicPartition};

/// Bytes of a segment's header.
pub(super) const HEADER_BYTES: usize = 32;
/// Bytes of a frame before its body.
pub(super) const FRAME_HEAD_BYTES: usize = 12;
/// Bytes of a chunk before its records; also what it is counted for by retention, beside its records.
pub(super) const CHUNK_HEAD_BYTES: usize = 33;
/// A chunk is closed once it is past this: it is what a cursor reads at once.
pub(super) const CHUNK_BYTES: usize = 256 * 1024;

const MAGIC: [u8; 8] = *b"HWLOCAL1";
const FRAME_END: u8 = 0xA5;
/// Beside a topic: the position is another group's.
const OTHER_GROUP: u8 = 0x80;
const RECORD_HEAD_BYTES: usize = 24;
const NULL: u32 = u32::MAX;

const SNAPSHOT: u8 = 1;
const TOPIC: u8 = 2;
const RECORDS: u8 = 3;

/// The byte that stands for a topic. Once given, never changed.
pub(super) const fn code(topic: Topic) -> u8 {
    match topic {
        Topic::Behaviors => 1,
        Topic::Items => 2,
        Topic::ScoreRequests => 3,
        Topic::Scores => 4,
        Topic::StandingScores => 5,
        Topic::FeatureLog => 6,
        Topic::Changelog => 7,
        Topic::ItemDeltas => 8,
        Topic::ItemState => 9,
        Topic::Fleet => 10,
        Topic::DeadLetters => 11,
        Topic::Repartition => 12,
        Topic::Texts => 13,
        Topic::Embeddings => 14,
        Topic::Labels => 15,
        Topic::Models => 16,
    }
}

fn topic(of: u8) -> Option<Topic> {
    Topic::ALL.into_iter().find(|topic| code(*topic) == of)
}

/// The header of a segment.
pub(super) fn header(id: u64, through: u64) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&id.to_le_bytes());
    bytes[16..24].copy_from_slice(&through.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..24]);
    bytes[24..28].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Id and `through` of a segment, if its header is whole.
pub(super) fn parse_header(bytes: &[u8]) -> Option<(u64, u64)> {
    let header = bytes.get(..HEADER_BYTES)?;
    let mut cut = Cut(header.get(8..)?);
    let (id, through, crc) = (cut.u64()?, cut.u64()?, cut.u32()?);
    (header.get(..8)? == MAGIC && crc32fast::hash(header.get(..24)?) == crc)
        .then_some((id, through))
}

/// A frame that is being written. Reused from frame to frame.
#[derive(Debug, Default)]
pub(super) struct Frame(Vec<u8>);

/// What a snapshot says of one topic: its partitions' first and next offsets.
pub(super) type TopicExtents = (Topic, Vec<(i64, i64)>);

/// Whose position, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    /// Hash of what a group beside the log's own has behind its name; 0: the log's own.
    pub group: u32,
    /// Where.
    pub of: TopicPartition,
}

/// Where a chunk lies in its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Offset that the records' deltas add to.
    pub base: i64,
    /// Offset of the last record.
    pub last: i64,
    /// The partition's next offset after this chunk: `last + 1`, and one more where a commit marker takes an offset.
    pub next: i64,
}

impl Frame {
    fn begin(&mut self, kind: u8) {
        self.0.clear();
        self.0.extend_from_slice(&[0; FRAME_HEAD_BYTES]);
        self.0.push(kind);
    }

    fn u32(&mut self, value: usize) {
        let value = u32::try_from(value).expect("invariant: a frame holds less than 4 GiB");
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn i64(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn place(&mut self, of: TopicPartition) {
        self.0.push(code(of.topic));
        self.0.extend_from_slice(&of.partition.to_le_bytes());
    }

    fn positions<'a>(&mut self, positions: impl ExactSizeIterator<Item = (&'a Mark, &'a i64)>) {
        self.u32(positions.len());
        for (mark, position) in positions {
            self.place(mark.of);
            if mark.group != 0 {
                let topic = self.0.len() - 5;
                self.0[topic] |= OTHER_GROUP;
                self.0.extend_from_slice(&mark.group.to_le_bytes());
            }
            self.i64(*position);
        }
    }

    /// Begins a snapshot and completes it.
    pub(super) fn snapshot<'a>(
        &mut self,
        topics: &[TopicExtents],
        positions: impl ExactSizeIterator<Item = (&'a Mark, &'a i64)>,
    ) {
        self.begin(SNAPSHOT);
        self.u32(topics.len());
        for (topic, partitions) in topics {
            self.0.push(code(*topic));
            self.u32(partitions.len());
            for (start, next) in partitions {
                self.i64(*start);
                self.i64(*next);
            }
        }
        self.positions(positions);
    }

    /// A topic that was made.
    pub(super) fn topic(&mut self, topic: Topic, partitions: usize) {
        self.begin(TOPIC);
        self.0.push(code(topic));
        self.u32(partitions);
    }

    /// Begins a frame of records: `chunks` calls of [`Frame::chunk`] must follow.
    pub(super) fn records<'a>(
        &mut self,
        positions: impl ExactSizeIterator<Item = (&'a Mark, &'a i64)>,
        chunks: usize,
    ) {
        self.begin(RECORDS);
        self.positions(positions);
        self.u32(chunks);
    }

    /// Adds a chunk; the answer is where its records lie in the frame.
    pub(super) fn chunk(&mut self, of: TopicPartition, span: Span, records: &[u8]) -> Packed {
        self.place(of);
        self.i64(span.base);
        self.i64(span.last);
        self.i64(span.next);
        self.u32(records.len());
        let at = self.0.len();
        self.0.extend_from_slice(records);
        Packed::of(at, records)
    }

    /// Seals the frame: these are its bytes.
    pub(super) fn finish(&mut self) -> &[u8] {
        let body = self.0.len() - FRAME_HEAD_BYTES;
        let length = u32::try_from(body).expect("invariant: a frame holds less than 4 GiB");
        let crc = crc32fast::hash(&self.0[FRAME_HEAD_BYTES..]);
        self.0[..4].copy_from_slice(&length.to_le_bytes());
        self.0[4..8].copy_from_slice(&crc.to_le_bytes());
        let crc = crc32fast::hash(&self.0[..8]);
        self.0[8..12].copy_from_slice(&crc.to_le_bytes());
        self.0.push(FRAME_END);
        &self.0
    }
}

/// What lies at a place in a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// A whole frame: its body, where that begins, and where the next frame begins.
    Frame {
        body: &'a [u8],
        body_at: usize,
        next: usize,
    },
    /// Nothing: the segment ends here.
    End,
    /// The beginning of a frame whose end was never written.
    Torn,
    /// Something else.
    Damaged,
}

/// What lies at `at` in a segment's bytes.
pub(super) fn frame_at(bytes: &[u8], at: usize) -> Found<'_> {
    let rest = bytes.get(at..).unwrap_or_default();
    if rest.is_empty() {
        return Found::End;
    }
    let Some((head, after)) = rest.split_at_checked(FRAME_HEAD_BYTES) else {
        return Found::Torn;
    };
    let mut cut = Cut(head);
    let (Some(length), Some(crc), Some(head_crc)) = (cut.u32(), cut.u32(), cut.u32()) else {
        return Found::Torn;
    };
    if crc32fast::hash(&head[..8]) != head_crc {
        // A body begins with a byte that is not zero: where there are only zeros, no transaction is lost by cutting.
        return if after.iter().all(|byte| *byte == 0) {
            Found::Torn
        } else {
            Found::Damaged
        };
    }
    let length = length as usize;
    let (Some(body), Some(end)) = (
        after.get(..length),
        after.get(length..).filter(|end| !end.is_empty()),
    ) else {
        return Found::Torn;
    };
    if crc32fast::hash(body) != crc || end[0] != FRAME_END {
        return if end.iter().all(|byte| *byte == 0) {
            Found::Torn
        } else {
            Found::Damaged
        };
    }
    let body_at = at + FRAME_HEAD_BYTES;
    Found::Frame {
        body,
        body_at,
        next: body_at + length + 1,
    }
}

/// What a frame says.
#[derive(Debug)]
pub(super) enum Body {
    /// All topics and positions as of here.
    Snapshot {
        topics: Vec<TopicExtents>,
        positions: Vec<(Mark, i64)>,
    },
    /// A topic was made.
    Topic { topic: Topic, partitions: usize },
    /// Records and positions that came to be together.
    Records {
        positions: Vec<(Mark, i64)>,
        chunks: Vec<ChunkAt>,
    },
}

/// Where the records of a chunk lie, and their checksum. It is in no file: frames have theirs, which covers more than is read back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packed {
    pub at: usize,
    pub length: usize,
    pub crc: u32,
}

impl Packed {
    fn of(at: usize, records: &[u8]) -> Self {
        Self {
            at,
            length: records.len(),
            crc: crc32fast::hash(records),
        }
    }
}

/// A chunk that was found in a frame; its records lie in the body.
#[derive(Debug)]
pub(super) struct ChunkAt {
    pub of: TopicPartition,
    pub span: Span,
    pub records: Packed,
}

/// Reads a frame's body; `None` if it does not say what a frame can say.
pub(super) fn parse_body(body: &[u8]) -> Option<Body> {
    let mut cut = Cut(body);
    let read = match cut.u8()? {
        SNAPSHOT => {
            let mut topics = Vec::new();
            for _ in 0..cut.u32()? {
                let topic = topic(cut.u8()?)?;
                let mut partitions = Vec::new();
                for _ in 0..cut.u32()? {
                    partitions.push((cut.i64()?, cut.i64()?));
                }
                topics.push((topic, partitions));
            }
            Body::Snapshot {
                topics,
                positions: cut.positions()?,
            }
        }
        TOPIC => Body::Topic {
            topic: topic(cut.u8()?)?,
            partitions: cut.u32()? as usize,
        },
        RECORDS => {
            let positions = cut.positions()?;
            let mut chunks = Vec::new();
            for _ in 0..cut.u32()? {
                let of = cut.place()?;
                let span = Span {
                    base: cut.i64()?,
                    last: cut.i64()?,
                    next: cut.i64()?,
                };
                let length = cut.u32()? as usize;
                let at = body.len() - cut.0.len();
                let records = Packed::of(at, cut.take(length)?);
                chunks.push(ChunkAt { of, span, records });
            }
            Body::Records { positions, chunks }
        }
        _ => return None,
    };
    cut.0.is_empty().then_some(read)
}

/// A record in a chunk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    /// Its offset, less the chunk's base.
    pub delta: u32,
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    headers: &'a [u8],
    /// All of its bytes, the first four of which are the delta.
    pub bytes: &'a [u8],
}

/// Appends a record to a chunk.
pub(super) fn put_record(
    into: &mut Vec<u8>,
    (delta, timestamp): (u32, i64),
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[(&str, &[u8])],
) {
    let length = |bytes: Option<&[u8]>| bytes.map_or(NULL, |bytes| bytes.len() as u32);
    let header_bytes: usize = headers
        .iter()
        .map(|(name, value)| 8 + name.len() + value.len())
        .sum();
    let mut head = [0; RECORD_HEAD_BYTES];
    head[..4].copy_from_slice(&delta.to_le_bytes());
    head[4..12].copy_from_slice(&timestamp.to_le_bytes());
    head[12..16].copy_from_slice(&length(key).to_le_bytes());
    head[16..20].copy_from_slice(&length(value).to_le_bytes());
    head[20..].copy_from_slice(&(header_bytes as u32).to_le_bytes());
    into.extend_from_slice(&head);
    into.extend_from_slice(key.unwrap_or_default());
    into.extend_from_slice(value.unwrap_or_default());
    for (name, value) in headers {
        into.extend_from_slice(&(name.len() as u32).to_le_bytes());
        into.extend_from_slice(&(value.len() as u32).to_le_bytes());
        into.extend_from_slice(name.as_bytes());
        into.extend_from_slice(value);
    }
}

/// The first record of what is left of a chunk; `None` if these bytes are none.
pub(super) fn entry(bytes: &[u8]) -> Option<Entry<'_>> {
    let mut cut = Cut(bytes);
    let (delta, timestamp) = (cut.u32()?, cut.i64()?);
    let (key, value, headers) = (cut.u32()?, cut.u32()?, cut.u32()?);
    let key = cut.nullable(key)?;
    let value = cut.nullable(value)?;
    let headers = cut.take(headers as usize)?;
    let length = bytes.len() - cut.0.len();
    Some(Entry {
        delta,
        timestamp,
        key,
        value,
        headers,
        bytes: &bytes[..length],
    })
}

impl<'a> Entry<'a> {
    /// Its headers in order.
    pub(super) fn headers(&self) -> impl Iterator<Item = Header<'a>> {
        let mut cut = Cut(self.headers);
        std::iter::from_fn(move || {
            let (name, value) = (cut.u32()?, cut.u32()?);
            let name = std::str::from_utf8(cut.take(name as usize)?).ok()?;
            Some((name, cut.nullable(value)?))
        })
    }
}

/// What is left to be read.
struct Cut<'a>(&'a [u8]);

impl<'a> Cut<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    #[expect(
        clippy::option_option,
        reason = "outer: whether it could be read; inner: null"
    )]
    fn nullable(&mut self, length: u32) -> Option<Option<&'a [u8]>> {
        if length == NULL {
            Some(None)
        } else {
            self.take(length as usize).map(Some)
        }
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    fn place(&mut self) -> Option<TopicPartition> {
        let topic = topic(self.u8()?)?;
        let partition = self.array().map(i32::from_le_bytes)?;
        Some(TopicPartition { topic, partition })
    }

    fn positions(&mut self) -> Option<Vec<(Mark, i64)>> {
        let mut positions = Vec::new();
        for _ in 0..self.u32()? {
            let named = self.u8()?;
            let topic = topic(named & !OTHER_GROUP)?;
            let of = TopicPartition::new(topic, self.array().map(i32::from_le_bytes)?);
            let group = match named & OTHER_GROUP {
                0 => 0,
                _ => self.u32()?,
            };
            positions.push((Mark { group, of }, self.i64()?));
        }
        Some(positions)
    }
}
