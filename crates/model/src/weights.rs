//! The weights of a decoder: read from safetensors, or random ones for benchmarks.
//!
//! - **W-1** every tensor the [`DecoderSpec`] calls for is present with the shape it implies.
//! - **W-2** no tensor of the checkpoint is silently unused: one the spec does not call for (say a
//!   bias that `config.json` denies) would mean a wrong model, so it is refused. Exceptions are
//!   those that carry nothing: `rotary_emb.inv_freq`, and an `lm_head.weight` equal to the
//!   embeddings it is tied to.
//! - **W-3** no content of the files panics; the error names file, tensor, found and expected.
//!
//! Projections stay apart as they are stored, not fused into `qkv` or `gate_up`: a fused matrix
//! saves two of seven launches of about 5 µs per layer and costs a copy while loading, strided
//! views after, and a harder cut when ranks share a layer.

mod archive;
mod random;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;

use candle_core::{DType, Device, Tensor};
use playhouse_types::{DecoderSpec, LayerSpec};
use safetensors::Dtype as StoredDtype;

use self::archive::{Archive, Stored};
use crate::{Checkpoint, CheckpointError};

/// Element type to run a model in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dtype {
    /// As the checkpoint says: `dtype` of its `config.json`, else the type its embeddings are
    /// stored in.
    #[default]
    Auto,
    /// bfloat16
    Bf16,
    /// IEEE half precision
    F16,
    /// IEEE single precision
    F32,
}

/// All weights of a decoder, in one element type.
#[derive(Clone, Debug)]
pub struct Weights {
    /// `[vocab, hidden]`
    pub(crate) embedding: Tensor,
    pub(crate) layers: Vec<LayerWeights>,
    /// `[hidden]`
    pub(crate) norm: Tensor,
    /// `[vocab, hidden]`; the embeddings when tied.
    pub(crate) head: Tensor,
}

/// Weights of one layer.
#[derive(Clone, Debug)]
pub(crate) struct LayerWeights {
    /// `[hidden]`, before attention.
    pub(crate) attention_norm: Tensor,
    pub(crate) q: Linear,
    pub(crate) k: Linear,
    pub(crate) v: Linear,
    pub(crate) out: Linear,
    /// `[head_dim]`, with [`playhouse_types::Attention::qk_norm`].
    pub(crate) q_norm: Option<Tensor>,
    pub(crate) k_norm: Option<Tensor>,
    /// `[hidden]`, before the feed-forward block.
    pub(crate) ffn_norm: Tensor,
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
}

/// A projection.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    /// `[out, in]`
    pub(crate) weight: Tensor,
    /// `[out]`
    pub(crate) bias: Option<Tensor>,
}

/// Why weights were refused.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A file cannot be had.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A file is not what its name says.
    #[error("{file}: {reason}")]
    File {
        /// File name.
        file: String,
        /// Found and expected.
        reason: String,
    },
    /// A tensor is not what the model needs.
    #[error("{file}: tensor `{tensor}`: {reason}")]
    Tensor {
        /// File name.
        file: String,
        /// Tensor name.
        tensor: String,
        /// Found and expected.
        reason: String,
    },
    /// No memory for a tensor, or a failing device.
    #[error("tensor `{tensor}`: {source}")]
    Device {
        /// Tensor name.
        tensor: String,
        /// What the tensor library says.
        source: candle_core::Error,
    },
}

/// What a weight is for.
#[derive(Clone, Copy)]
enum Slot {
    Embedding,
    Norm,
    Head,
    Layer(usize, LayerSlot),
}

/// What a weight of a layer is for. The text is its name in Llama, Mistral, Qwen2 and Qwen3.
#[derive(Clone, Copy)]
struct LayerSlot(&'static str);

const ATTENTION_NORM: LayerSlot = LayerSlot("input_layernorm.weight");
const Q: [LayerSlot; 2] =
    [LayerSlot("self_attn.q_proj.weight"), LayerSlot("self_attn.q_proj.bias")];
const K: [LayerSlot; 2] =
    [LayerSlot("self_attn.k_proj.weight"), LayerSlot("self_attn.k_proj.bias")];
const V: [LayerSlot; 2] =
    [LayerSlot("self_attn.v_proj.weight"), LayerSlot("self_attn.v_proj.bias")];
const OUT: [LayerSlot; 2] =
    [LayerSlot("self_attn.o_proj.weight"), LayerSlot("self_attn.o_proj.bias")];
const Q_NORM: LayerSlot = LayerSlot("self_attn.q_norm.weight");
const K_NORM: LayerSlot = LayerSlot("self_attn.k_norm.weight");
const FFN_NORM: LayerSlot = LayerSlot("post_attention_layernorm.weight");
const GATE: [LayerSlot; 2] = [LayerSlot("mlp.gate_proj.weight"), LayerSlot("mlp.gate_proj.bias")];
const UP: [LayerSlot; 2] = [LayerSlot("mlp.up_proj.weight"), LayerSlot("mlp.up_proj.bias")];
const DOWN: [LayerSlot; 2] = [LayerSlot("mlp.down_proj.weight"), LayerSlot("mlp.down_proj.bias")];

/// Ends of the names of tensors that carry nothing: older checkpoints store rope frequencies.
const IGNORED: [&str; 1] = [".rotary_emb.inv_freq"];

// === impl Weights ===

impl Weights {
    /// Copies the weights of `spec` out of a checkpoint, converted to `dtype` where they are stored
    /// in another type. `progress` is told the bytes done and the bytes in all, first with 0 done.
    ///
    /// # Errors
    /// When the files break **W-1** or **W-2**, or are not safetensors.
    pub fn load(
        checkpoint: &Checkpoint,
        spec: &DecoderSpec,
        dtype: Dtype,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Self, WeightsError> {
        let archive = Archive::open(checkpoint)?;
        let total = bytes_of(&archive, spec)?;

        let dtype = match dtype.candle() {
            Some(dtype) => dtype,
            None => {
                let embedding = Slot::Embedding.to_string();
                find(&archive, &embedding, &[spec.vocab, spec.hidden])?.1
            }
        };
        let mut done = 0;
        progress(done, total);
        Self::build(spec, |slot, shape| {
            let name = slot.to_string();
            let (stored, stored_dtype) = find(&archive, &name, shape)?;
            let tensor = Tensor::from_raw_buffer(stored.bytes, stored_dtype, shape, &Device::Cpu)
                .and_then(|tensor| tensor.to_dtype(dtype))
                .map_err(|source| WeightsError::Device { tensor: name, source })?;
            done += stored.bytes.len();
            progress(done, total);
            Ok(tensor)
        })
    }

    /// Whether [`Weights::load`] would succeed, from the headers of the files alone: every weight of
    /// `spec` is there in its shape, and nothing else is. Returns their size in bytes.
    ///
    /// # Errors
    /// As [`Weights::load`].
    pub fn check(checkpoint: &Checkpoint, spec: &DecoderSpec) -> Result<usize, WeightsError> {
        bytes_of(&Archive::open(checkpoint)?, spec)
    }

    /// The element type of all of them.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.embedding.dtype()
    }

    /// Asks `take` for each weight of `spec` by slot and shape.
    fn build(
        spec: &DecoderSpec,
        mut take: impl FnMut(Slot, &[usize]) -> Result<Tensor, WeightsError>,
    ) -> Result<Self, WeightsError> {
        let embedding = take(Slot::Embedding, &[spec.vocab, spec.hidden])?;
        let layers = (0..spec.layers.len())
            .map(|index| LayerWeights::build(spec, index, &mut take))
            .collect::<Result<_, _>>()?;
        let norm = take(Slot::Norm, &[spec.hidden])?;
        let head = match spec.tied_embeddings {
            true => embedding.clone(),
            false => take(Slot::Head, &[spec.vocab, spec.hidden])?,
        };
        Ok(Self { embedding, layers, norm, head })
    }
}

// === impl LayerWeights ===

impl LayerWeights {
    fn build(
        spec: &DecoderSpec,
        index: usize,
        take: &mut impl FnMut(Slot, &[usize]) -> Result<Tensor, WeightsError>,
    ) -> Result<Self, WeightsError> {
        let LayerSpec { attention, ffn, .. } = &spec.layers[index];
        let (q, kv) = (attention.q_width(), attention.kv_width());
        let mut vector = |slot, width| take(Slot::Layer(index, slot), &[width]);
        let attention_norm = vector(ATTENTION_NORM, spec.hidden)?;
        let ffn_norm = vector(FFN_NORM, spec.hidden)?;
        let mut head_norm =
            |slot| attention.qk_norm.then(|| vector(slot, attention.head_dim)).transpose();
        let (q_norm, k_norm) = (head_norm(Q_NORM)?, head_norm(K_NORM)?);
        let mut linear = |[weight, bias]: [LayerSlot; 2], out, width, has_bias: bool| {
            let weight = take(Slot::Layer(index, weight), &[out, width])?;
            let bias = has_bias.then(|| take(Slot::Layer(index, bias), &[out])).transpose()?;
            Ok::<_, WeightsError>(Linear { weight, bias })
        };
        Ok(Self {
            attention_norm,
            q: linear(Q, q, spec.hidden, attention.qkv_bias)?,
            k: linear(K, kv, spec.hidden, attention.qkv_bias)?,
            v: linear(V, kv, spec.hidden, attention.qkv_bias)?,
            out: linear(OUT, spec.hidden, q, attention.out_bias)?,
            q_norm,
            k_norm,
            ffn_norm,
            gate: linear(GATE, ffn.inner, spec.hidden, ffn.bias)?,
            up: linear(UP, ffn.inner, spec.hidden, ffn.bias)?,
            down: linear(DOWN, spec.hidden, ffn.inner, ffn.bias)?,
        })
    }
}

/// Visits the slots that [`Weights::build`] asks for, without making a weight.
fn for_each_slot(
    spec: &DecoderSpec,
    mut visit: impl FnMut(Slot, &[usize]) -> Result<(), WeightsError>,
) -> Result<(), WeightsError> {
    let nothing = Tensor::zeros(0, DType::U8, &Device::Cpu)
        .map_err(|source| WeightsError::Device { tensor: String::new(), source })?;
    Weights::build(spec, |slot, shape| visit(slot, shape).map(|()| nothing.clone())).map(drop)
}

// === impl Slot ===

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Slot::Embedding => f.write_str("model.embed_tokens.weight"),
            Slot::Norm => f.write_str("model.norm.weight"),
            Slot::Head => f.write_str("lm_head.weight"),
            Slot::Layer(layer, LayerSlot(name)) => write!(f, "model.layers.{layer}.{name}"),
        }
    }
}

// === impl Dtype ===

impl Dtype {
    /// `self`, or what `config.json` says in its place when it is [`Dtype::Auto`].
    #[must_use]
    pub fn or(self, config: Option<Dtype>) -> Dtype {
        if self == Dtype::Auto { config.unwrap_or_default() } else { self }
    }

    fn candle(self) -> Option<DType> {
        match self {
            Dtype::Auto => None,
            Dtype::Bf16 => Some(DType::BF16),
            Dtype::F16 => Some(DType::F16),
            Dtype::F32 => Some(DType::F32),
        }
    }
}

/// Bytes of the weights of `spec`, once it is sure that they are there and nothing else is.
fn bytes_of(archive: &Archive, spec: &DecoderSpec) -> Result<usize, WeightsError> {
    let mut used = HashSet::new();
    let mut total = 0;
    for_each_slot(spec, |slot, shape| {
        let name = slot.to_string();
        total += find(archive, &name, shape)?.0.bytes.len();
        used.insert(name);
        Ok(())
    })?;
    refuse_unused(archive, spec, &used)?;
    Ok(total)
}

fn find_any<'a>(archive: &'a Archive, name: &str) -> Result<Stored<'a>, WeightsError> {
    archive.get(name).ok_or_else(|| WeightsError::Tensor {
        file: archive.place().to_owned(),
        tensor: name.to_owned(),
        reason: "missing, though config.json calls for it".to_owned(),
    })
}

/// The tensor of a name, checked against a shape, and its element type.
fn find<'a>(
    archive: &'a Archive,
    name: &str,
    shape: &[usize],
) -> Result<(Stored<'a>, DType), WeightsError> {
    let stored = find_any(archive, name)?;
    let refuse = |reason| WeightsError::Tensor {
        file: stored.file.to_owned(),
        tensor: name.to_owned(),
        reason,
    };
    if stored.shape != shape {
        let found = stored.shape;
        return Err(refuse(format!("found shape {found:?}, expected {shape:?}")));
    }
    match float_dtype(&stored) {
        Some(dtype) => Ok((stored, dtype)),
        None => Err(refuse(format!("found type {:?}, expected BF16, F16 or F32", stored.dtype))),
    }
}

fn refuse_unused(
    archive: &Archive,
    spec: &DecoderSpec,
    used: &HashSet<String>,
) -> Result<(), WeightsError> {
    let mut unused: Vec<_> = archive
        .names()
        .filter(|name| !used.contains(*name) && !IGNORED.iter().any(|end| name.ends_with(end)))
        .collect();
    unused.sort_unstable();
    for name in unused {
        let stored = find_any(archive, name)?;
        let mut reason = "found, though config.json calls for no such tensor".to_owned();
        if spec.tied_embeddings && name == Slot::Head.to_string() {
            let embedding = find_any(archive, &Slot::Embedding.to_string())?;
            if embedding.shape == stored.shape && embedding.bytes == stored.bytes {
                continue;
            }
            reason = "found to differ from model.embed_tokens.weight, to which config.json ties \
                      it; set its tie_word_embeddings to false"
                .to_owned();
        }
        let (file, tensor) = (stored.file.to_owned(), name.to_owned());
        return Err(WeightsError::Tensor { file, tensor, reason });
    }
    Ok(())
}

/// The element type of a tensor, if a model can have it.
fn float_dtype(stored: &Stored<'_>) -> Option<DType> {
    match stored.dtype {
        StoredDtype::BF16 => Some(DType::BF16),
        StoredDtype::F16 => Some(DType::F16),
        StoredDtype::F32 => Some(DType::F32),
        _ => None,
    }
}
