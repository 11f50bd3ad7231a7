use playhouse_types::{BlockSize, TokenId};

use super::*;

fn chain(tokens: std::ops::Range<TokenId>) -> HashChain {
    let mut chain = HashChain::new(0, BlockSize::CPU);
    chain.extend(&tokens.collect::<Vec<_>>());
    chain
}

/// Computes a sequence from nothing: takes its blocks and publishes the full ones.
fn compute(pool: &mut BlockPool, chain: &HashChain) -> Vec<BlockId> {
    let table = pool.take(BlockSize::CPU.blocks_for(chain.tokens()));
    for (&block, &hash) in table.iter().zip(chain.hashes()) {
        pool.publish(block, hash);
    }
    table
}

fn ids(blocks: &[BlockId]) -> Vec<u32> {
    blocks.iter().map(|block| block.0).collect()
}

fn gauges(pool: &BlockPool) -> (usize, usize) {
    let PoolStats { held, cached, .. } = pool.stats();
    (held, cached)
}

#[test]
fn blocks_for_rounds_up() {
    assert_eq!([0, 1, 16, 17, 32].map(|tokens| BlockSize::CPU.blocks_for(tokens)), [0, 1, 1, 2, 2]);
}

#[test]
fn kv_1_a_block_goes_from_free_to_held_to_cached_and_back_to_held() {
    let mut pool = BlockPool::new(4, BlockSize::CPU);
    let sequence = chain(0..40);
    let table = compute(&mut pool, &sequence);
    assert_eq!((ids(&table), gauges(&pool)), (vec![0, 1, 2], (3, 0)));
    pool.check([&table[..]]);
    pool.release(&table);
    assert_eq!(gauges(&pool), (0, 2), "the partial block is free, the full ones cached");
    pool.check([]);
    let prefix = pool.lookup(&sequence, usize::MAX);
    assert_eq!(ids(&prefix.blocks), [0, 1]);
    let tail = pool.admit(&prefix, 1);
    assert_eq!(gauges(&pool), (3, 0));
    pool.check([&[0, 1].map(BlockId)[..], &tail]);
}

#[test]
fn kv_2_free_blocks_are_taken_before_cached_ones_and_tails_before_heads() {
    let mut pool = BlockPool::new(6, BlockSize::CPU);
    let (first, second) = (chain(0..48), chain(100..140));
    let tables = [compute(&mut pool, &first), compute(&mut pool, &second)];
    assert_eq!(tables.each_ref().map(|table| ids(table)), [vec![0, 1, 2], vec![3, 4, 5]]);
    pool.release(&tables[1]);
    pool.release(&tables[0]);
    let order: Vec<u32> = (0..6).map(|_| pool.take(1)[0].0).collect();
    // 5 was only partly filled. Then the sequence released first, tail first.
    assert_eq!(order, [5, 4, 3, 2, 1, 0]);
}

#[test]
fn kv_2_a_hit_makes_blocks_recently_used() {
    let mut pool = BlockPool::new(4, BlockSize::CPU);
    let (old, new) = (chain(0..32), chain(100..132));
    let tables = [compute(&mut pool, &old), compute(&mut pool, &new)];
    tables.iter().for_each(|table| pool.release(table));
    let again = pool.lookup(&chain(0..33), usize::MAX);
    pool.admit(&again, 0);
    pool.release(&again.blocks);
    let evicted = pool.take(2);
    assert_eq!(ids(&evicted), [3, 2], "the newer sequence was used less recently");
    assert_eq!(pool.lookup(&chain(0..33), usize::MAX).blocks.len(), 2);
}

#[test]
fn kv_2_held_blocks_are_never_taken() {
    let mut pool = BlockPool::new(3, BlockSize::CPU);
    let table = compute(&mut pool, &chain(0..32));
    assert!(pool.can_take(1) && !pool.can_take(2));
    pool.release(&table);
    let prefix = pool.lookup(&chain(0..33), usize::MAX);
    // Reviving the two cached blocks uses up two of the three blocks without a holder.
    assert!(pool.can_admit(&prefix, 1) && !pool.can_admit(&prefix, 2));
    pool.admit(&prefix, 1);
    assert!(!pool.can_take(1));
    // Blocks that another sequence holds cost nothing.
    assert!(pool.can_admit(&prefix, 0) && !pool.can_admit(&prefix, 1));
}

#[test]
fn kv_3_a_shared_block_stays_held_until_its_last_holder_leaves() {
    let mut pool = BlockPool::new(4, BlockSize::CPU);
    let table = compute(&mut pool, &chain(0..32));
    let prefix = pool.lookup(&chain(0..40), usize::MAX);
    let mut other = prefix.blocks.clone();
    other.extend(pool.admit(&prefix, 1));
    pool.check([&table[..], &other]);
    pool.release(&table);
    assert_eq!(gauges(&pool), (3, 0));
    pool.release(&other);
    assert_eq!(gauges(&pool), (0, 2));
    pool.check([]);
}

#[test]
fn kv_4_a_hit_leaves_a_token_to_compute_and_stops_at_the_first_miss() {
    let mut pool = BlockPool::new(8, BlockSize::CPU);
    let table = compute(&mut pool, &chain(0..64));
    pool.release(&table);
    for (tokens, hits) in [(64, 3), (65, 4), (80, 4), (16, 0), (17, 1), (1, 0), (0, 0)] {
        let found = pool.lookup(&chain(0..tokens), usize::MAX);
        assert_eq!(found.blocks, table[..hits], "{tokens} tokens");
    }
    assert_eq!(pool.lookup(&chain(0..80), 40).blocks.len(), 2, "no more than allowed");
    // The tail goes first, and what is behind a gap is not found.
    pool.take(5);
    assert_eq!(pool.lookup(&chain(0..80), usize::MAX).blocks.len(), 3);
    let mut salted = HashChain::new(1, BlockSize::CPU);
    salted.extend(&(0..80).collect::<Vec<_>>());
    assert_eq!(pool.lookup(&salted, usize::MAX).blocks.len(), 0);
}

#[test]
fn kv_5_the_index_keeps_the_block_published_first() {
    let mut pool = BlockPool::new(4, BlockSize::CPU);
    let sequence = chain(0..16);
    let tables = [compute(&mut pool, &sequence), compute(&mut pool, &sequence)];
    pool.check([&tables[0][..], &tables[1]]);
    assert_eq!(pool.lookup(&chain(0..17), usize::MAX).blocks, tables[0]);
    pool.release(&tables[0]);
    pool.release(&tables[1]);
    assert_eq!(gauges(&pool), (0, 1), "the second copy is worthless");
    assert_eq!(pool.take(1), tables[1]);
    pool.check([&tables[1][..]]);
}

#[test]
fn a_pool_of_another_size_is_empty_and_keeps_the_counters() {
    let mut pool = BlockPool::new(4, BlockSize::CPU);
    let sequence = chain(0..40);
    let table = compute(&mut pool, &sequence);
    pool.release(&table);
    let before = pool.stats();
    for blocks in [2, 9] {
        pool.replace(blocks);
        let stats = pool.stats();
        assert_eq!((stats.total, gauges(&pool)), (blocks as usize, (0, 0)));
        assert_eq!(stats.queried_tokens, before.queried_tokens);
        assert_eq!(pool.take_events(), [PrefixEvent::Reset], "nothing is cached any more");
        let table = pool.take(blocks as usize);
        pool.check([&table[..]]);
        pool.release(&table);
    }
}

#[test]
fn clear_forgets_contents_and_holders_but_not_the_counters() {
    let mut pool = BlockPool::new(4, BlockSize::CPU);
    let table = compute(&mut pool, &chain(0..32));
    pool.release(&table);
    pool.admit(&pool.lookup(&chain(0..33), usize::MAX), 1);
    let counted = PoolStats { total: 4, held: 3, cached: 0, queried_tokens: 33, hit_tokens: 32 };
    assert_eq!(pool.stats(), counted);
    pool.clear();
    pool.check([]);
    assert_eq!(pool.stats(), PoolStats { held: 0, ..counted });
    assert_eq!(pool.lookup(&chain(0..33), usize::MAX).blocks, []);
}

#[test]
fn a_lookup_that_may_find_nothing_is_no_query() {
    let mut pool = BlockPool::new(4, BlockSize::CPU);
    pool.admit(&pool.lookup(&chain(0..33), 0), 1);
    assert_eq!(pool.stats().queried_tokens, 0);
}
