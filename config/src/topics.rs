//! `[topics]`: names of topics, and how they are created.
//!
//! Before it, `decode`; after it, code speaks of [`Topic`] and asks [`crate::Config::topic_name`] for the name.

use serde::Deserialize;

use crate::topic::Topic;

/// Names of topics without their prefix, and how `headwater topics create` makes them.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct TopicsConfig {
    /// What users did.
    pub behaviors: String,
    /// What items are.
    pub items: String,
    /// Candidates to score.
    pub score_requests: String,
    /// Answers to requests.
    pub scores: String,
    /// The newest scores of each standing request.
    pub standing_scores: String,
    /// Rows as they were scored.
    pub feature_log: String,
    /// What became of those rows.
    pub labels: String,
    /// What the stores hold.
    pub changelog: String,
    /// Per-step sums of item statistics.
    pub item_deltas: String,
    /// Statistics of items.
    pub item_state: String,
    /// Which instance owns what.
    pub fleet: String,
    /// Records that could not be read.
    pub dead_letters: String,
    /// Where a source that is not keyed by user is brought into order.
    pub repartition: String,
    /// Texts that stand for items and behaviors.
    pub texts: String,
    /// Their vectors.
    pub embeddings: String,
    /// Trained models, and which of them is the champion.
    pub models: String,
    /// Partitions of every topic that is partitioned by user or item. 1 to 10,000.
    pub partitions: i32,
    /// Copies of every partition on the brokers. 1 to 32.
    pub replication_factor: i32,
    /// Copies that must have a record before it counts as written; at most `replication_factor`.
    pub min_insync_replicas: i32,
}

impl TopicsConfig {
    /// The configured name of a topic, without the prefix; [`crate::Config::topic_name`] is the name on the brokers.
    pub(crate) fn configured(&self, topic: Topic) -> &str {
        match topic {
            Topic::Behaviors => &self.behaviors,
            Topic::Items => &self.items,
            Topic::ScoreRequests => &self.score_requests,
            Topic::Scores => &self.scores,
            Topic::StandingScores => &self.standing_scores,
            Topic::FeatureLog => &self.feature_log,
            Topic::Labels => &self.labels,
            Topic::Changelog => &self.changelog,
            Topic::ItemDeltas => &self.item_deltas,
            Topic::ItemState => &self.item_state,
            Topic::Fleet => &self.fleet,
            Topic::DeadLetters => &self.dead_letters,
            Topic::Repartition => &self.repartition,
            Topic::Texts => &self.texts,
            Topic::Embeddings => &self.embeddings,
            Topic::Models => &self.models,
        }
    }
}
