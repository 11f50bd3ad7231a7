//! The guarantees of the pool under arbitrary calls, against a model that remembers what every
//! block contains.

use std::collections::{HashMap, HashSet};

use playhouse_kvcache::{BlockHash, BlockPool, HashChain};
use playhouse_types::{BlockId, BlockSize, PrefixEvent, TokenId};
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
    /// Take events and apply them; or, when those were lost, a snapshot.
    Listen {
        lost: bool,
    },
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
        4 => prop::bool::weighted(0.2).prop_map(|lost| Call::Listen { lost }),
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
    /// The names in the index, as events told them.
    heard: HashSet<u64>,
}

impl Model {
    fn admit(&mut self, pool: &mut BlockPool, family: TokenId, count: usize, salt: u64) {
        let tokens = tokens_of(family, count);
        let mut chain = HashChain::new(salt, BlockSize::CPU);
        chain.extend(&tokens);
        let prefix = pool.lookup(&chain, usize::MAX);
        assert!(
            prefix.blocks.len() * BlockSize::CPU.tokens() < count,
            "KV-4: nothing left to compute"
        );
        for (at, block) in prefix.blocks.iter().enumerate() {
            let expected = (salt, tokens[..(at + 1) * BlockSize::CPU.tokens()].to_vec());
            assert_eq!(self.contents.get(block), Some(&expected), "KV-4: content of {block}");
        }
        let new = BlockSize::CPU.blocks_for(count) - prefix.blocks.len();
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
            let prefix = sequence.tokens[..(at + 1) * BlockSize::CPU.tokens()].to_vec();
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

    fn listen(&mut self, pool: &mut BlockPool, lost: bool) {
        let mut events = pool.take_events();
        if lost {
            events = pool.snapshot();
        }
        events.iter().for_each(|event| hear(&mut self.heard, event));
        for sequence in &self.sequences {
            let mut longer = sequence.chain.clone();
            longer.extend(&[0; BlockSize::CPU.tokens()]);
            let hits = pool.lookup(&longer, usize::MAX).blocks.len();
            let heard = |hash: &&BlockHash| self.heard.contains(&hash.short());
            assert_eq!(longer.hashes().iter().take_while(heard).count(), hits, "KV-7: hits");
        }
        let mut all = HashSet::new();
        pool.snapshot().iter().for_each(|event| hear(&mut all, event));
        assert_eq!(self.heard, all, "KV-7: names heard, names in a snapshot");
        assert_eq!(pool.take_events(), [], "KV-7: a snapshot tells everything");
    }

    fn check(&self, pool: &BlockPool) {
        pool.check(self.sequences.iter().map(|sequence| &sequence.table[..]));
    }
}

fn hear(names: &mut HashSet<u64>, event: &PrefixEvent) {
    match event {
        PrefixEvent::Stored(stored) => names.extend(stored),
        PrefixEvent::Removed(removed) => {
            assert!(removed.iter().all(|name| names.remove(name)), "KV-7: removed, never stored");
        }
        PrefixEvent::Reset => names.clear(),
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
            let heard = std::mem::take(&mut model.heard);
            *model = Model { heard, ..Model::default() };
        }
        Call::Listen { lost } => model.listen(pool, lost),
        _ => {}
    }
}

proptest! {
    #[test]
    fn books_balance_and_hits_are_exact(calls in calls()) {
        let mut pool = BlockPool::new(BLOCKS, BlockSize::CPU);
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
