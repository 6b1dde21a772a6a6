//! The records of one poll, in one buffer: nothing is allocated per record, and what `decode` borrows lives as long as the step.

use headwater_config::Topic;

use super::{Membership, TopicPartition};

/// Records of one poll. Reused from poll to poll.
#[derive(Debug, Default)]
pub struct RecordBatch {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
    ends: Vec<(TopicPartition, i64)>,
    membership: Membership,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    topic: Topic,
    partition: i32,
    offset: i64,
    timestamp: i64,
    start: usize,
    /// Length of key, value and headers in `bytes`, in that order; `u32::MAX` means null.
    key: u32,
    value: u32,
    headers: u32,
}

const NULL: u32 = u32::MAX;

/// One record, borrowed from its batch.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Where it lies.
    pub at: TopicPartition,
    /// Its offset there.
    pub offset: i64,
    /// When the log took it, Unix milliseconds (Kafka's timestamp: production or append time), or -1.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: Headers<'a>,
}

/// A header: name and value, which may be null.
pub type Header<'a> = (&'a str, Option<&'a [u8]>);

/// The headers of a record, in order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Headers<'a>(&'a [u8]);

impl RecordBatch {
    /// Forgets all records, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.slots.clear();
        self.ends.clear();
    }

    /// Appends a record. A header name longer than 64 KiB or a value over 4 GiB cannot be in a log record.
    pub fn push<'h>(
        &mut self,
        at: TopicPartition,
        (offset, timestamp): (i64, i64),
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl IntoIterator<Item = Header<'h>>,
    ) {
        let start = self.bytes.len();
        let mut put = |bytes: Option<&[u8]>| match bytes {
            None => NULL,
            Some(bytes) => {
                self.bytes.extend_from_slice(bytes);
                bytes.len() as u32
            }
        };
        let key = put(key);
        let value = put(value);
        let before = self.bytes.len();
        for (name, value) in headers {
            self.bytes
                .extend_from_slice(&(name.len() as u32).to_le_bytes());
            self.bytes
                .extend_from_slice(&value.map_or(NULL, |value| value.len() as u32).to_le_bytes());
            self.bytes.extend_from_slice(name.as_bytes());
            self.bytes.extend_from_slice(value.unwrap_or_default());
        }
        let headers = (self.bytes.len() - before) as u32;
        self.slots.push(Slot {
            topic: at.topic,
            partition: at.partition,
            offset,
            timestamp,
            start,
            key,
            value,
            headers,
        });
    }

    /// Notes that the end of a partition was reached, and the position there.
    pub fn push_end(&mut self, of: TopicPartition, position: i64) {
        self.ends.push((of, position));
    }

    /// Sets the membership that the records were polled under.
    pub fn set_membership(&mut self, membership: Membership) {
        self.membership = membership;
    }

    /// The membership that the records were polled under.
    pub fn membership(&self) -> Membership {
        self.membership
    }

    /// How many records.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes of keys, values and headers.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Partitions whose end was reached by this poll, with the position there.
    pub fn ends(&self) -> &[(TopicPartition, i64)] {
        &self.ends
    }

    /// Where record number `index` lies: its topic and partition, and its offset there.
    ///
    /// # Panics
    /// If there is no such record.
    pub fn place(&self, index: usize) -> (TopicPartition, i64) {
        let slot = &self.slots[index];
        (TopicPartition::new(slot.topic, slot.partition), slot.offset)
    }

    /// Record number `index`.
    ///
    /// # Panics
    /// If there is no such record.
    pub fn get(&self, index: usize) -> Record<'_> {
        let slot = self.slots[index];
        let mut rest = &self.bytes[slot.start..];
        let mut take = |length: u32| {
            if length == NULL {
                return None;
            }
            let (taken, after) = rest.split_at(length as usize);
            rest = after;
            Some(taken)
        };
        let key = take(slot.key);
        let value = take(slot.value);
        let headers = Headers(take(slot.headers).unwrap_or_default());
        Record {
            at: TopicPartition::new(slot.topic, slot.partition),
            offset: slot.offset,
            timestamp: slot.timestamp,
            key,
            value,
            headers,
        }
    }

    /// All records in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Record<'_>> {
        (0..self.slots.len()).map(|index| self.get(index))
    }
}

impl<'a> Headers<'a> {
    /// The headers in order.
    pub fn iter(self) -> impl Iterator<Item = Header<'a>> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (lengths, after) = rest.split_at_checked(8)?;
            let name = u32::from_le_bytes(lengths[..4].try_into().ok()?) as usize;
            let value = u32::from_le_bytes(lengths[4..].try_into().ok()?);
            let (name, after) = after.split_at_checked(name)?;
            let length = if value == NULL { 0 } else { value as usize };
            let (bytes, after) = after.split_at_checked(length)?;
            rest = after;
            let name = std::str::from_utf8(name).ok()?;
            Some((name, (value != NULL).then_some(bytes)))
        })
    }

    /// The last header of that name, if there is one and it is not null.
    pub fn get(self, name: &str) -> Option<&'a [u8]> {
        self.iter().filter(|(other, _)| *other == name).last()?.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what is pushed comes back. Method: nulls, empties and headers of every kind.
    #[test]
    fn records_come_back_as_they_were_pushed() {
        let mut batch = RecordBatch::default();
        let at = TopicPartition::new(Topic::Behaviors, 3);
        batch.push(
            at,
            (7, 11),
            Some(b"k"),
            None,
            [("a", Some(&b"1"[..])), ("b", None), ("a", Some(b""))],
        );
        batch.push(at, (9, -1), None, Some(b""), []);
        let first = batch.get(0);
        assert_eq!(
            (first.offset, first.timestamp, first.key, first.value),
            (7, 11, Some(&b"k"[..]), None)
        );
        let headers: Vec<_> = first.headers.iter().collect();
        assert_eq!(
            headers,
            [("a", Some(&b"1"[..])), ("b", None), ("a", Some(&b""[..]))]
        );
        assert_eq!(first.headers.get("a"), Some(&b""[..]));
        let second = batch.get(1);
        assert_eq!((second.key, second.value), (None, Some(&b""[..])));
        assert_eq!(second.headers.iter().count(), 0);
    }
}
