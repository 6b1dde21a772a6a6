//! Users made again from the records of a partition, and rows of them. Before it stand samples of the partition and its records in their order; after it the metrics.

use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_config::Config;
use headwater_state::{Coordinates, MemoryStores, Partition, Stores as _, Timestamp, User};

use super::{Beginning, Outcome, Sample};
use crate::answer::HEADER_REDRIVE;
use crate::assemble::{Assembler, Row};
use crate::decode::{DecodedBehavior, Decoder};
use crate::error::Error;
use crate::log::Record;
use crate::metrics::SkewMetrics;
use crate::step::{behavior_of, taken};
use crate::worker::settings_of;

/// Behaviors after which what was noted for a changelog is forgotten: there is none.
const FORGET_EVERY: u32 = 4_096;

/// What a user's records were that may have been dead letters when they were read, as they are not now.
#[derive(Clone, Copy, Debug, Default)]
struct Doubt {
    /// The latest that a producer's clock, which the record bears, or a behavior without such a record was said to be.
    latest: Option<Timestamp>,
    /// A dead letter that was sent again: the record that it was lies in the log as well.
    redriven: bool,
}

/// Makes the users of one partition's samples again.
#[derive(Debug)]
pub struct Again {
    partition: i32,
    /// The one that could see least comes last.
    samples: Vec<Sample>,
    /// Of each user, whether something was met that a daemon may have judged otherwise when it read it.
    users: BTreeMap<String, Doubt>,
    state: Partition,
    decoder: Arc<Decoder>,
    assembler: Assembler,
    begins: Beginning,
    max_ahead_ms: i64,
    folded: u32,
    metrics: SkewMetrics,
}

impl Again {
    /// For samples of one partition, whose oldest record has the offset `first`.
    ///
    /// # Errors
    /// If the configuration's tasks make no rows, or memory no store.
    pub fn new(
        config: &Config,
        partition: i32,
        mut samples: Vec<Sample>,
        first: i64,
        metrics: SkewMetrics,
    ) -> Result<Self, Error> {
        let mut settings = settings_of(config, 1);
        settings.labels = None;
        let state = MemoryStores::default()
            .open(partition)
            .map_err(headwater_state::Error::from)
            .and_then(|store| Partition::open(store, settings))
            .map_err(|source| Error::State { partition, source })?;
        samples.sort_by_key(|sample| std::cmp::Reverse(sample.through));
        Ok(Self {
            partition,
            users: (samples.iter())
                .map(|sample| (sample.user.clone(), Doubt::default()))
                .collect(),
            samples,
            state,
            decoder: Arc::new(Decoder::new(config)),
            assembler: Assembler::new(config)?,
            begins: Beginning::of(first),
            max_ahead_ms: config.state.max_ahead.millis(),
            folded: 0,
            metrics,
        })
    }

    /// The offset before which all lies that its samples could see.
    #[must_use]
    pub fn until(&self) -> i64 {
        let last = self.samples.first();
        last.map_or(0, |sample| sample.through.offset + 1)
    }

    /// Takes in the partition's next record; `now` is for what says of itself that it is of the future.
    ///
    /// # Errors
    /// State that fails.
    pub fn take(&mut self, record: &Record<'_>, now: Timestamp) -> Result<(), Error> {
        self.metrics.records.inc();
        let clock = taken(record, now);
        self.begins.note(clock, self.max_ahead_ms);
        let decoder = Arc::clone(&self.decoder);
        let Ok(decoded) = decoder.behaviors(record.value, clock.0) else {
            return Ok(());
        };
        for behavior in decoded.behaviors() {
            let at = Coordinates {
                offset: record.offset,
                index: behavior.index,
            };
            while let Some(due) = self.samples.pop_if(|sample| sample.through < at) {
                self.compare(&due)?;
            }
            if let Some(doubt) = self.users.get_mut(&*behavior.user) {
                let stamped = Timestamp(record.timestamp);
                let is_plausible = stamped >= Timestamp::PLAUSIBLE_FROM;
                let said = if is_plausible { stamped } else { behavior.time };
                doubt.latest = doubt.latest.max(Some(said));
                doubt.redriven |= record.headers.get(HEADER_REDRIVE).is_some();
                self.fold(record, behavior, at)?;
            } else {
                // Its time alone counts: what is late goes by all behaviors of the partition.
                self.state.meet(behavior.time);
            }
        }
        Ok(())
    }

    /// Compares what is left, the partition being read up to (and without) `reached`.
    ///
    /// # Errors
    /// State that fails.
    pub fn finish(mut self, reached: i64) -> Result<(), Error> {
        while let Some(due) = self.samples.pop() {
            if due.through.offset < reached {
                self.compare(&due)?;
            } else {
                self.tell(Outcome::Unsure);
            }
        }
        Ok(())
    }

    fn fold(
        &mut self,
        record: &Record<'_>,
        decoded: &DecodedBehavior<'_>,
        at: Coordinates,
    ) -> Result<(), Error> {
        let attributes = decoded.attributes.iter();
        let attributes: Vec<_> = attributes.map(|(slot, text)| (*slot, &**text)).collect();
        // Likenesses are not compared: it is in no sequence.
        let behavior = behavior_of((record, decoded), at, &attributes);
        let partition = self.partition;
        let folded = self.state.fold(&decoded.user, &behavior, &mut || [0; 16]);
        folded.map_err(|source| Error::State { partition, source })?;
        self.folded += 1;
        if self.folded.is_multiple_of(FORGET_EVERY) && self.state.changes(&mut |_, _| {}) > 0 {
            self.state.committed(0);
        }
        Ok(())
    }

    fn compare(&mut self, sample: &Sample) -> Result<(), Error> {
        let partition = self.partition;
        let state = |source| Error::State { partition, source };
        if sample.is_known {
            // Who has asked and done nothing is known as well.
            let known = self.state.salt_of(&sample.user, &mut || [0; 16]);
            known.map_err(state)?;
        }
        let candidates = sample.candidates.iter();
        let candidates: Vec<&str> = candidates.map(String::as_str).collect();
        let row = Row {
            user_id: &sample.user,
            user: self.state.whole_user(&sample.user).map_err(state)?,
            pseudonym: None,
            scenario_name: &sample.scenario_name,
            scenario: sample.scenario,
            time: sample.time,
            candidates: &candidates,
        };
        let again = self.assembler.again(&row, &sample.served);
        let schema = self.assembler.schema();
        let Some(found) = sample.served.numbers.difference(&again, schema) else {
            self.tell(Outcome::Same);
            return Ok(());
        };
        let ours = row.user.and_then(User::oldest);
        let oldest = sample.oldest.into_iter().chain(ours).min();
        let doubt = self.users.get(&sample.user).copied().unwrap_or_default();
        let is_sure = self.begins.has(oldest.filter(|_| !sample.is_forgetful))
            && doubt.latest <= Some(sample.scored)
            && !doubt.redriven;
        if !is_sure {
            self.tell(Outcome::Unsure);
            return Ok(());
        }
        self.tell(Outcome::Differs);
        let [served, made] = found.values;
        tracing::warn!(
            request = sample.request_id,
            partition,
            offset = sample.through.offset,
            feature = found.feature,
            item = found.candidate.map(|place| candidates[place]),
            served,
            again = made,
            numbers = found.numbers,
            "a row is not what the records of its user's behaviors say"
        );
        Ok(())
    }

    fn tell(&self, outcome: Outcome) {
        let rows = self.metrics.rows.with_label_values(&[outcome.label()]);
        rows.inc();
    }
}
