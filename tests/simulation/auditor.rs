//! The auditor: says whether what is there at the end is what had to come of the records that went in.
//!
//! Before it stands a world at rest; after it a verdict. What had to come is worked out in [`naive`] from the raw records with JSON
//! and `<` alone; state and topics are only *read* with the project's own readers. Judged are, in this order:
//!
//! - [`items`]: which record of an item holds, for those who follow and for those who will.
//! - [`texts`]: every text that a row needed has its vector, wherever anybody looks.
//! - [`outputs`]: `PIPE-1`, `PIPE-2`: every expected output once, no other; dead letters; positions; item statistics.
//! - [`labels`]: what was shown and done, credited to the rows that were scored.
//! - [`state`]: `STATE-1`, `STATE-2`: users against the naive count, stores against the changelog.
//! - [`deep`]: vectors that rows saw, against what was done before them.
//! - [`past`]: `STATE-3`: a score does not change when what is not before it does.

mod deep;
mod items;
mod labels;
mod naive;
mod outputs;
mod past;
mod state;
mod texts;

pub(crate) use items::judge as judge_items;
pub(crate) use texts::judge as judge_texts;

use std::sync::Arc;
use std::time::Duration;

use headwater_config::Topic;
use headwater_consumers::log::{Log, PollLimit, RecordBatch, Start, TopicPartition};

use crate::cluster::Ground;
use crate::random::Random;
use crate::run::Tally;
use crate::stores::SimStores;

/// A record as a reader that sees only what is committed gets it.
#[derive(Clone, Debug)]
struct Seen {
    partition: i32,
    offset: i64,
    /// When the log took it.
    taken: i64,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
}

impl Seen {
    fn header(&self, name: &str) -> Result<String, String> {
        let mut found = self.headers.iter().filter(|(other, _)| other == name);
        let (_, value) = found
            .next()
            .ok_or_else(|| format!("no header {name}: {self:?}"))?;
        if found.next().is_some() {
            return Err(format!("two headers {name}: {self:?}"));
        }
        Ok(String::from_utf8_lossy(value).into_owned())
    }
}

/// All records of a topic, by partition and offset.
fn read_all(log: &dyn Log, topic: Topic) -> Result<Vec<Seen>, String> {
    let wrong = |error| format!("reading {topic:?}: {error:?}");
    let facts = log.describe(topic).map_err(wrong)?;
    let mut reader = log.reader().map_err(wrong)?;
    let mut open = 0;
    for partition in 0..facts.map_or(0, |facts| facts.partitions) {
        let at = TopicPartition::new(topic, partition);
        reader.assign(at, Start::Beginning).map_err(wrong)?;
        open += 1;
    }
    let limit = PollLimit {
        records: 100_000,
        bytes: 1 << 30,
        wait: Duration::ZERO,
    };
    let mut batch = RecordBatch::default();
    reader.poll(limit, &mut batch).map_err(wrong)?;
    if batch.ends().len() != open {
        return Err(format!("{topic:?} was not read to its end in one poll"));
    }
    let mut all: Vec<Seen> = batch
        .iter()
        .map(|record| Seen {
            partition: record.at.partition,
            offset: record.offset,
            taken: record.timestamp,
            key: record.key.unwrap_or_default().to_vec(),
            value: record.value.map(<[u8]>::to_vec),
            headers: record
                .headers
                .iter()
                .map(|(name, value)| (name.to_owned(), value.unwrap_or_default().to_vec()))
                .collect(),
        })
        .collect();
    all.sort_by_key(|seen| (seen.partition, seen.offset));
    Ok(all)
}

/// Judges a world at rest whose daemons have stopped. `owners`: which daemon had which partition at last.
pub(crate) fn judge(
    ground: &Ground,
    owners: &[(i32, usize)],
    stores: &[Arc<SimStores>],
    mut random: Random,
    tally: &mut Tally,
) -> Result<(), String> {
    let log = &*ground.log;
    let plan = &ground.plan;
    let behaviors = read_all(log, Topic::Behaviors)?;
    let requests = read_all(log, Topic::ScoreRequests)?;
    let mut world = naive::World::new(&plan.config, &behaviors, &requests);
    tally.behaviors += behaviors.len() as u64;
    let answers = outputs::answers(log, plan, &world)?;
    if plan.config.scoring.requests_are_impressions {
        world.show(&answers);
    }
    tally.counted += world.counted.len() as u64;
    tally.answers += answers.len() as u64;
    outputs::judge(log, plan, &world, &answers, tally)?;
    labels::judge(log, plan, &world, &answers, tally)?;
    state::judge(log, plan, &world, owners, stores)?;
    deep::judge(log, plan, &world, &answers, tally)?;
    past::judge(ground, &world, &answers, &mut random, tally)
}
