//! What a champion sees texts by, and its rows hold: a model that learns from rows of a log beside it sees texts by the same, so that what is logged is all that it needs.
//!
//! Layers and projections are the champion's, and stay what they are; the rest of a head learns anew, from what they made of users and items. Or they are what learning begins with (`--texts deep`): rows hold by which texts a user's
//! vectors were made ([`super::runs`]). Beside a champion that looks at no texts layers begin as a language model's own ([`TrainBahe::depth`]). Towers of another shape come with a model of recordings, which somebody promotes.

use std::collections::BTreeMap;
use std::path::Path;

use headwater_model::Tensor;
use headwater_model::bahe::{
    BaheModel, DeepConfig, Described, HeadConfig, Manifest, VALUES, is_of_towers,
};
use headwater_model::language::from_safetensors;

use super::TrainError;
use super::artifact::ArtifactError;

/// A champion's towers.
#[derive(Debug)]
pub(super) struct Towers {
    manifest: Manifest,
    /// Layers and projections.
    pub(super) values: BTreeMap<String, Tensor>,
}

impl Towers {
    /// Those of a champion whose copy lies in a folder; none: it looks at no texts.
    pub(super) fn of(
        champion: Option<&BaheModel>,
        folder: &Path,
    ) -> Result<Option<Self>, TrainError> {
        let Some(champion) = champion.filter(|champion| champion.towers().is_some()) else {
            return Ok(None);
        };
        let path = folder.join(VALUES);
        let bytes = std::fs::read(&path).map_err(|source| ArtifactError::Io { path, source })?;
        let mut values = from_safetensors(&bytes)?;
        values.retain(|name, _| is_of_towers(name));
        Ok(Some(Self {
            manifest: champion.manifest().clone(),
            values,
        }))
    }

    /// What its deep layers look like; none: it has means of texts, and nothing that could learn.
    pub(super) fn layers(&self) -> Option<DeepConfig> {
        let blocks = self.manifest.blocks.clone()?;
        Some(DeepConfig {
            blocks,
            sequences: self.manifest.sequences.len(),
            limit: self.manifest.limit,
        })
    }

    /// What a head of its vectors is: width, sequences, and numbers of a projection.
    pub(super) fn widths(&self) -> [usize; 3] {
        let HeadConfig {
            width,
            sequences,
            projected,
            ..
        } = self.manifest.head;
        [width, sequences, projected]
    }

    /// Has a model say that these are its towers.
    pub(super) fn describe(&self, described: &mut Described) {
        let Manifest {
            layers,
            blocks,
            encoder,
            cut,
            limit,
            sequences,
            texts_described,
            ..
        } = self.manifest.clone();
        described.layers = (layers, blocks);
        described.encoder = (encoder, cut);
        described.limit = limit;
        described.sequences = sequences;
        described.texts = texts_described;
    }
}
