//! The threads of texts: one follows vectors into the instance's own table; where this instance encodes, another makes vectors for the whole fleet.
//!
//! Neither keeps a score waiting: without them rows have less of texts, and say by their features that it is so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use headwater_config::{Config, Topic};
use headwater_consumers::embed::Embed;
use headwater_consumers::embeddings::VectorFollower;
use headwater_consumers::encode::{Backlog, Encode, group_suffix};
use headwater_consumers::log::{Log, LogError, Outgoing, PollLimit, TopicPartition};
use headwater_consumers::partitioner::partition_of;
use headwater_consumers::stage::Stage;
use headwater_consumers::{Error, Metrics, Reaction};
use headwater_model::language::TextEncoder;
use headwater_state::{
    EncoderId, StoreError, TextHash, Timestamp, VECTORS, VectorKey, VectorTable, use_bytes,
};

use super::Inner;
use super::back_off::BackOff;
use super::error::{StartError, StopError};
use super::pool::Pool;
use crate::status::TextsStatus;
use crate::supervisor::{Stopping, Supervisor, TaskKind};
use crate::world::{SystemWorld, unix_ms};

/// What is read of vectors at once.
const LIMIT: PollLimit = PollLimit {
    records: 2_000,
    bytes: 4 << 20,
    wait: Duration::from_millis(200),
};

/// Vectors of a former encoder that are deleted in one go.
const DELETED_MAX: usize = 2_000;

/// Between two notes that an encoder is in use which is not the current one.
const NOTE_EVERY: Duration = Duration::from_hours(1);

/// Between two looks at how many texts wait: a question to the brokers a partition.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The same where this instance does not encode.
const LOOK_BESIDE_EVERY: Duration = Duration::from_secs(10);

/// What an instance has for texts.
#[derive(Debug)]
pub(super) struct Texts {
    pub(super) table: Arc<VectorTable>,
    /// Whether the table holds all that the topic did at the start: until then nobody knows whether there is a current encoder.
    is_read: Arc<AtomicBool>,
    /// Where this instance encodes.
    encoder: Option<Arc<TextEncoder>>,
}

impl Texts {
    /// The encoder with which this instance encodes, if it does.
    pub(super) fn encoder(&self) -> Option<[u8; 16]> {
        self.encoder.as_ref().map(|encoder| encoder.id())
    }

    /// Whether there are vectors of an encoder.
    pub(super) fn has_any_of(&self, encoder: EncoderId) -> bool {
        // One that cannot be read is read again from the topic.
        matches!(self.table.encoder(encoder), Ok(Some(_)))
    }

    pub(super) fn status(&self, metrics: &Metrics) -> TextsStatus {
        TextsStatus {
            encoder: self.table.current().map(|current| current.id.to_string()),
            waiting: metrics.texts.queue.get(),
            waited_seconds: metrics.texts.queue_age.get(),
        }
    }
}

/// Opens the table and, where this instance encodes, the language model.
///
/// # Errors
/// A model that is not there or not right, or a store that cannot be read.
pub(super) fn open(
    config: &Config,
    stores: &dyn headwater_state::Stores,
) -> Result<Option<Texts>, StartError> {
    let Some(named) = &config.texts.encoder else {
        return Ok(None);
    };
    let open = || {
        let store = stores.open(VECTORS)?;
        VectorTable::open(store, config.texts.memory.get())
    };
    let table = match open() {
        // The topic has it all.
        Err(error @ headwater_state::Error::Damaged { .. }) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(
                error,
                "stored vectors of texts are damaged; reading them again"
            );
            stores.remove(VECTORS)?;
            open()
        }
        opened => opened,
    };
    let table = table.map_err(|source| StartError::Vectors { source })?;
    let encoder = if config.texts.encode {
        let encoder = Arc::new(crate::models::encoder(
            config,
            named,
            &crate::models::device(config)?,
        )?);
        let (id, width) = (encoder.encoder().id, encoder.width());
        let device = headwater_model::device::name(encoder.device());
        tracing::info!(model = %named, encoder = %id, width, device, "encoder of texts loaded");
        Some(encoder)
    } else {
        None
    };
    Ok(Some(Texts {
        table: Arc::new(table),
        is_read: Arc::default(),
        encoder,
    }))
}

/// Starts the threads.
///
/// # Errors
/// If the system gives none.
pub(super) fn spawn(inner: &Arc<Inner>, config: &Config) -> std::io::Result<()> {
    let Some(texts) = &inner.texts else {
        return Ok(());
    };
    let supervisor: &Supervisor = &inner.supervisor;
    let following = Following {
        config: config.clone(),
        log: Arc::clone(&inner.log),
        table: Arc::clone(&texts.table),
        metrics: inner.fast.clone(),
        is_read: Arc::clone(&texts.is_read),
        inner: Arc::clone(inner),
    };
    supervisor.spawn(TaskKind::Texts, "headwater-vectors", move |stopping| {
        following.run(stopping)
    })?;
    if let Some(encoder) = &texts.encoder {
        let encoding = Encoding {
            instance: inner.identity.instance.clone(),
            config: config.clone(),
            counts: (inner.found.partitions, inner.found.dead_letters),
            log: Arc::clone(&inner.log),
            table: Arc::clone(&texts.table),
            is_read: Arc::clone(&texts.is_read),
            encoder: Arc::clone(encoder),
            pool: Pool::new("headwater-encode", 0)?,
            metrics: inner.fast.clone(),
        };
        supervisor.spawn(TaskKind::Texts, "headwater-encode", move |stopping| {
            encoding.run(stopping)
        })?;
    }
    Ok(())
}

struct Following {
    config: Config,
    log: Arc<dyn Log>,
    table: Arc<VectorTable>,
    metrics: Metrics,
    is_read: Arc<AtomicBool>,
    /// Of it, who scores.
    inner: Arc<Inner>,
}

impl Following {
    fn run(&self, stopping: &Stopping) -> Result<(), StopError> {
        let mut pauses = BackOff::new();
        let mut follower: Option<VectorFollower> = None;
        let mut noted: Option<(EncoderId, Instant)> = None;
        let mut queue = Queue::default();
        while !stopping.is_set() {
            // Who encodes tells what waits for it.
            if self
                .inner
                .texts
                .as_ref()
                .is_some_and(|texts| texts.encoder.is_none())
                && let Err(error) = queue.look(self)
            {
                tracing::debug!(%error, "how many texts wait is not told");
            }
            if let Err(error) = self.note(&mut noted) {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    "it is not noted that an encoder is in use which is not the current one: its vectors may be deleted"
                );
            }
            match self.advance(&mut follower) {
                Ok(()) => pauses.reset(),
                Err(error) if error.reaction() == Reaction::Retry => {
                    follower = None;
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "vectors of texts cannot be read");
                    stopping.pause(pauses.next());
                }
                Err(error) => return Err(StopError::Texts(error)),
            }
        }
        Ok(())
    }

    fn advance(&self, follower: &mut Option<VectorFollower>) -> Result<(), Error> {
        let follower = match follower {
            Some(follower) => follower,
            None => follower.insert(VectorFollower::new(
                &self.config,
                &*self.log,
                Arc::clone(&self.table),
                self.metrics.clone(),
            )?),
        };
        follower.advance(LIMIT)?;
        if follower.is_caught_up() {
            self.is_read.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Notes for whoever deletes vectors that our champion sees those of an encoder that is not the current one.
    fn note(&self, noted: &mut Option<(EncoderId, Instant)>) -> Result<(), LogError> {
        let trained = self.inner.trained.clone();
        let model = trained.or_else(|| self.inner.champion.status().0);
        let used = model.and_then(|model| model.encoder()).map(EncoderId);
        let current = self.table.current().map(|current| current.id);
        let Some(used) = used.filter(|used| current.is_some_and(|current| current != *used)) else {
            *noted = None;
            return Ok(());
        };
        if noted.is_some_and(|(of, at)| of == used && at.elapsed() < NOTE_EVERY) {
            return Ok(());
        }
        *noted = Some((used, Instant::now()));
        let mut producer = self.log.producer()?;
        producer.send(Outgoing {
            to: TopicPartition::new(Topic::Embeddings, 0),
            key: Some(&VectorKey::Used(used).bytes()),
            value: Some(&use_bytes()),
            headers: &[],
        })?;
        producer.flush()
    }
}

/// How many texts wait for whoever encodes, as an instance that does not sees it: for the current encoder, or for any that may come.
#[derive(Default)]
struct Queue {
    looked: Option<Instant>,
    waited: u64,
    backlog: Backlog,
    /// The group that is looked at.
    group: Option<(EncoderId, Arc<dyn Log>)>,
}

impl Queue {
    fn look(&mut self, of: &Following) -> Result<(), LogError> {
        if self
            .looked
            .is_some_and(|looked| looked.elapsed() < LOOK_BESIDE_EVERY)
        {
            return Ok(());
        }
        self.looked = Some(Instant::now());
        let current = of.table.current();
        // Before there is one, nobody has read anything.
        let current = current.map_or(EncoderId([0; 16]), |current| current.id);
        let held = self.group.take_if(|(id, _)| *id == current);
        let (_, log) = match held {
            Some(held) => self.group.insert(held),
            None => {
                self.backlog = Backlog::default();
                let log = of.log.beside(&group_suffix(current), Topic::Texts)?;
                self.group.insert((current, log))
            }
        };
        let partitions = of.inner.found.partitions;
        let mut waiting = self.backlog.look(&**log, partitions, false)?;
        // Where it stands still it may be markers alone: that takes a reader to say.
        if waiting > 0 && waiting == self.waited {
            waiting = self.backlog.look(&**log, partitions, true)?;
        }
        self.waited = waiting;
        let waiting = i64::try_from(waiting).unwrap_or(i64::MAX);
        of.metrics.texts.queue.set(waiting);
        Ok(())
    }
}

struct Encoding {
    instance: String,
    config: Config,
    /// Partitions of texts, and of dead letters.
    counts: (i32, i32),
    log: Arc<dyn Log>,
    table: Arc<VectorTable>,
    is_read: Arc<AtomicBool>,
    encoder: Arc<TextEncoder>,
    pool: Pool,
    metrics: Metrics,
}

impl Encoding {
    fn run(&self, stopping: &Stopping) -> Result<(), StopError> {
        self.work(stopping).map_err(StopError::Texts)
    }

    fn work(&self, stopping: &Stopping) -> Result<(), Error> {
        let mut pauses = BackOff::new();
        let (log, mut stage) = loop {
            match self.join() {
                Ok(joined) => break joined,
                Err(error) if error.reaction() == Reaction::Retry => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "cannot join the group of texts");
                    if stopping.pause(pauses.next()) {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
        };
        let mut announced = false;
        let mut backlog = Backlog::default();
        let mut looked: Option<Instant> = None;
        while !stopping.is_set() {
            let began = Instant::now();
            self.pool.run(|| stage.turn())?;
            if !stage.is_quiet() && self.is_in_the_background() {
                // The current encoder, if it is at work here too, and scores come first.
                let share = self.config.texts.background.get();
                stopping.pause(began.elapsed().mul_f64((1.0 - share) / share));
            }
            if stage.has_failed() {
                stopping.pause(pauses.next());
            } else if stage.trouble().is_none() {
                pauses.reset();
            }
            if looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY) {
                looked = Some(Instant::now());
                // What cannot be asked now is asked again.
                let waiting = backlog.look(&*log, self.counts.0, stage.is_quiet());
                let told = waiting.map_err(Error::from);
                if let Err(error) =
                    told.and_then(|waiting| self.tell(waiting, stage.is_quiet(), &mut announced))
                {
                    tracing::debug!(%error, "how many texts wait is not told");
                }
                if let Err(error) = self.delete_former(&stage) {
                    tracing::debug!(%error, "vectors of former encoders not deleted");
                }
            }
        }
        stage.stop(stopping.forever())
    }

    fn join(&self) -> Result<(Arc<dyn Log>, Stage<Encode>), Error> {
        let encoder = Box::new(Arc::clone(&self.encoder));
        let suffix = group_suffix(encoder.encoder().id);
        let log = self.log.beside(&suffix, Topic::Texts)?;
        let member = log.member(&self.instance, 0)?;
        let stage = Encode::stage(
            &self.config,
            Arc::clone(&log),
            member,
            (encoder, Arc::clone(&self.table)),
            self.counts.1,
            self.metrics.clone(),
            Box::new(SystemWorld),
        );
        Ok((log, stage))
    }

    /// Whether another encoder's vectors are in use while ours are being made.
    fn is_in_the_background(&self) -> bool {
        let current = self.table.current();
        current.is_some_and(|current| current != self.encoder.encoder())
    }

    /// Deletes some vectors of encoders that nobody has used for long: those in the partitions that are encoded here. Every instance follows.
    fn delete_former(&self, stage: &Stage<Encode>) -> Result<(), Error> {
        if self.is_in_the_background() {
            return Ok(());
        }
        let keep = self.config.texts.keep_former.millis();
        let before = Timestamp(unix_ms()).minus(keep);
        let partitions = self.counts.0;
        let ours = |text: &TextHash| {
            let partition = partition_of(text, partitions);
            stage.reading().contains_key(&partition)
        };
        for encoder in self.table.unused_since(before) {
            let failed = |source: StoreError| Error::Vectors {
                source: source.into(),
            };
            let keys = self.table.keys_of(encoder, DELETED_MAX, &ours);
            let keys = keys.map_err(failed)?;
            if keys.is_empty() {
                continue;
            }
            let mut producer = self.log.producer()?;
            for key in &keys {
                // The text's hash ends the key, and says the partition.
                let text = &key[key.len() - size_of::<TextHash>()..];
                let number = partition_of(text, partitions);
                producer.send(Outgoing {
                    to: TopicPartition::new(Topic::Embeddings, number),
                    key: Some(key),
                    value: None,
                    headers: &[],
                })?;
            }
            producer.flush()?;
            let count = keys.len();
            tracing::info!(%encoder, count, "vectors of a former encoder deleted");
        }
        Ok(())
    }

    /// Tells how many texts wait. Our encoder becomes the current one when it has been through all of them; the first of all, at once.
    fn tell(&self, waiting: u64, quiet: bool, announced: &mut bool) -> Result<(), Error> {
        let is_through = quiet && waiting == 0;
        let waiting = i64::try_from(waiting).unwrap_or(i64::MAX);
        self.metrics.texts.queue.set(waiting);
        if is_through {
            self.metrics.texts.queue_age.set(0.0);
        }
        if !self.is_read.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (ours, current) = (self.encoder.encoder(), self.table.current());
        // Once a process: two that are told to use different encoders must not take turns.
        if *announced || current == Some(ours) || (current.is_some() && !is_through) {
            return Ok(());
        }
        let (to, key, value) = Encode::announcement(ours);
        let mut producer = self.log.producer()?;
        producer.send(Outgoing {
            to,
            key: Some(&key),
            value: Some(&value),
            headers: &[],
        })?;
        producer.flush()?;
        *announced = true;
        tracing::info!(encoder = %ours.id, "the encoder of texts is the current one");
        Ok(())
    }
}
