//! The guarantees of the pool under arbitrary calls, against a model that remembers what every
//! block contains.

use std::collections::HashMap;

use playhouse_kvcache::{BlockPool, HashChain, blocks_for};
use playhouse_types::{BLOCK_TOKENS, BlockId, TokenId};
use proptest::prelude::*;

const BLOCKS: u32 = 24;

#[derive(Clone, Debug)]
enum Call {
    /// Admit a sequence that shares a prefix with others of its family.
    Admit {
        family: TokenId,
        tokens: usize,
        salt: u64,
    },
    /// Publish what the n-th sequence computed.
    Publish {
        sequence: usize,
    },
    /// Grow the n-th sequence by a block.
    Grow {
        sequence: usize,
    },
    Release {
        sequence: usize,
    },
    Clear,
}

struct Sequence {
    chain: HashChain,
    salt: u64,
    tokens: Vec<TokenId>,
    table: Vec<BlockId>,
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let call = prop_oneof![
        8 => (0..3u32, 1..100usize, 0..2u64)
            .prop_map(|(family, tokens, salt)| Call::Admit { family, tokens, salt }),
        6 => (0..8usize).prop_map(|sequence| Call::Publish { sequence }),
        4 => (0..8usize).prop_map(|sequence| Call::Grow { sequence }),
        6 => (0..8usize).prop_map(|sequence| Call::Release { sequence }),
        1 => Just(Call::Clear),
    ];
    prop::collection::vec(call, 1..120)
}

/// Families share their first 40 tokens with one another's, so that chains branch inside a block.
fn tokens_of(family: TokenId, tokens: usize) -> Vec<TokenId> {
    (0..tokens).map(|at| if at < 40 { 7 } else { family } + 1000 * at as TokenId).collect()
}

#[derive(Default)]
struct Model {
    sequences: Vec<Sequence>,
    /// What each published block holds: the salt and all tokens up to its end.
    contents: HashMap<BlockId, (u64, Vec<TokenId>)>,
}

impl Model {
    fn admit(&mut self, pool: &mut BlockPool, family: TokenId, count: usize, salt: u64) {
        let tokens = tokens_of(family, count);
        let mut chain = HashChain::new(salt);
        chain.extend(&tokens);
        let prefix = pool.lookup(&chain, usize::MAX);
        assert!(prefix.blocks.len() * BLOCK_TOKENS < count, "KV-4: nothing left to compute");
        for (at, block) in prefix.blocks.iter().enumerate() {
            let expected = (salt, tokens[..(at + 1) * BLOCK_TOKENS].to_vec());
            assert_eq!(self.contents.get(block), Some(&expected), "KV-4: content of {block}");
        }
        let new = blocks_for(count) - prefix.blocks.len();
        let free = pool.stats().total - pool.stats().held;
        let revived = prefix.blocks.iter().filter(|block| !self.holds(**block)).count();
        assert_eq!(pool.can_admit(&prefix, new), revived + new <= free);
        if !pool.can_admit(&prefix, new) {
            return;
        }
        let taken = pool.admit(&prefix, new);
        self.forget(&taken);
        let table = [prefix.blocks, taken].concat();
        self.sequences.push(Sequence { chain, salt, tokens, table });
    }

    fn publish(&mut self, pool: &mut BlockPool, at: usize) {
        let sequence = &self.sequences[at];
        for (at, (&hash, &block)) in sequence.chain.hashes().iter().zip(&sequence.table).enumerate()
        {
            pool.publish(block, hash);
            let prefix = sequence.tokens[..(at + 1) * BLOCK_TOKENS].to_vec();
            self.contents.insert(block, (sequence.salt, prefix));
        }
    }

    fn grow(&mut self, pool: &mut BlockPool, at: usize) {
        if pool.can_take(1) {
            let taken = pool.take(1);
            self.forget(&taken);
            self.sequences[at].table.extend(taken);
        }
    }

    fn forget(&mut self, taken: &[BlockId]) {
        for block in taken {
            assert!(!self.holds(*block), "KV-2: {block} was taken from its holder");
            self.contents.remove(block);
        }
    }

    fn holds(&self, block: BlockId) -> bool {
        self.sequences.iter().any(|sequence| sequence.table.contains(&block))
    }

    fn check(&self, pool: &BlockPool) {
        pool.check(self.sequences.iter().map(|sequence| &sequence.table[..]));
    }
}

fn run(pool: &mut BlockPool, model: &mut Model, call: Call) {
    let live = model.sequences.len();
    match call {
        Call::Admit { family, tokens, salt } => model.admit(pool, family, tokens, salt),
        Call::Publish { sequence } if sequence < live => model.publish(pool, sequence),
        Call::Grow { sequence } if sequence < live => model.grow(pool, sequence),
        Call::Release { sequence } if sequence < live => {
            pool.release(&model.sequences.remove(sequence).table);
        }
        Call::Clear => {
            pool.clear();
            *model = Model::default();
        }
        _ => {}
    }
}

proptest! {
    #[test]
    fn books_balance_and_hits_are_exact(calls in calls()) {
        let mut pool = BlockPool::new(BLOCKS);
        let mut model = Model::default();
        for call in calls {
            run(&mut pool, &mut model, call);
            model.check(&pool);
        }
        for sequence in std::mem::take(&mut model.sequences) {
            pool.release(&sequence.table);
        }
        model.check(&pool);
        prop_assert_eq!(pool.stats().held, 0, "KV-3");
        prop_assert!(pool.can_take(BLOCKS as usize));
    }
}
