//! Why a daemon does not start, or stops.

use std::net::SocketAddr;
use std::path::PathBuf;

use headwater_config::{LoadError, Topic};
use headwater_consumers::log::LogError;
use headwater_state::StoreError;

use crate::exit::Exit;
use crate::identity::IdentityError;
use crate::topics::CheckError;

/// Why a daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration breaks a rule.
    #[error("configuration")]
    Config(#[from] LoadError),
    /// The state folder cannot be had.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The embedded log's folder is in use.
    #[error("embedded log {path} cannot be had")]
    LogFolder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: LogError,
    },
    /// The log does not open.
    #[error("log")]
    Log(#[from] LogError),
    /// Topics are not as they must be.
    #[error("topics")]
    Topics(#[source] CheckError),
    /// The stores do not open.
    #[error("store")]
    Store(#[from] StoreError),
    /// A store of vectors cannot be read.
    #[error("vectors")]
    Vectors {
        /// Why.
        #[source]
        source: headwater_state::Error,
    },
    /// The language model of `texts.encoder` cannot be had.
    #[error("texts.encoder")]
    Encoder(#[from] crate::models::ModelsError),
    /// The model of `scoring.model` cannot be used.
    #[error("scoring.model")]
    Trained(#[from] crate::trained::TrainedError),
    /// The registry has metrics of these names already.
    #[error("metrics registry: a registry belongs to one daemon")]
    Metrics(#[from] prometheus::Error),
    /// A source is to be repartitioned on a log that has one group alone.
    #[error(
        "source.behaviors.repartition: the embedded log, and a log that a host program brings, have no second group to read a source by. \
         Who writes there chooses the partition: write behaviors to the one of their user, and set repartition = false"
    )]
    RepartitionEmbedded,
    /// HTTP cannot listen there.
    #[error("admin.address {address}: cannot listen there")]
    Admin {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The system gives no thread.
    #[error("starting a thread")]
    Thread(#[source] std::io::Error),
}

impl StartError {
    /// How the process ends for it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Config(_)
            | Self::Admin { .. }
            | Self::Metrics(_)
            | Self::RepartitionEmbedded
            | Self::Topics(CheckError::Faults(_)) => Exit::Configuration,
            Self::Identity(error) => error.exit(),
            Self::LogFolder { .. } => Exit::Format,
            Self::Log(error) | Self::Topics(CheckError::Log(error)) => Exit::of_log(error),
            Self::Store(error) => Exit::of_store(error),
            Self::Vectors { source } => Exit::of_state(source),
            Self::Encoder(error) => error.exit(),
            Self::Trained(error) => error.exit(),
            Self::Thread(_) => Exit::TryAgain,
        }
    }
}

/// Why a daemon stopped, where nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// A worker cannot go on.
    #[error("worker {number}")]
    Worker {
        /// Its number.
        number: usize,
        /// Why.
        #[source]
        source: headwater_consumers::Error,
    },
    /// Another process has this instance's place.
    #[error(
        "worker {number} was replaced: another process runs as instance `{instance}` with the transactional id `{identity}`; \
         two daemons must not have copies of one state folder or the same `instance.id`"
    )]
    Replaced {
        /// The worker.
        number: usize,
        /// The instance's name.
        instance: String,
        /// The transactional id or group instance id.
        identity: String,
    },
    /// State was made for another number of partitions.
    #[error(
        "partition {partition}: its state was made when topic `{name}` had {pinned} partitions, and the topic has {found}; users would be \
         looked for in partitions that do not have their state. No topic can be narrowed again. To go over to {found}: stop \
         all daemons, set another `instance.prefix`, make the topics by `headwater topics create --set topics.partitions={found}`, \
         copy the behaviors and items there by key, and start with an empty `state.path`"
    )]
    PartitionsChanged {
        /// The partition.
        partition: i32,
        /// The behaviors topic.
        name: String,
        /// The count that state was made with.
        pinned: i32,
        /// The count now.
        found: i32,
    },
    /// The source cannot be brought into order.
    #[error("repartitioning the source of behaviors")]
    Repartition(#[source] headwater_consumers::Error),
    /// Items cannot be followed.
    #[error("reading {} and {}", Topic::Items, Topic::ItemState)]
    Items(#[source] headwater_consumers::Error),
    /// Texts cannot be embedded, or their vectors not followed.
    #[error("texts and their vectors")]
    Texts(#[source] headwater_consumers::Error),
    /// Vectors of users and items cannot be made.
    #[error("vectors of users and items")]
    Deep(#[source] headwater_consumers::Error),
    /// The fleet topic cannot be read or written.
    #[error("fleet topic")]
    Fleet(#[source] LogError),
    /// The topic of models cannot be followed.
    #[error("following the champion")]
    Champion(#[source] LogError),
    /// HTTP ended.
    #[error("http")]
    Runtime {
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A thread panicked.
    #[error("thread `{thread}` panicked: {message}; this is a bug")]
    Panic {
        /// Its name.
        thread: String,
        /// The panic's words.
        message: String,
    },
}

impl StopError {
    /// How the process ends for it.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Worker { source, .. }
            | Self::Repartition(source)
            | Self::Items(source)
            | Self::Texts(source)
            | Self::Deep(source) => Exit::of_consumers(source),
            Self::Replaced { .. } => Exit::Format,
            Self::PartitionsChanged { .. } => Exit::Configuration,
            Self::Fleet(error) | Self::Champion(error) => Exit::of_log(error),
            Self::Runtime { .. } => Exit::TryAgain,
            Self::Panic { .. } => Exit::Bug,
        }
    }
}
