//! What is said of text that is not a configuration: key, place, reason, and the nearest key.

use std::path::PathBuf;

use headwater_config::{Config, Sources};

use crate::complaint;

/// Goal: an unknown key is an error with its key, place and the nearest key there is. Method: golden, one for each way to
/// be wrong: a slip, another section's key, a key without its section, a section, nothing like it.
#[test]
fn unknown_keys_name_the_nearest() {
    for (text, said) in [
        (
            "[state]\n\nmemry = \"1GiB\"\n",
            "state.memry (line 3): unknown key; did you mean `state.memory`?",
        ),
        (
            "[state]\nbrokers = \"b:9092\"\n",
            "state.brokers (line 2): unknown key; did you mean `kafka.brokers`?",
        ),
        (
            "records_max = 10\n",
            "records_max (line 1): unknown key; did you mean `step.records_max`?",
        ),
        (
            "[stat]\npath = \"x\"\n",
            "stat (line 1): unknown key; did you mean `state`?",
        ),
        (
            "[admin]\nzebra = 1\n",
            "admin.zebra (line 2): unknown key; known here: address",
        ),
        (
            "[tasks.click]\npositive = [\"click\"]\ntrial = [\"view\"]\ntrials = [\"view\"]\nscenarios = []\n",
            "tasks.click.trial (line 3): unknown key; did you mean `tasks.click.trials`?",
        ),
        (
            "[source.behaviors]\nuserid = \"/u\"\n",
            "source.behaviors.userid (line 2): unknown key; did you mean `source.behaviors.user_id`?",
        ),
    ] {
        assert_eq!(complaint(text), said);
    }
}

/// Goal: a value of the wrong type or unit is refused in the operator's words. Method: golden, each type once.
#[test]
fn wrong_values_say_what_was_wanted() {
    for (text, said) in [
        (
            "[state]\nwrite_back = 5\n",
            "state.write_back (line 2): wanted a length of time with its unit in quotes, such as \"90s\" or \"14d\", found 5",
        ),
        (
            "[state]\nwrite_back = \"5\"\n",
            "state.write_back (line 2): \"5\" has no unit: \"5ms\", \"5s\", \"5m\", \"5h\" or \"5d\"?",
        ),
        (
            "[state]\nmemory = 1.5\n",
            "state.memory (line 2): wanted a size with its unit in quotes, such as \"64KiB\" or \"1GiB\", found 1.5",
        ),
        (
            "[state]\nmemory = \"256MB\"\n",
            "state.memory (line 2): \"256MB\" is not a size: \"256MiB\"?",
        ),
        (
            "[state]\nrecent = \"128\"\n",
            "state.recent (line 2): wanted a whole number, 0 or more, found text",
        ),
        (
            "[state]\nrecent = -1\n",
            "state.recent (line 2): wanted a whole number, 0 or more, found -1",
        ),
        (
            "[topics]\npartitions = 99999999999\n",
            "topics.partitions (line 2): wanted a whole number, found 99999999999",
        ),
        (
            "[state]\nrecent = 99999999999999999999\n",
            "line 2: 99999999999999999999 does not fit 64 bits",
        ),
        (
            "[state]\nfsync = 1\n",
            "state.fsync (line 2): wanted true or false, found 1",
        ),
        (
            "[state]\npath = 2026-11-23\n",
            "state.path (line 2): wanted a path in quotes, found a date (is it without quotes?)",
        ),
        (
            "[kinds]\nnames = \"click\"\n",
            "kinds.names (line 2): wanted an array, found text",
        ),
        (
            "[kinds]\nnames = [\"click\",\n  7]\n",
            "kinds.names[1] (line 2): wanted text in quotes, found 7",
        ),
        ("state = 5\n", "state (line 1): wanted a table, found 5"),
        (
            "[state.memory]\nmax = 1\n",
            "state.memory (line 1): wanted a size with its unit in quotes, such as \"64KiB\" or \"1GiB\", found a table",
        ),
        (
            "[kafka]\ndelivery = \"exactly_once\"\n",
            "kafka.delivery (line 2): \"exactly_once\" is none of \"exactly-once\", \"at-least-once\"; did you mean \"exactly-once\"?",
        ),
        (
            "[state]\nbackend = \"rocksdb\"\n",
            "state.backend (line 2): \"rocksdb\" is none of \"sled\", \"fjall\"",
        ),
        (
            "[telemetry]\nlevel = 3\n",
            "telemetry.level (line 2): wanted a word in quotes, one of \"error\", \"warn\", \"info\", \"debug\", \"trace\", found 3",
        ),
        (
            "[admin]\naddress = \"localhost:9464\"\n",
            "admin.address (line 2): \"localhost:9464\" is not an address and port such as \"127.0.0.1:9464\" or \"[::1]:9464\"",
        ),
        (
            "[source.behaviors]\nuser_id = \"user.id\"\n",
            "source.behaviors.user_id (line 2): \"user.id\" is not a JSON pointer: it begins with `/`, as in \"/user/id\" (or \"^/user/id\", in the record around the event)",
        ),
        (
            "[tasks.like]\npositive = [\"like\"]\nscenarios = []\n",
            "tasks.like.trials (line 1): it is missing: nothing can be assumed here",
        ),
        (
            "[kafka.client]\n\"sasl.password\" = [\"x\"]\n",
            "kafka.client.sasl.password (line 2): wanted text in quotes, a whole number, true or false, found an array",
        ),
    ] {
        assert_eq!(complaint(text), said, "{text}");
    }
}

/// Goal: everything that is wrong is told at once, faults of type and broken rules alike, in the order of keys; and a
/// rule is not held against a key that could not be read. Method: a file with a fault of each sort.
#[test]
fn all_faults_are_told_together() {
    let said = complaint(
        "[state]\nmemory = 5\nrecent = 0\nwrite_back = \"soon\"\nfoo = 1\n[kafka]\ntransaction_timeout = \"1m\"\nsession_timeout = true\n\
         [tasks.click]\npositive = 1\ntrails = [\"view\"]\ntrials = [\"seen\"]\nscenarios = []\n",
    );
    assert_eq!(
        said,
        "kafka.session_timeout (line 8): wanted a length of time with its unit in quotes, such as \"90s\" or \"14d\", found true\n\
         kafka.transaction_timeout (line 7): 1m is not between 1s and 10s\n\
         state.foo (line 5): unknown key; known here: path, backend, memory, recent, write_back, fsync, allowed_lateness, late, max_ahead, attributes, keys_max, copy_age_max\n\
         state.memory (line 2): wanted a size with its unit in quotes, such as \"64KiB\" or \"1GiB\", found 5\n\
         state.recent (line 3): 0 is not between 1 and 4096\n\
         state.write_back (line 4): \"soon\" is not a length of time: a whole number and its unit (us, ms, s, m, h, d), such as \"90s\" or \"14d\"\n\
         tasks.click.positive (line 10): wanted an array, found 1\n\
         tasks.click.trails (line 11): unknown key; did you mean `tasks.click.trials`?\n\
         tasks.click.trials (line 12): kind \"seen\" is not in kinds.names"
    );
}

/// Goal: a fault in a table that has no default is one fault, though the table cannot be repaired. Method: a task of the
/// user's own with one wrong field, and one with two.
#[test]
fn one_mistake_is_told_once() {
    let task = |fields: &str| complaint(&format!("[tasks.like]\n{fields}\n"));
    assert_eq!(
        task("positive = 1\ntrials = [\"view\"]\nscenarios = []"),
        "tasks.like.positive (line 2): wanted an array, found 1"
    );
    assert_eq!(
        task("positive = 1\ntrials = 2\nscenarios = []"),
        "tasks.like.positive (line 2): wanted an array, found 1\n\
         tasks.like.trials (line 3): wanted an array, found 2"
    );
}

/// Goal: keys that are missing in a table that has no default are told together, with whatever else is wrong there. Method: a task without any,
/// and one with one of the wrong type, one missing and one that breaks a rule.
#[test]
fn all_that_is_missing_is_told_together() {
    let missing = "it is missing: nothing can be assumed here";
    assert_eq!(
        complaint("[tasks.like]\n[tasks.share]\npositive = 1\nscenarios = [\"shop\"]\n"),
        format!(
            "tasks.like.positive (line 1): {missing}\n\
             tasks.like.scenarios (line 1): {missing}\n\
             tasks.like.trials (line 1): {missing}\n\
             tasks.share.positive (line 3): wanted an array, found 1\n\
             tasks.share.scenarios (line 4): scenario \"shop\" of task share is not in scenarios.names\n\
             tasks.share.trials (line 2): {missing}"
        )
    );
}

/// Goal: mistakes of syntax are told with their lines, all of them, and a thousand faults end. Method: golden; a file of
/// unknown keys.
#[test]
fn broken_files_are_told_by_line() {
    assert_eq!(
        complaint("[state\npath = \"x\"\n[log]\nkind = kafka\n"),
        "line 1: unclosed table, expected `]`\nline 4: string values must be quoted, expected literal string"
    );
    assert_eq!(
        complaint("[state]\nrecent = 1\nrecent = 2\n"),
        "line 3: duplicate key"
    );
    let many: String = (0..1_000).fold(String::new(), |text, n| text + &format!("key{n} = 1\n"));
    assert_eq!(complaint(&many).lines().count(), 100);
}

/// Goal: files are named, and one that cannot be read is an error. Method: a file with two faults, a folder, no file.
#[test]
fn files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let said = |files: &[PathBuf]| {
        let sources = Sources {
            files,
            ..Sources::default()
        };
        Config::load(&sources)
            .unwrap_err()
            .to_string()
            .replace(folder.path().to_str().unwrap(), "DIR")
    };
    let file = folder.path().join("headwater.toml");
    std::fs::write(&file, "[state]\npth = \"x\"\n\n[step]\nrecords_max = 0\n").unwrap();
    assert_eq!(
        said(std::slice::from_ref(&file)),
        "state.pth (DIR/headwater.toml:2): unknown key; did you mean `state.path`?\n\
         step.records_max (DIR/headwater.toml:5): 0 is not between 1 and 100000"
    );
    assert_eq!(
        said(&[folder.path().join("none.toml"), file]),
        "cannot read DIR/none.toml: No such file or directory (os error 2)"
    );
    let bytes = folder.path().join("bytes.toml");
    std::fs::write(&bytes, b"\xff\xfe").unwrap();
    assert_eq!(
        said(&[bytes]),
        "cannot read DIR/bytes.toml: it is not UTF-8 text"
    );
}
