//! The check of the admin token.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The digest of the token, so that neither the token nor its length shows in memory or in timing.
pub(crate) struct AdminToken([u8; 32]);

// === impl AdminToken ===

impl AdminToken {
    pub(crate) fn new(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// Returns whether a request brings the token, as `Authorization: Bearer TOKEN`. A request without a
    /// token is never admitted, even if the configured token is empty.
    pub(crate) fn admits(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(AUTHORIZATION).and_then(|value| {
            let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
        });
        given.is_some_and(|token| {
            let digest: [u8; 32] = Sha256::digest(token).into();
            !token.is_empty() && bool::from(digest.ct_eq(&self.0))
        })
    }
}
