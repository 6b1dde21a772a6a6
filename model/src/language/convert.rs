//! A model held against everything that we read of it, and a GGUF file as a folder in Hugging Face's layout.
//!
//! Before it, what somebody calls a model; after it, one that loads, every tensor of it. A folder pays where a model is started often, or cut: of the folder
//! the layers that are asked for are read and nothing else, and every library for models reads it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use safetensors::{Dtype, View};
use serde_json::json;

use super::config::{DecoderConfig, Family, Shape};
use super::decoder::Decoder;
use super::encoder::Encoder;
use super::error::{LanguageError, computing};
use super::part::{Origin, Purpose, Source};
use super::tokenizer::LanguageTokenizer;
use super::weights::Weights;

/// Which conversion this build's is: raised whenever what [`convert`] writes changes, so that folders of older builds are made again.
pub const CONVERSION: u32 = 1;

/// How far it is: bytes of tensors (as f32) that are done, of how many.
type Told<'a> = &'a mut dyn FnMut(u64, u64);

/// Reads every tensor that the model has by its configuration, and its tokenizer: what passes can be loaded. One tensor is in memory at a time.
pub fn check(weights: &Weights, told: Told<'_>) -> Result<(), LanguageError> {
    LanguageTokenizer::of(weights)?;
    let tensors = tensors(weights)?;
    let whole = tensors.iter().map(|(_, shape)| bytes(shape)).sum();
    let mut done = 0;
    for (name, shape) in &tensors {
        weights.tensor(name, shape, &Device::Cpu)?;
        done += bytes(shape);
        told(done, whole);
    }
    Ok(())
}

/// Writes a decoder (of a GGUF file, say) into a folder that is there: `config.json`, `tokenizer.json`, `model.safetensors`. Tensors are f32, which is what they
/// are dequantised to: no value changes. One tensor is in memory at a time.
pub fn convert(weights: &Weights, folder: &Path, told: Told<'_>) -> Result<(), LanguageError> {
    let config = folder.join("config.json");
    let written = |path: &Path| {
        let path = path.to_owned();
        move |source| LanguageError::Write { path, source }
    };
    fs::write(&config, format!("{:#}\n", as_json(weights.decoder()?))).map_err(written(&config))?;
    LanguageTokenizer::of(weights)?.write(&folder.join("tokenizer.json"))?;
    let tensors = tensors(weights)?;
    let course = RefCell::new(Course {
        done: 0,
        whole: tensors.iter().map(|(_, shape)| bytes(shape)).sum(),
        told,
        failed: None,
    });
    let views = tensors.iter().map(|(name, shape)| {
        let view = Lazy {
            weights,
            name,
            shape,
            course: &course,
        };
        (name, view)
    });
    let path = folder.join("model.safetensors");
    let format = [("format".to_owned(), "pt".to_owned())].into();
    let saved = safetensors::serialize_to_file(views, Some(format), &path);
    if let Some(error) = course.into_inner().failed {
        // The library has written a file all the same: of the right length, with nothing in it.
        return fs::remove_file(&path)
            .map_err(written(&path))
            .and(Err(error));
    }
    saved.map_err(|error| {
        written(&path)(match error {
            safetensors::SafeTensorError::IoError(error) => error,
            other => std::io::Error::other(other),
        })
    })?;
    // The library makes its file for our own eyes alone.
    let permissions = fs::metadata(&config).map_err(written(&config))?;
    fs::set_permissions(&path, permissions.permissions()).map_err(written(&path))
}

/// The names and shapes of all tensors of a model: those that loading it asks for.
fn tensors(weights: &Weights) -> Result<Vec<(String, Vec<usize>)>, LanguageError> {
    let mut source = Source::new(
        Origin::Model(weights),
        &Device::Cpu,
        Purpose::List(Vec::new()),
    );
    match weights.shape() {
        Shape::Decoder(config) => {
            drop(Decoder::from_source(&mut source, config, 0..config.layers)?);
        }
        Shape::Encoder(config) => drop(Encoder::from_source(&mut source, config, config.layers)?),
    }
    match source.done() {
        Purpose::List(tensors) => Ok(tensors),
        Purpose::Use | Purpose::Train(_) => Ok(Vec::new()),
    }
}

fn bytes(shape: &[usize]) -> u64 {
    shape.iter().product::<usize>() as u64 * 4
}

/// A configuration in Hugging Face's words. Taken apart field by field: one that is added must be written, too.
fn as_json(config: &DecoderConfig) -> serde_json::Value {
    let DecoderConfig {
        family,
        layers,
        width,
        inner,
        heads,
        kv_heads,
        head_width,
        vocabulary,
        positions_max,
        rope_base,
        norm_epsilon,
        first_token,
        tied,
    } = config;
    let (architecture, model_type) = match family {
        Family::Llama => ("LlamaForCausalLM", "llama"),
        Family::Qwen2 => ("Qwen2ForCausalLM", "qwen2"),
    };
    json!({
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_width,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions_max,
        "rope_theta": rope_base,
        "rms_norm_eps": norm_epsilon,
        "bos_token_id": first_token,
        "tie_word_embeddings": tied,
        "torch_dtype": "float32",
    })
}

/// How far the writing is. The library that writes asks for a tensor's bytes and takes no error: it waits here until the file is done.
struct Course<'a> {
    done: u64,
    whole: u64,
    told: Told<'a>,
    failed: Option<LanguageError>,
}

/// A tensor that is read when it is written.
struct Lazy<'a, 'b> {
    weights: &'a Weights,
    name: &'a str,
    shape: &'a [usize],
    course: &'a RefCell<Course<'b>>,
}

impl Lazy<'_, '_> {
    fn read(&self) -> Result<Vec<u8>, LanguageError> {
        let tensor = self.weights.tensor(self.name, self.shape, &Device::Cpu)?;
        let values = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
        let values = values(&tensor).map_err(computing("writing a tensor"))?;
        Ok(values
            .into_iter()
            .flat_map(f32::to_le_bytes)
            .collect::<Vec<u8>>())
    }
}

impl View for Lazy<'_, '_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut course = self.course.borrow_mut();
        if course.failed.is_none() {
            match self.read() {
                Ok(bytes) => {
                    course.done += bytes.len() as u64;
                    let (done, whole) = (course.done, course.whole);
                    (course.told)(done, whole);
                    return bytes.into();
                }
                Err(error) => course.failed = Some(error),
            }
        }
        Cow::Borrowed(&[])
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * 4
    }
}
