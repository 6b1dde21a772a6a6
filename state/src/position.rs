//! Where a partition's state stands in its inputs and in the changelog.

use headwater_config::Topic;

use crate::behavior::Timestamp;
use crate::error::Damage;
use crate::format::{Put, Take};

/// What a partition's stores reflect, and what must hold for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The changelog up to here (exclusive) is in the store.
    pub changelog: i64,
    /// Next offset to read of each input topic.
    pub inputs: Vec<(Topic, i64)>,
    /// Newest event time; [`Timestamp::MIN`] before the first.
    pub watermark: Timestamp,
    /// Partition count of the input topics, pinned at the first step.
    pub partitions: i32,
}

impl Position {
    /// The state of a partition that has seen nothing.
    pub fn start() -> Self {
        Self {
            watermark: Timestamp::MIN,
            ..Self::default()
        }
    }

    /// Next offset to read of an input topic, if it was ever read.
    pub fn input(&self, topic: Topic) -> Option<i64> {
        self.inputs
            .iter()
            .find(|(other, _)| *other == topic)
            .map(|(_, next)| *next)
    }

    /// Notes the next offset to read of an input topic.
    pub fn advance(&mut self, topic: Topic, next: i64) {
        match self.inputs.iter_mut().find(|(other, _)| *other == topic) {
            Some((_, held)) => *held = next,
            None => {
                self.inputs.push((topic, next));
                self.inputs.sort_unstable();
            }
        }
    }

    /// As the changelog holds it: without the changelog's own position.
    pub(crate) fn write(&self, to: &mut Vec<u8>) {
        to.put_i64(self.watermark.0);
        to.put_u32(self.partitions as u32);
        to.put_u8(self.inputs.len() as u8);
        for (topic, next) in &self.inputs {
            to.put_str(topic.key());
            to.put_i64(*next);
        }
    }

    pub(crate) fn read(&mut self, take: &mut Take<'_>) -> Result<(), Damage> {
        self.watermark = Timestamp(take.i64()?);
        self.partitions = take.u32()? as i32;
        let count = take.u8()?;
        self.inputs.clear();
        for _ in 0..count {
            let key = take.str()?;
            let topic = Topic::ALL
                .into_iter()
                .find(|topic| topic.key() == key)
                .ok_or(Damage::Key)?;
            self.inputs.push((topic, take.i64()?));
        }
        Ok(())
    }
}
