//! What a model sees texts by: layers that make vectors of users and items, and the head's projections of these. Two models with the same towers see the same, so what one of them saw of a row the other learns from, and is judged by.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use sha2::{Digest as _, Sha256};

use crate::language::LanguageError;
use crate::language::error::computing;

use super::deep::{Deep, DeepConfig, mean_of_texts};
use super::head::{is_of_layers, is_projection};
use super::manifest::{Layers, Manifest, half};

/// The layers of a model that looks at texts.
pub(super) fn deep_of(
    manifest: &Manifest,
    tensors: &BTreeMap<String, Tensor>,
    path: &Path,
) -> Result<Option<Deep>, LanguageError> {
    let sequences = manifest.sequences.len();
    match (manifest.layers, &manifest.blocks) {
        (Layers::Mean, _) => {
            let (width, limit) = (manifest.head.width, manifest.limit);
            mean_of_texts(width, sequences, limit, &Device::Cpu).map(Some)
        }
        (Layers::Deep, Some(blocks)) => {
            let config = DeepConfig {
                blocks: blocks.clone(),
                sequences,
                limit: manifest.limit,
            };
            Deep::of(&config, tensors, path, &Device::Cpu, None).map(Some)
        }
        (Layers::None | Layers::Deep, _) => Ok(None),
    }
}

/// Hash of all that a vector follows from, but texts and times.
pub(super) fn deep_id(
    manifest: &Manifest,
    tensors: &BTreeMap<String, Tensor>,
) -> Result<[u8; 16], LanguageError> {
    let mut hash = Sha256::new();
    let of = (
        &manifest.layers,
        &manifest.encoder,
        &manifest.blocks,
        manifest.limit,
        manifest.sequences.len(),
    );
    hash.update(serde_json::to_vec(&of).expect("invariant: texts and numbers are JSON"));
    hash_values(&mut hash, tensors, &is_of_layers)?;
    Ok(half(&hash.finalize()))
}

/// Hash of the layers, by theirs, and of the projections.
pub(super) fn towers_of(
    deep_id: [u8; 16],
    tensors: &BTreeMap<String, Tensor>,
) -> Result<[u8; 16], LanguageError> {
    let mut hash = Sha256::new();
    hash.update(deep_id);
    hash_values(&mut hash, tensors, &is_projection)?;
    Ok(half(&hash.finalize()))
}

/// Takes in the tensors of some names.
fn hash_values(
    hash: &mut Sha256,
    tensors: &BTreeMap<String, Tensor>,
    of: &dyn Fn(&str) -> bool,
) -> Result<(), LanguageError> {
    for (name, tensor) in tensors.iter().filter(|(name, _)| of(name)) {
        hash.update(name.as_bytes());
        let values = tensor.flatten_all().and_then(|all| all.to_vec1::<f32>());
        let values = values.map_err(computing("reading values"))?;
        for value in values {
            hash.update(value.to_le_bytes());
        }
    }
    Ok(())
}
