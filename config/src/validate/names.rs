//! What names may look like: on the brokers, in lists, and where one list must know the names of another.
//!
//! Before it, sections hold text; after it, `validate` reports.

use std::collections::BTreeSet;

use super::Rules;
use crate::Config;

/// The longest name of a kind, a scenario or an attribute: that of an id in a record.
const NAME_BYTES_MAX: usize = 256;

/// A letter that Kafka allows in names of topics, and of members of groups.
pub(super) fn is_kafka_letter(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-')
}

/// What `Topic.validate` of Apache Kafka allows.
pub(super) fn is_kafka_name(name: &str) -> bool {
    (1..=249).contains(&name.len())
        && name != "."
        && name != ".."
        && name.chars().all(is_kafka_letter)
}

/// A name that can be a label and part of a key.
pub(super) fn is_plain_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-'))
}

/// Names in a list: not empty, not too long, none twice, and not too many.
pub(super) fn list(rules: &mut Rules, key: &str, names: &[String], names_max: usize) {
    rules.require(names.len() <= names_max, &[key], || {
        format!("{} names: at most {names_max} are allowed", names.len())
    });
    let mut seen = BTreeSet::new();
    for (index, name) in names.iter().enumerate() {
        if name.is_empty() {
            rules.refuse(&[key], format!("name {} is empty", index + 1));
        } else if name.len() > NAME_BYTES_MAX {
            rules.refuse(
                &[key],
                format!(
                    "name {} has {} bytes: at most {NAME_BYTES_MAX} are allowed",
                    index + 1,
                    name.len()
                ),
            );
        } else if !seen.insert(name) {
            rules.refuse(&[key], format!("\"{name}\" stands twice"));
        }
    }
}

/// Kinds that are spoken of must be kinds.
pub(super) fn known_kinds(rules: &mut Rules, key: &str, kinds: &[String], config: &Config) {
    for kind in kinds {
        rules.require(
            kind.is_empty() || config.kinds.names.contains(kind),
            &[key, "kinds.names"],
            || format!("kind \"{kind}\" is not in kinds.names"),
        );
    }
}

/// `host:port`, several with commas between them, each with a protocol before it or without.
pub(super) fn brokers(brokers: &str) -> Result<(), String> {
    if brokers.trim().is_empty() {
        return Err("it is empty: name a broker, such as \"127.0.0.1:9092\"".to_owned());
    }
    for broker in brokers.split(',').map(str::trim) {
        let address = broker
            .split_once("://")
            .map_or(broker, |(_, address)| address);
        let (host, port) = match address.rsplit_once(':') {
            // An IPv6 address without a port ends within its brackets.
            Some(_) if address.ends_with(']') => (address, None),
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        };
        let sound = !host.is_empty()
            && !host.contains(char::is_whitespace)
            && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
        if !sound {
            return Err(format!(
                "\"{broker}\" is not a broker such as \"host:9092\""
            ));
        }
    }
    Ok(())
}
