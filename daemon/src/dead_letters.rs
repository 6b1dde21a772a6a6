//! Dead letters: records that could not be read, looked at and sent again.
//!
//! Before it, a step that met such a record wrote it to the dead-letters topic as it was, with the reason in headers; after it, the
//! record is in its source topic again, in the partition that it came from, with the header [`HEADER_REDRIVE`]. That it was sent again is
//! noted beside the dead letter, by a record without a value and with the header [`HEADER_REDRIVEN`], so that nobody does it twice unawares.
//! If the process dies between both, the note is missing and the record may be sent a second time: the header says which dead letter it
//! was, and a behavior counts once all the same.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use headwater_config::{Config, Topic};
use headwater_consumers::log::{Log, LogError, Outgoing, Record, TopicPartition};
use serde::Serialize;

use crate::scan;

pub use headwater_consumers::answer::HEADER_REDRIVE;

/// Header of a note in the dead-letters topic: the coordinates of the dead letter that was sent again.
pub const HEADER_REDRIVEN: &str = "headwater-redriven";

/// Where a dead letter lies in its topic: written `partition-offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The partition of the dead-letters topic.
    pub partition: i32,
    /// The offset there.
    pub offset: i64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.partition, self.offset)
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('-').and_then(|(partition, offset)| {
            let partition = partition.parse().ok().filter(|number| *number >= 0)?;
            let offset = offset.parse().ok().filter(|number| *number >= 0)?;
            Some(Self { partition, offset })
        });
        parsed.ok_or_else(|| format!("`{text}` is not a partition and an offset, such as 3-1207"))
    }
}

impl Serialize for Place {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Where it lies.
    pub place: Place,
    /// Why it could not be read: a word such as `bad_json`.
    pub reason: String,
    /// The same, in words.
    pub detail: String,
    /// The name of the topic that it came from.
    pub source: String,
    /// Where it was there: partition and offset; none if the header is missing.
    pub source_at: Option<(i32, i64)>,
    /// When it became a dead letter, Unix milliseconds.
    pub time: i64,
    /// Its hash and length, where only its beginning was kept.
    pub cut: Option<String>,
    /// Whether it was sent again.
    pub redriven: bool,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value, as it was.
    pub value: Option<Vec<u8>>,
    /// Its own headers.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// Reads dead letters, oldest first within a partition, with whether each was sent again. `keep` says which; of those that are not
/// kept nothing stays in memory.
///
/// # Errors
/// The log's.
pub fn read(
    config: &Config,
    log: &dyn Log,
    keep: &mut dyn FnMut(&DeadLetter) -> bool,
) -> Result<Vec<DeadLetter>, LogError> {
    let stretches = scan::whole(
        log,
        Topic::DeadLetters,
        &config.topic_name(Topic::DeadLetters),
    )?;
    let mut found: BTreeMap<Place, DeadLetter> = BTreeMap::new();
    scan::read(log, &stretches, &mut |record| {
        if let Some(note) = record.headers.get(HEADER_REDRIVEN) {
            let place = std::str::from_utf8(note)
                .ok()
                .and_then(|text| text.parse().ok());
            if let Some(letter) = place.and_then(|place: Place| found.get_mut(&place)) {
                letter.redriven = true;
            }
            return;
        }
        let letter = of_record(record);
        if keep(&letter) {
            found.insert(letter.place, letter);
        }
    })?;
    Ok(found.into_values().collect())
}

fn of_record(record: &Record<'_>) -> DeadLetter {
    let text = |name| {
        let bytes = record.headers.get(name).unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    };
    let source = text("headwater-source");
    let id = text("headwater-id");
    let source_at = id
        .strip_prefix(&format!("{source}-"))
        .and_then(|rest| rest.split_once('-'))
        .and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)));
    DeadLetter {
        place: Place {
            partition: record.at.partition,
            offset: record.offset,
        },
        reason: text("headwater-reason"),
        detail: text("headwater-detail"),
        source_at,
        source,
        time: text("headwater-time").parse().unwrap_or(record.timestamp),
        cut: record
            .headers
            .get("headwater-cut")
            .map(|_| text("headwater-cut")),
        redriven: false,
        key: record.key.map(<[u8]>::to_vec),
        value: record.value.map(<[u8]>::to_vec),
        headers: record
            .headers
            .iter()
            .filter(|(name, _)| !name.starts_with("headwater-") || *name == HEADER_REDRIVE)
            .map(|(name, value)| (name.to_owned(), value.unwrap_or_default().to_vec()))
            .collect(),
    }
}

/// Why a dead letter is not sent again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It was already.
    #[error("sent again already; `--again` does it once more")]
    Redriven,
    /// It is not whole.
    #[error(
        "only its beginning was kept ({cut}); the record itself is at {source_topic} {at}, as long as that topic keeps it"
    )]
    Cut {
        /// Its hash and length.
        cut: String,
        /// The topic that it came from.
        source_topic: String,
        /// Where it was there.
        at: String,
    },
    /// Its source is not a topic of this configuration.
    #[error("its source `{name}` is not a topic of this configuration")]
    Source {
        /// The source's name.
        name: String,
    },
    /// It does not say where it was.
    #[error("its header `headwater-id` does not say where it was")]
    Nowhere,
}

/// Where a dead letter goes when it is sent again: the partition that it came from.
///
/// # Errors
/// Why it is not.
pub fn target(
    config: &Config,
    letter: &DeadLetter,
    again: bool,
) -> Result<TopicPartition, Refusal> {
    if letter.redriven && !again {
        return Err(Refusal::Redriven);
    }
    if let Some(cut) = &letter.cut {
        return Err(Refusal::Cut {
            cut: cut.clone(),
            source_topic: letter.source.clone(),
            at: letter
                .source_at
                .map_or_else(String::new, |(partition, offset)| {
                    format!("{partition}-{offset}")
                }),
        });
    }
    let topic = Topic::ALL
        .into_iter()
        .find(|topic| config.topic_name(*topic) == letter.source)
        .ok_or_else(|| Refusal::Source {
            name: letter.source.clone(),
        })?;
    let (partition, _) = letter.source_at.ok_or(Refusal::Nowhere)?;
    Ok(TopicPartition::new(topic, partition))
}

/// Sends dead letters again, each with where it goes ([`target`]), and notes that they were sent.
///
/// # Errors
/// The log's. Letters before the failure may have been sent without a note.
pub fn redrive(log: &dyn Log, letters: &[(&DeadLetter, TopicPartition)]) -> Result<(), LogError> {
    let mut producer = log.producer()?;
    for (letter, to) in letters {
        let place = letter.place.to_string();
        let mut headers: Vec<(&str, &[u8])> = letter
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_slice()))
            .collect();
        // One that is a dead letter for the second time is still the first.
        if headers.iter().all(|(name, _)| *name != HEADER_REDRIVE) {
            headers.push((HEADER_REDRIVE, place.as_bytes()));
        }
        producer.send(Outgoing {
            to: *to,
            key: letter.key.as_deref(),
            value: letter.value.as_deref(),
            headers: &headers,
        })?;
    }
    // Only what was surely sent is noted.
    producer.flush()?;
    for (letter, _) in letters {
        let place = letter.place.to_string();
        producer.send(Outgoing {
            to: TopicPartition::new(Topic::DeadLetters, letter.place.partition),
            key: letter.key.as_deref(),
            value: None,
            headers: &[(HEADER_REDRIVEN, place.as_bytes())],
        })?;
    }
    producer.flush()
}

#[cfg(test)]
mod tests {
    use headwater_consumers::log::local::{LocalLog, Options};

    use super::*;

    fn letter(log: &dyn Log, source: &str, more: &[(&str, &[u8])]) {
        let id = format!("{source}-1-7");
        let mut headers: Vec<(&str, &[u8])> = vec![
            ("trace", b"t"),
            ("headwater-reason", b"bad_json"),
            ("headwater-detail", b"no }"),
            ("headwater-source", source.as_bytes()),
            ("headwater-id", id.as_bytes()),
            ("headwater-time", b"1700000000000"),
        ];
        headers.extend(more);
        let mut producer = log.producer().unwrap();
        producer
            .send(Outgoing {
                to: TopicPartition::new(Topic::DeadLetters, 0),
                key: Some(b"u1"),
                value: Some(b"{"),
                headers: &headers,
            })
            .unwrap();
        producer.flush().unwrap();
    }

    fn log(config: &Config) -> LocalLog {
        let log = LocalLog::in_memory(Options::new(|| 1_700_000_000_000));
        crate::topics::create(config, &log).unwrap();
        log
    }

    /// Goal: a dead letter goes back to where it came from, as it was, once. Method: redrive it, look at both topics, ask again.
    #[test]
    fn a_dead_letter_is_sent_again_once() {
        let config = Config::default_config();
        let log = log(&config);
        letter(&log, "headwater.behaviors", &[]);
        let found = read(&config, &log, &mut |_| true).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].reason.as_str(), found[0].source_at),
            ("bad_json", Some((1, 7)))
        );
        let to = target(&config, &found[0], false).unwrap();
        assert_eq!(to, TopicPartition::new(Topic::Behaviors, 1));
        redrive(&log, &[(&found[0], to)]).unwrap();

        let mut sent = Vec::new();
        let behaviors = scan::whole(&log, Topic::Behaviors, "b").unwrap();
        scan::read(&log, &behaviors, &mut |record| {
            let redrive = record.headers.get(HEADER_REDRIVE).map(<[u8]>::to_vec);
            sent.push((
                record.at.partition,
                record.value.map(<[u8]>::to_vec),
                redrive,
            ));
            assert_eq!(
                record.headers.iter().count(),
                2,
                "its own header, and the redrive"
            );
        })
        .unwrap();
        assert_eq!(sent, [(1, Some(b"{".to_vec()), Some(b"0-0".to_vec()))]);

        let found = read(&config, &log, &mut |_| true).unwrap();
        assert_eq!(found.len(), 1, "a note is no dead letter");
        assert_eq!(target(&config, &found[0], false), Err(Refusal::Redriven));
        assert!(target(&config, &found[0], true).is_ok());
    }

    /// Goal: what is not whole, or not ours, is not sent. Method: a letter that was cut, and one of a topic unknown here.
    #[test]
    fn what_is_not_whole_or_not_ours_is_refused() {
        let config = Config::default_config();
        let log = log(&config);
        letter(
            &log,
            "headwater.behaviors",
            &[("headwater-cut", b"sha256=00 bytes=9")],
        );
        letter(&log, "elsewhere", &[]);
        let found = read(&config, &log, &mut |_| true).unwrap();
        let refusals: Vec<_> = found
            .iter()
            .map(|letter| target(&config, letter, false).unwrap_err())
            .collect();
        assert!(matches!(refusals[0], Refusal::Cut { .. }), "{refusals:?}");
        assert!(
            matches!(refusals[1], Refusal::Source { .. }),
            "{refusals:?}"
        );
    }

    /// Goal: a record that is a dead letter for the second time is sent again under the name of the first. Method: a letter that was sent
    /// again before.
    #[test]
    fn a_second_letter_bears_the_name_of_the_first() {
        let config = Config::default_config();
        let log = log(&config);
        letter(&log, "headwater.behaviors", &[(HEADER_REDRIVE, b"3-9")]);
        let found = read(&config, &log, &mut |_| true).unwrap();
        let to = target(&config, &found[0], false).unwrap();
        redrive(&log, &[(&found[0], to)]).unwrap();
        let mut names = Vec::new();
        let behaviors = scan::whole(&log, Topic::Behaviors, "b").unwrap();
        scan::read(&log, &behaviors, &mut |record| {
            let all = record.headers.iter();
            let redrives = all.filter(|(name, _)| *name == HEADER_REDRIVE);
            names.extend(redrives.map(|(_, value)| value.map(<[u8]>::to_vec)));
        })
        .unwrap();
        assert_eq!(names, [Some(b"3-9".to_vec())]);
    }
}
