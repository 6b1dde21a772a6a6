//! Tests of the group: its moves one by one, and its laws under any history.

use proptest::prelude::*;

use super::*;

const SESSION_MS: i64 = 1000;
const REBALANCE_MS: i64 = 500;

fn group(partitions: usize) -> Group {
    let mut group = Group::new(SESSION_MS, REBALANCE_MS);
    group.set_partitions(partitions);
    group
}

fn changes(assigned: &[i32], revoked: &[i32], lost: &[i32]) -> Rebalance {
    Rebalance {
        assigned: assigned.to_vec(),
        revoked: revoked.to_vec(),
        lost: lost.to_vec(),
    }
}

/// Goal: a partition moves in two phases. Method: a second member comes; who owns what after each call.
#[test]
fn a_partition_moves_after_its_release() {
    let mut group = group(3);
    let mut a = group.join("a", "a", 0);
    assert_eq!(
        group.poll("a", "a", &mut a, 0),
        changes(&[0, 1, 2], &[], &[])
    );
    let before = a.token;
    let mut b = group.join("b", "b", 0);
    assert_eq!(group.poll("b", "b", &mut b, 0), changes(&[], &[], &[]));
    assert_eq!(group.poll("a", "a", &mut a, 0), changes(&[], &[2], &[]));
    assert_eq!(
        group.poll("a", "a", &mut a, 0),
        changes(&[], &[], &[]),
        "it is asked once"
    );
    assert!(
        group.vouches(&a, before, 2),
        "until the release, what was polled may be committed"
    );
    group.release(&mut a, &[2]);
    assert!(!group.vouches(&a, a.token, 2));
    assert_eq!(group.poll("b", "b", &mut b, 0), changes(&[2], &[], &[]));
    assert!(group.vouches(&b, b.token, 2));
    assert!(
        group.vouches(&a, before, 0),
        "what did not move is vouched for by older polls"
    );
}

/// Goal: a membership does not come back with the partition. Method: it goes, and returns; the old proof is refused.
#[test]
fn a_proof_ends_with_the_assignment_it_was_made_under() {
    let mut group = group(2);
    let mut a = group.join("a", "a", 0);
    group.poll("a", "a", &mut a, 0);
    let old = a.token;
    let b = group.join("b", "b", 0);
    group.poll("a", "a", &mut a, 0);
    group.release(&mut a, &[1]);
    group.remove("b");
    assert_eq!(group.poll("a", "a", &mut a, 0), changes(&[1], &[], &[]));
    assert!(!group.vouches(&a, old, 1));
    assert!(group.vouches(&a, a.token, 1));
    assert!(
        !group.vouches(&a, a.token + 1, 1),
        "nobody has proofs from the future"
    );
    assert!(!group.vouches(&b, b.token, 1));
}

/// Goal: a restart moves nothing, and its new handle learns of everything. Method: join again under the same name.
#[test]
fn a_seat_is_kept_for_its_member() {
    let mut group = group(4);
    let mut a = group.join("a", "a", 0);
    group.poll("a", "a", &mut a, 0);
    let mut b = group.join("b", "b", 0);
    group.poll("a", "a", &mut a, 0);
    group.release(&mut a, &[2, 3]);
    group.poll("b", "b", &mut b, 0);
    let old = b.token;
    let mut again = group.join("b", "b", 900);
    assert_eq!(group.poll("a", "a", &mut a, 900), changes(&[], &[], &[]));
    assert_eq!(
        group.poll("b", "b", &mut again, 900),
        changes(&[2, 3], &[], &[])
    );
    assert!(
        !group.vouches(&again, old, 2),
        "what the former handle polled is read again"
    );
}

/// Goal: who is silent, or sits on what others wait for, is put out and told so. Method: let the time pass.
#[test]
fn time_puts_members_out() {
    let mut group = group(2);
    let mut a = group.join("a", "a", 0);
    group.poll("a", "a", &mut a, 0);
    let mut b = group.join("b", "b", 0);
    assert_eq!(group.poll("a", "a", &mut a, 100), changes(&[], &[1], &[]));
    assert_eq!(
        group.poll("b", "b", &mut b, 100 + REBALANCE_MS),
        changes(&[], &[], &[])
    );
    group.poll("a", "a", &mut a, 100 + REBALANCE_MS);
    assert_eq!(
        group.poll("b", "b", &mut b, 101 + REBALANCE_MS),
        changes(&[0, 1], &[], &[])
    );
    assert_eq!(
        group.poll("a", "a", &mut a, 101 + REBALANCE_MS),
        changes(&[], &[], &[0, 1])
    );
    let silent = 101 + REBALANCE_MS + SESSION_MS;
    group.poll("a", "a", &mut a, silent);
    assert_eq!(
        group.poll("a", "a", &mut a, silent + 1),
        changes(&[0, 1], &[], &[]),
        "b was silent"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// Goal: whatever happens, a partition is held by one handle, proofs of others are refused, and in the end all are owned
    /// evenly; a member that comes moves no more than its share. Method: random joins, restarts, departures, polls and releases of
    /// up to five members.
    #[test]
    fn every_partition_has_one_owner(
        partitions in 1..12_usize,
        steps in prop::collection::vec((0..6_u8, 0..5_usize), 0..80),
    ) {
        let names = ["a", "b", "c", "d", "e"];
        let mut group = group(partitions);
        let mut views: BTreeMap<&str, View> = BTreeMap::new();
        let asked = |view: &View| -> Vec<i32> {
            view.held.iter().filter(|(_, asked)| **asked).map(|(partition, _)| *partition).collect()
        };
        let settle = |group: &mut Group, views: &mut BTreeMap<&'static str, View>| {
            let mut moved = 0;
            for _ in 0..4 {
                for (name, view) in views.iter_mut() {
                    moved += group.poll(name, name, view, 0).revoked.len();
                    let asked = asked(view);
                    group.release(view, &asked);
                }
            }
            moved
        };
        for (what, who) in steps {
            let name = names[who];
            match what {
                0 => {
                    settle(&mut group, &mut views);
                    let (count, new) = (views.len(), !views.contains_key(name));
                    let view = group.join(name, name, 0);
                    views.insert(name, view);
                    let moved = settle(&mut group, &mut views);
                    prop_assert!(moved <= if new { partitions / (count + 1) } else { 0 }, "{moved} moved");
                }
                1 => {
                    group.remove(name);
                }
                2 => {
                    group.remove(name);
                    views.remove(name);
                }
                3 => {
                    if let Some(view) = views.get_mut(name) {
                        let asked = asked(view);
                        group.release(view, &asked);
                    }
                }
                _ => {
                    if let Some(view) = views.get_mut(name) {
                        group.poll(name, name, view, 0);
                    }
                }
            }
            for partition in 0..partitions as i32 {
                let owners = views.values().filter(|view| group.vouches(view, view.token, partition)).count();
                prop_assert!(owners <= 1, "partition {partition} has {owners} owners");
            }
        }
        settle(&mut group, &mut views);
        let held: Vec<usize> = views.values().map(|view| view.held.len()).collect();
        if let (Some(most), Some(least)) = (held.iter().max(), held.iter().min()) {
            prop_assert_eq!(held.iter().sum::<usize>(), partitions);
            prop_assert!(most - least <= 1, "{held:?}");
        }
    }
}
