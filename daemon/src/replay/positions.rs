//! What the group has counted of its inputs, and whether that is all of them.
//!
//! Before it stand the logs of a configuration: one, or two where a source is repartitioned first. After it the replay, which waits.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_config::Topic;
use headwater_consumers::log::{Log, LogError, PollLimit, RecordBatch, Start, TopicPartition};

/// Longest look for a record between a position and the end.
const LOOK: Duration = Duration::from_secs(2);

/// Topics that one group reads, and the partitions of each.
#[derive(Debug)]
struct Stage {
    log: Arc<dyn Log>,
    of: Vec<TopicPartition>,
}

/// The groups that records pass through, in their order.
#[derive(Debug)]
pub(super) struct Positions {
    stages: Vec<Stage>,
    /// What every stage had committed when that was last asked.
    last: Vec<Option<i64>>,
    end: End,
}

/// How far [`Positions::are_at_the_end`] has come.
#[derive(Debug, Default)]
struct End {
    /// Stages that have come to it.
    stages: usize,
    /// Next offsets of the stage's topics when they were first looked at: what others write later is not waited for.
    upto: Vec<i64>,
    /// What was committed then.
    found: Vec<Option<i64>>,
}

impl Positions {
    /// Of the fast loop's log, after the stage's where a source is repartitioned.
    pub(super) fn new(fast: &Arc<dyn Log>, stage: Option<&Arc<dyn Log>>) -> Result<Self, LogError> {
        let inputs = [Topic::Behaviors, Topic::ScoreRequests];
        let mut stages = Vec::new();
        if let Some(log) = stage {
            stages.push(Stage::new(log, &[Topic::Behaviors])?);
        }
        stages.push(Stage::new(fast, &inputs)?);
        // What steps write and the group reads again: it is all there once their inputs are counted.
        stages.push(Stage::new(fast, &[Topic::ItemDeltas])?);
        Ok(Self {
            stages,
            last: Vec::new(),
            end: End::default(),
        })
    }

    /// Next offsets of the topics that are sent to: what a course begins at. In a repartitioned source, behaviors are the source's.
    pub(super) fn written(&self) -> Result<BTreeMap<TopicPartition, i64>, LogError> {
        let mut next = BTreeMap::new();
        for stage in &self.stages {
            for of in &stage.of {
                if let Entry::Vacant(place) = next.entry(*of) {
                    place.insert(stage.log.written(*of)?.next);
                }
            }
        }
        Ok(next)
    }

    /// What is committed of them, and whether anything has moved since that was last asked.
    pub(super) fn counted(&mut self) -> Result<(BTreeMap<TopicPartition, i64>, bool), LogError> {
        let mut counted = BTreeMap::new();
        let mut all = Vec::new();
        for stage in &self.stages {
            for (of, position) in stage.of.iter().zip(stage.log.committed(&stage.of)?) {
                counted.entry(*of).or_insert(position.unwrap_or(-1));
                all.push(position);
            }
        }
        let moved = all != self.last;
        self.last = all;
        Ok((counted, moved))
    }

    /// Whether everything is counted that was written when this was first asked; to be asked until it is. Then it begins anew.
    pub(super) fn are_at_the_end(&mut self) -> Result<bool, LogError> {
        while let Some(stage) = self.stages.get(self.end.stages) {
            if self.end.upto.is_empty() {
                let upto = stage.of.iter().map(|of| Ok(stage.log.written(*of)?.next));
                self.end.upto = upto.collect::<Result<_, LogError>>()?;
            }
            let found = stage.log.committed(&stage.of)?;
            let stands = found == self.end.found;
            self.end.found.clone_from(&found);
            let all = stage.of.iter().zip(found).zip(&self.end.upto);
            let behind: BTreeMap<TopicPartition, (Option<i64>, i64)> = all
                .filter(|((_, position), upto)| position.unwrap_or(0) < **upto)
                .map(|((of, position), upto)| (*of, (position, *upto)))
                .collect();
            // The end of a transaction has an offset, and no record that could be counted. While positions move there is more.
            let is_there = behind.is_empty() || (stands && are_empty(&*stage.log, behind)?);
            if !is_there {
                return Ok(false);
            }
            self.end = End {
                stages: self.end.stages + 1,
                ..End::default()
            };
        }
        self.end = End::default();
        Ok(true)
    }
}

impl Stage {
    fn new(log: &Arc<dyn Log>, topics: &[Topic]) -> Result<Self, LogError> {
        let mut of = Vec::new();
        for topic in topics {
            let facts = log.describe(*topic)?.ok_or_else(|| LogError::NoTopic {
                name: topic.key().to_owned(),
            })?;
            of.extend((0..facts.partitions).map(|number| TopicPartition::new(*topic, number)));
        }
        Ok(Self {
            log: Arc::clone(log),
            of,
        })
    }
}

/// Whether no record lies between the two offsets of each partition.
fn are_empty(
    log: &dyn Log,
    mut left: BTreeMap<TopicPartition, (Option<i64>, i64)>,
) -> Result<bool, LogError> {
    let limit = PollLimit {
        records: 100,
        bytes: 1 << 20,
        wait: Duration::from_millis(100),
    };
    let mut reader = log.reader()?;
    for (of, (position, _)) in &left {
        reader.assign(*of, position.map_or(Start::Beginning, Start::At))?;
    }
    let mut batch = RecordBatch::default();
    let began = Instant::now();
    while !left.is_empty() {
        // A transaction is open there.
        if began.elapsed() > LOOK {
            return Ok(false);
        }
        reader.poll(limit, &mut batch)?;
        for record in batch.iter() {
            match left.get(&record.at) {
                Some((_, upto)) if record.offset < *upto => return Ok(false),
                _ => drop(left.remove(&record.at)),
            }
        }
        for (of, at) in batch.ends() {
            if left.get(of).is_some_and(|(_, upto)| at >= upto) {
                left.remove(of);
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use headwater_consumers::log::local::{LocalLog, Options};
    use headwater_consumers::log::{Member, Membership, Outgoing, TopicSpec};

    use super::*;

    /// A log, and a member of its group that has the one partition.
    fn bench() -> (Arc<dyn Log>, Box<dyn Member>, Membership) {
        let log: Arc<dyn Log> = Arc::new(LocalLog::in_memory(Options::new(|| 0)));
        for topic in Topic::ALL {
            let spec = TopicSpec {
                topic,
                partitions: 1,
                replication_factor: 1,
                min_insync_replicas: 1,
            };
            log.create(&spec).unwrap();
        }
        let mut member = log.member("one", 0).unwrap();
        let mut batch = RecordBatch::default();
        let limit = PollLimit {
            records: 1,
            bytes: 1,
            wait: Duration::ZERO,
        };
        while member.poll(limit, &mut batch).unwrap().assigned.is_empty() {}
        (log, member, batch.membership())
    }

    fn say(log: &dyn Log, topic: Topic) {
        let mut producer = log.producer().unwrap();
        producer.send(record(topic)).unwrap();
        producer.flush().unwrap();
    }

    fn record(topic: Topic) -> Outgoing<'static> {
        Outgoing {
            to: TopicPartition::new(topic, 0),
            key: Some(b"k"),
            value: Some(b"v"),
            headers: &[],
        }
    }

    /// As often as it takes to know that nothing moves.
    fn at_the_end(positions: &mut Positions) -> bool {
        (0..8).any(|_| positions.are_at_the_end().unwrap())
    }

    /// Goal: the end is where all is counted, what steps have written too, and the ends of transactions are no records. Method: a behavior,
    /// then a step that counts it and writes a delta, then one that counts the delta.
    #[test]
    fn the_end_is_where_all_is_counted() {
        let (log, mut member, membership) = bench();
        let mut positions = Positions::new(&log, None).unwrap();
        assert!(at_the_end(&mut positions), "nothing was written");
        say(&*log, Topic::Behaviors);
        assert!(!at_the_end(&mut positions));
        let input = TopicPartition::new(Topic::Behaviors, 0);
        assert_eq!(positions.written().unwrap()[&input], 1);
        assert_eq!(positions.counted().unwrap().0[&input], -1);

        member.begin().unwrap();
        member.send(record(Topic::ItemDeltas)).unwrap();
        member.commit(membership, &[(input, 1)]).unwrap();
        let (counted, moved) = positions.counted().unwrap();
        assert_eq!((counted[&input], moved), (1, true));
        assert!(!at_the_end(&mut positions), "the delta is not counted");

        let delta = TopicPartition::new(Topic::ItemDeltas, 0);
        assert!(log.written(delta).unwrap().next > 1, "record and marker");
        member.begin().unwrap();
        member
            .commit(membership, &[(input, 1), (delta, 1)])
            .unwrap();
        assert!(at_the_end(&mut positions));
        // What others write afterwards is of the next end.
        say(&*log, Topic::ScoreRequests);
        assert!(!at_the_end(&mut positions));
    }
}
