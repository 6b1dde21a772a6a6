//! A reader outside the group: one client a topic, since librdkafka tells the end of a partition by its number alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_config::Topic;

use super::Shared;
use super::source::Source;
use super::wake::Wake;
use crate::log::{LogError, PollLimit, Reader, RecordBatch, Start, TopicPartition};

/// A reader at positions of its own.
pub(super) struct KafkaReader {
    shared: Arc<Shared>,
    sources: BTreeMap<Topic, Source>,
    wake: Arc<Wake>,
    /// The topic that the last poll ended with: the next begins after it, so that none starves.
    last: Option<Topic>,
}

impl KafkaReader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            sources: BTreeMap::new(),
            wake: Arc::default(),
            last: None,
        }
    }
}

impl Reader for KafkaReader {
    fn assign(&mut self, from: TopicPartition, start: Start) -> Result<(), LogError> {
        let source = match self.sources.entry(from.topic) {
            std::collections::btree_map::Entry::Occupied(found) => found.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                let identity = format!("{}-{}", self.shared.settings.group, from.topic.key());
                place.insert(Source::new(&self.shared, &identity, true, &self.wake)?)
            }
        };
        source.assign(&[(from, start)])
    }

    fn unassign(&mut self, from: TopicPartition) -> Result<(), LogError> {
        if let Some(source) = self.sources.get_mut(&from.topic) {
            source.unassign(|at| *at == from)?;
            if source.is_idle() {
                self.sources.remove(&from.topic);
            }
        }
        Ok(())
    }

    fn poll(&mut self, limit: PollLimit, into: &mut RecordBatch) -> Result<(), LogError> {
        into.clear();
        let deadline = Instant::now() + limit.wait;
        loop {
            let topics: Vec<Topic> = self.sources.keys().copied().collect();
            let first = topics.partition_point(|topic| Some(*topic) <= self.last);
            for topic in topics[first..].iter().chain(&topics[..first]) {
                if let Some(source) = self.sources.get_mut(topic) {
                    let before = into.len();
                    match source.drain(limit, into) {
                        Ok(()) => {}
                        // What was taken of other topics is not lost by one topic's error: it comes with the next poll.
                        Err(error) if into.is_empty() && into.ends().is_empty() => {
                            return Err(error);
                        }
                        Err(error) => source.keep(error),
                    }
                    if into.len() > before {
                        self.last = Some(*topic);
                    }
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !into.is_empty() || !into.ends().is_empty() || left == Duration::ZERO {
                return Ok(());
            }
            self.wake.wait(left);
        }
    }
}
