//! HMAC-SHA256 under a group's secret (RFC 2104). The secret itself never leaves the process.

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use crate::Secret;

/// The HMAC of a proof that is being computed.
pub(super) type Proof = Hmac<Sha256>;

/// Begins a proof for one purpose: proofs for different purposes never match.
pub(super) fn keyed(secret: &Secret, purpose: &str) -> Proof {
    let mut proof = Proof::new_from_slice(&secret.0).expect("HMAC takes keys of any length");
    proof.update(purpose.as_bytes());
    proof.update(&[0]);
    proof
}
