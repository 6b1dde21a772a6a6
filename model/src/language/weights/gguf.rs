//! A GGUF file: its tensors are dequantised to f32 once, because the library's quantised kernels are many times slower than its f32 ones.

use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};

use super::{computing, wrong};
use crate::language::config::{DecoderConfig, Family};
use crate::language::error::LanguageError;

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
        let content = Content::read(&mut file).map_err(|error| LanguageError::File {
            path: path.to_owned(),
            problem: format!("is no GGUF file, or is cut off: {error}"),
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
        let end = self.content.tensor_data_offset + info.offset + bytes as u64;
        if end > self.length {
            let problem = format!("is cut off: it ends at byte {end} of {}", self.length);
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

/// What a Hugging Face name is called in GGUF files.
fn gguf_name(name: &str) -> Option<String> {
    let whole = match name {
        "model.embed_tokens.weight" => "token_embd.weight",
        "model.norm.weight" => "output_norm.weight",
        "lm_head.weight" => "output.weight",
        _ => "",
    };
    if !whole.is_empty() {
        return Some(whole.to_owned());
    }
    let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (part, kind) = part.rsplit_once('.')?;
    let part = match part {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    Some(format!("blk.{layer}.{part}.{kind}"))
}
