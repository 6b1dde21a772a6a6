//! Rules between keys: each is broken once, and the complaint names the key that somebody wrote.

use headwater_config::Config;

use crate::complaint;

/// What breaks one rule, and what is said of it.
const BROKEN: &[(&str, &str)] = &[
    (
        "[texts]\nitem = \"{kind} {item.title}\"\n",
        "texts.item (line 2): \"{kind} {item.title}\" has a field that an item's record has not: there are item.NAME, item.id and item.categories",
    ),
    (
        "[texts]\nsequence_max = 0\n",
        "texts.sequence_max (line 2): 0 is not between 2 and 4096",
    ),
    (
        "[texts]\nsequence_max = 4098\n",
        "texts.sequence_max (line 2): 4098 is not between 2 and 4096",
    ),
    (
        "[texts]\nsequence_max = 511\n",
        "texts.sequence_max (line 2): 511 is odd: a sequence begins anew with its newest half",
    ),
    (
        "[texts.behaviors]\nclick = \"{attributes.page}\"\n",
        "texts.behaviors.click (line 2): {attributes.page} is not in state.attributes: of others nothing is read",
    ),
    (
        "[texts]\nbackground = 0.0\n",
        "texts.background (line 2): 0 would never be through",
    ),
    (
        "[texts.behaviors]\nclik = \"{item}\"\n",
        "texts.behaviors.clik (line 2): kind \"clik\" is not in kinds.names",
    ),
    (
        "[texts.behaviors]\n\"feed/click\" = \"{item}\"\n",
        "texts.behaviors.feed/click (line 2): scenario \"feed\" is not in scenarios.names",
    ),
    (
        "[sequences]\n\"a b\" = []\n",
        "sequences.a b (line 2): \"a b\" is not a name of 1 to 64 letters, digits, `_` and `-`",
    ),
    (
        "[sequences]\nclicks = [\"clik\"]\n",
        "sequences.clicks (line 2): kind \"clik\" is not in kinds.names",
    ),
    (
        "[instance]\nid = \"a b\"\n",
        "instance.id (line 2): \"a b\" is not a name of at most 100 letters, digits, `.`, `_` and `-`",
    ),
    (
        "[instance]\nworkers = 0\n",
        "instance.workers (line 2): 0 scores nothing, and there is nothing else to do: neither texts.encoder with texts.encode nor train.every nor source.behaviors.repartition is set",
    ),
    (
        "[instance]\nprefix = \"ä\"\n[topics]\n",
        "instance.prefix (line 2): \"ä\" is not made of at most 100 letters, digits, `.`, `_` and `-`",
    ),
    (
        "[log]\nretention = \"0B\"\n",
        "log.retention (line 2): 0B keeps nothing: it must be more",
    ),
    (
        "[kafka]\nbrokers = \"\"\n",
        "kafka.brokers (line 2): it is empty: name a broker, such as \"127.0.0.1:9092\"",
    ),
    (
        "[kafka]\nbrokers = \"a:9092,,b\"\n",
        "kafka.brokers (line 2): \"\" is not a broker such as \"host:9092\"",
    ),
    (
        "[kafka]\nbrokers = \"a:99999\"\n",
        "kafka.brokers (line 2): \"a:99999\" is not a broker such as \"host:9092\"",
    ),
    (
        "[kafka]\ngroup = \"\"\n",
        "kafka.group (line 2): \"\" is not a name of 1 to 100 letters, digits, `.`, `_` and `-`",
    ),
    (
        "[kafka]\noperation_timeout = \"0s\"\n",
        "kafka.operation_timeout (line 2): 0s is not between 1s and 10m",
    ),
    (
        "[kafka]\ntransaction_timeout = \"11s\"\nsession_timeout = \"1m\"\n",
        "kafka.transaction_timeout (line 2): 11s is not between 1s and 10s",
    ),
    (
        "[kafka]\nsession_timeout = \"6s\"\n",
        "kafka.session_timeout (line 2): transaction_timeout (10s) is longer than session_timeout (6s): a partition would move while its dead owner's transaction is still open",
    ),
    (
        "[kafka.client]\nacks = 1\n",
        "kafka.client.acks (line 2): this property is Headwater's: it is always all",
    ),
    (
        "[kafka.client]\n\"transactional.id\" = \"x\"\n",
        "kafka.client.transactional.id (line 2): this property is Headwater's: set `instance.prefix`, `kafka.group` and `instance.id`",
    ),
    (
        "[topics]\nitems = \"\"\n",
        "topics.items (line 2): it is empty: a topic must have a name",
    ),
    (
        "[topics]\nitems = \"a/b\"\n",
        "topics.items (line 2): \"a/b\" is not the name of a topic: 1 to 249 letters, digits, `.`, `_` and `-`, and neither `.` nor `..`",
    ),
    (
        "[topics]\nitems = \"headwater.behaviors\"\n",
        "topics.items (line 2): items and behaviors are both \"headwater.behaviors\": each topic has its own records",
    ),
    (
        "[topics]\nitems = \"headwater_behaviors\"\n",
        "topics.items (line 2): items (\"headwater_behaviors\") and behaviors (\"headwater.behaviors\") differ by `.` and `_` alone, which brokers refuse",
    ),
    (
        "[topics]\npartitions = 0\n",
        "topics.partitions (line 2): 0 is not between 1 and 10000",
    ),
    (
        "[topics]\nmin_insync_replicas = 2\n",
        "topics.min_insync_replicas (line 2): min_insync_replicas (2) is more than replication_factor (1): nothing could ever be written",
    ),
    (
        "[state]\npath = \"\"\n",
        "state.path (line 2): it is empty: the store must lie somewhere",
    ),
    (
        "[state]\npath = \"a\\u0000b\"\n",
        "state.path (line 2): a path cannot have the character U+0000 in it",
    ),
    (
        "[models]\npath = \"a\\u0000b\"\n",
        "models.path (line 2): a path cannot have the character U+0000 in it",
    ),
    (
        "[log]\npath = \"a\\u0000b\"\n",
        "log.path (line 2): a path cannot have the character U+0000 in it",
    ),
    (
        "[state]\nmemory = \"4KiB\"\n",
        "state.memory (line 2): 4KiB is not between 1MiB and 1024TiB",
    ),
    (
        "[state]\nrecent = 4097\n",
        "state.recent (line 2): 4097 is not between 1 and 4096",
    ),
    (
        "[state]\nwrite_back = \"0s\"\n",
        "state.write_back (line 2): 0s is not between 1ms and 10m",
    ),
    (
        "[state]\nallowed_lateness = \"0d\"\n",
        "state.allowed_lateness (line 2): 0s is no time at all: it must be more",
    ),
    (
        "[state]\nattributes = [\"item\"]\n",
        "state.attributes (line 2): the item has its key-vectors always: it is no attribute",
    ),
    (
        "[state]\nattributes = [\"a\", \"a\", \"\"]\n",
        "state.attributes (line 2): \"a\" stands twice\nstate.attributes (line 2): name 3 is empty",
    ),
    (
        "[kinds]\nimpressions = [\"glance\"]\n",
        "kinds.impressions (line 2): kind \"glance\" is not in kinds.names",
    ),
    (
        "[kinds]\nnames = [\"impression\", \"click\", \"like\"]\n",
        "kinds.names (line 2): kind \"purchase\" is not in kinds.names",
    ),
    (
        "[labels]\nnegatives = 0.0\nopen_max = 0\n",
        "labels.negatives (line 2): 0 would keep no row without a positive, and no weight makes up for that\n\
          labels.open_max (line 3): 0 is not between 1 and 100000",
    ),
    (
        "[train]\nrows_min = 99\nrows_max = 50\npasses = 0\nrate = 0.0\n",
        "train.passes (line 4): 0 is not between 1 and 100\n\
          train.rate (line 5): 0 is not above 0 and at most 1\n\
          train.rows_max (line 3): rows_max (50) is less than rows_min (99): there would never be enough\n\
          train.rows_min (line 2): 99 is not between 100 and 1000000000",
    ),
    (
        "train.every = \"1h\"\nscoring.feature_log = false\nscoring.model = \"m\"\n",
        "train.every (line 1): there are no labelled rows to learn from: labels.examples is off, or scoring.feature_log\n\
          train.every (line 1): instances that have a scoring.model follow no champion: what is learned would never score",
    ),
    (
        "[scenarios]\nnames = [\"other\"]\n",
        "scenarios.names (line 2): \"other\" stands for all scenarios that are not named here",
    ),
    (
        "[tasks]\n",
        "tasks (line 1): 0 tasks: there must be 1 to 32",
    ),
    (
        "[tasks.\"a b\"]\npositive = [\"click\"]\ntrials = []\nscenarios = [\"feed\"]\n",
        "tasks.a b (line 1): \"a b\" is not a name of 1 to 64 letters, digits, `_` and `-`\n\
          tasks.a b.scenarios (line 4): scenario \"feed\" of task a b is not in scenarios.names\n\
          tasks.a b.trials (line 3): it is empty: a rate needs kinds to count",
    ),
    (
        "[step]\ncandidates_max = 0\n",
        "step.candidates_max (line 2): 0 is not between 1 and 100000",
    ),
    (
        "[step]\nwait = \"2s\"\n",
        "step.wait (line 2): 2s is not between 0s and 1s",
    ),
    (
        "[step]\nrecord_max = \"32MiB\"\n",
        "step.record_max (line 2): bytes_max (16MiB) is less than record_max (32MiB): a step could not hold one record",
    ),
    (
        "[step]\nbytes_max = \"65MiB\"\n[log]\nkind = \"embedded\"\n",
        "step.bytes_max (line 2): bytes_max (65MiB) is over 64MiB, and the embedded log takes no transaction over 256MiB",
    ),
    (
        "[step]\nanswer_max = \"1B\"\n",
        "step.answer_max (line 2): 1B is not between 1KiB and 1GiB",
    ),
    (
        "[scoring]\nhalf_life_long = \"1h\"\n",
        "scoring.half_life_long (line 2): half_life_short (12h) is not shorter than half_life_long (1h)",
    ),
    (
        "[scoring]\nstanding_max = 1001\n",
        "scoring.standing_max (line 2): 1001 is not between 0 and 1000",
    ),
];

/// Goal: every rule refuses what breaks it, and names the key. Method: golden, each rule broken once alone.
#[test]
fn every_rule_refuses_what_breaks_it() {
    for (text, said) in BROKEN {
        assert_eq!(complaint(text), *said, "{text}");
    }
}

/// Goal: limits of lists and names hold at their edges. Method: 64 and 65 kinds; names of 256 and 257 bytes; 16 and 17 tasks that learn by a rule, and 17 that do not.
#[test]
fn lists_and_names_have_limits() {
    let kinds = |count: usize| {
        let mut names: Vec<_> = ["impression", "click", "like", "purchase"]
            .map(str::to_owned)
            .into();
        names.extend((4..count).map(|n| format!("kind{n}")));
        format!("[kinds]\nnames = {names:?}\n")
    };
    assert_eq!(complaint(&kinds(64)), "nothing is wrong");
    assert_eq!(
        complaint(&kinds(65)),
        "kinds.names (line 2): 65 names: at most 64 are allowed"
    );
    let scenario = |bytes: usize| format!("[scenarios]\nnames = [\"{}\"]\n", "s".repeat(bytes));
    assert_eq!(complaint(&scenario(256)), "nothing is wrong");
    assert_eq!(
        complaint(&scenario(257)),
        "scenarios.names (line 2): name 1 has 257 bytes: at most 256 are allowed"
    );
    let learned = |objective: &str, tasks: usize| {
        let task = |n| {
            format!(
                "[tasks.t{n}]\npositive = [\"click\"]\ntrials = [\"impression\"]\nscenarios = []\n"
            )
        };
        let tasks: String = (0..tasks).map(task).collect();
        format!("train.objective = \"{objective}\"\n{tasks}")
    };
    assert_eq!(complaint(&learned("gdod", 16)), "nothing is wrong");
    assert_eq!(complaint(&learned("labels", 17)), "nothing is wrong");
    assert_eq!(
        complaint(&learned("gdod", 17)),
        "train.objective (line 1): \"gdod\" takes 16 tasks at most, and there are 17"
    );
}

/// Goal: without Kafka no broker is needed, and brokers are written in every usual way. Method: examples.
#[test]
fn brokers_are_needed_by_kafka_alone() {
    assert_eq!(
        complaint("[log]\nkind = \"embedded\"\n[kafka]\nbrokers = \"\"\n"),
        "nothing is wrong"
    );
    for brokers in [
        "a",
        "a:9092",
        "a:9092, b:9093",
        "[::1]:9092",
        "[::1]",
        "SSL://a:9092",
    ] {
        assert_eq!(
            complaint(&format!("[kafka]\nbrokers = \"{brokers}\"\n")),
            "nothing is wrong",
            "{brokers}"
        );
    }
}

/// Goal: a configuration that was changed in code is held against the same rules. Method: break one.
#[test]
fn a_changed_configuration_can_be_checked() {
    let mut config = Config::default_config();
    config.state.recent = 0;
    assert_eq!(
        config.check().unwrap_err().to_string(),
        "state.recent: 0 is not between 1 and 4096"
    );
}
