//! The index of prefixes: which replicas have which blocks.

use hashbrown::HashTable;
use playhouse_types::splitmix64;

/// The number of replicas that share a table: as many as one word has bits.
const GROUP: usize = 64;

/// The names of blocks, with the set of replicas that have each block.
///
/// A replica is a *slot*, counted from 0. Every 64 slots have a table of their own, so that a set is
/// one word. An entry without a replica is removed.
#[derive(Debug)]
pub(crate) struct PrefixIndex {
    seed: u64,
    groups: Vec<HashTable<Entry>>,
    /// The number of blocks of each slot.
    blocks: Vec<usize>,
}

/// A block in a table.
#[derive(Debug)]
struct Entry {
    name: u64,
    /// A set of bits, one for each slot that has the block.
    holders: u64,
}

// === impl PrefixIndex ===

impl PrefixIndex {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, groups: Vec::new(), blocks: Vec::new() }
    }

    /// Makes room for slots below `slots`.
    pub(crate) fn grow(&mut self, slots: usize) {
        let groups = slots.div_ceil(GROUP).max(self.groups.len());
        self.groups.resize_with(groups, HashTable::new);
        self.blocks.resize(slots.max(self.blocks.len()), 0);
    }

    pub(crate) fn store(&mut self, slot: usize, names: &[u64]) {
        let (group, bit) = place(slot);
        let seed = self.seed;
        for &name in names {
            let is_it = |entry: &Entry| entry.name == name;
            let rehash = |entry: &Entry| hash(seed, entry.name);
            let entry = self.groups[group].entry(hash(seed, name), is_it, rehash);
            let entry = entry.or_insert(Entry { name, holders: 0 }).into_mut();
            self.blocks[slot] += usize::from(entry.holders & bit == 0);
            entry.holders |= bit;
        }
    }

    pub(crate) fn remove(&mut self, slot: usize, names: &[u64]) {
        let (group, bit) = place(slot);
        for &name in names {
            let is_it = |entry: &Entry| entry.name == name;
            let found = self.groups[group].find_entry(hash(self.seed, name), is_it);
            let Ok(mut found) = found else { continue };
            let entry = found.get_mut();
            self.blocks[slot] -= usize::from(entry.holders & bit != 0);
            entry.holders &= !bit;
            if entry.holders == 0 {
                found.remove();
            }
        }
    }

    /// Forgets the blocks of a slot. That takes a walk through its table, if the slot has any blocks.
    pub(crate) fn forget(&mut self, slot: usize) {
        if std::mem::take(&mut self.blocks[slot]) == 0 {
            return;
        }
        let (group, bit) = place(slot);
        self.groups[group].retain(|entry| {
            entry.holders &= !bit;
            entry.holders != 0
        });
    }

    /// Returns how many of the first `names` each slot has, up to the first name that it lacks.
    pub(crate) fn depths(&self, names: &[u64]) -> Vec<usize> {
        let mut depths = vec![0; self.groups.len() * GROUP];
        for (table, depths) in self.groups.iter().zip(depths.chunks_mut(GROUP)) {
            let mut having = u64::MAX;
            for (depth, &name) in names.iter().enumerate() {
                let found = table.find(hash(self.seed, name), |entry| entry.name == name);
                let still = having & found.map_or(0, |entry| entry.holders);
                bits(having & !still).for_each(|slot| depths[slot] = depth);
                having = still;
                if having == 0 {
                    break;
                }
            }
            bits(having).for_each(|slot| depths[slot] = names.len());
        }
        depths
    }
}

/// Hashes a name with the seed. Names are digests, but of what clients choose: without a seed a client
/// could look for prompts that all fall into one place of the table.
fn hash(seed: u64, name: u64) -> u64 {
    splitmix64(name ^ seed)
}

/// Returns the table of a slot, and the slot's bit there.
fn place(slot: usize) -> (usize, u64) {
    (slot / GROUP, 1 << (slot % GROUP))
}

/// Returns the positions of the bits that are set.
fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then_some(word.trailing_zeros() as usize)?;
        word &= word - 1;
        Some(bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_depth_ends_at_the_first_block_that_is_missing() {
        let mut index = PrefixIndex::new(1);
        index.grow(130);
        index.store(0, &[1, 2, 3]);
        index.store(63, &[1, 3]);
        index.store(64, &[1, 2, 3, 4, 5]);
        index.store(129, &[2, 3]);
        let depths = index.depths(&[1, 2, 3, 4]);
        let found: Vec<_> = depths.iter().enumerate().filter(|(_, depth)| **depth > 0).collect();
        assert_eq!(found, [(0, &3), (63, &1), (64, &4)]);
        assert!(index.depths(&[]).iter().all(|&depth| depth == 0));
    }

    /// RO-7: memory is bounded by the blocks that replicas have.
    #[test]
    fn what_nobody_has_takes_no_room() {
        let mut index = PrefixIndex::new(1);
        index.grow(3);
        for slot in 0..3 {
            index.store(slot, &[1, 2, 2, 3]);
            index.remove(slot, &[3, 3, 9]);
        }
        assert_eq!((index.groups[0].len(), &index.blocks), (2, &vec![2; 3]));
        index.forget(1);
        assert_eq!((index.groups[0].len(), &index.blocks), (2, &vec![2, 0, 2]));
        assert_eq!(index.depths(&[1])[..3], [1, 0, 1]);
        index.forget(0);
        index.remove(2, &[1, 2]);
        assert_eq!((index.groups[0].len(), &index.blocks), (0, &vec![0; 3]));
    }
}
