//! The index of a pool: finds a block by its content.

use hashbrown::HashTable;
use playhouse_types::{BlockId, PrefixEvent};

use crate::BlockHash;

/// A hash table from [`BlockHash`] to [`BlockId`] that holds the ids alone; an array holds the name of
/// each block.
///
/// A prefill inserts and evicts hundreds of names per step, at random places, so what counts is how much
/// memory they are spread over: 5 bytes per place of the table, where a map with names as keys spreads
/// those. That halves the p99 of `benches/plan_step.rs` of the scheduler.
#[derive(Debug)]
pub(crate) struct PrefixIndex {
    names: Vec<Option<BlockHash>>,
    /// The blocks with a name.
    named: HashTable<BlockId>,
    untold: Untold,
}

/// The blocks whose present name may differ from the name in events.
///
/// A block is noted once, and its name is read when events are taken. So this list never has more than
/// one entry per block, and events need not be taken.
#[derive(Debug)]
struct Untold {
    /// Whether no event has been taken yet.
    everything: bool,
    blocks: Vec<BlockId>,
    /// Whether a block is in `blocks`.
    noted: Vec<bool>,
    /// The name of each block in the events so far.
    told: Vec<Option<u64>>,
}

// === impl PrefixIndex ===

impl PrefixIndex {
    pub(crate) fn new(blocks: usize) -> Self {
        // A block has at most one name. Twice the room, so that a table in which names come and go for
        // ever neither grows nor has to be put in order in the middle of a step.
        let (names, named) = (vec![None; blocks], HashTable::with_capacity(2 * blocks));
        Self { names, named, untold: Untold::new(blocks) }
    }

    pub(crate) fn name(&self, block: BlockId) -> Option<BlockHash> {
        self.names[block.0 as usize]
    }

    pub(crate) fn find(&self, name: &BlockHash) -> Option<BlockId> {
        let is_it = |block: &BlockId| self.name(*block).as_ref() == Some(name);
        self.named.find(name.short(), is_it).copied()
    }

    /// Gives a block its name, unless another has that name.
    pub(crate) fn insert(&mut self, block: BlockId, name: BlockHash) {
        if self.find(&name).is_some() {
            return;
        }
        let own = &mut self.names[block.0 as usize];
        assert!(own.is_none(), "{block} is given a second name");
        *own = Some(name);
        let names = &self.names;
        self.named.insert_unique(name.short(), block, |block| short(names, *block));
        self.untold.note(block);
    }

    /// Takes the name of a block away. Returns whether the block had one.
    pub(crate) fn remove(&mut self, block: BlockId) -> bool {
        let Some(name) = self.names[block.0 as usize].take() else { return false };
        let found = self.named.find_entry(name.short(), |other| *other == block);
        found.expect("a named block is in the table").remove();
        self.untold.note(block);
        true
    }

    /// Returns the changes since events were taken. A name may have gone from one block to another, so
    /// removals come first.
    pub(crate) fn take_events(&mut self) -> Vec<PrefixEvent> {
        let (mut removed, mut stored) = (Vec::new(), Vec::new());
        let Untold { everything, blocks, noted, told } = &mut self.untold;
        for block in blocks.drain(..) {
            let at = block.0 as usize;
            noted[at] = false;
            let name = self.names[at].as_ref().map(BlockHash::short);
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

    /// Returns all names, after a reset. Events taken later go on from here.
    pub(crate) fn snapshot(&mut self) -> Vec<PrefixEvent> {
        self.take_events();
        let stored: Vec<u64> = self.untold.told.iter().copied().flatten().collect();
        let stored = cut(&stored).map(PrefixEvent::Stored);
        std::iter::once(PrefixEvent::Reset).chain(stored).collect()
    }

    /// Panics unless every named block, and no other, is found by its name.
    pub(crate) fn check(&self) {
        for (block, name) in (0..).map(BlockId).zip(&self.names) {
            if let Some(name) = name {
                assert_eq!(self.find(name), Some(block), "KV-5: the block found by its name");
            }
        }
        let named = self.names.iter().flatten().count();
        assert_eq!(named, self.named.len(), "KV-5: blocks with a name, names");
    }
}

/// Returns the hash of a block's name for the table. Digests are uniform, so some of their bits are hash
/// enough.
fn short(names: &[Option<BlockHash>], block: BlockId) -> u64 {
    names[block.0 as usize].as_ref().expect("a block in the table has a name").short()
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
        let room = index.named.capacity();
        for (block, &name) in (0..).map(BlockId).zip(names) {
            index.insert(block, name);
            index.check();
        }
        for at in (0..32).map(|at| at * 13 % 32) {
            assert_eq!(index.find(&names[at]), Some(BlockId(at as u32)));
            assert!(index.remove(BlockId(at as u32)));
            assert!(!index.remove(BlockId(at as u32)));
            assert_eq!(index.find(&names[at]), None);
            index.check();
        }
        assert_eq!((index.named.len(), index.named.capacity()), (0, room));
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
