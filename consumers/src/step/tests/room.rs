//! What a step gives out is bounded, whatever its records ask for, and what is cut comes to the same.

use super::*;

/// What the largest request of these tests gives out, and more.
const ANSWER: usize = 24 << 10;

fn config(bytes_max: u64, more: &str) -> Config {
    let mut config = Config::from_toml(more).unwrap();
    // Below what a daemon would be allowed.
    config.step.bytes_max = Bytes::new(bytes_max);
    config
}

fn bytes(output: &StepOutput) -> usize {
    output.transactional.bytes() + output.immediate.bytes()
}

impl Bench {
    /// The steps of these records, until none is left.
    fn steps(&mut self, records: &RecordBatch) -> Vec<StepOutput> {
        let mut steps = vec![self.step(records)];
        while steps.last().unwrap().rest {
            assert!(steps.len() < 10_000, "a step takes one record at least");
            steps.push(self.step(records));
        }
        steps
    }
}

/// Records of three topics: behaviors and requests at times that meet, item deltas, and some that cannot be read.
fn mixed() -> RecordBatch {
    let mut records = RecordBatch::default();
    let at = |topic| TopicPartition::new(topic, 0);
    for number in 0..120 {
        let time = START + number * 10;
        let behavior = json!({"user_id": "u", "item_id": format!("i{}", number % 7), "kind": "click", "scenario": "s", "time": time});
        let behavior = if number % 20 == 3 {
            json!({})
        } else {
            behavior
        };
        let to = at(Topic::Behaviors);
        let value = behavior.to_string();
        records.push(to, (number, START), Some(b"u"), Some(value.as_bytes()), []);
        let mut request = asking(20);
        request["request_id"] = json!(format!("r{number}"));
        request["time"] = json!(time + 5);
        let request = if number % 30 == 4 { json!({}) } else { request };
        let to = at(Topic::ScoreRequests);
        let value = request.to_string();
        records.push(to, (number, START), Some(b"u"), Some(value.as_bytes()), []);
    }
    let mut delta = Delta::default();
    delta.add(
        ScenarioId(1),
        KindId(1),
        Timestamp(START),
        headwater_state::FixedSum(0),
    );
    let mut value = Vec::new();
    delta.write(&mut value);
    for number in 0..40 {
        let key = Entity::Item(&format!("i{number}")).key();
        records.push(
            at(Topic::ItemDeltas),
            (number, START),
            Some(&key),
            Some(&value),
            [],
        );
    }
    records
}

/// Goal: LIMIT-1, and what comes out does not depend on where steps are cut. Method: one poll of behaviors, requests, deltas and dead letters
/// in one step and in many; each output's size, and all records but those that are one a step.
#[test]
fn a_step_stops_when_it_has_given_enough() {
    let published = |bytes_max: u64| {
        let mut bench = Bench::new(&config(bytes_max, "scoring.on_behavior = \"item\""));
        let records = mixed();
        let steps = bench.steps(&records);
        for output in &steps {
            assert!(
                bytes(output) < bytes_max as usize + ANSWER,
                "{}",
                bytes(output)
            );
        }
        let mut all: Vec<(Topic, Vec<u8>, Option<Vec<u8>>)> = steps
            .iter()
            .flat_map(|output| output.transactional.iter())
            .filter(|record| record.at.topic != Topic::ItemDeltas)
            .filter(|record| record.key != Some(&[4]))
            .map(|record| {
                let value = record.value.map(<[u8]>::to_vec);
                (
                    record.at.topic,
                    record.key.unwrap_or_default().to_vec(),
                    value,
                )
            })
            .collect();
        all.sort();
        let polled = &bench.pipeline.metrics().polled;
        let polled = [Topic::Behaviors, Topic::ScoreRequests, Topic::ItemDeltas]
            .map(|topic| polled.with_label_values(&[topic.key()]).get());
        assert_eq!(polled, [120, 120, 40]);
        let positions = steps.last().unwrap().positions.clone();
        (steps.len(), all, positions)
    };
    let (steps, whole, positions) = published(16 << 20);
    assert_eq!(steps, 1);
    for bytes_max in [1, 10 << 10, 100 << 10] {
        let (steps, cut, at) = published(bytes_max);
        assert!(steps > 2, "{steps}");
        let other = cut.iter().zip(&whole).find(|(cut, whole)| cut != whole);
        assert_eq!(
            (other, cut.len()),
            (None, whole.len()),
            "cut at {bytes_max}"
        );
        assert_eq!(at, positions);
    }
}

/// Goal: LIMIT-1 for standing requests, and nobody waits for ever. Method: hundreds that are due at once, while a poll fills each step.
#[test]
fn what_is_due_at_once_is_scored_step_by_step() {
    let mut bench = Bench::new(&config(40 << 10, "scoring.standing_max = 300"));
    for number in 0..200 {
        let mut request = asking(20);
        request["request_id"] = json!(format!("r{number}"));
        request["standing"] = json!({"ttl": "1h"});
        bench.take(Topic::ScoreRequests, &request);
    }
    bench.take(Topic::Behaviors, &clicking("e1"));
    bench.now += 1_000;
    let mut records = RecordBatch::default();
    for number in 0..20 {
        let value = asking(20).to_string();
        let to = TopicPartition::new(Topic::ScoreRequests, 0);
        let at = (bench.next + number, START);
        records.push(to, at, Some(b"u"), Some(value.as_bytes()), []);
    }
    let (mut steps, mut standing, mut answered) = (0, 0, 0);
    while standing < 200 {
        let output = bench.step(&records);
        assert!(
            bytes(&output) < 2 * ((40 << 10) + ANSWER),
            "{}",
            bytes(&output)
        );
        let scored = of(&output, Topic::StandingScores).len();
        assert!(scored > 0 && scored < 100, "{scored}");
        standing += scored;
        answered += of(&output, Topic::Scores).len();
        steps += 1;
    }
    assert!(steps > 3, "{steps}");
    assert_eq!((standing, answered), (200, 20));
    assert!(bench.step(&records).is_empty());
}
