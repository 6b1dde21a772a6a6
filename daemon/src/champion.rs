//! The champion: the trained model that a fleet scores with, announced on the compacted topic `models` and carried by it.
//!
//! Before it stands training, which wrote a folder; after it every instance loads the same bytes and scores with them from its next step on, without a
//! restart. A champion is announced only behind its last byte, and loaded only when all of it is there and has the hashes that it must have: half of one is
//! none, and the one before goes on.
//!
//! A model that looks at texts can be champion, and is tried only beside one with the same layers and projections of their vectors: rows that others scored have none of these.

use std::path::{Path, PathBuf};

use headwater_config::{Config, Topic};
use headwater_consumers::log::{Log, LogError, Outgoing, Producer, TopicPartition};
use headwater_model::bahe::{BaheModel, MANIFEST, VALUES};
use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::trained::TrainedError;
use crate::world::unix_ms;

mod follower;
mod registry;
mod trial;

pub(crate) use follower::{CanaryModel, Follower, Held, Scoring, mark};
pub(crate) use trial::{Bench, note, take_over};
pub use trial::{
    Canary, CanaryLook, Look, Outcome, Seat, Seen, Standing, Trial, put_on_trial, shown, standing,
};

use registry::{Registry, scored_key};

/// The form of announcements that this build writes and reads.
const FORMAT: u32 = 1;
/// The key of the announcement.
const CHAMPION: &[u8] = b"champion";
/// What the keys of a model's bytes begin with; its id and the number of the part follow.
const ARTIFACT: &str = "artifact/";
/// Bytes of a part: a record of a topic with its default settings takes 1 MB.
const PART_BYTES: usize = 512 * 1024;
/// Bytes of a model's values at most: every instance reads them from the topic.
pub(crate) const VALUES_MAX: usize = 64 << 20;

/// A model as the topic names it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Named {
    /// Its id, in hexadecimal: a hash of manifest and values.
    pub id: String,
    /// Its name and version, as answers have it.
    pub name: String,
    /// Parts of its bytes: the manifest, and its values cut into pieces.
    parts: u32,
}

/// Who is champion since when.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Announced {
    format: u32,
    /// The champion; none: the baseline scores alone.
    pub champion: Option<Named>,
    /// Who was it before.
    pub former: Option<Named>,
    /// Since when, Unix milliseconds.
    pub time: i64,
    /// Why; none: a build that did not say announced it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// Whether it stays until somebody says otherwise, whoever proves itself beside it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
}

/// Why somebody is champion.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Somebody said so.
    Promoted,
    /// It was better than its predecessor, on trial.
    ProvedItself,
    /// Somebody went back to it.
    RolledBack,
    /// Who came after it was worse than it.
    Disappointed,
    /// Somebody said that the baseline is to score.
    Retired,
}

/// Why a champion cannot be announced or loaded.
#[derive(Debug, thiserror::Error)]
pub enum ChampionError {
    /// The model cannot be used under this configuration.
    #[error(transparent)]
    Trained(#[from] TrainedError),
    /// Its files cannot be read, or written.
    #[error("{}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It looks at texts, and is to be tried.
    #[error(
        "the model looks at texts, and the champion's rows do not tell of them: it looks at none (then they do where texts.logged holds), at another encoder's, not at all of these sequences, or not as far back. `headwater champion promote` makes it champion untried"
    )]
    Texts,
    /// It is to be tried beside itself.
    #[error("the model is champion already: there is nothing to try it beside")]
    IsChampion,
    /// It is larger than the topic carries.
    #[error("its values have {bytes} bytes, at most {VALUES_MAX} are carried by the topic")]
    Large {
        /// How large it is.
        bytes: usize,
    },
    /// There is nobody to go back to.
    #[error("no champion was ever announced: there is none to go back to")]
    NoFormer,
    /// A build that is newer than this one announced it.
    #[error("the announcement has form {found}, this build reads form {FORMAT}")]
    Format {
        /// The form found.
        found: u32,
    },
    /// The announcement is none.
    #[error("the announcement cannot be read")]
    Form(#[source] serde_json::Error),
    /// Bytes of it are not in the topic.
    #[error("{name} was announced, and part {part} of {parts} of its bytes is not in the topic")]
    Parts {
        /// Which model.
        name: String,
        /// The first that is missing.
        part: u32,
        /// How many there are.
        parts: u32,
    },
    /// The bytes are another model's.
    #[error("{name} was announced, and the bytes in the topic are those of {found}")]
    Other {
        /// Which model.
        name: String,
        /// The id of the bytes.
        found: String,
    },
    /// The log's.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl ChampionError {
    /// How the process ends for it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Trained(error) => error.exit(),
            Self::File { .. }
            | Self::Texts
            | Self::IsChampion
            | Self::Large { .. }
            | Self::NoFormer => Exit::Configuration,
            Self::Format { .. } | Self::Form(_) | Self::Parts { .. } | Self::Other { .. } => {
                Exit::Format
            }
            Self::Log(error) => Exit::of_log(error),
        }
    }
}

fn hex(id: [u8; 16]) -> String {
    use std::fmt::Write as _;
    id.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("invariant: writing to a String does not fail");
        text
    })
}

fn named(model: &BaheModel, parts: u32) -> Named {
    Named {
        id: hex(model.id()),
        name: format!("{}-{}", BaheModel::NAME, model.version()),
        parts,
    }
}

/// A record of this build's form.
fn read<T: serde::de::DeserializeOwned>(value: &[u8]) -> Result<T, ChampionError> {
    #[derive(Deserialize)]
    struct Form {
        format: u32,
    }
    let form: Form = serde_json::from_slice(value).map_err(ChampionError::Form)?;
    if form.format != FORMAT {
        return Err(ChampionError::Format { found: form.format });
    }
    serde_json::from_slice(value).map_err(ChampionError::Form)
}

/// A folder's model as the topic names it, and the parts of its bytes.
fn parts_of(config: &Config, folder: &Path) -> Result<(Named, Vec<Vec<u8>>), ChampionError> {
    let model = crate::trained::open_folder(config, folder)?;
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read(&path).map_err(|source| ChampionError::File { path, source })
    };
    let (manifest, values) = (read(MANIFEST)?, read(VALUES)?);
    if values.len() > VALUES_MAX {
        return Err(ChampionError::Large {
            bytes: values.len(),
        });
    }
    let mut parts = vec![manifest];
    parts.extend(values.chunks(PART_BYTES).map(<[u8]>::to_vec));
    Ok((named(&model, parts.len() as u32), parts))
}

/// Sends the bytes of a folder's model, and is done when they are there.
fn send_parts(
    config: &Config,
    producer: &mut dyn Producer,
    folder: &Path,
) -> Result<Named, ChampionError> {
    let (model, parts) = parts_of(config, folder)?;
    for (number, part) in parts.iter().enumerate() {
        let key = format!("{ARTIFACT}{}/{number}", model.id);
        send(producer, key.as_bytes(), Some(part))?;
    }
    // What is announced must be there.
    producer.flush()?;
    Ok(model)
}

/// Deletes the bytes of models that have no part in anything, of those that were there `before`: what came since is somebody's who is not done yet.
fn forget(
    (config, log): (&Config, &dyn Log),
    producer: &mut dyn Producer,
    before: &Registry,
) -> Result<(), ChampionError> {
    let standing = standing(config, log)?;
    let announced = standing.announced.as_ref();
    let announced = announced.map(|announced| [&announced.champion, &announced.former]);
    let trials = standing.challengers.iter().chain(&standing.watch);
    let tried = trials.flat_map(|trial| [&trial.model, &trial.champion]);
    let kept = announced.into_iter().flatten().chain(tried).flatten();
    let kept: Vec<String> = kept.map(|of| of.id.clone()).collect();
    let scored = |key: &str| kept.iter().any(|of| *key == scored_key(of));
    for key in before.scored.keys().filter(|key| !scored(key)) {
        send(producer, key.as_bytes(), None)?;
    }
    let kept: Vec<String> = kept.iter().map(|of| format!("{ARTIFACT}{of}/")).collect();
    for key in before.parts.keys() {
        if !kept.iter().any(|kept| key.starts_with(kept)) {
            send(producer, key.as_bytes(), None)?;
        }
    }
    Ok(producer.flush()?)
}

/// Makes the model of a folder champion: its bytes go to the topic, then the announcement. Bytes of models that are neither champion nor former nor challenger any more
/// are deleted.
///
/// # Errors
/// A model that this configuration's rows are not for, or that is damaged; nothing is announced then.
pub fn promote(config: &Config, log: &dyn Log, folder: &Path) -> Result<Announced, ChampionError> {
    let (champion, _) = parts_of(config, folder)?;
    let registry = Registry::read(config, log)?;
    let held = match registry.announced() {
        // What nobody can read is nobody's champion: this is how it is mended.
        Err(ChampionError::Form(_)) => None,
        read => read?,
    };
    let is_champion = |held: &Announced| held.champion.as_ref() == Some(&champion);
    if let Some(held) = held.as_ref().filter(|held| is_champion(held))
        && registry.bytes_of(&champion).is_ok()
    {
        // Who asks again must not lose the former.
        return Ok(held.clone());
    }
    let pinned = held.as_ref().is_some_and(|held| held.pinned);
    // Of the same model, whose bytes were damaged, the former stays.
    let former = match held {
        Some(held)
            if held
                .champion
                .as_ref()
                .is_some_and(|of| of.id == champion.id) =>
        {
            held.former
        }
        Some(held) => registry.former_of(&held),
        None => None,
    };
    let mut producer = log.producer()?;
    let champion = send_parts(config, &mut *producer, folder)?;
    let of = [Some(champion), former];
    let announced = announce(&mut *producer, of, Cause::Promoted, pinned)?;
    forget((config, log), &mut *producer, &registry)?;
    Ok(announced)
}

/// Goes back to the former champion; the baseline, where there was none. What is champion now is the former then.
///
/// # Errors
/// That none was ever announced, or the log's.
pub fn roll_back(config: &Config, log: &dyn Log) -> Result<Announced, ChampionError> {
    let before = Registry::read(config, log)?.announced()?;
    let before = before.ok_or(ChampionError::NoFormer)?;
    let of = [before.former, before.champion];
    announce(&mut *log.producer()?, of, Cause::RolledBack, before.pinned)
}

/// Lets the baseline score alone. Who is champion now is the former then.
///
/// # Errors
/// The log's.
pub fn retire(config: &Config, log: &dyn Log) -> Result<Announced, ChampionError> {
    let registry = Registry::read(config, log)?;
    let held = match registry.announced() {
        Err(ChampionError::Form(_)) => None,
        read => read?,
    };
    let pinned = held.as_ref().is_some_and(|held| held.pinned);
    match held {
        // Who asks again must not lose the former.
        Some(held) if held.champion.is_none() => Ok(held),
        held => {
            let of = [None, held.and_then(|held| registry.former_of(&held))];
            announce(&mut *log.producer()?, of, Cause::Retired, pinned)
        }
    }
}

/// Says whether who is champion stays it until somebody says otherwise, or is held against others by those who train. Nothing else of it changes.
///
/// # Errors
/// The log's, or that the announcement cannot be read.
pub fn pin(config: &Config, log: &dyn Log, pinned: bool) -> Result<Announced, ChampionError> {
    let held = Registry::read(config, log)?.announced()?;
    let pins = |held: Option<Announced>| match held {
        Some(held) => Announced { pinned, ..held },
        None => Announced {
            pinned,
            ..Announced::new([None, None], Cause::Retired)
        },
    };
    let announced = pins(held);
    announced.send(&mut *log.producer()?)?;
    Ok(announced)
}

impl Announced {
    fn new([champion, former]: [Option<Named>; 2], cause: Cause) -> Self {
        Self {
            format: FORMAT,
            champion,
            former,
            time: unix_ms(),
            cause: Some(cause),
            pinned: false,
        }
    }

    fn send(&self, producer: &mut dyn Producer) -> Result<(), LogError> {
        let value = serde_json::to_vec(self).expect("invariant: an announcement is plain JSON");
        send(producer, CHAMPION, Some(&value))?;
        producer.flush()
    }
}

fn announce(
    producer: &mut dyn Producer,
    of: [Option<Named>; 2],
    cause: Cause,
    pinned: bool,
) -> Result<Announced, ChampionError> {
    let announced = Announced {
        pinned,
        ..Announced::new(of, cause)
    };
    announced.send(producer)?;
    Ok(announced)
}

fn send(producer: &mut dyn Producer, key: &[u8], value: Option<&[u8]>) -> Result<(), LogError> {
    producer.send(Outgoing {
        // One partition: its order is that of announcements and bytes.
        to: TopicPartition::new(Topic::Models, 0),
        key: Some(key),
        value,
        headers: &[],
    })
}

/// Tells that a model scores here: who comes after it goes back to it, and not to one that was announced and never came to score.
///
/// # Errors
/// The log's.
pub(crate) fn tell_scored(log: &dyn Log, model: &BaheModel) -> Result<(), LogError> {
    let mut producer = log.producer()?;
    let key = scored_key(&hex(model.id()));
    send(&mut *producer, key.as_bytes(), Some(b"{}"))?;
    producer.flush()
}

/// The champion that instances of this configuration score with, read from the topic into a folder; none: the baseline.
///
/// # Errors
/// The log's, or what keeps the announced one from being read. One of other rows is nobody's champion under this configuration.
pub(crate) fn current(
    config: &Config,
    log: &dyn Log,
    folder: &Path,
) -> Result<Option<BaheModel>, ChampionError> {
    let registry = Registry::read(config, log)?;
    let Some(champion) = registry
        .announced()?
        .and_then(|announced| announced.champion)
    else {
        return Ok(None);
    };
    match registry.copy(config, &champion, &folder.join("champion")) {
        Ok(model) => Ok(Some(model)),
        Err(ChampionError::Trained(error)) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(
                error,
                "the champion is not of this configuration's rows: the baseline is judged against"
            );
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The folder of an instance's copies of champions.
fn copies(config: &Config) -> PathBuf {
    config.state.path.join("champions")
}

/// The copies of champions that this instance has, for those who ask what scored an older row.
pub(crate) fn copied(config: &Config) -> Vec<BaheModel> {
    let folders = std::fs::read_dir(copies(config)).into_iter().flatten();
    let paths = folders.flatten().map(|entry| entry.path());
    paths
        .filter_map(|path| crate::trained::open_folder(config, &path).ok())
        .collect()
}

#[cfg(test)]
mod tests;
