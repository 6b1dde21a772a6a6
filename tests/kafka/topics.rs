//! Topics that are not what they were: made anew, widened, of another cleanup policy. A daemon that went on would count behaviors twice
//! or never, and nobody could notice.

use headwater::{Daemon, StartError, StopError};
use headwater_config::{Config, Topic};

use crate::admin;
use crate::broker::{bootstrap, until, values};
use crate::daemon::{PARTITIONS, behave, clicks, config, counter, log, wait_counted, words};
use headwater_consumers::log::{Log, Outgoing, TopicPartition};
use headwater_consumers::partitioner::partition_of;

/// How a daemon ends that is started with this configuration; it must, and by itself.
fn refusal(config: &Config) -> (u8, String) {
    match Daemon::start(config.clone()) {
        Err(error) => (error.exit().code(), words(&error)),
        Ok(handle) => {
            until("the daemon's end", || (!handle.is_running()).then_some(()));
            let error = handle.wait().unwrap_err();
            assert_eq!(
                counter(&handle, "headwater_state_behaviors_folded_total"),
                0,
                "{}",
                words(&error)
            );
            (error.exit().code(), words(&error))
        }
    }
}

/// Records in all partitions of a topic.
fn records(log: &dyn Log, topic: Topic) -> usize {
    let partitions = (0..PARTITIONS).map(|number| TopicPartition::new(topic, number));
    partitions.map(|of| values(log, of).len()).sum()
}

/// Goal: a topic that was made anew is refused with its name and position, whether it is behind the position or beyond it by now; nothing is
/// skipped, and nothing read again. Method: 200 behaviors are counted; then each topic is deleted and made again, with fewer records and
/// with more.
#[test]
fn a_topic_made_anew_is_refused() {
    let state = tempfile::tempdir().unwrap();
    for (topic, again, says) in [
        (Topic::Behaviors, 0, "the topic was made anew"),
        (Topic::Behaviors, 40, "the topic was made anew"),
        (Topic::Behaviors, 2_000, "the topic was made anew"),
        (Topic::Changelog, 0, "it was made anew"),
        (Topic::ItemState, 0, "it was made anew"),
    ] {
        let name = format!("anew-{}-{again}", topic.key());
        let config = config(&bootstrap(), &name, &state.path().join(&name), "");
        let log = log(&config);
        behave(&*log, &clicks(0, 200));
        let handle = Daemon::start(config.clone()).unwrap();
        wait_counted(&handle, 200);
        until("the statistics to be written", || {
            (records(&*log, Topic::ItemState) > 0).then_some(())
        });
        handle.stop(false).unwrap();
        let scores = records(&*log, Topic::Scores);
        assert_eq!(scores, 200);

        let made = config.topic_name(topic);
        admin::delete(&bootstrap(), &made);
        let policy = if topic == Topic::Behaviors {
            "delete"
        } else {
            "compact"
        };
        admin::create(
            &bootstrap(),
            &made,
            PARTITIONS,
            &[("cleanup.policy", policy)],
        );
        behave(&*log, &clicks(1_000, again));
        let (code, said) = refusal(&config);
        assert!(said.contains(says), "{name}: {said}");
        assert!(code == 2 || code == 3, "{name}: {code}");
        assert_eq!(records(&*log, Topic::Scores), scores, "{name}");
        if topic == Topic::Changelog {
            // Without the copy on disk the positions of the group are what tells.
            std::fs::remove_dir_all(&config.state.path).unwrap();
            let (code, said) = refusal(&config);
            assert!(
                said.contains("the changelog reflects the input up to 0, the group has committed"),
                "{said}"
            );
            assert_eq!(code, 3);
        }
    }
}

/// Goal: a changelog, or item state, that is made anew under a running daemon stops it, before the loss is hidden by what is written after. Method: 2,000
/// behaviors are counted, the topic is deleted and made again, and a few more come.
#[test]
fn a_topic_made_anew_under_a_daemon_stops_it() {
    let state = tempfile::tempdir().unwrap();
    for topic in [Topic::Changelog, Topic::ItemState] {
        let name = format!("under-{}", topic.key());
        let config = config(&bootstrap(), &name, &state.path().join(&name), "");
        let log = log(&config);
        behave(&*log, &clicks(0, 2_000));
        let handle = Daemon::start(config.clone()).unwrap();
        wait_counted(&handle, 2_000);
        until("the statistics to be written", || {
            (records(&*log, Topic::ItemState) > 0).then_some(())
        });
        let made = config.topic_name(topic);
        admin::delete(&bootstrap(), &made);
        admin::create(
            &bootstrap(),
            &made,
            PARTITIONS,
            &[("cleanup.policy", "compact")],
        );
        let mut from = 2_000;
        until("the daemon's end", || {
            from += 40;
            behave(&*log, &clicks(from, 40));
            (!handle.is_running()).then_some(())
        });
        let error = handle.wait().unwrap_err();
        let said = words(&error);
        assert!(
            said.contains(&format!("{topic} partition"))
                && (said.contains("it was made anew while this daemon wrote to it")
                    || said.contains("it was made anew. What it held")),
            "{said}"
        );
        assert!([2, 3].contains(&error.exit().code()), "{said}");
    }
}

/// Goal: another number of partitions is refused with the topic, both numbers, and what to do: while a daemon runs, at the next start, and
/// where all topics were widened. Method: each, after 200 behaviors were counted.
#[test]
fn another_number_of_partitions_is_refused() {
    let state = tempfile::tempdir().unwrap();
    let config = config(&bootstrap(), "wider", &state.path().join("state"), "");
    let log = log(&config);
    behave(&*log, &clicks(0, 200));
    let handle = Daemon::start(config.clone()).unwrap();
    wait_counted(&handle, 200);
    let behaviors = config.topic_name(Topic::Behaviors);
    admin::widen(&bootstrap(), &behaviors, 6);
    // Of producers that know of the six: users' records go elsewhere.
    let mut producer = log.producer().unwrap();
    for (user, value) in clicks(200, 300) {
        let partition = partition_of(user.as_bytes(), 6);
        if partition < PARTITIONS && partition != partition_of(user.as_bytes(), PARTITIONS) {
            let record = Outgoing {
                to: TopicPartition::new(Topic::Behaviors, partition),
                key: Some(user.as_bytes()),
                value: Some(&value),
                headers: &[],
            };
            producer.send(record).unwrap();
        }
    }
    producer.flush().unwrap();
    until("the daemon's end", || (!handle.is_running()).then_some(()));
    assert_eq!(
        counter(&handle, "headwater_state_behaviors_folded_total"),
        200
    );
    let error = handle.wait().unwrap_err();
    assert!(
        matches!(error, StopError::PartitionsChanged { pinned: 4, .. }),
        "{}",
        words(&error)
    );
    assert!(
        error
            .to_string()
            .contains(&format!("topic `{behaviors}` had 4 partitions")),
        "{error}"
    );
    drop(handle);

    let Err(StartError::Topics(error)) = Daemon::start(config.clone()) else {
        panic!("it must not start");
    };
    let said = error.to_string();
    assert!(
        said.contains(&format!(
            "topic `{behaviors}` (topics.behaviors): has 6 partitions, and every topic beside it has 4: it was widened"
        )),
        "{said}"
    );
    assert!(!said.contains("--alter"), "{said}");

    for topic in Topic::ALL {
        let is_used = headwater::topics::is_used(&config, topic);
        if is_used && ![Topic::Behaviors, Topic::Fleet].contains(&topic) {
            admin::widen(&bootstrap(), &config.topic_name(topic), 6);
        }
    }
    let (code, said) = refusal(&config);
    assert_eq!(code, 2, "{said}");
    assert!(
        said.contains(&format!(
            "its state was made when topic `{behaviors}` had 4 partitions, and the topic has 6"
        )),
        "{said}"
    );
}

/// Goal: a changelog that would lose state, and one whose settings are as they must be, are told apart on the brokers themselves. Method: a
/// changelog with `delete`, and with both; then right.
#[test]
fn a_wrong_cleanup_policy_is_refused() {
    let state = tempfile::tempdir().unwrap();
    for policy in ["delete", "compact,delete"] {
        let name = format!("policy-{}", policy.len());
        let config = config(&bootstrap(), &name, &state.path().join(&name), "");
        let changelog = config.topic_name(Topic::Changelog);
        // Connecting makes nothing.
        admin::create(
            &bootstrap(),
            &changelog,
            PARTITIONS,
            &[("cleanup.policy", policy)],
        );
        log(&config);
        let (code, said) = refusal(&config);
        assert_eq!(code, 2, "{said}");
        let told = format!(
            "topic `{changelog}` (topics.changelog): has cleanup.policy={policy} and must have cleanup.policy=compact"
        );
        assert!(said.contains(&told), "{said}");
        admin::delete(&bootstrap(), &changelog);
        admin::create(
            &bootstrap(),
            &changelog,
            PARTITIONS,
            &[("cleanup.policy", "compact")],
        );
        Daemon::start(config).unwrap().stop(true).unwrap();
    }
}

/// Goal: a topic that is deleted while a daemon runs is named. Method: the input, and what everything is written to.
#[test]
fn a_topic_that_is_deleted_is_named() {
    let state = tempfile::tempdir().unwrap();
    let quick = "kafka.client.\"topic.metadata.refresh.interval.ms\" = \"500\"\nkafka.operation_timeout = \"5s\"";
    for topic in [Topic::Behaviors, Topic::Items, Topic::Changelog] {
        let name = format!("deleted-{}", topic.key());
        let config = config(&bootstrap(), &name, &state.path().join(&name), quick);
        let log = log(&config);
        behave(&*log, &clicks(0, 100));
        let handle = Daemon::start(config.clone()).unwrap();
        wait_counted(&handle, 100);
        let gone = config.topic_name(topic);
        admin::delete(&bootstrap(), &gone);
        // What is written to is missed when something is written.
        if topic == Topic::Changelog {
            behave(&*log, &clicks(100, 10));
        }
        until("the daemon's end", || (!handle.is_running()).then_some(()));
        let error = handle.wait().unwrap_err();
        let said = words(&error);
        assert!(
            said.contains(&format!("topic `{gone}` does not exist")),
            "{said}"
        );
        assert_eq!(error.exit().code(), 2, "{said}");
    }
}
