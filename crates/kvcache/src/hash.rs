//! The names of full blocks: digests chained over everything before a block.

use playhouse_types::{BlockSize, TokenId};
use sha2::{Digest, Sha256};

/// The prefix that separates these digests from any other use of SHA-256 over similar bytes.
const DOMAIN: &[u8] = b"playhouse kv block";

/// The number of tokens that are given to the digest at once: one block of SHA-256.
const PART_TOKENS: usize = 16;

/// The digest of a full block and of all blocks before it, salt included.
///
/// The first 128 bits of `SHA-256(parent || tokens as little-endian u32)`. The parent of the first
/// block is the digest of the salt alone. Two different prefixes share a hash with a probability
/// of 2⁻¹²⁸, and finding such a pair on purpose takes about 2⁶⁴ digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHash([u8; 16]);

/// The hashes of one sequence, extended as its tokens become known.
#[derive(Clone, Debug)]
pub struct HashChain {
    block_size: BlockSize,
    parent: BlockHash,
    hashes: Vec<BlockHash>,
    /// The tokens after the last full block; fewer than a block has.
    tail: Vec<TokenId>,
}

// === impl BlockHash ===

impl BlockHash {
    fn root(salt: u64) -> Self {
        Self::truncated(Sha256::new().chain_update(DOMAIN).chain_update(salt.to_le_bytes()))
    }

    fn child(self, tokens: &[TokenId]) -> Self {
        let mut digest = Sha256::new().chain_update(self.0);
        for part in tokens.chunks(PART_TOKENS) {
            let mut bytes = [0; 4 * PART_TOKENS];
            for (place, token) in bytes.chunks_exact_mut(4).zip(part) {
                place.copy_from_slice(&token.to_le_bytes());
            }
            digest.update(&bytes[..4 * part.len()]);
        }
        Self::truncated(digest)
    }

    /// Returns the first 64 bits: the name of the block in a
    /// [`PrefixEvent`](playhouse_types::PrefixEvent), and more than a hash table needs.
    #[must_use]
    pub fn short(&self) -> u64 {
        let Self([a, b, c, d, e, f, g, h, ..]) = *self;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    fn truncated(digest: Sha256) -> Self {
        let digest = digest.finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Self(bytes)
    }
}

// === impl HashChain ===

impl HashChain {
    /// Creates the chain of an empty sequence. Only sequences with the same `salt` and `block_size` can
    /// share blocks.
    #[must_use]
    pub fn new(salt: u64, block_size: BlockSize) -> Self {
        let tail = Vec::with_capacity(block_size.tokens());
        Self { block_size, parent: BlockHash::root(salt), hashes: Vec::new(), tail }
    }

    /// Appends tokens; every block that they fill gets its hash.
    pub fn extend(&mut self, mut tokens: &[TokenId]) {
        while self.tail.len() + tokens.len() >= self.block_size.tokens() {
            let (fill, rest) = tokens.split_at(self.block_size.tokens() - self.tail.len());
            self.tail.extend_from_slice(fill);
            self.parent = self.parent.child(&self.tail);
            self.hashes.push(self.parent);
            self.tail.clear();
            tokens = rest;
        }
        self.tail.extend_from_slice(tokens);
    }

    /// Returns the hashes of the full blocks, first to last.
    #[must_use]
    pub fn hashes(&self) -> &[BlockHash] {
        &self.hashes
    }

    /// Returns the number of tokens appended so far, those after the last full block included.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.hashes.len() * self.block_size.tokens() + self.tail.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(salt: u64, tokens: &[TokenId]) -> HashChain {
        let mut chain = HashChain::new(salt, BlockSize::CPU);
        chain.extend(tokens);
        chain
    }

    #[test]
    fn only_full_blocks_have_a_hash() {
        let tokens: Vec<TokenId> = (0..40).collect();
        for (known, full) in [(0, 0), (15, 0), (16, 1), (17, 1), (32, 2), (40, 2)] {
            let chain = chain(0, &tokens[..known]);
            assert_eq!((chain.hashes().len(), chain.tokens()), (full, known));
        }
    }

    #[test]
    fn hashes_do_not_depend_on_how_tokens_arrive() {
        let tokens: Vec<TokenId> = (0..100).collect();
        let whole = chain(7, &tokens);
        for piece in [1, 3, 15, 16, 17, 33] {
            let mut pieces = HashChain::new(7, BlockSize::CPU);
            tokens.chunks(piece).for_each(|tokens| pieces.extend(tokens));
            assert_eq!(pieces.hashes(), whole.hashes(), "pieces of {piece}");
        }
    }

    /// KV-4: a hash names the block, everything before it, and the salt.
    #[test]
    fn one_changed_token_or_salt_changes_every_hash_after_it() {
        let tokens: Vec<TokenId> = (0..64).collect();
        let plain = chain(0, &tokens);
        let mut changed = tokens.clone();
        changed[20] = 999;
        let changed = chain(0, &changed);
        assert_eq!(plain.hashes()[0], changed.hashes()[0]);
        for block in 1..4 {
            assert_ne!(plain.hashes()[block], changed.hashes()[block]);
        }
        let salted = chain(1, &tokens);
        for block in 0..4 {
            assert_ne!(plain.hashes()[block], salted.hashes()[block]);
        }
    }

    /// Replicas of different builds must agree on the names of blocks.
    #[test]
    fn the_digest_is_what_it_always_was() {
        let chain = chain(0, &(0..16).collect::<Vec<_>>());
        let digest = u128::from_be_bytes(chain.hashes()[0].0);
        assert_eq!(format!("{digest:032x}"), "269bbd3e86b31d3eb29751fa8e084f67");
        let short = u64::from_be_bytes(chain.hashes()[0].short().to_le_bytes());
        assert_eq!(format!("{short:016x}"), "269bbd3e86b31d3e");
    }
}
