//! Followers over the log inside this process: what two instances know of an item, and one that starts after compaction.

use std::sync::Arc;

use super::*;
use crate::log::local::{LocalLog, Options};
use crate::log::{Outgoing, TopicSpec};

const NOW: i64 = 1_700_000_000_000;

struct Bench {
    log: Arc<LocalLog>,
    config: Config,
}

impl Bench {
    fn new() -> Self {
        let log = Arc::new(LocalLog::in_memory(Options::new(|| NOW)));
        for topic in [Topic::Items, Topic::ItemState] {
            let spec = TopicSpec {
                topic,
                partitions: 1,
                replication_factor: 1,
                min_insync_replicas: 1,
            };
            log.create(&spec).unwrap();
        }
        Self {
            log,
            config: Config::default_config(),
        }
    }

    /// A record of the item: of this time and title, or null.
    fn say(&self, item: Option<(i64, &str)>) {
        self.say_with(item, &[]);
    }

    fn say_with(&self, item: Option<(i64, &str)>, headers: &[(&str, &[u8])]) {
        let value = item.map(|(time, title)| {
            format!(
                r#"{{"item_id":"i","time":{},"fields":{{"title":"{title}"}}}}"#,
                NOW + time
            )
        });
        let mut producer = self.log.producer().unwrap();
        producer
            .send(Outgoing {
                to: TopicPartition::new(Topic::Items, 0),
                key: Some(b"i"),
                value: value.as_deref().map(str::as_bytes),
                headers,
            })
            .unwrap();
        producer.flush().unwrap();
    }

    fn follower(&self) -> Instance {
        let items = SharedItems::default();
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let shared = Arc::clone(&items);
        let follower = ItemFollower::new(&self.config, &*self.log, shared, metrics).unwrap();
        let mut instance = Instance { items, follower };
        instance.follow();
        instance
    }

    /// All records of the topic.
    fn records(&self) -> RecordBatch {
        let mut reader = self.log.reader().unwrap();
        reader
            .assign(TopicPartition::new(Topic::Items, 0), Start::Beginning)
            .unwrap();
        let mut batch = RecordBatch::default();
        reader.poll(LIMIT, &mut batch).unwrap();
        batch
    }

    /// What compaction leaves: the last record of the item, and its offset; not even that where it is null.
    fn compacted(&self) -> (i64, Self) {
        let batch = self.records();
        let last = batch.iter().last().unwrap();
        let bench = Self::new();
        if last.value.is_some() {
            let headers: Vec<(&str, &[u8])> = last
                .headers
                .iter()
                .map(|(name, value)| (name, value.unwrap()))
                .collect();
            let mut producer = bench.log.producer().unwrap();
            producer
                .send(Outgoing {
                    to: last.at,
                    key: last.key,
                    value: last.value,
                    headers: &headers,
                })
                .unwrap();
            producer.flush().unwrap();
        }
        (last.offset, bench)
    }
}

const LIMIT: PollLimit = PollLimit {
    records: 100,
    bytes: 1 << 20,
    wait: std::time::Duration::ZERO,
};

struct Instance {
    items: SharedItems,
    follower: ItemFollower,
}

impl Instance {
    fn follow(&mut self) {
        while self.follower.advance(LIMIT, Timestamp(NOW)).unwrap() > 0 {}
    }

    fn put_back(&mut self, bench: &Bench) -> usize {
        self.follower.put_back(&*bench.log, &|_| true).unwrap()
    }

    fn title(&self) -> Option<String> {
        let items = self.items.read();
        let item = items.item("i")?;
        Some(String::from(&*item.fields["title"]))
    }
}

fn some(title: &str) -> Option<String> {
    Some(title.to_owned())
}

/// Goal: the record with the newer time holds on every instance, also on one that starts over what compaction leaves. Method: an older record
/// after a newer one; one instance owns the item and puts the newer back.
#[test]
fn the_newer_record_holds_before_and_after_compaction() {
    let bench = Bench::new();
    bench.say_with(Some((-10, "new")), &[("theirs", b"kept")]);
    bench.say(Some((-20, "old")));
    let (mut owner, mut other) = (bench.follower(), bench.follower());
    assert_eq!((owner.title(), other.title()), (some("new"), some("new")));
    assert_eq!(owner.follower.metrics.items_out_of_order.get(), 1);
    let nobody = other.follower.put_back(&*bench.log, &|_| false).unwrap();
    assert_eq!(nobody, 0);
    assert_eq!(owner.put_back(&bench), 1);
    assert_eq!(owner.put_back(&bench), 0, "once");
    owner.follow();
    other.follow();
    assert_eq!((owner.title(), other.title()), (some("new"), some("new")));
    // It has come back: nothing is left to do, for nobody.
    assert_eq!((owner.put_back(&bench), other.put_back(&bench)), (0, 0));

    let (offset, left) = bench.compacted();
    assert_eq!(offset, 2);
    let put_back = left.records();
    let headers = put_back.get(0).headers;
    assert_eq!(headers.get("theirs"), Some(&b"kept"[..]), "as it was");
    assert_eq!(headers.get(HEADER_PUT_BACK), Some(&b"1"[..]));
    let mut late = left.follower();
    assert_eq!(late.title(), some("new"));
    assert_eq!(late.put_back(&left), 0);
}

/// Goal: of equal times the later record holds, and a null deletes whatever the times; after it, any record holds. Method: each in turn.
#[test]
fn equal_times_and_nulls_go_by_their_place() {
    let bench = Bench::new();
    let mut instance = bench.follower();
    for (said, held) in [
        (Some((-10, "a")), some("a")),
        (Some((-10, "b")), some("b")),
        (Some((-20, "c")), some("b")),
        (None, None),
        (Some((-30, "d")), some("d")),
    ] {
        bench.say(said);
        instance.follow();
        assert_eq!(instance.title(), held, "after {said:?}");
    }
    assert_eq!(instance.put_back(&bench), 0);
}

/// Goal: what is put back late does not undo what was said in between. Method: records that were put back behind the older one, as by an
/// instance that had not read the null, or the newer record of the same time, that was written meanwhile.
#[test]
fn what_is_put_back_too_late_is_void() {
    for between in [None, Some((-10, "between"))] {
        let bench = Bench::new();
        bench.say(Some((-10, "new")));
        bench.say(Some((-20, "old")));
        let mut instance = bench.follower();
        bench.say(between);
        bench.say_with(Some((-10, "new")), &[(HEADER_PUT_BACK, b"1")]);
        instance.follow();
        let held = between.map(|(_, title)| title.to_owned());
        assert_eq!(instance.title(), held);
        let mut witness = bench.follower();
        assert_eq!(witness.title(), held, "whoever reads it all");

        assert_eq!(instance.put_back(&bench), 1);
        instance.follow();
        witness.follow();
        assert_eq!(
            (instance.title(), witness.title()),
            (held.clone(), held.clone())
        );
        assert_eq!(witness.put_back(&bench), 0);
        assert_eq!(bench.compacted().1.follower().title(), held);
    }
}

/// Goal: the same, where all had come into order again before the null. Method: a record of the same time, then null, then what was put back
/// behind the older one.
#[test]
fn what_is_put_back_behind_a_null_is_void() {
    let bench = Bench::new();
    for said in [
        Some((-10, "new")),
        Some((-20, "old")),
        Some((-10, "newest")),
        None,
    ] {
        bench.say(said);
    }
    bench.say_with(Some((-10, "new")), &[(HEADER_PUT_BACK, b"1")]);
    let mut instance = bench.follower();
    assert_eq!(instance.title(), None);
    assert_eq!(instance.put_back(&bench), 1);
    assert_eq!(bench.compacted().1.follower().title(), None);
}

/// Goal: two owners at once, as while a partition moves, come to an end. Method: both put the same record back.
#[test]
fn two_who_put_back_agree() {
    let bench = Bench::new();
    bench.say(Some((-10, "new")));
    bench.say(Some((-20, "old")));
    let (mut one, mut two) = (bench.follower(), bench.follower());
    assert_eq!((one.put_back(&bench), two.put_back(&bench)), (1, 1));
    one.follow();
    two.follow();
    assert_eq!((one.put_back(&bench), two.put_back(&bench)), (0, 0));
    let (offset, left) = bench.compacted();
    assert_eq!(offset, 3);
    assert_eq!(left.follower().title(), some("new"));
}

/// Goal: an item of the future, which nothing could replace, is not read. Method: a record an hour ahead of the log's clock.
#[test]
fn an_item_ahead_of_time_is_not_read() {
    let bench = Bench::new();
    bench.say(Some((-10, "new")));
    bench.say(Some((3_600_000, "future")));
    let instance = bench.follower();
    assert_eq!(instance.title(), some("new"));
    let refused = &instance.follower.metrics.dead_lettered;
    let refused = refused.with_label_values(&["items", "ahead_of_time"]);
    assert_eq!(refused.get(), 1);
}

/// Goal: PIPE-2 for items: a record that cannot be read is counted and changes nothing, and what is behind it is read. Method: a good item,
/// then everything that is bad under its key, then another good one.
#[test]
fn what_cannot_be_read_changes_nothing() {
    let mut bench = Bench::new();
    bench.config.items.attributes = vec!["author".to_owned()];
    let items = SharedItems::default();
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    let shared = Arc::clone(&items);
    let follower = ItemFollower::new(&bench.config, &*bench.log, shared, metrics.clone()).unwrap();
    let mut instance = Instance { items, follower };
    let send = |key: &[u8], value: Option<&[u8]>| {
        let to = TopicPartition::new(Topic::Items, 0);
        let mut producer = bench.log.producer().unwrap();
        producer
            .send(Outgoing {
                to,
                key: Some(key),
                value,
                headers: &[],
            })
            .unwrap();
        producer.flush().unwrap();
    };
    let item = |id: &str, author: &str, categories: usize| {
        let categories: Vec<String> = (0..categories).map(|number| format!("c{number}")).collect();
        let record = serde_json::json!({"item_id": id, "time": NOW, "categories": categories, "fields": {"author": author}});
        record.to_string().into_bytes()
    };
    send(b"i", Some(&item("i", "x", 2)));
    let large = vec![b'x'; 2_000_000];
    let long = serde_json::json!({"item_id": "i", "time": NOW, "categories": ["x".repeat(257)]});
    for (value, code) in [
        (&b"{"[..], "unreadable"),
        (b"[]", "wrong_type"),
        (&large, "too_large"),
        (&item("i", "x", 257), "bad_value"),
        (long.to_string().as_bytes(), "bad_id"),
        (&item("j", "x", 1), "key_differs"),
    ] {
        let bad = || {
            let counter = &metrics.dead_lettered;
            counter.with_label_values(&["items", code]).get()
        };
        let before = bad();
        send(b"i", Some(value));
        instance.follow();
        assert_eq!(bad(), before + 1, "{code}");
        let table = instance.items.read();
        assert_eq!(table.item("i").unwrap().categories.len(), 2, "{code}");
    }
    send(&large, Some(b"{"));
    send(&large, None);
    send(b"k", Some(&item("k", "y", 1)));
    instance.follow();
    assert!(instance.follower.is_caught_up());
    let table = instance.items.read();
    assert_eq!((table.len(), table.item("k").is_some()), (2, true));
}
