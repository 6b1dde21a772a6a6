//! What the topic of models holds: who was announced, who is on trial, who has come to score, and the bytes of models.

use std::collections::BTreeMap;
use std::path::Path;

use headwater_config::{Config, Topic};
use headwater_consumers::log::{Log, LogError, Record};
use headwater_model::bahe::{BaheModel, MANIFEST, VALUES};
use serde::Deserialize;

use super::{ARTIFACT, Announced, CHAMPION, ChampionError, Named, Seat, hex, read};
use crate::scan::{self, Stretch};

/// What keys begin with that say that a model has scored; its id follows.
const SCORED: &str = "scored/";

/// What the topic holds.
#[derive(Debug, Default)]
pub(super) struct Registry {
    champion: Option<Vec<u8>>,
    /// Trials by their keys.
    pub(super) trials: BTreeMap<String, Vec<u8>>,
    /// Bytes by their keys.
    pub(super) parts: BTreeMap<String, Vec<u8>>,
    /// When models came to score, by their keys, Unix milliseconds.
    pub(super) scored: BTreeMap<String, i64>,
}

impl Registry {
    /// Reads the topic to its end as of now.
    pub(super) fn read(config: &Config, log: &dyn Log) -> Result<Self, LogError> {
        let whole = scan::whole(log, Topic::Models, &config.topic_name(Topic::Models))?;
        Self::of(log, &whole)
    }

    /// Reads these stretches of it.
    pub(super) fn of(log: &dyn Log, stretches: &[Stretch]) -> Result<Self, LogError> {
        let mut registry = Self::default();
        scan::read(log, stretches, &mut |record| {
            registry.take(record);
        })?;
        Ok(registry)
    }

    /// Takes a record; gives whether it may be news of who scores.
    pub(super) fn take(&mut self, record: &Record<'_>) -> bool {
        let key = record.key.unwrap_or_default();
        if key == CHAMPION {
            self.champion = record.value.map(<[u8]>::to_vec);
            return true;
        }
        let Ok(key) = std::str::from_utf8(key) else {
            return false;
        };
        if key.starts_with(SCORED) {
            match record.value {
                // Who tells of it first.
                Some(_) => {
                    let first = self.scored.entry(key.to_owned());
                    first.or_insert(record.timestamp);
                }
                None => drop(self.scored.remove(key)),
            }
            return false;
        }
        let is_trial = Seat::of_key(key).is_some();
        let held = if is_trial {
            &mut self.trials
        } else if key.starts_with(ARTIFACT) {
            &mut self.parts
        } else {
            return false;
        };
        match record.value {
            Some(value) => drop(held.insert(key.to_owned(), value.to_vec())),
            None => drop(held.remove(key)),
        }
        is_trial
    }

    pub(super) fn announced(&self) -> Result<Option<Announced>, ChampionError> {
        self.champion.as_deref().map(read).transpose()
    }

    /// Whether a model has scored anywhere. One that looks at no texts scores from the moment it is announced.
    pub(super) fn has_scored(&self, model: &Named) -> bool {
        #[derive(Deserialize)]
        struct Encoder {
            encoder: Option<String>,
        }
        let waits = || {
            let (manifest, _) = self.bytes_of(model).ok()?;
            serde_json::from_slice::<Encoder>(manifest).ok()?.encoder
        };
        self.scored.contains_key(&scored_key(&model.id)) || waits().is_none()
    }

    /// Whether somebody has told that a model scores.
    pub(super) fn is_told(&self, model: &BaheModel) -> bool {
        self.scored.contains_key(&scored_key(&hex(model.id())))
    }

    /// Since when the announced champion scores, Unix milliseconds; none: it does not yet.
    pub(super) fn scores_since(&self, announced: &Announced) -> Option<i64> {
        let Some(champion) = &announced.champion else {
            return Some(announced.time);
        };
        let told = self.scored.get(&scored_key(&champion.id));
        let told = told.map(|told| announced.time.max(*told));
        told.or_else(|| self.has_scored(champion).then_some(announced.time))
    }

    /// Who is the former of whoever comes after the announced champion: it, or its own former where it has never scored.
    pub(super) fn former_of(&self, announced: &Announced) -> Option<Named> {
        let champion = announced.champion.as_ref();
        if champion.is_none_or(|champion| self.has_scored(champion)) {
            champion.cloned()
        } else {
            announced.former.clone()
        }
    }

    /// Writes a model's bytes into a folder, and opens it: what is not the announced model, byte by byte, is none.
    pub(super) fn copy(
        &self,
        config: &Config,
        model: &Named,
        folder: &Path,
    ) -> Result<BaheModel, ChampionError> {
        let (manifest, values) = self.bytes_of(model)?;
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ChampionError::File { path, source }
        };
        drop(std::fs::remove_dir_all(folder));
        std::fs::create_dir_all(folder).map_err(failed(folder))?;
        for (name, bytes) in [(MANIFEST, manifest), (VALUES, &values)] {
            let path = folder.join(name);
            std::fs::write(&path, bytes).map_err(failed(&path))?;
        }
        let opened = crate::trained::open_folder(config, folder)?;
        let found = hex(opened.id());
        if found != model.id {
            return Err(ChampionError::Other {
                name: model.name.clone(),
                found,
            });
        }
        Ok(opened)
    }

    /// Manifest and values of a model.
    pub(super) fn bytes_of(&self, model: &Named) -> Result<(&[u8], Vec<u8>), ChampionError> {
        let part = |part: u32| {
            let key = format!("{ARTIFACT}{}/{part}", model.id);
            self.parts.get(&key).ok_or_else(|| ChampionError::Parts {
                name: model.name.clone(),
                part,
                parts: model.parts,
            })
        };
        let mut values = Vec::new();
        for number in 1..model.parts {
            values.extend_from_slice(part(number)?);
        }
        Ok((part(0)?, values))
    }
}

/// The key that says that a model has scored.
pub(super) fn scored_key(id: &str) -> String {
    format!("{SCORED}{id}")
}
