//! Rules that no type can hold: limits, names, and what two keys must not say together.
//!
//! Before it, `decode` has made types of the text; after it, `load` reports every rule that is broken, with the key and
//! where it was written. A rule is one line here; what it protects stands beside it.

mod names;
mod source;
mod train;

use std::fmt::Display;

use crate::kafka::owner_of;
use crate::log::LogKind;
use crate::quantity::{Bytes, Span};
use crate::texts::TextsConfig;
use crate::{Config, ScenariosConfig, Topic};

/// A rule that is broken.
pub(crate) struct Violation {
    /// The keys that it binds, by their paths; at least one.
    pub(crate) keys: Vec<Vec<String>>,
    /// What is wrong, whichever of the keys is looked at.
    pub(crate) reason: String,
}

/// Kinds are bits of one word in the state's cells.
const KINDS_MAX: usize = 64;

/// Each attribute is a slot of key-vectors for each user.
const ATTRIBUTES_MAX: usize = 8;

/// Each task is a column of scores and a label of metrics.
const TASKS_MAX: usize = 32;
/// Each is run by itself, and its vector is an input of the head.
const SEQUENCES_MAX: usize = 8;
/// Each entry is some 40 bytes of its user.
const SEQUENCE_MAX: (usize, usize) = (2, 4_096);
/// Layers of an encoder at most: more than any that is known.
const CUT_MAX: usize = 1_000;
/// Kinds that key-vectors tell apart at most: each has a byte.
const KEYED_KINDS_MAX: usize = 255;
/// Rows, shown items and positives of a user that wait for their labels: each is some 100 bytes.
const OPEN_MAX: (usize, usize) = (1, 100_000);
/// Times before a row that are told apart, at most.
const BUCKETS_MAX: usize = 16;

/// Each scenario is a label of metrics, and statistics of items are kept for each.
const SCENARIOS_MAX: usize = 1_000;

/// A step gives out twice as much and an answer more: the embedded log takes no transaction over 256 MiB.
const EMBEDDED_STEP_MAX: Bytes = Bytes::new(64 << 20);

/// Rules that are broken so far.
struct Rules(Vec<Violation>);

impl Rules {
    /// A rule over `keys` is broken.
    fn refuse(&mut self, keys: &[&str], reason: impl Into<String>) {
        self.0.push(Violation {
            keys: keys.iter().map(|key| path(key)).collect(),
            reason: reason.into(),
        });
    }

    fn require(&mut self, holds: bool, keys: &[&str], reason: impl FnOnce() -> String) {
        if !holds {
            self.refuse(keys, reason());
        }
    }

    fn range<T: Copy + PartialOrd + Display>(&mut self, key: &str, value: T, (min, max): (T, T)) {
        if value < min || value > max {
            self.refuse(&[key], format!("{value} is not between {min} and {max}"));
        }
    }

    fn positive(&mut self, key: &str, span: Span) {
        if span.is_zero() {
            self.refuse(&[key], format!("{span} is no time at all: it must be more"));
        }
    }
}

/// A key as it is printed, to its path. In these tables names are the user's, and may have dots.
fn path(key: &str) -> Vec<String> {
    for table in [
        "kafka.client.",
        "source.behaviors.kinds.",
        "source.behaviors.attributes.",
        "texts.behaviors.",
        "tasks.",
    ] {
        if let Some(rest) = key.strip_prefix(table) {
            let mut path: Vec<String> = table
                .trim_end_matches('.')
                .split('.')
                .map(str::to_owned)
                .collect();
            match rest.rsplit_once('.').filter(|_| table == "tasks.") {
                Some((task, field)) => path.extend([task.to_owned(), field.to_owned()]),
                None => path.push(rest.to_owned()),
            }
            return path;
        }
    }
    key.split('.').map(str::to_owned).collect()
}

/// Every rule that `config` breaks.
pub(crate) fn validate(config: &Config) -> Vec<Violation> {
    let mut rules = Rules(Vec::new());
    instance(&mut rules, config);
    kafka(&mut rules, config);
    topics(&mut rules, config);
    state(&mut rules, config);
    kinds(&mut rules, config);
    tasks(&mut rules, config);
    texts(&mut rules, config);
    step(&mut rules, config);
    scoring(&mut rules, config);
    labels(&mut rules, config);
    key_vectors(&mut rules, config);
    train::check(&mut rules, config);
    skew(&mut rules, config);
    names::list(
        &mut rules,
        "items.attributes",
        &config.items.attributes,
        ATTRIBUTES_MAX,
    );
    names::list(
        &mut rules,
        "step.pass_headers",
        &config.step.pass_headers,
        ATTRIBUTES_MAX,
    );
    source::behaviors(&mut rules, config);
    rules.0
}

fn instance(rules: &mut Rules, config: &Config) {
    let instance = &config.instance;
    if let Some(id) = &instance.id {
        rules.require(
            names::is_kafka_name(id) && id.len() <= 100,
            &["instance.id"],
            || format!("\"{id}\" is not a name of at most 100 letters, digits, `.`, `_` and `-`"),
        );
    }
    rules.range("instance.workers", instance.workers, (0, 256));
    let else_to_do = (config.texts.encoder.is_some() && config.texts.encode)
        || config.source.behaviors.repartition
        || !config.train.every.is_zero();
    rules.require(instance.workers > 0 || else_to_do, &["instance.workers"], || {
        "0 scores nothing, and there is nothing else to do: neither texts.encoder with texts.encode nor train.every nor source.behaviors.repartition is set"
            .to_owned()
    });
    let prefix = &instance.prefix;
    rules.require(is_prefix(prefix), &["instance.prefix"], || {
        format!("\"{prefix}\" is not made of at most 100 letters, digits, `.`, `_` and `-`")
    });
    rules.require(config.log.retention.get() > 0, &["log.retention"], || {
        "0B keeps nothing: it must be more".to_owned()
    });
}

/// What may stand before a name on the brokers.
fn is_prefix(prefix: &str) -> bool {
    prefix.len() <= 100 && prefix.chars().all(names::is_kafka_letter)
}

fn kafka(rules: &mut Rules, config: &Config) {
    let kafka = &config.kafka;
    if config.log.kind == LogKind::Kafka
        && let Err(reason) = names::brokers(&kafka.brokers)
    {
        rules.refuse(&["kafka.brokers"], reason);
    }
    rules.require(
        names::is_kafka_name(&kafka.group) && kafka.group.len() <= 100,
        &["kafka.group"],
        || {
            let group = &kafka.group;
            format!("\"{group}\" is not a name of 1 to 100 letters, digits, `.`, `_` and `-`")
        },
    );
    let second = Span::from_secs(1);
    // The brokers' own limit for sessions is half an hour.
    rules.range(
        "kafka.session_timeout",
        kafka.session_timeout,
        (second, Span::from_secs(1_800)),
    );
    // What a dead daemon left open hides its outputs from every read_committed reader for as long.
    rules.range(
        "kafka.transaction_timeout",
        kafka.transaction_timeout,
        (second, Span::from_secs(10)),
    );
    rules.range(
        "kafka.operation_timeout",
        kafka.operation_timeout,
        (second, Span::from_secs(600)),
    );
    // Whoever takes over a partition would find its dead owner's transaction open, and wait for it.
    rules.require(
        kafka.transaction_timeout <= kafka.session_timeout,
        &["kafka.transaction_timeout", "kafka.session_timeout"],
        || {
            format!(
                "transaction_timeout ({}) is longer than session_timeout ({}): a partition would move while its dead owner's transaction is still open",
                kafka.transaction_timeout, kafka.session_timeout
            )
        },
    );
    for (property, value) in kafka.client.iter() {
        let key = format!("kafka.client.{property}");
        if let Some(instead) = owner_of(property) {
            rules.refuse(&[&key], format!("this property is Headwater's: {instead}"));
        }
        rules.require(!value.expose().contains('\0'), &[&key], || {
            "its value has a NUL in it".to_owned()
        });
    }
}

fn topics(rules: &mut Rules, config: &Config) {
    for topic in Topic::ALL {
        let key = format!("topics.{}", topic.key());
        let name = config.topic_name(topic);
        if config.topics.configured(topic).is_empty() {
            rules.refuse(&[&key], "it is empty: a topic must have a name");
        } else if is_prefix(&config.instance.prefix) && !names::is_kafka_name(&name) {
            rules.refuse(
                &[&key, "instance.prefix"],
                format!(
                    "\"{name}\" is not the name of a topic: 1 to 249 letters, digits, `.`, `_` and `-`, and neither `.` nor `..`"
                ),
            );
        }
    }
    for (index, topic) in Topic::ALL.into_iter().enumerate() {
        for other in &Topic::ALL[..index] {
            let (name, taken) = (
                config.topics.configured(topic),
                config.topics.configured(*other),
            );
            // Brokers refuse two topics that differ by `.` and `_` alone: their metrics would have one name.
            let same = !name.is_empty() && name.replace('.', "_") == taken.replace('.', "_");
            let (key, other) = (topic.key(), other.key());
            rules.require(
                !same,
                &[&format!("topics.{key}"), &format!("topics.{other}")],
                || {
                    if name == taken {
                        format!("{key} and {other} are both \"{name}\": each topic has its own records")
                    } else {
                        format!("{key} (\"{name}\") and {other} (\"{taken}\") differ by `.` and `_` alone, which brokers refuse")
                    }
                },
            );
        }
    }
    let topics = &config.topics;
    rules.range("topics.partitions", topics.partitions, (1, 10_000));
    rules.range(
        "topics.replication_factor",
        topics.replication_factor,
        (1, 32),
    );
    rules.range(
        "topics.min_insync_replicas",
        topics.min_insync_replicas,
        (1, 32),
    );
    rules.require(
        topics.min_insync_replicas <= topics.replication_factor,
        &["topics.min_insync_replicas", "topics.replication_factor"],
        || {
            format!(
                "min_insync_replicas ({}) is more than replication_factor ({}): nothing could ever be written",
                topics.min_insync_replicas, topics.replication_factor
            )
        },
    );
}

fn state(rules: &mut Rules, config: &Config) {
    let state = &config.state;
    rules.require(!state.path.as_os_str().is_empty(), &["state.path"], || {
        "it is empty: the store must lie somewhere".to_owned()
    });
    let no_nul = |path: &std::path::Path| !path.as_os_str().as_encoded_bytes().contains(&0);
    rules.require(no_nul(&state.path), &["state.path"], || {
        "a path cannot have the character U+0000 in it".to_owned()
    });
    for (path, key) in [
        (&config.log.path, "log.path"),
        (&config.models.path, "models.path"),
    ] {
        rules.require(path.as_deref().is_none_or(no_nul), &[key], || {
            "a path cannot have the character U+0000 in it".to_owned()
        });
    }
    rules.range(
        "state.memory",
        state.memory,
        (Bytes::new(1 << 20), Bytes::new(1 << 50)),
    );
    rules.range("state.recent", state.recent, (1, 4_096));
    rules.range(
        "state.write_back",
        state.write_back,
        (Span::from_millis(1), Span::from_secs(600)),
    );
    rules.positive("state.allowed_lateness", state.allowed_lateness);
    rules.positive("state.copy_age_max", state.copy_age_max);
    names::list(rules, "state.attributes", &state.attributes, ATTRIBUTES_MAX);
    rules.require(
        !state.attributes.iter().any(|name| name == "item"),
        &["state.attributes"],
        || "the item has its key-vectors always: it is no attribute".to_owned(),
    );
}

fn kinds(rules: &mut Rules, config: &Config) {
    let kinds = &config.kinds;
    rules.require(!kinds.names.is_empty(), &["kinds.names"], || {
        "it is empty: no behavior could be counted".to_owned()
    });
    names::list(rules, "kinds.names", &kinds.names, KINDS_MAX);
    names::list(rules, "kinds.impressions", &kinds.impressions, KINDS_MAX);
    names::known_kinds(rules, "kinds.impressions", &kinds.impressions, config);
    names::list(
        rules,
        "scenarios.names",
        &config.scenarios.names,
        SCENARIOS_MAX,
    );
    rules.require(
        !config
            .scenarios
            .names
            .iter()
            .any(|name| name == ScenariosConfig::OTHER),
        &["scenarios.names"],
        || "\"other\" stands for all scenarios that are not named here".to_owned(),
    );
}

fn tasks(rules: &mut Rules, config: &Config) {
    rules.require(
        (1..=TASKS_MAX).contains(&config.tasks.len()),
        &["tasks"],
        || {
            format!(
                "{} tasks: there must be 1 to {TASKS_MAX}",
                config.tasks.len()
            )
        },
    );
    for (name, task) in &config.tasks {
        let whole = format!("tasks.{name}");
        rules.require(names::is_plain_name(name), &[&whole], || {
            format!("\"{name}\" is not a name of 1 to 64 letters, digits, `_` and `-`")
        });
        for (field, kinds) in [("positive", &task.positive), ("trials", &task.trials)] {
            let key = format!("{whole}.{field}");
            rules.require(!kinds.is_empty(), &[&key], || {
                "it is empty: a rate needs kinds to count".to_owned()
            });
            names::list(rules, &key, kinds, KINDS_MAX);
            names::known_kinds(rules, &key, kinds, config);
        }
        let key = format!("{whole}.scenarios");
        names::list(rules, &key, &task.scenarios, SCENARIOS_MAX + 1);
        for scenario in &task.scenarios {
            let known =
                scenario == ScenariosConfig::OTHER || config.scenarios.names.contains(scenario);
            rules.require(known, &[&key, "scenarios.names"], || {
                format!("scenario \"{scenario}\" of task {name} is not in scenarios.names")
            });
        }
    }
}

/// Edges of stretches of time.
fn ascend(rules: &mut Rules, key: &str, edges: &[Span]) {
    let edges: Vec<i64> = edges.iter().map(|edge| edge.millis()).collect();
    let ascending = edges.is_sorted_by(|one, next| one < next);
    rules.require(
        ascending && edges.first().is_none_or(|first| *first > 0) && edges.len() < BUCKETS_MAX,
        &[key],
        || format!("edges must ascend from above 0, and be fewer than {BUCKETS_MAX}"),
    );
}

fn key_vectors(rules: &mut Rules, config: &Config) {
    ascend(rules, "key_vectors.buckets", &config.key_vectors.buckets);
    let kinds = config.kinds.names.len();
    rules.require(
        !config.key_vectors.logged || kinds <= KEYED_KINDS_MAX,
        &["key_vectors.logged", "kinds.names"],
        || format!("key-vectors tell {KEYED_KINDS_MAX} kinds apart, and there are {kinds}"),
    );
}

fn skew(rules: &mut Rules, config: &Config) {
    rules.positive("skew.every", config.skew.every);
    rules.require(
        config.skew.share.get() == 0.0 || !config.scoring.requests_are_impressions,
        &["skew.share", "scoring.requests_are_impressions"],
        || "what a user's requests have shown is in no record of their behaviors, from which rows would be computed again".to_owned(),
    );
}

fn labels(rules: &mut Rules, config: &Config) {
    let labels = &config.labels;
    rules.require(labels.negatives.get() > 0.0, &["labels.negatives"], || {
        "0 would keep no row without a positive, and no weight makes up for that".to_owned()
    });
    rules.range("labels.open_max", labels.open_max, OPEN_MAX);
    for (name, task) in &config.tasks {
        rules.positive(&format!("tasks.{name}.window"), task.window);
    }
}

fn texts(rules: &mut Rules, config: &Config) {
    rules.require(!config.texts.item.not_of_items(), &["texts.item"], || {
        format!(
            "\"{}\" has a field that an item's record has not: there are item.NAME, item.id and item.categories",
            config.texts.item
        )
    });
    let texts = &config.texts;
    rules.require((1..=CUT_MAX).contains(&texts.cut), &["texts.cut"], || {
        format!(
            "{} is not a number of layers from 1 to {CUT_MAX}",
            texts.cut
        )
    });
    rules.require(texts.background.get() > 0.0, &["texts.background"], || {
        "0 would never be through".to_owned()
    });
    rules.positive("texts.keep_former", texts.keep_former);
    rules.range(
        "texts.deep_memory",
        texts.deep_memory,
        (Bytes::new(1 << 20), Bytes::new(1 << 50)),
    );
    rules.range("texts.sequence_max", texts.sequence_max, SEQUENCE_MAX);
    rules.require(
        texts.sequence_max.is_multiple_of(2),
        &["texts.sequence_max"],
        || {
            format!(
                "{} is odd: a sequence begins anew with its newest half",
                texts.sequence_max
            )
        },
    );
    ascend(rules, "texts.buckets", &texts.buckets);
    for (name, template) in &config.texts.behaviors {
        let key = format!("texts.behaviors.{name}");
        for attribute in template.attributes() {
            let known = config.state.attributes.iter().any(|one| one == attribute);
            rules.require(known, &[&key, "state.attributes"], || {
                format!("{{attributes.{attribute}}} is not in state.attributes: of others nothing is read")
            });
        }
        let (scenario, kind) = name
            .split_once('/')
            .map_or((None, name.as_str()), |(scenario, kind)| {
                (Some(scenario), kind)
            });
        let known = name == TextsConfig::ALL || config.kinds.names.iter().any(|one| one == kind);
        rules.require(known, &[&key, "kinds.names"], || {
            format!("kind \"{kind}\" is not in kinds.names")
        });
        let known = scenario.is_none_or(|scenario| {
            scenario == ScenariosConfig::OTHER
                || config.scenarios.names.iter().any(|one| one == scenario)
        });
        rules.require(known, &[&key, "scenarios.names"], || {
            format!(
                "scenario \"{}\" is not in scenarios.names",
                scenario.unwrap_or_default()
            )
        });
    }
    rules.require(
        (1..=SEQUENCES_MAX).contains(&config.sequences.len()),
        &["sequences"],
        || {
            format!(
                "{} sequences: there must be 1 to {SEQUENCES_MAX}",
                config.sequences.len()
            )
        },
    );
    for (name, kinds) in &config.sequences {
        let key = format!("sequences.{name}");
        rules.require(names::is_plain_name(name), &[&key], || {
            format!("\"{name}\" is not a name of 1 to 64 letters, digits, `_` and `-`")
        });
        names::list(rules, &key, kinds, KINDS_MAX);
        names::known_kinds(rules, &key, kinds, config);
    }
}

fn step(rules: &mut Rules, config: &Config) {
    let step = &config.step;
    rules.range("step.records_max", step.records_max, (1, 100_000));
    rules.range("step.candidates_max", step.candidates_max, (1, 100_000));
    rules.range("step.wait", step.wait, (Span::ZERO, Span::from_secs(1)));
    rules.positive("step.request_max_age", step.request_max_age);
    let record = (Bytes::new(1 << 10), Bytes::new(1 << 30));
    rules.range("step.record_max", step.record_max, record);
    rules.range("step.answer_max", step.answer_max, record);
    rules.require(
        config.log.kind != LogKind::Embedded || step.bytes_max <= EMBEDDED_STEP_MAX,
        &["step.bytes_max", "log.kind"],
        || {
            format!(
                "bytes_max ({}) is over {EMBEDDED_STEP_MAX}, and the embedded log takes no transaction over 256MiB",
                step.bytes_max
            )
        },
    );
    rules.require(
        step.record_max <= step.bytes_max,
        &["step.bytes_max", "step.record_max"],
        || {
            format!(
                "bytes_max ({}) is less than record_max ({}): a step could not hold one record",
                step.bytes_max, step.record_max
            )
        },
    );
}

fn scoring(rules: &mut Rules, config: &Config) {
    let scoring = &config.scoring;
    rules.range("scoring.standing_max", scoring.standing_max, (0, 1_000));
    rules.positive("scoring.standing_ttl_max", scoring.standing_ttl_max);
    for (short, long, keys) in [
        (
            scoring.half_life_short,
            scoring.half_life_long,
            ["scoring.half_life_short", "scoring.half_life_long"],
        ),
        (
            scoring.user_half_life_short,
            scoring.user_half_life_long,
            [
                "scoring.user_half_life_short",
                "scoring.user_half_life_long",
            ],
        ),
    ] {
        rules.require(long.is_zero() || short < long, &keys, || {
            let [short_key, long_key] = keys.map(|key| key.trim_start_matches("scoring."));
            format!("{short_key} ({short}) is not shorter than {long_key} ({long})")
        });
    }
}
