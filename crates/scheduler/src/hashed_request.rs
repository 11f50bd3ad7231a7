//! A request with the names of its blocks.

use playhouse_kvcache::{BlockHash, HashChain};
use playhouse_types::{BlockSize, GenerateRequest};

use crate::Limits;

/// A request whose prompt was hashed, once, for everybody who looks for its blocks: the router, and one
/// scheduler after the other.
#[derive(Clone, Debug)]
pub struct HashedRequest {
    /// What was asked for.
    pub request: GenerateRequest,
    block_size: BlockSize,
    /// `None` without prefix caching.
    chain: Option<HashChain>,
}

// === impl HashedRequest ===

impl HashedRequest {
    /// Hashes the prompt, if blocks are shared.
    #[must_use]
    pub fn new(request: GenerateRequest, limits: &Limits) -> Self {
        let chain = limits.prefix_caching.then(|| {
            let mut chain = HashChain::new(request.cache_salt, limits.block_size);
            chain.extend(&request.prompt);
            chain
        });
        Self { request, block_size: limits.block_size, chain }
    }

    /// Names of the full blocks of the prompt, in order; none without prefix caching.
    #[must_use]
    pub fn hashes(&self) -> &[BlockHash] {
        self.chain.as_ref().map_or(&[], HashChain::hashes)
    }

    /// Tokens of each of those blocks.
    #[must_use]
    pub fn block_size(&self) -> BlockSize {
        self.block_size
    }

    pub(crate) fn into_parts(self) -> (GenerateRequest, Option<HashChain>) {
        (self.request, self.chain)
    }
}
