//! Texts to vectors, once for the whole fleet: the work of a [`Stage`] with a group of its own, in which [`Topic::Texts`] is the input.
//!
//! Before it, workers put texts that have no vector into that topic, with the step that met them; after it, every instance follows
//! [`Topic::Embeddings`] into its own table ([`crate::embeddings`]). Vectors and positions are one transaction, and instances that encode share the
//! partitions: a text is embedded once, or once more where it was asked for again before its vector had come round to whoever encodes it now; the
//! vector is the same. Each encoder has a group of its own, so another one begins with the first text there is, and the
//! vectors of the former stay as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_config::{Config, Topic};
use headwater_model::language::{canonical, text_hash};
use headwater_state::{
    CurrentEncoder, EncoderId, TextHash, Timestamp, VectorKey, VectorTable, vector_bytes,
};

use crate::decode::Reject;
use crate::embed::{Embed, embed_whole};
use crate::error::Error;
use crate::log::{Log, LogError, Member, PollLimit, Record, RecordBatch, Start, TopicPartition};
use crate::metrics::Metrics;
use crate::stage::{Parts, Stage, Work};
use crate::worker::World;

/// Texts of one poll at most: some seconds of work for a CPU, well within the time that a member may be away.
const TEXTS_MAX: usize = 64;
/// What the group of an encoder is called, after the daemon's.
#[must_use]
pub fn group_suffix(encoder: EncoderId) -> String {
    format!("-encode-{:.12}", encoder.to_string())
}

/// What the stage does with texts.
pub struct Encode {
    embed: Box<dyn Embed>,
    encoder: CurrentEncoder,
    table: Arc<VectorTable>,
    /// Texts of the poll, each once, and where the vector goes.
    waiting: Vec<(TextHash, String, i32)>,
    /// Whether the vectors that this encoder made once were deleted, and of which partitions its texts are being read again for it.
    again: bool,
    reading_again: BTreeSet<i32>,
    metrics: Metrics,
}

impl std::fmt::Debug for Encode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encode")
            .field("encoder", &self.encoder)
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

impl Encode {
    /// The stage with a member of its own, of the group [`group_suffix`]. `table` is the instance's, so that what is there is not made again.
    pub fn stage(
        config: &Config,
        log: Arc<dyn Log>,
        member: Box<dyn Member>,
        (embed, table): (Box<dyn Embed>, Arc<VectorTable>),
        dead_letter_partitions: i32,
        metrics: Metrics,
        world: Box<dyn World>,
    ) -> Stage<Self> {
        let encoder = embed.encoder();
        let another = table.current().is_some_and(|current| current != encoder);
        let none = |keys: Vec<Vec<u8>>| keys.is_empty();
        let again = another && table.keys_of(encoder.id, 1, &|_| true).is_ok_and(none);
        Stage::new(Parts {
            log,
            member,
            work: Self {
                encoder,
                embed,
                table,
                waiting: Vec::new(),
                again,
                reading_again: BTreeSet::new(),
                metrics: metrics.clone(),
            },
            input: Topic::Texts,
            name: config.topic_name(Topic::Texts),
            label: Topic::Texts.key(),
            limit: PollLimit {
                records: TEXTS_MAX,
                bytes: 1 << 20,
                wait: config.step.wait.duration(),
            },
            dead_letter_partitions,
            metrics,
            world,
        })
    }

    /// The record that makes an encoder the current one.
    #[must_use]
    pub fn announcement(encoder: CurrentEncoder) -> (TopicPartition, Vec<u8>, Vec<u8>) {
        let at = TopicPartition::new(Topic::Embeddings, 0);
        (at, VectorKey::Current.bytes(), encoder.bytes())
    }
}

/// How many texts a group has not embedded yet.
#[derive(Debug, Default)]
pub struct Backlog {
    /// Ends of partitions before which nothing was left to read.
    through: BTreeMap<TopicPartition, i64>,
}

impl Backlog {
    /// Texts of `partitions` partitions that wait, as the group of `log` stands. What lies behind a position may be markers and aborted records alone: where the
    /// asker has found nothing to do (`quiet`) it is looked at, and then 0 means that the group is through. Until then markers count as texts.
    ///
    /// # Errors
    /// The log's.
    pub fn look(&mut self, log: &dyn Log, partitions: i32, quiet: bool) -> Result<u64, LogError> {
        let all: Vec<_> = (0..partitions)
            .map(|number| TopicPartition::new(Topic::Texts, number))
            .collect();
        let mut rest = BTreeMap::new();
        for (of, committed) in all.iter().zip(log.committed(&all)?) {
            let extent = log.extent(*of)?;
            let from = committed.unwrap_or(0).max(extent.first);
            let through = self.through.get(of).is_some_and(|end| *end == extent.next);
            if from < extent.next && !through {
                rest.insert(*of, from..extent.next);
            }
        }
        if quiet && !rest.is_empty() {
            self.look_behind(log, &mut rest)?;
        }
        Ok(rest
            .values()
            .map(|rest| (rest.end - rest.start) as u64)
            .sum())
    }

    /// Takes out of `rest` what holds no record.
    fn look_behind(
        &mut self,
        log: &dyn Log,
        rest: &mut BTreeMap<TopicPartition, Range<i64>>,
    ) -> Result<(), LogError> {
        const LOOKS: usize = 10;
        let limit = PollLimit {
            records: 1,
            bytes: 1,
            wait: Duration::from_millis(100),
        };
        let mut reader = log.reader()?;
        for (of, rest) in &*rest {
            reader.assign(*of, Start::At(rest.start))?;
        }
        let mut batch = RecordBatch::default();
        for _ in 0..LOOKS {
            reader.poll(limit, &mut batch)?;
            if !batch.is_empty() {
                break;
            }
            for (of, position) in batch.ends() {
                if rest.get(of).is_some_and(|rest| *position >= rest.end) {
                    rest.remove(of);
                    self.through.insert(*of, *position);
                }
            }
            if rest.is_empty() {
                break;
            }
        }
        Ok(())
    }
}

impl Work for Encode {
    fn take(
        &mut self,
        record: &Record<'_>,
        now: Timestamp,
        _: &mut RecordBatch,
    ) -> Result<(), Reject> {
        let Some(value) = record.value else {
            return Ok(());
        };
        let text = std::str::from_utf8(value)
            .map_err(|_| Reject::new("unreadable", "the text is not UTF-8"))?;
        let hash = text_hash(text);
        if record.key != Some(&hash) || canonical(text) != text {
            let reason = "the key is not the hash of the canonical text";
            return Err(Reject::new("key_differs", reason));
        }
        let age = now.since(Timestamp(record.timestamp)).max(0) as f64 / 1000.0;
        self.metrics.texts.queue_age.set(age);
        let known = self.waiting.iter().any(|(other, ..)| *other == hash)
            // A copy that cannot be read lacks it: made again, it is the same.
            || self.table.has(self.encoder.id, &hash).unwrap_or(false);
        if known {
            self.metrics.texts.repeated.inc();
        } else {
            let text = text.to_owned();
            self.waiting.push((hash, text, record.at.partition));
        }
        Ok(())
    }

    fn finish(&mut self, output: &mut RecordBatch) -> Result<(), Error> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let waiting = std::mem::take(&mut self.waiting);
        let texts: Vec<&str> = waiting.iter().map(|(_, text, _)| text.as_str()).collect();
        let before = self.embed.tokens();
        let vectors = embed_whole(&mut *self.embed, &texts).map_err(Error::Encode)?;
        let tokens = self.embed.tokens() - before;
        self.metrics.texts.tokens.inc_by(tokens);
        for ((hash, _, partition), vector) in waiting.iter().zip(&vectors) {
            let key = VectorKey::Vector(self.encoder.id, *hash).bytes();
            let at = TopicPartition::new(Topic::Embeddings, *partition);
            output.push(at, (0, 0), Some(&key), Some(&vector_bytes(vector)), []);
        }
        self.metrics.texts.encoded.inc_by(vectors.len() as u64);
        let seconds = began.elapsed().as_secs_f64();
        self.metrics.texts.encode_seconds.observe(seconds);
        Ok(())
    }

    fn forget(&mut self) {
        self.waiting.clear();
    }

    /// A new encoder's group begins with the first text; what has a vector already is passed over.
    fn anew(&self, _: &dyn Log, _: &mut dyn Member) -> Result<(), Error> {
        Ok(())
    }

    /// Once a partition and process: what was made of it since is not gone.
    fn read_again(&mut self, partition: i32) -> bool {
        self.again && self.reading_again.insert(partition)
    }
}

#[cfg(test)]
mod tests;
