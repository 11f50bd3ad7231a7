//! Which checkpoint somebody has.

use std::fmt;

/// Digests of a checkpoint. Whoever has another one of either computes other tokens.
#[derive(
    Clone, Copy, Default, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
pub struct CheckpointDigest {
    /// Of the decoder that `config.json` describes.
    pub config: [u8; 32],
    /// Of the files with weights: their headers and sizes, and samples of their bytes.
    pub weights: [u8; 32],
}

// === impl CheckpointDigest ===

impl fmt::Debug for CheckpointDigest {
    /// The first bytes, which tell two apart.
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
