//! [`BlockPool`]: the holders of blocks, and which blocks can be found by content.

use playhouse_types::{BlockId, BlockSize, PrefixEvent};

use crate::free_list::FreeList;
use crate::index::PrefixIndex;
use crate::{BlockHash, HashChain};

#[cfg(test)]
mod tests;

/// The pool of all KV blocks of a replica.
///
/// Calls come in pairs of a question and an act: [`can_take`](Self::can_take) before
/// [`take`](Self::take), [`lookup`](Self::lookup) and [`can_admit`](Self::can_admit) before
/// [`admit`](Self::admit). An act whose question was not asked panics rather than half succeeds.
#[derive(Debug)]
pub struct BlockPool {
    block_size: BlockSize,
    /// The number of sequences that hold each block.
    holders: Vec<u32>,
    /// The blocks with no holder, exactly: first those without a name, then those with one.
    unheld: FreeList,
    /// The names of published blocks.
    index: PrefixIndex,
    /// The number of blocks with a name and no holder.
    cached: usize,
    queried_tokens: u64,
    hit_tokens: u64,
}

/// The blocks at the start of a sequence that are in the cache already.
///
/// A prefix is valid until the pool changes: [`BlockPool::admit`] it at once or look it up again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefix {
    /// The blocks, ordered by position; each is full.
    pub blocks: Vec<BlockId>,
    /// The number of tokens that were looked up; 0 when the lookup was not allowed to find any.
    queried_tokens: usize,
}

/// The counts of a pool. The first three are gauges in blocks, the others counters in tokens that
/// outlive [`BlockPool::clear`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// The number of all blocks.
    pub total: usize,
    /// The number of blocks that some sequence holds.
    pub held: usize,
    /// The number of blocks without a holder that a lookup can find.
    pub cached: usize,
    /// The number of tokens of admitted sequences that were looked up in the index.
    pub queried_tokens: u64,
    /// The number of those tokens that were found.
    pub hit_tokens: u64,
}

// === impl BlockPool ===

impl BlockPool {
    /// Creates a pool of `blocks` free blocks of `block_size`, by which chains must be hashed too.
    ///
    /// # Panics
    /// If `blocks` is 0 or `u32::MAX`.
    #[must_use]
    pub fn new(blocks: u32, block_size: BlockSize) -> Self {
        assert!(blocks > 0, "a pool needs at least one block");
        Self {
            block_size,
            holders: vec![0; blocks as usize],
            unheld: FreeList::full(blocks),
            index: PrefixIndex::new(blocks as usize),
            cached: 0,
            queried_tokens: 0,
            hit_tokens: 0,
        }
    }

    /// Returns the longest cached prefix of a sequence: whole blocks, at most `tokens_max` tokens and
    /// always fewer than the chain has, so that something remains to compute (**KV-4**).
    ///
    /// A lookup costs one index probe per hit, plus one.
    #[must_use]
    pub fn lookup(&self, chain: &HashChain, tokens_max: usize) -> Prefix {
        let tokens_max = tokens_max.min(chain.tokens().saturating_sub(1));
        let hashes = &chain.hashes()[..self.block_size.full_blocks(tokens_max)];
        let blocks = hashes.iter().map_while(|hash| self.index.find(hash)).collect();
        let queried_tokens = if hashes.is_empty() { 0 } else { chain.tokens() };
        Prefix { blocks, queried_tokens }
    }

    /// Returns whether a prefix can be held and `new` more blocks taken at the same time.
    #[must_use]
    pub fn can_admit(&self, prefix: &Prefix, new: usize) -> bool {
        let revived = prefix.blocks.iter().filter(|block| self.holders[block.0 as usize] == 0);
        revived.count() + new <= self.unheld.len()
    }

    /// Holds the blocks of a prefix for one more sequence, then takes `new` blocks and returns the new
    /// ones.
    ///
    /// # Panics
    /// If there is no room (see [`can_admit`](Self::can_admit)), or the prefix is stale.
    pub fn admit(&mut self, prefix: &Prefix, new: usize) -> Vec<BlockId> {
        for &block in &prefix.blocks {
            self.hold(block);
        }
        self.queried_tokens += prefix.queried_tokens as u64;
        self.hit_tokens += (prefix.blocks.len() * self.block_size.tokens()) as u64;
        self.take(new)
    }

    /// Returns whether `new` blocks can be taken.
    #[must_use]
    pub fn can_take(&self, new: usize) -> bool {
        new <= self.unheld.len()
    }

    /// Takes blocks for one sequence; their content is forgotten (**KV-2**).
    ///
    /// # Panics
    /// If there are too few (see [`can_take`](Self::can_take)).
    pub fn take(&mut self, new: usize) -> Vec<BlockId> {
        assert!(self.can_take(new), "{new} blocks wanted, {} are not held", self.unheld.len());
        (0..new).map(|_| self.take_one()).collect()
    }

    /// Makes a held, full and computed block findable. Has no effect when the index has a block of that
    /// name already (**KV-5**).
    ///
    /// # Panics
    /// If no sequence holds the block, or it was published before under another name.
    pub fn publish(&mut self, block: BlockId, hash: BlockHash) {
        assert!(self.holders[block.0 as usize] > 0, "{block} is published but nobody holds it");
        self.index.insert(block, hash);
    }

    /// Gives up one sequence's hold on its blocks, listed in order of position.
    ///
    /// The blocks become reusable from the tail: a prefix is useful without its tail, never the reverse.
    /// Blocks that no lookup can find are reused before any cached one.
    ///
    /// # Panics
    /// If a block is not held.
    pub fn release(&mut self, blocks: &[BlockId]) {
        for &block in blocks.iter().rev() {
            let holders = &mut self.holders[block.0 as usize];
            assert!(*holders > 0, "{block} is released but nobody holds it");
            *holders -= 1;
            if *holders > 0 {
                continue;
            }
            if self.index.name(block).is_some() {
                self.unheld.push_back(block);
                self.cached += 1;
            } else {
                self.unheld.push_front(block);
            }
        }
    }

    /// Returns the changes of the index since the last call, as at most one list of removed and one of
    /// stored blocks, each cut where [`PrefixEvent::BLOCKS_MAX`] says. The first call, and the first
    /// after [`clear`](Self::clear), begins with a reset (**KV-7**).
    ///
    /// The cost is O(1) per block that has changed; nothing is lost without calls.
    pub fn take_events(&mut self) -> Vec<PrefixEvent> {
        self.index.take_events()
    }

    /// Returns the whole index, for a reader that lost events or is new. The result takes the place of
    /// what [`take_events`](Self::take_events) would have returned. O(blocks).
    pub fn snapshot(&mut self) -> Vec<PrefixEvent> {
        self.index.snapshot()
    }

    /// Forgets every holder and every content: the device memory behind the blocks is gone.
    pub fn clear(&mut self) {
        let blocks = u32::try_from(self.holders.len()).expect("built from a u32");
        self.replace(blocks);
    }

    /// Forgets every holder and every content, as [`clear`](Self::clear) does, and changes the number of
    /// blocks: the device memory behind them was allocated anew.
    ///
    /// # Panics
    /// If `blocks` is 0 or `u32::MAX`.
    pub fn replace(&mut self, blocks: u32) {
        let Self { block_size, queried_tokens, hit_tokens, .. } = *self;
        *self = Self { queried_tokens, hit_tokens, ..Self::new(blocks, block_size) };
    }

    /// Returns the counts of the pool, in O(1).
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        PoolStats {
            total: self.holders.len(),
            held: self.holders.len() - self.unheld.len(),
            cached: self.cached,
            queried_tokens: self.queried_tokens,
            hit_tokens: self.hit_tokens,
        }
    }

    /// Panics unless KV-1, KV-2 and KV-3 hold, given the block table of every holder. O(blocks);
    /// for tests and for moments when a replica has nothing else to do.
    ///
    /// # Panics
    /// With the block and both values when the books do not balance.
    pub fn check<'a>(&self, tables: impl IntoIterator<Item = &'a [BlockId]>) {
        let mut holders = vec![0; self.holders.len()];
        for block in tables.into_iter().flatten() {
            holders[block.0 as usize] += 1;
        }
        assert_eq!(self.holders, holders, "KV-3: holders of each block, in the pool and in tables");
        let unheld: Vec<BlockId> = self.unheld.iter().collect();
        let without_holder = holders.iter().filter(|&&holders| holders == 0).count();
        assert_eq!(unheld.len(), without_holder, "KV-1: blocks in the list, blocks not held");
        assert_eq!(unheld.len(), self.unheld.len(), "KV-1: blocks in the list, its length");
        for block in &unheld {
            assert_eq!(holders[block.0 as usize], 0, "KV-1: {block} is in the list, but held");
        }
        let is_cached = |block: &BlockId| self.index.name(*block).is_some();
        assert!(
            unheld.is_sorted_by_key(is_cached),
            "KV-2: a cached block stands before a free one: {unheld:?}"
        );
        let cached = unheld.iter().copied().filter(is_cached).count();
        assert_eq!(self.cached, cached, "KV-1: cached blocks, as counted and as listed");
        self.index.check();
    }

    fn hold(&mut self, block: BlockId) {
        assert!(self.index.name(block).is_some(), "{block} was evicted after it was looked up");
        let holders = &mut self.holders[block.0 as usize];
        if *holders == 0 {
            self.unheld.remove(block);
            self.cached -= 1;
        }
        *holders += 1;
    }

    fn take_one(&mut self) -> BlockId {
        let block = self.unheld.pop_front().expect("the caller counted the blocks");
        self.holders[block.0 as usize] = 1;
        self.cached -= usize::from(self.index.remove(block));
        block
    }
}
