//! A daemon as a service: it becomes ready, answers, tells of itself, and ends when it is asked to.

use headwater_config::Topic;

use crate::log::{click, open, records, request, send};
use crate::program::{Place, until};

/// Goal: from behaviors and a request to answers, and to what people see. Method: records lie in the log before the start; then every
/// path of HTTP, SIGTERM, and the answers in the log.
#[test]
fn a_daemon_answers_and_ends_in_good_order() {
    let place = Place::new("");
    let config = place.config();
    {
        let log = open(&config);
        for event in 0..3 {
            send(
                &log,
                Topic::Behaviors,
                "u1",
                &click("u1", "i1", &format!("e{event}")),
            );
        }
        // The same event twice counts once.
        send(&log, Topic::Behaviors, "u1", &click("u1", "i1", "e0"));
        send(
            &log,
            Topic::ScoreRequests,
            "u1",
            &request("r1", "u1", &["i1", "i2"]),
        );
    }
    let daemon = place.start(&[]);
    daemon.wait_ready();
    assert_eq!(daemon.get("/livez").unwrap().0, 200);
    until("the behaviors to be counted", || {
        (daemon.metric("headwater_state_behaviors_folded_total") >= 3).then_some(())
    });
    let user = daemon.json("/users/u1");
    assert_eq!(user["recent"].as_array().unwrap().len(), 3, "{user}");
    assert_eq!(user["recent"][0]["kind"], "click");
    assert_eq!(daemon.get("/users/nobody").unwrap().0, 404);
    let owner = daemon.json("/owner/u1");
    assert_eq!(owner["here"], true, "{owner}");
    assert_eq!(
        owner["owner"]["address"].as_str(),
        Some(daemon.address.as_str())
    );
    until("the answer", || {
        let found = daemon.json("/explain/r1");
        (!found["answers"].as_array().unwrap().is_empty()).then_some(())
    });
    let (status, said) = daemon.get("/explain/nope").unwrap();
    assert_eq!(status, 404);
    assert!(said.contains("no request `nope`"), "{said}");
    let (status, metrics) = daemon.get("/metrics").unwrap();
    assert_eq!(status, 200);
    assert!(metrics.contains("headwater_daemon_ready 1"), "{metrics}");
    assert!(
        metrics.contains("headwater_daemon_build_info{version="),
        "{metrics}"
    );
    assert_eq!(
        daemon.json("/status")["workers"][0]["working"]
            .as_array()
            .unwrap()
            .len(),
        4
    );
    for (path, status) in [
        ("/nowhere", 404),
        ("/users/u1?entries=many", 400),
        ("/users/%ff", 400),
        ("/owner/%ff", 400),
        ("/explain/r1?best=-1", 400),
    ] {
        let (found, said) = daemon.get(path).unwrap();
        assert_eq!(found, status, "{path}: {said}");
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert!(said["error"].is_string(), "{path}: {said}");
    }
    daemon.stop();

    let answers = records(&open(&config), Topic::Scores);
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(answers[0]["request_id"], "r1");
    assert_eq!(answers[0]["items"].as_array().unwrap().len(), 2);
}

/// Goal: an item's newer record is put back behind an older one that came late, by the daemon itself. Method: both lie in the log before the
/// start; afterwards the newer lies there again.
#[test]
fn the_newer_record_of_an_item_is_put_back() {
    let place = Place::new("");
    let config = place.config();
    let item = |time: i64, title: &str| {
        let time = headwater::now_ms() - time;
        format!(r#"{{"item_id":"i1","time":{time},"fields":{{"title":"{title}"}}}}"#)
    };
    {
        let log = open(&config);
        send(&log, Topic::Items, "i1", item(1_000, "new").as_bytes());
        send(&log, Topic::Items, "i1", item(2_000, "old").as_bytes());
    }
    let daemon = place.start(&[]);
    until("the newer record to be put back", || {
        (daemon.metric("headwater_consumers_items_put_back_total") >= 1).then_some(())
    });
    daemon.stop();
    let titles: Vec<_> = records(&open(&config), Topic::Items)
        .into_iter()
        .map(|item| item["fields"]["title"].clone())
        .collect();
    assert_eq!(titles, ["new", "old", "new"]);
}

/// Goal: SIGINT is as good as SIGTERM, and a port of its own each. Method: two daemons at once, one signal each.
#[test]
fn both_signals_end_it_in_good_order() {
    let places = [Place::new(""), Place::new("")];
    let daemons: Vec<_> = places.iter().map(|place| place.start(&[])).collect();
    assert_ne!(daemons[0].address, daemons[1].address);
    for (mut daemon, signal) in daemons.into_iter().zip(["INT", "TERM"]) {
        daemon.wait_ready();
        daemon.signal(signal);
        assert_eq!(daemon.wait().code(), Some(0), "{signal}: {}", daemon.said());
    }
}

/// Goal: the first signal is heeded whenever it comes, the second ends the process at once. Method: a daemon that waits for brokers which
/// are not there; two signals long before it gives up.
#[test]
fn the_second_signal_ends_it_at_once() {
    let place = Place::new("kafka.operation_timeout = \"5m\"");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let brokers = format!("kafka.brokers={}", listener.local_addr().unwrap());
    let (mut daemon, _started) = place.launch(&["--set", "log.kind=kafka", "--set", &brokers]);
    // It connects once its signals are waited for.
    drop(listener.accept().unwrap());
    daemon.signal("TERM");
    until("the first signal to be heard", || {
        daemon
            .said()
            .contains("a second signal ends at once")
            .then_some(())
    });
    daemon.signal("TERM");
    assert_eq!(daemon.wait().code(), Some(143), "{}", daemon.said());
}

/// Goal: secrets are in no log and no answer. Method: a password in the environment, then every word that the program says.
#[test]
fn secrets_are_never_said() {
    let place = Place::new("telemetry.level = \"trace\"");
    let mut show = place.command(&["config", "show"]);
    show.env("HEADWATER__KAFKA__CLIENT__SASL_PASSWORD", "open-sesame");
    let output = show.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\"sasl.password\" = \"(hidden)\""), "{text}");
    assert!(!text.contains("open-sesame"), "{text}");
    let ran = place.run(&[
        "config",
        "show",
        "--set",
        "kafka.client.sasl.password=open-sesame",
    ]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(
        !ran.answer.contains("open-sesame") && !ran.beside.contains("open-sesame"),
        "{ran:?}"
    );
}

/// Goal: clients that connect and say nothing, or a byte now and then, do not keep the others out: they are few at a time, and shown out. Method: a hundred
/// connections with half a request each, half of which go on a byte at a time; then `/livez` answers, and the first of each are at their end.
#[test]
fn silent_clients_are_shown_out() {
    use std::io::{Read as _, Write as _};

    let place = Place::new("");
    let daemon = place.start(&[]);
    daemon.wait_ready();
    let mut silent: Vec<std::net::TcpStream> = (0..100)
        .map(|_| {
            let mut stream = std::net::TcpStream::connect(&daemon.address).unwrap();
            stream.write_all(b"GET /livez HT").unwrap();
            stream
        })
        .collect();
    let mut slow: Vec<std::net::TcpStream> = silent.split_off(50);
    slow.extend(silent.drain(25..));
    until("an answer beside them", || {
        for stream in &mut slow {
            // Whoever was shown out cannot be written to any more.
            drop(stream.write_all(b"x"));
        }
        daemon.get("/livez").filter(|(status, _)| *status == 200)
    });
    for first in [&mut silent[0], slow.last_mut().unwrap()] {
        first
            .set_read_timeout(Some(std::time::Duration::from_secs(60)))
            .unwrap();
        let ended = first.read_to_end(&mut Vec::new());
        let waited = |error: &std::io::Error| {
            matches!(
                error.kind(),
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
            )
        };
        assert!(!ended.as_ref().is_err_and(waited), "{ended:?}");
    }
}
