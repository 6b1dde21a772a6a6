//! Schemas that rows are logged under, told on the topic of models: so that rows from before a task or a likeness was added can be learned from under the newer schema.
//!
//! Before it, whoever scores, and whoever trains and may promote, says what rows hold; after it, training reads rows of other schemas by name and meaning ([`Translation`]). A schema is told again with each start and each training: compaction keeps one record
//! of each. An instance that may not write to the topic says so and goes on: then another must.

use std::collections::BTreeMap;

use headwater_config::{Config, Topic};
use headwater_consumers::assemble::Assembler;
use headwater_consumers::log::{Log, LogError, Outgoing, TopicPartition};
use headwater_model::{Columns, FeatureSchema, Translation};
use serde::{Deserialize, Serialize};

use crate::scan;

/// The form of records that this build writes and reads.
const FORMAT: u32 = 1;
/// What their keys begin with; the schema's hash follows.
const KEY: &str = "schema/";

#[derive(Serialize, Deserialize)]
struct Told {
    format: u32,
    #[serde(flatten)]
    columns: Columns,
}

fn key(hash: u64) -> String {
    format!("{KEY}{hash:016x}")
}

/// Tells of what rows hold that are logged under this configuration. Where that may not be written, training goes on.
pub(crate) fn tell(config: &Config, log: &dyn Log) {
    let assembler = Assembler::new(config).ok();
    // Whoever cannot make rows says so where they are made.
    let Some(assembler) = assembler.filter(|_| config.scoring.feature_log) else {
        return;
    };
    if let Err(error) = send(log, assembler.schema()) {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(
            error,
            "the schema of rows cannot be told: they cannot be learned from under another one"
        );
    }
}

fn send(log: &dyn Log, schema: &FeatureSchema) -> Result<(), LogError> {
    let told = Told {
        format: FORMAT,
        columns: schema.columns(),
    };
    let value = serde_json::to_vec(&told).expect("invariant: a schema is plain JSON");
    let mut producer = log.producer()?;
    producer.send(Outgoing {
        to: TopicPartition::new(Topic::Models, 0),
        key: Some(key(schema.hash()).as_bytes()),
        value: Some(&value),
        headers: &[],
    })?;
    producer.flush()
}

/// How rows of other schemas are read as those of one.
#[derive(Debug)]
pub(crate) struct Schemas(BTreeMap<u64, Translation>);

impl Schemas {
    /// Reads the topic to its end as of now.
    ///
    /// # Errors
    /// The log's.
    pub(crate) fn read(
        config: &Config,
        log: &dyn Log,
        ours: &FeatureSchema,
    ) -> Result<Self, LogError> {
        let whole = scan::whole(log, Topic::Models, &config.topic_name(Topic::Models))?;
        let mut found = BTreeMap::new();
        scan::read(log, &whole, &mut |record| {
            let key = record.key.and_then(|key| std::str::from_utf8(key).ok());
            let hash = key.and_then(|key| key.strip_prefix(KEY));
            let hash = hash.and_then(|hash| u64::from_str_radix(hash, 16).ok());
            let told = serde_json::from_slice::<Told>(record.value.unwrap_or_default());
            let Some(hash) = hash else {
                return;
            };
            match told {
                Ok(told) if told.format == FORMAT => found.insert(hash, told.columns),
                // Deleted, or of another build: rows of that schema are left out.
                _ => found.remove(&hash),
            };
        })?;
        found.remove(&ours.hash());
        let read = found.into_iter().filter_map(|(hash, columns)| {
            let translation = Translation::new(&columns, ours).inspect_err(|number| {
                tracing::info!(
                    schema = format!("{hash:016x}"),
                    number,
                    "rows of another schema are left out: a number means something else there"
                );
            });
            Some((hash, translation.ok()?))
        });
        Ok(Self(read.collect()))
    }

    /// How rows of that schema are read; none: nobody told of it, or it counts other things.
    pub(crate) fn of(&self, hash: u64) -> Option<&Translation> {
        self.0.get(&hash)
    }
}
