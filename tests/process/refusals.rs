//! What the program refuses, with which words and which exit code.

use crate::program::Place;

/// Goal: a wrong configuration ends with 2 and names key, place and remedy. Method: an unknown key in the file, a wrong value by --set, a
/// file that is not there, and a key of the environment; each for `run`, which must not get further, and for `config check`.
#[test]
fn a_wrong_configuration_ends_with_2() {
    let place = Place::new("state.memry = \"1GiB\"");
    for command in [&["run"][..], &["config", "check"]] {
        let ran = place.run(command);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.beside.contains("state.memry"), "{ran:?}");
        assert!(ran.beside.contains("hw.toml:7"), "{ran:?}");
        assert!(
            ran.beside.contains("did you mean `state.memory`?"),
            "{ran:?}"
        );
    }
    assert!(!place.state().exists(), "nothing was made");

    let place = Place::new("");
    let ran = place.run(&["config", "check", "--set", "state.recent=many"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(
        ran.beside.contains("state.recent (--set state.recent)"),
        "{ran:?}"
    );

    let ran = place.run(&["config", "check", "/nowhere/hw.toml"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.beside.contains("/nowhere/hw.toml"), "{ran:?}");

    let mut command = place.command(&["config", "check"]);
    let output = command
        .env("HEADWATER__STATE__MEMORY", "much")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("HEADWATER__STATE__MEMORY"));

    let ran = place.run(&["config", "check"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

/// Goal: a property that librdkafka does not take is found before the daemon starts, and no secret is shown. Method: `config check` with a
/// misspelt name, a value out of range and a misspelt password; then with right ones, though no broker is there.
#[test]
fn a_wrong_kafka_property_is_found_by_the_check() {
    let check = |properties: &str| {
        let place = Place::on_kafka("127.0.0.1:1", &format!("[kafka.client]\n{properties}"));
        place.run(&["config", "check"])
    };
    for (properties, named) in [
        ("linger.millis = \"5\"", "linger.millis"),
        ("linger.ms = \"-5\"", "linger.ms"),
        ("fetch.min.bites = \"5\"", "fetch.min.bites"),
        (
            "sasl.passwort = \"hunter2\"\nsasl.password.typo = \"hunter2\"",
            "sasl.pass",
        ),
    ] {
        let ran = check(properties);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.beside.contains(named), "{ran:?}");
        assert!(!ran.beside.contains("hunter2"), "{ran:?}");
    }
    let right = "linger.ms = \"5\"\nfetch.min.bytes = \"1\"\nsasl.password = \"hunter2\"";
    let ran = check(right);
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

/// Goal: a command line that cannot be read ends with 2, and help with 0. Method: an unknown command, `--help`, and the help of each.
#[test]
fn help_teaches_and_mistakes_end_with_2() {
    let place = Place::new("");
    let ran = place.run(&["inspct"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(
        ran.beside.contains("inspect"),
        "it names what was meant: {ran:?}"
    );
    for command in [
        &["run"][..],
        &["config", "check"],
        &["config", "show"],
        &["topics", "create"],
        &["inspect", "user"],
        &["explain"],
        &["produce"],
        &["replay"],
        &["dlq", "redrive"],
    ] {
        let ran = place.run(&[command, &["--help"]].concat());
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(
            ran.answer.contains("Example"),
            "{command:?} has no example: {ran:?}"
        );
    }
}

/// Goal: numbers that make no demo, and a place where no predictions can be, end with 2 and are named. Method: each.
#[test]
fn what_cannot_be_made_ends_with_2() {
    let place = Place::new("");
    for (option, named) in [
        ("--users=0", "`0` is not a number of users"),
        ("--rate=nan", "`nan` is not a number of requests"),
        ("--rate=inf", "`inf` is not a number of requests"),
    ] {
        let ran = place.run(&["demo", "--for", "1s", option]);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.beside.contains(named), "{ran:?}");
    }
    let empty = place.state().with_file_name("empty.jsonl");
    std::fs::write(&empty, "").unwrap();
    let empty = empty.to_str().unwrap();
    let mut arguments = vec!["backtest", "--items", empty, "--events", empty];
    arguments.extend(["--predictions", "/nowhere/predictions.tsv"]);
    let ran = place.run(&arguments);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.beside.contains("/nowhere/predictions.tsv"), "{ran:?}");
}

/// Goal: one process a folder. Method: a second daemon on the folder of a running one ends with 3 and names it.
#[test]
fn a_folder_in_use_ends_with_3() {
    let place = Place::new("");
    let daemon = place.start(&[]);
    let ran = place.run(&["run"]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(
        ran.beside.contains(&place.state().display().to_string()),
        "{ran:?}"
    );
    daemon.stop();
}

/// Goal: a folder of another prefix, group, instance or log, or of a newer format, is refused by name. Method: one start, then each.
#[test]
fn a_folder_of_another_ends_with_3() {
    let place = Place::new("");
    place.start(&[]).stop();
    for (setting, named) in [
        ("instance.prefix=other.", "instance.prefix"),
        ("kafka.group=other", "group"),
        ("instance.id=other", "instance.id"),
        ("log.kind=kafka", "log.kind"),
    ] {
        let ran = place.run(&["run", "--set", setting]);
        assert_eq!(ran.code, Some(3), "{setting}: {ran:?}");
        assert!(
            ran.beside.contains(named) && ran.beside.contains("identity.json"),
            "{setting}: {ran:?}"
        );
    }

    let file = place.state().join("identity.json");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(
        &file,
        text.replace("\"format\": 1", "\"format\": 9, \"more\": true"),
    )
    .unwrap();
    let ran = place.run(&["run"]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.beside.contains("format 9"), "{ran:?}");

    std::fs::write(&file, "{").unwrap();
    assert_eq!(place.run(&["run"]).code, Some(3));
}

/// Goal: brokers that do not answer are something to try again. Method: a port where nobody listens.
#[test]
fn brokers_that_are_away_end_with_75() {
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let place = Place::new("kafka.operation_timeout = \"1s\"");
    let brokers = format!("kafka.brokers=127.0.0.1:{port}");
    let ran = place.run(&["run", "--set", "log.kind=kafka", "--set", &brokers]);
    assert_eq!(ran.code, Some(75), "{ran:?}");
}

/// Goal: an address that is taken is named. Method: listen there first.
#[test]
fn an_address_that_is_taken_ends_with_2() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let ran = Place::new("").run(&["run", "--set", &format!("admin.address={address}")]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.beside.contains(&address), "{ran:?}");
}
