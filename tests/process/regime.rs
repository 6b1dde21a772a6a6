//! `headwater train --regime prequential`: what is said of a row is what was known then.

use std::collections::BTreeMap;
use std::fs;

use headwater_tests::tiny_model::write_recordings;

use crate::program::Place;
use crate::train::train;

/// Goal: a row is said by what was learned before its time and by nothing later, what is learned on the way is of use, the same files give the same bytes, and the page shows what was said. Method: recordings,
/// twice, and once more with all that the last 38 requests' users did turned around: what was said up to the first of them is the same to the byte, and later it is not.
#[test]
fn a_row_is_said_before_it_is_learned_from() {
    let place = Place::new("scenarios.names = [\"home\"]");
    let folder = place.file().parent().unwrap().to_owned();
    let [items, events] = write_recordings(&folder);
    let turned = folder.join("turned.jsonl").display().to_string();
    // From within a piece on.
    let changed = |line: &str| (2..40).any(|user| line.contains(&format!("\"r11-{user}\"")));
    let lines = fs::read_to_string(&events).unwrap();
    let other = lines.lines().map(|line| {
        if changed(line) && line.contains("\"like\"") {
            let [one, two] = ["\"item_id\":\"ia\"", "\"item_id\":\"ib\""];
            if line.contains(one) {
                line.replace(one, two)
            } else {
                line.replace(two, one)
            }
        } else {
            line.to_owned()
        }
    });
    fs::write(&turned, other.collect::<Vec<_>>().join("\n")).unwrap();
    let go = |name: &str, events: &String, regime: &str| {
        let out = folder.join(name);
        let page = format!("{}.html", out.display());
        let more = [
            "--texts", "none", "--passes", "2", "--train", "0.5", "--valid", "0.1", "--regime",
            regime, "--report", &page,
        ];
        let ran = train(&place, &[items.clone(), events.clone()], &out, &more);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let table = fs::read_to_string(format!("{}.tsv", out.display())).unwrap();
        (ran.json(), table, fs::read_to_string(page).unwrap())
    };
    let (summary, table, page) = go("first", &events, "prequential");
    assert_eq!(summary["rows"], serde_json::json!([480, 96, 384]));
    assert_eq!(summary["onward"], 48, "{summary}");
    let auc = |who: &str| summary["predicted"]["click"][who]["auc"].as_f64().unwrap();
    assert!(auc("model") > 0.9, "{summary}");
    let shown = |auc: f64| page.contains(&format!("<td>{auc:.4}</td>"));
    assert!(shown(auc("model")) && shown(auc("baseline")), "{page}");
    let (_, again, page_again) = go("second", &events, "prequential");
    assert!(table == again && page == page_again);
    // The rows that were gone over by passes, and those that validated, had their say in the model before.
    assert_eq!(table.lines().count(), 1 + 384);
    let said = |table: &str| {
        let lines = table.lines().skip(1).map(|line| {
            let (row, probability) = line.rsplit_once('\t').unwrap();
            (row.to_owned(), probability.to_owned())
        });
        lines.collect::<BTreeMap<_, _>>()
    };
    let (_, turned, _) = go("turned", &turned, "prequential");
    let (one, other) = (said(&table), said(&turned));
    let (mut same, mut apart) = (0, 0);
    for (row, probability) in &one {
        let request = row.split('\t').next().unwrap();
        let before = !request.starts_with("r11-") || ["r11-0", "r11-1", "r11-2"].contains(&request);
        if before {
            assert_eq!(other[row], *probability, "{row}");
            same += 1;
        } else {
            apart += usize::from(other[row] != *probability);
        }
    }
    assert!(same == 310 && apart > 40, "{same} {apart}");
    // What follows from the users is learned in any case; here it is the page that is looked at.
    let (_, frozen, frozen_page) = go("frozen", &events, "frozen");
    assert_eq!(frozen.lines().count(), 1 + 960);
    assert!(frozen_page.contains("frozen: nothing was learned"));
    assert!(
        page.contains("prequential: 48 pieces") && page.contains("<h2>click</h2>"),
        "{page}"
    );
    assert_eq!(page.matches("<svg").count(), 5);
    // A backtest that learns is the same, by what the configuration says.
    let predictions = folder.join("backtest.tsv").display().to_string();
    let model = folder.join("backtest").display().to_string();
    let backtest = |more: &[&str]| {
        let fixed = [
            "backtest",
            "--items",
            &items,
            "--events",
            &events,
            "--predictions",
            &predictions,
            "--format",
            "json",
            "--set",
            "train.passes=2",
            "--set",
            "train.rate=0.006",
        ];
        place.run(&[&fixed[..], more].concat())
    };
    let learns = ["--regime", "prequential", "--out", &model];
    let ran = backtest(&learns);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let told = fs::read_to_string(&predictions).unwrap();
    let shares = ["--train", "0.7", "--valid", "0.1"];
    let out = folder.join("as-configured");
    let more = [
        &[
            "--texts",
            "none",
            "--passes",
            "2",
            "--regime",
            "prequential",
        ],
        &shares[..],
    ]
    .concat();
    let ran = train(&place, &[items.clone(), events.clone()], &out, &more);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(told == fs::read_to_string(format!("{}.tsv", out.display())).unwrap());
    assert!(told.lines().count() > 150, "{}", told.lines().count());
    for (wrong, said) in [
        (&learns[..2], "--out"),
        (&["--out", &model][..], "--regime"),
        (&[&learns[..], &["--folder", "x"]].concat()[..], "--folder"),
    ] {
        let ran = backtest(wrong);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.beside.contains(said), "{ran:?}");
    }
}

/// Goal: what is to be written in the end and can have no place is told before anything is read. Method: a folder that is not there, and the output, for page and table; recordings that are not there
/// either.
#[test]
fn what_has_no_place_is_told_at_the_start() {
    let place = Place::new("scenarios.names = [\"home\"]");
    let folder = place.file().parent().unwrap().to_owned();
    let nowhere = folder.join("none/x.html").display().to_string();
    for (more, said) in [
        (["--report", &nowhere], "none/x.html: cannot be written"),
        (["--report", "-"], "a page is a file"),
        (
            ["--predictions", &nowhere],
            "none/x.html: cannot be written",
        ),
    ] {
        let out = folder.join("no-place").display().to_string();
        let fixed = [
            "train",
            "bahe",
            "--items",
            "none.jsonl",
            "--events",
            "none.jsonl",
            "--texts",
            "none",
            "--out",
            &out,
        ];
        let ran = place.run(&[&fixed[..], &more].concat());
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.beside.contains(said), "{ran:?}");
    }
}
