//! The fleet: who is there, and who owns which partition.
//!
//! Every instance announces itself in a compacted topic, keyed by its name, and reads what the others announce: so any of them can
//! name the owner of a user. An announcement is a hint and no proof: who owns a partition is decided by the group alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_config::{Config, Topic};
use headwater_consumers::log::{
    Log, LogError, Outgoing, PollLimit, Producer, Reader, RecordBatch, Start, TopicPartition,
};
use headwater_consumers::partitioner::partition_of;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::world::unix_ms;

/// How often an instance announces itself while nothing changes.
pub const ANNOUNCE_EVERY: Duration = Duration::from_secs(3);
/// How old an announcement may be before its instance counts as gone: three were missed, with some room for clocks that differ.
pub const FRESH_MS: i64 = 12_000;
/// How long one look at the topic waits.
const LOOK: Duration = Duration::from_millis(100);

/// What an instance says of itself.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Announcement {
    /// Its name.
    pub instance: String,
    /// Where its HTTP listens, if it does.
    pub address: Option<String>,
    /// Partitions that work there.
    pub working: Vec<i32>,
    /// Partitions that are being restored there.
    pub restoring: Vec<i32>,
    /// The version of its build.
    pub version: String,
    /// Hash of what its configuration must have in common with the others'.
    pub config_hash: String,
    /// When it said so, Unix milliseconds of its own clock.
    pub time: i64,
}

/// Who owns a partition, as far as was announced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// The partition.
    pub partition: i32,
    /// The instance.
    pub instance: String,
    /// Where its HTTP listens.
    pub address: Option<String>,
    /// `working` or `restoring`.
    pub state: &'static str,
    /// How old the announcement is, in milliseconds.
    pub age_ms: i64,
}

/// What the instances announced lately.
#[derive(Debug, Default)]
pub struct Fleet {
    known: RwLock<BTreeMap<String, Announcement>>,
}

impl Fleet {
    /// All instances of which an announcement is there: those that ended without a word too, until the topic forgets them.
    #[must_use]
    pub fn all(&self) -> Vec<Announcement> {
        self.known.read().values().cloned().collect()
    }

    /// How many announced themselves lately.
    #[must_use]
    pub fn fresh(&self, now: i64) -> usize {
        let known = self.known.read();
        known.values().filter(|said| is_fresh(said, now)).count()
    }

    /// Instances that announced themselves lately with another configuration than ours, as far as that must be common, and its hash.
    #[must_use]
    pub fn of_other_configurations(&self, ours: &str, now: i64) -> Vec<(String, String)> {
        let known = self.known.read();
        let others = known
            .values()
            .filter(|said| is_fresh(said, now) && said.config_hash != ours);
        others
            .map(|said| (said.instance.clone(), said.config_hash.clone()))
            .collect()
    }

    /// Who owns a partition: of fresh announcements one that works on it before one that restores it, the newest of each.
    #[must_use]
    pub fn owner(&self, partition: i32, now: i64) -> Option<Owner> {
        let known = self.known.read();
        let claims = known
            .values()
            .filter(|said| is_fresh(said, now))
            .filter_map(|said| {
                let works = said.working.contains(&partition);
                (works || said.restoring.contains(&partition)).then_some((works, said))
            });
        claims
            .max_by_key(|(works, said)| (*works, said.time))
            .map(|(works, said)| Owner {
                partition,
                instance: said.instance.clone(),
                address: said.address.clone(),
                state: if works { "working" } else { "restoring" },
                age_ms: (now - said.time).max(0),
            })
    }

    /// Whether instances other than `me` work on every partition.
    #[must_use]
    pub fn others_have_all(&self, me: &str, partitions: i32, now: i64) -> bool {
        let known = self.known.read();
        (0..partitions).all(|partition| {
            known.values().any(|said| {
                said.instance != me && is_fresh(said, now) && said.working.contains(&partition)
            })
        })
    }

    /// Takes in a record of the topic; one that cannot be read is another build's, and is passed over.
    fn take_in(&self, key: Option<&[u8]>, value: Option<&[u8]>) {
        let Some(instance) = key.and_then(|key| std::str::from_utf8(key).ok()) else {
            return;
        };
        let said = value.map(serde_json::from_slice::<Announcement>);
        let mut known = self.known.write();
        match said {
            Some(Ok(said)) => drop(known.insert(instance.to_owned(), said)),
            Some(Err(error)) => tracing::debug!(instance, %error, "announcement not read"),
            None => drop(known.remove(instance)),
        }
    }
}

fn is_fresh(said: &Announcement, now: i64) -> bool {
    // A clock that is ahead of ours is no reason to forget its instance.
    now - said.time <= FRESH_MS
}

/// Hash of what the instances' configurations must have in common: all but name, folders and address.
#[must_use]
pub fn config_hash(config: &Config) -> String {
    let mut common = config.clone();
    common.instance.id = None;
    common.instance.workers = 1;
    common.state.path.clear();
    common.log.path = None;
    common.models.path = None;
    common.texts.encode = true;
    common.admin.address = None;
    let hash = sha2::Sha256::digest(format!("{common:?}").as_bytes());
    hash[..8].iter().fold(String::new(), |mut text, byte| {
        use std::fmt::Write as _;
        write!(text, "{byte:02x}").expect("invariant: writing to a String does not fail");
        text
    })
}

/// One instance's part in the fleet's topic.
pub(crate) struct Speaker {
    fleet: Arc<Fleet>,
    reader: Box<dyn Reader>,
    producer: Box<dyn Producer>,
    partitions: i32,
    batch: RecordBatch,
    last: Option<(Announcement, Instant)>,
}

impl Speaker {
    /// Reads the topic from its beginning.
    pub(crate) fn new(log: &dyn Log, name: &str, fleet: Arc<Fleet>) -> Result<Self, LogError> {
        let facts = log
            .describe(Topic::Fleet)?
            .ok_or_else(|| LogError::NoTopic {
                name: name.to_owned(),
            })?;
        let mut reader = log.reader()?;
        for partition in 0..facts.partitions {
            reader.assign(
                TopicPartition::new(Topic::Fleet, partition),
                Start::Beginning,
            )?;
        }
        Ok(Self {
            fleet,
            reader,
            producer: log.producer()?,
            partitions: facts.partitions,
            batch: RecordBatch::default(),
            last: None,
        })
    }

    /// Takes in what the others said since.
    pub(crate) fn listen(&mut self) -> Result<(), LogError> {
        let limit = PollLimit {
            records: 1_000,
            bytes: 1 << 20,
            wait: LOOK,
        };
        self.reader.poll(limit, &mut self.batch)?;
        for record in self.batch.iter() {
            self.fleet.take_in(record.key, record.value);
        }
        Ok(())
    }

    /// Says what we are, if it has changed or was said a while ago.
    pub(crate) fn announce(&mut self, said: Announcement) -> Result<(), LogError> {
        let is_news = self.last.as_ref().is_none_or(|(last, at)| {
            let same = Announcement {
                time: last.time,
                ..said.clone()
            };
            same != *last || at.elapsed() >= ANNOUNCE_EVERY
        });
        if !is_news {
            return Ok(());
        }
        let value = serde_json::to_vec(&said).expect("invariant: an announcement is plain JSON");
        self.send(&said.instance, Some(&value))?;
        self.last = Some((said, Instant::now()));
        Ok(())
    }

    /// Says that an instance is there no more, or not until it announces itself again.
    pub(crate) fn leave(&mut self, instance: &str) -> Result<(), LogError> {
        self.send(instance, None)
    }

    fn send(&mut self, instance: &str, value: Option<&[u8]>) -> Result<(), LogError> {
        let partition = partition_of(instance.as_bytes(), self.partitions);
        self.producer.send(Outgoing {
            to: TopicPartition::new(Topic::Fleet, partition),
            key: Some(instance.as_bytes()),
            value,
            headers: &[],
        })?;
        self.producer.flush()
    }
}

/// The time as announcements have it.
pub(crate) fn now() -> i64 {
    unix_ms()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(instance: &str, working: &[i32], restoring: &[i32], time: i64) -> Announcement {
        Announcement {
            instance: instance.to_owned(),
            address: Some(format!("{instance}:1")),
            working: working.to_vec(),
            restoring: restoring.to_vec(),
            version: "1".to_owned(),
            config_hash: String::new(),
            time,
        }
    }

    fn fleet(said: &[Announcement]) -> Fleet {
        let fleet = Fleet::default();
        for said in said {
            let value = serde_json::to_vec(said).unwrap();
            fleet.take_in(Some(said.instance.as_bytes()), Some(&value));
        }
        fleet
    }

    /// Goal: the owner is who works on it, lately. Method: a gone owner, one that restores, one that works; then nobody.
    #[test]
    fn the_owner_is_who_works_on_it_lately() {
        let now = 1_000_000;
        let fleet = fleet(&[
            says("gone", &[0, 1], &[], now - FRESH_MS - 1),
            says("restores", &[], &[0], now),
            says("works", &[0], &[], now - 10),
        ]);
        assert_eq!(fleet.owner(0, now).unwrap().instance, "works");
        assert_eq!(fleet.owner(1, now), None);
        assert_eq!(fleet.fresh(now), 2);
        fleet.take_in(Some(b"works"), None);
        let owner = fleet.owner(0, now).unwrap();
        assert_eq!(
            (owner.instance.as_str(), owner.state),
            ("restores", "restoring")
        );
        fleet.take_in(Some(b"restores"), Some(b"{"));
        assert_eq!(fleet.owner(0, now).unwrap().instance, "restores");
    }

    /// Goal: a spare instance knows that it is one. Method: others with all partitions, less one, and our own claim, which does not count.
    #[test]
    fn others_have_all_only_without_us() {
        let now = 5;
        let fleet = fleet(&[says("a", &[0], &[], now), says("me", &[1], &[], now)]);
        assert!(!fleet.others_have_all("me", 2, now));
        assert!(fleet.others_have_all("me", 1, now));
        assert!(fleet.others_have_all("spare", 2, now));
    }

    /// Goal: instances of one configuration agree, and a changed setting shows. Method: names and folders differ, then a limit.
    #[test]
    fn the_hash_is_of_what_is_common() {
        let one = Config::from_toml("[instance]\nid = \"a\"\n[state]\npath = \"x\"\n").unwrap();
        let two = Config::from_toml("[instance]\nid = \"b\"\nworkers = 2\n[state]\npath = \"y\"\n")
            .unwrap();
        let other = Config::from_toml("[state]\nrecent = 64\n").unwrap();
        assert_eq!(config_hash(&one), config_hash(&two));
        assert_ne!(config_hash(&one), config_hash(&other));
    }
    /// Goal: builds of different versions understand one another. Method: key and value of an announcement against the golden file
    /// (`BLESS=1` writes it again), which is read; with a key that a newer build added it is read too, with one fewer it is passed over.
    #[test]
    fn announcements_are_golden() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/fleet/golden.json");
        let said = says("hw-0123456789ab", &[0, 3], &[7], 1_700_000_000_000);
        let now = serde_json::to_string(&said).unwrap();
        let key = said.instance.clone();
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(path, format!("{key} {now}\n")).unwrap();
        }
        let held = std::fs::read_to_string(path).unwrap();
        assert_eq!(format!("{key} {now}"), held.trim_end());
        let value = held.trim_end().split_once(' ').unwrap().1;
        let newer = value.replacen('{', "{\"zone\":[1],", 1);
        for (value, read) in [
            (value, true),
            (&*newer, true),
            (&*value.replace("working", "walking"), false),
        ] {
            let fleet = Fleet::default();
            fleet.take_in(Some(key.as_bytes()), Some(value.as_bytes()));
            assert_eq!(fleet.all() == [said.clone()], read, "{value}");
        }
    }
}
