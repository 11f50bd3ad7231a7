//! The router's knowledge of one replica, apart from its blocks.

use std::collections::VecDeque;

use playhouse_types::{Epoch, PrefixEvent, ReplicaId};

/// The cost of a request beside its prefill, in tokens of prefill: its decode takes a share of this many
/// steps. Less than most answers have, because a token of decode is cheaper where memory is the limit.
pub const REQUEST_TOKENS: u32 = 64;

/// The most picks of one replica that count before its reports cover them; beyond that the oldest are
/// forgotten. Above what admission lets in, so it only matters for a replica that never reports.
pub const UNREPORTED_MAX: usize = 4096;

/// The number of reports after which a pick no longer counts, whether or not it was accepted (**RO-5**).
const REPORTS_MAX: u64 = 4;

/// How much more a request weighs where the KV cache is full than where it is empty.
const CROWDING_MAX: f64 = 16.0;

/// The load that a replica reports. All fields but the first are of the moment of the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// The number of requests that the replica has accepted since it began. Less than in the report
    /// before means that the replica has begun anew.
    pub accepted: u64,
    /// The number of tokens known and not computed, of all requests of the replica.
    pub queued_tokens: u64,
    /// The number of requests with a slot.
    pub running: u32,
    /// The number of requests in the queue of the replica.
    pub waiting: u32,
    /// The number of KV blocks that are held; blocks that are only cached do not count.
    pub kv_used_blocks: u32,
    /// The number of all KV blocks.
    pub kv_total_blocks: u32,
}

/// The result of applying an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The index has changed as the event says.
    Applied,
    /// Events before this one were lost. The blocks of its replica are forgotten; ask for all of them,
    /// as [`PrefixEvent::Reset`] and what follows.
    Gap,
    /// The event changed nothing: it is of an older epoch or was heard before, its replica is not known,
    /// or a gap was found and the reset has not come.
    Stale,
}

/// The state of one replica.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) id: ReplicaId,
    /// The number of the last pick of this replica, in picks of the router; 0 for never.
    pub(crate) chosen: u64,
    epoch: Epoch,
    /// The sequence number of the next event, if none is lost.
    next: u64,
    /// Whether an event was lost, so that all events before the next reset are worthless.
    lost: bool,
    load: Load,
    /// The number of reports so far.
    reports: u64,
    /// The picks that the load does not cover yet, oldest first.
    unreported: VecDeque<Unreported>,
    /// The tokens of all those picks.
    unreported_tokens: u64,
}

#[derive(Debug)]
struct Unreported {
    /// The number of tokens to compute.
    tokens: u32,
    /// The number of reports before the pick.
    reports: u64,
}

// === impl Replica ===

impl Replica {
    pub(crate) fn new(id: ReplicaId) -> Self {
        Self {
            id,
            chosen: 0,
            epoch: Epoch::default(),
            next: 0,
            lost: false,
            load: Load::default(),
            reports: 0,
            unreported: VecDeque::new(),
            unreported_tokens: 0,
        }
    }

    /// Takes note of an event. Returns whether the blocks of this replica have to be forgotten first,
    /// and the result of the event (**RO-2**).
    pub(crate) fn hear(
        &mut self,
        epoch: Epoch,
        sequence: u64,
        event: &PrefixEvent,
    ) -> (bool, Applied) {
        if (epoch, sequence) < (self.epoch, self.next) {
            return (false, Applied::Stale);
        }
        let begins = epoch > self.epoch;
        let missed = sequence > if begins { 0 } else { self.next };
        let reset = *event == PrefixEvent::Reset;
        self.epoch = epoch;
        self.next = sequence.saturating_add(1);
        self.lost = !reset && (missed || self.lost && !begins);
        let applied = match self.lost {
            false => Applied::Applied,
            true if missed => Applied::Gap,
            true => Applied::Stale,
        };
        (begins || missed || reset, applied)
    }

    /// Takes in a report, which covers the oldest picks (**RO-5**).
    pub(crate) fn report(&mut self, load: Load) {
        let covered = load.accepted.saturating_sub(self.load.accepted);
        self.load = load;
        self.reports += 1;
        for _ in 0..covered.min(self.unreported.len() as u64) {
            self.drop_oldest();
        }
        while self.unreported.front().is_some_and(|pick| pick.reports + REPORTS_MAX <= self.reports)
        {
            self.drop_oldest();
        }
    }

    /// Records that the replica was picked for a request with this many tokens to compute.
    pub(crate) fn take(&mut self, tokens: u32, picks: u64) {
        self.chosen = picks;
        if self.unreported.len() == UNREPORTED_MAX {
            self.drop_oldest();
        }
        self.unreported.push_back(Unreported { tokens, reports: self.reports });
        self.unreported_tokens += u64::from(tokens);
    }

    /// Returns the work of the replica, in tokens of prefill (**RO-3**).
    pub(crate) fn work(&self) -> f64 {
        let Load { queued_tokens, running, waiting, kv_used_blocks, kv_total_blocks, .. } =
            self.load;
        let unreported = self.unreported.len() as f64;
        let requests = f64::from(running) + f64::from(waiting) + unreported;
        let used = f64::from(kv_used_blocks) / f64::from(kv_total_blocks.max(1));
        let crowding = 1.0 / (1.0 - used).max(1.0 / CROWDING_MAX);
        let tokens = queued_tokens as f64 + self.unreported_tokens as f64;
        tokens + requests * f64::from(REQUEST_TOKENS) * crowding
    }

    fn drop_oldest(&mut self) {
        let tokens = self.unreported.pop_front().map_or(0, |pick| pick.tokens);
        self.unreported_tokens -= u64::from(tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RO-5, all of it.
    #[test]
    fn a_pick_counts_until_reports_cover_it() {
        let mut replica = Replica::new(ReplicaId(0));
        let pick = |replica: &mut Replica| replica.take(36, 1);
        let report =
            |replica: &mut Replica, accepted| replica.report(Load { accepted, ..Load::default() });
        (0..3).for_each(|_| pick(&mut replica));
        assert_eq!(replica.work(), 300.0, "three requests and their tokens");
        report(&mut replica, 2);
        assert_eq!(replica.work(), 100.0);
        pick(&mut replica);
        report(&mut replica, 2);
        report(&mut replica, 1);
        assert_eq!(replica.work(), 200.0, "a replica that begins anew covers nothing");
        report(&mut replica, 1);
        assert_eq!(replica.work(), 100.0, "the fourth report after the first three picks");
        report(&mut replica, 9);
        assert_eq!(replica.work(), 0.0);
        (0..2 * UNREPORTED_MAX).for_each(|_| pick(&mut replica));
        assert_eq!(replica.work(), UNREPORTED_MAX as f64 * 100.0);
    }

    #[test]
    fn requests_weigh_more_where_blocks_run_out() {
        let mut replica = Replica::new(ReplicaId(0));
        let load = Load { running: 1, waiting: 1, queued_tokens: 72, ..Load::default() };
        for (used, work) in [(0, 200.0), (50, 328.0), (99, 2120.0), (u32::MAX, 2120.0)] {
            replica.report(Load { kv_used_blocks: used, kv_total_blocks: 100, ..load });
            assert_eq!(replica.work(), work, "{used} of 100 blocks used");
        }
    }
}
