//! RO-1 and RO-2 under arbitrary calls: the router, fed by the events of real block pools over a link
//! that loses some, against those pools.

use playhouse_kvcache::{BlockHash, BlockPool, HashChain};
use playhouse_router::{Applied, Ask, Load, Policy, Router};
use playhouse_types::{BlockId, BlockSize, Epoch, PrefixEvent, ReplicaId, TokenId};
use proptest::prelude::*;

/// More than one table of the index has bits for.
const REPLICAS: u32 = 70;
/// Those that do anything: the first, and some in the second table.
const ACTIVE: [u32; 4] = [0, 1, 64, 69];

#[derive(Clone, Debug)]
enum Call {
    /// A replica computes a sequence and keeps it, or lets it go.
    Compute { family: TokenId, tokens: usize, keep: bool },
    /// It lets go of its oldest sequence.
    Release,
    /// It tells what has changed; some events may be lost, or come twice.
    Tell { fate: Fate },
    /// It starts over in a new epoch.
    Restart,
    /// It is removed and added again; it does not know.
    Replace,
    /// It says something about its load.
    Report { load: Load },
    /// Anybody may be picked for a sequence.
    Pick { family: TokenId, tokens: usize, eligible: u8 },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Heard,
    Lost,
    Twice,
}

struct Replica {
    id: ReplicaId,
    pool: BlockPool,
    tables: Vec<Vec<BlockId>>,
    epoch: Epoch,
    sequence: u64,
    /// The router lacks something that was not told again since.
    behind: bool,
}

struct World {
    router: Router,
    replicas: Vec<Replica>,
}

fn calls() -> impl Strategy<Value = Vec<(usize, Call)>> {
    let fate = prop_oneof![8 => Just(Fate::Heard), 1 => Just(Fate::Lost), 1 => Just(Fate::Twice)];
    let sequence = (0..3 as TokenId, 1..200usize);
    let load =
        (any::<(u64, u64)>(), any::<(u32, u32, u32, u32)>()).prop_map(
            |((accepted, queued_tokens), (running, waiting, kv_used_blocks, kv_total_blocks))| {
                Load { accepted, queued_tokens, running, waiting, kv_used_blocks, kv_total_blocks }
            },
        );
    let call = prop_oneof![
        8 => (sequence.clone(), any::<bool>())
            .prop_map(|((family, tokens), keep)| Call::Compute { family, tokens, keep }),
        3 => Just(Call::Release),
        8 => fate.prop_map(|fate| Call::Tell { fate }),
        1 => Just(Call::Restart),
        1 => Just(Call::Replace),
        1 => load.prop_map(|load| Call::Report { load }),
        4 => (sequence, any::<u8>())
            .prop_map(|((family, tokens), eligible)| Call::Pick { family, tokens, eligible }),
    ];
    prop::collection::vec((0..ACTIVE.len(), call), 1..80)
}

/// Families share their first 40 tokens.
fn chain(family: TokenId, tokens: usize) -> HashChain {
    let mut chain = HashChain::new(0, BlockSize::CPU);
    chain.extend(&(0..tokens).map(|at| if at < 40 { 7 } else { family }).collect::<Vec<_>>());
    chain
}

// === impl Replica ===

impl Replica {
    fn compute(&mut self, chain: &HashChain, keep: bool) {
        let prefix = self.pool.lookup(chain, usize::MAX);
        let new = BlockSize::CPU.blocks_for(chain.tokens()) - prefix.blocks.len();
        if !self.pool.can_admit(&prefix, new) {
            return;
        }
        let table = [prefix.blocks.clone(), self.pool.admit(&prefix, new)].concat();
        for (&block, &hash) in table.iter().zip(chain.hashes()).skip(prefix.blocks.len()) {
            self.pool.publish(block, hash);
        }
        if keep {
            self.tables.push(table);
        } else {
            self.pool.release(&table);
        }
    }

    /// Tells the router, and does what it asks for.
    fn tell(&mut self, router: &mut Router, fate: Fate) {
        let mut events = self.pool.take_events();
        while let Some(event) = (!events.is_empty()).then(|| events.remove(0)) {
            let sequence = self.sequence;
            self.sequence += 1;
            if fate == Fate::Lost {
                self.behind = true;
                continue;
            }
            let applied = router.apply(self.id, self.epoch, sequence, &event);
            if applied == Applied::Gap {
                assert!(self.behind, "RO-2: nothing was lost before {sequence} of {}", self.id);
                events = self.pool.snapshot();
                self.behind = false;
            } else {
                assert_eq!((applied, self.behind), (Applied::Applied, false), "RO-2: {event:?}");
            }
            if fate == Fate::Twice {
                let again = router.apply(self.id, self.epoch, sequence, &PrefixEvent::Reset);
                assert_eq!(again, Applied::Stale, "RO-2: heard before");
            }
        }
    }
}

// === impl World ===

impl World {
    fn new(policy: Policy) -> Self {
        let mut router = Router::new(policy, 3);
        (0..REPLICAS).map(ReplicaId).for_each(|replica| router.add(replica));
        let replica = |id| Replica {
            id: ReplicaId(id),
            pool: BlockPool::new(24, BlockSize::CPU),
            tables: Vec::new(),
            epoch: Epoch(1),
            sequence: 0,
            behind: false,
        };
        Self { router, replicas: ACTIVE.map(replica).into() }
    }

    fn run(&mut self, at: usize, call: Call) {
        let replica = &mut self.replicas[at];
        match call {
            Call::Compute { family, tokens, keep } => replica.compute(&chain(family, tokens), keep),
            Call::Release if !replica.tables.is_empty() => {
                replica.pool.release(&replica.tables.remove(0));
            }
            Call::Release => {}
            Call::Tell { fate } => replica.tell(&mut self.router, fate),
            Call::Restart => {
                replica.pool.clear();
                replica.tables.clear();
                replica.epoch.0 += 1;
                (replica.sequence, replica.behind) = (0, false);
            }
            Call::Replace => {
                self.router.add(replica.id);
                replica.behind = replica.sequence > 0;
            }
            Call::Report { load } => self.router.report(replica.id, load),
            Call::Pick { family, tokens, eligible } => self.pick(family, tokens, eligible),
        }
    }

    /// RO-1.
    fn pick(&mut self, family: TokenId, tokens: usize, eligible: u8) {
        let is_eligible = |replica: ReplicaId| {
            ACTIVE.iter().position(|&id| id == replica.0).is_some_and(|at| eligible >> at & 1 == 1)
        };
        let hashes: Vec<u64> =
            chain(family, tokens).hashes().iter().map(BlockHash::short).collect();
        let ask = Ask {
            hashes: &hashes,
            block_size: BlockSize::CPU,
            tokens: tokens as u32,
            session: Some("x"),
        };
        match self.router.pick(&ask, is_eligible) {
            Some(pick) => assert!(is_eligible(pick.replica), "RO-1: {pick:?}"),
            None => assert_eq!(eligible & 0b1111, 0, "RO-1: somebody is eligible"),
        }
    }

    /// RO-2: what the router expects of a replica that has told everything is what the pool has.
    fn check(&mut self) {
        for replica in &mut self.replicas {
            replica.tell(&mut self.router, Fate::Heard);
            for family in 0..3 {
                let chain = chain(family, 200);
                let hashes: Vec<u64> = chain.hashes().iter().map(BlockHash::short).collect();
                let ask =
                    Ask { hashes: &hashes, block_size: BlockSize::CPU, tokens: 200, session: None };
                let pick = self.router.pick(&ask, |id| id == replica.id).expect("it was added");
                let hits = replica.pool.lookup(&chain, usize::MAX).blocks.len() * 16;
                // A loss that no event followed is not known yet.
                let expected = pick.cached_tokens_expected as usize;
                assert!(replica.behind || expected == hits, "RO-2: {}", replica.id);
            }
        }
    }
}

proptest! {
    #[test]
    fn the_index_is_what_the_pools_have(policy in 0..5usize, calls in calls()) {
        let mut world = World::new(Policy::ALL[policy]);
        for (at, call) in calls {
            let told = matches!(call, Call::Tell { fate: Fate::Heard | Fate::Twice });
            world.run(at, call);
            if told {
                world.check();
            }
        }
        world.check();
    }

    /// RO-2: no order of events panics, and after a reset everything before it is forgotten.
    #[test]
    fn events_in_any_order_do_no_harm(
        events in prop::collection::vec((0..4u64, 0..6u64, 0..3u8, 0..4u64), 0..60),
    ) {
        let mut router = Router::new(Policy::Prefix, 1);
        router.add(ReplicaId(0));
        for (epoch, sequence, kind, name) in events {
            let sequence = if sequence == 5 { u64::MAX } else { sequence };
            let event = match kind {
                0 => PrefixEvent::Stored(vec![name, name + 1]),
                1 => PrefixEvent::Removed(vec![name, name]),
                _ => PrefixEvent::Reset,
            };
            let applied = router.apply(ReplicaId(0), Epoch(epoch), sequence, &event);
            prop_assert_eq!(router.apply(ReplicaId(9), Epoch(9), 0, &event), Applied::Stale);
            let ask = Ask { hashes: &[name], block_size: BlockSize::CPU, tokens: 17, session: None };
            let cached = router.pick(&ask, |_| true).expect("it was added").cached_tokens_expected;
            let expected = match (applied, kind) {
                (Applied::Applied, 0) => Some(16),
                (Applied::Applied, _) | (Applied::Gap, _) => Some(0),
                (Applied::Stale, _) => None,
            };
            prop_assert!(expected.is_none_or(|expected| expected == cached), "{:?}", applied);
        }
    }
}
