//! API keys and the check of the key that a request brings.
//!
//! Access is denied by default: with a key set, every path requires a key except [`PUBLIC_PATHS`],
//! unknown paths included. `/metrics` is not public, because the names and the traffic of a model are
//! confidential.
//!
//! - **AU-1** the digest of a given key is compared in constant time with that of every key: the time
//!   that a check takes reveals neither a key nor which of the keys was given.
//! - **AU-2** the queued and running requests of a key are bounded, over all connections.
//! - **AU-3** only requests of the same cache group find the cached prefixes of a key with a cache group:
//!   neither times nor counts of cached tokens reveal its prompts to other clients.
//! - **AU-4** keys are replaced all at once or not at all; a key that stays keeps its queued and running
//!   requests.

use std::sync::Arc;

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue};
use parking_lot::RwLock;
use playhouse_cluster::{Client, ClientLimits, FrontDoor};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::gateway_error::GatewayError;

/// Paths that are answered without a key: orchestrators probe them, and they reveal nothing about use.
pub(crate) const PUBLIC_PATHS: &[&str] = &["/livez", "/readyz", "/health", "/version"];

/// An API key with the name and the limits of its holder.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// The key's name, for metrics and logs. No two keys have the same name.
    pub name: String,
    /// The SHA-256 digest of the key.
    pub sha256: [u8; 32],
    /// The bounds on the holder's queued and running requests.
    pub limits: ClientLimits,
    /// The group of keys that share cached prefixes, and share them with no other key. All keys with
    /// `None` share theirs with each other.
    pub cache_group: Option<String>,
}

/// The API keys of a gateway. Cheap to clone; all clones see the same keys.
#[derive(Clone)]
pub struct KeyRing(Arc<Ring>);

struct Ring {
    keys: RwLock<Arc<[Arc<Key>]>>,
    door: FrontDoor,
    /// Makes the salts of groups unpredictable for clients, which could otherwise search for an equal
    /// salt.
    secret: [u64; 2],
}

/// A key and its holder.
pub(crate) struct Key {
    pub(crate) name: String,
    /// The digest of the key, so that neither the key nor its length shows in memory or in timing.
    sha256: [u8; 32],
    limits: ClientLimits,
    cache_group: Option<String>,
    pub(crate) client: Client,
}

// === impl ApiKey ===

impl ApiKey {
    /// Returns a key without limits of its own.
    #[must_use]
    pub fn new(name: impl Into<String>, key: &str) -> Self {
        let limits = ClientLimits::default();
        Self { name: name.into(), sha256: Self::digest(key), limits, cache_group: None }
    }

    /// Returns the SHA-256 digest of a key, for [`ApiKey::sha256`].
    #[must_use]
    pub fn digest(key: &str) -> [u8; 32] {
        Sha256::digest(key).into()
    }
}

// === impl KeyRing ===

impl KeyRing {
    pub(crate) fn new(
        keys: &[ApiKey],
        door: FrontDoor,
        secret: [u64; 2],
    ) -> Result<Self, GatewayError> {
        let ring = Self(Arc::new(Ring { keys: RwLock::default(), door, secret }));
        ring.replace(keys).map(|()| ring)
    }

    /// Replaces all keys: from then on, only `keys` are accepted. Running requests continue. Under the
    /// same name and limits, a new key takes over the queued and running requests of the old one.
    ///
    /// # Errors
    /// Returns [`GatewayError::EmptyApiKey`] or [`GatewayError::SameApiKey`] if a key is empty, or two
    /// have the same name or digest; then nothing is changed.
    pub fn replace(&self, keys: &[ApiKey]) -> Result<(), GatewayError> {
        check_keys(keys)?;
        let before = self.keys();
        let holder = |key: &ApiKey| {
            let ApiKey { name, sha256, limits, cache_group } = key.clone();
            let same = before.iter().find(|key| key.name == name && key.limits == limits);
            let client = same.map_or_else(|| self.0.door.client(&limits), |key| key.client.clone());
            Arc::new(Key { name, sha256, limits, cache_group, client })
        };
        let keys = keys.iter().map(holder).collect();
        *self.0.keys.write() = keys;
        Ok(())
    }

    fn keys(&self) -> Arc<[Arc<Key>]> {
        Arc::clone(&self.0.keys.read())
    }

    /// Returns whether there are no keys, so that every client may use the API.
    pub(crate) fn is_empty(&self) -> bool {
        self.keys().is_empty()
    }

    /// Returns the key that a request brings, as `Authorization: Bearer KEY` or `x-api-key: KEY`.
    pub(crate) fn of(&self, headers: &HeaderMap) -> Option<Arc<Key>> {
        let bearer = headers.get(AUTHORIZATION).and_then(|value| {
            let (scheme, key) = value.as_bytes().split_at_checked("Bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"Bearer ").then_some(key)
        });
        let given = bearer.or_else(|| headers.get("x-api-key").map(HeaderValue::as_bytes))?;
        let digest: [u8; 32] = Sha256::digest(given.trim_ascii()).into();
        let (mut found, mut at) = (Choice::from(0), 0);
        let keys = self.keys();
        for (index, key) in keys.iter().enumerate() {
            let same = digest.ct_eq(&key.sha256);
            at = u64::conditional_select(&at, &(index as u64), same);
            found |= same;
        }
        keys.get(usize::try_from(at).ok()?).filter(|_| found.into()).cloned()
    }

    /// Returns the salt of the cached prefixes of a key's requests with this `cache_salt` (**AU-3**).
    pub(crate) fn salt(&self, key: Option<&Key>, cache_salt: u64) -> u64 {
        let Some(group) = key.and_then(|key| key.cache_group.as_ref()) else { return cache_salt };
        let [first, second] = self.0.secret.map(u64::to_le_bytes);
        let digest = Sha256::new().chain_update(first).chain_update(second);
        let digest = digest.chain_update(cache_salt.to_le_bytes()).chain_update(group).finalize();
        let (head, _) = digest.split_first_chunk().expect("32 bytes");
        u64::from_le_bytes(*head)
    }
}

/// Checks that no key is empty, and that no two have the same name or digest.
fn check_keys(keys: &[ApiKey]) -> Result<(), GatewayError> {
    let empty = ApiKey::digest("");
    if let Some(key) = keys.iter().find(|key| key.sha256 == empty) {
        return Err(GatewayError::EmptyApiKey(key.name.clone()));
    }
    for (at, key) in keys.iter().enumerate() {
        let same = |other: &&ApiKey| other.name == key.name || other.sha256 == key.sha256;
        if let Some(other) = keys[..at].iter().find(same) {
            return Err(GatewayError::SameApiKey(other.name.clone(), key.name.clone()));
        }
    }
    Ok(())
}
