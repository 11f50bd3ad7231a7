//! The weights of a decoder: read from safetensors, or random ones for benchmarks.
//!
//! - **W-1** every tensor the [`DecoderSpec`] calls for is present with the shape it implies.
//! - **W-2** no tensor of the checkpoint is silently unused: a tensor that the spec does not call for (say a
//!   bias that `config.json` denies) would mean a wrong model, so it is refused. Exceptions are tensors
//!   without content: `rotary_emb.inv_freq`, and an `lm_head.weight` equal to the embeddings that it is tied
//!   to. Of two tied tensors a checkpoint may hold either.
//! - **W-3** a shard reads its parts of the files and no more, but **W-1** and **W-2** are checked for the
//!   whole checkpoint: every rank refuses a broken checkpoint.
//! - **W-4** no content of the files panics; an error names file, tensor, the value found and the value
//!   expected, and of several missing or unused tensors the first ones and their number.
//!
//! Projections stay separate as they are stored, not fused into `qkv` or `gate_up`: a fused matrix saves two
//! of seven launches of about 5 µs per layer, and costs a copy while loading, strided views afterwards, and a
//! harder cut when ranks share a layer.

mod archive;
mod digest;
mod head;
mod layer;
mod part;
mod random;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use candle_core::{DType, Device, Tensor};
use playhouse_layout::{Inventory, Share, TensorRole, WeightType};
use playhouse_types::DecoderSpec;
use safetensors::Dtype as StoredDtype;

use self::archive::{Archive, Stored};
pub use self::digest::checkpoint_digest;
pub use self::head::checkpoint_shape;
pub(crate) use self::layer::{DenseWeights, GqaWeights, LayerWeights, Linear};
use self::part::TensorPart;
use crate::{Checkpoint, CheckpointError, Shard};

/// The element type in which a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dtype {
    /// The checkpoint's type: `dtype` of its `config.json`, else the type in which the embeddings are stored.
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
    /// `None` except in the last stage.
    pub(crate) head: Option<HeadWeights>,
    shard: Shard,
    dtype: DType,
}

/// Type and size of a shard's weights, known before they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Element type that the weights will have.
    pub dtype: DType,
    /// Bytes to read from the files.
    pub stored_bytes: usize,
    /// Bytes to hold in memory.
    pub held_bytes: usize,
}

/// The weights between the last layer and the logits.
#[derive(Clone, Debug)]
pub(crate) struct HeadWeights {
    /// `[hidden]`
    pub(crate) norm: Tensor,
    /// `[vocab, hidden]`; the embeddings when tied.
    pub(crate) head: Tensor,
}

/// The reason why weights were refused.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A file cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A file does not have the format that its name promises.
    #[error("{file}: {reason}")]
    File {
        /// File name.
        file: String,
        /// What was found and what is expected.
        reason: String,
    },
    /// A tensor does not fit the model.
    #[error("{file}: tensor `{tensor}`: {reason}")]
    Tensor {
        /// File name.
        file: String,
        /// Tensor name.
        tensor: String,
        /// What was found and what is expected.
        reason: String,
    },
    /// A layer of a kind that has no forward pass.
    #[error("layer {layer} has {kind}, which this version does not run")]
    Unsupported {
        /// Index of the layer, counted from 0.
        layer: usize,
        /// The unsupported part of the layer.
        kind: &'static str,
    },
    /// Too little memory for a tensor, or a failing device.
    #[error("tensor `{tensor}`: {source}")]
    Device {
        /// Tensor name.
        tensor: String,
        /// Error of the tensor library.
        source: candle_core::Error,
    },
}

/// A tensor to read: its role, its name, its whole shape and the part that the rank holds.
struct Wanted {
    layer: Option<u64>,
    role: TensorRole,
    name: String,
    shape: Vec<usize>,
    part: TensorPart,
}

/// The tensors of a layer, or those outside of all layers.
type TensorsByRole = HashMap<TensorRole, Tensor>;

/// The table whose type is the model's when nothing else gives a type.
const EMBEDDING: &str = "model.embed_tokens.weight";
/// The head, which a file may hold although it is tied.
const HEAD: &str = "lm_head.weight";

/// Name endings of tensors without content: older checkpoints store rope frequencies.
const IGNORED: [&str; 1] = [".rotary_emb.inv_freq"];

// === impl Weights ===

impl Weights {
    /// Copies the weights of a shard of `spec` out of a checkpoint, converted to `dtype` where they are
    /// stored in another type. `progress` receives the bytes done and the bytes in all, first with 0 done.
    ///
    /// # Errors
    /// When the files break **W-1** or **W-2**, are not safetensors, or were changed while being read.
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
        let weights = Self::assemble(spec, shard, dtype, |wanted| {
            let Wanted { name, shape, part, .. } = wanted;
            let (stored, stored_dtype) = find(&archive, spec, name, shape)?;
            let bytes = part.bytes(stored.bytes, shape);
            let tensor =
                Tensor::from_raw_buffer(&bytes, stored_dtype, &part.shape(shape), &Device::Cpu)
                    .and_then(|tensor| tensor.to_dtype(dtype))
                    .map_err(|source| WeightsError::Device { tensor: name.clone(), source })?;
            done += bytes.len();
            progress(done, total);
            Ok(tensor)
        })?;
        archive.check()?;
        Ok(weights)
    }

    /// Checks from the headers of the files alone whether [`Weights::load`] would succeed: every weight of
    /// `spec` is there in its shape, and there is no other weight. Returns the size of the weights in bytes.
    ///
    /// # Errors
    /// As [`Weights::load`].
    pub fn check(checkpoint: &Checkpoint, spec: &DecoderSpec) -> Result<usize, WeightsError> {
        bytes_of(&Archive::open(checkpoint)?, spec)
    }

    /// Returns what [`Weights::load`] would read and hold, from the headers of the files alone.
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

    /// Returns a digest of the whole checkpoint's weights, by which copies of the checkpoint are compared.
    /// The digest covers headers and sizes, and 2 MiB spread over everything else.
    ///
    /// # Errors
    /// When the files are not safetensors.
    pub fn digest(checkpoint: &Checkpoint) -> Result<[u8; 32], WeightsError> {
        digest::digest(checkpoint)
    }

    /// Checks that the weights of a checkpoint still have this digest: files that were replaced by renaming do
    /// not show that in their maps.
    ///
    /// # Errors
    /// Returns an error when the weights are others now, or cannot be read.
    pub fn check_digest(checkpoint: &Checkpoint, digest: &[u8; 32]) -> Result<(), WeightsError> {
        if Self::digest(checkpoint)? == *digest {
            return Ok(());
        }
        let reason =
            "the weights were replaced; restart the server to serve the new ones".to_owned();
        Err(WeightsError::File { file: checkpoint.place(), reason })
    }

    /// Returns the element type of all weights.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Returns the part of the decoder that the weights belong to.
    #[must_use]
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// Builds the weights of a shard of `spec`, calling `take` for each tensor.
    fn assemble(
        spec: &DecoderSpec,
        shard: &Shard,
        dtype: DType,
        mut take: impl FnMut(&Wanted) -> Result<Tensor, WeightsError>,
    ) -> Result<Self, WeightsError> {
        let mut ends = TensorsByRole::new();
        let mut layers: Vec<_> = shard.layers().map(|_| TensorsByRole::new()).collect();
        for wanted in wanted(spec, shard.share()) {
            let tensor = take(&wanted)?;
            let tensors = match wanted.layer {
                Some(layer) => &mut layers[layer as usize - shard.layers().start],
                None => &mut ends,
            };
            tensors.insert(wanted.role, tensor);
        }
        let layers = shard.layers().zip(layers);
        let layers = layers
            .map(|(at, tensors)| LayerWeights::of(at, &spec.layers[at], tensors))
            .collect::<Result<_, _>>()?;
        let embedding = ends.get(&TensorRole::Embedding).cloned();
        // A tied head is the embedding table.
        let head = ends.remove(&TensorRole::Head).or_else(|| embedding.clone());
        let norm = ends.remove(&TensorRole::FinalNorm);
        let head = norm.zip(head).map(|(norm, head)| HeadWeights { norm, head });
        let embedding = embedding.filter(|_| shard.is_first());
        Ok(Self { embedding, layers, head, shard: shard.clone(), dtype })
    }
}

/// Returns every tensor of a share of `spec`, in the order in which they are read.
fn wanted(spec: &DecoderSpec, share: &Share) -> Vec<Wanted> {
    // How tensors are stored the files say themselves.
    let inventory = Inventory::plain(spec, WeightType::F32);
    let wanted = |(layer, weight): (Option<u64>, &playhouse_layout::Weight)| {
        let mut shape = vec![weight.outputs as usize, weight.inputs as usize];
        shape.truncate(if weight.is_vector { 1 } else { 2 });
        let (name, part) = (weight.full_name(layer), TensorPart::new(share.slices(weight)));
        Wanted { layer, role: weight.role, name, shape, part }
    };
    share.weights(&inventory).map(wanted).collect()
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
        None => find(archive, spec, EMBEDDING, &[spec.vocab, spec.hidden])?.1,
    };
    let mut found = Survey { dtype, stored_bytes: 0, held_bytes: 0 };
    for Wanted { name, shape, part, .. } in wanted(spec, shard.share()) {
        let (_, stored_dtype) = find(archive, spec, &name, &shape)?;
        let elements: usize = part.shape(&shape).iter().product();
        found.stored_bytes += elements * stored_dtype.size_in_bytes();
        found.held_bytes += elements * dtype.size_in_bytes();
    }
    Ok(found)
}

// === impl Dtype ===

impl Dtype {
    /// Returns `self`, or for [`Dtype::Auto`] the type that `config.json` states.
    #[must_use]
    pub fn or(self, stated: Option<WeightType>) -> Dtype {
        match (self, stated) {
            (Dtype::Auto, Some(WeightType::Bf16)) => Dtype::Bf16,
            (Dtype::Auto, Some(WeightType::F16)) => Dtype::F16,
            (Dtype::Auto, Some(WeightType::F32)) => Dtype::F32,
            (own, _) => own,
        }
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

/// Returns the bytes of the weights of `spec`, after checking that they are all there and nothing else is.
fn bytes_of(archive: &Archive, spec: &DecoderSpec) -> Result<usize, WeightsError> {
    let wanted = wanted(spec, Shard::whole(spec).share());
    let names: Vec<_> =
        wanted.iter().map(|it| head::stored_name(archive, spec, &it.name)).collect();
    refuse_missing(archive, &names)?;
    let mut total = 0;
    for Wanted { name, shape, .. } in &wanted {
        total += find(archive, spec, name, shape)?.0.bytes.len();
    }
    refuse_unused(archive, spec, &names.into_iter().collect())?;
    Ok(total)
}

/// Finds a tensor of `spec` by name, checks its shape, and returns it with its element type.
fn find<'a>(
    archive: &'a Archive,
    spec: &DecoderSpec,
    name: &str,
    shape: &[usize],
) -> Result<(Stored<'a>, DType), WeightsError> {
    let name = head::stored_name(archive, spec, name);
    let Some(stored) = archive.get(name) else { return Err(missing(archive, &[name])) };
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

fn refuse_missing(archive: &Archive, names: &[&str]) -> Result<(), WeightsError> {
    let gone: Vec<_> = names.iter().copied().filter(|name| archive.get(name).is_none()).collect();
    if gone.is_empty() { Ok(()) } else { Err(missing(archive, &gone)) }
}

/// Returns the error for missing tensors, at least one.
fn missing(archive: &Archive, names: &[&str]) -> WeightsError {
    let mut reason = "missing, though config.json calls for it".to_owned();
    if let Some(others) = others(&names[1..]) {
        reason = format!("{reason}; {others} missing too");
    }
    match archive.names().min() {
        Some(found) if !archive.names().any(|name| name.starts_with("model.")) => {
            reason = format!("{reason}; the tensors have other names, such as `{found}`");
        }
        Some(_) if *names == [HEAD] => {
            reason += "; if the model uses its embeddings there, set tie_word_embeddings to true";
        }
        _ => {}
    }
    let file = archive.place().to_owned();
    WeightsError::Tensor { file, tensor: names[0].to_owned(), reason }
}

fn refuse_unused(
    archive: &Archive,
    spec: &DecoderSpec,
    used: &HashSet<&str>,
) -> Result<(), WeightsError> {
    let ignored = |name: &str| {
        let tied = spec.tied_embeddings && name == HEAD && !head::is_own(archive);
        tied || IGNORED.iter().any(|end| name.ends_with(end))
    };
    let mut unused: Vec<_> =
        archive.names().filter(|name| !used.contains(name) && !ignored(name)).collect();
    unused.sort_unstable();
    let Some((&tensor, more)) = unused.split_first() else { return Ok(()) };
    let file = archive.get(tensor).map_or(archive.place(), |stored| stored.file).to_owned();
    let mut reason = "found, though config.json calls for no such tensor".to_owned();
    if let Some(others) = others(more) {
        reason = format!("{reason}; {others} unused too");
    }
    Err(WeightsError::Tensor { file, tensor: tensor.to_owned(), reason })
}

/// Names the other tensors that an error is about, as the beginning of a sentence.
fn others(names: &[&str]) -> Option<String> {
    match names {
        [] => None,
        [one] => Some(format!("`{one}` is")),
        [first, more @ ..] => Some(format!("`{first}` and {} more are", more.len())),
    }
}

/// Returns the element type of a tensor, if a model can have that type.
fn float_dtype(stored: &Stored<'_>) -> Option<DType> {
    match stored.dtype {
        StoredDtype::BF16 => Some(DType::BF16),
        StoredDtype::F16 => Some(DType::F16),
        StoredDtype::F32 => Some(DType::F32),
        _ => None,
    }
}
