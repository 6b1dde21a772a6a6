//! What librdkafka's errors mean to us: heals by itself, never will, or somebody else is us.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::types::RDKafkaConfRes;

use super::KafkaSettings;
use crate::log::LogError;

/// Why a client could not be made, without the values of its properties: passwords are among them.
#[derive(Debug, thiserror::Error)]
pub(super) enum SettingError {
    #[error("client property `{key}` is not known to librdkafka")]
    Unknown { key: String },
    #[error("the value of client property `{key}` is none that librdkafka allows")]
    Value { key: String },
    #[error("client property `{key}` cannot be set: exactly-once rests on it")]
    Ours { key: String },
    #[error("topics `{one}` and `{other}` have the same name `{name}`")]
    SameName {
        one: &'static str,
        other: &'static str,
        name: String,
    },
    #[error("topic `{key}` has no name")]
    NoName { key: &'static str },
}

/// Something that was done out of order, or with partitions that are not ours any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrderError {
    #[error("partition {partition} has moved since the records were polled")]
    Moved { partition: i32 },
    #[error("no transaction is open")]
    NoTransaction,
    #[error("the producer is to be recovered first")]
    NotRecovered,
    #[error(
        "the client did not come back from a call within twice the operation timeout; another is made"
    )]
    NeverBack,
    #[error("the brokers did not acknowledge within the operation timeout")]
    Unacknowledged,
    #[error("the queue of unsent records stayed full for the operation timeout")]
    QueueFull,
    #[error("the transaction was open for longer than the transaction timeout")]
    TransactionTimedOut,
    #[error("the brokers do not know a topic that was there")]
    Missed,
}

/// A record that the brokers, or the client, do not take.
#[derive(Debug, thiserror::Error)]
#[error("record of {bytes} bytes for topic `{topic}` partition {partition}")]
pub(super) struct Undelivered {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) bytes: usize,
    #[source]
    pub(super) source: Box<dyn std::error::Error + Send + Sync>,
}

/// Names the record that a refusal is about.
pub(super) fn about(error: LogError, topic: &str, partition: i32, bytes: usize) -> LogError {
    match error {
        LogError::Refused { doing, source } => LogError::Refused {
            doing,
            source: Box::new(Undelivered {
                topic: topic.to_owned(),
                partition,
                bytes,
                source,
            }),
        },
        other => other,
    }
}

/// The code behind an error; admin operations included, whose code the library does not count as one.
pub(super) fn code(error: &KafkaError) -> Option<Code> {
    match error {
        KafkaError::AdminOp(code)
        | KafkaError::Rebalance(code)
        | KafkaError::SetPartitionOffset(code) => Some(*code),
        other => other.rdkafka_error_code(),
    }
}

/// Whether it says that somebody else has our identity (or, for producers, that the brokers timed our transaction out).
pub(super) fn is_fenced(code: Code) -> bool {
    matches!(
        code,
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch | Code::FencedInstanceId
    )
}

/// Whether the topic or partition does not exist.
pub(super) fn is_unknown_topic(error: &KafkaError) -> bool {
    matches!(
        code(error),
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition)
    )
}

/// Whether it says that bytes of the log cannot be read: reading stands still there, and nobody else would tell.
pub(super) fn is_unreadable(code: Code) -> bool {
    matches!(
        code,
        Code::BadMessage
            | Code::BadCompression
            | Code::InvalidMessage
            | Code::CriticalSystemResource
    )
}

/// Whether waiting will never help.
pub(super) fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::SSL
            | Code::IllegalSASLState
            | Code::UnsupportedSASLMechanism
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::SecurityDisabled
            | Code::MessageSizeTooLarge
            | Code::MessageBatchTooLarge
            | Code::InvalidMessageSize
            | Code::InvalidConfig
            | Code::InvalidArgument
            | Code::InvalidTopic
            | Code::InvalidPartitions
            | Code::InvalidReplicationFactor
            | Code::InvalidRequest
            | Code::InvalidSessionTimeout
            | Code::InvalidTransactionTimeout
            | Code::InvalidRequiredAcks
            | Code::InvalidRecord
            | Code::InconsistentGroupProtocol
            | Code::InvalidGroupId
            | Code::PolicyViolation
            | Code::UnsupportedVersion
            | Code::UnsupportedFeature
            | Code::UnsupportedCompressionType
            | Code::NotImplemented
    )
}

/// The error of something that was tried. `identity` is who we are there, for [`LogError::Fenced`].
pub(super) fn of(doing: &'static str, error: KafkaError, identity: &str) -> LogError {
    let error = match error {
        KafkaError::ClientConfig(outcome, _, key, _) => {
            let source = match outcome {
                RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN => SettingError::Unknown { key },
                _ => SettingError::Value { key },
            };
            return LogError::Refused {
                doing,
                source: Box::new(source),
            };
        }
        error => error,
    };
    match code(&error) {
        Some(code) if is_fenced(code) && !identity.is_empty() => LogError::Fenced {
            identity: identity.to_owned(),
        },
        Some(code) if is_refusal(code) => LogError::Refused {
            doing,
            source: Box::new(error),
        },
        _ if matches!(
            error,
            KafkaError::ClientCreation(_) | KafkaError::Nul(_) | KafkaError::AdminOpCreation(_)
        ) =>
        {
            LogError::Refused {
                doing,
                source: Box::new(error),
            }
        }
        _ => LogError::Unavailable {
            doing,
            source: Box::new(error),
        },
    }
}

/// Nobody answered at the first question, where a wrong address and a wrong protocol look alike.
#[derive(Debug, thiserror::Error)]
#[error("no broker of `{brokers}` answers the protocol `{protocol}`{hint}")]
pub(super) struct NoBroker {
    brokers: String,
    protocol: String,
    hint: &'static str,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// The error of the first question, with whom it was put to and how. `turned_away` is what was said about credentials and certificates.
pub(super) fn at_the_door(
    error: LogError,
    settings: &KafkaSettings,
    turned_away: Option<String>,
) -> LogError {
    let LogError::Unavailable { doing, source } = error else {
        return error;
    };
    if let Some(words) = turned_away {
        let source = words.into();
        return LogError::Refused { doing, source };
    }
    let protocol = settings.client.get("security.protocol");
    LogError::Unavailable {
        doing,
        source: Box::new(NoBroker {
            brokers: settings.bootstrap.clone(),
            protocol: protocol.map_or("plaintext", String::as_str).to_owned(),
            hint: match protocol {
                None => {
                    "; brokers that want TLS or SASL close such connections without a word: set `security.protocol` under [kafka.client]"
                }
                Some(_) => "",
            },
            source,
        }),
    }
}

/// [`LogError::Unavailable`] for a reason of our own.
pub(super) fn unavailable(doing: &'static str, reason: OrderError) -> LogError {
    LogError::Unavailable {
        doing,
        source: Box::new(reason),
    }
}
