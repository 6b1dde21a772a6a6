//! Labels against their definition, counted anew by somebody who keeps everything.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::behavior::{Coordinates, FixedSum, pinned_hash};

const CLICK: KindId = KindId(1);
const BUY: KindId = KindId(2);
const FEED: ScenarioId = ScenarioId(1);
const SHOP: ScenarioId = ScenarioId(2);

/// Clicks count for 20 ms, purchases for 60 and in the shop alone.
fn rules(late_ms: i64) -> LabelRules {
    LabelRules {
        shown_within_ms: 10,
        late_ms,
        open_max: 1_000,
        tasks: vec![
            LabelTask {
                positive: vec![CLICK, BUY],
                scenarios: Vec::new(),
                window_ms: 20,
            },
            LabelTask {
                positive: vec![BUY],
                scenarios: vec![SHOP],
                window_ms: 60,
            },
        ],
    }
}

fn row(id: &str, request: &str, scenario: ScenarioId, time: i64) -> OpenRow {
    let of = (id, request, "somewhere");
    OpenRow::new(of, (scenario, Timestamp(time)), (3, false), [].into_iter())
}

fn positive(time: i64, kind: KindId, item: &str, request: Option<&str>) -> Positive {
    Positive {
        time: Timestamp(time),
        kind,
        item: pinned_hash(item.as_bytes()),
        request: request.map_or(0, |request| pinned_hash(request.as_bytes())),
        value: Some(FixedSum(time)),
        at: Coordinates::default(),
    }
}

/// Row, item and task, and what was counted.
type Counts = BTreeMap<(String, String, usize), u32>;

/// Takes what is published into what was published before: the newest holds.
fn publish(into: &mut Counts, labelled: &[Labelled]) {
    for of in labelled {
        for example in &of.examples {
            for (task, label) in example.labels.iter().enumerate() {
                if let Some(label) = label {
                    let key = (of.row.id.to_string(), example.item.to_string(), task);
                    into.insert(key, label.count);
                }
            }
        }
    }
}

/// Goal: each rule of crediting by itself. Method: two rows of two requests that show the same item, and one positive at a time.
#[test]
fn a_positive_credits_the_row_that_showed_its_item_last() {
    let rules = rules(1_000);
    for (what, positive, credited) in [
        ("the later row", positive(15, CLICK, "i", None), Some("b")),
        (
            "before the later row",
            positive(9, CLICK, "i", None),
            Some("a"),
        ),
        (
            "with its impression",
            positive(10, CLICK, "i", None),
            Some("b"),
        ),
        ("before any was shown", positive(4, CLICK, "i", None), None),
        (
            "the request it names",
            positive(15, CLICK, "i", Some("q")),
            Some("a"),
        ),
        (
            "a request nobody made",
            positive(15, CLICK, "i", Some("x")),
            None,
        ),
        ("another item", positive(15, CLICK, "j", None), None),
        (
            "at the window's end",
            positive(30, CLICK, "i", None),
            Some("b"),
        ),
        ("after it", positive(31, CLICK, "i", None), None),
    ] {
        let mut labels = Labels::default();
        labels.open(row("a", "q", FEED, 0), &rules);
        labels.open(row("b", "r", FEED, 6), &rules);
        for (request, time) in [("q", 5), ("r", 10)] {
            let shown = labels.show((request, "i"), (Timestamp(time), Some(2)), &rules);
            assert!(shown.is_some(), "{what}");
        }
        labels.act(positive, &rules);
        let mut found = Counts::new();
        let (released, _) = labels.release(Timestamp(100), &rules);
        assert_eq!(released.len(), 2, "{what}");
        assert_eq!(released[0].examples[0].position, Some(2));
        publish(&mut found, &released);
        let ones = found.iter().filter(|(_, count)| **count > 0);
        let ones: Vec<&str> = ones.map(|((row, ..), _)| row.as_str()).collect();
        assert_eq!(ones, credited.into_iter().collect::<Vec<_>>(), "{what}");
    }
}

/// Goal: an impression shows the newest row of its request, if it comes in time; nothing else becomes an example. Method: rows of one request scored
/// three times, impressions between.
#[test]
fn an_impression_shows_the_newest_row_of_its_request() {
    let rules = rules(5);
    let mut labels = Labels::default();
    for (id, time) in [("a", 0), ("b", 4), ("c", 8)] {
        labels.open(row(id, "q", FEED, time), &rules);
    }
    let show = |labels: &mut Labels, request, item, time| {
        let shown = labels.show((request, item), (Timestamp(time), None), &rules);
        let (place, _) = shown?;
        labels.row(place).map(|row| row.id.to_string())
    };
    assert_eq!(show(&mut labels, "q", "i", 7).as_deref(), Some("b"));
    assert_eq!(show(&mut labels, "q", "j", 8).as_deref(), Some("c"));
    assert_eq!(show(&mut labels, "q", "k", 18).as_deref(), Some("c"));
    assert_eq!(show(&mut labels, "q", "l", 19), None, "too late");
    assert_eq!(show(&mut labels, "x", "i", 8), None, "no such request");
    let (released, _) = labels.release(Timestamp(1_000), &rules);
    let examples = |labelled: &Labelled| -> Vec<String> {
        let items = labelled.examples.iter();
        items.map(|example| example.item.to_string()).collect()
    };
    let found: Vec<_> = released
        .iter()
        .map(|of| (&*of.row.id, examples(of)))
        .collect();
    assert_eq!(
        found,
        [
            ("b", vec!["i".to_owned()]),
            ("c", vec!["j".to_owned(), "k".to_owned()])
        ]
    );
    assert!(labels.is_empty(), "{labels:?}");
}

/// Goal: nothing is released early, each window once, and a row is closed when nothing can correct it any more. Method: one row of two windows, looked at
/// every millisecond.
#[test]
fn each_window_is_released_once_and_in_time() {
    let rules = rules(7);
    let mut labels = Labels::default();
    labels.open(row("a", "q", SHOP, 0), &rules);
    labels.open(row("nobody saw it", "p", SHOP, 0), &rules);
    labels.show(("q", "i"), (Timestamp(3), None), &rules);
    let mut seen = Vec::new();
    for now in 0..200 {
        let due = labels.due(&rules);
        let (released, changed) = labels.release(Timestamp(now), &rules);
        let is_due = due.is_some_and(|due| due < Timestamp(now));
        assert_eq!(is_due, !changed.places.is_empty(), "at {now}");
        seen.extend(released.iter().map(|of| (now, of.window_ms)));
        if !changed.places.is_empty() {
            seen.push((now, -(labels.rows().count() as i64)));
        }
    }
    // The unseen row is over at 0 + 10 + 7, the other after 0 + 10 + 60 + 7.
    assert_eq!(
        seen,
        [(18, -1), (31, 20), (31, -1), (71, 60), (71, -1), (78, 0)]
    );
    assert!(labels.is_empty());
}

/// Goal: no more is kept than is allowed, and what was seen is given up last. Method: room for four; rows come, one is shown.
#[test]
fn too_many_rows_are_given_up_unseen_ones_first() {
    let rules = LabelRules {
        open_max: 4,
        ..rules(1_000)
    };
    let mut labels = Labels::default();
    let mut forgotten = 0;
    let mut kept = |labels: &mut Labels, changed: Changed| {
        forgotten += changed.forgotten;
        let rows = labels.rows().map(|(_, row)| row.id.to_string());
        (rows.collect::<Vec<_>>(), forgotten)
    };
    for id in ["a", "b", "c"] {
        labels.open(row(id, id, FEED, 0), &rules);
    }
    let (_, changed) = labels
        .show(("a", "i"), (Timestamp(1), None), &rules)
        .unwrap();
    assert_eq!(kept(&mut labels, changed).1, 0);
    let (_, changed) = labels.open(row("d", "d", FEED, 2), &rules);
    let left = ["a", "c", "d"].map(str::to_owned).to_vec();
    assert_eq!(kept(&mut labels, changed), (left, 1));
    let items = ["1", "2", "3", "4"];
    let whole = OpenRow::new(
        ("e", "e", "feed"),
        (FEED, Timestamp(3)),
        (4, false),
        items.into_iter(),
    );
    let (_, changed) = labels.open(whole, &rules);
    let (left, forgotten) = kept(&mut labels, changed);
    assert!(
        left.is_empty(),
        "one that alone is too large is given up too: {left:?}"
    );
    assert_eq!(forgotten, 5);
    assert!(labels.is_empty(), "what belonged to them too: {labels:?}");
}

/// An impression or a positive, and how far the watermark has come by then.
#[derive(Clone, Debug)]
struct Event {
    is_impression: bool,
    time: i64,
    request: usize,
    named: bool,
    item: usize,
    buys: bool,
    watermark: i64,
}

fn event() -> impl Strategy<Value = Event> {
    (
        any::<bool>(),
        0..120i64,
        0..3usize,
        any::<bool>(),
        0..3usize,
        any::<bool>(),
        0..200i64,
    )
        .prop_map(
            |(is_impression, time, request, named, item, buys, watermark)| Event {
                is_impression,
                time,
                request,
                named,
                item,
                buys,
                watermark,
            },
        )
}

const REQUESTS: [&str; 3] = ["q0", "q1", "q2"];
const ITEMS: [&str; 3] = ["i0", "i1", "i2"];

/// What the labels are, by their definition: of all events, in no order.
fn by_definition(rows: &[(usize, bool, i64)], events: &[Event], rules: &LabelRules) -> Counts {
    // The row of an impression: of its request the newest in time, of two with one time the later one.
    let row_of = |event: &Event| {
        let rows = rows.iter().enumerate().filter(|(_, (request, _, time))| {
            *request == event.request && *time <= event.time && event.time - time <= 10
        });
        rows.max_by_key(|(number, (.., time))| (*time, *number))
            .map(|(number, _)| number)
    };
    // When each item of each row was shown first.
    let mut shown: BTreeMap<(usize, usize), i64> = BTreeMap::new();
    for event in events.iter().filter(|event| event.is_impression) {
        if let Some(row) = row_of(event) {
            let first = shown.entry((row, event.item)).or_insert(event.time);
            *first = (*first).min(event.time);
        }
    }
    let mut counts = Counts::new();
    for (row, item) in shown.keys() {
        let scenario = if rows[*row].1 { SHOP } else { FEED };
        for (task, of) in rules.tasks.iter().enumerate() {
            if of.scenarios.is_empty() || of.scenarios.contains(&scenario) {
                counts.insert((format!("row {row}"), ITEMS[*item].to_owned(), task), 0);
            }
        }
    }
    for event in events.iter().filter(|event| !event.is_impression) {
        let before = shown.iter().filter(|((row, item), at)| {
            *item == event.item
                && **at <= event.time
                && (!event.named || rows[*row].0 == event.request)
        });
        let Some(((row, item), at)) =
            before.max_by_key(|((row, _), at)| (**at, rows[*row].2, *row))
        else {
            continue;
        };
        let kind = if event.buys { BUY } else { CLICK };
        for (task, of) in rules.tasks.iter().enumerate() {
            if of.positive.contains(&kind) && event.time <= at + of.window_ms {
                let key = (format!("row {row}"), ITEMS[*item].to_owned(), task);
                counts.entry(key).and_modify(|count| *count += 1);
            }
        }
    }
    counts
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    /// Goal: whatever comes when, what was published last is what the definition says; so nothing is credited twice, and a correction is told whenever it is one.
    /// Method: rows, then impressions and positives in any order, with a watermark that runs ahead of them and releases as it goes; bytes are written
    /// and read again in between.
    #[test]
    fn what_is_published_last_is_right(
        rows in proptest::collection::vec((0..3usize, any::<bool>(), 0..60i64), 1..5),
        events in proptest::collection::vec(event(), 0..14),
    ) {
        let rules = rules(1_000_000);
        let mut labels = Labels::default();
        for (number, (request, shop, time)) in rows.iter().enumerate() {
            let scenario = if *shop { SHOP } else { FEED };
            labels.open(row(&format!("row {number}"), REQUESTS[*request], scenario, *time), &rules);
        }
        let mut published = Counts::new();
        let mut watermark = 0;
        for event in &events {
            let item = ITEMS[event.item];
            let before = labels.released_of(item, &rules);
            if event.is_impression {
                labels.show((REQUESTS[event.request], item), (Timestamp(event.time), None), &rules);
            } else {
                let kind = if event.buys { BUY } else { CLICK };
                let named = event.named.then_some(REQUESTS[event.request]);
                labels.act(positive(event.time, kind, item, named), &rules);
            }
            publish(&mut published, &labels.corrections(&before, item, &rules));
            watermark = watermark.max(event.watermark);
            publish(&mut published, &labels.release(Timestamp(watermark), &rules).0);
            let mut bytes = Vec::new();
            labels.write(&mut bytes);
            prop_assert_eq!(&Labels::read(Take(&bytes)).unwrap(), &labels);
        }
        publish(&mut published, &labels.release(Timestamp(10_000), &rules).0);
        prop_assert_eq!(published, by_definition(&rows, &events, &rules));
    }
}
