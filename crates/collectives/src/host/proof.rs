//! HMAC-SHA256 under a group's secret (RFC 2104). The secret itself never leaves the process.

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use crate::Secret;

/// A proof in the making.
pub(super) type Proof = Hmac<Sha256>;

/// A proof for one purpose: proofs for different purposes never match.
pub(super) fn keyed(secret: &Secret, purpose: &str) -> Proof {
    let mut proof = Proof::new_from_slice(&secret.0).expect("HMAC takes keys of any length");
    proof.update(purpose.as_bytes());
    proof.update(&[0]);
    proof
}
