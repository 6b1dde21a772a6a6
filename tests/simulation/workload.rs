//! What the platform does: settings and records from a seed. Users behave, ask, repeat themselves, come late, and send nonsense.
//!
//! Before it stands the seed; after it the input topics. It keeps nothing for the auditor, who reads the topics.

use std::fmt::Write as _;

use headwater_config::{Bytes, Config};
use serde_json::json;

use crate::random::Random;

/// What a run goes by.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub config: Config,
    pub partitions: i32,
    pub dead_letter_partitions: i32,
    pub users: u64,
    pub items: u64,
    /// How far apart event times are, milliseconds.
    pub unit: i64,
    /// Records of the input at most that have no place where their key belongs: one in so many; 0: none.
    pub misplaced: u64,
    pub unreadable: u64,
    /// The log's segments: small ones are cleaned often.
    /// Whether rows compare texts.
    pub texts: bool,
    /// Whether a model with deep layers scores.
    pub trained: bool,
    pub segment_bytes: u64,
    pub compacts: bool,
}

/// Segments of which none is ever closed, and so none cleaned.
const NEVER_CLOSED: u64 = 64 << 20;

impl Plan {
    /// Settings from a seed, all of them small.
    pub(crate) fn new(random: &mut Random) -> Self {
        let mut text = String::new();
        let mut put = |line: String| writeln!(text, "{line}").expect("invariant: a String grows");
        let delivery = random.pick(&["exactly-once", "exactly-once", "at-least-once"]);
        put(format!("kafka.delivery = \"{delivery}\""));
        put(format!("state.recent = {}", random.pick(&[1, 2, 4, 4, 8])));
        put(format!(
            "state.write_back = \"{}ms\"",
            random.pick(&[1, 20, 200])
        ));
        put(format!(
            "state.allowed_lateness = \"{}\"",
            random.pick(&["1s", "1h", "30d", "3650d"])
        ));
        let late = random.pick(&["keep", "drop"]);
        put(format!("state.late = \"{late}\""));
        let attributes = random.pick(&["", "\"query\"", "\"author\", \"query\""]);
        put(format!("state.attributes = [{attributes}]"));
        put("scenarios.names = [\"feed\", \"search\"]".to_owned());
        if random.once_in(2) {
            put("items.attributes = [\"author\"]".to_owned());
        }
        put(format!(
            "step.records_max = {}",
            random.pick(&[1, 2, 5, 20, 200])
        ));
        put("step.wait = \"0ms\"\nstep.candidates_max = 8\nstep.record_max = \"1KiB\"".to_owned());
        put(format!(
            "step.request_max_age = \"{}\"",
            random.pick(&["1m", "1h", "3650d"])
        ));
        let on_behavior = random.pick(&["item", "off"]);
        put(format!("scoring.on_behavior = \"{on_behavior}\""));
        put(format!(
            "scoring.debounce = \"{}ms\"",
            random.pick(&[1, 30, 300])
        ));
        put(format!(
            "scoring.standing_max = {}",
            random.pick(&[1, 2, 16])
        ));
        put("scoring.standing_ttl_max = \"3650d\"".to_owned());
        put(format!(
            "scoring.explore = {}",
            random.pick(&["0.0", "0.0", "0.3"])
        ));
        put(format!("scoring.feature_log = {}", !random.once_in(4)));
        put(format!("scoring.item_statistics = {}", !random.once_in(3)));
        // Which of them are late depends on how requests and behaviors meet: only where none is left out.
        let shown = random.once_in(6) && *late == "keep";
        put(format!("scoring.requests_are_impressions = {shown}"));
        let examples = random.pick(&["shown", "shown", "shown", "all-scored", "off"]);
        put(format!("labels.examples = \"{examples}\""));
        put(format!(
            "labels.shown_within = \"{}\"",
            random.pick(&["0s", "1s", "10m", "1d"])
        ));
        let [late, open_max] = *random.pick(&[
            ["3650d", "100000"],
            ["3650d", "100000"],
            ["0s", "100000"],
            ["1h", "3"],
        ]);
        put(format!(
            "labels.late = \"{late}\"\nlabels.open_max = {open_max}"
        ));
        let window = random.pick(&["1ms", "500ms", "30m", "2d"]);
        put(format!(
            "tasks.click = {{ positive = [\"click\", \"like\", \"purchase\"], trials = [\"impression\"], scenarios = [], window = \"{window}\" }}"
        ));
        if random.once_in(3) {
            put("tasks.buy = { positive = [\"purchase\"], trials = [\"impression\"], scenarios = [\"feed\"], window = \"1h\" }".to_owned());
        }
        let segment_bytes = *random.pick(&[8_192, 65_536, NEVER_CLOSED]);
        // Where all is kept that was ever written: what was asked for is held against what came of it.
        let texts = segment_bytes == NEVER_CLOSED;
        if texts {
            put("texts.encoder = \"simulated\"\ntexts.item = \"{item.id}\"".to_owned());
            put("texts.behaviors.\"*\" = \"{kind} {item.id}\"".to_owned());
            put(format!(
                "texts.sequence_max = {}",
                random.pick(&[2, 4, 8, 64])
            ));
        }
        let trained = texts && random.once_in(2);
        let mut config = Config::from_toml(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        // Below what a daemon would be allowed: users leave memory all the time.
        config.state.memory = Bytes::new(*random.pick(&[1, 4_000, 40_000, 1 << 20]));
        // The same: with so little, answers of a few items are split.
        config.step.answer_max = Bytes::new(*random.pick(&[300, 512 << 10]));
        // The same: most polls are taken in several steps.
        config.step.bytes_max = Bytes::new(*random.pick(&[1, 2_000, 16 << 20]));
        config.key_vectors.logged = random.once_in(2);
        // By what is drawn already: another draw would make other seeds of all.
        config.texts.logged = texts && config.key_vectors.logged != trained;
        if !config.scoring.requests_are_impressions {
            config.skew.share = 1.0.try_into().expect("invariant: it is a share");
        }
        Self {
            config,
            partitions: random.within(2, 4) as i32,
            dead_letter_partitions: random.within(1, 3) as i32,
            users: *random.pick(&[2, 5, 12]),
            items: *random.pick(&[3, 12, 120]),
            unit: *random.pick(&[1, 50, 1_000, 60_000, 3_600_000]),
            misplaced: *random.pick(&[0, 0, 30]),
            unreadable: *random.pick(&[5, 20, 100]),
            segment_bytes,
            texts,
            trained,
            compacts: random.once_in(2),
        }
    }

    /// Whether rows are kept to the end, so that everything late corrects their labels.
    pub(crate) fn keeps_rows(&self) -> bool {
        self.config.labels.late.millis() > 365 * 86_400_000
    }

    /// Whether everything that was ever written is still there.
    pub(crate) fn keeps_all(&self) -> bool {
        self.segment_bytes == NEVER_CLOSED
    }
}

/// Who makes records.
#[derive(Debug)]
pub(crate) struct Workload {
    random: Random,
    users: u64,
    items: u64,
    unit: i64,
    unreadable: u64,
    /// Whether behaviors have no event ids.
    anonymous: bool,
    count: u64,
    /// The newest records, to be sent again.
    sent: Vec<Input>,
    times: Vec<i64>,
    /// The newest requests, of which something may be shown.
    asked: Vec<Asked>,
}

/// A request that may have been scored.
#[derive(Clone, Debug)]
struct Asked {
    request: String,
    user: String,
    time: i64,
    candidates: Vec<String>,
}

const KINDS: [&str; 7] = [
    "impression",
    "impression",
    "view",
    "click",
    "like",
    "purchase",
    "rate",
];
const SCENARIOS: [&str; 5] = ["feed", "feed", "search", "other", "unheard-of"];

/// A record to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    pub key: String,
    /// May be null.
    pub value: Option<Vec<u8>>,
    /// Which dead letter it was, if it was one.
    pub redriven: Option<String>,
}

impl Input {
    fn new(key: String, value: Option<Vec<u8>>) -> Self {
        Self {
            key,
            value,
            redriven: None,
        }
    }
}

impl Workload {
    pub(crate) fn new(random: Random, plan: &Plan) -> Self {
        Self {
            random,
            users: plan.users,
            items: plan.items,
            unit: plan.unit,
            unreadable: plan.unreadable,
            anonymous: plan.config.scoring.requests_are_impressions,
            count: 0,
            sent: Vec::new(),
            times: Vec::new(),
            asked: Vec::new(),
        }
    }

    /// The items that the platform describes: not all that users touch.
    pub(crate) fn items(&mut self, now: i64) -> Vec<Input> {
        let mut items = Vec::new();
        for number in 0..self.items {
            if self.random.once_in(4) {
                continue;
            }
            let mut categories = vec![format!("c{}", number % 3)];
            if self.random.once_in(3) {
                categories.push("c9".to_owned());
            }
            let item = json!({"item_id": format!("i{number}"), "time": now, "categories": categories,
                "fields": {"author": format!("a{}", number % 2), "title": "some words"}});
            let value = item.to_string().into_bytes();
            items.push(Input::new(format!("i{number}"), Some(value)));
        }
        items
    }

    /// What the platform says of an item that nobody touches: so nothing depends on when it is heard. Often older than what it said before;
    /// sometimes that there is no such item.
    pub(crate) fn item_said(&mut self, now: i64) -> Input {
        self.count += 1;
        let id = format!("x{}", self.random.below(3));
        if self.random.once_in(8) {
            return Input::new(id, None);
        }
        // Often the same time again.
        let grain = 3 * self.unit;
        let time = (now - self.random.within(0, 6) * self.unit) / grain * grain;
        let item =
            json!({"item_id": id, "time": time, "fields": {"title": format!("t{}", self.count)}});
        Input::new(id, Some(item.to_string().into_bytes()))
    }

    fn user(&mut self) -> String {
        // Some users do most of it.
        let few = self.random.once_in(2);
        let of = if few { 2 } else { self.users };
        format!("u{}", self.random.below(of))
    }

    fn item(&mut self) -> String {
        format!("i{}", self.random.below(self.items))
    }

    /// An event time: mostly about now, in the unit of the run; often a time that was there before.
    fn time(&mut self, now: i64) -> i64 {
        let time = match self.random.weighted(&[30, 8, 12, 3, 1, 1]) {
            0 => now - self.random.within(0, 3) * self.unit,
            1 => now - self.random.within(0, 40) * self.unit,
            2 => match self.times.len() {
                0 => now,
                known => self.times[known - 1 - self.random.below(known.min(8) as u64) as usize],
            },
            3 => now - self.random.within(0, 90) * 86_400_000,
            4 => now - self.random.within(0, 3_000) * 86_400_000,
            _ => now + self.random.within(0, 600_000),
        };
        self.times.push(time);
        time
    }

    /// One record of the behaviors topic.
    pub(crate) fn behavior(&mut self, now: i64) -> Input {
        if self.random.once_in(self.unreadable) {
            return self.nonsense(now);
        }
        if self.random.once_in(10) && !self.sent.is_empty() {
            // The same again, to the byte.
            let known = self.sent.len();
            let place = known - 1 - self.random.below(known.min(12) as u64) as usize;
            return self.sent[place].clone();
        }
        self.count += 1;
        let user = self.user();
        let mut record = json!({"user_id": user, "kind": *self.random.pick(&KINDS),
            "scenario": *self.random.pick(&SCENARIOS), "time": self.time(now)});
        let fields = record.as_object_mut().expect("invariant: made as one");
        if !self.random.once_in(12) {
            fields.insert("item_id".to_owned(), json!(self.item()));
        }
        self.of_request(fields);
        let user = fields["user_id"].as_str().map_or(user, str::to_owned);
        let mut redriven = None;
        match self.random.below(8) {
            // What requests show lets others leave recent sooner or later: nobody can say from outside when ids are forgotten.
            _ if self.anonymous => {}
            0 if self.random.once_in(2) => {}
            // A dead letter that was mended: sent again, it is still the same.
            0 => redriven = Some(format!("0-{}", self.count)),
            // An id that was used before, for something else.
            1 => {
                let before = self.random.below(self.count.min(9)) + self.count.saturating_sub(9);
                fields.insert("event_id".to_owned(), json!(format!("e{before}")));
            }
            _ => {
                fields.insert("event_id".to_owned(), json!(format!("e{}", self.count)));
            }
        }
        if self.random.once_in(3) {
            let value = self.random.within(-500, 5_000) as f64 / 8.0;
            fields.insert("value".to_owned(), json!(value));
        }
        if self.random.once_in(3) {
            let query = format!("q{}", self.random.below(5));
            fields.insert("query".to_owned(), json!(query));
        }
        if self.random.once_in(3) {
            let author = match self.random.below(3) {
                0 => json!(self.random.below(4)),
                1 => json!(self.random.once_in(2)),
                _ => json!(format!("a{}", self.random.below(4))),
            };
            fields.insert("attributes".to_owned(), json!({"author": author, "x": [1]}));
        }
        let value = record.to_string().into_bytes();
        let input = Input {
            key: user,
            value: Some(value),
            redriven,
        };
        self.sent.push(input.clone());
        input
    }

    /// Often makes a behavior one that a request led to: its item was shown, or somebody did something with it.
    fn of_request(&mut self, fields: &mut serde_json::Map<String, serde_json::Value>) {
        if self.asked.is_empty() || self.random.once_in(3) {
            return;
        }
        let known = self.asked.len();
        let place = known - 1 - self.random.below(known.min(6) as u64) as usize;
        let asked = self.asked[place].clone();
        let Some(item) = asked.candidates.first() else {
            return;
        };
        let item = match asked.candidates.len() {
            1 => item,
            many => &asked.candidates[self.random.below(many as u64) as usize],
        };
        fields.insert("user_id".to_owned(), json!(asked.user));
        fields.insert("item_id".to_owned(), json!(item));
        if !self.random.once_in(4) {
            fields.insert("request_id".to_owned(), json!(asked.request));
        }
        if self.random.once_in(2) {
            fields.insert("position".to_owned(), json!(self.random.below(9)));
        }
        if self.random.once_in(2) {
            let time = asked.time + self.random.within(-1, 3) * self.unit;
            fields.insert("time".to_owned(), json!(time));
        }
    }

    /// A record that cannot be read: each for one reason.
    fn nonsense(&mut self, now: i64) -> Input {
        let user = self.user();
        let good = json!({"user_id": user, "kind": "click", "scenario": "feed", "time": now, "item_id": "i0"});
        let with = |field: &str, value: serde_json::Value| {
            let mut record = good.clone();
            record[field] = value;
            Some(record.to_string().into_bytes())
        };
        let without = |field: &str| {
            let mut record = good.clone();
            record.as_object_mut().expect("an object").remove(field);
            Some(record.to_string().into_bytes())
        };
        let value = match self.random.below(22) {
            0 => None,
            1 => Some(b"{\"user_id\": \"u0\", ".to_vec()),
            2 => Some(vec![0xff, 0xfe, 0]),
            3 => Some(Vec::new()),
            4 => Some(b"[1, 2]".to_vec()),
            5 => without("user_id"),
            6 => without("time"),
            7 => without("kind"),
            8 => without("scenario"),
            9 => with("user_id", json!(7)),
            10 => with("time", json!("yesterday")),
            11 => with("user_id", json!("")),
            12 => with("item_id", json!("x".repeat(257))),
            13 => with("event_id", json!("")),
            14 => with("time", json!(now / 1000)),
            15 => with("time", json!(7_258_118_400_000_i64)),
            16 => with("time", json!(now + 86_400_000)),
            17 => with("kind", json!("teleport")),
            18 => with("value", json!(2e9)),
            19 => Some(
                good.to_string()
                    .replace("\"i0\"", "\"i0\", \"value\": NaN")
                    .into_bytes(),
            ),
            20 => with("title", json!("y".repeat(1100))),
            _ => Some(
                good.to_string()
                    .replace("\"i0\"", "\"i0\", \"value\": 1e999")
                    .into_bytes(),
            ),
        };
        Input::new(user, value)
    }

    /// One record of the score-requests topic.
    pub(crate) fn request(&mut self, now: i64) -> Input {
        let user = self.user();
        if self.random.once_in(self.unreadable) {
            let value = match self.random.below(5) {
                0 => None,
                1 => Some(b"score me".to_vec()),
                2 => Some(json!({"user_id": user, "scenario": "feed", "time": now, "candidates": []})
                    .to_string()
                    .into_bytes()),
                3 => Some(json!({"request_id": "r", "user_id": user, "scenario": "feed", "time": 5, "candidates": []})
                    .to_string()
                    .into_bytes()),
                _ => Some(json!({"request_id": "r", "user_id": user, "scenario": "feed", "time": now, "candidates": [3]})
                    .to_string()
                    .into_bytes()),
            };
            return Input::new(user, value);
        }
        self.count += 1;
        let number = if self.random.once_in(4) {
            self.random.below(3)
        } else {
            self.count
        };
        let many = *self.random.pick(&[0, 1, 3, 5, 8, 8, 9]);
        let mut candidates: Vec<String> = (0..many).map(|_| self.item()).collect();
        if self.random.once_in(3) && many > 0 {
            candidates[0] = "nobody-knows-it".to_owned();
        }
        let time = match self.random.below(20) {
            0 => now + 20 * 60_000,
            1 => now - 400 * 86_400_000,
            _ => self.time(now),
        };
        self.asked.push(Asked {
            request: format!("r{number}"),
            user: user.clone(),
            time,
            candidates: candidates.clone(),
        });
        let mut record = json!({"request_id": format!("r{number}"), "user_id": user,
            "scenario": *self.random.pick(&SCENARIOS), "time": time, "candidates": candidates});
        if self.random.once_in(6) {
            record["deadline_ms"] = json!(self.random.below(2_000));
        }
        if self.random.once_in(3) {
            // Over long before the run is, or never.
            let ttl = match self.random.below(4) {
                0 => json!(0),
                1 => json!(1),
                _ => json!("3650d"),
            };
            record["standing"] = json!({"ttl": ttl});
        }
        Input::new(user, Some(record.to_string().into_bytes()))
    }
}
