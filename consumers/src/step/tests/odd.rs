//! What odd records do to a step: wrong clocks, ids and texts that become long, requests that cannot stand, backlogs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::*;
use crate::answer::RECORD_BYTES_MAX;

const DAY_MS: i64 = 86_400_000;

fn bench(toml: &str) -> Bench {
    Bench::new(&Config::from_toml(toml).unwrap())
}

impl Bench {
    /// The step of these records: topic, what the log's clock said, value, headers.
    fn step_of(&mut self, inputs: &[(Topic, i64, &[u8], &[(&str, &[u8])])]) -> StepOutput {
        let mut records = RecordBatch::default();
        for (topic, clock, value, headers) in inputs {
            let headers = headers.iter().map(|(name, value)| (*name, Some(*value)));
            let at = TopicPartition::new(*topic, 0);
            records.push(at, (self.next, *clock), Some(b"u"), Some(value), headers);
            self.next += 1;
        }
        self.step(&records)
    }

    fn dropped(&self, reason: &str) -> u64 {
        let dropped = &self.pipeline.metrics().dropped;
        dropped.with_label_values(&[reason]).get()
    }

    /// Recent behaviors of the user.
    fn counted(&mut self) -> usize {
        let owned = self.owned.get_mut(&0).unwrap();
        let known = owned.users.whole_user("u").unwrap();
        known.map_or(0, |user| user.recent().len())
    }

    fn watermark(&self) -> i64 {
        self.owned[&0].users.position().watermark.0
    }
}

fn behavior(time: i64) -> Value {
    json!({"user_id": "u", "item_id": "i", "kind": "click", "scenario": "feed", "time": time})
}

fn request(id: &str, time: i64, candidates: &[&str]) -> Value {
    json!({"request_id": id, "user_id": "u", "scenario": "feed", "time": time, "candidates": candidates})
}

/// The values that a step gives to a topic.
fn values(output: &StepOutput, topic: Topic) -> Vec<Value> {
    let all = output.transactional.iter();
    all.filter(|record| record.at.topic == topic)
        .map(|record| {
            record
                .value
                .map_or(Value::Null, |value| serde_json::from_slice(value).unwrap())
        })
        .collect()
}

/// The reasons of a step's dead letters.
fn reasons(output: &StepOutput) -> Vec<String> {
    let all = output.transactional.iter();
    all.filter(|record| record.at.topic == Topic::DeadLetters)
        .map(|record| {
            let reason = record.headers.get("headwater-reason").unwrap();
            String::from_utf8(reason.to_vec()).unwrap()
        })
        .collect()
}

/// Every record that a step gives fits into its topic.
fn fits(output: &StepOutput, what: &str) {
    for record in output.transactional.iter().chain(output.immediate.iter()) {
        let headers = record.headers.iter();
        let headers: usize = headers
            .map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len))
            .sum();
        let bytes =
            record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len) + headers;
        assert!(
            bytes <= RECORD_BYTES_MAX,
            "{what}: {bytes} bytes for {:?}",
            record.at.topic
        );
    }
}

/// Goal: what config names of a request's headers goes on with its answer, and nothing else; LIMIT-1 holds for them. Method: three headers,
/// two named; then one that is too large, and a thousand.
#[test]
fn named_headers_are_carried_on() {
    let mut bench = bench("");
    let value = request("r", START, &["i"]).to_string();
    let mut answer = |headers: &[(&str, &[u8])]| {
        let output = bench.step_of(&[(Topic::ScoreRequests, START, value.as_bytes(), headers)]);
        fits(&output, "headers");
        let all = output.transactional.iter();
        let mut scores = all.filter(|record| record.at.topic == Topic::Scores);
        let answer = scores.next().unwrap();
        assert!(scores.next().is_none());
        assert!(answer.headers.get("headwater-id").is_some());
        let headers = answer.headers.iter();
        headers
            .filter(|(name, _)| !name.starts_with("headwater-"))
            .map(|(name, value)| (name.to_owned(), value.map_or(0, <[u8]>::len)))
            .collect::<Vec<_>>()
    };
    let carried = answer(&[("traceparent", b"t"), ("cookie", b"c"), ("reply_to", b"")]);
    assert_eq!(
        carried,
        [("traceparent".to_owned(), 1), ("reply_to".to_owned(), 0)]
    );
    let large = vec![b'x'; 2_000_000];
    let carried = answer(&[("traceparent", &large), ("reply_to", b"here")]);
    assert_eq!(carried, [("reply_to".to_owned(), 4)]);
    let many = vec![("reply_to", &large[..100]); 1_000];
    let carried = answer(&many);
    assert_eq!(carried.len(), 8 * 1024 / 108);
}

/// Goal: one wrong clock does not make others late, whether it is ahead or behind. Method: first records of a partition from 1970, 1990 and
/// 2099, stamped by their producer's own clock; then one of today counts.
#[test]
fn a_wrong_clock_makes_nobody_late() {
    const IN_2099: i64 = 4_080_000_000_000;
    for (time, stamp, reason) in [
        (0, 0, Some("bad_time")),
        (0, START, Some("bad_time")),
        (7_258_118_400_000, START, Some("bad_time")),
        (IN_2099, START, Some("ahead_of_time")),
        (IN_2099, IN_2099, Some("ahead_of_time")),
        (IN_2099, -1, Some("ahead_of_time")),
        (
            START + 11 * 60_000,
            START + 11 * 60_000,
            Some("ahead_of_time"),
        ),
        (START + 9 * 60_000, START + 9 * 60_000, None),
        (700_000_000_000, START, None),
        (START, 0, None),
        (START, START - 11 * 60_000, Some("ahead_of_time")),
    ] {
        let mut bench = bench("[scoring]\nrequests_are_impressions = true\n");
        let bad = behavior(time).to_string();
        let output = bench.step_of(&[(Topic::Behaviors, stamp, bad.as_bytes(), &[])]);
        assert_eq!(reasons(&output), Vec::from_iter(reason), "{time} {stamp}");
        // A request of the same clock counts impressions: it must not either.
        let asks = request("r", time, &["i"]).to_string();
        let output = bench.step_of(&[(Topic::ScoreRequests, stamp, asks.as_bytes(), &[])]);
        let told = reasons(&output).len() + values(&output, Topic::Scores).len();
        assert_eq!(told, 1, "{time} {stamp}");
        assert!(
            bench.watermark() <= START + 10 * 60_000,
            "{time} {stamp}: {}",
            bench.watermark()
        );
        let before = bench.counted();
        bench.take(Topic::Behaviors, &behavior(START));
        assert_eq!(bench.counted(), before + 1, "{time} {stamp}");
        assert_eq!(bench.dropped("late"), 0, "{time} {stamp}");
    }
}

/// Goal: records out of order by days count, in the order of their times; those beyond `allowed_lateness` are left out and counted. Method:
/// days forwards and backwards, and one too old.
#[test]
fn records_out_of_order_by_days_count() {
    let mut bench = bench("");
    bench.now = START + 100 * DAY_MS;
    for days in [40, 3, 29, 11, 39, 9] {
        bench.take(Topic::Behaviors, &behavior(START + days * DAY_MS));
    }
    assert_eq!(
        bench.dropped("late"),
        2,
        "30 days before the newest, of day 40: days 3 and 9"
    );
    let user = bench
        .owned
        .get_mut(&0)
        .unwrap()
        .users
        .whole_user("u")
        .unwrap()
        .unwrap();
    let days: Vec<i64> = user
        .recent()
        .iter()
        .map(|recent| (recent.time.0 - START) / DAY_MS)
        .collect();
    assert_eq!(days, [11, 29, 39, 40]);
}

/// Goal: PIPE-2 and LIMIT-1: nothing that one record brings is larger than a topic takes. Method: ids that JSON writes six times as long,
/// candidates by the ten thousand, texts without end where a number must stand, requests that stand.
#[test]
fn nothing_of_one_record_is_too_large() {
    let mut bench = bench("[scoring]\nstanding_max = 2\n[state]\nattributes = [\"query\"]\n");
    let id = |number: usize| {
        let mut id = "\0".repeat(250);
        write!(id, "{number:06}").unwrap();
        id
    };
    let ids: Vec<String> = (0..680).map(id).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let asks = json!({"request_id": id(1), "user_id": id(2), "scenario": id(3), "time": START, "candidates": ids, "standing": {"ttl": "1h"}});
    assert!(asks.to_string().len() < 1 << 20);
    let output = bench.take(Topic::ScoreRequests, &asks);
    fits(&output, "escaped ids");
    let parts = values(&output, Topic::Scores);
    assert!(parts.len() > 1, "its answer has parts");
    let answered: Vec<&str> = parts
        .iter()
        .flat_map(|part| part["items"].as_array().unwrap())
        .map(|item| item["item_id"].as_str().unwrap())
        .collect();
    assert_eq!(answered, ids);
    assert_eq!(
        parts[0]["degraded"],
        json!(["unknown_scenario", "standing_too_large"])
    );
    assert!(values(&output, Topic::StandingScores).is_empty());

    let many: Vec<String> = (0..10_000).map(|number| format!("item-{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let output = bench.take(Topic::ScoreRequests, &request("r", START, &many));
    fits(&output, "ten thousand candidates");
    let scored: usize = values(&output, Topic::Scores)
        .iter()
        .map(|part| part["items"].as_array().unwrap().len())
        .sum();
    assert_eq!(scored, 10_000);
    let logged: usize = values(&output, Topic::FeatureLog)
        .iter()
        .map(|part| part["candidates"].as_array().unwrap().len())
        .sum();
    assert_eq!(logged, 10_000);

    let text = "\u{1}".repeat(170_000);
    let mut wrong = behavior(START);
    wrong["time"] = Value::String(text.clone());
    let output = bench.take(Topic::Behaviors, &wrong);
    fits(&output, "a text for a time");
    assert_eq!(reasons(&output), ["wrong_type"]);
    let mut odd = behavior(START);
    odd["kind"] = Value::String(text.clone());
    let output = bench.take(Topic::Behaviors, &odd);
    fits(&output, "a text for a kind");
    assert_eq!(reasons(&output), ["unknown_kind"]);
    odd["kind"] = "click".into();
    odd["theirs"] = Value::String(text);
    let output = bench.take(Topic::Behaviors, &odd);
    fits(&output, "a text that nobody reads");
    assert_eq!((reasons(&output).len(), bench.counted()), (0, 1));
    let blank = " ".repeat(2_000_000);
    let output = bench.step_of(&[(
        Topic::Behaviors,
        START,
        blank.as_bytes(),
        &[("h", blank.as_bytes())],
    )]);
    fits(&output, "blanks");
    assert_eq!(reasons(&output), ["too_large"]);
}

/// Goal: deltas of one step fit into their topic, and say the same in parts. Method: a record of events over years of minutes.
#[test]
fn deltas_of_many_minutes_are_cut() {
    let mut bench = bench(
        "[source.behaviors]\nmapped = true\nevents = \"/l\"\nuser_id = \"/u\"\nitem_id = \"/i\"\ntime = \"/t\"\n\
         constant = { kind = \"click\", scenario = \"feed\" }\n[step]\nrecord_max = \"8MiB\"\n\
         [state]\nallowed_lateness = \"3650d\"\n",
    );
    let events: Vec<Value> = (0..50_000)
        .map(|number| json!({"u": 1, "i": 2, "t": START - number * 60_000}))
        .collect();
    let output = bench.take(Topic::Behaviors, &json!({"l": events}));
    fits(&output, "deltas");
    let mut statistics = Statistics::default();
    let mut parts = 0;
    for record in output
        .transactional
        .iter()
        .filter(|record| record.at.topic == Topic::ItemDeltas)
    {
        statistics.fold(
            record.key.unwrap(),
            &Delta::read(record.value.unwrap()).unwrap(),
        );
        parts += 1;
    }
    assert!(parts > 2, "two entities in several parts: {parts}");
    let cells = statistics.get(Entity::Item("2")).unwrap();
    assert_eq!(cells.iter().map(|cell| cell.count).sum::<u32>(), 50_000);
}

/// Goal: a standing request that cannot stand says so, ends the one that it replaces, and never stops the step. Method: one that stands,
/// replaced by one that is too large for the changelog; then one that the configuration of today does not take any more.
#[test]
fn a_standing_request_that_cannot_stand_ends() {
    let stands = |padding: usize| {
        let mut value = request("r", START, &["i"]);
        value["standing"] = json!({"ttl": "1h"});
        value["theirs"] = Value::String(" ".repeat(padding));
        value
    };
    let mut bench = bench("[scenarios]\nnames = [\"feed\"]\n");
    let output = bench.take(Topic::ScoreRequests, &stands(0));
    assert_eq!(values(&output, Topic::StandingScores).len(), 1);
    let output = bench.take(Topic::ScoreRequests, &stands(600_000));
    fits(&output, "a large standing request");
    let answers = values(&output, Topic::Scores);
    assert_eq!(answers[0]["status"], "ok");
    assert_eq!(answers[0]["degraded"], json!(["standing_too_large"]));
    assert_eq!(
        values(&output, Topic::StandingScores),
        [Value::Null],
        "the one before ended"
    );
    bench.take(Topic::Behaviors, &behavior(START + 1));
    bench.now += 60_000;
    let output = bench.take(Topic::Behaviors, &behavior(START + 2));
    assert!(values(&output, Topic::StandingScores).is_empty());

    bench.take(Topic::ScoreRequests, &stands(5_000));
    bench.configure(|config| config.step.record_max = Bytes::new(1_024));
    bench.take(Topic::Behaviors, &behavior(START + 3));
    bench.now += 60_000;
    let output = bench.take(Topic::Behaviors, &behavior(START + 4));
    assert_eq!(values(&output, Topic::StandingScores), [Value::Null]);
    assert!(bench.user().standing().is_empty());
}

/// Goal: every odd request has its documented answer (docs/concepts/requests.md). Method: each row of that page's table, with the status,
/// what is degraded, and how many scores it has.
#[test]
fn odd_requests_have_their_answers() {
    let mut bench = bench("[scenarios]\nnames = [\"feed\"]\n[step]\ncandidates_max = 100\n");
    bench.now = START + 1_000;
    let hour = 3_600_000;
    bench.take(Topic::Behaviors, &behavior(START));
    let ids: Vec<String> = (0..101).map(|number| format!("item-{number}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let mut answer = |value: &Value| {
        let output = bench.take(Topic::ScoreRequests, value);
        let mut scores = values(&output, Topic::Scores);
        assert_eq!(scores.len(), 1, "{value}");
        let answer = scores.remove(0);
        let scores: Vec<f64> = answer["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["score"].as_f64().unwrap())
            .collect();
        (
            answer["status"].as_str().unwrap().to_owned(),
            answer.get("degraded").cloned(),
            scores,
        )
    };
    let (status, degraded, scores) = answer(&request(
        "r",
        START,
        &["never seen", "never seen", "nor this"],
    ));
    assert_eq!(
        (&*status, degraded, scores.len()),
        ("ok", None, 3),
        "unknown items"
    );
    assert!(
        scores[0] > 0.0
            && scores[0].to_bits() == scores[1].to_bits()
            && scores[1].to_bits() == scores[2].to_bits()
    );
    let mut unknown = request("r", START, &["i"]);
    unknown["user_id"] = "nobody".into();
    assert_eq!(answer(&unknown).0, "ok", "an unknown user");
    assert_eq!(
        answer(&request("r", START, &[])),
        ("ok".to_owned(), None, vec![]),
        "an empty list"
    );
    assert_eq!(answer(&request("r", START, &ids[..100])).2.len(), 100);
    assert_eq!(
        answer(&request("r", START, &ids)),
        ("too_many_candidates".to_owned(), None, vec![])
    );
    let mut elsewhere = request("r", START, &["i"]);
    elsewhere["scenario"] = "nowhere".into();
    let (status, degraded, scores) = answer(&elsewhere);
    assert_eq!(
        (&*status, degraded, scores.len()),
        ("ok", Some(json!(["unknown_scenario"])), 1)
    );
    assert_eq!(
        answer(&request("r", START + hour, &["i"])),
        ("future".to_owned(), None, vec![])
    );
    assert_eq!(
        answer(&request("r", START - hour - 1, &["i"])),
        ("expired".to_owned(), None, vec![]),
        "an old one"
    );
    let mut deadline = request("r", START, &["i"]);
    deadline["deadline_ms"] = 1_000.into();
    assert_eq!(answer(&deadline).0, "ok", "just in time");
    deadline["deadline_ms"] = 999.into();
    assert_eq!(
        answer(&deadline),
        ("expired".to_owned(), None, vec![]),
        "past its deadline"
    );
    deadline["deadline_ms"] = i64::MAX.into();
    assert_eq!(answer(&deadline).0, "ok");
    // The same id again is a request of its own.
    let (first, again) = (
        answer(&request("same", START, &["i"])),
        answer(&request("same", START, &["i"])),
    );
    assert_eq!(first, again);
}

/// Goal: after an outage the requests of the backlog whose deadline has passed are shed, and no behavior is. Method: an hour of both, read
/// in one step at its end.
#[test]
fn a_backlog_sheds_requests_and_no_behavior() {
    let mut bench = bench("");
    let minute = 60_000;
    let mut inputs = Vec::new();
    for number in 0..60 {
        let time = START + number * minute;
        let mut click = behavior(time);
        click["event_id"] = format!("e{number}").into();
        let mut asks = request(&format!("r{number}"), time, &["i"]);
        asks["deadline_ms"] = 90_000.into();
        inputs.push((Topic::Behaviors, time, click.to_string()));
        inputs.push((Topic::ScoreRequests, time, asks.to_string()));
    }
    bench.now = START + 59 * minute + 1;
    let inputs: Vec<(Topic, i64, &[u8], &[(&str, &[u8])])> = inputs
        .iter()
        .map(|(topic, time, value)| (*topic, *time, value.as_bytes(), &[][..]))
        .collect();
    let output = bench.step_of(&inputs);
    assert_eq!(bench.counted(), 60);
    let answers = values(&output, Topic::Scores);
    assert_eq!(answers.len(), 60, "each is answered");
    let ok: Vec<&str> = answers
        .iter()
        .filter(|answer| answer["status"] == "ok")
        .map(|answer| answer["request_id"].as_str().unwrap())
        .collect();
    assert_eq!(ok, ["r58", "r59"], "whose 90 seconds are not over");
    assert!(
        answers
            .iter()
            .all(|answer| answer["status"] == "ok" || answer["status"] == "expired")
    );
}
