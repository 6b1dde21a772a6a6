//! Which numbers a row holds, in which order, and what they mean: made once from the configured tasks, before the first
//! batch; its hash stands in every logged row. It promises equal hashes for equal layout and meaning alone.

use std::fmt::Write as _;

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

use super::key_vectors::KeyVectorSpec;
use super::likeness::{Against, LikenessSpec};
use super::{Level, Quantity};

/// The layout's version, part of every schema's hash: raise it when a quantity comes to mean something else.
pub(super) const LAYOUT: u32 = 1;

/// The half-lives of decayed counts, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HalfLives {
    /// Of `recent_…`; none: these counts stay 0.
    pub short_ms: Option<u64>,
    /// Of all others; none: undecayed.
    pub long_ms: Option<u64>,
}

/// One kind of outcome that is predicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskSpec {
    /// The task's name, such as `click`.
    pub name: String,
    /// Anything that fixes what is counted for the task (its positive and trial kinds, whether requests count as
    /// impressions), in a canonical text: it goes into the schema's hash and is not read otherwise.
    pub definition: String,
    /// Half-lives of the levels without the user.
    pub item: HalfLives,
    /// Half-lives of the levels with the user.
    pub user: HalfLives,
}

impl TaskSpec {
    /// All that fixes what its numbers mean.
    pub(super) fn describe(&self, text: &mut String) {
        // Debug quotes the free text, so that no definition can pass for another line.
        writeln!(text, "task {} {:?}", self.name, self.definition)
            .expect("invariant: a String takes any text");
        for (of, lives) in [("item", self.item), ("user", self.user)] {
            for (which, ms) in [("short", lives.short_ms), ("long", lives.long_ms)] {
                // 0 stands for none: no half-life is 0.
                writeln!(text, "{of} {which} {}", ms.unwrap_or(0))
                    .expect("invariant: a String takes any text");
            }
        }
    }
}

/// One number of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// `task.level.quantity` or `text.sequence.when`, unique within the schema and the same in every schema that has it.
    pub name: String,
    /// A hash of the name: the same feature has the same id in every schema.
    pub id: u64,
    /// What it says.
    pub meaning: Meaning,
}

/// What a number of a row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// How often something happened.
    Counted {
        /// The task, by its place in the schema.
        task: usize,
        /// Whom it speaks of.
        level: Level,
        /// What it counts.
        quantity: Quantity,
    },
    /// The cosine of the candidate's text vector and others, -1 to 1; 0 where one of them is not there.
    Alike {
        /// The sequence, by its place.
        sequence: usize,
        /// Which of its behaviors.
        against: Against,
    },
}

impl Feature {
    /// The number where nothing was set.
    pub const fn default(&self) -> f32 {
        match self.meaning {
            Meaning::Counted { quantity, .. } => quantity.default(),
            Meaning::Alike { .. } => 0.0,
        }
    }

    /// The unit of the number.
    pub const fn unit(&self) -> &'static str {
        match self.meaning {
            Meaning::Counted { quantity, .. } => quantity.unit(),
            Meaning::Alike { .. } => "cosine",
        }
    }
}

/// Which numbers a row holds, in which order, and what they mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureSchema {
    tasks: Vec<TaskSpec>,
    shared: Vec<Feature>,
    own: Vec<Feature>,
    likeness: LikenessSpec,
    key_vectors: Option<KeyVectorSpec>,
    description: String,
    hash: u64,
}

/// Why tasks make no schema.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FeatureSchemaError {
    /// No task is configured.
    #[error("a feature schema needs at least one task")]
    NoTask,
    /// A task's name is empty or holds something else than `a`–`z`, `0`–`9`, `_` and `-`.
    #[error("task name {name:?} must be of a-z, 0-9, _ and -")]
    TaskName {
        /// The name as configured.
        name: String,
    },
    /// A half-life is 0: counts would vanish at once.
    #[error("task {name:?} has a half-life of 0")]
    HalfLife {
        /// The task.
        name: String,
    },
    /// Two tasks share a name.
    #[error("task {name:?} is configured twice")]
    TaskTwice {
        /// The name.
        name: String,
    },
}

impl FeatureSchema {
    /// The schema of these tasks, in this order.
    pub fn new(tasks: Vec<TaskSpec>) -> Result<Self, FeatureSchemaError> {
        Self::with_likeness(tasks, LikenessSpec::default())
    }

    /// The same with likenesses behind the counts.
    pub fn with_likeness(
        tasks: Vec<TaskSpec>,
        likeness: LikenessSpec,
    ) -> Result<Self, FeatureSchemaError> {
        Self::with(tasks, likeness, None)
    }

    /// The same with key-vectors beside the numbers; these have a layout of their own, and change nothing of the hash.
    pub fn with(
        tasks: Vec<TaskSpec>,
        likeness: LikenessSpec,
        key_vectors: Option<KeyVectorSpec>,
    ) -> Result<Self, FeatureSchemaError> {
        if tasks.is_empty() {
            return Err(FeatureSchemaError::NoTask);
        }
        for (place, task) in tasks.iter().enumerate() {
            let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
            if task.name.is_empty() || !task.name.bytes().all(plain) {
                return Err(FeatureSchemaError::TaskName {
                    name: task.name.clone(),
                });
            }
            let lives = [task.item, task.user].map(|lives| [lives.short_ms, lives.long_ms]);
            if lives.as_flattened().contains(&Some(0)) {
                return Err(FeatureSchemaError::HalfLife {
                    name: task.name.clone(),
                });
            }
            if tasks[..place].iter().any(|other| other.name == task.name) {
                return Err(FeatureSchemaError::TaskTwice {
                    name: task.name.clone(),
                });
            }
        }
        let features = |shared: bool| -> Vec<Feature> {
            let mut found = Vec::new();
            for (task, spec) in tasks.iter().enumerate() {
                for level in Level::ALL
                    .into_iter()
                    .filter(|level| level.is_shared() == shared)
                {
                    found.extend(level.quantities().iter().map(|&quantity| {
                        let name = format!("{}.{}.{}", spec.name, level.name(), quantity.name());
                        Feature {
                            id: xxh3_64(name.as_bytes()),
                            name,
                            meaning: Meaning::Counted {
                                task,
                                level,
                                quantity,
                            },
                        }
                    }));
                }
            }
            found
        };
        let (shared, mut own) = (features(true), features(false));
        own.extend(
            likeness
                .features()
                .map(|(name, sequence, against)| Feature {
                    id: xxh3_64(name.as_bytes()),
                    name,
                    meaning: Meaning::Alike { sequence, against },
                }),
        );
        let mut text = format!("layout {LAYOUT}\n");
        for task in &tasks {
            task.describe(&mut text);
        }
        likeness.describe(&mut text);
        for feature in shared.iter().chain(&own) {
            writeln!(text, "{} {}", feature.name, feature.unit())
                .expect("invariant: a String takes any text");
        }
        Ok(Self {
            hash: xxh3_64(text.as_bytes()),
            tasks,
            shared,
            own,
            likeness,
            key_vectors,
            description: text,
        })
    }

    /// All that its hash is of, a line a thing.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The likenesses.
    pub fn likeness(&self) -> &LikenessSpec {
        &self.likeness
    }

    /// The key-vectors, where rows have them.
    pub fn key_vectors(&self) -> Option<&KeyVectorSpec> {
        self.key_vectors.as_ref()
    }

    /// The tasks, in order; elsewhere a task is named by its place here.
    pub fn tasks(&self) -> &[TaskSpec] {
        &self.tasks
    }

    /// The place of a task.
    pub fn task(&self, name: &str) -> Option<usize> {
        self.tasks.iter().position(|task| task.name == name)
    }

    /// The features of the shared part, in order.
    pub fn shared(&self) -> &[Feature] {
        &self.shared
    }

    /// The features of a candidate, in order.
    pub fn own(&self) -> &[Feature] {
        &self.own
    }

    /// Rows of equal hash have numbers of equal layout and meaning.
    pub fn hash(&self) -> u64 {
        self.hash
    }
}
