//! What `headwater train` refuses, before it has read much.

use std::fs;

use headwater_tests::tiny_model::{write_model, write_recordings};

use crate::program::Place;
use crate::train::train;

/// Goal: what cannot be trained from is named. Method: a line that is no record, events without labels, no model, one that is not there, too many layers.
#[test]
fn what_cannot_be_trained_from_is_named() {
    let place = Place::new("scenarios.names = [\"home\"]");
    let folder = place.file().parent().unwrap().to_owned();
    let recordings = write_recordings(&folder);
    write_model(&folder.join("language"), None);
    let from = folder.join("language").display().to_string();
    let out = folder.join("out");
    let refused = |recordings: &[String; 2], more: &[&str], words: &str| {
        let ran = train(&place, recordings, &out, more);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.beside.contains(words), "{ran:?}");
    };
    refused(
        &recordings,
        &[],
        "neither --model nor texts.encoder names one",
    );
    refused(
        &recordings,
        &["--model", "nothing"],
        "`nothing` is no folder or file, and no model of that name is in the cache",
    );
    refused(
        &recordings,
        &["--model", &from, "--layers", "2"],
        "2 layers above 1 of a model of 2",
    );
    refused(
        &recordings,
        &["--model", &from, "--texts", "mean", "--cut", "3"],
        "has 2 layers, and texts.cut (--cut) says that 3",
    );
    for winner in ["--promote", "--on-trial"] {
        refused(
            &recordings,
            &["--model", &from, winner],
            "cannot be used with",
        );
    }
    {
        // Of two trainings in one folder the first has it.
        fs::create_dir_all(&out).unwrap();
        let held = fs::File::open(&out).unwrap();
        held.lock().unwrap();
        let ran = train(&place, &recordings, &out, &["--texts", "none"]);
        assert_eq!(ran.code, Some(75), "{ran:?}");
        assert!(
            ran.beside
                .contains("another training is at work in this folder"),
            "{ran:?}"
        );
    }
    let before = fs::read(&recordings[1]).unwrap();
    let twice = folder.join("twice.tsv").display().to_string();
    let [items, events] = &recordings;
    let place_of = out.display().to_string();
    for (predictions, report, words) in [
        (events, "page.html", "it is read as well"),
        (&twice, &twice, "something else is written there"),
    ] {
        let report = folder.join(report).display().to_string();
        let ran = place.run(&[
            "train",
            "bahe",
            "--texts",
            "none",
            "--items",
            items,
            "--events",
            events,
            "--out",
            &place_of,
            "--predictions",
            predictions,
            "--report",
            &report,
        ]);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.beside.contains(words), "{ran:?}");
    }
    assert_eq!(fs::read(events).unwrap(), before);
    let task = |number| format!("tasks.t{number}.positive=[\"like\"]");
    let more = (0..17).flat_map(|number| {
        let of = format!("tasks.t{number}.");
        [
            task(number),
            of.clone() + "trials=[\"impression\"]",
            of + "scenarios=[]",
        ]
    });
    let more: Vec<String> = more.flat_map(|set| ["--set".to_owned(), set]).collect();
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let by_rule = [&["--texts", "none", "--objective", "gdod"], &more[..]].concat();
    refused(&recordings, &by_rule, "--objective: 18 tasks");
    let torn = folder.join("torn.jsonl").display().to_string();
    fs::write(&torn, "{\"topic\": \"behaviors\", \"record\": {}}\n").unwrap();
    let torn = [recordings[0].clone(), torn];
    let of_one = ["--model", &from, "--layers", "1"];
    refused(&torn, &of_one, "torn.jsonl, line 1: ");
    let requests = fs::read_to_string(&recordings[1]).unwrap();
    let requests: Vec<&str> = requests
        .lines()
        .filter(|line| line.contains("score-requests"))
        .collect();
    let unlabeled = folder.join("unlabeled.jsonl").display().to_string();
    fs::write(&unlabeled, requests.join("\n")).unwrap();
    refused(
        &[recordings[0].clone(), unlabeled],
        &of_one,
        "no row has a label",
    );
}
