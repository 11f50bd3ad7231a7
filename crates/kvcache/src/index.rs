//! Finding a block by what it contains.

use playhouse_types::{BlockId, PrefixEvent};

use crate::BlockHash;

/// The end of a chain.
const NONE: u32 = u32::MAX;

/// A hash table from [`BlockHash`] to [`BlockId`], chained through an array with one entry per block.
///
/// A block has at most one name and there are at most as many names as blocks, so the table never
/// grows, and never moves an entry. A prefill inserts and evicts hundreds of names per step, at random
/// places, so what counts is how much memory they are spread over: 4 bytes per chain, where the
/// standard map spreads whole names. That halves the p99 of `benches/plan_step.rs` of the scheduler.
#[derive(Debug)]
pub(crate) struct PrefixIndex {
    /// The first block of each chain; a power of two of them, one to two per block.
    heads: Vec<u32>,
    entries: Vec<Entry>,
    /// Blocks with a name.
    len: usize,
    untold: Untold,
}

#[derive(Clone, Debug)]
struct Entry {
    name: Option<BlockHash>,
    /// The next block of the chain.
    next: u32,
}

/// Blocks whose name may not be the one that events told of them.
///
/// A block is noted once, and its name is read when events are taken. So this never has more than one
/// entry per block, and nobody has to take events.
#[derive(Debug)]
struct Untold {
    /// No event has been taken.
    everything: bool,
    blocks: Vec<BlockId>,
    /// Whether a block is in `blocks`.
    noted: Vec<bool>,
    /// What events told of each block.
    told: Vec<Option<u64>>,
}

// === impl PrefixIndex ===

impl PrefixIndex {
    pub(crate) fn new(blocks: usize) -> Self {
        let heads = vec![NONE; blocks.next_power_of_two()];
        let entries = vec![Entry { name: None, next: NONE }; blocks];
        Self { heads, entries, len: 0, untold: Untold::new(blocks) }
    }

    pub(crate) fn name(&self, block: BlockId) -> Option<BlockHash> {
        self.entries[block.0 as usize].name
    }

    pub(crate) fn find(&self, name: &BlockHash) -> Option<BlockId> {
        self.chain(self.head(name)).find(|&block| self.name(block).as_ref() == Some(name))
    }

    /// Gives a block its name, unless another has that name.
    pub(crate) fn insert(&mut self, block: BlockId, name: BlockHash) {
        if self.find(&name).is_some() {
            return;
        }
        let head = self.head(&name);
        let entry = &mut self.entries[block.0 as usize];
        assert!(entry.name.is_none(), "{block} is given a second name");
        *entry = Entry { name: Some(name), next: self.heads[head] };
        self.heads[head] = block.0;
        self.len += 1;
        self.untold.note(block);
    }

    /// Takes its name from a block. Returns whether it had one.
    pub(crate) fn remove(&mut self, block: BlockId) -> bool {
        let Some(name) = self.entries[block.0 as usize].name.take() else { return false };
        let next = std::mem::replace(&mut self.entries[block.0 as usize].next, NONE);
        let head = self.head(&name);
        let before = self.chain(head).take_while(|&other| other != block).last();
        match before {
            None => self.heads[head] = next,
            Some(before) => self.entries[before.0 as usize].next = next,
        }
        self.len -= 1;
        self.untold.note(block);
        true
    }

    /// What has changed since events were taken. A name may have gone from one block to another, so
    /// removals come first.
    pub(crate) fn take_events(&mut self) -> Vec<PrefixEvent> {
        let (mut removed, mut stored) = (Vec::new(), Vec::new());
        let Untold { everything, blocks, noted, told } = &mut self.untold;
        for block in blocks.drain(..) {
            let at = block.0 as usize;
            noted[at] = false;
            let name = self.entries[at].name.as_ref().map(BlockHash::short);
            let told = std::mem::replace(&mut told[at], name);
            if told != name {
                removed.extend(told);
                stored.extend(name);
            }
        }
        let reset = std::mem::take(everything).then_some(PrefixEvent::Reset);
        let removed = cut(&removed).map(PrefixEvent::Removed);
        let stored = cut(&stored).map(PrefixEvent::Stored);
        reset.into_iter().chain(removed).chain(stored).collect()
    }

    /// All names, after a reset. Events taken later go on from here.
    pub(crate) fn snapshot(&mut self) -> Vec<PrefixEvent> {
        self.take_events();
        let stored: Vec<u64> = self.untold.told.iter().copied().flatten().collect();
        let stored = cut(&stored).map(PrefixEvent::Stored);
        std::iter::once(PrefixEvent::Reset).chain(stored).collect()
    }

    /// Panics unless every named block, and no other, is found by its name.
    pub(crate) fn check(&self) {
        let chained: usize = (0..self.heads.len()).map(|head| self.chain(head).count()).sum();
        assert_eq!(chained, self.len, "KV-5: blocks in chains, names");
        for (block, entry) in (0..).map(BlockId).zip(&self.entries) {
            if let Some(name) = &entry.name {
                assert_eq!(self.find(name), Some(block), "KV-5: the block found by its name");
            }
        }
        let named = self.entries.iter().filter(|entry| entry.name.is_some()).count();
        assert_eq!(named, self.len, "KV-5: blocks with a name, names");
    }

    /// Digests are uniform, so some of their bits are hash enough.
    fn head(&self, name: &BlockHash) -> usize {
        name.short() as usize & (self.heads.len() - 1)
    }

    fn chain(&self, head: usize) -> impl Iterator<Item = BlockId> {
        let present = |block: u32| (block != NONE).then_some(BlockId(block));
        let first = present(self.heads[head]);
        std::iter::successors(first, move |at| present(self.entries[at.0 as usize].next))
    }
}

// === impl Untold ===

impl Untold {
    fn new(blocks: usize) -> Self {
        let (noted, told) = (vec![false; blocks], vec![None; blocks]);
        Self { everything: true, blocks: Vec::with_capacity(blocks), noted, told }
    }

    fn note(&mut self, block: BlockId) {
        if !std::mem::replace(&mut self.noted[block.0 as usize], true) {
            self.blocks.push(block);
        }
    }
}

fn cut(names: &[u64]) -> impl Iterator<Item = Vec<u64>> {
    names.chunks(PrefixEvent::BLOCKS_MAX).map(<[u64]>::to_vec)
}

#[cfg(test)]
mod tests {
    use playhouse_types::BlockSize;

    use super::*;
    use crate::HashChain;

    #[test]
    fn names_are_found_until_they_are_removed_in_any_order() {
        let mut chain = HashChain::new(0, BlockSize::CPU);
        chain.extend(&(0..16 * 32).collect::<Vec<_>>());
        let names = chain.hashes();
        let mut index = PrefixIndex::new(32);
        for (block, &name) in (0..).map(BlockId).zip(names) {
            index.insert(block, name);
            index.check();
        }
        // 32 names on 32 heads: some chains are longer than one.
        assert!(index.heads.contains(&NONE));
        for at in (0..32).map(|at| at * 13 % 32) {
            assert_eq!(index.find(&names[at]), Some(BlockId(at as u32)));
            assert!(index.remove(BlockId(at as u32)));
            assert!(!index.remove(BlockId(at as u32)));
            assert_eq!(index.find(&names[at]), None);
            index.check();
        }
        assert_eq!(index.len, 0);
    }

    #[test]
    fn kv_5_a_name_stays_with_its_first_block() {
        let mut chain = HashChain::new(0, BlockSize::CPU);
        chain.extend(&[0; 32]);
        let [first, second] = *chain.hashes() else { unreachable!("two blocks") };
        let mut index = PrefixIndex::new(2);
        index.insert(BlockId(0), first);
        index.insert(BlockId(1), first);
        assert_eq!((index.find(&first), index.name(BlockId(1))), (Some(BlockId(0)), None));
        index.insert(BlockId(1), second);
        index.check();
    }
}
