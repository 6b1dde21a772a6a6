//! The settings of each kind of client, where their log lines go, and the names of the topics.
//!
//! Defaults of ours come first, then `[kafka.client]`, then what the guarantees rest on: the last cannot be changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use headwater_config::Topic;
use parking_lot::Mutex;
use rdkafka::admin::AdminClient;
use rdkafka::client::Client;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::metadata::MetadataTopic;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Statistics};

use super::error::{self, SettingError};
use super::{KafkaSettings, Shared};
use crate::log::LogError;

/// Properties that cannot be passed through: delivery, positions and fencing are promised by them.
const OURS: [&str; 17] = [
    "acks",
    "allow.auto.create.topics",
    "auto.offset.reset",
    "bootstrap.servers",
    "delivery.report.only.error",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "isolation.level",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "request.required.acks",
    "transactional.id",
];

/// Parts of property names whose values are never shown.
const SECRET: [&str; 6] = [
    "password",
    "secret",
    "key.pem",
    "jaas",
    "token",
    "sasl.oauthbearer.config",
];

/// Our defaults for all clients; `[kafka.client]` can change them.
const DEFAULTS: [(&str, &str); 6] = [
    // A broker that restarts is found again soon (10 s by default).
    ("reconnect.backoff.ms", "50"),
    ("reconnect.backoff.max.ms", "1000"),
    // What the brokers ask to be tried again, a transaction after the last one above all, is tried again soon (100 ms by
    // default: that is what a `send_offsets` that meets the markers of the last commit costs).
    ("retry.backoff.ms", "5"),
    ("retry.backoff.max.ms", "500"),
    ("socket.nagle.disable", "true"),
    ("socket.keepalive.enable", "true"),
];

/// Our defaults for clients that read.
const READING: [(&str, &str); 8] = [
    // The brokers answer at the first byte. An idle fetch is renewed twenty times a second: a partition that is started, and
    // the end of one, wait for the renewal (500 ms by default).
    ("fetch.wait.max.ms", "50"),
    ("fetch.error.backoff.ms", "50"),
    // When the queue was full, look again soon (1 s by default).
    ("fetch.queue.backoff.ms", "5"),
    ("queued.min.messages", "200000"),
    // The bound of memory: one queue a client, and one fetch above it.
    ("queued.max.messages.kbytes", "32768"),
    ("fetch.message.max.bytes", "4194304"),
    // A record above the fetch size comes alone. Brokers take requests of 100 MiB unless told otherwise, and librdkafka reads 100 MB: a
    // record between them would be asked for again for ever.
    ("receive.message.max.bytes", "134217728"),
    // Brokers hand out what their disks hold without looking. The changelog has no checksums but these.
    ("check.crcs", "true"),
];

/// Our defaults for the client in the group, beside those.
const GROUPED: [(&str, &str); 1] = [
    // A topic that was widened or deleted is noticed by the group's leader when it looks (5 minutes by default).
    ("topic.metadata.refresh.interval.ms", "3000"),
];

/// Our defaults for clients that write.
const WRITING: [(&str, &str); 5] = [
    ("linger.ms", "1"),
    ("queue.buffering.max.messages", "500000"),
    ("queue.buffering.max.kbytes", "131072"),
    ("compression.type", "lz4"),
    // What a topic limits is the compressed batch. The cells of a busy entity are over librdkafka's 1,000,000 bytes, and a tenth of it there.
    ("message.max.bytes", "8388608"),
];

/// The properties that every client starts from.
fn config(settings: &KafkaSettings, more: &[(&str, &str)]) -> Result<ClientConfig, LogError> {
    if let Some(key) = settings
        .client
        .keys()
        .find(|key| OURS.contains(&key.as_str()))
    {
        return Err(LogError::Refused {
            doing: "applying [kafka.client]",
            source: Box::new(SettingError::Ours { key: key.clone() }),
        });
    }
    let mut config = ClientConfig::new();
    for (key, value) in DEFAULTS.iter().chain(more) {
        config.set(*key, *value);
    }
    for (key, value) in &settings.client {
        config.set(key, value);
    }
    // Who asks for librdkafka's debugging wants to see it.
    let level = if settings.client.contains_key("debug") {
        RDKafkaLogLevel::Debug
    } else {
        RDKafkaLogLevel::Info
    };
    config
        .set("bootstrap.servers", &settings.bootstrap)
        .set_log_level(level);
    Ok(config)
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

fn create<C, T>(settings: &KafkaSettings, config: &ClientConfig, context: C) -> Result<T, LogError>
where
    C: ClientContext,
    T: FromClientConfigAndContext<C>,
{
    config.create_with_context(context).map_err(|error| {
        // librdkafka's words about a client that it does not make may hold the value that it did not like.
        let error = match error {
            KafkaError::ClientCreation(words) => {
                KafkaError::ClientCreation(Logging::new(settings, "").scrub(&words))
            }
            other => other,
        };
        error::of("making a Kafka client", error, "")
    })
}

/// A client for questions, outside of the group.
pub(super) fn asking(
    settings: &KafkaSettings,
    isolation: &str,
) -> Result<BaseConsumer<Logging>, LogError> {
    let mut config = config(settings, &READING)?;
    config
        .set("isolation.level", isolation)
        .set("allow.auto.create.topics", "false")
        .set("client.id", &settings.group);
    create(settings, &config, Logging::new(settings, &settings.group))
}

/// A client that asks for what the group has committed, and is not in it. It does not wait for transactions that are open.
pub(super) fn looking(settings: &KafkaSettings) -> Result<BaseConsumer<Logging>, LogError> {
    let mut config = config(settings, &READING)?;
    config
        .set("client.id", format!("{}-looks", settings.group))
        .set("group.id", &settings.group)
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_uncommitted")
        .set("allow.auto.create.topics", "false");
    create(settings, &config, Logging::new(settings, &settings.group))
}

/// Properties of a client for admin operations.
pub(super) fn admin<T: FromClientConfigAndContext<Logging>>(
    settings: &KafkaSettings,
) -> Result<T, LogError> {
    let config = config(settings, &[])?;
    create(settings, &config, Logging::new(settings, &settings.group))
}

/// A client that reads the partitions that it is told to. It names the group, without which librdkafka assigns nothing, but never
/// joins it.
pub(super) fn reading<C: ConsumerContext>(
    settings: &KafkaSettings,
    identity: &str,
    ends: bool,
    context: C,
) -> Result<BaseConsumer<C>, LogError> {
    let mut config = config(settings, &READING)?;
    config
        .set("client.id", format!("{identity}-reads"))
        .set("group.id", &settings.group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", if ends { "true" } else { "false" })
        .set("isolation.level", "read_committed")
        .set("allow.auto.create.topics", "false")
        .set("auto.offset.reset", "error");
    create(settings, &config, context)
}

/// A client that is in the group and reads nothing.
pub(super) fn grouped<C: ConsumerContext>(
    settings: &KafkaSettings,
    identity: &str,
    context: C,
) -> Result<BaseConsumer<C>, LogError> {
    let defaults: Vec<_> = READING.into_iter().chain(GROUPED).collect();
    let mut config = config(settings, &defaults)?;
    let heartbeat = (settings.session_timeout / 4).min(Duration::from_secs(3));
    config
        .set("client.id", identity)
        .set("group.id", &settings.group)
        .set("group.instance.id", identity)
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", millis(settings.session_timeout))
        .set("heartbeat.interval.ms", millis(heartbeat))
        .set(
            "max.poll.interval.ms",
            millis(settings.session_timeout.max(Duration::from_secs(60))),
        )
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", "read_committed")
        .set("allow.auto.create.topics", "false")
        .set("auto.offset.reset", "error");
    create(settings, &config, context)
}

/// A client that writes: in transactions if it has a transactional id, and in any case once and in order.
pub(super) fn writing<C, T>(
    settings: &KafkaSettings,
    client_id: &str,
    transactional_id: Option<&str>,
    context: C,
) -> Result<T, LogError>
where
    C: ClientContext,
    T: FromClientConfigAndContext<C>,
{
    let mut config = config(settings, &WRITING)?;
    config
        .set("client.id", client_id)
        .set("enable.idempotence", "true")
        .set("acks", "all");
    if let Some(id) = transactional_id {
        config.set("transactional.id", id).set(
            "transaction.timeout.ms",
            millis(settings.transaction_timeout),
        );
    } else {
        config.set("message.timeout.ms", millis(settings.operation_timeout));
    }
    create(settings, &config, context)
}

/// Makes one client of each kind and drops it: what librdkafka does not take is refused here as it would be in a daemon.
pub(super) fn try_all(settings: &KafkaSettings) -> Result<(), LogError> {
    // A client that knows no broker connects to nothing.
    let settings = &KafkaSettings {
        bootstrap: String::new(),
        ..settings.clone()
    };
    let identity = &settings.group;
    let context = || Logging::new(settings, identity);
    drop(asking(settings, "read_committed")?);
    drop(looking(settings)?);
    drop(reading(settings, identity, true, context())?);
    drop(grouped(settings, identity, context())?);
    // To librdkafka this is a producer like the others.
    drop(admin::<AdminClient<_>>(settings)?);
    for transactional_id in [None, Some(identity.as_str())] {
        let made: AdminClient<_> = writing(settings, identity, transactional_id, context())?;
        drop(made);
    }
    Ok(())
}

/// Asks for the leaders of a topic's partitions, which the client then remembers.
pub(super) fn ask_leaders<C: ClientContext>(
    client: &Client<C>,
    shared: &Shared,
    topic: Topic,
) -> Result<(), KafkaError> {
    let name = shared.names.of(topic);
    let metadata = client.fetch_metadata(Some(name), shared.settings.operation_timeout)?;
    let found = metadata.topics().iter().find(|found| found.name() == name);
    match found.map_or(
        Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART),
        MetadataTopic::error,
    ) {
        None => {
            shared.met(topic);
            Ok(())
        }
        Some(code) => Err(KafkaError::MetadataFetch(code.into())),
    }
}

/// Where the log lines of a client go, and what it reported as an error.
#[derive(Debug)]
pub(super) struct Logging {
    identity: String,
    secrets: Vec<String>,
    refusal: Mutex<Option<KafkaError>>,
    /// The last line about credentials or certificates that were not accepted.
    turned_away: Mutex<Option<String>>,
}

impl Logging {
    /// For the client of that name.
    pub(super) fn new(settings: &KafkaSettings, identity: &str) -> Self {
        let secrets = settings
            .client
            .iter()
            .filter(|(key, _)| SECRET.iter().any(|part| key.contains(part)))
            .map(|(_, value)| value)
            .chain(&settings.secrets)
            .filter(|value| !value.is_empty())
            .cloned()
            .collect();
        Self {
            identity: identity.to_owned(),
            secrets,
            refusal: Mutex::new(None),
            turned_away: Mutex::new(None),
        }
    }

    /// The last error that waiting will not heal, once.
    pub(super) fn refusal(&self) -> Option<KafkaError> {
        self.refusal.lock().take()
    }

    /// What was said when credentials or certificates were not accepted, once. It comes as a line of the log alone: the call fails with a time-out.
    pub(super) fn turned_away(&self) -> Option<String> {
        self.turned_away.lock().take()
    }

    fn scrub(&self, line: &str) -> String {
        self.secrets.iter().fold(line.to_owned(), |line, secret| {
            line.replace(secret, "[redacted]")
        })
    }
}

impl ClientContext for Logging {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        // "Property X is a consumer property and will be ignored by this producer": one [kafka.client] serves all kinds.
        if facility == "CONFWARN" {
            return;
        }
        let (client, line) = (&self.identity, self.scrub(line));
        let is_about_us = ["authentication", "SSL handshake failed"]
            .iter()
            .any(|words| line.contains(words));
        if facility == "FAIL" && is_about_us {
            *self.turned_away.lock() = Some(line.clone());
        }
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(target: "kafka", client, facility, "{line}");
            }
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
                tracing::warn!(target: "kafka", client, facility, "{line}");
            }
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(target: "kafka", client, facility, "{line}");
            }
            RDKafkaLogLevel::Debug => tracing::debug!(target: "kafka", client, facility, "{line}"),
        }
    }

    fn stats(&self, _: Statistics) {}

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        let (client, reason) = (&self.identity, self.scrub(reason));
        tracing::debug!(target: "kafka", client, %error, "{reason}");
        if error::code(&error).is_some_and(error::is_refusal) {
            *self.refusal.lock() = Some(error);
        }
    }
}

impl ConsumerContext for Logging {}

/// The names of the topics on the brokers, both ways.
#[derive(Debug)]
pub(super) struct Names(Vec<(Topic, Arc<str>)>);

impl Names {
    /// From the settings: every topic needs a name of its own.
    pub(super) fn new(topics: &BTreeMap<Topic, String>) -> Result<Self, LogError> {
        let refused = |error| LogError::Refused {
            doing: "reading the names of the topics",
            source: Box::new(error),
        };
        let mut names: Vec<(Topic, Arc<str>)> = Vec::new();
        for topic in Topic::ALL {
            let name = topics
                .get(&topic)
                .filter(|name| !name.is_empty())
                .ok_or_else(|| refused(SettingError::NoName { key: topic.key() }))?;
            if let Some((other, _)) = names.iter().find(|(_, other)| **other == **name) {
                return Err(refused(SettingError::SameName {
                    one: other.key(),
                    other: topic.key(),
                    name: name.clone(),
                }));
            }
            names.push((topic, Arc::from(name.as_str())));
        }
        Ok(Self(names))
    }

    /// The name of a topic.
    pub(super) fn of(&self, topic: Topic) -> &str {
        let place = self.0.iter().find(|(other, _)| *other == topic);
        &place.expect("invariant: every topic has a name").1
    }

    /// The topic of that name.
    pub(super) fn topic(&self, name: &str) -> Option<Topic> {
        self.0
            .iter()
            .find(|(_, other)| **other == *name)
            .map(|(topic, _)| *topic)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;
    use crate::log::kafka::KafkaLog;

    fn settings(client: &[(&str, &str)]) -> KafkaSettings {
        let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        KafkaSettings {
            bootstrap: "127.0.0.1:1".to_owned(),
            group: "headwater".to_owned(),
            input: Topic::Behaviors,
            topics: Topic::ALL
                .into_iter()
                .map(|topic| (topic, format!("headwater.{}", topic.key())))
                .collect(),
            session_timeout: Duration::from_secs(45),
            transaction_timeout: Duration::from_secs(10),
            operation_timeout: Duration::from_millis(200),
            send_now: false,
            client: client.iter().map(pair).collect(),
            secrets: Vec::new(),
        }
    }

    /// All that an error says, sources included.
    fn words(error: &dyn Error) -> String {
        let source = error.source().map_or_else(String::new, words);
        format!("{error} {error:?} {source}")
    }

    /// Goal: what the guarantees rest on cannot be passed through, and the key is named. Method: each of them.
    #[test]
    fn our_properties_are_refused() {
        for key in OURS {
            let error = KafkaLog::connect(settings(&[(key, "x")])).unwrap_err();
            assert!(
                matches!(error, LogError::Refused { .. }),
                "{key}: {error:?}"
            );
            assert!(words(&error).contains(key), "{}", words(&error));
        }
    }

    /// Goal: a mistyped property is refused and named; brokers that are not there are another matter. Method: one of each, and the
    /// check without brokers.
    #[test]
    fn an_unknown_property_is_refused_and_an_absent_broker_is_not() {
        let error = KafkaLog::connect(settings(&[("linger.millis", "5")])).unwrap_err();
        assert!(matches!(error, LogError::Refused { .. }), "{error:?}");
        assert!(words(&error).contains("linger.millis"));
        let error = KafkaLog::check(&settings(&[("linger.millis", "5")])).unwrap_err();
        assert!(words(&error).contains("linger.millis"));
        KafkaLog::check(&settings(&[("linger.ms", "5")])).unwrap();
        let error = KafkaLog::connect(settings(&[])).unwrap_err();
        assert!(matches!(error, LogError::Unavailable { .. }), "{error:?}");
        let said = words(&error);
        assert!(
            said.contains("no broker of `127.0.0.1:1` answers the protocol `plaintext`; brokers that want TLS or SASL"),
            "{said}"
        );
        let error = KafkaLog::connect(settings(&[("security.protocol", "ssl")])).unwrap_err();
        let said = words(&error);
        assert!(
            said.contains("no broker of `127.0.0.1:1` answers the protocol `ssl` "),
            "{said}"
        );
    }

    /// Goal: no password is ever shown. Method: passwords in a property that is accepted, in one that is not, in the settings'
    /// debug form and in a log line.
    #[test]
    fn secrets_are_not_shown() {
        const SECRET: &str = "hunter2-open-sesame";
        let with = |key| {
            settings(&[
                ("security.protocol", "SASL_PLAINTEXT"),
                ("sasl.mechanism", "PLAIN"),
                (key, SECRET),
            ])
        };
        for key in [
            "sasl.password",
            "ssl.key.pem",
            "ssl.keystore.password",
            "sasl.password.typo",
        ] {
            let error = KafkaLog::connect(with(key)).unwrap_err();
            assert!(!words(&error).contains(SECRET), "{key}: {}", words(&error));
            let checked = KafkaLog::check(&with(key));
            let said = checked.map_or_else(|error| words(&error), |()| String::new());
            assert!(!said.contains(SECRET), "{key}: {said}");
        }
        // One that was read from a file, under a name that says nothing.
        let mut settings = settings(&[("security.protocol", "ssl"), ("ssl.providers", SECRET)]);
        settings.secrets.push(SECRET.to_owned());
        let said = words(&KafkaLog::check(&settings).unwrap_err());
        assert!(
            !said.contains(SECRET) && said.contains("[redacted]"),
            "{said}"
        );
        let settings = with("sasl.password");
        assert!(!format!("{settings:?}").contains(SECRET));
        let line = Logging::new(&settings, "").scrub(&format!("config: sasl.password={SECRET}"));
        assert_eq!(line, "config: sasl.password=[redacted]");
    }

    /// Goal: two topics of one name, and a topic without one, are found before anything is read. Method: both.
    #[test]
    fn names_must_be_there_and_differ() {
        let mut twice = settings(&[]).topics;
        twice.insert(Topic::Scores, "headwater.behaviors".to_owned());
        assert!(words(&Names::new(&twice).unwrap_err()).contains("headwater.behaviors"));
        let mut none = settings(&[]).topics;
        none.remove(&Topic::Fleet);
        assert!(words(&Names::new(&none).unwrap_err()).contains("fleet"));
    }
}
