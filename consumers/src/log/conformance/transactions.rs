//! Cases of the suite about transactions: what is seen of them, by whom, and when.
//!
//! Before them, `conformance` brings up the log; after them, it tells which failed.

use headwater_config::Topic;

use super::{Bench, Driver, Ground, changelog, input, plain, scores};
use crate::log::{CommitError, LogError, TopicPartition};

const TOPICS: [(Topic, i32); 3] = [
    (Topic::Behaviors, 2),
    (Topic::Changelog, 2),
    (Topic::Scores, 2),
];

/// A ground with three input records in partition 0, and a member that has polled them.
fn with_input(bench: &dyn Bench) -> (Ground, Driver, i64) {
    let ground = Ground::new(bench, &TOPICS);
    ground.produce(input(0), &["a", "b", "c"]);
    let mut driver = ground.member_with("one", &[0, 1]);
    driver.until_seen(&ground, 3);
    let next = driver.seen[2].offset + 1;
    (ground, driver, next)
}

fn committed(driver: &mut Driver, of: TopicPartition) -> Option<i64> {
    driver.member.committed(&[of]).expect("an answer")[0]
}

/// Goal: PIPE-1. Method: records to three partitions and a position in one transaction; all is there after it.
pub(super) fn a_commit_is_atomic(bench: &dyn Bench) {
    let (ground, mut driver, next) = with_input(bench);
    let member = &mut driver.member;
    member.begin().expect("a transaction");
    for (to, value) in [
        (changelog(0), "s1"),
        (scores(1), "p1"),
        (changelog(0), "s2"),
        (changelog(1), "s3"),
    ] {
        member.send(plain(to, value)).expect("a send");
    }
    let done = member
        .commit(driver.membership, &[(input(0), next)])
        .expect("a commit");
    assert_eq!(ground.values(changelog(0)), ["s1", "s2"]);
    assert_eq!(ground.values(changelog(1)), ["s3"]);
    assert_eq!(ground.values(scores(1)), ["p1"]);
    let expected: Vec<_> = [changelog(0), changelog(1)]
        .map(|of| (of, ground.read(of).last().map_or(0, |seen| seen.offset) + 1))
        .into();
    let mut told = done.next;
    told.sort_unstable();
    assert_eq!(told, expected, "where the changelog's records ended up");
    assert_eq!(committed(&mut driver, input(0)), Some(next));
    assert_eq!(committed(&mut driver, input(1)), None);
}

/// Goal: a transaction of many records is all there, in order. Method: 10,000 over two partitions, larger than any one request.
pub(super) fn a_large_transaction_is_whole(bench: &dyn Bench) {
    let (ground, mut driver, next) = with_input(bench);
    let filler = "x".repeat(300);
    driver.member.begin().expect("a transaction");
    for index in 0..10_000 {
        let value = format!("{index} {filler}");
        driver
            .member
            .send(plain(changelog(index % 2), &value))
            .expect("a send");
    }
    driver
        .member
        .commit(driver.membership, &[(input(0), next)])
        .expect("a commit");
    for partition in 0..2 {
        let seen = ground.values(changelog(partition));
        let numbers: Vec<i32> = seen
            .iter()
            .filter_map(|text| text.split(' ').next()?.parse().ok())
            .collect();
        let expected: Vec<i32> = (0..10_000).filter(|index| index % 2 == partition).collect();
        assert!(
            numbers == expected,
            "partition {partition}: {} of {} records",
            numbers.len(),
            expected.len()
        );
    }
}

/// Goal: a step without output still moves on. Method: commit a position alone, then nothing at all, then records alone.
pub(super) fn a_commit_may_hold_positions_alone(bench: &dyn Bench) {
    let (ground, mut driver, next) = with_input(bench);
    driver.member.begin().expect("a transaction");
    let done = driver
        .member
        .commit(driver.membership, &[(input(0), next)])
        .expect("a commit");
    assert_eq!(done.next, []);
    assert_eq!(committed(&mut driver, input(0)), Some(next));
    driver.member.begin().expect("a transaction");
    driver
        .member
        .commit(driver.membership, &[])
        .expect("a commit");
    driver.member.begin().expect("a transaction");
    driver.member.send(plain(scores(0), "p")).expect("a send");
    driver
        .member
        .commit(driver.membership, &[])
        .expect("a commit");
    assert_eq!(ground.values(scores(0)), ["p"]);
    assert_eq!(committed(&mut driver, input(0)), Some(next));
}

/// Goal: what was aborted is never read. Method: abort, then commit another transaction behind it.
pub(super) fn an_aborted_transaction_is_never_seen(bench: &dyn Bench) {
    let (ground, mut driver, next) = with_input(bench);
    driver.member.abort().expect("nothing to abort is no error");
    driver.member.begin().expect("a transaction");
    driver
        .member
        .send(plain(changelog(0), "aborted"))
        .expect("a send");
    driver.linger();
    driver.member.abort().expect("an abort");
    assert_eq!(committed(&mut driver, input(0)), None);
    driver.member.begin().expect("a transaction");
    driver
        .member
        .send(plain(changelog(0), "committed"))
        .expect("a send");
    driver
        .member
        .commit(driver.membership, &[(input(0), next)])
        .expect("a commit");
    assert_eq!(ground.values(changelog(0)), ["committed"]);
}

/// Goal: nothing of an open transaction is seen, nor is the extent past it; what is written is never less than that, and holds a committed
/// one at once. Method: look while it is open, and after.
pub(super) fn an_open_transaction_is_not_seen(bench: &dyn Bench) {
    let (ground, mut driver, next) = with_input(bench);
    ground.produce(changelog(0), &["before"]);
    let stable = ground.log.extent(changelog(0)).expect("an extent").next;
    driver.member.begin().expect("a transaction");
    driver
        .member
        .send(plain(changelog(0), "open"))
        .expect("a send");
    driver.linger();
    assert_eq!(ground.values(changelog(0)), ["before"]);
    assert_eq!(
        ground.log.extent(changelog(0)).expect("an extent").next,
        stable
    );
    assert!(ground.log.written(changelog(0)).expect("an extent").next >= stable);
    let committed = driver
        .member
        .commit(driver.membership, &[(input(0), next)])
        .expect("a commit");
    assert!(ground.log.written(changelog(0)).expect("an extent").next >= committed.next[0].1);
    assert_eq!(ground.values(changelog(0)), ["before", "open"]);
    assert!(ground.log.extent(changelog(0)).expect("an extent").next > stable);
}

/// Goal: steps may be pipelined. Method: poll new input between `send` and `commit`; commit both steps one after the other.
pub(super) fn a_poll_may_come_within_a_transaction(bench: &dyn Bench) {
    let (ground, mut driver, next) = with_input(bench);
    let under = driver.membership;
    driver.member.begin().expect("a transaction");
    driver
        .member
        .send(plain(changelog(0), "first"))
        .expect("a send");
    ground.produce(input(0), &["d"]);
    driver.until_seen(&ground, 4);
    driver
        .member
        .commit(under, &[(input(0), next)])
        .expect("a commit");
    assert_eq!(committed(&mut driver, input(0)), Some(next));
    let next = driver.seen[3].offset + 1;
    driver.member.begin().expect("a transaction");
    driver
        .member
        .send(plain(changelog(0), "second"))
        .expect("a send");
    driver
        .member
        .commit(driver.membership, &[(input(0), next)])
        .expect("a commit");
    assert_eq!(ground.values(changelog(0)), ["first", "second"]);
    assert_eq!(committed(&mut driver, input(0)), Some(next));
}

/// Goal: one transactional id, one member. Method: a second one of the same name comes while the first has a transaction open.
pub(super) fn a_newer_member_fences_the_older(bench: &dyn Bench) {
    let (ground, mut older, next) = with_input(bench);
    older.member.begin().expect("a transaction");
    older
        .member
        .send(plain(changelog(0), "older"))
        .expect("a send");
    older.linger();
    let mut newer = ground.member_with("one", &[0, 1]);
    let sent = older.member.send(plain(changelog(0), "older still"));
    assert!(
        matches!(sent, Ok(()) | Err(LogError::Fenced { .. })),
        "{sent:?}"
    );
    let done = older.member.commit(older.membership, &[(input(0), next)]);
    assert!(matches!(done, Err(CommitError::Fenced(_))), "{done:?}");
    assert_eq!(committed(&mut newer, input(0)), None);
    assert_eq!(ground.values(changelog(0)), [""; 0]);
    newer.until_seen(&ground, 3);
    newer.member.begin().expect("a transaction");
    newer
        .member
        .send(plain(changelog(0), "newer"))
        .expect("a send");
    newer
        .member
        .commit(newer.membership, &[(input(0), next)])
        .expect("a commit");
    assert_eq!(ground.values(changelog(0)), ["newer"]);
    let mut told = false;
    ground.until("the older one is told", || {
        told = told || matches!(older.try_step(), Err(LogError::Fenced { .. }));
        told
    });
}

/// Goal: who dies within a transaction leaves nothing behind and holds nobody up. Method: drop one, make it anew.
pub(super) fn a_dropped_members_transaction_is_aborted(bench: &dyn Bench) {
    let (ground, mut first, next) = with_input(bench);
    first.member.begin().expect("a transaction");
    first
        .member
        .send(plain(changelog(0), "lost"))
        .expect("a send");
    first.linger();
    drop(first);
    let mut second = ground.member_with("one", &[0, 1]);
    assert_eq!(committed(&mut second, input(0)), None);
    second.until_seen(&ground, 3);
    second.member.begin().expect("a transaction");
    second
        .member
        .send(plain(changelog(0), "kept"))
        .expect("a send");
    second
        .member
        .commit(second.membership, &[(input(0), next)])
        .expect("a commit");
    assert_eq!(ground.values(changelog(0)), ["kept"]);
}

/// Goal: after a recovery, nothing is in doubt. Method: recover within a transaction; then commit another one.
pub(super) fn recovery_aborts_what_was_open(bench: &dyn Bench) {
    let (ground, mut driver, next) = with_input(bench);
    driver.member.begin().expect("a transaction");
    driver
        .member
        .send(plain(changelog(0), "abandoned"))
        .expect("a send");
    driver.linger();
    driver.member.recover().expect("a recovery");
    assert_eq!(committed(&mut driver, input(0)), None);
    assert_eq!(ground.values(changelog(0)), [""; 0]);
    driver.linger();
    driver.member.begin().expect("a transaction");
    driver
        .member
        .send(plain(changelog(0), "kept"))
        .expect("a send");
    driver
        .member
        .commit(driver.membership, &[(input(0), next)])
        .expect("a commit");
    assert_eq!(ground.values(changelog(0)), ["kept"]);
    assert_eq!(committed(&mut driver, input(0)), Some(next));
}

/// Goal: the at-least-once mode does not wait for commits. Method: send outside of an open transaction, which is then aborted.
pub(super) fn send_now_is_seen_at_once(bench: &dyn Bench) {
    let (ground, mut driver, _) = with_input(bench);
    driver.member.begin().expect("a transaction");
    driver
        .member
        .send(plain(changelog(0), "in it"))
        .expect("a send");
    driver
        .member
        .send_now(plain(scores(0), "outside"))
        .expect("a send");
    ground.until("it is seen", || {
        driver.step();
        ground.values(scores(0)) == ["outside"]
    });
    driver.member.abort().expect("an abort");
    assert_eq!(ground.values(scores(0)), ["outside"]);
    assert_eq!(ground.values(changelog(0)), [""; 0]);
}

/// Goal: positions belong to the group. Method: commit, leave for ever, and ask as somebody else, who goes on from there.
pub(super) fn committed_positions_outlive_the_member(bench: &dyn Bench) {
    let (ground, mut first, _) = with_input(bench);
    let next = first.seen[1].offset + 1;
    first.member.begin().expect("a transaction");
    first
        .member
        .commit(first.membership, &[(input(0), next)])
        .expect("a commit");
    first.member.leave(true).expect("a departure");
    let mut second = ground.member_with("two", &[0, 1]);
    assert_eq!(committed(&mut second, input(0)), Some(next));
    second.until_seen(&ground, 1);
    assert_eq!(second.values_of(0), ["c"]);
}

/// Goal: whoever is not in the group can see how far it is. Method: ask the log before, within and after a transaction.
pub(super) fn a_looker_on_sees_what_is_committed(bench: &dyn Bench) {
    let (ground, mut driver, next) = with_input(bench);
    let of = [input(0), input(1)];
    let look = || ground.log.committed(&of).expect("positions");
    assert_eq!(look(), [None, None]);
    driver.member.begin().expect("a transaction");
    driver
        .member
        .send(plain(changelog(0), "in it"))
        .expect("a send");
    assert_eq!(look(), [None, None]);
    driver
        .member
        .commit(driver.membership, &[(input(0), next)])
        .expect("a commit");
    ground.until("the position to be seen", || look() == [Some(next), None]);
}
