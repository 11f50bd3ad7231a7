//! The identity of a checkpoint, by which two processes find out whether they hold the same weights.

use std::fmt;

/// Digests of a checkpoint. Processes whose digests differ in either field compute different tokens.
#[derive(
    Clone, Copy, Default, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
pub struct CheckpointDigest {
    /// Digest of the decoder that `config.json` describes.
    pub config: [u8; 32],
    /// Digest of the weight files: of their headers and sizes, and of samples of their bytes.
    pub weights: [u8; 32],
}

// === impl CheckpointDigest ===

impl fmt::Debug for CheckpointDigest {
    /// Shows the first bytes of both digests, enough to tell two checkpoints apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |digest: &[u8; 32]| {
            let [a, b, c, d, ..] = digest;
            format!("{a:02x}{b:02x}{c:02x}{d:02x}")
        };
        let mut digest = f.debug_struct("CheckpointDigest");
        digest.field("config", &short(&self.config));
        digest.field("weights", &short(&self.weights)).finish()
    }
}
