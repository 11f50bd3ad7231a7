//! Which replicas have which blocks.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};

use crate::mix::mix;

/// Replicas that share a table: as many as one word has bits.
const GROUP: usize = 64;

/// Names of blocks, with the set of replicas that have each.
///
/// A replica is a *slot*, counted from 0. Every 64 slots have a table of their own, so that a set is
/// one word. An entry without a replica is removed.
#[derive(Debug)]
pub(crate) struct PrefixIndex {
    seed: u64,
    groups: Vec<HashMap<u64, u64, Seeded>>,
    /// Blocks of each slot.
    blocks: Vec<usize>,
}

/// Names are digests, but of what clients choose: without a seed one could look for prompts that all
/// fall into one place of the table.
#[derive(Clone, Copy, Debug)]
struct Seeded {
    seed: u64,
    hash: u64,
}

// === impl PrefixIndex ===

impl PrefixIndex {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, groups: Vec::new(), blocks: Vec::new() }
    }

    /// Makes room for slots below `slots`.
    pub(crate) fn grow(&mut self, slots: usize) {
        let (seed, hash) = (self.seed, 0);
        let table = || HashMap::with_hasher(Seeded { seed, hash });
        self.groups.resize_with(slots.div_ceil(GROUP).max(self.groups.len()), table);
        self.blocks.resize(slots.max(self.blocks.len()), 0);
    }

    pub(crate) fn store(&mut self, slot: usize, names: &[u64]) {
        let (group, bit) = place(slot);
        for &name in names {
            let holders = self.groups[group].entry(name).or_default();
            self.blocks[slot] += usize::from(*holders & bit == 0);
            *holders |= bit;
        }
    }

    pub(crate) fn remove(&mut self, slot: usize, names: &[u64]) {
        let (group, bit) = place(slot);
        for name in names {
            let Some(holders) = self.groups[group].get_mut(name) else { continue };
            self.blocks[slot] -= usize::from(*holders & bit != 0);
            *holders &= !bit;
            if *holders == 0 {
                self.groups[group].remove(name);
            }
        }
    }

    /// Forgets the blocks of a slot: a walk through its table, if it has any.
    pub(crate) fn forget(&mut self, slot: usize) {
        if std::mem::take(&mut self.blocks[slot]) == 0 {
            return;
        }
        let (group, bit) = place(slot);
        self.groups[group].retain(|_, holders| {
            *holders &= !bit;
            *holders != 0
        });
    }

    /// How many of the first `names` each slot has, up to the first it has not.
    pub(crate) fn depths(&self, names: &[u64]) -> Vec<usize> {
        let mut depths = vec![0; self.groups.len() * GROUP];
        for (table, depths) in self.groups.iter().zip(depths.chunks_mut(GROUP)) {
            let mut having = u64::MAX;
            for (depth, name) in names.iter().enumerate() {
                let still = having & table.get(name).copied().unwrap_or(0);
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

/// The table of a slot, and its bit there.
fn place(slot: usize) -> (usize, u64) {
    (slot / GROUP, 1 << (slot % GROUP))
}

/// The positions of the bits that are set.
fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then_some(word.trailing_zeros() as usize)?;
        word &= word - 1;
        Some(bit)
    })
}

// === impl Seeded ===

impl BuildHasher for Seeded {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        *self
    }
}

impl Hasher for Seeded {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(byte.into()));
    }

    fn write_u64(&mut self, value: u64) {
        self.hash = mix(self.hash ^ value ^ self.seed);
    }

    fn finish(&self) -> u64 {
        self.hash
    }
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
