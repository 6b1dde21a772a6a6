//! Backtests of small recordings.

use std::io::{Read as _, Write as _};

use super::*;

const START: i64 = 1_600_000_000_000;

struct Bench {
    folder: tempfile::TempDir,
    config: Config,
}

impl Bench {
    fn new() -> Self {
        let bench = Self {
            folder: tempfile::tempdir().unwrap(),
            config: Config::from_toml(
                "[scenarios]\nnames = [\"home\", \"search\"]\n\
                 [tasks.click]\npositive = [\"click\"]\ntrials = [\"impression\"]\nscenarios = []\n\
                 [tasks.buy]\npositive = [\"purchase\"]\ntrials = [\"impression\"]\nscenarios = [\"search\"]\n\
                 [scoring]\nrequests_are_impressions = true\n",
            )
            .unwrap(),
        };
        let items: String = (0..20)
            .map(|item| {
                format!(
                    "{{\"item_id\":\"i{item}\",\"time\":{START},\"categories\":[\"c{}\"]}}\n",
                    item % 3
                )
            })
            .collect();
        bench.write("items.jsonl", &items);
        bench.write("events.jsonl", &events(600));
        bench
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.folder.path().join(name)).unwrap()
    }

    fn run(&self, events: &str, to: &str, step_records: Option<usize>) -> Result<Summary, String> {
        let path = |name: &str| self.folder.path().join(name);
        let backtest = Backtest {
            items: path("items.jsonl"),
            events: path(events),
            predictions: path(to),
            step_records,
            folder: None,
            progress: false,
        };
        backtest
            .run(&self.config)
            .map_err(|error| error.to_string())
    }
}

fn events(count: i64) -> String {
    let mut lines = String::new();
    for number in 0..count {
        let time = START + number * 7_000;
        let (user, item) = (number % 11, number * 7 % 20);
        let scenario = if number % 2 == 0 { "home" } else { "search" };
        lines.push_str(&format!(
            "{{\"topic\":\"score-requests\",\"record\":{{\"request_id\":\"r{number}\",\"user_id\":\"u{user}\",\
             \"scenario\":\"{scenario}\",\"time\":{time},\"candidates\":[\"i{item}\",\"i{}\"]}}}}\n",
            (item + 1) % 20
        ));
        let kind = if number % 3 == 0 { "click" } else { "purchase" };
        lines.push_str(&format!(
            "{{\"topic\":\"behaviors\",\"record\":{{\"event_id\":\"e{number}\",\"user_id\":\"u{user}\",\"item_id\":\"i{item}\",\
             \"kind\":\"{kind}\",\"scenario\":\"{scenario}\",\"time\":{time},\"request_id\":\"r{number}\"}}}}\n"
        ));
    }
    lines
}

/// Goal: the same file in, the same bytes out, however steps are cut. Method: steps of 1, 7 and 5000 records, packed input, packed output.
#[test]
fn the_same_events_give_the_same_bytes() {
    let bench = Bench::new();
    let summary = bench.run("events.jsonl", "a.tsv", None).unwrap();
    assert_eq!(
        (summary.items, summary.behaviors, summary.requests),
        (20, 600, 600)
    );
    // Two candidates; two tasks in search, one at home.
    assert_eq!(summary.predictions, 300 * 2 * 2 + 300 * 2);
    let expected = bench.read("a.tsv");
    for records in [1, 7, 5_000] {
        bench.run("events.jsonl", "b.tsv", Some(records)).unwrap();
        assert!(bench.read("b.tsv") == expected, "{records} records a step");
    }
    let file = std::fs::File::create(bench.folder.path().join("events.jsonl.gz")).unwrap();
    let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    packed.write_all(&bench.read("events.jsonl")).unwrap();
    packed.finish().unwrap();
    bench.run("events.jsonl.gz", "c.tsv.gz", None).unwrap();
    let mut found = Vec::new();
    let packed = bench.read("c.tsv.gz");
    let mut unpacked = flate2::read::GzDecoder::new(&*packed);
    unpacked.read_to_end(&mut found).unwrap();
    assert!(found == expected);
}

/// Goal: the table is what its readers expect. Method: header, order, columns, and each number the shortest of its f32.
#[test]
fn predictions_are_a_table_of_shortest_numbers() {
    let bench = Bench::new();
    bench.run("events.jsonl", "a.tsv", None).unwrap();
    let text = String::from_utf8(bench.read("a.tsv")).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("request_id\titem_id\ttask\tprobability"));
    let first: Vec<Vec<&str>> = lines
        .clone()
        .take(6)
        .map(|line| line.split('\t').collect())
        .collect();
    let cells: Vec<_> = first
        .iter()
        .map(|cells| (cells[0], cells[1], cells[2]))
        .collect();
    assert_eq!(
        cells,
        [
            ("r0", "i0", "click"),
            ("r0", "i1", "click"),
            ("r1", "i7", "buy"),
            ("r1", "i7", "click"),
            ("r1", "i8", "buy"),
            ("r1", "i8", "click"),
        ]
    );
    for line in lines {
        let number = line.rsplit('\t').next().unwrap();
        let value: f32 = number.parse().unwrap();
        assert!(value > 0.0 && value < 1.0, "{line}");
        assert_eq!(serde_json::to_string(&value).unwrap(), number);
    }
}

/// Goal: a line that cannot be used is named, and leaves no table behind. Method: bad lines of every sort at line 3.
#[test]
fn a_bad_line_is_named() {
    let bench = Bench::new();
    for (line, reason) in [
        ("{\"topic\":\"behaviors\"}", "missing field `record`"),
        ("nonsense", "not {\"topic\""),
        (
            "{\"topic\":\"scores\",\"record\":{}}",
            "topic `scores` is none of",
        ),
        (
            "{\"topic\":\"behaviors\",\"record\":{}}",
            "missing_field: missing field `user_id`",
        ),
    ] {
        bench.write("bad.jsonl", &format!("{}{line}\n", events(1)));
        let error = bench.run("bad.jsonl", "bad.tsv", None).unwrap_err();
        assert!(
            error.contains("bad.jsonl, line 3: ") && error.contains(reason),
            "{error}"
        );
        assert!(!bench.folder.path().join("bad.tsv").exists());
        assert!(!bench.folder.path().join("bad.tsv.partial").exists());
    }
    let error = bench.run("missing.jsonl", "bad.tsv", None).unwrap_err();
    assert!(error.contains("missing.jsonl: cannot be read"), "{error}");
    bench.write("items.jsonl", "\n{\"item_id\":\"\",\"time\":1}\n");
    let error = bench.run("events.jsonl", "bad.tsv", None).unwrap_err();
    assert!(error.contains("items.jsonl, line 2: bad_id"), "{error}");
}

/// Goal: a recording that is not in the order of time is told, with how much of it and where it begins. Method: a file in order; the same
/// with two lines moved to the end, and an item record, which has no order, between.
#[test]
fn events_out_of_order_are_told() {
    let bench = Bench::new();
    let summary = bench.run("events.jsonl", "a.tsv", None).unwrap();
    let told = serde_json::json!(summary);
    assert_eq!(told["out_of_order"], 0, "{told}");
    assert_eq!(told["first_out_of_order"], serde_json::Value::Null);

    let item = format!(
        "{{\"topic\":\"items\",\"record\":{{\"item_id\":\"i1\",\"time\":{}}}}}\n",
        START - 1
    );
    let lines = events(4);
    let lines: Vec<&str> = lines.lines().collect();
    let moved = format!(
        "{}\n\n{item}{}\n",
        lines[2..].join("\n"),
        lines[..2].join("\n")
    );
    bench.write("moved.jsonl", &moved);
    let summary = bench.run("moved.jsonl", "a.tsv", None).unwrap();
    let told = serde_json::json!(summary);
    assert_eq!(told["out_of_order"], 2, "{told}");
    assert_eq!(told["first_out_of_order"], 9, "{told}");
}
