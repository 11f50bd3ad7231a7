//! The division of a step's rows into sequences, and the places of their keys and values in the cache.

use candle_core::{Result, bail};

use playhouse_types::{BlockId, BlockSize};

/// Consecutive rows of a step: consecutive tokens of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence<'a> {
    /// Index of the first row in the step's tensors.
    pub first_row: usize,
    /// Number of rows; at least 1.
    pub rows: usize,
    /// Position of the first row's token in the sequence.
    pub start: usize,
    /// The block table: entry `i` holds the positions of block `i`. Covers at least
    /// `start + rows` tokens; further entries are ignored.
    pub blocks: &'a [BlockId],
}

/// The ragged batch of one step: prefill chunks and decodes together. Built once per step and
/// used by every layer.
#[derive(Clone, Debug)]
pub struct Ragged<'a> {
    sequences: Vec<Sequence<'a>>,
    rows: usize,
    block_size: BlockSize,
    /// One more than the highest block in use.
    blocks: usize,
    writes: Vec<Write>,
}

/// Rows of a step whose keys and values go to one block. No two have the same block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) block: u32,
    /// Index of the first row's token in the block.
    pub(crate) slot: usize,
    pub(crate) row: usize,
    pub(crate) rows: usize,
}

// === impl Ragged ===

impl<'a> Ragged<'a> {
    /// Checks the sequences of a step, whose block tables have blocks of `block_size`, and builds the batch.
    ///
    /// # Errors
    /// When rows are not consecutive from 0, a sequence has no rows, a block table is too short,
    /// or a block would be written by two sequences. (Blocks that are only read may be shared.)
    pub fn new(sequences: Vec<Sequence<'a>>, block_size: BlockSize) -> Result<Self> {
        let (mut rows, mut blocks) = (0, 0);
        let mut writes = Vec::new();
        for (index, sequence) in sequences.iter().enumerate() {
            let Sequence { first_row, rows: count, start, blocks: table } = *sequence;
            if first_row != rows || count == 0 {
                bail!(
                    "ragged: sequence {index} has {count} rows from {first_row}, not from {rows}"
                );
            }
            let Some(end) = start.checked_add(count) else {
                bail!("ragged: sequence {index} has {count} rows from position {start}");
            };
            let needed = block_size.blocks_for(end);
            if table.len() < needed {
                let given = table.len();
                bail!("ragged: sequence {index} has {given} blocks, {end} tokens need {needed}");
            }
            let highest = table[..needed].iter().map(|block| block.0).max();
            blocks = blocks.max(highest.map_or(0, |block| block as usize + 1));
            for index in block_size.full_blocks(start)..needed {
                let tokens = block_size.tokens();
                let from = start.max(index * tokens);
                let to = end.min((index + 1) * tokens);
                let (slot, row) = (from % tokens, rows + from - start);
                writes.push(Write { block: table[index].0, slot, row, rows: to - from });
            }
            rows += count;
        }
        let mut written: Vec<u32> = writes.iter().map(|write| write.block).collect();
        written.sort_unstable();
        if let Some(pair) = written.windows(2).find(|pair| pair[0] == pair[1]) {
            bail!("ragged: block {} would be written twice", pair[0]);
        }
        Ok(Self { sequences, rows, block_size, blocks, writes })
    }

    /// Returns the number of rows of the step's tensors.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the tokens of a block of the tables.
    pub(crate) fn block_size(&self) -> BlockSize {
        self.block_size
    }

    /// Returns the sequences, in row order.
    #[must_use]
    pub fn sequences(&self) -> &[Sequence<'a>] {
        &self.sequences
    }

    /// Returns the writes of the step into the cache.
    pub(crate) fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// Returns one more than the highest block in use.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence<const N: usize>(
        first_row: usize,
        rows: usize,
        start: usize,
        blocks: &[u32; N],
    ) -> Sequence<'static> {
        let blocks = blocks.map(BlockId).to_vec().leak();
        Sequence { first_row, rows, start, blocks }
    }

    fn refused(sequences: Vec<Sequence<'_>>) -> String {
        Ragged::new(sequences, BlockSize::CPU).expect_err("must be refused").to_string()
    }

    #[test]
    fn rows_are_consecutive() {
        let gap = refused(vec![sequence(0, 2, 0, &[0]), sequence(3, 1, 0, &[1])]);
        assert!(gap.contains("sequence 1 has 1 rows from 3, not from 2"), "{gap}");
        assert!(refused(vec![sequence(0, 0, 0, &[0])]).contains("0 rows"));
    }

    #[test]
    fn the_block_table_covers_all_tokens() {
        assert!(Ragged::new(vec![sequence(0, 16, 0, &[0])], BlockSize::CPU).is_ok());
        let short = refused(vec![sequence(0, 2, 15, &[0])]);
        assert!(short.contains("has 1 blocks, 17 tokens need 2"), "{short}");
        assert!(refused(vec![sequence(0, 2, usize::MAX, &[0])]).contains("position"));
    }

    #[test]
    fn blocks_may_be_shared_only_for_reading() {
        let shared = vec![sequence(0, 1, 16, &[7, 1]), sequence(1, 1, 16, &[7, 2])];
        assert_eq!(Ragged::new(shared, BlockSize::CPU).expect("block 7 is only read").blocks(), 8);
        let torn = refused(vec![sequence(0, 1, 17, &[7, 1]), sequence(1, 1, 16, &[8, 1])]);
        assert!(torn.contains("block 1 would be written twice"), "{torn}");
    }
}
