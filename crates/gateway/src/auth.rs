//! Who may ask.
//!
//! Deny by default: with a key set, every path asks for it but [`PUBLIC_PATHS`], unknown paths
//! included. `/metrics` is not public: names and traffic of a model are not for everyone.

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Answered without a key: orchestrators probe them, and they tell nothing about use.
pub(crate) const PUBLIC_PATHS: &[&str] = &["/livez", "/readyz", "/health", "/version"];

/// The digest of the key, so that neither the key nor its length shows in memory or in timing.
pub(crate) struct ApiKey([u8; 32]);

// === impl ApiKey ===

impl ApiKey {
    pub(crate) fn new(key: &str) -> Self {
        Self(Sha256::digest(key).into())
    }

    /// Whether a request brings the key, as `Authorization: Bearer KEY` or `x-api-key: KEY`.
    pub(crate) fn admits(&self, headers: &HeaderMap) -> bool {
        let bearer = headers.get(AUTHORIZATION).and_then(|value| {
            let (scheme, key) = value.as_bytes().split_at_checked("Bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"Bearer ").then_some(key)
        });
        let given = bearer.or_else(|| headers.get("x-api-key").map(HeaderValue::as_bytes));
        given.is_some_and(|key| {
            let digest: [u8; 32] = Sha256::digest(key.trim_ascii()).into();
            digest.ct_eq(&self.0).into()
        })
    }
}
