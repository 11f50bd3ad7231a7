//! A digest of the files with a checkpoint's weights, by which copies of the checkpoint are compared.
//!
//! - **WD-1** checkpoints have different digests when their files have different names, sizes or headers, or
//!   when a sample reads different bytes. The samples cover every byte of up to [`SAMPLED_BYTES_MAX`].
//! - **WD-2** besides headers, at most [`SAMPLED_BYTES_MAX`] bytes are read, spread evenly over all files, at
//!   the same places in every copy.
//!
//! The digest guards against files that were not copied, not against a deliberate change of single bytes.

use playhouse_layout::ModelShape;
use playhouse_types::CheckpointDigest;
use sha2::{Digest, Sha256};

use super::WeightsError;
use super::archive::Archive;
use crate::Checkpoint;

const SAMPLE_BYTES: usize = 4096;
const SAMPLES: usize = 512;

/// Most bytes after the headers that are read.
const SAMPLED_BYTES_MAX: usize = SAMPLES * SAMPLE_BYTES;

/// Returns the [`CheckpointDigest`] that distinguishes a checkpoint from others. The digest covers the meaning
/// of `shape` for the tokens of a model, however `config.json` spells it, and the weights. With the same release
/// of Playhouse, equal checkpoints have equal digests.
///
/// # Errors
/// When the files with the weights are missing or malformed.
pub fn checkpoint_digest(
    checkpoint: &Checkpoint,
    shape: &ModelShape,
) -> Result<CheckpointDigest, WeightsError> {
    let ModelShape { architecture, spec, dtype, .. } = shape;
    let config = Sha256::digest(format!("{architecture} {spec:?} {dtype:?}")).into();
    Ok(CheckpointDigest { config, weights: digest(checkpoint)? })
}

/// Returns the digest of a checkpoint's weights (**WD-1**).
pub(super) fn digest(checkpoint: &Checkpoint) -> Result<[u8; 32], WeightsError> {
    let archive = Archive::open(checkpoint)?;
    let mut sum = Sha256::new();
    let mut bodies = Vec::new();
    for (name, header, body) in archive.parts() {
        for part in [name.as_bytes(), header] {
            sum.update((part.len() as u64).to_le_bytes());
            sum.update(part);
        }
        sum.update((body.len() as u64).to_le_bytes());
        bodies.push(body);
    }
    for (start, length) in samples(bodies.iter().map(|body| body.len()).sum()) {
        sample(&bodies, start, length, |bytes| sum.update(bytes));
    }
    Ok(sum.finalize().into())
}

/// Returns where samples begin and how long they are, in `total` bytes.
fn samples(total: usize) -> Vec<(usize, usize)> {
    if total <= SAMPLED_BYTES_MAX {
        return vec![(0, total)];
    }
    let last = (total - SAMPLE_BYTES) as u128;
    let at = |index: usize| (last * index as u128 / (SAMPLES as u128 - 1)) as usize;
    (0..SAMPLES).map(|index| (at(index), SAMPLE_BYTES)).collect()
}

/// Reads the bytes of a sample of all bodies, as if the bodies followed one another.
fn sample(bodies: &[&[u8]], mut start: usize, mut length: usize, mut see: impl FnMut(&[u8])) {
    for body in bodies {
        let from = start.min(body.len());
        let until = (start + length).min(body.len());
        see(&body[from..until]);
        length -= until - from;
        start = start.saturating_sub(body.len());
        if length == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wd2_samples_are_spread_over_everything_and_bounded() {
        assert_eq!(samples(0), [(0, 0)]);
        assert_eq!(samples(SAMPLED_BYTES_MAX), [(0, SAMPLED_BYTES_MAX)]);
        for total in [SAMPLED_BYTES_MAX + 1, 1 << 34] {
            let samples = samples(total);
            assert_eq!(samples.len(), SAMPLES);
            assert!(samples.is_sorted(), "{total}");
            let (start, length) = samples[SAMPLES - 1];
            assert_eq!((samples[0].0, start + length), (0, total), "the first and the last byte");
        }
    }

    #[test]
    fn a_sample_may_cross_files() {
        let bodies: [&[u8]; 4] = [b"abc", b"", b"def", b"ghi"];
        for (start, length, expected) in [
            (0, 9, "abcdefghi"),
            (2, 3, "cde"),
            (3, 2, "de"),
            (6, 3, "ghi"),
            (8, 1, "i"),
            (0, 0, ""),
        ] {
            let mut seen = Vec::new();
            sample(&bodies, start, length, |bytes| seen.extend_from_slice(bytes));
            assert_eq!(String::from_utf8(seen).expect("letters"), expected);
        }
    }
}
