//! Labels through steps: what is scored, shown and done comes out as examples.

use headwater_model::{LabelledRow, Policy};

use super::*;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

fn bench(toml: &str) -> Bench {
    Bench::new(&Config::from_toml(toml).unwrap())
}

impl Bench {
    fn ask(&mut self, request: &str, time: i64, candidates: &[&str]) -> StepOutput {
        let record = json!({"request_id": request, "user_id": "u", "scenario": "feed", "time": time, "candidates": candidates});
        self.take(Topic::ScoreRequests, &record)
    }

    fn did(&mut self, kind: &str, item: &str, time: i64, more: &serde_json::Value) -> StepOutput {
        let mut record = json!({"user_id": "u", "item_id": item, "kind": kind, "scenario": "feed", "time": time});
        let fields = record.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        self.now = self.now.max(time);
        self.take(Topic::Behaviors, &record)
    }

    fn shown(&mut self, request: &str, item: &str, time: i64) -> StepOutput {
        self.did(
            "impression",
            item,
            time,
            &json!({"request_id": request, "position": 3}),
        )
    }

    /// Somebody else does something: time passes.
    fn passes(&mut self, time: i64) -> StepOutput {
        self.now = self.now.max(time);
        let record = json!({"user_id": "v", "kind": "view", "scenario": "feed", "time": time});
        self.take(Topic::Behaviors, &record)
    }

    fn impressions(&self, outcome: &str) -> u64 {
        let labels = &self.pipeline.metrics().labels;
        labels.impressions.with_label_values(&[outcome]).get()
    }
}

/// What was published of each item: its weight, and its labels by task.
fn examples(output: &StepOutput) -> Vec<(String, f64, Vec<(String, f64)>)> {
    let mut all = Vec::new();
    for record in of(output, Topic::Labels) {
        let row = LabelledRow::read(record.value.unwrap()).unwrap();
        for example in &row.items {
            let labels = example.labels.iter();
            let labels = labels.map(|(task, label)| (task.to_string(), *label));
            all.push((
                example.item_id.to_string(),
                example.weight,
                labels.collect(),
            ));
        }
    }
    all
}

fn one(item: &str, weight: f64, labels: &[(&str, f64)]) -> (String, f64, Vec<(String, f64)>) {
    let labels = labels
        .iter()
        .map(|(task, label)| ((*task).to_owned(), *label));
    (item.to_owned(), weight, labels.collect())
}

/// Goal: what was shown of a scored request is published once, when its window has closed, under the name of its logged row and the user's pseudonym. Method:
/// two of three candidates shown, one clicked; the watermark just before and just after the end.
#[test]
fn what_was_shown_is_published_when_its_window_has_closed() {
    let mut bench = bench("");
    let asked = bench.ask("r", START, &["i0", "i1", "i2"]);
    bench.shown("r", "i0", START + 1_000);
    bench.shown("r", "i1", START + 2_000);
    bench.did("click", "i1", START + 5_000, &json!({}));
    let end = START + HOUR + 30 * MINUTE;
    assert_eq!(of(&bench.passes(end), Topic::Labels).len(), 0);
    let output = bench.passes(end + 1);
    let records = of(&output, Topic::Labels);
    assert_eq!(records.len(), 1);
    let logged = of(&asked, Topic::FeatureLog);
    let (found, row) = (records[0], logged[0]);
    assert_eq!(found.key, row.key, "the pseudonym");
    assert_eq!(found.at.partition, 0);
    let id = |record: &Record<'_>| {
        let id = record.headers.get("headwater-id").unwrap();
        String::from_utf8(id.to_vec()).unwrap()
    };
    let labelled = LabelledRow::read(found.value.unwrap()).unwrap();
    assert_eq!(id(&row), format!("{}-0", labelled.row));
    assert_eq!(id(&found), format!("{}-labels-1800000", labelled.row));
    assert_eq!(labelled.user.as_bytes(), row.key.unwrap());
    assert_eq!((&*labelled.request_id, &*labelled.scenario), ("r", "feed"));
    assert_eq!((labelled.time, labelled.window_ms), (START, 1_800_000));
    assert_eq!(
        (labelled.policy, labelled.correction),
        (Policy::Scored, false)
    );
    assert_eq!(labelled.items[0].shown, START + 1_000);
    assert_eq!(labelled.items[0].position, Some(3));
    let expected = [
        one("i0", 1.0, &[("click", 0.0)]),
        one("i1", 1.0, &[("click", 1.0)]),
    ];
    assert_eq!(examples(&output), expected);
    assert_eq!(of(&bench.passes(end + 2), Topic::Labels).len(), 0, "once");
    // After an hour more nothing is kept.
    bench.passes(end + HOUR + 1);
    assert!(
        bench.user().labels().is_empty(),
        "{:?}",
        bench.user().labels()
    );
    assert_eq!(bench.impressions("matched"), 2);
}

/// Goal: an impression shows a row that was scored, and nothing else. Method: impressions without a request, of an unknown one, before the row, and too
/// late; and a request that nobody was shown anything of.
#[test]
fn what_shows_no_row_is_counted_and_makes_no_example() {
    let mut bench = bench("labels.shown_within = \"1m\"\n");
    bench.ask("r", START, &["i0"]);
    bench.did("impression", "i0", START + 1, &json!({}));
    for (request, time) in [
        ("q", START + 1),
        ("r", START - 1),
        ("r", START + MINUTE + 1),
    ] {
        bench.shown(request, "i0", time);
    }
    bench.did("click", "i0", START + 2, &json!({"request_id": "r"}));
    assert_eq!(
        (bench.impressions("matched"), bench.impressions("unmatched")),
        (0, 4)
    );
    let output = bench.passes(START + 10 * HOUR);
    assert_eq!(of(&output, Topic::Labels).len(), 0);
    assert!(bench.user().labels().is_empty());
}

/// Goal: what comes late is told as a correction, by what caused it, and only while a row is kept. Method: a click whose record comes after the labels, within and
/// after `labels.late`; an impression that takes a click from a row.
#[test]
fn what_comes_late_corrects() {
    let mut bench = bench("labels.late = \"1h\"\nstate.late = \"keep\"\n");
    bench.ask("r", START, &["i0"]);
    bench.shown("r", "i0", START + 1_000);
    bench.ask("s", START + 2_000, &["i0"]);
    let released = bench.passes(START + HOUR + 30 * MINUTE + 1);
    assert_eq!(examples(&released), [one("i0", 1.0, &[("click", 0.0)])]);
    let offset = bench.next;
    let late = bench.did("click", "i0", START + 5_000, &json!({}));
    assert_eq!(examples(&late), [one("i0", 1.0, &[("click", 1.0)])]);
    let records = of(&late, Topic::Labels);
    let id = records[0].headers.get("headwater-id").unwrap();
    let expected = format!("headwater.behaviors-0-{offset}.0-corrects-0");
    assert_eq!(id, expected.as_bytes());
    assert!(
        LabelledRow::read(records[0].value.unwrap())
            .unwrap()
            .correction
    );
    // It was the other request that the click came of.
    bench.passes(START + HOUR + 30 * MINUTE + 3_000);
    let other = bench.shown("s", "i0", START + 4_000);
    let (taken, given) = (
        one("i0", 1.0, &[("click", 0.0)]),
        one("i0", 1.0, &[("click", 1.0)]),
    );
    assert_eq!(examples(&other), [taken, given]);
    bench.passes(START + 2 * HOUR + 31 * MINUTE);
    let gone = bench.did("click", "i0", START + 6_000, &json!({"request_id": "r"}));
    assert_eq!(of(&gone, Topic::Labels).len(), 0);
    let corrected = &bench.pipeline.metrics().labels.rows;
    assert_eq!(corrected.with_label_values(&["corrected"]).get(), 2);
}

/// Goal: each task has its own positives, window, scenarios and sort of label, and is missing elsewhere. Method: four tasks, two clicks with values and a
/// purchase a day later.
#[test]
fn each_task_has_its_own_label() {
    let mut bench = bench(
        "scenarios.names = [\"feed\", \"shop\"]\n\
         [tasks.clicks]\npositive = [\"click\"]\ntrials = [\"impression\"]\nscenarios = []\nlabel = \"count\"\n\
         [tasks.worth]\npositive = [\"click\"]\ntrials = [\"impression\"]\nscenarios = [\"feed\"]\nlabel = \"value\"\n\
         [tasks.shop]\npositive = [\"click\"]\ntrials = [\"impression\"]\nscenarios = [\"shop\"]\n\
         [tasks.buy]\npositive = [\"purchase\"]\ntrials = [\"impression\"]\nscenarios = []\nwindow = \"2d\"\n",
    );
    bench.ask("r", START, &["i0"]);
    bench.shown("r", "i0", START + 1);
    for value in [1.25, 2.0] {
        bench.did("click", "i0", START + 2, &json!({"value": value}));
    }
    let first = bench.passes(START + 2 * HOUR);
    let expected = [("clicks", 2.0), ("worth", 3.25)];
    assert_eq!(examples(&first), [one("i0", 1.0, &expected)]);
    bench.did("purchase", "i0", START + 24 * HOUR, &json!({}));
    let second = bench.passes(START + 50 * HOUR);
    assert_eq!(examples(&second), [one("i0", 1.0, &[("buy", 1.0)])]);
}

/// Goal: where all that is scored counts, every candidate is an example, shown or not, with the request's own window. Method: both ways to say so.
#[test]
fn all_that_is_scored_may_count() {
    for toml in [
        "labels.examples = \"all-scored\"\n",
        "scoring.requests_are_impressions = true\n",
    ] {
        let mut bench = bench(toml);
        bench.ask("r", START, &["i0", "i1"]);
        bench.shown("r", "i0", START + 1);
        bench.did("click", "i1", START + 5, &json!({"request_id": "r"}));
        let output = bench.passes(START + 30 * MINUTE + 1);
        let expected = [
            one("i0", 1.0, &[("click", 0.0)]),
            one("i1", 1.0, &[("click", 1.0)]),
        ];
        assert_eq!(examples(&output), expected, "{toml}");
    }
}

/// Goal: of negatives a share is published and stands for all; positives are all there; a positive that is none any more is taken back. Method: a thousand
/// candidates, three of them clicked; then one of the clicks turns out to be another request's.
#[test]
fn a_share_of_negatives_stands_for_all() {
    let mut bench = bench("labels.negatives = 0.1\nlabels.open_max = 5000\n");
    let names: Vec<String> = (0..1_000).map(|number| format!("i{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    bench.ask("r", START, &names);
    bench.ask("s", START, &names);
    for item in &names {
        bench.shown("r", item, START + 1);
    }
    let clicked = ["i7", "i77", "i777"];
    for item in clicked {
        bench.did("click", item, START + 9, &json!({}));
    }
    let output = bench.passes(START + 2 * HOUR);
    let found = examples(&output);
    let (ones, zeros): (Vec<_>, Vec<_>) = found.iter().partition(|(.., labels)| labels[0].1 > 0.0);
    assert_eq!(ones.len(), 3);
    assert!(
        ones.iter()
            .all(|(item, weight, _)| clicked.contains(&&**item) && *weight == 1.0)
    );
    assert!((60..140).contains(&zeros.len()), "{}", zeros.len());
    assert!(zeros.iter().all(|(_, weight, _)| *weight == 10.0));
    let examples_of = |what| {
        let metric = &bench.pipeline.metrics().labels.examples;
        metric.with_label_values(&[what]).get() as usize
    };
    assert_eq!(examples_of("left_out"), 997 - zeros.len());
    let mut weights = Vec::new();
    for item in clicked {
        let output = bench.shown("s", item, START + 5);
        weights.extend(examples(&output).into_iter().map(|(_, weight, _)| weight));
    }
    // Of the row that had it, and of none where that is one of those that are left out.
    assert_eq!(weights.len(), 6, "{weights:?}");
    assert!(
        weights
            .iter()
            .all(|weight| [0.0, 1.0, 10.0].contains(weight))
    );
    assert!(weights.contains(&0.0), "{weights:?}");
}

/// Goal: without labels nothing of them is kept or published, and what was kept is given up. Method: rows open, then a configuration without labels.
#[test]
fn what_is_turned_off_is_given_up() {
    for toml in [
        "labels.examples = \"off\"\n",
        "scoring.feature_log = false\n",
    ] {
        let mut bench = bench(toml);
        bench.ask("r", START, &["i0"]);
        bench.shown("r", "i0", START + 1);
        assert!(bench.user().labels().is_empty(), "{toml}");
    }
    let mut bench = bench("");
    bench.ask("r", START, &["i0"]);
    bench.shown("r", "i0", START + 1);
    assert!(!bench.user().labels().is_empty());
    bench.configure(|config| config.scoring.feature_log = false);
    let settings = settings_of(&bench.config, 1);
    bench
        .owned
        .get_mut(&0)
        .unwrap()
        .users
        .set_settings(settings);
    let output = bench.passes(START + 10 * HOUR);
    assert_eq!(of(&output, Topic::Labels).len(), 0);
    assert!(bench.user().labels().is_empty());
}

/// Goal: candidates in a random order keep their probabilities, say with which probability each had its place, and so do their labels; nothing else is explored.
/// Method: one request with and without, its scores, its rows, and its labels; then a behavior that is scored, and a request that is refused.
#[test]
fn a_random_order_says_so() {
    let ask = |explore: &str| {
        let mut bench = bench(&format!(
            "scoring.on_behavior = \"item\"\nscoring.explore = {explore}\n"
        ));
        bench.did("impression", "i1", START - 9, &json!({}));
        let output = bench.ask("r", START, &["i0", "i1", "i2", "i3"]);
        (bench, output)
    };
    let answer = |output: &StepOutput| -> serde_json::Value {
        let scores = of(output, Topic::Scores);
        serde_json::from_slice(scores[0].value.unwrap()).unwrap()
    };
    let list = |answer: &serde_json::Value, of: &str| -> Vec<serde_json::Value> {
        let items = answer["items"].as_array().unwrap();
        items.iter().map(|item| item[of].clone()).collect()
    };
    let (_, scored) = ask("0.0");
    let (mut bench, random) = ask("1.0");
    let rows = |output: &StepOutput| -> serde_json::Value {
        serde_json::from_slice(of(output, Topic::FeatureLog)[0].value.unwrap()).unwrap()
    };
    assert_eq!(rows(&scored), rows(&random));
    let (scored, random) = (answer(&scored), answer(&random));
    assert_eq!(scored["policy"], serde_json::Value::Null);
    assert_eq!(random["policy"], "random");
    assert_eq!(list(&scored, "tasks"), list(&random, "tasks"));
    assert_eq!(
        list(&scored, "propensity"),
        vec![serde_json::Value::Null; 4]
    );
    assert_eq!(list(&random, "propensity"), vec![json!(0.25); 4]);
    let distinct: std::collections::BTreeSet<String> = list(&random, "score")
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(distinct.len(), 4, "{random}");
    bench.shown("r", "i0", START + 1);
    let output = bench.passes(START + 2 * HOUR);
    let labelled = LabelledRow::read(of(&output, Topic::Labels)[0].value.unwrap()).unwrap();
    assert_eq!(labelled.policy, Policy::Random);
    assert_eq!(labelled.items[0].propensity, Some(0.25));
    let of_behavior = answer(&bench.did("click", "i0", START + 2 * HOUR, &json!({})));
    let refused = answer(&bench.ask("q", START - 10 * HOUR, &["i0"]));
    assert_eq!(refused["status"], "expired");
    for not in [of_behavior, refused] {
        assert_eq!(not["policy"], serde_json::Value::Null, "{not}");
    }
}

/// Goal: a row that is shown whole never makes a record that the changelog cannot take. Method: as many candidates with ids of 256 bytes as stay below the
/// bound, and one more.
#[test]
fn a_row_that_is_shown_whole_fits_into_the_changelog() {
    let mut bench = bench("labels.examples = \"all-scored\"\nlabels.open_max = 100000\n");
    let ids: Vec<String> = (0..2049).map(|item| format!("{item:0>256}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let rows_opened = |bench: &Bench| {
        bench
            .pipeline
            .metrics()
            .labels
            .rows
            .with_label_values(&["opened"])
            .get()
    };
    for (request, (shown, opened)) in [("fits", (2048, 1)), ("too many", (2049, 1))] {
        let asked = bench.ask(request, START, &ids[..shown]);
        let largest = of(&asked, Topic::Changelog);
        let largest = largest
            .iter()
            .filter_map(|record| record.value)
            .map(<[u8]>::len);
        assert!(largest.max().unwrap() < 600 * 1024, "{request}");
        assert_eq!(rows_opened(&bench), opened, "{request}");
    }
}
