//! Several daemons on one log, in one host process: who owns a user, and what a host sees.

use std::sync::Arc;

use headwater::{Daemon, Handle, Host, Reason, StopError};
use headwater_config::{Config, Topic};
use headwater_consumers::log::local::LocalLog;
use headwater_consumers::log::{Log, Outgoing, TopicPartition};
use headwater_consumers::partitioner::partition_of;

use crate::log::{click, send};
use crate::program::{get, until};

fn config(folder: &std::path::Path, more: &str) -> Config {
    let text = format!(
        "log.kind = \"embedded\"\ntopics.partitions = 4\nadmin.address = \"127.0.0.1:0\"\nstate.path = \"{}\"\n{more}\n",
        folder.display()
    );
    Config::from_toml(&text).unwrap()
}

pub(crate) fn shared_log(config: &Config) -> Arc<dyn Log> {
    let log = LocalLog::in_memory(headwater::daemon::local_options(config));
    headwater::topics::create(config, &log).unwrap();
    Arc::new(log)
}

pub(crate) fn start(config: &Config, log: &Arc<dyn Log>) -> Handle {
    let host = Host {
        log: Some(Arc::clone(log)),
        ..Host::default()
    };
    Daemon::start_in(config.clone(), host).unwrap()
}

fn address(handle: &Handle) -> String {
    handle.address().unwrap().to_string()
}

/// Goal: any daemon answers for a user or names the owner, and one that leaves for good gives its partitions over at once. Method: two
/// daemons share four partitions; each is asked for users of both; one leaves.
#[test]
fn any_daemon_answers_or_names_the_owner() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let configs = [config(folders[0].path(), ""), config(folders[1].path(), "")];
    let log = shared_log(&configs[0]);
    for user in 0..8 {
        let user = format!("u{user}");
        send(
            &*log,
            Topic::Behaviors,
            &user,
            &click(&user, "i1", &format!("e{user}")),
        );
    }
    let first = start(&configs[0], &log);
    until("the first to be ready", || {
        first.ready().ready.then_some(())
    });
    let second = start(&configs[1], &log);
    until("both to have two partitions each", || {
        let halves = [&first, &second].map(|handle| handle.status().working().count());
        (halves == [2, 2]).then_some(())
    });
    assert!(first.ready().ready && second.ready().ready);

    for user in 0..8 {
        let partition = partition_of(format!("u{user}").as_bytes(), 4);
        let (owner, other) = if first.status().working().any(|working| working == partition) {
            (&first, &second)
        } else {
            (&second, &first)
        };
        until("the user at the owner", || {
            let (status, body) = get(&address(owner), &format!("/users/u{user}"))?;
            (status == 200 && body.contains("\"kind\":\"click\"")).then_some(())
        });
        until("the other to name the owner", || {
            let (status, body) = get(&address(other), &format!("/users/u{user}"))?;
            (status == 307 && body.contains(&address(owner))).then_some(())
        });
        let (_, body) = get(&address(other), &format!("/owner/u{user}")).unwrap();
        assert!(
            body.contains(&owner.status().instance) && body.contains("\"here\":false"),
            "{body}"
        );
    }

    let gone = first.status().instance;
    first.stop(true).unwrap();
    until("the second to have all", || {
        (second.status().working().count() == 4).then_some(())
    });
    until("the fleet to forget the first", || {
        let (_, body) = get(&address(&second), "/fleet")?;
        (!body.contains(&gone)).then_some(())
    });
    // A plain stop too: who is not there is not in the fleet.
    let gone = second.status().instance;
    second.stop(false).unwrap();
    let third = start(&config(folders[0].path(), ""), &log);
    until("the third to have read the fleet", || {
        let (_, body) = get(&address(&third), "/fleet")?;
        body.contains(&third.status().instance).then_some(())
    });
    let (_, body) = get(&address(&third), "/fleet").unwrap();
    assert!(!body.contains(&gone), "{body}");
    third.stop(true).unwrap();
}

/// Goal: a second copy of an instance is noticed by the first. Method: two daemons with one `instance.id` and folders of their own; the older
/// is replaced, says by whom, and ends with the exit code for it.
#[test]
fn an_instance_that_is_replaced_says_so() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let configs = folders
        .each_ref()
        .map(|folder| config(folder.path(), "instance.id = \"one\""));
    let log = shared_log(&configs[0]);
    let older = start(&configs[0], &log);
    until("the older to be ready", || {
        older.ready().ready.then_some(())
    });
    let newer = start(&configs[1], &log);
    send(&*log, Topic::Behaviors, "u1", &click("u1", "i1", "e1"));
    match older.wait() {
        Err(error @ StopError::Replaced { .. }) => {
            assert_eq!(error.exit(), headwater::Exit::Format);
            assert!(error.to_string().contains("`one`"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    until("the newer to be ready", || {
        newer.ready().ready.then_some(())
    });
    newer.stop(true).unwrap();
}

/// Goal: state that was made for another number of partitions stops the daemon with the way to migrate, before a behavior is folded.
/// Method: what two partitions hold is copied into a log of four; a daemon with an empty folder restores it.
#[test]
fn a_changed_number_of_partitions_stops_it() {
    let folder = tempfile::tempdir().unwrap();
    let small = Config::from_toml(&format!(
        "log.kind = \"embedded\"\ntopics.partitions = 2\nadmin.address = \"\"\nstate.path = \"{}\"\n",
        folder.path().display()
    ))
    .unwrap();
    let log = shared_log(&small);
    let handle = start(&small, &log);
    for user in 0..8 {
        let user = format!("u{user}");
        send(
            &*log,
            Topic::Behaviors,
            &user,
            &click(&user, "i1", &format!("e{user}")),
        );
    }
    until("state of every partition", || {
        let extents = (0..2).map(|number| {
            log.extent(TopicPartition::new(Topic::Changelog, number))
                .unwrap()
        });
        extents
            .into_iter()
            .all(|extent| extent.next > 0)
            .then_some(())
    });
    handle.stop(false).unwrap();

    let other = tempfile::tempdir().unwrap();
    let wide = config(other.path(), "");
    let wide_log = shared_log(&wide);
    for topic in [
        Topic::Changelog,
        Topic::Behaviors,
        Topic::ItemDeltas,
        Topic::ItemState,
    ] {
        copy(&*log, &*wide_log, topic);
    }
    let handle = start(&wide, &wide_log);
    match handle.wait() {
        Err(
            error @ StopError::PartitionsChanged {
                pinned: 2,
                found: 4,
                ..
            },
        ) => {
            assert!(error.to_string().contains("topics create"), "{error}");
            assert_eq!(error.exit(), headwater::Exit::Configuration);
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        handle.ready().reasons[0],
        Reason::Stopping { failure: Some(_) }
    ));
}

/// Copies every partition's records, and then some, so that no position is past the end.
fn copy(from: &dyn Log, to: &dyn Log, topic: Topic) {
    use headwater_consumers::log::{PollLimit, RecordBatch, Start};
    for partition in 0..2 {
        let of = TopicPartition::new(topic, partition);
        let next = from.extent(of).unwrap().next;
        if next == 0 {
            continue;
        }
        let mut reader = from.reader().unwrap();
        reader.assign(of, Start::Beginning).unwrap();
        let mut producer = to.producer().unwrap();
        let mut batch = RecordBatch::default();
        until("the end of a partition", || {
            let limit = PollLimit {
                records: 1000,
                bytes: 1 << 20,
                wait: std::time::Duration::from_millis(10),
            };
            reader.poll(limit, &mut batch).unwrap();
            for record in batch.iter() {
                let sent = Outgoing {
                    to: of,
                    key: record.key,
                    value: record.value,
                    headers: &[],
                };
                producer.send(sent).unwrap();
            }
            batch
                .ends()
                .iter()
                .any(|(_, position)| *position >= next)
                .then_some(())
        });
        producer.flush().unwrap();
        while matches!(topic, Topic::Behaviors | Topic::ItemDeltas)
            && to.extent(of).unwrap().next < next
        {
            let filler = Outgoing {
                to: of,
                key: Some(b"filler"),
                value: Some(b"{"),
                headers: &[],
            };
            producer.send(filler).unwrap();
            producer.flush().unwrap();
        }
    }
}

/// Goal: a host may start, stop and start again in one process, with a registry of its own. Method: twice on one folder; then two
/// daemons with one registry, of which the second is refused and leaves nothing behind.
#[test]
fn a_host_starts_and_stops_it_at_will() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "");
    let mut instances = Vec::new();
    for _ in 0..2 {
        let handle = Daemon::start(config.clone()).unwrap();
        until("readiness", || handle.ready().ready.then_some(()));
        instances.push(handle.status().instance);
        handle.stop(false).unwrap();
    }
    assert_eq!(
        instances[0], instances[1],
        "a restarted daemon comes back as itself"
    );

    let registry = prometheus::Registry::new();
    let host = |log| Host {
        registry: Some(registry.clone()),
        log,
    };
    let first = Daemon::start_in(config.clone(), host(None)).unwrap();
    let other = tempfile::tempdir().unwrap();
    let second = self::config(other.path(), "");
    assert!(Daemon::start_in(second.clone(), host(None)).is_err());
    drop(first);
    Daemon::start(second).unwrap().stop(false).unwrap();
}
