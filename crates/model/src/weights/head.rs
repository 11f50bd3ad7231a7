//! The head and the embeddings that it may be tied to.
//!
//! A checkpoint that ties them holds one of the two, or both with equal values. If both differ, they are not
//! tied, whatever `config.json` says: transformers keeps both as well.

use candle_core::{DType, Device, Tensor};
use playhouse_layout::ModelShape;
use playhouse_types::DecoderSpec;

use super::archive::{Archive, Stored};
use super::{EMBEDDING, HEAD, float_dtype};
use crate::{Checkpoint, CheckpointError};

/// Values that are compared at a time: few enough for a cache, and many enough to be fast.
const COMPARED: usize = 1 << 16;

/// Reads the shape of a checkpoint's model from `config.json`. A head with values of its own counts, even if
/// the file ties it to the embeddings: checkpoints that were trained further have such heads.
///
/// # Errors
/// When the file is missing, or describes no decoder that Playhouse can run.
pub fn checkpoint_shape(checkpoint: &Checkpoint) -> Result<ModelShape, CheckpointError> {
    let mut shape = checkpoint.configured()?;
    if shape.spec.tied_embeddings {
        // What is wrong with files that cannot be read `Weights` says.
        let archive = Archive::open(checkpoint);
        shape.spec.tied_embeddings = !archive.is_ok_and(|archive| is_own(&archive));
    }
    Ok(shape)
}

/// Returns the name under which a checkpoint of `spec` holds a tensor.
pub(super) fn stored_name<'a>(archive: &Archive, spec: &DecoderSpec, name: &'a str) -> &'a str {
    let swapped = spec.tied_embeddings
        && name == EMBEDDING
        && archive.get(EMBEDDING).is_none()
        && archive.get(HEAD).is_some();
    if swapped { HEAD } else { name }
}

/// Returns whether the head differs from the embeddings in shape or in any value.
pub(super) fn is_own(archive: &Archive) -> bool {
    match (archive.get(HEAD), archive.get(EMBEDDING)) {
        (Some(head), Some(embedding)) => !are_equal(&head, &embedding),
        _ => false,
    }
}

/// Compares the values of two tensors, which may be stored in different types.
fn are_equal(one: &Stored<'_>, other: &Stored<'_>) -> bool {
    if one.shape != other.shape {
        return false;
    }
    if one.dtype == other.dtype {
        return one.bytes == other.bytes;
    }
    let elements: usize = one.shape.iter().product();
    (0..elements).step_by(COMPARED).all(|start| {
        let count = COMPARED.min(elements - start);
        let values = |stored| values(stored, start, count);
        values(one).zip(values(other)).is_some_and(|(one, other)| one == other)
    })
}

/// Returns `count` values from `start` on; `None` if they are no floats.
fn values(stored: &Stored<'_>, start: usize, count: usize) -> Option<Vec<f32>> {
    let dtype = float_dtype(stored)?;
    let width = dtype.size_in_bytes();
    let bytes = &stored.bytes[start * width..(start + count) * width];
    let tensor = Tensor::from_raw_buffer(bytes, dtype, &[count], &Device::Cpu).ok()?;
    tensor.to_dtype(DType::F32).ok()?.to_vec1().ok()
}
