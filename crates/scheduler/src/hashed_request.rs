//! [`HashedRequest`]: a request with the names of its prompt's blocks.

use playhouse_kvcache::{BlockHash, HashChain};
use playhouse_types::{BlockSize, GenerateRequest};

use crate::Limits;

/// A request whose prompt is hashed once, for every part that looks for its blocks: the router, and one
/// scheduler after the other.
#[derive(Clone, Debug)]
pub struct HashedRequest {
    /// The request as it was asked for.
    pub request: GenerateRequest,
    block_size: BlockSize,
    /// The hashes of the prompt; `None` without prefix caching.
    chain: Option<HashChain>,
}

// === impl HashedRequest ===

impl HashedRequest {
    /// Creates a hashed request. The prompt is hashed only if blocks are shared.
    #[must_use]
    pub fn new(request: GenerateRequest, limits: &Limits) -> Self {
        let chain = limits.prefix_caching.then(|| {
            let mut chain = HashChain::new(request.cache_salt, limits.block_size);
            chain.extend(&request.prompt);
            chain
        });
        Self { request, block_size: limits.block_size, chain }
    }

    /// Returns the names of the full blocks of the prompt, in order; none without prefix caching.
    #[must_use]
    pub fn hashes(&self) -> &[BlockHash] {
        self.chain.as_ref().map_or(&[], HashChain::hashes)
    }

    /// Returns the number of tokens of each of those blocks.
    #[must_use]
    pub fn block_size(&self) -> BlockSize {
        self.block_size
    }

    pub(crate) fn into_parts(self) -> (GenerateRequest, Option<HashChain>) {
        (self.request, self.chain)
    }
}
