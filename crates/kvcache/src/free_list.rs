//! The free list: the order in which blocks without a holder are handed out.

use playhouse_types::BlockId;

/// The link of a block at either end of the list, or outside of it.
const NONE: u32 = u32::MAX;

/// A doubly linked list threaded through an array with one entry per block, so that a block in the
/// middle (a prefix hit) leaves in O(1). The front is handed out first.
#[derive(Debug)]
pub(crate) struct FreeList {
    links: Vec<Link>,
    front: u32,
    back: u32,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    previous: u32,
    next: u32,
}

// === impl FreeList ===

impl FreeList {
    /// Creates a list of every block, lowest first.
    pub(crate) fn full(blocks: u32) -> Self {
        assert!(blocks < NONE, "{blocks} blocks: the highest number marks the end of the list");
        let links = vec![Link { previous: NONE, next: NONE }; blocks as usize];
        let mut list = Self { links, front: NONE, back: NONE, len: 0 };
        for block in 0..blocks {
            list.push_back(BlockId(block));
        }
        list
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn push_front(&mut self, block: BlockId) {
        self.links[block.0 as usize] = Link { previous: NONE, next: self.front };
        match self.front {
            NONE => self.back = block.0,
            front => self.links[front as usize].previous = block.0,
        }
        self.front = block.0;
        self.len += 1;
    }

    pub(crate) fn push_back(&mut self, block: BlockId) {
        self.links[block.0 as usize] = Link { previous: self.back, next: NONE };
        match self.back {
            NONE => self.front = block.0,
            back => self.links[back as usize].next = block.0,
        }
        self.back = block.0;
        self.len += 1;
    }

    pub(crate) fn pop_front(&mut self) -> Option<BlockId> {
        let block = (self.front != NONE).then_some(BlockId(self.front))?;
        self.remove(block);
        Some(block)
    }

    /// Takes out a block that is in the list.
    pub(crate) fn remove(&mut self, block: BlockId) {
        let Link { previous, next } = self.links[block.0 as usize];
        match previous {
            NONE => self.front = next,
            _ => self.links[previous as usize].next = next,
        }
        match next {
            NONE => self.back = previous,
            _ => self.links[next as usize].previous = previous,
        }
        self.links[block.0 as usize] = Link { previous: NONE, next: NONE };
        self.len -= 1;
    }

    /// Iterates from front to back. Panics where a link does not lead back, and ends after `len` blocks,
    /// so that a broken list is found rather than followed.
    pub(crate) fn iter(&self) -> impl Iterator<Item = BlockId> {
        let (mut previous, mut at) = (NONE, self.front);
        std::iter::from_fn(move || {
            let block = (at != NONE).then_some(BlockId(at))?;
            let link = self.links[at as usize];
            assert_eq!(link.previous, previous, "{block} does not link back");
            (previous, at) = (at, link.next);
            Some(block)
        })
        .take(self.len + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(list: &FreeList) -> Vec<u32> {
        list.iter().map(|block| block.0).collect()
    }

    #[test]
    fn blocks_leave_from_both_ends_and_the_middle() {
        let mut list = FreeList::full(5);
        assert_eq!(order(&list), [0, 1, 2, 3, 4]);
        for block in [2, 0, 4] {
            list.remove(BlockId(block));
        }
        assert_eq!(order(&list), [1, 3]);
        list.push_front(BlockId(4));
        list.push_back(BlockId(0));
        assert_eq!(order(&list), [4, 1, 3, 0]);
        let popped: Vec<u32> = std::iter::from_fn(|| list.pop_front()).map(|b| b.0).collect();
        assert_eq!((popped, list.len()), (vec![4, 1, 3, 0], 0));
        list.push_front(BlockId(2));
        assert_eq!((order(&list), list.len()), (vec![2], 1));
    }
}
