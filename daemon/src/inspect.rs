//! What is known of a user, for people and programs that look.
//!
//! Before it, a worker's partition or a stopped daemon's store; after it, `GET /users/{id}` and `headwater inspect user`. It shows what
//! the next row would see, uncommitted behaviors of the step under way included.

use headwater_config::{Backend, Config, Topic};
use headwater_consumers::partitioner::partition_of;
use headwater_consumers::worker::settings_of;
use headwater_state::{
    Cell, KindId, Labels, Length, Partition, Position, ScenarioId, SequenceId, SlotId, Stores, User,
};
use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::identity::{Identity, IdentityError};

/// A user as shown. Times are Unix milliseconds.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct UserView {
    /// The user.
    pub user_id: String,
    /// Their partition.
    pub partition: i32,
    /// Next offset of the behaviors topic: all before it were counted.
    pub offset: Option<i64>,
    /// Recent behaviors, newest first, with their exact times.
    pub recent: Vec<RecentView>,
    /// Key-vectors: one for each slot.
    pub history: Vec<SlotView>,
    /// Entries that retention has forgotten.
    pub forgotten: u64,
    /// Sequences: the newest run of each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sequences: Vec<SequenceView>,
    /// Standing requests.
    pub standing: Vec<StandingView>,
    /// Rows whose labels can still change, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open_rows: Vec<OpenRowView>,
}

/// One recent behavior.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct RecentView {
    /// When.
    pub time: i64,
    /// What was done.
    pub kind: String,
    /// Where; `other` for scenarios without a name in the configuration.
    pub scenario: String,
    /// To what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item_id: Option<String>,
    /// How much.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// Configured attributes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<(String, String)>,
    /// Offset of its record.
    pub offset: i64,
}

/// One slot's key-vector.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SlotView {
    /// `item`, or the attribute's name.
    pub slot: String,
    /// Distinct keys.
    pub keys: u32,
    /// The entries that were last active, newest first; at most as many as were asked for.
    pub entries: Vec<EntryView>,
}

/// One entry: what is known of one key.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct EntryView {
    /// The key: an item, or an attribute's value.
    pub key: String,
    /// Time of its first behavior.
    pub first: i64,
    /// Time of its newest behavior in history.
    pub last: i64,
    /// Counts by scenario, kind and time cell.
    pub counts: Vec<CountView>,
}

/// One cell's count.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct CountView {
    /// What was done.
    pub kind: String,
    /// Where; `other` for scenarios without a name in the configuration.
    pub scenario: String,
    /// How long the cell is: `minute`, `hour`, `day`, `month`, `older`.
    pub cell: String,
    /// When it begins; absent for `older`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<i64>,
    /// How often.
    pub count: u32,
    /// Sum of the values, where the kind has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sum: Option<f64>,
}

/// The newest run of one sequence.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SequenceView {
    /// Its name in the configuration.
    pub sequence: String,
    /// Behaviors that have left it.
    pub start: u64,
    /// Behaviors in it.
    pub length: usize,
    /// Time of the newest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest: Option<i64>,
}

/// A standing request.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct StandingView {
    /// Its id.
    pub request_id: String,
    /// When it ends.
    pub expires: i64,
    /// When it is scored again, if it is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due: Option<i64>,
}

/// A scored row whose labels can still change.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct OpenRowView {
    /// The request.
    pub request_id: String,
    /// When it was scored.
    pub time: i64,
    /// Candidates.
    pub candidates: u32,
    /// Those that were shown.
    pub shown: Vec<String>,
}

/// Why the state folder cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// It cannot be had.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A store does not open or is damaged; the daemon restores it when it starts.
    #[error("the local copy cannot be read")]
    State(#[from] headwater_state::Error),
    /// Nothing was ever written back there.
    #[error(
        "state folder {path} holds no state of any partition; a running daemon can be asked by --address"
    )]
    Empty {
        /// The folder.
        path: std::path::PathBuf,
    },
}

impl LookError {
    /// Whether a daemon runs on the folder: it is to be asked instead.
    #[must_use]
    pub const fn is_in_use(&self) -> bool {
        matches!(self, Self::Identity(IdentityError::Locked { .. }))
    }

    /// How the process ends for it.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Identity(error) => error.exit(),
            Self::State(headwater_state::Error::Store(error)) => Exit::of_store(error),
            Self::State(_) => Exit::Format,
            Self::Empty { .. } => Exit::Configuration,
        }
    }
}

/// What the state folder of a daemon that does not run knows of a user, as of its last write-back.
///
/// # Errors
/// If a daemon runs on it, it is not ours, or cannot be read.
pub fn from_folder(
    config: &Config,
    id: &str,
    entries_max: usize,
) -> Result<Option<UserView>, LookError> {
    let _identity = Identity::take_existing(config)?;
    let backend = match config.state.backend {
        Backend::Sled => headwater_state::Backend::Sled,
        Backend::Fjall => headwater_state::Backend::Fjall,
    };
    let opened = headwater_state::open(&config.state.path, backend, config.state.memory.get())
        .map_err(headwater_state::Error::from)?;
    let stores = &*opened.stores;
    // How many partitions there are is what the state was made for; the configuration is a first guess.
    let pinned = std::iter::once(partition_of(id.as_bytes(), config.topics.partitions))
        .chain(0..config.topics.partitions)
        .map(|partition| open(config, stores, partition).map(|users| users.position().partitions))
        .find(|pinned| pinned.as_ref().map_or(true, |pinned| *pinned > 0))
        .transpose()?;
    let Some(partitions) = pinned else {
        return Err(LookError::Empty {
            path: config.state.path.clone(),
        });
    };
    let partition = partition_of(id.as_bytes(), partitions);
    let mut users = open(config, stores, partition)?;
    let position = users.position().clone();
    let user = users.whole_user(id)?;
    Ok(user.map(|user| view(config, id, (partition, &position), user, entries_max)))
}

fn open(
    config: &Config,
    stores: &dyn Stores,
    partition: i32,
) -> Result<Partition, headwater_state::Error> {
    Partition::open(stores.open(partition)?, settings_of(config, 1))
}

/// Makes the view of a user whose pages have all been read.
pub(crate) fn view(
    config: &Config,
    id: &str,
    (partition, position): (i32, &Position),
    user: &User,
    entries_max: usize,
) -> UserView {
    let names = Names::new(config);
    let mut recent: Vec<RecentView> = user
        .recent()
        .iter()
        .map(|behavior| RecentView {
            time: behavior.time.0,
            kind: names.kind(behavior.kind),
            scenario: names.scenario(behavior.scenario),
            item_id: behavior.item.map(str::to_owned),
            value: behavior.value.map(headwater_state::FixedSum::get),
            attributes: behavior
                .attributes()
                .map(|(slot, text)| (names.slot(slot), text.to_owned()))
                .collect(),
            offset: behavior.at.offset,
        })
        .collect();
    recent.reverse();
    let history = user
        .slots()
        .map(|(slot, keys)| {
            let mut entries: Vec<_> = user.history(slot).collect();
            entries.sort_by_key(|entry| (std::cmp::Reverse(entry.last), entry.key));
            entries.truncate(entries_max);
            let entries = entries
                .iter()
                .map(|entry| EntryView {
                    key: entry.key.to_owned(),
                    first: entry.first.0,
                    last: entry.last.0,
                    counts: entry.cells().map(|cell| names.count(&cell)).collect(),
                })
                .collect();
            SlotView {
                slot: names.slot(slot),
                keys,
                entries,
            }
        })
        .collect();
    UserView {
        user_id: id.to_owned(),
        partition,
        offset: position.input(Topic::Behaviors),
        recent,
        history,
        forgotten: user.forgotten(),
        sequences: user
            .sequences()
            .map(|sequence| SequenceView {
                sequence: names.sequence(sequence.id()),
                start: sequence.start(),
                length: sequence.entries().len(),
                newest: sequence.entries().last().map(|entry| entry.time.0),
            })
            .collect(),
        standing: user
            .standing()
            .iter()
            .map(|standing| StandingView {
                request_id: standing.request.clone(),
                expires: standing.expires.0,
                due: standing.due.map(|due| due.0),
            })
            .collect(),
        open_rows: open_rows(user.labels()),
    }
}

fn open_rows(labels: &Labels) -> Vec<OpenRowView> {
    let mut rows: Vec<_> = labels
        .rows()
        .map(|(place, row)| OpenRowView {
            request_id: row.request.to_string(),
            time: row.time.0,
            candidates: row.candidates,
            shown: labels.shown(place).into_iter().map(str::to_owned).collect(),
        })
        .collect();
    rows.sort_by_key(|row| row.time);
    rows
}

/// Names by id: state holds hashes of names alone.
struct Names<'a> {
    kinds: Vec<(KindId, &'a str)>,
    scenarios: Vec<(ScenarioId, &'a str)>,
    slots: Vec<(SlotId, &'a str)>,
    sequences: Vec<(SequenceId, &'a str)>,
}

impl<'a> Names<'a> {
    fn new(config: &'a Config) -> Self {
        let kinds = config.kinds.names.iter();
        let scenarios = config.scenarios.names.iter().map(String::as_str);
        let slots = config.state.attributes.iter();
        let sequences = config.sequences.keys();
        Self {
            kinds: kinds
                .map(|name| (KindId::of(name), name.as_str()))
                .collect(),
            scenarios: scenarios
                .chain(["other"])
                .map(|name| (ScenarioId::of(name), name))
                .collect(),
            slots: slots
                .map(|name| (SlotId::of(name), name.as_str()))
                .collect(),
            sequences: sequences
                .map(|name| (SequenceId::of(name), name.as_str()))
                .collect(),
        }
    }

    fn kind(&self, id: KindId) -> String {
        let known = self.kinds.iter().find(|(known, _)| *known == id);
        known.map_or_else(
            || format!("(kind {:08x})", id.0),
            |(_, name)| (*name).to_owned(),
        )
    }

    fn scenario(&self, id: ScenarioId) -> String {
        let known = self.scenarios.iter().find(|(known, _)| *known == id);
        known.map_or_else(
            || format!("(scenario {:08x})", id.0),
            |(_, name)| (*name).to_owned(),
        )
    }

    fn slot(&self, id: SlotId) -> String {
        if id == SlotId::ITEM {
            return "item".to_owned();
        }
        let known = self.slots.iter().find(|(known, _)| *known == id);
        known.map_or_else(
            || format!("(slot {:08x})", id.0),
            |(_, name)| (*name).to_owned(),
        )
    }

    fn sequence(&self, id: SequenceId) -> String {
        let known = self.sequences.iter().find(|(known, _)| *known == id);
        known.map_or_else(
            || format!("(sequence {:08x})", id.0),
            |(_, name)| (*name).to_owned(),
        )
    }

    fn count(&self, cell: &Cell) -> CountView {
        let (scenario, kind) = headwater_state::of_series(cell.series);
        let (length, start) = match cell.length {
            Length::Minute => ("minute", Some(cell.start().0)),
            Length::Hour => ("hour", Some(cell.start().0)),
            Length::Day => ("day", Some(cell.start().0)),
            Length::Month => ("month", Some(cell.start().0)),
            Length::Older => ("older", None),
        };
        CountView {
            kind: self.kind(kind),
            scenario: self.scenario(scenario),
            cell: length.to_owned(),
            start,
            count: cell.count,
            sum: (cell.sum.0 != 0).then(|| cell.sum.get()),
        }
    }
}

#[cfg(test)]
mod tests {
    use headwater_state::{Behavior, Coordinates, MemoryStores, Timestamp};

    use super::*;

    /// Goal: sequences are shown by their names, and as a hash where the configuration has lost the name. Method: five behaviors in one sequence that
    /// begins anew with its fourth, and one in another.
    #[test]
    fn sequences_are_shown() {
        let config = Config::from_toml("[texts]\nsequence_max = 4\n[sequences]\nclicks = []\n");
        let config = config.unwrap();
        let mut users = open(&config, &MemoryStores::default(), 0).unwrap();
        let sequences = [SequenceId::of("clicks"), SequenceId(7)];
        for offset in 0..5 {
            let behavior = Behavior {
                at: Coordinates { offset, index: 0 },
                time: Timestamp(100 + offset),
                event: 0,
                kind: KindId::of("click"),
                scenario: ScenarioId::of("feed"),
                item: None,
                value: None,
                attributes: &[],
                text: Some([1; 16]),
                sequences: &sequences[..=usize::from(offset == 2)],
            };
            users.fold("u", &behavior, &mut || [0; 16]).unwrap();
        }
        let position = users.position().clone();
        let user = users.whole_user("u").unwrap().unwrap();
        let shown = view(&config, "u", (0, &position), user, 1).sequences;
        let view = |sequence: &str, start, length, newest| SequenceView {
            sequence: sequence.to_owned(),
            start,
            length,
            newest: Some(newest),
        };
        let named = shown.iter().find(|view| view.sequence == "clicks");
        assert_eq!(named, Some(&view("clicks", 2, 3, 104)));
        assert!(shown.contains(&view("(sequence 00000007)", 0, 1, 102)));
        assert_eq!(shown.len(), 2);
    }
}
