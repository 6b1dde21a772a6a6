//! What can go wrong in the fast loop, and what a worker does about it.

use headwater_config::Topic;

use crate::log::{CommitError, LogError, TopicPartition};

/// What a worker does about an error. The whole failure policy is [`Error::reaction`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// The world may heal: pause, take back what is not committed, go on from the last committed positions.
    Retry,
    /// Our copy is not to be trusted: drop the partition's store and restore it from the changelog.
    Restore,
    /// Somebody else is us now: let everything go, commit nothing, say who.
    Release,
    /// Nobody here can decide: stop with a non-zero code, wake a person.
    Stop,
}

impl Reaction {
    /// The reaction as a metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Restore => "restore",
            Self::Release => "release",
            Self::Stop => "stop",
        }
    }
}

/// An error's words and those of all its sources: what was tried, and what stood in the way.
#[must_use]
pub fn words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_words = cause.to_string();
        // Transparent errors have the same words as their sources.
        if !words.ends_with(&cause_words) {
            words.push_str(": ");
            words.push_str(&cause_words);
        }
        source = cause.source();
    }
    words
}

/// What can go wrong in the fast loop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A transaction was not committed, or nobody knows.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A partition's state failed.
    #[error("state of partition {partition}")]
    State {
        /// The partition.
        partition: i32,
        /// Why.
        #[source]
        source: headwater_state::Error,
    },
    /// A topic is not as it must be.
    #[error("topic `{name}`: {reason}")]
    Topic {
        /// Its name.
        name: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The group's committed position is beyond what the changelog reflects: one of them is not ours.
    #[error(
        "partition {partition} of {topic}: the changelog reflects the input up to {changelog}, the group has committed {group}; \
         one of them was changed by somebody else (offsets set forward? changelog made anew?)"
    )]
    Disagreement {
        /// The input topic.
        topic: Topic,
        /// The partition.
        partition: i32,
        /// Next offset by the changelog.
        changelog: i64,
        /// Next offset by the group.
        group: i64,
    },
    /// An input topic ends before the position that was already read.
    #[error(
        "partition {} of {} ends at {next}, and {position} was read already: the topic was made anew; \
         give this daemon a new `instance.prefix` or `kafka.group`, or restore the topic", at.partition, at.topic
    )]
    Recreated {
        /// Which.
        at: TopicPartition,
        /// Where it ends.
        next: i64,
        /// What was read.
        position: i64,
    },
    /// The group has forgotten a position that it must have, since it has others of the same transactions.
    #[error(
        "partition {} of {} was read up to {position}, and the group has no position in it any more, though it has others that were \
         committed with it: the topic was made anew; give this daemon a new `instance.prefix` or `kafka.group` and an empty `state.path`, or \
         restore the topic and the position (kafka-consumer-groups.sh --reset-offsets)", at.partition, at.topic
    )]
    Forgotten {
        /// Which.
        at: TopicPartition,
        /// What was read.
        position: i64,
    },
    /// The behaviors topic has more partitions than when we began.
    #[error("behaviors has {found} partitions, and had {partitions} when this daemon started")]
    Widened {
        /// A partition in which that was seen.
        partition: i32,
        /// How many there were.
        partitions: i32,
        /// How many there are, at least.
        found: i32,
    },
    /// A record of an internal topic is not what was written.
    #[error(
        "{} partition {} offset {offset}: {reason}. Nobody but Headwater may write to this topic: find who did, and restore the topic, or start \
         anew under another `instance.prefix`", at.topic, at.partition
    )]
    Internal {
        /// Where.
        at: TopicPartition,
        /// Which record.
        offset: i64,
        /// What is wrong.
        reason: String,
    },
    /// The configured tasks make no feature schema.
    #[error(transparent)]
    Schema(#[from] headwater_model::FeatureSchemaError),
    /// A language model failed over texts.
    #[error("embedding texts")]
    Encode(#[source] crate::embed::EmbedError),
    /// Deep layers failed over the vectors of texts.
    #[error("making vectors of users and items")]
    Deep(#[source] Box<headwater_model::language::LanguageError>),
    /// The store of vectors failed.
    #[error("store of vectors")]
    Vectors {
        /// Why.
        #[source]
        source: headwater_state::Error,
    },
    /// The thread that writes to the store is gone.
    #[error("the store's writer stopped")]
    Writer,
}

impl Error {
    /// What to do about it. Every case is named, none defaults.
    #[must_use]
    pub const fn reaction(&self) -> Reaction {
        use headwater_state::{Error as State, StoreError};
        match self {
            Self::Log(LogError::Unavailable { .. } | LogError::OutOfRange { .. })
            | Self::Commit(CommitError::Aborted(_) | CommitError::Unknown(_)) => Reaction::Retry,
            Self::Log(LogError::Fenced { .. }) | Self::Commit(CommitError::Fenced(_)) => {
                Reaction::Release
            }
            Self::State {
                source: State::Damaged { .. } | State::Store(StoreError::Broken { .. }),
                ..
            } => Reaction::Restore,
            Self::Log(
                LogError::NoTopic { .. }
                | LogError::Refused { .. }
                | LogError::Io { .. }
                | LogError::Damaged { .. },
            )
            | Self::State {
                source:
                    State::Changelog { .. }
                    | State::Store(
                        StoreError::Io { .. }
                        | StoreError::Locked { .. }
                        | StoreError::Condemned { .. },
                    ),
                ..
            }
            | Self::Topic { .. }
            | Self::Disagreement { .. }
            | Self::Recreated { .. }
            | Self::Forgotten { .. }
            | Self::Widened { .. }
            | Self::Internal { .. }
            | Self::Schema(_)
            | Self::Encode(_)
            | Self::Deep(_)
            | Self::Vectors { .. }
            | Self::Writer => Reaction::Stop,
        }
    }
}
