//! `[kafka.client]`: properties of librdkafka that are passed through.
//!
//! Before it, `decode` hands over the table; after it, `consumers::log` sets each property on its clients. Values
//! `file:PATH` have been read by then, properties that Headwater itself must decide have been refused, and those that
//! hold a secret show nothing of it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use crate::secret::Secret;

/// Properties of librdkafka by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KafkaClient(BTreeMap<String, Property>);

/// The value of one property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Property {
    /// May be shown.
    Plain(String),
    /// Must not: its name says so, or it came from a file.
    Secret(Secret),
}

/// The largest file that a `file:` value may name: certificates and keys are a few KiB.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// What a value begins with that is to be read from a file.
const FILE: &str = "file:";

/// Properties that Headwater decides, each with what to write instead. Any of them, passed through, would break a
/// guarantee or contradict a key of ours.
const OWNED: [(&str, &str); 33] = [
    ("acks", "it is always all"),
    (
        "allow.auto.create.topics",
        "topics are made by `headwater topics create`",
    ),
    (
        "auto.commit.enable",
        "offsets are committed with the state that reflects them",
    ),
    (
        "auto.commit.interval.ms",
        "offsets are committed with the state that reflects them",
    ),
    ("auto.offset.reset", "the changelog says where to begin"),
    ("bootstrap.servers", "set `kafka.brokers`"),
    ("delivery.timeout.ms", "set `kafka.transaction_timeout`"),
    (
        "enable.auto.commit",
        "offsets are committed with the state that reflects them",
    ),
    (
        "enable.auto.offset.store",
        "offsets are committed with the state that reflects them",
    ),
    ("enable.gapless.guarantee", "transactions make no gaps"),
    ("enable.idempotence", "it is always on"),
    ("enable.partition.eof", "it is always on"),
    ("group.id", "set `kafka.group`"),
    ("group.instance.id", "set `instance.id`"),
    ("group.protocol", "it is always classic"),
    ("group.protocol.type", "it is always consumer"),
    (
        "group.remote.assignor",
        "the assignment is always cooperative-sticky",
    ),
    ("isolation.level", "it is always read_committed"),
    ("max.in.flight", "idempotence decides it"),
    (
        "max.in.flight.requests.per.connection",
        "idempotence decides it",
    ),
    ("message.send.max.retries", "idempotence decides it"),
    ("message.timeout.ms", "set `kafka.transaction_timeout`"),
    ("metadata.broker.list", "set `kafka.brokers`"),
    (
        "offset.store.method",
        "offsets are committed with the state that reflects them",
    ),
    (
        "partition.assignment.strategy",
        "the assignment is always cooperative-sticky",
    ),
    (
        "partitioner",
        "it is always murmur2_random, as in Java's clients",
    ),
    ("queuing.strategy", "it is always fifo"),
    ("request.required.acks", "it is always all"),
    ("retries", "idempotence decides it"),
    ("session.timeout.ms", "set `kafka.session_timeout`"),
    ("sticky.partitioning.linger.ms", "keys decide the partition"),
    ("transaction.timeout.ms", "set `kafka.transaction_timeout`"),
    (
        "transactional.id",
        "set `instance.prefix`, `kafka.group` and `instance.id`",
    ),
];

/// What to write instead of a property that Headwater decides; none where it may be passed through.
pub(crate) fn owner_of(property: &str) -> Option<&'static str> {
    OWNED
        .iter()
        .find(|(name, _)| *name == property)
        .map(|(_, instead)| *instead)
}

/// What of `sasl.*` may be shown; all else there may be a secret whose name was misspelt.
const SASL_SHOWN: [&str; 6] = [
    "mechanism",
    "username",
    "kerberos",
    "method",
    "scope",
    "url",
];

/// Whether the name of a property says that its value is a secret, or may be a misspelt one that does.
pub(crate) fn is_secret(property: &str) -> bool {
    let name = property.to_ascii_lowercase();
    let may_be_shown = SASL_SHOWN.iter().any(|word| name.contains(word));
    name.ends_with("key")
        || (name.starts_with("sasl.") && !may_be_shown)
        || [
            "pass",
            "pwd",
            "secret",
            "token",
            "jaas",
            "credential",
            "key.pem",
            "oauthbearer.config",
        ]
        .iter()
        .any(|word| name.contains(word))
}

/// Replaces each `file:PATH` by what is in the file, less its last line break. Gives what went wrong by property: the
/// name of the file, never what is in it.
pub(crate) fn read_files(client: &mut KafkaClient) -> Vec<(String, String)> {
    let mut problems = Vec::new();
    for (name, property) in &mut client.0 {
        let Some(path) = property.expose().strip_prefix(FILE).map(str::to_owned) else {
            continue;
        };
        match read_file(Path::new(&path)) {
            Ok(content) => *property = Property::Secret(Secret::new(content)),
            Err(reason) => problems.push((name.clone(), format!("cannot read {path}: {reason}"))),
        }
    }
    problems
}

fn read_file(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it is larger than {} KiB", FILE_BYTES_MAX / 1024));
    }
    // The error of `from_utf8` would carry the bytes.
    let Ok(mut content) = String::from_utf8(bytes) else {
        return Err("it is not UTF-8 text".to_owned());
    };
    if content.ends_with('\n') {
        content.pop();
        if content.ends_with('\r') {
            content.pop();
        }
    }
    if content.is_empty() {
        return Err("it is empty".to_owned());
    }
    Ok(content)
}

impl KafkaClient {
    /// Every property with its value, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Property)> {
        self.0
            .iter()
            .map(|(name, property)| (name.as_str(), property))
    }

    /// The value of the property `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Property> {
        self.0.get(name)
    }

    /// Sets a property, secret where its name says so: for programs that build a configuration in code.
    pub fn set(&mut self, name: &str, value: &str) {
        self.0
            .insert(name.to_owned(), Property::new(name, value.to_owned()));
    }
}

impl Property {
    fn new(name: &str, value: String) -> Self {
        if is_secret(name) {
            Self::Secret(Secret::new(value))
        } else {
            Self::Plain(value)
        }
    }

    /// Whether its value is never shown.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        matches!(self, Self::Secret(_))
    }

    /// The value itself, for the client that is made with it.
    #[must_use]
    pub fn expose(&self) -> &str {
        match self {
            Self::Plain(value) => value,
            Self::Secret(secret) => secret.expose(),
        }
    }
}

impl<'de> Deserialize<'de> for KafkaClient {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Properties;

        impl<'de> Visitor<'de> for Properties {
            type Value = KafkaClient;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a table")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<KafkaClient, A::Error> {
                let mut properties = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Scalar>()? {
                    let property = Property::new(&name, value.0);
                    properties.insert(name, property);
                }
                Ok(KafkaClient(properties))
            }
        }

        deserializer.deserialize_map(Properties)
    }
}

/// Text, a whole number or a truth: librdkafka takes all of them as text.
struct Scalar(String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl Visitor<'_> for Any {
            type Value = Scalar;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("text in quotes, a whole number, true or false")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar(text.to_owned()))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }

            fn visit_bool<E: Error>(self, truth: bool) -> Result<Scalar, E> {
                Ok(Scalar(truth.to_string()))
            }
        }

        deserializer.deserialize_any(Any)
    }
}
