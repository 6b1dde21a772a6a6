//! Topics as they must be: existence, partition counts, cleanup policies; and making them.
//!
//! Before it, the log says what there is; after it, the daemon starts or refuses to. A changelog that is not compacted loses state by
//! age, a behaviors topic that is compacted loses behaviors by key: nothing downstream could notice.

use std::fmt;

use headwater_config::{Cleanup, Config, Partitioning, Topic};
use headwater_consumers::log::{Created, Log, LogError, TopicFacts, TopicSpec};

/// What the topics of a running daemon are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Partitions of every topic that is partitioned by user or item.
    pub partitions: i32,
    /// Partitions of the dead letters.
    pub dead_letters: i32,
    /// `delete.retention.ms` of the changelog, if it could be read.
    pub changelog_delete_retention_ms: Option<u64>,
}

/// One topic that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The key under `[topics]` that names it.
    pub key: &'static str,
    /// Its name on the brokers.
    pub name: String,
    /// What it is, what it must be, and what to do.
    pub reason: String,
}

/// Every topic that is not as it must be; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(
                f,
                "topic `{}` (topics.{}): {}",
                fault.name, fault.key, fault.reason
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Whether a daemon of this configuration uses the topic.
#[must_use]
pub fn is_used(config: &Config, topic: Topic) -> bool {
    match topic {
        Topic::Repartition => config.source.behaviors.repartition,
        Topic::Texts | Topic::Embeddings => config.texts.encoder.is_some(),
        Topic::Labels => headwater_consumers::makes_labels(config),
        Topic::Behaviors
        | Topic::Items
        | Topic::ScoreRequests
        | Topic::Scores
        | Topic::StandingScores
        | Topic::FeatureLog
        | Topic::Changelog
        | Topic::ItemDeltas
        | Topic::ItemState
        | Topic::Fleet
        | Topic::Models
        | Topic::DeadLetters => true,
    }
}

/// What `headwater topics create` makes: every topic that is used. Those that are not partitioned by user or item get few partitions.
pub fn specs(config: &Config) -> impl Iterator<Item = TopicSpec> {
    Topic::ALL
        .into_iter()
        .filter(|topic| is_used(config, *topic))
        .map(|topic| TopicSpec {
            topic,
            partitions: match topic {
                // A few hundred bytes an instance, read by all of them.
                // What is read in the order in which it was written, and hundreds of KB.
                Topic::Fleet | Topic::Models => 1,
                Topic::Behaviors
                | Topic::Items
                | Topic::ScoreRequests
                | Topic::Scores
                | Topic::StandingScores
                | Topic::FeatureLog
                | Topic::Labels
                | Topic::Changelog
                | Topic::ItemDeltas
                | Topic::ItemState
                | Topic::DeadLetters
                | Topic::Repartition
                | Topic::Texts
                | Topic::Embeddings => config.topics.partitions,
            },
            replication_factor: config.topics.replication_factor,
            min_insync_replicas: config.topics.min_insync_replicas,
        })
}

/// Makes every topic that is used and missing; those that are there are left as they are.
///
/// # Errors
/// The log's, at the first topic that cannot be made.
pub fn create(config: &Config, log: &dyn Log) -> Result<Vec<(TopicSpec, Created)>, LogError> {
    specs(config)
        .map(|spec| log.create(&spec).map(|created| (spec, created)))
        .collect()
}

/// What keeps missing topics from being made: they would have another count than the behaviors topic that is there, and no daemon
/// would start on both.
///
/// # Errors
/// The log's.
pub fn misfit(config: &Config, log: &dyn Log) -> Result<Option<Fault>, LogError> {
    let Some(found) = log.describe(Topic::Behaviors)? else {
        return Ok(None);
    };
    if found.partitions == config.topics.partitions {
        return Ok(None);
    }
    let mut missing = Vec::new();
    for spec in specs(config).filter(|spec| spec.topic.partitioning() == Partitioning::Aligned) {
        if log.describe(spec.topic)?.is_none() {
            missing.push(config.topic_name(spec.topic));
        }
    }
    Ok((!missing.is_empty()).then(|| Fault {
        key: Topic::Behaviors.key(),
        name: config.topic_name(Topic::Behaviors),
        reason: format!(
            "has {} partitions and topics.partitions is {}: topics that are missing ({}) would not have as many as it. Set \
             topics.partitions = {}; nothing was made",
            found.partitions,
            config.topics.partitions,
            missing.join(", "),
            found.partitions
        ),
    }))
}

/// What is wrong with a topic that is there; `partitions` is the count of the behaviors topic.
#[must_use]
pub fn judge(topic: Topic, name: &str, facts: &TopicFacts, partitions: i32) -> Vec<String> {
    let mut faults = Vec::new();
    if topic.partitioning() == Partitioning::Aligned && facts.partitions != partitions {
        // Partitions are added, never taken away.
        let remedy = if facts.partitions < partitions {
            format!(
                "; one with no keyed records can be widened: kafka-topics.sh --alter --topic {name} --partitions {partitions}"
            )
        } else {
            "; one that holds something must stay, and another instance.prefix be used".to_owned()
        };
        faults.push(format!(
            "has {} partitions and must have {partitions}, as many as the behaviors topic: partition n of each belongs to the same users. \
             A topic that holds nothing yet can be deleted and made again by `headwater topics create` with topics.partitions = \
             {partitions}{remedy}",
            facts.partitions
        ));
    }
    let policy = facts.cleanup_policy.replace(' ', "");
    let right = match topic.cleanup() {
        _ if policy.is_empty() => true,
        Cleanup::Delete => policy == "delete",
        // What is derived and short-lived may be deleted by age too; what cannot be made again may not.
        Cleanup::Compact if matches!(topic, Topic::StandingScores | Topic::Fleet) => {
            policy.split(',').any(|word| word == "compact")
        }
        Cleanup::Compact => policy == "compact",
    };
    if !right {
        let (must, why) = match topic.cleanup() {
            Cleanup::Delete => (
                "delete",
                "compaction would keep one record a key and lose the others",
            ),
            Cleanup::Compact => (
                "compact",
                "deletion by age or size would lose what is not written again",
            ),
        };
        faults.push(format!(
            "has cleanup.policy={policy} and must have cleanup.policy={must}: {why}. \
             kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config cleanup.policy={must}"
        ));
    }
    faults
}

/// Holds all topics against what they must be.
///
/// # Errors
/// Every topic that is not as it must be, or the log's own error.
pub fn check(config: &Config, log: &dyn Log) -> Result<Found, CheckError> {
    let topics: Vec<Topic> = Topic::ALL
        .into_iter()
        .filter(|topic| is_used(config, *topic))
        .collect();
    // All at once: each is a question to the brokers, and a daemon that comes back has no time to lose.
    let described = std::thread::scope(|scope| {
        let asked: Vec<_> = topics
            .iter()
            .map(|topic| scope.spawn(|| log.describe(*topic)))
            .collect();
        let answers = asked.into_iter().map(|asked| {
            asked
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        answers.collect::<Result<Vec<_>, LogError>>()
    })?;
    let mut facts = Vec::new();
    let mut faults = Vec::new();
    for (topic, found) in topics.into_iter().zip(described) {
        match found {
            Some(found) => facts.push((topic, found)),
            None => faults.push(Fault {
                key: topic.key(),
                name: config.topic_name(topic),
                reason: "does not exist; `headwater topics create` makes it".to_owned(),
            }),
        }
    }
    let of = |topic: Topic| {
        facts
            .iter()
            .find(|(other, _)| *other == topic)
            .map(|(_, found)| found)
    };
    let partitions = of(Topic::Behaviors).map(|found| found.partitions);
    if let Some(narrow) = widened(&facts) {
        faults.push(Fault {
            key: Topic::Behaviors.key(),
            name: config.topic_name(Topic::Behaviors),
            reason: format!(
                "has {0} partitions, and every topic beside it has {narrow}: it was widened, and its users belong to other partitions than \
                 those that have their state. No topic can be narrowed again. To go over to {0}: stop all daemons, set another `instance.prefix`, \
                 make the topics by `headwater topics create --set topics.partitions={0}`, copy the behaviors and items there by key, and \
                 start with an empty `state.path`. If nothing was counted yet, delete the others and make them again with that count",
                partitions.unwrap_or_default()
            ),
        });
        return Err(CheckError::Faults(Faults(faults)));
    }
    for (topic, found) in &facts {
        let name = config.topic_name(*topic);
        // Without the behaviors topic there is nothing to hold the others against.
        for reason in judge(*topic, &name, found, partitions.unwrap_or(found.partitions)) {
            faults.push(Fault {
                key: topic.key(),
                name: name.clone(),
                reason,
            });
        }
        if found.cleanup_policy.is_empty() {
            tracing::warn!(
                topic = name,
                "no right to read the topic's cleanup policy; taking it for right"
            );
        }
    }
    if !faults.is_empty() {
        return Err(CheckError::Faults(Faults(faults)));
    }
    Ok(Found {
        partitions: partitions.unwrap_or_default(),
        dead_letters: of(Topic::DeadLetters).map_or(1, |found| found.partitions),
        changelog_delete_retention_ms: of(Topic::Changelog)
            .and_then(|found| found.delete_retention_ms),
    })
}

/// The count that all aligned topics but the behaviors have, where the behaviors topic has more: it was widened after the others were made.
fn widened(facts: &[(Topic, TopicFacts)]) -> Option<i32> {
    let aligned = facts
        .iter()
        .filter(|(topic, _)| topic.partitioning() == Partitioning::Aligned);
    let (wide, others): (Vec<_>, Vec<_>) =
        aligned.partition(|(topic, _)| *topic == Topic::Behaviors);
    let (wide, narrow) = (wide.first()?.1.partitions, others.first()?.1.partitions);
    let same = others.iter().all(|(_, found)| found.partitions == narrow);
    (same && narrow < wide).then_some(narrow)
}

/// Why topics could not be found right.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Some are not as they must be.
    #[error(transparent)]
    Faults(#[from] Faults),
    /// The log did not say.
    #[error(transparent)]
    Log(#[from] LogError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(partitions: i32, policy: &str) -> TopicFacts {
        TopicFacts {
            partitions,
            cleanup_policy: policy.to_owned(),
            delete_retention_ms: None,
        }
    }

    /// Goal: a topic that would lose data is refused, with what it is and what it must be. Method: every topic with every policy.
    #[test]
    fn a_wrong_cleanup_policy_is_refused() {
        for topic in Topic::ALL {
            let (right, wrong) = match topic.cleanup() {
                Cleanup::Compact => ("compact", "delete"),
                Cleanup::Delete => ("delete", "compact"),
            };
            assert!(
                judge(topic, "t", &facts(4, right), 4).is_empty(),
                "{topic:?}"
            );
            let faults = judge(topic, "t", &facts(4, wrong), 4);
            assert_eq!(faults.len(), 1, "{topic:?}");
            assert!(faults[0].contains(&format!(
                "cleanup.policy={wrong} and must have cleanup.policy={right}"
            )));
        }
        let both = facts(4, "compact, delete");
        assert!(!judge(Topic::Changelog, "t", &both, 4).is_empty());
        assert!(!judge(Topic::ItemState, "t", &both, 4).is_empty());
        assert!(judge(Topic::StandingScores, "t", &both, 4).is_empty());
        assert!(judge(Topic::Changelog, "t", &facts(4, ""), 4).is_empty());
    }

    /// Goal: a behaviors topic that was widened is told from one of the others that has a count of its own. Method: both.
    #[test]
    fn a_widened_topic_is_told_as_such() {
        let of = |behaviors: i32, changelog: i32, scores: i32| {
            widened(&[
                (Topic::Behaviors, facts(behaviors, "delete")),
                (Topic::Changelog, facts(changelog, "compact")),
                (Topic::Scores, facts(scores, "delete")),
                (Topic::Fleet, facts(1, "compact")),
            ])
        };
        assert_eq!(of(6, 4, 4), Some(4));
        assert_eq!(of(4, 4, 4), None);
        assert_eq!(of(6, 6, 4), None);
        assert_eq!(of(4, 6, 6), None);
    }

    /// Goal: topics of the same users have the same count. Method: one too many, for an aligned and for a free topic.
    #[test]
    fn a_count_of_its_own_is_refused() {
        let faults = judge(Topic::ScoreRequests, "t", &facts(5, "delete"), 4);
        assert!(
            faults[0].contains("has 5 partitions and must have 4"),
            "{faults:?}"
        );
        assert!(!faults[0].contains("--alter"), "Kafka takes none away");
        let faults = judge(Topic::ScoreRequests, "t", &facts(3, "delete"), 4);
        assert!(
            faults[0].contains("--alter --topic t --partitions 4"),
            "{faults:?}"
        );
        assert!(judge(Topic::DeadLetters, "t", &facts(5, "delete"), 4).is_empty());
    }
}
