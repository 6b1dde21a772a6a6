//! The topics that Headwater reads and writes, by role. Names are a setting; code speaks of roles alone.

use std::fmt;

/// A topic by its role. The name on the brokers is `prefix` + the configured name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Topic {
    /// What users did, keyed by user id.
    Behaviors,
    /// What items are, keyed by item id, compacted; null deletes.
    Items,
    /// Candidates to score, keyed by user id.
    ScoreRequests,
    /// Answers to requests, keyed by user id.
    Scores,
    /// The newest scores of each standing request, partitioned by user id, compacted.
    StandingScores,
    /// Rows as they were scored, keyed by the user's pseudonym.
    FeatureLog,
    /// What became of those rows, keyed by the user's pseudonym.
    Labels,
    /// What the stores hold, and the input position that it reflects; compacted.
    Changelog,
    /// Per-step sums of item statistics, keyed by item id.
    ItemDeltas,
    /// Statistics of items, keyed by item id; compacted.
    ItemState,
    /// Which instance owns what, keyed by instance id; compacted.
    Fleet,
    /// Records that could not be read, as they were.
    DeadLetters,
    /// Where a source that is not keyed by user is brought into order.
    Repartition,
    /// Texts that stand for items and behaviors, keyed by text hash; compacted.
    Texts,
    /// Their vectors, keyed by encoder and text hash; compacted.
    Embeddings,
    /// Trained models, and which of them is the champion; compacted.
    Models,
}

/// What the brokers do with old records of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleanup {
    /// Old records are deleted by age or size.
    Delete,
    /// The newest record of each key is kept; a null value deletes the key.
    Compact,
}

/// Which partition count a topic must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partitioning {
    /// The same count as `Behaviors`: partition n of each belongs to the owner of partition n.
    Aligned,
    /// One partition suffices, any count is accepted.
    Free,
}

/// As the key that names it, `topics.behaviors`: `headwater config show` says which name that is.
impl fmt::Display for Topic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "topics.{}", self.key())
    }
}

impl Topic {
    /// Every topic, in a fixed order.
    pub const ALL: [Self; 16] = [
        Self::Behaviors,
        Self::Items,
        Self::ScoreRequests,
        Self::Scores,
        Self::StandingScores,
        Self::FeatureLog,
        Self::Labels,
        Self::Changelog,
        Self::ItemDeltas,
        Self::ItemState,
        Self::Fleet,
        Self::DeadLetters,
        Self::Repartition,
        Self::Texts,
        Self::Embeddings,
        Self::Models,
    ];

    /// The key under `[topics]` that names this topic.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Behaviors => "behaviors",
            Self::Items => "items",
            Self::ScoreRequests => "score_requests",
            Self::Scores => "scores",
            Self::StandingScores => "standing_scores",
            Self::FeatureLog => "feature_log",
            Self::Labels => "labels",
            Self::Changelog => "changelog",
            Self::ItemDeltas => "item_deltas",
            Self::ItemState => "item_state",
            Self::Fleet => "fleet",
            Self::DeadLetters => "dead_letters",
            Self::Repartition => "repartition",
            Self::Texts => "texts",
            Self::Embeddings => "embeddings",
            Self::Models => "models",
        }
    }

    /// The cleanup policy that the topic must have.
    pub const fn cleanup(self) -> Cleanup {
        match self {
            Self::Items
            | Self::StandingScores
            | Self::Changelog
            | Self::ItemState
            | Self::Fleet
            | Self::Texts
            | Self::Embeddings
            | Self::Models => Cleanup::Compact,
            Self::Behaviors
            | Self::ScoreRequests
            | Self::Scores
            | Self::FeatureLog
            | Self::Labels
            | Self::ItemDeltas
            | Self::DeadLetters
            | Self::Repartition => Cleanup::Delete,
        }
    }

    /// The partition count that the topic must have.
    pub const fn partitioning(self) -> Partitioning {
        match self {
            Self::Behaviors
            | Self::ScoreRequests
            | Self::Scores
            | Self::StandingScores
            | Self::FeatureLog
            | Self::Labels
            | Self::Changelog
            | Self::ItemDeltas
            | Self::ItemState
            | Self::Texts
            | Self::Embeddings => Partitioning::Aligned,
            Self::Items | Self::Fleet | Self::DeadLetters | Self::Repartition | Self::Models => {
                Partitioning::Free
            }
        }
    }
}
