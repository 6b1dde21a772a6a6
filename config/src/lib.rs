//! Headwater's configuration: one TOML file over compiled-in defaults, the environment over both.
//!
//! This crate is the first of all: it knows no other, and everything that Headwater does takes a section of [`Config`] or
//! the whole. It reads the files that it is told to read and nothing else: environment variables are handed in.
//!
//! ```text
//! default.toml ─┐
//! your files   ─┼─ tree (every value with its origin) ─ decode (types) ─ validate (rules between keys) ─ Config
//! environment  ─┘                                       └── all that is wrong is reported together ──┘
//! ```
//!
//! ```
//! use headwater_config::{Config, Topic};
//!
//! let config = Config::from_toml("[instance]\nprefix = \"shop.\"\n[state]\nmemory = \"1GiB\"\n")?;
//! assert_eq!(config.state.memory.get(), 1 << 30);
//! assert_eq!(config.topic_name(Topic::Behaviors), "shop.headwater.behaviors");
//! # Ok::<(), headwater_config::LoadError>(())
//! ```
//!
//! # What it promises
//!
//! - A `Config` that was loaded obeys every rule of `validate.rs`; whoever changes one by hand can ask again
//!   ([`Config::check`]).
//! - A default has one home, `default.toml`, which is the reference too: text and number cannot disagree.
//! - An unknown key is an error that names the key, its file and line, and the nearest key there is.
//! - No secret is in any `Debug`, `Display`, error or [`Loaded::show_toml`].

mod admin;
mod choice;
mod decode;
mod environment;
mod error;
mod instance;
mod items;
mod kafka;
mod key_vectors;
mod kinds;
mod labels;
mod load;
mod log;
mod models;
mod quantity;
mod reload;
mod scenarios;
mod scoring;
mod secret;
mod show;
mod skew;
mod source;
mod state;
mod step;
mod tasks;
mod telemetry;
mod text;
mod texts;
mod topic;
mod topics;
mod train;
mod tree;
mod validate;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

pub use admin::AdminConfig;
pub use error::{LoadError, Problem};
pub use instance::InstanceConfig;
pub use items::ItemsConfig;
pub use kafka::{Delivery, KafkaClient, KafkaConfig, Property};
pub use key_vectors::KeyVectorsConfig;
pub use kinds::KindsConfig;
pub use labels::{Examples, LabelsConfig};
pub use load::{Loaded, Origins, Sources};
pub use log::{LogConfig, LogKind};
pub use models::ModelsConfig;
pub use quantity::{Bytes, Ratio, Span};
pub use reload::{ReloadClass, reload_class};
pub use scenarios::ScenariosConfig;
pub use scoring::{OnBehavior, ScoringConfig};
pub use secret::Secret;
pub use skew::SkewConfig;
pub use source::{
    Base, BehaviorSource, ConstantConfig, OnUnmappedKind, Pointer, SourceConfig, TimeFormat,
};
pub use state::{Backend, Late, StateConfig};
pub use step::StepConfig;
pub use tasks::{LabelKind, TaskConfig};
pub use telemetry::{Level, LogFormat, TelemetryConfig};
pub use texts::{DeviceChoice, Field, Template, TextsConfig};
pub use topic::{Cleanup, Partitioning, Topic};
pub use topics::TopicsConfig;
pub use train::{InteractionsChoice, ObjectiveChoice, TrainConfig};
pub use tree::Origin;

/// The compiled-in defaults, with their comments: the reference of every key.
pub const DEFAULTS: &str = include_str!("../default.toml");

/// What a daemon goes by. One field a section of `default.toml`, which says what each key means.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Who this daemon is.
    pub instance: InstanceConfig,
    /// Which log carries the records.
    pub log: LogConfig,
    /// The brokers, the group and how output is delivered.
    pub kafka: KafkaConfig,
    /// Names of topics, and how they are created.
    pub topics: TopicsConfig,
    /// The store, the cache before it, and what is kept of a user.
    pub state: StateConfig,
    /// What users do.
    pub kinds: KindsConfig,
    /// What is predicted, by name.
    pub tasks: BTreeMap<String, TaskConfig>,
    /// What rows see of all that their users did.
    pub key_vectors: KeyVectorsConfig,
    /// Which rows become examples.
    pub labels: LabelsConfig,
    /// Whether this instance learns from what the fleet scored.
    pub train: TrainConfig,
    /// Scenarios known by name.
    pub scenarios: ScenariosConfig,
    /// What of items is read.
    pub items: ItemsConfig,
    /// What text stands for items and behaviors.
    pub texts: TextsConfig,
    /// Kinds of each sequence that a user's vector is made of, by its name; no kinds: all that are no impressions.
    pub sequences: BTreeMap<String, Vec<String>>,
    /// Limits of one step.
    pub step: StepConfig,
    /// What is scored, and how often.
    pub scoring: ScoringConfig,
    /// Whether rows that were scored are held against what the log says.
    pub skew: SkewConfig,
    /// How topics that others write are read.
    pub source: SourceConfig,
    /// Where language models lie.
    pub models: ModelsConfig,
    /// HTTP.
    pub admin: AdminConfig,
    /// Logs.
    pub telemetry: TelemetryConfig,
}

impl Config {
    /// The defaults alone.
    #[must_use]
    pub fn default_config() -> Self {
        Self::from_toml("").expect("invariant: default.toml obeys every rule")
    }

    /// Reads the layers and checks the result. See [`Sources`].
    ///
    /// # Errors
    /// Everything that is wrong, each with its key and where it was written.
    pub fn load(sources: &Sources<'_>) -> Result<Loaded, LoadError> {
        load::load(sources)
    }

    /// `text` over the defaults, for programs that embed Headwater and for tests. No environment.
    ///
    /// # Errors
    /// Everything that is wrong, each with its key and line of `text`.
    pub fn from_toml(text: &str) -> Result<Self, LoadError> {
        load::load_text(text).map(|loaded| loaded.config)
    }

    /// Holds a configuration that was changed in code against the rules between keys.
    ///
    /// # Errors
    /// Every rule that is broken, with its keys.
    pub fn check(&self) -> Result<(), LoadError> {
        load::check(self)
    }

    /// The name of a topic on the brokers: prefix and configured name.
    #[must_use]
    pub fn topic_name(&self, topic: Topic) -> String {
        format!("{}{}", self.instance.prefix, self.topics.configured(topic))
    }

    /// The consumer group: prefix and configured name.
    #[must_use]
    pub fn group(&self) -> String {
        format!("{}{}", self.instance.prefix, self.kafka.group)
    }

    /// The transactional id of worker number `worker` of the instance `instance`: prefix, group, instance, worker. The
    /// instance is an argument since an empty `instance.id` is made up at the first start, which is not known here.
    #[must_use]
    pub fn transactional_id(&self, instance: &str, worker: usize) -> String {
        format!("{}-{instance}-{worker}", self.group())
    }

    /// The folder of the embedded log: `log.path`, or `<state.path>/log` where that is empty.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.log
            .path
            .clone()
            .unwrap_or_else(|| self.state.path.join("log"))
    }

    /// The folder of language models: `models.path`, or `<state.path>/models` where that is empty.
    #[must_use]
    pub fn models_path(&self) -> PathBuf {
        self.models
            .path
            .clone()
            .unwrap_or_else(|| self.state.path.join("models"))
    }
}
