//! [`Router`]: the state of all replicas, and the choice among them.

use playhouse_types::{BlockSize, Epoch, PrefixEvent, ReplicaId, splitmix64};

use crate::index::PrefixIndex;
use crate::policy::Policy;
use crate::replica::{Applied, Load, Replica};

/// The number of tokens up to which a cached prefix counts as none (**RO-4**): four blocks, into which
/// the head of most chat templates fits.
pub const COLD_TOKENS: u32 = 64;

/// The weight of a token that has to be computed, against a token that is queued already: the request
/// waits for it, and so do the requests that come after. With 1 instead, conversations move as soon as
/// that is better for themselves: four replicas that are too small for the trace of `benches/router.rs`
/// (24 tokens in a step) then take 1.6 times as many steps.
const MISSING_WEIGHT: f64 = 2.0;

/// Chooses a replica for every request. The documentation of the crate says what a router guarantees.
#[derive(Debug)]
pub struct Router {
    policy: Policy,
    /// The replicas, by slot; `None` where a replica was removed.
    replicas: Vec<Option<Replica>>,
    index: PrefixIndex,
    /// The number of picks so far; with the seed the state of the generator behind
    /// [`Policy::PowerOfTwo`].
    picks: u64,
    seed: u64,
}

/// The properties of a request that routing needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask<'a> {
    /// The names of the full blocks of the prompt, in order, salt included; see [`PrefixEvent`].
    pub hashes: &'a [u64],
    /// The number of tokens of each of those blocks.
    pub block_size: BlockSize,
    /// The number of tokens of the prompt.
    pub tokens: u32,
    /// The session of the request, if it is part of one.
    pub session: Option<&'a str>,
}

/// The choice of a replica for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// The chosen replica.
    pub replica: ReplicaId,
    /// The number of tokens of the prompt in the replica's prefix cache, as far as its events tell. As
    /// in the block pool, whole blocks only, and at least one token is left to compute.
    pub cached_tokens_expected: u32,
}

/// A replica that may be picked.
struct Candidate<'a> {
    slot: usize,
    replica: &'a Replica,
    /// The number of tokens of the prompt that the replica has.
    cached_tokens: u32,
}

// === impl Router ===

impl Router {
    /// Creates a router without replicas. The `seed` makes random choices, and hash tables, differ.
    #[must_use]
    pub fn new(policy: Policy, seed: u64) -> Self {
        Self { policy, replicas: Vec::new(), index: PrefixIndex::new(seed), picks: 0, seed }
    }

    /// Adds a replica with no load and no blocks; a known replica starts over. Its events are heard from
    /// the beginning of an epoch, or after a resync ([`Applied::Gap`] asks for it).
    pub fn add(&mut self, replica: ReplicaId) {
        self.remove(replica);
        let free = self.replicas.iter().position(Option::is_none);
        let slot = free.unwrap_or(self.replicas.len());
        self.replicas.resize_with(self.replicas.len().max(slot + 1), || None);
        self.replicas[slot] = Some(Replica::new(replica));
        self.index.grow(self.replicas.len());
    }

    /// Forgets a replica; does nothing when the replica is not known.
    pub fn remove(&mut self, replica: ReplicaId) {
        if let Some(slot) = self.slot(replica) {
            self.index.forget(slot);
            self.replicas[slot] = None;
        }
    }

    /// Takes in a change of a replica's prefix cache (**RO-2**). Events are numbered from 0 in each
    /// epoch.
    pub fn apply(
        &mut self,
        replica: ReplicaId,
        epoch: Epoch,
        sequence: u64,
        event: &PrefixEvent,
    ) -> Applied {
        let Some((slot, replica)) = self.find(replica) else { return Applied::Stale };
        let (forget, applied) = replica.hear(epoch, sequence, event);
        if forget {
            self.index.forget(slot);
        }
        if applied == Applied::Applied {
            match event {
                PrefixEvent::Stored(names) => self.index.store(slot, names),
                PrefixEvent::Removed(names) => self.index.remove(slot, names),
                PrefixEvent::Reset => {}
            }
        }
        applied
    }

    /// Takes in the load of a replica, which covers the requests that it has accepted by now (**RO-5**).
    /// Does nothing when the replica is not known.
    pub fn report(&mut self, replica: ReplicaId, load: Load) {
        if let Some((_, replica)) = self.find(replica) {
            replica.report(load);
        }
    }

    /// Chooses among the eligible replicas (**RO-1**), and counts the request as queued there. Returns
    /// `None` when no replica is eligible.
    pub fn pick(&mut self, ask: &Ask<'_>, eligible: impl Fn(ReplicaId) -> bool) -> Option<Pick> {
        let usable = ask.block_size.full_blocks(ask.tokens.saturating_sub(1) as usize);
        let depths = self.index.depths(&ask.hashes[..usable.min(ask.hashes.len())]);
        let candidates: Vec<Candidate<'_>> = (self.replicas.iter().zip(depths).enumerate())
            .filter_map(|(slot, (replica, depth))| {
                let replica = replica.as_ref().filter(|replica| eligible(replica.id))?;
                Some(Candidate {
                    slot,
                    replica,
                    cached_tokens: (depth * ask.block_size.tokens()) as u32,
                })
            })
            .collect();
        let &Candidate { slot, cached_tokens, .. } = self.choose(ask, &candidates)?;
        self.picks += 1;
        let replica = self.replicas[slot].as_mut().expect("a candidate is a replica");
        replica.take(ask.tokens - cached_tokens, self.picks);
        Some(Pick { replica: replica.id, cached_tokens_expected: cached_tokens })
    }

    fn choose<'c>(
        &self,
        ask: &Ask<'_>,
        candidates: &'c [Candidate<'c>],
    ) -> Option<&'c Candidate<'c>> {
        let load = |candidate: &Candidate<'_>| candidate.replica.work();
        match (self.policy, ask.session) {
            (Policy::Session, Some(session)) => {
                let key = session.bytes().fold(0, |key, byte| splitmix64(key ^ u64::from(byte)));
                let weight = |candidate: &&Candidate<'_>| {
                    splitmix64(key ^ splitmix64(candidate.replica.id.0.into()))
                };
                candidates.iter().max_by_key(weight)
            }
            (Policy::Prefix | Policy::Session, _) => {
                let cold = |candidate: &Candidate<'_>| candidate.cached_tokens <= COLD_TOKENS;
                if candidates.iter().all(cold) {
                    return least(candidates.iter(), load, f64::from(ask.tokens));
                }
                let cost = |candidate: &Candidate<'_>| {
                    let missing = ask.tokens - candidate.cached_tokens;
                    load(candidate) + MISSING_WEIGHT * f64::from(missing)
                };
                least(candidates.iter(), cost, 0.0)
            }
            (Policy::RoundRobin, _) => least(candidates.iter(), |_| 0.0, 0.0),
            (Policy::LeastLoad, _) => least(candidates.iter(), load, 0.0),
            (Policy::PowerOfTwo, _) => least(self.two(candidates), load, 0.0),
        }
    }

    /// Returns two candidates at random, or all if there are fewer.
    fn two<'c>(
        &self,
        candidates: &'c [Candidate<'c>],
    ) -> impl Iterator<Item = &'c Candidate<'c>> + Clone {
        let random = splitmix64(self.seed ^ self.picks);
        let below = |half: u64, count: usize| (half % count.max(1) as u64) as usize;
        let first = below(random >> 32, candidates.len());
        let other = below(random & u64::from(u32::MAX), candidates.len().saturating_sub(1));
        let second = other + usize::from(other >= first);
        [candidates.get(first), candidates.get(second)].into_iter().flatten()
    }

    fn slot(&self, replica: ReplicaId) -> Option<usize> {
        self.replicas
            .iter()
            .position(|known| known.as_ref().is_some_and(|known| known.id == replica))
    }

    fn find(&mut self, replica: ReplicaId) -> Option<(usize, &mut Replica)> {
        let slot = self.slot(replica)?;
        Some((slot, self.replicas[slot].as_mut()?))
    }
}

/// Returns the least recently chosen of the candidates that cost at most `tie` more than the cheapest.
fn least<'c>(
    candidates: impl Iterator<Item = &'c Candidate<'c>> + Clone,
    cost: impl Fn(&Candidate<'_>) -> f64,
    tie: f64,
) -> Option<&'c Candidate<'c>> {
    let least = candidates.clone().map(&cost).fold(f64::INFINITY, f64::min);
    let tied = candidates.filter(|candidate| cost(candidate) <= least + tie);
    tied.min_by_key(|candidate| candidate.replica.chosen)
}
