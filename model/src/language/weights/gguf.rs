//! A GGUF file: its tensors are dequantised to f32 once, because the library's quantised kernels are many times slower than its f32 ones.

use std::fs::File;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};

use super::{computing, wrong};
use crate::language::config::{DecoderConfig, Family};
use crate::language::error::{LanguageError, bare};

/// A GGUF file and its list of tensors.
#[derive(Debug)]
pub(in crate::language) struct GgufFile {
    path: PathBuf,
    content: Content,
    length: u64,
}

impl GgufFile {
    pub(super) fn open(path: &Path) -> Result<Self, LanguageError> {
        let failed = |source| LanguageError::Read {
            path: path.to_owned(),
            source,
        };
        let mut file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        // The library divides by what a file says.
        let content = std::panic::catch_unwind(AssertUnwindSafe(|| Content::read(&mut file)));
        let problem = match content {
            Ok(Ok(content)) => Ok(content),
            Ok(Err(error)) => Err(bare(error).to_string()),
            Err(_) => Err("the library panics over it".to_owned()),
        };
        let content = problem.map_err(|problem| LanguageError::File {
            path: path.to_owned(),
            problem: format!("is no GGUF file, or is cut off: {problem}"),
        })?;
        Ok(Self {
            path: path.to_owned(),
            content,
            length,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(in crate::language) fn content(&self) -> &Content {
        &self.content
    }

    /// Refuses tensors that nobody reads: a bias, or factors of rotary positions, left out would give plausible numbers that are wrong.
    pub(super) fn check(&self, config: &DecoderConfig) -> Result<(), LanguageError> {
        let mut names: Vec<&String> = self.content.tensor_infos.keys().collect();
        names.sort();
        let unread = names.into_iter().find(|name| !is_read(name, config));
        match unread {
            Some(name) => Err(wrong(
                &self.path,
                name,
                "is of a part that is not supported",
            )),
            None => Ok(()),
        }
    }

    /// A tensor as f32, by its Hugging Face name.
    pub(super) fn tensor(
        &self,
        name: &str,
        shape: &[usize],
        config: &DecoderConfig,
    ) -> Result<(PathBuf, Tensor), LanguageError> {
        let here =
            gguf_name(name).ok_or_else(|| wrong(&self.path, name, "has no name in GGUF files"))?;
        let info = self
            .content
            .tensor_infos
            .get(&here)
            .ok_or_else(|| wrong(&self.path, &here, "is missing"))?;
        if info.shape.dims() != shape {
            let problem = format!("has the shape {:?}, not {shape:?}", info.shape.dims());
            return Err(wrong(&self.path, &here, problem));
        }
        let count: usize = shape.iter().product();
        let bytes = count / info.ggml_dtype.block_size() * info.ggml_dtype.type_size();
        let begin = self.content.tensor_data_offset.checked_add(info.offset);
        let end = begin.and_then(|begin| begin.checked_add(bytes as u64));
        if end.is_none_or(|end| end > self.length) {
            let begin = info.offset;
            let problem = format!(
                "is cut off: {bytes} bytes from {begin} on are not in a file of {}",
                self.length
            );
            return Err(wrong(&self.path, &here, problem));
        }
        let mut file = File::open(&self.path).map_err(|source| LanguageError::Read {
            path: self.path.clone(),
            source,
        })?;
        let tensor = self
            .content
            .tensor(&mut file, &here, &Device::Cpu)
            .and_then(|tensor| tensor.dequantize(&Device::Cpu))
            .map_err(computing("dequantising a tensor"))?;
        let heads = match (config.family, here.rsplit_once("attn_")) {
            (Family::Llama, Some((_, "q.weight"))) => Some(config.heads),
            (Family::Llama, Some((_, "k.weight"))) => Some(config.kv_heads),
            (Family::Llama | Family::Qwen2, _) => None,
        };
        let tensor = match heads {
            Some(heads) => unpermuted(&tensor, heads).map_err(computing("reordering rows"))?,
            None => tensor,
        };
        Ok((self.path.clone(), tensor))
    }
}

/// Files of the Llama family hold the rows of a head in pairs (0, half, 1, half + 1, …); ours, like Hugging Face's, in halves.
fn unpermuted(tensor: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let (rows, columns) = tensor.dims2()?;
    tensor
        .reshape((heads, rows / heads / 2, 2, columns))?
        .transpose(1, 2)?
        .contiguous()?
        .reshape((rows, columns))
}

/// Whether a tensor of this name is a part of what is computed.
fn is_read(name: &str, config: &DecoderConfig) -> bool {
    let of_layer = || {
        let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
        let is_layer = layer
            .parse()
            .is_ok_and(|layer: usize| layer < config.layers);
        let (part, kind) = part.rsplit_once('.')?;
        let is_part = PARTS.iter().any(|(_, one)| *one == part);
        let has_bias =
            config.family == Family::Qwen2 && matches!(part, "attn_q" | "attn_k" | "attn_v");
        Some(is_layer && is_part && (kind == "weight" || (kind == "bias" && has_bias)))
    };
    WHOLE.iter().any(|(_, one)| *one == name) || of_layer() == Some(true)
}

/// Tensors of no layer, by their Hugging Face names.
const WHOLE: [(&str, &str); 3] = [
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight"),
];

/// Parts of a layer, by their Hugging Face names.
const PARTS: [(&str, &str); 9] = [
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// What a Hugging Face name is called in GGUF files.
fn gguf_name(name: &str) -> Option<String> {
    let of = |names: &[(&str, &str)], name: &str| {
        let found = names.iter().find(|(one, _)| *one == name);
        found.map(|(_, here)| (*here).to_owned())
    };
    if let Some(whole) = of(&WHOLE, name) {
        return Some(whole);
    }
    let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (part, kind) = part.rsplit_once('.')?;
    let part = of(&PARTS, part)?;
    Some(format!("blk.{layer}.{part}.{kind}"))
}
