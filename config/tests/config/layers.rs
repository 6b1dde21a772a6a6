//! How layers lie over one another, and that every value knows where it was written.

use std::ffi::OsString;
use std::path::PathBuf;

use headwater_config::{
    Backend, Bytes, Config, Delivery, LoadError, Loaded, LogKind, Sources, Span, Topic,
};

fn load(files: &[PathBuf], environment: &[(&str, &str)]) -> Result<Loaded, LoadError> {
    let environment: Vec<(OsString, OsString)> = environment
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    Config::load(&Sources {
        files,
        environment: &environment,
    })
}

fn origin(loaded: &Loaded, key: &str) -> String {
    loaded
        .origins
        .of(key)
        .map_or_else(|| format!("{key} has no origin"), ToString::to_string)
}

/// Goal: `default.toml` is a whole configuration that obeys every rule, and says what the code says. Method: one value of
/// each type; every origin is the default.
#[test]
fn the_defaults_are_complete() {
    let loaded = load(&[], &[]).unwrap();
    let config = &loaded.config;
    assert_eq!(*config, Config::default_config());
    assert_eq!(config.check(), Ok(()));
    assert_eq!(config.instance.id, None);
    assert_eq!(config.instance.workers, 1);
    assert_eq!(config.log.kind, LogKind::Kafka);
    assert_eq!(config.kafka.delivery, Delivery::ExactlyOnce);
    assert_eq!(config.kafka.transaction_timeout, Span::from_secs(10));
    assert_eq!(config.state.backend, Backend::Sled);
    assert_eq!(config.state.memory, Bytes::new(256 << 20));
    assert_eq!(config.state.keys_max, None);
    assert_eq!(config.kinds.names.len(), 17);
    assert_eq!(
        config.tasks["click"].positive,
        ["click", "like", "purchase"]
    );
    assert_eq!(config.admin.address.unwrap().port(), 9464);
    assert!(!config.source.behaviors.mapped);
    assert_eq!(config.log_path(), PathBuf::from("headwater-state/log"));
    assert_eq!(
        config.models_path(),
        PathBuf::from("headwater-state/models")
    );
    for (key, _) in loaded.origins.iter() {
        assert_eq!(origin(&loaded, &key), "default", "{key}");
    }
}

/// Goal: one prefix is before every topic, the group and the transactional ids. Method: by hand.
#[test]
fn one_prefix_is_before_every_name() {
    let config = Config::from_toml("[instance]\nprefix = \"shop.\"\n").unwrap();
    for topic in Topic::ALL {
        assert!(
            config.topic_name(topic).starts_with("shop.headwater."),
            "{topic:?}"
        );
    }
    assert_eq!(
        config.topic_name(Topic::ScoreRequests),
        "shop.headwater.score-requests"
    );
    assert_eq!(config.group(), "shop.headwater");
    assert_eq!(config.transactional_id("a1", 3), "shop.headwater-a1-3");
}

/// Goal: later files go over earlier ones and the environment over all, and each value knows its layer and line. Method:
/// two files and variables that set some keys twice and thrice.
#[test]
fn layers_lie_over_one_another() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base.toml");
    let site = folder.path().join("site.toml");
    std::fs::write(
        &base,
        "[state]\nmemory = \"1GiB\"\nrecent = 64\n\n[kafka]\nbrokers = \"a:9092\"\n[kafka.client]\n\"security.protocol\" = \"SSL\"\n",
    )
    .unwrap();
    std::fs::write(
        &site,
        "# site\nstate = { recent = 32 }\n[kafka.client]\nssl.ca.location = \"/ca.pem\"\nsocket.keepalive.enable = true\nlinger.ms = 3\n",
    )
    .unwrap();
    let files = [base.clone(), site.clone()];
    let loaded = load(
        &files,
        &[
            ("HEADWATER__KAFKA__BROKERS", "b:9092,c:9092"),
            ("HEADWATER__STATE__FSYNC", "true"),
            ("HEADWATER__STEP__RECORDS_MAX", "100"),
            ("HEADWATER__STATE__ATTRIBUTES", "query, author"),
            ("HEADWATER__KINDS__IMPRESSIONS", "[\"view\"]"),
            ("HEADWATER__TASKS__CLICK__POSITIVE", "click"),
            ("HEADWATER__SEQUENCES__CLICKS", "click,view"),
            ("HEADWATER__KAFKA__CLIENT__SASL_MECHANISM", "PLAIN"),
            ("HEADWATER_HOME", "/x"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap();
    let config = &loaded.config;
    assert_eq!(config.state.memory, Bytes::new(1 << 30));
    assert_eq!(config.state.recent, 32);
    assert!(config.state.fsync);
    assert_eq!(config.state.attributes, ["query", "author"]);
    assert_eq!(config.kinds.impressions, ["view"]);
    assert_eq!(config.sequences["clicks"], ["click", "view"]);
    assert_eq!(config.kafka.brokers, "b:9092,c:9092");
    assert_eq!(config.step.records_max, 100);
    assert_eq!(config.tasks["click"].positive, ["click"]);
    assert_eq!(config.tasks["click"].trials, ["impression"]);
    let client: Vec<_> = config
        .kafka
        .client
        .iter()
        .map(|(name, value)| (name, value.expose()))
        .collect();
    assert_eq!(
        client,
        [
            ("linger.ms", "3"),
            ("sasl.mechanism", "PLAIN"),
            ("security.protocol", "SSL"),
            ("socket.keepalive.enable", "true"),
            ("ssl.ca.location", "/ca.pem"),
        ]
    );
    for (key, at) in [
        ("state.memory", format!("{}:2", base.display())),
        ("state.recent", format!("{}:2", site.display())),
        (
            "kafka.client.security.protocol",
            format!("{}:8", base.display()),
        ),
        (
            "kafka.client.ssl.ca.location",
            format!("{}:4", site.display()),
        ),
        ("kafka.brokers", "HEADWATER__KAFKA__BROKERS".to_owned()),
        (
            "kafka.client.sasl.mechanism",
            "HEADWATER__KAFKA__CLIENT__SASL_MECHANISM".to_owned(),
        ),
        ("state.path", "default".to_owned()),
    ] {
        assert_eq!(origin(&loaded, key), at, "{key}");
    }
}

/// Goal: a file that describes tasks describes all of them; arrays are replaced, not joined. Method: one task, one list.
#[test]
fn tasks_and_arrays_are_replaced_whole() {
    let config = Config::from_toml(
        "[kinds]\nnames = [\"seen\", \"tap\"]\nimpressions = [\"seen\"]\n[tasks.tap]\npositive = [\"tap\"]\ntrials = [\"seen\"]\nscenarios = []\n",
    )
    .unwrap();
    assert_eq!(config.tasks.keys().collect::<Vec<_>>(), ["tap"]);
    assert_eq!(config.kinds.names, ["seen", "tap"]);
}

/// Goal: a wrong variable is named like a wrong key. Method: golden, each way to be wrong.
#[test]
fn wrong_variables_are_named() {
    let said = |name: &str, value: &str| load(&[], &[(name, value)]).unwrap_err().to_string();
    assert_eq!(
        said("HEADWATER__STATE__MEMRY", "1GiB"),
        "state.memry (HEADWATER__STATE__MEMRY): unknown key; did you mean `state.memory`?"
    );
    assert_eq!(
        said("HEADWATER__STEP__RECORDS_MAX", "many"),
        "step.records_max (HEADWATER__STEP__RECORDS_MAX): wanted a whole number, 0 or more, found text"
    );
    assert_eq!(
        said("HEADWATER__STATE", "x"),
        "state (HEADWATER__STATE): wanted a table, found text"
    );
    assert_eq!(
        said("HEADWATER__STATE__", "x"),
        "state. (HEADWATER__STATE__): not the name of a key: sections and key have two underscores between them, as in HEADWATER__STATE__MEMORY"
    );
    assert_eq!(
        said("HEADWATER_STATE_WRITE_BACK", "10s"),
        "state.write_back (HEADWATER_STATE_WRITE_BACK): the name has one underscore where two belong: HEADWATER__STATE__WRITE_BACK"
    );
    assert_eq!(
        said("HEADWATER__KINDS__NAMES", "[\"click\""),
        "kinds.names (HEADWATER__KINDS__NAMES): not an array of TOML: unclosed array, expected `]`"
    );
    assert_eq!(
        said("HEADWATER__KAFKA__CLIENT__GROUP_ID", "x"),
        "kafka.client.group.id (HEADWATER__KAFKA__CLIENT__GROUP_ID): this property is Headwater's: set `kafka.group`"
    );
    assert_eq!(
        said("HEADWATER__STATE__WRITE_BACK", "10"),
        "state.write_back (HEADWATER__STATE__WRITE_BACK): \"10\" has no unit: \"10ms\", \"10s\", \"10m\", \"10h\" or \"10d\"?"
    );
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStringExt;
        let environment = [(
            OsString::from("HEADWATER__STATE__PATH"),
            OsString::from_vec(vec![0xff]),
        )];
        let error = Config::load(&Sources {
            files: &[],
            environment: &environment,
        })
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "state.path (HEADWATER__STATE__PATH): its value is not UTF-8"
        );
    }
}
