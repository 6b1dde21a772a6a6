//! Topics as any client of Apache Kafka sees them: librdkafka alone, none of the project's own code between.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};

/// Longest wait for the brokers: they are killed and started again on the way.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whose eyes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sees {
    /// A reader of committed transactions.
    Committed,
    /// A reader of everything, aborted transactions included.
    Everything,
}

/// A part of a partition.
#[derive(Clone, Debug)]
pub(crate) struct Stretch {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) from: i64,
    pub(crate) until: i64,
}

pub(crate) struct Onlooker {
    committed: BaseConsumer,
    everything: BaseConsumer,
}

fn consumer(bootstrap: &str, group: &str, isolation: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", group)
        .set("isolation.level", isolation)
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", "10")
        .set("reconnect.backoff.max.ms", "500")
        // The brokers' deaths are the test's own doing.
        .set("log_level", "1")
        .create()
        .unwrap()
}

/// The members of a group as the brokers see them.
pub(crate) fn describe_group(bootstrap: &str, group: &str) -> String {
    let groups = consumer(bootstrap, group, "read_committed")
        .fetch_group_list(Some(group), Duration::from_secs(5));
    let groups = match groups {
        Ok(groups) => groups,
        Err(error) => return format!("the brokers do not tell of group {group}: {error}"),
    };
    let mut said = String::new();
    for group in groups.groups() {
        said += &format!("group {} is {}\n", group.name(), group.state());
        for member in group.members() {
            let assigned = member.assignment().map_or(0, <[u8]>::len);
            let (client, id) = (member.client_id(), member.id());
            said += &format!("  {client} ({id}): an assignment of {assigned} bytes\n");
        }
    }
    said
}

impl Onlooker {
    /// `group` is whose committed positions it can tell; it never joins.
    pub(crate) fn new(bootstrap: &str, group: &str) -> Self {
        Self {
            committed: consumer(bootstrap, group, "read_committed"),
            everything: consumer(bootstrap, group, "read_uncommitted"),
        }
    }

    fn eyes(&self, sees: Sees) -> &BaseConsumer {
        match sees {
            Sees::Committed => &self.committed,
            Sees::Everything => &self.everything,
        }
    }

    /// Where these partitions end for such a reader.
    pub(crate) fn ends(&self, sees: Sees, of: &[(String, i32)]) -> BTreeMap<(String, i32), i64> {
        patiently("where partitions end", || {
            let mut asked = TopicPartitionList::new();
            for (topic, partition) in of {
                asked.add_partition_offset(topic, *partition, Offset::End)?;
            }
            let mut ends = BTreeMap::new();
            for end in self
                .eyes(sees)
                .offsets_for_times(asked, PATIENCE)?
                .elements()
            {
                end.error()?;
                let next = end.offset().to_raw().unwrap_or(-1);
                assert!(next >= 0, "{} has the end {:?}", end.topic(), end.offset());
                ends.insert((end.topic().to_owned(), end.partition()), next);
            }
            Ok(ends)
        })
    }

    /// What lies behind the last stable offset: records of transactions that are open. The ends are asked for in this order so that what is
    /// told was open when the answer came.
    pub(crate) fn open(&self, of: &[(String, i32)]) -> Vec<Stretch> {
        let ends = self.ends(Sees::Everything, of);
        let stable = self.ends(Sees::Committed, of);
        ends.into_iter()
            .filter(|(at, end)| stable[at] < *end)
            .map(|((topic, partition), until)| Stretch {
                from: stable[&(topic.clone(), partition)],
                topic,
                partition,
                until,
            })
            .collect()
    }

    /// Records in a stretch.
    pub(crate) fn records(&self, sees: Sees, stretch: &Stretch) -> usize {
        let mut records = 0;
        self.each(sees, std::slice::from_ref(stretch), |_| records += 1);
        records
    }

    /// The whole of a topic, as of now.
    pub(crate) fn whole(&self, topic: &str) -> Vec<Stretch> {
        let of: Vec<_> = (0..self.partitions(topic))
            .map(|partition| (topic.to_owned(), partition))
            .collect();
        let ends = self.ends(Sees::Everything, &of);
        ends.into_iter()
            .map(|((topic, partition), until)| Stretch {
                topic,
                partition,
                from: 0,
                until,
            })
            .collect()
    }

    pub(crate) fn partitions(&self, topic: &str) -> i32 {
        patiently("how many partitions there are", || {
            let metadata = self.committed.fetch_metadata(Some(topic), PATIENCE)?;
            let found = &metadata.topics()[0];
            found
                .error()
                .map_or(Ok(()), |code| Err(KafkaError::MetadataFetch(code.into())))?;
            Ok(found.partitions().len() as i32)
        })
    }

    /// The group's committed positions of a topic; 0 where there is none.
    pub(crate) fn committed(&self, topic: &str) -> BTreeMap<i32, i64> {
        let partitions = self.partitions(topic);
        patiently("the group's positions", || {
            let mut asked = TopicPartitionList::new();
            for partition in 0..partitions {
                asked.add_partition(topic, partition);
            }
            let told = self.everything.committed_offsets(asked, PATIENCE)?;
            Ok(told
                .elements()
                .iter()
                .map(|at| (at.partition(), at.offset().to_raw().unwrap_or(0).max(0)))
                .collect())
        })
    }

    /// Reads stretches of one topic, each to its end: waits first until nothing before it is open.
    pub(crate) fn each(
        &self,
        sees: Sees,
        stretches: &[Stretch],
        mut take: impl FnMut(&BorrowedMessage<'_>),
    ) {
        let mut asked = TopicPartitionList::new();
        let mut open: BTreeMap<i32, i64> = BTreeMap::new();
        for stretch in stretches
            .iter()
            .filter(|stretch| stretch.from < stretch.until)
        {
            self.wait_for(sees, stretch);
            let from = Offset::Offset(stretch.from);
            asked
                .add_partition_offset(&stretch.topic, stretch.partition, from)
                .unwrap();
            open.insert(stretch.partition, stretch.until);
        }
        let eyes = self.eyes(sees);
        eyes.assign(&asked).unwrap();
        let mut deadline = Instant::now() + PATIENCE;
        while !open.is_empty() {
            let ended = match eyes.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    deadline = Instant::now() + PATIENCE;
                    let until = open.get(&message.partition()).copied().unwrap_or(0);
                    if message.offset() < until {
                        take(&message);
                    }
                    (message.offset() + 1 >= until).then_some(message.partition())
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => Some(partition),
                Some(Err(_)) | None => None,
            };
            if let Some(partition) = ended {
                open.remove(&partition);
            }
            assert!(
                Instant::now() < deadline,
                "nothing came for {PATIENCE:?}; {stretches:?} are to be read, {open:?} are not at their end"
            );
        }
        eyes.unassign().unwrap();
    }

    /// Waits until such a reader can see the stretch's end.
    fn wait_for(&self, sees: Sees, stretch: &Stretch) {
        let at = (stretch.topic.clone(), stretch.partition);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let end = self.ends(sees, std::slice::from_ref(&at))[&at];
            if end >= stretch.until {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "a transaction stays open at {end} of {stretch:?}"
            );
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

/// A record's header `headwater-id`: what caused it, and which of its outputs it is.
pub(crate) fn id(message: &BorrowedMessage<'_>) -> String {
    let header = message.headers().and_then(|headers| {
        headers
            .iter()
            .find(|header| header.key == "headwater-id")
            .and_then(|header| header.value)
    });
    String::from_utf8_lossy(header.unwrap_or_default()).into_owned()
}

/// Asks until the brokers answer.
fn patiently<T>(what: &str, mut ask: impl FnMut() -> KafkaResult<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let error = match ask() {
            Ok(answer) => return answer,
            Err(error) => error,
        };
        assert!(Instant::now() < deadline, "asking {what}: {error}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}
