//! Texts in the stream: items are embedded once, rows see their vectors, and nothing waits for them.

use headwater_config::Topic;
use serde_json::{Value, json};

use crate::log::{click, open, records, request, send};
use crate::program::{Daemon, Place, until};
use headwater_tests::tiny_model::write_model;

const TEXTS: &str = "scenarios.names = [\"feed\"]\ntexts.encoder = \"tiny\"\ntexts.cut = 1";

fn place_with_model() -> Place {
    let place = Place::new(TEXTS);
    let folder = place.file().parent().unwrap().join("language");
    write_model(&folder, None);
    let from = folder.display().to_string();
    let fetched = place.run(&["models", "fetch", "tiny", "--from", &from]);
    assert_eq!(fetched.code, Some(0), "{fetched:?}");
    place
}

fn item(id: &str, title: &str) -> Vec<u8> {
    json!({"item_id": id, "time": 1_763_800_000_000_i64, "fields": {"title": title}})
        .to_string()
        .into_bytes()
}

/// A feature of an item in the row that answered a request.
fn feature(place: &Place, request: &str, item: &str, name: &str) -> f64 {
    let explained = place.run(&["explain", request, "--item", item, "--format", "json"]);
    assert_eq!(explained.code, Some(0), "{explained:?}");
    let view = explained.json();
    let rows = view["logged"][0]["rows"]["rows"].as_array().unwrap();
    assert_eq!(rows[0]["item_id"], item, "{view}");
    let features = rows[0]["features"].as_array().unwrap();
    let found = features.iter().find(|feature| feature["name"] == name);
    found.unwrap_or_else(|| panic!("no {name}: {view}"))["value"]
        .as_f64()
        .unwrap()
}

fn texts(daemon: &Daemon) -> Value {
    daemon.json("/status")["texts"].clone()
}

/// Goal: a request is answered before its items have vectors; their texts, and that of the behavior, are embedded once; after that, rows see how alike a candidate is to what the user
/// met, also after a kill -9 and a start; while nobody encodes, an instance says how many texts wait. Method: the same request three times, with an item clicked between; the last after a kill; first an instance that does not encode.
#[test]
fn rows_see_vectors_once_they_are_there() {
    let place = place_with_model();
    let config = place.config();
    {
        let log = open(&config);
        send(&log, Topic::Items, "ia", &item("ia", "a"));
        send(&log, Topic::Items, "ib", &item("ib", "b"));
        send(&log, Topic::Behaviors, "u1", &click("u1", "ia", "e1"));
        send(
            &log,
            Topic::ScoreRequests,
            "u1",
            &request("r1", "u1", &["ia", "ib", "ix"]),
        );
    }
    let daemon = place.start(&["--set", "texts.encode=false"]);
    until("the texts to wait", || {
        // Ends of transactions stand among them.
        (texts(&daemon)["waiting"].as_u64() >= Some(3)).then_some(())
    });
    daemon.stop();
    let daemon = place.start(&[]);
    until("the texts to be embedded", || {
        let encoder = texts(&daemon)["encoder"].is_string();
        let encoded = daemon.metric("headwater_consumers_texts_encoded_total");
        (encoder && encoded == 3).then_some(())
    });
    until("nothing to wait", || {
        let texts = texts(&daemon);
        (texts["waiting"] == 0 && texts["waited_seconds"] == 0.0).then_some(())
    });
    daemon.wait_ready();
    daemon.stop();
    assert_eq!(feature(&place, "r1", "ia", "text.all.newest"), 0.0);

    {
        let log = open(&config);
        send(
            &log,
            Topic::ScoreRequests,
            "u1",
            &request("r2", "u1", &["ia", "ib", "ix"]),
        );
    }
    let daemon = place.start(&[]);
    until("the answer", || {
        (daemon.metric("headwater_model_scores_total") >= 3).then_some(())
    });
    let encoder = texts(&daemon)["encoder"].as_str().unwrap().to_owned();
    drop(daemon);
    let daemon = place.start(&[]);
    daemon.wait_ready();
    assert_eq!(texts(&daemon)["encoder"], encoder.as_str());
    assert_eq!(daemon.metric("headwater_consumers_texts_encoded_total"), 0);
    daemon.stop();
    let near = |item| feature(&place, "r2", item, "text.all.newest");
    assert!((near("ia") - 1.0).abs() < 1e-3, "{}", near("ia"));
    assert!(near("ib") < 0.999 && near("ib") != 0.0, "{}", near("ib"));
    assert_eq!(near("ix"), 0.0);
    let explained = place.run(&["explain", "r2", "--format", "json"]).json();
    assert_eq!(
        explained["logged"][0]["rows"]["embeddings"],
        encoder.as_str()
    );
}

/// Goal: another encoder becomes the current one when it has been through all texts, and the way back is short: nothing is embedded again, until its vectors were
/// out of use for too long. Method: the same model cut one layer higher, and then as before, again and again.
#[test]
fn another_encoder_takes_over_and_hands_back() {
    let place = place_with_model();
    {
        let log = open(&place.config());
        send(&log, Topic::Items, "ia", &item("ia", "a"));
        send(
            &log,
            Topic::ScoreRequests,
            "u1",
            &request("r1", "u1", &["ia"]),
        );
    }
    let current = |cut: &str, embeds: u64| {
        let daemon = place.start(&["--set", cut]);
        let encoder = until("the encoder to be the current one", || {
            let texts = texts(&daemon);
            let encoded = daemon.metric("headwater_consumers_texts_encoded_total");
            let logged = daemon.said();
            let ours = logged.lines().find_map(|line| {
                let line: Value = serde_json::from_str(line).ok()?;
                (line["message"] == "encoder of texts loaded").then(|| line["encoder"].clone())
            });
            let is_through = texts["waiting"] == 0 && encoded >= embeds;
            (is_through && Some(&texts["encoder"]) == ours.as_ref()).then_some((ours, encoded))
        });
        daemon.stop();
        assert_eq!(encoder.1, embeds, "{cut}");
        encoder.0
    };
    let first = current("texts.cut=1", 1);
    let other = current("texts.cut=2", 1);
    assert_ne!(first, other);
    assert_eq!(current("texts.cut=1", 0), first);

    // Out of use for longer than they are kept: they go, and on the way back are made again.
    assert_eq!(current("texts.cut=2", 0), other);
    let daemon = place.start(&["--set", "texts.cut=2", "--set", "texts.keep_former=1ms"]);
    until("the former's vectors to be deleted", || {
        let told = "vectors of a former encoder deleted";
        daemon.said().contains(told).then_some(())
    });
    daemon.stop();
    let deleted = records(&open(&place.config()), Topic::Embeddings);
    assert!(deleted.len() >= 3, "{deleted:?}");
    assert_eq!(current("texts.cut=1", 1), first);
}

/// Goal: a model that is not there, or not right, is refused before anything starts, by the key that names it; an instance that does not encode needs none.
/// Method: a name that is nowhere, a model cut beyond its layers, and encode = false.
#[test]
fn a_model_that_cannot_be_had_is_refused() {
    let place = Place::new("texts.encoder = \"nowhere\"");
    let ran = place.run(&["run"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(
        ran.beside.contains("texts.encoder")
            && ran.beside.contains("`nowhere` is no folder or file"),
        "{ran:?}"
    );
    let place = place_with_model();
    let ran = place.run(&["run", "--set", "texts.cut=3"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.beside.contains("texts.encoder: "), "{ran:?}");
    let place = Place::new("texts.encoder = \"nowhere\"\ntexts.encode = false");
    let daemon = place.start(&[]);
    daemon.wait_ready();
    assert!(texts(&daemon)["encoder"].is_null());
    daemon.stop();
}
