//! The weights of a decoder: read from safetensors, or random ones for benchmarks.
//!
//! - **W-1** every tensor the [`DecoderSpec`] calls for is present with the shape it implies.
//! - **W-2** no tensor of the checkpoint is silently unused: one the spec does not call for (say a
//!   bias that `config.json` denies) would mean a wrong model, so it is refused. Exceptions are
//!   those that carry nothing: `rotary_emb.inv_freq`, and an `lm_head.weight` equal to the
//!   embeddings it is tied to.
//! - **W-3** a shard reads its parts of the files and no more, though **W-1** and **W-2** are held
//!   against all of the checkpoint: every rank of a broken one refuses it.
//! - **W-4** no content of the files panics; the error names file, tensor, found and expected.
//!
//! Projections stay apart as they are stored, not fused into `qkv` or `gate_up`: a fused matrix
//! saves two of seven launches of about 5 µs per layer and costs a copy while loading, strided
//! views after, and a harder cut when ranks share a layer.

mod archive;
mod cut;
mod digest;
mod random;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use playhouse_layout::Part;
use playhouse_types::{DecoderSpec, LayerSpec};
use safetensors::Dtype as StoredDtype;

use self::archive::{Archive, Stored};
use crate::shard::Cut;
use crate::{Checkpoint, CheckpointError, Shard};

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

/// The weights of a shard, in one element type. Shapes are those of a whole decoder; a shard has its
/// share of every dimension that [`Shard`] cuts.
#[derive(Clone, Debug)]
pub struct Weights {
    /// `[vocab, hidden]`, in the first stage.
    pub(crate) embedding: Option<Tensor>,
    pub(crate) layers: Vec<LayerWeights>,
    /// In the last stage.
    pub(crate) head: Option<HeadWeights>,
    shard: Shard,
    dtype: DType,
}

/// What the weights of a shard are, before they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survey {
    /// The element type they will have.
    pub dtype: DType,
    /// Bytes to read.
    pub stored_bytes: usize,
    /// Bytes to hold.
    pub held_bytes: usize,
}

/// From the last layer to logits.
#[derive(Clone, Debug)]
pub(crate) struct HeadWeights {
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
    /// `[out]`; where inputs are cut, on the first rank alone.
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
    /// Copies the weights of a shard of `spec` out of a checkpoint, converted to `dtype` where they
    /// are stored in another type. `progress` is told the bytes done and the bytes in all, first
    /// with 0 done.
    ///
    /// # Errors
    /// When the files break **W-1** or **W-2**, or are not safetensors.
    pub fn load(
        checkpoint: &Checkpoint,
        spec: &DecoderSpec,
        shard: &Shard,
        dtype: Dtype,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Self, WeightsError> {
        let archive = Archive::open(checkpoint)?;
        let Survey { dtype, stored_bytes: total, .. } = survey(&archive, spec, shard, dtype)?;
        let mut done = 0;
        progress(done, total);
        Self::build(spec, shard, dtype, |slot, shape, cut| {
            let name = slot.to_string();
            let (stored, stored_dtype) = find(&archive, &name, shape)?;
            let bytes = cut.bytes(stored.bytes, shape);
            let shape = cut.shape(shape);
            let tensor = Tensor::from_raw_buffer(&bytes, stored_dtype, &shape, &Device::Cpu)
                .and_then(|tensor| tensor.to_dtype(dtype))
                .map_err(|source| WeightsError::Device { tensor: name, source })?;
            done += bytes.len();
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

    /// What [`Weights::load`] would read and hold, from the headers of the files alone.
    ///
    /// # Errors
    /// As [`Weights::load`].
    pub fn survey(
        checkpoint: &Checkpoint,
        spec: &DecoderSpec,
        shard: &Shard,
        dtype: Dtype,
    ) -> Result<Survey, WeightsError> {
        survey(&Archive::open(checkpoint)?, spec, shard, dtype)
    }

    /// A digest of the whole checkpoint's weights, by which copies of it are compared: of its headers and
    /// sizes, and of 2 MiB spread over everything else.
    ///
    /// # Errors
    /// When the files are not safetensors.
    pub fn digest(checkpoint: &Checkpoint) -> Result<[u8; 32], WeightsError> {
        digest::digest(checkpoint)
    }

    /// The element type of all of them.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Which part of the decoder they are.
    #[must_use]
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// Asks `take` for each weight of a shard of `spec`, by its slot, its whole shape and the part
    /// that is held.
    fn build(
        spec: &DecoderSpec,
        shard: &Shard,
        dtype: DType,
        mut take: impl FnMut(Slot, &[usize], &Cut) -> Result<Tensor, WeightsError>,
    ) -> Result<Self, WeightsError> {
        let table = [spec.vocab, spec.hidden];
        let embeds = shard.is_first() || shard.is_last() && spec.tied_embeddings;
        let rows = Cut::Rows(shard.embedding_rows(spec.vocab));
        let embedding = embeds.then(|| take(Slot::Embedding, &table, &rows)).transpose()?;
        let layers = shard
            .layers()
            .map(|index| LayerWeights::build(spec, shard, index, &mut take))
            .collect::<Result<_, _>>()?;
        let head = if shard.is_last() {
            let norm = take(Slot::Norm, &[spec.hidden], &Cut::Whole)?;
            let tied = embedding.clone().filter(|_| spec.tied_embeddings);
            let rows = Cut::Rows(shard.head_rows(spec.vocab));
            let head = tied.map_or_else(|| take(Slot::Head, &table, &rows), Ok)?;
            Some(HeadWeights { norm, head })
        } else {
            None
        };
        let embedding = embedding.filter(|_| shard.is_first());
        Ok(Self { embedding, layers, head, shard: shard.clone(), dtype })
    }
}

// === impl LayerWeights ===

impl LayerWeights {
    fn build(
        spec: &DecoderSpec,
        shard: &Shard,
        index: usize,
        take: &mut impl FnMut(Slot, &[usize], &Cut) -> Result<Tensor, WeightsError>,
    ) -> Result<Self, WeightsError> {
        let LayerSpec { attention, ffn, .. } = &spec.layers[index];
        let wide =
            |heads: Range<usize>| heads.start * attention.head_dim..heads.end * attention.head_dim;
        let (q, kv) = (wide(shard.heads(attention)), wide(shard.kv_heads(attention)));
        let inner = shard.inner(ffn.inner);
        let mut vector = |slot, width| take(Slot::Layer(index, slot), &[width], &Cut::Whole);
        let attention_norm = vector(ATTENTION_NORM, spec.hidden)?;
        let ffn_norm = vector(FFN_NORM, spec.hidden)?;
        let mut head_norm =
            |slot| attention.qk_norm.then(|| vector(slot, attention.head_dim)).transpose();
        let (q_norm, k_norm) = (head_norm(Q_NORM)?, head_norm(K_NORM)?);
        // Cut by outputs, bias included.
        let mut into = |[weight, bias]: [LayerSlot; 2],
                        width,
                        held: &Range<usize>,
                        has_bias: bool| {
            let cut = Cut::Rows(held.clone());
            let weight = take(Slot::Layer(index, weight), &[width, spec.hidden], &cut)?;
            let mut bias = || take(Slot::Layer(index, bias), &[width], &cut);
            Ok::<_, WeightsError>(Linear { weight, bias: has_bias.then(&mut bias).transpose()? })
        };
        let (q_width, kv_width) = (attention.q_width(), attention.kv_width());
        let (q_proj, k_proj, v_proj) = (
            into(Q, q_width, &q, attention.qkv_bias)?,
            into(K, kv_width, &kv, attention.qkv_bias)?,
            into(V, kv_width, &kv, attention.qkv_bias)?,
        );
        let (gate, up) =
            (into(GATE, ffn.inner, &inner, ffn.bias)?, into(UP, ffn.inner, &inner, ffn.bias)?);
        // Cut by inputs; the sum over ranks shall have the bias once.
        let mut out_of = |[weight, bias]: [LayerSlot; 2],
                          width,
                          (held, part): (Range<usize>, Part),
                          has_bias: bool| {
            let cut = Cut::Columns(held);
            let weight = take(Slot::Layer(index, weight), &[spec.hidden, width], &cut)?;
            let has_bias = has_bias && part.at == 0;
            let mut bias = || take(Slot::Layer(index, bias), &[spec.hidden], &Cut::Whole);
            Ok::<_, WeightsError>(Linear { weight, bias: has_bias.then(&mut bias).transpose()? })
        };
        Ok(Self {
            attention_norm,
            q: q_proj,
            k: k_proj,
            v: v_proj,
            out: out_of(OUT, q_width, (q, shard.share().attention), attention.out_bias)?,
            q_norm,
            k_norm,
            ffn_norm,
            gate,
            up,
            down: out_of(DOWN, ffn.inner, (inner, shard.share().dense), ffn.bias)?,
        })
    }
}

fn survey(
    archive: &Archive,
    spec: &DecoderSpec,
    shard: &Shard,
    dtype: Dtype,
) -> Result<Survey, WeightsError> {
    bytes_of(archive, spec)?;
    let dtype = match dtype.candle() {
        Some(dtype) => dtype,
        None => find(archive, &Slot::Embedding.to_string(), &[spec.vocab, spec.hidden])?.1,
    };
    let mut found = Survey { dtype, stored_bytes: 0, held_bytes: 0 };
    for_each_slot(spec, shard, |slot, shape, cut| {
        let (stored, stored_dtype) = find(archive, &slot.to_string(), shape)?;
        let bytes = stored.bytes.len() / shape[cut.dimension()] * cut.len(shape);
        found.stored_bytes += bytes;
        found.held_bytes += bytes / stored_dtype.size_in_bytes() * dtype.size_in_bytes();
        Ok(())
    })?;
    Ok(found)
}

/// Visits the slots that [`Weights::build`] asks for, without making a weight.
fn for_each_slot(
    spec: &DecoderSpec,
    shard: &Shard,
    mut visit: impl FnMut(Slot, &[usize], &Cut) -> Result<(), WeightsError>,
) -> Result<(), WeightsError> {
    let nothing = Tensor::zeros(0, DType::U8, &Device::Cpu)
        .map_err(|source| WeightsError::Device { tensor: String::new(), source })?;
    let visit =
        |slot, shape: &[usize], cut: &Cut| visit(slot, shape, cut).map(|()| nothing.clone());
    Weights::build(spec, shard, DType::U8, visit).map(drop)
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
    for_each_slot(spec, &Shard::whole(spec), |slot, shape, _| {
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
