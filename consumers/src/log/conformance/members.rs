//! Cases of the suite about the group: who gets which partitions, and what a move of them means.
//!
//! Before them, `conformance` brings up the log; after them, it tells which failed.

use std::collections::BTreeSet;

use headwater_config::Topic;

use super::{Bench, Driver, Ground, input, plain};
use crate::log::{Start, TopicPartition};

const TOPICS: [(Topic, i32); 2] = [(Topic::Behaviors, 4), (Topic::Changelog, 4)];
const ALL: [i32; 4] = [0, 1, 2, 3];

/// Polls both until they share the partitions evenly.
fn share(ground: &Ground, left: &mut Driver, right: &mut Driver) {
    ground.until("two members share four partitions", || {
        left.step();
        right.step();
        assert!(
            left.held.is_disjoint(&right.held),
            "{:?} and {:?}",
            left.held,
            right.held
        );
        left.held.len() == 2 && right.held.len() == 2
    });
}

/// Goal: who is alone has everything. Method: one member, a record in each partition.
pub(super) fn one_member_gets_all_partitions(bench: &dyn Bench) {
    let ground = Ground::new(bench, &TOPICS);
    for partition in ALL {
        ground.produce(input(partition), &["a"]);
    }
    let mut driver = ground.member_with("one", &ALL);
    driver.until_seen(&ground, 4);
    for partition in ALL {
        assert_eq!(driver.values_of(partition), ["a"]);
    }
}

/// Goal: a member that comes or goes moves as little as can be, and what stays is read without a gap or a repetition. Method:
/// records before, during and after.
pub(super) fn two_members_share_cooperatively(bench: &dyn Bench) {
    let ground = Ground::new(bench, &TOPICS);
    let produce = |value| {
        for partition in ALL {
            ground.produce(input(partition), &[value]);
        }
    };
    produce("before");
    let mut first = ground.member_with("one", &ALL);
    first.until_seen(&ground, 4);
    first.changes.clear();
    let mut second = Driver::new(&ground, "two");
    share(&ground, &mut first, &mut second);
    let kept = first.held.clone();
    let moved: BTreeSet<i32> = first
        .changes
        .iter()
        .flat_map(|changes| &changes.revoked)
        .copied()
        .collect();
    assert!(moved.is_disjoint(&kept), "moved {moved:?}, kept {kept:?}");
    assert_eq!(
        moved, second.held,
        "what was asked back is what the other has"
    );
    let interrupted = |driver: &Driver| {
        let touched = driver
            .changes
            .iter()
            .flat_map(|changes| changes.assigned.iter().chain(&changes.lost));
        touched
            .copied()
            .filter(|partition| kept.contains(partition))
            .collect::<Vec<_>>()
    };
    assert!(interrupted(&first).is_empty());
    produce("during");
    // What moved was never committed: the second one reads it from the beginning.
    ground.until("both have read theirs", || {
        first.step();
        second.step();
        first.seen.len() >= 6 && second.seen.len() >= 4
    });
    let read_by_second: Vec<_> = moved
        .iter()
        .map(|partition| second.values_of(*partition))
        .collect();
    second.member.leave(true).expect("a departure");
    ground.until("the first one has all again", || {
        first.step();
        first.held.len() == 4
    });
    assert!(interrupted(&first).is_empty());
    produce("after");
    ground.until("the first one has read the last", || {
        first.step();
        ALL.iter().all(|partition| {
            first
                .values_of(*partition)
                .last()
                .is_some_and(|value| value == "after")
        })
    });
    for partition in &kept {
        assert_eq!(
            first.values_of(*partition),
            ["before", "during", "after"],
            "partition {partition}"
        );
    }
    for (partition, by_second) in moved.iter().zip(read_by_second) {
        assert_eq!(by_second, ["before", "during"], "partition {partition}");
        assert_eq!(
            first.values_of(*partition),
            ["before", "before", "during", "after"],
            "partition {partition}"
        );
    }
}

/// Goal: nobody commits positions of a partition that has moved; until it is released, its owner does. Method: commit with the
/// membership of an old poll before the release, and again once the partition is somebody else's.
pub(super) fn a_stale_membership_is_refused(bench: &dyn Bench) {
    let ground = Ground::new(bench, &TOPICS);
    for partition in ALL {
        ground.produce(input(partition), &["a", "b"]);
    }
    let mut first = ground.member_with("one", &ALL);
    first.until_seen(&ground, 8);
    let stale = first.membership;
    first.releases = false;
    let mut second = Driver::new(&ground, "two");
    ground.until("partitions are asked back", || {
        first.step();
        second.step();
        !first.asked.is_empty()
    });
    let moved = first.asked[0];
    let offsets: Vec<i64> = first
        .seen
        .iter()
        .filter(|seen| seen.at == input(moved))
        .map(|seen| seen.offset + 1)
        .collect();
    first.member.begin().expect("a transaction");
    first
        .member
        .commit(stale, &[(input(moved), offsets[0])])
        .expect("a commit before the release");
    first.releases = true;
    share(&ground, &mut first, &mut second);
    assert!(second.held.contains(&moved), "{:?}", second.held);
    first.member.begin().expect("a transaction");
    let done = first.member.commit(stale, &[(input(moved), offsets[1])]);
    assert!(done.is_err(), "{done:?}");
    let committed = second.member.committed(&[input(moved)]).expect("an answer");
    assert_eq!(
        committed,
        [Some(offsets[0])],
        "only what was committed by the owner counts"
    );
    ground.until("the new owner goes on from there", || {
        first.step();
        second.step();
        second.values_of(moved) == ["b"]
    });
    first.member.recover().expect("a recovery");
    first.linger();
    let kept = *first.held.first().expect("a partition");
    first.member.begin().expect("a transaction");
    first
        .member
        .commit(first.membership, &[(input(kept), 1)])
        .expect("a commit of what was kept");
}

/// Goal: a restart is no rebalance. Method: leave but not for ever, come back; and the same after a crash.
pub(super) fn a_static_member_comes_back_to_its_partitions(bench: &dyn Bench) {
    let ground = Ground::new(bench, &TOPICS);
    let mut stays = ground.member_with("one", &ALL);
    let mut goes = Driver::new(&ground, "two");
    share(&ground, &mut stays, &mut goes);
    stays.changes.clear();
    let had = goes.held.clone();
    for crash in [false, true] {
        let Driver { member, .. } = goes;
        if crash {
            drop(member);
        } else {
            member.leave(false).expect("a departure");
        }
        stays.linger();
        goes = Driver::new(&ground, "two");
        ground.until("it has its partitions again", || {
            stays.step();
            goes.step();
            goes.held.len() == 2
        });
        assert_eq!(goes.held, had, "crash: {crash}");
        stays.linger();
        assert_eq!(stays.changes, [], "crash: {crash}");
    }
}

/// Goal: an instance that will not come back does not hold its partitions. Method: crash one, forget it.
pub(super) fn a_forgotten_instances_partitions_move(bench: &dyn Bench) {
    let ground = Ground::new(bench, &TOPICS);
    let mut stays = ground.member_with("one", &ALL);
    let mut goes = Driver::new(&ground, "two");
    share(&ground, &mut stays, &mut goes);
    drop(goes);
    stays.linger();
    assert_eq!(stays.held.len(), 2);
    ground.log.forget_instance("two").expect("an answer");
    ground.until("the other one has all", || {
        stays.step();
        stays.held.len() == 4
    });
}

/// Goal: a partition that is being restored is not read meanwhile, and may be read again. Method: pause, start earlier.
pub(super) fn pause_and_start_hold(bench: &dyn Bench) {
    let ground = Ground::new(bench, &TOPICS);
    let mut driver = ground.member_with("one", &ALL);
    ground.produce(input(0), &["a", "b"]);
    driver.until_seen(&ground, 2);
    driver.member.pause(0).expect("a pause");
    ground.produce(input(0), &["c"]);
    ground.produce(input(1), &["d"]);
    ground.until("the other partition is read", || {
        driver.step();
        !driver.values_of(1).is_empty()
    });
    driver.linger();
    assert_eq!(driver.values_of(0), ["a", "b"]);
    let again = driver.seen[1].offset;
    driver
        .member
        .start(&[(input(0), Start::At(again))])
        .expect("a start");
    ground.until("it is read again", || {
        driver.step();
        driver.values_of(0).len() >= 4
    });
    assert_eq!(driver.values_of(0), ["a", "b", "b", "c"]);
}

/// Goal: a group beside the daemon's reads a topic of its own, and neither disturbs the other. Method: a member of each under one name, over
/// topics of different counts; both commit, the second with records to a third topic; a third group over the second's topic begins
/// at its beginning; then another member of the second comes back to where it was, while the first is polled.
pub(super) fn two_groups_know_nothing_of_each_other(bench: &dyn Bench) {
    let ground = Ground::new(
        bench,
        &[
            (Topic::Behaviors, 4),
            (Topic::Texts, 2),
            (Topic::Embeddings, 2),
        ],
    );
    let text = |partition| TopicPartition::new(Topic::Texts, partition);
    let vector = TopicPartition::new(Topic::Embeddings, 1);
    for partition in ALL {
        ground.produce(input(partition), &["a"]);
    }
    for partition in [0, 1] {
        ground.produce(text(partition), &["t"]);
    }
    let mut first = ground.member_with("one", &ALL);
    let log = ground.log.beside("-encode", Topic::Texts).expect("a group");
    let beside = Ground {
        log,
        patience: ground.patience,
    };
    let mut second = beside.reader_of(Topic::Texts, "one", &[0, 1]);
    first.until_seen(&ground, 4);
    second.until_seen(&ground, 2);
    second.member.begin().expect("a transaction");
    second.member.send(plain(vector, "v")).expect("a send");
    let positions = [(text(0), 1), (text(1), 1)];
    let membership = second.membership;
    second
        .member
        .commit(membership, &positions)
        .expect("a commit");
    first.member.begin().expect("a transaction");
    let membership = first.membership;
    first
        .member
        .commit(membership, &[(input(0), 1)])
        .expect("a commit");
    assert_eq!(ground.values(vector), ["v"]);
    let log = ground.log.beside("-other", Topic::Texts).expect("a group");
    let other = Ground {
        log,
        patience: ground.patience,
    };
    let committed = other.log.committed(&[text(0)]).expect("positions");
    assert_eq!(committed, [None], "of another group over the same topic");
    let mut third = other.reader_of(Topic::Texts, "one", &[0, 1]);
    third.until_seen(&ground, 2);
    assert_eq!(second.changes.len(), 1, "{:?}", second.changes);
    drop((second, third));
    ground.produce(text(0), &["u"]);
    let mut second = beside.reader_of(Topic::Texts, "one", &[0, 1]);
    second.until_seen(&ground, 1);
    assert_eq!(second.seen[0].text(), "u");
    first.linger();
    assert_eq!(first.held.len(), 4);
    assert_eq!(first.changes.len(), 1, "{:?}", first.changes);
}
