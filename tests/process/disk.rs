//! A full disk, under the store and under the embedded log.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use headwater_config::Topic;
use headwater_consumers::log::{Log as _, Outgoing, TopicPartition};
use headwater_consumers::partitioner::partition_of;

use crate::crash::count;
use crate::log::{click, open, records};
use crate::program::{Place, until};

const USERS: usize = 40;

/// A disk of its own, of so many MiB; none where this process may not have one.
struct Disk(PathBuf);

impl Disk {
    fn new(folder: &Path, mib: usize) -> Option<Self> {
        std::fs::create_dir_all(folder).unwrap();
        let size = format!("size={mib}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(folder)
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(folder.to_owned()));
        }
        say_skipped();
        None
    }

    fn grow(&self, mib: usize) {
        let size = format!("remount,size={mib}m");
        let mounted = Command::new("mount")
            .args(["-o", &size])
            .arg(&self.0)
            .status();
        assert!(mounted.unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

#[expect(clippy::print_stderr, reason = "a skip must be seen")]
fn say_skipped() {
    eprintln!("SKIPPED: no right to mount a small disk; run this test as root");
}

/// Puts behaviors into the log, each on an item of its own.
fn behave(place: &Place, behaviors: usize) {
    let log = open(&place.config());
    let mut producer = log.producer().unwrap();
    for event in 0..behaviors {
        let user = format!("u{}", event % USERS);
        let item = format!("i{event}-{}", "x".repeat(150));
        producer
            .send(Outgoing {
                to: TopicPartition::new(Topic::Behaviors, partition_of(user.as_bytes(), 4)),
                key: Some(user.as_bytes()),
                value: Some(&click(&user, &item, &format!("e{event}"))),
                headers: &[],
            })
            .unwrap();
    }
    producer.flush().unwrap();
}

/// Starts the daemon, and waits until it has counted everything once and has one score for each.
fn finish(place: &Place, behaviors: usize) {
    let daemon = place.start(&[]);
    until("all behaviors to be counted", || {
        let users = (0..USERS).map(|user| daemon.json(&format!("/users/u{user}?entries=100000")));
        let counted: u64 = users.map(|user| count(&user)).sum();
        assert!(counted <= behaviors as u64, "{counted}");
        (counted == behaviors as u64).then_some(())
    });
    daemon.stop();
    let mut scores: BTreeMap<String, u32> = BTreeMap::new();
    for answer in records(&open(&place.config()), Topic::Scores) {
        let event = answer["request_id"].as_str().unwrap().to_owned();
        *scores.entry(event).or_default() += 1;
    }
    assert!(scores.values().all(|count| *count == 1));
    assert_eq!(scores.len(), behaviors);
}

/// Goal: STATE-1 over a store whose disk is full: the daemon ends with 75 and names the path, as often as it is started; with room again it
/// goes on, and has lost and doubled nothing. Method: a disk of some MiB under the store, more state than it holds; then a larger disk.
#[test]
fn a_full_disk_ends_with_75_and_loses_nothing() {
    const BEHAVIORS: usize = 30_000;
    for backend in ["sled", "fjall"] {
        let beside = tempfile::tempdir().unwrap();
        let log = beside.path().join("log");
        let place = Place::new(&format!(
            "log.path = \"{}\"\nstate.backend = \"{backend}\"\nstate.recent = 16\nscoring.on_behavior = \"item\"\nscoring.feature_log = false\n\
             step.records_max = 500",
            log.display()
        ));
        let Some(disk) = Disk::new(&place.state(), 5) else {
            return;
        };
        behave(&place, BEHAVIORS);
        for round in 0..2 {
            let ran = place.run(&["run"]);
            assert_eq!(ran.code, Some(75), "{backend} {round}: {ran:?}");
            let said = ran.beside.lines().last().unwrap();
            let named = said.contains(&place.state().display().to_string());
            assert!(
                named && said.contains("No space left on device"),
                "{backend} {round}: {said}"
            );
        }
        disk.grow(400);
        finish(&place, BEHAVIORS);
    }
}

/// Goal: an embedded log whose disk is full aborts and is waited for: readiness is off with the reason for as long as it is, and everything
/// is there once there is room. Method: a disk that the behaviors fit into, and their scores do not; then a larger one.
#[test]
fn a_full_disk_under_the_log_is_waited_for() {
    const BEHAVIORS: usize = 10_000;
    let beside = tempfile::tempdir().unwrap();
    let place = Place::new(&format!(
        "log.path = \"{}/log\"\nscoring.on_behavior = \"item\"\nscoring.feature_log = false\nstep.records_max = 500",
        beside.path().display()
    ));
    let Some(disk) = Disk::new(beside.path(), 5) else {
        return;
    };
    behave(&place, BEHAVIORS);
    let daemon = place.start(&[]);
    let reasons = || daemon.get("/readyz").unwrap();
    until("the disk to be full", || {
        reasons()
            .1
            .contains("No space left on device")
            .then_some(())
    });
    // Once it is off it stays off: turns that go well in between are no proof.
    for _ in 0..100 {
        let (status, body) = reasons();
        assert_eq!(status, 503, "{body}");
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
    disk.grow(100);
    daemon.wait_ready();
    daemon.stop();
    finish(&place, BEHAVIORS);
}
