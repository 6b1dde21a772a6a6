//! Reading a stretch of a topic, outside of the group: for the command line and for questions by HTTP.

use std::time::{Duration, Instant};

use headwater_config::Topic;
use headwater_consumers::log::{
    Log, LogError, PollLimit, Record, RecordBatch, Start, TopicPartition,
};

/// How long nothing may come before the log counts as away.
const STALLED: Duration = Duration::from_secs(30);
const LIMIT: PollLimit = PollLimit {
    records: 10_000,
    bytes: 8 << 20,
    wait: Duration::from_millis(100),
};

/// A stretch of a partition: from an offset up to, and without, another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) of: TopicPartition,
    pub(crate) from: i64,
    pub(crate) until: i64,
}

/// What each partition of a topic holds.
pub(crate) fn whole(log: &dyn Log, topic: Topic, name: &str) -> Result<Vec<Stretch>, LogError> {
    let facts = log.describe(topic)?.ok_or_else(|| LogError::NoTopic {
        name: name.to_owned(),
    })?;
    (0..facts.partitions)
        .map(|partition| {
            let of = TopicPartition::new(topic, partition);
            let extent = log.extent(of)?;
            Ok(Stretch {
                of,
                from: extent.first,
                until: extent.next,
            })
        })
        .collect()
}

/// Gives every stable record of the stretches to `each`, in the order of offsets within a partition.
pub(crate) fn read(
    log: &dyn Log,
    stretches: &[Stretch],
    each: &mut dyn FnMut(&Record<'_>),
) -> Result<(), LogError> {
    read_while(log, stretches, &mut |record| {
        each(record);
        true
    })
}

/// The same, until `each` wants no more.
pub(crate) fn read_while(
    log: &dyn Log,
    stretches: &[Stretch],
    each: &mut dyn FnMut(&Record<'_>) -> bool,
) -> Result<(), LogError> {
    let mut left: Vec<Stretch> = stretches
        .iter()
        .filter(|stretch| stretch.from < stretch.until)
        .copied()
        .collect();
    let mut reader = log.reader()?;
    for stretch in &left {
        reader.assign(stretch.of, Start::At(stretch.from))?;
    }
    let mut batch = RecordBatch::default();
    let mut progress = Instant::now();
    while !left.is_empty() {
        reader.poll(LIMIT, &mut batch)?;
        for record in batch.iter() {
            let Some(stretch) = left.iter_mut().find(|stretch| stretch.of == record.at) else {
                continue;
            };
            if record.offset < stretch.until && !each(&record) {
                return Ok(());
            }
            stretch.from = record.offset + 1;
            progress = Instant::now();
        }
        for (of, position) in batch.ends() {
            if let Some(stretch) = left.iter_mut().find(|stretch| stretch.of == *of) {
                stretch.from = stretch.from.max(*position);
            }
        }
        for done in left.iter().filter(|stretch| stretch.from >= stretch.until) {
            reader.unassign(done.of)?;
        }
        left.retain(|stretch| stretch.from < stretch.until);
        if progress.elapsed() > STALLED {
            return Err(LogError::Unavailable {
                doing: "reading a topic",
                source: "nothing came for 30 s".into(),
            });
        }
    }
    Ok(())
}
